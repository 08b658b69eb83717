"""The table of the starts' record: how many steps a prior saves."""

import statistics

from benchmarks.report.words import table


def _rows_of(record: dict, start: str, steps: int) -> list[dict]:
    return [
        row
        for piece in record["pieces"]
        if (piece["start"], piece["steps"]) == (start, steps)
        for row in piece["modules"]
    ]


def _mean(rows: list[dict], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def starts(record: dict) -> str:
    """A row for each start and budget: figures on validation documents, when the default's were reached, test F1."""
    lines = []
    for found in sorted(record["means"], key=lambda row: -row["steps"]):
        rows = _rows_of(record, found["start"], found["steps"])
        there = [row["reached"] for row in rows if row["reached"] is not None]
        median = f"{statistics.median(there):.0f}" if there else "-"
        f1, less = found["test_f1"], found["test_f1_less_reference"]
        lines.append(
            [
                found["start"],
                str(found["steps"]),
                f"{100 * _mean(rows, 'started_with'):.1f}",
                f"{_mean(rows, 'validation_f1'):.3f}",
                f"{100 * _mean(rows, 'kept'):.2f}",
                f"{len(there)} of {len(rows)}, {median}",
                f"{f1['mean']:.3f} ({f1['low']:.3f} to {f1['high']:.3f})",
                f"{less['mean']:+.3f} ({less['low']:+.3f} to {less['high']:+.3f})",
            ]
        )
    head = ["start", "steps", "kept at the start, %", "validation F1", "kept %", "modules that reached it, median step"]
    return table([*head, "test F1 (95 %)", "less the default's"], lines)


def fewest(record: dict) -> dict[str, int | None]:
    """For each start the least budget whose mean validation F1 is within the tolerance of the default's at the largest
    budget, with no more weights than allowed.
    """
    goal = _rows_of(record, "full", record["budgets"][0])
    least_f1 = _mean(goal, "validation_f1") - record["tolerance"]
    most_kept = record["larger"] * _mean(goal, "kept")
    found: dict[str, int | None] = {}
    for row in record["means"]:
        rows = _rows_of(record, row["start"], row["steps"])
        good = _mean(rows, "validation_f1") >= least_f1 and _mean(rows, "kept") <= most_kept
        before = found.setdefault(row["start"], None)
        if good and (before is None or row["steps"] < before):
            found[row["start"]] = row["steps"]
    return found


def verdict(record: dict) -> str:
    """What each start saves, in a sentence or two."""
    found, most, budgets = fewest(record), record["budgets"][0], sorted(record["budgets"])
    plain = found.pop("full", None) or most
    seeds = len({piece["seed"] for piece in record["pieces"]})
    saved, not_saved = [], []
    for start, steps in found.items():
        if steps is not None and steps < plain:
            saved.append(f"{start} {plain - steps} steps ({steps} in place of {plain})")
            continue
        last = max(row["steps"] for row in record["means"] if row["start"] == start)
        rows = _rows_of(record, start, last)
        f1, kept = _mean(rows, "validation_f1"), 100 * _mean(rows, "kept")
        not_saved.append(f"{start} (after {last} steps F1 {f1:.3f} at {kept:.2f} % of the weights)")
    text = (
        f"{seeds} seed{'s' * (seeds > 1)}, budgets of {', '.join(map(str, budgets))} steps. What counts is the least "
        f"one after which the mean validation F1 is no more than {record['tolerance']:g} below, and the mean share of "
        f"kept weights no more than {record['larger']:g} times, the default's after {most} steps; without a prior that "
        f"is {plain}. "
    )
    parts = [f"Saved: {', '.join(saved)}."] if saved else []
    parts += [f"Nothing saved: {', '.join(not_saved)}."] if not_saved else []
    return text + " ".join(parts)

"""The table of the sizes' record: nested masks beside modules that were trained for each size."""

import statistics

from benchmarks.report.words import table

NEAR = 0.01  # of F1: a nested mask serves as well as one trained for its size


def by_seed(record: dict) -> list[tuple[dict, dict[str, dict]]]:
    """For each seed the piece of the protocol's own size, and the pieces trained for a size, by share."""
    own = {piece["seed"]: piece for piece in record["pieces"] if piece["keep"] is None}
    found = []
    for seed, piece in own.items():
        trained = {f"{p['keep']:g}": p for p in record["pieces"] if p["seed"] == seed and p["keep"] is not None}
        found.append((piece, trained))
    return found


def _mean(values) -> float | None:
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def means(record: dict, split: str, name: str = "f1") -> dict[str, dict[str, float | None]]:
    """Mean figures over classes and seeds: by share, and there by way (group, global, refit, trained)."""
    shares = sorted({f"{piece['keep']:g}" for piece in record["pieces"] if piece["keep"] is not None}, key=float)
    found = {}
    for share in shares:
        ways: dict[str, list[float]] = {}
        for own, trained in by_seed(record):
            if share not in trained:
                continue
            for row, other in zip(own["modules"], trained[share]["modules"], strict=True):
                for way, by_share in row["nested"].items():
                    ways.setdefault(way, []).append(by_share[share][split][name])
                ways.setdefault("trained", []).append(other["own"][split][name])
        found[share] = {way: _mean(values) for way, values in ways.items()}
    return found


def sizes(record: dict) -> str:
    """A row for each size: mean validation F1 of each way, then mean test F1 (and average precision)."""
    validation, test = means(record, "validation"), means(record, "test")
    ap = means(record, "test", "average_precision")
    rows = []
    for share, found in validation.items():
        row = [f"{100 * float(share):g}"]
        row += [_digits(found.get(way)) for way in ("global", "group", "refit", "trained")]
        row += [f"{_digits(test[share].get(way))} ({_digits(ap[share].get(way))})" for way in ("global", "trained")]
        rows.append(row)
    head = ["kept %", "nested: validation F1", "nested, by group", "the same, head refitted", "trained for it"]
    return table([*head, "test F1 (AP): nested", "trained for it"], rows)


def by_class(record: dict) -> str:
    """A row for each class: test F1 of the nested mask and of the trained one, at each size, means over seeds."""
    names = [row["class"] for row in record["pieces"][0]["modules"]]
    shares = list(means(record, "test"))
    lines = []
    for k, name in enumerate(names):
        cells = [name]
        for share in shares:
            pairs = [
                (
                    own["modules"][k]["nested"]["global"][share]["test"]["f1"],
                    trained[share]["modules"][k]["own"]["test"]["f1"],
                )
                for own, trained in by_seed(record)
                if share in trained
            ]
            nested, trained_for = (statistics.fmean(values) for values in zip(*pairs, strict=True))
            cells.append(f"{_digits(nested)} / {_digits(trained_for)}")
        lines.append(cells)
    return table(["class", *(f"{100 * float(share):g} %: nested / trained" for share in shares)], lines)


def verdict(record: dict) -> str:
    """Where a nested mask is within .01 of one trained for its size, on average over the classes, and where not."""
    near, far = [], []
    for share, found in means(record, "test").items():
        lost = found["trained"] - found["global"]
        (near if lost <= NEAR else far).append(f"{100 * float(share):g} % ({-lost:+.3f})")
    seeds = len(by_seed(record))
    text = f"Mean test F1 of the nested masks less that of the trained ones, {seeds} seed{'s' * (seeds > 1)}: "
    parts = [f"within {NEAR} or better at {', '.join(near)}"] if near else []
    return text + "; ".join([*parts, *([f"more than {NEAR} below at {', '.join(far)}"] if far else [])]) + "."


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

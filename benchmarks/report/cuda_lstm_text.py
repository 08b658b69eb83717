"""The text beside a record of the masked LSTM on a GPU: ratios by row of targets, then every shape."""

import statistics

from benchmarks.harness.cuda_grid import ROWS


def sizes_in_words(row: dict) -> str:
    """Such as I 100, H 50, B 5, T 32."""
    sizes = row["sizes"]
    return ", ".join(f"{letter} {sizes[letter]}" for letter in "IHBT") + ", lengths 1..T" * bool(sizes["lengths"])


def describe(row: dict) -> str:
    """One line, printed as soon as a shape is measured."""
    start = f"{row['group']}: {sizes_in_words(row)}, {kind_of(row)}: "
    if row["fault"]:
        return start + f"FAILED: {row['fault']}"
    ratios = [f"{name} {found['median']:.2f}x" for name, found in row["ratio"].items()]
    times = [f"{name} {1e3 * found['median']:.4g} us" for name, found in row["ms"].items()]
    without = [f"without {name} ({why})" for name, why in row["left_out"].items()]
    return start + "; ".join([", ".join(ratios), ", ".join(times), *without]).removeprefix("; ")


def kind_of(row: dict) -> str:
    """The dtype, and whether products were rounded to tf32."""
    return row["dtype"] + " by tf32" * row["tf32"]


def main_ratio(row: dict) -> float | None:
    """The ratio that the row's target is about: against cuDNN, or with lengths against a PackedSequence."""
    found = row.get("ratio", {}).get("packed" if row["row"] == "lengths" else "cudnn")
    return found and found["median"]


def verdict(ratio: float, target) -> str:
    """Which of the two targets (must, aim) a ratio reaches."""
    return "-" if target is None else "aim" if ratio >= target[1] else "must" if ratio >= target[0] else "below"


def three(values: list[float]) -> str:
    """Least, median and greatest."""
    return " / ".join(f"{value:.2f}" for value in (min(values), statistics.median(values), max(values)))


def summary(record: dict) -> str:
    """A table with a line per row of targets and dtype: least, median and greatest ratio of its shapes."""
    lines = []
    if not record["rivals_only"]:
        lines += [
            "| shapes | dtype | how many | rival / seam-fast: min / median / max | must, aim | reached by the median "
            "| below must | against all that it takes without seam-fast: min / median / max | eager, median |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in ROWS.items():
            for kinds in (("float32", "bfloat16"), ("float16",), ("float32 by tf32",)):
                found = [
                    entry
                    for entry in record["rows"]
                    if entry["row"] == name and kind_of(entry) in kinds and main_ratio(entry)
                ]
                if found:
                    lines.append(_summary_line(row.words, " and ".join(kinds), found))
    faults = [f"FAILED: {entry['key']}: {entry['fault']}" for entry in record["rows"] if entry["fault"]]
    run = record["runs"][-1]
    about = run["machine"]
    lines += ["", *faults, *([""] if faults else [])]
    lines.append(
        f"{about['gpu']['name']}, driver {(about['gpu'].get('state') or {}).get('driver_version', 'unknown')}, torch "
        f"{about['torch']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, commit {about['commit']}, {about['date']}; "
        f"{len(record['rows'])} shapes measured"
        + (f", {len(record['unmeasured'])} not: {run['stopped']}" if run["stopped"] else "")
    )
    lines += [f"Not measured: {name}: {why}." for name, why in record["left_out"].items()]
    return "\n".join(lines).lstrip("\n")


def _summary_line(title: str, kinds: str, rows: list[dict]) -> str:
    ratios, target = [main_ratio(row) for row in rows], rows[0]["target"]
    whole = [row["ratio"]["whole"]["median"] for row in rows if "whole" in row["ratio"]]
    eager = [
        row["ratio"][key]["median"] for row in rows for key in ("cudnn_eager", "packed_eager") if key in row["ratio"]
    ]
    below = "-" if target is None else sum(ratio < target[0] for ratio in ratios)
    goal = "-" if target is None else f"{target[0]}, {target[1]}"
    return (
        f"| {title} | {kinds} | {len(rows)} | {three(ratios)} | {goal} "
        f"| {verdict(statistics.median(ratios), target)} | {below} | {three(whole) if whole else '-'} "
        f"| {f'{statistics.median(eager):.2f}' if eager else '-'} |"
    )


def largest(errors: dict | None) -> float | None:
    """The largest of the errors by result; None for a way that was not measured."""
    return max(errors.values()) if errors else None


def both(values: list) -> str:
    return ", ".join("-" if value is None else f"{value:.3g}" for value in values)


def details(record: dict) -> str:
    """A table with a line per shape."""
    names = list(dict.fromkeys(name for row in record["rows"] for name in row.get("ms", ())))
    lines = [
        "| group | I, H, B, T | dtype | ratio (quartiles) | target | "
        + " | ".join(f"{name} us" for name in names)
        + " | us a step: seam, cudnn | GFLOP/s: seam, cudnn | extra memory / saved: seam, cudnn "
        "| largest error: seam, cudnn (allowed to seam) |",
        "|---" * (8 + len(names)) + "|",
    ]
    for row in record["rows"]:
        if row["fault"]:
            continue
        ratio = row["ratio"].get("packed" if row["row"] == "lengths" else "cudnn")
        quartiles = f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})" if ratio else "-"
        target = verdict(ratio["median"], row["target"]) if ratio else "-"
        times = [f"{1e3 * row['ms'][name]['median']:.4g}" if name in row["ms"] else "-" for name in names]
        pair = ("seam", "cudnn")
        medians = [row["ms"][name]["median"] if name in row["ms"] else None for name in pair]
        steps = both([median and 1e3 * median / row["sizes"]["T"] for median in medians])
        rates = both([row["gflops"].get(name) for name in pair])
        extra = [row["memory"].get(name) for name in pair]
        shares = both([None if bytes is None else bytes / row["memory"]["saved_bytes"] for bytes in extra])
        found, allowed = row["agreement"]["errors"], row["agreement"]["allowed"]
        errors = both([largest(found.get("seam")), largest(found.get("cudnn") or found.get("packed_eager"))])
        lines.append(
            f"| {row['group']} | {sizes_in_words(row)} | {kind_of(row)} | {quartiles} | {target} | {' | '.join(times)} "
            f"| {steps} | {rates} | {shares} | {errors} ({largest(allowed):.2g}) |"
        )
    return "\n".join(lines)

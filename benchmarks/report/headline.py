"""The README's one table: a headline of each page in docs/benchmarks/, from the records."""

import json
import statistics
from collections.abc import Iterator

from benchmarks import RECORDS
from benchmarks.report.tables_corpora import ALLOWED, NAMES, names, rows_of, seeds, short
from benchmarks.report.tables_inference import over_classes
from benchmarks.report.words import number, percent, ratio

PAGES = "docs/benchmarks"  # from the repository's root, where the README is

Row = tuple[str, str, str, str, str]  # what was measured, the figure, the page's name and address, the record


def headline() -> str:
    """The block, markers excluded."""
    rows = [quality(), other_corpora(), shipped(), cpu_step(), whole_run(), cpu_op(), *gpu_op(), gpu_step()]
    lines = ["| what | figure | more | record |", "|---|---|---|---|"]
    for what, figure, name, page, record in rows:
        place = f"benchmarks/records/{record}.json"
        lines.append(f"| {what} | {figure} | [{name}]({PAGES}/{page}) | [{record}]({place}) |")
    return "\n".join(["", *lines, "", "*Rendered from these records by `python scripts/bench_report.py`.*", ""])


def load(name: str) -> dict:
    """A committed record."""
    return json.loads((RECORDS / f"{name}.json").read_text())


def quality() -> Row:
    """What modules keep and how good they are, with the class that loses most."""
    record = load("quality_modules")
    names = [row["name"] for row in record["seeds"][0]["modules"]]
    changes = {}
    for k, name in enumerate(names):
        each = [run["modules"][k] for run in record["seeds"]]
        changes[name] = 100 * statistics.fmean(row["f1"] - row["base_f1"] for row in each)
    worst = min(changes, key=changes.get)
    figure = (
        f"{percent(record['kept']['mean'])} % of the weights kept, mean F1 {record['f1']['mean']:.3f} "
        f"(base {record['base_f1']:.3f}); most lost by {worst}, **{changes[worst]:.1f} points**"
    )
    what = f"modules of the {len(names)} classes of R8, {len(record['seeds'])} seeds"
    return what, figure, "Quality", "quality.md#modules", "quality_modules"


def other_corpora() -> Row:
    """Mean F1 of modules and bases, by corpus, and how many modules fall short."""
    record = load("quality_corpora")
    parts, every = [], []
    for name in names(record):
        found = rows_of(record, name)
        every += found
        own, base = (statistics.fmean(row[key]["f1"] for row in found) for key in ("test", "base"))
        parts.append(f"{NAMES.get(name, name)} {own:.3f} ({base:.3f})")
    lacking = sum(map(short, every))
    figure = (
        f"{', '.join(parts)}; **{lacking} of {len(every)}** modules are more than {100 * ALLOWED:g} points below the "
        "base beyond their interval"
    )
    what = f"modules' mean F1 (the base's) on {len(parts)} corpora, {seeds(record)} seeds of base and modules"
    return what, figure, "Other corpora", "quality.md#other-corpora", "quality_corpora"


def shipped() -> Row:
    """Compact modules: size, and time beside the base."""
    record = load("inference")
    smallest = [each for row in record["rows"] for each in row["stored"] if each["dtype"] == "int8"]
    sizes = {
        unknown: statistics.median(each["bytes"] for each in smallest if each["unknown"] == unknown) / 1000
        for unknown in ("own", "dropped")
    }

    def times(form: str) -> str:
        return over_classes([row["times"][0] for row in record["rows"]], form)

    figure = (
        f"{sizes['own']:.0f} kB ({sizes['dropped']:.0f} without the words that it drops), text to answer "
        f"{times('compact')} times as fast as the base, as exported C {times('c')} times"
    )
    what = f"a module as a file of its own, 8 bits, {len(record['rows'])} classes, one text at a time, one CPU core"
    return what, figure, "Shipped modules", "inference.md", "inference"


def cpu_step() -> Row:
    """The engine beside the reference's step."""
    row = load("step")["rows"][0]
    against = row["against"]
    figure = (
        f"{number(row['ms']['native']['median'])} ms: {ratio(against['reference']['native'])} times as fast as the "
        f"reference, {ratio(against['reference_best']['native'])} times as the reference at its best"
    )
    what = f"a training step, batch {row['batch_size']}, one CPU core"
    return what, figure, "A training step", "training-step.md#at-the-references-sizes", "step"


def whole_run() -> Row:
    """All classes by the reference's procedure."""
    run = load("job")["eight"]
    figure = f"{run['figures']['seconds']:.0f} s for {run['figures']['steps']:,} steps"
    what = f"the reference's procedure, {len(run['rows'])} classes, 300 epochs, {run['workers']} CPU cores"
    return what, figure, "Whole runs", "whole-runs.md", "job"


def cpu_op() -> Row:
    """The op beside torch."""
    found = [row["ratio"] for row in load("masked_lstm")["rows"]]
    what = f"the op, forward and backward, beside torch and its masking, one CPU core, {len(found)} shapes"
    return what, f"{span(found)} times as fast", "The op", "op.md#one-set-of-scores", "masked_lstm"


def gpu_op() -> Iterator[Row]:
    """The op beside cuDNN, a row for each dtype."""
    rows = [row for row in load("cuda_lstm")["rows"] if not row["fault"] and not row["tf32"]]
    for dtype in sorted({row["dtype"] for row in rows}, reverse=True):
        found = [row["ratio"]["cudnn"] for row in rows if row["dtype"] == dtype and "cudnn" in row["ratio"]]
        what = f"the op on an H100, {dtype}, beside cuDNN alone, {len(found)} shapes"
        yield what, f"{span(found)} times as fast", "On a GPU", "gpu.md#the-op", "cuda_lstm"


def gpu_step() -> Row:
    """The engine beside graphs of cuDNN."""
    step = next(row for row in load("cuda_engine")["rows"] if row["piece"] == "step" and not row["fault"])
    of = step["ratio"]
    figure = (
        f"{number(step['us']['engine']['median'])} us: {ratio(of['graph_rows'])} times as fast as a recorded graph of "
        f"cuDNN and fused Adam, {ratio(of['reference'])} times as the reference"
    )
    return "the same training step on an H100", figure, "On a GPU", "gpu.md#a-training-step", "cuda_engine"


def span(found: list[dict]) -> str:
    """The least and the greatest ratio, bold where a loss."""
    ordered = sorted(found, key=lambda figures: figures["median"])
    return f"{ratio(ordered[0], False)} to {ratio(ordered[-1], False)}"

"""Tables of the GPU records: the op beside cuDNN, and the engine beside recorded graphs of cuDNN."""

import statistics

from benchmarks.harness.cuda_grid import ROWS
from benchmarks.report import cuda_engine_text as engine_text
from benchmarks.report.cuda_lstm_text import kind_of, largest
from benchmarks.report.tables_op import sizes
from benchmarks.report.words import joined, number, ratio, table

DTYPES = ("float32", "float32 by tf32", "bfloat16", "float16")
# The ways of the engine's benchmark.
WAYS = {
    "engine": "engine",
    "engine_tf32": "engine, by tf32",
    "graph_trainer": "`CudaGraphTrainer`: the op in a recorded graph",
    "graph_rows": "cuDNN and fused Adam in a recorded graph, rows that occur",
    "graph_rows_tf32": "cuDNN and fused Adam in a recorded graph, rows that occur, by tf32",
    "graph_table": "cuDNN and fused Adam in a recorded graph, whole table",
    "reference": "the reference, eager",
    "reference_without_copies": "the reference, eager, gradients not copied",
    "reference_best": "the reference at its best, eager",
}


def about(record: dict) -> str:
    """The machine of a record."""
    found = record["runs"][0]["machine"]
    driver = (found["gpu"].get("state") or {}).get("driver_version", "unknown")
    cudnn = found["cudnn"] or 0
    cudnn = f"{cudnn // 10000}.{cudnn % 10000 // 100}.{cudnn % 100}"
    versions = f"torch {found['torch']}, CUDA {found['cuda']}, cuDNN {cudnn}"
    return f"{found['gpu']['name']}, driver {driver}, {versions}"


# The op --------------------------------------------------------------------------------------------------------------


def measured(record: dict) -> list[dict]:
    return [row for row in record["rows"] if not row["fault"]]


def rival(row: dict) -> dict | None:
    """The row's ratio to its rival: cuDNN, or with lengths cuDNN on a PackedSequence."""
    return row["ratio"].get("packed" if row["row"] == "lengths" else "cudnn")


def op(record: dict) -> str:
    """Each of the layer of R8 and a small, a middle and a large layer."""
    rows = []
    every = measured(record)
    shapes = list(dict.fromkeys(map(sizes, every)))
    for row in sorted(every, key=lambda row: (shapes.index(sizes(row)), DTYPES.index(kind_of(row)))):
        if row["group"] == "anchors":
            times, found = row["ms"], row["ratio"]
            memory = [row["memory"].get(name) for name in ("seam", "cudnn")]
            shares = [size and f"{size / row['memory']['saved_bytes']:.1f}" for size in memory]
            ours, theirs = (1e3 * times[name]["median"] for name in ("seam", "cudnn"))
            others = [ratio(found[name], False) for name in ("whole", "cudnn_forward", "cudnn_eager")]
            cells = [sizes(row), kind_of(row), number(ours), number(theirs), ratio(found["cudnn"]), *others]
            rows.append([*cells, " / ".join(share or "-" for share in shares)])
    head = ["I, H, B, T", "dtype", "seam-fast us", "cuDNN us", "times as fast (quartiles)", "as cuDNN and all masking"]
    head += ["forward only", "called from Python", "extra memory / saved activations, seam-fast / cuDNN"]
    return table(head, rows) if rows else ""


def op_groups(record: dict) -> str:
    """All shapes, by kind of layer and dtype."""
    rows = []
    for name, row in ROWS.items():
        for dtype in DTYPES:
            found = [r for r in measured(record) if r["row"] == name and kind_of(r) == dtype and rival(r)]
            if found:
                ratios = [rival(r)["median"] for r in found]
                shown = [statistics.median(ratios), min(ratios), max(ratios)]
                below = sum(value < 1 for value in ratios)
                rows.append([row.words, dtype, str(len(found)), *(bold(value) for value in shown), str(below or "-")])
    head = ["layers and batches", "dtype", "shapes", "times as fast, median", "least", "greatest", "cuDNN is faster at"]
    return table(head, rows)


def bold(value: float) -> str:
    return f"**{value:.2f}**" if value < 1 else f"{value:.2f}"


def op_losses(record: dict) -> str:
    """Sentences on where cuDNN is faster, by dtype."""
    rows = [row for row in measured(record) if rival(row)]
    texts = []
    for dtype in DTYPES:
        ours = [row for row in rows if kind_of(row) == dtype]
        below = [f"{sizes(row)} ({rival(row)['median']:.2f})" for row in ours if rival(row)["median"] < 1]
        if below:
            texts.append(f"in {dtype} at {len(below)} of {len(ours)} shapes: {'; '.join(below)}")
    text = f"cuDNN is faster {'. It is faster '.join(texts)}." if texts else "In none of these rows is cuDNN faster."
    forward = [row for row in rows if "cudnn_forward" in row["ratio"]]
    count = sum(row["ratio"]["cudnn_forward"]["median"] < 1 for row in forward)
    return text + f" Forward only, it is faster at {count} of {len(forward)} shapes." * bool(count)


def op_precision(record: dict) -> str:
    """A sentence if cuDNN itself is much faster in float16 than in bfloat16."""
    rows = [row for row in measured(record) if "cudnn" in row["ms"]]
    times = {(sizes(row), row["dtype"]): row["ms"]["cudnn"]["median"] for row in rows}
    shapes = [shape for shape, dtype in times if dtype == "bfloat16" and (shape, "float16") in times]
    found = {shape: times[shape, "bfloat16"] / times[shape, "float16"] for shape in shapes}
    if not found or max(found.values()) < 1.2:
        return ""
    most = max(found, key=found.get)
    return (
        f"cuDNN itself is up to {found[most]:.1f} times as fast in float16 as in bfloat16 (at {most}), so a ratio in "
        "float16 says more about the kernels here than one in bfloat16."
    )


def op_errors(record: dict) -> str:
    """A sentence on the errors of both sides, by dtype."""
    texts = []
    for dtype in DTYPES:
        rows = [row["agreement"]["errors"] for row in measured(record) if kind_of(row) == dtype]
        pairs = [(errors["seam"], errors["whole"]) for errors in rows if {"seam", "whole"} <= errors.keys()]
        if pairs:
            ours, theirs = (statistics.median(map(largest, errors)) for errors in zip(*pairs, strict=True))
            texts.append(f"{dtype} {ours:.1e}, with cuDNN {theirs:.1e}")
    words = "Largest error of a result against float64, relative to its largest value, median of the shapes"
    return f"{words}: {'; '.join(texts)}." if texts else ""


def op_open(record: dict) -> str:
    """What was not measured, and what failed."""
    failed = [f"{row['key']} ({', '.join(row['fault'].split(', ')[:2])})" for row in record["rows"] if row["fault"]]
    texts = [f"Without figures: {'; '.join(failed)}."] if failed else []
    if any(" of padded is " in text for text in failed):
        texts.append("At fault was a rival, `padded` (cuDNN over the padding), not the op; it has been mended since.")
    rest = len(record["unmeasured"])
    return " ".join([*texts, *([f"{rest} further shapes are not measured yet."] if rest else [])])


# The engine ----------------------------------------------------------------------------------------------------------


def pieces(record: dict) -> dict[str, dict]:
    """The last row of each piece, of those that did not fail."""
    return {row["piece"]: row for row in record["rows"] if not row["fault"]}


def engine(record: dict) -> str:
    """A step of one module, by every way."""
    step = pieces(record).get("step")
    if step is None:
        return ""
    rows = []
    for name in dict.fromkeys([*WAYS, *step["us"]]):
        title = WAYS.get(name, f"`{name}`")
        if name in step["us"]:
            us, found = step["us"][name], step["ratio"].get(name)
            times = f"{number(us['median'])} ({number(us['q1'])} to {number(us['q3'])})"
            of = ", both by tf32" if name == "graph_rows_tf32" and found else ""
            rows.append([title, times, ratio(found) + of if found else "-", engine_text.largest_error(step, name)])
        elif why := step.get("wrong", {}).get(name) or engine_text.left_out(step, name):
            rows.append([title, why, "-", "-"])
    head = ["way", "us a step (quartiles)", "engine: times as fast", "largest error of a score after 20 steps"]
    return table(head, rows)


def engine_exactness(record: dict) -> str:
    """A note for records whose rule for inexact rivals is not that of today."""
    step = pieces(record).get("step")
    if step is None or "first_rivals" in step["agreement"] or not step["left_out"]:
        return ""
    return (
        "This record leaves out every way that is less exact than plain PyTorch's own float32 error allows, as cuDNN's "
        "LSTM is on a GPU. Records made from now on time such ways, too, and say how far off they are."
    )


def engine_losses(record: dict) -> str:
    """Sentences on the ways that are faster, and on whether tf32 pays."""
    step = pieces(record).get("step")
    if step is None:
        return ""
    faster = [
        f"{WAYS.get(name, name)} ({found['median']:.2f})"
        for name, found in step["ratio"].items()
        if found["median"] < 1 and name != "engine_tf32"
    ]
    texts = [f"Faster than the engine: {joined(faster)}." if faster else "None of the ways that were timed is faster."]
    tf32 = step["ratio"].get("engine_tf32")
    if tf32 and tf32["median"] > 1:
        times = f"{tf32['median']:.2f} times as long as in float32"
        texts.append(f"By tf32 the engine takes {times}: it does not pay here.")
    return " ".join(texts)


def engine_scaling(record: dict) -> str:
    row = pieces(record).get("scaling")
    if row is None:
        return ""
    rows = [
        [name, number(us["median"]), f"{row['gain'][name]['median']:.3g}", f"{row['cores_busy'][name]['median']:.1f}"]
        for name, us in row["us"].items()
    ]
    return table(["modules side by side", "us a step of each", "modules a second, against one", "CPU cores busy"], rows)


def engine_runs(record: dict) -> str:
    """Whole runs, one sentence each."""
    found = [pieces(record)[name] for name in ("eight", "study") if name in pieces(record)]
    sizes = [f"{row['modules_in_all']} modules, {row['epochs']} epochs" for row in found]
    return " ".join(f"{size}: {engine_text.seconds_in_words(row)}." for size, row in zip(sizes, found, strict=True))


def engine_open(record: dict) -> str:
    failed = [f"Failed: {row['key']}: {row['fault']}." for row in record["rows"] if row["fault"]]
    tried = {row["piece"] for row in record["rows"]}
    missing = [name for name in engine_text.PIECES if name not in tried]
    words = {
        "step": "a step of one module",
        "scaling": "modules side by side",
        "eight": "all eight classes",
        "study": "8 classes by 16 settings",
        "kernels": "what the GPU does in a step",
    }
    texts = [f"Not measured yet: {joined([words[name] for name in missing])}."] if missing else []
    return " ".join([*failed, *texts])

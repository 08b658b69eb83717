"""Pictures of the records. Matplotlib is imported when one is drawn, and never opens a window."""

import io
import itertools
import math

from benchmarks.report.words import RIVALS, number
from seam_fast.cli.plots import BLUE, GREEN, GREY, ORANGE

COLOURS = {
    "reference": ORANGE,
    "reference_best": GREY,
    "best_torch": GREEN,
    "native": BLUE,
    "native_replay": "#7ba3c4",
    "native_dense": "#b9cede",
}
MARKS = {"reference": "s", "reference_best": "D", "best_torch": "^", "native": "o"}


def op(record: dict):
    """Bars by shape: how many times as fast as torch; left of 1 torch is faster."""
    figure, (axis,) = canvas(8.2, 0.5 * len(record["rows"]) + 1.4, 1)
    rows = record["rows"][::-1]
    for position, row in enumerate(rows):
        ratio = row["ratio"]
        colour = BLUE if ratio["median"] >= 1 else ORANGE
        low, high = ratio["median"] - ratio["q1"], ratio["q3"] - ratio["median"]
        axis.barh(position, ratio["median"] - 1, left=1, color=colour, height=0.62)
        axis.errorbar(ratio["median"], position, xerr=[[low], [high]], color="black", linewidth=0.9, capsize=2)
        axis.annotate(f" {ratio['median']:.2f}", (max(ratio["q3"], 1), position), va="center", fontsize=9)
    axis.axvline(1, color="black", linewidth=0.9)
    axis.set_yticks(range(len(rows)), [_sizes(row) for row in rows], fontsize=9)
    axis.set_xscale("log")
    ratios = [row["ratio"]["median"] for row in rows]
    axis.set_xlim(min(0.8, 0.9 * min(ratios)), 1.35 * max(*ratios, 1.5))
    plain_log(axis.xaxis, (0.5, 0.8, 1, 1.5, 2, 3, 5, 8))
    axis.set_xlabel("times as fast as torch.nn.LSTM's kernel with masks (log; quartiles of the rounds)")
    axis.set_title("Masked LSTM, forward and backward; orange: torch is faster", fontsize=11)
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    return figure


def step(record: dict):
    """Bars by batch size: milliseconds per step of every rival."""
    names = [name for name in record["rivals"] if name != "native_dense"]
    figure, (axis,) = canvas(8.2, 4.0, 1)
    width = 0.82 / len(names)
    for offset, name in enumerate(names):
        for position, row in enumerate(record["rows"]):
            ms = row["ms"][name]
            x = position + width * (offset - (len(names) - 1) / 2)
            label = RIVALS[name][0] if position == 0 else None
            axis.bar(x, ms["median"], 0.92 * width, color=COLOURS[name], label=label)
            axis.annotate(number(ms["median"]), (x, ms["median"]), ha="center", va="bottom", fontsize=7.5)
    axis.set_yscale("log")
    times = [row["ms"][name]["median"] for row in record["rows"] for name in names]
    axis.set_ylim(0.5 * min(times), 8 * max(times))
    plain_log(axis.yaxis, (0.1, 0.3, 1, 3, 10, 30, 100))
    axis.set_xticks(range(len(record["rows"])), [f"batch {row['batch_size']}" for row in record["rows"]])
    axis.set_ylabel("ms a step (log)")
    axis.set_title("A training step on one core", fontsize=11)
    axis.legend(frameon=False, ncols=2, fontsize=8.5, loc="upper left")
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    return figure


def curves(record: dict):
    """A panel per size: milliseconds per step of every rival, both axes logarithmic."""
    shown = record["curves"]
    columns = min(3, len(shown))
    figure, axes = canvas(3.7 * columns, 3.1 * math.ceil(len(shown) / columns) + 0.7, len(shown), columns)
    for axis, curve in zip(axes, shown.values(), strict=False):
        for name in record["rivals"]:
            points = [point for point in curve["points"] if name in point["ms"]]
            x, ms = [point["x"] for point in points], [point["ms"][name] for point in points]
            style = {"color": COLOURS[name], "marker": MARKS.get(name, "."), "markersize": 4.5, "linewidth": 1.4}
            axis.plot(x, [found["median"] for found in ms], label=RIVALS[name][0], **style)
            axis.fill_between(
                x, [f["q1"] for f in ms], [f["q3"] for f in ms], color=COLOURS[name], alpha=0.2, linewidth=0
            )
        values = [point["x"] for point in curve["points"]]
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = values if len(values) <= 5 else values[::2]
        plain_log(axis.xaxis, ticks, [_short(value) for value in ticks])
        plain_log(axis.yaxis, (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000))
        axis.set_xlabel(curve["x"])
        axis.grid(alpha=0.25)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.supylabel("ms a step (log)", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    sizes = record["workload"]
    fixed = f"batch {sizes['B']}, H {sizes['H']}, T {sizes['T']}, {sizes['V']:,} words, one module"
    figure.suptitle(f"A training step as one size grows; the others stay at {fixed}", fontsize=11)
    return figure


def to_f1(record: dict):
    """Best F1 so far on held-out documents over seconds of training, a line per rival and seed."""
    part = record["to_f1"]
    figure, (axis,) = canvas(7.8, 4.6, 1)
    ends = []
    for name in part["rows"][0]["rivals"]:
        for position, row in enumerate(part["rows"]):
            found = row["rivals"][name]
            best = list(itertools.accumulate(found["f1_by_epoch"], max))
            seconds, colour = found["seconds_by_epoch"], COLOURS[name]
            label = RIVALS[name][0] if position == 0 else None
            axis.step(seconds, best, where="post", color=colour, linewidth=1.2, alpha=0.85, label=label)
            axis.plot(found["seconds"], best[found["epoch"]], "o", color=colour, markersize=5)
            ends += [seconds[0], seconds[-1]]
    axis.set_xscale("log")
    plain_log(axis.xaxis, (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100))
    axis.set_xlim(0.7 * min(ends), 1.4 * max(ends))
    axis.set_xlabel("seconds of training, one core (log)")
    axis.set_ylabel(f"best F1 so far of {part['class']}, documents held out")
    axis.set_title(f"{len(part['seeds'])} seeds each; dots: first as good as every rival becomes", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    axis.grid(alpha=0.25)
    return figure


def study(record: dict):
    """Bars by class: F1 of base, module and baselines, means over seeds; a panel per protocol."""
    from benchmarks.report.tables_quality import BASELINES

    kinds = [kind for kind in (("reference", 300), ("seam", None)) if _pieces(record, *kind)]
    kinds = kinds or [(piece["protocol"], piece["epochs"]) for piece in record["pieces"][:1]]
    figure, axes = canvas(9.2, 3.0 * len(kinds) + 0.6, len(kinds), 1)
    colours = {"base": GREY, "module": BLUE, "vocabulary_floor": GREEN, "random_mask": "#c9c9c9"}
    colours |= {"magnitude_mask": "#e3b27f", "tiny_lstm": ORANGE}
    words = {"base": "the base itself", "module": "the module"} | BASELINES
    for axis, kind in zip(axes, kinds, strict=True):
        found = list(zip(*(piece["modules"] for piece in _pieces(record, *kind)), strict=True))
        for offset, name in enumerate(colours):
            heights = [sum(_f1(module, name) for module in seeds) / len(seeds) for seeds in found]
            positions = [position + 0.14 * (offset - 2.5) for position in range(len(found))]
            axis.bar(positions, heights, 0.13, color=colours[name], label=words[name])
        axis.set_xticks(range(len(found)), [seeds[0]["class"].replace("$", r"\$") for seeds in found])
        axis.set_ylim(0, 1.05)
        axis.set_ylabel("F1, whole test set")
        length = "its own budget" if kind[1] is None else f"{kind[1]} epochs"
        axis.set_title(f"protocol {kind[0]}, {length}", fontsize=10)
        axis.grid(axis="y", alpha=0.25)
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    return figure


def _pieces(record: dict, protocol: str, epochs: int | None) -> list[dict]:
    wanted = [piece for piece in record["pieces"] if (piece["protocol"], piece["epochs"]) == (protocol, epochs)]
    return [piece for piece in wanted if piece["modules"][0]["baselines"]]


def _f1(module: dict, name: str) -> float:
    found = {"base": module["base"], "module": module["test"]}.get(name)
    return (found or module["baselines"][name]["test"])["f1"]


def _sizes(row: dict) -> str:
    sizes = row["sizes"]
    words = f"I {sizes['I']}, H {sizes['H']}, B {sizes['B']}, T {sizes['T']}"
    return words + ",\nlengths 1 to T, PackedSequence" * bool(sizes["lengths"])


def _short(value: int) -> str:
    return f"{value // 1_000_000}M" if value >= 1_000_000 else f"{value / 1000:.0f}k" if value >= 10_000 else str(value)


def plain_log(axis, ticks, labels=None) -> None:
    """Sets the ticks of a logarithmic axis to plain numbers."""
    from matplotlib.ticker import NullLocator

    axis.set_ticks(list(ticks), labels or [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def canvas(width: float, height: float, panels: int, columns: int = 1):
    """A figure that is drawn in memory, and a flat list of its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(math.ceil(panels / columns), columns, squeeze=False).flat)


def png(figure, source: str) -> bytes:
    """The picture as a PNG file, with a note of what it was drawn from."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Source": source, "Software": None})
    return buffer.getvalue()


def source_of(data: bytes) -> str | None:
    """The note that ``png`` has put into a picture."""
    offset = 8  # after the signature: chunks of length, kind, data and checksum
    while offset < len(data):
        length, kind = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        if kind == b"tEXt" and data[offset + 8 :].startswith(b"Source\0"):
            return data[offset + 15 : offset + 8 + length].decode("latin-1")
        offset += 12 + length
    return None

"""The pictures of a run. Matplotlib is imported when a picture is drawn, and never opens a window."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files.atomic import write_atomically
from ..modules.seam_module import SeamModule
from .report import SYNTHETIC_NOTE

MOST_PANELS, MOST_BARS = 32, 60  # classes in a picture; of more, the first ones are shown
MOST_INCHES, MOST_LABELS = 11, 90  # of the confusion, whose picture would else grow with the square of the classes
NAMES = ("kept_by_group.png", "accuracy_against_kept.png", "base_confusion.png")
BLUE, ORANGE, GREEN, GREY = "#2f6690", "#d1742b", "#4f8a57", "#6b6b6b"


def plot_all(modules: Sequence[SeamModule], confusion, folder) -> list[Path]:
    """Writes every picture there are figures for; returns their paths.

    confusion: (C, C) of the base on the test documents, rows true, or None.
    """
    folder = Path(folder)
    paths = [kept_by_group(modules, folder / "kept_by_group.png")]
    if any("accuracy" in figures for module in modules for figures in module.history):
        paths.append(accuracy_against_kept(modules, folder / "accuracy_against_kept.png"))
    if confusion is not None:
        card = modules[0].card
        names = card.get("class_names") or range(len(confusion))
        paths.append(base_confusion(confusion, names, folder / "base_confusion.png", card.get("synthetic", False)))
    return paths


def accuracy_against_kept(modules: Sequence[SeamModule], path) -> Path:
    """A panel a class: balanced accuracy on the evaluation documents against weights kept, epoch by epoch."""
    from matplotlib.ticker import FuncFormatter

    evaluated = [module for module in modules if any("accuracy" in figures for figures in module.history)]
    shown = evaluated[:MOST_PANELS]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = _figure(3.1 * columns + 0.9, 2.7 * rows + 0.9, rows, columns)
    dots = None
    for axis, module in zip(axes.flat, shown, strict=False):
        history = [figures for figures in module.history if "accuracy" in figures]
        kept = np.array([100 * figures["kept"] for figures in history])
        accuracy = np.array([100 * figures["balanced_accuracy"] for figures in history])
        share = np.linspace(0, 1, len(history))
        axis.plot(kept, accuracy, color=GREY, linewidth=0.6, alpha=0.6, zorder=1)
        dots = axis.scatter(kept, accuracy, c=share, cmap="viridis", vmin=0, vmax=1, s=16, zorder=2)
        chosen = [i for i, figures in enumerate(history) if figures["epoch"] == module.card.get("best_epoch")]
        axis.scatter(kept[chosen], accuracy[chosen], marker="*", s=170, color=ORANGE, edgecolor="white", zorder=3)
        floor = module.card.get("vocabulary_floor")
        if floor:
            axis.axvline(100 * floor, color=GREEN, linestyle=":", linewidth=1.2)
        base = module.card.get("evaluation", {}).get("base")
        if base:
            axis.axhline(100 * base["balanced_accuracy"], color=BLUE, linestyle="--", linewidth=1.0)
        axis.set_xscale("log")
        axis.set_xlim(max(0.05, 0.8 * kept.min()), 130)
        axis.set_xticks([0.1, 1, 10, 100] if kept.min() < 0.5 else [1, 3, 10, 30, 100])
        axis.xaxis.set_minor_locator(_no_ticks())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_title(_name(module), fontsize=10)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel("weights kept (%, log)", fontsize=10)
    documents = modules[0].card.get("evaluation", {}).get("documents", "evaluation")
    figure.supylabel(f"balanced accuracy, {documents} documents (%)", fontsize=10)
    legend = "Each epoch of each module: star = chosen, dashed = the base, dotted = vocabulary floor"
    legend += _part(shown, evaluated)
    figure.suptitle(_title(legend, modules[0].card.get("synthetic")), fontsize=11)
    bar = figure.colorbar(dots, ax=axes.ravel().tolist(), ticks=[0, 1], fraction=0.03, pad=0.02)
    bar.ax.set_yticklabels(["first\nepoch", "last"], fontsize=8)
    return _save(figure, path)


def kept_by_group(modules: Sequence[SeamModule], path) -> Path:
    """Bars of the share kept of embedding, LSTM and linear, a group of bars a class."""
    from matplotlib.ticker import FuncFormatter

    every, modules = modules, modules[:MOST_BARS]
    wide = 1.1 if len(modules) <= 20 else 0.6  # inches a class
    figure, axes = _figure(max(6.0, wide * len(modules) + 2), 4.2, 1, 1)
    axis = axes.flat[0]
    places = np.arange(len(modules))
    shares = [share for module in modules for share in module.kept_by_group.values() if share > 0]
    floor = 10.0 ** math.floor(
        math.log10(100 * min(shares, default=1))
    )  # per cent; a log axis cannot show an empty group
    for offset, (group, label, color) in enumerate(
        (("embedding", "embedding", BLUE), ("lstm", "LSTM", ORANGE), ("linear", "linear", GREEN))
    ):
        heights = [max(100 * module.kept_by_group[group], floor) for module in modules]
        bars = axis.bar(places + 0.27 * (offset - 1), heights, 0.25, color=color, label=label, bottom=0)
        for bar, module in zip(bars, modules, strict=True):
            value = 100 * module.kept_by_group[group]
            text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
            axis.annotate(
                text, (bar.get_x() + bar.get_width() / 2, bar.get_height()), ha="center", va="bottom", fontsize=7
            )
    axis.set_yscale("log")
    axis.set_ylim(floor, 250)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xticks(places, [_name(module) for module in modules], rotation=0 if wide > 1 else 90)
    axis.set_ylabel("weights kept (%, log)")
    title = "Share of each group that a module keeps" + _part(modules, every)
    axis.set_title(_title(title, modules[0].card.get("synthetic")), fontsize=11)
    axis.legend(frameon=False, ncols=3, loc="upper right", fontsize=9)
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    return _save(figure, path)


def base_confusion(confusion, names, path, synthetic: bool = False) -> Path:
    """The base's confusion on the test documents: rows true class, columns predicted, shaded by share of the row."""
    counts = np.asarray(confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(max(4.6, 0.55 * len(counts) + 1.8), MOST_INCHES)
    figure, axes = _figure(size + 0.8, size, 1, 1)
    axis = axes.flat[0]
    names = [_plain(name) for name in names]
    every = -(-len(counts) // MOST_LABELS)  # of so many classes one is named
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    small = len(counts) > 20  # numbers in the cells would be noise
    if not small:
        for row in range(len(counts)):
            for column in range(len(counts)):
                if counts[row, column]:
                    color = "white" if share[row, column] > 0.5 else "black"
                    axis.text(
                        column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=8
                    )
    places, names = range(0, len(counts), every), names[::every]
    axis.set_xticks(places, names, rotation=90 if small else 45, fontsize=6 if small else 9)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("center" if small else "right")
        label.set_rotation_mode("default" if small else "anchor")
    axis.set_yticks(places, names, fontsize=6 if small else 9)
    axis.set_xlabel("predicted by the base")
    axis.set_ylabel("true class")
    axis.set_title(_title(f"The base on {int(counts.sum())} test documents", synthetic), fontsize=11)
    figure.colorbar(image, ax=axis, fraction=0.045, pad=0.03, label="share of the true class")
    return _save(figure, path)


def _figure(width: float, height: float, rows: int, columns: int):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # draws in memory: no display, no global state
    return figure, figure.subplots(rows, columns, squeeze=False)


def _no_ticks():
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _name(module: SeamModule) -> str:
    return _plain("+".join(module.card.get("target_names", map(str, module.target))))


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return str(text).replace("$", r"\$")


def _part(shown: Sequence, of: Sequence) -> str:
    """What a title says where not all are shown."""
    return "" if len(shown) == len(of) else f" (the first {len(shown)} of {len(of)} modules)"


def _title(text: str, synthetic: bool | None) -> str:
    return f"{text}\n{SYNTHETIC_NOTE}" if synthetic else text


def _save(figure, path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())

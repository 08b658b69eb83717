"""The pictures of a run. matplotlib is imported when a picture is drawn, and never opens a window."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..files.atomic import write_atomically
from ..modules.seam_module import SeamModule
from .report import SYNTHETIC_NOTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

Counts: TypeAlias = np.ndarray | Sequence[Sequence[int]]  # a matrix of document counts

MOST_PANELS, MOST_BARS = 32, 60  # modules in a picture; of more, the first ones are shown
MOST_INCHES, MOST_LABELS = 11, 90  # of the confusion matrix, which would otherwise grow with the number of classes
NAMES = ("kept_by_group.png", "accuracy_against_kept.png", "f1_against_size.png", "base_confusion.png")
BLUE, ORANGE, GREEN, GREY = "#2f6690", "#d1742b", "#4f8a57", "#6b6b6b"


def plot_all(modules: Sequence[SeamModule], confusion: Counts | None, folder: str | Path) -> list[Path]:
    """Draws every picture for which there are figures, as PNG files.

    Args:
        modules: all modules of the run, at least one.
        confusion: (C, C) counts of the base on the test documents, a row for each true class; None: not drawn.
        folder: where the files go; it is made where it is missing.

    Returns:
        The paths of the files.

    Raises:
        ImportError: where matplotlib is missing.
        OSError: where a file cannot be written.
    """
    folder = Path(folder)
    paths = [kept_by_group(modules, folder / "kept_by_group.png")]
    if any("accuracy" in figures for module in modules for figures in module.history):
        paths.append(accuracy_against_kept(modules, folder / "accuracy_against_kept.png"))
    if any(module.card.get("size_curve") for module in modules):
        paths.append(f1_against_size(modules, folder / "f1_against_size.png"))
    if confusion is not None:
        card = modules[0].card
        names = card.get("class_names") or range(len(confusion))
        paths.append(base_confusion(confusion, names, folder / "base_confusion.png", card.get("synthetic", False)))
    return paths


def accuracy_against_kept(modules: Sequence[SeamModule], path: str | Path) -> Path:
    """A panel for each module: balanced accuracy on the evaluation documents against weights kept, epoch by epoch."""
    from matplotlib.ticker import FuncFormatter

    evaluated = [module for module in modules if any("accuracy" in figures for figures in module.history)]
    shown = evaluated[:MOST_PANELS]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = _figure(3.1 * columns + 0.9, 2.7 * rows + 0.9, rows, columns)
    dots: Any = None
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
    legend = "Each epoch of each module: star = chosen, dashed = the base, dotted = vocabulary floor"
    _label_panels(figure, axes, evaluated, "balanced accuracy, {} documents (%)", legend)
    bar = figure.colorbar(dots, ax=axes.ravel().tolist(), ticks=[0, 1], fraction=0.03, pad=0.02)
    bar.ax.set_yticklabels(["first\nepoch", "last"], fontsize=8)
    return _save(figure, path)


def f1_against_size(modules: Sequence[SeamModule], path: str | Path) -> Path:
    """A panel for each module with a ``size_curve``: F1 and average precision on the evaluation documents of the
    modules that are nested in it, by share of weights kept.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter

    with_curve = [module for module in modules if module.card.get("size_curve")]
    shown = with_curve[:MOST_PANELS]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = _figure(max(6.4, 3.1 * columns + 0.9), 2.7 * rows + 1.1, rows, columns)  # the title needs that width
    for axis, module in zip(axes.flat, shown, strict=False):
        curve = module.card["size_curve"]
        kept = [100 * point["keep"] for point in curve]
        for name, label, color in (("f1", "F1", BLUE), ("average_precision", "average precision", ORANGE)):
            values = [np.nan if point[name] is None else point[name] for point in curve]
            axis.plot(kept, values, color=color, marker="o", markersize=3, linewidth=1.2, label=label)
        axis.axvline(100 * module.kept, color=GREY, linestyle=":", linewidth=1.2)
        axis.set_xscale("log")
        axis.set_ylim(-0.03, 1.03)
        axis.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
        axis.xaxis.set_minor_locator(_no_ticks())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_title(_name(module), fontsize=10)
        axis.grid(alpha=0.25)
    axes.flat[0].legend(frameon=False, fontsize=8, loc="lower right")
    legend = "Every size of each module, cut by its scores: dotted = the module itself"
    _label_panels(figure, axes, with_curve, "on {} documents", legend)
    return _save(figure, path)


def _label_panels(figure: Any, axes: Any, modules: Sequence[SeamModule], values: str, legend: str) -> None:
    """Title and axes of a figure with a panel of kept weights for each of the first ``MOST_PANELS`` modules; places
    that are left over are empty.

    Args:
        figure: the figure.
        axes: its panels.
        modules: all that could be shown.
        values: what the panels show; ``{}`` stands for the kind of documents.
        legend: the title.
    """
    shown, card = modules[:MOST_PANELS], modules[0].card
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel("weights kept (%, log)", fontsize=10)
    figure.supylabel(values.format(card.get("evaluation", {}).get("documents", "evaluation")), fontsize=10)
    figure.suptitle(_title(legend + _part(shown, modules), card.get("synthetic")), fontsize=11)


def kept_by_group(modules: Sequence[SeamModule], path: str | Path) -> Path:
    """Bars of the share kept of embedding, LSTM and linear layer, a group of bars for each module."""
    from matplotlib.ticker import FuncFormatter

    every, modules = modules, modules[:MOST_BARS]
    width = 1.1 if len(modules) <= 20 else 0.6  # inches for each module
    figure, axes = _figure(max(6.0, width * len(modules) + 2), 4.2, 1, 1)
    axis = axes.flat[0]
    positions = np.arange(len(modules))
    shares = [share for module in modules for share in module.kept_by_group.values() if share > 0]
    # The lower end of the axis in per cent, a power of ten. A log axis cannot show 0, so empty groups get this height.
    floor = 10.0 ** math.floor(math.log10(100 * min(shares, default=1)))
    for offset, (group, label, color) in enumerate(
        (("embedding", "embedding", BLUE), ("lstm", "LSTM", ORANGE), ("linear", "linear", GREEN))
    ):
        heights = [max(100 * module.kept_by_group[group], floor) for module in modules]
        bars = axis.bar(positions + 0.27 * (offset - 1), heights, 0.25, color=color, label=label, bottom=0)
        for bar, module in zip(bars, modules, strict=True):
            value = 100 * module.kept_by_group[group]
            text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
            axis.annotate(
                text, (bar.get_x() + bar.get_width() / 2, bar.get_height()), ha="center", va="bottom", fontsize=7
            )
    axis.set_yscale("log")
    axis.set_ylim(floor, 250)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xticks(positions, [_name(module) for module in modules], rotation=0 if width > 1 else 90)
    axis.set_ylabel("weights kept (%, log)")
    title = "Share of each group that a module keeps" + _part(modules, every)
    axis.set_title(_title(title, modules[0].card.get("synthetic")), fontsize=11)
    axis.legend(frameon=False, ncols=3, loc="upper right", fontsize=9)
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    return _save(figure, path)


def base_confusion(
    confusion: Counts, names: Iterable[object], path: str | Path, synthetic: bool | None = False
) -> Path:
    """The base's confusion matrix on the test documents, each cell shaded by its share of the true class.

    Args:
        confusion: (C, C) counts, a row for each true class, a column for each predicted one.
        names: of the C classes.
        path: the file.
        synthetic: whether the title says that the documents are generated.

    Returns:
        The file's path.
    """
    counts = np.asarray(confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(max(4.6, 0.55 * len(counts) + 1.8), MOST_INCHES)
    figure, axes = _figure(size + 0.8, size, 1, 1)
    axis = axes.flat[0]
    labels = [_plain(name) for name in names]
    every = -(-len(counts) // MOST_LABELS)  # one class in this many gets a label
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    small = len(counts) > 20  # cells are too small for numbers
    if not small:
        for row in range(len(counts)):
            for column in range(len(counts)):
                if counts[row, column]:
                    color = "white" if share[row, column] > 0.5 else "black"
                    axis.text(
                        column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=8
                    )
    positions, labels = range(0, len(counts), every), labels[::every]
    axis.set_xticks(positions, labels, rotation=90 if small else 45, fontsize=6 if small else 9)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("center" if small else "right")
        label.set_rotation_mode("default" if small else "anchor")
    axis.set_yticks(positions, labels, fontsize=6 if small else 9)
    axis.set_xlabel("predicted by the base")
    axis.set_ylabel("true class")
    axis.set_title(_title(f"The base on {int(counts.sum())} test documents", synthetic), fontsize=11)
    figure.colorbar(image, ax=axis, fraction=0.045, pad=0.03, label="share of the true class")
    return _save(figure, path)


def _figure(width: float, height: float, rows: int, columns: int) -> "tuple[Figure, Any]":
    """A figure of that size in inches, and its (rows, columns) array of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # draws in memory, without a display and without pyplot's global state
    return figure, figure.subplots(rows, columns, squeeze=False)


def _no_ticks() -> "NullLocator":
    """A locator that sets no ticks."""
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _name(module: SeamModule) -> str:
    """The names of a module's classes, or their numbers where its card has no names."""
    return _plain("+".join(module.card.get("target_names", map(str, module.target))))


def _plain(text: object) -> str:
    """A text in which matplotlib finds no mathematics, which it would between dollar signs."""
    return str(text).replace("$", r"\$")


def _part(shown: Sequence[SeamModule], of: Sequence[SeamModule]) -> str:
    """The end of a title where not all modules are shown, or ""."""
    return "" if len(shown) == len(of) else f" (the first {len(shown)} of {len(of)} modules)"


def _title(text: str, synthetic: bool | None) -> str:
    """A title, with the note about generated documents where that is due."""
    return f"{text}\n{SYNTHETIC_NOTE}" if synthetic else text


def _save(figure: "Figure", path: str | Path) -> Path:
    """Writes a figure as a PNG file, whole or not at all; returns the path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())

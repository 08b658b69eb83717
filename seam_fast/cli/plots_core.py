"""The picture of stable cores: how many seeds keep each weight, and what a core of each agreement is worth."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..modules.stable_core import StableCore
from .plots import BLUE, GREEN, GREY, MOST_PANELS, ORANGE, _figure, _name, _no_ticks, _part, _save, _title


def stable_cores(cores: Sequence[StableCore], curves: Sequence[Sequence[dict[str, Any]]], path: str | Path) -> Path:
    """Two panels a target: weights by the number of seeds that keep them, by group; and F1 on validation documents of
    the core, by the share of the seeds that must agree, with its share of all weights.

    Args:
        cores: The first ``MOST_PANELS`` of them are drawn.
        curves: ``StableCore.curve`` of each.
        path: The PNG file.
    """
    shown = cores[:MOST_PANELS]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = _figure(4.4 * columns + 0.6, 4.6 * rows + 0.9, 2 * rows, columns)
    for place, (core, curve) in enumerate(zip(shown, curves, strict=False)):
        row, column = 2 * (place // columns), place % columns
        _histogram(axes[row, column], core)
        _curve(axes[row + 1, column], core, curve)
    for place in range(len(shown), rows * columns):
        for part in (0, 1):
            axes[2 * (place // columns) + part, place % columns].set_axis_off()
    title = "Weights by the number of seeds that keep them, and the core of those on which so many agree"
    title += _part([core.modules[0] for core in shown], [core.modules[0] for core in cores])
    figure.suptitle(_title(title, cores[0].modules[0].card.get("synthetic")), fontsize=11)
    return _save(figure, path)


def _histogram(axis: Any, core: StableCore) -> None:
    """How many weights of each group 1, 2, ... of the seeds keep."""
    count = len(core.modules)
    places = np.arange(1, count + 1)
    for offset, ((group, numbers), color) in enumerate(
        zip(core.histogram().items(), (BLUE, ORANGE, GREEN), strict=True)
    ):
        label = "LSTM" if group == "lstm" else group
        axis.bar(places + 0.27 * (offset - 1), numbers[1:], 0.27, color=color, label=label)
    axis.set_yscale("log")
    axis.set_ylim(0.7, 20 * max(max(numbers[1:]) for numbers in core.histogram().values()) + 1)  # room for the legend
    axis.set_title(_name(core.modules[0]), fontsize=10)
    axis.set_xlabel("seeds that keep a weight", fontsize=9)
    axis.set_ylabel("weights (log)", fontsize=9)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper center")
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)


def _curve(axis: Any, core: StableCore, curve: Sequence[dict[str, Any]]) -> None:
    """F1 of the core, by the share of the seeds that must agree; dotted, the share of all weights that it keeps."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

    shares = [point["share"] for point in curve]
    axis.plot(
        shares, [np.nan if point["f1"] is None else point["f1"] for point in curve], "o-", color=BLUE, markersize=3
    )
    axis.set_ylim(-0.03, 1.03)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("seeds that must agree", fontsize=9)
    axis.set_ylabel("F1, validation documents", fontsize=9, color=BLUE)
    axis.grid(alpha=0.25)
    beside = axis.twinx()
    beside.plot(shares, [100 * point["kept"] for point in curve], ":", color=GREY)
    beside.set_yscale("log")
    beside.yaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    beside.yaxis.set_minor_locator(_no_ticks())
    beside.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    beside.set_ylabel("weights kept (%, log, dotted)", fontsize=9, color=GREY)

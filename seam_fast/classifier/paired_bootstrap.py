"""A paired bootstrap of two detectors' F1 over the same documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SAMPLES = 2000
"""How often documents are drawn: an end of the interval is then off by a fiftieth of its width or so."""


def f1_difference(first: Array, second: Array, wanted: Array, seed: int = 0) -> tuple[float, float, float]:
    """F1 of the first detector less that of the second, with the ends of its 95 % interval (percentiles).

    Of a document it only counts what either says and what is right, so to draw N documents is to draw the numbers of
    the eight cases from a multinomial distribution (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). An
    F1 without any target, drawn or said, is 0.

    Args:
        first: The first one's answers, bool (N,).
        second: The second one's, bool (N,).
        wanted: Which documents are the target's, bool (N,).
        seed: Of the draws.
    """
    cases = np.bincount(4 * wanted + 2 * first + second, minlength=8)
    drawn = np.random.default_rng(seed).multinomial(cases.sum(), cases / cases.sum(), size=SAMPLES)
    low, high = np.quantile(_difference(drawn), (0.025, 0.975))
    return float(_difference(cases[None])[0]), float(low), float(high)


def _difference(counts: Array) -> Array:
    """F1 of the first detector less that of the second, (n,), from numbers of the eight cases (n, 8)."""
    wanted, first, second = (np.arange(8) >> bit & 1 for bit in (2, 1, 0))

    def f1(said: Array) -> Array:
        found: Array = 2 * (counts @ (wanted * said)) / np.maximum(counts @ wanted + counts @ said, 1)
        return found

    return f1(first) - f1(second)

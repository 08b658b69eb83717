"""Finding the size of a module: the share of weights, the kilobytes or the F1 that are asked for."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import runtime
from ..classifier.metrics import module_metrics, undefined_as_none
from ..common.arguments import real_number, shown
from ..data.class_numbers import is_target
from ..data.corpus import Corpus, Split
from ..errors import CheckpointError, TrainingError
from .compact import CompactModule
from .mask import Head, KeepMask
from .nested import ORDERS, cut, share_count
from .score_file import BELOW

CURVE_SHARES = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06)
"""Shares of all weights at which a module is judged for its curve, beside its own."""

_SMALLEST, _FACTOR = 0.0002, 1.1  # of the sizes tried for an F1: the first share, and each beside the one before
_SIZES_TRIED = 14  # for kilobytes; each halves what is left


class Resizable(Protocol):
    """What is read of a ``SeamModule``, which knows this file."""

    target: tuple[int, ...]
    card: dict[str, Any]

    @property
    def mask(self) -> KeepMask:
        """As of ``SeamModule``."""

    @property
    def scores(self) -> dict[str, Tensor]:
        """As of ``SeamModule``."""

    @property
    def kept(self) -> float:
        """As of ``SeamModule``."""

    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """As of ``SeamModule``."""

    def compact(self, dtype: str = ..., unknown: str = ...) -> CompactModule:
        """As of ``SeamModule``."""

    def with_mask(self: "Module", mask: KeepMask, resized: Mapping[str, Any], shift: float = ...) -> "Module":
        """As of ``SeamModule``."""


Module = TypeVar("Module", bound=Resizable)


class Sizes(Generic[Module]):
    """The nested masks of one module.

    Args:
        module: Must have real scores.
        order: See ``nested.ORDERS``.

    Raises:
        CheckpointError: No more is known of its scores than whether weights are kept.
    """

    def __init__(self, module: Module, order: str) -> None:
        self.module, self.order, self.scores = module, order, module.scores
        if not order_weights(self.scores):
            raise CheckpointError(
                "this module cannot be resized, since it does not know its scores, which order the weights; make it by "
                "reengineer(..., keep_scores=True), on the command line --keep-scores"
            )
        self.total = sum(score.numel() for score in self.scores.values())
        self.own = sum(module.mask.counts().values())
        self.shifts = size_shifts(module.card)

    def mask(self, count: int) -> KeepMask:
        """The mask of so many weights; CheckpointError where the file did not hold the order of so many."""
        mask = cut(self.scores, count, self.order)
        if any(bool((self.scores[key][mask.dense(key)] == BELOW).any()) for key in mask.shapes):
            raise CheckpointError(
                f"{100 * count / self.total:.2f} % of the weights are more than this module's file holds the order of; "
                f"choose fewer (it keeps {100 * self.own / self.total:.2f} %), or make it anew"
            )
        return mask

    def at(self, count: int, asked: Mapping[str, Any]) -> Module:
        """The module with so many weights; ``asked`` goes on its card."""
        about = {**asked, "order": self.order, "of_kept": self.module.kept}
        return self.module.with_mask(self.mask(count), about, self.shift(count))

    def shift(self, count: int) -> float:
        """What a module of so many weights has added to the target's output, by the card's ``size_shifts``:
        along the logarithm of the size on straight lines between those that it was trained for, and beyond them as at
        the nearest. 0 in an order in which it was not trained.
        """
        if not self.shifts or self.order != default_order(self.module.card):
            return 0.0
        trained = [math.log(share_count(share, self.total)) for share in self.shifts]
        return float(np.interp(math.log(max(count, 1)), trained, [*self.shifts.values()]))

    def of_share(self, keep: float) -> Module:
        """The module that keeps this share of all weights."""
        keep = _number(
            "keep", keep, lambda share: 0 < share <= 1, "a share of all weights, above 0 and at most 1, as 0.01"
        )
        return self.at(share_count(keep, self.total), {"keep": keep})

    def of_kilobytes(self, max_kb: float, dtype: str, unknown: str) -> Module:
        """The largest module, up to this one itself, whose compact file takes at most ``max_kb`` times 1000 bytes."""

        def size(count: int) -> float:
            return len(runtime.to_bytes(self.at(count, {}).compact(dtype, unknown))) / 1000

        max_kb = _number("max_kb", max_kb, lambda size: size > 0, "a number of kilobytes above 0")
        asked = {"max_kb": max_kb, "dtype": dtype, "unknown": unknown}
        if size(self.own) <= max_kb:
            return self.at(self.own, asked)
        low, high = 1, self.own  # `low` fits, or nothing does
        if (smallest := size(low)) > max_kb:
            way_out = "a smaller dtype" if dtype != "int8" else "more kilobytes"
            way_out = "unknown='dropped' (--unknown dropped)" if unknown == "own" else way_out
            raise CheckpointError(
                f"no compact module of {max_kb:g} kB can be made: one of a single weight takes {smallest:.1f} kB, for "
                f"its words and what describes it; give {way_out}"
            )
        for _ in range(_SIZES_TRIED):
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle) <= max_kb else (low, middle)
        return self.at(low, asked)

    def of_f1(self, min_f1: float, documents: Split) -> Module:
        """The first module, by rising size, whose F1 on documents is at least ``min_f1``."""
        min_f1 = _number("min_f1", min_f1, lambda f1: 0 <= f1 <= 1, "a number between 0 and 1")
        best, best_share = -1.0, 0.0
        for count in self._rising():
            found = self.at(count, {"min_f1": min_f1, "documents": len(documents)})
            f1 = figures_on_documents(found, documents)["f1"]
            if f1 is None:
                raise CheckpointError("no F1 can be reached: none of these documents is of the module's target")
            if f1 >= min_f1:
                found.card["resized"]["f1"] = f1
                return found
            if f1 > best:
                best, best_share = f1, found.kept
        raise CheckpointError(
            f"no size of this module reaches F1 {min_f1:g} on these documents; the best is {best:.3f}, at "
            f"{100 * best_share:.2f} % of the weights"
        )

    def _rising(self) -> Iterator[int]:
        """Numbers of weights, each a tenth larger than the last, as far as their order is known; and the module's."""
        share, before = _SMALLEST, 0
        while before < self.total:
            count = min(share_count(share, self.total), self.total)
            share *= _FACTOR
            if before < self.own < count:
                yield self.own
            if count > before:
                if count > self.own:
                    try:
                        self.mask(count)
                    except CheckpointError:
                        return
                yield count
            before = count


def _number(name: str, value: object, allowed: Callable[[float], bool], wanted: str) -> float:
    """A finite number of Python, NumPy or torch as Python's float; ValueError, which says what is wanted, for all else
    and for numbers that are not allowed.
    """
    try:
        if allowed(number := real_number(name, value, -math.inf)):
            return number
    except TrainingError:
        pass
    raise ValueError(f"{name} is {shown(value)}; it must be {wanted}")


def validation_documents(documents: Corpus | Split) -> Split:
    """The documents of a corpus that are held out of training; a split as it is. ValueError for anything else."""
    if isinstance(documents, Split):
        return documents
    if not isinstance(documents, Corpus):
        raise ValueError(f"documents is {shown(documents)}; it must be a Corpus or a Split, such as load_split gives")
    train, held_out = documents.train, documents.validation_indices()[1]
    return Split(train.ids[held_out], train.lengths[held_out], train.labels[held_out])


def figures_on_documents(module: Resizable, documents: Split) -> dict[str, Any]:
    """``metrics.module_metrics`` of a module on documents, undefined ones None."""
    wanted = is_target(documents.labels, module.target)
    return undefined_as_none(module_metrics(module.logits(documents.ids, documents.lengths), wanted))


def order_weights(scores: Mapping[str, Tensor]) -> bool:
    """Whether scores are more than signs. Those of a module whose scores were never stepped are all 1."""
    return any(bool((score.abs() != 1).any()) for score in scores.values())


def default_order(card: Mapping[str, Any]) -> str:
    """The order in which a module's sizes are cut, by its card: as it was trained where it was trained for several."""
    order = card.get("size_order")
    return order if order in ORDERS else ORDERS[0]


def size_shifts(card: Mapping[str, Any]) -> dict[float, float]:
    """The shifts of a module's head, by rising size, as its card has them; CheckpointError where these are damaged."""
    try:
        found = {float(share): float(shift) for share, shift in dict(card.get("size_shifts") or {}).items()}
        if all(0 < share <= 1 and math.isfinite(shift) for share, shift in found.items()):
            return dict(sorted(found.items()))
    except (TypeError, ValueError):
        pass
    raise CheckpointError("the size_shifts on this module's card are damaged; make it anew")


def shifted_head(head: Head, shift: float) -> Head:
    """A head, weight (2, C) and bias (2,), with a number added to the output of the target."""
    weight, bias = head
    return weight, torch.stack([bias[0] + shift, bias[1]])


def size_curve(module: Resizable, documents: Split, trained: Iterable[float] = ()) -> list[dict[str, Any]]:
    """Figures of the nested modules of ``CURVE_SHARES`` and of the module itself, by rising size.

    Args:
        module: Must have real scores.
        documents: What the figures are of.
        trained: More shares, those that it was trained for.

    Returns:
        For each size ``keep`` (share of all weights), ``f1``, ``precision``, ``recall`` and ``average_precision``.
    """
    sizes = Sizes(module, default_order(module.card))
    counts = {share_count(share, sizes.total) for share in (*CURVE_SHARES, *trained)} | {sizes.own}
    found = []
    for count in sorted(count for count in counts if 0 < count <= sizes.total):
        figures = figures_on_documents(sizes.at(count, {}), documents)
        names = ("f1", "precision", "recall", "average_precision")
        found.append({"keep": count / sizes.total, **{name: figures[name] for name in names}})
    return found

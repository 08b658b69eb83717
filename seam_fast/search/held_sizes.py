"""Training to sizes that are asked for: at which size a module is held in each epoch, and what it is at each of them.

A module is held at a size by shifts of its scores between two epochs, see ``Trainer.hold_size``, so that scores and
head are trained with the mask of that size. Where several sizes are asked for, it takes turns: one epoch at each of
them, with one head for all, up to a number that is added to the target's output at each size. The scores thereby come
to order the weights at every size, and one file serves them all.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..classifier.inference import class_logits
from ..classifier.metrics import module_metrics
from ..classifier.reference_model import head_logits
from ..data.corpus import Split
from ..modules.mask import Head, Snapshot
from ..modules.nested import share_count
from ..modules.resize import shifted_head
from ..training.base import ComputedEvaluation, Evaluation, Trainer
from .context import SearchContext

HOLD = (0.25, 0.6)
"""Shares of the epochs between which a module comes to the size that is asked for; from then on it is held there."""

ORDER = "group"
"""In which of ``nested.ORDERS`` sizes are cut while a module is trained for several, and afterwards."""

MOST_SHIFT = 30.0
"""The largest shift of a head; with it every probability is 0 or 1."""

Documents = tuple[Split, Tensor]
"""Documents, and which of them are the target's, bool (n,)."""


class Cut(NamedTuple):
    """What ``HeldSizes.cut`` gives.

    Attributes:
        evaluation: The module of the largest size.
        figures: ``metrics.module_metrics`` at each size, on the evaluation documents; [] where there were none.
        shifts: What each size's head has beyond that of the largest, see ``even_shift``; [] where nothing was shifted.
    """

    evaluation: Evaluation
    figures: list[dict[str, float]]
    shifts: list[float]


class HeldSizes:
    """The sizes of one run.

    Args:
        shares: Of all weights, rising; at least one.
        total: Number of all weights.
        epochs: Number of epochs of the run.

    Attributes:
        shares: As given.
        counts: Number of weights of each.
        turns: The shares in the order in which epochs are held at them, over and over.
    """

    def __init__(self, shares: Sequence[float], total: int, epochs: int) -> None:
        self.shares, self.total, self.epochs = tuple(shares), total, epochs
        self.counts = [share_count(share, total) for share in self.shares]
        self.turns = turns(self.shares)

    def after(self, epoch: int, kept: Sequence[float]) -> int | None:
        """How many weights are to have positive scores when the epoch after this one begins; None: as they stand.

        Args:
            epoch: Number of the epoch that has ended, from 0.
            kept: Share of positive scores after each epoch so far, that one included.
        """
        passed, (begin, end) = (epoch + 1) / self.epochs, HOLD
        if passed < begin:
            return None
        progress = min((passed - begin) / (end - begin), 1.0)
        # Each size is come to from where the module stood after its last turn at it.
        before = kept[-len(self.turns)] if len(kept) >= len(self.turns) else kept[0]
        share = before ** (1 - progress) * self.turns[(epoch + 1) % len(self.turns)] ** progress
        return share_count(share, self.total)

    @property
    def several(self) -> bool:
        """Whether there is more than one size."""
        return len(self.shares) > 1

    def cut(
        self, trainer: Trainer, context: SearchContext, fitted_on: Documents | None, evaluated_on: Documents | None
    ) -> Cut:
        """The module of the largest size, from the state between two epochs.

        Args:
            trainer: Trains the module.
            context: Whose weights are cut.
            fitted_on: Training documents by which the heads are shifted, see ``even_shift``; None: shift nothing.
            evaluated_on: Evaluation documents; None: do not evaluate.
        """
        backend = "torch" if context.engine == "torch" else "auto"
        wanted = evaluated_on is not None or fitted_on is not None
        snapshots = trainer.sized_snapshots(self.counts if wanted else self.counts[-1:])
        figures: list[dict[str, float]] = []
        shifts: list[float] = []
        for mask, head, _ in snapshots if wanted else ():
            weights = mask.apply(context.weights)

            def outputs(split: Split, weights: dict[str, Tensor] = weights, head: Head = head) -> Tensor:
                logits = class_logits(weights, split.ids, split.lengths, context.base.readout, backend)
                return head_logits(logits, head)

            if fitted_on is not None:
                found = outputs(fitted_on[0]).double()
                shifts.append(even_shift(found[:, 0] - found[:, 1], fitted_on[1]))
            if evaluated_on is not None:
                found = outputs(evaluated_on[0])
                found[:, 0] += shifts[-1] if shifts else 0.0
                figures.append(module_metrics(found, evaluated_on[1]))
        largest = snapshots[-1]
        if shifts:
            largest = largest._replace(head=shifted_head(largest.head, shifts[-1]))
        return Cut(_as_evaluation(largest), figures, [shift - shifts[-1] for shift in shifts])


def _as_evaluation(snapshot: Snapshot) -> Evaluation:
    """A snapshot as ``Trainer.take_epoch`` gives a module."""
    return ComputedEvaluation(snapshot.mask.counts(), snapshot.head, None, None, lambda: snapshot)


def even_shift(margins: Tensor, wanted: Tensor) -> float:
    """The number to add to a module's margins with which it expects as many targets as there are. Of all shifts that
    one has the least cross entropy; with it a head that all sizes share fits each of them, whose margins lie otherwise.

    Args:
        margins: Output of the target less that of the rest, float64 (n,).
        wanted: Which documents are the target's, bool (n,).
    """
    count = float(wanted.sum())
    if not 0 < count < len(wanted):
        return 0.0
    low, high = -MOST_SHIFT, MOST_SHIFT
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if float((margins + middle).sigmoid().sum()) > count else (middle, high)
    return (low + high) / 2


def turns(shares: Sequence[float]) -> tuple[float, ...]:
    """Rising shares from outside in: the least, the largest, the second least and so on. So a small size, at which
    weights compete, always follows a large one, at which they can come back.
    """
    count = len(shares)
    return tuple(shares[k // 2] if k % 2 == 0 else shares[count - 1 - k // 2] for k in range(count))

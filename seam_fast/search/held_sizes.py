"""Training to sizes that are asked for: at which size a module is held in each epoch, and what it is at each of them.

A module is held at a size by shifts of its scores between two epochs, see ``Trainer.hold_size``, so that scores and
head are trained with the mask of that size. Where several sizes are asked for, it takes turns: one epoch at each of
them, with one head for all. The scores thereby come to order the weights at every size, and one file serves them all.
"""

from collections.abc import Sequence

from torch import Tensor

from ..classifier.inference import class_logits
from ..classifier.metrics import module_metrics
from ..classifier.reference_model import head_logits
from ..data.corpus import Split
from ..modules.nested import share_count
from ..training.base import ComputedEvaluation, Evaluation, Trainer
from .context import SearchContext

HOLD = (0.25, 0.6)
"""Shares of the epochs between which a module comes to the size that is asked for; from then on it is held there."""

ORDER = "group"
"""In which of ``nested.ORDERS`` sizes are cut while a module is trained for several, and afterwards."""


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

    def cut(
        self, trainer: Trainer, context: SearchContext, documents: tuple[Split, Tensor] | None
    ) -> tuple[Evaluation, list[dict[str, float]]]:
        """The module of the largest size, from the state between two epochs.

        Args:
            trainer: Trains the module.
            context: Whose weights are cut.
            documents: Evaluation documents, and which of them are the target's, bool (n,); None: do not evaluate.

        Returns:
            The module, and its figures on the documents at each size, see ``metrics.module_metrics``; none without
            documents.
        """
        snapshots, figures = trainer.sized_snapshots(self.counts if documents else self.counts[-1:]), []
        if documents is not None:
            split, wanted = documents
            backend = "torch" if context.engine == "torch" else "auto"
            for mask, head, _ in snapshots:
                weights = mask.apply(context.weights)
                logits = class_logits(weights, split.ids, split.lengths, context.base.readout, backend)
                figures.append(module_metrics(head_logits(logits, head), wanted))
        mask, head, _ = largest = snapshots[-1]
        return ComputedEvaluation(mask.counts(), head, None, None, lambda: largest), figures


def turns(shares: Sequence[float]) -> tuple[float, ...]:
    """Rising shares from outside in: the least, the largest, the second least and so on. So a small size, at which
    weights compete, always follows a large one, at which they can come back.
    """
    count = len(shares)
    return tuple(shares[k // 2] if k % 2 == 0 else shares[count - 1 - k // 2] for k in range(count))

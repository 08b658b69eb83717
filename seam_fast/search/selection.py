"""Which epoch's module is kept: the reference's rule and the default one, both of which can refuse modules that are no
better than a constant answer.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..modules.marks import FEWEST_TARGETS


class Selection(Protocol):
    """A rule that chooses among the evaluated epochs of a run, which are offered one after the other."""

    @property
    def qualified(self) -> bool:
        """Whether an epoch has met the rule's minimum requirement so far."""

    @property
    def stop(self) -> bool:
        """Whether early stopping asks for the end of the run."""

    def offer(self, figures: Mapping[str, float]) -> bool:
        """Whether this epoch's module becomes the best so far. figures: those of the epoch, by name, see
        ``SeamModule.history``.
        """


class ReferenceSelection:
    """SeaM's rule, on the accuracy on the evaluation documents and the share of weights kept ("ratio").

    Among epochs whose accuracy reaches the base's, an epoch replaces the best one if its ratio, in tenths of a per cent
    and rounded down, is smaller; or if its ratio is not larger and its accuracy is larger. As long as no epoch has
    reached the base's accuracy, the best is the first one with the largest accuracy - ratio.

    Args:
        accuracy_base: The base's accuracy on the evaluation documents.
        early_stop: How many epochs below the base's accuracy end the run, counted since the last smaller module was
            found (as SeaM's code counts); -1: never.
        reject_constant: Whether epochs are refused whose figures a constant predictor could have (SeaM: no).

    Attributes:
        qualified: Whether an epoch has reached the base's accuracy.
    """

    def __init__(self, accuracy_base: float, early_stop: int = -1, reject_constant: bool = False) -> None:
        self.accuracy_base, self.early_stop, self.reject_constant = accuracy_base, early_stop, reject_constant
        self.qualified = False
        self._ratio, self._accuracy, self._difference = 1.0, 0.0, float("-inf")
        self._below = 0

    def offer(self, figures: Mapping[str, float]) -> bool:
        """As in ``Selection``; reads accuracy, kept, recall and specificity."""
        accuracy, ratio = figures["accuracy"], figures["kept"]
        passes = accuracy >= self.accuracy_base and not (self.reject_constant and is_constant_like(figures))
        if not passes:
            self._below += self.qualified
            if self.qualified or accuracy - ratio <= self._difference:
                return False
            self._difference = accuracy - ratio
            return True
        self.qualified = True
        if int(1000 * ratio) < int(1000 * self._ratio):
            self._below = 0
        elif ratio > self._ratio or accuracy <= self._accuracy:
            return False
        self._ratio, self._accuracy = ratio, accuracy
        return True

    @property
    def stop(self) -> bool:
        """As in ``Selection``."""
        return self.early_stop >= 0 and self._below >= max(self.early_stop, 1)


class F1Selection:
    """The best target F1 on the evaluation documents; of equal epochs the later one, which keeps fewer weights.

    An epoch before ``first_epoch`` never wins over a later one, and of those an epoch that a constant predictor could
    equal never wins over one that it could not. Where all could be equalled, the one that ranks the documents best wins
    (average precision), which is the one to which a threshold helps most.

    Args:
        early_stop: How many evaluated epochs without a new best, counted from ``first_epoch`` on, end the run; -1:
            never.
        first_epoch: Epochs before this number, from 0, win only while there is no other, because early ones still keep
            many weights.
        targets: How many of the evaluation documents are the target's. Where they are fewer than
            ``FEWEST_TARGETS`` their figures say too little to choose by, and the last epoch wins.
    """

    def __init__(self, early_stop: int = -1, first_epoch: int = 0, targets: int = FEWEST_TARGETS) -> None:
        self.early_stop, self.first_epoch = early_stop, first_epoch
        self.trusted = targets >= FEWEST_TARGETS
        self._best: tuple[bool, bool, float] = (False, False, -1.0)
        self._since = 0

    @property
    def qualified(self) -> bool:
        """Whether the best epoch is one that no constant predictor could equal, on documents that can tell."""
        return self.trusted and self._best[1]

    def offer(self, figures: Mapping[str, float]) -> bool:
        """As in ``Selection``; reads f1, recall, specificity, epoch and, where there is one, average_precision."""
        late_enough = self.first_epoch == 0 or figures["epoch"] >= self.first_epoch
        constant = is_constant_like(figures)
        rank = (
            late_enough,
            not constant,
            figures.get("average_precision", figures["f1"]) if constant else figures["f1"],
        )
        if not self.trusted:
            rank = (late_enough, False, 0.0)
        self._since = 0 if rank > self._best else self._since + late_enough
        if rank < self._best:
            return False
        self._best = rank
        return True

    @property
    def stop(self) -> bool:
        """As in ``Selection``."""
        return self.early_stop >= 0 and self._since >= max(self.early_stop, 1)


def is_constant_like(figures: Mapping[str, float]) -> bool:
    """Whether a predictor that ignores its input could have these figures. For each such predictor (always yes, always
    no, a biased coin) recall + specificity is 1, and a module has to beat it on both kinds of document.
    """
    recall, specificity = figures["recall"], figures["specificity"]
    return recall == 0 or specificity == 0 or recall + specificity <= 1


def over_sizes(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What ``F1Selection`` reads of an epoch whose module was evaluated at several sizes: the mean F1, and recall and
    specificity of the size that comes nearest to a constant answer.

    Args:
        figures: Of each size, by name.
    """
    worst = min(figures, key=lambda each: (not is_constant_like(each), each["recall"] + each["specificity"]))
    mean = sum(each["f1"] for each in figures) / len(figures)
    return {"f1": mean, "recall": worst["recall"], "specificity": worst["specificity"]}

"""The Pareto front of a run: the epochs whose module no other epoch's equals or beats in both accuracy and size."""

import bisect
import operator
from collections.abc import Callable, Iterable
from typing import Any

from .mask import KeepMask, Snapshot
from .seam_module import SeamModule

Figures = dict[str, Any]
"""What is known of one epoch, by name, as in ``SeamModule.history``: ``epoch``, ``accuracy``, ``kept`` and more."""

_SCORES = ("keep_scores", "size_curve", "size_order", "size_shifts")
_OF_THE_CHOSEN = (*_SCORES, "threshold", "marks", "qualified", "svm", "evaluated_on")
"""What a card says of the module that its run chose, and of no other epoch's."""


def beats(figures: Figures, other: Figures) -> bool:
    """Whether an epoch's accuracy is at least another's and its share of kept weights at most the other's."""
    return bool(figures["accuracy"] >= other["accuracy"] and figures["kept"] <= other["kept"])


def enter(front: list[Figures], figures: Figures) -> list[Figures]:
    """Adds an epoch to a front sorted by kept, and removes those that it beats.

    Returns:
        The new front, or the very list given where the epoch is beaten. Of two equal epochs the later one stays.
    """
    # Along a front accuracy rises with kept. So the only epoch that can beat the new one is the one before the index at
    # which it belongs (or the one with the same share), and those that it beats follow from that index on.
    index = bisect.bisect_left(front, figures["kept"], key=_kept)
    if index and front[index - 1]["accuracy"] >= figures["accuracy"]:
        return front
    same = index < len(front) and front[index]["kept"] == figures["kept"]
    if same and front[index]["accuracy"] > figures["accuracy"]:
        return front
    end = index
    while end < len(front) and beats(figures, front[end]):
        end += 1
    return [*front[:index], figures, *front[end:]]


_kept = operator.itemgetter("kept")


def pareto(history: Iterable[Figures]) -> list[Figures]:
    """The front of a module's history, sorted by kept. Epochs without evaluation are left out."""
    front: list[Figures] = []
    for figures in history:
        if "accuracy" in figures:
            front = enter(front, figures)
    return front


class FrontPoint:
    """One epoch of a front, and its module, which is made when asked for.

    Args:
        figures: The epoch's figures.
        snapshot: The module as it was after that epoch.
        chosen: The run's own module, which gives base, target, history and card.

    Attributes:
        epoch: Its number, from 0.
        figures: The epoch's figures, as in ``SeamModule.history``.
        mask: The weights kept.
    """

    def __init__(self, figures: Figures, snapshot: Snapshot, chosen: SeamModule) -> None:
        self.epoch: int = figures["epoch"]
        self.figures = figures
        self.mask: KeepMask = snapshot.mask
        self._head = snapshot.head
        self._base, self._target, self._history, self._card = chosen.base, chosen.target, chosen.history, chosen.card

    def __repr__(self) -> str:
        accuracy, kept = (100 * self.figures[name] for name in ("accuracy", "kept"))
        return f"FrontPoint(epoch={self.epoch}, accuracy={accuracy:.2f} %, kept={kept:.2f} %)"

    def module(self) -> SeamModule:
        """The module as it was after this epoch. Its scores are 1 where kept and -1 elsewhere, its threshold is where
        training left it, and it has no marks and no metrics on test documents.
        """
        card = {name: value for name, value in self._card.items() if name not in _OF_THE_CHOSEN}
        card["best_epoch"] = self.epoch
        return SeamModule(self._base, self._target, self.mask, self._head, history=self._history, card=card)


class Front:
    """The front of a module while it is trained: its epochs' figures with a snapshot of each. Snapshots of beaten
    epochs are dropped.

    Attributes:
        figures: Of each epoch on the front, sorted by kept.
    """

    def __init__(self) -> None:
        self.figures: list[Figures] = []
        self._snapshots: dict[int, Snapshot] = {}

    def offer(self, figures: Figures, snapshot: Callable[[], Snapshot]) -> Snapshot | None:
        """Adds an evaluated epoch, if no other beats it.

        Args:
            figures: The epoch's figures.
            snapshot: Gives the trainer's snapshot; called only where the epoch enters the front.

        Returns:
            The snapshot taken, or None where the epoch is beaten.
        """
        front = enter(self.figures, figures)
        if front is self.figures:
            return None
        beaten = len(self.figures) + 1 - len(front)
        self.figures = front
        taken = self._snapshots[figures["epoch"]] = snapshot()
        if beaten:
            self._snapshots = {f["epoch"]: self._snapshots[f["epoch"]] for f in front}
        return taken

    def points(self, chosen: SeamModule) -> list[FrontPoint]:
        """All epochs of the front, sorted by kept. ``chosen``: the run's own module, as in ``FrontPoint``."""
        return [FrontPoint(figures, self._snapshots[figures["epoch"]], chosen) for figures in self.figures]

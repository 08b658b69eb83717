"""The Pareto front of a run: the epochs whose module no other epoch's equals or beats in both accuracy and size."""

import bisect
import operator
from collections.abc import Callable, Iterable

from .mask import KeepMask, Snapshot
from .seam_module import SeamModule


def beats(figures: dict, other: dict) -> bool:
    """Whether one epoch's accuracy is as high as another's or higher, and its share of kept weights as low or lower."""
    return figures["accuracy"] >= other["accuracy"] and figures["kept"] <= other["kept"]


def enter(front: list[dict], figures: dict) -> list[dict]:
    """The front, sorted by kept, after one more epoch: the same list where that epoch is beaten.

    Of two equals the later one stays.
    """
    # Along a front accuracy rises with kept, so what beats an epoch, and what it beats, stands next to its place.
    place = bisect.bisect_left(front, figures["kept"], key=_kept)
    if place and front[place - 1]["accuracy"] >= figures["accuracy"]:
        return front
    same = place < len(front) and front[place]["kept"] == figures["kept"]
    if same and front[place]["accuracy"] > figures["accuracy"]:
        return front
    end = place
    while end < len(front) and beats(figures, front[end]):
        end += 1
    return [*front[:place], figures, *front[end:]]


_kept = operator.itemgetter("kept")


def pareto(history: Iterable[dict]) -> list[dict]:
    """The front of a history, sorted by kept; epochs that were not evaluated have no place in it."""
    front: list[dict] = []
    for figures in history:
        if "accuracy" in figures:
            front = enter(front, figures)
    return front


class FrontPoint:
    """One epoch of a front: its number, its dict of figures, and its module, made when asked for."""

    def __init__(self, figures: dict, snapshot: Snapshot, chosen: SeamModule):
        self.epoch: int = figures["epoch"]
        self.figures = figures
        self.mask: KeepMask = snapshot.mask
        self._head = snapshot.head
        self._base, self._target, self._history, self._card = chosen.base, chosen.target, chosen.history, chosen.card

    def __repr__(self):
        accuracy, kept = (100 * self.figures[name] for name in ("accuracy", "kept"))
        return f"FrontPoint(epoch={self.epoch}, accuracy={accuracy:.2f} %, kept={kept:.2f} %)"

    def module(self) -> SeamModule:
        """The module as it was after this epoch: scores 1 where kept and -1 elsewhere, no figures of test documents."""
        card = self._card | {"best_epoch": self.epoch}
        return SeamModule(self._base, self._target, self.mask, self._head, history=self._history, card=card)


class Front:
    """The front of one running module, with a snapshot of each of its epochs and nothing of those that are beaten."""

    def __init__(self) -> None:
        self.figures: list[dict] = []
        self._snapshots: dict[int, Snapshot] = {}

    def offer(self, figures: dict, snapshot: Callable[[], Snapshot]) -> Snapshot | None:
        """One more evaluated epoch; ``snapshot``: gives its ``Trainer.snapshot``, called only if the epoch enters, and
        then returned."""
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
        """All points, sorted by kept; ``chosen``: the run's own module, from which they take card and history."""
        return [FrontPoint(figures, self._snapshots[figures["epoch"]], chosen) for figures in self.figures]

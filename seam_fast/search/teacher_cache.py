"""Sharing the teacher's answers among modules that train on the same documents."""

import threading
from collections.abc import Callable

from torch import Tensor


class TeacherCache:
    """Keeps the teacher's probabilities for the epochs of several modules that draw the same documents, until each of
    these modules has read them. May be used by many threads.

    Attributes:
        users: Number of these modules.
    """

    def __init__(self) -> None:
        self.users = 0
        self._known: dict[int, tuple[Tensor, int]] = {}  # by epoch: the probabilities, and how many have read them
        self._lock = threading.Lock()

    def get(self, epoch: int, make: Callable[[], Tensor]) -> Tensor:
        """The probabilities of an epoch: what another module's ``make`` gave, or else ``make()``. Two threads that ask
        at the same time both call it, and are given the same result.
        """
        with self._lock:
            known = self._known.get(epoch)
        made = make() if known is None else known[0]
        with self._lock:
            made, readers = self._known.get(epoch, (made, 0))
            self._known[epoch] = made, readers + 1
            if readers + 1 >= self.users:
                del self._known[epoch]
            return made

"""torch's number of threads, set for the calling thread without effect on the rest of the process.

torch keeps that number for each thread that has used torch, and once more for all threads to come.
``torch.set_num_threads`` sets both. Setting it and setting it back would therefore affect other threads in between, and
two callers that overlap would leave the wrong number behind.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

_LOCK = threading.Lock()
_R = TypeVar("_R")


def set_own_threads(count: int) -> None:
    """Sets torch's number of threads for the calling thread alone.

    Where no thread can be started to restore it, the number for new threads changes as well.
    """
    with _LOCK:
        of_new_threads = in_new_thread(torch.get_num_threads)
        torch.get_num_threads()  # a thread copies the number for new threads at its first use, which must come first
        torch.set_num_threads(count)
        if of_new_threads is not None and of_new_threads != count:
            restored = of_new_threads
            in_new_thread(lambda: torch.set_num_threads(restored))


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one thread for the calling thread's work."""
    before = torch.get_num_threads()
    set_own_threads(1)
    try:
        yield
    finally:
        set_own_threads(before)


def in_new_thread(function: Callable[[], _R]) -> _R | None:
    """What a function returns in a thread of its own; None where no thread can be started."""
    found: list[_R | None] = [None]
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    thread.join()
    return found[-1]

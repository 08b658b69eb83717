"""What torch keeps for each thread of the process, set for one of ours, the rest of the process left alone.

torch holds the number of its threads twice: for each thread that has used torch, and once for all threads that are
still to come. ``torch.set_num_threads`` sets both, so that a caller who sets it and later sets it back disturbs others
meanwhile, and two who overlap leave the wrong one behind.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()


def set_own_threads(count: int) -> None:
    """Sets the number for the calling thread, and for no other (where no thread can be started, for new ones too)."""
    with _LOCK:
        of_new_threads = in_new_thread(torch.get_num_threads)
        torch.get_num_threads()  # a thread takes over the number of new threads at its first use: now, not afterwards
        torch.set_num_threads(count)
        if of_new_threads not in (None, count):
            in_new_thread(lambda: torch.set_num_threads(of_new_threads))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread in the calling thread, which afterwards has as many as before."""
    before = torch.get_num_threads()
    set_own_threads(1)
    try:
        yield
    finally:
        set_own_threads(before)


def in_new_thread(function: Callable):
    """What a function returns in a thread of its own; None where that cannot be started."""
    found = [None]
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    thread.join()
    return found[-1]

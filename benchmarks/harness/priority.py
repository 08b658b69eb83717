"""Real-time priority for what is timed on a machine that others use too."""

import contextlib
import os
import time

from seam_fast.errors import SeamFastError


@contextlib.contextmanager
def realtime_priority():
    """Real-time priority inside; afterwards sleeps for as long, so that other processes get their share."""
    started = time.perf_counter()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, PermissionError):
        raise SeamFastError("--alone needs Linux and root, for real-time priority; leave it out") from None
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    time.sleep(time.perf_counter() - started)

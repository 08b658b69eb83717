"""torch's profiler, without what it prints."""

import contextlib
import os
import sys

from torch.profiler import profile


@contextlib.contextmanager
def native_stderr_silenced():
    """Drops what native code writes to stderr: torch's profiler logs its start there, and no setting turns that off."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextlib.contextmanager
def quiet_profile(**options):
    """``torch.profiler.profile(**options)`` around the block, without its log lines."""
    profiler = profile(**options)
    with native_stderr_silenced():
        profiler.start()
    try:
        yield profiler
    finally:
        with native_stderr_silenced():
            profiler.stop()

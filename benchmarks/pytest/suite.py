"""What the pytest-benchmark suites share: one thread, and what a figure was measured on."""

import functools

import torch

import seam_fast as sf
from benchmarks.harness import measure
from benchmarks.harness.machine import gpu
from seam_fast import _ext, report


def one_thread():
    """For a fixture: one torch thread while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def about() -> dict:
    """For ``extra_info``: machine, backends and threads."""
    return {"machine": machine(), "backends": sf.backends(), "threads": torch.get_num_threads()}


@functools.lru_cache(maxsize=1)
def machine() -> dict:
    return report.machine() | {"gpu": gpu(), "caches": measure.caches(), "isa": _ext.C.isa() if _ext.C else None}

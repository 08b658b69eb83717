"""What the pytest-benchmark suites share: one thread, and what a figure was measured on."""

import functools

import torch

import seam_fast as sf
from benchmarks.harness.machine import caches, gpu
from seam_fast import _ext
from seam_fast.cli import report


def one_thread():
    """Body of a fixture: one torch thread while a test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def about() -> dict:
    """For ``extra_info`` of a benchmark: machine, backends and threads."""
    return {"machine": _machine(), "backends": sf.backends(), "threads": torch.get_num_threads()}


@functools.lru_cache(maxsize=1)
def _machine() -> dict:
    return report.machine() | {"gpu": gpu(), "caches": caches(), "isa": _ext.C.isa() if _ext.C else None}

"""A SEAM training step of every rival under pytest-benchmark, a group a batch size, one thread.

    pytest benchmarks/bench_step.py --benchmark-json=runs/bench_step.json
    pytest benchmarks/bench_step.py -k "b5 and native"

SEAM_FAST_BENCH_BASE names the base's file (default: data/models/LSTM_classifier.pt); without it, or with "tiny", the
base and the documents are invented, small, and say nothing about speed. For ratios use benchmarks/step.py: it runs the
rivals in turn, this suite one after the other.
"""

import functools
import os
from pathlib import Path

import measure
import pytest
import step
import torch
from reference_step import RIVALS, Workload, usable

import seam_fast as sf
from seam_fast import _ext, report

BASE = os.environ.get("SEAM_FAST_BENCH_BASE") or "data/models/LSTM_classifier.pt"
TINY = not Path(BASE).exists()


@functools.lru_cache(maxsize=1)
def workload() -> Workload:
    if TINY:
        base, corpus = step.smoke_base()
        return Workload(base, corpus, corpus.class_names.index("grain"))
    base, corpus = step.load_base(BASE, None)
    return Workload(base, corpus, corpus.class_names.index("acq"))


@functools.lru_cache(maxsize=1)
def machine() -> dict:
    return report.machine() | {"caches": measure.caches(), "isa": _ext.C.isa() if _ext.C else None}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cases():
    for batch_size in step.BATCH_SIZES:
        for name in RIVALS:
            marks = pytest.mark.benchmark(group=f"b{batch_size}")
            yield pytest.param(name, batch_size, id=f"b{batch_size}-{name}", marks=marks)


@pytest.mark.parametrize(("name", "batch_size"), list(cases()))
def test_step(benchmark, name, batch_size):
    reason = usable([name])[1].get(name)
    if reason:
        pytest.skip(reason)
    warm_steps = 20 if TINY else step.WARM_STEPS
    state = step.warm(workload(), "best_torch", batch_size, warm_steps).whole_scores() if step.is_dense(name) else None
    block = step.block_of(workload(), name, batch_size, warm_steps, state)
    steps = block(0)
    benchmark(block, 1)
    benchmark.extra_info.update(
        machine=machine(), backends=sf.backends(), threads=torch.get_num_threads(), steps_a_call=steps,
        batch_size=batch_size, tiny=TINY,
    )  # fmt: skip

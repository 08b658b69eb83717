"""A SEAM training step of every rival under pytest-benchmark, one group per batch size, one thread.

    pytest benchmarks/pytest/bench_step.py --benchmark-json=runs/bench_step.json
    pytest benchmarks/pytest/bench_step.py -k "b5 and native"

SEAM_FAST_BENCH_BASE names the base's file (default: data/models/LSTM_classifier.pt); without it, or with "tiny", the
base and the documents are invented, small, and say nothing about speed. For ratios use `seam-fast bench step`: it runs
the rivals in turn, this suite one after the other. All rivals of a batch size are first compared with float64.
"""

import argparse
import functools
import os
from pathlib import Path

import pytest

from benchmarks.baselines.reference_step import RIVALS, Workload, available, first_steps
from benchmarks.cpu import step
from benchmarks.harness import bases as sources
from benchmarks.harness.shapes import BATCH_SIZES
from benchmarks.pytest.suite import about, one_thread

_one_thread = pytest.fixture(autouse=True)(one_thread)
BASE = os.environ.get("SEAM_FAST_BENCH_BASE") or "data/models/LSTM_classifier.pt"
TINY = not Path(BASE).exists()


@functools.lru_cache(maxsize=1)
def workload() -> Workload:
    if TINY:
        base, corpus = sources.smoke_base()
        return Workload(base, corpus, corpus.class_names.index("grain"))
    options = argparse.Namespace(base=BASE, data_dir=None, quick=False, smoke=False)
    base, corpus = sources.load_base(options)
    return Workload(base, corpus, corpus.class_names.index("acq"))


@functools.lru_cache
def truth(batch_size: int):
    return first_steps(workload(), batch_size, 6)


def cases():
    for shape, batch_size in BATCH_SIZES.items():
        for name in RIVALS:
            yield pytest.param(name, batch_size, id=f"{shape}-{name}", marks=pytest.mark.benchmark(group=shape))


@pytest.mark.parametrize(("name", "batch_size"), list(cases()))
def test_step(benchmark, name, batch_size):
    reason = available([name])[1].get(name)
    if reason:
        pytest.skip(reason)
    truth(batch_size).check(name)
    warm_steps = 20 if TINY else step.WARM_STEPS
    state = step.warm(workload(), "best_torch", batch_size, warm_steps).full_scores() if step.is_dense(name) else None
    block = step.block_of(workload(), name, batch_size, warm_steps, state)
    steps = block(0)
    benchmark(block, 1)
    benchmark.extra_info.update(about(), steps_a_call=steps, batch_size=batch_size, tiny=TINY)

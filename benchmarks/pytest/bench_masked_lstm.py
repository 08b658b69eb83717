"""Every way to compute a masked LSTM under pytest-benchmark, one group per shape, one thread.

    pytest benchmarks/pytest/bench_masked_lstm.py --benchmark-json=runs/bench.json
    pytest benchmarks/pytest/bench_masked_lstm.py -k "r8 and not forward"

For ratios use `seam-fast bench op`: it runs the rivals in turn, this suite one after the other.
"""

import functools
import os

import pytest

from benchmarks.baselines import lstm as rivals
from benchmarks.harness.shapes import SHAPES, SMOKE
from benchmarks.pytest.suite import about, one_thread

_one_thread = pytest.fixture(autouse=True)(one_thread)
BACKEND = os.environ.get("SEAM_FAST_BACKEND") or "auto"
# Some ways exist for one kind of shape only.
WAYS = (
    *("seam", "rival", "kernel_only", "parametrized", "seam_forward", "rival_forward", "kernel_only_forward"),
    *("rival_without_onednn", "padded", "plain_pytorch", "compiled"),
)


@functools.lru_cache(maxsize=1)
def prepared(name: str):
    """Problem, ways and truth of a shape; only the latest is cached, since large shapes need memory."""
    shape = (SHAPES | SMOKE)[name]
    problem = rivals.Problem(shape, backend=BACKEND)
    return problem, rivals.PAIR | rivals.others(problem), rivals.Truth(shape)


def cases():
    for name, shape in (SHAPES | SMOKE).items():
        for way in WAYS:
            unfit = {
                "padded": not shape.spread,
                "rival_without_onednn": shape.spread,
                "plain_pytorch": shape.H > 50,
                "compiled": not rivals.compiles_quickly(shape),
            }
            if not unfit.get(way, False):
                yield pytest.param(name, way, id=f"{name}-{way}", marks=pytest.mark.benchmark(group=name))


@pytest.mark.parametrize(("name", "way"), list(cases()))
def test_masked_lstm(benchmark, name, way):
    problem, ways, truth = prepared(name)
    last = []

    def timed():
        last.clear()  # freed before the next call, as in a training loop
        last.extend(ways[way](problem))

    benchmark(timed)
    truth.check(way, last)
    flop = problem.shape.flop(backward="forward" not in way)
    benchmark.extra_info.update(about(), backend=BACKEND, sizes=problem.shape.words(), flop=flop)

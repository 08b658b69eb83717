"""The other ops under pytest-benchmark, one group per op and shape, one thread: masked embedding and linear, ScoreAdam.

    pytest benchmarks/pytest/bench_layers.py --benchmark-json=runs/bench_layers.json
    pytest benchmarks/pytest/bench_layers.py -k adam

Each beside torch's own: the plain layer with masked weights, and torch.optim.Adam. Forward and backward where there is
a gradient; the results are compared before they are timed.
"""

import itertools

import pytest
import torch
from torch.nn import functional

import seam_fast as sf
from benchmarks.harness.shapes import ADAMS, EMBEDDINGS, LINEARS
from benchmarks.pytest.suite import about, one_thread
from seam_fast.ops import functional as ops

_one_thread = pytest.fixture(autouse=True)(one_thread)


def tensors(*sizes):
    """Random tensors of these shapes, the same each time."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) for size in sizes]


def timed(benchmark, ways: dict, way: str, rounds: int = 1, **info) -> None:
    """Times one of the ways after it was compared with torch's, call by call."""
    for _ in range(rounds):
        for ours, theirs in zip(ways[way](), ways["torch"](), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    benchmark(ways[way])
    benchmark.extra_info.update(about(), **info)


def grouped(shapes: dict, ways: tuple[str, ...]) -> list:
    return [
        pytest.param(shape, way, id=f"{name}-{way}", marks=pytest.mark.benchmark(group=name))
        for name, shape in shapes.items()
        for way in ways
    ]


@pytest.mark.parametrize(("shape", "way"), grouped(EMBEDDINGS, ("torch", "seam")))
def test_embedding(benchmark, shape, way):
    table, score, above = tensors((shape["V"], shape["E"]), (shape["V"], shape["E"]), (shape["N"], shape["E"]))
    ids = torch.randint(shape["V"], (shape["N"],), generator=torch.Generator().manual_seed(2))
    score.requires_grad_()

    def plain():
        output = functional.embedding(ids, table * sf.binarize(score))
        return [output.detach(), *torch.autograd.grad(output, score, above)]

    def seam():
        output = ops.masked_embedding(ids, table, score)
        return [output.detach(), *torch.autograd.grad(output, score, above)]

    timed(benchmark, {"torch": plain, "seam": seam}, way, sizes=shape)


@pytest.mark.parametrize(("shape", "way"), grouped(LINEARS, ("torch", "seam")))
def test_linear(benchmark, shape, way):
    sizes = ((shape["B"], shape["I"]), (shape["O"], shape["I"]), (shape["O"], shape["I"]), (shape["B"], shape["O"]))
    input, weight, score, above = tensors(*sizes)
    input.requires_grad_()
    score.requires_grad_()

    def plain():
        output = functional.linear(input, weight * sf.binarize(score))
        return [output.detach(), *torch.autograd.grad(output, [input, score], above)]

    def seam():
        output = ops.masked_linear(input, weight, None, score, None)
        return [output.detach(), *torch.autograd.grad(output, [input, score], above)]

    timed(benchmark, {"torch": plain, "seam": seam}, way, sizes=shape)


@pytest.mark.parametrize(("shape", "way"), grouped(ADAMS, ("torch", "torch_fused", "seam")))
def test_adam(benchmark, shape, way):
    def make(optimizer, **options):
        score, *gradients = tensors(*[(shape["N"],)] * 4)
        adam = optimizer([score.requires_grad_()], lr=0.01, **options)
        turns = itertools.cycle([gradient.clamp_(-1, 1) for gradient in gradients])

        def step():
            score.grad = next(turns)  # different ones in each step, so that Adam's moments matter
            adam.step()
            return [score.detach()]

        return step

    makers = {
        "torch": lambda: make(torch.optim.Adam),
        "torch_fused": lambda: make(torch.optim.Adam, fused=True),
        "seam": lambda: make(sf.ScoreAdam),
    }
    ways = {name: makers[name]() for name in dict.fromkeys(("torch", way))}
    timed(benchmark, ways, way, rounds=20, sizes=shape)

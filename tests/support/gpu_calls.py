"""The op on a GPU: tensors move there within what is called, and its results move back."""

import pytest
import torch

from seam_fast import masked_lstm

from .lstm_cases import Case, leaves, run

DEVICE = "cuda"
FULL = [torch.float32, torch.float64]
SEVERAL = [
    (Case(T=32, B=5, I=100, H=50, hx=False), torch.float32),
    (Case(T=9, B=70, I=30, H=200, D=2, L=2, lengths=(9, 1, 0, 5, 7, 2, 9) * 10), torch.float32),
    (Case(T=9, B=70, I=30, H=200, D=2, L=2, lengths=(9, 1, 0, 5, 7, 2, 9) * 10), torch.bfloat16),
    (Case(T=9, B=140, I=300, H=300, batch_first=True), torch.float16),
    (Case(T=5, B=9, I=30, H=600, lengths=(5, 1, 4, 0, 5, 3, 2, 1, 3)), torch.bfloat16),
    (Case(T=5, B=9, I=30, H=40, lengths=(5, 1, 4, 0, 5, 3, 2, 1, 3)), torch.float64),
]
each_of_several = pytest.mark.parametrize(
    ("case", "dtype"), SEVERAL, ids=[f"{case}-{str(dtype).removeprefix('torch.')}" for case, dtype in SEVERAL]
)


def each(*dtypes):
    return pytest.mark.parametrize("dtype", dtypes, ids=[str(dtype).removeprefix("torch.") for dtype in dtypes])


def there(tensors):
    """On the GPU: a tensor, None, or a list of them."""
    if isinstance(tensors, (list, tuple)):
        return [there(tensor) for tensor in tensors]
    return None if tensors is None else tensors.to(DEVICE)


def on_gpu(function, **fixed):
    """The function for tensors on the CPU: they go there, results and gradients come back."""

    def call(input, hx, weights, scores, lengths=None, **options):
        given = there(input), there(hx), there(weights), there(scores)
        output, states = function(*given, lengths=there(lengths), **options, **fixed)
        return output.cpu(), tuple(state.cpu() for state in states)

    return call


def found(case, dtype, tensors=None):
    """Results and gradients, computed by the kernels there."""
    return run(on_gpu(masked_lstm, backend="cuda"), case, dtype, tensors)


class Call:
    """A call and its gradients, again and again on the same tensors, which lie on the GPU."""

    def __init__(self, case, dtype, **options):
        input, h_0, c_0, weights, scores, cotangents = there(case.tensors(dtype))
        self.weights, self.cotangents = weights, cotangents
        self.input, self.h_0, self.c_0, *self.scores = leaves(input, h_0, c_0, *scores)
        self.options = case.options | {"backend": "cuda", "lengths": there(case.options["lengths"])} | options

    def leaves(self):
        return [t for t in (self.input, self.h_0, self.c_0, *self.scores) if t is not None]

    def forward(self):
        hx = None if self.h_0 is None else (self.h_0, self.c_0)
        output, states = masked_lstm(self.input, hx, self.weights, self.scores, **self.options)
        return [output, *states]

    def __call__(self):
        results = self.forward()
        return [*results, *torch.autograd.grad(results, self.leaves(), self.cotangents)]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one, other)

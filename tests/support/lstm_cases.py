"""Cases for the masked LSTM, what is true of them, and how far a kernel may be from it.

The rule is that of ``seam_fast.testing``: error(kernel) <= 2 error(PyTorch float32) + floor. The floor: every number
given is moved by up to one unit, three times, in float64; it is four times the largest change of the result, plus four
units of the tensor's largest value for the last few roundings.
bfloat16 and float16 are held to the same, each beside PyTorch's own and in its own units. A float64 kernel has no
better truth than the float64 reference, which errs as well: twice the same, in its own units.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from seam_fast import _ext, masked_lstm
from seam_fast.ops import reference
from seam_fast.testing import FACTOR, largest_error, perturbed

NAMES = ("output", "h_n", "c_n", "input", "h_0", "c_0", "weights", "scores")

CPU_KERNELS = [f"cpu-{isa}" for isa in (_ext.C.isas() if _ext.C else ())]
# The CUDA op run on the CPU: as the sizes decide, and step by step with products of a matrix library.
HOST_KERNELS = ["host-automatic", "host-library"]
KERNELS = ["torch", *CPU_KERNELS, *HOST_KERNELS]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, indirect=True)
# Arguments, autograd and transforms: what all instruction sets have in common, and all kernels of the CUDA op.
each_implementation = pytest.mark.parametrize("kernel", ["torch", *CPU_KERNELS[-1:], "host-automatic"], indirect=True)
each_kernel_but_cudas = pytest.mark.parametrize("kernel", ["torch", *CPU_KERNELS], indirect=True)
each_cpu_kernel = pytest.mark.parametrize("kernel", CPU_KERNELS, indirect=True)
SHORT = [torch.bfloat16, torch.float16]
each_short_dtype = pytest.mark.parametrize("dtype", SHORT, ids=["bfloat16", "float16"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@dataclass(frozen=True)
class Case:
    """Sizes and kinds; equal cases give equal tensors."""

    T: int = 7
    B: int = 4
    I: int = 3  # noqa: E741
    H: int = 5
    L: int = 1
    D: int = 1
    bias: bool = True
    hx: bool = True
    batch_first: bool = False
    lengths: tuple[int, ...] | None = None
    masked: str = "all"  # "all", "none", "some" (every other weight)
    scale: float = 1.0  # of the cotangents
    seed: int = 0

    def __str__(self):
        sizes = f"T{self.T}-B{self.B}-I{self.I}-H{self.H}" + f"-L{self.L}" * (self.L > 1) + "-bi" * (self.D > 1)
        kinds = ("nobias" * (not self.bias), "nohx" * (not self.hx), "first" * self.batch_first)
        kinds += ("lengths" * (self.lengths is not None), self.masked * (self.masked != "all"))
        return "-".join([sizes, *filter(None, kinds)])

    @property
    def options(self):
        lengths = None if self.lengths is None else torch.tensor(self.lengths, dtype=torch.int64)
        return {"num_layers": self.L, "bidirectional": self.D == 2, "batch_first": self.batch_first, "lengths": lengths}

    def tensors(self, dtype=torch.float64):
        """input, h_0, c_0, weights, scores, cotangents of output, h_n, c_n: exact in float32, then cast."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape, scale=1.0):
            return (scale * torch.randn(shape, generator=generator)).to(dtype)

        T, B, I, H = self.T, self.B, self.I, self.H  # noqa: E741
        input = draw(B, T, I) if self.batch_first else draw(T, B, I)
        states = [draw(self.L * self.D, B, H, scale=0.5) for _ in range(2)] if self.hx else [None, None]
        weights, scores = [], []
        for layer in range(self.L):
            width = I if layer == 0 else self.D * H
            for _ in range(self.D):
                shapes = ((4 * H, width), (4 * H, H), (4 * H,), (4 * H,))[: 4 if self.bias else 2]
                for shape in shapes:
                    weights.append(draw(*shape, scale=1 / max(1.0, (shape[-1] if len(shape) > 1 else 1) ** 0.5)))
                    score = draw(*shape) + 0.5
                    skip = self.masked == "none" or (self.masked == "some" and len(scores) % 2 == 0)
                    scores.append(None if skip else score)
        output = (B, T, self.D * H) if self.batch_first else (T, B, self.D * H)
        cotangents = [draw(*shape, scale=self.scale) for shape in (output, *((self.L * self.D, B, H),) * 2)]
        return input, *states, weights, scores, cotangents


def leaves(*tensors):
    return [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]


def run(function, case: Case, dtype, tensors=None, **options) -> dict[str, torch.Tensor | list]:
    """Results of a call and the gradients of all that it was given, by name."""
    input, h_0, c_0, weights, scores, cotangents = tensors or case.tensors(dtype)
    input, h_0, c_0 = leaves(input, h_0, c_0)
    weights, scores = leaves(*weights), leaves(*scores)
    output, (h_n, c_n) = function(
        input, None if h_0 is None else (h_0, c_0), weights, scores, **case.options, **options
    )
    wanted = [input, h_0, c_0, *weights, *scores]
    given = [tensor for tensor in wanted if tensor is not None]
    found = iter(torch.autograd.grad((output, h_n, c_n), given, cotangents))
    grads = [None if tensor is None else next(found) for tensor in wanted]
    count = len(weights)
    results = (output.detach(), h_n.detach(), c_n.detach(), *grads[:3], grads[3 : 3 + count], grads[3 + count :])
    return dict(zip(NAMES, results, strict=True))


def flat(results) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in results.items():
        for number, tensor in enumerate(value if isinstance(value, list) else [value]):
            if tensor is not None:
                tensors[f"{name}[{number}]" if isinstance(value, list) else name] = tensor
    return tensors


def distances(some: dict, exact: dict) -> dict[str, float]:
    return {name: largest_error(some[name], tensor) for name, tensor in exact.items() if tensor.numel()}


_truths = {}


def truth(case: Case, single_dtype=torch.float32):
    """Float64 results, and the distance from them that is allowed in a dtype, by name; for numbers exact in it."""
    if (case, single_dtype) not in _truths:
        unit = torch.finfo(single_dtype).eps
        tensors = widened(case.tensors(single_dtype))
        exact = flat(run(reference.masked_lstm, case, torch.float64, tensors))
        single = distances(flat(run(reference.masked_lstm, case, single_dtype)), exact)
        generator = torch.Generator().manual_seed(1)
        floor = dict.fromkeys(single, 0.0)
        for _ in range(3):
            change = run(reference.masked_lstm, case, torch.float64, perturbed(tensors, unit, generator))
            change = distances(flat(change), exact)
            floor = {name: max(floor[name], change[name]) for name in floor}
        _truths[case, single_dtype] = (
            exact,
            {
                name: FACTOR * single[name] + 4 * floor[name] + 4 * unit * float(exact[name].abs().max())
                for name in floor
            },
        )
    return _truths[case, single_dtype]


def widened(tensors):
    """The same numbers in float64."""
    if isinstance(tensors, (list, tuple)):
        return [widened(tensor) for tensor in tensors]
    return None if tensors is None else tensors.double()


def assert_close(case: Case, results: dict, dtype) -> None:
    """Every tensor within the rule above."""
    single = torch.float32 if dtype == torch.float64 else dtype
    exact, allowed = truth(case, single)
    scale = torch.finfo(dtype).eps / torch.finfo(single).eps * (2 if dtype == torch.float64 else 1)
    results = flat(results)
    assert results.keys() == exact.keys()
    for name, tensor in results.items():
        assert tensor.dtype == dtype and tensor.shape == exact[name].shape, name
    for name, distance in distances(results, exact).items():
        limit = allowed[name] * scale
        assert distance <= limit, f"{name}: {distance:.3g} from float64, {limit:.3g} allowed ({case})"


def assert_right(case: Case, dtype, backend: str, **changes) -> dict:
    """Runs the op and holds it against the rule."""
    results = run(masked_lstm, replace(case, **changes), dtype, backend=backend)
    assert_close(case, results, dtype)
    return results


def assert_gates_are_right(count: int, device="cpu", **options) -> None:
    """sigmoid and tanh in float32 over the whole range of numbers, as a cell state shows them: two units off."""
    x = torch.cat([torch.linspace(-12, 12, count), torch.logspace(-30, 30, 61)])
    x = torch.cat([x, -x]).view(1, -1, 1).to(device)
    for gate, other, function in ((0, 2, torch.sigmoid), (2, 0, torch.tanh)):
        weight_ih, bias = torch.zeros(4, 1, device=device), torch.zeros(4, device=device)
        weight_ih[gate], bias[other] = 1, 60  # which is 1 behind its own function
        weights = [weight_ih, torch.zeros(4, 1, device=device), bias, torch.zeros_like(bias)]
        _, (_, c_n) = masked_lstm(x, None, weights, None, **options)
        exact = function(x.double().flatten())
        assert float((c_n.double().flatten() - exact).abs().max()) <= 2 * 2.0**-23
        if function is torch.tanh:  # near 0 relative to itself
            small = exact.abs() < 0.5
            error = (c_n.double().flatten() - exact)[small].abs() / exact[small].abs().clamp_min(1e-37)
            assert float(error.max()) <= 4 * 2.0**-24


GRID = [
    Case(T=1, B=1, I=1, H=1),
    Case(T=2, B=1, I=1, H=1, D=2, lengths=(1,)),
    Case(T=1, B=5, I=3, H=2, bias=False),
    Case(T=9, B=1, I=7, H=11, hx=False),
    Case(T=5, B=3, I=2, H=4, L=2),
    Case(T=5, B=3, I=2, H=4, L=3, D=2, masked="some"),
    Case(T=7, B=13, I=17, H=19, batch_first=True),
    Case(T=6, B=5, I=8, H=16, D=2, lengths=(6, 0, 3, 1, 6), batch_first=True),
    Case(T=8, B=9, I=5, H=33, L=2, D=2, lengths=(0, 8, 1, 7, 2, 6, 3, 5, 4), bias=False),
    Case(T=4, B=3, I=6, H=7, lengths=(0, 0, 0)),
    Case(T=4, B=3, I=6, H=7, lengths=(2, 2, 1), hx=False, L=2),  # nobody reaches the last step
    Case(T=6, B=4, I=3, H=5, masked="none"),
    Case(T=32, B=5, I=100, H=50, hx=False),  # R8
    Case(T=32, B=5, I=100, H=50, hx=False, lengths=(32, 7, 19, 1, 25), scale=3.0),
    Case(T=4, B=19, I=5, H=34, D=2, lengths=(4,) * 9 + (1, 0, 3) * 3 + (2,)),  # two units beyond whole vectors
    Case(T=11, B=17, I=65, H=67, D=2, batch_first=True),
    Case(T=6, B=32, I=70, H=128),
]


def pre_masked(weight, score):
    return weight if score is None else torch.where(score > 0, weight, 0)


def torch_lstm(case: Case, weights, scores) -> nn.LSTM:
    """torch.nn.LSTM of the kept weights."""
    options = {"bias": case.bias, "bidirectional": case.D == 2, "batch_first": case.batch_first}
    lstm = nn.LSTM(case.I, case.H, case.L, **options, dtype=weights[0].dtype)
    for name, weight, score in zip(lstm._flat_weights_names, weights, scores, strict=True):
        setattr(lstm, name, nn.Parameter(pre_masked(weight, score)))
    return lstm

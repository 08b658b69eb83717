"""The ways to compute a masked LSTM that are timed against each other, on the same tensors, and their agreement.

Every way is a function of a Problem that returns a list in the order of RESULTS: hidden states, last states, the
gradient of the input and that of each score. None stands for a result that a way cannot give.
"""

import functools
import importlib.util

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import seam_fast as sf
from seam_fast.errors import SeamFastError
from seam_fast.ops import reference

WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
SEED = 1  # of all random tensors
RESULTS = ("output", "h_n", "c_n", "input.grad", *(f"{name} score.grad" for name in WEIGHTS))


class Problem:
    """Input, weights, scores and cotangents (gradients of the outputs), random but the same for every way.

    Weights are drawn as ``torch.nn.LSTM`` draws them, half of the scores are positive, and the cotangents are so large
    that some gradients of scores reach the clamp. With lengths there is no cotangent of c_n, because one of the rivals
    does not compute c_n.

    Args:
        shape: A ``Shape``.
        dtype: Of all tensors.
        backend: The backend that seam-fast's own ways use.
        device: Where the tensors are; lengths are on the CPU.
    """

    def __init__(self, shape, dtype=torch.float32, backend="auto", device="cpu"):
        generator = torch.Generator(device).manual_seed(SEED)

        def normal(*sizes):
            return torch.randn(*sizes, generator=generator, device=device).to(dtype)  # the same values in every dtype

        def uniform(*sizes):
            return 2 * torch.rand(*sizes, generator=generator, device=device) - 1

        self.shape, self.dtype, self.backend = shape, dtype, backend
        self.input = normal(shape.T, shape.B, shape.I).requires_grad_()
        self.lengths = shape.lengths()
        sizes = ((4 * shape.H, shape.I), (4 * shape.H, shape.H), (4 * shape.H,), (4 * shape.H,))
        bound = shape.H**-0.5
        self.weights = [(uniform(*size) * bound).to(dtype) for size in sizes]
        self.scores = [normal(*size).requires_grad_() for size in sizes]
        self.state = tuple(torch.zeros(1, shape.B, shape.H, dtype=dtype, device=device) for _ in range(2))
        self.cotangents = [
            normal(shape.T, shape.B, shape.H),
            *(normal(1, shape.B, shape.H) for _ in range(1 if shape.spread else 2)),
        ]

    def gradients(self, results: list[Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of input and ``leaves``, given output, h_n and c_n of a way."""
        return torch.autograd.grad(results[: len(self.cotangents)], [self.input, *leaves], self.cotangents)


# Building blocks -----------------------------------------------------------------------------------------------------


def kernel(problem, weights, train=True) -> list[Tensor]:
    """The kernel behind torch.nn.LSTM: output, h_n, c_n."""
    return list(torch._VF.lstm(problem.input, problem.state, weights, True, 1, 0.0, train, False, False))


def packed_kernel(problem, weights, train=True) -> list[Tensor]:
    """The same for a PackedSequence, packed and unpacked on the way."""
    packed = pack_padded_sequence(problem.input, problem.lengths, enforce_sorted=False)
    data, h_n, c_n = torch._VF.lstm(packed.data, packed.batch_sizes, problem.state, weights, True, 1, 0.0, train, False)
    output, _ = pad_packed_sequence(
        PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices),
        total_length=problem.shape.T,
    )
    order = packed.unsorted_indices
    return [output, h_n.index_select(1, order), c_n.index_select(1, order)]


def rival_kernel(problem):
    """torch's kernel for the problem: with or without a PackedSequence."""
    return packed_kernel if problem.shape.spread else kernel


def masked(problem) -> list[Tensor]:
    """Masked weights (weight times mask), as leaves, so that autograd stops at the gradient that the kernel gives."""
    with torch.no_grad():
        return [weight * (score > 0) for weight, score in zip(problem.weights, problem.scores, strict=True)]


def score_gradients(problem, gradients) -> list[Tensor]:
    """Gradients of the scores: times weight, clamped; in place for matrices, as the two biases may share a gradient."""
    return [
        (gradient.mul_(weight) if weight.dim() == 2 else gradient * weight).clamp_(-1, 1)
        for gradient, weight in zip(gradients, problem.weights, strict=True)
    ]


# The ways ------------------------------------------------------------------------------------------------------------


def seam(problem):
    """seam-fast."""
    output, (h_n, c_n) = sf.masked_lstm(
        problem.input, None, problem.weights, problem.scores, lengths=problem.lengths, backend=problem.backend
    )
    results = [output, h_n, c_n]
    return [*results, *problem.gradients(results, problem.scores)]


def rival(problem, run=None):
    """The rival of the table: masked weights, torch's kernel forward and backward, gradients of the scores."""
    weights = [weight.requires_grad_() for weight in masked(problem)]
    results = (run or rival_kernel(problem))(problem, weights)
    grad_input, *gradients = problem.gradients(results, weights)
    return [*results, grad_input, *score_gradients(problem, gradients)]


def make_kernel_only(problem):
    """torch's kernel alone, forward and backward, on weights masked beforehand; gives no gradient of a score."""
    weights = [weight.requires_grad_() for weight in masked(problem)]
    run = rival_kernel(problem)

    def kernel_only(problem):
        results = run(problem, weights)
        grad_input, *_ = problem.gradients(results, weights)
        return [*results, grad_input, None, None, None, None]

    return kernel_only


def rival_without_onednn(problem):
    """The rival with oneDNN switched off: torch's own loop over steps, which a PackedSequence always uses."""
    before = torch._C._get_mkldnn_enabled()  # the public context manager warns about TF32 on CPUs that have none
    torch._C._set_mkldnn_enabled(False)
    try:
        return rival(problem)
    finally:
        torch._C._set_mkldnn_enabled(before)


def make_padded(problem):
    """Lengths without a PackedSequence: all T steps of every sequence, states past the end set to zero; no c_n."""
    valid = (torch.arange(problem.shape.T)[:, None] < problem.lengths).unsqueeze(-1).to(problem.dtype)  # (T, B, 1)
    last = (problem.lengths - 1).view(1, -1, 1).expand(1, -1, problem.shape.H)

    def run(problem, weights):
        output, _, _ = kernel(problem, weights)
        return [output * valid, output.gather(0, last), None]

    return lambda problem: rival(problem, run)


class _Masked(torch.nn.Module):
    """A parametrization that masks a weight by a score."""

    def __init__(self, score):
        super().__init__()
        self.score = torch.nn.Parameter(score.detach())

    def forward(self, weight):
        return weight * sf.binarize(self.score)


def make_parametrized(problem):
    """A torch.nn.LSTM with parametrized weights, each computed once per forward pass."""
    shape = problem.shape
    lstm = torch.nn.LSTM(shape.I, shape.H, dtype=problem.dtype)
    scores = []
    for name, weight, score in zip(WEIGHTS, problem.weights, problem.scores, strict=True):
        getattr(lstm, name).data.copy_(weight)
        getattr(lstm, name).requires_grad_(False)
        mask = _Masked(score)
        parametrize.register_parametrization(lstm, name, mask)
        scores.append(mask.score)

    def parametrized(problem):
        with parametrize.cached():
            if problem.lengths is None:
                output, state = lstm(problem.input)
            else:
                output, state = lstm(pack_padded_sequence(problem.input, problem.lengths, enforce_sorted=False))
                output, _ = pad_packed_sequence(output, total_length=shape.T)
        results = [output, *state]
        return [*results, *problem.gradients(results, scores)]

    return parametrized


def make_compiled(problem):
    """The rival with torch.compile in place of the kernel: the loop over steps in plain PyTorch, unrolled and fused."""

    def loop(input, h, c, *weights):
        return reference.lstm_direction(input, h, c, weights)

    # Compiled at the first call, where a failure of the compiler counts against this way alone.
    compiled = functools.cache(lambda: torch.compile(loop, fullgraph=True))

    def run(problem, weights):
        h_0, c_0 = problem.state
        output, h_n, c_n = compiled()(problem.input, h_0[0], c_0[0], *weights)
        return [output, h_n[None], c_n[None]]

    return lambda problem: rival(problem, run)


def plain_pytorch(problem):
    """seam-fast with backend="torch": the package's plain PyTorch."""
    output, (h_n, c_n) = sf.masked_lstm(
        problem.input, None, problem.weights, problem.scores, lengths=problem.lengths, backend="torch"
    )
    results = [output, h_n, c_n]
    return [*results, *problem.gradients(results, problem.scores)]


@torch.no_grad()
def seam_forward(problem):
    """seam-fast, forward only; nothing is saved for a backward pass."""
    output, state = sf.masked_lstm(
        problem.input, None, problem.weights, problem.scores, lengths=problem.lengths, backend=problem.backend
    )
    return [output, *state] + [None] * 5


@torch.no_grad()
def rival_forward(problem):
    """The rival, forward only, in inference mode: masked weights and kernel."""
    return rival_kernel(problem)(problem, masked(problem), train=False) + [None] * 5


@torch.no_grad()
def make_kernel_forward(problem):
    """torch's kernel alone, forward only, on weights masked beforehand."""
    weights = masked(problem)
    return torch.no_grad()(lambda problem: rival_kernel(problem)(problem, weights, train=False) + [None] * 5)


PAIR = {"seam": seam, "rival": rival}


def unavailable_libraries(gpu: bool) -> dict[str, str]:
    """Why other fused LSTM libraries, which compute a similar layer on GPUs only, are not among the rivals: by name."""
    reasons = {}
    for name, module in (("flashrnn", "flashrnn"), ("haste", "haste_pytorch")):
        if importlib.util.find_spec(module) is None:
            reasons[name] = "it is not installed"
        else:
            reasons[name] = "it is installed, but " + (
                "nobody has checked a call of it here" if gpu else "it computes on GPUs only"
            )
    return reasons


def others(problem) -> dict:
    """All ways apart from the pair of the table, by name."""
    ways = {
        "seam_forward": seam_forward,
        "rival_forward": rival_forward,
        "kernel_only": make_kernel_only(problem),
        "kernel_only_forward": make_kernel_forward(problem),
        "parametrized": make_parametrized(problem),
    }
    if problem.shape.spread:
        ways["padded"] = make_padded(problem)
    else:
        ways["rival_without_onednn"] = rival_without_onednn
    if problem.shape.H <= 50:
        ways["plain_pytorch"] = plain_pytorch
    if compiles_quickly(problem.shape):
        ways["compiled"] = make_compiled(problem)
    return ways


def compiles_quickly(shape) -> bool:
    """Whether torch.compile, which unrolls the loop over steps, needs less than a few minutes for a shape."""
    return shape.T <= 32 and shape.H <= 50 and not shape.spread


# Agreement -----------------------------------------------------------------------------------------------------------


class Truth:
    """The results in float64, and how far a float32 result may be from them.

    The error of a result is its largest absolute difference divided by the largest true value. For this package's ways
    twice the rival's error plus 8 machine epsilons is allowed; for torch's ways, which are not what is tested, the
    error that rounding every addition of the longest sum can cause.
    """

    OURS = ("seam", "seam_forward", "plain_pytorch")

    def __init__(self, shape):
        exact = Problem(shape, torch.float64)
        self.where = f"{shape.name}: "  # prefix of error messages
        self.values = rival(exact)
        clamped = sum(int((value.abs() == 1).sum()) for value in self.values[4:])
        self.clamped = clamped / sum(value.numel() for value in self.values[4:])
        self.of_rival = self.errors(rival(Problem(shape)))
        eps = torch.finfo(torch.float32).eps
        self.plausible = eps * (shape.T * shape.B + shape.I + shape.H)
        self.allowed = {name: 2 * error + 8 * eps for name, error in self.of_rival.items()}

    def errors(self, results: list) -> dict[str, float]:
        """Errors by the name of the result, of those that are not None."""
        found = {}
        for name, result, true in zip(RESULTS, results, self.values, strict=True):
            if result is not None:
                if result.shape != true.shape:
                    expected, actual = tuple(true.shape), tuple(result.shape)
                    raise SeamFastError(f"{self.where}{name} has shape {actual}, expected {expected}")
                difference = (result.detach().double() - true.detach()).abs().max()
                found[name] = (difference / true.detach().abs().max()).item()
        return found

    def check(self, way: str, results: list) -> dict[str, float]:
        """The errors of a way's results. Raises SeamFastError that lists all errors larger than allowed."""
        errors, faults = self.errors(results), []
        for name, error in errors.items():
            allowed = self.allowed[name] if way in self.OURS else self.plausible
            if not error <= allowed:  # also true for NaN
                faults.append(f"{name} of {way} is {error:.1e} from float64, more than the {allowed:.1e} allowed")
        if faults:
            raise SeamFastError(f"{self.where}{', '.join(faults)}, so its time says nothing")
        return errors

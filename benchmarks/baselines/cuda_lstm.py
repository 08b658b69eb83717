"""The ways to compute a masked LSTM that are timed against each other on a GPU, and their agreement.

As in baselines/lstm.py, whose building blocks these are: every way is a function of a Problem that returns a list in
the order of RESULTS, with None where it cannot give a result.
"""

import contextlib
import copy

import torch
from torch.backends.cudnn import rnn as cudnn_rnn

from benchmarks.baselines import lstm as rivals
from seam_fast.ops import reference

seam, seam_forward = rivals.seam, rivals.seam_forward


class Problem(rivals.Problem):
    """The problem of the CPU's benchmark on a GPU, with lengths on the device of the input.

    Attributes:
        kept: The weights, masked beforehand.
        in_one_piece: Whether ``kept`` is contiguous in memory as cuDNN wants it; otherwise cuDNN copies it each call.
        packed: The same problem with lengths on the CPU, where ``pack_padded_sequence`` needs them.
    """

    def __init__(self, shape, dtype, device, backend):
        super().__init__(shape, dtype, backend, device)
        self._arrange()

    def _arrange(self) -> None:
        self.kept = rivals.masked(self)
        if self.input.is_cuda:  # torch.nn.LSTM.flatten_parameters does not do it for bfloat16
            lstm = cudnn_rnn.get_cudnn_mode("LSTM"), self.shape.H, 0, 1, False, False
            with torch.no_grad(), contextlib.suppress(RuntimeError):
                torch._cudnn_rnn_flatten_weight(self.kept, 4, self.shape.I, *lstm)
        self.in_one_piece = len({weight.untyped_storage().data_ptr() for weight in self.kept}) == 1
        self.kept = [weight.requires_grad_() for weight in self.kept]
        self.packed = copy.copy(self)
        if self.lengths is not None:
            self.packed.lengths = self.lengths.cpu()
            self.lengths = self.lengths.to(self.input.device)

    def in_float64(self) -> "Problem":
        """The same numbers, as they are after rounding to this problem's dtype."""

        def wide(tensors):
            return type(tensors)(tensor.detach().double() for tensor in tensors)

        exact = copy.copy(self)
        exact.dtype = torch.float64
        exact.input = self.input.detach().double().requires_grad_()
        exact.scores = [score.requires_grad_() for score in wide(self.scores)]
        exact.weights, exact.state, exact.cotangents = map(wide, (self.weights, self.state, self.cotangents))
        exact._arrange()
        return exact


# The ways ------------------------------------------------------------------------------------------------------------


def states(problem, train=True) -> list:
    """cuDNN's output, h_n and c_n; with lengths by a PackedSequence."""
    kernel = rivals.kernel if problem.lengths is None else rivals.packed_kernel
    return kernel(problem.packed, problem.kept, train)


def cudnn(problem) -> list:
    """cuDNN alone on weights masked beforehand; gives no gradient of a score."""
    results = states(problem)
    grad_input, *_ = problem.gradients(results, problem.kept)
    return [*results, grad_input, None, None, None, None]


def whole(problem) -> list:
    """Everything that is needed without this package: masking into cuDNN's layout, cuDNN, gradients of the scores."""
    with torch.no_grad():
        for masked, weight, score in zip(problem.kept, problem.weights, problem.scores, strict=True):
            torch.mul(weight, score > 0, out=masked)
    results = states(problem)
    grad_input, *gradients = problem.gradients(results, problem.kept)
    of_scores = torch._foreach_mul(gradients, problem.weights)
    torch._foreach_clamp_min_(of_scores, -1)
    torch._foreach_clamp_max_(of_scores, 1)
    return [*results, grad_input, *of_scores]


@torch.no_grad()
def cudnn_forward(problem) -> list:
    """cuDNN alone, forward only, in inference mode."""
    return states(problem, train=False) + [None] * 5


def make_padded(problem):
    """Lengths without a PackedSequence: cuDNN on all T steps, states past the end set to zero; no c_n."""
    steps = torch.arange(problem.shape.T, device=problem.input.device)[:, None]
    valid = (steps < problem.lengths).unsqueeze(-1).to(problem.dtype)  # (T, B, 1)
    last = (problem.lengths - 1).view(1, -1, 1).expand(1, -1, problem.shape.H)

    def padded(problem):
        output, _, _ = rivals.kernel(problem, problem.kept)
        results = [output * valid, output.gather(0, last), None]
        grad_input, *_ = problem.gradients(results, problem.kept)
        return [*results, grad_input, None, None, None, None]

    return padded


def make_compiled(problem):
    """The loop over steps in plain PyTorch by torch.compile, on weights masked beforehand."""

    def loop(input, h, c, *weights):
        return reference.lstm_direction(input, h, c, weights)

    compiled = torch.compile(loop, fullgraph=True)

    def run(problem):
        h_0, c_0 = problem.state
        output, h_n, c_n = compiled(problem.input, h_0[0], c_0[0], *problem.kept)
        results = [output, h_n[None], c_n[None]]
        grad_input, *_ = problem.gradients(results, problem.kept)
        return [*results, grad_input, None, None, None, None]

    return run


# Agreement -----------------------------------------------------------------------------------------------------------


class Truth(rivals.Truth):
    """The results in float64, and how far a result may be from them.

    The rule is that of the CPU, with the error of ``whole`` in the same dtype; rivals may be off by a quarter at most.
    """

    OURS = ("seam", "seam_eager", "seam_forward")

    def __init__(self, problem, tf32: bool):
        self.where = ""  # the caller names the shape
        self.values = [value.detach() for value in whole(problem.in_float64())]
        shape, unit = problem.shape, 2.0**-10 if tf32 else torch.finfo(problem.dtype).eps
        self.plausible = min(0.25, unit * (shape.T * shape.B + shape.I + shape.H))
        self.allowed = {name: 2 * error + 8 * unit for name, error in self.errors(whole(problem)).items()}

"""Where the steps of a recorded CUDA graph find their input and leave their results: tensors at fixed addresses."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..common.cuda_graphs import CudaGraphRunner

_STEPS_AT_FIRST = 16  # steps to queue before it is known how long they take
_ALL_FINITE = 2**31 - 1  # in place of the number of a failed tensor, and above all of these


class GraphInputs:
    """Device tensors at fixed addresses, from which recorded steps take their input and to which they report.

    Args:
        like: Gives dtype and device.
        batches: Tensors (S, ...) of whole epochs, of which each step takes one slice.
        steps: At most how many steps run between two synchronisations with the host.
        checked: What must be finite in a step, in order: (number by which a failure is reported, size) of each.

    Attributes:
        batches: Tensors (steps, ...) of the queued steps' inputs.
        constants: Adam's constants of the queued steps, (steps, 5), see ``_adam``.
        losses: Losses of the queued steps (steps,).
        next_step: Index of the next step, and so the number of steps done: int64 (1,).
        failed: Number of what was not finite in the last step, or ``_ALL_FINITE``: int32 (1,).
        runner: Runs the steps.
        steps_at_once: How many steps to queue before the next synchronisation.
    """

    def __init__(self, like: Tensor, batches: Sequence[Tensor], steps: int, checked: Sequence[tuple[int, int]]) -> None:
        self.batches = [like.new_empty(steps, *part.shape[1:], dtype=part.dtype) for part in batches]
        self.constants = like.new_empty(steps, 5)
        self.losses = like.new_empty(steps)
        self.next_step = torch.zeros(1, dtype=torch.int64, device=like.device)
        self.failed = torch.zeros(1, dtype=torch.int32, device=like.device)
        numbers, sizes = (torch.tensor(part) for part in zip(*checked, strict=True))
        self._numbers = numbers.int().repeat_interleave(sizes).to(like.device)  # of every value that is checked
        self._no_change = like.new_tensor([0, 1, 0, 0, 1])  # constants of a step that changes nothing
        self.runner = CudaGraphRunner(like.device)
        self.steps_at_once = _STEPS_AT_FIRST

    def idle_constants(self) -> Tensor:
        """Constants of steps that change nothing, in the shape of ``constants``."""
        return self._no_change.expand_as(self.constants)

    def fits(self, batches: Sequence[Tensor], steps: int) -> bool:
        """Whether so many steps of such batches can be queued here."""
        alike = zip(self.batches, batches, strict=True)
        return steps <= len(self.losses) and all(ours.shape[1:] == theirs.shape[1:] for ours, theirs in alike)

    def batch(self) -> list[Tensor]:
        """The next step's slices."""
        return [part.index_select(0, self.next_step)[0] for part in self.batches]

    def report(self, loss: Tensor, gradients: Iterable[Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Records a step's loss, and whether loss and gradients are finite.

        Where they are not, the constants returned are those that change nothing, and ``next_step`` stays: all later
        steps in the queue then take the same batch, and fail and report in the same way.

        Returns:
            The gradients in one piece; whether all is finite, bool (); Adam's constants of this step.
        """
        checked = torch.cat([loss.view(1), *(gradient.reshape(-1) for gradient in gradients)])
        # A comparison with NaN is false, so that NaN counts as not finite.
        failed = torch.where(checked.abs() < math.inf, _ALL_FINITE, self._numbers).amin()
        fine = failed == _ALL_FINITE
        constants = torch.where(fine, self.constants.index_select(0, self.next_step)[0], self._no_change)
        self.losses.index_copy_(0, self.next_step, checked[:1])
        self.failed.copy_(failed)
        self.next_step.add_(fine)
        return checked[1:], fine, constants.unbind()

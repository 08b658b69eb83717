"""Modules of one base trained in step by one thread, on a GPU by ordinary kernels: the host only queues work.

Three sequences of device operations are recorded for all modules of a cohort together, each module on a branch of its
own: the making of batches from an epoch's draws, a step, and an evaluation. An epoch is then a few small copies, one
replay of the first sequence, one replay of the second for each step, one replay of the third, and a single
synchronisation, which reads a row of numbers for each module. A module's results are those of ``CudaGraphTrainer``,
whichever modules are trained beside it.

Letters: N documents of an epoch, T words, B documents of a batch, S steps of an epoch, C classes.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..classifier import reference_model
from ..common.batches import deal
from ..common.cuda_graphs import CudaGraphRunner
from ..data.corpus import Split
from ..training.base import ComputedEvaluation, Evaluation
from ..training.cuda_graph_trainer import CudaGraphTrainer
from .sampling import Address, Sampler, Teacher

Draw = tuple[Tensor, Tensor | None]
"""What ``Sampler.draw`` gives for an epoch."""

Report = tuple[Tensor, Tensor]
"""What the device tells of one module after an epoch: float64 numbers and bytes, both (n,) with a module's own n."""


class Lane:
    """One module of a cohort: its batches, steps and evaluations, all on the trainer's device.

    Args:
        trainer: Trains the module.
        sampler: Draws its documents.
        documents: The training split, on the trainer's device.
        batch_size: Documents a step.
        teacher: As of ``Sampler``, but for ids (T, n) and on the trainer's device; None: no distillation.
        evaluated_on: Documents to evaluate on, on the CPU; None: never evaluate.

    Attributes:
        alive: Whether the module is still trained; else its steps change nothing.
        steps: Steps of an epoch (S).
        batches: Inputs of all steps of an epoch: ids (S, T, B), lengths (S, B) and loss weights (S, B, 2).
        inputs: What the steps read and write, with ``batches``.
        width: How many numbers and how many bytes a report has.
    """

    def __init__(
        self,
        trainer: CudaGraphTrainer,
        sampler: Sampler,
        documents: Split,
        batch_size: int,
        teacher: Teacher | None = None,
        evaluated_on: Split | None = None,
    ) -> None:
        self.trainer, self.sampler, self.documents, self.teacher = trainer, sampler, documents, teacher
        self.alive = True
        device, width = trainer.device, documents.ids.shape[1]
        numbers, real = deal(sampler.size, min(batch_size, sampler.size))
        self.steps = len(numbers)
        self._numbers, self._real = numbers.to(device), real.to(device)
        self._target_probability = sampler.target_probability.to(device)
        self._order = torch.zeros(sampler.size, dtype=torch.int64, device=device)
        self._dropped: Tensor | None = None
        if sampler.settings.word_dropout > 0:
            self._dropped = torch.zeros(sampler.size, width, dtype=torch.bool, device=device)
        size = numbers.shape[1]
        self.batches = [
            torch.zeros(self.steps, width, size, dtype=torch.int64, device=device),
            torch.ones(self.steps, size, dtype=torch.int64, device=device),
            torch.zeros(self.steps, size, 2, dtype=trainer.head[0].dtype, device=device),
        ]
        self.inputs = trainer.inputs_over(self.batches)
        self._evaluated_on = None
        if evaluated_on is not None:
            self._evaluated_on = trainer.to_device(evaluated_on.ids, evaluated_on.lengths)
        self._evaluated_count = 0 if evaluated_on is None else len(evaluated_on)
        self._head_size = sum(part.numel() for part in trainer.head)
        self.width = (
            self.steps + 3 + self._head_size + len(trainer.scores) + 1 + 2 * self._evaluated_count,
            len(trainer.bits()),
        )

    @property
    def address(self) -> Address:
        """What the batches depend on, beside the epoch."""
        return (*self.sampler.address, self.sampler.settings.distill_weight, self.trainer.target_weight)

    def upload(self, epoch: int, drawn: Draw | None) -> None:
        """Copies to the device the constants of an epoch's steps and its draws; ``drawn`` is None where another lane
        makes the batches.
        """
        constants = self.trainer.constants(self.steps) if self.alive else self.inputs.idle_constants()
        self.inputs.constants.copy_(constants.to(self.inputs.constants.dtype), non_blocking=True)
        if drawn is not None:
            order, dropped = drawn
            self._order.copy_(order, non_blocking=True)
            if self._dropped is not None and dropped is not None:
                self._dropped.copy_(dropped, non_blocking=True)

    @torch.no_grad()
    def fill(self) -> None:
        """Makes the batches from the draws on the device."""
        trainer = self.trainer
        ids, lengths = self.documents.ids[self._order], self.documents.lengths[self._order]
        ids = self.sampler.dropped(ids, lengths, self._dropped)
        target_probability = self._target_probability[self._order]
        if self.teacher is not None:
            target_probability = self.sampler.soft(target_probability, self.teacher(ids.T, lengths))
        loss_weights = trainer.loss_weights(target_probability, self._numbers, self._real)
        words = trainer.without_padding(ids, lengths)[self._numbers].transpose(1, 2)
        for batches, made in zip(self.batches, (words, lengths[self._numbers], loss_weights), strict=True):
            batches.copy_(made)

    def start(self) -> None:
        """Makes the next step the epoch's first."""
        self.inputs.next_step.zero_()

    def step(self) -> None:
        """Takes the next step."""
        self.trainer.joint_step(self.inputs)

    @torch.no_grad()
    def report(self, numbers: Tensor, bits: Tensor, evaluates: bool) -> None:
        """Writes the report of an epoch into rows of float64 numbers and of bytes, of at least ``width``.

        Args:
            numbers: Takes losses (S,), steps done, number of what failed, whether scores and head are finite, the
                head's values (2C + 2,), numbers of positive scores, and where ``evaluates`` the outputs (n, 2).
            bits: Takes the packed mask, as ``CudaGraphTrainer.bits`` gives it.
            evaluates: Whether the evaluation documents are evaluated.
        """
        trainer = self.trainer
        parts = [self.inputs.losses, self.inputs.next_step, self.inputs.failed, trainer.is_finite().view(1)]
        parts += [*(part.view(-1) for part in trainer.head), trainer.count_positive()]
        if evaluates and self._evaluated_on is not None and self._evaluated_count:
            parts.append(reference_model.head_logits(trainer.features(self._evaluated_on), trainer.head).view(-1))
        row = torch.cat([part.double() for part in parts])
        numbers[: len(row)].copy_(row)
        kept = trainer.bits()
        bits[: len(kept)].copy_(kept)

    def read(self, report: Report, evaluates: bool) -> tuple[float, Evaluation]:
        """Loss and evaluation from a report that was copied to the CPU, as ``Trainer.take_epoch`` gives them.

        Raises:
            TrainingError: A value was not finite.
        """
        row, bits = (part[:size] for part, size in zip(report, self.width, strict=True))  # other lanes' may be longer
        counts_size = len(row) - self.steps - 3 - self._head_size - 2 * self._evaluated_count
        bounds = np.cumsum([self.steps, 3, self._head_size, counts_size])
        losses, (done, failed, finite), head, counts, logits = np.split(row.numpy(), bounds)
        loss_list = losses.tolist()
        self.trainer.count_steps(int(done), loss_list, int(failed))
        if not finite:
            self.trainer.check_finite()  # raises unless only a sum has overflowed
        outputs = None
        if evaluates and self._evaluated_on is not None:
            outputs = torch.from_numpy(logits.reshape(-1, 2)).to(self.trainer.head[0].dtype)
        head_values = torch.from_numpy(head)
        evaluation = ComputedEvaluation(
            self.trainer.kept_counts_of(counts.tolist()),
            self.trainer.head_of(head_values),
            None,
            outputs,
            functools.partial(self.trainer.snapshot_of, bits, head_values),
        )
        return sum(loss_list) / len(loss_list), evaluation


class Cohort:
    """Lanes with equally many steps an epoch, trained in step with each other.

    On a GPU the calling thread's current stream is used and beside it branches, one for each lane; all of these streams
    must be the thread's own.

    Args:
        lanes: The modules.
        branches: Streams for the branches; none: the lanes' work is done one after the other.

    Attributes:
        lanes: As given.
    """

    def __init__(self, lanes: list[Lane], branches: Sequence[torch.cuda.Stream] = ()) -> None:
        self.lanes, self._branches = lanes, branches
        self._device = lanes[0].trainer.device
        self._steps = lanes[0].steps
        assert all(lane.steps == self._steps for lane in lanes)
        # The first lane of each address makes the batches, which the others of that address read as well.
        self._firsts = list({lane.address: lane for lane in reversed(lanes)}.values())[::-1]
        self._by_address = {lane.address: lane for lane in self._firsts}
        for lane in lanes:
            lane.batches = lane.inputs.batches = self._by_address[lane.address].batches
        self._reports = [
            torch.zeros(len(lanes), max(sizes), dtype=dtype, device=self._device)
            for sizes, dtype in zip(
                zip(*(lane.width for lane in lanes), strict=True), (torch.float64, torch.uint8), strict=True
            )
        ]
        self._fill, self._step = CudaGraphRunner(self._device), CudaGraphRunner(self._device)
        self._report = {evaluates: CudaGraphRunner(self._device) for evaluates in (False, True)}

    def draw(self, epoch: int) -> dict[Address, Draw]:
        """Draws the documents of an epoch, on the host: by address, for the lanes that are alive."""
        return {
            address: lane.sampler.draw(epoch)
            for address, lane in self._by_address.items()
            if any(other.alive and other.address == address for other in self.lanes)
        }

    def run_epoch(self, epoch: int, drawn: dict[Address, Draw], evaluates: bool) -> Callable[[], list[Report]]:
        """Queues an epoch of all lanes.

        Args:
            epoch: The epoch's number, from 0.
            drawn: What ``draw`` gave for it.
            evaluates: Whether the modules are evaluated afterwards.

        Returns:
            A function that waits for the device and gives each lane's report, on the CPU.
        """
        for lane in self.lanes:
            lane.upload(epoch, drawn.get(lane.address) if lane in self._firsts else None)
        self._fill(self._fill_all, 1)
        self._step(self._step_all, self._steps)
        self._report[evaluates](self._report_with if evaluates else self._report_without, 1)
        return self._read_reports

    def _read_reports(self) -> list[Report]:
        """Copies the reports to the CPU, which waits for the device."""
        numbers, bits = (part.cpu() for part in self._reports)
        return list(zip(numbers, bits, strict=True))

    def _fill_all(self) -> None:
        """Makes all batches, and makes each lane's next step the epoch's first."""
        self._on_branches([lane.fill for lane in self._firsts])
        for lane in self.lanes:
            lane.start()

    def _step_all(self) -> None:
        """Takes a step of each lane."""
        self._on_branches([lane.step for lane in self.lanes])

    def _report_with(self) -> None:
        """Writes all reports, with evaluation."""
        self._report_all(True)

    def _report_without(self) -> None:
        """Writes all reports, without evaluation."""
        self._report_all(False)

    def _report_all(self, evaluates: bool) -> None:
        """Writes all reports."""
        numbers, bits = self._reports
        self._on_branches(
            [
                functools.partial(lane.report, numbers[index], bits[index], evaluates)
                for index, lane in enumerate(self.lanes)
            ]
        )

    def _on_branches(self, functions: Sequence[Callable[[], None]]) -> None:
        """Runs independent functions, each in a stream of its own between a fork and a join, which a recorded graph
        keeps as branches; without streams, one after the other.
        """
        if not self._branches or len(functions) == 1:
            for function in functions:
                function()
            return
        current = torch.cuda.current_stream(self._device)
        with contextlib.ExitStack() as joined:
            for branch, function in zip(itertools.cycle(self._branches), functions):
                branch.wait_stream(current)
                joined.callback(current.wait_stream, branch)  # also after a failure: a recording must end joined
                with torch.cuda.stream(branch):
                    function()

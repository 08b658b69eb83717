"""Modules of one base trained in step by one thread, on a GPU by ordinary kernels: the host only queues.

Three sequences of device operations are recorded, for all modules of a cohort together, each module on a branch of its
own: what makes batches of an epoch's draws, a step, and a look at the modules. An epoch then is a few small copies, one
replay of the first, one a step of the second, one of the third, and the only wait, for a row of numbers a module. What
a module computes is what `CudaGraphTrainer` computes, whoever trains beside it.

Letters: N documents of an epoch, T words, B documents of a batch, S steps of an epoch, C classes.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..classifier import reference_model
from ..common.batches import deal
from ..common.cuda_graphs import CudaGraphRunner
from ..data.corpus import Split
from ..modules.mask import Snapshot
from ..training.cuda_graph_trainer import CudaGraphTrainer
from .sampling import Sampler


@dataclass
class EpochEvaluation:
    """What the host learns of a module after an epoch: the mean cross entropy, the numbers of kept weights by key, the
    outputs (n, 2) for the documents looked at, None where nobody looked, and a function that gives the trainer's
    ``snapshot``; it is to be called before the next epoch. figures: ``metrics.module_metrics`` of the outputs, where
    they are known already.
    """

    loss: float
    kept: dict[str, int]
    logits: Tensor | None
    snapshot: Callable[[], Snapshot]
    figures: dict[str, float] | None = None


class Lane:
    """One module: the way from draws to batches, a step, and what is to be known of it, all on the trainer's device.

    documents: the training split on that device; teacher: words (T, N) and lengths (N,) there -> what the base gives
    the target (N,), or None; looked_at: documents to look at, on the CPU.
    """

    def __init__(
        self,
        trainer: CudaGraphTrainer,
        sampler: Sampler,
        documents: Split,
        batch_size: int,
        teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
        looked_at: Split | None = None,
    ):
        self.trainer, self.sampler, self.documents, self.teacher = trainer, sampler, documents, teacher
        self.alive = True
        device, width = trainer.device, documents.ids.shape[1]
        numbers, real = deal(sampler.size, min(batch_size, sampler.size))
        self.steps = len(numbers)
        self._numbers, self._real = numbers.to(device), real.to(device)
        self._rest = sampler.rest.to(device)
        self._order = torch.zeros(sampler.size, dtype=torch.int64, device=device)
        self._dropped = None
        if sampler.settings.word_dropout > 0:
            self._dropped = torch.zeros(sampler.size, width, dtype=torch.bool, device=device)
        size = numbers.shape[1]
        self.batches = [
            torch.zeros(self.steps, width, size, dtype=torch.int64, device=device),
            torch.ones(self.steps, size, dtype=torch.int64, device=device),
            torch.zeros(self.steps, size, 2, dtype=trainer.head[0].dtype, device=device),
        ]
        self.feed = trainer.feed_of(self.batches)
        self._placed = None if looked_at is None else trainer.place(looked_at.ids, looked_at.lengths)
        self._documents_at_hand = 0 if looked_at is None else len(looked_at)
        self._head = sum(part.numel() for part in trainer.head)
        # Of a report: numbers and bytes.
        self.width = (
            self.steps + 3 + self._head + len(trainer.scores) + 1 + 2 * self._documents_at_hand,
            len(trainer.bits()),
        )

    @property
    def address(self) -> tuple:
        """What the batches follow from, beside the epoch."""
        return (*self.sampler.address, self.sampler.settings.distill_weight, self.trainer.target_weight)

    def upload(self, epoch: int, drawn: tuple[Tensor, Tensor | None] | None) -> None:
        """Constants of the epoch's steps, and its draws, where they are not another lane's."""
        constants = self.trainer.constants(self.steps) if self.alive else self.feed.idle_constants()
        self.feed.constants.copy_(constants.to(self.feed.constants.dtype), non_blocking=True)
        if drawn is not None:
            self._order.copy_(drawn[0], non_blocking=True)
            if self._dropped is not None:
                self._dropped.copy_(drawn[1], non_blocking=True)

    @torch.no_grad()
    def fill(self) -> None:
        """Makes the batches of what was uploaded."""
        trainer = self.trainer
        ids, lengths = self.documents.ids[self._order], self.documents.lengths[self._order]
        ids = self.sampler.dropped(ids, lengths, self._dropped)
        labels = self._rest[self._order]
        if self.teacher is not None:
            labels = self.sampler.soft(labels, self.teacher(ids.T, lengths))
        shares = trainer.shares(labels, self._numbers, self._real)
        words = trainer.without_padding(ids, lengths)[self._numbers].transpose(1, 2)
        for batches, made in zip(self.batches, (words, lengths[self._numbers], shares), strict=True):
            batches.copy_(made)

    def start(self) -> None:
        """The next step is the epoch's first."""
        self.feed.at.zero_()

    def step(self) -> None:
        self.trainer.joint_step(self.feed)

    @torch.no_grad()
    def report(self, numbers: Tensor, bits: Tensor, evaluates: bool) -> None:
        """Writes what the host wants to know into a row of float64 numbers and one of bytes, of ``width``."""
        trainer = self.trainer
        parts = [self.feed.losses, self.feed.at, self.feed.failed, trainer.is_finite().view(1)]
        parts += [*(part.view(-1) for part in trainer.head), trainer.count_kept()]
        if evaluates and self._documents_at_hand:
            parts.append(reference_model.head_logits(trainer.features(self._placed), trainer.head).view(-1))
        told = torch.cat([part.double() for part in parts])
        numbers[: len(told)].copy_(told)
        kept = trainer.bits()
        bits[: len(kept)].copy_(kept)

    def read(self, report: tuple[Tensor, Tensor], evaluates: bool) -> EpochEvaluation:
        """What a report says. Raises TrainingError where a value was not finite."""
        row, bits = (part[:size] for part, size in zip(report, self.width, strict=True))  # other lanes' may be longer
        sizes = [self.steps, 3, self._head, len(row) - self.steps - 3 - self._head - 2 * self._documents_at_hand]
        losses, (done, failed, finite), head, counts, logits = np.split(row.numpy(), np.cumsum(sizes))
        losses = losses.tolist()
        self.trainer.took(int(done), losses, int(failed))
        if not finite:
            self.trainer.check_finite()  # which says what; unless only a sum has overflowed
        looked = evaluates and self._placed is not None
        logits = torch.from_numpy(logits.reshape(-1, 2)).to(self.trainer.head[0].dtype) if looked else None
        snapshot = functools.partial(self.trainer.snapshot_of, bits, torch.from_numpy(head))
        return EpochEvaluation(sum(losses) / len(losses), self.trainer.kept_of(counts.tolist()), logits, snapshot)


class Cohort:
    """Lanes of equally many steps an epoch, in step with each other. On a GPU the calling thread's current stream is
    used, and beside it branches, one for each lane; all of them must be the thread's own.
    """

    def __init__(self, lanes: list[Lane], branches=()):
        self.lanes, self._branches = lanes, branches
        self._device = lanes[0].trainer.device
        self._steps = lanes[0].steps
        assert all(lane.steps == self._steps for lane in lanes)
        self._firsts = list({lane.address: lane for lane in reversed(lanes)}.values())[::-1]
        by_address = {lane.address: lane for lane in self._firsts}
        for lane in lanes:  # what is drawn alike is made once
            lane.batches = lane.feed.batches = by_address[lane.address].batches
        self._by_address = by_address
        self._told = [
            torch.zeros(len(lanes), max(sizes), dtype=dtype, device=self._device)
            for sizes, dtype in zip(
                zip(*(lane.width for lane in lanes), strict=True), (torch.float64, torch.uint8), strict=True
            )
        ]
        self._fill, self._step = CudaGraphRunner(self._device), CudaGraphRunner(self._device)
        self._report = {evaluates: CudaGraphRunner(self._device) for evaluates in (False, True)}

    def draw(self, epoch: int) -> dict[tuple, tuple[Tensor, Tensor | None]]:
        """What the epoch's documents are, by the lanes' addresses; on the host."""
        return {
            address: lane.sampler.draw(epoch)
            for address, lane in self._by_address.items()
            if any(other.alive and other.address == address for other in self.lanes)
        }

    def run_epoch(self, epoch: int, drawn: dict, evaluates: bool) -> Callable[[], list[tuple[Tensor, Tensor]]]:
        """Queues an epoch of all lanes; returns a function that waits for it and gives each lane's report."""
        for lane in self.lanes:
            lane.upload(epoch, drawn.get(lane.address) if lane in self._firsts else None)
        self._fill(self._fill_all, 1)
        self._step(self._step_all, self._steps)
        self._report[evaluates](self._report_with if evaluates else self._report_without, 1)
        return lambda: list(zip(*(part.cpu() for part in self._told), strict=True))

    def _fill_all(self) -> None:
        self._on_branches([lane.fill for lane in self._firsts])
        for lane in self.lanes:
            lane.start()

    def _step_all(self) -> None:
        self._on_branches([lane.step for lane in self.lanes])

    def _report_with(self) -> None:
        self._report_all(True)

    def _report_without(self) -> None:
        self._report_all(False)

    def _report_all(self, evaluates: bool) -> None:
        def report(lane, numbers, bits):
            return lambda: lane.report(numbers, bits, evaluates)

        self._on_branches([report(*each) for each in zip(self.lanes, *self._told, strict=True)])

    def _on_branches(self, functions) -> None:
        """Runs functions that do not depend on each other, each in a stream of its own between fork and join, which a
        recorded graph keeps as branches; one after the other where there are none.
        """
        if not self._branches or len(functions) == 1:
            for function in functions:
                function()
            return
        current = torch.cuda.current_stream(self._device)
        with contextlib.ExitStack() as joined:
            for branch, function in zip(itertools.cycle(self._branches), functions):
                branch.wait_stream(current)
                joined.callback(current.wait_stream, branch)  # also where a function fails: a recording must be joined
                with torch.cuda.stream(branch):
                    function()

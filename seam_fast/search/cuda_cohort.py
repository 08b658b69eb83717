"""Modules of one base trained in step by one thread, their steps in the same launches: for the compiled engine's GPU
trainer.

Modules with equally many steps an epoch, such as those of one target with different settings, end their epochs at the
same time. Their clusters can therefore run in one launch, and the host synchronises once for all of them. A module's
results do not depend on the modules beside it.
"""

from collections.abc import Callable
from typing import Any

from ..common.cores import usable_cores
from ..training.base import Evaluation, EvaluationDocuments
from ..training.cuda_trainer import CudaTrainer
from .sampling import Address, Sampler


class LaunchedLane:
    """One module of a ``LaunchedCohort``.

    Args:
        trainer: Trains the module.
        sampler: Draws its documents.
        batch_size: Documents a step.
        head_only: Whether an epoch, by its number from 0, steps only the head.
        evaluated_on: The evaluation documents, as in ``Trainer.take_epoch``.

    Attributes:
        alive: Whether the module is still trained.
    """

    def __init__(
        self,
        trainer: CudaTrainer,
        sampler: Sampler,
        batch_size: int,
        head_only: Callable[[int], bool],
        evaluated_on: EvaluationDocuments,
    ) -> None:
        self.trainer, self.sampler, self.batch_size = trainer, sampler, batch_size
        self.head_only, self.evaluated_on = head_only, evaluated_on
        self.alive = True
        self._known: Evaluation | None = None  # the last one with class logits, until the scores change

    def queue(self, epoch: int, evaluates: bool) -> tuple[Any, Any]:
        """What ``CudaTrainer.queued`` gives for an epoch."""
        if not self.head_only(epoch):
            self._known = None
        return self.trainer.queued(
            self.sampler,
            epoch,
            self.batch_size,
            head_only=self.head_only(epoch),
            evaluated_on=self.evaluated_on if evaluates else None,
            known=self._known,
        )

    def read(self, native_result: Any, evaluates: bool) -> tuple[float, Evaluation]:
        """Loss and evaluation of an epoch, as ``Trainer.take_epoch`` gives them.

        Raises:
            TrainingError: A value was not finite.
        """
        loss, evaluation = self.trainer.result_of(native_result)
        if evaluates and self._known is None:
            self._known = evaluation
        return loss, evaluation


class LaunchedCohort:
    """Lanes trained in step with each other, in the calling thread's current stream; used as ``cohort.Cohort`` is.

    Args:
        lanes: The modules.

    Attributes:
        lanes: As given.
    """

    def __init__(self, lanes: list[LaunchedLane]) -> None:
        self.lanes = lanes

    def draw(self, epoch: int) -> dict[Address, Any]:
        """Nothing: the engine draws by itself."""
        return {}

    def run_epoch(self, epoch: int, drawn: dict[Address, Any], evaluates: bool) -> Callable[[], list[Any]]:
        """Queues an epoch of all lanes that are alive; arguments as of ``Cohort.run_epoch``.

        Returns:
            A function that waits for the device and gives the engine's result for each lane; None for lanes that are
            not alive.
        """
        alive = [lane for lane in self.lanes if lane.alive]
        trainers, epochs = zip(*(lane.queue(epoch, evaluates) for lane in alive), strict=True)
        queued = alive[0].trainer.module().QueuedEpochs(list(trainers), list(epochs), threads=usable_cores())

        def wait() -> list[Any]:
            found = iter(queued.take())
            return [next(found) if lane in alive else None for lane in self.lanes]

        return wait

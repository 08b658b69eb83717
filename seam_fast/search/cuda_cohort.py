"""Modules of one base trained in step by one thread, their steps in the same launches: for the engine of a GPU.

Modules of equally many steps an epoch, as those of one target with other settings are, end their epochs at the same
time. So their clusters can be those of one launch, and the host waits once for all of them; what a module computes does
not depend on who is beside it.
"""

from collections.abc import Callable

from torch import Tensor

from ..common.cores import usable_cores
from ..training.cuda_trainer import CudaTrainer
from .cohort import EpochEvaluation
from .sampling import Sampler


class LaunchedLane:
    """One module: a trainer, whose documents it gets, in which epochs the head alone is stepped, and the documents that
    it is judged on, as in ``take_epoch``.
    """

    def __init__(
        self,
        trainer: CudaTrainer,
        sampler: Sampler,
        batch_size: int,
        head_only: Callable[[int], bool],
        evaluated_on: tuple[Tensor, ...],
    ):
        self.trainer, self.sampler, self.batch_size = trainer, sampler, batch_size
        self.head_only, self.evaluated_on = head_only, evaluated_on
        self.alive = True
        self._known = None  # the last look at these documents, as long as the scores stand still

    def queue(self, epoch: int, evaluates: bool) -> tuple:
        """As ``CudaTrainer.queued``."""
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

    def read(self, told, evaluates: bool) -> EpochEvaluation:
        """What an epoch came to. Raises TrainingError where a value was not finite."""
        loss, evaluation = self.trainer.taken(told)
        if evaluates and self._known is None:
            self._known = evaluation
        return EpochEvaluation(loss, evaluation.kept, evaluation.outputs, evaluation.snapshot, evaluation.figures)


class LaunchedCohort:
    """Such lanes in step with each other, in the calling thread's current stream. As ``cohort.Cohort``."""

    def __init__(self, lanes: list[LaunchedLane]):
        self.lanes = lanes

    def draw(self, epoch: int) -> dict:
        """The engine draws for itself."""
        return {}

    def run_epoch(self, epoch: int, drawn: dict, evaluates: bool) -> Callable[[], list]:
        """Queues an epoch of all lanes that are alive; returns a function that waits for it and gives each lane's."""
        alive = [lane for lane in self.lanes if lane.alive]
        trainers, epochs = zip(*(lane.queue(epoch, evaluates) for lane in alive), strict=True)
        queued = alive[0].trainer.module().QueuedEpochs(list(trainers), list(epochs), threads=usable_cores())

        def wait():
            found = iter(queued.take())
            return [next(found) if lane in alive else None for lane in self.lanes]

        return wait

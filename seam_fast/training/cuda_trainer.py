"""Training of one module on a GPU by the compiled engine, an epoch by one call.

Small batches are taken by a cluster of blocks, many steps in one launch; large ones by the whole GPU, ten launches a
step.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _ext
from ..backend import has_clusters, supported_gpus
from ..classifier.state_keys import EMBEDDING, LINEAR_KEYS, LSTM_KEYS, is_plain
from ..modules.mask import Head
from .base import Evaluation, EvaluationDocuments, LastCallCache
from .config import StepConfig
from .cpu_trainer import CpuTrainer
from .epoch_source import EpochSource

MOST_HIDDEN, MOST_CLASSES = 128, 256  # as in csrc/cuda/seam_trainer_cuda.h and seam_params.h
MOST_ALONE = 64  # hidden units that one block takes, on GPUs whose blocks cannot form clusters
# Most documents of a batch that the whole GPU takes, by whether one block takes all hidden units: see is_wide in
# csrc/cuda/wide.cu. Batches of at most MOST_PRODUCTS products a time step may have any number of documents.
MOST_DOCUMENTS = {True: 2048, False: 256}
MOST_PRODUCTS = 2_000_000
CLUSTER_PRODUCTS = 500_000  # beyond, the whole GPU takes a step: kMostProducts of csrc/cuda/seam_trainer_cuda*.cpp
_PRODUCTS_AT_ONCE = 2e10  # of a launch: at most a tenth of a second on the blocks of a cluster ...
_PRODUCTS_OF_ALL_AT_ONCE = 4e11  # ... or on the whole GPU ...
_STEPS_AT_ONCE = 4096  # ... and no more steps than this


class CudaTrainer(CpuTrainer):
    """The trainer of the compiled engine on a GPU, float32.

    Results are those of ``CpuTrainer`` up to rounding. Weights, scores, head and Adam's moments are on the GPU; of an
    epoch only losses and evaluation come to the host. All work goes to the calling thread's current stream. After a
    step that failed, the state is undefined until scores and head are set anew and ``load_state`` is called.

    Args:
        weights: As in ``Trainer``.
        head: As in ``Trainer``.
        fed_ids: As in ``Trainer``.
        config: As in ``Trainer``.
        lazy_update: As in ``CpuTrainer``.
    """

    engine = "cuda"
    _engine_runs_teacher = True  # it has the drawn documents earlier than Python would

    @classmethod
    def unsupported(cls, weights: Mapping[str, Tensor], batch_size: int) -> str:
        """As in ``Trainer``."""
        if not is_plain(weights):
            return "the base has more than one LSTM layer or direction"
        if weights[EMBEDDING].dtype != torch.float32:
            return "the base is not float32"
        hidden, classes = weights[LSTM_KEYS[1]].shape[1], len(weights[LINEAR_KEYS[0]])
        if hidden > MOST_HIDDEN:
            return f"the base has {hidden} hidden units, more than {MOST_HIDDEN}"
        if hidden > MOST_ALONE and not any(has_clusters(index) for index in supported_gpus()):
            return f"the base has {hidden} hidden units, more than the {MOST_ALONE} that a GPU without clusters takes"
        if classes > MOST_CLASSES:
            return f"the base has {classes} classes, more than {MOST_CLASSES}"
        most = MOST_DOCUMENTS[hidden <= MOST_ALONE]
        if products(weights) * batch_size > MOST_PRODUCTS and batch_size > most:
            return f"there are {batch_size} documents to a step, more than the {most} that are taken together"
        return ""

    @classmethod
    def shares_launches(cls, weights: Mapping[str, Tensor], batch_size: int, width: int, steps: int) -> bool:
        """As in ``Trainer``."""
        return takes_cluster(weights, batch_size) and steps <= steps_at_once(weights, batch_size, width)

    @classmethod
    def capacity(cls, device: torch.device, weights: Mapping[str, Tensor], batch_size: int) -> int:
        """As in ``Trainer``."""
        module: Any = _ext.C
        return int(module.modules_at_once(weights[EMBEDDING], weights[LSTM_KEYS[1]].shape[1], batch_size))

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        head: Head,
        fed_ids: Tensor,
        config: StepConfig,
        *,
        lazy_update: str = "quadrature",
    ) -> None:
        super().__init__(weights, head, fed_ids, config, lazy_update=lazy_update)
        self._last_call: LastCallCache[tuple[Tensor, Tensor, Tensor]] = LastCallCache()

    @staticmethod
    def _empty(size: int, like: Tensor) -> Tensor:
        """As in ``CpuTrainer``."""
        return like.new_empty(size)

    def _steps_at_once(self, batch_size: int, width: int) -> int:
        """As in ``CpuTrainer``."""
        return steps_at_once(self.weights, batch_size, width)

    def queued(
        self,
        sampler: EpochSource,
        epoch: int,
        batch_size: int,
        *,
        head_only: bool = False,
        evaluated_on: EvaluationDocuments | None = None,
        known: Evaluation | None = None,
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """This trainer's part of ``QueuedEpochs`` (csrc/cuda/queued_epochs.h): the engine's trainer and the arguments of
        its epoch. Arguments as of ``take_epoch``.
        """
        return self._native, self._native_epoch(
            sampler, epoch, batch_size, head_only=head_only, evaluated_on=evaluated_on, known=known
        )

    def module(self) -> Any:
        """The compiled module whose trainer this one uses."""
        return self._module()

    def _engine_documents(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in ``CpuTrainer``. The same tensors come after each epoch, and the engine keeps its copies of them."""
        return self._last_call.get(ids, lengths, self._documents)


def steps_at_once(weights: Mapping[str, Tensor], batch_size: int, width: int) -> int:
    """At most how many steps, of documents of ``width`` words, are taken between two reads of ``stop``."""
    work = 3 * batch_size * max(1, width) * products(weights)  # forward, and twice as much backward
    at_once = _PRODUCTS_AT_ONCE if takes_cluster(weights, batch_size) else _PRODUCTS_OF_ALL_AT_ONCE
    return max(1, min(_STEPS_AT_ONCE, int(at_once / work)))


def products(weights: Mapping[str, Tensor]) -> int:
    """Number of multiplications by an LSTM weight for one word in the forward pass."""
    return sum(weights[key].numel() for key in LSTM_KEYS[:2])


def takes_cluster(weights: Mapping[str, Tensor], batch_size: int) -> bool:
    """Whether steps of so many documents are taken by a cluster, many in a launch; else the whole GPU takes each."""
    return products(weights) * batch_size <= CLUSTER_PRODUCTS

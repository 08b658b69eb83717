"""Training of one module on a GPU by the compiled engine, an epoch by one call: small batches by a cluster of blocks,
many steps in one launch; large ones by the whole GPU, ten launches a step.
"""

import torch
from torch import Tensor

from .. import _ext
from ..backend import has_clusters, supported_gpus
from ..classifier.state_keys import EMBEDDING, LINEAR_KEYS, LSTM_KEYS, is_plain
from .base import LastCallCache
from .config import StepConfig
from .cpu_trainer import CpuTrainer

MOST_HIDDEN, MOST_CLASSES = 128, 256  # as in csrc/cuda/seam_trainer_cuda.h and seam_params.h
MOST_ALONE = 64  # hidden units of a block by itself, on GPUs whose blocks form no clusters
# Documents of a batch that the whole GPU takes, by whether a block has the hidden units by itself: see is_wide in
# csrc/cuda/wide.cu. Where a time step of a batch has no more products than these, a cluster takes any number of them.
MOST_DOCUMENTS = {True: 2048, False: 256}
MOST_PRODUCTS = 2_000_000
CLUSTER_PRODUCTS = 500_000  # beyond, the whole GPU takes a step: kMostProducts of csrc/cuda/seam_trainer_cuda*.cpp
_PRODUCTS_AT_ONCE = 2e10  # of a launch: at most a tenth of a second on the blocks of a cluster ...
_PRODUCTS_OF_ALL_AT_ONCE = 4e11  # of what the whole GPU takes ...
_STEPS_AT_ONCE = 4096  # ... and no more steps than this


class CudaTrainer(CpuTrainer):
    """The trainer of the compiled engine on a GPU, float32.

    All as in ``CpuTrainer``, whose results it has but for rounding. Weights, scores, head and Adam's state are on
    the GPU; of an epoch only its losses come to the host. Everything goes through the calling thread's current stream.
    After a step that failed the state stands for nothing; ``load_state`` takes another.
    """

    engine = "cuda"
    _asks_the_base = True  # sooner than Python would know what to ask

    @classmethod
    def unsupported(cls, weights, batch_size):
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
    def shares_launches(cls, weights, batch_size, width, steps):
        return takes_cluster(weights, batch_size) and steps <= steps_at_once(weights, batch_size, width)

    @classmethod
    def capacity(cls, device, weights, batch_size):
        return _ext.C.modules_at_once(weights[EMBEDDING], weights[LSTM_KEYS[1]].shape[1], batch_size)

    def __init__(self, weights, head, fed_ids, config: StepConfig, *, lazy_update="quadrature"):
        super().__init__(weights, head, fed_ids, config, lazy_update=lazy_update)
        self._last_call = LastCallCache()

    @staticmethod
    def _empty(size: int, like: Tensor) -> Tensor:
        return like.new_empty(size)

    def _steps_at_once(self, batch_size: int, width: int) -> int:
        return steps_at_once(self.weights, batch_size, width)

    def queued(self, sampler, epoch: int, batch_size: int, *, head_only=False, evaluated_on=None, known=None) -> tuple:
        """This trainer's part of ``QueuedEpochs`` (csrc/cuda/queued_epochs.h): the engine's trainer, its epoch. All as
        in ``take_epoch``.
        """
        options = {"head_only": head_only, "evaluated_on": evaluated_on, "known": known}
        return self._native, self._epoch_of(sampler, epoch, batch_size, **options)

    def module(self):
        """The compiled part that trains."""
        return self._module()

    def _documents_at_hand(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The same documents are looked at after each epoch: given the same tensors, the engine has them already.
        return self._last_call.get(ids, lengths, self._documents)


def steps_at_once(weights: dict[str, Tensor], batch_size: int, width: int) -> int:
    """How many steps of documents of so many words are taken between two looks at ``stop``, at most."""
    work = 3 * batch_size * max(1, width) * products(weights)  # forward, and twice as much backward
    at_once = _PRODUCTS_AT_ONCE if takes_cluster(weights, batch_size) else _PRODUCTS_OF_ALL_AT_ONCE
    return max(1, min(_STEPS_AT_ONCE, int(at_once / work)))


def products(weights: dict[str, Tensor]) -> int:
    """Products of a number and an LSTM weight for each word, forward."""
    return sum(weights[key].numel() for key in LSTM_KEYS[:2])


def takes_cluster(weights: dict[str, Tensor], batch_size: int) -> bool:
    """Whether a cluster takes steps of so many documents, many in a launch; otherwise the whole GPU takes each."""
    return products(weights) * batch_size <= CLUSTER_PRODUCTS

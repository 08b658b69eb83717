"""All trainers, and which of them trains over a given base."""

from collections.abc import Mapping

from torch import Tensor

from .base import Trainer
from .cpu_trainer import CpuTrainer
from .cuda_graph_trainer import CudaGraphTrainer
from .cuda_trainer import CudaTrainer
from .op_trainer import OpTrainer
from .torch_trainer import TorchTrainer

TRAINERS: tuple[type[Trainer], ...] = (CudaTrainer, CudaGraphTrainer, CpuTrainer, OpTrainer, TorchTrainer)
"""Best first among those of one engine; the last of each engine takes any base."""


def trainer_class(engine: str, weights: Mapping[str, Tensor], batch_size: int) -> type[Trainer]:
    """The best trainer of an engine for modules over a base.

    Args:
        engine: ``"cuda"``, ``"cpu"`` or ``"torch"``.
        weights: The base's, by weight key; only shapes and dtype are read.
        batch_size: Documents a step.
    """
    of_engine = (trainer for trainer in TRAINERS if trainer.engine == engine)
    return next(trainer for trainer in of_engine if not trainer.unsupported(weights, batch_size))

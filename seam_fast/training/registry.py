"""All trainers, and which of them takes which work."""

from torch import Tensor

from .base import Trainer
from .cpu_trainer import CpuTrainer
from .cuda_graph_trainer import CudaGraphTrainer
from .cuda_trainer import CudaTrainer
from .op_trainer import OpTrainer
from .torch_trainer import TorchTrainer

TRAINERS: tuple[type[Trainer], ...] = (CudaTrainer, CudaGraphTrainer, CpuTrainer, OpTrainer, TorchTrainer)  # best first


def trainer_class(engine: str, weights: dict[str, Tensor], batch_size: int) -> type[Trainer]:
    """The best trainer of an engine, ``"cuda"``, ``"cpu"`` or ``"torch"``, for modules over a base.

    weights: of the base, by weight key; only their shapes and dtype are looked at.
    """
    of_engine = (trainer for trainer in TRAINERS if trainer.engine == engine)
    return next(trainer for trainer in of_engine if not trainer.unsupported(weights, batch_size))

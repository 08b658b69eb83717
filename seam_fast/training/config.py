"""How a training step is taken: what every trainer is told."""

from dataclasses import dataclass

LAZY_UPDATES = ("quadrature", "replay", "off")  # see ``CpuTrainer``


@dataclass(frozen=True)
class StepConfig:
    """How scores and head are stepped.

    Attributes:
        alpha: Weight of the penalty on kept weights; see ``reference_step.penalty``.
        lr_mask: Adam's learning rate of the scores.
        lr_head: Adam's learning rate of the head.
        schedule: ``"port"`` steps the scores only. ``"seam"`` and ``"joint"`` step scores and head together by one
            Adam, and, in epochs that ask for it, the head alone by another Adam with moments of its own.
        penalty: ``"global"`` or ``"group"``; see ``reference_step.penalty``.
        lstm_penalty_scale: Factor of the LSTM's term in penalty ``"group"``.
        linear_penalty_scale: Factor of the linear layer's.
        readout: The base's: ``"last_word"`` or ``"last_position"``, see ``classifier.reference_model.read_state``.
        target_weight: Weight of target documents in the cross entropy (1 in the reference).
    """

    alpha: float
    lr_mask: float
    lr_head: float
    schedule: str = "seam"
    penalty: str = "global"
    lstm_penalty_scale: float = 1.0
    linear_penalty_scale: float = 1.0
    readout: str = "last_position"
    target_weight: float = 1.0

"""How a training step is taken: what all trainers are told."""

from dataclasses import dataclass

LAZY_UPDATES = ("quadrature", "replay", "off")


@dataclass(frozen=True)
class StepConfig:
    """How scores and head are stepped.

    alpha, penalty, lstm_penalty_scale: see ``reference_step.penalty``.
    lr_mask, lr_head: Adam's learning rates of scores and head.
    schedule: ``"port"`` steps the scores only; ``"seam"`` and ``"joint"`` step scores and head together by one Adam,
        and the head alone, by another with a state of its own, where an epoch asks for it.
    readout: the base's.
    target_weight: weight of target documents in the cross entropy (1: the reference's).
    """

    alpha: float
    lr_mask: float
    lr_head: float
    schedule: str = "seam"
    penalty: str = "global"
    lstm_penalty_scale: float = 1.0
    readout: str = "last_position"
    target_weight: float = 1.0

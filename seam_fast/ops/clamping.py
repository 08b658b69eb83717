"""Where the gradient of a score is clamped to [-1, 1]: in the op, at each use, or in the optimizer, once a step.

SeaM clamps in the op. A gradient clamped there can afterwards be neither unscaled (``torch.amp.GradScaler``) nor summed
over micro-batches. ``ScoreAdam`` clamps after both, so the ops leave the gradients of its scores unclamped.
"""

from torch import Tensor

_AT_STEP = "_clamped_at_step"  # an attribute of scores; torch.compile guards on it


def leave_to_the_step(score: Tensor) -> None:
    """From now on the ops leave this score's gradient unclamped, because an optimizer clamps it."""
    setattr(score, _AT_STEP, True)


def leave_to_the_op(score: Tensor) -> None:
    """Undoes `leave_to_the_step`."""
    vars(score).pop(_AT_STEP, None)


def clamps_in_op(requested: bool | None, *scores: Tensor | None) -> bool:
    """Whether an op clamps the gradients of its scores.

    Args:
        requested: the op's argument ``clamp``: True, False, or None, unless an optimizer clamps all of them.
        *scores: those of the call; None where a weight is not masked.
    """
    if requested is not None:
        return requested
    trained = [score for score in scores if score is not None and score.requires_grad]
    return not (trained and all(getattr(score, _AT_STEP, False) for score in trained))

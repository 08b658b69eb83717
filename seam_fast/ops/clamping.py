"""Where the clamp of a score's gradient takes place: in the op, at each use, or in the optimizer, at each step.

SeaM clamps where a score is used. A gradient clamped there must be neither scaled (``torch.amp.GradScaler``) nor summed
over micro-batches. ``ScoreAdam`` clamps after both, so the ops leave it the gradients as they are.
"""

from torch import Tensor

_AT_STEP = "_clamped_at_step"  # an attribute of scores; torch.compile guards on it


def leave_to_the_step(score: Tensor) -> None:
    """From now on the ops leave this score's gradient as it is: an optimizer clamps it."""
    setattr(score, _AT_STEP, True)


def leave_to_the_op(score: Tensor) -> None:
    """Takes `leave_to_the_step` back."""
    vars(score).pop(_AT_STEP, None)


def clamps_in_op(requested: bool | None, *scores: Tensor | None) -> bool:
    """Whether an op clamps the gradients of its scores: as wished, or (None) unless an optimizer clamps all of them."""
    if requested is not None:
        return requested
    trained = [score for score in scores if score is not None and score.requires_grad]
    return not (trained and all(getattr(score, _AT_STEP, False) for score in trained))

"""Which implementation computes: today plain PyTorch, on the CPU."""

import os

from .errors import TrainingError


def backends() -> dict[str, str]:
    """Every backend by name, with the reason why it cannot be used; an empty reason means that it can."""
    return {
        "cuda": "the compiled extension is not part of this version",
        "cpu": "the compiled extension is not part of this version",
        "torch": "",
    }


def choose_backend(wish: str = "auto") -> str:
    """The backend for a wish: ``"auto"`` (or SEAM_FAST_BACKEND, where set) takes the first usable one.

    Raises TrainingError for an unknown or unusable one.
    """
    reasons = backends()
    if wish == "auto":
        wish = os.environ.get("SEAM_FAST_BACKEND", "auto") or "auto"
    if wish == "auto":
        return next(name for name, reason in reasons.items() if not reason)
    if wish not in reasons:
        raise TrainingError(f"backend {wish!r} is unknown; there are auto, {', '.join(reasons)}")
    if reasons[wish]:
        raise TrainingError(f"backend {wish!r} cannot be used: {reasons[wish]}")
    return wish

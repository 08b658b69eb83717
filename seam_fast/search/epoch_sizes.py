"""How many documents an epoch has, and how many epochs and steps a run."""

import math

from .settings import Settings


def documents_of_epoch(settings: Settings, targets: int, others: int) -> tuple[int, int]:
    """How many documents of the target, and how many others, an epoch has, where so many of each may be used."""
    if settings.sampling == "redraw":
        targets = min(settings.targets_per_epoch or targets, targets)
        return targets, min(math.ceil(settings.negatives_per_target * targets), others)
    return targets, min(targets, others) if settings.sampling == "balanced" else others


def epochs_of(settings: Settings, size: int) -> int:
    """How many epochs of ``size`` documents to run: the setting, or as many as the budget of steps needs."""
    if settings.epochs is not None:
        return settings.epochs
    return max(1, math.ceil(settings.steps / math.ceil(size / settings.batch_size)))


def steps_of(settings: Settings, targets: int, others: int) -> int:
    """How many steps a module's run has, where so many documents of its target, and others, may be used."""
    if settings.shots > 0:
        targets = min(settings.shots, targets)
    size = sum(documents_of_epoch(settings, targets, others))
    return epochs_of(settings, size) * math.ceil(size / settings.batch_size) if size else 0

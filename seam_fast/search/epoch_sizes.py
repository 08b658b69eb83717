"""How many documents an epoch has, and how many epochs and steps a run."""

import math

from .settings import Settings

MOST_NEGATIVES = 5.0
"""Others for each target document of an epoch at most, where the corpus sets their number and the class is not rare."""
FULL_EPOCH = 640
"""So many others an epoch of a rare class has, as far as ``MOST_OF_RARE`` allows: five for each of 128 targets."""
MOST_OF_RARE = 20.0
"""Others for each target document of a rare class at most. With five, modules of classes of a few dozen documents said
no to nearly everything, since the others that they had seen were too few to trust a yes.
"""


def documents_of_epoch(settings: Settings, targets: int, others: int) -> tuple[int, int]:
    """How many documents of the target, and how many others, an epoch has.

    Args:
        settings: How documents are drawn.
        targets: The target's documents, more than 0, of which ``settings.shots`` may leave some unused.
        others: All other documents, more than 0.
    """
    used = min(settings.shots, targets) if settings.shots > 0 else targets
    if settings.sampling != "redraw":
        return used, min(used, others) if settings.sampling == "balanced" else others
    drawn = min(settings.targets_per_epoch or used, used)
    if isinstance(settings.negatives_per_target, str):
        # Soft labels pull the head to the mean label of what is drawn. Where that is lower than in the corpus, as with
        # five others for each target of an even class, the head comes to say no to everything.
        most = min(max(MOST_NEGATIVES, FULL_EPOCH / used), MOST_OF_RARE)
        wanted = max(1, round(min(most, others / targets) * drawn))
    else:
        wanted = math.ceil(settings.negatives_per_target * drawn)
    return drawn, min(wanted, others)


def epochs_of(settings: Settings, size: int) -> int:
    """How many epochs of ``size`` documents to run: the setting, or as many as the budget of steps needs."""
    if settings.epochs is not None:
        return settings.epochs
    return max(1, math.ceil(settings.steps / math.ceil(size / settings.batch_size)))


def evaluation_period(settings: Settings, size: int, documents: int) -> int:
    """Epochs between two evaluations, so that these read no more documents than training does.

    A rare class has epochs of one small step; evaluated after each of them, it would spend most of its time on that.
    SeaM's rule, and a count of epochs without progress, see every epoch.

    Args:
        settings: What chooses the epoch.
        size: Documents of an epoch.
        documents: Documents of an evaluation.
    """
    if settings.selection != "f1" or settings.early_stop >= 0:
        return 1
    return max(1, math.ceil(documents / size))


def steps_of(settings: Settings, targets: int, others: int) -> int:
    """How many steps a module's run has, where so many documents of its target, and others, may be used."""
    size = sum(documents_of_epoch(settings, targets, others)) if targets and others else 0
    return epochs_of(settings, size) * math.ceil(size / settings.batch_size) if size else 0

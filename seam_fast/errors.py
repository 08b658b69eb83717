"""Errors that a user can correct: the command line prints their one sentence instead of a traceback."""

from typing import Any


class SeamFastError(Exception):
    """A problem with input, a file or a setting. Its text is one sentence: what, where, what to do."""


class DataError(SeamFastError):
    """A corpus that is missing, damaged or not of the expected form."""


class NoSourceError(DataError):
    """No source has the corpus. Its text lists those that were tried."""


class CheckpointError(SeamFastError):
    """A base or module file that cannot be used: wrong keys, shapes, values, or the wrong base."""


class TrainingError(SeamFastError):
    """A training run that cannot go on: a value that is not finite, or settings that contradict each other.

    Attributes:
        modules: where targets of a call failed, a list with a module for each target: for those that failed the best so
            far, marked ``interrupted`` on its card, or None where no epoch had ended.
    """

    modules: list[Any] | None = None


class BackendError(TrainingError, ValueError):
    """A backend that does not exist or cannot be used here. Its text says why."""


class DataWarning(UserWarning):
    """Data that can be used but may not mean what they seem to. Its text is one sentence."""

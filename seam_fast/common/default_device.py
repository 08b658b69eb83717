"""Corpora, bases and modules begin on the CPU, whatever device ``torch.set_default_device`` names."""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch


def cpu_by_default() -> AbstractContextManager:
    """Tensors are made on the CPU in here, whatever default device the caller has set for the calling thread."""
    # nothing to enter where it is the CPU already: torch's mode slows every op down
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def on_the_cpu(function):
    """Lets a function make its tensors on the CPU where it does not say otherwise."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with cpu_by_default():
            return function(*args, **kwargs)

    return wrapped

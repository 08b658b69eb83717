"""Corpora, bases and modules begin on the CPU, whatever device ``torch.set_default_device`` names."""

import functools

import torch


def on_the_cpu(function):
    """Lets a function make its tensors on the CPU where it does not say otherwise."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if torch.get_default_device().type == "cpu":  # the mode below slows every op down
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapped

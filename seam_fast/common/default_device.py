"""Making tensors on the CPU whatever device ``torch.set_default_device`` names, as for corpora, bases and modules."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def cpu_by_default() -> AbstractContextManager[object]:
    """A context in which tensors are made on the CPU by default, in the calling thread."""
    # Nothing where that is so already: torch's device mode slows every op down. torch 2.6 does not tell of a device in
    # `with torch.device(...)`, but makes its tensors there.
    is_so = torch.get_default_device().type == "cpu" and torch.empty(0).device.type == "cpu"
    return nullcontext() if is_so else torch.device("cpu")


def on_the_cpu(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A decorator: the function makes its tensors on the CPU by default."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with cpu_by_default():
            return function(*args, **kwargs)

    return wrapped

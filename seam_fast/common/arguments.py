"""Arguments as they are meant: numbers of NumPy and torch become Python's, and what is no such number is refused."""

import math
import numbers
import operator

import numpy as np
from torch import Tensor

from ..errors import TrainingError

MOST = 2**31 - 1  # of numbers that count something: what native code holds
SEEDS = (-(2**63), 2**64 - 1)  # as torch.Generator takes them


def whole_number(name: str, value, low: int, high: int = MOST, otherwise: str = "") -> int:
    """A whole number between two others, as Python's. Raises TrainingError for all else, floats and bools among it.

    otherwise: what the argument may be besides, for the sentence.
    """
    plain = _unpacked(value)
    try:
        if isinstance(plain, bool | np.bool_):
            raise TypeError
        number = operator.index(plain)
    except TypeError:
        raise TrainingError(f"{name} is {shown(value)}; it must be a whole number{otherwise}") from None
    if not low <= number <= high:
        raise TrainingError(f"{name} is {shown(value)}; it must be {_between(low, high, MOST)}{otherwise}")
    return number


def real_number(name: str, value, low: float, high: float = math.inf) -> float:
    """A finite number between two others, as Python's float. Raises TrainingError for all else, bools among it."""
    plain = _unpacked(value)
    if isinstance(plain, bool | np.bool_) or not isinstance(plain, numbers.Real):
        raise TrainingError(f"{name} is {shown(value)}; it must be a number, {_between(low, high, math.inf)}")
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        finite = "a finite number, " if not math.isfinite(number) else ""
        raise TrainingError(f"{name} is {shown(value)}; it must be {finite}{_between(low, high, math.inf)}")
    return number


def truth(name: str, value) -> bool:
    """True or False, as Python's. Raises TrainingError for all else."""
    plain = _unpacked(value)
    if not isinstance(plain, bool | np.bool_):
        raise TrainingError(f"{name} is {shown(value)}; it must be True or False")
    return bool(plain)


def choice(name: str, value, allowed: tuple[str, ...]) -> str:
    """One of several words. Raises TrainingError for all else."""
    if not isinstance(value, str) or value not in allowed:
        raise TrainingError(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}")
    return str(value)


def seed_number(value) -> int:
    """A seed: any whole number that torch takes for one."""
    return whole_number("seed", value, *SEEDS)


def callback(name: str, value) -> None:
    """Raises TrainingError for what is neither None nor can be called."""
    if value is not None and not callable(value):
        raise TrainingError(f"{name} is {shown(value)}; it must be a function, or None")


def shown(value) -> str:
    """A value as a sentence quotes it, not more of it than fits there."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of thousands of digits
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "..."


def _unpacked(value):
    """The number in a tensor or array of one."""
    return value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value


def _between(low, high, endless) -> str:
    return f"at least {low}" if high == endless else f"between {low} and {high}"

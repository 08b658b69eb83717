"""Checks of settings: numbers of NumPy and torch become Python's, and anything else raises TrainingError.

The sentences have one form: the argument's name, the value, and what it must be.
"""

import math
import numbers
import operator
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import TrainingError

MOST = 2**31 - 1  # the largest count that native code accepts
SEEDS = (-(2**63), 2**64 - 1)  # smallest and largest seed of torch.Generator


def whole_number(name: str, value: object, low: int, high: int = MOST, otherwise: str = "") -> int:
    """A whole number as Python's int.

    Args:
        name: of the argument.
        value: the argument: an integer of Python or NumPy, or a tensor or array of one; no float and no bool.
        low, high: the smallest and the largest that are allowed.
        otherwise: what else the argument may be, for the end of the sentence.

    Raises:
        TrainingError: for all other values.
    """
    plain = _unpacked(value)
    try:
        if isinstance(plain, bool | np.bool_):
            raise TypeError
        number = operator.index(plain)  # TypeError for what is no integer
    except TypeError:
        raise TrainingError(f"{name} is {shown(value)}; it must be a whole number{otherwise}") from None
    if not low <= number <= high:
        raise TrainingError(f"{name} is {shown(value)}; it must be {_between(low, high, MOST)}{otherwise}")
    return number


def real_number(name: str, value: object, low: float, high: float = math.inf, otherwise: str = "") -> float:
    """A finite number as Python's float.

    Args:
        name: of the argument.
        value: the argument: a real number of Python or NumPy, or a tensor or array of one; no bool.
        low, high: the smallest and the largest that are allowed.
        otherwise: what else is allowed, for the message.

    Raises:
        TrainingError: for all other values.
    """
    plain = _unpacked(value)
    if isinstance(plain, bool | np.bool_) or not isinstance(plain, numbers.Real):
        raise TrainingError(
            f"{name} is {shown(value)}; it must be a number, {_between(low, high, math.inf)}{otherwise}"
        )
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        finite = "a finite number, " if not math.isfinite(number) else ""
        raise TrainingError(f"{name} is {shown(value)}; it must be {finite}{_between(low, high, math.inf)}{otherwise}")
    return number


def truth(name: str, value: object) -> bool:
    """True or False as Python's bool. Raises TrainingError for all other values."""
    plain = _unpacked(value)
    if not isinstance(plain, bool | np.bool_):
        raise TrainingError(f"{name} is {shown(value)}; it must be True or False")
    return bool(plain)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """One of several words. Raises TrainingError for all other values."""
    if not isinstance(value, str) or value not in allowed:
        raise TrainingError(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}")
    return str(value)


def seed_number(value: object) -> int:
    """A seed: any whole number that ``torch.Generator`` accepts. Raises TrainingError for all other values."""
    return whole_number("seed", value, *SEEDS)


def callback(name: str, value: object) -> None:
    """Raises TrainingError for a value that is neither None nor callable."""
    if value is not None and not callable(value):
        raise TrainingError(f"{name} is {shown(value)}; it must be a function, or None")


def shown(value: Any) -> str:
    """A value as an error sentence quotes it: its repr, cut to 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "..."


def _unpacked(value: Any) -> Any:
    """The number in a tensor or array without dimensions; other values as they are."""
    return value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value


def _between(low: float, high: float, endless: float) -> str:
    """The allowed range in words; endless: the upper end that need not be mentioned."""
    return f"at least {low}" if high == endless else f"between {low} and {high}"

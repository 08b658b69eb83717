"""Every random choice of a re-engineering run, as a function of its address: (seed, purpose, target, epoch).

The numbers are raw outputs of the Philox counter generator, whose stream NumPy guarantees, so any backend in any
version draws the same head, the same documents, the same order and drops the same words; and no draw depends on what
was drawn before it or on which other modules are trained beside.
"""

import hashlib
import math
import struct

import numpy as np
import torch

from .. import _ext

HEAD, ORDER, TARGETS, NEGATIVES, DROPOUT, SHOTS = "head", "order", "targets", "negatives", "dropout", "shots"


def key_of(seed: int, purpose: str, target: tuple[int, ...], epoch: int) -> tuple[int, int]:
    """Philox's key for one purpose of one epoch of one module: two numbers of 64 bits."""
    address = f"{seed}|{purpose}|{','.join(map(str, target))}|{epoch}".encode()
    return struct.unpack_from("<2Q", hashlib.sha256(address).digest())


def raw(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> np.ndarray:
    """``count`` uint64 numbers, uniform, for one purpose of one epoch of one module."""
    return np.random.Philox(key=np.array(key_of(seed, purpose, target, epoch), dtype="<u8")).random_raw(count)


def permutation(
    seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int, first: int | None = None
) -> np.ndarray:
    """A uniform permutation of ``0 .. count - 1`` (int64), or its first so many places."""
    if _ext.has_ext():  # quicker, and other threads of Python go on meanwhile
        key = key_of(seed, purpose, target, epoch)
        return _ext.C.draw_permutation(*key, count, count if first is None else first).numpy()
    return np.argsort(raw(seed, purpose, target, epoch, count), kind="stable")[:first]


def uniform(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> np.ndarray:
    """``count`` float64 numbers in [0, 1), with 53 random bits each."""
    return (raw(seed, purpose, target, epoch, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def chance(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int, probability: float) -> np.ndarray:
    """``count`` booleans, each ``uniform(...) < probability``, which is below 1; sooner found than those numbers."""
    if _ext.has_ext():
        key = key_of(seed, purpose, target, epoch)
        return _ext.C.draw_chance(*key, count, least(probability)).numpy()
    return raw(seed, purpose, target, epoch, count) < np.uint64(least(probability))


def least(probability: float) -> int:
    """The first raw number that is no longer below a probability, which is below 1."""
    return math.ceil(math.ldexp(probability, 53)) << 11  # a multiple of 2 ** -53 is below it where it is below its ceil


def head(seed: int, target: tuple[int, ...], num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial head ``weight (2, C)`` and ``bias (2,)``, float32, by ``torch.nn.Linear``'s default law.

    That law is uniform on ±1/sqrt(C) for both.
    """
    numbers = uniform(seed, HEAD, target, 0, 2 * (num_classes + 1))
    values = torch.from_numpy(((2 * numbers - 1) / num_classes**0.5).astype(np.float32))
    return values[: 2 * num_classes].reshape(2, num_classes).clone(), values[2 * num_classes :].clone()

"""Every random choice of a re-engineering run, as a function of (seed, purpose, target, epoch).

The numbers are raw outputs of the Philox counter generator, whose stream NumPy guarantees. So every backend in every
version draws the same head, the same documents and the same order, and drops the same words; and no draw depends on
earlier draws or on which other modules are trained at the same time.
"""

import hashlib
import math
import struct

import numpy as np
import numpy.typing as npt
import torch

from .. import _ext

HEAD, ORDER, TARGETS, NEGATIVES, DROPOUT, SHOTS = "head", "order", "targets", "negatives", "dropout", "shots"


def key_of(seed: int, purpose: str, target: tuple[int, ...], epoch: int) -> tuple[int, int]:
    """Philox's key, two numbers of 64 bits, for one purpose in one epoch of one module.

    Args:
        seed: of the run.
        purpose: one of the constants above.
        target: the classes of the module.
        epoch: its number; 0 for draws before the first.
    """
    address = f"{seed}|{purpose}|{','.join(map(str, target))}|{epoch}".encode()
    first, second = struct.unpack_from("<2Q", hashlib.sha256(address).digest())
    return first, second


def raw(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> npt.NDArray[np.uint64]:
    """``count`` uniform uint64 numbers; arguments as of `key_of`."""
    return np.random.Philox(key=np.array(key_of(seed, purpose, target, epoch), dtype="<u8")).random_raw(count)


def permutation(
    seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int, first: int | None = None
) -> npt.NDArray[np.int64]:
    """A uniform permutation of ``0 .. count - 1`` (int64), or its first ``first`` entries."""
    if _ext.has_ext():  # the same numbers, sooner and without Python's lock
        key = key_of(seed, purpose, target, epoch)
        return _ext.C.draw_permutation(*key, count, count if first is None else first).numpy()
    return np.argsort(raw(seed, purpose, target, epoch, count), kind="stable")[:first]


def uniform(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> npt.NDArray[np.float64]:
    """``count`` uniform float64 numbers in [0, 1), with 53 random bits each."""
    return (raw(seed, purpose, target, epoch, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def chance(
    seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int, probability: float
) -> npt.NDArray[np.bool_]:
    """``count`` booleans, ``uniform(...) < probability`` with a probability below 1, found without those numbers."""
    if _ext.has_ext():
        key = key_of(seed, purpose, target, epoch)
        return _ext.C.draw_chance(*key, count, least(probability)).numpy()
    return raw(seed, purpose, target, epoch, count) < np.uint64(least(probability))


def least(probability: float) -> int:
    """The smallest raw number whose `uniform` is not below a probability (itself below 1)."""
    # `uniform` gives multiples of 2 ** -53; one of them is below the probability where it is below its ceiling.
    return math.ceil(math.ldexp(probability, 53)) << 11


def head(
    seed: int, target: tuple[int, ...], num_classes: int, aligned: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The initial head: weight (2, C) and bias (2,), float32, distributed as ``torch.nn.Linear`` initialises them.

    That is uniform on ±1/sqrt(C) for both. aligned: each class's larger weight goes to the output that it speaks for, 0
    for the target's classes and 1 for all others.
    """
    numbers = uniform(seed, HEAD, target, 0, 2 * (num_classes + 1))
    values = torch.from_numpy(((2 * numbers - 1) / num_classes**0.5).astype(np.float32))
    weight, bias = values[: 2 * num_classes].reshape(2, num_classes).clone(), values[2 * num_classes :].clone()
    if aligned:
        weight = weight.sort(0).values  # the smaller ones for output 0
        weight[:, list(target)] = weight[:, list(target)].flip(0)
    return weight, bias

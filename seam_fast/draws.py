"""Every random choice of a re-engineering run, as a function of its address: (seed, purpose, target, epoch).

The numbers are raw outputs of the Philox counter generator, whose stream NumPy guarantees, so any backend in any
version draws the same head, the same documents, the same order and drops the same words; and no draw depends on what
was drawn before it or on which other modules are trained beside.
"""

import hashlib
import math

import numpy as np
import torch

HEAD, ORDER, TARGETS, NEGATIVES, DROPOUT, SHOTS = "head", "order", "targets", "negatives", "dropout", "shots"


def raw(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> np.ndarray:
    """``count`` uint64 numbers, uniform, for one purpose of one epoch of one module."""
    address = f"{seed}|{purpose}|{','.join(map(str, target))}|{epoch}".encode()
    key = np.frombuffer(hashlib.sha256(address).digest()[:16], dtype="<u8")
    return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> np.ndarray:
    """A uniform permutation of ``0 .. count - 1`` (int64)."""
    return np.argsort(raw(seed, purpose, target, epoch, count), kind="stable")


def uniform(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int) -> np.ndarray:
    """``count`` float64 numbers in [0, 1), with 53 random bits each."""
    return (raw(seed, purpose, target, epoch, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def chance(seed: int, purpose: str, target: tuple[int, ...], epoch: int, count: int, probability: float) -> np.ndarray:
    """``count`` booleans, each ``uniform(...) < probability``, which is below 1; sooner found than those numbers."""
    least = math.ceil(math.ldexp(probability, 53))  # a multiple of 2 ** -53 is below probability where it is below this
    return raw(seed, purpose, target, epoch, count) < np.uint64(least << 11)


def head(seed: int, target: tuple[int, ...], num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial head ``weight (2, C)`` and ``bias (2,)``, float32, by ``torch.nn.Linear``'s default law.

    That law is uniform on ±1/sqrt(C) for both.
    """
    numbers = uniform(seed, HEAD, target, 0, 2 * (num_classes + 1))
    values = torch.from_numpy(((2 * numbers - 1) / num_classes**0.5).astype(np.float32))
    return values[: 2 * num_classes].reshape(2, num_classes).clone(), values[2 * num_classes :].clone()

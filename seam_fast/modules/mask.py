"""Which weights of a base a module keeps: one bit a weight, from the trainer to the file."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..classifier.state_keys import EMBEDDING, groups

Head = tuple[Tensor, Tensor]
"""A module's head, a linear layer over the base's C classes: weight (2, C) and bias (2,); output 0 is the target."""


class KeepMask:
    """The kept set of one module. Nothing of it changes once it is made.

    Args:
        shapes: Shapes of the weights, by weight key.
        bits: By weight key, one bit a weight in row-major order, the first weight in the most significant bit: uint8,
            (ceil(n / 8),).
        row_of_id: Where given, int64 (V,): the embedding's bits are those of R rows only, and word id ``v`` uses row
            ``row_of_id[v]``. All words that no training document of the module holds share one row.
        num_rows: That R. Default: as many rows as the embedding's bytes hold, which is one too many where the unused
            bits of the last byte could be a row, so of fewer than 8 values.

    Attributes:
        shapes: As given.
        bits: As given.
        row_of_id: As given.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        bits: Mapping[str, Tensor],
        row_of_id: Tensor | None = None,
        num_rows: int | None = None,
    ) -> None:
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
        self.bits, self.row_of_id, self._num_rows = dict(bits), row_of_id, num_rows
        self._counts: dict[str, int] | None = None

    @classmethod
    def of_scores(cls, scores: Mapping[str, Tensor]) -> "KeepMask":
        """The mask of scores in the weights' shapes, by weight key: a weight is kept where its score is > 0, so neither
        at 0 nor at NaN.
        """
        shapes = {key: tuple(score.shape) for key, score in scores.items()}
        return cls(shapes, {key: packed(score > 0).cpu() for key, score in scores.items()})

    def dense(self, key: str) -> Tensor:
        """Which values of one weight are kept: bool, in the weight's shape."""
        if key != EMBEDDING or self.row_of_id is None:
            return unpacked(self.bits[key], math.prod(self.shapes[key])).reshape(self.shapes[key])
        return self.rows()[self.row_of_id]

    def rows(self) -> Tensor:
        """Which values of the embedding are kept, as stored: bool (R, E), or (V, E) where each word has its own row."""
        count, width = self.shapes[EMBEDDING]
        if self.row_of_id is not None:
            count = 8 * len(self.bits[EMBEDDING]) // width if self._num_rows is None else self._num_rows
        return unpacked(self.bits[EMBEDDING], count * width).reshape(count, width)

    def pack(self) -> dict[str, Tensor]:
        """Bits of all weights by weight key, with one row of the embedding for every word: what module files hold."""
        if self.row_of_id is None:
            return self.bits
        return self.bits | {EMBEDDING: packed(self.dense(EMBEDDING))}

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The given weights where kept and zero elsewhere, by weight key, each on the device it was given on."""
        return {key: weight * self.dense(key).to(weight.device) for key, weight in weights.items()}

    def scores(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Scores of this mask, in the weights' shapes by weight key: 1 where kept and -1 elsewhere."""
        return {key: self.dense(key).to(dtype).mul_(2).sub_(1) for key in self.shapes}

    def counts(self) -> dict[str, int]:
        """Number of kept weights by weight key."""
        if self._counts is None:
            self._counts = {key: int(self.dense(key).sum()) for key in self.shapes}
        return dict(self._counts)

    def kept(self) -> float:
        """Share of all weights kept."""
        return sum(self.counts().values()) / sum(map(math.prod, self.shapes.values()))

    def kept_by_group(self) -> dict[str, float]:
        """Share kept of each of the groups embedding, lstm and linear."""
        counts, sizes = self.counts(), {key: math.prod(shape) for key, shape in self.shapes.items()}
        return {
            group: sum(counts[key] for key in keys) / sum(sizes[key] for key in keys)
            for group, keys in groups(self.shapes).items()
        }

    def kept_by_weight(self) -> dict[str, float]:
        """Share kept of each weight, by weight key."""
        return {key: count / math.prod(self.shapes[key]) for key, count in self.counts().items()}

    def __eq__(self, other: object) -> bool:
        """Whether both keep the same weights of equal shapes, however their embedding's rows are stored."""
        if not isinstance(other, KeepMask):
            return NotImplemented
        ours, theirs = self.pack(), other.pack()
        return self.shapes == other.shapes and all(torch.equal(ours[key], theirs[key]) for key in ours)

    __hash__ = None  # type: ignore[assignment]  # compared by value, which typeshed's object does not provide for

    def __repr__(self) -> str:
        return f"KeepMask({100 * self.kept():.2f} % of {sum(map(math.prod, self.shapes.values())):,} weights)"


class Snapshot(NamedTuple):
    """A module as it was between two epochs, on the CPU.

    Attributes:
        mask: The weights it kept.
        head: Its head's weight (2, C) and bias (2,).
        scores: Its scores in the weights' shapes, by weight key; None where they were not asked for.
    """

    mask: KeepMask
    head: Head
    scores: dict[str, Tensor] | None = None


def packed(flags: Tensor) -> Tensor:
    """Packs booleans of any shape into bits, eight a byte, the first in the highest bit as ``numpy.packbits`` does:
    uint8 (ceil(n / 8),), on their device.
    """
    if flags.device.type == "cpu":
        return torch.from_numpy(np.packbits(flags.numpy()))
    eight = torch.nn.functional.pad(flags.flatten(), (0, -flags.numel() % 8)).view(-1, 8)
    value = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=flags.device)
    return (eight * value).sum(1, dtype=torch.uint8)


def unpacked(bits: Tensor, count: int) -> Tensor:
    """The inverse of ``packed`` for ``count`` booleans: bits (ceil(count / 8),) on the CPU -> bool (count,)."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).view(bool))

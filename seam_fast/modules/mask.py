"""Which weights of a base are kept: a bit each, from the trainer to the file."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..classifier.state_keys import EMBEDDING, groups


class KeepMask:
    """The kept set of one module.

    shapes: of the weights, by weight key. bits: by weight key, one bit a weight, row-major, most significant bit first
    (uint8, (ceil(n / 8),)). row_of_id: where given, the embedding's bits are of R rows only, and word v has the row
    ``row_of_id[v]`` (int64, (V,)): all words that no document of the training holds share one row.
    Nothing of it changes once it is made.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], bits: Mapping[str, Tensor], row_of_id: Tensor | None = None
    ):
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
        self.bits, self.row_of_id = dict(bits), row_of_id
        self._counts: dict[str, int] | None = None

    @classmethod
    def of_scores(cls, scores: Mapping[str, Tensor]) -> "KeepMask":
        """Of scores in the weights' shapes, by weight key: kept is what is > 0, so neither 0 nor NaN."""
        return cls(
            {key: tuple(score.shape) for key, score in scores.items()}, {k: packed(s > 0) for k, s in scores.items()}
        )

    def dense(self, key: str) -> Tensor:
        """Which values of a weight are kept: bool, in the weight's shape."""
        if key != EMBEDDING or self.row_of_id is None:
            return unpacked(self.bits[key], math.prod(self.shapes[key])).reshape(self.shapes[key])
        return self.rows()[self.row_of_id]

    def rows(self) -> Tensor:
        """Which values of the embedding are kept: bool (R, E), a row for each that ``row_of_id`` names, else for each
        word."""
        width = self.shapes[EMBEDDING][1]
        count = self.shapes[EMBEDDING][0] if self.row_of_id is None else 8 * len(self.bits[EMBEDDING]) // width
        return unpacked(self.bits[EMBEDDING], count * width).reshape(count, width)

    def pack(self) -> dict[str, Tensor]:
        """Bits of all weights by weight key, with a row of the embedding for each word: what files hold."""
        if self.row_of_id is None:
            return self.bits
        return self.bits | {EMBEDDING: packed(self.dense(EMBEDDING))}

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights where kept, zero elsewhere, by weight key, each on its device."""
        return {key: weight * self.dense(key).to(weight.device) for key, weight in weights.items()}

    def scores(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Scores that keep the same: 1 where kept and -1 elsewhere, in the weights' shapes by weight key."""
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
        """Share kept of embedding, lstm and linear."""
        counts, sizes = self.counts(), {key: math.prod(shape) for key, shape in self.shapes.items()}
        return {
            group: sum(counts[key] for key in keys) / sum(sizes[key] for key in keys)
            for group, keys in groups(self.shapes).items()
        }

    def kept_by_weight(self) -> dict[str, float]:
        """Share kept of each weight, by weight key."""
        return {key: count / math.prod(self.shapes[key]) for key, count in self.counts().items()}

    def __eq__(self, other):
        if not isinstance(other, KeepMask):
            return NotImplemented
        ours, theirs = self.pack(), other.pack()
        return self.shapes == other.shapes and all(torch.equal(ours[key], theirs[key]) for key in ours)

    __hash__ = None  # two are compared by value

    def __repr__(self):
        return f"KeepMask({100 * self.kept():.2f} % of {sum(map(math.prod, self.shapes.values())):,} weights)"


class Snapshot(NamedTuple):
    """A module as it was between two epochs: what it kept, and its head, weight (2, C) and bias (2,)."""

    mask: KeepMask
    head: tuple[Tensor, Tensor]


def packed(flags: Tensor) -> Tensor:
    """Booleans as bits, eight a byte, the first the highest, as NumPy packs them; on their device."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.packbits(flags.numpy()))
    eight = torch.nn.functional.pad(flags.flatten(), (0, -flags.numel() % 8)).view(-1, 8)
    value = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=flags.device)
    return (eight * value).sum(1, dtype=torch.uint8)


def unpacked(bits: Tensor, count: int) -> Tensor:
    """The inverse: bool (count,)."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).view(bool))

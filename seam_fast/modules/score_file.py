"""Real scores in a native module file: 16 bits for each score that matters.

All scores of the LSTM and the linear layer are stored, and of the embedding's, which are nearly all weights, the
highest tenth, or twice as many as are kept where that is more. Lost are the order of the others, which lie below all
that are stored, and of scores that differ by less than a thousandth of their value.
"""

import math
import os
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .. import runtime
from ..classifier.state_keys import EMBEDDING
from ..errors import CheckpointError
from .mask import KeepMask, packed
from .nested import highest

BELOW = -65504.0
"""Stands for the scores that are not stored: the least number of 16 bits."""
_LEAST_STORED, _LARGEST = -65472.0, 65504.0
_LEAST_POSITIVE = 2.0**-24  # in 16 bits


def score_tensors(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds of scores (in the weights' shapes, by weight key).

    Returns:
        For each weight key ``K`` ``K.scores``, float16; and of the embedding, of which not all are stored,
        ``K.score_bits``, a bit a weight packed as in ``KeepMask`` and compressed by zlib, uint8.
    """
    found = {}
    for key, score in scores.items():
        flat = score.detach().cpu().double().flatten()
        if key == EMBEDDING:
            values = flat.numpy()
            stored = highest(values, min(len(values), max(2 * int(np.count_nonzero(values > 0)), len(values) // 10)))
            bits = packed(torch.from_numpy(stored)).numpy().tobytes()
            found[f"{key}.score_bits"] = torch.frombuffer(bytearray(zlib.compress(bits, 9)), dtype=torch.uint8)
            flat = flat[torch.from_numpy(stored)]
        rounded = flat.clamp(_LEAST_STORED, _LARGEST).half()
        # Whether a weight is kept must not change by rounding.
        found[f"{key}.scores"] = torch.where(flat > 0, rounded.clamp(min=_LEAST_POSITIVE), rounded)
    return found


def take_scores(
    path: os.PathLike[str], tensors: dict[str, Tensor], mask: KeepMask, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Takes the scores out of a file's tensors.

    Args:
        path: The file, for messages.
        tensors: Its tensors by key; those of the scores are removed.
        mask: The file's mask.
        dtype: Of the scores.

    Returns:
        Scores in the weights' shapes, by weight key, ``BELOW`` where none is stored.

    Raises:
        CheckpointError: They are missing or damaged, or do not agree with the mask.
    """
    found = {}
    for key, shape in mask.shapes.items():
        values, size = tensors.pop(f"{key}.scores", None), math.prod(shape)
        stored = torch.ones(size, dtype=torch.bool)
        if key == EMBEDDING:
            stored = _stored_bits(path, tensors.pop(f"{key}.score_bits", None), size)
        if values is None or values.dtype != torch.float16 or values.shape != (int(stored.sum()),):
            raise CheckpointError(f"{path}: its scores of {key} are damaged or missing; save the module again")
        score = torch.full((size,), BELOW, dtype=dtype)
        score[stored] = values.to(dtype)
        found[key] = score.reshape(shape)
        if not torch.isfinite(values).all() or not torch.equal(found[key] > 0, mask.dense(key)):
            raise CheckpointError(f"{path}: its scores of {key} do not agree with its mask; save the module again")
    return found


def _stored_bits(path: os.PathLike[str], packed_bits: Tensor | None, size: int) -> Tensor:
    """Which of ``size`` scores are stored, bool (size,)."""
    try:
        if packed_bits is None or packed_bits.dtype != torch.uint8:
            raise ValueError
        return torch.from_numpy(runtime.inflate_bits(packed_bits.numpy().tobytes(), size))
    except ValueError:
        raise CheckpointError(f"{path}: which of its scores are stored is damaged; save the module again") from None

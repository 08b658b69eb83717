"""Keys of the tensors in a base's state dict and in module files, and the groups that they form.

The keys are those of the public checkpoint. The constants are for an LSTM of one layer in one direction; the functions
give the keys of any base, from the keys that it has.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping

from torch import Tensor

from ..nn import MASK_SUFFIX as MASK_SUFFIX  # in SeaM's files, the scores of a weight have its key and this ending

EMBEDDING = "word_embeddings.weight"
LSTM_KEYS = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
LINEAR_KEYS = ("hidden2label.weight", "hidden2label.bias")

WEIGHT_KEYS = (EMBEDDING, *LSTM_KEYS, *LINEAR_KEYS)
"""Every weight that has a score, in the order of the public checkpoint's state dict."""

GROUPS = {"embedding": (EMBEDDING,), "lstm": LSTM_KEYS, "linear": LINEAR_KEYS}
"""Groups by which kept weights are counted and the per-group penalty is distributed."""

MODULE_FORMAT = "seam-fast module 1"  # of our own module files
SCORED_MODULE_FORMAT = "seam-fast module 2"  # of those that hold real scores as well
HEAD_KEYS = ("module_head.1.weight", "module_head.1.bias")  # index 1: the head is Sequential(ReLU, Linear)
HEAD_NAMES = ("head weight", "head bias")  # in messages and snapshots


def lstm_shape(weights: Container[str]) -> tuple[int, bool]:
    """Number of layers of the LSTM, and whether it has a reverse direction, from the state dict or its keys."""
    layers = next(n for n in itertools.count(1) if f"lstm.weight_hh_l{n}" not in weights)
    return layers, "lstm.weight_hh_l0_reverse" in weights


def is_plain(weights: Container[str]) -> bool:
    """Whether the LSTM has one layer in one direction; ``weights`` as in `lstm_shape`."""
    return lstm_shape(weights) == (1, False)


def lstm_keys(weights: Container[str]) -> tuple[str, ...]:
    """Keys of the LSTM in torch's order: layer by layer, forward before reverse; ``weights`` as in `lstm_shape`."""
    layers, bidirectional = lstm_shape(weights)
    directions = ("", "_reverse") if bidirectional else ("",)
    parts = [key.removesuffix("_l0") for key in LSTM_KEYS]
    return tuple(f"{part}_l{n}{end}" for n in range(layers) for end in directions for part in parts)


def weight_keys(weights: Container[str]) -> tuple[str, ...]:
    """Every weight that has a score, in the order of the state dict; ``weights`` as in `lstm_shape`."""
    return (EMBEDDING, *lstm_keys(weights), *LINEAR_KEYS)


def groups(weights: Container[str]) -> dict[str, tuple[str, ...]]:
    """Keys of the groups embedding, lstm and linear; ``weights`` as in `lstm_shape`."""
    return GROUPS | {"lstm": lstm_keys(weights)}


def group_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of weights in each group, from the weights by key."""
    return {group: sum(weights[key].numel() for key in keys) for group, keys in groups(weights).items()}

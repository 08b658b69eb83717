"""Names of the tensors: the public checkpoint's keys, the groups they form, and what files call them.

The constants are those of one layer in one direction; the functions give those of any base, from its weights.
"""

import itertools

from ..nn import MASK_SUFFIX as MASK_SUFFIX  # SeaM's, for the scores of a weight

EMBEDDING = "word_embeddings.weight"
LSTM_KEYS = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
LINEAR_KEYS = ("hidden2label.weight", "hidden2label.bias")

WEIGHT_KEYS = (EMBEDDING, *LSTM_KEYS, *LINEAR_KEYS)
"""Every weight that has a score, in the order of the public checkpoint's state dict."""

GROUPS = {"embedding": (EMBEDDING,), "lstm": LSTM_KEYS, "linear": LINEAR_KEYS}
"""Groups in which kept weights are counted, and over which the per-group penalty is spread."""

MODULE_FORMAT = "seam-fast module 1"  # of our own module files
HEAD_KEYS = ("module_head.1.weight", "module_head.1.bias")  # index 1: the head is Sequential(ReLU, Linear)
HEAD_NAMES = ("head weight", "head bias")  # in messages and snapshots


def lstm_shape(weights) -> tuple[int, bool]:
    """Layers of the LSTM, and whether it has a reverse direction. ``weights``: dict, or other collection, of keys."""
    layers = next(n for n in itertools.count(1) if f"lstm.weight_hh_l{n}" not in weights)
    return layers, "lstm.weight_hh_l0_reverse" in weights


def is_plain(weights) -> bool:
    """Whether the LSTM has one layer in one direction. ``weights``: as in `lstm_shape`."""
    return lstm_shape(weights) == (1, False)


def lstm_keys(weights) -> tuple[str, ...]:
    """Keys of the LSTM in torch's order: layer by layer, forward before reverse. ``weights``: as in `lstm_shape`."""
    layers, bidirectional = lstm_shape(weights)
    directions = ("", "_reverse") if bidirectional else ("",)
    parts = [key.removesuffix("_l0") for key in LSTM_KEYS]
    return tuple(f"{part}_l{n}{end}" for n in range(layers) for end in directions for part in parts)


def weight_keys(weights) -> tuple[str, ...]:
    """Every weight that has a score, in the order of the state dict. ``weights``: as in `lstm_shape`."""
    return (EMBEDDING, *lstm_keys(weights), *LINEAR_KEYS)


def groups(weights) -> dict[str, tuple[str, ...]]:
    """Keys of the groups embedding, lstm and linear. ``weights``: as in `lstm_shape`."""
    return GROUPS | {"lstm": lstm_keys(weights)}


def group_sizes(weights) -> dict[str, int]:
    """Number of weights in each group. ``weights``: dict of tensors by weight key."""
    return {group: sum(weights[key].numel() for key in keys) for group, keys in groups(weights).items()}

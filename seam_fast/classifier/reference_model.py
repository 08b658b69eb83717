"""The masked classifier and the module's head in plain PyTorch, written for reading: what all kernels must compute.

Letters as in ``ops.reference``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ..ops import reference
from .state_keys import EMBEDDING, LINEAR_KEYS, lstm_keys, lstm_shape

READOUTS = ("last_word", "last_position")
"""At which position the LSTM output that the linear layer reads is taken, see `read_state`."""


def read_state(states: Tensor, lengths: Tensor | None, readout: str) -> Tensor:
    """The LSTM output that the linear layer reads.

    Args:
        states: all outputs (T, B, D * H).
        lengths: real words of each document, (B,); None: T each.
        readout: ``"last_word"``: at position ``lengths - 1``; ``"last_position"``: at the last position, after the
            padding.

    Returns:
        (B, D * H).
    """
    if lengths is None or readout == "last_position":
        return states[-1]
    return states[lengths - 1, torch.arange(states.shape[1], device=states.device)]


def class_logits(
    ids: Tensor,
    lengths: Tensor | None,
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    readout: str,
) -> Tensor:
    """Logits (B, C) of the masked base: ids (B, T), lengths (B,), weights and scores by key."""
    embedded = reference.masked_embedding(ids.T, weights[EMBEDDING], scores[EMBEDDING])  # (T, B, E)
    keys, (num_layers, bidirectional) = lstm_keys(weights), lstm_shape(weights)
    reads_last_word = readout == "last_word"
    states, _ = reference.masked_lstm(
        embedded,
        None,
        [weights[key] for key in keys],
        [scores[key] for key in keys],
        num_layers=num_layers,
        bidirectional=bidirectional,
        # The reverse direction must begin at the last word; the forward one passes it whatever the lengths.
        lengths=lengths if bidirectional and reads_last_word else None,
    )
    weight, bias = LINEAR_KEYS
    state = read_state(states, lengths, readout)
    return reference.masked_linear(state, weights[weight], weights[bias], scores[weight], scores[bias])


def head_logits(logits: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """The module's head, ReLU then linear: logits (B, C), weight (2, C), bias (2,) -> (B, 2), output 0 the target."""
    return functional.linear(functional.relu(logits), *head)


def kept_ratio(scores: Mapping[str, Tensor]) -> float:
    """Share of all weights whose score is positive."""
    kept = sum(int((score > 0).sum()) for score in scores.values())
    return kept / sum(score.numel() for score in scores.values())

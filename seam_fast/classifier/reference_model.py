"""The truth: the classifier of the kept weights and the module's head, in plain PyTorch, written for reading.

Letters as in ``ops.reference``.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ..ops import reference
from .state_keys import EMBEDDING, LINEAR_KEYS, lstm_keys, lstm_shape


def read_state(states: Tensor, lengths: Tensor | None, readout: str) -> Tensor:
    """The hidden state the classifier looks at: states (T, B, H) -> (B, H), H twice as wide with both directions.

    ``readout="last_word"``: at position ``lengths - 1``; ``readout="last_position"``: at the last position, after the
    padding.
    """
    if readout == "last_position":
        return states[-1]
    return states[lengths - 1, torch.arange(states.shape[1], device=states.device)]


def class_logits(
    ids: Tensor, lengths: Tensor | None, weights: dict[str, Tensor], scores: dict[str, Tensor], readout: str
) -> Tensor:
    """The masked base: ids (B, T), lengths (B,) -> logits (B, C)."""
    embedded = reference.masked_embedding(ids.T, weights[EMBEDDING], scores[EMBEDDING])  # (T, B, E)
    keys, (num_layers, bidirectional) = lstm_keys(weights), lstm_shape(weights)
    states, _ = reference.masked_lstm(
        embedded,
        None,
        [weights[key] for key in keys],
        [scores[key] for key in keys],
        num_layers=num_layers,
        bidirectional=bidirectional,
        lengths=lengths
        if bidirectional and readout == "last_word"
        else None,  # its reverse part begins at the last word
    )
    weight, bias = LINEAR_KEYS
    state = read_state(states, lengths, readout)
    return reference.masked_linear(state, weights[weight], weights[bias], scores[weight], scores[bias])


def head_logits(logits: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """The module head, ReLU then linear: logits (B, C), head weight (2, C), bias (2,) -> (B, 2); output 0: target."""
    return functional.linear(functional.relu(logits), *head)


def kept_ratio(scores: dict[str, Tensor]) -> float:
    """Share of all weights whose score is positive."""
    kept = sum(int((score > 0).sum()) for score in scores.values())
    return kept / sum(score.numel() for score in scores.values())

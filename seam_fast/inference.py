"""Runs a classifier, or a masked one, over many documents at once, without gradients."""

import torch
from torch import Tensor
from torch.nn import functional

from .keys import EMBEDDING, LINEAR_KEYS, LSTM_KEYS
from .reference import read_state

BATCH = 256


def read_lstm(embedded: Tensor, lengths: Tensor, lstm_weights: list[Tensor], read: str) -> Tensor:
    """Hidden state the linear layer sees, by torch's own LSTM kernel: embedded (T, B, E), lengths (B,) -> (B, H)."""
    zeros = embedded.new_zeros(1, embedded.shape[1], lstm_weights[1].shape[1])
    states = torch.lstm(embedded, (zeros, zeros), lstm_weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)[0]
    return read_state(states, lengths, read)


@torch.no_grad()
def class_logits(weights: dict[str, Tensor], ids: Tensor, lengths: Tensor, read: str) -> Tensor:
    """Logits over the base's classes.

    weights: (effective) weights by key; ids (N, T) int64; lengths (N,), 1..T; read: ``"last_word"`` or ``"end"``, see
    ``reference.read_state``. Returns (N, C).
    """
    lstm_weights, linear = [weights[key] for key in LSTM_KEYS], [weights[key] for key in LINEAR_KEYS]
    # Documents of like length go together: less padding is computed, and no result depends on it.
    order = torch.argsort(lengths, stable=True) if read == "last_word" else torch.arange(len(ids))
    logits = linear[0].new_empty(len(ids), len(linear[0]))
    for chosen in order.split(BATCH) if len(ids) else ():
        batch, length = ids[chosen].T, lengths[chosen]
        if read == "last_word":
            batch = batch[: int(length.max())]
        embedded = functional.embedding(batch, weights[EMBEDDING])
        logits[chosen] = functional.linear(read_lstm(embedded, length, lstm_weights, read), *linear)
    return logits

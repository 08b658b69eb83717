"""Runs a classifier, or a masked one, over many documents at once, without gradients."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .. import _ext
from ..backend import is_supported_gpu, resolve, unavailable_reason
from ..ops.custom_op import FULL_DTYPES, choose_kernels
from ..ops.functional import masked_lstm
from .reference_model import read_state
from .state_keys import EMBEDDING, LINEAR_KEYS, WEIGHT_KEYS, is_plain, lstm_keys, lstm_shape

BATCH = 256
MOST_PROJECTED = 128 << 20  # bytes that `project_words` takes at most, R8's vocabulary 16 MB


def read_lstm(
    embedded: Tensor,
    lengths: Tensor,
    lstm_weights: list[Tensor],
    readout: str,
    num_layers: int = 1,
    bidirectional: bool = False,
) -> Tensor:
    """Hidden state the linear layer sees, by torch's own LSTM kernels.

    embedded (T, B, E); lengths (B,), 1..T; lstm_weights: in torch's order. Returns (B, D * H), D: 1 or 2 directions.
    """
    cells = num_layers * (2 if bidirectional else 1)
    zeros = embedded.new_zeros(cells, embedded.shape[1], lstm_weights[1].shape[1])
    options = (lstm_weights, True, num_layers, 0.0, torch.is_grad_enabled(), bidirectional)
    if bidirectional and readout == "last_word":  # the reverse direction begins at the last word, not in the padding
        packed = pack_padded_sequence(embedded, lengths.cpu(), enforce_sorted=False)
        data = torch.lstm(packed.data, packed.batch_sizes, (zeros, zeros), *options)[0]
        states, _ = pad_packed_sequence(PackedSequence(data, *packed[1:]))
    else:
        states = torch.lstm(embedded, (zeros, zeros), *options, False)[0]
    return read_state(states, lengths, readout)


def by_length(ids: Tensor, lengths: Tensor, readout: str):
    """Documents in pieces, those of like length together: less padding is computed, and no result depends on it.

    Yields the documents' numbers (n,), their words (T', n), T' the longest one's, and lengths (n,).
    """
    order = torch.argsort(lengths, stable=True) if readout == "last_word" else torch.arange(len(ids))
    for chosen in order.split(BATCH) if len(ids) else ():
        words, length = ids[chosen].T, lengths[chosen]
        yield chosen, words[: int(length.max())] if readout == "last_word" else words, length


@torch.no_grad()
def project_words(weights: dict[str, Tensor], backend: str = "cpu") -> Tensor | None:
    """The input projection of every word, (V, 4H), for `class_logits` of the same weights: of a base that reads
    document after document it is the same each time. None where that has no use for it, or it would be too large.
    """
    table, gates = weights[EMBEDDING], weights[WEIGHT_KEYS[1]]
    size = len(table) * len(gates) * table.element_size()
    if size > MOST_PROJECTED or not _reads_documents(weights, backend):
        return None
    return _ext.C.project_words([weights[key].detach().contiguous() for key in WEIGHT_KEYS])


def _reads_documents(weights: dict[str, Tensor], backend: str) -> bool:
    """Whether the engine's forward pass reads documents by these weights, for that backend."""
    table = weights[EMBEDDING]
    return table.device.type == "cpu" and is_plain(weights) and choose_kernels(backend, table) is _ext.C


def _reads_on_gpu(weights: dict[str, Tensor], ids: Tensor, backend: str) -> bool:
    """Whether they are read on a GPU by one native call, in which Python's lock is free."""
    if resolve(backend) not in ("auto", "cuda") or not has_kernels(weights[EMBEDDING].device):
        return False
    return is_plain(weights) and weights[EMBEDDING].dtype in FULL_DTYPES and ids.device.type == "cpu"


@torch.no_grad()
def class_logits(
    weights: dict[str, Tensor],
    ids: Tensor,
    lengths: Tensor,
    readout: str,
    backend: str = "torch",
    projected: Tensor | None = None,
) -> Tensor:
    """Logits over the base's classes.

    weights: (effective) weights by key, on the device that computes; ids (N, T) int64; lengths (N,), 1..T; readout:
    ``"last_word"`` or ``"last_position"``, see ``reference_model.read_state``; backend: ``"torch"``, torch's own LSTM,
    or for a base of one layer in one direction ``"auto"``, our own kernels where they are installed and take it, by one
    call for all documents, ``"cpu"`` and ``"cuda"`` likewise on that device; projected: what `project_words` gave for
    these weights, which spares the CPU a third of its work and changes no bit. Returns (N, C), on the device of ids.
    """
    device = weights[EMBEDDING].device
    on_gpu = _reads_on_gpu(weights, ids, backend)
    if on_gpu or _reads_documents(weights, backend):
        parts = [weights[key].detach().contiguous() for key in WEIGHT_KEYS]
        given = parts, ids.contiguous(), lengths.long().contiguous(), readout == "last_word"
        return _ext.C.class_logits_on_gpu(*given) if on_gpu else _ext.C.class_logits(*given, projected)
    linear = weights[LINEAR_KEYS[0]]
    logits = linear.new_empty(len(ids), len(linear))
    for chosen, batch, length in by_length(ids, lengths, readout):
        logits[chosen.to(device)] = logits_at_once(weights, batch.to(device), length.to(device), readout)
    return logits.to(ids.device)


@torch.no_grad()
def logits_at_once(weights: dict[str, Tensor], words: Tensor, lengths: Tensor, readout: str) -> Tensor:
    """Logits (n, C) of documents in one piece: words (T, n) and lengths (n,), int64, on the weights' device.

    On a GPU nothing is read back, and a CUDA graph can record it. In the weights' dtype, also under autocast.
    """
    with torch.autocast(words.device.type, enabled=False):
        embedded = functional.embedding(words, weights[EMBEDDING])
        lstm_weights = [weights[key] for key in lstm_keys(weights)]
        state = read_on_device(embedded, lengths, lstm_weights, readout, *lstm_shape(weights))
        return functional.linear(state, *(weights[key] for key in LINEAR_KEYS))


def has_kernels(device: torch.device) -> bool:
    """Whether a device is a GPU that the compiled kernels can be used on."""
    return device.type == "cuda" and not unavailable_reason("cuda") and is_supported_gpu(device.index)


def read_on_device(embedded, lengths, lstm_weights, readout, num_layers, bidirectional):
    """`read_lstm` without gradients, by our own kernels on a GPU."""
    if not has_kernels(embedded.device):
        return read_lstm(embedded, lengths, lstm_weights, readout, num_layers, bidirectional)
    # cuDNN would compute float32 in tf32 by default, and warn of weights that are not one piece of memory.
    states, _ = masked_lstm(
        embedded,
        None,
        lstm_weights,
        None,
        num_layers=num_layers,
        bidirectional=bidirectional,
        lengths=lengths if readout == "last_word" else None,
        backend="cuda",
    )
    return read_state(states, lengths, readout)

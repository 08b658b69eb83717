"""Runs a classifier, masked or not, over many documents without gradients.

Letters: N documents, n documents of a batch, T words, V vocabulary, E embedding size, H hidden size, D directions,
C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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

BATCH = 256  # documents
MOST_PROJECTED = 128 << 20  # the most bytes that `project_words` allocates; R8's vocabulary needs 16 MB


def read_lstm(
    embedded: Tensor,
    lengths: Tensor,
    lstm_weights: list[Tensor],
    readout: str,
    num_layers: int = 1,
    bidirectional: bool = False,
) -> Tensor:
    """The LSTM output that the linear layer reads, by torch's own LSTM kernels; with gradients where enabled.

    Args:
        embedded: word vectors (T, n, E).
        lengths: real words of each document, (n,), 1 to T.
        lstm_weights: in torch's order.
        readout: see ``reference_model.read_state``.
        num_layers: of the LSTM.
        bidirectional: whether it has both directions.

    Returns:
        (n, D * H).
    """
    cells = num_layers * (2 if bidirectional else 1)
    zeros = embedded.new_zeros(cells, embedded.shape[1], lstm_weights[1].shape[1])
    options = (lstm_weights, True, num_layers, 0.0, torch.is_grad_enabled(), bidirectional)
    if bidirectional and readout == "last_word":  # the reverse direction must begin at the last word, not in padding
        packed = pack_padded_sequence(embedded, lengths.cpu(), enforce_sorted=False)
        data = torch.lstm(packed.data, packed.batch_sizes, (zeros, zeros), *options)[0]
        states, _ = pad_packed_sequence(PackedSequence(data, *packed[1:]))
    else:
        states = torch.lstm(embedded, (zeros, zeros), *options, False)[0]
    return read_state(states, lengths, readout)


def by_length(ids: Tensor, lengths: Tensor, readout: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of documents of similar length, so that less padding is computed; no result depends on it.

    Args:
        ids: token ids (N, T).
        lengths: (N,).
        readout: with ``"last_position"`` padding is part of the input, so the documents stay as they are.

    Yields:
        Indices of the documents (n,), their words (T', n) up to the longest one's T', and lengths (n,).
    """
    order = torch.argsort(lengths, stable=True) if readout == "last_word" else torch.arange(len(ids))
    for chosen in order.split(BATCH) if len(ids) else ():
        words, length = ids[chosen].T, lengths[chosen]
        yield chosen, words[: int(length.max())] if readout == "last_word" else words, length


@torch.no_grad()
def project_words(weights: Mapping[str, Tensor], backend: str = "cpu") -> Tensor | None:
    """The LSTM's input projection of every word, which `class_logits` can then look up for each word of a document.

    Args:
        weights: weights by key, on the CPU.
        backend: as in `class_logits`.

    Returns:
        (V, 4 * H); None where `class_logits` has no use for it, or it would take more than ``MOST_PROJECTED`` bytes.
    """
    table, gates = weights[EMBEDDING], weights[WEIGHT_KEYS[1]]
    size = len(table) * len(gates) * table.element_size()
    if size > MOST_PROJECTED or not _reads_documents(weights, backend):
        return None
    return _ext.C.project_words([weights[key].detach().contiguous() for key in WEIGHT_KEYS])


def _reads_documents(weights: Mapping[str, Tensor], backend: str) -> bool:
    """Whether the CPU kernels compute documents with these weights, for that backend."""
    table = weights[EMBEDDING]
    return table.device.type == "cpu" and is_plain(weights) and choose_kernels(backend, table) is _ext.C


def _reads_on_gpu(weights: Mapping[str, Tensor], ids: Tensor, backend: str) -> bool:
    """Whether the CUDA kernels compute all documents in one call, which releases Python's global lock."""
    if resolve(backend) not in ("auto", "cuda") or not has_kernels(weights[EMBEDDING].device):
        return False
    return is_plain(weights) and weights[EMBEDDING].dtype in FULL_DTYPES and ids.device.type == "cpu"


@torch.no_grad()
def class_logits(
    weights: Mapping[str, Tensor],
    ids: Tensor,
    lengths: Tensor,
    readout: str,
    backend: str = "torch",
    projected: Tensor | None = None,
) -> Tensor:
    """Logits over the base's classes.

    Args:
        weights: weights by key, already masked if they are to be, on the device that computes.
        ids: token ids (N, T) int64.
        lengths: real words of each document, (N,), 1 to T.
        readout: see ``reference_model.read_state``.
        backend: ``"torch"`` for torch's own LSTM; ``"auto"`` for this package's kernels where they are installed and
            the base has one layer in one direction, ``"cpu"`` or ``"cuda"`` for those of that device.
        projected: the result of `project_words` for these weights: the CPU then saves a third of its work, and no bit
            of the result changes.

    Returns:
        (N, C), on the device of ``ids``.

    Raises:
        BackendError: a backend that does not exist or cannot be used.
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
def logits_at_once(weights: Mapping[str, Tensor], words: Tensor, lengths: Tensor, readout: str) -> Tensor:
    """Logits (n, C) of one batch: words (T, n) and lengths (n,), int64, on the weights' device.

    It computes in the weights' dtype, also under autocast. On a GPU it does not synchronise, so a CUDA graph can record
    it.
    """
    with torch.autocast(words.device.type, enabled=False):
        embedded = functional.embedding(words, weights[EMBEDDING])
        lstm_weights = [weights[key] for key in lstm_keys(weights)]
        state = read_on_device(embedded, lengths, lstm_weights, readout, *lstm_shape(weights))
        return functional.linear(state, *(weights[key] for key in LINEAR_KEYS))


def has_kernels(device: torch.device) -> bool:
    """Whether a device is a GPU on which the compiled kernels run."""
    return device.type == "cuda" and not unavailable_reason("cuda") and is_supported_gpu(device.index)


def read_on_device(
    embedded: Tensor,
    lengths: Tensor,
    lstm_weights: list[Tensor],
    readout: str,
    num_layers: int,
    bidirectional: bool,
) -> Tensor:
    """`read_lstm` without gradients, on a GPU by this package's kernels."""
    if not has_kernels(embedded.device):
        return read_lstm(embedded, lengths, lstm_weights, readout, num_layers, bidirectional)
    # cuDNN would by default compute float32 in TF32, and warn about weights that are not contiguous with one another.
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

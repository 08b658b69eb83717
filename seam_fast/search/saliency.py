"""How much each weight of a base matters for one target, before anything is trained."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier.inference import read_lstm
from ..classifier.state_keys import EMBEDDING, LINEAR_KEYS, lstm_keys, lstm_shape

DOCUMENTS_AT_ONCE = 32


def weight_saliency(
    weights: Mapping[str, Tensor],
    documents: Iterable[tuple[Tensor, Tensor, Tensor]],
    target: tuple[int, ...],
    readout: str,
) -> dict[str, Tensor]:
    """Sum of |w * dL/dw| over batches of documents, for each weight w of a base.

    That is the first-order estimate of how L changes where w is set to zero: connection sensitivity in Lee, Ajanthan
    and Torr, "SNIP", ICLR 2019; the Taylor criterion in Molchanov et al., "Pruning convolutional neural networks for
    resource efficient inference", ICLR 2017. L is the mean cross entropy of the base itself as a detector of the
    target, whose probability is the sum of those of the target's classes.

    It is computed in float64 on the CPU, so that the order of weights does not depend on the number of threads.

    Args:
        weights: The base's, by weight key.
        documents: Ids (n, T), lengths (n,), and which of them are the target's, bool (n,); in any number of parts.
        target: Class numbers of the target.
        readout: The base's.

    Returns:
        At least 0, float64, in the weights' shapes by weight key.
    """
    exact = {key: weight.detach().cpu().double() for key, weight in weights.items()}
    found = {key: torch.zeros_like(weight) for key, weight in exact.items()}
    rest = [key for key in exact if key != EMBEDDING]
    wanted = torch.zeros(len(exact[LINEAR_KEYS[0]]), dtype=torch.bool)
    wanted[list(target)] = True
    for ids, lengths, is_target in documents:
        parts = zip(*(part.split(DOCUMENTS_AT_ONCE) for part in (ids, lengths, is_target)), strict=True)
        for some_ids, some_lengths, some_are in parts:
            with torch.enable_grad():
                rows, index = torch.unique(_read(some_ids, some_lengths, readout).T, return_inverse=True)
                leaves = {EMBEDDING: exact[EMBEDDING][rows]} | {key: exact[key].clone() for key in rest}
                for leaf in leaves.values():
                    leaf.requires_grad_()
                embedded = functional.embedding(index, leaves[EMBEDDING])
                lstm = [leaves[key] for key in lstm_keys(leaves)]
                state = read_lstm(embedded, some_lengths, lstm, readout, *lstm_shape(leaves))
                logits = functional.linear(state, *(leaves[key] for key in LINEAR_KEYS))
                detector_loss(logits, some_are, wanted).backward()
            for key, leaf in leaves.items():
                if leaf.grad is None:
                    continue
                size = (leaf.detach() * leaf.grad).abs_()
                if key == EMBEDDING:
                    found[key].index_add_(0, rows, size)
                else:
                    found[key] += size
    return found


def _read(ids: Tensor, lengths: Tensor, readout: str) -> Tensor:
    """Documents (n, T) without the columns that no document reads."""
    return ids[:, : int(lengths.max())] if readout == "last_word" else ids


def detector_loss(logits: Tensor, is_target: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross entropy of a classifier as a detector of some of its classes, in nats a document.

    Args:
        logits: (n, C).
        is_target: Which documents are the target's, bool (n,).
        wanted: Which classes are, bool (C,); neither none nor all.
    """
    all_classes = logits.logsumexp(1)
    of_target, of_rest = logits[:, wanted].logsumexp(1), logits[:, ~wanted].logsumexp(1)
    return (all_classes - torch.where(is_target, of_target, of_rest)).mean()

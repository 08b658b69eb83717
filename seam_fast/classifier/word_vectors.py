"""Word vectors from co-occurrence counts of the training texts, with which the strong recipe begins.

Letters: V words, E dimensions of a vector, T words of a text.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# These tensors are valid by construction. The keyword leaves the process's own setting of the checks alone.
_sparse = functools.partial(torch.sparse_coo_tensor, check_invariants=False)


def cooccurrence_vectors(
    texts: list[Tensor],
    vocab_size: int,
    dim: int,
    window: int,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Tensor:
    """Word vectors by factorising the matrix of positive pointwise mutual information (Levy and Goldberg 2014).

    The factorisation is a truncated singular value decomposition by randomised subspace iteration; each dimension is
    scaled by the square root of its singular value.

    Args:
        texts: token ids of each text, (T,) int64.
        vocab_size: V.
        dim: E.
        window: two words at most so many positions apart co-occur, with weight 1 / distance.
        generator: draws the start of the iteration.
        device: a GPU that counts the pairs; else the CPU does.

    Returns:
        (V, E) float32. The rows of words that co-occur with none and the dimensions beyond the matrix's rank are zero;
        the other rows together have standard deviation 1.
    """
    vectors = torch.zeros(vocab_size, dim, dtype=torch.float32)
    matrix = _positive_mutual_information(texts, vocab_size, window, device)
    if matrix is None:
        return vectors
    rank = min(dim, vocab_size)
    basis = torch.randn(vocab_size, min(rank + 20, vocab_size), generator=generator, dtype=torch.float32)
    for _ in range(2):
        basis = torch.linalg.qr(matrix.t() @ torch.linalg.qr(matrix @ basis)[0])[0]
    left, values, _ = torch.linalg.svd(matrix @ basis, full_matrices=False)
    vectors[:, :rank] = left[:, :rank] * values[:rank].sqrt()
    co_occurs = torch.zeros(vocab_size, dtype=torch.bool)
    co_occurs[matrix.indices()[0]] = True
    vectors[~co_occurs] = 0
    spread = vectors[co_occurs].std(correction=0)
    return vectors / spread if spread > 0 else vectors


def _positive_mutual_information(
    texts: list[Tensor], vocab_size: int, window: int, device: torch.device | None = None
) -> Tensor | None:
    """Positive pointwise mutual information of words and contexts, sparse (V, V), coalesced; None if all are zero."""
    size = (vocab_size, vocab_size)
    if device is not None and device.type == "cuda":
        counts = count_pairs_on(device, texts, vocab_size, window)
    else:
        counts = count_pairs(texts, vocab_size, window)
    if counts.values().numel() == 0:
        return None
    words, contexts = counts.indices()
    count = torch.zeros(vocab_size, dtype=torch.float64).index_add_(0, words, counts.values().double())
    # The power smooths the distribution of contexts: rare ones would otherwise get far too much information.
    context_share = count**0.75 / (count**0.75).sum()
    information = (counts.values() / (count[words] * context_share[contexts])).log()
    positive = information > 0
    if not bool(positive.any()):
        return None
    return _sparse(counts.indices()[:, positive], information[positive].float(), size, is_coalesced=True)


def count_pairs(texts: list[Tensor], vocab_size: int, window: int) -> Tensor:
    """Co-occurrence counts, each pair weighted by 1 / distance: sparse (V, V) float32, coalesced."""
    size = (vocab_size, vocab_size)
    counts = _sparse(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, dtype=torch.float32), size)
    for start in range(0, len(texts), 2000):  # in parts, since the list of pairs is far larger than their sums
        part = texts[start : start + 2000]
        for distance in range(1, window + 1):
            long_enough = [words for words in part if len(words) > distance]
            if not long_enough:
                break
            firsts = torch.cat([words[:-distance] for words in long_enough])
            seconds = torch.cat([words[distance:] for words in long_enough])
            pairs = torch.stack([torch.cat([firsts, seconds]), torch.cat([seconds, firsts])])
            weights = torch.full((pairs.shape[1],), 1.0 / distance, dtype=torch.float32)
            counts = counts + _sparse(pairs, weights, size)
        counts = counts.coalesce()
    return counts


def count_pairs_on(device: torch.device, texts: list[Tensor], vocab_size: int, window: int) -> Tensor:
    """`count_pairs` on a GPU, returned on the CPU; differs by rounding, as it sums in another order."""
    size = (vocab_size, vocab_size)
    nothing = torch.zeros(2, 0, dtype=torch.int64, device=device), torch.zeros(0, dtype=torch.float32, device=device)
    counts = _sparse(*nothing, size).coalesce()
    for start in range(0, len(texts), 20_000):
        part = texts[start : start + 20_000]
        words, lengths = torch.cat(part).to(device), torch.tensor([len(text) for text in part])
        # How many words of its own text follow each word.
        rest = (torch.repeat_interleave(lengths.cumsum(0), lengths) - torch.arange(len(words)) - 1).to(device)
        pairs, weights = [counts.indices()], [counts.values()]
        for distance in range(1, window + 1):
            positions = torch.nonzero(rest >= distance)[:, 0]
            firsts, seconds = words[positions], words[positions + distance]
            pairs += [torch.stack([firsts, seconds]), torch.stack([seconds, firsts])]
            weights.append(torch.full((2 * len(positions),), 1.0 / distance, dtype=torch.float32, device=device))
        counts = _sparse(torch.cat(pairs, 1), torch.cat(weights), size).coalesce()
    return counts.cpu()

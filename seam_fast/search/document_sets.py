"""Sets of documents: those of a target, the reference's balanced draw, and the words that occur in a set."""

import numpy as np
import torch
from torch import Tensor

from ..data.class_numbers import is_target
from ..data.corpus import Corpus
from .settings import Settings


def balanced(labels: Tensor, target: tuple[int, ...]) -> Tensor:
    """The reference's fixed draw: all target documents in order, then equally many others.

    The others are the first ones after ``RandomState(0).shuffle`` of their indices (NumPy's legacy generator, as in
    SeaM); all of them where they are fewer than the targets.

    Args:
        labels: Class numbers (N,).
        target: Class numbers of the target.

    Returns:
        Indices of the chosen documents, int64 (n,).
    """
    wanted = is_target(labels, target)
    targets, others = torch.nonzero(wanted)[:, 0], torch.nonzero(~wanted)[:, 0].numpy()
    np.random.RandomState(0).shuffle(others)
    return torch.cat([targets, torch.from_numpy(others[: len(targets)].copy())])


def evaluation_view(settings: Settings, labels: Tensor, target: tuple[int, ...]) -> Tensor:
    """Which of the evaluation documents are used: the reference's balanced subset where the settings ask for it, else
    all.

    Args:
        settings: The settings.
        labels: Class numbers of the documents (N,).
        target: Class numbers of the target.

    Returns:
        Indices, int64 (n,).
    """
    if settings.evaluation_subset == "sampled" and settings.sampling == "balanced":
        return balanced(labels, target)
    return torch.arange(len(labels))


def take(tensor: Tensor, indices: np.ndarray) -> Tensor:
    """The entries (n, ...) of a tensor on the CPU at some indices.

    By NumPy, which keeps Python's lock. torch gives it away, and where dozens of modules are trained, each epoch would
    then wait for other threads at every such call.
    """
    return torch.from_numpy(tensor.numpy()[indices])


def distinct_ids(ids: Tensor) -> np.ndarray:
    """The distinct word ids in a tensor of any shape, sorted: int64. Marks them in a table of the vocabulary's size,
    which takes less time than sorting all words.
    """
    values = ids.numpy()
    occurs = np.zeros(values.max(initial=-1) + 1, dtype=bool)
    occurs[values] = True
    return np.flatnonzero(occurs)


def vocabulary_floor(corpus: Corpus, indices: Tensor, total: int, embedding_dim: int) -> float:
    """Share of weights left when only the embedding rows of words that do not occur in some documents are dropped: what
    a module's size has to be compared with.

    Args:
        corpus: Where the documents come from.
        indices: Indices of training documents, int64.
        total: Number of weights of the base.
        embedding_dim: Numbers of an embedding row.

    Returns:
        The share, in [0, 1]. Padding counts as a word only where the corpus pads with a word of the vocabulary.
    """
    ids, lengths = corpus.train.ids[indices], corpus.train.lengths[indices]
    if corpus.config.padding == "own":
        ids = ids[torch.arange(ids.shape[1]) < lengths[:, None]]
    rows = len(distinct_ids(ids))
    return (total - (corpus.vocab_size - rows) * embedding_dim) / total

"""Counts of words and folds of documents, for linear models beside an LSTM (scikit-learn, extra ``[sklearn]``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Array = npt.NDArray[Any]

FOLDS = 5


def has_sklearn() -> bool:
    """Whether scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return False
    return True


def need_sklearn(what: str) -> None:
    """Raises DataError where scikit-learn is not installed; what: who needs it, in the plural."""
    if not has_sklearn():
        raise DataError(f"{what} need scikit-learn: pip install 'seam-fast[sklearn]'")


def word_counts(ids: Tensor, lengths: Tensor, vocab_size: int) -> csr_matrix:
    """How often each word is read of each document: ids (N, T), lengths (N,) -> (N, V)."""
    from scipy.sparse import csr_matrix

    inside = np.arange(ids.shape[1]) < lengths.numpy()[:, None]
    rows = np.repeat(np.arange(len(ids)), lengths.numpy())
    counted = csr_matrix((np.ones(len(rows)), (rows, ids.numpy()[inside])), shape=(len(ids), vocab_size))
    counted.sum_duplicates()
    return counted


def fold_numbers(labels: Array) -> Array:
    """The fold of each document, 0 to FOLDS - 1, (N,) int64: each fold has its share of each label, (N,)."""
    numbers = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        numbers[members] = np.random.default_rng(0).permutation(len(members)) % FOLDS
    return numbers

"""What estimators are given: texts and labels are checked, and become a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from ..data.corpus import Corpus
from ..data.documents import Locations, VocabularyOwner
from ..data.values import as_list, is_missing, texts_of
from ..errors import SeamFastError


class InputError(SeamFastError, ValueError):
    """Input that an estimator cannot use. It is a ValueError as well, which scikit-learn expects of estimators."""


@contextmanager
def as_input_errors() -> Iterator[None]:
    """Raises the package's errors as `InputError`, with the same sentence."""
    try:
        yield
    except SeamFastError as error:
        raise InputError(str(error)) from error


def checked_texts(X: Any) -> list[str]:
    """The texts of documents (N,).

    Raises:
        InputError: X has columns, or an entry is no string.
    """
    columns = getattr(X, "ndim", 1)
    if columns != 1:
        raise InputError(
            f"X has {columns} dimensions; it must be a list of texts: of a table give one column, "
            "such as frame['text']."
        )
    with as_input_errors():
        texts = as_list(X, "X")
        return texts_of(texts, Locations("X[", range(len(texts)), "]"))


def checked_labels(y: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes (C,) in sorted order, and the index of each document's class (N,) int64.

    Args:
        y: a label for each document, strings or numbers.
        count: N.

    Raises:
        ValueError: y is missing, of another length, has values that are missing, one class, or is no classification's;
            in scikit-learn's words or, as InputError, in the package's.
    """
    if y is None:
        raise InputError("requires y to be passed, but the target y is None: give the class of each text.")
    labels = column_or_1d(y, warn=True)
    if len(labels) != count:
        raise InputError(f"X has {count} entries, y has {len(labels)}; give a label for each text.")
    if labels.dtype.kind in "fc":
        assert_all_finite(labels, input_name="y")
    elif labels.dtype.kind == "O":
        for i, label in enumerate(labels):
            if is_missing(label):
                raise InputError(f"y[{i}] is missing ({label!r}); give the text a class, or take it out.")
    check_classification_targets(labels)
    try:
        classes, numbers = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise InputError(f"y holds labels of types that cannot be sorted ({error}); make them of one type.") from error
    if len(classes) < 2:
        raise InputError(f"y has 1 class alone, {classes.tolist()[0]!r}; at least two are needed.")
    return classes, numbers.astype(np.int64)


def corpus_of_classes(
    texts: Sequence[str],
    numbers: np.ndarray,
    classes: np.ndarray,
    *,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """A corpus without test documents, whose classes are in the order of ``classes``.

    Args:
        texts: of the documents (N,).
        numbers: the index of each document's class (N,) int64.
        classes: the labels (C,).
        base: a base on such classes, whose vocabulary is used.
        **options: as of `Corpus.from_lists`.

    Raises:
        InputError: the documents are refused, for example because all are of one class.
    """
    names = [str(label) for label in classes]
    if base is None:
        options = {"smallest_class": 1} | options
    with as_input_errors():
        return Corpus.from_lists(
            texts, [names[k] for k in numbers], class_names=names, test_share=0, name="fit", base=base, **options
        )

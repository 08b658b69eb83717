"""Which classes a corpus has, and the number of each document's class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from . import checks
from .documents import Documents, VocabularyOwner

OF_NO_CLASS = -1  # label of a document whose class the base does not know


def choose_class_names(train: Documents, smallest_class: int, order: Sequence[str] | None = None) -> tuple[str, ...]:
    """The classes of the training documents.

    Args:
        train: the training documents.
        smallest_class: documents that each needs.
        order: names in the order of their numbers; a DataWarning tells of those without documents, which are left out.
            None: order of first appearance.

    Raises:
        DataError: a class is too small, or there is one class only.
    """
    counts = Counter(train.labels)
    for label, count in counts.items():
        if count < smallest_class:
            have = "this one training document only" if count == 1 else f"only {count} training documents, from here on"
            raise DataError(
                f"{train.location(train.labels.index(label))}: class {label!r} has {have}, and {smallest_class} are "
                "needed: correct the label if it is a slip, add documents, remove the class, or, if it is a class of "
                f"that size, allow it with --smallest-class {count}."
            )
    if len(counts) < 2:
        clause = checks.name_columns(train)
        raise DataError(
            f"{train.path}: all documents are of class {train.labels[0]!r}; at least two are needed"
            f"{'; ' + clause if clause else ''}."
        )
    if order is not None:
        return _in_order(train, counts, order)
    names = list(counts)
    if train.label_stripped and all(label.isdecimal() for label in names):
        names.sort(key=int)  # that layout's labels are class ids, which checkpoints trained on it use
    return tuple(names)


def _in_order(train: Documents, there: Counter[str], order: Sequence[str]) -> tuple[str, ...]:
    """The names that have documents, in a given order. Raises DataError for a class that is not in it."""
    known = set(order)
    for label in there:
        if label not in known:
            location = train.location(train.labels.index(label))
            raise DataError(f"{location}: class {label!r} is not among class_names ({checks.few(order)}); add it.")
    missing = [name for name in order if name not in there]
    if missing:
        count = "class" if len(missing) == 1 else "classes"
        checks.warn(
            f"{train.path}: no training document is of {count} {checks.few(missing)}, left out, so that the classes "
            "behind have smaller numbers than their labels had."
        )
    return tuple(name for name in order if name in there)


def number_all(
    documents: Documents, class_names: Sequence[str], train: Documents, base: VocabularyOwner | None
) -> np.ndarray:
    """Each document's class id (N,). Raises DataError for a class that is not among the names."""
    by_base = base is not None and base.class_names is not None
    numbers, foreign = number(documents, class_names, "the base" if by_base else "the training documents")
    if foreign:
        location = documents.location(documents.labels.index(foreign[0]))
        if by_base:
            raise DataError(
                f"{location}: the base does not know class {foreign[0]!r}; its classes are "
                f"{checks.few(class_names)}. Take those documents out, or train a base on these."
            )
        hint = checks.where_the_label_is(documents, class_names)
        raise DataError(
            f"{location}: class {foreign[0]!r} does not occur in the training documents ({train.path}){hint}."
        )
    return numbers


def number(documents: Documents, class_names: Sequence[str], whose: str) -> tuple[np.ndarray, list[str]]:
    """Each document's class id (N,), `OF_NO_CLASS` for other classes, and the names of those.

    Raises DataError where one of them is another spelling of a class name.
    """
    numbers = {label: i for i, label in enumerate(class_names)}
    foreign = [label for label in dict.fromkeys(documents.labels) if label not in numbers]
    written = {checks.alike(name): name for name in class_names}
    for label in foreign:
        name = written.get(checks.alike(label))
        if name is not None:
            raise DataError(
                f"{documents.location(documents.labels.index(label))}: {checks.told_apart(label, name)} of {whose}; "
                "write them alike."
            )
    found = (numbers.get(label, OF_NO_CLASS) for label in documents.labels)
    return np.fromiter(found, dtype=np.int64, count=len(documents.labels)), foreign


def is_target(labels: Tensor, target: tuple[int, ...]) -> Tensor:
    """Which documents belong to the target: class numbers (N,) -> bool (N,)."""
    return torch.isin(labels, torch.tensor(target))

"""The published R8: its classes, file names and checksums, and reading the text files from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .documents import Documents
from .read_files import read_documents

Log = Callable[[str], object]

CLASSES = ("earn", "acq", "trade", "ship", "grain", "crude", "interest", "money-fx")
FILES = {"train": "r8-train-all-terms.txt", "test": "r8-test-all-terms.txt"}
SHA256 = {
    "train": "3ed60c905aaa95b96c3fc4afb6d14ad2e20106c59c5b9dda950dcb3075eecfbe",
    "test": "2ba368c42e6808bc3dc68b8f7879eb07a2810ed137f0b304e2213b689677e561",
}

HOW_TO = (
    "Put r8-train-all-terms.txt and r8-test-all-terms.txt, or a copy of Reuters-21578 (reut2-*.sgm), into a folder "
    "and name it with --data-dir or SEAM_FAST_DATA."
)


class Found(NamedTuple):
    """R8 from one source: raw documents, a sentence on where they are from, and the folder or archive they lie in."""

    train: Documents
    test: Documents
    source: str
    path: Path


def has_text_files(folder: Path) -> bool:
    """Whether a folder holds any file of the layouts that `read_text_files` reads."""
    names = (*FILES.values(), "train.txt", "test.txt", "train_txt.txt", "train_label.txt")
    return any((folder / name).is_file() for name in names)


def read_text_files(folder: Path) -> Found:
    """R8 from text files in any layout of `read_documents`. Raises DataError for labels that are not R8's."""
    train, test = read_documents(folder, "r8")
    if train.label_stripped:
        # That layout numbers the classes; the numbers are R8's, so give them R8's names.
        if not set(train.labels) | set(test.labels) <= {str(k) for k in range(len(CLASSES))}:
            raise DataError(f"{train.path}: R8's labels there are the numbers 0 to {len(CLASSES) - 1}, no others.")
        train, test = (replace(split, labels=[CLASSES[int(k)] for k in split.labels]) for split in (train, test))
        source = f"{count_documents(train, test)} in {folder}, labels already deleted from the texts"
        return Found(train, test, source, folder)
    for split in (train, test):
        for i, label in enumerate(split.labels):
            if label not in CLASSES:
                raise DataError(f"{split.location(i)}: {label!r} is no class of R8; load this corpus by its own name.")
    kind = "as published" if is_published(train, test) else "NOT the published files (checksums differ)"
    return Found(train, test, f"{count_documents(train, test)} in {folder}, {kind}", folder)


def is_published(train: Documents, test: Documents) -> bool:
    """Whether these documents, written as label-tab-text lines, have the checksums of the published files."""

    def digest(documents: Documents) -> str:
        pairs = zip(documents.labels, documents.texts, strict=True)
        return hashlib.sha256("\n".join(f"{label}\t{text}" for label, text in pairs).encode()).hexdigest()

    return digest(train) == SHA256["train"] and digest(test) == SHA256["test"]


def count_documents(train: Documents, test: Documents) -> str:
    """Both numbers of documents, for a sentence."""
    return f"{len(train.labels):,} training and {len(test.labels):,} test documents"

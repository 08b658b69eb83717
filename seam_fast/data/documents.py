"""Raw documents, and what must be known of a classifier to number their words and classes as it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .corpus_config import CorpusConfig


@dataclass(frozen=True, eq=False)
class Locations:
    """How messages name the rows of a source; a name is made when it is asked for.

    Attributes:
        before: what stands before a row's number.
        numbers: the number of each row, or what it is known by.
        behind: what stands behind it.
    """

    before: str
    numbers: Sequence[Any]
    behind: str = ""

    def __getitem__(self, i: int) -> str:
        """The name of row i."""
        return f"{self.before}{self.numbers[i]}{self.behind}"

    def take(self, rows: Sequence[int]) -> Locations:
        """The locations of some rows."""
        return replace(self, numbers=[self.numbers[i] for i in rows])


@dataclass(frozen=True, eq=False)
class Documents:
    """Raw documents of one split, and where each came from, for error messages.

    Attributes:
        labels: the class name of each document.
        texts: the text of each document.
        path: the file, folder, archive or object that they came from.
        locations: how messages name each document; None: line i + 1 of ``path``.
        label_stripped: whether the label string was already deleted from the texts.
        remedy: what messages advise where the labels seem to be no classes; empty for lines label<TAB>text, of whose
            columns `checks` knows more.
    """

    labels: list[str]
    texts: list[str]
    path: str
    locations: Sequence[str] | Locations | None = None
    label_stripped: bool = False
    remedy: str = ""

    def location(self, i: int) -> str:
        """How messages name document i."""
        return self.locations[i] if self.locations is not None else f"{self.path}, line {i + 1}"

    def take(self, rows: Sequence[int]) -> Documents:
        """Some of the documents, in that order."""
        locations: Sequence[str] | Locations
        if isinstance(self.locations, Locations):
            locations = self.locations.take(rows)
        elif self.locations is not None:
            locations = [self.locations[i] for i in rows]
        else:
            locations = Locations(f"{self.path}, line ", [i + 1 for i in rows])
        labels, texts = ([values[i] for i in rows] for values in (self.labels, self.texts))
        return replace(self, labels=labels, texts=texts, locations=locations)


class VocabularyOwner(Protocol):
    """A classifier, such as ``LSTMClassifier``, whose vocabulary, classes and text treatment new documents follow."""

    class_names: tuple[str, ...] | None
    vocabulary: tuple[str, ...] | None

    @property
    def corpus_config(self) -> CorpusConfig:
        """How documents become token ids."""

    def word_index(self) -> dict[str, int]:
        """Token id by word. Raises CheckpointError for a base without a vocabulary."""

    def names_or_refuse(self) -> tuple[str, ...]:
        """The class names. Raises CheckpointError for a base without them."""

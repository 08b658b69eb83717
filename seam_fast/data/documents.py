"""Raw documents, and what must be known of a classifier to number their words and classes as it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .corpus_config import CorpusConfig


@dataclass(frozen=True, eq=False)
class Documents:
    """Raw documents of one split, and where each came from, for error messages.

    Attributes:
        labels: the class name of each document.
        texts: the text of each document.
        path: the file, folder or archive that they came from.
        locations: how messages name each document; None: line i + 1 of ``path``.
        label_stripped: whether the label string was already deleted from the texts.
    """

    labels: list[str]
    texts: list[str]
    path: str
    locations: Sequence[str] | None = None
    label_stripped: bool = False

    def location(self, i: int) -> str:
        """How messages name document i."""
        return self.locations[i] if self.locations is not None else f"{self.path}, line {i + 1}"


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

"""Raw documents, and what has to be known of a base to number their words and classes as it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .corpus_config import CorpusConfig


@dataclass(frozen=True, eq=False)
class Documents:
    """Raw documents of one split, and where each came from, for error messages.

    places: what to call document i; None means line i + 1 of `path`.
    label_stripped: the label string is already gone from the texts.
    """

    labels: list[str]
    texts: list[str]
    path: str
    places: Sequence[str] | None = None
    label_stripped: bool = False

    def place(self, i: int) -> str:
        return self.places[i] if self.places is not None else f"{self.path}, line {i + 1}"


class VocabularyOwner(Protocol):
    """A classifier, such as ``LSTMClassifier``: whose words, classes and text treatment new documents follow."""

    class_names: tuple[str, ...] | None
    vocabulary: tuple[str, ...] | None

    @property
    def corpus_config(self) -> CorpusConfig: ...

    def word_index(self) -> dict[str, int]: ...

    def names_or_refuse(self) -> tuple[str, ...]: ...

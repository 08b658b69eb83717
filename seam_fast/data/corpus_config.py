"""The settings by which documents become token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import DataError
from .tokenizer import Tokenizer

_CHOICES = {
    "text": ("whole", "label_stripped"),
    "vocabulary": ("train", "train_and_test"),
    "padding": ("own", "word"),
}


@dataclass(frozen=True, init=False)
class CorpusConfig:
    """How documents become token ids.

    Attributes:
        text: "whole"; or "label_stripped": every occurrence of a document's label is deleted from its text, inside
            words too (the public split's treatment: `acquire` of class acq becomes `uire`).
        vocabulary: "train"; or "train_and_test": train's words, then test's, in order of first appearance, with an
            end-of-document mark that has an id and is never fed to the model (as in SeaM's LSTM port).
        padding: "own": id 0 is padding, id 1 the unknown word; "word": rows are padded with id 0, which is a real
            word's, and words outside the vocabulary are skipped (as in SeaM's LSTM port).
        max_length: words kept of each document, from its beginning.
        tokenizer: how a text becomes words: a `Tokenizer`, or a rule or function to make one of. The default is for
            texts that were prepared before; without a configuration the loaders choose one that fits
            the texts (see `load_corpus`).
        min_count: how often a word must occur in the documents that the vocabulary is made from.

    Raises:
        DataError: a value outside these.
    """

    text: str
    vocabulary: str
    padding: str
    max_length: int
    tokenizer: Tokenizer
    min_count: int

    # Written out because the tokenizer's argument is of more types than the attribute.
    def __init__(
        self,
        text: str = "whole",
        vocabulary: str = "train",
        padding: str = "own",
        max_length: int = 64,
        tokenizer: Tokenizer | str | Callable[[str], Iterable[str]] = "spaces",
        min_count: int = 1,
    ) -> None:
        values: dict[str, Any] = {"text": text, "vocabulary": vocabulary, "padding": padding}
        for name, value in values.items():
            if value not in _CHOICES[name]:
                choices = " or ".join(f'"{choice}"' for choice in _CHOICES[name])
                raise DataError(f"corpus setting {name} must be {choices}, not {value!r}.")
        for name, count in (("max_length", max_length), ("min_count", min_count)):
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
                raise DataError(f"corpus setting {name} must be a whole number of at least 1, not {count!r}.")
            values[name] = int(count)
        values["tokenizer"] = Tokenizer.of(tokenizer)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen

    def as_dict(self) -> dict[str, Any]:
        """The settings in JSON's types, as ``CorpusConfig(**...)`` takes them; of a tokenizer function, its name."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"tokenizer": self.tokenizer.as_card()}

    @classmethod
    def for_protocol(cls, protocol: str) -> CorpusConfig:
        """The settings of protocol "seam" (the defaults) or "reference" (the public split's, 32 words)."""
        if protocol == "seam":
            return cls()
        if protocol == "reference":
            return cls(text="label_stripped", vocabulary="train_and_test", padding="word", max_length=32)
        raise DataError(f'protocol must be "seam" or "reference", not {protocol!r}.')

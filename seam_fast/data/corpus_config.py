"""How documents become ids."""

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


@dataclass(frozen=True)
class CorpusConfig:
    """How documents become ids.

    text: "whole", or "label_stripped": every occurrence of a document's label string is deleted from its text, inside
        words too (the public split's treatment: `acquire` of class acq becomes `uire`).
    vocabulary: "train", or "train_and_test": train's words, then test's, in order of first appearance, with an
        end mark after each document that takes an id and is never fed (the reference's).
    padding: "own": id 0 is padding, id 1 the unknown word; "word": rows are filled up with id 0, which is a real word,
        and words outside the vocabulary are skipped (the reference's).
    max_length: words kept of each document, from the front.
    tokenizer: how a text becomes words, a `Tokenizer`, the name of a rule, or a function. The default here is what
        texts need that were prepared before; without a configuration the loaders choose (see `own_config`).
    min_count: times that a word has to occur in the texts that the vocabulary is made of.

    Raises DataError for a value outside these.
    """

    text: str = "whole"
    vocabulary: str = "train"
    padding: str = "own"
    max_length: int = 64
    tokenizer: Tokenizer | str | Callable[[str], Iterable[str]] = "spaces"
    min_count: int = 1

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = " or ".join(f'"{value}"' for value in allowed)
                raise DataError(f"corpus setting {name} must be {choices}, not {getattr(self, name)!r}.")
        for name in ("max_length", "min_count"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise DataError(f"corpus setting {name} must be a whole number of at least 1, not {value!r}.")
            object.__setattr__(self, name, int(value))
        object.__setattr__(self, "tokenizer", Tokenizer.of(self.tokenizer))

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold, and ``CorpusConfig(**...)`` takes; of a tokenizer that is a function, its name."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"tokenizer": self.tokenizer.as_card()}

    @classmethod
    def for_protocol(cls, protocol: str) -> CorpusConfig:
        """The settings of protocol "seam" (the defaults) or "reference" (the public split's, 32 words)."""
        if protocol == "seam":
            return cls()
        if protocol == "reference":
            return cls(text="label_stripped", vocabulary="train_and_test", padding="word", max_length=32)
        raise DataError(f'protocol must be "seam" or "reference", not {protocol!r}.')

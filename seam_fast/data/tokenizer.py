"""How a text becomes words: one object that corpus, base, module and command line share.

A module is of use only where texts are split as those were that it was trained on. So the rule is part of a corpus'
configuration, is saved with base and module by its name, and `LSTMClassifier.encode` applies it to any new text.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Callable, Iterable

from ..errors import DataError

JOINERS = (0x200C, 0x200D)  # zero-width, but part of the spelling in Persian and Indic scripts
ZERO_WIDTH_SPACE = 0x200B


class Tokenizer:
    """Splits a text into words by one of four rules or by a function.

    rule:
        ``"spaces"``: at white space, the words as they are. What texts need that were prepared before, and what every
        file means that was written before there was a choice.
        ``"r8"``: lower case, the letters a to z alone, everything else a space: how the published R8 was made. Those
        files pass through it unchanged, and a raw text comes out as they are.
        ``"words"``: lower case (in Unicode's composed form), at white space; each punctuation mark and symbol is a word
        of its own.
        ``"characters"``: every character (composed form) is a word, a run of white space is one space. For scripts
        that are written without spaces.
        Or a function from a text to its words, for example ``jieba.lcut``. Files hold its name only, never its code,
        and whoever loads them has to give it again.

    Raises DataError for anything else, and where the function raises or returns something other than strings.
    """

    def __init__(self, rule: str | Callable[[str], Iterable[str]] = "words") -> None:
        self.is_function = callable(rule)
        if not self.is_function and not (isinstance(rule, str) and rule in RULES):
            choices = ", ".join(f'"{name}"' for name in RULES)
            raise DataError(f"corpus setting tokenizer must be {choices} or a function, not {rule!r}.")
        self.name = function_name(rule) if self.is_function else rule
        self._function = rule if self.is_function else None

    @classmethod
    def of(cls, rule: Tokenizer | str | Callable | dict) -> Tokenizer:
        """A Tokenizer of what stands for one: itself, a rule, or what `as_card` wrote into a file."""
        if isinstance(rule, cls):
            return rule
        if isinstance(rule, dict) and list(rule) == ["function"] and isinstance(rule["function"], str):
            named = cls("spaces")
            named.name, named.is_function = rule["function"], True
            return named
        return cls(rule)

    def as_card(self) -> str | dict[str, str]:
        """What files say of it: the rule's name, or ``{"function": name}`` where it is a function."""
        return {"function": self.name} if self.is_function else self.name

    @property
    def is_missing(self) -> bool:
        """Whether it is a function that a file names and nobody has given yet."""
        return self.is_function and self._function is None

    @property
    def reads_characters(self) -> bool:
        """Whether the rule is "characters", which makes several times as many words of a text as the others."""
        return self.name == "characters" and not self.is_function

    def __call__(self, text: str) -> list[str]:
        """The words of a text."""
        if not self.is_function:
            return RULES[self.name](text)
        if self.is_missing:
            raise DataError(
                f"texts were split by a function of the user's own, {self.name}, which files name but do not hold; "
                "give it again: LSTMClassifier.load(path, tokenizer=...), or --tokenizer MODULE:FUNCTION."
            )
        try:
            words = self._function(text)
            words = None if isinstance(words, str) else list(words)
        except Exception as error:
            raise DataError(f"the tokenizer {self.name} failed on {text[:40]!r}: {error!r}") from error
        if words is None or not all(isinstance(word, str) for word in words):
            raise DataError(f"the tokenizer {self.name} must return a list of strings; on {text[:40]!r} it did not.")
        return [word for word in words if word]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        one_missing = self.is_missing or other.is_missing
        return self.as_card() == other.as_card() and (one_missing or self._function == other._function)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name if self.is_function else repr(self.name)})"


def tokenizer_named(text: str) -> Tokenizer:
    """A Tokenizer by what a command line says: a rule, or ``MODULE:FUNCTION``, which is imported."""
    module, colon, function = text.partition(":")
    if not colon:
        return Tokenizer(text)
    try:
        found = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"the tokenizer {text!r} cannot be imported ({error}).") from error
    if not callable(found):
        raise DataError(f"the tokenizer {text!r} is a {type(found).__name__}, not a function.")
    return Tokenizer(found)


def function_name(function: Callable) -> str:
    """``module:name``, as `tokenizer_named` takes it."""
    kind = type(function)
    name = getattr(function, "__qualname__", None) or kind.__qualname__
    return f"{getattr(function, '__module__', None) or kind.__module__}:{name}"


def letters_only(text: str) -> str:
    """R8's form of a text: lower-case letters a to z, everything else a single space."""
    return re.sub("[^a-z]+", " ", text.lower()).strip()


class _Apart(dict):
    """For `str.translate`: sets punctuation and symbols apart, and takes away what cannot be seen."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if kind[0] in "PS":
            made = f" {character} "
        elif kind[0] == "Z" or kind == "Cc" or code == ZERO_WIDTH_SPACE:
            made = " "
        elif kind == "Cf" and code not in JOINERS:
            made = ""
        else:
            made = character
        self[code] = made
        return made


_APART = _Apart()


def _words(text: str) -> list[str]:
    # By category and not by \w, which ends a word at the vowel signs of Indic scripts.
    return unicodedata.normalize("NFC", text.lower()).translate(_APART).split()


def _characters(text: str) -> list[str]:
    return list(" ".join(unicodedata.normalize("NFC", text).split()))


RULES: dict[str, Callable[[str], list[str]]] = {
    "spaces": str.split,
    "r8": lambda text: letters_only(text).split(),
    "words": _words,
    "characters": _characters,
}

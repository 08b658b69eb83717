"""How a text becomes words: one object that corpus, base, module and command line share.

New texts must be split as the training texts were, or a module's results mean nothing. So the rule is part of a
corpus's configuration, base and module files hold its name, and `LSTMClassifier.encode` applies it to new texts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import DataError
from ..runtime import RULES, split_by


class Tokenizer:
    """Splits a text into words by one of four rules or by a function.

    The rules:

    - ``"spaces"``: splits at white space and changes nothing. For texts that were prepared before, and what files of
      earlier versions mean, which name no tokenizer.
    - ``"r8"``: lower case; everything but the letters a to z is a space: how the published R8 was made. Those files
      pass through it unchanged, and a raw text comes out in their form.
    - ``"words"``: lower case (in Unicode's composed form), split at white space; each punctuation mark and symbol is a
      word of its own.
    - ``"characters"``: every character (composed form) is a word, a run of white space is one space. For scripts that
      are written without spaces.

    Args:
        rule: one of these, or a function from a text to its words, for example ``jieba.lcut``. Files hold a function's
            name only, never its code, so it must be given again when they are loaded.

    Attributes:
        name: the rule, or the function's name as ``module:name``.
        is_function: whether it is a function.

    Raises:
        DataError: anything else; when called: the function fails or returns something other than strings.
    """

    def __init__(self, rule: str | Callable[[str], Iterable[str]] = "words") -> None:
        self._function: Callable[[str], Iterable[str]] | None = None
        if callable(rule):
            self.name, self.is_function = function_name(rule), True
            self._function = rule
        elif isinstance(rule, str) and rule in RULES:
            self.name, self.is_function = rule, False
        else:
            raise _refused(rule)

    @classmethod
    def of(cls, rule: Tokenizer | str | Callable[[str], Iterable[str]] | Mapping[str, str]) -> Tokenizer:
        """A Tokenizer from a Tokenizer, a rule, a function, or what `as_card` wrote into a file.

        Raises DataError for anything else.
        """
        if isinstance(rule, Tokenizer):
            return rule
        if isinstance(rule, Mapping):
            if list(rule) != ["function"] or not isinstance(rule["function"], str):
                raise _refused(rule)
            named = cls("spaces")
            named.name, named.is_function = rule["function"], True
            return named
        return cls(rule)

    def as_card(self) -> str | dict[str, str]:
        """What files hold: the rule's name, or ``{"function": name}`` for a function."""
        return {"function": self.name} if self.is_function else self.name

    @property
    def is_missing(self) -> bool:
        """Whether it is a function that a file names and that has not been given again."""
        return self.is_function and self._function is None

    @property
    def reads_characters(self) -> bool:
        """Whether the rule is "characters", which makes several times as many words of a text as other rules do."""
        return self.name == "characters" and not self.is_function

    def __call__(self, text: str) -> list[str]:
        """The words of a text. Raises DataError where the function is missing, fails, or returns no strings."""
        if not self.is_function:
            return RULES[self.name](text)
        if self._function is None:
            raise DataError(
                f"texts were split by a function of the user's own, {self.name}, which files name but do not hold; "
                "give it again: LSTMClassifier.load(path, tokenizer=...), or --tokenizer MODULE:FUNCTION."
            )
        return split_by(self._function, text, self.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        one_missing = self.is_missing or other.is_missing
        return self.as_card() == other.as_card() and (one_missing or self._function == other._function)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name if self.is_function else repr(self.name)})"


def _refused(rule: object) -> DataError:
    """The error for what is no tokenizer, to raise."""
    choices = ", ".join(f'"{name}"' for name in RULES)
    return DataError(f"corpus setting tokenizer must be {choices} or a function, not {rule!r}.")


def tokenizer_named(text: str) -> Tokenizer:
    """A Tokenizer from the command line's spelling: a rule, or ``MODULE:FUNCTION``, which is imported.

    Raises DataError where there is no such rule or function.
    """
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


def function_name(function: Callable[..., Any]) -> str:
    """A function's ``module:name``, as `tokenizer_named` takes it."""
    kind = type(function)
    name = getattr(function, "__qualname__", None) or kind.__qualname__
    return f"{getattr(function, '__module__', None) or kind.__module__}:{name}"

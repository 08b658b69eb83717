"""Which configuration a corpus gets: of protocol or base, by its texts, and with what the caller changes."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from ..common.arguments import whole_number
from ..errors import DataError
from .corpus_config import CorpusConfig
from .documents import Documents, VocabularyOwner
from .tokenizer import Tokenizer

CHARACTERS_READ = 256  # the default max_length where each character is a word


def refuse_beside_base(base: VocabularyOwner | None, protocol: str | None, smallest_class: int | None = None) -> None:
    """Raises DataError for arguments that a base leaves no choice in, and for a smallest_class that is no number."""
    if base is not None and protocol is not None:
        raise DataError(
            "protocol has no effect with a base, which has its own treatment of texts; leave one of them out."
        )
    if smallest_class is None:
        return
    if base is not None and base.class_names is not None:
        raise DataError("smallest_class has no effect with a base that names its classes; leave it out.")
    whole_number("smallest_class", smallest_class, 1)


def own_config(protocol: str, train: Documents) -> CorpusConfig:
    """The protocol's settings with the tokenizer that fits these documents.

    It is "r8" where the training texts consist of lower-case letters a to z, as texts that were prepared like R8 do:
    the rule then prepares new texts likewise. Otherwise it is "words" for protocol "seam", "spaces" for "reference".
    """
    config = CorpusConfig.for_protocol(protocol)
    if all(map(re.compile(r"[a-z\s]*").fullmatch, train.texts)):
        return replace(config, tokenizer=Tokenizer("r8"))
    return replace(config, tokenizer=Tokenizer("words")) if protocol == "seam" else config


def with_options(config: CorpusConfig, options: dict[str, Any]) -> CorpusConfig:
    """A configuration with some fields replaced. Raises DataError for a name that is no field."""
    known = [each.name for each in fields(CorpusConfig)]
    for name in options:
        if name not in known:
            raise DataError(f"there is no corpus setting {name!r}; there are {', '.join(known)}.")
    if options and "max_length" not in options and Tokenizer.of(options.get("tokenizer", "spaces")).reads_characters:
        options = options | {"max_length": CHARACTERS_READ}
    return replace(config, **options)

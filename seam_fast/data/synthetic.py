"""A generated corpus of R8's shape, for trying the tools where no copy of R8 can be had.

Its words are invented, and nothing measured on it says anything about R8: `Corpus.synthetic` is set and its name says
so. It shares with R8 the class names and sizes and the distributions of document lengths (log-normal, median 64, mean
about 100 words) and of word frequencies (Zipf's with a steeper tail, two fifths of the words seen once). Documents mix
common words with words typical of their class, in a proportion that varies from document to document; neighbouring
classes share some typical words, so that the classes can be learned, but not by one word each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .corpus import Corpus, build_corpus, refuse_beside_base, with_options
from .corpus_config import CorpusConfig
from .documents import Documents, VocabularyOwner
from .r8 import r8_config
from .r8_files import CLASSES

SIZES = {"train": (2840, 1596, 251, 108, 41, 253, 190, 206), "test": (1083, 696, 75, 36, 10, 121, 81, 87)}

COMMON_WORDS = 36_000  # about two thirds of them occur
ZIPF_SHIFT, TAIL_RANK = 1.5, 2500.0  # fitted to R8's frequencies by rank
TYPICAL_WORDS, SHARED_WORDS = 240, 80  # of each class; of each class and the next
SHARE = (3.0, 12.0)  # beta distribution of the share of typical words in a document, mean 1/5
LENGTH_MEDIAN, LENGTH_SPREAD, LENGTH_RANGE = 64.0, 0.97, (5, 964)


def synthetic_r8(
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    seed: int = 0,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """Generates a corpus of R8's shape (see the top of this file); the same seed gives the same corpus.

    Args:
        protocol: "seam" (the default) or "reference"; not with a base.
        config: replaces the protocol's settings.
        seed: chooses the documents.
        base: a classifier whose vocabulary, classes and text treatment are used.
        **options: fields of the configuration to replace.

    Returns:
        The corpus, with name "r8-synthetic" and ``synthetic`` set.

    Raises:
        DataError: a protocol beside a base, or no such protocol or field.
    """
    refuse_beside_base(base, protocol if config is None else None)
    config = with_options(config or (base.corpus_config if base else r8_config(protocol or "seam")), options)
    train, test, source = synthetic_documents(seed)
    return build_corpus("r8-synthetic", train, test, config, source=source, synthetic=True, base=base)


def synthetic_documents(seed: int = 0) -> tuple[Documents, Documents, str]:
    """The raw documents, training and test, and a sentence that says what they are."""
    random = np.random.RandomState(seed)  # the legacy generator: its streams are frozen
    count = COMMON_WORDS + len(CLASSES) * TYPICAL_WORDS
    words = np.array([_invented_word(i) for i in range(count)], dtype=object)
    train, test = (_documents(split, words, random) for split in SIZES)
    return train, test, f"generated from seed {seed}: SYNTHETIC documents of invented words in the shape of R8, not R8"


def _invented_word(i: int) -> str:
    """Word i, made of syllables of a consonant and a vowel: two for the first 1,400 words, three for the others."""
    consonants, vowels = "bdfgklmnprtvxz", "aeiou"
    base = len(consonants) * len(vowels)
    two = 20 * base
    digits = (i // base, i % base) if i < two else ((i - two) // base**2, (i - two) // base % base, (i - two) % base)
    return "".join(consonants[d // len(vowels)] + vowels[d % len(vowels)] for d in digits)


def _zipf(count: int) -> np.ndarray:
    """The cumulative distribution over ranks 1 to count, (count,) float64."""
    rank = np.arange(1, count + 1)
    weights = 1.0 / ((rank + ZIPF_SHIFT) * (1.0 + rank / TAIL_RANK))
    return np.cumsum(weights / weights.sum())


def _typical(k: int) -> np.ndarray:
    """Numbers of the words typical of class k, most frequent first: its own, mixed with the next class's first ones."""
    first = COMMON_WORDS + k * TYPICAL_WORDS
    following = COMMON_WORDS + (k + 1) % len(CLASSES) * TYPICAL_WORDS
    own, shared = np.arange(first, first + TYPICAL_WORDS), np.arange(following, following + SHARED_WORDS)
    return np.insert(own, 2 * np.arange(1, SHARED_WORDS + 1), shared)


def _documents(split: str, words: np.ndarray, random: np.random.RandomState) -> Documents:
    """The documents of one split; ``words``: every word by its number."""
    labels = np.repeat(np.arange(len(CLASSES)), SIZES[split])
    random.shuffle(labels)
    # The first documents are of class 0, 1, 2, ..., because class ids are numbered by first appearance.
    for k in range(len(CLASSES)):
        first = k + int(np.flatnonzero(labels[k:] == k)[0])
        labels[k], labels[first] = labels[first], labels[k]

    drawn_lengths = LENGTH_MEDIAN * np.exp(LENGTH_SPREAD * random.standard_normal(len(labels)))
    lengths = np.clip(np.rint(drawn_lengths), *LENGTH_RANGE).astype(np.int64)
    of_document = np.repeat(np.arange(len(labels)), lengths)
    drawn = random.random_sample(len(of_document))
    ids = np.minimum(np.searchsorted(_zipf(COMMON_WORDS), drawn), COMMON_WORDS - 1)
    is_typical = random.random_sample(len(of_document)) < random.beta(*SHARE, len(labels))[of_document]
    for k in range(len(CLASSES)):
        positions = np.flatnonzero(is_typical & (labels[of_document] == k))
        typical = _typical(k)
        rank = np.searchsorted(_zipf(len(typical)), random.random_sample(len(positions)))
        ids[positions] = typical[np.minimum(rank, len(typical) - 1)]

    ends = np.cumsum(lengths)
    texts = [" ".join(part) for part in np.split(words[ids], ends[:-1])]
    return Documents([CLASSES[k] for k in labels], texts, f"synthetic {split} documents")

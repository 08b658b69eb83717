"""A generated stand-in for R8, for trying the tools where no copy of R8 can be had. Its words are invented; nothing
measured on it says anything about R8, so `synthetic` is set and its name says so.

What it shares with R8: class names and sizes, the law of document lengths (log-normal, median 64, mean about 100
words) and of word frequencies (Zipf's with a steeper tail, two fifths of the words seen once). Documents mix common
words with words typical of their class, in a share that varies from document to document; neighbouring classes have
some typical words in common, so that the classes can be learned, but not by one word each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .corpus import Corpus, CorpusConfig, build_corpus, refuse_beside_base, with_options
from .documents import Documents, VocabularyOwner
from .r8 import CLASSES, r8_config

SIZES = {"train": (2840, 1596, 251, 108, 41, 253, 190, 206), "test": (1083, 696, 75, 36, 10, 121, 81, 87)}

COMMON_WORDS = 36_000  # of which about two thirds turn up
ZIPF_SHIFT, TAIL_RANK = 1.5, 2500.0  # fitted to R8's frequencies by rank
TYPICAL_WORDS, SHARED_WORDS = 240, 80  # of each class; of each class and the next
SHARE = (3.0, 12.0)  # beta distribution of a document's share of typical words, mean 1/5
LENGTH_MEDIAN, LENGTH_SPREAD, LENGTH_RANGE = 64.0, 0.97, (5, 964)


def synthetic_r8(
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    seed: int = 0,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """A generated corpus of R8's shape (see the top of this file); the same seed gives the same corpus.

    protocol: "seam" (also where it is None) or "reference"; not beside a base. config: overrides its settings. base:
    words and classes as this base has them. options: override fields of the configuration. The result has name
    "r8-synthetic" and synthetic=True.
    """
    refuse_beside_base(base, protocol if config is None else None)
    config = with_options(config or (base.corpus_config if base else r8_config(protocol or "seam")), options)
    train, test, source = synthetic_documents(seed)
    return build_corpus("r8-synthetic", train, test, config, source=source, synthetic=True, base=base)


def synthetic_documents(seed: int = 0) -> tuple[Documents, Documents, str]:
    """The raw documents, training and test, and a sentence saying what they are."""
    random = np.random.RandomState(seed)  # the legacy generator: its streams are frozen
    count = COMMON_WORDS + len(CLASSES) * TYPICAL_WORDS
    words = np.array([_invented_word(i) for i in range(count)], dtype=object)
    train, test = (_documents(split, words, random) for split in SIZES)
    return train, test, f"generated from seed {seed}: SYNTHETIC documents of invented words in the shape of R8, not R8"


def _invented_word(i: int) -> str:
    """Word i in syllables of a consonant and a vowel, the first fourteen hundred or so in two, the others in three."""
    consonants, vowels = "bdfgklmnprtvxz", "aeiou"
    base = len(consonants) * len(vowels)
    two = 20 * base
    digits = (i // base, i % base) if i < two else ((i - two) // base**2, (i - two) // base % base, (i - two) % base)
    return "".join(consonants[d // len(vowels)] + vowels[d % len(vowels)] for d in digits)


def _zipf(count: int) -> np.ndarray:
    """The cumulative distribution over ranks 1..count."""
    rank = np.arange(1, count + 1)
    weights = 1.0 / ((rank + ZIPF_SHIFT) * (1.0 + rank / TAIL_RANK))
    return np.cumsum(weights / weights.sum())


def _typical(k: int) -> np.ndarray:
    """The word numbers typical of class k, most frequent first: its own, with the next class's most frequent among
    them."""
    first = COMMON_WORDS + k * TYPICAL_WORDS
    following = COMMON_WORDS + (k + 1) % len(CLASSES) * TYPICAL_WORDS
    own, shared = np.arange(first, first + TYPICAL_WORDS), np.arange(following, following + SHARED_WORDS)
    return np.insert(own, 2 * np.arange(1, SHARED_WORDS + 1), shared)


def _documents(split: str, words: np.ndarray, random: np.random.RandomState) -> Documents:
    labels = np.repeat(np.arange(len(CLASSES)), SIZES[split])
    random.shuffle(labels)
    # The first documents name the classes in their order, as R8's class ids are by first appearance.
    for k in range(len(CLASSES)):
        there = k + int(np.flatnonzero(labels[k:] == k)[0])
        labels[k], labels[there] = labels[there], labels[k]

    lengths = LENGTH_MEDIAN * np.exp(LENGTH_SPREAD * random.standard_normal(len(labels)))
    lengths = np.clip(np.rint(lengths), *LENGTH_RANGE).astype(np.int64)
    of_document = np.repeat(np.arange(len(labels)), lengths)
    drawn = random.random_sample(len(of_document))
    ids = np.minimum(np.searchsorted(_zipf(COMMON_WORDS), drawn), COMMON_WORDS - 1)
    is_typical = random.random_sample(len(of_document)) < random.beta(*SHARE, len(labels))[of_document]
    for k in range(len(CLASSES)):
        places = np.flatnonzero(is_typical & (labels[of_document] == k))
        typical = _typical(k)
        rank = np.searchsorted(_zipf(len(typical)), random.random_sample(len(places)))
        ids[places] = typical[np.minimum(rank, len(typical) - 1)]

    ends = np.cumsum(lengths)
    texts = [" ".join(part) for part in np.split(words[ids], ends[:-1])]
    return Documents([CLASSES[k] for k in labels], texts, f"synthetic {split} documents")

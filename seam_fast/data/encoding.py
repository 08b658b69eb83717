"""From words to token ids: text treatment, vocabulary, ids, and the hash by which a corpus is known."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from ..errors import DataError
from .corpus_config import CorpusConfig
from .documents import Documents

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"


def treat(documents: Documents, config: CorpusConfig) -> list[list[str]]:
    """The words of every document, after the configuration's text treatment."""
    if documents.label_stripped and config.text == "whole":
        # These are no whole texts: words that held a label are already cut.
        raise DataError(
            f'{documents.path}: the labels were already deleted from these texts, so text="whole" cannot be had '
            'from them; use protocol "reference" (--protocol reference), or give the label<TAB>text files.'
        )
    if config.text == "whole" or documents.label_stripped:
        return [config.tokenizer(text) for text in documents.texts]
    pairs = zip(documents.texts, documents.labels, strict=True)
    return [config.tokenizer(text.replace(label, "")) for text, label in pairs]


def make_vocabulary(train: list[list[str]], test: list[list[str]], config: CorpusConfig) -> list[str]:
    """id -> word, in order of first appearance."""
    if config.vocabulary == "train_and_test":
        end = (END,)
        in_order = chain.from_iterable(chain.from_iterable((words, end) for words in chain(train, test)))
    else:
        in_order = chain.from_iterable(train)
    seen = Counter(in_order)
    words = [word for word, count in seen.items() if count >= config.min_count or word == END]
    if config.padding == "own":
        words = [PAD, UNKNOWN, *(word for word in words if word not in (PAD, UNKNOWN))]
    if not set(words) - {PAD, UNKNOWN, END}:
        most = max((count for word, count in seen.items() if word != END), default=0)
        if most:
            raise DataError(
                f"no word occurs {config.min_count} times (at most {most}); choose a smaller min_count (--min-count)."
            )
        raise DataError(
            f"the training documents hold no words at all for the tokenizer {config.tokenizer.name}; check that the "
            "text stands behind the tab, and the tokenizer."
        )
    return words


def index_words(words: Sequence[str], config: CorpusConfig) -> dict[str, int]:
    """Token id by word. The marks of padding "own" have no entry: a text that contains one must not become its id."""
    index = {word: i for i, word in enumerate(words)}
    if config.padding == "own":
        for mark, token_id in ((PAD, 0), (UNKNOWN, 1)):
            if index.get(mark) == token_id:
                del index[mark]
    return index


def encode_texts(
    texts: Iterable[str], index: dict[str, int], config: CorpusConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (N, T) and lengths (N,) of new texts. Raises DataError for anything but strings."""
    if isinstance(texts, str):
        raise DataError("encode takes a list of texts, not one text: put it into a list.")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"encode takes a list of texts; {text!r} is a {type(text).__name__}.")
    return encode([config.tokenizer(text) for text in texts], index, config)


def encode(
    documents: list[list[str]], index: dict[str, int], config: CorpusConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (N, T) and lengths (N,) of documents given as words; T = config.max_length."""
    width, count = config.max_length, len(documents)
    if config.padding == "own":
        rows = [[index.get(word, 1) for word in words[:width]] or [1] for words in documents]
    else:
        rows = [_first_known(words, index, width) or [0] for words in documents]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=count)
    ids = np.zeros((count, width), dtype=np.int64)
    filled = np.arange(width) < lengths[:, None]
    ids[filled] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(ids), torch.from_numpy(lengths)


class WholeTexts(NamedTuple):
    """Texts in full length, one after the other.

    Attributes:
        ids: all their words, int32.
        starts: where each begins, and the end of the last, int64 (N + 1,).
    """

    ids: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, documents: list[list[str]], index: dict[str, int]) -> WholeTexts:
        """Of documents given as words; unknown ones are word 1, and so is the one word of a text without words."""
        rows = [words or [""] for words in documents]
        starts = torch.tensor([0, *map(len, rows)]).cumsum(0)
        ids = np.fromiter((index.get(word, 1) for row in rows for word in row), np.int32, count=int(starts[-1]))
        return cls(torch.from_numpy(ids), starts)

    def windows(self, chosen: torch.Tensor, ids: torch.Tensor, random: torch.Tensor, share: float) -> torch.Tensor:
        """Documents of which some are read from another place on, as far as the text goes: (B, T).

        Args:
            chosen: indices of the documents, (B,).
            ids: their first words, (B, T).
            random: numbers in [0, 1), (2, B): whether a document is read from elsewhere, and from where.
            share: of those that are.
        """
        starts, width = self.starts[chosen], ids.shape[1]
        spare = (self.starts[chosen + 1] - starts - width).clamp_min(0)
        moved = (random[0] < share) & (spare > 0)
        offset = (random[1].double() * (spare + 1)).long() * moved
        places = (starts + offset)[:, None] + torch.arange(width)
        found = self.ids[places.clamp_max(len(self.ids) - 1)].long()
        return torch.where(moved[:, None], found, ids)


def _first_known(words: list[str], index: dict[str, int], width: int) -> list[int]:
    """The ids of the first `width` words that have one; as in SeaM's LSTM port, the others are not counted."""
    ids = [index[word] for word in words[:width] if word in index]
    if len(ids) < min(width, len(words)):
        ids = [index[word] for word in words if word in index][:width]
    return ids


def hash_of(config: CorpusConfig, class_names: tuple[str, ...], *splits: tuple[np.ndarray, list[list[str]]]) -> str:
    """Hex sha256 of labels, words and configuration: the same data have the same hash, whatever their source.

    The hash covers the words and not the texts, so white space and the name of the tokenizer make no difference.
    """
    digest = hashlib.sha256()
    settings = config.as_dict()
    del settings["tokenizer"]
    if config.min_count == 1:
        del settings["min_count"]  # the hashes of earlier versions, which had no min_count, stay valid
    digest.update(json.dumps({"config": settings, "classes": class_names}, sort_keys=True).encode())
    for labels, documents in splits:
        digest.update(f"\n{len(documents)} documents\n".encode())
        lines = (f"{label}\t{' '.join(words)}\n" for label, words in zip(labels.tolist(), documents, strict=True))
        digest.update("".join(lines).encode())
    return digest.hexdigest()

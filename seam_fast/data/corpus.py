"""From documents to token ids, for any single-label corpus.

A corpus is two text files, one document a line, `label<TAB>text`. What is done to them - which text, how it becomes
words, which vocabulary, which padding, how long - are fields of one `CorpusConfig`, so that the repaired treatment and
the public reference's are two points in the same space and every mixture can be run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..common.arguments import shown, whole_number
from ..common.default_device import on_the_cpu
from ..errors import DataError, TrainingError
from . import checks
from .corpus_config import CorpusConfig
from .documents import Documents, VocabularyOwner
from .read_files import read_documents, read_labelled
from .tokenizer import Tokenizer

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
CHARACTERS_READ = 256  # of each document, where characters are the words and nothing else is asked for
OF_NO_CLASS = -1  # label of a document whose class the base does not know
FEW_READ = 0.25  # share of the texts that is read, below which this is said; of R8 it is .46


@dataclass(frozen=True, eq=False)
class Split:
    """One half of a corpus: `ids (N, T)` int64, `lengths (N,)` int64 with the real words of each row (1..T),
    `labels (N,)` int64. A document without any known word is one unknown (or id 0) with length 1. In what `load_split`
    gives, a label is -1 where the base does not know the class."""

    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus as token ids.

    class_names: in order of first appearance in the training file; a label's id is its place here.
    words: id -> word. source: a sentence saying where the documents came from. synthetic: invented documents.
    data_hash: hex sha256 over all documents (as treated, in full length), their labels, and the configuration.
    """

    name: str
    class_names: tuple[str, ...]
    words: list[str]
    train: Split
    test: Split
    config: CorpusConfig
    source: str
    data_hash: str
    synthetic: bool = False
    _index: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def pad_id(self) -> int:
        """The id that fills rows up; with padding "word" it is a real word's too."""
        return 0

    @property
    def unknown_id(self) -> int | None:
        """The id of words outside the vocabulary; None where they are skipped."""
        return 1 if self.config.padding == "own" else None

    @on_the_cpu
    def encode(self, texts: Iterable[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """`ids (N, T)`, `lengths (N,)`, both int64, of new texts, split by the tokenizer of the training texts; no
        label is removed from them."""
        return encode_texts(texts, self._index, self.config)

    def validation_indices(self, fraction: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Splits the training documents in two, class by class: `(fit, validation)`, sorted int64 indices into train.

        Every class gives `fraction` of its documents to validation, rounded, but at least one to each side where it
        has two. The same seed gives the same split on every machine.
        """
        if not 0.0 < fraction < 1.0:
            raise DataError(f"the validation fraction must lie between 0 and 1, not {fraction!r}.")
        labels = self.train.labels.numpy()
        random = np.random.RandomState(seed)  # the legacy generator: its stream is frozen
        held_out = np.zeros(len(labels), dtype=bool)
        for k in range(self.num_classes):
            members = np.flatnonzero(labels == k)
            if len(members) > 1:
                count = min(max(round(fraction * len(members)), 1), len(members) - 1)
                held_out[random.permutation(members)[:count]] = True
        return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


@on_the_cpu
def load_corpus(
    data_dir: str | os.PathLike,
    name: str,
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    smallest_class: int | None = None,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """Reads the corpus `name` from a folder.

    The folder holds `NAME-train-all-terms.txt` and `NAME-test-all-terms.txt`, or `train.txt` and `test.txt`, one
    document a line as `label<TAB>text`; or the public LSTM repository's layout (`train_txt/`, `train_txt.txt`,
    `train_label.txt`, and the same for test), whose texts are label-stripped already.
    protocol: "seam" (also where it is None) or "reference"; not beside a base, which has its own treatment of texts.
    config: overrides the protocol's settings, which are those of `CorpusConfig.for_protocol`, with the tokenizer that
        `own_config` chooses.
    smallest_class: training documents a class needs. The default, 2, refuses a class with a single document, which can
        be learned from or validated on but not both; published corpora such as R52 have one, and 1 lets it pass. Not
        beside a base that names its classes, whatever their size.
    base: numbers words and classes as this base does, whatever the files' own order, and treats the texts as those
        that it was trained on.
    options: override fields of the configuration, such as ``tokenizer="characters"``, of which 256 are then read
        where ``max_length`` says nothing else.

    Raises DataError, naming file and line, for files that are missing, empty, not UTF-8 or not of this form, for a
    class that is too small, and for a test label that training does not know (with a base: any label that it does not
    know). Data that can be read but may not be what was meant give a DataWarning.
    """
    refuse_beside_base(base, protocol if config is None else None, smallest_class)
    train, test = read_documents(data_dir, name)
    config = with_options(config or (base.corpus_config if base else own_config(protocol or "seam", train)), options)
    source = f"{train.path} and {test.path}"
    return build_corpus(name, train, test, config, source=source, smallest_class=smallest_class, base=base)


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


def check_is_corpus(corpus: Corpus) -> None:
    """Raises TrainingError for anything but a Corpus."""
    if not isinstance(corpus, Corpus):
        raise TrainingError(f"corpus is {shown(corpus)}; it must be a Corpus, such as load_corpus or load_r8 gives")


def own_config(protocol: str, train: Documents) -> CorpusConfig:
    """The protocol's settings with the tokenizer for these documents.

    Where the training texts are lower-case letters a to z alone, they were prepared as R8 was, and "r8" prepares new
    texts likewise. Else it is "words" for protocol "seam" and "spaces" for "reference".
    """
    config = CorpusConfig.for_protocol(protocol)
    if all(map(re.compile(r"[a-z\s]*").fullmatch, train.texts)):
        return replace(config, tokenizer="r8")
    return replace(config, tokenizer="words") if protocol == "seam" else config


def with_options(config: CorpusConfig, options: dict[str, Any]) -> CorpusConfig:
    """A configuration with some fields in other values; DataError for what is no field."""
    known = [each.name for each in fields(CorpusConfig)]
    for name in options:
        if name not in known:
            raise DataError(f"there is no corpus setting {name!r}; there are {', '.join(known)}.")
    if options and "max_length" not in options and Tokenizer.of(options.get("tokenizer", "spaces")).reads_characters:
        options = options | {"max_length": CHARACTERS_READ}
    return replace(config, **options)


def load_split(path: str | os.PathLike, base: VocabularyOwner) -> Split:
    """Any file of labelled documents, `label<TAB>text`, as a base sees it, to judge the base or its modules on.

    Texts are split and numbered as those that the base was trained on, labels are numbered by its class names. Classes
    that it does not know are -1, which counts as "not the target" for a module, and a DataWarning names them. Raises
    DataError for files as `load_corpus` does, and where the base knows none of the classes; CheckpointError for a
    base that does not say its words or classes.
    """
    return split_for(base, read_labelled(path))


def split_for(base: VocabularyOwner, documents: Documents) -> Split:
    """Documents as a base sees them; see `load_split`."""
    config, index = base.corpus_config, base.word_index()
    if checks.is_header(documents):
        raise checks.header_error(documents)
    words = _treat(documents, config)
    checks.check_words(documents, words, config.tokenizer)
    checks.warn_of_unknown(documents, words, index, "the base")
    return Split(*_encode(words, index, config), torch.from_numpy(_labels_for(base, documents)))


def _labels_for(base: VocabularyOwner, documents: Documents) -> np.ndarray:
    """Each document's class number (N,), `OF_NO_CLASS` where the base does not know the class."""
    names = base.names_or_refuse()
    numbers, foreign = _number(documents, names, "the base")
    if foreign and (numbers == OF_NO_CLASS).all():
        raise DataError(
            f"{documents.place(0)}: the base knows none of the classes here ({checks.few(foreign)}); its own are "
            f"{checks.few(names)}."
        )
    if foreign:
        checks.warn(
            f"{documents.path}: the base does not know the class of {(numbers == OF_NO_CLASS).sum():,} documents "
            f"({checks.few(foreign)}); a module is judged on them as on any others that are not its target's."
        )
    return numbers


def build_corpus(
    name: str,
    train: Documents,
    test: Documents,
    config: CorpusConfig,
    *,
    source: str,
    synthetic: bool = False,
    smallest_class: int | None = None,
    base: VocabularyOwner | None = None,
) -> Corpus:
    """Turns raw documents into a Corpus. Raises DataError as load_corpus does."""
    checks.check_documents(train, test)
    if base is not None and base.class_names is not None:
        class_names = base.class_names
    else:
        class_names = _class_names(train, 2 if smallest_class is None else smallest_class)
    train_labels, test_labels = (_number_all(each, class_names, train, base) for each in (train, test))
    train_words, test_words = _treat(train, config), _treat(test, config)
    checks.check_words(train, train_words, config.tokenizer)
    if base is not None and base.vocabulary is not None:
        words = list(base.vocabulary)
    else:
        words = _vocabulary(train_words, test_words, config)
    index = index_words(words, config)
    whose = "the training texts" if base is None else "the base"
    checks.warn_of_unknown(test, test_words, index, whose)
    _warn_of_little_read(train, train_words, config)

    def encode(documents: list[list[str]], labels: np.ndarray) -> Split:
        return Split(*_encode(documents, index, config), torch.from_numpy(labels))

    return Corpus(
        name=name,
        class_names=class_names,
        words=words,
        train=encode(train_words, train_labels),
        test=encode(test_words, test_labels),
        config=config,
        source=source,
        data_hash=_hash(config, class_names, (train_labels, train_words), (test_labels, test_words)),
        synthetic=synthetic,
        _index=index,
    )


def _class_names(train: Documents, smallest_class: int) -> tuple[str, ...]:
    """The classes of the training documents, in order of first appearance."""
    counts = Counter(train.labels)
    for label, count in counts.items():
        if count < smallest_class:
            have = "this one training document only" if count == 1 else f"only {count} training documents, from here on"
            raise DataError(
                f"{train.place(train.labels.index(label))}: class {label!r} has {have}, and {smallest_class} are "
                "needed: correct the label if it is a slip, add documents, remove the class, or, if it is a class of "
                f"that size, allow it with --smallest-class {count}."
            )
    if len(counts) < 2:
        clause = checks.name_columns(train)
        raise DataError(
            f"{train.path}: all documents are of class {train.labels[0]!r}; at least two are needed"
            f"{'; ' + clause if clause else ''}."
        )
    names = list(counts)
    if train.label_stripped and all(label.isdecimal() for label in names):
        names.sort(key=int)  # that layout numbers its classes itself, and its checkpoints use those numbers
    return tuple(names)


def _number_all(
    documents: Documents, class_names: Sequence[str], train: Documents, base: VocabularyOwner | None
) -> np.ndarray:
    """Each document's class number (N,); DataError for a class that is not among the names."""
    by_base = base is not None and base.class_names is not None
    numbers, foreign = _number(documents, class_names, "the base" if by_base else "the training documents")
    if foreign:
        place = documents.place(documents.labels.index(foreign[0]))
        if by_base:
            raise DataError(
                f"{place}: the base does not know class {foreign[0]!r}; its classes are "
                f"{checks.few(class_names)}. Take those documents out, or train a base on these."
            )
        hint = checks.where_the_label_is(documents, class_names)
        raise DataError(f"{place}: class {foreign[0]!r} does not occur in the training documents ({train.path}){hint}.")
    return numbers


def _number(documents: Documents, class_names: Sequence[str], whose: str) -> tuple[np.ndarray, list[str]]:
    """Each document's class number (N,), `OF_NO_CLASS` for other classes, and those; DataError for another way to
    write one of the names."""
    numbers = {label: i for i, label in enumerate(class_names)}
    foreign = [label for label in dict.fromkeys(documents.labels) if label not in numbers]
    written = {checks.alike(name): name for name in class_names}
    for label in foreign:
        name = written.get(checks.alike(label))
        if name is not None:
            raise DataError(
                f"{documents.place(documents.labels.index(label))}: {checks.told_apart(label, name)} of {whose}; "
                "write them alike."
            )
    found = (numbers.get(label, OF_NO_CLASS) for label in documents.labels)
    return np.fromiter(found, dtype=np.int64, count=len(documents.labels)), foreign


def _treat(documents: Documents, config: CorpusConfig) -> list[list[str]]:
    """The words of every document, after the text treatment the configuration asks for."""
    if documents.label_stripped and config.text == "whole":
        # Passing these off as whole texts would make the label's absence inside words look like the language's.
        raise DataError(
            f'{documents.path}: the labels were already deleted from these texts, so text="whole" cannot be had '
            'from them; use protocol "reference" (--protocol reference), or give the label<TAB>text files.'
        )
    if config.text == "whole" or documents.label_stripped:
        return [config.tokenizer(text) for text in documents.texts]
    pairs = zip(documents.texts, documents.labels, strict=True)
    return [config.tokenizer(text.replace(label, "")) for text, label in pairs]


def _vocabulary(train: list[list[str]], test: list[list[str]], config: CorpusConfig) -> list[str]:
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
    """word -> id. The marks of padding "own" have no entry, so that a text which happens to contain one cannot feed
    it."""
    index = {word: i for i, word in enumerate(words)}
    if config.padding == "own":
        for mark, place in ((PAD, 0), (UNKNOWN, 1)):
            if index.get(mark) == place:
                del index[mark]
    return index


def _warn_of_little_read(documents: Documents, words: list[list[str]], config: CorpusConfig) -> None:
    total = sum(map(len, words))
    heeded = sum(min(len(each), config.max_length) for each in words)
    if heeded < FEW_READ * total:
        checks.warn(
            f"{documents.path}: only the first {config.max_length} words of each document are read, and that is "
            f"{100 * heeded / total:.0f} % of the texts (the tokenizer is {config.tokenizer.name}); choose a larger "
            "max_length (--max-length) if the rest matters."
        )


def encode_texts(
    texts: Iterable[str], index: dict[str, int], config: CorpusConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ids (N, T)`, `lengths (N,)` of new texts."""
    if isinstance(texts, str):
        raise DataError("encode takes a list of texts, not one text: put it into a list.")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"encode takes a list of texts; {text!r} is a {type(text).__name__}.")
    return _encode([config.tokenizer(text) for text in texts], index, config)


def _encode(
    documents: list[list[str]], index: dict[str, int], config: CorpusConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ids (N, T)`, `lengths (N,)`, T = config.max_length."""
    width, count = config.max_length, len(documents)
    if config.padding == "own":
        rows = [[index.get(word, 1) for word in words[:width]] or [1] for words in documents]
    else:
        rows = [_known(words, index, width) or [0] for words in documents]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=count)
    ids = np.zeros((count, width), dtype=np.int64)
    filled = np.arange(width) < lengths[:, None]
    ids[filled] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def _known(words: list[str], index: dict[str, int], width: int) -> list[int]:
    """The ids of the first `width` words that have one: the reference skips the others without counting them."""
    ids = [index[word] for word in words[:width] if word in index]
    if len(ids) < min(width, len(words)):
        ids = [index[word] for word in words if word in index][:width]
    return ids


def _hash(config: CorpusConfig, class_names: tuple[str, ...], *splits: tuple[np.ndarray, list[list[str]]]) -> str:
    """Over what training can see, white space apart, so that the same data from another source has the same hash."""
    digest = hashlib.sha256()
    seen = config.as_dict()
    del seen["tokenizer"]  # the words that it makes are what counts
    if config.min_count == 1:
        del seen["min_count"]  # as before there was a choice
    digest.update(json.dumps({"config": seen, "classes": class_names}, sort_keys=True).encode())
    for labels, documents in splits:
        digest.update(f"\n{len(documents)} documents\n".encode())
        lines = (f"{label}\t{' '.join(words)}\n" for label, words in zip(labels.tolist(), documents, strict=True))
        digest.update("".join(lines).encode())
    return digest.hexdigest()

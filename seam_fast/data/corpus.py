"""From documents to token ids, for any single-label corpus.

A corpus is two text files, one document a line, `label<TAB>text`. How they are treated (which text, how it becomes
words, which vocabulary, which padding, how long) is said by the fields of one `CorpusConfig`: this package's protocol
and that of SeaM's LSTM port are two sets of values, and every mixture of them can be run.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from ..common.arguments import shown, whole_number
from ..common.default_device import on_the_cpu
from ..errors import DataError, TrainingError
from . import checks
from .corpus_config import CorpusConfig
from .documents import Documents, VocabularyOwner
from .encoding import encode, encode_texts, hash_of, index_words, make_vocabulary, treat
from .read_files import read_documents, read_labelled
from .tokenizer import Tokenizer

CHARACTERS_READ = 256  # the default max_length where each character is a word
OF_NO_CLASS = -1  # label of a document whose class the base does not know


@dataclass(frozen=True, eq=False)
class Split:
    """The documents of one part of a corpus, training or test.

    Attributes:
        ids: token ids (N, T) int64, padded at the end.
        lengths: number of real words of each row, (N,) int64, 1 to T. A document without any known word is one unknown
            word (or id 0, where there is none).
        labels: class ids (N,) int64; from `load_split`, -1 where the base does not know the class.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Number of documents, N."""
        return self.labels.shape[0]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus as token ids.

    Attributes:
        name: what the corpus is called in files and messages.
        class_names: in order of first appearance in the training file; a class id is an index into it.
        words: the vocabulary: word by token id.
        train: the training documents.
        test: the test documents.
        config: how the documents became ids.
        source: a sentence on where the documents are from.
        data_hash: hex sha256 of all documents (as treated, in full length), their labels, and the configuration.
        synthetic: whether the documents were generated.
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
        """Number of token ids, V."""
        return len(self.words)

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)

    @property
    def pad_id(self) -> int:
        """The id that pads rows; with padding "word" it is a real word's as well."""
        return 0

    @property
    def unknown_id(self) -> int | None:
        """The id of words outside the vocabulary; None where they are skipped."""
        return 1 if self.config.padding == "own" else None

    @on_the_cpu
    def encode(self, texts: Iterable[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of new texts, by the corpus's tokenizer and vocabulary; no label is deleted from them.

        Returns:
            ids (N, T) and lengths (N,), both int64.

        Raises:
            DataError: something other than a list of strings, or the tokenizer fails.
        """
        return encode_texts(texts, self._index, self.config)

    def validation_indices(self, fraction: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Splits the training documents in two, class by class; the same seed gives the same split on every machine.

        Args:
            fraction: share of each class's documents for validation, rounded; each part gets at least one document of
                a class that has two.
            seed: chooses the split.

        Returns:
            (fit, validation): sorted int64 indices into ``train``.

        Raises:
            DataError: a fraction that is not between 0 and 1.
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
    data_dir: str | os.PathLike[str],
    name: str,
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    smallest_class: int | None = None,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """Loads a corpus from a folder of text files.

    Data that can be read but may not be what was meant give a DataWarning.

    Args:
        data_dir: a folder with `NAME-train-all-terms.txt` and `NAME-test-all-terms.txt`, or `train.txt` and
            `test.txt`, one document a line as `label<TAB>text`; or with the public LSTM repository's layout
            (`train_txt/`, `train_txt.txt`, `train_label.txt`, and the same for test), whose texts are label-stripped
            already.
        name: the corpus's name, NAME above.
        protocol: "seam" (the default) or "reference"; not with a base, which has its own treatment of texts.
        config: replaces the protocol's settings, which are `CorpusConfig.for_protocol` with the tokenizer "r8"
            where the training texts consist of letters a to z in lower case; otherwise with "words" for "seam" and
            "spaces" for "reference".
        smallest_class: training documents that each class needs. The default, 2, refuses a class with a single
            document, which can be trained on or validated on but not both; published corpora such as R52 have one, and
            1 accepts it. Not with a base that names its classes, whatever their size.
        base: a classifier whose vocabulary, class numbers and text treatment are used in place of the files' own.
        **options: fields of the configuration to replace, such as ``tokenizer="characters"``, with which max_length is
            256 unless it is given as well.

    Raises:
        DataError: a file is missing, empty, not UTF-8 or not of this form, a class is too small, or a test label does
            not occur in training (with a base: any label that the base does not know); names the file and line.
        CheckpointError: a base without a valid configuration of its own.
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


def load_split(path: str | os.PathLike[str], base: VocabularyOwner) -> Split:
    """Loads a file of labelled documents for evaluating a base or its modules.

    Texts become words and ids as those that the base was trained on.

    Args:
        path: a file of one document a line, `label<TAB>text`.
        base: the classifier whose vocabulary, class names and text treatment are used.

    Returns:
        The documents. A label is -1 where the base does not know the class, which counts as "not the target" for a
        module; a DataWarning names those classes.

    Raises:
        DataError: the file is not of that form, as in `load_corpus`, or the base knows none of its classes.
        CheckpointError: the base does not say its vocabulary or classes.
    """
    return split_for(base, read_labelled(path))


def split_for(base: VocabularyOwner, documents: Documents) -> Split:
    """Documents as token ids and labels of a base; see `load_split`."""
    config, index = base.corpus_config, base.word_index()
    if checks.is_header(documents):
        raise checks.header_error(documents)
    words = treat(documents, config)
    checks.check_words(documents, words, config.tokenizer)
    checks.warn_of_unknown(documents, words, index, "the base")
    return Split(*encode(words, index, config), torch.from_numpy(_labels_for(base, documents)))


def _labels_for(base: VocabularyOwner, documents: Documents) -> np.ndarray:
    """Each document's class id (N,), `OF_NO_CLASS` where the base does not know the class."""
    names = base.names_or_refuse()
    numbers, foreign = _number(documents, names, "the base")
    if foreign and (numbers == OF_NO_CLASS).all():
        raise DataError(
            f"{documents.location(0)}: the base knows none of the classes here ({checks.few(foreign)}); its own are "
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
    """Makes a Corpus of raw documents; arguments and errors as in `load_corpus`.

    Args:
        name: the corpus's name.
        train: the training documents.
        test: the test documents.
        config: how they become ids.
        source: a sentence on where they are from.
        synthetic: whether they were generated.
        smallest_class: training documents that each class needs; None: 2.
        base: a classifier whose vocabulary and classes are used.
    """
    checks.check_documents(train, test)
    if base is not None and base.class_names is not None:
        class_names = base.class_names
    else:
        class_names = _class_names(train, 2 if smallest_class is None else smallest_class)
    train_labels, test_labels = (_number_all(each, class_names, train, base) for each in (train, test))
    train_words, test_words = treat(train, config), treat(test, config)
    checks.check_words(train, train_words, config.tokenizer)
    if base is not None and base.vocabulary is not None:
        words = list(base.vocabulary)
    else:
        words = make_vocabulary(train_words, test_words, config)
    index = index_words(words, config)
    whose = "the training texts" if base is None else "the base"
    checks.warn_of_unknown(test, test_words, index, whose)
    checks.warn_of_little_read(train, train_words, config)

    def split_of(documents: list[list[str]], labels: np.ndarray) -> Split:
        return Split(*encode(documents, index, config), torch.from_numpy(labels))

    return Corpus(
        name=name,
        class_names=class_names,
        words=words,
        train=split_of(train_words, train_labels),
        test=split_of(test_words, test_labels),
        config=config,
        source=source,
        data_hash=hash_of(config, class_names, (train_labels, train_words), (test_labels, test_words)),
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
                f"{train.location(train.labels.index(label))}: class {label!r} has {have}, and {smallest_class} are "
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
        names.sort(key=int)  # that layout's labels are class ids, which checkpoints trained on it use
    return tuple(names)


def _number_all(
    documents: Documents, class_names: Sequence[str], train: Documents, base: VocabularyOwner | None
) -> np.ndarray:
    """Each document's class id (N,). Raises DataError for a class that is not among the names."""
    by_base = base is not None and base.class_names is not None
    numbers, foreign = _number(documents, class_names, "the base" if by_base else "the training documents")
    if foreign:
        location = documents.location(documents.labels.index(foreign[0]))
        if by_base:
            raise DataError(
                f"{location}: the base does not know class {foreign[0]!r}; its classes are "
                f"{checks.few(class_names)}. Take those documents out, or train a base on these."
            )
        hint = checks.where_the_label_is(documents, class_names)
        raise DataError(
            f"{location}: class {foreign[0]!r} does not occur in the training documents ({train.path}){hint}."
        )
    return numbers


def _number(documents: Documents, class_names: Sequence[str], whose: str) -> tuple[np.ndarray, list[str]]:
    """Each document's class id (N,), `OF_NO_CLASS` for other classes, and the names of those.

    Raises DataError where one of them is another spelling of a class name.
    """
    numbers = {label: i for i, label in enumerate(class_names)}
    foreign = [label for label in dict.fromkeys(documents.labels) if label not in numbers]
    written = {checks.alike(name): name for name in class_names}
    for label in foreign:
        name = written.get(checks.alike(label))
        if name is not None:
            raise DataError(
                f"{documents.location(documents.labels.index(label))}: {checks.told_apart(label, name)} of {whose}; "
                "write them alike."
            )
    found = (numbers.get(label, OF_NO_CLASS) for label in documents.labels)
    return np.fromiter(found, dtype=np.int64, count=len(documents.labels)), foreign

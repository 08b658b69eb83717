"""From documents to token ids, for any single-label corpus.

A corpus is two sets of documents with a label each, for training and for the test: from text files, one document a
line, `label<TAB>text`, or from what else people have (`sources`). How they are treated (which text, how it becomes
words, which vocabulary, which padding, how long) is said by the fields of one `CorpusConfig`: this package's protocol
and that of SeaM's LSTM port are two sets of values, and every mixture of them can be run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..common.arguments import shown
from ..common.default_device import on_the_cpu
from ..errors import DataError, TrainingError
from . import checks
from .class_numbers import OF_NO_CLASS, choose_class_names, number, number_all
from .columns import ColumnNames
from .corpus_config import CorpusConfig
from .documents import Documents, VocabularyOwner
from .encoding import WholeTexts, encode, encode_texts, hash_of, index_words, make_vocabulary, treat
from .read_files import read_documents
from .sources import DocumentFile, Parts, labelled_documents, list_parts, table_parts
from .treatment import own_config, refuse_beside_base, with_options


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

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids (T,), length and label of document i, so that ``torch.utils.data.DataLoader`` takes a split."""
        return self.ids[i], self.lengths[i], self.labels[i]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus as token ids.

    Attributes:
        name: what the corpus is called in files and messages.
        class_names: in order of first appearance in the training file, of a file or list that is divided in all of it,
            unless another order is given; a class id is an index into it.
        words: the vocabulary: word by token id.
        train: the training documents.
        test: the test documents.
        config: how the documents became ids.
        source: a sentence on where the documents are from.
        data_hash: hex sha256 of all documents (as treated, in full length), their labels, and the configuration.
        synthetic: whether the documents were generated.
        whole_train: the training texts in full length; None where unknown words are skipped, so that no place in a text
            is a place among the words that are read.
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
    whole_train: WholeTexts | None = field(default=None, repr=False)

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

    @classmethod
    @on_the_cpu
    def from_lists(
        cls,
        texts: Iterable[str],
        labels: Iterable[Any],
        test_texts: Iterable[str] | None = None,
        test_labels: Iterable[Any] | None = None,
        *,
        name: str = "lists",
        class_names: Sequence[str] | None = None,
        test_share: float | None = None,
        split: str | None = None,
        split_seed: int | None = None,
        dates: Iterable[Any] | None = None,
        protocol: str | None = None,
        config: CorpusConfig | None = None,
        smallest_class: int | None = None,
        base: VocabularyOwner | None = None,
        **options: Any,
    ) -> Corpus:
        """Makes a corpus of lists, arrays or series of texts and labels.

        Without test documents the lists are divided: class by class at random, copies of a text together, or by time.
        Each class keeps two documents for training, so that one of two documents or less has none in the test.

        Args:
            texts: the training texts, or all of them.
            labels: the class of each: a string; or a whole number, an index into ``class_names`` or, without those, the
                name itself.
            test_texts: the test texts.
            test_labels: the class of each.
            name: the corpus's name.
            class_names: the classes in the order of their numbers. The default is the order of first appearance in
                ``labels``.
            test_share: share of the documents for the test where there is no test set, .2 if not given; 0: none.
            split: ``"stratified"`` (the default), or ``"time"``: the last documents are for the test.
            split_seed: chooses the test documents of ``"stratified"``, 0 if not given.
            dates: for ``"time"``, by which documents are the last: dates, strings in ISO 8601, or numbers; without them
                the documents are in their order already.
            protocol: as in `load_corpus`, like all that follow.
            config: replaces the protocol's settings.
            smallest_class: training documents that each class needs.
            base: a classifier whose vocabulary, class numbers and text treatment are used.
            **options: fields of the configuration to replace.

        Raises:
            DataError: an entry is missing, no string, or no label; lists of different lengths; or as in `load_corpus`.
        """
        parts = list_parts(texts, labels, test_texts, test_labels, class_names, dates, test_share, split, split_seed)
        return corpus_of(parts, name, protocol, config, smallest_class, base, **options)

    @classmethod
    @on_the_cpu
    def from_file(
        cls,
        path: str | os.PathLike[str],
        test_path: str | os.PathLike[str] | None = None,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        date_column: str | None = None,
        columns: Sequence[str] | None = None,
        name: str | None = None,
        class_names: Sequence[str] | None = None,
        test_share: float | None = None,
        split: str | None = None,
        split_seed: int | None = None,
        **others: Any,
    ) -> Corpus:
        """Makes a corpus of a CSV, TSV or JSON lines file, or of one for training and one for the test.

        Args:
            path: a file in UTF-8 that ends in ``.csv`` (separated by commas or, where its first line has none, by
                semicolons, tabs or bars), ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.json`` (an object a line), or
                ``.txt`` (lines `label<TAB>text`).
            test_path: a file of test documents. Without it the documents of ``path`` are divided, as in `from_lists`.
            text_column: the column of the texts; if not given, the one called text or by another usual name, or the
                only one that is left.
            label_column: the column of the labels, likewise.
            date_column: for ``split="time"``, the column of the dates.
            columns: the names of all columns, for files without a line of names.
            name: the corpus's name, the file's without its ending if not given.
            class_names: as in `from_lists`, like all that follow.
            test_share: share of the documents for the test.
            split: ``"stratified"`` or ``"time"``.
            split_seed: chooses the test documents.
            **others: ``protocol``, ``config``, ``smallest_class``, ``base`` and options, as in `load_corpus`.

        Raises:
            DataError: the file is not what its ending says, a column is missing or not plain, a row has no usable text
                or label; names file and line. Or as in `load_corpus`.
        """
        names = ColumnNames(text_column, label_column, date_column)
        file = DocumentFile(path, test_path, names, columns, test_share, split, split_seed, class_names)
        return corpus_of(file.parts(), name or file.stem, **others)

    @classmethod
    @on_the_cpu
    def from_table(
        cls,
        table: Any,
        test: Any = None,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        date_column: str | None = None,
        name: str = "table",
        class_names: Sequence[str] | None = None,
        test_share: float | None = None,
        split: str | None = None,
        split_seed: int | None = None,
        **others: Any,
    ) -> Corpus:
        """Makes a corpus of a pandas DataFrame, a Hugging Face Dataset or DatasetDict, or a dict of lists by column.

        Args:
            table: the table; of a ``DatasetDict`` the splits train and test are taken, or train is divided where it is
                alone. A ``ClassLabel`` or a categorical column says the names and order of the classes.
            test: a table of test documents. Without it those of ``table`` are divided, as in `from_lists`.
            text_column: as in `from_file`, like ``label_column`` and ``date_column``.
            label_column: the column of the labels.
            date_column: the column of the dates.
            name: the corpus's name.
            class_names: as in `from_lists`, like all that follow.
            test_share: share of the documents for the test.
            split: ``"stratified"`` or ``"time"``.
            split_seed: chooses the test documents.
            **others: ``protocol``, ``config``, ``smallest_class``, ``base`` and options, as in `load_corpus`.

        Raises:
            DataError: an object is no table, a column is missing or not plain, or as in `from_lists`.
        """
        names = ColumnNames(text_column, label_column, date_column)
        parts = table_parts(table, test, names, class_names, test_share, split, split_seed)
        return corpus_of(parts, name, **others)


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


def corpus_of(
    parts: Parts,
    name: str,
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    smallest_class: int | None = None,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """Makes a Corpus of documents from any source; arguments and errors as in `load_corpus`."""
    refuse_beside_base(base, protocol if config is None else None, smallest_class)
    given = config or (base.corpus_config if base else own_config(protocol or "seam", parts.train))
    return build_corpus(
        name,
        parts.train,
        parts.test,
        with_options(given, options),
        source=parts.source,
        smallest_class=smallest_class,
        base=base,
        class_names=parts.class_names,
    )


def check_is_corpus(corpus: Corpus) -> None:
    """Raises TrainingError for anything but a Corpus."""
    if not isinstance(corpus, Corpus):
        raise TrainingError(f"corpus is {shown(corpus)}; it must be a Corpus, such as load_corpus or load_r8 gives")


def load_split(
    path: str | os.PathLike[str],
    base: VocabularyOwner,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> Split:
    """Loads a file of labelled documents for evaluating a base or its modules.

    Texts become words and ids as those that the base was trained on.

    Args:
        path: a CSV, TSV or JSON lines file by its ending, as in `Corpus.from_file`; a file of any other ending, or a
            .tsv file without a line of names, holds one document a line, `label<TAB>text`.
        base: the classifier whose vocabulary, class names and text treatment are used.
        text_column: the column of the texts, as in `Corpus.from_file`.
        label_column: the column of the labels.
        columns: the names of all columns, for a file without a line of names.

    Returns:
        The documents. A label is -1 where the base does not know the class, which counts as "not the target" for a
        module; a DataWarning names those classes.

    Raises:
        DataError: the file is not of that form, as in `load_corpus`, or the base knows none of its classes.
        CheckpointError: the base does not say its vocabulary or classes.
    """
    return split_for(base, labelled_documents(path, ColumnNames(text_column, label_column), columns))


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
    numbers, foreign = number(documents, names, "the base")
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
    class_names: Sequence[str] | None = None,
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
        class_names: the classes in the order of their numbers, where the base does not say it; None: order of first
            appearance in the training documents.
    """
    checks.check_documents(train, test)
    if base is not None and base.class_names is not None:
        names = base.class_names
    else:
        names = choose_class_names(train, 2 if smallest_class is None else smallest_class, class_names)
    train_labels, test_labels = (number_all(each, names, train, base) for each in (train, test))
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
        class_names=names,
        words=words,
        train=split_of(train_words, train_labels),
        test=split_of(test_words, test_labels),
        config=config,
        source=source,
        data_hash=hash_of(config, names, (train_labels, train_words), (test_labels, test_words)),
        synthetic=synthetic,
        _index=index,
        whole_train=WholeTexts.of(train_words, index) if config.padding == "own" else None,
    )

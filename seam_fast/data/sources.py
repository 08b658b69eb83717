"""Training and test documents out of what people have: lists, tables in memory, one file or two."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import checks
from .columns import LABEL_NAMES, TEXT_NAMES, ColumnNames, Labelled, Table, table_documents
from .division import Division, divide
from .documents import Documents, Locations
from .read_files import read_labelled
from .table_files import ENDINGS, read_table
from .table_objects import parts_of_table
from .values import as_list, checked_names, labels_of, texts_of

LISTS = "lists of texts and labels"


@dataclass(frozen=True, eq=False)
class Parts:
    """The documents of a corpus.

    Attributes:
        train: the training documents.
        test: the test documents.
        class_names: the classes in the order of their numbers: as given, else of first appearance in all documents.
        source: a sentence on where they are from.
    """

    train: Documents
    test: Documents
    class_names: list[str]
    source: str


@dataclass(frozen=True)
class DocumentFile:
    """A file of documents, and how it is read.

    Attributes:
        path: the file; its ending says what it is: .csv, .tsv, .jsonl (.ndjson, .json), or .txt, lines label<TAB>text.
        test_path: a file of test documents, of the same columns; None: the documents of ``path`` are divided.
        names: which columns hold what.
        columns: the names of all columns, where the files have no line that names them.
        test_share, split, split_seed: as in `Division`; None: its defaults. Not with ``test_path``.
        class_names: what whole-number labels stand for, and the order of the classes.
    """

    path: str | os.PathLike[str]
    test_path: str | os.PathLike[str] | None = None
    names: ColumnNames = field(default_factory=ColumnNames)
    columns: Sequence[str] | None = None
    test_share: float | None = None
    split: str | None = None
    split_seed: int | None = None
    class_names: Sequence[str] | None = None

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return Path(self.path).stem

    def parts(self) -> Parts:
        """Reads the documents.

        Raises:
            DataError: a file is not what its ending says, or options have no effect; names file and line.
        """
        division = _division(self.test_path, self.test_share, self.split, self.split_seed, self.names.date)
        given = None if self.class_names is None else checked_names(self.class_names)
        whole = read_document_file(self.path, self.names, self.columns, given)
        if self.test_path is None:
            return _divided(whole, division, _by(self.names))
        return _together(whole, read_document_file(self.test_path, self.names, self.columns, whole.class_names))


def read_document_file(
    path: str | os.PathLike[str],
    names: ColumnNames | None = None,
    columns: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Labelled:
    """The documents of a file; arguments and errors are those of `DocumentFile`."""
    path, names = Path(path).expanduser(), names or ColumnNames()
    if path.is_dir():
        raise DataError(f"{path} is a folder; load_corpus reads those (--data-dir), Corpus.from_file reads a file.")
    if path.suffix.lower() != ".txt":
        return table_documents(read_table(path, _column_names(columns)), names, class_names)
    if names != ColumnNames() or columns is not None:
        raise DataError(
            f"{path}: a .txt file holds lines label<TAB>text and no columns to name; leave text_column, label_column, "
            "date_column and columns out, or call it .tsv."
        )
    return Labelled(read_labelled(path), str(path), class_names=None if class_names is None else list(class_names))


def labelled_documents(path: str | os.PathLike[str], names: ColumnNames, columns: Sequence[str] | None) -> Documents:
    """The documents of a file for evaluating: a table by its ending; lines label<TAB>text in files of other endings,
    and in a .tsv file in whose first line no column is recognised.
    """
    path = Path(path).expanduser()
    ending = path.suffix.lower()
    if ending in ENDINGS:
        plain = names == ColumnNames() and columns is None
        try:
            return read_document_file(path, names, columns).documents
        except DataError:
            if ending != ".tsv" or not plain or not path.is_file() or _names_a_column(path):
                raise
            return read_labelled(path)
    if names != ColumnNames() or columns is not None:
        return read_document_file(path, names, columns).documents  # which says why not
    return read_labelled(path)


def list_parts(
    texts: Iterable[str],
    labels: Iterable[Any],
    test_texts: Iterable[str] | None,
    test_labels: Iterable[Any] | None,
    class_names: Sequence[str] | None,
    dates: Iterable[Any] | None,
    test_share: float | None,
    split: str | None,
    split_seed: int | None,
) -> Parts:
    """The documents of lists; arguments and errors as of `Corpus.from_lists`."""
    if (test_texts is None) != (test_labels is None):
        there, missing = ("test_labels", "test_texts") if test_texts is None else ("test_texts", "test_labels")
        raise DataError(f"{there} is given without {missing}; give both, or neither.")
    division = _division(test_texts, test_share, split, split_seed, dates)
    order = None if class_names is None else checked_names(class_names)
    documents = documents_of_lists(texts, labels, "texts", "labels", order)
    if test_texts is None:
        moments = None if dates is None else as_list(dates, "dates")
        if moments is not None and len(moments) != len(documents.texts):
            raise DataError(f"dates has {len(moments)} entries, texts has {len(documents.texts)}; give one for each.")
        return _divided(Labelled(documents, LISTS, moments, order), division, None if dates is None else "dates")
    assert test_labels is not None  # checked above
    test = documents_of_lists(test_texts, test_labels, "test_texts", "test_labels", order)
    return _parts(documents, test, order, LISTS)


def documents_of_lists(
    texts: Iterable[str], labels: Iterable[Any], of_texts: str, of_labels: str, class_names: Sequence[str] | None
) -> Documents:
    """Documents of two lists, which messages call ``of_texts`` and ``of_labels``. Raises DataError."""
    listed, given = as_list(texts, of_texts), as_list(labels, of_labels)
    if len(listed) != len(given):
        raise DataError(f"{of_texts} has {len(listed)} entries, {of_labels} has {len(given)}; give a label for each.")
    if not listed:
        raise DataError(f"{of_texts} is empty; give at least one document.")
    locations = Locations(f"{of_texts}[", range(len(listed)), "]")
    checked = texts_of(listed, locations)
    names = labels_of(given, Locations(f"{of_labels}[", range(len(listed)), "]"), class_names=class_names)
    remedy = f"{of_texts} takes the texts, {of_labels} the class of each"
    documents = Documents(names, checked, of_texts, locations, remedy=remedy)
    checks.refuse_hidden(documents)
    return documents


def table_parts(
    table: Any,
    test: Any,
    names: ColumnNames,
    class_names: Sequence[str] | None,
    test_share: float | None,
    split: str | None,
    split_seed: int | None,
) -> Parts:
    """The documents of a table in memory; arguments and errors as of `Corpus.from_table`."""
    both: tuple[Table, Table | None] = parts_of_table(table, test)
    division = _division(both[1], test_share, split, split_seed, names.date)
    given = None if class_names is None else checked_names(class_names)
    whole = table_documents(both[0], names, given)
    if both[1] is None:
        return _divided(whole, division, _by(names))
    return _together(whole, table_documents(both[1], names, given))


def _division(test: Any, test_share: float | None, split: str | None, split_seed: int | None, dates: Any) -> Division:
    """How documents are divided. Raises DataError for options that have no effect beside a test set, or at all."""
    given = {
        "test_share": test_share,
        "split": split,
        "split_seed": split_seed,
        "a date column or list of dates": dates,
    }
    beside = [name for name, value in given.items() if value is not None]
    if test is not None and beside:
        raise DataError(f"{beside[0]} has no effect where a test set is given; leave one of them out.")
    division = Division.of(test_share, split, split_seed)
    if split_seed is not None and division.split == "time":
        raise DataError('split_seed has no effect where split is "time", which draws nothing; leave it out.')
    return division


def _by(names: ColumnNames) -> str | None:
    """What the dates of documents are called in a sentence; None without dates."""
    return None if names.date is None else f"column {names.date!r}"


def _divided(whole: Labelled, division: Division, by: str | None) -> Parts:
    """Documents divided in two; ``by``: the name of their dates.

    Raises DataError as `divide` does, and for a class that has test documents alone.
    """
    checks.refuse_columns(whole.documents)  # before drawing: labels that number the documents leave none to draw
    train, test = divide(whole.documents, division, whole.dates)
    there = set(train.labels)
    for i, label in enumerate(test.labels):
        if label not in there:
            raise DataError(
                f"{test.location(i)}: class {label!r} has documents among the last ones alone, which are for the test; "
                'take them out, or choose another test_share (--test-share) or split="stratified" (--split stratified).'
            )
    order = whole.class_names or list(dict.fromkeys(whole.documents.labels))
    return _parts(train, test, order, f"{whole.source} ({division.described(by)})")


def _together(whole: Labelled, test: Labelled) -> Parts:
    """Training and test documents, each from a source of its own."""
    return _parts(whole.documents, test.documents, whole.class_names, f"{whole.source} and {test.source}")


def _parts(train: Documents, test: Documents, order: list[str] | None, source: str) -> Parts:
    """Training and test documents with their classes in order."""
    return Parts(train, test, order or list(dict.fromkeys(train.labels)), source)


def _column_names(columns: Sequence[str] | None) -> list[str] | None:
    """The names of all columns. Raises DataError where they are no list of strings."""
    if columns is None:
        return None
    names = as_list(columns, "columns")
    return texts_of(names, Locations("columns[", range(len(names)), "]"), "the name")


def _names_a_column(path: Path) -> bool:
    """Whether the first line of a TSV file names a column that is recognised."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    names = {each.strip(' "\r\n').casefold() for each in first.split("\t")}
    return bool(names & (TEXT_NAMES | LABEL_NAMES))

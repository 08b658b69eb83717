"""A table of documents in memory, and which of its columns hold text and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DataError
from . import checks
from .documents import Documents, Locations
from .values import labels_of, texts_of


def _words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Names by which a column is recognised, if just one of a table has such a name; `text` and `label` win over others.
TEXT_NAMES = _words(
    "text texts document documents doc content contents body sentence review reviews message comment description "
    "utterance news article question query tweet abstract headline"
)
LABEL_NAMES = _words("label labels class classes category categories target topic topics tag sentiment intent genre y")
MOST_LISTED = 12  # columns that a message lists


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of named columns.

    Attributes:
        columns: the values of each column, by name, one for each row.
        name: how messages name the table: the file's path, or what it is.
        locations: how messages name each row.
        head: how messages name the place where the columns' names stand.
        class_names: by column, what whole numbers in it stand for, where the table says it.
    """

    columns: Mapping[str, Sequence[Any]]
    name: str
    locations: Locations
    head: str
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ColumnNames:
    """Which columns hold what; None: guessed (text, label) or none (date).

    Attributes:
        text: the column of the texts.
        label: the column of the labels.
        date: the column by whose dates documents are split in two.
    """

    text: str | None = None
    label: str | None = None
    date: str | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """Documents as a source gives them.

    Attributes:
        documents: the documents.
        source: where they are from, for a sentence.
        dates: a date for each, if dates are asked for.
        class_names: the classes in the order of their numbers, if it is known.
    """

    documents: Documents
    source: str
    dates: list[Any] | None = None
    class_names: list[str] | None = None


def table_documents(table: Table, names: ColumnNames, class_names: Sequence[str] | None = None) -> Labelled:
    """The documents of a table.

    Args:
        table: the table.
        names: its columns.
        class_names: what whole-number labels stand for; None: what the table says, if it does.

    Raises:
        DataError: a column is not there or cannot be guessed, there are no rows, or a text or label is not usable.
    """
    text, label = choose_columns(table, names)
    if names.date is not None:
        _check_column(table, names.date, "date_column")
    if not len(table.columns[text]):
        raise DataError(f"{table.head}: there are columns but no documents.")
    order = class_names if class_names is not None else table.class_names.get(label)
    texts = texts_of(table.columns[text], table.locations, f"the text (column {text!r})")
    labels = labels_of(table.columns[label], table.locations, f"the label (column {label!r})", order)
    others = [name for name in table.columns if name not in (text, label)]
    there = f"; there are also {_listed(others)}" if others else ""
    remedy = (
        f"the label was taken from column {label!r}, the text from {text!r}; name others by label_column "
        f"(--label-column) and text_column (--text-column){there}"
    )
    documents = Documents(labels, texts, table.name, table.locations, remedy=remedy)
    checks.refuse_hidden(documents)
    dates = None if names.date is None else list(table.columns[names.date])
    source = f"{table.name}, columns {text!r} and {label!r}"
    return Labelled(documents, source, dates, None if order is None else list(order))


def choose_columns(table: Table, names: ColumnNames) -> tuple[str, str]:
    """The columns of text and label: those that are named, else those that can be meant alone. Raises DataError."""
    for column, option in ((names.text, "text_column"), (names.label, "label_column")):
        if column is not None:
            _check_column(table, column, option)
    if names.text is not None and names.text == names.label:
        raise DataError(f"{table.head}: text_column and label_column are both {names.text!r}; name two columns.")
    text, label = names.text, names.label
    free = [column for column in table.columns if column not in (text, label, names.date)]
    if text is None:
        text = guess(free, "text", TEXT_NAMES)
    if label is None:
        label = guess([column for column in free if column != text], "label", LABEL_NAMES)
    rest = [column for column in free if column not in (text, label)]
    if text is None and label is not None and len(rest) == 1:
        text = rest.pop()
    if label is None and text is not None and len(rest) == 1:
        label = rest.pop()
    for column, what in ((text, "text"), (label, "label")):
        if column is None:
            raise DataError(
                f"{table.head}: which column holds the {what} is not plain; name it by {what}_column "
                f"(--{what}-column): there are {_listed(table.columns)}; of a file without a line of names, name all "
                "its columns by columns (--columns)."
            )
    assert text is not None and label is not None  # or the error above was raised
    return text, label


def guess(columns: Sequence[str], best: str, known: frozenset[str]) -> str | None:
    """The one column that is called ``best``, else the one with a known name; None where there is none or several.

    Case and blanks around a name make no difference.
    """
    plain = {column: column.strip().casefold() for column in columns}
    for wanted in ([best], known):
        found = [column for column, name in plain.items() if name in wanted]
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None


def _check_column(table: Table, column: str, option: str) -> None:
    """Raises DataError where a table has no such column."""
    if column in table.columns:
        return
    near = [name for name in table.columns if name.strip().casefold() == str(column).strip().casefold()]
    meant = f"did you mean {near[0]!r}" if near else f"there are {_listed(table.columns)}"
    raise DataError(f"{table.head}: no column {column!r} ({option}); {meant}.")


def _listed(names: Any) -> str:
    """Names of columns, for a sentence."""
    names = list(names)
    return ", ".join(map(repr, names[:MOST_LISTED])) + (", ..." if len(names) > MOST_LISTED else "")

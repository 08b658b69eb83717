"""Tables in memory: data frames, Hugging Face data sets, lists by column; none of their packages is needed.

An object is known by what it can do. A data frame (of pandas or polars) has ``columns`` and gives a column for its
name; a data set has ``column_names``, and ``features`` that may say what whole numbers stand for; a mapping gives a
list for each column's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common.arguments import shown
from ..errors import DataError
from .columns import Table
from .documents import Locations
from .values import as_list

WANTED = (
    "a pandas DataFrame, a Hugging Face Dataset or DatasetDict, or a dict with a list for each column; of two lists "
    "Corpus.from_lists makes a corpus"
)


def parts_of_table(source: Any, test: Any = None) -> tuple[Table, Table | None]:
    """The table of the training documents, and that of the test documents if there is one.

    Args:
        source: a table, or several by the name of their split, such as a ``DatasetDict``.
        test: a table of test documents; not with several tables.

    Raises:
        DataError: an object is no table, or which tables are meant is not plain.
    """
    if not _is_dict_of_tables(source):
        return as_table(source, "the training table"), None if test is None else as_table(test, "the test table")
    splits = list(source)
    if test is not None:
        raise DataError(
            f"the table holds the splits {', '.join(map(repr, splits))} and a test table is given as well; give the "
            "training table alone, such as Corpus.from_table(source['train'], test)."
        )
    if "train" in splits and "test" in splits:
        return as_table(source["train"], "split 'train'"), as_table(source["test"], "split 'test'")
    if splits == ["train"]:
        return as_table(source["train"], "split 'train'"), None
    raise DataError(
        f"the table holds the splits {', '.join(map(repr, splits))}, not 'train' and 'test'; say which to take: "
        "Corpus.from_table(source['...'], source['...'])."
    )


def as_table(source: Any, name: str) -> Table:
    """A table of an object's columns. Raises DataError for an object that is none; ``name``: its name in messages."""
    kind = type(source).__name__
    if isinstance(source, (str, bytes)):
        raise DataError(f"{name} is {shown(source)}; it must be {WANTED}, and of a file's path Corpus.from_file.")
    if isinstance(source, Mapping):
        columns = {str(key): as_list(values, f"{name}[{key!r}]") for key, values in source.items()}
        return _table(columns, f"{name} (a {kind})", None, {})
    names = getattr(source, "column_names", None)
    if names is None:
        names = getattr(source, "columns", None)
    if names is None or isinstance(names, Mapping) or not hasattr(source, "__getitem__"):
        raise DataError(f"{name} is a {kind}; it must be {WANTED}.")
    names = list(names)
    _refuse_names(names, name)
    try:
        columns = {key: _values(source[key]) for key in names}
    except (TypeError, KeyError, NotImplementedError, IndexError) as error:
        raise DataError(
            f"{name} is a {kind} whose columns cannot be read ({shown(error)}); it must be {WANTED}."
        ) from error
    index = getattr(source, "index", None)
    index = None if index is None or callable(index) else list(index)
    return _table(columns, f"{name} (a {kind})", index, _names_of_numbers(source, names))


def _table(
    columns: dict[str, list[Any]], name: str, index: list[Any] | None, class_names: dict[str, Sequence[str]]
) -> Table:
    """A table of such columns. Raises DataError where they are of several lengths."""
    if not columns:
        raise DataError(f"{name} has no columns.")
    first, rows = next(iter(columns)), len(next(iter(columns.values())))
    for column, values in columns.items():
        if len(values) != rows:
            raise DataError(f"{name}: column {column!r} has {len(values)} entries, column {first!r} has {rows}.")
    if index is not None and len(index) == rows:
        locations = Locations(f"{name}, row with index ", [repr(each) for each in index])
    else:
        locations = Locations(f"{name}, row ", range(rows))
    return Table(columns, name, locations, name, class_names)


def _is_dict_of_tables(source: Any) -> bool:
    """Whether an object holds tables by name, not columns."""
    return isinstance(source, Mapping) and any(
        hasattr(each, "column_names") or hasattr(each, "columns") or isinstance(each, Mapping)
        for each in source.values()
    )


def _refuse_names(names: list[Any], name: str) -> None:
    """Raises DataError for columns whose names are no strings, or that have one name."""
    for i, column in enumerate(names):
        if not isinstance(column, str):
            raise DataError(f"{name}: column {column!r} has a name that is no string; give the columns names.")
        if column in names[:i]:
            raise DataError(f"{name}: two columns are called {column!r}; give each a name of its own.")


def _values(column: Any) -> list[Any]:
    """A column's values as a list of Python's objects, as far as the column can make one."""
    for method in ("tolist", "to_list", "to_pylist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _names_of_numbers(source: Any, names: Sequence[str]) -> dict[str, Sequence[str]]:
    """By column, the class names that a data set's features or a data frame's categories give for it."""
    features = getattr(source, "features", None)
    found: dict[str, Sequence[str]] = {}
    for column in names:
        feature = features.get(column) if isinstance(features, Mapping) else None
        given = getattr(feature, "names", None)
        if given is None and features is None:
            given = getattr(getattr(source[column], "dtype", None), "categories", None)
            given = None if given is None or callable(given) else list(given)
        if given is not None and len(given) and all(isinstance(name, str) for name in given):
            found[column] = list(given)
    return found

"""Reading tables of documents: CSV, TSV and JSON lines, by the file's ending; every mistake is named with its line."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ..common.arguments import shown
from ..errors import DataError
from .columns import Table
from .documents import Locations
from .text_file import read_text

DELIMITERS = ",;\t|"
SAMPLE = 200  # lines that are inspected for the sign between fields
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ENDINGS = (".csv", ".tsv", *JSON_ENDINGS)


def read_table(path: Path, columns: Sequence[str] | None = None) -> Table:
    """Reads a table of documents.

    Args:
        path: a file that ends in one of `ENDINGS`; case makes no difference.
        columns: the columns' names, where the file has no line that names them. Not for JSON lines.

    Raises:
        DataError: the file cannot be read as what its ending says; names the line.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: files that end in {', '.join(ENDINGS)} or .txt are read; read others by pandas, for example, and "
            "give the table to Corpus.from_table."
        )
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}, line 1: the file is empty.")
    if ending in JSON_ENDINGS:
        if columns is not None:
            raise DataError(f"{path}: columns has no effect with JSON lines, whose objects name theirs; leave it out.")
        return _json_table(path, text)
    return _delimited_table(path, text, ending == ".tsv", columns)


# --- CSV and TSV -----------------------------------------------------------------------------------------------------


def _delimited_table(path: Path, text: str, tabs: bool, columns: Sequence[str] | None) -> Table:
    """A table of lines whose fields are separated by one sign."""
    delimiter = "\t" if tabs else _delimiter(text, columns)
    with _fields_of_any_length():
        records = list(_records(path, text, delimiter, quotes=not tabs))
    if not records:
        raise DataError(f"{path}, line 1: the file is empty.")
    if columns is None:
        line, header = records.pop(0)
        names = [name.strip() for name in header]
        _refuse_twice(names, f"{path}, line {line}")
        head, said = f"{path}, line {line}", "the header has"
    else:
        names = list(columns)
        _refuse_twice(names, f"columns of {path}")
        head, said = f"{path}, line 1", "columns names"
    for line, fields in records:
        if len(fields) != len(names):
            raise DataError(f"{path}, line {line}: {_count(len(fields))}, but {said} {len(names)}; {_advice(tabs)}.")
    values = zip(*(fields for _, fields in records), strict=True) if records else [() for _ in names]
    # Of several columns without a name, such as pandas' index, the first remains.
    table: dict[str, list[str]] = {}
    for name, column in zip(names, values, strict=True):
        table.setdefault(name, list(column))
    return Table(table, str(path), Locations(f"{path}, line ", [line for line, _ in records]), head)


def _records(path: Path, text: str, delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """The number of the line where each record begins, and its fields; empty lines are passed over."""
    file, kind = io.StringIO(text, newline=""), csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(file, delimiter=delimiter, quoting=cast(Any, kind), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {_what_is_wrong(str(error), quotes)}.") from error
        if not quotes:
            fields = [_unquoted(each) for each in fields]
        if len(fields) > 1 or (fields and fields[0].strip()):
            yield line, fields


def _what_is_wrong(error: str, quotes: bool) -> str:
    """A clause for what `csv` says of a record."""
    if "unexpected end" in error:
        return "a quote is opened in the record that begins here, and never closed"
    if "expected after" in error:
        return (
            "in the record that begins here something stands behind a closing quote; a quote inside a field in quotes "
            'must be written twice ("")'
        )
    return f"the record that begins here cannot be read as {'CSV' if quotes else 'TSV'} ({error})"


def _unquoted(field: str) -> str:
    """A field of a TSV file, without quotes around it; those inside must be doubled, else none are meant."""
    inside = field[1:-1]
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return field


def _delimiter(text: str, columns: Sequence[str] | None) -> str:
    """The sign between the fields of a CSV file.

    With ``columns``, the one that gives as many fields most often; otherwise a comma where the first line has one
    outside quotes, else the most frequent of the others.
    """
    lines = list(itertools.islice((line for line in io.StringIO(text) if line.strip()), SAMPLE))
    if columns is not None:
        wanted = len(columns)
        return max(DELIMITERS, key=lambda sign: [len(each) for each in csv.reader(lines, delimiter=sign)].count(wanted))
    bare = re.sub('"[^"]*"', "", lines[0])
    return "," if "," in bare else max(DELIMITERS, key=bare.count)


def _refuse_twice(names: Sequence[str], where: str) -> None:
    """Raises DataError for two columns of one name; several may have none, since none can be asked for."""
    for i, name in enumerate(names):
        if name and name in names[:i]:
            raise DataError(f"{where}: two columns are called {name!r}; give each a name of its own.")


def _count(fields: int) -> str:
    """A number of fields, in words."""
    return f"{fields} field{'' if fields == 1 else 's'}"


def _advice(tabs: bool) -> str:
    """What to do about a wrong number of fields."""
    if tabs:
        return "a field of a TSV file holds no tab and no line end; write such texts as CSV"
    return "put a field that holds the separator or a line end in quotes"


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lifts the limit that `csv` has for the length of a field, which belongs to the whole process."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


# --- JSON lines ------------------------------------------------------------------------------------------------------


class MissingValue:
    """Stands for a value that a line of JSON lacks; it is unequal to itself, as NaN is."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "no such key"


MISSING = MissingValue()


def _json_table(path: Path, text: str) -> Table:
    """A table of JSON objects, one a line; its columns are the keys of them all."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, written in enumerate(text.split("\n"), 1):  # not splitlines(): strings may hold other line ends
        if written.strip():
            rows.append(_json_object(written, f"{path}, line {line}"))
            lines.append(line)
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {name: [row.get(name, MISSING) for row in rows] for name in names}
    return Table(columns, str(path), Locations(f"{path}, line ", lines), f"{path}, line {lines[0]}")


def _json_object(written: str, where: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises DataError for anything else."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            name = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"{where}: the key {name!r} is there twice; give each value a key of its own.")
        return found

    advice = 'each line must be an object of its own, such as {"text": "...", "label": "..."}'
    try:
        found = json.loads(written, object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        if written.strip() in ("[", "{"):
            raise DataError(f"{where}: JSON that goes over several lines; {advice}.") from error
        raise DataError(f"{where}: no valid JSON ({error.msg}, column {error.colno}); {advice}.") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in thousands of brackets
        raise DataError(f"{where}: JSON that cannot be read ({shown(error)}); {advice}.") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: {shown(found)} is no JSON object; {advice}.")
    return found

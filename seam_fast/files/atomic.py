"""Files that are there whole or not at all, and what JSON is made of."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

_PART_NAME = 40  # characters of a file's name that its unfinished copy bears: the whole could be too long with more


def write_atomically(path: str | os.PathLike, data: bytes) -> Path:
    """Writes beside the final place and renames, so that an interrupted run leaves the old file or none.

    Folders are made as needed; the file's mode is what the umask leaves. Returns the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        # The kernel applies the umask: asking for it would mean to change it, for the whole process.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def unfinished(path: Path) -> Path:
    """A new name in the same folder, for a file that is not yet whole."""
    return path.with_name(f".{path.name[:_PART_NAME]}.{secrets.token_hex(6)}.part")


def to_json(value, **options) -> str:
    """JSON of anything that can be written so: numbers and arrays of NumPy and torch become Python's, and what has no
    form in JSON its text, for a result must not be lost by a figure beside it. options: of ``json.dumps``.
    """
    text = json.dumps(_plain(value), **options)
    # A lone surrogate (a byte of a file name that is not UTF-8) cannot be encoded; so it becomes JSON's own escape.
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value):
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | str):  # a subclass, such as numpy.str_
        base = next(base for base in (bool, int, float, str) if isinstance(value, base))
        return base(value)
    if callable(getattr(value, "tolist", None)):  # of NumPy and torch
        return _plain(value.tolist())
    return str(value)

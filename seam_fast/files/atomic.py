"""Files that are written whole or not at all, and values made fit for JSON."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PART_NAME = 40  # characters of the file's name in that of its unfinished copy, which must not become too long


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes a temporary file beside the final one and renames it, so that an interrupted run leaves no half of a file.

    Args:
        path: of the file; folders are made as needed, and the umask decides on the file's mode.
        data: its bytes.

    Returns:
        The path.

    Raises:
        OSError: as of any file; a file of that name is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        # os.open applies the umask; to read it one would have to change it, for the whole process.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure could leave an empty file under the new name
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def unfinished(path: Path) -> Path:
    """A new name in the same folder, for a file that is still being written."""
    return path.with_name(f".{path.name[:_PART_NAME]}.{secrets.token_hex(6)}.part")


def to_json(value: Any, **options: Any) -> str:
    """JSON of any value.

    Numbers and arrays of NumPy and torch become Python's, and what JSON cannot hold becomes its ``str``: a result must
    not be lost because of a value beside it.

    Args:
        value: the value.
        **options: of ``json.dumps``.
    """
    text = json.dumps(_plain(value), **options)
    # A lone surrogate (from a file name that is not UTF-8) cannot be encoded; it becomes an escape of JSON.
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    """A value made of what JSON knows."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | str):  # a subclass, such as numpy.str_
        base = next(base for base in (bool, int, float, str) if isinstance(value, base))
        return base(value)
    if callable(getattr(value, "tolist", None)):  # an array or tensor
        return _plain(value.tolist())
    return str(value)

"""Reading a file as UTF-8 text, with the line named where it is none."""

from __future__ import annotations

import codecs
from pathlib import Path

from ..errors import DataError

SAMPLE = 4096  # bytes that are inspected
WIDE = 8  # a file whose sample has a zero byte among so many is taken for UTF-16 or UTF-32


def read_text(path: Path, named_by: str = "") -> str:
    """A file's text.

    Args:
        path: the file.
        named_by: where the file is listed, for the message that it cannot be read.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or holds zero bytes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f", which {named_by} names," if named_by else ""
        raise DataError(f"{path}{reason} cannot be read: {error.strerror or error}.") from error
    sample = data[:SAMPLE]
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if marked or WIDE * sample.count(0) > len(sample):
        raise DataError(f"{path}, line 1: this is UTF-16, UTF-32 or no text at all; convert the file to UTF-8.")
    try:
        text = data.decode("utf-8-sig")  # a byte-order mark would otherwise become part of the first label
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file to UTF-8."
        ) from error
    if (first := data.find(0)) >= 0:
        line = data.count(b"\n", 0, first) + 1
        raise DataError(
            f"{path}, line {line}: a NUL byte, which no text has; the file is damaged there, or it is no text."
        )
    return text


def read_lines(path: Path) -> list[str]:
    """A file's lines, without empty ones at the end. Raises DataError for an empty file."""
    text = read_text(path)
    lines = text.split("\n")  # not splitlines(): that also splits at characters which are no line ends here
    while lines and not lines[-1].strip("\r "):
        lines.pop()
    if not lines:
        raise DataError(f"{path}, line 1: the file is empty.")
    for number, line in enumerate(lines, 1):
        if "\r" in line and "\t" in line.rstrip("\r").partition("\r")[2]:
            raise DataError(
                f"{path}, line {number}: a carriage return stands between two documents; end all lines with a line "
                "feed (as tr '\\r' '\\n' does)."
            )
    return lines

"""Results as JSON: on standard output, and in files."""

from pathlib import Path
from typing import Any

from ..files.atomic import to_json, write_atomically


def print_json(value: Any) -> None:
    """Prints one JSON document on standard output."""
    print(to_json(value, indent=1))


def write_json(path: Path, value: Any) -> Path:
    """Writes a JSON file, whole or not at all; returns its path."""
    return write_atomically(path, (to_json(value, indent=1, ensure_ascii=False) + "\n").encode())

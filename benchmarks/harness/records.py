"""Writing records: the path is checked before anything is measured, the record before it is written."""

import json
import os
from pathlib import Path

from benchmarks.harness import schema
from seam_fast.cli.json_output import write_json
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError


def check_path(out: Path) -> Path:
    """Makes the folder of a record. Raises SeamFastError if no record can be written there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(out.parent, os.W_OK) and not out.is_dir()
    except OSError:
        writable = False
    if not writable:
        raise SeamFastError(f"{out}: no record can be written there; choose another place")
    return out


def resumed(more: str | None, name: str, fresh: dict) -> dict:
    """The record that a measurement goes on with.

    Args:
        more: A record to go on with, or None.
        name: The benchmark's module below ``benchmarks``, for the message.
        fresh: A new record: its ``format``, and its ``base`` where it has one, are what the other must have.

    Raises:
        SeamFastError: ``more`` is no record of that benchmark, or was measured over another base.
    """
    if not more:
        return fresh
    found = json.loads(Path(more).read_text())
    if found.get("format") != fresh["format"]:
        raise SeamFastError(f"{more} is no record of benchmarks.{name}")
    if found.get("base") != json.loads(json.dumps(fresh.get("base"))):
        raise SeamFastError(f"{more} is a record of benchmarks.{name} with another base")
    return found


def save(record: dict, out: Path, words: str = "") -> dict:
    """Checks and writes a record; returns it as it will be read. words: added to the message."""
    record = schema.check(json.loads(json.dumps(record)))
    write_json(out, record)
    say(f"{out} written{words}")
    return record

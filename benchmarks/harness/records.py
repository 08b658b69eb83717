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


def save(record: dict, out: Path, words: str = "") -> dict:
    """Checks and writes a record; returns it as it will be read. words: added to the message."""
    record = schema.check(json.loads(json.dumps(record)))
    write_json(out, record)
    say(f"{out} written{words}")
    return record

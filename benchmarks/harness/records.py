"""Where records are put: looked at before the time is spent, and checked before they are written."""

import json
import os
from pathlib import Path

from benchmarks.harness import schema
from seam_fast.cli.workflow import say, write_json
from seam_fast.errors import SeamFastError


def check_place(out: Path) -> Path:
    """Raises SeamFastError where no record could be written; makes the folder."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        usable = os.access(out.parent, os.W_OK) and not out.is_dir()
    except OSError:
        usable = False
    if not usable:
        raise SeamFastError(f"{out}: no record can be written there; choose another place")
    return out


def save(record: dict, out: Path, words: str = "") -> dict:
    """Writes a record, checked as it comes back from the file; returns it as such. words: to add to what is said."""
    record = schema.check(json.loads(json.dumps(record)))
    write_json(out, record)
    say(f"{out} written{words}")
    return record

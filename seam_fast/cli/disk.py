"""Checks before a training that its results can be written."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError
from ..files.atomic import unfinished


def check_writable(path: Path, suffixes: Sequence[str]) -> None:
    """Checks that a file can be written, and makes its folder. The file itself is left as it is.

    Args:
        path: the file that will be written.
        suffixes: those that its name may end in, with the dot.

    Raises:
        CheckpointError: where the suffix is another one, or a folder has that path.
        OSError: where the name is too long, or the folder cannot be made or written to.
    """
    if path.suffix not in suffixes:
        raise CheckpointError(f"{path}: the name must end in {' or '.join(suffixes)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder is in the way; remove it or choose another name")
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)  # raises OSError where the name is too long
    trial = unfinished(path)
    try:
        trial.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
    trial.unlink()


def check_room(folder: Path, size: int) -> None:
    """Raises CheckpointError where the disk of a folder has less than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CheckpointError(
            f"{folder}: about {size / 1e6:,.0f} MB will be written, and the disk has {free / 1e6:,.0f} MB free; make "
            "room or choose another folder"
        )

"""What the figures of a record were measured on: processor, cores, system, versions and commit."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from .._version import __version__
from ..common.cores import usable_cores


def machine() -> dict[str, str | int | None]:
    """The machine, the versions and the time, for the record of a measurement; ``cores`` are those usable here."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seam_fast": __version__,
        "commit": commit(),
    }


def cpu_name() -> str:
    """The processor's model name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def cores_in_words() -> str:
    """How many cores this process may use, and of how many where it may not use all."""
    usable, all_cores = usable_cores(), os.cpu_count() or 1
    return f"{usable} cores" + (f" (of {all_cores}: a CPU quota or an affinity mask)" if usable < all_cores else "")


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with ``+`` where tracked files were changed since.

    None where the package does not run from its own checkout, or git cannot be asked.
    """
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # the package is installed inside another project's repository
        paths = (":/", ":(top,exclude)benchmarks/records")  # writing a record does not change the measured code
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *paths)
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None

"""How many cores this process may use: within its affinity mask and a container's CPU quota."""

import math
import os
from pathlib import Path

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The number of cores that this process may use, at least 1.

    Those of its affinity mask, but no more than its CPU quota, rounded up. The quota is that of cgroups, version 1 or
    2, as docker's ``--cpus`` or Kubernetes' limits set it: the smallest of the process's own group and its parents.
    """
    quota, cores = cpu_quota(), _cores_in_mask()
    return max(
        1, cores if quota is None else min(cores, math.ceil(quota - 1e-6))
    )  # 1e-6: the quotient may be rounded up


def _cores_in_mask() -> int:
    """The size of the affinity mask, or the machine's number of cores where there is none."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows have no such call
        return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """The CPU quota in cores, or None where there is none or the system does not tell."""
    found: list[float | None] = []
    for line in _lines(OWN):  # hierarchy number:controllers:path
        number, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        if number == "0" and not controllers:
            for root in (CGROUPS, CGROUPS / "unified"):
                found += [_quota_2(folder) for folder in _with_parents(root, group)]
        elif "cpu" in controllers.split(","):
            for root in (CGROUPS / controllers, CGROUPS / "cpu", CGROUPS / "cpu,cpuacct"):
                found += [_quota_1(folder) for folder in _with_parents(root, group)]
    return min((quota for quota in found if quota is not None), default=None)


def _with_parents(root: Path, group: str) -> list[Path]:
    """A group's folder and its parents up to the root. The root counts too: a container sees its own group there."""
    folder = root / group.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _quota_2(folder: Path) -> float | None:
    """Version 2: ``cpu.max`` holds the quota, or "max", and the period, in microseconds."""
    return _share(next(iter(_lines(folder / "cpu.max")), "").split())


def _quota_1(folder: Path) -> float | None:
    """Version 1: quota and period have a file each; a quota of -1 means that there is none."""
    return _share([line for name in ("quota", "period") for line in _lines(folder / f"cpu.cfs_{name}_us")[:1]])


def _share(words: list[str]) -> float | None:
    """Quota divided by period, from their text."""
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []

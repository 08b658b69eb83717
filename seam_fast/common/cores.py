"""How many cores this process may use: a container's share or a mask, not what the machine has."""

import math
import os
from pathlib import Path

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on, at least 1: its affinity mask, and no more than its CPU quota, rounded up.

    The quota is that of cgroups, version 1 or 2, as docker's ``--cpus`` or Kubernetes' limits set it, the smallest of
    the process's own group and of those above it.
    """
    quota = cpu_quota()
    return max(1, min(_masked_cores(), math.inf if quota is None else math.ceil(quota - 1e-6)))


def _masked_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not every system has masks
        return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """The CPU quota in cores, or None where there is none or the system does not tell."""
    found = []
    for line in _lines(OWN):
        number, controllers, place = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        if number == "0" and not controllers:
            for root in (CGROUPS, CGROUPS / "unified"):
                found += [_quota_2(folder) for folder in _with_parents(root, place)]
        elif "cpu" in controllers.split(","):
            for root in (CGROUPS / controllers, CGROUPS / "cpu", CGROUPS / "cpu,cpuacct"):
                found += [_quota_1(folder) for folder in _with_parents(root, place)]
    return min((quota for quota in found if quota is not None), default=None)


def _with_parents(root: Path, place: str) -> list[Path]:
    """A group's folder and those above it. A container sees its own group as the root, whatever its name outside."""
    folder = root / place.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _quota_2(folder: Path) -> float | None:
    """Of ``cpu.max``: microseconds, or "max", of each period."""
    return _share(next(iter(_lines(folder / "cpu.max")), "").split())


def _quota_1(folder: Path) -> float | None:
    """Of two files, where -1 stands for no quota."""
    return _share([line for name in ("quota", "period") for line in _lines(folder / f"cpu.cfs_{name}_us")[:1]])


def _share(words: list[str]) -> float | None:
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []

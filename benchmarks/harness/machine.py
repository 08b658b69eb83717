"""The machine that figures are measured on, and limits of the instruction set for all contestants."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

import seam_fast
from seam_fast.backend import choose_backend
from seam_fast.cli import report
from seam_fast.errors import SeamFastError

# Environment variables that keep other libraries to the instruction set that seam-fast is limited to. A library reads
# them when it is loaded, so a run with --isa starts itself again.
LIMITS = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "portable": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def run_with_isa(isa: str | None, argv: list[str]) -> int | None:
    """Runs ``seam-fast`` with these arguments, limited to an instruction set, in a fresh process.

    Returns:
        Its exit code, or None if this process already has that limit or no limit was asked for.

    Raises:
        SeamFastError: This processor does not have the instruction set.
    """
    if isa is None:
        return None
    wanted = {"SEAM_FAST_ISA": isa, **LIMITS[isa]}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        return subprocess.run([sys.executable, "-m", "seam_fast", *argv], env=os.environ | wanted).returncode
    native = seam_fast._ext.C
    if native and native.isa() != isa:
        raise SeamFastError(f"--isa {isa}: this processor has only {', '.join(native.isas())}")
    return None


def describe(arguments, load: dict, peak: dict) -> dict:
    """The field ``machine`` of a record: processor, GPU, caches, instruction sets, libraries, threads, load and peak.

    load: the load before the run; the load after it is added here.
    """
    native = seam_fast._ext.C
    isa = {
        "asked": arguments.isa or "auto",
        "seam": native.isa() if native else None,
        "available": list(native.isas()) if native else [],
        "torch": torch.backends.cpu.get_cpu_capability(),
        "limits": {name: os.environ[name] for name in ("SEAM_FAST_ISA", *LIMITS["avx2"]) if name in os.environ},
    }
    backend = getattr(arguments, "backend", "auto")
    return report.machine() | {
        "gpu": gpu(),
        "backend": {"asked": backend, "used": choose_backend(backend)},
        "backends": seam_fast.backends(),
        "build": dict(native.build_info()) if native else None,
        "isa": isa,
        "caches": caches(),
        "threads": torch.get_num_threads(),
        "load": load | {"after": load_average()},
        "peak": peak,
    }


def gpu() -> str | None:
    """The name of the first GPU that torch sees."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def comparison_key(about: dict) -> tuple:
    """What two machines must have in common for their ratios to be comparable: processor, cores, ISA and GPU."""
    isa = about["isa"]["seam"] if isinstance(about["isa"], dict) else about["isa"]
    return about["cpu"], about["cores"], isa, about.get("gpu")


def in_words(about: dict) -> str:
    """The machine of a record in one line, for the end of a table."""
    cpu, cores, isa, gpu = comparison_key(about)
    parts = [f"{cpu} ({cores} cores)", f"{about['threads']} thread{'s' * (about['threads'] != 1)}"]
    parts += [gpu] if gpu else []
    parts += [f"instruction set {isa or 'of torch'}", f"torch {about['torch']}", f"Python {about['python']}"]
    busy = about["load"].get("busy")
    return ", ".join([*parts, *([] if busy is None else [f"{busy:.1f} cores busy with other work before"])])


def caches() -> list[str]:
    """Caches of the first core, such as 'L2 Unified 1024K, shared by cpu 0'; empty if the system does not say."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size, cores = (
                (folder / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        found.append(f"L{level} {kind} {size}, shared by cpu {cores}")
    return found


def busy_cores(seconds: float = 1.0) -> float | None:
    """How many cores other processes kept busy while this one slept; None if the system does not say (Linux)."""
    try:
        before = _ticks()
        time.sleep(seconds)
        idle, total = (now - then for now, then in zip(_ticks(), before, strict=True))
    except (OSError, ValueError):
        return None
    return round((1 - idle / total) * (os.cpu_count() or 1), 2) if total > 0 else None


def _ticks() -> tuple[int, int]:
    """Clock ticks of all cores so far: idle ones, and all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def load_average() -> list[float]:
    """The load averages of the machine, where it has any: other work widens every spread."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []

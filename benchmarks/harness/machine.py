"""What figures are measured on, and instruction sets to which all rivals can be held."""

import os
import subprocess
import sys

import torch

import seam_fast
from benchmarks.harness import measure
from seam_fast import report
from seam_fast.backend import choose_backend
from seam_fast.errors import SeamFastError

# Other libraries must not use wider instructions than seam-fast is told to; they read these when they are loaded, so
# a run with --isa starts itself again.
LIMITS = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "portable": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def run_with_isa(isa: str | None, argv: list[str]) -> int | None:
    """Runs ``seam-fast`` with these arguments and that instruction set in a fresh process; returns its exit code.

    None where this process has the instruction set already, or none was asked for.
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


def machine(arguments, load: dict, peak: dict) -> dict:
    """Processor, GPU, caches, instruction sets, libraries, threads, other work before, load after, and the peak."""
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
        "caches": measure.caches(),
        "threads": torch.get_num_threads(),
        "load": load | {"after": measure.load()},
        "peak": peak,
    }


def gpu() -> str | None:
    """The name of the first GPU that torch sees."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def kind(about: dict) -> tuple:
    """What two machines must share for their ratios to be compared: processor, cores, instruction set and GPU."""
    isa = about["isa"]["seam"] if isinstance(about["isa"], dict) else about["isa"]
    return about["cpu"], about["cores"], isa, about.get("gpu")


def in_words(about: dict) -> str:
    """One line on the machine of a record, for the end of a table."""
    cpu, cores, isa, gpu = kind(about)
    parts = [f"{cpu} ({cores} cores)", f"{about['threads']} thread{'s' * (about['threads'] != 1)}"]
    parts += [gpu] if gpu else []
    parts += [f"instruction set {isa or 'of torch'}", f"torch {about['torch']}", f"Python {about['python']}"]
    busy = about["load"].get("busy")
    return ", ".join([*parts, *([] if busy is None else [f"{busy:.1f} cores busy with other work before"])])

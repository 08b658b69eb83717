"""What the benchmarks on a GPU share: the device, what a record says of it, and when rows may stand in one table."""

import contextlib
import gc
import hashlib
import shutil
import subprocess
import time

import torch

import seam_fast
from benchmarks import ROOT
from benchmarks.harness.machine import load_average
from seam_fast.backend import choose_backend
from seam_fast.cli import report
from seam_fast.errors import SeamFastError


@contextlib.contextmanager
def frozen_heap():
    """Keeps what importing torch has left out of the garbage collections before each shape, which are faster then."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def check_comparable(runs: list[dict]) -> None:
    """Raises SeamFastError if runs differ in GPU, torch, cuDNN or sources: their rows cannot stand in one table."""
    for run in runs[1:]:
        for name in ("gpu", "torch", "cudnn", "sources"):
            one, other = runs[0]["machine"][name], run["machine"][name]
            if name == "gpu":
                one, other = one["name"], other["name"]
            if one != other:
                raise SeamFastError(f"rows of {name} {one} and {other} cannot stand in one table")


def hash_of_sources() -> str:
    """Hash of all files that a time of seam-fast depends on; a commit hash also changes with files it does not."""
    found = hashlib.sha256()
    for path in sorted([ROOT / "setup.py", *ROOT.glob("csrc/**/*.*"), *ROOT.glob("seam_fast/**/*.py")]):
        found.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def rounded(value: float, digits: int = 3) -> float:
    """The value to so many significant digits."""
    return float(f"{value:.{digits}g}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, 300 characters at most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class DeviceBench:
    """A benchmark on the GPU, or with ``arguments.dry`` a tiny one on the CPU, which shows that the code runs.

    Raises:
        SeamFastError: There is no GPU, or seam-fast has no kernels for it.
    """

    def __init__(self, arguments):
        self.dry, self.seconds, self.rivals_only = arguments.dry, arguments.seconds, arguments.rivals_only
        self.device = "cpu" if self.dry else "cuda"
        self.backend = "torch" if self.dry else "cuda"
        if self.dry:
            torch.set_num_threads(1)
            self.seconds = 0.001
            return
        if not torch.cuda.is_available():
            raise SeamFastError("torch sees no GPU; --dry shows without one that this script runs")
        if not self.rivals_only:
            choose_backend("cuda")  # raises with the reason if it cannot be used
        square = torch.ones(4096, 4096, device="cuda")
        end = time.monotonic() + 1
        while time.monotonic() < end:  # until the GPU runs at its full clock frequency
            square @ square
            torch.cuda.synchronize()

    def machine(self, commit: str | None) -> dict:
        """The field ``machine`` of a run. commit: used if the sources are not in a git checkout."""
        native, about = seam_fast._ext.C, report.machine()
        return about | {
            "commit": about["commit"] or commit,
            "gpu": self.gpu(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "sources": None if self.rivals_only else hash_of_sources(),
            "backends": seam_fast.backends(),
            "build": None if native is None else dict(native.build_info()),
            "load": {"before": load_average(), "after": None},
        }

    def gpu(self) -> dict:
        if self.dry:
            return {"name": "none: a dry run on the CPU"}
        about = torch.cuda.get_device_properties(0)
        return {
            "name": about.name,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory": about.total_memory,
            "state": self.gpu_state(),
        }

    def gpu_state(self) -> dict | None:
        """Driver, clocks, power and temperature by nvidia-smi; None if it does not answer."""
        fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
        if self.dry or shutil.which("nvidia-smi") is None:
            return None
        command = ["nvidia-smi", "-i", "0", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            return None
        values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout else []
        return dict(zip(fields.split(","), values, strict=False))

    def stop_reason(self) -> str:
        """Why this process can measure nothing more, such as after an illegal memory access on the GPU; else ""."""
        if not self.dry:
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                return f"the GPU does not answer any more ({first_line(error)})"
        return ""

    def alive(self) -> bool:
        return not self.stop_reason()

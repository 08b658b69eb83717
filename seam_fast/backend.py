"""The choice of a backend: compiled kernels for NVIDIA GPUs or the CPU where they are installed, or plain PyTorch."""

import functools
import os
import warnings

import torch

from . import _ext
from .errors import BackendError

NAMES = ("cuda", "cpu", "torch")  # best first
# The ends of warnings: how to silence them.
SILENCE = "if this is meant, set SEAM_FAST_BACKEND=torch"
SILENCE_GPU = "if this is meant, set SEAM_FAST_BACKEND=cpu or torch"


def backends() -> dict[str, str]:
    """Every backend by name, with the reason why it cannot be used here, or "" if it can."""
    return {name: unavailable_reason(name) for name in NAMES}


def unavailable_reason(name: str) -> str:
    """Why a backend cannot be used here, or ""."""
    if name == "torch":
        return ""
    if not _ext.has_ext():
        return _ext.reason
    if name == "cpu":
        return ""
    if not _ext.built_with_cuda:
        why = _ext.why_without_cuda(_ext.C)
        return "the compiled part has no CUDA kernels" + (f": {why}" if why else "")
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return "" if supported_gpus() else "its kernels need a GPU of compute capability 8.0 or more, and torch sees none"


def supported_gpus() -> list[int]:
    """The indices of the GPUs that the CUDA kernels can run on, of those that torch sees."""
    return [index for index in range(torch.cuda.device_count()) if is_supported_gpu(index)]


@functools.cache
def is_supported_gpu(index: int) -> bool:
    """Whether the CUDA kernels can run on a GPU: compute capability 8.0 or more."""
    return torch.cuda.get_device_capability(index) >= (8, 0)


@functools.cache
def has_clusters(index: int) -> bool:
    """Whether a GPU has thread block clusters: compute capability 9.0 or more."""
    return torch.cuda.get_device_capability(index) >= (9, 0)


def choose_backend(requested: str = "auto") -> str:
    """The backend of an op.

    Args:
        requested: ``"cuda"``, ``"cpu"``, ``"torch"``, or ``"auto"``: SEAM_FAST_BACKEND where it is set, else the first
            of the three that can be used.

    Returns:
        ``"cuda"``, ``"cpu"`` or ``"torch"``.

    Raises:
        BackendError: for one that is unknown or cannot be used.
    """
    requested = resolve(requested)
    if requested == "auto":
        chosen = next(name for name in NAMES if not unavailable_reason(name))
        warn_if_slow()
        return chosen
    if reason := unavailable_reason(requested):
        raise BackendError(f"backend {requested!r} cannot be used: {reason}")
    return requested


def choose_engine(requested: str = "auto", dtype: torch.dtype = torch.float32, warn: bool = True) -> str:
    """The backend that trains modules.

    Args:
        requested: ``"cuda"`` (NVIDIA GPUs), ``"cpu"`` (the CPU's compiled engine), ``"torch"`` (plain PyTorch), or
            ``"auto"``: SEAM_FAST_BACKEND where it is set, else the first of the three that can train.
        dtype: of the base.
        warn: whether to warn, once in a process, where ``"auto"`` is slower than it could be.

    Returns:
        ``"cuda"``, ``"cpu"`` or ``"torch"``.

    Raises:
        BackendError: for one that is unknown or cannot train.
    """
    requested = resolve(requested)
    if requested == "auto":
        chosen = next(name for name in NAMES if not untrainable_reason(dtype, name))
        if warn:
            warn_if_slow(True, untrainable_reason(dtype) if chosen == "torch" and _ext.has_ext() else "")
        return chosen
    if reason := untrainable_reason(dtype, requested):
        others = [name for name in ("auto", *NAMES) if name == "auto" or not untrainable_reason(dtype, name)]
        *first, last = (repr(name) for name in others)
        choice = f"{', '.join(first)} or {last}"
        raise BackendError(f"backend {requested!r} cannot be used for training: {reason}; choose {choice}")
    return requested


def untrainable_reason(dtype: torch.dtype, name: str = "cpu") -> str:
    """Why a backend cannot train modules over a base of that dtype, or ""."""
    if reason := unavailable_reason(name):
        return reason
    if name != "torch" and dtype not in (torch.float32, torch.float64):
        return f"it takes bases of float32 and float64, not {str(dtype).removeprefix('torch.')}"
    return ""


def resolve(requested: str) -> str:
    """The requested backend, with SEAM_FAST_BACKEND in place of ``"auto"``. Raises BackendError for an unknown name."""
    if requested == "auto":
        requested = os.environ.get("SEAM_FAST_BACKEND") or "auto"
    if requested != "auto" and requested not in NAMES:
        raise BackendError(f"backend {requested!r} is unknown; there are auto, {', '.join(NAMES)}")
    return requested


# Warnings, each once in a process -------------------------------------------------------------------------------------

_handled: set[tuple[str, bool, str]] = set()  # arguments that were dealt with: `why_slow` reads files
_warned_texts: set[str] = set()


def warn_if_slow(gpu: bool = False, why_no_engine: str = "") -> None:
    """Warns, once in a process, where "auto" computes more slowly than it could; arguments as of `why_slow`."""
    if torch.compiler.is_compiling():  # a traced call cannot warn; the next one that is not traced does
        return
    question = (_ext.reason, gpu, why_no_engine)
    if question in _handled:
        return
    _handled.add(question)
    text = why_slow(gpu, why_no_engine)
    if text and text not in _warned_texts:
        _warned_texts.add(text)
        warnings.warn(f"seam-fast: {text}", stacklevel=4)


def why_slow(gpu: bool = False, why_no_engine: str = "") -> str:
    """What makes "auto" slower here than it could be and what to do, in one sentence.

    Args:
        gpu: whether the work is done on a GPU, if possible.
        why_no_engine: where the compiled engine is installed and cannot train, why.

    Returns:
        The sentence; "" where nothing makes it slower, and where loading the compiled part has warned already.
    """
    if not _ext.has_ext():
        if _ext.warned:
            return ""
        return f"slow, because plain PyTorch computes: {_ext.reason}{_ext.advice()}; {SILENCE}"
    if why_no_engine:
        return f"slow, because plain PyTorch trains: {why_no_engine}; {SILENCE}"
    if gpu and torch.cuda.is_available() and (reason := unavailable_reason("cuda")):
        return f"slow, because the GPU here is used by plain PyTorch alone: {reason}; {SILENCE_GPU}"
    if "-O0" in _ext.build_info().get("flags", ""):
        return "slow, because the compiled part was built with DEBUG=1; build it again without"
    return ""

"""Which implementation computes: compiled kernels where they are, plain PyTorch everywhere."""

import functools
import os

import torch

from . import _ext
from .errors import BackendError

NAMES = ("cuda", "cpu", "torch")  # best first


def backends() -> dict[str, str]:
    """Every backend by name, with the reason why it cannot be used; an empty reason means that it can."""
    return {name: why_not(name) for name in NAMES}


def why_not(name: str) -> str:
    """The reason why a backend cannot be used, or ""."""
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
    return "" if able_devices() else "its kernels need a GPU of compute capability 8.0 or more, and torch sees none"


def able_devices() -> list[int]:
    """The GPUs that the CUDA kernels are written for, of those that torch sees, by index."""
    return [index for index in range(torch.cuda.device_count()) if is_able(index)]


@functools.cache
def is_able(index: int) -> bool:
    """Whether a GPU is one that the CUDA kernels are written for."""
    return torch.cuda.get_device_capability(index) >= (8, 0)


@functools.cache
def has_clusters(index: int) -> bool:
    """Whether the blocks of a GPU can form clusters (H100 and newer)."""
    return torch.cuda.get_device_capability(index) >= (9, 0)


def choose_backend(wish: str = "auto") -> str:
    """The backend of an op for a wish: ``"auto"`` (or SEAM_FAST_BACKEND, where set) takes the first usable one.

    Raises BackendError for an unknown or unusable one.
    """
    wish = resolve(wish)
    if wish == "auto":
        return next(name for name in NAMES if not why_not(name))
    if reason := why_not(wish):
        raise BackendError(f"backend {wish!r} cannot be used: {reason}")
    return wish


def choose_engine(wish: str = "auto", dtype: torch.dtype = torch.float32) -> str:
    """What trains modules over a base of that dtype: ``"cuda"``, NVIDIA GPUs, ``"cpu"``, the CPU's compiled engine, or
    ``"torch"``, plain PyTorch.

    ``"auto"`` (or SEAM_FAST_BACKEND, where set) takes the first of them that can be used. Raises BackendError for an
    unknown one and for one that cannot train.
    """
    wish = resolve(wish)
    if wish == "auto":
        return next(name for name in NAMES if not why_not_train(dtype, name))
    if reason := why_not_train(dtype, wish):
        others = [name for name in ("auto", *NAMES) if name == "auto" or not why_not_train(dtype, name)]
        *first, last = (repr(name) for name in others)
        choice = f"{', '.join(first)} or {last}"
        raise BackendError(f"backend {wish!r} cannot be used for training: {reason}; choose {choice}")
    return wish


def why_not_train(dtype: torch.dtype, name: str = "cpu") -> str:
    """The reason why a backend cannot train modules over a base of that dtype, or ""."""
    if reason := why_not(name):
        return reason
    if name != "torch" and dtype not in (torch.float32, torch.float64):
        return f"it takes bases of float32 and float64, not {str(dtype).removeprefix('torch.')}"
    return ""


def resolve(wish: str) -> str:
    """A wish with SEAM_FAST_BACKEND in place of ``"auto"``. Raises BackendError for an unknown name."""
    if wish == "auto":
        wish = os.environ.get("SEAM_FAST_BACKEND") or "auto"
    if wish != "auto" and wish not in NAMES:
        raise BackendError(f"backend {wish!r} is unknown; there are auto, {', '.join(NAMES)}")
    return wish

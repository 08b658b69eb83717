"""Reads files of named tensors, torch's and safetensors', without ever running what is in them."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError


def read_tensor_file(path: Path) -> tuple[dict[str, Any], dict]:
    """What a file holds by name, and its metadata (for a torch file: the state dict's own, where it has any).

    The ending decides: ``.safetensors``, or torch's format for all others. In torch's, values may be other plain things
    than tensors; that is for the caller to refuse. Raises CheckpointError for a file damaged or of another kind.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                return tensors, file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged, or not a safetensors file ({_first_line(error)}).") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything on damaged bytes
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors (nothing in it was run); save a state dict "
            f"({_first_line(error)})."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a state dict; save one.")
    metadata = getattr(state, "_metadata", None)
    return dict(state), metadata if isinstance(metadata, dict) else {}


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200].rstrip(".") if text else type(error).__name__

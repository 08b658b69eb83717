"""Files of named tensors, torch's and safetensors', which are read without ever running what is in them."""

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError

# A safetensors file with a header of more than 100,000,000 bytes is neither written nor read by the library, and long
# texts (a vocabulary of millions of words, the history of as many epochs) would be in it. Longer ones become tensors.
MOST_IN_HEADER = 10_000_000
TEXT_PREFIX = "metadata."  # and the entry's name: a text as a tensor of its bytes (uint8)


def safetensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with texts of any length as metadata; `read_tensor_file` gives them back."""
    long = {key: text for key, text in metadata.items() if len(text) > MOST_IN_HEADER}
    texts = {
        TEXT_PREFIX + key: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) for key, text in long.items()
    }
    return save(tensors | texts, {key: text for key, text in metadata.items() if key not in long} or None)


def read_tensor_file(path: Path) -> tuple[dict[str, Any], dict]:
    """What a file holds by name, and its metadata (for a torch file: the state dict's own, where it has any).

    The ending decides: ``.safetensors``, or torch's format for all others. In torch's, values may be other plain things
    than tensors; that is for the caller to refuse. Raises CheckpointError for a file damaged or of another kind.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = dict(file.metadata() or {})
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged, or not a safetensors file ({_first_line(error)}).") from error
        return _without_texts(path, tensors, metadata)
    try:
        # Programs often save their arguments beside the weights; a Namespace holds names and values, and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*looks like a TorchScript archive")  # which is refused with a sentence
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything on damaged bytes
        raise CheckpointError(f"{path}: {_why_unreadable(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a state dict; save one.")
    metadata = getattr(state, "_metadata", None)
    return dict(state), metadata if isinstance(metadata, dict) else {}


def _why_unreadable(error: BaseException) -> str:
    """What kept torch from reading a file, and what to do."""
    text = str(error)
    if "TorchScript" in text:
        return (
            "a TorchScript archive, which holds code (nothing in it was run); in a program that trusts it: "
            "torch.save(torch.jit.load(PATH).state_dict(), 'base.pt')."
        )
    pickled = re.search(r"(?:GLOBAL|global:?|class) `?([A-Za-z_][\w.]*\.\w+)", text)
    if pickled:
        return (
            f"holds more than tensors: a pickled {pickled[1]}, and to unpickle that is to run code (nothing in it was "
            "run). In a program that trusts the file and has that class: state = torch.load(PATH, weights_only=False), "
            "then torch.save(state.state_dict(), 'base.pt') for a whole module, or of a dictionary the part with the "
            "tensors."
        )
    return f"damaged, or holds more than tensors (nothing in it was run); save a state dict ({_first_line(error)})."


def _without_texts(path: Path, tensors: dict[str, Tensor], metadata: dict) -> tuple[dict[str, Tensor], dict]:
    """Texts that stand among the tensors put back into the metadata."""
    for key in [key for key in tensors if key.startswith(TEXT_PREFIX)]:
        value = tensors.pop(key)
        try:
            if value.dtype != torch.uint8 or key.removeprefix(TEXT_PREFIX) in metadata:
                raise ValueError
            metadata[key.removeprefix(TEXT_PREFIX)] = value.numpy().tobytes().decode()
        except ValueError:
            raise CheckpointError(f"{path}: {key} is damaged, it is no text; save the file again.") from None
    return tensors, metadata


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200].rstrip(".") if text else type(error).__name__

"""Files of named tensors, in torch's format and safetensors', read without running any code from them."""

import argparse
import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError

# Metadata stand in the header of a safetensors file, which the library limits to 100,000,000 bytes. Longer texts (a
# vocabulary of millions of words, the history of as many epochs) are stored as tensors of their bytes (uint8).
MOST_IN_HEADER = 10_000_000  # characters of a text
TEXT_PREFIX = "metadata."  # followed by the entry's name: the name of such a tensor


def safetensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file with texts of any length as metadata, for `read_tensor_file`."""
    long = {key: text for key, text in metadata.items() if len(text) > MOST_IN_HEADER}
    texts = {
        TEXT_PREFIX + key: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) for key, text in long.items()
    }
    return save(tensors | texts, {key: text for key, text in metadata.items() if key not in long} or None)


def tensors_checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Hex sha256 of a text, and of names, dtypes, shapes and values of tensors, whatever their order."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for key, tensor in sorted(tensors.items()):
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensor_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a state dict.

    Args:
        path: of a file in safetensors' format, if it ends so, and else in torch's.

    Returns:
        The entries by name, and the metadata (of a torch file, the ``_metadata`` of the state dict, if any). In torch's
        format entries may be other plain values than tensors, which the caller has to refuse.

    Raises:
        CheckpointError: for a file that is damaged or of another kind.
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
        # Many programs save their command line arguments beside the weights; a Namespace is data and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*looks like a TorchScript archive")  # which raises below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes the unpickler raises nearly any exception
        raise CheckpointError(f"{path}: {_why_unreadable(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a state dict; save one.")
    of_state = getattr(state, "_metadata", None)
    return dict(state), of_state if isinstance(of_state, dict) else {}


def _why_unreadable(error: BaseException) -> str:
    """Why torch could not read a file, and what to do."""
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


def _without_texts(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Moves texts that are stored as tensors back into the metadata."""
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
    """The beginning of an error's text, without a full stop."""
    text = str(error).strip().splitlines()
    return text[0][:200].rstrip(".") if text else type(error).__name__

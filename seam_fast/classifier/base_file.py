"""Files of a base: written, read, and checked for what a classifier needs.

A base's file holds its weight tensors under the keys of ``state_keys`` and, as metadata, a card in JSON: readout, class
names, vocabulary, tokenizer, and how it was trained.
"""

from __future__ import annotations

import io
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.checks import warn
from ..data.tokenizer import Tokenizer
from ..errors import CheckpointError, DataError
from ..files.atomic import to_json, write_atomically
from ..files.tensors import read_tensor_file, safetensors_bytes, tensors_checksum
from ..runtime import FORMAT as COMPACT_FORMAT
from .checkpoint import standard_tensors
from .reference_model import READOUTS
from .state_keys import EMBEDDING, HEAD_KEYS, LINEAR_KEYS, MODULE_FORMAT, lstm_keys, lstm_shape, weight_keys

FILE_READOUTS = {"last_word": "last_word", "last_position": "end"}
"""Readouts by name, and what they are called in files, which have kept their first names."""

_METADATA_KEY = "seam_fast"
_CHECKSUM_KEY = "sha256"  # of the card
_TORCH_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_LOADABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def readout_of_file(name: str) -> str:
    """The readout for its name in a file; any other string is returned as it is."""
    return next((ours for ours, theirs in FILE_READOUTS.items() if theirs == name), name)


class BaseFile(NamedTuple):
    """What a base's file holds, checked, with what the caller of `read_base` added.

    Attributes:
        tensors: all weights by key.
        sizes: the sizes that `LSTMClassifier` takes, from the tensors.
        readout: one of ``READOUTS``.
        class_names: C names, or None.
        vocabulary: V words, or None.
        info: how the base was trained.
        tokenizer: how texts become words, or None.
    """

    tensors: dict[str, Tensor]
    sizes: dict[str, Any]
    readout: str
    class_names: tuple[str, ...] | None
    vocabulary: tuple[str, ...] | None
    info: dict[str, Any]
    tokenizer: Tokenizer | None


def write_base(path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> Path:
    """Writes a base's file atomically; the ending of its name decides the format.

    Args:
        path: a name that ends in .pt, .pth or .safetensors.
        tensors: all weights by key, contiguous, on the CPU.
        card: what else the file holds.

    Returns:
        The path.

    Raises:
        CheckpointError: another ending.
    """
    text = to_json(dict(card) | {_CHECKSUM_KEY: _checksum(tensors, card)}, ensure_ascii=False)
    if path.suffix in (".pt", ".pth"):
        # A clone has a storage of its own: torch.save writes the whole storage that a tensor is a view of.
        state: Any = OrderedDict((key, tensor.clone()) for key, tensor in tensors.items())
        state._metadata = {_METADATA_KEY: text}  # where torch keeps versions of a state dict; other readers ignore it
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
    elif path.suffix == ".safetensors":
        # One entry only: the order of several is not fixed, and the same base should give the same bytes.
        data = safetensors_bytes(dict(tensors), {_METADATA_KEY: text})
    else:
        raise CheckpointError(f"Cannot save a base as {path}: the name must end in .pt, .pth or .safetensors.")
    return write_atomically(path, data)


def read_base(
    path: Path,
    *,
    readout: str | None,
    class_names: Sequence[str] | None,
    vocabulary: Sequence[str] | None,
    key_map: Mapping[str, str] | None,
    ignore_keys: Iterable[str],
    tokenizer: Tokenizer | str | Callable[[str], Iterable[str]] | None,
) -> BaseFile:
    """Reads and checks a base's file; arguments and errors as in `LSTMClassifier.load`."""
    content, card = _read_file(path)
    tensors, adapted = standard_tensors(path, content, key_map, ignore_keys)
    sizes = _check_tensors(path, tensors, adapted)
    names = _merge_names(path, "class_names", class_names, card.get("class_names"), sizes["num_classes"])
    words = _merge_names(path, "vocabulary", vocabulary, card.get("vocabulary"), sizes["vocab_size"])
    stored = card.get("read")
    readout = readout or (readout_of_file(stored) if stored else None) or "last_position"
    if readout not in READOUTS:
        raise CheckpointError(f"{path}: readout must be one of {', '.join(READOUTS)}, got {readout!r}.")
    info = card.get("info")
    info = dict(info) if isinstance(info, dict) else {}
    if adapted:
        info["adapted"] = adapted
    merged = _merge_tokenizer(path, tokenizer, card.get("tokenizer"))
    # Last, since the checks above say what is wrong. A card without a checksum is an earlier version's.
    if _CHECKSUM_KEY in card and card[_CHECKSUM_KEY] != _checksum(content, card):
        raise CheckpointError(
            f"{path}: is not what was saved, its checksum is wrong: damaged, or changed by another program; take the "
            "base from where it was saved."
        )
    return BaseFile(tensors, sizes, readout, names, words, info, merged)


def _checksum(tensors: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Hex sha256 of all that a base's file says. Without it a changed bit of a weight would be another base."""
    rest = {name: value for name, value in card.items() if name != _CHECKSUM_KEY}
    # What is written and what was read must give the same text: JSON turns tuples into lists, and names into strings.
    return tensors_checksum(tensors, json.dumps(json.loads(to_json(rest)), sort_keys=True))


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file holds by name, and its card (empty for a state dict of another origin)."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a base (.pt, .pth or .safetensors).")
    if path.suffix not in (*_TORCH_ENDINGS, ".safetensors"):
        raise CheckpointError(
            f"{path}: a base is read from {', '.join(_TORCH_ENDINGS)} or .safetensors; rename the file to what it is."
        )
    tensors, metadata = read_tensor_file(path)
    if metadata.get("format") == COMPACT_FORMAT:
        raise CheckpointError(f"{path}: is a compact module, not a base; give a base")
    if metadata.get("format") == MODULE_FORMAT or all(key in tensors for key in HEAD_KEYS):
        raise CheckpointError(
            f"{path}: is a module, which has no weights of its own, not a base; give the base that it was made of "
            "(seam-fast evaluate MODULE --base BASE judges a module)."
        )
    if _METADATA_KEY not in metadata:
        # The metadata of a safetensors file of another origin are plain strings: they say how the base was made.
        return tensors, {"info": metadata} if path.suffix == ".safetensors" else {}
    try:
        card = json.loads(metadata[_METADATA_KEY])
    except (TypeError, ValueError):
        card = None
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: its metadata is damaged, not a JSON object; save the base again.")
    return tensors, card


def _check_tensors(path: Path, tensors: Mapping[str, Any], adapted: Sequence[str] = ()) -> dict[str, Any]:
    """Checks that every tensor is there, of the right shape, and finite.

    Args:
        path: the file, for messages.
        tensors: what the file holds, by this package's keys.
        adapted: how a checkpoint of another origin was adapted, for messages.

    Returns:
        The sizes that `LSTMClassifier` takes.

    Raises:
        CheckpointError: names all keys that are missing, unknown, of the wrong shape or not finite.
    """
    where = f"{path} ({'; '.join(adapted)})" if adapted else str(path)
    num_layers, bidirectional = lstm_shape(tensors)
    keys = weight_keys(tensors)
    missing = [key for key in keys if key not in tensors]
    extra = [key for key in tensors if key not in keys]
    faults = []
    if missing:
        faults.append(f"missing {', '.join(missing[:8])}{' and more' if len(missing) > 8 else ''}")
    if extra:
        faults.append(f"unknown {', '.join(extra[:8])}{' and more' if len(extra) > 8 else ''}")
    if faults:
        count, layers = ("seven", "one-layer") if len(keys) == 7 else (len(keys), f"{num_layers}-layer")
        which = f"{layers} bidirectional" if bidirectional else layers
        raise CheckpointError(f"{where}: not the {count} tensors of a {which} LSTM classifier: {'; '.join(faults)}.")
    for key in keys:
        tensor = tensors[key]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in _LOADABLE_DTYPES:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{where}: {key} must be a dense floating-point tensor, got {kind}.")
        if tensor.device.type != "cpu":  # reading moves all others to the CPU; what remains is on the meta device
            raise CheckpointError(f"{where}: {key} was saved on the {tensor.device.type} device, without values.")
    shapes = {key: tuple(tensors[key].shape) for key in keys}
    for key in (EMBEDDING, "lstm.weight_hh_l0", LINEAR_KEYS[0]):
        if len(shapes[key]) != 2 or 0 in shapes[key]:
            raise CheckpointError(f"{where}: {key} has shape {shapes[key]}, expected a matrix that is not empty.")
    vocab_size, embedding_dim = shapes[EMBEDDING]
    hidden_dim = shapes["lstm.weight_hh_l0"][1]
    num_classes = shapes[LINEAR_KEYS[0]][0]
    width = hidden_dim * (2 if bidirectional else 1)  # of a layer's output
    gates = 4 * hidden_dim
    first, later = (((gates, size), (gates, hidden_dim), (gates,), (gates,)) for size in (embedding_dim, width))
    cells = [first if layer == 0 else later for layer in range(num_layers) for _ in range(1 + bidirectional)]
    lstm_shapes = itertools.chain.from_iterable(cells)
    expected: dict[str, tuple[int, ...]] = {EMBEDDING: (vocab_size, embedding_dim)}
    expected |= dict(zip(lstm_keys(tensors), lstm_shapes, strict=True))
    expected |= dict(zip(LINEAR_KEYS, ((num_classes, width), (num_classes,)), strict=True))
    wrong = [f"{key} has shape {shapes[key]}, expected {want}" for key, want in expected.items() if shapes[key] != want]
    if wrong:
        raise CheckpointError(
            f"{where}: the shapes do not fit together (E {embedding_dim} from the embedding, H {hidden_dim} from "
            f"lstm.weight_hh_l0, {num_classes} classes from hidden2label.weight): {'; '.join(wrong)}."
        )
    bad = [key for key in keys if not bool(torch.isfinite(tensors[key]).all())]
    if bad:
        raise CheckpointError(f"{where}: values that are not finite in {', '.join(bad)}; train the base again.")
    return {
        "vocab_size": vocab_size,
        "embedding_dim": embedding_dim,
        "hidden_dim": hidden_dim,
        "num_classes": num_classes,
        "num_layers": num_layers,
        "bidirectional": bidirectional,
    }


def _merge_names(path: Path, what: str, given: Sequence[str] | None, stored: Any, count: int) -> tuple[str, ...] | None:
    """Names from the caller or the file. Raises CheckpointError where they disagree or are not ``count`` strings."""
    if stored is not None and not (isinstance(stored, list) and all(isinstance(name, str) for name in stored)):
        raise CheckpointError(f"{path}: {what} in its metadata is not a list of strings; save the base again.")
    for names, where in ((given, "given"), (stored, "in its metadata")):
        if names is not None and len(names) != count:
            raise CheckpointError(f"{path}: {what} {where} has {len(names)} entries, but the tensors have {count}.")
    if given is not None and stored is not None and tuple(given) != tuple(stored):
        index = next(i for i, (a, b) in enumerate(zip(given, stored, strict=True)) if a != b)
        raise CheckpointError(
            f"{path}: {what} given differs from the file's own at {index} ({given[index]!r}, not {stored[index]!r}); "
            "load the corpus that this base was trained on."
        )
    names = given if given is not None else stored
    return None if names is None else tuple(names)


def _merge_tokenizer(
    path: Path, given: Tokenizer | str | Callable[[str], Iterable[str]] | None, stored: Any
) -> Tokenizer | None:
    """The tokenizer from the caller or the file, or None. Raises CheckpointError where they disagree."""
    try:
        in_file = None if stored is None else Tokenizer.of(stored)
    except DataError:
        raise CheckpointError(f"{path}: its metadata names no tokenizer known here ({stored!r}).") from None
    if given is None:
        return in_file
    given = Tokenizer.of(given)
    if in_file is None:
        return given
    if in_file.is_function != given.is_function or (in_file != given and not given.is_function):
        raise CheckpointError(
            f"{path}: this base's texts were split by the tokenizer {in_file.name!r}, not by {given.name!r}; give that "
            "one, or none."
        )
    if in_file.name != given.name:
        warn(
            f"{path}: this base's texts were split by the function {in_file.name}; {given.name} is taken in its place."
        )
    return given

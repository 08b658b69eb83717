"""The two formats of module files.

The reference's ``.pth`` is a state dict of float scores under ``<weight key>_mask`` and the head. The native
``.safetensors`` holds one bit a weight, the head, a card (JSON) that says what the module is and which base it was
made on, and, where asked for, real scores (``score_file``). Reading either never runs code from the file.
"""

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classifier.base_file import readout_of_file
from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, HEAD_KEYS, MASK_SUFFIX, MODULE_FORMAT, SCORED_MODULE_FORMAT, weight_keys
from ..data.checks import few, warn
from ..errors import CheckpointError
from ..files.atomic import to_json
from ..files.tensors import read_tensor_file, safetensors_bytes, tensors_checksum
from ..runtime import FORMAT as COMPACT_FORMAT
from .mask import Head, KeepMask
from .score_file import score_tensors, take_scores


class ModuleParts(NamedTuple):
    """What a module file holds: the arguments of ``SeamModule``, and whether its base's hash is one of float32 alone
    (an earlier version's).
    """

    target: tuple[int, ...]
    scores: KeepMask | Mapping[str, Tensor]
    head: Head
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    card: dict[str, Any]
    hash_in_float32: bool


def reference_bytes(scores: Mapping[str, Tensor], head: Head) -> bytes:
    """The contents of a file in the reference's format."""
    # Cloned, because torch.save writes the whole storage behind a view.
    state = {key + MASK_SUFFIX: scores[key].detach().float().clone() for key in weight_keys(scores)}
    state |= {key: part.float().clone() for key, part in zip(HEAD_KEYS, head, strict=True)}
    buffer = io.BytesIO()
    torch.save(OrderedDict(state), buffer)
    return buffer.getvalue()


def native_bytes(
    mask: KeepMask, head: Head, card: Mapping[str, Any], scores: Mapping[str, Tensor] | None = None
) -> bytes:
    """The contents of a native file. scores: what ``mask`` was made of, where they are to be kept."""
    tensors = {f"{key}.kept_bits": bits for key, bits in mask.pack().items()}
    tensors |= {key: part.detach().contiguous() for key, part in zip(HEAD_KEYS, head, strict=True)}
    if scores is not None:
        tensors |= score_tensors(scores)
    name, text = MODULE_FORMAT if scores is None else SCORED_MODULE_FORMAT, to_json(card)
    return safetensors_bytes(tensors, {"format": name, "card": text, "sha256": tensors_checksum(tensors, text)})


def read_module(path: Path, base: LSTMClassifier, target: int | Iterable[int] | None) -> ModuleParts:
    """Reads a module file of either format and checks it against the base; arguments and errors as of
    ``SeamModule.load``.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such module file")
    if path.suffix == ".safetensors":
        return _read_native(path, base)
    state, _ = read_tensor_file(path)
    refuse_base(path, state)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds something other than named tensors")
    weights = base.weights()
    shapes = {key + MASK_SUFFIX: tuple(weight.shape) for key, weight in weights.items()}
    check_tensors(path, state, shapes | head_shapes(base))
    scores = {key: state[key + MASK_SUFFIX] for key in weights}
    if target is None:
        target = target_from_folder(path)
    target = check_target(path, [target] if isinstance(target, int) else list(target), base)
    weight, bias = (state[key] for key in HEAD_KEYS)
    return ModuleParts(target, scores, (weight, bias), [], {}, {"source": str(path)}, False)


def _read_native(path: Path, base: LSTMClassifier) -> ModuleParts:
    """``read_module`` of a native file."""
    tensors, metadata = read_tensor_file(path)
    written = metadata.get("sha256")  # None: versions before 0.2 wrote none
    is_whole = written in (None, tensors_checksum(tensors, metadata.get("card", "{}")))
    try:
        card = json.loads(metadata.get("card", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not a readable module file ({error})") from None
    refuse_base(path, tensors)
    if metadata.get("format") == COMPACT_FORMAT:
        raise CheckpointError(
            f"{path}: is a compact module, which needs no base; load it by CompactModule.load, or on the command line "
            "give it to predict, certify or export"
        )
    if metadata.get("format") not in (MODULE_FORMAT, SCORED_MODULE_FORMAT) or not isinstance(card, dict):
        raise CheckpointError(f"{path}: not a module of seam-fast (its format is {metadata.get('format')!r})")
    found, rounded = base.hash, False
    if card.get("base_hash") != found:
        rounded = True
        if "base_dtype" in card or card.get("base_hash") != base.hash_in_float32:
            raise CheckpointError(
                f"{path}: made for the base {str(card.get('base_hash'))[:12]}, not for this one ({found[:12]}); "
                "load it with the base it was trained on (on the command line --base)"
            )
        warn(
            f"{path}: an earlier version wrote it, which told bases apart in float32 only; that this is the very "
            "base it was made for cannot be known."
        )
    readout = readout_of_file(card["read"]) if "read" in card else base.readout
    if readout != base.readout:
        raise CheckpointError(
            f"{path}: made for a base read at {readout!r}, this one is read at {base.readout!r}; load the base "
            f"with readout={readout!r}, on the command line --readout {readout}"
        )
    if base.states_tokenizer and card.get("tokenizer") not in (None, base.tokenizer.as_card()):
        raise CheckpointError(
            f"{path}: made for texts split by the tokenizer {card['tokenizer']!r}, those of this base are split by "
            f"{base.tokenizer.name!r}; load the base with the tokenizer it was trained with, on "
            "the command line --tokenizer"
        )
    names = card.get("class_names")
    if base.class_names is not None and isinstance(names, list) and names != list(base.class_names):
        raise CheckpointError(
            f"{path}: made for a base with the classes {few([*map(str, names)])}, and this one calls them "
            f"{few(base.class_names)}; give the base that it was made of (on the command line --base)"
        )
    words = vocabulary_hash(base)
    if words is not None and card.get("vocabulary_hash") not in (None, words):
        raise CheckpointError(
            f"{path}: made for a base with another vocabulary; give the base that it was made of (on the command "
            "line --base)"
        )
    weights = base.weights()
    shapes = {f"{key}.kept_bits": ((weight.numel() + 7) // 8,) for key, weight in weights.items()}
    scored = metadata.get("format") == SCORED_MODULE_FORMAT
    of_scores = {f"{key}.{ending}" for key in weights for ending in ("scores", "score_bits") if scored}
    check_tensors(
        path, {key: tensors[key] for key in tensors if key not in of_scores}, shapes | head_shapes(base), bits=True
    )
    bits = {key: tensors[f"{key}.kept_bits"] for key in weights}
    mask = KeepMask({key: tuple(weight.shape) for key, weight in weights.items()}, bits)
    weight, bias = (tensors[key] for key in HEAD_KEYS)
    history, metrics = card.pop("history", []), card.pop("metrics", {})
    if not isinstance(history, list) or not isinstance(metrics, dict):
        raise CheckpointError(f"{path}: the history or metrics on its card are damaged")
    target = check_target(path, card.get("target"), base)
    scores = take_scores(path, tensors, mask, base.hidden2label.weight.dtype) if scored else mask
    if not is_whole:
        raise CheckpointError(f"{path}: damaged, its checksum is wrong; take a copy that is whole, or make it anew")
    return ModuleParts(target, scores, (weight, bias), history, metrics, card, rounded)


def refuse_base(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a file's tensors are those of a base and not of a module."""
    if EMBEDDING in tensors and not any(key in tensors for key in HEAD_KEYS):
        raise CheckpointError(
            f"{path}: is a base, not a module; give a module that was made of it (seam-fast reengineer makes them)"
        )


def vocabulary_hash(base: LSTMClassifier) -> str | None:
    """Hex sha256 of a base's words in their order; None where the base has no vocabulary."""
    if base.vocabulary is None:
        return None
    return hashlib.sha256(json.dumps(base.vocabulary).encode()).hexdigest()


def head_shapes(base: LSTMClassifier) -> dict[str, tuple[int, ...]]:
    """Shapes of a head over a base, by the keys of module files."""
    classes = base.hidden2label.out_features
    return dict(zip(HEAD_KEYS, ((2, classes), (2,)), strict=True))


def check_tensors(
    path: os.PathLike[str], state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], bits: bool = False
) -> None:
    """Checks the tensors of a module file.

    Args:
        path: The file, for messages.
        state: Its tensors by key.
        shapes: The shapes they must have, by key.
        bits: Whether the tensors outside the head must be bytes; else all must be dense floating point tensors.

    Raises:
        CheckpointError: Keys are missing or unknown, shapes or types are wrong, or the head is not finite; the message
            names the first few.
    """
    missing, extra = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    wrong = [
        f"{key} is {tuple(state[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    odd = [
        f"{key} is {value.dtype}"
        for key, value in state.items()
        if value.layout != torch.strided
        or not (value.dtype == torch.uint8 if bits and key not in HEAD_KEYS else value.is_floating_point())
    ]
    for problem, names in (
        ("missing keys", missing),
        ("unknown keys", extra),
        ("wrong shapes", wrong),
        ("wrong types", odd),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(f"{path}: {problem}: {', '.join(names[:3])}{more}")
    for key in HEAD_KEYS:
        if key in state and not torch.isfinite(state[key]).all():
            raise CheckpointError(f"{path}: {key} holds values that are not finite")


def check_target(path: os.PathLike[str], target: object, base: LSTMClassifier) -> tuple[int, ...]:
    """The target that a file or caller names, as sorted class numbers of this base; CheckpointError if it is none."""
    numbers = target if isinstance(target, list | tuple) else []
    if not numbers or not all(type(k) is int and 0 <= k < base.num_classes for k in numbers):
        raise CheckpointError(f"{path}: no valid target ({target!r}) for a base with {base.num_classes} classes")
    return tuple(sorted(set(numbers)))


def target_from_folder(path: Path) -> tuple[int, ...]:
    """The class numbers in the reference's folder name ``tc_<k>``, or ``tc_<k>+<l>`` for a set; CheckpointError if the
    folder has another name.
    """
    name = path.absolute().parent.name
    numbers = name.removeprefix("tc_").split("+")
    if not name.startswith("tc_") or not all(number.isascii() and number.isdigit() for number in numbers):
        raise CheckpointError(
            f"{path}: the file does not say its target and its folder is not tc_<k>; name the target (target=[...], on "
            "the command line --target)"
        )
    return tuple(map(int, numbers))

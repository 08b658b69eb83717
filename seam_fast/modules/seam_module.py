"""A module: one target's kept weights and head over a base, in memory and on disk.

There are two file formats. The reference's ``.pth`` is a state dict of float scores under ``<weight key>_mask`` and the
head. The native ``.safetensors`` holds one bit a weight, the head, and a card (JSON) that says what the module is and
which base it was made on. Reading either never runs code from the file.

A module has no weights of its own: it is the base's weights where they are kept. It identifies its base by hash and
raises CheckpointError when the base's weights have changed since, for example because the base was trained further.
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

from ..classifier import reference_model
from ..classifier.base_file import FILE_READOUTS, readout_of_file
from ..classifier.inference import class_logits
from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, HEAD_KEYS, MASK_SUFFIX, MODULE_FORMAT, weight_keys
from ..common.default_device import on_the_cpu
from ..common.deprecation import warn_renamed
from ..common.seen_tensors import SeenTensors
from ..data.checks import few, warn
from ..errors import CheckpointError
from ..files.atomic import to_json, write_atomically
from ..files.tensors import read_tensor_file, safetensors_bytes
from .mask import Head, KeepMask


class _Folded(NamedTuple):
    """The masked weights, and the mask and the base (``_base_state``) that they were made of."""

    mask: KeepMask
    base: tuple[str, Any] | None
    weights: dict[str, Tensor]


class SeamModule:
    """The part of a base that recognises one target.

    Args:
        base: The frozen ``LSTMClassifier``.
        target: Class numbers that count as the target.
        scores: A ``KeepMask``, or scores by weight key in the weights' shapes; a weight is kept where its score is > 0.
        head: Weight (2, C) and bias (2,); output 0 is the target.
        history: One dict of figures for each epoch.
        metrics: Figures of this module on test documents.
        card: What is known about how it was made.

    Attributes:
        base: As given.
        target: As given, as a tuple.
        head: As given, in the base's dtype.
        history: As given, as a list.
        metrics: As given.
        card: As given.
        readout: The base's, when the module was made.
        base_hash: Hash of the base that the module was made on: from the card where that says it, else the base's own.
        front: Of a module that was just trained, the ``FrontPoint`` of each epoch on its run's Pareto front; not saved.
    """

    def __init__(
        self,
        base: LSTMClassifier,
        target: Iterable[int],
        scores: KeepMask | Mapping[str, Tensor],
        head: Iterable[Tensor],
        *,
        history: Iterable[dict[str, Any]] = (),
        metrics: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.base = base
        self.target = tuple(int(k) for k in target)
        dtype = base.hidden2label.weight.dtype
        # The mask is known, or scores are; the other of the two is made from it when asked for.
        self._scores: dict[str, Tensor] | None = None if isinstance(scores, KeepMask) else dict(scores)
        # A mask and the scores that it was made of, none where it is the mask that is known.
        self._known_mask: tuple[KeepMask, SeenTensors] | None = None
        if isinstance(scores, KeepMask):
            self._known_mask = scores, SeenTensors()
        self._folded: _Folded | None = None
        weight, bias = (part.detach().to(dtype) for part in head)
        self.head: Head = weight, bias
        self.history = list(history)
        self.metrics: dict[str, Any] = dict(metrics or {})
        self.card: dict[str, Any] = dict(card or {})
        self.readout = base.readout
        self.front: list[Any] = []
        self._hash_in_float32 = False  # whether base_hash comes from an earlier version, which rounded to float32
        # Readout and checksum of the base when it was last found to be the right one.
        self._checked_base: tuple[str, Any] | None = None
        base_hash: str | None = self.card.get("base_hash")
        if base_hash is None:
            base_hash, self._checked_base = base.hash, self._base_state()
        self.base_hash: str = base_hash

    def __repr__(self) -> str:
        return f"SeamModule(target={list(self.target)}, kept={100 * self.kept:.2f} %)"

    # -- what it keeps -------------------------------------------------------------------------------------------

    @property
    def mask(self) -> KeepMask:
        """Which weights are kept. It is made anew after ``scores`` have been changed."""
        scores, known = self._scores, self._known_mask
        if known is not None and (scores is None or known[1].are(*scores.values())):
            return known[0]
        assert scores is not None  # or the mask is known
        seen, mask = SeenTensors(*scores.values()), KeepMask.of_scores(scores)
        self._known_mask = mask, seen  # in one piece: other threads may ask meanwhile
        return mask

    @property
    def scores(self) -> dict[str, Tensor]:
        """Scores in the weights' shapes by weight key. Only their signs count; they are 1 and -1 where no more than the
        signs is known. They may be changed in place, by operations that torch counts (not
        through ``.data`` or NumPy), or replaced by other tensors under the same keys.
        """
        if self._scores is None:
            mask = self.mask
            scores = mask.scores(self.base.hidden2label.weight.dtype)
            self._known_mask = mask, SeenTensors(*scores.values())
            self._scores = scores
        return self._scores

    @scores.setter
    def scores(self, scores: Mapping[str, Tensor]) -> None:
        self._scores = dict(scores)

    @property
    def read(self) -> str:
        """Deprecated: ``readout``, in its old spelling."""
        warn_renamed("read", "readout")
        return FILE_READOUTS[self.readout]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_folded": None}  # copies make it again

    @property
    def kept(self) -> float:
        """Share of all weights kept."""
        return self.mask.kept()

    @property
    def kept_by_group(self) -> dict[str, float]:
        """Share kept of each of the groups embedding, lstm and linear."""
        return self.mask.kept_by_group()

    @property
    def kept_by_weight(self) -> dict[str, float]:
        """Share kept of each weight, by weight key."""
        return self.mask.kept_by_weight()

    # -- using it ------------------------------------------------------------------------------------------------

    def _base_state(self) -> tuple[str, Any]:
        """The base's readout, and a checksum that changes with its weights."""
        return self.base.readout, self.base.checksum()

    def check_base(self) -> None:
        """Checks that the base is still the one that this module was made on.

        Takes one pass over the weights, no more than masking them does.

        Raises:
            CheckpointError: The base's weights or its readout have changed.
        """
        state = self._base_state()
        if state == self._checked_base:
            return
        found = self.base.hash_in_float32 if self._hash_in_float32 else self.base.hash
        if found != self.base_hash:
            raise CheckpointError(
                f"the base of this module ({self.base_hash[:12]}) has been changed since (it is {found[:12]} now), and "
                "the module has no other weights than the base's; take it on the base as it was: load that, or train "
                "on a copy (copy.deepcopy(base))"
            )
        if self.base.readout != self.readout:
            raise CheckpointError(
                f"the base of this module was read at {self.readout!r} and is read at {self.base.readout!r} now; set "
                "its readout back"
            )
        self._checked_base = state

    def effective_weights(self) -> dict[str, Tensor]:
        """The base's weights where kept and zero elsewhere, by weight key.

        Raises:
            CheckpointError: As ``check_base`` does.
        """
        self.check_base()
        return self.mask.apply(self.base.weights())

    def _folded_weights(self) -> dict[str, Tensor]:
        """``effective_weights``, kept until scores or base change. The caller must not write to them.

        Raises:
            CheckpointError: As ``check_base`` does.
        """
        self.check_base()
        mask, folded = self.mask, self._folded
        if folded is None or folded.mask is not mask or folded.base != self._checked_base:
            self._folded = None  # frees the old copy before the new one is made
            self._folded = folded = _Folded(mask, self._checked_base, mask.apply(self.base.weights()))
        return folded.weights

    @on_the_cpu
    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The module's outputs for documents.

        Args:
            ids: Word ids, int64 (N, T).
            lengths: Numbers of words, (N,), each 1 to T.

        Returns:
            Logits (N, 2); column 0 is the target.

        Raises:
            ValueError: A length is outside 1 to T.
            CheckpointError: As ``check_base`` does.
        """
        if len(ids) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= ids.shape[1]:
            raise ValueError(
                f"lengths must lie between 1 and T = {ids.shape[1]}, got {lengths.min()} to {lengths.max()}"
            )
        logits = class_logits(self._folded_weights(), ids, lengths, self.base.readout)
        weight, bias = self.head
        return reference_model.head_logits(logits, (weight.to(logits), bias.to(logits)))

    def predict_proba(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Probabilities (N, 2) of target (column 0) and rest (column 1); arguments and errors as of ``logits``."""
        return torch.softmax(self.logits(ids, lengths), 1)

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Splits and numbers new texts as the base's training texts were: ids (N, T) and lengths (N,), for
        ``predict_proba``.
        """
        return self.base.encode(texts)

    # -- on disk -------------------------------------------------------------------------------------------------

    @on_the_cpu
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the module to a file, completely or not at all.

        The native format keeps one bit a weight; only the reference's format holds the scores' values. There, too, they
        are 1 and -1 unless the module is that of its run's last epoch, since a run keeps earlier epochs as bits. The
        card names the base that the module was made on, even if that base has changed since.

        Args:
            path: Ends in ``.safetensors`` (native), or in ``.pth`` or ``.pt`` (the reference's format).

        Raises:
            CheckpointError: The path has another ending.
        """
        path = Path(path)
        if path.suffix in (".pth", ".pt"):
            # Cloned, because torch.save writes the whole storage behind a view.
            state = {key + MASK_SUFFIX: self.scores[key].detach().float().clone() for key in weight_keys(self.scores)}
            state |= {key: part.float().clone() for key, part in zip(HEAD_KEYS, self.head, strict=True)}
            buffer = io.BytesIO()
            torch.save(OrderedDict(state), buffer)
            write_atomically(path, buffer.getvalue())
        elif path.suffix == ".safetensors":
            write_atomically(path, self._native())
        else:
            raise CheckpointError(f"{path}: a module file ends in .safetensors (native) or .pth (the reference's)")

    def _native(self) -> bytes:
        """The contents of a native file."""
        tensors = {f"{key}.kept_bits": bits for key, bits in self.mask.pack().items()}
        tensors |= {key: part.detach().contiguous() for key, part in zip(HEAD_KEYS, self.head, strict=True)}
        card = self.card | {
            "target": list(self.target),
            "base_hash": self.base_hash,
            "base_dtype": str(self.base.hidden2label.weight.dtype).removeprefix("torch."),
            "read": FILE_READOUTS[self.readout],
            "tokenizer": self.base.tokenizer.as_card() if self.base.states_tokenizer else None,
            "vocabulary_hash": vocabulary_hash(self.base),
            "kept": self.kept,
            "kept_by_group": self.kept_by_group,
            "metrics": self.metrics,
            "history": self.history,
        }
        return safetensors_bytes(tensors, {"format": MODULE_FORMAT, "card": to_json(card)})

    @classmethod
    @on_the_cpu
    def load(
        cls, path: str | os.PathLike[str], base: LSTMClassifier, *, target: int | Iterable[int] | None = None
    ) -> "SeamModule":
        """Reads a module file of either format and checks it against the base.

        A native file names its base by hash and is refused on another one. The reference's format names neither base
        nor target, so only shapes can be checked. Scores read from a native file are 1 (kept) or -1 (dropped).

        Args:
            path: The file.
            base: The base that the module was made on.
            target: Class numbers, for the reference's format; default: those in the folder's name ``tc_<k>``.

        Raises:
            CheckpointError: The file is missing or damaged, or does not belong to this base.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such module file")
        if path.suffix == ".safetensors":
            return cls._load_native(path, base)
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
        return cls(base, target, scores, [state[key] for key in HEAD_KEYS], card={"source": str(path)})

    @classmethod
    def _load_native(cls, path: Path, base: LSTMClassifier) -> "SeamModule":
        """``load`` of a native file."""
        tensors, metadata = read_tensor_file(path)
        try:
            card = json.loads(metadata.get("card", "{}"))
        except ValueError as error:
            raise CheckpointError(f"{path}: not a readable module file ({error})") from None
        refuse_base(path, tensors)
        if metadata.get("format") != MODULE_FORMAT or not isinstance(card, dict):
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
        check_tensors(path, tensors, shapes | head_shapes(base), bits=True)
        bits = {key: tensors[f"{key}.kept_bits"] for key in weights}
        mask = KeepMask({key: tuple(weight.shape) for key, weight in weights.items()}, bits)
        head = [tensors[key] for key in HEAD_KEYS]
        history, metrics = card.pop("history", []), card.pop("metrics", {})
        if not isinstance(history, list) or not isinstance(metrics, dict):
            raise CheckpointError(f"{path}: the history or metrics on its card are damaged")
        target = check_target(path, card.get("target"), base)
        module = cls(base, target, mask, head, history=history, metrics=metrics, card=card)
        module._hash_in_float32 = rounded
        return module


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

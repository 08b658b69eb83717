"""The base: an LSTM text classifier, its files, and the figures by which it is judged.

The model is the one whose checkpoints are public: embedding, LSTM, linear, seven tensors under fixed names. Those
names are kept, so that a checkpoint written elsewhere loads here and the reverse; more layers and a reverse direction
add tensors under torch's names, and a file's layers and directions are known by them. What a state dict cannot say
(where the output is read, what the classes and words are called, how texts become words) stands in the metadata of our
files.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..common.default_device import on_the_cpu
from ..common.deprecation import warn_renamed
from ..data.checks import warn
from ..data.corpus_config import CorpusConfig
from ..data.encoding import encode_texts, index_words
from ..data.tokenizer import Tokenizer
from ..errors import CheckpointError, DataError
from ..files.atomic import to_json, write_atomically
from ..files.tensors import read_tensor_file, safetensors_bytes
from .checkpoint import float_dtype, standard_tensors
from .inference import class_logits
from .metrics import wilson
from .reference_model import read_state
from .state_keys import EMBEDDING, HEAD_KEYS, LINEAR_KEYS, MODULE_FORMAT, lstm_keys, lstm_shape, weight_keys

READOUTS = ("last_word", "last_position")
FILE_READOUTS = {"last_word": "last_word", "last_position": "end"}  # what files have called them from the first on

FIGURES = ("test", "train_accuracy", "validation_accuracy", "validation_mean_f1")
"""Entries of ``info`` that are true of the weights they were measured on alone."""

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_METADATA_KEY = "seam_fast"
_TORCH_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_LOADABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def readout_of_file(name: str | None) -> str | None:
    """The readout that a file's name for it stands for."""
    return {theirs: ours for ours, theirs in FILE_READOUTS.items()}.get(name, name)


class LSTMClassifier(nn.Module):
    """Embedding -> LSTM (zero initial state, gate order i, f, g, o) -> linear.

    ``readout`` says which LSTM output the linear layer sees: ``"last_word"`` the one at the last real word of each
    document, so that padding has no influence at all; ``"last_position"`` the one at the last position of the batch,
    after the padding, which is then part of the input (what the public checkpoint was trained with).

    ``num_layers`` and ``bidirectional``: as in ``torch.nn.LSTM``. With both directions the output is 2 * H wide: the
    forward direction's state beside that of the reverse one, which begins at the last word of the document or, where
    the output is read at the end, at the last position of the batch.

    ``class_names`` (C names), ``vocabulary`` (V words, id -> word), ``tokenizer`` (how texts become words: a
    `Tokenizer`, or what makes one) and ``info`` (anything JSON can hold: how the base was trained) are carried along
    and saved in files.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_dim: int,
        num_classes: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        readout: str = "last_word",
        class_names: Sequence[str] | None = None,
        vocabulary: Sequence[str] | None = None,
        info: dict[str, Any] | None = None,
        tokenizer: Tokenizer | str | Callable[[str], Iterable[str]] | None = None,
        read: str | None = None,
    ) -> None:
        super().__init__()
        if read is not None:  # deprecated
            warn_renamed(f"read={read!r}", f"readout={(readout := readout_of_file(read))!r}")
        sizes = {
            "vocab_size": vocab_size,
            "embedding_dim": embedding_dim,
            "hidden_dim": hidden_dim,
            "num_classes": num_classes,
            "num_layers": num_layers,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, got {readout!r}")
        self.vocab_size = int(vocab_size)
        self.embedding_dim = int(embedding_dim)
        self.hidden_dim = int(hidden_dim)
        self.num_classes = int(num_classes)
        self.num_layers = int(num_layers)
        self.bidirectional = bool(bidirectional)
        self.readout = readout
        self.class_names = _names_or_none(class_names, self.num_classes, "class_names", "classes")
        self.vocabulary = _names_or_none(vocabulary, self.vocab_size, "vocabulary", "embedding rows")
        self.info = dict(info or {})
        self._tokenizer = None if tokenizer is None else Tokenizer.of(tokenizer)
        self._index: tuple[tuple[str, ...], str, dict[str, int]] | None = None
        self.word_embeddings = nn.Embedding(self.vocab_size, self.embedding_dim)
        self.lstm = nn.LSTM(
            self.embedding_dim,
            self.hidden_dim,
            self.num_layers,
            batch_first=True,
            bidirectional=self.bidirectional,
        )
        self.hidden2label = nn.Linear(self.hidden_dim * (2 if self.bidirectional else 1), self.num_classes)

    def features(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The LSTM output (N, D * H) that the linear layer reads, D: 1 or 2 directions; arguments as in `forward`."""
        return self.read_output(self.run_lstm(self.word_embeddings(ids), lengths), lengths)

    def run_lstm(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor:
        """All LSTM outputs (N, T, D * H) of documents of word vectors (N, T, E); ``lengths`` as in `forward`."""
        if lengths is None or self.readout == "last_position" or not self.bidirectional:
            return self.lstm(vectors)[0]
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=vectors.shape[1])[0]

    def read_output(self, output: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pick from all LSTM outputs (N, T, D * H) the one that is read, (N, D * H)."""
        if lengths is None:
            return output[:, -1]
        return read_state(output.transpose(0, 1), lengths.to(output.device), self.readout)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class scores (N, C) of documents ``ids`` (N, T) int64 with ``lengths`` (N,) int64 real words each.

        ``lengths`` may be left out where every row is full; ``readout="last_position"`` does not look at them.
        """
        return self.hidden2label(self.features(ids, lengths))

    def weights(self) -> dict[str, Tensor]:
        """The weight tensors by key, in state-dict order: seven, and four for each further layer and direction.

        They are detached and share memory with the parameters.
        """
        state = self.state_dict()
        return {key: state[key].detach() for key in weight_keys(state)}

    @property
    def hash(self) -> str:
        """Hex sha256 over key, shape and values of the weight tensors: what a module remembers its base by.

        Values are taken in float32, and in float64 where a tensor holds any that float32 cannot; so the hash tells
        float64 bases apart exactly, and a base has the same one in both precisions.
        """
        return self._hash(exact=True)

    def _hash(self, exact: bool) -> str:
        digest = hashlib.sha256()
        for key, tensor in self.weights().items():
            tensor = tensor.to("cpu").contiguous()
            values, dtype = tensor.to(torch.float32), "<f4"
            if exact and tensor.dtype == torch.float64 and not torch.equal(values.double(), tensor):
                values, dtype = tensor, "<f8"
            digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
            digest.update(values.numpy().astype(dtype, copy=False).tobytes())
        return digest.hexdigest()

    @property
    def hash_in_float32(self) -> str:
        """The hash that files of earlier versions hold: of the values rounded to float32."""
        return self._hash(exact=False)

    @torch.no_grad()
    def checksum(self) -> tuple[int, ...]:
        """A few numbers that change where weights do, in a fraction of the hash's time: for telling whether they are
        still what they were, in this process alone."""
        sums = []
        for tensor in self.weights().values():
            bits = tensor.contiguous().reshape(len(tensor), -1)
            size = bits.element_size()
            by_eight = bits.shape[1] * size % 8 == bits.storage_offset() * size % 8 == 0
            bits = bits.view(torch.int64 if by_eight else INTEGERS[size])
            rows = bits.sum(1)  # in int64, which wraps around
            sums.append((rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum())
        return tuple(int(value) for value in torch.stack(sums).tolist())

    # -- texts ---------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """How texts become words; of bases that do not say, as they were taken before there was a choice."""
        if self._tokenizer is not None:
            return self._tokenizer
        if self.states_tokenizer:
            return Tokenizer.of(self.info["corpus_config"]["tokenizer"])
        return Tokenizer("r8" if self._is_old_r8() else "spaces")

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer | str | Callable[[str], Iterable[str]] | None) -> None:
        self._tokenizer = None if tokenizer is None else Tokenizer.of(tokenizer)

    @property
    def states_tokenizer(self) -> bool:
        """Whether the tokenizer was said, and is not just what holds for bases that do not say."""
        stored = self.info.get("corpus_config")
        return self._tokenizer is not None or (isinstance(stored, dict) and "tokenizer" in stored)

    def _is_old_r8(self) -> bool:
        """Whether this base has R8's words as published, which the rule "r8" splits as spaces do."""
        if self.info.get("corpus") not in ("r8", "r8-synthetic") or self.vocabulary is None:
            return False
        return all(word.isascii() and word.isalpha() and word.islower() for word in self.vocabulary[2:])

    @property
    def corpus_config(self) -> CorpusConfig:
        """How documents become ids.

        A base that does not say gets what goes with where it is read: at the last word the default, at the end the
        public recipe's. Raises CheckpointError where what the file says is damaged.
        """
        stored = self.info.get("corpus_config")
        protocol = "seam" if self.readout == "last_word" else "reference"
        try:
            config = CorpusConfig(**stored) if stored else CorpusConfig.for_protocol(protocol)
            return replace(config, tokenizer=self.tokenizer)
        except (TypeError, DataError):
            raise CheckpointError(
                f"the base's metadata has no valid corpus_config ({stored!r}); train it again"
            ) from None

    def word_index(self) -> dict[str, int]:
        """word -> id; CheckpointError for a base without a vocabulary."""
        if self.vocabulary is None:
            raise CheckpointError(
                "this base does not say its words (its file holds no vocabulary); give them when loading it: "
                "LSTMClassifier.load(path, vocabulary=corpus.words, class_names=corpus.class_names), with the corpus "
                "that it was trained on; the command line takes them from that corpus: --dataset NAME --data-dir FOLDER"
            )
        padding = self.corpus_config.padding
        if self._index is None or self._index[:2] != (self.vocabulary, padding):
            self._index = self.vocabulary, padding, index_words(self.vocabulary, self.corpus_config)
        return self._index[2]

    def names_or_refuse(self) -> tuple[str, ...]:
        """The class names; CheckpointError for a base without."""
        if self.class_names is None:
            raise CheckpointError(
                "this base does not say its class names; give them when loading it: "
                "LSTMClassifier.load(path, class_names=corpus.class_names), with the corpus that it was trained on; "
                "the command line takes them from that corpus: --dataset NAME --data-dir FOLDER"
            )
        return self.class_names

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        """New texts as at training: ``ids (N, T)``, ``lengths (N,)``, both int64, for `forward` and for modules.

        Raises CheckpointError for a base without a vocabulary, DataError where its tokenizer is a function that has
        not been given again.
        """
        return encode_texts(texts, self.word_index(), self.corpus_config)

    # -- on disk -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the base to ``path`` atomically; the ending decides what is written.

        ``.pt`` and ``.pth`` hold a state dict under the public keys, ``.safetensors`` the same tensors; both carry
        ``readout``, ``class_names``, ``vocabulary``, ``tokenizer`` and ``info`` as metadata. A tokenizer that is a
        function is saved by its name only, of which a DataWarning tells. Figures in ``info`` are left out where the
        weights have changed since `train` made them.
        """
        path = Path(path)
        tensors = {key: tensor.to("cpu").contiguous() for key, tensor in self.weights().items()}
        if self.tokenizer.is_function:
            warn(
                f"{path}: texts are split by the function {self.tokenizer.name}, which the file names but does not "
                "hold; whoever loads it gives it again: LSTMClassifier.load(path, tokenizer=...)."
            )
        card = to_json(
            {
                "read": FILE_READOUTS[self.readout],
                "class_names": self.class_names,
                "vocabulary": self.vocabulary,
                "tokenizer": self.tokenizer.as_card() if self.states_tokenizer else None,
                "info": self._true_info(),
            },
            ensure_ascii=False,
        )
        if path.suffix in (".pt", ".pth"):
            # Clones, so that the file holds these tensors alone and no storage that they may be views of.
            state = OrderedDict((key, tensor.clone()) for key, tensor in tensors.items())
            state._metadata = {_METADATA_KEY: card}  # where torch keeps versions of a state dict; others pass it over
            buffer = io.BytesIO()
            torch.save(state, buffer)
            data = buffer.getvalue()
        elif path.suffix == ".safetensors":
            # One entry only: the order of several is not fixed, and the same base should give the same bytes.
            data = safetensors_bytes(tensors, {_METADATA_KEY: card})
        else:
            raise CheckpointError(f"Cannot save a base as {path}: the name must end in .pt, .pth or .safetensors.")
        return write_atomically(path, data)

    def _true_info(self) -> dict[str, Any]:
        """``info`` without figures that are not of these weights."""
        made = self.info.get("weights_hash")
        if made is None or made == self.hash:
            return self.info
        return {key: value for key, value in self.info.items() if key not in FIGURES} | {"changed_since_training": True}

    @classmethod
    @on_the_cpu
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        readout: str | None = None,
        class_names: Sequence[str] | None = None,
        vocabulary: Sequence[str] | None = None,
        key_map: Mapping[str, str] | None = None,
        ignore_keys: Iterable[str] = (),
        tokenizer: Tokenizer | str | Callable[[str], Iterable[str]] | None = None,
    ) -> LSTMClassifier:
        """Read a base from a torch file (``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.tar``) or a safetensors file; no
        code in it is ever run.

        All sizes, layers and directions come from the tensors. ``readout`` defaults to the file's own, else
        ``"last_position"`` (what the public checkpoint was trained with). 16-bit weights become float32, which holds
        them exactly. ``tokenizer`` is needed where the base was trained with a function, of which files hold the name
        only; where the file says another one, it is refused.

        A checkpoint of another origin may hold its tensors in a dictionary of others, with a prefix, under other names
        and without biases, as long as it is plain what is meant; ``info["adapted"]`` then says what was done. Where it
        is not plain, ``key_map`` says what the file calls ``word_embeddings``, ``lstm``, ``hidden2label`` or a tensor
        of these, and ``ignore_keys`` names tensors (or what their names begin with) that take no part.

        Raises `CheckpointError` naming every key that is missing, unknown, of the wrong shape or not finite, and where
        names given here contradict those in the file.
        """
        path = Path(path)
        content, card = _read_file(path)
        tensors, adapted = standard_tensors(path, content, key_map, ignore_keys)
        sizes = _check_tensors(path, tensors, adapted)
        names = _merge_names(path, "class_names", class_names, card.get("class_names"), sizes["num_classes"])
        words = _merge_names(path, "vocabulary", vocabulary, card.get("vocabulary"), sizes["vocab_size"])
        readout = readout or readout_of_file(card.get("read")) or "last_position"
        if readout not in READOUTS:
            raise CheckpointError(f"{path}: readout must be one of {', '.join(READOUTS)}, got {readout!r}.")
        info = card.get("info")
        info = dict(info) if isinstance(info, dict) else {}
        if adapted:
            info["adapted"] = adapted
        tokenizer = _merge_tokenizer(path, tokenizer, card.get("tokenizer"))
        with torch.device("meta"):  # no random numbers drawn for values that are replaced at once
            model = cls(
                **sizes,
                readout=readout,
                class_names=names,
                vocabulary=words,
                info=info,
                tokenizer=tokenizer,
            )
        dtype = float_dtype(tensors.values())
        model = model.to(dtype).to_empty(device="cpu")
        model.load_state_dict({key: tensor.to(dtype) for key, tensor in tensors.items()})
        return model

    @property
    def read(self) -> str:
        """Deprecated: ``readout`` in its old spelling."""
        warn_renamed("read", "readout")
        return FILE_READOUTS[self.readout]

    def extra_repr(self) -> str:
        return f"readout={self.readout!r}"


def _names_or_none(names: Sequence[str] | None, count: int, what: str, of: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    names = tuple(str(name) for name in names)
    if len(names) != count:
        raise ValueError(f"{what} has {len(names)} entries, but there are {count} {of}")
    return names


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in the file and what its metadata says (an empty card for a state dict)."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a base (.pt, .pth or .safetensors).")
    if path.suffix not in (*_TORCH_ENDINGS, ".safetensors"):
        raise CheckpointError(
            f"{path}: a base is read from {', '.join(_TORCH_ENDINGS)} or .safetensors; rename the file to what it is."
        )
    tensors, metadata = read_tensor_file(path)
    if metadata.get("format") == MODULE_FORMAT or all(key in tensors for key in HEAD_KEYS):
        raise CheckpointError(
            f"{path}: is a module, which has no weights of its own, not a base; give the base that it was made of "
            "(seam-fast evaluate MODULE --base BASE judges a module)."
        )
    if _METADATA_KEY not in metadata:
        # A safetensors file of another origin has plain strings of its own: they say how it was made.
        return tensors, {"info": metadata} if path.suffix == ".safetensors" else {}
    try:
        card = json.loads(metadata[_METADATA_KEY])
    except (TypeError, ValueError):
        card = None
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: its metadata is damaged, not a JSON object; save the base again.")
    return tensors, card


def _check_tensors(path: Path, tensors: dict[str, Any], adapted: Sequence[str] = ()) -> dict[str, Any]:
    """The sizes `LSTMClassifier` takes, once every tensor is known to be there, of a fitting shape, and finite.

    ``adapted``: what was made of a checkpoint of another origin, for the messages.
    """
    path = f"{path} ({'; '.join(adapted)})" if adapted else path
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
        raise CheckpointError(f"{path}: not the {count} tensors of a {which} LSTM classifier: {'; '.join(faults)}.")
    for key in keys:
        tensor = tensors[key]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in _LOADABLE_DTYPES:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{path}: {key} must be a dense floating-point tensor, got {kind}.")
        if tensor.device.type != "cpu":  # the meta device: all others are read to the CPU
            raise CheckpointError(f"{path}: {key} was saved on the {tensor.device.type} device, without values.")
    shapes = {key: tuple(tensors[key].shape) for key in keys}
    for key in (EMBEDDING, "lstm.weight_hh_l0", LINEAR_KEYS[0]):
        if len(shapes[key]) != 2 or 0 in shapes[key]:
            raise CheckpointError(f"{path}: {key} has shape {shapes[key]}, expected a matrix that is not empty.")
    vocab_size, embedding_dim = shapes[EMBEDDING]
    hidden_dim = shapes["lstm.weight_hh_l0"][1]
    num_classes = shapes[LINEAR_KEYS[0]][0]
    width = hidden_dim * (2 if bidirectional else 1)  # of a layer's output
    gates = 4 * hidden_dim
    first, later = (((gates, size), (gates, hidden_dim), (gates,), (gates,)) for size in (embedding_dim, width))
    cells = [first if layer == 0 else later for layer in range(num_layers) for _ in range(1 + bidirectional)]
    lstm_shapes = itertools.chain.from_iterable(cells)
    expected = {EMBEDDING: (vocab_size, embedding_dim)} | dict(zip(lstm_keys(tensors), lstm_shapes, strict=True))
    expected |= dict(zip(LINEAR_KEYS, ((num_classes, width), (num_classes,)), strict=True))
    wrong = [f"{key} has shape {shapes[key]}, expected {want}" for key, want in expected.items() if shapes[key] != want]
    if wrong:
        raise CheckpointError(
            f"{path}: the shapes do not fit together (E {embedding_dim} from the embedding, H {hidden_dim} from "
            f"lstm.weight_hh_l0, {num_classes} classes from hidden2label.weight): {'; '.join(wrong)}."
        )
    bad = [key for key in keys if not bool(torch.isfinite(tensors[key]).all())]
    if bad:
        raise CheckpointError(f"{path}: values that are not finite in {', '.join(bad)}; train the base again.")
    return {
        "vocab_size": vocab_size,
        "embedding_dim": embedding_dim,
        "hidden_dim": hidden_dim,
        "num_classes": num_classes,
        "num_layers": num_layers,
        "bidirectional": bidirectional,
    }


def _merge_names(path: Path, what: str, given: Sequence[str] | None, stored: Any, count: int) -> tuple[str, ...] | None:
    """Names from the caller or the file: they must be as many as the tensors say, and agree where both are there."""
    if stored is not None and not (isinstance(stored, list) and all(isinstance(name, str) for name in stored)):
        raise CheckpointError(f"{path}: {what} in its metadata is not a list of strings; save the base again.")
    for names, where in ((given, "given"), (stored, "in its metadata")):
        if names is not None and len(names) != count:
            raise CheckpointError(f"{path}: {what} {where} has {len(names)} entries, but the tensors have {count}.")
    if given is not None and stored is not None and tuple(given) != tuple(stored):
        place = next(i for i, (a, b) in enumerate(zip(given, stored, strict=True)) if a != b)
        raise CheckpointError(
            f"{path}: {what} given differs from the file's own at {place} ({given[place]!r}, not {stored[place]!r}); "
            "load the corpus that this base was trained on."
        )
    names = given if given is not None else stored
    return None if names is None else tuple(names)


def _merge_tokenizer(path: Path, given: Any, stored: Any) -> Tokenizer | None:
    """The tokenizer from the caller or the file, which must agree where both are there; None where neither is."""
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


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassifierMetrics:
    """Figures over C classes, all from ``confusion`` (C, C) int64: rows true, columns predicted.

    A precision, recall or F1 without anything to divide by is 0 (None in `as_dict`, for a class without documents).
    ``mean_f1`` is the plain mean over the classes that have documents.
    """

    confusion: Tensor

    @property
    def total(self) -> int:
        return int(self.confusion.sum())

    @property
    def support(self) -> Tensor:
        """Documents of each class, (C,) int64."""
        return self.confusion.sum(1)

    @property
    def accuracy(self) -> float:
        return int(self.confusion.diag().sum()) / max(1, self.total)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson)."""
        return wilson(int(self.confusion.diag().sum()), self.total)

    @property
    def precision(self) -> Tensor:
        """(C,) float64."""
        return self.confusion.diag().double() / self.confusion.sum(0).clamp(min=1)

    @property
    def recall(self) -> Tensor:
        """(C,) float64."""
        return self.confusion.diag().double() / self.confusion.sum(1).clamp(min=1)

    @property
    def f1(self) -> Tensor:
        """(C,) float64: 2 TP / (2 TP + FP + FN)."""
        return 2 * self.confusion.diag().double() / (self.confusion.sum(0) + self.confusion.sum(1)).clamp(min=1)

    @property
    def mean_f1(self) -> float:
        present = self.support > 0
        return float(self.f1[present].mean()) if bool(present.any()) else 0.0

    def as_dict(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Plain numbers for JSON: the overall figures and one entry a class."""
        count = len(self.confusion)
        names = [str(k) for k in range(count)] if class_names is None else list(class_names)
        low, high = self.accuracy_interval
        precision, recall, f1, support = (t.tolist() for t in (self.precision, self.recall, self.f1, self.support))
        return {
            "documents": self.total,
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "mean_f1": self.mean_f1,
            "classes": [
                {"name": names[k], "documents": support[k]}
                | (
                    {"precision": precision[k], "recall": recall[k], "f1": f1[k]}
                    if support[k]
                    else dict.fromkeys(("precision", "recall", "f1"))
                )
                for k in range(count)
            ],
            "confusion": self.confusion.tolist(),
        }


@on_the_cpu
def predict_logits(model: LSTMClassifier, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Class scores (N, C) of many documents, in batches, without gradients; arguments as in the model's forward."""
    if lengths is None:
        lengths = torch.full((len(ids),), ids.shape[1])
    return class_logits(model.weights(), ids, lengths, model.readout)


@on_the_cpu
def evaluate_classifier(model: LSTMClassifier, split: Any) -> ClassifierMetrics:
    """Judge ``model`` on a split (``ids`` (N, T), ``lengths`` (N,), ``labels`` (N,) int64): confusion and figures.

    Raises DataError for documents of classes that the model does not know, which would all count as errors.
    """
    if len(split.labels) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < model.num_classes:
        count = int(((split.labels < 0) | (split.labels >= model.num_classes)).sum())
        raise DataError(
            f"{count:,} of {len(split.labels):,} documents are of classes that this base does not know; take them out "
            "to judge it (a module can be judged on them: evaluate_module)."
        )
    predicted = predict_logits(model, split.ids, split.lengths).argmax(1).cpu()
    return confusion_metrics(split.labels, predicted, model.num_classes)


def confusion_metrics(labels: Tensor, predicted: Tensor, num_classes: int) -> ClassifierMetrics:
    """Metrics of ``predicted`` (N,) against ``labels`` (N,), both int64 class ids below ``num_classes``."""
    cells = labels.cpu() * num_classes + predicted.cpu()
    counts = torch.bincount(cells, minlength=num_classes * num_classes)
    return ClassifierMetrics(counts.view(num_classes, num_classes))

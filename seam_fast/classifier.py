"""The base: an LSTM text classifier, its files, and the figures by which it is judged.

The model is the one whose checkpoints are public: embedding, LSTM, linear, seven tensors under fixed names. Those
names are kept, so that a checkpoint written elsewhere loads here and the reverse; more layers and a reverse direction
add tensors under torch's names, and a file's layers and directions are known by them. What a state dict cannot say
(where the output is read, what the classes and words are called) stands in the metadata of our safetensors files.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .errors import CheckpointError
from .files import to_json, write_atomically
from .inference import class_logits
from .keys import EMBEDDING, LINEAR_KEYS, lstm_keys, lstm_shape, weight_keys
from .metrics import wilson
from .reference import read_state
from .tensor_files import read_tensor_file, safetensors_bytes

READS = ("last_word", "end")

_METADATA_KEY = "seam_fast"
_LOADABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class LSTMClassifier(nn.Module):
    """Embedding -> LSTM (zero initial state, gate order i, f, g, o) -> linear.

    ``read`` says which LSTM output the linear layer sees: ``"last_word"`` the one at the last real word of each
    document, so that padding has no influence at all; ``"end"`` the one at the last position of the batch, after
    the padding, which is then part of the input (what the public checkpoint was trained with).

    ``num_layers`` and ``bidirectional``: as in ``torch.nn.LSTM``. With both directions the output is 2 * H wide: the
    forward direction's state beside that of the reverse one, which begins at the last word of the document or, where
    the output is read at the end, at the last position of the batch.

    ``class_names`` (C names), ``vocabulary`` (V words, id -> word) and ``info`` (anything JSON can hold: how the
    base was trained) are carried along and saved in safetensors files.
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
        read: str = "last_word",
        class_names: Sequence[str] | None = None,
        vocabulary: Sequence[str] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
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
        if read not in READS:
            raise ValueError(f"read must be one of {', '.join(READS)}, got {read!r}")
        self.vocab_size = int(vocab_size)
        self.embedding_dim = int(embedding_dim)
        self.hidden_dim = int(hidden_dim)
        self.num_classes = int(num_classes)
        self.num_layers = int(num_layers)
        self.bidirectional = bool(bidirectional)
        self.read = read
        self.class_names = _names_or_none(class_names, self.num_classes, "class_names", "classes")
        self.vocabulary = _names_or_none(vocabulary, self.vocab_size, "vocabulary", "embedding rows")
        self.info = dict(info or {})
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
        if lengths is None or self.read == "end" or not self.bidirectional:
            return self.lstm(vectors)[0]
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=vectors.shape[1])[0]

    def read_output(self, output: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pick from all LSTM outputs (N, T, D * H) the one that is read, (N, D * H)."""
        if lengths is None:
            return output[:, -1]
        return read_state(output.transpose(0, 1), lengths.to(output.device), self.read)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class scores (N, C) of documents ``ids`` (N, T) int64 with ``lengths`` (N,) int64 real words each.

        ``lengths`` may be left out where every row is full; ``read="end"`` does not look at them.
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
        """Hex sha256 over key, shape and float32 bytes of the weight tensors: what a module remembers its base by."""
        digest = hashlib.sha256()
        for key, tensor in self.weights().items():
            digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the base to ``path`` atomically; the ending decides what is written.

        ``.pt`` and ``.pth`` hold a state dict under the public keys, ``.safetensors`` the same tensors; both carry
        ``read``, ``class_names``, ``vocabulary`` and ``info`` as metadata.
        """
        path = Path(path)
        tensors = {key: tensor.to("cpu").contiguous() for key, tensor in self.weights().items()}
        card = to_json(
            {"read": self.read, "class_names": self.class_names, "vocabulary": self.vocabulary, "info": self.info},
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

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        read: str | None = None,
        class_names: Sequence[str] | None = None,
        vocabulary: Sequence[str] | None = None,
    ) -> LSTMClassifier:
        """Read a base from a state dict (``.pt``, ``.pth``) or a safetensors file; no code in it is ever run.

        All sizes, layers and directions come from the tensors. ``read`` defaults to the file's own, else ``"end"``
        (what the public checkpoint was trained with). Raises `CheckpointError` naming every key that is missing,
        unknown, of the wrong shape or not finite, and where names given here contradict those in the file.
        """
        path = Path(path)
        tensors, card = _read_file(path)
        sizes = _check_tensors(path, tensors)
        names = _merge_names(path, "class_names", class_names, card.get("class_names"), sizes["num_classes"])
        words = _merge_names(path, "vocabulary", vocabulary, card.get("vocabulary"), sizes["vocab_size"])
        read = read or card.get("read") or "end"
        if read not in READS:
            raise CheckpointError(f"{path}: read must be one of {', '.join(READS)}, got {read!r}.")
        info = card.get("info")
        with torch.device("meta"):  # no random numbers drawn for values that are replaced at once
            model = cls(
                **sizes,
                read=read,
                class_names=names,
                vocabulary=words,
                info=info if isinstance(info, dict) else None,
            )
        dtype = torch.float64 if all(t.dtype == torch.float64 for t in tensors.values()) else torch.float32
        model = model.to(dtype).to_empty(device="cpu")
        model.load_state_dict({key: tensor.to(dtype) for key, tensor in tensors.items()})
        return model

    def extra_repr(self) -> str:
        return f"read={self.read!r}"


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
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise CheckpointError(f"{path}: a base is read from .pt, .pth or .safetensors; rename the file to what it is.")
    tensors, metadata = read_tensor_file(path)
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


def _check_tensors(path: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    """The sizes `LSTMClassifier` takes, once every tensor is known to be there, of a fitting shape, and finite."""
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


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassifierMetrics:
    """Figures over C classes, all from ``confusion`` (C, C) int64: rows true, columns predicted.

    A precision, recall or F1 without anything to divide by is 0. ``mean_f1`` is the plain mean over the classes
    that have documents.
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
                {"name": names[k], "documents": support[k], "precision": precision[k], "recall": recall[k], "f1": f1[k]}
                for k in range(count)
            ],
            "confusion": self.confusion.tolist(),
        }


def predict_logits(model: LSTMClassifier, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Class scores (N, C) of many documents, in batches, without gradients; arguments as in the model's forward."""
    if lengths is None:
        lengths = torch.full((len(ids),), ids.shape[1])
    return class_logits(model.weights(), ids, lengths, model.read)


def evaluate_classifier(model: LSTMClassifier, split: Any) -> ClassifierMetrics:
    """Judge ``model`` on a split (``ids`` (N, T), ``lengths`` (N,), ``labels`` (N,) int64): confusion and figures."""
    predicted = predict_logits(model, split.ids, split.lengths).argmax(1).cpu()
    return confusion_metrics(split.labels, predicted, model.num_classes)


def confusion_metrics(labels: Tensor, predicted: Tensor, num_classes: int) -> ClassifierMetrics:
    """Metrics of ``predicted`` (N,) against ``labels`` (N,), both int64 class ids below ``num_classes``."""
    cells = labels.cpu() * num_classes + predicted.cpu()
    counts = torch.bincount(cells, minlength=num_classes * num_classes)
    return ClassifierMetrics(counts.view(num_classes, num_classes))

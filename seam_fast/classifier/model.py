"""The base: an LSTM text classifier.

The model is that of the public checkpoint: embedding, LSTM, linear layer, seven tensors under fixed names. The names
are kept, so that a checkpoint written elsewhere loads here and the reverse. More layers and a reverse direction add
tensors under torch's names, by which a file's layers and directions are recognised. What a state dict cannot say (where
the output is read, the names of classes and words, how texts become words) is in the metadata of our files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..common.default_device import on_the_cpu
from ..common.deprecation import warn_renamed
from ..data.checks import warn
from ..data.corpus import Corpus, check_is_corpus
from ..data.corpus_config import CorpusConfig
from ..data.encoding import encode_texts, index_words
from ..data.tokenizer import Tokenizer
from ..errors import CheckpointError, DataError
from .base_file import FILE_READOUTS, read_base, readout_of_file, write_base
from .checkpoint import float_dtype
from .reference_model import READOUTS, read_state
from .state_keys import weight_keys

FIGURES = ("test", "train_accuracy", "validation_accuracy", "validation_mean_f1")
"""Entries of ``info`` that hold only for the weights on which they were measured."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


class LSTMClassifier(nn.Module):
    """Embedding -> LSTM (zero initial state, gate order i, f, g, o) -> linear layer.

    Letters: N documents, T words, V vocabulary, E embedding size, H hidden size, D directions (1 or 2), C classes.

    Args:
        vocab_size: V.
        embedding_dim: E.
        hidden_dim: H.
        num_classes: C.
        num_layers: as in ``torch.nn.LSTM``.
        bidirectional: as in ``torch.nn.LSTM``. The linear layer then reads 2 * H values: the forward direction's output
            and the reverse one's, which begins at the document's last word or, with ``readout="last_position"``, at
            the last position of the batch.
        readout: which LSTM output the linear layer reads: ``"last_word"``: the one at the last real word of each
            document, so that padding has no influence; ``"last_position"``: the one at the last position of the
            batch, after the padding, which is then part of the input (as the public checkpoint was trained).
        class_names: C names.
        vocabulary: V words, in the order of their ids.
        info: anything that JSON can hold: how the base was trained.
        tokenizer: how texts become words: a `Tokenizer`, or a rule or function to make one of.
        read: deprecated, the old name of ``readout``.

    Attributes:
        word_embeddings: ``nn.Embedding``, weight (V, E).
        lstm: ``nn.LSTM``.
        hidden2label: ``nn.Linear``, weight (C, D * H), bias (C,).

    Raises:
        ValueError: a size below 1, no such readout, or the wrong number of names.
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
        if read is not None:
            readout = readout_of_file(read)
            warn_renamed(f"read={read!r}", f"readout={readout!r}")
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
        table = torch.empty(self.vocab_size, self.embedding_dim)
        if not table.is_meta:  # to draw for meta tensors would import the compiler of torch, seconds for nothing
            nn.init.normal_(table)
        self.word_embeddings = nn.Embedding(self.vocab_size, self.embedding_dim, _weight=table)
        self.lstm = nn.LSTM(
            self.embedding_dim,
            self.hidden_dim,
            self.num_layers,
            batch_first=True,
            bidirectional=self.bidirectional,
        )
        self.hidden2label = nn.Linear(self.hidden_dim * (2 if self.bidirectional else 1), self.num_classes)

    @classmethod
    def for_corpus(
        cls,
        corpus: Corpus,
        *,
        embedding_dim: int = 100,
        hidden_dim: int = 50,
        num_layers: int = 1,
        bidirectional: bool = False,
        readout: str = "last_word",
    ) -> LSTMClassifier:
        """An untrained classifier for a corpus, to be trained by a loop of one's own.

        It knows the corpus's words, classes and treatment of texts, so that it encodes new texts as the corpus does, is
        saved with all of that, and can be re-engineered on the corpus. Its weights are initialised as torch's layers
        are, from torch's global random numbers (``torch.manual_seed``).

        Args:
            corpus: the documents it is to be trained on.
            embedding_dim: as in the class, like all that follow.
            hidden_dim: H.
            num_layers: as in ``torch.nn.LSTM``.
            bidirectional: as in ``torch.nn.LSTM``.
            readout: ``"last_word"`` or ``"last_position"``.

        Raises:
            TrainingError: something other than a corpus.
            ValueError: as in the class.
        """
        check_is_corpus(corpus)
        facts = {
            "corpus": corpus.name,
            "corpus_config": corpus.config.as_dict(),
            "synthetic": corpus.synthetic,
            "data_hash": corpus.data_hash,
        }
        return cls(
            corpus.vocab_size,
            embedding_dim,
            hidden_dim,
            corpus.num_classes,
            num_layers=num_layers,
            bidirectional=bidirectional,
            readout=readout,
            class_names=corpus.class_names,
            vocabulary=corpus.words,
            info=facts,
            tokenizer=corpus.config.tokenizer,
        )

    def features(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The LSTM output (N, D * H) that the linear layer reads; arguments as in `forward`."""
        return self.read_output(self.run_lstm(self.word_embeddings(ids), lengths), lengths)

    def run_lstm(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor:
        """All LSTM outputs (N, T, D * H), of word vectors (N, T, E); ``lengths`` as in `forward`."""
        if lengths is None or self.readout == "last_position" or not self.bidirectional:
            return self.lstm(vectors)[0]
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=vectors.shape[1])[0]

    def read_output(self, output: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The output (N, D * H) that is read, out of all LSTM outputs (N, T, D * H); ``lengths`` as in `forward`."""
        return read_state(output.transpose(0, 1), None if lengths is None else lengths.to(output.device), self.readout)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class logits of documents.

        Args:
            ids: token ids (N, T) int64.
            lengths: real words of each document, (N,) int64; None: T each. ``readout="last_position"`` ignores them.

        Returns:
            (N, C).
        """
        return self.hidden2label(self.features(ids, lengths))

    def weights(self) -> dict[str, Tensor]:
        """The weight tensors by key, in state-dict order; detached, they share memory with the parameters.

        There are seven, and four more for each further layer and direction.
        """
        state = self.state_dict()
        return {key: state[key].detach() for key in weight_keys(state)}

    @property
    def hash(self) -> str:
        """Hex sha256 of keys, shapes and values of the weights, by which a module's file identifies its base.

        A tensor's values are taken in float64 if it has any that float32 cannot hold, else in float32. So the hash
        distinguishes float64 bases exactly, and a base converted between the two precisions without loss keeps it.
        """
        return self._hash(exact=True)

    def _hash(self, exact: bool) -> str:
        """The hash; ``exact``: whether values that float32 cannot hold are taken in float64, not rounded."""
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
        """The hash in files of earlier versions: of the values rounded to float32."""
        return self._hash(exact=False)

    @torch.no_grad()
    def checksum(self) -> tuple[int, ...]:
        """A number for each weight tensor that changes when the tensor does.

        It takes a fraction of the hash's time and serves to notice changes within one process.
        """
        sums = []
        for tensor in self.weights().values():
            bits = tensor.contiguous().reshape(len(tensor), -1)
            size = bits.element_size()
            by_eight = bits.shape[1] * size % 8 == bits.storage_offset() * size % 8 == 0
            bits = bits.view(torch.int64 if by_eight else _INTEGERS[size])
            rows = bits.sum(1)  # in int64, where overflow wraps around
            sums.append((rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum())
        return tuple(int(value) for value in torch.stack(sums).tolist())

    # -- texts ---------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """How texts become words; for files of earlier versions, which do not say it, the rule of those versions."""
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
        """Whether the tokenizer was given or read from a file, and is not just the default of earlier versions."""
        stored = self.info.get("corpus_config")
        return self._tokenizer is not None or (isinstance(stored, dict) and "tokenizer" in stored)

    def _is_old_r8(self) -> bool:
        """Whether the vocabulary is that of R8 as published, whose texts the rules "r8" and "spaces" split alike."""
        if self.info.get("corpus") not in ("r8", "r8-synthetic") or self.vocabulary is None:
            return False
        return all(word.isascii() and word.isalpha() and word.islower() for word in self.vocabulary[2:])

    @property
    def corpus_config(self) -> CorpusConfig:
        """How documents become token ids.

        A base whose file does not say it gets the settings of the protocol that fits its readout: "seam" for the last
        word, "reference" for the last position.

        Raises:
            CheckpointError: the file's settings are damaged.
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
        """Token id by word. Raises CheckpointError for a base without a vocabulary."""
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
        """The class names. Raises CheckpointError for a base without them."""
        if self.class_names is None:
            raise CheckpointError(
                "this base does not say its class names; give them when loading it: "
                "LSTMClassifier.load(path, class_names=corpus.class_names), with the corpus that it was trained on; "
                "the command line takes them from that corpus: --dataset NAME --data-dir FOLDER"
            )
        return self.class_names

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Token ids of new texts, made as those of the training texts, for `forward` and for modules.

        Returns:
            ids (N, T) and lengths (N,), both int64.

        Raises:
            CheckpointError: the base has no vocabulary.
            DataError: its tokenizer is a function that was not given again when it was loaded.
        """
        return encode_texts(texts, self.word_index(), self.corpus_config)

    # -- on disk -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the base to a file atomically.

        ``readout``, ``class_names``, ``vocabulary``, ``tokenizer`` and ``info`` are saved as metadata. Of a tokenizer
        function only the name is saved, and a DataWarning says so. Figures in ``info`` are left out where the weights
        have changed since `train_classifier` measured them.

        Args:
            path: a name that ends in ``.pt`` or ``.pth``, for a state dict under the public keys, or in
                ``.safetensors``, for the same tensors in that format.

        Returns:
            The path.

        Raises:
            CheckpointError: another ending.
        """
        path = Path(path)
        tensors = {key: tensor.to("cpu").contiguous() for key, tensor in self.weights().items()}
        if self.tokenizer.is_function:
            warn(
                f"{path}: texts are split by the function {self.tokenizer.name}, which the file names but does not "
                "hold; whoever loads it gives it again: LSTMClassifier.load(path, tokenizer=...)."
            )
        card = {
            "read": FILE_READOUTS[self.readout],
            "class_names": self.class_names,
            "vocabulary": self.vocabulary,
            "tokenizer": self.tokenizer.as_card() if self.states_tokenizer else None,
            "info": self._true_info(),
        }
        return write_base(path, tensors, card)

    def _true_info(self) -> dict[str, Any]:
        """``info`` without figures that were measured on other weights."""
        measured = self.info.get("weights_hash")
        if measured is None or measured == self.hash:
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
        read: str | None = None,
    ) -> LSTMClassifier:
        """Reads a base from a file, without ever running code in it.

        All sizes, layers and directions come from the tensors. 16-bit weights become float32, which holds them exactly.

        A checkpoint of another origin may hold its tensors within other dictionaries, with a prefix, under other names
        or without biases, as long as their meaning is unambiguous; ``info["adapted"]`` then says what was done. Where
        it is not, ``key_map`` and ``ignore_keys`` decide.

        Args:
            path: a torch file (``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.tar``) or a ``.safetensors`` file.
            readout: as in the class; the default is the file's own, else ``"last_position"`` (as the public checkpoint
                was trained).
            class_names: the class names, where the file has none.
            vocabulary: the words, where the file has none.
            key_map: the file's names of ``word_embeddings``, ``lstm``, ``hidden2label`` or single tensors of these.
            ignore_keys: names of tensors, or how they begin, that take no part in the computation.
            tokenizer: needed for a base that was trained with a tokenizer function, of which files hold the name only.
            read: deprecated: ``readout``.

        Raises:
            CheckpointError: keys are missing, unknown, of the wrong shape or not finite (each is named), or an argument
                contradicts the file.
        """
        if read is not None:
            readout = readout_of_file(read)
            warn_renamed(f"read={read!r}", f"readout={readout!r}", stacklevel=3)
        file = read_base(
            Path(path),
            readout=readout,
            class_names=class_names,
            vocabulary=vocabulary,
            key_map=key_map,
            ignore_keys=ignore_keys,
            tokenizer=tokenizer,
        )
        with torch.device("meta"):  # draws no random numbers for values that are replaced at once
            model = cls(
                **file.sizes,
                readout=file.readout,
                class_names=file.class_names,
                vocabulary=file.vocabulary,
                info=file.info,
                tokenizer=file.tokenizer,
            )
        dtype = float_dtype(file.tensors.values())
        # Assigned, since to make the meta tensors real would import torch's compiler as well.
        values = {key: tensor.to(dtype, copy=True).contiguous() for key, tensor in file.tensors.items()}
        model.load_state_dict(values, assign=True)
        return model

    @property
    def read(self) -> str:
        """Deprecated: ``readout``, in its old spelling."""
        warn_renamed("read", "readout")
        return FILE_READOUTS[self.readout]

    @read.setter
    def read(self, read: str) -> None:
        warn_renamed("read", "readout")
        self.readout = readout_of_file(read)

    def extra_repr(self) -> str:
        """What ``repr`` shows besides the layers."""
        return f"readout={self.readout!r}"


def _names_or_none(names: Sequence[str] | None, count: int, what: str, of: str) -> tuple[str, ...] | None:
    """Names as a tuple of strings. Raises ValueError where there are not ``count``."""
    if names is None:
        return None
    names = tuple(str(name) for name in names)
    if len(names) != count:
        raise ValueError(f"{what} has {len(names)} entries, but there are {count} {of}")
    return names

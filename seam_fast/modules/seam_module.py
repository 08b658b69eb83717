"""A module: one target's kept weights and head over a base.

A module has no weights of its own: it is the base's weights where they are kept. It identifies its base by hash and
raises CheckpointError when the base's weights have changed since, for example because the base was trained further.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..classifier import reference_model
from ..classifier.base_file import FILE_READOUTS
from ..classifier.corpus_check import check_corpus
from ..classifier.inference import class_logits
from ..classifier.model import LSTMClassifier
from ..common.default_device import on_the_cpu
from ..common.deprecation import warn_renamed
from ..common.seen_tensors import SeenTensors
from ..data.corpus import Corpus, Split
from ..errors import CheckpointError
from ..files.atomic import write_atomically
from .compact import CompactModule, make_compact
from .marks import KEPT_EVERYTHING, NEXT_TO_EVERYTHING
from .mask import Head, KeepMask
from .module_file import native_bytes, read_module, reference_bytes, vocabulary_hash
from .nested import ORDERS
from .resize import Sizes, default_order, shifted_head, validation_documents
from .torch_module import refuse_torchscript


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
        target: The class numbers as a tuple, sorted, each once.
        head: As given, in the base's dtype.
        history: As given, as a list.
        metrics: As given.
        card: As given.
        readout: The base's, when the module was made.
        base_hash: Hash of the base that the module was made on: from the card where that says it, else the base's own.
        has_scores: Whether it keeps the real scores of its weights, and its native file does: it was made with
            ``keep_scores``.
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
        self.target = tuple(sorted({int(k) for k in target}))
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
        self.has_scores = bool(self.card.get("keep_scores")) and not isinstance(scores, KeepMask)
        self.front: list[Any] = []
        self._hash_in_float32 = False  # whether base_hash comes from an earlier version, which rounded to float32
        # Readout and checksum of the base when it was last found to be the right one.
        self._checked_base: tuple[str, Any] | None = None
        self._seen_base = SeenTensors()  # its parameters then, by which writes are noticed in no time
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
        signs is known, and -65504 where a file that holds real scores left one out. They may be changed in place, by
        operations that torch counts (not through ``.data`` or NumPy), or replaced by other tensors under the same keys.
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
        return self.__dict__ | {"_folded": None, "_seen_base": SeenTensors()}  # copies make them again

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
        seen, state = SeenTensors(*self.base.parameters()), self._base_state()
        if state == self._checked_base:
            self._seen_base = seen
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
        self._checked_base, self._seen_base = state, seen

    def effective_weights(self) -> dict[str, Tensor]:
        """The base's weights where kept and zero elsewhere, by weight key.

        Raises:
            CheckpointError: As ``check_base`` does.
        """
        self.check_base()
        return self.mask.apply(self.base.weights())

    def _folded_weights(self) -> dict[str, Tensor]:
        """``effective_weights``, kept until scores or base change. The caller must not write to them.

        The weights at hand are the module's whatever becomes of the base. So it is enough to look for writes that torch
        counts, as training makes; only before weights are taken from the base is each of its values checked.

        Raises:
            CheckpointError: As ``check_base`` does.
        """
        mask, folded = self.mask, self._folded
        fresh = folded is not None and folded.mask is mask and folded.base == self._checked_base
        if not fresh or self.base.readout != self.readout or not self._seen_base.are(*self.base.parameters()):
            self.check_base()
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
            TypeError: ``torch.jit.trace`` records the call.
        """
        if torch.jit.is_tracing():  # the compiled kernels' answers would be recorded as constants
            refuse_torchscript("torch.jit.trace cannot record a module")
        if len(ids) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= ids.shape[1]:
            raise ValueError(
                f"lengths must lie between 1 and T = {ids.shape[1]}, got {lengths.min()} to {lengths.max()}"
            )
        logits = class_logits(self._folded_weights(), ids, lengths, self.base.readout, backend="auto")
        weight, bias = self.head
        return reference_model.head_logits(logits, (weight.to(logits), bias.to(logits)))

    def predict_proba(self, documents: Tensor | Iterable[str], lengths: Tensor | None = None) -> Tensor:
        """Probabilities (N, 2) of target (column 0) and rest (column 1).

        Args:
            documents: Texts, or word ids, int64 (N, T), with their lengths.
            lengths: As in ``logits``, with word ids.

        Raises:
            ValueError: Word ids without lengths, or a length outside 1 to T.
            CheckpointError: As ``check_base`` does; or texts, and the base has no vocabulary.
            DataError: Texts, and one of them is no string, or the base's tokenizer was not given again.
        """
        return torch.softmax(self._logits_of(documents, lengths), 1)

    def predict(self, documents: Tensor | Iterable[str], lengths: Tensor | None = None) -> Tensor:
        """Whether documents are the target, bool (N,); arguments and errors as of ``predict_proba``."""
        return self._logits_of(documents, lengths).argmax(1) == 0

    def __call__(self, documents: Tensor | Iterable[str], lengths: Tensor | None = None) -> Tensor:
        """The target's probability, (N,); arguments and errors as of ``predict_proba``."""
        return self.predict_proba(documents, lengths)[:, 0]

    def _logits_of(self, documents: Tensor | Iterable[str], lengths: Tensor | None) -> Tensor:
        """``logits`` of texts, or of word ids with lengths."""
        if isinstance(documents, Tensor):
            if lengths is None:
                raise ValueError("word ids need their lengths: predict_proba(ids, lengths)")
            return self.logits(documents, lengths)
        return self.logits(*self.encode(documents))

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Splits and numbers new texts as the base's training texts were: ids (N, T) and lengths (N,), for
        ``predict_proba``.
        """
        return self.base.encode(texts)

    # -- other sizes ---------------------------------------------------------------------------------------------

    @on_the_cpu
    def resized(
        self,
        keep: float | None = None,
        *,
        max_kb: float | None = None,
        min_f1: float | None = None,
        documents: Corpus | Split | None = None,
        order: str | None = None,
        dtype: str = "float32",
        unknown: str = "own",
    ) -> "SeamModule":
        """This module in another size: the weights of the highest scores, with the same head. Of two sizes the smaller
        one's mask lies bit for bit inside the larger one's. Where the module was trained for several sizes, a number is
        added to the target's output: what its training documents ask for at these sizes, between two of them what lies
        between.

        The scores must be known, see ``keep_scores`` of ``reengineer``. The new module does not have them: to resize
        again, resize this one.

        Args:
            keep: Share of all weights; it is met to the weight. Just one of this, ``max_kb`` and ``min_f1`` is given.
            max_kb: Kilobytes (1000 bytes) that the file of ``compact(dtype, unknown)`` may take; the module is the
                largest one that fits, to a ten-thousandth of this one's weights, and no larger than this one.
            min_f1: F1 of the target on ``documents``; the module is the first one to reach it, sizes being tried from
                0.02 % of the weights on, each a tenth larger.
            documents: With ``min_f1``: labelled documents, or a corpus, of which those held out of training are taken.
            order: ``"global"``: all weights are ordered by their scores alone; ``"group"``: embedding, LSTM and linear
                layer shrink in proportion. Default: the order in which the module was trained for several sizes, which
                is ``"group"``; else ``"global"``.
            dtype: With ``max_kb``, see ``compact``.
            unknown: With ``max_kb``, see ``compact``.

        Raises:
            ValueError: An argument is impossible, or not just one size is given.
            CheckpointError: The scores are not known, or not for so large a module; no size is small or good enough; or
                as ``compact`` does.
            TrainingError: The corpus numbers words or classes otherwise than the base.
        """
        if (keep is not None) + (max_kb is not None) + (min_f1 is not None) != 1:
            raise ValueError("give one size: keep, max_kb or min_f1")
        order = default_order(self.card) if order is None else order
        if order not in ORDERS:
            raise ValueError(f"order must be {' or '.join(ORDERS)}, not {order!r}")
        if (documents is None) != (min_f1 is None):
            raise ValueError("documents and min_f1 go together: the F1 is that on these documents")
        sizes = Sizes(self, order)
        if keep is not None:
            return sizes.of_share(keep)
        if max_kb is not None:
            return sizes.of_kilobytes(max_kb, dtype, unknown)
        assert min_f1 is not None and documents is not None
        if isinstance(documents, Corpus):
            check_corpus(self.base, documents)
        return sizes.of_f1(min_f1, validation_documents(documents))

    def with_mask(self, mask: KeepMask, resized: Mapping[str, Any], shift: float = 0.0) -> "SeamModule":
        """A module with another mask and this one's head, ``shift`` added to the target's output; ``resized`` says on
        its card how that came about. Figures on documents, which are not its own, are left out.
        """
        left_out = ("keep_scores", "size_curve", "size_order", "size_shifts", "evaluated_on", "svm", "threshold")
        card = {name: value for name, value in self.card.items() if name not in left_out}
        card |= {"base_hash": self.base_hash, "resized": dict(resized)}
        if "marks" in card and mask.kept() < NEXT_TO_EVERYTHING:
            card["marks"] = [mark for mark in card["marks"] if mark != KEPT_EVERYTHING]
        head = shifted_head(self.head, shift)
        made = SeamModule(self.base, self.target, mask, head, history=self.history, card=card)
        made.readout, made._hash_in_float32 = self.readout, self._hash_in_float32
        made._checked_base, made._seen_base = self._checked_base, self._seen_base
        return made

    _jit_override_qualname = (
        "SeamModule"  # without a name torch.jit.trace fails before it calls, and says nothing of use
    )

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``."""
        refuse_torchscript("torch.jit.script cannot compile a module")

    # -- on disk -------------------------------------------------------------------------------------------------

    @on_the_cpu
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the module to a file, completely or not at all.

        The native format keeps one bit a weight, and the scores that matter in 16 bits where the module ``has_scores``.
        The reference's format holds the scores' values; they are 1 and -1 unless the module has scores or is that of
        its run's last epoch, since a run keeps earlier epochs as bits. The card names the base that the module was made
        on, even if that base has changed since.

        Args:
            path: Ends in ``.safetensors`` (native), or in ``.pth`` or ``.pt`` (the reference's format).

        Raises:
            CheckpointError: The path has another ending.
        """
        path = Path(path)
        if path.suffix in (".pth", ".pt"):
            write_atomically(path, reference_bytes(self.scores, self.head))
        elif path.suffix == ".safetensors":
            scores = self.scores if self.has_scores else None
            write_atomically(path, native_bytes(self.mask, self.head, self._file_card(), scores))
        else:
            raise CheckpointError(f"{path}: a module file ends in .safetensors (native) or .pth (the reference's)")

    def _file_card(self) -> dict[str, Any]:
        """The card as a native file holds it."""
        return self.card | {
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

    def compact(self, dtype: str = "float32", unknown: str = "own") -> CompactModule:
        """This module as a thing of its own, without its base, as small as its answers allow.

        Args:
            dtype: How the weights are stored. ``"float32"``: the answers are this module's to float rounding.
                ``"float16"``: at half the size. ``"int8"``: the embedding in 8 bits with a scale for each of its
                columns, all other matrices in 16. Biases and head stay in float32. It is always computed in float32.
            unknown: How words are read that the base does not know. ``"own"``: as this module does. ``"dropped"``: as
                words of which nothing is kept; a file of 8 bits is a third smaller then, since the dropped words need
                not be in it, but answers to texts with unknown words, or with no word at all, may differ.

        Raises:
            CheckpointError: As ``check_base`` does; the base does not say its words; or a weight is too large for the
                dtype.
            ValueError: Another value of dtype or unknown.
        """
        card: dict[str, Any] = {name: self.card[name] for name in ("corpus", "synthetic", "marks") if name in self.card}
        card |= {"target": list(self.target), "base_hash": self.base_hash, "metrics": self.metrics}
        card |= {"kept": self.kept, "kept_weights": sum(self.mask.counts().values())}
        return make_compact(self.base, self.effective_weights(), self.head, self.target, card, dtype, unknown)

    @classmethod
    @on_the_cpu
    def load(
        cls, path: str | os.PathLike[str], base: LSTMClassifier, *, target: int | Iterable[int] | None = None
    ) -> "SeamModule":
        """Reads a module file of either format and checks it against the base.

        A native file names its base by hash and is refused on another one. The reference's format names neither base
        nor target, so only shapes can be checked. Scores read from a native file are 1 (kept) or -1 (dropped), unless
        the module was made with ``keep_scores``.

        Args:
            path: The file.
            base: The base that the module was made on.
            target: Class numbers, for the reference's format; default: those in the folder's name ``tc_<k>``.

        Raises:
            CheckpointError: The file is missing or damaged, or does not belong to this base.
        """
        parts = read_module(Path(path), base, target)
        module = cls(
            base,
            parts.target,
            parts.scores,
            parts.head,
            history=parts.history,
            metrics=parts.metrics,
            card=parts.card,
        )
        module._hash_in_float32 = parts.hash_in_float32
        return module

"""Training of one module by the compiled engine: whole epochs in native code, embedding rows touched only when their
words occur."""

import torch
from torch import Tensor

from .. import _ext
from ..classifier.inference import class_logits
from ..classifier.metrics import metrics_of_counts
from ..classifier.state_keys import HEAD_NAMES, WEIGHT_KEYS, is_plain
from ..common import rng
from ..modules.mask import Snapshot
from .base import Evaluation, Trainer
from .config import StepConfig

_STEPS_AT_ONCE = 64  # between two looks at `stop`, at most: some 20 milliseconds at the reference's sizes ...
_WORDS_AT_ONCE = 64 * 160  # ... and fewer steps where batches hold more words than its own


class CpuTrainer(Trainer):
    """The trainer of the compiled engine on a CPU, float32 or float64.

    lazy_update: how rows whose words did not occur make up for the steps they missed, in which their gradient was the
    penalty alone. ``"replay"`` takes the steps one by one, ``"quadrature"`` all at once: not the same to the last bit,
    but no less exact in float32. ``"off"`` never misses one; it is there to be compared with, and ``"replay"`` gives
    its very bits.

    Scores may be read whenever no epoch is running; whoever sets them, or ``exp_avg`` and ``exp_avg_sq``, calls
    ``load_state`` afterwards.
    """

    engine, fused = "cpu", True

    @classmethod
    def unsupported(cls, weights, batch_size):
        return "" if is_plain(weights) else "the base has more than one LSTM layer or direction"

    @classmethod
    def for_engine(cls, weights, head, fed_ids, config, lazy_update):
        return cls(weights, head, fed_ids, config, lazy_update=lazy_update)

    def __init__(self, weights, head, fed_ids, config: StepConfig, *, lazy_update="quadrature"):
        super().__init__({key: weight.contiguous() for key, weight in weights.items()}, head, fed_ids, config)
        self.lazy_update = lazy_update
        self.scores, self.exp_avg, self.exp_avg_sq = _three_like(self.scores, self._empty)
        self.head = tuple(part.contiguous() for part in self.head)
        # exp_avg and exp_avg_sq of the weight, then of the bias
        self.head_joint_moments = [torch.zeros_like(self.head[i // 2]) for i in range(4)]
        self.head_only_moments = [torch.zeros_like(part) for part in self.head_joint_moments]
        self._row_of_id = self.row_of_id.int()
        self._factor = 1.0
        self._drawn: tuple = (None, None, ())  # a sampler, its documents as the engine draws them, and for what
        self._evaluated_on: tuple = (None, ())  # documents, as they were given and as the engine takes them
        self._native = self._module().SeamTrainer(
            weights=[self.weights[key] for key in WEIGHT_KEYS],
            fed_ids=self.rows,
            scores=[self.scores[key] for key in WEIGHT_KEYS],
            exp_avg=[self.exp_avg[key] for key in WEIGHT_KEYS],
            exp_avg_sq=[self.exp_avg_sq[key] for key in WEIGHT_KEYS],
            head=self.head,
            head_joint_moments=self.head_joint_moments,
            head_only_moments=self.head_only_moments,
            penalty=[self.penalty_gradient[key] for key in WEIGHT_KEYS],
            train_head=self.schedule != "port",
            read_last_word=self.readout == "last_word",
            target_weight=self.target_weight,
            lazy_update=lazy_update,
        )

    _module = staticmethod(lambda: _ext.C)  # whose trainer it is
    _asks_the_base = False  # what the teacher says, in the same call; else modules that see the same documents share it

    @staticmethod
    def _empty(size: int, like: Tensor) -> Tensor:
        """Uninitialised memory."""
        return _ext.C.empty_scratch(size, like.dtype)

    @staticmethod
    def _steps_at_once(batch_size: int, width: int) -> int:
        """How many steps of documents of so many words are taken between two looks at `stop`."""
        return max(1, min(_STEPS_AT_ONCE, _WORDS_AT_ONCE // max(1, batch_size * width)))

    @property
    def steps(self) -> int:
        """Steps taken in all, head-only ones included; any thread may ask."""
        return self._native.steps

    def load_state(self, steps: int, head_steps: int = 0) -> None:
        """Takes scores, ``exp_avg`` and ``exp_avg_sq`` as they now stand, as the state after so many steps."""
        self._native.load_state(steps, head_steps)

    def scale_learning_rates(self, factor: float) -> None:
        self._factor = factor

    def run_epoch(self, ids: Tensor, lengths: Tensor, labels: Tensor, batch_size: int, *, head_only=False, stop=None):
        count = -(-len(ids) // batch_size)
        if head_only:
            self._check_labels(labels)
            features = self._features(ids, lengths)
            run, documents = self._native.train_head, (features, self._shares(labels))
        else:
            run, documents = self._native.train, self._documents_to_train(ids, lengths, labels)
        rates = self.lr_mask * self._factor, self.lr_head * self._factor
        at_once = self._steps_at_once(batch_size, ids.shape[1])
        if not head_only and count <= at_once and not (stop is not None and stop.is_set()):
            losses, failure = self._native.epoch(*rates, *documents, batch_size)
            self._raise(failure)
            return sum(losses) / max(len(losses), 1)
        self._native.begin_epoch(*rates, 0 if head_only else count)
        losses = []
        try:
            for begin in range(0, count, at_once):
                if stop is not None and stop.is_set():
                    break
                end = min((begin + at_once) * batch_size, len(ids))
                done, failure = run(*documents, batch_size, begin * batch_size, end)
                losses += done
                self._raise(failure)
        finally:
            self._native.flush()
        return sum(losses) / max(len(losses), 1)

    def take_epoch(self, sampler, epoch, batch_size, *, head_only=False, stop, evaluated_on=None, known=None):
        options = {"head_only": head_only, "evaluated_on": evaluated_on, "known": known}
        drawn = self._epoch_of(sampler, epoch, batch_size, **options)
        if drawn is None or stop.is_set():
            return super().take_epoch(sampler, epoch, batch_size, stop=stop, **options)
        # In one call: after each, dozens of threads of a GPU's modules wait for Python's lock.
        return self.taken(self._native.run(*drawn))

    def _epoch_of(self, sampler, epoch: int, batch_size: int, *, head_only, evaluated_on, known) -> tuple | None:
        """All that the engine wants to know of an epoch; None where it can't draw that, as in `_draws_of`."""
        if sampler is not self._drawn[0]:
            self._drawn = sampler, *self._draws_of(sampler, batch_size)
        _, documents, purposes = self._drawn
        if documents is None:
            return None
        looked_at = (None,) * 5
        if evaluated_on is not None:
            if evaluated_on is not self._evaluated_on[0]:
                self._evaluated_on = evaluated_on, (*self._documents(*evaluated_on[:2]), evaluated_on[2].contiguous())
            *parts, is_target = self._evaluated_on[1]
            looked_at = (*parts, is_target, None) if known is None else (*looked_at[:3], is_target, known.class_logits)
        rates = self.lr_mask * self._factor, self.lr_head * self._factor
        return (documents, sampler.keys(epoch, purposes), *rates, batch_size, head_only, *looked_at)

    def taken(self, told) -> tuple[float, Evaluation]:
        """An epoch of the engine in our terms. Raises TrainingError where it failed."""
        self._raise(told.failure)
        return told.loss, self._evaluation_of(told.evaluation, told.counts)

    def _draws_of(self, sampler, batch_size: int):
        """A sampler's documents as the engine draws them, and what for; None where somebody has to look at `stop`
        meanwhile, or a teacher has to be asked that the engine does not ask itself, or only once for all epochs."""
        split = sampler.split
        count = -(-sampler.size // batch_size)
        asks, share = sampler.teacher is not None, sampler.settings.word_dropout
        if (asks and not (self._asks_the_base and share > 0)) or count > self._steps_at_once(
            batch_size, split.ids.shape[1]
        ):
            return None, ()
        if sampler.fixed is not None:
            pools, counts = (sampler.fixed, sampler.fixed[:0]), (len(sampler.fixed), 0)
        else:
            pools, counts = (sampler.targets, sampler.others), (sampler.positives, sampler.negatives)
        documents = self._module().DrawnDocuments(
            *(part.long().contiguous() for part in (split.ids, split.lengths, sampler.rest, *pools)),
            *counts,
            unknown_id=sampler.unknown_id if share > 0 else 0,
            threshold=rng.least(share),
            row_of_id=self._row_of_id,
            absent_row=len(self.rows),
            dtype=self.head[0].dtype,
            read_last_word=self.readout == "last_word",
            distill_weight=sampler.settings.distill_weight if asks else 0.0,
            target_classes=list(sampler.target),
        )
        return documents, sampler.purposes

    def _documents_to_train(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of scores, lengths and shares, as the engine takes them."""
        dtype = self.head[0].dtype
        # Already so, nearly always; and each call of torch's lets other threads go first.
        ids, lengths = (part if part.dtype == torch.int64 else part.long() for part in (ids, lengths))
        if labels.dtype != torch.int64 or labels.ndim == 2:
            self._check_labels(labels)
            labels = labels.to(dtype if labels.ndim == 2 else torch.int64)
        ids, lengths, labels = ids.contiguous(), lengths.contiguous(), labels.contiguous()
        absent, read_last_word = len(self.rows), self.readout == "last_word"
        make = self._module().documents_to_train
        slots, shares = make(self._row_of_id, absent, ids, lengths, labels, dtype, read_last_word)
        return slots, lengths, shares

    def evaluate(self, documents=None) -> Evaluation:
        seen = self._native.evaluate(*((None,) * 3 if documents is None else self._documents_at_hand(*documents)))
        return self._evaluation_of(seen)

    def _evaluation_of(self, seen, counts=None) -> Evaluation:
        """The engine's look in our terms; counts: of its outputs, where they are known."""
        if not seen.finite:
            self.check_finite()  # which says what
        return EngineEvaluation(self, seen, counts)

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self._features(ids, lengths).cpu()

    def _logits_of(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        return class_logits(weights, ids, lengths, self.readout, "cpu")

    def _features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`class_logits` on the trainer's device."""
        return self._native.class_logits(*self._documents_at_hand(ids, lengths))

    def _documents_at_hand(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`_documents`, unless they are at hand."""
        return self._documents(ids, lengths)

    def _documents(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words, their rows of scores, and lengths, as the engine takes them."""
        return ids.contiguous(), self._row_of_id[ids], lengths.long().contiguous()

    def _shares(self, labels: Tensor) -> Tensor:
        """What of each document is target and rest, (N, 2), of the scores' dtype, on the CPU."""
        dtype = self.head[0].dtype
        if labels.ndim == 2:
            return labels.to(dtype).contiguous()
        return torch.stack([labels == 0, labels == 1], 1).to(dtype)

    def _raise(self, failure) -> None:
        if failure.what >= 0:
            self._stop((None, *WEIGHT_KEYS, *HEAD_NAMES)[failure.what], failure.loss)


class EngineEvaluation(Evaluation):
    """Of the engine. Its tensors become Python's where somebody asks for them, which is seldom."""

    def __init__(self, trainer: CpuTrainer, seen, counts):
        self._trainer = trainer
        self._seen, self.kept = seen, trainer.kept_of(seen.kept_counts)
        self.figures = None
        if counts is not None and counts.documents:
            right = counts.true_positive, counts.average_precision
            self.figures = metrics_of_counts(counts.documents, counts.targets, counts.predicted, *right)

    head = property(lambda self: tuple(self._seen.head))
    class_logits = property(lambda self: self._seen.logits)
    outputs = property(lambda self: self._seen.outputs)

    def snapshot(self) -> Snapshot:
        bits = dict(zip(WEIGHT_KEYS, self._seen.keep_bits, strict=True))
        return self._trainer.snapshot_of_bits(bits, tuple(self._seen.head))


def _three_like(scores: dict[str, Tensor], empty) -> list[dict[str, Tensor]]:
    """The same scores and twice zeros of their shapes, all in one piece of memory. empty: as in ``_empty``."""
    sizes = [score.numel() for score in scores.values()]
    whole = empty(3 * sum(sizes), next(iter(scores.values()))).view(3, -1).zero_()
    found = [dict(zip(scores, row.split(sizes), strict=True)) for row in whole]
    found = [{key: part.view_as(scores[key]) for key, part in parts.items()} for parts in found]
    for key, score in scores.items():
        found[0][key].copy_(score)
    return found


def copy_to_huge_pages(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a base's weights, for all its trainers: rows here and there in a large table are found sooner."""
    return {key: _ext.C.empty_scratch(w.numel(), w.dtype).view_as(w).copy_(w) for key, w in weights.items()}

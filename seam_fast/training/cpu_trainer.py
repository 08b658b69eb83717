"""Training of one module by the compiled engine: whole epochs in native code, the embedding's rows by lazy Adam."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _ext
from ..classifier.inference import class_logits
from ..classifier.metrics import metrics_of_counts
from ..classifier.state_keys import HEAD_NAMES, WEIGHT_KEYS, is_plain
from ..common import rng
from ..modules.mask import Head, Snapshot
from .base import Evaluation, EvaluationDocuments, Trainer, as_head
from .config import StepConfig
from .epoch_source import EpochSource

_STEPS_AT_ONCE = 64  # between two reads of `stop`, at most: some 20 milliseconds at the reference's sizes ...
_WORDS_AT_ONCE = 64 * 160  # ... and fewer steps where batches hold more words than the reference's


class CpuTrainer(Trainer):
    """The trainer of the compiled engine on a CPU, float32 or float64.

    The Adam of the embedding's scores is lazy: a row whose word does not occur in a step is stale until the word occurs
    again or the epoch ends. In the steps it has skipped, its gradient was the penalty's constant.

    Scores may be read whenever no epoch is running. After scores, ``exp_avg`` or ``exp_avg_sq`` have been written to,
    ``load_state`` must be called.

    Args:
        weights: As in ``Trainer``.
        head: As in ``Trainer``.
        fed_ids: As in ``Trainer``.
        config: As in ``Trainer``.
        lazy_update: How a stale row is brought up to date. ``"replay"`` takes the skipped steps one by one.
            ``"quadrature"`` takes all of them at once, by a quadrature of Adam's steps: other last bits, but no larger
            errors in float32. ``"off"`` steps every row in every step; it is there for comparison, and its results
            equal those of ``"replay"`` bit for bit.

    Attributes:
        exp_avg: Adam's first moments of the scores, by weight key and in the scores' shapes.
        exp_avg_sq: Adam's second moments, likewise.
        head_joint_moments: exp_avg and exp_avg_sq of the head's weight, then of its bias, in joint steps.
        head_only_moments: The same for head-only steps, which have an Adam of their own.
    """

    engine, fused = "cpu", True

    @classmethod
    def unsupported(cls, weights: Mapping[str, Tensor], batch_size: int) -> str:
        """As in ``Trainer``."""
        return "" if is_plain(weights) else "the base has more than one LSTM layer or direction"

    @classmethod
    def for_engine(
        cls, weights: Mapping[str, Tensor], head: Head, fed_ids: Tensor, config: StepConfig, lazy_update: str
    ) -> Trainer:
        """As in ``Trainer``."""
        return cls(weights, head, fed_ids, config, lazy_update=lazy_update)

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        head: Head,
        fed_ids: Tensor,
        config: StepConfig,
        *,
        lazy_update: str = "quadrature",
    ) -> None:
        super().__init__({key: weight.contiguous() for key, weight in weights.items()}, head, fed_ids, config)
        self.lazy_update = lazy_update
        self.scores, self.exp_avg, self.exp_avg_sq = _three_like(self.scores, self._empty)
        self.head = as_head(part.contiguous() for part in self.head)
        self.head_joint_moments = [torch.zeros_like(self.head[i // 2]) for i in range(4)]
        self.head_only_moments = [torch.zeros_like(part) for part in self.head_joint_moments]
        self._row_of_id = self.row_of_id.int()
        self._factor = 1.0  # of the learning rates
        # A sampler, its documents as the engine draws them (None: it cannot), and the purposes of its draws.
        self._drawn: tuple[EpochSource | None, Any, tuple[str, ...]] = (None, None, ())
        # Evaluation documents, as they were given and as the engine takes them.
        self._evaluated_on: tuple[EvaluationDocuments | None, tuple[Tensor, ...]] = (None, ())
        self._native = self._module().SeamTrainer(
            weights=[self.weights[key] for key in WEIGHT_KEYS],
            fed_ids=self.fed_ids,
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

    # Whether the engine computes the teacher's probabilities within its call for an epoch. Where it does not, modules
    # that see the same documents share them.
    _engine_runs_teacher = False

    @staticmethod
    def _module() -> Any:
        """The compiled module whose trainer this one uses."""
        return _ext.C

    @staticmethod
    def _empty(size: int, like: Tensor) -> Tensor:
        """Uninitialised memory: (size,), with the dtype and device of another tensor."""
        memory: Tensor = _compiled().empty_scratch(size, like.dtype)
        return memory

    def _steps_at_once(self, batch_size: int, width: int) -> int:
        """How many steps, of documents of ``width`` words, are taken between two reads of ``stop``."""
        return max(1, min(_STEPS_AT_ONCE, _WORDS_AT_ONCE // max(1, batch_size * width)))

    @property
    def steps(self) -> int:
        """Number of steps taken, head-only ones included. May be read by any thread at any time."""
        return int(self._native.steps)

    def load_state(self, steps: int, head_steps: int = 0) -> None:
        """Declares the present scores, moments and head to be the state after ``steps`` joint steps and ``head_steps``
        steps of the head alone.
        """
        self._native.load_state(steps, head_steps)

    def scale_learning_rates(self, factor: float) -> None:
        """As in ``Trainer``."""
        self._factor = factor

    def run_epoch(
        self,
        ids: Tensor,
        lengths: Tensor,
        target_probability: Tensor,
        batch_size: int,
        *,
        head_only: bool = False,
        stop: threading.Event | None = None,
    ) -> float:
        """As in ``Trainer``."""
        count = -(-len(ids) // batch_size)
        documents: tuple[Tensor, ...]
        target_probability = self._probability_of(target_probability)
        if head_only:
            run, documents = self._native.train_head, (self._features(ids, lengths), target_probability)
        else:
            run, documents = self._native.train, (*self._documents_to_train(ids, lengths), target_probability)
        rates = self.lr_mask * self._factor, self.lr_head * self._factor
        at_once = self._steps_at_once(batch_size, ids.shape[1])
        losses: list[float]
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
            self._native.flush()  # brings all stale rows up to date
        return sum(losses) / max(len(losses), 1)

    def take_epoch(
        self,
        sampler: EpochSource,
        epoch: int,
        batch_size: int,
        *,
        head_only: bool = False,
        stop: threading.Event,
        evaluated_on: EvaluationDocuments | None = None,
        known: Evaluation | None = None,
    ) -> tuple[float, Evaluation]:
        """As in ``Trainer``; by one native call where the engine can draw the documents itself."""
        native = self._native_epoch(
            sampler, epoch, batch_size, head_only=head_only, evaluated_on=evaluated_on, known=known
        )
        if native is None or stop.is_set():
            return super().take_epoch(
                sampler, epoch, batch_size, head_only=head_only, stop=stop, evaluated_on=evaluated_on, known=known
            )
        # One call, because after each call this thread has to wait for Python's lock, which dozens of threads share
        # where a GPU trains that many modules.
        return self.result_of(self._native.run(*native))

    def _native_epoch(
        self,
        sampler: EpochSource,
        epoch: int,
        batch_size: int,
        *,
        head_only: bool,
        evaluated_on: EvaluationDocuments | None,
        known: Evaluation | None,
    ) -> tuple[Any, ...] | None:
        """The engine's arguments for a whole epoch, drawing and evaluation included; None where ``_draws_of`` gives
        none. Arguments as of ``take_epoch``.
        """
        if sampler is not self._drawn[0]:
            self._drawn = sampler, *self._draws_of(sampler, batch_size)
        _, documents, purposes = self._drawn
        if documents is None:
            return None
        # ids, score rows, lengths, which are the target's, and the masked base's logits where they are known
        evaluation: tuple[Tensor | None, ...] = (None,) * 5
        if evaluated_on is not None:
            if evaluated_on is not self._evaluated_on[0]:
                self._evaluated_on = evaluated_on, (*self._documents(*evaluated_on[:2]), evaluated_on[2].contiguous())
            *parts, is_target = self._evaluated_on[1]
            evaluation = (*parts, is_target, None)
            if known is not None:
                evaluation = (None, None, None, is_target, known.class_logits)
        rates = self.lr_mask * self._factor, self.lr_head * self._factor
        return (documents, sampler.keys(epoch, purposes), *rates, batch_size, head_only, *evaluation)

    def result_of(self, native_result: Any) -> tuple[float, Evaluation]:
        """Loss and evaluation of an epoch that the engine has run, as ``take_epoch`` gives them.

        Raises:
            TrainingError: A value was not finite.
        """
        self._raise(native_result.failure)
        return native_result.loss, self._evaluation_of(native_result.evaluation, native_result.counts)

    def _draws_of(self, sampler: EpochSource, batch_size: int) -> tuple[Any, tuple[str, ...]]:
        """A sampler's documents as the engine draws them, and the purposes of the draws.

        (None, ()) where an epoch is so long that ``stop`` must be read within it, and where there is a teacher that the
        engine does not run or whose probabilities are the same in every epoch.
        """
        split = sampler.split
        count = -(-sampler.size // batch_size)
        has_teacher, dropout = sampler.teacher is not None, sampler.settings.word_dropout
        if (has_teacher and not (self._engine_runs_teacher and dropout > 0)) or count > self._steps_at_once(
            batch_size, split.ids.shape[1]
        ):
            return None, ()
        if sampler.fixed is not None:
            pools, counts = (sampler.fixed, sampler.fixed[:0]), (len(sampler.fixed), 0)
        else:
            pools, counts = (sampler.targets, sampler.others), (sampler.positives, sampler.negatives)
        documents = self._module().DrawnDocuments(
            *(part.long().contiguous() for part in (split.ids, split.lengths)),
            sampler.target_probability.to(self.head[0].dtype),
            *(pool.long().contiguous() for pool in pools),
            *counts,
            unknown_id=sampler.unknown_id if dropout > 0 else 0,
            threshold=rng.least(dropout),
            row_of_id=self._row_of_id,
            absent_row=len(self.fed_ids),
            read_last_word=self.readout == "last_word",
            distill_weight=sampler.settings.distill_weight if has_teacher else 0.0,
            target_classes=list(sampler.target),
        )
        return documents, sampler.purposes

    def _documents_to_train(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Documents as the engine's joint steps take them: score rows (N, T), and lengths (N,). Arguments as of
        ``run_epoch``.
        """
        # Tested first, because nearly all are of this dtype and each call into torch gives Python's lock away.
        ids, lengths = (part if part.dtype == torch.int64 else part.long() for part in (ids, lengths))
        ids, lengths = ids.contiguous(), lengths.contiguous()
        not_fed, read_last_word = len(self.fed_ids), self.readout == "last_word"
        return self._module().score_rows_of(self._row_of_id, not_fed, ids, lengths, read_last_word), lengths

    def evaluate(self, documents: tuple[Tensor, Tensor] | None = None) -> Evaluation:
        """As in ``Trainer``."""
        return self._evaluation_of(
            self._native.evaluate(*((None,) * 3 if documents is None else self._engine_documents(*documents)))
        )

    def _evaluation_of(self, native: Any, counts: Any = None) -> Evaluation:
        """The engine's evaluation as a Python object; counts: of right and wrong outputs, where it has counted them."""
        if not native.finite:
            self.check_finite()  # raises unless only a sum has overflowed
        return EngineEvaluation(self, native, counts)

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``."""
        return self._features(ids, lengths).cpu()

    def _logits_of(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``."""
        return class_logits(weights, ids, lengths, self.readout, "cpu")

    def _features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """``class_logits`` on the trainer's device: ids (N, T), lengths (N,) -> (N, C)."""
        logits: Tensor = self._native.class_logits(*self._engine_documents(ids, lengths))
        return logits

    def _engine_documents(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``_documents``, which a subclass may keep from call to call."""
        return self._documents(ids, lengths)

    def _documents(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Documents as the engine evaluates them: ids (N, T), their score rows (N, T), and lengths (N,)."""
        return ids.contiguous(), self._row_of_id[ids], lengths.long().contiguous()

    def _probability_of(self, labels: Tensor) -> Tensor:
        """As in ``Trainer``, in the scores' dtype and contiguous."""
        target_probability, dtype = super()._probability_of(labels), self.head[0].dtype
        if target_probability.dtype != dtype:  # tested first, as above
            target_probability = target_probability.to(dtype)
        return target_probability.contiguous()

    def _raise(self, failure: Any) -> None:
        """Raises TrainingError where the engine reports a value that is not finite."""
        if failure.what >= 0:
            self._raise_not_finite((None, *WEIGHT_KEYS, *HEAD_NAMES)[failure.what], failure.loss)


class EngineEvaluation:
    """An ``Evaluation`` by the compiled engine. Tensors are converted when they are read, because few of them are.

    Args:
        trainer: What was evaluated.
        native: The engine's evaluation.
        counts: The engine's counts of right and wrong outputs, or None.
    """

    def __init__(self, trainer: CpuTrainer, native: Any, counts: Any) -> None:
        self._trainer, self._native = trainer, native
        self.kept_counts = trainer.kept_counts_of(native.kept_counts)
        self.figures: dict[str, float] | None = None
        if counts is not None and counts.documents:
            right = counts.true_positive, counts.average_precision
            self.figures = metrics_of_counts(counts.documents, counts.targets, counts.predicted, *right)

    @property
    def head(self) -> Head:
        """As in ``Evaluation``."""
        return as_head(self._native.head)

    @property
    def class_logits(self) -> Tensor | None:
        """As in ``Evaluation``."""
        logits: Tensor | None = self._native.logits
        return logits

    @property
    def outputs(self) -> Tensor | None:
        """As in ``Evaluation``."""
        outputs: Tensor | None = self._native.outputs
        return outputs

    def snapshot(self) -> Snapshot:
        """As in ``Evaluation``."""
        bits = dict(zip(WEIGHT_KEYS, self._native.keep_bits, strict=True))
        return self._trainer.snapshot_of_bits(bits, self.head)


def _compiled() -> Any:
    """The compiled module; it is there wherever trainers of the compiled engine are used."""
    return _ext.C


def _three_like(scores: dict[str, Tensor], empty: Callable[[int, Tensor], Tensor]) -> list[dict[str, Tensor]]:
    """A copy of the scores and two sets of zeros of the same shapes, by weight key, in one piece of memory.

    Args:
        scores: By weight key.
        empty: Gives memory, as ``CpuTrainer._empty`` does.
    """
    sizes = [score.numel() for score in scores.values()]
    whole = empty(3 * sum(sizes), next(iter(scores.values()))).view(3, -1).zero_()
    found = [dict(zip(scores, row.split(sizes), strict=True)) for row in whole]
    found = [{key: part.view_as(scores[key]) for key, part in parts.items()} for parts in found]
    for key, score in scores.items():
        found[0][key].copy_(score)
    return found


def copy_to_huge_pages(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a base's weights on the CPU, by weight key, in huge pages: scattered rows of a large embedding are then
    read with fewer misses in the address translation.
    """
    return {key: _compiled().empty_scratch(w.numel(), w.dtype).view_as(w).copy_(w) for key, w in weights.items()}

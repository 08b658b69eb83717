"""Training of one module's scores over a frozen base, epoch by epoch: what all trainers share.

A trainer computes what ``reference_step.Stepper`` computes, with less work:
- Only embedding rows that the module's documents can touch have scores of their own. All other rows receive the same
  constant gradient in every step, so their scores are equal at all times and one extra row stands for them.
- A step gathers each distinct word's row once, and reduces its gradient once.
- In head-only epochs the masked base does not change, so its logits are computed once.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor

from ..classifier import reference_model
from ..classifier.inference import class_logits
from ..classifier.state_keys import (
    EMBEDDING,
    HEAD_NAMES,
    group_sizes,
    groups,
    weight_keys,
)
from ..common.seen_tensors import SeenTensors
from ..errors import TrainingError
from ..modules.mask import Head, KeepMask, Snapshot, packed
from ..modules.nested import borders, cut, cut_flags
from .config import StepConfig
from .epoch_source import EpochSource
from .loss import as_target_probability, is_certain

EvaluationDocuments = tuple[Tensor, Tensor, Tensor]
"""Documents to evaluate a module on: ids (N, T), lengths (N,), and which of them are the target's, bool (N,)."""


class Evaluation(Protocol):
    """What is known of a module between two epochs; all tensors are on the CPU.

    There are two of these: ``ComputedEvaluation``, whose values are at hand, and ``cpu_trainer.EngineEvaluation``,
    which converts the compiled engine's values when they are read.
    """

    @property
    def kept_counts(self) -> dict[str, int]:
        """Number of kept weights, by weight key."""

    @property
    def head(self) -> Head:
        """The head's weight (2, C) and bias (2,)."""

    @property
    def class_logits(self) -> Tensor | None:
        """Logits of the masked base for the evaluation documents (N, C); None where these were not computed or are not
        at hand.
        """

    @property
    def outputs(self) -> Tensor | None:
        """Logits of the module for the evaluation documents (N, 2); None where there were no such documents."""

    @property
    def figures(self) -> dict[str, float] | None:
        """``metrics.module_metrics`` of the outputs, where the engine has computed them already."""

    def snapshot(self) -> Snapshot:
        """The module as it was; to be called before the next epoch begins."""


@dataclass
class ComputedEvaluation:
    """An ``Evaluation`` whose values are at hand.

    Attributes:
        take_snapshot: What ``snapshot`` calls.
    """

    kept_counts: dict[str, int]
    head: Head
    class_logits: Tensor | None
    outputs: Tensor | None
    take_snapshot: Callable[[], Snapshot]
    figures: dict[str, float] | None = None

    def snapshot(self) -> Snapshot:
        """As in ``Evaluation``."""
        return self.take_snapshot()


class Trainer:
    """The training state of one module, and what can be read from it; subclasses train it.

    Args:
        weights: The frozen base by weight key, all of one floating dtype and on the device that is to train.
        head: Initial weight (2, C) and bias (2,).
        fed_ids: Word ids (int64, any shape) of every word that training can feed.
        config: How a step is taken.

    Attributes:
        engine: What computes: ``"cuda"``, ``"cpu"`` or ``"torch"``.
        fused: Whether whole epochs are native code, in which embedding rows are updated lazily (see ``CpuTrainer``).
        device: Of weights, scores and head. Documents come from the CPU and results go there.
        fed_ids: The word ids that have a row of scores of their own: sorted, distinct, int64 (R,), on the CPU.
        row_of_id: Word id -> row of ``scores[EMBEDDING]``: int64 (V,), on the CPU. Row R belongs to all other words.
        scores: By weight key, in the weights' shapes; that of the embedding is (R + 1, E).
        head: Weight (2, C) and bias (2,) as they stand.
        penalty_gradient: The constant gradient of the penalty at each score, by weight key.
    """

    engine: str = "torch"
    fused: bool = False
    head: Head

    @classmethod
    def unsupported(cls, weights: Mapping[str, Tensor], batch_size: int) -> str:
        """Why this trainer cannot train over a base, in a clause, or "". Reads only shapes and dtype."""
        return ""

    @classmethod
    def shares_launches(cls, weights: Mapping[str, Tensor], batch_size: int, width: int, steps: int) -> bool:
        """Whether an epoch of ``steps`` steps, of documents of ``width`` words, can run in the same GPU launches as
        epochs of other modules.
        """
        return False

    @classmethod
    def capacity(cls, device: torch.device, weights: Mapping[str, Tensor], batch_size: int) -> int:
        """How many modules a GPU can train side by side, memory apart; 0 where it can train none.

        Args:
            device: The GPU.
            weights: The base's by weight key, on that device.
            batch_size: Documents a step.
        """
        return 1

    @classmethod
    def for_engine(
        cls, weights: Mapping[str, Tensor], head: Head, fed_ids: Tensor, config: StepConfig, lazy_update: str
    ) -> "Trainer":
        """Makes a trainer that uses its class's engine. ``lazy_update`` only matters to trainers that are ``fused``."""
        return cls(weights, head, fed_ids, config)

    def __init__(self, weights: Mapping[str, Tensor], head: Head, fed_ids: Tensor, config: StepConfig) -> None:
        self._steps = 0
        self.config = config
        self.weights = {key: weights[key].detach() for key in weight_keys(weights)}
        self.readout, self.schedule, self.target_weight = config.readout, config.schedule, config.target_weight
        self.lr_mask, self.lr_head = config.lr_mask, config.lr_head
        table = self.weights[EMBEDDING]
        self.device, dtype = table.device, table.dtype
        self.fed_ids = torch.unique(torch.as_tensor(fed_ids))
        self.row_of_id = torch.full((len(table),), len(self.fed_ids), dtype=torch.int64)
        self.row_of_id[self.fed_ids] = torch.arange(len(self.fed_ids))
        # By how many words more than one the last row is shared; -1 where no word uses it and it must not be counted.
        self._extra_shared_rows = len(table) - len(self.fed_ids) - 1
        self.scores = {EMBEDDING: table.new_ones(len(self.fed_ids) + 1, table.shape[1])}
        self.scores |= {key: torch.ones_like(weight) for key, weight in self.weights.items() if key != EMBEDDING}
        self.head = as_head(part.detach().to(self.device, dtype, copy=True) for part in head)

        self._shapes = {key: tuple(weight.shape) for key, weight in self.weights.items()}
        sizes = group_sizes(self.weights)
        self.penalty_gradient: dict[str, float] = {}
        for group, keys in groups(self.weights).items():
            factors = {"lstm": config.lstm_penalty_scale, "linear": config.linear_penalty_scale}
            factor = factors.get(group, 1.0) if config.penalty == "group" else 1.0
            count = sizes[group] if config.penalty == "group" else sum(sizes.values())
            # SeaM's binarisation clamps gradients to [-1, 1] at each use of the bits, so the penalty's is clamped here,
            # apart from the loss's.
            self.penalty_gradient.update(dict.fromkeys(keys, max(-1.0, min(factor * config.alpha / count, 1.0))))

    @property
    def steps(self) -> int:
        """Number of steps taken, head-only ones included."""
        return self._steps

    # -- training ------------------------------------------------------------------------------------------------

    def scale_learning_rates(self, factor: float) -> None:
        """Sets all learning rates to ``factor`` times their initial values, from the next epoch on."""
        raise NotImplementedError

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
        """Makes one pass over documents in the order given.

        Args:
            ids: Word ids (N, T).
            lengths: Numbers of words (N,).
            target_probability: Probability that a document is the target's, floating (N,): 1 and 0 for true labels,
                between for soft ones. SeaM's labels are taken as well: integers (N,), 0 target and 1 rest, or the
                probabilities of both (N, 2).
            batch_size: Documents a step; the last step may have fewer.
            head_only: Whether only the head is stepped.
            stop: Ends the epoch between two steps once it is set.

        Returns:
            Mean over the steps taken of the batch's cross entropy, in nats a document.

        Raises:
            TrainingError: A value is not finite; the message names step and tensor.
            ValueError: Labels or documents are not as described.
        """
        raise NotImplementedError

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
        """``run_epoch`` of a sampler's documents, followed by ``evaluate``.

        Args:
            sampler: Draws the documents.
            epoch: The epoch's number, from 0.
            batch_size: Documents a step.
            head_only: Whether only the head is stepped.
            stop: As in ``run_epoch``; once it is set, nothing is computed for the evaluation documents.
            evaluated_on: The evaluation documents, the same tensors in every epoch; None: evaluate on none.
            known: The last evaluation on these documents, where only the head has been stepped since: the masked base's
                logits are taken from it.

        Returns:
            The loss, as ``run_epoch`` gives it, and the evaluation.
        """
        loss = self.run_epoch(*sampler.epoch(epoch), batch_size, head_only=head_only, stop=stop)
        if evaluated_on is None or stop.is_set():
            return loss, self.evaluate()
        logits = None if known is None else known.class_logits
        if logits is None:
            return loss, self.evaluate(evaluated_on[:2])
        now = self.evaluate()
        outputs = reference_model.head_logits(logits, now.head)
        return loss, ComputedEvaluation(now.kept_counts, now.head, logits, outputs, now.snapshot)

    def _probability_of(self, labels: Tensor) -> Tensor:
        """What ``run_epoch`` takes as ``target_probability`` -> probabilities of the target, floating (N,).

        Raises:
            ValueError: They are not as ``run_epoch`` says, or soft while true labels have a weight.
        """
        target_probability = as_target_probability(labels)
        if self.target_weight != 1 and not is_certain(target_probability):
            raise ValueError(
                f"soft labels cannot be combined with a target_weight, which is {self.target_weight:g}: each "
                "target_probability must be 0 or 1"
            )
        return target_probability

    def _check_rows(self, largest: Tensor) -> None:
        """Raises ValueError where the largest row of scores that documents use is the row of words that are not fed."""
        if largest == len(self.fed_ids):
            raise ValueError("a document holds a word that was not among the `fed_ids` this trainer was made for")

    def _raise_not_finite(self, name: str | None, loss: float = 0.0) -> NoReturn:
        """Raises the TrainingError for a next step in which the gradient of tensor ``name`` is not finite; None: in
        which the loss is not.
        """
        step = self.steps + 1
        if name is None:
            raise TrainingError(f"the loss is {loss} in step {step}: a base weight or score is not finite")
        raise TrainingError(f"the gradient of {name} is not finite in step {step}")

    # -- reading the state ---------------------------------------------------------------------------------------

    def evaluate(self, documents: tuple[Tensor, Tensor] | None = None) -> Evaluation:
        """What is known of the module between two epochs.

        Args:
            documents: ids (N, T) and lengths (N,) to compute logits for; None: none.

        Raises:
            TrainingError: As ``check_finite`` does.
        """
        self.check_finite()
        head = as_head(part.detach().cpu() for part in self.head)
        logits = None if documents is None else self.class_logits(*documents).detach()
        outputs = None if logits is None else reference_model.head_logits(logits, head)
        return ComputedEvaluation(self.kept_counts(), head, logits, outputs, self.snapshot)

    def effective_weights(self) -> dict[str, Tensor]:
        """The base's weights where kept and zero elsewhere, by weight key, on the trainer's device."""
        kept = {key: score > 0 for key, score in self.scores.items()}
        kept[EMBEDDING] = kept[EMBEDDING][self.row_of_id.to(self.device)]
        return {key: weight * kept[key] for key, weight in self.weights.items()}

    @torch.no_grad()
    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Outputs of the module: ids (N, T), lengths (N,) -> (N, 2) on the CPU; column 0 is the target."""
        return reference_model.head_logits(self.class_logits(ids, lengths), as_head(part.cpu() for part in self.head))

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits of the masked base: ids (N, T), lengths (N,) -> (N, C) on the CPU."""
        return class_logits(self.effective_weights(), ids, lengths, self.readout)

    @torch.no_grad()
    def logits_as(self, snapshot: Snapshot, ids: Tensor, lengths: Tensor) -> Tensor:
        """``logits`` of the module as a snapshot has it. Only for use after training: the trainer's state may be
        overwritten.
        """
        return reference_model.head_logits(
            self._logits_of(snapshot.mask.apply(self.weights), ids, lengths), snapshot.head
        )

    def _logits_of(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits of a base with the given weights: ids (N, T), lengths (N,) -> (N, C)."""
        return class_logits(weights, ids, lengths, self.readout)

    def kept_counts(self) -> dict[str, int]:
        """Number of kept weights, by weight key."""
        return self.kept_counts_of(self.count_positive().tolist())

    def count_positive(self) -> Tensor:
        """Number of positive scores of each tensor, in the weights' order, and last that of the embedding's shared row
        alone: int64, on the trainer's device.
        """
        parts = [*self.scores.values(), self.scores[EMBEDDING][-1]]
        return torch.stack([(part > 0).sum() for part in parts])

    def kept_counts_of(self, positive: Iterable[float]) -> dict[str, int]:
        """``kept_counts``, from the numbers that ``count_positive`` gives."""
        *counts, shared = map(int, positive)
        kept = dict(zip(self.scores, counts, strict=True))
        kept[EMBEDDING] += shared * self._extra_shared_rows
        return kept

    def check_finite(self) -> None:
        """Raises TrainingError naming the first tensor that holds a NaN or an infinity."""
        if self.is_finite():
            return
        for name, tensor in (*self.scores.items(), *zip(HEAD_NAMES, self.head, strict=True)):
            if not torch.isfinite(tensor).all():
                raise TrainingError(f"{name} holds a value that is not finite after step {self.steps}")

    def is_finite(self) -> Tensor:
        """Whether the sums of scores and head are finite: bool (), on the trainer's device. Sums are quick to form, and
        those of finite numbers are finite unless they overflow.
        """
        return torch.isfinite(torch.stack([part.detach().sum() for part in (*self.scores.values(), *self.head)])).all()

    def snapshot(self) -> Snapshot:
        """The module as it stands: one bit a weight, and a copy of the head."""
        bits = {key: packed(score > 0).cpu() for key, score in self.scores.items()}
        return self.snapshot_of_bits(bits, as_head(part.detach().to("cpu", copy=True) for part in self.head))

    def snapshot_of_bits(self, bits: dict[str, Tensor], head: Head) -> Snapshot:
        """A snapshot of packed keep bits, by weight key and in the scores' shapes, and a head; all on the CPU."""
        return Snapshot(KeepMask(self._shapes, bits, self.row_of_id, len(self.fed_ids) + 1), head)

    def sized_snapshots(self, counts: Sequence[int]) -> list[Snapshot]:
        """The module as it stands, but cut to other numbers of weights by ``nested.cut``, in order "group".

        Args:
            counts: Numbers of weights, rising. All are cut from the largest, in the proportions of its groups, as
                ``SeamModule.resized`` cuts them.
        """
        head = as_head(part.detach().to("cpu", copy=True) for part in self.head)
        found: list[Snapshot] = []
        kept_of: dict[str, int] | None = None
        for count in reversed(counts):
            snapshot = self._sized_snapshot(count, kept_of, head)
            if kept_of is None:
                kept = snapshot.mask.counts()
                kept_of = {group: sum(kept[key] for key in keys) for group, keys in groups(kept).items()}
            found.append(snapshot)
        return found[::-1]

    def _sized_snapshot(self, count: int, kept_of: Mapping[str, int] | None, head: Head) -> Snapshot:
        """The module with so many weights, by ``nested.cut``."""
        flags = self._sized_flags(count, kept_of)
        if flags is None:
            return Snapshot(cut(self.full_scores()[0], count, "group", kept_of), head)
        flags[EMBEDDING] = torch.nn.functional.pad(flags[EMBEDDING], (0, 0, 0, 1))  # the shared row keeps nothing
        return self.snapshot_of_bits({key: packed(part) for key, part in flags.items()}, head)

    def _sized_flags(self, count: int, kept_of: Mapping[str, int] | None = None) -> dict[str, Tensor] | None:
        """Which weights have the highest ``count`` scores, by weight key, of the embedding for the rows of fed words;
        None where words that are not fed are among them or are kept now. Arguments as of ``nested.cut``.
        """
        scores = {key: score.detach().cpu() for key, score in self.scores.items()}
        rows = scores[EMBEDDING]
        scores[EMBEDDING], shared = rows[:-1], float(rows[-1].max())
        shared_is_kept = self._extra_shared_rows >= 0 and shared > 0
        if shared_is_kept or count > sum(score.numel() for score in scores.values()):
            return None
        flags = cut_flags(scores, count, "group", kept_of)
        kept = scores[EMBEDDING][flags[EMBEDDING]]
        return flags if not len(kept) or self._extra_shared_rows < 0 or float(kept.min()) > shared else None

    @torch.no_grad()
    def hold_size(self, count: int, head_steps: int) -> None:
        """Shifts all scores of each group by one number, so that ``count`` weights in all have a score > 0 (equal ones
        at the border apart); not while words are kept that are not fed. To be called between two epochs.

        Args:
            count: Number of weights.
            head_steps: How many of the steps so far were of the head alone.
        """
        flags = self._sized_flags(count)
        if flags is None:
            return
        scores = {key: score.detach().cpu() for key, score in self.scores.items()}
        scores[EMBEDDING] = scores[EMBEDDING][:-1]
        for key, border in borders(scores, flags).items():
            self.scores[key].sub_(border)
        self.load_state(self.steps - head_steps, head_steps)

    @torch.no_grad()
    def set_scores(self, scores: Mapping[str, Tensor], unfed: float) -> None:
        """Sets the scores from which training begins. To be called before the first step.

        Args:
            scores: In the weights' shapes, by weight key, on any device and of any floating dtype.
            unfed: The score of all words that are not fed.
        """
        for key, ours in self.scores.items():
            if key == EMBEDDING:
                ours[:-1].copy_(scores[key][self.fed_ids.to(scores[key].device)])
                ours[-1].fill_(unfed)
            else:
                ours.copy_(scores[key])
        self.load_state(0)

    def load_state(self, steps: int, head_steps: int = 0) -> None:
        """Declares the present scores, moments and head to be the state after ``steps`` joint steps and ``head_steps``
        steps of the head alone.
        """

    def full_scores(self) -> tuple[dict[str, Tensor], Head]:
        """Copies on the CPU of the scores, by weight key in the weights' shapes, and of the head."""
        scores = self._expanded({key: score.detach().to("cpu", copy=True) for key, score in self.scores.items()})
        return scores, as_head(part.detach().to("cpu", copy=True) for part in self.head)

    def _expanded(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores on the CPU by weight key, in the weights' shapes: a row of the embedding for each word."""
        return {key: scores[key][self.row_of_id] if key == EMBEDDING else scores[key] for key in self.weights}


def as_head(parts: Iterable[Tensor]) -> Head:
    """Weight (2, C) and bias (2,) as a pair."""
    weight, bias = parts
    return weight, bias


Made = TypeVar("Made")


class LastCallCache(Generic[Made]):
    """Keeps what was made from the last documents, for the case that the same two tensors, unchanged, come again."""

    def __init__(self) -> None:
        self._seen = SeenTensors()
        self._made: Any = None

    def get(self, ids: Tensor, lengths: Tensor, make: Callable[[Tensor, Tensor], Made]) -> Made:
        """``make(ids, lengths)``, or what it gave in the last call where that had the same arguments."""
        if not self._seen.are(ids, lengths):
            self._made = make(ids, lengths)
            self._seen = SeenTensors(ids, lengths)
        made: Made = self._made
        return made

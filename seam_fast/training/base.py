"""Training of one module's scores over a frozen base, epoch by epoch: what all trainers share.

A trainer computes what ``reference_step.Stepper`` computes, with less work:
- only embedding rows that the module's documents can touch have scores of their own. All other rows receive the same
  constant gradient in every step and so share one trajectory, kept as one extra row;
- each step gathers and reduces the rows of its own words, once a word;
- in head-only epochs the masked base stands still, so its logits are computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
from ..modules.mask import KeepMask, Snapshot, packed
from .config import StepConfig


@dataclass
class Evaluation:
    """A module between two epochs, on the CPU: the numbers of kept weights by key, the head, what the masked base says
    of documents (N, C) and the module's outputs (N, 2), both None where nobody asked, and a function that gives its
    ``Trainer.snapshot``. figures: ``metrics.module_metrics`` of the outputs, where they are known already.
    """

    kept: dict[str, int]
    head: tuple[Tensor, Tensor]
    class_logits: Tensor | None
    outputs: Tensor | None
    snapshot: Callable[[], Snapshot]
    figures: dict[str, float] | None = None


class Trainer:
    """State of one module, and how it is looked at; subclasses train it.

    Parameters
    ----------
    weights: frozen base by weight key, all of one floating dtype and on one device, where the training takes place.
    head: initial weight (2, C) and bias (2,).
    fed_ids: ids (int64, any shape) of every word that training can feed.
    config: how a step is taken.

    Attributes
    ----------
    device: of the weights, scores and head. What a trainer is given and what it gives away is on the CPU.
    scores: by weight key; of the embedding the rows of ``fed_ids``, sorted, and one row more for all other words.
    head: weight and bias as they stand.
    steps: taken in all, head-only ones included.
    """

    engine = "torch"  # what computes: "cuda", "cpu" or "torch"
    fused = False  # whether whole epochs are native code, in which rows whose words do not occur are updated lazily
    steps = 0

    @classmethod
    def unsupported(cls, weights: dict[str, Tensor], batch_size: int) -> str:
        """Why modules over a base cannot be trained in this way, or "". Looks at shapes and dtype only."""
        return ""

    @classmethod
    def shares_launches(cls, weights: dict[str, Tensor], batch_size: int, width: int, steps: int) -> bool:
        """Whether an epoch of so many steps, of documents of ``width`` words, can go into the launches of others."""
        return False

    @classmethod
    def capacity(cls, device: torch.device, weights: dict[str, Tensor], batch_size: int) -> int:
        """How many modules a GPU trains side by side, memory apart; 0 where it can train none. weights: on it."""
        return 1

    @classmethod
    def for_engine(cls, weights, head, fed_ids, config: StepConfig, lazy_update: str) -> "Trainer":
        """A trainer by its class's engine; lazy_update is heeded by those that are ``fused``."""
        return cls(weights, head, fed_ids, config)

    def __init__(self, weights, head, fed_ids, config: StepConfig):
        self.config = config
        self.weights = {key: weights[key].detach() for key in weight_keys(weights)}
        self.readout, self.schedule, self.target_weight = config.readout, config.schedule, config.target_weight
        self.lr_mask, self.lr_head = config.lr_mask, config.lr_head
        table = self.weights[EMBEDDING]
        self.device, dtype = table.device, table.dtype
        self.rows = torch.unique(torch.as_tensor(fed_ids))  # sorted word ids with scores of their own
        self.row_of_id = torch.full((len(table),), len(self.rows), dtype=torch.int64)  # word id -> row of the scores
        self.row_of_id[self.rows] = torch.arange(len(self.rows))
        self._more_alike = len(table) - len(self.rows) - 1  # words beside one that share the last row
        self.scores = {EMBEDDING: table.new_ones(len(self.rows) + 1, table.shape[1])}
        self.scores |= {key: torch.ones_like(weight) for key, weight in self.weights.items() if key != EMBEDDING}
        self.head = tuple(part.detach().to(self.device, dtype, copy=True) for part in head)

        self._shapes = {key: tuple(weight.shape) for key, weight in self.weights.items()}
        sizes = group_sizes(self.weights)
        self.penalty_gradient = {}
        for group, keys in groups(self.weights).items():
            factor = config.lstm_penalty_scale if config.penalty == "group" and group == "lstm" else 1.0
            count = sizes[group] if config.penalty == "group" else sum(sizes.values())
            # Clamped apart from the loss's gradient, as a use of the kept set of its own.
            self.penalty_gradient.update(dict.fromkeys(keys, max(-1.0, min(factor * config.alpha / count, 1.0))))

    # -- training ------------------------------------------------------------------------------------------------

    def scale_learning_rates(self, factor: float) -> None:
        """Sets all learning rates to ``factor`` times their initial values, from the next epoch on."""
        raise NotImplementedError

    def run_epoch(self, ids: Tensor, lengths: Tensor, labels: Tensor, batch_size: int, *, head_only=False, stop=None):
        """One pass over documents in the order given: ids (N, T), lengths (N,), labels (N,), 0 target and 1 rest,
        or (N, 2), shares of target and rest.

        The last batch may be smaller. ``stop``: an event that ends the epoch between two steps once it is set. Returns
        the mean over batches of the cross entropy, in nats a document. Raises TrainingError naming step and tensor
        where a value is not finite.
        """
        raise NotImplementedError

    def take_epoch(
        self,
        sampler,
        epoch: int,
        batch_size: int,
        *,
        head_only=False,
        stop,
        evaluated_on=None,
        known: Evaluation | None = None,
    ) -> tuple[float, Evaluation]:
        """`run_epoch` of a sampler's documents, and `evaluate` afterwards: its loss and what was seen.

        evaluated_on: the documents to look at, ids (N, T) and lengths (N,), and which of them are the target's (N,),
        all the same from epoch to epoch; known: the last evaluation, where only the head has been stepped since.
        Nothing is evaluated where ``stop`` is set.
        """
        documents = sampler.epoch(epoch)
        parts = documents.ids, documents.lengths, documents.labels
        loss = self.run_epoch(*parts, batch_size, head_only=head_only, stop=stop)
        if evaluated_on is None or stop.is_set():
            return loss, self.evaluate()
        if known is None:
            return loss, self.evaluate(evaluated_on[:2])
        now, logits = self.evaluate(), known.class_logits
        outputs = reference_model.head_logits(logits, now.head)
        return loss, Evaluation(now.kept, now.head, logits, outputs, now.snapshot)

    def _check_labels(self, labels: Tensor) -> None:
        """Raises ValueError for labels that `run_epoch` does not know."""
        if labels.ndim == 1 and not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0, target, or 1, rest")
        if labels.ndim == 2 and self.target_weight != 1:
            raise ValueError("labels that are shares cannot be combined with a target_weight")

    def _check_rows(self, largest: int) -> None:
        """Raises ValueError where the largest row of scores that documents ask for is that of words without one."""
        if largest == len(self.rows):
            raise ValueError("a document holds a word that was not among the `fed_ids` this trainer was made for")

    def _stop(self, name: str | None, loss: float = 0.0) -> None:
        """Raises what is said of the next step, in which the gradient of ``name``, None for the loss, is not finite."""
        step = self.steps + 1
        if name is None:
            raise TrainingError(f"the loss is {loss} in step {step}: a base weight or score is not finite")
        raise TrainingError(f"the gradient of {name} is not finite in step {step}")

    # -- looking at it -------------------------------------------------------------------------------------------

    def evaluate(self, documents: "tuple[Tensor, Tensor] | None" = None) -> Evaluation:
        """All that is to be known of the module between two epochs. documents: ids (N, T) and lengths (N,).

        Raises TrainingError as ``check_finite`` does.
        """
        self.check_finite()
        head = tuple(part.detach().cpu() for part in self.head)
        logits = None if documents is None else self.class_logits(*documents).detach()
        outputs = None if logits is None else reference_model.head_logits(logits, head)
        return Evaluation(self.kept_counts(), head, logits, outputs, self.snapshot)

    def effective_weights(self) -> dict[str, Tensor]:
        """The base's weights where kept, zero elsewhere, by weight key."""
        kept = {key: score > 0 for key, score in self.scores.items()}
        kept[EMBEDDING] = kept[EMBEDDING][self.row_of_id.to(self.device)]
        return {key: weight * kept[key] for key, weight in self.weights.items()}

    @torch.no_grad()
    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Outputs of the module: ids (N, T), lengths (N,) -> (N, 2); column 0 is the target."""
        return reference_model.head_logits(self.class_logits(ids, lengths), tuple(part.cpu() for part in self.head))

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What the masked base says: ids (N, T), lengths (N,) -> (N, C)."""
        return class_logits(self.effective_weights(), ids, lengths, self.readout)

    @torch.no_grad()
    def logits_as(self, snapshot: Snapshot, ids: Tensor, lengths: Tensor) -> Tensor:
        """``logits``, but of the module as it was. The training must be over: the trainer's own state may be lost."""
        return reference_model.head_logits(
            self._logits_of(snapshot.mask.apply(self.weights), ids, lengths), snapshot.head
        )

    def _logits_of(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        return class_logits(weights, ids, lengths, self.readout)

    def kept_counts(self) -> dict[str, int]:
        """Number of kept weights by weight key."""
        return self.kept_of(self.count_kept().tolist())

    def count_kept(self) -> Tensor:
        """Number of positive scores of each tensor, then of the row that stands for all words without one of their
        own; on the device."""
        parts = [*self.scores.values(), self.scores[EMBEDDING][-1]]
        return torch.stack([(part > 0).sum() for part in parts])

    def kept_of(self, counts) -> dict[str, int]:
        """`kept_counts` of what `count_kept` gives."""
        *counts, shared = map(int, counts)
        kept = dict(zip(self.scores, counts, strict=True))  # in the order of the weights
        kept[EMBEDDING] += shared * self._more_alike
        return kept

    def check_finite(self) -> None:
        """Raises TrainingError naming the first tensor that holds a NaN or an infinity."""
        if self.is_finite():
            return
        for name, tensor in (*self.scores.items(), *zip(HEAD_NAMES, self.head, strict=True)):
            if not torch.isfinite(tensor).all():
                raise TrainingError(f"{name} holds a value that is not finite after step {self.steps}")

    def is_finite(self) -> Tensor:
        """Whether the sums of scores and head are finite; on the device. They are quickly formed, and of finite numbers
        they are finite, nearly always."""
        return torch.isfinite(torch.stack([part.detach().sum() for part in (*self.scores.values(), *self.head)])).all()

    def snapshot(self) -> Snapshot:
        """What is kept, a bit a score, and a copy of the head."""
        bits = {key: packed(score > 0).cpu() for key, score in self.scores.items()}
        return self.snapshot_of_bits(bits, tuple(part.detach().to("cpu", copy=True) for part in self.head))

    def snapshot_of_bits(self, bits: dict[str, Tensor], head: tuple[Tensor, Tensor]) -> Snapshot:
        """`snapshot` of what each of ``scores`` keeps, packed, and of the head's values, both on the CPU."""
        return Snapshot(KeepMask(self._shapes, bits, self.row_of_id), head)

    def full_scores(self) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Copies of the scores as they stand, in the weights' shapes by weight key, and of the head."""
        scores = self._whole({key: score.detach().to("cpu", copy=True) for key, score in self.scores.items()})
        return scores, tuple(part.detach().to("cpu", copy=True) for part in self.head)

    def _whole(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: scores[key][self.row_of_id] if key == EMBEDDING else scores[key] for key in self.weights}


class LastCallCache:
    """What was made of the documents last looked at, for the case that the same two tensors, unchanged, come again."""

    def __init__(self):
        self._seen, self._made = SeenTensors(), None

    def get(self, ids: Tensor, lengths: Tensor, make):
        """``make(ids, lengths)``, or what it gave last time."""
        if not self._seen.are(ids, lengths):
            self._made = make(ids, lengths)
            self._seen = SeenTensors(ids, lengths)
        return self._made

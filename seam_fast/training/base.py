"""Training of one module's scores over a frozen base, epoch by epoch: what all trainers share, and the one in plain
PyTorch at its best.

A trainer computes what ``reference_step.Stepper`` computes, with less work:
- only embedding rows that the module's documents can touch have scores of their own. All other rows receive the same
  constant gradient in every step and so share one trajectory, kept as one extra row;
- each step gathers and reduces the rows of its own words, once a word;
- in head-only epochs the masked base stands still, so its logits are computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.inference import class_logits, read_lstm
from ..classifier.state_keys import (
    EMBEDDING,
    HEAD_NAMES,
    LINEAR_KEYS,
    group_sizes,
    groups,
    lstm_keys,
    lstm_shape,
    weight_keys,
)
from ..errors import TrainingError
from ..ops import reference


@dataclass
class Look:
    """A module between two epochs, on the CPU: the numbers of kept weights by key, the head, what the masked base says
    of documents (N, C) and the module's outputs (N, 2), both None where nobody asked, and a function that gives its
    ``Trainer.snapshot``. figures: ``metrics.module_metrics`` of the outputs, where they are known already.
    """

    kept: dict[str, int]
    head: tuple[Tensor, Tensor]
    class_logits: Tensor | None
    outputs: Tensor | None
    snapshot: Callable[[], dict[str, Tensor]]
    figures: dict[str, float] | None = None


class Trainer:
    """State of one module, and how it is looked at; subclasses train it.

    Parameters
    ----------
    weights: frozen base by weight key, all of one floating dtype and on one device, where the training takes place.
    head: initial weight (2, C) and bias (2,).
    words: ids (int64, any shape) of every word that training can feed.
    alpha, lr_mask, lr_head, schedule, penalty, lstm_factor, read: as in ``reference_step.Stepper``.
    target_weight: weight of target documents in the cross entropy (1: the reference's).

    Attributes
    ----------
    device: of the weights, scores and head. What a trainer is given and what it gives away is on the CPU.
    scores: by weight key; of the embedding the rows of ``words``, sorted, and one row more for all other words.
    head: weight and bias as they stand.
    steps: taken in all, head-only ones included.
    """

    steps = 0

    def __init__(
        self,
        weights,
        head,
        words,
        *,
        alpha,
        lr_mask,
        lr_head,
        schedule,
        penalty="global",
        lstm_factor=1.0,
        read="end",
        target_weight=1.0,
    ):
        self.weights = {key: weights[key].detach() for key in weight_keys(weights)}
        self.read, self.schedule, self.target_weight = read, schedule, target_weight
        self.lr_mask, self.lr_head = lr_mask, lr_head
        table = self.weights[EMBEDDING]
        self.device, dtype = table.device, table.dtype
        self.rows = torch.unique(torch.as_tensor(words))  # sorted word ids with scores of their own
        self.slot = torch.full((len(table),), len(self.rows), dtype=torch.int64)  # word id -> row of the scores
        self.slot[self.rows] = torch.arange(len(self.rows))
        self._more_alike = len(table) - len(self.rows) - 1  # words beside one that share the last row
        self.scores = {EMBEDDING: table.new_ones(len(self.rows) + 1, table.shape[1])}
        self.scores |= {key: torch.ones_like(weight) for key, weight in self.weights.items() if key != EMBEDDING}
        self.head = tuple(part.detach().to(self.device, dtype, copy=True) for part in head)

        sizes = group_sizes(self.weights)
        self.penalty_gradient = {}
        for group, keys in groups(self.weights).items():
            factor = lstm_factor if penalty == "group" and group == "lstm" else 1.0
            count = sizes[group] if penalty == "group" else sum(sizes.values())
            # Clamped apart from the loss's gradient, as a use of the kept set of its own.
            self.penalty_gradient.update(dict.fromkeys(keys, max(-1.0, min(factor * alpha / count, 1.0))))

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
        self, sampler, epoch: int, batch_size: int, *, head_only=False, stop, judged_on=None, known: Look | None = None
    ) -> tuple[float, Look]:
        """`run_epoch` of a sampler's documents, and `look` afterwards: its loss and what was seen.

        judged_on: the documents to look at, ids (N, T) and lengths (N,), and which of them are the target's (N,), all
        the same from epoch to epoch; known: the last look at them, where only the head has been stepped since. Nothing
        is looked at where ``stop`` is set.
        """
        documents = sampler.epoch(epoch)
        parts = documents.ids, documents.lengths, documents.labels
        loss = self.run_epoch(*parts, batch_size, head_only=head_only, stop=stop)
        if judged_on is None or stop.is_set():
            return loss, self.look()
        if known is None:
            return loss, self.look(judged_on[:2])
        look, logits = self.look(), known.class_logits
        return loss, Look(look.kept, look.head, logits, reference_model.head_logits(logits, look.head), look.snapshot)

    def _check_labels(self, labels: Tensor) -> None:
        """Raises ValueError for labels that `run_epoch` does not know."""
        if labels.ndim == 1 and not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0, target, or 1, rest")
        if labels.ndim == 2 and self.target_weight != 1:
            raise ValueError("labels that are shares cannot be combined with a target_weight")

    def _check_rows(self, largest: int) -> None:
        """Raises ValueError where the largest row of scores that documents ask for is that of words without one."""
        if largest == len(self.rows):
            raise ValueError("a document holds a word that was not among the `words` this trainer was made for")

    def _stop(self, name: str | None, loss: float = 0.0) -> None:
        """Raises what is said of the next step, in which the gradient of ``name``, None for the loss, is not finite."""
        step = self.steps + 1
        if name is None:
            raise TrainingError(f"the loss is {loss} in step {step}: a base weight or score is not finite")
        raise TrainingError(f"the gradient of {name} is not finite in step {step}")

    # -- looking at it -------------------------------------------------------------------------------------------

    def look(self, documents: "tuple[Tensor, Tensor] | None" = None) -> Look:
        """All that is to be known of the module between two epochs. documents: ids (N, T) and lengths (N,).

        Raises TrainingError as ``check_finite`` does.
        """
        self.check_finite()
        head = tuple(part.detach().cpu() for part in self.head)
        logits = None if documents is None else self.class_logits(*documents).detach()
        outputs = None if logits is None else reference_model.head_logits(logits, head)
        return Look(self.kept_counts(), head, logits, outputs, self.snapshot)

    def effective_weights(self) -> dict[str, Tensor]:
        """The base's weights where kept, zero elsewhere, by weight key."""
        kept = {key: score > 0 for key, score in self.scores.items()}
        kept[EMBEDDING] = kept[EMBEDDING][self.slot.to(self.device)]
        return {key: weight * kept[key] for key, weight in self.weights.items()}

    @torch.no_grad()
    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Outputs of the module: ids (N, T), lengths (N,) -> (N, 2); column 0 is the target."""
        return reference_model.head_logits(self.class_logits(ids, lengths), tuple(part.cpu() for part in self.head))

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What the masked base says: ids (N, T), lengths (N,) -> (N, C)."""
        return class_logits(self.effective_weights(), ids, lengths, self.read)

    @torch.no_grad()
    def logits_as(self, scores, head, ids: Tensor, lengths: Tensor) -> Tensor:
        """``logits``, but of those scores, in the weights' shapes by weight key, and that head. The training must be
        over: the trainer's own state may be lost."""
        weights = {key: weight * (scores[key] > 0).to(self.device) for key, weight in self.weights.items()}
        return reference_model.head_logits(self._logits_of(weights, ids, lengths), head)

    def _logits_of(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        return class_logits(weights, ids, lengths, self.read)

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

    def snapshot(self) -> dict[str, Tensor]:
        """What is kept, a bit a score, and a copy of the head; ``expand`` makes whole tensors of it."""
        bits = {key: packed(score > 0).cpu() for key, score in self.scores.items()}
        head = (part.detach().to("cpu", copy=True) for part in self.head)
        return bits | dict(zip(HEAD_NAMES, head, strict=True))

    def expand(self, snapshot: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Scores in the weights' shapes by weight key, 1 where kept and -1 elsewhere, and the head, of a snapshot."""
        scores = {}
        for key, score in self.scores.items():
            bits = np.unpackbits(snapshot[key].numpy(), count=score.numel()).astype(bool)
            scores[key] = torch.where(torch.from_numpy(bits), 1.0, -1.0).to(score.dtype).reshape(score.shape)
        return self._whole(scores), tuple(snapshot[name] for name in HEAD_NAMES)

    def whole_scores(self) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Copies of the scores as they stand, in the weights' shapes by weight key, and of the head."""
        scores = self._whole({key: score.detach().to("cpu", copy=True) for key, score in self.scores.items()})
        return scores, tuple(part.detach().to("cpu", copy=True) for part in self.head)

    def _whole(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: scores[key][self.slot] if key == EMBEDDING else scores[key] for key in self.weights}


class LastSeen:
    """What was made of the documents last looked at, for the case that the same two tensors, unchanged, come again."""

    def __init__(self):
        self._known = (None, None, None, None)

    def get(self, ids: Tensor, lengths: Tensor, make):
        """``make(ids, lengths)``, or what it gave last time."""
        ids_then, lengths_then, then, made = self._known
        now = [None if part.is_inference() else part._version for part in (ids, lengths)]  # None: it does not tell
        if ids_then is not ids or lengths_then is not lengths or now != then or None in now:
            made = make(ids, lengths)
            self._known = ids, lengths, now, made
        return made


def packed(flags: Tensor) -> Tensor:
    """Booleans as bits, eight a byte, the first the highest, as NumPy packs them; on their device."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.packbits(flags.numpy()))
    eight = functional.pad(flags.flatten(), (0, -flags.numel() % 8)).view(-1, 8)
    value = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=flags.device)
    return (eight * value).sum(1, dtype=torch.uint8)


class TorchTrainer(Trainer):
    """In plain PyTorch: autograd over the rows of a step, torch's fused Adam over the rows that can occur."""

    def __init__(self, weights, head, words, **options):
        super().__init__(weights, head, words, **options)
        dtype = self.weights[EMBEDDING].dtype
        for part in self.head:
            part.requires_grad_()
        self._loss_weight = None if self.target_weight == 1 else torch.tensor([self.target_weight, 1.0], dtype=dtype)
        self._rest = tuple(key for key in self.weights if key != EMBEDDING)
        # The embedding's gradient is the penalty wherever a step sets nothing else.
        self._gradient = torch.full_like(self.scores[EMBEDDING], self.penalty_gradient[EMBEDDING])

        self._adams = self._joint_adams = self._make_joint_adams()
        if self.schedule != "port":
            self._adam_head = torch.optim.Adam(self.head, lr=self.lr_head, fused=True, **reference.ADAM)
            self._adams = [*self._joint_adams, self._adam_head]
        self._initial_rates = {adam: [group["lr"] for group in adam.param_groups] for adam in self._adams}

    def _make_joint_adams(self) -> list[torch.optim.Optimizer]:
        """The optimizers of a joint step: of the scores and, but for schedule port, of the head."""
        together = [{"params": list(self.scores.values()), "lr": self.lr_mask}]
        if self.schedule != "port":
            together.append({"params": list(self.head), "lr": self.lr_head})
        self._adam_together = torch.optim.Adam(together, lr=self.lr_mask, fused=True, **reference.ADAM)
        return [self._adam_together]

    def scale_learning_rates(self, factor: float) -> None:
        for adam in self._adams:
            for group, initial in zip(adam.param_groups, self._initial_rates[adam], strict=True):
                group["lr"] = initial * factor

    def run_epoch(self, ids: Tensor, lengths: Tensor, labels: Tensor, batch_size: int, *, head_only=False, stop=None):
        self._check_labels(labels)
        losses = []
        if head_only:
            features = self.class_logits(ids, lengths)
        for begin in range(0, len(ids), batch_size):
            if stop is not None and stop.is_set():
                break
            batch = slice(begin, begin + batch_size)
            if head_only:
                losses.append(self._head_step(features[batch], labels[batch]))
            else:
                losses.append(self.step(ids[batch], lengths[batch], labels[batch]))
        return sum(losses) / max(len(losses), 1)

    def _head_step(self, features: Tensor, labels: Tensor) -> float:
        """One step of the head alone; features (B, C): logits of the masked base, which stands still."""
        loss = self._loss(features, labels)
        self._backward(loss, self.head)
        self._adam_head.step()
        self.steps += 1
        return loss.item()

    def step(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> float:
        """One joint step on one batch; returns its cross entropy before the step."""
        words, position, row_weights = self._gather(ids, lengths)
        leaves = {EMBEDDING: row_weights * (self.scores[EMBEDDING][words] > 0)}
        for key in self._rest:
            leaves[key] = self.weights[key] * (self.scores[key] > 0)
        for leaf in leaves.values():
            leaf.requires_grad_()

        embedded = functional.embedding(position, leaves[EMBEDDING])
        lstm = [leaves[key] for key in lstm_keys(leaves)]
        state = read_lstm(embedded, lengths, lstm, self.read, *lstm_shape(leaves))
        logits = functional.linear(state, *(leaves[key] for key in LINEAR_KEYS))
        loss = self._loss(logits, labels)
        self._backward(loss, [*leaves.values(), *self.head], [*leaves, *HEAD_NAMES])

        for key in self._rest:
            gradient = leaves[key].grad.mul_(self.weights[key]).clamp_(-1, 1)
            self.scores[key].grad = gradient.add_(self.penalty_gradient[key])
        constant = self.penalty_gradient[EMBEDDING]
        self._gradient[words] = leaves[EMBEDDING].grad.mul_(row_weights).clamp_(-1, 1).add_(constant)
        self.scores[EMBEDDING].grad = self._gradient
        self._joint_step()
        self._gradient[words] = constant
        return loss.item()

    def _gather(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch's words, each once: rows of the scores (U,), the words' places in it (T, B), their weights (U, E)."""
        if self.read == "last_word":
            ids = ids[:, : int(lengths.max())]  # what follows a document's last word is never read
        words, position = torch.unique(self.slot[ids.T], return_inverse=True)
        self._check_rows(words[-1])
        return words, position, self.weights[EMBEDDING][self.rows[words]]

    def _joint_step(self) -> None:
        for adam in self._joint_adams:
            adam.step()
        self.steps += 1

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            reference_model.head_logits(logits, self.head), labels, weight=self._loss_weight
        )

    def _backward(self, loss, leaves, names=HEAD_NAMES):
        for leaf in leaves:
            leaf.grad = None
        if not torch.isfinite(loss):
            self._stop(None, loss.item())
        loss.backward()
        if not torch.isfinite(torch.stack([leaf.grad.sum() for leaf in leaves])).all():
            bad = [name for name, leaf in zip(names, leaves, strict=True) if not torch.isfinite(leaf.grad).all()]
            if bad:  # else only the sum overflowed
                self._stop(bad[0])

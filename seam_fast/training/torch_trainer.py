"""Training of one module in plain PyTorch at its best."""

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.inference import read_lstm
from ..classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, lstm_keys, lstm_shape
from ..ops import reference
from .base import Trainer
from .config import StepConfig


class TorchTrainer(Trainer):
    """In plain PyTorch: autograd over the rows of a step, torch's fused Adam over the rows that can occur."""

    def __init__(self, weights, head, fed_ids, config: StepConfig):
        super().__init__(weights, head, fed_ids, config)
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
        state = read_lstm(embedded, lengths, lstm, self.readout, *lstm_shape(leaves))
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
        if self.readout == "last_word":
            ids = ids[:, : int(lengths.max())]  # what follows a document's last word is never read
        words, position = torch.unique(self.row_of_id[ids.T], return_inverse=True)
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

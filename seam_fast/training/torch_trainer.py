"""Training of one module in plain PyTorch at its best."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.inference import read_lstm
from ..classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, lstm_keys, lstm_shape
from ..modules.mask import Head
from ..ops import reference
from .base import Trainer
from .config import StepConfig
from .loss import cross_entropy


class TorchTrainer(Trainer):
    """Trains in plain PyTorch: autograd over the distinct rows of a step, torch's fused Adam over all rows with scores.

    Args:
        weights: As in ``Trainer``.
        head: As in ``Trainer``.
        fed_ids: As in ``Trainer``.
        config: As in ``Trainer``.
    """

    def __init__(self, weights: Mapping[str, Tensor], head: Head, fed_ids: Tensor, config: StepConfig) -> None:
        super().__init__(weights, head, fed_ids, config)
        dtype = self.weights[EMBEDDING].dtype
        for part in self.head:
            part.requires_grad_()
        self._class_weights = None if self.target_weight == 1 else torch.tensor([self.target_weight, 1.0], dtype=dtype)
        self._rest = tuple(key for key in self.weights if key != EMBEDDING)
        # The embedding's gradient: the penalty's, and for the duration of a step the loss's at the step's rows as well.
        self._gradient = torch.full_like(self.scores[EMBEDDING], self.penalty_gradient[EMBEDDING])

        self._adams = self._joint_adams = self._make_joint_adams()
        if self.schedule != "port":
            self._adam_head = torch.optim.Adam(self.head, lr=self.lr_head, fused=True, **reference.ADAM)
            self._adams = [*self._joint_adams, self._adam_head]
        self._initial_rates = {adam: [group["lr"] for group in adam.param_groups] for adam in self._adams}

    def _make_joint_adams(self) -> list[torch.optim.Optimizer]:
        """The optimizers of a joint step: of the scores and, unless the schedule is ``"port"``, of the head."""
        together = [{"params": list(self.scores.values()), "lr": self.lr_mask}]
        if self.schedule != "port":
            together.append({"params": list(self.head), "lr": self.lr_head})
        self._adam_together = torch.optim.Adam(together, lr=self.lr_mask, fused=True, **reference.ADAM)
        return [self._adam_together]

    def scale_learning_rates(self, factor: float) -> None:
        """As in ``Trainer``."""
        for adam in self._adams:
            for group, initial in zip(adam.param_groups, self._initial_rates[adam], strict=True):
                group["lr"] = initial * factor

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
        target_probability = self._probability_of(target_probability)
        losses: list[float] = []
        if head_only:
            features = self.class_logits(ids, lengths)
        for begin in range(0, len(ids), batch_size):
            if stop is not None and stop.is_set():
                break
            batch = slice(begin, begin + batch_size)
            if head_only:
                losses.append(self._head_step(features[batch], target_probability[batch]))
            else:
                losses.append(self.step(ids[batch], lengths[batch], target_probability[batch]))
        return sum(losses) / max(len(losses), 1)

    def _head_step(self, features: Tensor, target_probability: Tensor) -> float:
        """One step of the head alone on logits of the masked base (B, C). Returns the loss before the step."""
        loss = self._loss(features, target_probability)
        self._backward(loss, self.head)
        self._adam_head.step()
        self._steps += 1
        return loss.item()

    def step(self, ids: Tensor, lengths: Tensor, target_probability: Tensor) -> float:
        """Takes one joint step on one batch: ids (B, T), lengths (B,), target_probability (B,).

        Returns:
            The batch's cross entropy before the step, in nats a document.
        """
        unique_rows, unique_index, row_weights = self._gather(ids, lengths)
        leaves = {EMBEDDING: row_weights * (self.scores[EMBEDDING][unique_rows] > 0)}
        for key in self._rest:
            leaves[key] = self.weights[key] * (self.scores[key] > 0)
        for leaf in leaves.values():
            leaf.requires_grad_()

        embedded = functional.embedding(unique_index, leaves[EMBEDDING])
        lstm = [leaves[key] for key in lstm_keys(leaves)]
        state = read_lstm(embedded, lengths, lstm, self.readout, *lstm_shape(leaves))
        weight, bias = (leaves[key] for key in LINEAR_KEYS)
        loss = self._loss(functional.linear(state, weight, bias), target_probability)
        self._backward(loss, [*leaves.values(), *self.head], [*leaves, *HEAD_NAMES])

        for key in self._rest:
            gradient = gradient_of(leaves[key]).mul_(self.weights[key]).clamp_(-1, 1)
            self.scores[key].grad = gradient.add_(self.penalty_gradient[key])
        constant = self.penalty_gradient[EMBEDDING]
        of_rows = gradient_of(leaves[EMBEDDING]).mul_(row_weights).clamp_(-1, 1)
        self._gradient[unique_rows] = of_rows.add_(constant)
        self.scores[EMBEDDING].grad = self._gradient
        self._joint_step()
        self._gradient[unique_rows] = constant
        return loss.item()

    def _gather(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct rows of a batch, ids (B, T) and lengths (B,).

        Returns:
            unique_rows (U,), rows of the embedding's scores; unique_index (T, B), the index into them of every word;
            row_weights (U, E), the base's embedding rows.
        """
        if self.readout == "last_word":
            ids = ids[:, : int(lengths.max())]  # what follows the longest document's last word is never read
        unique_rows, unique_index = torch.unique(self.row_of_id[ids.T], return_inverse=True)
        self._check_rows(unique_rows[-1])
        return unique_rows, unique_index, self.weights[EMBEDDING][self.fed_ids[unique_rows]]

    def _joint_step(self) -> None:
        """Steps scores and head by the gradients that they hold."""
        for adam in self._joint_adams:
            adam.step()
        self._steps += 1

    def _loss(self, logits: Tensor, target_probability: Tensor) -> Tensor:
        """Mean cross entropy of the module: logits of the masked base (B, C), target_probability (B,)."""
        return cross_entropy(reference_model.head_logits(logits, self.head), target_probability, self._class_weights)

    def _backward(self, loss: Tensor, leaves: Sequence[Tensor], names: Iterable[str] = HEAD_NAMES) -> None:
        """Puts the loss's gradients into ``leaves``; TrainingError, by the leaves' names, where one is not finite."""
        for leaf in leaves:
            leaf.grad = None
        if not torch.isfinite(loss):
            self._raise_not_finite(None, loss.item())
        loss.backward()
        if not torch.isfinite(torch.stack([gradient_of(leaf).sum() for leaf in leaves])).all():
            finite = (torch.isfinite(gradient_of(leaf)).all() for leaf in leaves)
            bad = [name for name, fine in zip(names, finite, strict=True) if not fine]
            if bad:  # else finite gradients have a sum that overflows
                self._raise_not_finite(bad[0])


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient of a leaf after the backward pass; all leaves of a step take part in it, so that there is one."""
    return cast(Tensor, leaf.grad)

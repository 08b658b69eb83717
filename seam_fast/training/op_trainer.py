"""Training of modules over any base: several LSTM layers, both directions."""

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, groups, lstm_keys, lstm_shape
from ..ops import reference
from ..ops.functional import masked_lstm
from ..optim import ScoreAdam
from .config import StepConfig
from .torch_trainer import TorchTrainer


class OpTrainer(TorchTrainer):
    """By the ops: ``masked_lstm``, and ``ScoreAdam`` for the scores, compiled where they are.

    backend: of the ops, as in ``seam_fast.masked_lstm``. All else as in ``TorchTrainer``, whose results it has, but for
    rounding.
    """

    engine = "cpu"

    @classmethod
    def for_engine(cls, weights, head, fed_ids, config, lazy_update):
        return cls(weights, head, fed_ids, config, backend=cls.engine)

    def __init__(self, weights, head, fed_ids, config: StepConfig, *, backend="auto"):
        self.backend = backend
        super().__init__(weights, head, fed_ids, config)
        self._gradient.zero_()  # of the loss alone: ScoreAdam adds the penalty
        for key in self._rest:
            self.scores[key].requires_grad_()
        self._num_layers, self._bidirectional = lstm_shape(self.weights)
        self._lstm = lstm_keys(self.weights)

    def _make_joint_adams(self) -> list[torch.optim.Optimizer]:
        by_group = [
            {"params": [self.scores[key] for key in keys], "penalty": self.penalty_gradient[keys[0]]}
            for keys in groups(self.weights).values()
        ]
        score_adam = ScoreAdam(by_group, lr=self.lr_mask, backend=self.backend, **reference.ADAM)
        if self.schedule == "port":
            return [score_adam]
        return [score_adam, torch.optim.Adam(self.head, lr=self.lr_head, fused=True, **reference.ADAM)]

    def step(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> float:
        """One joint step on one batch; returns its cross entropy before the step."""
        words, position, row_weights = self._gather(ids, lengths)
        # The rows' gradient comes unclamped: whatever is not finite on the way from the loss is seen there.
        rows = (row_weights * (self.scores[EMBEDDING][words] > 0)).requires_grad_()
        output, _ = masked_lstm(
            functional.embedding(position, rows),
            None,
            [self.weights[key] for key in self._lstm],
            [self.scores[key] for key in self._lstm],
            num_layers=self._num_layers,
            bidirectional=self._bidirectional,
            lengths=lengths if self.readout == "last_word" else None,
            backend=self.backend,
        )
        state = reference_model.read_state(output, lengths, self.readout)
        weight, bias = LINEAR_KEYS
        logits = reference.masked_linear(
            state, self.weights[weight], self.weights[bias], self.scores[weight], self.scores[bias]
        )
        loss = self._loss(logits, labels)
        leaves = {EMBEDDING: rows} | {key: self.scores[key] for key in self._rest}
        self._backward(loss, [*leaves.values(), *self.head], [*leaves, *HEAD_NAMES])

        self._gradient[words] = rows.grad.mul_(row_weights)
        self.scores[EMBEDDING].grad = self._gradient
        self._joint_step()
        self._gradient[words] = 0
        return loss.item()

"""Training of modules over any base by the package's ops: also several LSTM layers, and both directions."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, groups, lstm_keys, lstm_shape
from ..modules.mask import Head
from ..ops import reference
from ..ops.functional import masked_lstm
from ..optim import ScoreAdam
from .base import Trainer
from .config import StepConfig
from .torch_trainer import TorchTrainer, gradient_of


class OpTrainer(TorchTrainer):
    """Trains by ``masked_lstm`` and, for the scores, ``ScoreAdam``, whose compiled kernels are used where available.

    Results are those of ``TorchTrainer`` up to rounding.

    Args:
        weights: As in ``Trainer``.
        head: As in ``Trainer``.
        fed_ids: As in ``Trainer``.
        config: As in ``Trainer``.
        backend: Of the ops, as in ``seam_fast.masked_lstm``.
    """

    engine = "cpu"

    @classmethod
    def for_engine(
        cls, weights: Mapping[str, Tensor], head: Head, fed_ids: Tensor, config: StepConfig, lazy_update: str
    ) -> Trainer:
        """As in ``Trainer``."""
        return cls(weights, head, fed_ids, config, backend=cls.engine)

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        head: Head,
        fed_ids: Tensor,
        config: StepConfig,
        *,
        backend: str = "auto",
    ) -> None:
        self.backend = backend
        super().__init__(weights, head, fed_ids, config)
        self._gradient.zero_()  # here the loss's alone, because ScoreAdam adds the penalty's
        for key in self._rest:
            self.scores[key].requires_grad_()
        self._num_layers, self._bidirectional = lstm_shape(self.weights)
        self._lstm = lstm_keys(self.weights)

    def _make_joint_adams(self) -> list[torch.optim.Optimizer]:
        """As in ``TorchTrainer``."""
        by_group = [
            {"params": [self.scores[key] for key in keys], "penalty": self.penalty_gradient[keys[0]]}
            for keys in groups(self.weights).values()
        ]
        score_adam = ScoreAdam(by_group, lr=self.lr_mask, backend=self.backend, **reference.ADAM)
        if self.schedule == "port":
            return [score_adam]
        return [score_adam, torch.optim.Adam(self.head, lr=self.lr_head, fused=True, **reference.ADAM)]

    def step(self, ids: Tensor, lengths: Tensor, target_probability: Tensor) -> float:
        """As in ``TorchTrainer``."""
        unique_rows, unique_index, row_weights = self._gather(ids, lengths)
        # The op gives the gradient of these rows unclamped, so that every value that is not finite is found there.
        rows = (row_weights * (self.scores[EMBEDDING][unique_rows] > 0)).requires_grad_()
        output, _ = masked_lstm(
            functional.embedding(unique_index, rows),
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
        loss = self._loss(logits, target_probability)
        leaves = {EMBEDDING: rows} | {key: self.scores[key] for key in self._rest}
        self._backward(loss, [*leaves.values(), *self.head], [*leaves, *HEAD_NAMES])

        self._gradient[unique_rows] = gradient_of(rows).mul_(row_weights)
        self.scores[EMBEDDING].grad = self._gradient
        self._joint_step()
        self._gradient[unique_rows] = 0
        return loss.item()

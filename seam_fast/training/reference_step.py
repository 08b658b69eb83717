"""One training step of SeaM on an LSTM classifier in plain PyTorch, written for reading: what all trainers are tested
against.

Letters as in ``ops.reference``. Source of the semantics: SeaM (Qi et al., ICSE 2023) and its LSTM port.
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..classifier.reference_model import class_logits, head_logits, kept_ratio
from ..classifier.state_keys import groups, weight_keys
from ..modules.mask import Head
from ..ops.reference import ADAM, binarize
from .loss import cross_entropy


def penalty(
    scores: Mapping[str, Tensor],
    alpha: float,
    kind: str = "global",
    lstm_penalty_scale: float = 1.0,
    linear_penalty_scale: float = 1.0,
) -> Tensor:
    """The penalty on kept weights, a scalar with a gradient for the scores.

    Args:
        scores: By weight key.
        alpha: Weight of the penalty.
        kind: ``"global"``, as in the reference: alpha * kept / N over all weights. ``"group"``: alpha * kept_g / N_g,
            summed over the groups embedding, lstm and linear, so that the penalty is as strong for small groups as for
            large ones.
        lstm_penalty_scale: Factor of the LSTM's term in ``"group"``.
        linear_penalty_scale: Factor of the linear layer's.
    """
    # These bits are not those that the loss uses, so the penalty's gradient is clamped by itself, as in SeaM.
    bits = {key: binarize(scores[key]) for key in weight_keys(scores)}

    def share(keys: Iterable[str]) -> Tensor:
        """Share kept of some weights."""
        chosen = [bits[key] for key in keys]
        kept: Tensor = functools.reduce(operator.add, [part.sum() for part in chosen])
        return kept / sum(part.numel() for part in chosen)

    if kind == "global":
        return alpha * share(bits)
    factors = {"lstm": lstm_penalty_scale, "linear": linear_penalty_scale}
    terms = [factors.get(group, 1.0) * share(keys) for group, keys in groups(scores).items()]
    cost: Tensor = alpha * functools.reduce(operator.add, terms)
    return cost


class StepResult(NamedTuple):
    """What was found in a step before anything was changed.

    Attributes:
        cross_entropy: Mean over the batch, in nats a document.
        kept: Share of all weights kept.
    """

    cross_entropy: float
    kept: float


class Stepper:
    """Trains one module step by step, with scores of all weights, autograd and ``torch.optim.Adam``. Scores begin at 1.

    Args:
        weights: The frozen base by weight key.
        head: Initial weight (2, C) and bias (2,).
        alpha: See ``penalty``.
        lr_mask: Adam's learning rate of the scores.
        lr_head: Adam's learning rate of the head.
        schedule: ``"port"`` steps the scores only. ``"seam"`` and ``"joint"`` step scores and head together by one
            Adam, and, in steps with ``head_only``, the head alone by another Adam with moments of its own (``"seam"``:
            in every fifth epoch).
        penalty: See ``penalty``, its ``kind``.
        lstm_penalty_scale: See ``penalty``.
        linear_penalty_scale: See ``penalty``.
        readout: ``"last_word"`` or ``"last_position"``, see ``reference_model.read_state``.

    Attributes:
        weights: As given, without gradients.
        scores: By weight key, in the weights' shapes.
        head: Weight and bias as they stand.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        head: Head,
        *,
        alpha: float,
        lr_mask: float,
        lr_head: float,
        schedule: str = "seam",
        penalty: str = "global",
        lstm_penalty_scale: float = 1.0,
        linear_penalty_scale: float = 1.0,
        readout: str = "last_position",
    ) -> None:
        self.weights = {key: weights[key].detach() for key in weight_keys(weights)}
        self.scores = {key: torch.ones_like(weight).requires_grad_() for key, weight in self.weights.items()}
        weight, bias = (part.detach().clone().requires_grad_(schedule != "port") for part in head)
        self.head: Head = weight, bias
        self.penalty, self.readout = (alpha, penalty, lstm_penalty_scale, linear_penalty_scale), readout
        together = [{"params": list(self.scores.values()), "lr": lr_mask}]
        self.adam_head: torch.optim.Adam | None = None
        if schedule != "port":
            together.append({"params": list(self.head), "lr": lr_head})
            self.adam_head = torch.optim.Adam(self.head, lr=lr_head, **ADAM)
        self.adam_together = torch.optim.Adam(together, lr=lr_mask, **ADAM)

    def step(
        self, ids: Tensor, lengths: Tensor | None, target_probability: Tensor, *, head_only: bool = False
    ) -> StepResult:
        """Takes one step on one batch.

        Args:
            ids: Word ids, int64 (B, T).
            lengths: Numbers of words (B,); None where the readout does not need them.
            target_probability: Probability that a document is the target's, floating (B,), or SeaM's labels, as in
                ``Trainer.run_epoch``.
            head_only: Whether only the head is stepped.
        """
        adam = self.adam_head if head_only else self.adam_together
        if adam is None:
            raise ValueError("schedule 'port' has no steps of the head")
        outputs = head_logits(class_logits(ids, lengths, self.weights, self.scores, self.readout), self.head)
        loss = cross_entropy(outputs, target_probability)
        result = StepResult(loss.item(), kept_ratio(self.scores))
        for tensor in (*self.scores.values(), *self.head):
            tensor.grad = None
        (loss + penalty(self.scores, *self.penalty)).backward()
        adam.step()
        return result

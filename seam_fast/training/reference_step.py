"""The truth: one training step of SEAM on an LSTM classifier, in plain PyTorch, written for reading.

Letters as in ``ops.reference``. Source of the semantics: SeaM (Qi et al., ICSE 2023) and its LSTM port.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..classifier.reference_model import class_logits, head_logits, kept_ratio
from ..classifier.state_keys import groups, weight_keys
from ..ops.reference import ADAM, binarize


def penalty(scores: dict[str, Tensor], alpha: float, kind: str = "global", lstm_penalty_scale: float = 1.0) -> Tensor:
    """What the kept weights cost.

    ``"global"`` (the reference's): alpha * kept / N over all weights. ``"group"``: alpha * kept_g / N_g, summed over
    the groups embedding, lstm and linear, so that small groups are pressed as hard as large ones; the LSTM's term
    counts ``lstm_penalty_scale`` times.
    """
    bits = {key: binarize(scores[key]) for key in weight_keys(scores)}  # a use of its own: clamped apart from the loss

    def share(keys):
        return sum(bits[key].sum() for key in keys) / sum(bits[key].numel() for key in keys)

    if kind == "global":
        return alpha * share(bits)
    shares = {group: share(keys) for group, keys in groups(scores).items()}
    return alpha * sum((lstm_penalty_scale if group == "lstm" else 1.0) * part for group, part in shares.items())


class StepResult(NamedTuple):
    """What a step saw before it moved anything: mean cross entropy (nats a document) and share of weights kept."""

    cross_entropy: float
    kept: float


class Stepper:
    """One module trained by the book: dense scores, autograd, ``torch.optim.Adam``.

    ``weights``: the frozen base by weight key; ``head``: initial weight (2, C) and bias (2,). Scores begin at 1.
    ``alpha``, ``penalty``, ``lstm_penalty_scale``: see ``penalty``.
    ``schedule``: ``"port"`` steps the scores only; ``"seam"`` and ``"joint"`` step scores and head together by one
    Adam, and the head alone, by another with a state of its own, where ``step(head_only=True)`` asks for it
    (``"seam"``: every fifth epoch).
    """

    def __init__(
        self,
        weights,
        head,
        *,
        alpha,
        lr_mask,
        lr_head,
        schedule="seam",
        penalty="global",
        lstm_penalty_scale=1.0,
        readout="last_position",
    ):
        self.weights = {key: weights[key].detach() for key in weight_keys(weights)}
        self.scores = {key: torch.ones_like(weight).requires_grad_() for key, weight in self.weights.items()}
        self.head = tuple(part.detach().clone().requires_grad_(schedule != "port") for part in head)
        self.penalty, self.readout = (alpha, penalty, lstm_penalty_scale), readout
        together = [{"params": list(self.scores.values()), "lr": lr_mask}]
        if schedule == "port":
            self.adam_head = None
        else:
            together.append({"params": list(self.head), "lr": lr_head})
            self.adam_head = torch.optim.Adam(self.head, lr=lr_head, **ADAM)
        self.adam_together = torch.optim.Adam(together, lr=lr_mask, **ADAM)

    def step(self, ids: Tensor, lengths: Tensor | None, labels: Tensor, *, head_only: bool = False) -> StepResult:
        """One batch: ids (B, T) int64, lengths (B,) or None; labels (B,): 0 target, 1 rest, or (B, 2): their shares."""
        adam = self.adam_head if head_only else self.adam_together
        logits = head_logits(class_logits(ids, lengths, self.weights, self.scores, self.readout), self.head)
        cross_entropy = functional.cross_entropy(logits, labels)
        result = StepResult(cross_entropy.item(), kept_ratio(self.scores))
        for tensor in (*self.scores.values(), *self.head):
            tensor.grad = None
        (cross_entropy + penalty(self.scores, *self.penalty)).backward()
        adam.step()
        return result

"""The truth: every op of SEAM on an LSTM, and one training step, in plain PyTorch, written for reading.

Letters: T time steps, B batch, I input size, H hidden size, C classes, V words, E embedding size. Gate order i, f, g,
o, two biases, zero initial state, all as in ``torch.nn.LSTM``. Works in float32 and float64. Source of the semantics:
SeaM (Qi et al., ICSE 2023) and its LSTM port.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .keys import EMBEDDING, GROUPS, LINEAR_KEYS, LSTM_KEYS, WEIGHT_KEYS

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}


class _BinarizeSTE(torch.autograd.Function):
    """Forward: 1 where score > 0, else 0. Backward: the incoming gradient, clamped to [-1, 1], once for each use."""

    @staticmethod
    def forward(ctx, score: Tensor) -> Tensor:
        return (score > 0).to(score.dtype)  # 0 and NaN are not > 0: dropped

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.clamp(-1, 1)  # a NaN stays a NaN; whether the score is positive does not matter


def binarize(score: Tensor) -> Tensor:
    """The kept set as 0 and 1, in the score's dtype, with SeaM's clipped straight-through gradient."""
    return _BinarizeSTE.apply(score)


def masked_embedding(ids: Tensor, weight: Tensor, score: Tensor) -> Tensor:
    """Rows of the masked table: ids (...), weight and score (V, E) -> (..., E)."""
    return functional.embedding(ids, weight * binarize(score))


def masked_linear(input: Tensor, weight: Tensor, bias: Tensor, weight_score: Tensor, bias_score: Tensor) -> Tensor:
    """input (..., I), weight (O, I), bias (O,) and their scores -> (..., O)."""
    return functional.linear(input, weight * binarize(weight_score), bias * binarize(bias_score))


def lstm_cell(projected: Tensor, h: Tensor, c: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor]:
    """One time step. projected (B, 4H) = W_ih x + b_ih; h, c (B, H) -> next h, c."""
    i, f, g, o = (projected + h @ weight_hh.T + bias_hh).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm(input: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """One layer from a zero state. input (T, B, I), weights as in ``torch.nn.LSTM`` -> hidden states (T, B, H)."""
    projected = input @ weight_ih.T + bias_ih  # (T, B, 4H)
    h = c = input.new_zeros(input.shape[1], weight_hh.shape[1])
    states = []
    for step in projected:
        h, c = lstm_cell(step, h, c, weight_hh, bias_hh)
        states.append(h)
    return torch.stack(states)


def masked_lstm(input: Tensor, weights: list[Tensor], scores: list[Tensor]) -> Tensor:
    """One masked layer from a zero state.

    input (T, B, I); weights and scores: weight_ih (4H, I), weight_hh (4H, H), bias_ih (4H,), bias_hh (4H,). The clamp
    of the scores' gradient acts on the sum over all steps and documents. Returns the hidden states (T, B, H).
    """
    return lstm(input, *(weight * binarize(score) for weight, score in zip(weights, scores, strict=True)))


def read_state(states: Tensor, lengths: Tensor | None, read: str) -> Tensor:
    """The hidden state the classifier looks at: states (T, B, H) -> (B, H).

    ``read="last_word"``: at position ``lengths - 1``; ``read="end"``: at the last position, after the padding.
    """
    if read == "end":
        return states[-1]
    return states[lengths - 1, torch.arange(states.shape[1], device=states.device)]


def class_logits(
    ids: Tensor, lengths: Tensor | None, weights: dict[str, Tensor], scores: dict[str, Tensor], read: str
) -> Tensor:
    """The masked base: ids (B, T), lengths (B,) -> logits (B, C)."""
    embedded = masked_embedding(ids.T, weights[EMBEDDING], scores[EMBEDDING])  # (T, B, E)
    states = masked_lstm(embedded, [weights[k] for k in LSTM_KEYS], [scores[k] for k in LSTM_KEYS])
    weight, bias = LINEAR_KEYS
    state = read_state(states, lengths, read)
    return masked_linear(state, weights[weight], weights[bias], scores[weight], scores[bias])


def head_logits(logits: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """The module head, ReLU then linear: logits (B, C), head weight (2, C), bias (2,) -> (B, 2); output 0: target."""
    return functional.linear(functional.relu(logits), *head)


def penalty(scores: dict[str, Tensor], alpha: float, kind: str = "global", lstm_factor: float = 1.0) -> Tensor:
    """What the kept weights cost.

    ``"global"`` (the reference's): alpha * kept / N over all weights. ``"group"``: alpha * kept_g / N_g, summed over
    the groups embedding, lstm and linear, so that small groups are pressed as hard as large ones; the LSTM's term
    counts ``lstm_factor`` times.
    """
    bits = {key: binarize(scores[key]) for key in WEIGHT_KEYS}  # a use of its own: clamped apart from the loss

    def share(keys):
        return sum(bits[key].sum() for key in keys) / sum(bits[key].numel() for key in keys)

    if kind == "global":
        return alpha * share(WEIGHT_KEYS)
    return alpha * sum((lstm_factor if group == "lstm" else 1.0) * share(keys) for group, keys in GROUPS.items())


def kept_ratio(scores: dict[str, Tensor]) -> float:
    """Share of all weights whose score is positive."""
    kept = sum(int((score > 0).sum()) for score in scores.values())
    return kept / sum(score.numel() for score in scores.values())


class StepResult(NamedTuple):
    """What a step saw before it moved anything: mean cross entropy (nats a document) and share of weights kept."""

    cross_entropy: float
    kept: float


class Stepper:
    """One module trained by the book: dense scores, autograd, ``torch.optim.Adam``.

    ``weights``: the frozen base by weight key; ``head``: initial weight (2, C) and bias (2,). Scores begin at 1.
    ``alpha``, ``penalty``, ``lstm_factor``: see ``penalty``.
    ``schedule``: ``"port"`` steps the scores only; ``"seam"`` and ``"joint"`` step scores and head together by one
    Adam, and the head alone, by another with a state of its own, where ``step(head_only=True)`` asks for it
    (``"seam"``: every fifth epoch).
    """

    def __init__(
        self, weights, head, *, alpha, lr_mask, lr_head, schedule="seam", penalty="global", lstm_factor=1.0, read="end"
    ):
        self.weights = {key: weights[key].detach() for key in WEIGHT_KEYS}
        self.scores = {key: torch.ones_like(weight).requires_grad_() for key, weight in self.weights.items()}
        self.head = tuple(part.detach().clone().requires_grad_(schedule != "port") for part in head)
        self.penalty, self.read = (alpha, penalty, lstm_factor), read
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
        logits = head_logits(class_logits(ids, lengths, self.weights, self.scores, self.read), self.head)
        cross_entropy = functional.cross_entropy(logits, labels)
        result = StepResult(cross_entropy.item(), kept_ratio(self.scores))
        for tensor in (*self.scores.values(), *self.head):
            tensor.grad = None
        (cross_entropy + penalty(self.scores, *self.penalty)).backward()
        adam.step()
        return result

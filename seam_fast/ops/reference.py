"""The truth: every op of SEAM on an LSTM in plain PyTorch, written for reading.

Letters: T time steps, B batch, I input size, H hidden size, C classes, V words, E embedding size. Gate order i, f, g,
o, two biases, all as in ``torch.nn.LSTM``. Works in every floating dtype. Source of the semantics: SeaM (Qi et al.,
ICSE 2023) and its LSTM port.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .transforms import refuse_to_be_compiled, refuse_to_be_functionalized

ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}


class _CompiledSTE(torch.autograd.Function):
    """Forward: 1 where score > 0, else 0. Backward: the incoming gradient, clamped to [-1, 1], once for each use."""

    @staticmethod
    def forward(score: Tensor, clamp: bool) -> Tensor:
        return (score > 0).to(score.dtype)  # 0 and NaN are not > 0: dropped

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.clamp = inputs

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.clamp(-1, 1) if ctx.clamp else grad, None  # a NaN stays a NaN; the score's sign does not matter


class _BinarizeSTE(_CompiledSTE):
    """The same for all but torch.compile, which takes no function with a rule for forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(
            "scores have no forward-mode derivative: their gradient is a straight-through estimate; use reverse mode "
            "(backward, torch.func.grad, torch.func.jacrev)"
        )


def binarize(score: Tensor, clamp: bool = True) -> Tensor:
    """The kept set as 0 and 1, in the score's dtype, with SeaM's clipped straight-through gradient.

    clamp: whether it is clipped, to [-1, 1].
    """
    refuse_to_be_compiled()
    refuse_to_be_functionalized()
    return (_CompiledSTE if torch.compiler.is_compiling() else _BinarizeSTE).apply(score, clamp)


def _effective(weight: Tensor, score: Tensor | None, clamp: bool = True) -> Tensor:
    return weight if score is None else weight * binarize(score, clamp)


def masked_embedding(
    ids: Tensor, weight: Tensor, score: Tensor | None, padding_idx: int | None = None, clamp: bool = True
) -> Tensor:
    """Rows of the masked table: ids (...), weight and score (V, E) -> (..., E). ``padding_idx``: as in torch."""
    return functional.embedding(ids, _effective(weight, score, clamp), padding_idx)


def masked_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_score: Tensor | None,
    bias_score: Tensor | None,
    clamp: bool = True,
) -> Tensor:
    """input (..., I), weight (O, I), bias (O,) and their scores -> (..., O)."""
    bias = None if bias is None else _effective(bias, bias_score, clamp)
    return functional.linear(input, _effective(weight, weight_score, clamp), bias)


def lstm_cell(
    projected: Tensor, h: Tensor, c: Tensor, weight_hh: Tensor, bias_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One time step. projected (B, 4H) = W_ih x + b_ih; h, c (B, H) -> next h, c."""
    projected = projected + h @ weight_hh.T
    i, f, g, o = (projected if bias_hh is None else projected + bias_hh).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_direction(
    input: Tensor, h: Tensor, c: Tensor, weights, running: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer, one direction. input (T, B, I); h, c (B, H): the first state; weights as in ``torch.nn.LSTM``.

    running (T, B, 1) bool, or None for all: where False, a row stands still and its output is zero. Returns the hidden
    states (T, B, H) and the last h and c.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = (*weights, None, None)[:4]
    projected = input @ weight_ih.T  # (T, B, 4H)
    projected = projected if bias_ih is None else projected + bias_ih
    states = [None] * len(input)
    for t in reversed(range(len(input))) if reverse else range(len(input)):
        next_h, next_c = lstm_cell(projected[t], h, c, weight_hh, bias_hh)
        if running is None:
            states[t] = h = next_h
            c = next_c
        else:
            states[t] = torch.where(running[t], next_h, 0)
            h, c = torch.where(running[t], next_h, h), torch.where(running[t], next_c, c)
    return torch.stack(states), h, c


def lstm(input: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """One layer from a zero state. input (T, B, I), weights as in ``torch.nn.LSTM`` -> hidden states (T, B, H)."""
    zeros = input.new_zeros(input.shape[1], weight_hh.shape[1])
    return lstm_direction(input, zeros, zeros, (weight_ih, weight_hh, bias_ih, bias_hh))[0]


def masked_lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: list[Tensor],
    scores: list[Tensor | None],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
    clamp: bool = True,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The LSTM of the kept weights; arguments and results as in ``seam_fast.masked_lstm``, unchecked.

    Any floating dtype, any device, differentiable as often as wanted. The clamp of a score's gradient acts on the sum
    over all steps and rows.
    """
    if input.dim() == 2:  # no batch: a batch of one
        hx = None if hx is None else tuple(state.unsqueeze(1) for state in hx)
        output, states = masked_lstm(
            input.unsqueeze(1),
            hx,
            weights,
            scores,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            training=training,
            clamp=clamp,
        )
        return output.squeeze(1), tuple(state.squeeze(1) for state in states)
    output = input.transpose(0, 1) if batch_first else input
    directions = 2 if bidirectional else 1
    cells = num_layers * directions  # a cell: one layer, one direction
    each = len(weights) // cells
    weights = [_effective(*pair, clamp).to(output.dtype) for pair in zip(weights, scores, strict=True)]
    if hx is None:
        hx = (output.new_zeros(cells, output.shape[1], weights[1].shape[1]),) * 2
    running = None
    if lengths is not None:
        steps = torch.arange(len(output), device=output.device)
        running = (steps[:, None] < lengths.to(output.device))[:, :, None]  # (T, B, 1)
        output = torch.where(running, output, 0)  # else a NaN in the padding would get through: 0 * NaN is NaN
    last = []
    for layer in range(num_layers):
        if layer > 0:
            output = functional.dropout(output, dropout, training)
        numbers = range(layer * directions, (layer + 1) * directions)
        results = [
            lstm_direction(output, hx[0][n], hx[1][n], weights[n * each : (n + 1) * each], running, n % directions == 1)
            for n in numbers
        ]
        output = torch.cat([states for states, _, _ in results], 2)
        last += [(h, c) for _, h, c in results]
    h_n, c_n = (torch.stack(states) for states in zip(*last, strict=True))
    return output.transpose(0, 1) if batch_first else output, (h_n, c_n)


@torch.no_grad()
def score_adam_(
    score: Tensor,
    grad: Tensor | None,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    weight: Tensor | None,
    effective: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    penalty: float,
) -> int:
    """One step of Adam on a score, in place; all tensors of one shape.

    The gradient is ``grad`` (None: 0) clamped to [-1, 1] plus ``penalty``, clamped by itself; step: 1 at the first.
    Then ``effective``, where given, becomes ``weight`` where the score is positive and 0 elsewhere. Returns how many
    scores are positive.
    """
    return int(step_score_(score, grad, exp_avg, exp_avg_sq, weight, effective, lr, beta1, beta2, eps, step, penalty))


def step_score_(score, grad, exp_avg, exp_avg_sq, weight, effective, lr, beta1, beta2, eps, step, penalty) -> Tensor:
    """`score_adam_`, but the number of positive scores stays on their device: a GPU is not waited for."""
    constant = max(-1.0, min(1.0, penalty))
    gradient = torch.full_like(score, constant) if grad is None else grad.clamp(-1, 1).add_(constant)
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    score.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
    kept = score > 0
    if effective is not None:
        effective.copy_(torch.where(kept, weight, 0))
    return kept.sum()

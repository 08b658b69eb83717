"""The ops and the score update in plain PyTorch, written to be read: what every kernel is tested against.

Letters: T time steps, B batch, I input size, H hidden size, L layers, D directions, V words, E embedding size, O output
size. Gate order i, f, g, o and two biases, as in ``torch.nn.LSTM``. Every floating dtype, every device. Nothing is
checked. Source of the semantics: SeaM (Qi et al., ICSE 2023) and its LSTM port.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .transforms import refuse_to_be_compiled, refuse_to_be_functionalized

ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}


class _CompiledSTE(torch.autograd.Function):
    """The straight-through estimator: 1 where score > 0, else 0, with the incoming gradient for the score's.

    That gradient is clamped to [-1, 1], if wanted. Each use of a score is a call and is clamped by itself.
    """

    @staticmethod
    def forward(score: Tensor, clamp: bool) -> Tensor:
        return (score > 0).to(score.dtype)  # 0 and NaN are not > 0: dropped

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        _, ctx.clamp = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.clamp(-1, 1) if ctx.clamp else grad, None  # a NaN stays a NaN; the score's sign does not matter


class _BinarizeSTE(_CompiledSTE):
    """The same outside torch.compile, which accepts no autograd function that defines ``jvp``."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "scores have no forward-mode derivative: their gradient is a straight-through estimate; use reverse mode "
            "(backward, torch.func.grad, torch.func.jacrev)"
        )


def binarize(score: Tensor, clamp: bool = True) -> Tensor:
    """Which weights are kept, as 0 and 1, with SeaM's clipped straight-through gradient.

    Args:
        score: a score for each weight, any shape. 0 and NaN drop a weight.
        clamp: whether the gradient of the score is clamped to [-1, 1].

    Returns:
        1 where the score is positive, 0 elsewhere, in its shape and dtype.

    Raises:
        RuntimeError: for forward-mode derivatives, within ``torch.func.functionalize``, and within ``torch.func``
            within ``torch.compile(fullgraph=True)``.
    """
    refuse_to_be_compiled()
    refuse_to_be_functionalized()
    function = _CompiledSTE if torch.compiler.is_compiling() else _BinarizeSTE
    kept: Tensor = function.apply(score, clamp)  # type: ignore[no-untyped-call]
    return kept


def _effective(weight: Tensor, score: Tensor | None, clamp: bool = True) -> Tensor:
    """The weight where it is kept, 0 elsewhere, differentiable by weight and score."""
    return weight if score is None else weight * binarize(score, clamp)


def masked_embedding(
    ids: Tensor, weight: Tensor, score: Tensor | None, padding_idx: int | None = None, clamp: bool = True
) -> Tensor:
    """Rows of the masked table; arguments as of ``seam_fast.masked_embedding``.

    Args:
        ids: (...).
        weight, score: (V, E).
        padding_idx: a row that gets no gradient.
        clamp: of the score's gradient.

    Returns:
        (..., E).
    """
    return functional.embedding(ids, _effective(weight, score, clamp), padding_idx)


def masked_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_score: Tensor | None,
    bias_score: Tensor | None,
    clamp: bool = True,
) -> Tensor:
    """A linear layer of the kept weights; arguments as of ``seam_fast.masked_linear``.

    Args:
        input: (..., I).
        weight, weight_score: (O, I).
        bias, bias_score: (O,).
        clamp: of the scores' gradients.

    Returns:
        (..., O).
    """
    bias = None if bias is None else _effective(bias, bias_score, clamp)
    return functional.linear(input, _effective(weight, weight_score, clamp), bias)


def lstm_cell(
    projected: Tensor, h: Tensor, c: Tensor, weight_hh: Tensor, bias_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One time step.

    Args:
        projected: (B, 4H), W_ih x + b_ih.
        h, c: (B, H).
        weight_hh: (4H, H).
        bias_hh: (4H,) or None.

    Returns:
        The next h and c, (B, H).
    """
    projected = projected + h @ weight_hh.T
    i, f, g, o = (projected if bias_hh is None else projected + bias_hh).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_direction(
    input: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    running: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one layer.

    Args:
        input: (T, B, I).
        h, c: (B, H), the first states.
        weights: weight_ih (4H, I), weight_hh (4H, H) and perhaps bias_ih, bias_hh (4H,).
        running: (T, B, 1) bool, or None for all True. Where False, a sequence keeps its state, and its output is zero.
        reverse: whether the last step comes first.

    Returns:
        The hidden states (T, B, H), and the last h and c, (B, H).
    """
    weight_ih, weight_hh, *biases = weights
    bias_ih, bias_hh = biases or (None, None)
    projected = input @ weight_ih.T  # (T, B, 4H)
    projected = projected if bias_ih is None else projected + bias_ih
    states = [h] * len(input)  # a list to be filled, in either order
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
    """One layer from a zero state: input (T, B, I), weights as in ``torch.nn.LSTM`` -> hidden states (T, B, H)."""
    zeros = input.new_zeros(input.shape[1], weight_hh.shape[1])
    return lstm_direction(input, zeros, zeros, (weight_ih, weight_hh, bias_ih, bias_hh))[0]


def masked_lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
    clamp: bool = True,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The LSTM of the kept weights; arguments and results as of ``seam_fast.masked_lstm``.

    It can be differentiated any number of times. The gradient of a score is clamped after the sum over all steps and
    sequences.
    """
    if input.dim() == 2:  # no batch: a batch of one
        hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        output, (h_n, c_n) = masked_lstm(
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
        return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
    output = input.transpose(0, 1) if batch_first else input
    directions = 2 if bidirectional else 1
    cells = num_layers * directions  # a cell: one direction of one layer
    each = len(weights) // cells
    weights = [_effective(*pair, clamp).to(output.dtype) for pair in zip(weights, scores, strict=True)]
    if hx is None:
        hx = (output.new_zeros(cells, output.shape[1], weights[1].shape[1]),) * 2
    running = None
    if lengths is not None:
        steps = torch.arange(len(output), device=output.device)
        running = (steps[:, None] < lengths.to(output.device))[:, :, None]  # (T, B, 1)
        output = torch.where(running, output, 0)  # by `where`, because 0 * NaN in the padding is NaN
    last: list[tuple[Tensor, Tensor]] = []
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
    h_n, c_n = torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])
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
    """One step of Adam on the scores of a weight, in place; all tensors have one shape.

    Args:
        score, exp_avg, exp_avg_sq: the scores and Adam's moments.
        grad: of the loss; None: zeros. The gradient of the step is this clamped to [-1, 1], plus the penalty.
        weight, effective: None, or the weight and a tensor that becomes ``weight`` where the new score is positive and
            0 elsewhere.
        lr, beta1, beta2, eps: as in ``torch.optim.Adam``.
        step: number of the step, 1 for the first.
        penalty: a constant gradient, also clamped to [-1, 1].

    Returns:
        The number of positive scores after the step.
    """
    return int(step_score_(score, grad, exp_avg, exp_avg_sq, weight, effective, lr, beta1, beta2, eps, step, penalty))


def step_score_(
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
) -> Tensor:
    """`score_adam_` without waiting for a GPU: the number of positive scores stays there, a tensor of one number."""
    constant = max(-1.0, min(1.0, penalty))
    gradient = torch.full_like(score, constant) if grad is None else grad.clamp(-1, 1).add_(constant)
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    score.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
    kept = score > 0
    if weight is not None and effective is not None:
        effective.copy_(torch.where(kept, weight, 0))
    return kept.sum()

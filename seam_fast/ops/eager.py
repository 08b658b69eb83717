"""One masked LSTM layer in plain tensor operations, with a backward pass written by hand.

It offers the same functions as the compiled kernels, computes wherever those cannot, and is what the tests compare them
with. It takes less work than autograd over the readable loop of ``reference.py``: sequences that have ended are not
computed, everything that does not depend on the previous step is computed for all steps at once, and each weight's
gradient is one matrix product over all steps.

Letters: T time steps, B batch, I input size, H hidden size, D directions (1 or 2).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from . import reference, transforms

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Needs = Sequence[bool]
# Gradients of input, h_0, c_0, of the weights and of the scores.
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None], list[Tensor | None]]


def direction_count(weights: Sequence[Tensor]) -> int:
    """The number of directions of a layer, from its flat list of weights.

    Args:
        weights: 2 tensors for each direction, or 4 where there are biases, in torch's order.

    Returns:
        1 or 2.

    Raises:
        ValueError: for another number of tensors.
    """
    with_biases = len(weights) > 2 and weights[2].dim() == 1
    count, rest = divmod(len(weights), 4 if with_biases else 2)
    if rest or count not in (1, 2):
        raise ValueError(f"weights must hold 2 or 4 tensors for each of 1 or 2 directions, but holds {len(weights)}")
    return count


def requires_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd has to record a call with these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _effective(weight: Tensor, score: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight where its score is positive, 0 elsewhere."""
    return (weight if score is None else torch.where(score > 0, weight, 0)).to(dtype)


def _effective_weights(
    weights: Sequence[Tensor], scores: Sequence[Tensor | None], direction: int, each: int, dtype: torch.dtype
) -> list[Tensor]:
    """The effective weights of one direction, which has ``each`` tensors of the layer's list."""
    ours = slice(direction * each, (direction + 1) * each)
    return [_effective(weight, score, dtype) for weight, score in zip(weights[ours], scores[ours], strict=True)]


class _SortedBatch:
    """A batch in descending order of length, as a PackedSequence has it.

    Attributes:
        batch_sizes: for each step the number of sequences that have not ended: in sorted order, the first so many.
        ended: (T, B, 1) bool, in sorted order: past the end of the sequence; None where all sequences have T steps.
    """

    def __init__(self, lengths: Tensor | None, steps: int, batch: int, device: torch.device):
        self.batch_sizes: list[int] = [batch] * steps
        self.ended: Tensor | None = None
        self._order: Tensor | None = None
        self._inverse: Tensor | None = None
        if lengths is None:
            return
        lengths = lengths.cpu()
        if batch and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
            raise ValueError(
                f"lengths must lie between 0 and the {steps} time steps of input, but they go from "
                f"{int(lengths.min())} to {int(lengths.max())}"
            )
        times = torch.arange(steps, device="cpu")[:, None]
        self.batch_sizes = (lengths > times).sum(1).tolist()
        order = torch.argsort(lengths, descending=True, stable=True)
        self._order = order.to(device)
        self._inverse = torch.argsort(order).to(device)
        self.ended = (times >= lengths[order]).to(device)[:, :, None]

    def sort(self, tensor: Tensor) -> Tensor:
        """A tensor whose dimension 1 is the batch, from the caller's order to the sorted one."""
        return tensor if self._order is None else tensor.index_select(1, self._order)

    def unsort(self, tensor: Tensor) -> Tensor:
        """The inverse of `sort`."""
        return tensor if self._inverse is None else tensor.index_select(1, self._inverse)

    def sort_steps(self, tensor: Tensor) -> Tensor:
        """(T, B, ..) sorted, and zero past each sequence's end: a NaN in the padding must not reach a sum."""
        return tensor if self.ended is None else self.sort(tensor).masked_fill_(self.ended, 0)


def _zeros_or(state: Tensor | None, like: Tensor, directions: int, hidden: int) -> Tensor:
    """A state (D, B, H), zeros where there is none; like: (T, B, ..)."""
    return like.new_zeros(directions, like.shape[1], hidden) if state is None else state


def _without_autocast(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Switches autocast off in a backward pass, whose results must not depend on where ``backward()`` is called."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        input = cast(Tensor, args[3])
        if input.is_meta or not torch.is_autocast_enabled(input.device.type):
            return function(*args, **kwargs)
        with torch.autocast(input.device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapped


@torch.no_grad()
def masked_lstm_forward(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    batch_first_output: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The layer's forward pass, computed in the dtype of ``input``.

    Args:
        input: (T, B, I).
        h_0, c_0: (D, B, H), or None for zeros.
        weights: 2 D or 4 D tensors in torch's order; they may be wider than ``input``, as under autocast.
        scores: one for each weight, of its shape, or None where it is not masked.
        lengths: (B,) integers from 0 to T, or None: all T.
        batch_first_output: whether ``output`` lies in memory as a (B, T, D H) tensor does.
        save: whether the backward pass is to follow.

    Returns:
        output (T, B, D H), h_n and c_n (D, B, H), and what the backward pass needs: D T B 5H elements, or none.

    Raises:
        ValueError: for lengths outside 0 to T.
    """
    steps, batch, _ = input.shape
    directions, hidden = direction_count(weights), weights[1].shape[1]
    each = len(weights) // directions
    order = _SortedBatch(lengths, steps, batch, input.device)
    x = order.sort_steps(input)
    h_n = order.sort(_zeros_or(h_0, input, directions, hidden)).clone()
    c_n = order.sort(_zeros_or(c_0, input, directions, hidden)).clone()
    output = input.new_zeros(steps, batch, directions * hidden)
    saved = input.new_zeros(directions, steps, batch, 5 * hidden) if save else None
    for d in range(directions):
        weight_ih, weight_hh, *biases = _effective_weights(weights, scores, d, each, input.dtype)
        bias = biases[0] + biases[1] if biases else None
        gates = functional.linear(x, weight_ih, bias)  # (T, B, 4H), activated in place below
        h, c, transposed = h_n[d], c_n[d], weight_hh.t()
        states = output[:, :, d * hidden :][:, :, :hidden]
        for t in reversed(range(steps)) if d else range(steps):
            n = order.batch_sizes[t]
            if n == 0:
                continue
            gate, state, cell = gates[t], h, c
            if n < batch:
                gate, state, cell = gate[:n], state[:n], cell[:n]
            gate.addmm_(state, transposed)
            i_f, g, o = gate.split((2 * hidden, hidden, hidden), 1)
            i_f.sigmoid_(), g.tanh_(), o.sigmoid_()
            i, f = i_f.split(hidden, 1)
            cell.mul_(f).addcmul_(i, g)
            torch.mul(o, cell.tanh(), out=state)
            states[t, :n] = state
            if saved is not None:
                saved[d, t, :n, 4 * hidden :] = cell
        if saved is not None:
            saved[d, :, :, : 4 * hidden] = gates
    if saved is not None and order.ended is not None:
        saved.masked_fill_(order.ended, 0)
    output = order.unsort(output)
    if batch_first_output:
        output = output.transpose(0, 1).contiguous().transpose(0, 1)
    return output, order.unsort(h_n), order.unsort(c_n), input.new_empty(0) if saved is None else saved.view(-1)


def _previous(states: Tensor, first: Tensor, batch_sizes: list[int], reverse: bool) -> Tensor:
    """The state that each step started from, in sorted order: states (T, B, H), first (B, H) -> (T, B, H)."""
    if not reverse:
        return torch.cat([first[None], states[:-1]])
    before = torch.cat([states[1:], first[None]])
    for t, (now, later) in enumerate(itertools.pairwise(batch_sizes)):
        before[t, later:now] = first[later:now]  # of these sequences t is the last step, where reverse begins
    return before


@torch.no_grad()
@_without_autocast
def masked_lstm_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    input: Tensor,
    output: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    saved: Tensor,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    need_input: bool,
    need_h_0: bool,
    need_c_0: bool,
    need_weights: _Needs,
    need_scores: _Needs,
    clamp: bool = True,
) -> _Gradients:
    """The layer's backward pass.

    Args:
        grad_output, grad_h_n, grad_c_n: gradients of the forward pass's results, in their shapes; None for zeros.
        input, h_0, c_0, weights, scores, lengths: as the forward pass was given them.
        output, saved: as the forward pass returned them.
        need_input, need_h_0, need_c_0, need_weights, need_scores: which gradients are wanted.
        clamp: whether the gradients of scores are clamped to [-1, 1], after the sum over all steps and sequences.

    Returns:
        Gradients of input, h_0 and c_0 and lists of those of weights and scores, None where not wanted. A score's is
        the gradient of the effective weight times the weight (the straight-through estimator of SeaM, Qi et al., ICSE
        2023).
    """
    steps, batch, _ = input.shape
    directions, hidden = direction_count(weights), weights[1].shape[1]
    each = len(weights) // directions
    order = _SortedBatch(lengths, steps, batch, input.device)
    x, output = order.sort_steps(input), order.sort(output)
    saved = saved.view(directions, steps, batch, 5, hidden)
    grad_output = None if grad_output is None else order.sort(grad_output)
    first_h, first_c = (order.sort(_zeros_or(state, input, directions, hidden)) for state in (h_0, c_0))
    grad_h, grad_c = (order.sort(_zeros_or(grad, input, directions, hidden)).clone() for grad in (grad_h_n, grad_c_n))
    grad_input = x.new_zeros(x.shape) if need_input else None
    grad_weights: list[Tensor | None] = [None] * len(weights)
    grad_scores: list[Tensor | None] = [None] * len(weights)
    for d in range(directions):
        weight_ih, weight_hh, *_ = _effective_weights(weights, scores, d, each, input.dtype)
        columns = slice(d * hidden, (d + 1) * hidden)
        i, f, g, o, c = saved[d].unbind(2)  # each (T, B, H)
        c_before = _previous(c, first_c[d], order.batch_sizes, d == 1)
        tanh_c = c.tanh()
        dh_dc = o * (1 - tanh_c * tanh_c)
        # Derivatives of c (for i, f, g) and of h (for o) by the gates before their activations: (T, B, 4, H).
        slopes = torch.stack([g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)], 2)
        gates = torch.zeros_like(slopes)  # the gradient of the loss by the same
        dh, dc = grad_h[d], grad_c[d]
        for t in range(steps) if d else reversed(range(steps)):
            n = order.batch_sizes[t]
            if n == 0:
                continue
            state, cell = (dh, dc) if n == batch else (dh[:n], dc[:n])
            gate = gates[t, :n]
            if grad_output is not None:
                state += grad_output[t, :n, columns]
            cell.addcmul_(state, dh_dc[t, :n])
            torch.mul(cell[:, None], slopes[t, :n, :3], out=gate[:, :3])
            torch.mul(state, slopes[t, :n, 3], out=gate[:, 3])
            torch.mm(gate.flatten(1), weight_hh, out=state)
            cell *= f[t, :n]
        flat = gates.view(steps * batch, 4 * hidden)
        if grad_input is not None:
            grad_input += (flat @ weight_ih).view_as(x)
        for k in range(each):
            at = d * each + k
            if not (need_weights[at] or need_scores[at]):
                continue
            if k == 0:
                grad = flat.t() @ x.reshape(steps * batch, x.shape[2])
            elif k == 1:
                h_before = _previous(output[:, :, columns], first_h[d], order.batch_sizes, d == 1)
                grad = flat.t() @ h_before.reshape(steps * batch, hidden)
            else:
                grad = flat.sum(0)
            score = scores[at]
            if need_scores[at]:
                product = grad * weights[at]
                grad_scores[at] = product.clamp_(-1, 1) if clamp else product
            if need_weights[at]:
                grad_weights[at] = (grad if score is None else grad * (score > 0)).to(weights[at].dtype)
    return (
        None if grad_input is None else order.unsort(grad_input),
        order.unsort(grad_h) if need_h_0 else None,
        order.unsort(grad_c) if need_c_0 else None,
        grad_weights,
        grad_scores,
    )


# -- with autograd ----------------------------------------------------------------------------------------------------


def masked_lstm_layer(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    batch_first_output: bool,
    clamp: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer as autograd records it; arguments as of the two passes above.

    Returns:
        output (T, B, D H), h_n and c_n (D, B, H), differentiable any number of times.
    """
    if requires_grad(input, h_0, c_0, *weights, *scores):
        arguments = lengths, batch_first_output, clamp, len(weights), input, h_0, c_0, *weights, *scores
        output, h_n, c_n = _MaskedLSTMLayer.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        output, h_n, c_n, _ = masked_lstm_forward(input, h_0, c_0, weights, scores, lengths, batch_first_output, False)
    return output, h_n, c_n


class _MaskedLSTMLayer(torch.autograd.Function):
    """The two passes above; where a graph of the gradients is asked for, autograd over the reference instead."""

    @staticmethod
    def forward(
        ctx: Any,
        lengths: Tensor | None,
        batch_first_output: bool,
        clamp: bool,
        count: int,
        input: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, scores = cast(list[Tensor], list(tensors[:count])), list(tensors[count:])
        output, h_n, c_n, saved = masked_lstm_forward(
            input, h_0, c_0, weights, scores, lengths, batch_first_output, True
        )
        ctx.set_materialize_grads(False)
        ctx.count, ctx.lengths, ctx.clamp = count, lengths, clamp
        ctx.save_for_backward(output, saved, input, h_0, c_0, *tensors)
        return output, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        count, needs = ctx.count, ctx.needs_input_grad[4:]
        if all(grad is None for grad in grads):
            return (None,) * (4 + len(needs))
        output, saved, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or transforms.are_batched(grads):  # create_graph; is_grads_batched
            return None, None, None, None, *_differentiable_backward(grads, tensors, needs, ctx)
        input, h_0, c_0, *tensors = tensors
        weights, scores = tensors[:count], tensors[count:]
        need_input, need_h_0, need_c_0 = needs[:3]
        grad_output, grad_h_n, grad_c_n = grads
        *states, grad_weights, grad_scores = masked_lstm_backward(
            grad_output,
            grad_h_n,
            grad_c_n,
            input,
            output,
            h_0,
            c_0,
            saved,
            weights,
            scores,
            ctx.lengths,
            need_input,
            need_h_0,
            need_c_0,
            needs[3 : 3 + count],
            needs[3 + count :],
            clamp=ctx.clamp,
        )
        return None, None, None, None, *states, *grad_weights, *grad_scores


def _differentiable_backward(
    grads: Sequence[Tensor | None], tensors: Sequence[Tensor | None], needs: _Needs, ctx: Any
) -> list[Tensor | None]:
    """The gradients by autograd over the reference, so that they can be differentiated again or be batched.

    Args:
        grads: of output, h_n and c_n.
        tensors: input, h_0, c_0, weights and scores.
        needs: for each of ``tensors`` whether its gradient is wanted.
        ctx: of `_MaskedLSTMLayer`.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs, views = _reference_layer(tensors, ctx)
    given = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [view for view, need in zip(views, needs, strict=True) if view is not None and need]
    # create_graph in any case: without it autograd adds in place, which batched gradients cannot take.
    found = iter(
        torch.autograd.grad(
            [out for out, _ in given], wanted, [grad for _, grad in given], create_graph=True, allow_unused=True
        )
    )
    if not again:  # grad * 1 under no_grad: the same values without the graph
        found = iter([None if grad is None else grad * 1 for grad in found])
    return [next(found) if need else None for need in needs]


def _reference_layer(
    tensors: Sequence[Tensor | None], ctx: Any
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor | None]]:
    """Output, h_n and c_n by the reference, and the views of ``tensors`` that they were computed from.

    Views, because one tensor may be passed as two arguments, whose gradients are to be told apart.
    """
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
    input, h_0, c_0, *rest = views
    weights = cast(list[Tensor], rest[: ctx.count])
    output, (h_n, c_n) = reference.masked_lstm(
        cast(Tensor, input),
        None if h_0 is None or c_0 is None else (h_0, c_0),
        weights,
        rest[ctx.count :],
        bidirectional=direction_count(weights) == 2,
        lengths=ctx.lengths,
        clamp=ctx.clamp,
    )
    return (output, h_n, c_n), views

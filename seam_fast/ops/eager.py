"""One masked LSTM layer in plain tensor operations, its backward worked out by hand.

The same two functions as the compiled kernels have: they run where those do not, and stand between autograd and native
code in the tests. Less work than autograd over the readable loop of ``reference.py``: nothing is computed for rows that
have ended, what does not depend on the step before is computed for all steps at once, and weights get their gradient
from one product over time. Letters: T time steps, B batch, I input size, H hidden size, D directions (1 or 2).
"""

import functools
import itertools

import torch
from torch import Tensor
from torch.nn import functional


def direction_count(weights) -> int:
    """1 or 2, from a layer's flat list of 2 D (no biases) or 4 D tensors."""
    with_biases = len(weights) > 2 and weights[2].dim() == 1
    count, rest = divmod(len(weights), 4 if with_biases else 2)
    if rest or count not in (1, 2):
        raise ValueError(f"weights must hold 2 or 4 tensors for each of 1 or 2 directions, but holds {len(weights)}")
    return count


def _effective(weight: Tensor, score: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (weight if score is None else torch.where(score > 0, weight, 0)).to(dtype)


def _effective_weights(weights, scores, direction: int, each: int, dtype: torch.dtype) -> list[Tensor]:
    ours = slice(direction * each, (direction + 1) * each)
    return [_effective(weight, score, dtype) for weight, score in zip(weights[ours], scores[ours], strict=True)]


class _Rows:
    """Rows in descending order of length: at each step, those that have not ended are the first ``active[t]``."""

    def __init__(self, lengths: Tensor | None, steps: int, batch: int, device):
        self.order = None
        self.active = [batch] * steps
        if lengths is None:
            return
        lengths = lengths.cpu()
        if batch and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
            raise ValueError(
                f"lengths must lie between 0 and the {steps} time steps of input, but they go from "
                f"{int(lengths.min())} to {int(lengths.max())}"
            )
        steps = torch.arange(steps, device="cpu")[:, None]
        self.active = (lengths > steps).sum(1).tolist()
        order = torch.argsort(lengths, descending=True, stable=True)
        self.order = order.to(device)
        self.back = torch.argsort(order).to(device)
        self.ended = (steps >= lengths[order]).to(device)[:, :, None]  # (T, B, 1)

    def sort(self, tensor: Tensor) -> Tensor:
        """(.., B, ..) by rows -> by length; dimension 1 is the batch."""
        return tensor if self.order is None else tensor.index_select(1, self.order)

    def unsort(self, tensor: Tensor) -> Tensor:
        return tensor if self.order is None else tensor.index_select(1, self.back)

    def sort_steps(self, tensor: Tensor) -> Tensor:
        """(T, B, ..) sorted, and zero past each row's end, so that no NaN in the padding reaches a sum."""
        return tensor if self.order is None else self.sort(tensor).masked_fill_(self.ended, 0)


def _zeros_or(state: Tensor | None, like: Tensor, directions: int, hidden: int) -> Tensor:
    return like.new_zeros(directions, like.shape[1], hidden) if state is None else state


def _without_autocast(function):
    """A backward pass runs under whatever autocast its caller has on; what it computes must not depend on that."""

    @functools.wraps(function)
    def wrapped(grad_output, grad_h_n, grad_c_n, input, *rest, **options):
        arguments = grad_output, grad_h_n, grad_c_n, input, *rest
        if input.is_meta or not torch.is_autocast_enabled(input.device.type):
            return function(*arguments, **options)
        with torch.autocast(input.device.type, enabled=False):
            return function(*arguments, **options)

    return wrapped


@torch.no_grad()
def masked_lstm_forward(input, h_0, c_0, weights, scores, lengths, batch_first_output: bool, save: bool):
    """input (T, B, I), h_0 and c_0 (D, B, H) or None, weights and scores in torch's order, lengths (B,) or None.

    Weights and scores may be wider than input, as under autocast; all is computed in input's dtype. Returns output
    (T, B, D H) (in the memory order (B, T, D H) if ``batch_first_output``), h_n and c_n (D, B, H), and what the
    backward needs: D T B 5H elements, or none unless ``save``.
    """
    steps, batch, _ = input.shape
    directions, hidden = direction_count(weights), weights[1].shape[1]
    each = len(weights) // directions
    rows = _Rows(lengths, steps, batch, input.device)
    x = rows.sort_steps(input)
    h_n = rows.sort(_zeros_or(h_0, input, directions, hidden)).clone()
    c_n = rows.sort(_zeros_or(c_0, input, directions, hidden)).clone()
    output = input.new_zeros(steps, batch, directions * hidden)
    saved = input.new_zeros(directions, steps, batch, 5 * hidden) if save else None
    for d in range(directions):
        weight_ih, weight_hh, *biases = _effective_weights(weights, scores, d, each, input.dtype)
        gates = functional.linear(x, weight_ih, sum(biases) if biases else None)  # (T, B, 4H), activated in place below
        h, c, transposed = h_n[d], c_n[d], weight_hh.t()
        states = output[:, :, d * hidden :][:, :, :hidden]
        for t in reversed(range(steps)) if d else range(steps):
            n = rows.active[t]
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
            if save:
                saved[d, t, :n, 4 * hidden :] = cell
        if save:
            saved[d, :, :, : 4 * hidden] = gates
    if save and rows.order is not None:
        saved.masked_fill_(rows.ended, 0)
    output = rows.unsort(output)
    if batch_first_output:
        output = output.transpose(0, 1).contiguous().transpose(0, 1)
    return output, rows.unsort(h_n), rows.unsort(c_n), input.new_empty(0) if saved is None else saved.view(-1)


def _before(states: Tensor, first: Tensor, active: list[int], reverse: bool) -> Tensor:
    """The state that each step began with: states (T, B, H), first (B, H), in the order of `_Rows`."""
    if not reverse:
        return torch.cat([first[None], states[:-1]])
    before = torch.cat([states[1:], first[None]])
    for t, (now, later) in enumerate(itertools.pairwise(active)):
        before[t, later:now] = first[later:now]  # rows whose last step is t begin there
    return before


@torch.no_grad()
@_without_autocast
def masked_lstm_backward(
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
    lengths,
    need_input: bool,
    need_h_0: bool,
    need_c_0: bool,
    need_weights: list[bool],
    need_scores: list[bool],
    clamp: bool = True,
):
    """Gradients (input, h_0, c_0, list of weights, list of scores), None where not needed.

    A gradient of an output may be None. A score's gradient is that of the effective weight times the weight, after
    the sum over all steps and rows clamped to [-1, 1] if ``clamp``.
    """
    steps, batch, _ = input.shape
    directions, hidden = direction_count(weights), weights[1].shape[1]
    each = len(weights) // directions
    rows = _Rows(lengths, steps, batch, input.device)
    x, output = rows.sort_steps(input), rows.sort(output)
    saved = saved.view(directions, steps, batch, 5, hidden)
    grad_output = None if grad_output is None else rows.sort(grad_output)
    begin = [rows.sort(_zeros_or(state, input, directions, hidden)) for state in (h_0, c_0)]
    grad_h, grad_c = (rows.sort(_zeros_or(grad, input, directions, hidden)).clone() for grad in (grad_h_n, grad_c_n))
    grad_input = x.new_zeros(x.shape) if need_input else None
    grad_weights, grad_scores = [None] * len(weights), [None] * len(weights)
    for d in range(directions):
        ours = slice(d * each, (d + 1) * each)
        weight_ih, weight_hh, *_ = _effective_weights(weights, scores, d, each, input.dtype)
        columns = slice(d * hidden, (d + 1) * hidden)
        i, f, g, o, c = saved[d].unbind(2)  # each (T, B, H)
        c_before = _before(c, begin[1][d], rows.active, d == 1)
        tanh_c = c.tanh()
        through = o * (1 - tanh_c * tanh_c)  # what a change of h does to c
        slopes = torch.stack([g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)], 2)
        gates = torch.zeros_like(slopes)  # the gradient before the activations, (T, B, 4, H)
        dh, dc = grad_h[d], grad_c[d]
        for t in range(steps) if d else reversed(range(steps)):
            n = rows.active[t]
            if n == 0:
                continue
            state, cell = (dh, dc) if n == batch else (dh[:n], dc[:n])
            gate = gates[t, :n]
            if grad_output is not None:
                state += grad_output[t, :n, columns]
            cell.addcmul_(state, through[t, :n])
            torch.mul(cell[:, None], slopes[t, :n, :3], out=gate[:, :3])
            torch.mul(state, slopes[t, :n, 3], out=gate[:, 3])
            torch.mm(gate.flatten(1), weight_hh, out=state)
            cell *= f[t, :n]
        flat = gates.view(steps * batch, 4 * hidden)
        if need_input:
            grad_input += (flat @ weight_ih).view_as(x)
        for k in range(each):
            at = ours.start + k
            if not (need_weights[at] or need_scores[at]):
                continue
            if k == 0:
                grad = flat.t() @ x.reshape(steps * batch, x.shape[2])
            elif k == 1:
                h_before = _before(output[:, :, columns], begin[0][d], rows.active, d == 1)
                grad = flat.t() @ h_before.reshape(steps * batch, hidden)
            else:
                grad = flat.sum(0)
            if need_scores[at]:
                product = grad * weights[at]
                grad_scores[at] = product.clamp_(-1, 1) if clamp else product
            if need_weights[at]:
                grad_weights[at] = (grad if scores[at] is None else grad * (scores[at] > 0)).to(weights[at].dtype)
    return (
        rows.unsort(grad_input) if need_input else None,
        rows.unsort(grad_h) if need_h_0 else None,
        rows.unsort(grad_c) if need_c_0 else None,
        grad_weights,
        grad_scores,
    )

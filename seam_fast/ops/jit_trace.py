"""The masked LSTM while ``torch.jit.trace`` or ``torch.onnx.export`` records it: for inference.

The recorded graph consists of torch's own ops, so it runs without seam-fast, and it takes any batch size and, recorded
by ``torch.jit.trace``, any number of steps. Scores get no gradient from it.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from . import reference


def masked_lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    num_layers: int,
    bidirectional: bool,
    lengths: Tensor | None,
    dropout: float,
    training: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``seam_fast.masked_lstm`` in ops that can be recorded.

    Args:
        input: (T, B, I).
        lengths: (B,) int64 or None.
        hx, weights, scores, num_layers, bidirectional, dropout, training: as in ``seam_fast.masked_lstm``.

    Returns:
        ``(output, (h_n, c_n))``, as there.
    """
    weights = [effective(*pair).to(input.dtype) for pair in zip(weights, scores, strict=True)]
    if not torch.jit.is_tracing():  # torch.onnx by torch.export: the loop over steps is unrolled, their number fixed
        return reference.masked_lstm(
            input,
            hx,
            weights,
            [None] * len(weights),
            num_layers=num_layers,
            bidirectional=bidirectional,
            lengths=lengths,
        )
    directions = 2 if bidirectional else 1
    if hx is None:
        hx = (input.new_zeros(num_layers * directions, input.shape[1], weights[1].shape[1]),) * 2
    each = len(weights) // (num_layers * directions)
    if lengths is None:
        options = each == 4, num_layers, dropout, training, bidirectional, False
        output, h_n, c_n = torch._VF.lstm(input, hx, weights, *options)
        return output, (h_n, c_n)
    lengths = lengths.to(input.device)
    direction, output = _scripted_direction(), input
    last: list[tuple[Tensor, Tensor]] = []
    for layer in range(num_layers):
        if layer > 0:
            output = functional.dropout(output, dropout, training)
        results = []
        for n in range(layer * directions, (layer + 1) * directions):
            weight_ih, weight_hh, *biases = weights[n * each : (n + 1) * each]
            bias = biases[0] + biases[1] if biases else None
            results.append(
                direction(output, hx[0][n], hx[1][n], weight_ih, weight_hh, bias, lengths, n % directions == 1)
            )
        output = torch.cat([states for states, _, _ in results], 2)
        last += [(h, c) for _, h, c in results]
    return output, (torch.stack([h for h, _ in last]), torch.stack([c for _, c in last]))


def effective(weight: Tensor, score: Tensor | None) -> Tensor:
    """The weight where it is kept, 0 elsewhere, without a gradient for the score."""
    return weight if score is None else torch.where(score > 0, weight, 0)


def is_recording() -> bool:
    """Whether the call is recorded for inference, by ``torch.jit.trace`` or for ONNX."""
    return torch.jit.is_tracing() or (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export())


@contextlib.contextmanager
def _without_tracer_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


def without_warnings() -> contextlib.AbstractContextManager[None]:
    """Silences the tracer's warnings about sizes read by checks of arguments, which record nothing."""
    return _without_tracer_warnings() if torch.jit.is_tracing() else contextlib.nullcontext()


@functools.cache
def _scripted_direction() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """`_direction` in TorchScript: a trace records the loop itself and not the steps of one example."""
    scripted: Callable[..., tuple[Tensor, Tensor, Tensor]] = torch.jit.script(_direction)
    return scripted


def _direction(
    input: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    lengths: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one layer, as ``reference.lstm_direction``: (T, B, I) -> (T, B, H), last h and c."""
    steps = input.size(0)
    running = (torch.arange(steps, device=input.device).unsqueeze(1) < lengths).unsqueeze(2)  # (T, B, 1)
    projected = functional.linear(torch.where(running, input, torch.zeros_like(input)), weight_ih, bias)
    states = torch.zeros(steps, h.size(0), h.size(1), dtype=input.dtype, device=input.device)
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        i, f, g, o = (projected[t] + h @ weight_hh.t()).chunk(4, 1)
        next_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        next_h = torch.sigmoid(o) * torch.tanh(next_c)
        h, c = torch.where(running[t], next_h, h), torch.where(running[t], next_c, c)
        states[t] = next_h
    return torch.where(running, states, torch.zeros_like(states)), h, c

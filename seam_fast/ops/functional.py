"""The ops as functions: an LSTM, an embedding and a linear layer of the weights that scores keep.

Letters: T time steps, B batch, I input size, H hidden size, L layers, D directions (1 or 2), V words, E embedding size,
O output size. A weight is kept where its score is positive. The gradient of a score is that of the effective weight
times the weight, clamped to [-1, 1] after the sum over all its uses in the call: the clipped straight-through estimator
of SeaM (Qi et al., ICSE 2023).

``clamp``, of every op: whether that clamp takes place here. None: yes, unless the scores are those of a ``ScoreAdam``,
which clamps at its step. A gradient that was clamped here can be neither unscaled nor summed over micro-batches
afterwards. With a ``torch.amp.GradScaler``, or several backward passes a step, use ``ScoreAdam``, or pass False and
clamp the gradients yourself when they are complete and unscaled
(``torch.nn.utils.clip_grad_value_(scores, 1.0)``).
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from . import checks, eager, jit_trace, reference, transforms
from .clamping import clamps_in_op
from .custom_op import SHORT_DTYPES, LayerKernels, choose_kernels, lengths_for
from .reference import binarize

__all__ = ["binarize", "masked_embedding", "masked_linear", "masked_lstm"]

_PLAIN = (Tensor, torch.nn.Parameter)
_LISTS = (list, tuple)
_State = Tensor | None
# One layer: (input, h_0, c_0, weights, scores, lengths, batch_first_output, clamp) -> output, h_n, c_n.
_Layer = Callable[
    [Tensor, _State, _State, Sequence[Tensor], Sequence[Tensor | None], Tensor | None, bool, bool],
    tuple[Tensor, Tensor, Tensor],
]


def masked_lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None] | None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
    backend: str = "auto",
    clamp: bool | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``torch.nn.LSTM`` with the weights ``weight * (score > 0)``, which gives the scores their gradient.

    A weight that is dropped counts as 0, even an infinite one. Under autocast the op computes in autocast's dtype on a
    GPU, as torch's LSTM does, and in the weights' dtype on the CPU. A GPU, too, computes float32 in full precision,
    unless ``torch.backends.cuda.matmul.allow_tf32`` permits less.

    Gradients reach input, hx, scores and those weights that require them; the others cost nothing. A second derivative
    needs ``backend="torch"``.

    ``torch.func`` (grad, vjp, jacrev, vmap, functional_call) works with every backend. Within vmap the compiled kernels
    compute independent calls, which they share among threads, or on a GPU, in float32 and with up to 128 units, among
    the blocks of one launch. Forward mode (jvp, jacfwd) needs ``seam_fast.ops.reference.masked_lstm``.
    ``torch.jit.trace`` records torch's own ops, for inference only.

    Args:
        input: (T, B, I), or (B, T, I) if ``batch_first``, or (T, I) without a batch; T, I at least 1; any strides.
        hx: the first states ``(h_0, c_0)``, each (L * D, B, H), or (L * D, H) without a batch; None: zeros.
        weights: 2 L D or 4 L D tensors in the order of ``torch.nn.LSTM``'s flat list, layer by layer, forward before
            reverse: weight_ih (4H, I), in later layers (4H, D * H), weight_hh (4H, H) and, where there are biases,
            bias_ih (4H,), bias_hh (4H,); gate order i, f, g, o. Of input's dtype; or, with their scores, of float32
            where input is bfloat16 or float16.
        scores: a list as long, each of its weight's shape, None where a weight is not masked; or None: nothing is.
        num_layers, bidirectional, batch_first: as in ``torch.nn.LSTM``.
        lengths: (B,) integers from 0 to T, in any order, or None: all T. After its length a sequence's output is zero,
            and its h_n and c_n are those of its last step (the first states where the length is 0). What stands in the
            padding of ``input`` does not matter. The values of lengths on a GPU are not checked (one outside 0 to T
            counts as the nearer of these), so that the host does not wait; a CUDA graph can only capture a call with
            lengths on the GPU.
        dropout: the probability that an output of a layer is hidden from the next layer, applied if ``training``.
        training: whether dropout is applied.
        backend: ``"auto"``: the compiled kernels of input's device where they are installed (on the CPU for float32 and
            float64, on NVIDIA GPUs also for bfloat16 and float16), plain PyTorch otherwise; ``"cuda"``, ``"cpu"`` or
            ``"torch"``: that one or an error. SEAM_FAST_BACKEND replaces ``"auto"``.
        clamp: whether the gradients of scores are clamped to [-1, 1] here, after the sum over time and batch; None:
            unless a ``ScoreAdam`` has them, which clamps at its step.

    Returns:
        ``(output, (h_n, c_n))``: output (T, B, D * H), (B, T, D * H) or (T, D * H); h_n and c_n shaped like h_0.

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: for wrong shapes, dtypes, devices and numbers; for an input without steps it is a RuntimeError, too,
            as in torch.
        BackendError: (a ValueError) for a backend that cannot be used.
        RuntimeError: within forward-mode differentiation.
    """
    if isinstance(input, torch.fx.Proxy):
        options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first}
        options |= {"lengths": lengths, "dropout": dropout, "training": training, "backend": backend, "clamp": clamp}
        return cast(Any, _recorded(input, masked_lstm, (input, hx, weights, scores), options))
    directions = 2 if bidirectional else 1
    plain = type(num_layers) is int and type(dropout) in (int, float) and lengths is None and type(input) is Tensor
    if plain and num_layers == 1 and dropout == 0 and not _is_intercepted(input):
        found = _fast_path(input, hx, weights, scores, directions, batch_first, backend, clamp)
        if found is not None:
            return found
    if scores is None:
        scores = [None] * len(weights) if hasattr(weights, "__len__") else []
    if isinstance(input, Tensor) and not input.is_meta and torch.is_autocast_enabled(input.device.type):
        _warn_of_scaled_gradients(input.device.type, scores, clamp)
        input, hx = _cast_for_autocast(input, hx, weights)
        with torch.autocast(input.device.type, enabled=False):
            return masked_lstm(
                input,
                hx,
                weights,
                scores,
                num_layers=num_layers,
                bidirectional=bidirectional,
                batch_first=batch_first,
                lengths=lengths,
                dropout=dropout,
                training=training,
                backend=backend,
                clamp=clamp,
            )
    with jit_trace.without_warnings():
        checks.check_lstm(input, hx, weights, scores, num_layers, directions, batch_first, dropout)
    batched = input.dim() == 3
    if not batched:
        input = input.unsqueeze(1)
        hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
    elif batch_first:
        input = input.transpose(0, 1)
    if forward_ad._current_level >= 0:
        _refuse_tangents([input, *(hx or ()), *weights, *scores])
    tracing = torch.compiler.is_compiling() or type(input) not in _PLAIN or is_in_torch_dispatch_mode()
    recording, transformed = jit_trace.is_recording(), transforms.are_active()
    if lengths is not None:
        with jit_trace.without_warnings():
            lengths = checks.read_lengths(lengths, input, batched, tracing or recording)
    clamp = clamps_in_op(clamp, *scores)
    kernels: LayerKernels = eager
    if not tracing:
        kernels = choose_kernels(backend, input)
        lengths = lengths_for(kernels, lengths, input.device)
    weights, scores = list(weights), list(scores)
    if recording:
        output, (h_n, c_n) = jit_trace.masked_lstm(
            input, hx, weights, scores, num_layers, bidirectional, lengths, dropout, training
        )
    elif transformed and (tracing or kernels is eager):
        transforms.refuse_to_be_compiled()
        scores = _one_use_a_call(scores, clamp, input, *(hx or ()), *weights, lengths)
        output, (h_n, c_n) = reference.masked_lstm(
            input,
            hx,
            weights,
            scores,
            num_layers=num_layers,
            bidirectional=bidirectional,
            lengths=lengths,
            dropout=dropout,
            training=training,
            clamp=clamp,
        )
    else:
        compute: _Layer = kernels.masked_lstm_layer
        if tracing:
            compute = functools.partial(_traced_layer, backend)
        elif transformed:
            compute = functools.partial(_transformed_layer, kernels)
        drop = dropout if training else 0.0
        output, h_n, c_n = _by_layers(
            compute, input, hx, weights, scores, lengths, num_layers, directions, drop, batch_first, clamp
        )
    if not batched:
        return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
    return output.transpose(0, 1) if batch_first else output, (h_n, c_n)


def masked_embedding(
    ids: Tensor,
    weight: Tensor,
    score: Tensor | None,
    padding_idx: int | None = None,
    *,
    clamp: bool | None = None,
) -> Tensor:
    """Rows of the masked table ``weight * (score > 0)``.

    Args:
        ids: (...) int64 or int32, from 0 to V - 1.
        weight: (V, E).
        score: (V, E), or None: nothing is masked.
        padding_idx: a row that gets no gradient, as in ``torch.nn.functional.embedding``.
        clamp: as in ``masked_lstm``.

    Returns:
        (..., E).

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: for wrong shapes, dtypes, devices and numbers.
        IndexError: torch's, for an id outside the table.
    """
    if isinstance(ids, torch.fx.Proxy):
        return cast(Tensor, _recorded(ids, masked_embedding, (ids, weight, score, padding_idx), {"clamp": clamp}))
    with jit_trace.without_warnings():
        checks.check_embedding(ids, weight, score, padding_idx)
    if jit_trace.is_recording():
        weight, score = jit_trace.effective(weight, score), None
    return reference.masked_embedding(ids, weight, score, padding_idx, clamps_in_op(clamp, score))


def masked_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    weight_score: Tensor | None = None,
    bias_score: Tensor | None = None,
    *,
    clamp: bool | None = None,
) -> Tensor:
    """``torch.nn.functional.linear`` with the kept weights.

    Args:
        input: (..., I).
        weight: (O, I).
        bias: (O,) or None.
        weight_score, bias_score: of their weights' shapes, or None: not masked.
        clamp: as in ``masked_lstm``.

    Returns:
        (..., O).

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: for wrong shapes, dtypes and devices.
    """
    if isinstance(input, torch.fx.Proxy):
        arguments = input, weight, bias, weight_score, bias_score
        return cast(Tensor, _recorded(input, masked_linear, arguments, {"clamp": clamp}))
    with jit_trace.without_warnings():
        checks.check_linear(input, weight, bias, weight_score, bias_score)
    clamp = clamps_in_op(clamp, weight_score, bias_score)
    if jit_trace.is_recording():
        weight, weight_score = jit_trace.effective(weight, weight_score), None
        bias, bias_score = None if bias is None else jit_trace.effective(bias, bias_score), None
    return reference.masked_linear(input, weight, bias, weight_score, bias_score, clamp)


def _is_intercepted(input: Tensor) -> bool:
    """Whether the call is subject to anything but autograd: autocast, a tracer, a transform, a dispatch mode."""
    return (
        input.is_meta
        or torch.compiler.is_compiling()
        or transforms.are_active()
        or forward_ad._current_level >= 0
        or is_in_torch_dispatch_mode()
        or torch.is_autocast_enabled(input.device.type)
        or jit_trace.is_recording()
    )


def _fast_path(
    input: Tensor,
    hx: Any,
    weights: Any,
    scores: Any,
    directions: int,
    batch_first: bool,
    backend: str,
    clamp: bool | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """One layer by compiled kernels, which check their arguments themselves: `checks` takes longer than a small layer.

    Returns:
        What ``masked_lstm`` returns; or None where compiled kernels are not to be used or an argument is wrong. The
        call then goes the ordinary way, which finds the error and says what it is.
    """
    try:
        kernels = choose_kernels(backend, input)
        if kernels is eager or input.dim() != 3:
            return None
        if type(weights) not in _LISTS or not (scores is None or type(scores) in _LISTS):
            return None
        h_0, c_0 = None, None
        if hx is not None:
            h_0, c_0 = hx
            if type(hx) not in _LISTS or h_0 is None or c_0 is None:
                return None
        scores = [None] * len(weights) if scores is None else scores
        clamp = clamps_in_op(clamp, *scores)
        if batch_first:
            input = input.transpose(0, 1)
        output, h_n, c_n = kernels.masked_lstm_layer(input, h_0, c_0, weights, scores, None, batch_first, clamp)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None
    if len(h_n) != directions:  # the weights are those of another number of directions
        return None
    return output.transpose(0, 1) if batch_first else output, (h_n, c_n)


def _recorded(
    proxy: torch.fx.Proxy, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> torch.fx.Proxy:
    """A call as one node of the graph that ``torch.fx.symbolic_trace`` records."""
    return proxy.tracer.create_proxy("call_function", function, arguments, options)


def _warn_of_scaled_gradients(device_type: str, scores: Any, clamp: bool | None) -> None:
    """Warns under float16 autocast, which needs a GradScaler, where scaled gradients would be clamped."""
    if torch.get_autocast_dtype(device_type) is not torch.float16 or clamp is not None or not torch.is_grad_enabled():
        return
    given = [score for score in scores if isinstance(score, Tensor)] if isinstance(scores, (list, tuple)) else []
    if any(score.requires_grad for score in given) and clamps_in_op(None, *given):
        warnings.warn(
            "masked_lstm clamps the gradients of these scores to [-1, 1] while they are still scaled, if a GradScaler "
            "is used, as float16 asks for: train the scores by seam_fast.ScoreAdam, which clamps unscaled gradients, "
            "or pass clamp=False and clamp them yourself (clamp=True: no scaler is used)",
            stacklevel=3,
        )


def _cast_for_autocast(input: Tensor, hx: Any, weights: Any) -> tuple[Tensor, Any]:
    """Input and states in autocast's dtype on a GPU, elsewhere in the weights' dtype; float64 is left as it is."""

    def cast_one(tensor: Any) -> Any:
        narrow = isinstance(tensor, Tensor) and tensor.dtype in (*SHORT_DTYPES, torch.float32)
        return tensor.to(dtype) if narrow else tensor

    if not isinstance(weights, (list, tuple)) or not weights or not isinstance(weights[0], Tensor):
        return input, hx
    dtype = weights[0].dtype
    if input.device.type == "cuda" and dtype in (*SHORT_DTYPES, torch.float32):
        dtype = torch.get_autocast_dtype("cuda")
    return cast_one(input), tuple(map(cast_one, hx)) if isinstance(hx, (list, tuple)) else hx


def _refuse_tangents(tensors: Iterable[Tensor | None]) -> None:
    """Raises RuntimeError for tangents of forward-mode differentiation, which the kernels would drop."""
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(transforms.FORWARD_MODE)


# -- layer by layer ---------------------------------------------------------------------------------------------------


def _by_layers(
    compute: _Layer,
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: list[Tensor],
    scores: list[Tensor | None],
    lengths: Tensor | None,
    num_layers: int,
    directions: int,
    dropout: float,
    batch_first: bool,
    clamp: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """output (T, B, D * H), h_n and c_n (L * D, B, H) of all layers, each by ``compute``."""
    h_0, c_0 = (None, None) if hx is None else hx
    each = len(weights) // num_layers  # tensors of a layer
    output, last_h, last_c = input, [], []
    for layer in range(num_layers):
        if layer > 0 and dropout > 0:
            output = functional.dropout(output, dropout)
        output, h_n, c_n = compute(
            output,
            h_0 if h_0 is None or num_layers == 1 else h_0[layer * directions : (layer + 1) * directions],
            c_0 if c_0 is None or num_layers == 1 else c_0[layer * directions : (layer + 1) * directions],
            weights[layer * each : (layer + 1) * each],
            scores[layer * each : (layer + 1) * each],
            lengths,
            batch_first and layer == num_layers - 1,
            clamp,
        )
        last_h.append(h_n)
        last_c.append(c_n)
    return output, *((last_h[0], last_c[0]) if num_layers == 1 else (torch.cat(last_h), torch.cat(last_c)))


def _one_use_a_call(scores: list[Tensor | None], clamp: bool, *others: Tensor | None) -> list[Tensor | None]:
    """The same scores, but batched by vmap if it batches any of the ``others``.

    The entries of vmap's batch are independent calls. The gradient of a score that they share is the sum of gradients
    clamped call by call, and not the clamp of their sum, so each call needs a copy of the score.
    """
    if not clamp:
        return scores
    flags = [torch.ones_like(tensor.flatten()[:1], dtype=torch.bool) for tensor in others if tensor is not None]
    flag = functools.reduce(torch.logical_and, flags)
    return [None if score is None else torch.where(flag.view((1,) * score.dim()), score, score) for score in scores]


def _traced_layer(
    backend: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    _: bool,
    clamp: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer as one node of a traced graph (``custom_op.py``)."""
    save = eager.requires_grad(input, h_0, c_0, *weights, *scores)
    masked = [score is not None for score in scores]
    given = [score for score in scores if score is not None]
    options = masked, lengths, save, backend, clamp
    output, h_n, c_n, _saved = torch.ops.seam_fast.masked_lstm_layer(input, h_0, c_0, weights, given, *options)
    return output, h_n, c_n


def _transformed_layer(
    kernels: LayerKernels,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    _: bool,
    clamp: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer by compiled kernels within ``torch.func``."""
    compiled = cast(Any, kernels)  # plain PyTorch, which needs no such function, does not come here
    output, h_n, c_n = compiled.masked_lstm_layer_transformed(input, h_0, c_0, weights, scores, lengths, clamp)
    return output, h_n, c_n

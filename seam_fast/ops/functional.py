"""The ops, for use without the rest: an LSTM, an embedding and a linear layer of the weights that scores keep.

Letters: T time steps, B batch, I input size, H hidden size, L layers, D directions (1 or 2). A weight is kept where its
score is positive; the gradient of a score is that of the effective weight times the weight, clamped to [-1, 1] after
the sum over all its uses in the call (the clipped straight-through estimator of SeaM, Qi et al., ICSE 2023).

``clamp``, of every op: whether that clamp takes place here. None: yes, unless the scores are those of a ``ScoreAdam``,
which clamps at its step. What was clamped here can be neither scaled nor summed over micro-batches afterwards; so with
a ``torch.amp.GradScaler``, or several backward passes a step, use ``ScoreAdam``, or pass False and clamp the gradients
yourself when they are complete and unscaled (``torch.nn.utils.clip_grad_value_(scores, 1.0)``).
"""

import functools
import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from . import eager, jit_trace, reference, transforms
from .clamping import clamps_in_op
from .custom_op import SHORT_DTYPES, choose_kernels, lengths_for
from .reference import binarize

__all__ = ["binarize", "masked_embedding", "masked_linear", "masked_lstm"]

_PLAIN = (Tensor, torch.nn.Parameter)
_LISTS = (list, tuple)


class NoStepsError(ValueError, RuntimeError):
    """An input without time steps: torch's LSTM raises RuntimeError there, and it is a bad argument like others."""


def masked_lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: list[Tensor],
    scores: list[Tensor | None] | None,
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

    Args:
        input: (T, B, I), or (B, T, I) if ``batch_first``, or (T, I) without a batch; T, I at least 1; any strides.
        hx: the first states ``(h_0, c_0)``, each (L * D, B, H), or (L * D, H) without a batch; None: zeros.
        weights: 2 L D or 4 L D tensors in the order of ``torch.nn.LSTM``'s flat list, layer by layer, forward before
            reverse: weight_ih (4H, I), in later layers (4H, D * H), weight_hh (4H, H) and, where there are biases,
            bias_ih (4H,), bias_hh (4H,); gate order i, f, g, o. Of input's dtype; or, with their scores, of float32
            where input is bfloat16 or float16.
        scores: a list as long, each of its weight's shape, None where a weight is not masked; or None: nothing is.
        num_layers, bidirectional, batch_first: as in ``torch.nn.LSTM``.
        lengths: (B,) integers from 0 to T, in any order, or None: all T. Past its length a row's output is zero, and
            its h_n and c_n are those at its last step (the first states where the length is 0). What stands in the
            padding of ``input`` does not matter. Lengths on a GPU are used without being looked at (one outside 0 to
            T counts as the nearer of these), so that nothing waits; a CUDA graph can record a call with such only.
        dropout: share of a layer's output that the next layer does not see, applied if ``training``.
        backend: ``"auto"``: the compiled kernels of input's device where they are installed (on the CPU for float32 and
            float64, on NVIDIA GPUs also for bfloat16 and float16), plain PyTorch otherwise; ``"cuda"``, ``"cpu"`` or
            ``"torch"``: that one or an error. SEAM_FAST_BACKEND replaces ``"auto"``.
        clamp: whether the gradients of scores are clamped to [-1, 1] here; None: unless a ``ScoreAdam`` has them, which
            clamps at its step (see the head of this module).

    Returns:
        ``(output, (h_n, c_n))``: output (T, B, D * H), (B, T, D * H) or (T, D * H); h_n and c_n shaped like h_0.

    A weight that is dropped counts as 0, even an infinite one. Under autocast the op computes in autocast's dtype on a
    GPU, as torch's LSTM does, and in the weights' dtype on the CPU. A GPU, too, computes float32 in full precision,
    unless ``torch.backends.cuda.matmul.allow_tf32`` permits less.

    Gradients reach input, hx, scores and those weights that require them; what does not require one costs nothing. The
    clamp of a score's gradient comes after the sum over time and batch. A second derivative needs ``backend="torch"``.

    ``torch.func`` (grad, vjp, jacrev, vmap, functional_call) works with every backend: plain PyTorch is transformed as
    it is; of vmap compiled kernels see independent calls, which they share among threads, or on a GPU, float32 and up
    to 128 units, among the blocks of one launch. Forward mode (jvp, jacfwd)
    needs ``seam_fast.ops.reference.masked_lstm``. ``torch.jit.trace`` records torch's own ops, for inference only.

    Raises ValueError or TypeError, in one sentence with the argument's name, what is expected and what came.
    """
    if isinstance(input, torch.fx.Proxy):
        options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first}
        options |= {"lengths": lengths, "dropout": dropout, "training": training, "backend": backend, "clamp": clamp}
        return _recorded(input, masked_lstm, (input, hx, weights, scores), options)
    directions = 2 if bidirectional else 1
    plain = type(num_layers) is int and type(dropout) in (int, float) and lengths is None and type(input) is Tensor
    if plain and num_layers == 1 and dropout == 0 and not _watched(input):
        found = _at_once(input, hx, weights, scores, directions, batch_first, backend, clamp)
        if found is not None:
            return found
    if scores is None and hasattr(weights, "__len__"):
        scores = [None] * len(weights)
    if isinstance(input, Tensor) and not input.is_meta and torch.is_autocast_enabled(input.device.type):
        _warn_of_scaled_gradients(input.device.type, scores, clamp)
        input, hx = _as_autocast_wants(input, hx, weights)
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
        _check(input, hx, weights, scores, num_layers, directions, batch_first, dropout)
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
            lengths = _read_lengths(lengths, input, batched, tracing or recording)
    clamp = clamps_in_op(clamp, *scores)
    kernels = None
    if not tracing:
        kernels = choose_kernels(backend, input)
        lengths = lengths_for(kernels, lengths, input.device)
    weights, scores = list(weights), list(scores)
    if recording:
        arguments = input, hx, weights, scores, num_layers, bidirectional, lengths, dropout, training
        output, (h_n, c_n) = jit_trace.masked_lstm(*arguments)
    elif transformed and (tracing or kernels is eager):
        transforms.refuse_to_be_compiled()
        scores = _one_use_a_call(scores, clamp, input, *(hx or ()), *weights, lengths)
        sizes = {"num_layers": num_layers, "bidirectional": bidirectional}
        options = {"lengths": lengths, "dropout": dropout, "training": training, "clamp": clamp}
        output, (h_n, c_n) = reference.masked_lstm(input, hx, weights, scores, **sizes, **options)
    else:
        compute = _layer
        if tracing:
            compute, kernels = _traced_layer, backend
        elif transformed:
            compute = _transformed_layer
        drop = dropout if training else 0.0
        output, h_n, c_n = _by_layers(
            compute, input, hx, weights, scores, lengths, num_layers, directions, drop, batch_first, kernels, clamp
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
    """Rows of the masked table.

    ids (...) integers from 0 to V - 1; weight (V, E); score (V, E) or None; padding_idx: a row that gets no gradient,
    as in torch; clamp: as in ``masked_lstm``. Returns (..., E). Raises ValueError or TypeError in one sentence, and
    torch's IndexError for an id that is not one of the V.
    """
    if isinstance(ids, torch.fx.Proxy):
        return _recorded(ids, masked_embedding, (ids, weight, score, padding_idx), {"clamp": clamp})
    with jit_trace.without_warnings():
        _check_embedding(ids, weight, score, padding_idx)
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
    """A linear layer of the kept weights.

    input (..., I), weight (O, I), bias (O,) or None, scores of their weights' shapes or None; clamp: as in
    ``masked_lstm``. Returns (..., O). Raises ValueError or TypeError in one sentence.
    """
    if isinstance(input, torch.fx.Proxy):
        arguments = input, weight, bias, weight_score, bias_score
        return _recorded(input, masked_linear, arguments, {"clamp": clamp})
    with jit_trace.without_warnings():
        _check_linear(input, weight, bias, weight_score, bias_score)
    clamp = clamps_in_op(clamp, weight_score, bias_score)
    if jit_trace.is_recording():
        weight, weight_score = jit_trace.effective(weight, weight_score), None
        bias, bias_score = None if bias is None else jit_trace.effective(bias, bias_score), None
    return reference.masked_linear(input, weight, bias, weight_score, bias_score, clamp)


def _watched(input: Tensor) -> bool:
    """Whether somebody asks for more than numbers and gradients: autocast, a tracer, a transform."""
    return (
        input.is_meta
        or torch.compiler.is_compiling()
        or transforms.are_active()
        or forward_ad._current_level >= 0
        or is_in_torch_dispatch_mode()
        or torch.is_autocast_enabled(input.device.type)
        or jit_trace.is_recording()
    )


def _at_once(input, hx, weights, scores, directions, batch_first, backend, clamp):
    """One layer by compiled kernels, which check what they are given: of a small layer the checks below, tensor by
    tensor, take longer than its steps. None where these kernels are not to be used, or anything is wrong, which is
    then found, and said, by the way that all other calls go.
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


def _recorded(proxy, function, arguments, options):
    """A call as one node of the graph that ``torch.fx.symbolic_trace`` records."""
    return proxy.tracer.create_proxy("call_function", function, arguments, options)


def _warn_of_scaled_gradients(device_type: str, scores, clamp: bool | None) -> None:
    """Float16 asks for a GradScaler, whose scaled gradients must not meet the clamp."""
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


def _as_autocast_wants(input, hx, weights):
    """Input and states in autocast's dtype on a GPU; elsewhere in the weights' dtype, if they are shorter."""

    def fitting(tensor):
        short = isinstance(tensor, Tensor) and tensor.dtype in (*SHORT_DTYPES, torch.float32)
        return tensor.to(dtype) if short else tensor

    if not isinstance(weights, (list, tuple)) or not weights or not isinstance(weights[0], Tensor):
        return input, hx
    dtype = weights[0].dtype
    if input.device.type == "cuda" and dtype in (*SHORT_DTYPES, torch.float32):
        dtype = torch.get_autocast_dtype("cuda")
    return fitting(input), tuple(map(fitting, hx)) if isinstance(hx, (list, tuple)) else hx


def _refuse_tangents(tensors) -> None:
    """Within forward-mode differentiation, which the kernels do not know: they would drop the tangents."""
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(transforms.FORWARD_MODE)


# -- one layer --------------------------------------------------------------------------------------------------------


def _tracked(*tensors) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _by_layers(
    compute, input, hx, weights, scores, lengths, num_layers, directions, dropout, batch_first, kernels, clamp
):
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
            kernels,
            clamp,
        )
        last_h.append(h_n)
        last_c.append(c_n)
    return output, *((last_h[0], last_c[0]) if num_layers == 1 else (torch.cat(last_h), torch.cat(last_c)))


def _layer(input, h_0, c_0, weights, scores, lengths, batch_first_output, kernels, clamp):
    if kernels is not eager:  # compiled: with autograd of its own
        return kernels.masked_lstm_layer(input, h_0, c_0, weights, scores, lengths, batch_first_output, clamp)
    if _tracked(input, h_0, c_0, *weights, *scores):
        settings = lengths, batch_first_output, clamp, len(weights)
        return _MaskedLSTMLayer.apply(*settings, input, h_0, c_0, *weights, *scores)
    return kernels.masked_lstm_forward(input, h_0, c_0, weights, scores, lengths, batch_first_output, False)[:3]


def _one_use_a_call(scores, clamp: bool, *others):
    """The scores; where vmap makes several calls of one, each has a copy: it is a use of its own, clamped alone."""
    if not clamp:
        return scores
    flags = [torch.ones_like(tensor.flatten()[:1], dtype=torch.bool) for tensor in others if tensor is not None]
    flag = functools.reduce(torch.logical_and, flags)
    return [None if score is None else torch.where(flag.view((1,) * score.dim()), score, score) for score in scores]


def _traced_layer(input, h_0, c_0, weights, scores, lengths, _, backend, clamp):
    save = _tracked(input, h_0, c_0, *weights, *scores)
    masked = [score is not None for score in scores]
    given = [score for score in scores if score is not None]
    options = masked, lengths, save, backend, clamp
    return torch.ops.seam_fast.masked_lstm_layer(input, h_0, c_0, weights, given, *options)[:3]


def _transformed_layer(input, h_0, c_0, weights, scores, lengths, _, kernels, clamp):
    return kernels.masked_lstm_layer_transformed(input, h_0, c_0, weights, scores, lengths, clamp)


class _MaskedLSTMLayer(torch.autograd.Function):
    """One layer in plain tensor operations, differentiable again where a graph of the gradients is asked for."""

    @staticmethod
    def forward(ctx, lengths, batch_first_output, clamp, count, input, h_0, c_0, *tensors):
        weights, scores = list(tensors[:count]), list(tensors[count:])
        output, h_n, c_n, saved = eager.masked_lstm_forward(
            input, h_0, c_0, weights, scores, lengths, batch_first_output, True
        )
        ctx.set_materialize_grads(False)
        ctx.count, ctx.lengths, ctx.clamp = count, lengths, clamp
        ctx.save_for_backward(output, saved, input, h_0, c_0, *tensors)
        return output, h_n, c_n

    @staticmethod
    def backward(ctx, *grads):
        count, needs = ctx.count, ctx.needs_input_grad[4:]
        if all(grad is None for grad in grads):
            return (None,) * (4 + len(needs))
        output, saved, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or transforms.are_batched(grads):  # create_graph; is_grads_batched
            return None, None, None, None, *_differentiable_backward(grads, tensors, needs, ctx)
        input, h_0, c_0, *tensors = tensors
        weights, scores = tensors[:count], tensors[count:]
        *states, grad_weights, grad_scores = eager.masked_lstm_backward(
            *grads,
            *(input, output, h_0, c_0, saved, weights, scores, ctx.lengths),
            *needs[:3],
            needs[3 : 3 + count],
            needs[3 + count :],
            clamp=ctx.clamp,
        )
        return None, None, None, None, *states, *grad_weights, *grad_scores


def _differentiable_backward(grads, tensors, needs, ctx):
    """The gradients by autograd over the readable twin, so that they can be differentiated again, or batched."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs, slots = _twin(tensors, ctx)
    given = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    outputs, cotangents = zip(*given, strict=True)
    wanted = [row_of_id for row_of_id, need in zip(slots, needs, strict=True) if need]
    # With a graph in any case: without one, autograd adds in place, which batched gradients do not stand.
    found = torch.autograd.grad(outputs, wanted, cotangents, create_graph=True, allow_unused=True)
    found = iter(found if again else [None if grad is None else grad * 1 for grad in found])  # * 1: off the graph
    return [next(found) if need else None for need in needs]


def _twin(tensors, ctx):
    """Output, h_n and c_n once more, and views of the tensors that they were formed from."""
    slots = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]  # a tensor may stand in two
    input, h_0, c_0, *rest = slots
    output, states = reference.masked_lstm(
        input,
        None if h_0 is None else (h_0, c_0),
        rest[: ctx.count],
        rest[ctx.count :],
        bidirectional=eager.direction_count(rest[: ctx.count]) == 2,
        lengths=ctx.lengths,
        clamp=ctx.clamp,
    )
    return (output, *states), slots


# -- checks of arguments ----------------------------------------------------------------------------------------------


def _kind(value) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"


def _of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _check_tensor(name, tensor, shape, dtype, device, like="input") -> None:
    """Raises unless it is a dense tensor of that shape (None: any), dtype and device."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, but is {_kind(tensor)}")
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, but has {_of(tensor)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} like {like}, but is {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device} like {like}, but is on {tensor.device}")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor (torch.strided), but is {tensor.layout}")


def _suits(tensor, shape, dtype, device) -> bool:
    """Whether `_check_tensor` would be content, for callers that should not build a name at every call."""
    return (
        isinstance(tensor, Tensor)
        and tensor.shape == shape
        and tensor.dtype is dtype
        and tensor.device == device
        and tensor.layout is torch.strided
    )


def _check_floating(name, tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, but is {_kind(tensor)}")
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{name} must have a floating dtype, but is {tensor.dtype}")


def _check_weight(name, weight, dims, score_name, score) -> None:
    _check_floating(name, weight)
    _check_tensor(name, weight, None, weight.dtype, weight.device)
    if weight.dim() != dims:
        raise ValueError(f"{name} must have {dims} dimension{'s' * (dims > 1)}, but its shape is {_of(weight)}")
    if score is not None:
        _check_tensor(score_name, score, weight.shape, weight.dtype, weight.device, name)


def _check_embedding(ids, weight, score, padding_idx) -> None:
    _check_weight("weight", weight, 2, "score", score)
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"ids must be a tensor of int64 or int32, but is {_kind(ids)}")
    if padding_idx is not None and not -len(weight) <= padding_idx < len(weight):
        raise ValueError(f"padding_idx must be one of the {len(weight)} rows of weight, but is {padding_idx}")


def _check_linear(input, weight, bias, weight_score, bias_score) -> None:
    _check_weight("weight", weight, 2, "weight_score", weight_score)
    _check_tensor("input", input, None, weight.dtype, weight.device, "weight")
    if input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(f"input must have {weight.shape[1]} columns, as weight has, but its shape is {_of(input)}")
    if bias is not None:
        _check_weight("bias", bias, 1, "bias_score", bias_score)
        _check_tensor("bias", bias, (len(weight),), weight.dtype, weight.device, "weight")
    elif bias_score is not None:
        raise ValueError("bias_score must be None where bias is None, but is a tensor")


def _weight_name(index, each, directions) -> str:
    """``weights[5] (weight_hh_l0_reverse)``: each is the number of tensors of a layer and direction."""
    cell = index // each
    part = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[index % each]
    return f"{part}_l{cell // directions}{'_reverse' * (cell % directions)}"


def _check(input, hx, weights, scores, num_layers, directions, batch_first, dropout) -> None:
    """Runs at every call: only what fails builds its sentence."""
    if not isinstance(input, Tensor) or not input.dtype.is_floating_point:
        _check_floating("input", input)
    dims, dtype, device = input.dim(), input.dtype, input.device
    if input.layout is not torch.strided:
        _check_tensor("input", input, None, dtype, device)
    if dims not in (2, 3):
        order = "(B, T, I)" if batch_first else "(T, B, I)"
        raise ValueError(f"input must have shape {order} or (T, I), but its shape is {_of(input)}")
    if not isinstance(num_layers, int):
        raise TypeError(f"num_layers must be an int, but is {_kind(num_layers)}")
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, but is {num_layers}")
    if not isinstance(dropout, (int, float)):
        raise TypeError(f"dropout must be a number, but is {_kind(dropout)}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must lie between 0 and 1, but is {dropout}")
    steps = input.shape[1 if batch_first and dims == 3 else 0]
    features = input.shape[-1]
    if steps == 0 or features == 0:
        what, kind = ("time step", NoStepsError) if steps == 0 else ("feature", ValueError)
        raise kind(f"input must have at least one {what}, but its shape is {_of(input)}")

    for name, group in (("weights", weights), ("scores", scores)):
        if isinstance(group, Tensor) or not hasattr(group, "__len__") or isinstance(group, (dict, str)):
            raise TypeError(f"{name} must be a list of tensors, but is {_kind(group)}")
    cells = num_layers * directions
    each = len(weights) // cells
    if each * cells != len(weights) or each not in (2, 4):
        raise ValueError(
            f"weights must have {2 * cells} tensors, or {4 * cells} with biases, for num_layers {num_layers} and "
            f"{directions} direction{'s' * (directions > 1)}, but has {len(weights)}"
        )
    if len(scores) != len(weights):
        raise ValueError(f"scores must have {len(weights)} entries, one for each weight, but has {len(scores)}")
    if not isinstance(weights[1], Tensor) or weights[1].dim() != 2 or weights[1].shape[1] == 0:
        raise (ValueError if isinstance(weights[1], Tensor) else TypeError)(
            f"weights[1] (weight_hh_l0) must be a tensor of shape (4H, H), H at least 1, but is "
            f"{_of(weights[1]) if isinstance(weights[1], Tensor) else _kind(weights[1])}"
        )
    hidden = weights[1].shape[1]
    shapes = ((4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))[:each]
    expected = shapes * directions
    if num_layers > 1:
        expected += (((4 * hidden, directions * hidden), *shapes[1:]) * directions) * (num_layers - 1)
    wide = dtype in SHORT_DTYPES and weights[1].dtype == torch.float32  # as under autocast
    kind, like = (torch.float32, "weights[1]") if wide else (dtype, "input")
    for index, (weight, score, shape) in enumerate(zip(weights, scores, expected, strict=True)):
        if not _suits(weight, shape, kind, device):
            name = f"weights[{index}] ({_weight_name(index, each, directions)})"
            _check_tensor(name, weight, shape, kind, device, like)
        if score is not None and not _suits(score, shape, kind, device):
            name = f"scores[{index}] (of {_weight_name(index, each, directions)})"
            _check_tensor(name, score, shape, kind, device, like)

    if hx is not None:
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            what = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else _kind(hx)
            raise TypeError(f"hx must be a pair of tensors (h_0, c_0) or None, but is {what}")
        shape = (cells, hidden) if dims == 2 else (cells, input.shape[0 if batch_first else 1], hidden)
        for name, state in zip(("hx[0] (h_0)", "hx[1] (c_0)"), hx, strict=True):
            _check_tensor(name, state, shape, dtype, device)


def _read_lengths(lengths, input, batched, unseen) -> Tensor | None:
    """(B,) int64, on the CPU or where they are on a GPU; None where no row is short, as far as that can be seen."""
    if not isinstance(lengths, Tensor):
        if not isinstance(lengths, (list, tuple)) or not all(isinstance(length, int) for length in lengths):
            raise TypeError(f"lengths must be a tensor of integers or None, but is {_kind(lengths)}")
        lengths = torch.tensor(lengths, dtype=torch.int64, device="cpu")
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be a tensor of integers or None, but is {_kind(lengths)}")
    if not batched:
        raise ValueError("lengths must be None for an input without a batch, but is a tensor; cut the input instead")
    steps, batch, _ = input.shape
    if lengths.dim() != 1 or lengths.shape[0] != batch:
        raise ValueError(f"lengths must have shape ({batch},), one for each row of the batch, but has {_of(lengths)}")
    place = lengths.device if lengths.device == input.device else "cpu"
    lengths = lengths.to(place, torch.int64, copy=True).contiguous()  # the backward needs them as they are now
    if unseen or lengths.is_cuda or transforms.is_wrapped(lengths):  # no values yet: the op itself checks them
        return lengths
    values = lengths.tolist()
    if values and (min(values) < 0 or max(values) > steps):
        worst = min(values) if min(values) < 0 else max(values)
        raise ValueError(f"lengths must lie between 0 and the {steps} time steps of input, but one is {worst}")
    return lengths if values and min(values) < steps else None

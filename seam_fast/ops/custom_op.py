"""One masked LSTM layer as a ``torch.library`` op, for ``torch.compile``, ``torch.export`` and dispatch modes.

Eager calls do not come here (a Python custom op costs more per call than a short LSTM); those that trace do, so that
one node stands for the whole loop over time. It works with and without the extension: the kernels are chosen when the
op runs, not when it is traced.
"""

import torch
from torch import Tensor

from .. import _ext
from ..backend import choose_backend, is_supported_gpu, resolve, warn_if_slow
from . import eager

FULL_DTYPES = (torch.float32, torch.float64)
SHORT_DTYPES = (torch.bfloat16, torch.float16)
# What the compiled kernels of each kind of device take.
NATIVE_DTYPES = {"cpu": FULL_DTYPES, "cuda": FULL_DTYPES + SHORT_DTYPES}


def choose_kernels(backend: str, input: Tensor):
    """The module with ``masked_lstm_forward`` and ``masked_lstm_backward`` for a wish and an input.

    Raises BackendError (a ValueError) for a backend that is not there and ValueError for one that cannot take input.
    """
    requested, kind = resolve(backend), input.device.type
    if requested == "torch":
        return eager
    compiled = _ext.C is not None and (kind == "cpu" or (kind == "cuda" and _ext.built_with_cuda))
    if kind == "cuda" and compiled:
        compiled = is_supported_gpu(input.device.index or 0)
    if compiled and input.dtype in NATIVE_DTYPES[kind] and requested in ("auto", kind):
        return _ext.C
    if requested != "auto":
        choose_backend(requested)  # which says why it cannot be used at all
    if backend == "auto":
        warn_if_slow(gpu=kind == "cuda")
        return eager
    takes = {"cpu": "float32 and float64 tensors on the CPU", "cuda": "floating tensors on a GPU"}[requested]
    raise ValueError(
        f"backend {requested!r} takes {takes}, but input is {input.dtype} on {input.device}; choose 'auto' or 'torch'"
    )


def lengths_for(kernels, lengths: Tensor | None, device: torch.device) -> Tensor | None:
    """Lengths where the kernels read them; the copy to a GPU makes nobody wait. ValueError within a CUDA graph."""
    if lengths is None or kernels is eager or lengths.device == device:
        return lengths
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # it would read them again at each replay
        raise ValueError(f"lengths must be on {device} while a CUDA graph records, but are on {lengths.device}")
    return lengths.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else lengths.to(device)


def saved_per_unit(backend: str, input: Tensor) -> int:
    """Elements that a forward pass saves for each step, row and unit: four gates and a cell state.

    The CUDA kernels keep cell states in float32; beside gates of 16 bits each counts twice.
    """
    short = input.dtype in SHORT_DTYPES and input.device.type == "cuda"
    return 6 if short and choose_kernels(backend, input) is not eager else 5


def choose_kernels_module(backend: str):
    """The extension for a wish, or None where plain PyTorch is to be used. Raises BackendError as `choose_backend`."""
    return None if choose_backend(backend) == "torch" else _ext.C


def _with_gaps(scores: list[Tensor], masked: list[bool]) -> list[Tensor | None]:
    if len(scores) != sum(masked):
        raise ValueError(f"scores must hold {sum(masked)} tensors, as many as masked says, but holds {len(scores)}")
    found = iter(scores)
    return [next(found) if has_score else None for has_score in masked]


def _layer_forward(input, h_0, c_0, weights, scores, masked, lengths, save, backend, clamp=True):
    kernels = choose_kernels(backend, input)
    scores = _with_gaps(scores, masked)
    lengths = lengths_for(kernels, lengths, input.device)
    output, h_n, c_n, saved = kernels.masked_lstm_forward(input, h_0, c_0, weights, scores, lengths, False, save)
    # Rows that have ended leave their share unwritten on the CPU.
    if save and lengths is not None and kernels is _ext.C and input.device.type == "cpu":
        used = int(lengths.sum()) * 5 * weights[1].shape[1]
        saved.view(eager.direction_count(weights), -1)[:, used:] = 0
    return output, h_n, c_n, saved


def _layer_forward_fake(input, h_0, c_0, weights, scores, masked, lengths, save, backend, clamp=True):
    steps, batch, _ = input.shape
    directions, hidden = eager.direction_count(weights), weights[1].shape[1]
    return (
        input.new_empty(steps, batch, directions * hidden),
        input.new_empty(directions, batch, hidden),
        input.new_empty(directions, batch, hidden),
        input.new_empty(directions * steps * batch * saved_per_unit(backend, input) * hidden if save else 0),
    )


def _layer_backward(
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
    masked,
    lengths,
    needs,
    backend,
    clamp=True,
):
    """The gradients that `needs` asks for, of input, h_0, c_0, weights and scores, in this order and without gaps."""
    if len(needs) != 3 + len(weights) + len(scores):
        raise ValueError(f"needs must have {3 + len(weights) + len(scores)} entries, but has {len(needs)}")
    need_scores = iter(needs[3 + len(weights) :])
    kernels = choose_kernels(backend, input)
    lengths = lengths_for(kernels, lengths, input.device)
    *states, grad_weights, grad_scores = kernels.masked_lstm_backward(
        grad_output,
        grad_h_n,
        grad_c_n,
        input,
        output,
        h_0,
        c_0,
        saved,
        weights,
        _with_gaps(scores, masked),
        lengths,
        *needs[:3],
        needs[3 : 3 + len(weights)],
        [has_score and next(need_scores) for has_score in masked],
        clamp=clamp,
    )
    return [grad.contiguous() for grad in (*states, *grad_weights, *grad_scores) if grad is not None]


def _layer_backward_fake(
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
    masked,
    lengths,
    needs,
    backend,
    clamp=True,
):
    tensors = (input, h_0, c_0, *weights, *scores)
    return [tensor.new_empty(tensor.shape) for tensor, need in zip(tensors, needs, strict=True) if need]


# Autograd for a list with None among its tensors is beyond torch.library: `scores` has only those that there are, and
# `masked` says which weights they belong to.
_STATES = "Tensor? h_0, Tensor? c_0"
_LISTS = "Tensor[] weights, Tensor[] scores, bool[] masked, Tensor? lengths"

masked_lstm_layer = torch.library.custom_op(
    "seam_fast::masked_lstm_layer",
    _layer_forward,
    mutates_args=(),
    schema=(
        f"(Tensor input, {_STATES}, {_LISTS}, bool save, str backend, bool clamp=True) -> "
        "(Tensor, Tensor, Tensor, Tensor)"
    ),
)
masked_lstm_layer_backward = torch.library.custom_op(
    "seam_fast::masked_lstm_layer_backward",
    _layer_backward,
    mutates_args=(),
    schema=(
        "(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor input, Tensor output, "
        f"{_STATES}, Tensor saved, {_LISTS}, bool[] needs, str backend, bool clamp=True) -> Tensor[]"
    ),
)
masked_lstm_layer.register_fake(_layer_forward_fake)
masked_lstm_layer_backward.register_fake(_layer_backward_fake)


def _keep_for_backward(ctx, inputs, output):
    input, h_0, c_0, weights, scores, ctx.masked, lengths, ctx.save, ctx.backend, *clamp = inputs
    ctx.clamp = all(clamp)  # the dispatcher leaves out what is as by default
    if ctx.save:
        states, _, _, saved = output
        ctx.save_for_backward(input, states, h_0, c_0, saved, lengths, *weights, *scores)


def _autograd(ctx, grad_output, grad_h_n, grad_c_n, _):
    if not ctx.save:
        raise RuntimeError("seam_fast::masked_lstm_layer was called with save=False: it cannot give gradients")
    input, output, h_0, c_0, saved, lengths, *tensors = ctx.saved_tensors
    count = len(ctx.masked)
    arguments = (input, output, h_0, c_0, saved, tensors[:count], tensors[count:], ctx.masked, lengths)
    need_input, need_h_0, need_c_0, need_weights, need_scores, *_ = ctx.needs_input_grad
    needs = [need_input, need_h_0, need_c_0, *need_weights, *need_scores]
    options = needs, ctx.backend, ctx.clamp
    found = iter(torch.ops.seam_fast.masked_lstm_layer_backward(grad_output, grad_h_n, grad_c_n, *arguments, *options))
    grads = [next(found) if need else None for need in needs]
    return *grads[:3], grads[3 : 3 + count], grads[3 + count :], *(None,) * (len(ctx.needs_input_grad) - 5)


masked_lstm_layer.register_autograd(_autograd, setup_context=_keep_for_backward)

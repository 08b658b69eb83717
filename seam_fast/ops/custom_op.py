"""One masked LSTM layer as a ``torch.library`` op, for ``torch.compile``, ``torch.export`` and dispatch modes.

Eager calls do not use it, because a Python custom op costs more per call than a short LSTM takes. Calls that are traced
do, so that one node of the graph stands for the whole loop over time. It works with and without the compiled part: the
kernels are chosen when the op runs, not when it is traced.

Letters: T time steps, B batch, I input size, H hidden size, D directions (1 or 2).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _ext
from ..backend import choose_backend, is_supported_gpu, resolve, warn_if_slow
from . import eager

FULL_DTYPES = (torch.float32, torch.float64)
SHORT_DTYPES = (torch.bfloat16, torch.float16)
# What the compiled kernels of each kind of device take.
NATIVE_DTYPES = {"cpu": FULL_DTYPES, "cuda": FULL_DTYPES + SHORT_DTYPES}


class LayerKernels(Protocol):
    """What computes one layer: the compiled module or `eager`, where the arguments are explained."""

    def masked_lstm_forward(
        self,
        input: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        weights: Sequence[Tensor],
        scores: Sequence[Tensor | None],
        lengths: Tensor | None,
        batch_first_output: bool,
        save: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The forward pass."""

    def masked_lstm_backward(
        self,
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
        need_weights: Sequence[bool],
        need_scores: Sequence[bool],
        *,
        clamp: bool = True,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None], list[Tensor | None]]:
        """The backward pass."""

    def masked_lstm_layer(
        self,
        input: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        weights: Sequence[Tensor],
        scores: Sequence[Tensor | None],
        lengths: Tensor | None,
        batch_first_output: bool,
        clamp: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both, as autograd records them."""


def choose_kernels(backend: str, input: Tensor) -> LayerKernels:
    """The kernels for an input.

    Args:
        backend: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"torch"``; SEAM_FAST_BACKEND replaces ``"auto"``.
        input: of the layer; its device and dtype matter.

    Returns:
        The compiled module or `eager`.

    Raises:
        BackendError: (a ValueError) for a backend that is unknown or not there.
        ValueError: for one that cannot take this input.
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
        choose_backend(requested)  # raises where it cannot be used at all
    if backend == "auto":
        warn_if_slow(gpu=kind == "cuda")
        return eager
    takes = {"cpu": "float32 and float64 tensors on the CPU", "cuda": "floating tensors on a GPU"}[requested]
    raise ValueError(
        f"backend {requested!r} takes {takes}, but input is {input.dtype} on {input.device}; choose 'auto' or 'torch'"
    )


def lengths_for(kernels: LayerKernels, lengths: Tensor | None, device: torch.device) -> Tensor | None:
    """Lengths on the device where the kernels read them; the host does not wait for a copy to a GPU.

    Args:
        kernels: as `choose_kernels` gives them.
        lengths: (B,) int64 or None.
        device: of the layer's input.

    Raises:
        ValueError: for lengths on the CPU while a CUDA graph is captured: each replay would copy them again.
    """
    if lengths is None or kernels is eager or lengths.device == device:
        return lengths
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError(f"lengths must be on {device} while a CUDA graph records, but are on {lengths.device}")
    return lengths.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else lengths.to(device)


def saved_per_unit(backend: str, input: Tensor) -> int:
    """Elements that a forward pass saves for each step, sequence and hidden unit: four gates and a cell state.

    The CUDA kernels keep cell states in float32; beside gates of 16 bits each counts twice.
    """
    short = input.dtype in SHORT_DTYPES and input.device.type == "cuda"
    return 6 if short and choose_kernels(backend, input) is not eager else 5


def _with_gaps(scores: Sequence[Tensor], masked: Sequence[bool]) -> list[Tensor | None]:
    """The scores of masked weights, None for the others: what the op's two arguments mean together."""
    if len(scores) != sum(masked):
        raise ValueError(f"scores must hold {sum(masked)} tensors, as many as masked says, but holds {len(scores)}")
    found = iter(scores)
    return [next(found) if has_score else None for has_score in masked]


def _layer_forward(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    masked: Sequence[bool],
    lengths: Tensor | None,
    save: bool,
    backend: str,
    clamp: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """output (T, B, D H), h_n and c_n (D, B, H) and what the backward pass needs, if ``save``."""
    kernels = choose_kernels(backend, input)
    lengths = lengths_for(kernels, lengths, input.device)
    given = _with_gaps(scores, masked)
    output, h_n, c_n, saved = kernels.masked_lstm_forward(input, h_0, c_0, weights, given, lengths, False, save)
    # On the CPU the kernels leave the part of sequences that have ended unwritten, at the end of each direction.
    if save and lengths is not None and kernels is _ext.C and input.device.type == "cpu":
        used = int(lengths.sum()) * 5 * weights[1].shape[1]
        saved.view(eager.direction_count(weights), -1)[:, used:] = 0
    return output, h_n, c_n, saved


def _layer_forward_fake(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    masked: Sequence[bool],
    lengths: Tensor | None,
    save: bool,
    backend: str,
    clamp: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Results of the forward pass without values."""
    steps, batch, _ = input.shape
    directions, hidden = eager.direction_count(weights), weights[1].shape[1]
    return (
        input.new_empty(steps, batch, directions * hidden),
        input.new_empty(directions, batch, hidden),
        input.new_empty(directions, batch, hidden),
        input.new_empty(directions * steps * batch * saved_per_unit(backend, input) * hidden if save else 0),
    )


def _layer_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    input: Tensor,
    output: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    saved: Tensor,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    masked: Sequence[bool],
    lengths: Tensor | None,
    needs: Sequence[bool],
    backend: str,
    clamp: bool = True,
) -> list[Tensor]:
    """The gradients that ``needs`` asks for, of input, h_0, c_0, weights and scores, in this order and without gaps."""
    if len(needs) != 3 + len(weights) + len(scores):
        raise ValueError(f"needs must have {3 + len(weights) + len(scores)} entries, but has {len(needs)}")
    need_scores = iter(needs[3 + len(weights) :])
    kernels = choose_kernels(backend, input)
    lengths = lengths_for(kernels, lengths, input.device)
    need_input, need_h_0, need_c_0, *need_weights = needs[: 3 + len(weights)]
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
        need_input,
        need_h_0,
        need_c_0,
        need_weights,
        [has_score and next(need_scores) for has_score in masked],
        clamp=clamp,
    )
    return [grad.contiguous() for grad in (*states, *grad_weights, *grad_scores) if grad is not None]


def _layer_backward_fake(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    input: Tensor,
    output: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    saved: Tensor,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    masked: Sequence[bool],
    lengths: Tensor | None,
    needs: Sequence[bool],
    backend: str,
    clamp: bool = True,
) -> list[Tensor]:
    """The gradients that ``needs`` asks for, without values."""
    tensors = (input, h_0, c_0, *weights, *scores)
    wanted = (tensor for tensor, need in zip(tensors, needs, strict=True) if need)
    return [tensor.new_empty(tensor.shape) for tensor in wanted if tensor is not None]


# torch.library has no autograd for lists with None among the tensors: `scores` holds those that there are, and `masked`
# says which weights they belong to.
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


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Autograd's ``setup_context``."""
    input, h_0, c_0, weights, scores, ctx.masked, lengths, ctx.save, ctx.backend, *clamp = inputs
    ctx.clamp = all(clamp)  # the dispatcher leaves out arguments that have their default
    if ctx.save:
        states, _, _, saved = output
        ctx.save_for_backward(input, states, h_0, c_0, saved, lengths, *weights, *scores)


def _autograd(ctx: Any, grad_output: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None, _: Any) -> Any:
    """Autograd's ``backward``: a gradient for each argument of the op, by the second op."""
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

"""Checks of the ops' arguments: each raises an error of one sentence with the argument, what is expected and what came.

Letters as in ``functional.py``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import transforms
from .custom_op import SHORT_DTYPES


class NoStepsError(ValueError, RuntimeError):
    """An input without time steps: RuntimeError as torch's LSTM raises there, ValueError as for other bad arguments."""


def describe(value: object) -> str:
    """What came instead of the expected kind of value, as the end of "but is ..."."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"


def shape_of(tensor: Tensor) -> str:
    """A tensor's shape as a tuple is written."""
    return str(tuple(tensor.shape))


def check_tensor(
    name: str,
    tensor: object,
    shape: Sequence[int] | None,
    dtype: torch.dtype,
    device: torch.device,
    like: str = "input",
) -> None:
    """Checks that something is a dense tensor of a shape, dtype and device.

    Args:
        name: of the argument.
        tensor: the argument.
        shape: None for any.
        dtype, device: those of the argument called ``like``.
        like: the name of the argument that this one has to agree with.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for another shape, dtype, device or a sparse tensor.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, but is {describe(tensor)}")
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, but has {shape_of(tensor)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} like {like}, but is {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device} like {like}, but is on {tensor.device}")
    check_dense(name, tensor)


def check_dense(name: str, tensor: Tensor) -> None:
    """Raises ValueError for a sparse tensor."""
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor (torch.strided), but is {tensor.layout}")


def check_floating(name: str, tensor: object) -> None:
    """Raises TypeError for anything but a tensor of a floating dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, but is {describe(tensor)}")
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{name} must have a floating dtype, but is {tensor.dtype}")


def _passes(tensor: object, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `check_tensor` would pass; for callers that would have to build the name at every call."""
    return (
        isinstance(tensor, Tensor)
        and tensor.shape == shape
        and tensor.dtype is dtype
        and tensor.device == device
        and tensor.layout is torch.strided
    )


def _check_weight(name: str, weight: Any, dims: int, score_name: str, score: Any) -> None:
    """Checks a weight with so many dimensions, and its score, where there is one."""
    check_floating(name, weight)
    check_dense(name, weight)
    if weight.dim() != dims:
        raise ValueError(f"{name} must have {dims} dimension{'s' * (dims > 1)}, but its shape is {shape_of(weight)}")
    if score is not None:
        check_tensor(score_name, score, weight.shape, weight.dtype, weight.device, name)


def check_embedding(ids: Any, weight: Any, score: Any, padding_idx: int | None) -> None:
    """The arguments of ``masked_embedding``. Ids outside the table are left to torch, which raises IndexError."""
    _check_weight("weight", weight, 2, "score", score)
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"ids must be a tensor of int64 or int32, but is {describe(ids)}")
    if padding_idx is not None and not -len(weight) <= padding_idx < len(weight):
        raise ValueError(f"padding_idx must be one of the {len(weight)} rows of weight, but is {padding_idx}")


def check_linear(input: Any, weight: Any, bias: Any, weight_score: Any, bias_score: Any) -> None:
    """The arguments of ``masked_linear``."""
    _check_weight("weight", weight, 2, "weight_score", weight_score)
    check_tensor("input", input, None, weight.dtype, weight.device, "weight")
    if input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input must have {weight.shape[1]} columns, as weight has, but its shape is {shape_of(input)}"
        )
    if bias is not None:
        _check_weight("bias", bias, 1, "bias_score", bias_score)
        check_tensor("bias", bias, (len(weight),), weight.dtype, weight.device, "weight")
    elif bias_score is not None:
        raise ValueError("bias_score must be None where bias is None, but is a tensor")


def _weight_name(index: int, each: int, directions: int) -> str:
    """torch's name of a weight in the flat list, such as ``weight_hh_l0_reverse``.

    each: the number of tensors of one direction of one layer.
    """
    cell = index // each
    part = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[index % each]
    return f"{part}_l{cell // directions}{'_reverse' * (cell % directions)}"


def check_lstm(
    input: Any,
    hx: Any,
    weights: Any,
    scores: Any,
    num_layers: Any,
    directions: int,
    batch_first: bool,
    dropout: Any,
) -> None:
    """The arguments of ``masked_lstm`` but for its lengths. It runs at every call, so only errors build sentences.

    Raises:
        TypeError: for values of a wrong kind.
        ValueError: for wrong shapes, dtypes, devices and numbers.
        NoStepsError: for an input without time steps.
    """
    if not isinstance(input, Tensor) or not input.dtype.is_floating_point:
        check_floating("input", input)
    dims, dtype, device = input.dim(), input.dtype, input.device
    check_dense("input", input)
    if dims not in (2, 3):
        order = "(B, T, I)" if batch_first else "(T, B, I)"
        raise ValueError(f"input must have shape {order} or (T, I), but its shape is {shape_of(input)}")
    if not isinstance(num_layers, int):
        raise TypeError(f"num_layers must be an int, but is {describe(num_layers)}")
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, but is {num_layers}")
    if not isinstance(dropout, (int, float)):
        raise TypeError(f"dropout must be a number, but is {describe(dropout)}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must lie between 0 and 1, but is {dropout}")
    steps = input.shape[1 if batch_first and dims == 3 else 0]
    features = input.shape[-1]
    if steps == 0:
        raise NoStepsError(f"input must have at least one time step, but its shape is {shape_of(input)}")
    if features == 0:
        raise ValueError(f"input must have at least one feature, but its shape is {shape_of(input)}")

    for name, group in (("weights", weights), ("scores", scores)):
        if isinstance(group, Tensor) or not hasattr(group, "__len__") or isinstance(group, (dict, str)):
            raise TypeError(f"{name} must be a list of tensors, but is {describe(group)}")
    cells = num_layers * directions  # a cell: one direction of one layer
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
            f"{shape_of(weights[1]) if isinstance(weights[1], Tensor) else describe(weights[1])}"
        )
    hidden = weights[1].shape[1]
    shapes = ((4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))[:each]
    expected = shapes * directions
    if num_layers > 1:
        expected += (((4 * hidden, directions * hidden), *shapes[1:]) * directions) * (num_layers - 1)
    wide = dtype in SHORT_DTYPES and weights[1].dtype == torch.float32  # as under autocast
    weight_dtype, like = (torch.float32, "weights[1]") if wide else (dtype, "input")
    for index, (weight, score, shape) in enumerate(zip(weights, scores, expected, strict=True)):
        if not _passes(weight, shape, weight_dtype, device):
            name = f"weights[{index}] ({_weight_name(index, each, directions)})"
            check_tensor(name, weight, shape, weight_dtype, device, like)
        if score is not None and not _passes(score, shape, weight_dtype, device):
            name = f"scores[{index}] (of {_weight_name(index, each, directions)})"
            check_tensor(name, score, shape, weight_dtype, device, like)

    if hx is not None:
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            what = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else describe(hx)
            raise TypeError(f"hx must be a pair of tensors (h_0, c_0) or None, but is {what}")
        batch = () if dims == 2 else (input.shape[0 if batch_first else 1],)
        for name, state in zip(("hx[0] (h_0)", "hx[1] (c_0)"), hx, strict=True):
            check_tensor(name, state, (cells, *batch, hidden), dtype, device)


def read_lengths(lengths: Any, input: Tensor, batched: bool, values_unknown: bool) -> Tensor | None:
    """The argument ``lengths`` of ``masked_lstm``, checked, as the kernels take it.

    Args:
        lengths: (B,) integers, a tensor or a list.
        input: (T, B, I).
        batched: whether the caller's input had a batch.
        values_unknown: whether the call is traced, so that numbers must not be read.

    Returns:
        (B,) int64, a copy, on the GPU where it was on the GPU of ``input`` and else on the CPU; None where all
        sequences have T steps, if that can be told without waiting for a GPU.

    Raises:
        TypeError: for anything but integers.
        ValueError: for a wrong shape, an input without a batch, and values outside 0 to T where they can be read.
    """
    if not isinstance(lengths, Tensor):
        if not isinstance(lengths, (list, tuple)) or not all(isinstance(length, int) for length in lengths):
            raise TypeError(f"lengths must be a tensor of integers or None, but is {describe(lengths)}")
        lengths = torch.tensor(lengths, dtype=torch.int64, device="cpu")
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be a tensor of integers or None, but is {describe(lengths)}")
    if not batched:
        raise ValueError("lengths must be None for an input without a batch, but is a tensor; cut the input instead")
    steps, batch, _ = input.shape
    if lengths.dim() != 1 or lengths.shape[0] != batch:
        raise ValueError(
            f"lengths must have shape ({batch},), one for each row of the batch, but has {shape_of(lengths)}"
        )
    device = lengths.device if lengths.device == input.device else "cpu"
    # A copy, since the backward pass needs them as they are now.
    checked: Tensor = lengths.to(device, torch.int64, copy=True).contiguous()
    if values_unknown or checked.is_cuda or transforms.is_wrapped(checked):  # the kernels check the values
        return checked
    values = checked.tolist()
    if values and (min(values) < 0 or max(values) > steps):
        worst = min(values) if min(values) < 0 else max(values)
        raise ValueError(f"lengths must lie between 0 and the {steps} time steps of input, but one is {worst}")
    return checked if values and min(values) < steps else None

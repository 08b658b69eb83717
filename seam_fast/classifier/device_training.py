"""Training a base on a GPU: a step is a fixed sequence of device operations, recorded once and replayed.

Documents, dropped words and dropout are drawn on the CPU, by the same generator and in the same order as in training
there, an epoch at a time, while the device computes the epoch before. So CPU and GPU get the same input, and their
results differ by rounding alone. No result is copied to the CPU within an epoch. With a CPU as the device the same
sequence simply runs; the tests use that.

Letters: S steps of an epoch, B documents of a batch, T words, E embedding size, H hidden size, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ..common.cuda_graphs import CudaGraphRunner
from ..errors import TrainingError
from ..ops import custom_op, eager, reference
from ..ops.functional import masked_lstm
from .model import LSTMClassifier
from .state_keys import EMBEDDING, lstm_keys


def training_device(device: str | torch.device) -> torch.device:
    """A device to train a base on. Raises TrainingError for one that does not exist or is neither CPU nor GPU."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise TrainingError(f"device is {device!r}; it must be 'cpu', 'cuda' or one GPU, such as 'cuda:1'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise TrainingError(f"device is {str(found)!r}, but torch sees {there or 'no'} GPU{'s' * (there > 1)} here")
    return found


def device_name(device: str | torch.device) -> str | None:
    """The GPU's name, for a base's ``info``; None for the CPU, of which ``info`` says nothing."""
    device = training_device(device)
    return None if device.type == "cpu" else torch.cuda.get_device_name(device)


class EpochSteps:
    """Runs the steps of whole epochs on a device.

    Args:
        device: where the steps run.
        step: takes the tensors of one step, changes the parameters, and returns the step's loss, on the device.
    """

    def __init__(self, device: torch.device, step: Callable[..., Tensor]) -> None:
        self._device, self._step = device, step
        self._parts: list[Tensor] = []
        self._index = torch.zeros(1, dtype=torch.int64, device=device)  # of the epoch's next step
        self._runner = CudaGraphRunner(device)

    def begin(self, parts: Sequence[Tensor]) -> None:
        """Sets the input of an epoch: tensors (S, ...) on the CPU, one slice a step, of the same shapes each time."""
        if not self._parts:
            self._parts = [torch.empty(part.shape, dtype=part.dtype, device=self._device) for part in parts]
            self._losses = torch.zeros(len(parts[0]), device=self._device)
        for ours, theirs in zip(self._parts, parts, strict=True):
            source = theirs.pin_memory() if self._device.type == "cuda" else theirs
            ours.copy_(source, non_blocking=True)
        self._index.zero_()

    def run(self, count: int) -> None:
        """Runs the next ``count`` steps; on a GPU they are only queued."""
        self._runner(self._one, count)

    def _one(self) -> None:
        """One step, on the slice that the index on the device says."""
        loss = self._step(*(part.index_select(0, self._index)[0] for part in self._parts))
        self._losses.index_copy_(0, self._index, loss.detach().view(1))
        self._index.add_(1)

    def losses(self) -> list[float]:
        """The losses of all S steps of the epoch, after waiting for the device."""
        return self._losses.tolist()


class DeviceReader:
    """Runs the LSTM of a model in training on a device, by the op of this package.

    Unlike the model's own methods it never copies the lengths to the CPU, so a CUDA graph can record it.

    Args:
        model: the model; its parameters are used as they are at each call.
    """

    def __init__(self, model: LSTMClassifier) -> None:
        self._model = model
        weights = dict(model.named_parameters())
        self._weights: list[Tensor] = [weights[key] for key in lstm_keys(weights)]
        # Without kernels for this device the op runs eager, which reads the lengths; the reference does not.
        is_eager = custom_op.choose_kernels("auto", weights[EMBEDDING]) is eager
        self._lstm: Callable[..., tuple[Tensor, Any]] = reference.masked_lstm if is_eager else masked_lstm

    def run_lstm(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """All outputs (B, T, D * H) of word vectors (B, T, E), zero from each length (B,) on."""
        output, _ = self._lstm(
            vectors.transpose(0, 1),
            None,
            self._weights,
            [None] * len(self._weights),
            lengths=lengths,
            num_layers=self._model.num_layers,
            bidirectional=self._model.bidirectional,
        )
        return output.transpose(0, 1)

    def read_output(self, output: Tensor, lengths: Tensor) -> Tensor:
        """The outputs (B, D * H) at the last words, of all outputs (B, T, D * H); a sum has the faster backward."""
        last = torch.arange(output.shape[1], device=output.device) == lengths[:, None] - 1
        return torch.where(last[:, :, None], output, 0).sum(1)


class ClippedAdam:
    """Adam on the embedding and on the other parameters, whose gradients are clipped to a norm.

    Nothing is copied to the CPU. It calls torch's function and not its optimizer class, which warns about steps that
    run before a CUDA graph is recorded.

    Args:
        embedding: the embedding table, whose gradient is not clipped.
        rest: all other parameters.
        max_grad_norm: the norm to which their gradients are clipped together.

    Attributes:
        rate: learning rate, a scalar tensor on the device that may change between steps.
        parameters: all parameters.
    """

    def __init__(self, embedding: Tensor, rest: list[Tensor], max_grad_norm: float) -> None:
        self.rate = torch.zeros((), device=embedding.device)
        self._rest, self._max_grad_norm = rest, max_grad_norm
        self.parameters = [embedding, *rest]
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._steps = [torch.zeros((), device=embedding.device) for _ in self.parameters]
        self._options: dict[str, Any] = reference.ADAM

    def step(self, loss: Tensor) -> None:
        """Changes all parameters by one step on this loss, a scalar."""
        gradients = list(torch.autograd.grad(loss, self.parameters))
        for parameter, gradient in zip(self._rest, gradients[1:], strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self._rest, self._max_grad_norm)  # in place: the same tensors as in the list
        with torch.no_grad():
            adam(
                self.parameters,
                gradients,
                self._means,
                self._squares,
                [],
                self._steps,
                fused=True,
                capturable=self.rate.device.type == "cuda",
                amsgrad=False,
                maximize=False,
                weight_decay=0.0,
                lr=self.rate,
                beta1=self._options["betas"][0],
                beta2=self._options["betas"][1],
                eps=self._options["eps"],
            )

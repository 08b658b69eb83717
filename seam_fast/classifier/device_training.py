"""Training of a base on a GPU: a step is a fixed sequence of device operations, recorded once and replayed.

Documents, dropped words and dropout are drawn on the CPU, by the same generator and in the same order as there, an
epoch at a time, while the device works on the epoch before. So both see the same, and what they come to differs by
rounding alone. Nothing is read back within an epoch. On a CPU the same sequence simply runs, which is how it is tested.

Letters: S steps of an epoch, B documents of a batch, T words, E embedding size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ..common.cuda_graphs import CudaGraphRunner
from ..errors import TrainingError
from ..ops import custom_op, eager, reference
from ..ops.functional import masked_lstm
from .model import LSTMClassifier
from .state_keys import EMBEDDING, lstm_keys


def training_device(device) -> torch.device:
    """A device to train a base on. Raises TrainingError for one that is not there, or is neither CPU nor GPU."""
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


def device_name(device) -> str | None:
    """What a base's ``info`` says of where it was trained: a GPU's name; None, and nothing, for the CPU."""
    device = training_device(device)
    return None if device.type == "cpu" else torch.cuda.get_device_name(device)


class EpochSteps:
    """The steps of whole epochs on a device.

    step: takes the tensors of one step and returns its loss, on the device, after it has changed the parameters.
    """

    def __init__(self, device: torch.device, step: Callable[..., Tensor]):
        self._device, self._step = device, step
        self._parts: list[Tensor] = []
        self._at = torch.zeros(1, dtype=torch.int64, device=device)  # steps of the epoch that are done
        self._replayed = CudaGraphRunner(device)

    def begin(self, parts: Sequence[Tensor]) -> None:
        """An epoch: tensors (S, ...) on the CPU, of the same shapes each time, a slice of each for a step."""
        if not self._parts:
            self._parts = [torch.empty(part.shape, dtype=part.dtype, device=self._device) for part in parts]
            self._losses = torch.zeros(len(parts[0]), device=self._device)
        for ours, theirs in zip(self._parts, parts, strict=True):
            if self._device.type == "cuda":
                theirs = theirs.pin_memory()
            ours.copy_(theirs, non_blocking=True)
        self._at.zero_()

    def run(self, count: int) -> None:
        """The next so many steps; on a GPU they are queued."""
        self._replayed(self._one, count)

    def _one(self) -> None:
        loss = self._step(*(part.index_select(0, self._at)[0] for part in self._parts))
        self._losses.index_copy_(0, self._at, loss.detach().view(1))
        self._at.add_(1)

    def losses(self) -> list[float]:
        """Of all steps of the epoch, which are waited for."""
        return self._losses.tolist()


class DeviceReader:
    """How a model in training reads documents on a device: by the op, without a look at lengths on the host."""

    def __init__(self, model: LSTMClassifier):
        self._model = model
        weights = dict(model.named_parameters())
        self._weights = [weights[key] for key in lstm_keys(weights)]
        plain = custom_op.choose_kernels("auto", weights[EMBEDDING]) is eager
        self._lstm = reference.masked_lstm if plain else masked_lstm  # of the plain ones, that which reads none either

    def run_lstm(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """As in `LSTMClassifier`: (B, T, E), lengths (B,) -> all outputs (B, T, D * H), zero from a length on."""
        options = {"num_layers": self._model.num_layers, "bidirectional": self._model.bidirectional}
        scores = [None] * len(self._weights)
        output, _ = self._lstm(vectors.transpose(0, 1), None, self._weights, scores, lengths=lengths, **options)
        return output.transpose(0, 1)

    def read_output(self, output: Tensor, lengths: Tensor) -> Tensor:
        """Outputs (B, T, D * H) -> (B, D * H) at the lengths' last words; by a sum, quicker backwards."""
        last = torch.arange(output.shape[1], device=output.device) == lengths[:, None] - 1
        return torch.where(last[:, :, None], output, 0).sum(1)


class ClippedAdam:
    """A step of Adam on the embedding and on the rest, whose gradient is clipped as a whole; nothing is read back.

    By torch's function and not its optimizer, which warns where a step is taken without being recorded. rate: learning
    rate, a tensor on the device that may change between steps.
    """

    def __init__(self, embedding: nn.Parameter, rest: list[nn.Parameter], max_grad_norm: float):
        self.rate = torch.zeros((), device=embedding.device)
        self._rest, self._most = rest, max_grad_norm
        self.parameters = [embedding, *rest]
        self._means = [[torch.zeros_like(parameter) for parameter in self.parameters] for _ in range(2)]
        self._steps = [torch.zeros((), device=embedding.device) for _ in self.parameters]

    def step(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self._rest, gradients[1:], strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self._rest, self._most)
        with torch.no_grad():
            adam(
                self.parameters,
                [gradients[0], *(parameter.grad for parameter in self._rest)],
                *self._means,
                [],
                self._steps,
                fused=True,
                capturable=self.rate.device.type == "cuda",
                amsgrad=False,
                maximize=False,
                weight_decay=0.0,
                lr=self.rate,
                beta1=reference.ADAM["betas"][0],
                beta2=reference.ADAM["betas"][1],
                eps=reference.ADAM["eps"],
            )

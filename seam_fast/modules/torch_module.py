"""A compact module as a plain ``torch.nn.Module``: for ``torch.export``, ``torch.compile``, a GPU, further training.

Letters as in ``runtime``.
"""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import runtime

Array = npt.NDArray[Any]
_Layer = TypeVar("_Layer", bound=nn.Module)


class TorchModule(nn.Module):
    """Embedding, LSTM and output of a compact module; ``CompactModule.torch_module`` makes one.

    The LSTM is one ``torch.nn.LSTM`` a cell, since compaction may leave the two directions of a layer different sizes.
    Its parameters are frozen; ``requires_grad_()`` lets them be trained.

    Args:
        module: The compact module.

    Attributes:
        embedding: ``nn.Embedding``, weight (R, E).
        cells: A ``nn.ModuleList`` a layer of an ``nn.LSTM`` a direction, the forward one first.
        behind: ``nn.Linear`` to the classes behind the ReLU, weight (K, D * H).
        out: What each of them adds to the margin, (K,).
        direct: ``nn.Linear`` to the rest of the margin, weight (1, D * H).
        max_length: The most words of a text, as of the module's card.
        padding_row: The row that stands for padding.
        reads_padding: Whether the state is read at the last position, after the padding.
    """

    def __init__(self, module: runtime.CompactModule) -> None:
        super().__init__()
        layers, output = without_empty(module)
        table = module.embedding if module.embedding.shape[1] else np.zeros((len(module.embedding), 1))
        self.max_length: int = module.card["max_length"]
        self.padding_row: int = module.card["padding_row"]
        self.reads_padding: bool = module.card["readout"] == "last_position"
        self.reversed = [[cell.reverse for cell in cells] for cells in layers]
        self.embedding = nn.Embedding.from_pretrained(_copied(table))
        self.cells = nn.ModuleList(nn.ModuleList(map(_lstm, cells)) for cells in layers)
        classes, width = output.weight.shape
        behind, direct = (nn.Linear(width, count, device="meta") for count in (classes, 1))
        self.behind = _filled(behind, weight=output.weight, bias=output.bias)
        self.out = nn.Parameter(_copied(output.out))
        self.direct = _filled(direct, weight=output.direct[None], bias=output.constant)
        self.eval().requires_grad_(False)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Margins, the logit of the target less that of the rest; ``torch.sigmoid`` makes them probabilities.

        Args:
            rows: Embedding rows, int64 (N, T), as ``CompactModule.encode`` numbers words; at and after a text's length
                any rows.
            lengths: Numbers of words, int64 (N,), each 1 to T and at most ``max_length``.

        Returns:
            (N,).

        Raises:
            TypeError: ``torch.jit.trace`` records the call.
        """
        if torch.jit.is_tracing():
            refuse_torchscript("torch.jit.trace cannot record a compact module")
        if self.reads_padding or _is_exporting():  # what torch.export makes of an LSTM has a fixed number of steps
            rows = self._padded(rows, lengths)
        if self.reads_padding:
            lengths = torch.full_like(lengths, self.max_length)
        states = self.embedding(rows.T)  # (T, N, E)
        steps = torch.arange(rows.shape[1], device=rows.device).unsqueeze(1)
        last, texts = lengths - 1, torch.arange(rows.shape[0], device=rows.device)
        # Of each text the words from the last to the first, and then its padding. The reverse direction must begin at
        # the last word; what either makes of padding after it is never read.
        backwards = torch.where(steps < lengths, last - steps, steps).unsqueeze(2)  # (T, N, 1)
        for depth, (cells, reverse) in enumerate(zip(self.cells, self.reversed, strict=True)):
            assert isinstance(cells, nn.ModuleList)
            parts = []
            for cell, is_reverse in zip(cells, reverse, strict=True):
                if depth == len(self.cells) - 1:  # of the last layer the output at the last word alone is read
                    part = cell(states[last, texts].unsqueeze(0))[0][0] if is_reverse else cell(states)[0][last, texts]
                elif is_reverse:
                    turned = cell(states.gather(0, backwards.expand(-1, -1, states.shape[2])))[0]
                    part = turned.gather(0, backwards.expand(-1, -1, turned.shape[2]))
                else:
                    part = cell(states)[0]
                parts.append(part)
            states = torch.cat(parts, -1)
        behind = functional.relu(self.behind(states)) @ self.out
        margins: Tensor = behind + self.direct(states).squeeze(1)
        return margins

    def _padded(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Rows (N, max_length), with the padding's row after each text."""
        inside = torch.arange(rows.shape[1], device=rows.device) < lengths.unsqueeze(1)
        rest = rows.new_full((rows.shape[0], self.max_length), self.padding_row)
        # Not by an index with `:` for the batch, of which torch.export in torch 2.6 makes a guard on its size.
        return torch.cat([torch.where(inside, rows, self.padding_row), rest], 1).narrow(1, 0, self.max_length)

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``."""
        refuse_torchscript("torch.jit.script cannot compile a compact module")

    def extra_repr(self) -> str:
        """What ``repr`` shows besides the layers."""
        return f"max_length={self.max_length}, reads_padding={self.reads_padding}"


def _is_exporting() -> bool:
    """Whether ``torch.export`` records the call."""
    is_exporting: Callable[[], bool] | None = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return torch.compiler.is_compiling() if is_exporting is None else is_exporting()


def refuse_torchscript(what: str) -> NoReturn:
    """Raises TypeError with what there is in TorchScript's place. what: how the sentence begins."""
    raise TypeError(
        f"{what}: take module.compact().torch_module() with torch.export or torch.compile, or seam-fast export --onnx "
        "or --c for programs without torch (torch itself gives TorchScript up)"
    )


def without_empty(module: runtime.CompactModule) -> tuple[list[list[runtime.Cell]], runtime.Output]:
    """Layers and output of a compact module in which no cell is without units or inputs, and no layer without outputs.

    Compaction may leave nothing of a cell, of what it reads, or of the classes behind the ReLU, and neither torch's
    layers nor ONNX's have such sizes. A unit all of whose weights are zero has the output 0 at every step, so it stands
    in; so do an input and a class of weight 0.
    """
    layers, where = [], np.arange(module.embedding.shape[1])
    inputs = max(1, len(where))  # columns of the layer's weight_ih, of which `where` are those that were there before
    for cells in module.layers:
        made, begin, found = [], 0, []
        for cell in cells:
            size = max(1, cell.hidden_size)
            gates = (np.arange(4)[:, None] * size + np.arange(cell.hidden_size)).ravel()
            weight_ih = np.zeros((4 * size, inputs), dtype=np.float32)
            weight_hh = np.zeros((4 * size, size), dtype=np.float32)
            bias = np.zeros(4 * size, dtype=np.float32)
            weight_ih[np.ix_(gates, where)] = cell.weight_ih
            weight_hh[np.ix_(gates, np.arange(cell.hidden_size))] = cell.weight_hh
            bias[gates] = cell.bias
            made.append(runtime.Cell(weight_ih, weight_hh, bias, cell.reverse))
            found.append(begin + np.arange(cell.hidden_size))
            begin += size
        layers.append(made)
        inputs, where = begin, np.concatenate(found)
    output, classes = module.output, len(module.output.out)
    weight, direct = (np.zeros((count, inputs), dtype=np.float32) for count in (max(1, classes), 1))
    bias, out = np.zeros((2, len(weight)), dtype=np.float32)
    weight[:classes, where], direct[0, where] = output.weight, output.direct
    bias[:classes], out[:classes] = output.bias, output.out
    return layers, runtime.Output(weight, bias, out, direct[0], output.constant)


def _lstm(cell: runtime.Cell) -> nn.LSTM:
    """One cell as a layer of torch's, read forwards."""
    values = cell.weight_ih, cell.weight_hh, cell.bias, np.zeros_like(cell.bias)
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    layer = nn.LSTM(cell.weight_ih.shape[1], cell.hidden_size, device="meta")
    return _filled(layer, **dict(zip(names, values, strict=True)))


@torch.no_grad()
def _filled(layer: _Layer, **values: Array) -> _Layer:
    """A layer of the meta device, which draws no random numbers, on the CPU with the given parameters, by name."""
    layer.to_empty(device="cpu")
    for name, value in values.items():
        layer.get_parameter(name).copy_(_copied(value))
    return layer


def _copied(array: Array) -> Tensor:
    """An array's values as a tensor with memory of its own."""
    return torch.from_numpy(np.array(array, dtype=np.float32))

"""A compact module as an ONNX graph, for ONNX Runtime and whatever else reads ONNX.

The graph is written node by node and not recorded by ``torch.onnx``: so it has one LSTM node a cell, any batch size and
length, and needs no torch. Of a text it takes the embedding rows of its words; what turns texts into rows (tokenizer,
vocabulary, card) is in the file's metadata, for the caller's program.

Letters as in ``runtime``.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import runtime
from .._version import __version__
from ..errors import CheckpointError, SeamFastError
from ..files.atomic import to_json, write_atomically
from .seam_module import SeamModule
from .torch_module import without_empty

Array = npt.NDArray[Any]

FORMAT = "seam-fast onnx 1"
"""What ``format`` in the metadata of a file says."""
OPSET = 17  # of 2022; the graph needs 15, for a Shape of one dimension alone
IR_VERSION = 8  # of the same release, so that programs of that age read the file


def export_onnx(module: runtime.CompactModule | SeamModule, path: str | os.PathLike[str]) -> Path:
    """Writes a module as an ONNX file, completely or not at all.

    The graph takes ``rows``, int64 (N, T), the embedding rows of each text's words and anything behind them, and
    ``lengths``, int64 (N,), each 1 to T; both sizes are free. It gives ``margin`` and ``probability``, float32 (N,).
    Weights are stored as the compact module stores them and computed with in float32.

    The metadata hold ``format``, ``card`` (JSON, the compact module's) and ``vocabulary`` (JSON, the row of each word).

    Args:
        module: A compact module, or a module of which one is made.
        path: Ends in ``.onnx``.

    Returns:
        The path.

    Raises:
        CheckpointError: The path has another ending; or as ``SeamModule.compact`` does.
        SeamFastError: The package onnx is not installed.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise CheckpointError(f"{path}: the name of an ONNX file ends in .onnx")
    return write_atomically(path, onnx_bytes(module))


def onnx_bytes(module: runtime.CompactModule | SeamModule) -> bytes:
    """The contents of the file that ``export_onnx`` writes; errors as there."""
    onnx = _import_onnx()
    if isinstance(module, SeamModule):
        module = module.compact()
    graph = _Graph(onnx)
    layers, output = without_empty(module)
    rows, lengths = "rows", None if module.card["readout"] == "last_position" else "lengths"
    if lengths is None:
        rows = _padded(graph, module)
    states = graph.add("Transpose", _embedded(graph, module, rows), perm=[1, 0, 2])  # (T, N, E)
    for depth, cells in enumerate(layers):
        reads = depth == len(layers) - 1
        dtype = _stored_as(module, f"lstm.{depth}.{int(cells[0].reverse)}.weight_hh")
        parts = [_cell(graph, cell, states, lengths, reads, dtype) for cell in cells]
        states = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=-1)
    margin = _margin(graph, output, states)
    graph.add("Identity", margin, name="margin")
    graph.add("Sigmoid", margin, name="probability")
    model = graph.model()
    metadata = {
        "format": FORMAT,
        "card": to_json(module.card),
        "vocabulary": json.dumps(module.row_of, separators=(",", ":")),  # ASCII: words may hold lone surrogates
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _import_onnx() -> Any:
    """The package onnx; SeamFastError where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise SeamFastError(
            f'an ONNX file needs the package onnx, which cannot be imported ({error}): pip install "seam-fast[onnx]"'
        ) from None


class _Graph:
    """Nodes and constants of a graph, in the order in which they are added.

    Args:
        onnx: The package.
    """

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, name: str | None = None, output: int = 0, **attributes: Any) -> str:
        """Adds a node and returns the name of its output.

        Args:
            kind: The operator.
            inputs: Names of its inputs, "" for one that is left out.
            name: The output's name; default: one that no other has.
            output: Which of its outputs is wanted.
            attributes: Its attributes.
        """
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [""] * output + [name], **attributes))
        return name

    def constant(self, array: Array, dtype: Any = None) -> str:
        """Adds a constant, stored in a dtype (default: its own), and returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(array, dtype=dtype), name))
        return name

    def weight(self, array: Array, dtype: Any) -> str:
        """Adds weights that are stored in a dtype and computed with in float32."""
        name = self.constant(array, dtype)
        return name if dtype == np.float32 else self.add("Cast", name, to=self.onnx.TensorProto.FLOAT)

    def model(self) -> Any:
        """The whole model."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        sizes = {"rows": (kinds.INT64, ["N", "T"]), "lengths": (kinds.INT64, ["N"])}
        sizes |= {"margin": (kinds.FLOAT, ["N"]), "probability": (kinds.FLOAT, ["N"])}
        infos = [helper.make_tensor_value_info(name, *kind) for name, kind in sizes.items()]
        graph = helper.make_graph(self.nodes, "seam_fast", infos[:2], infos[2:], self.constants)
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="seam-fast",
            producer_version=__version__,
        )


def _padded(graph: _Graph, module: runtime.CompactModule) -> str:
    """Rows (N, max_length) with the padding's row behind each text, where that is read, too."""
    width, padding = module.card["max_length"], graph.constant(np.array([[module.card["padding_row"]]]), np.int64)
    length = graph.add("Shape", "rows", start=1, end=2)
    scalar = graph.add("Squeeze", length)
    places = graph.add("Range", _number(graph, 0), scalar, _number(graph, 1))  # (T,)
    inside = graph.add("Less", places, graph.add("Unsqueeze", "lengths", graph.constant(np.array([1]), np.int64)))
    rows = graph.add("Where", inside, "rows", padding)
    count = graph.add("Shape", "rows", start=0, end=1)
    rest = graph.add("Expand", padding, graph.add("Concat", count, _sizes(graph, width), axis=0))
    return graph.add(
        "Slice", graph.add("Concat", rows, rest, axis=1), _sizes(graph, 0), _sizes(graph, width), _sizes(graph, 1)
    )


def _number(graph: _Graph, value: int) -> str:
    """A constant of no dimension."""
    return graph.constant(np.array(value), np.int64)


def _sizes(graph: _Graph, *values: int) -> str:
    """A constant of one dimension."""
    return graph.constant(np.array(values), np.int64)


def _embedded(graph: _Graph, module: runtime.CompactModule, rows: str) -> str:
    """Word vectors (N, T, E), of a table that is stored as the module's is."""
    table, scale = module.embedding, module.tensors.get("embedding.scale")
    if not table.shape[1]:
        return graph.add("Gather", graph.constant(np.zeros((len(table), 1)), np.float32), rows)
    dtype = _stored_as(module, "embedding") if scale is None else np.int8
    vectors = graph.add("Gather", graph.constant(table if scale is None else np.rint(table / scale), dtype), rows)
    if dtype != np.float32:
        vectors = graph.add("Cast", vectors, to=graph.onnx.TensorProto.FLOAT)
    return vectors if scale is None else graph.add("Mul", vectors, graph.constant(scale, np.float32))


def _stored_as(module: runtime.CompactModule, name: str) -> Any:
    """The dtype in which a matrix is stored here: float16 where the module stores it so, too, else float32."""
    return np.float16 if module.tensors[f"{name}.values"].dtype == np.float16 else np.float32


def _cell(graph: _Graph, cell: runtime.Cell, states: str, lengths: str | None, reads: bool, dtype: Any) -> str:
    """One layer's output in one direction.

    Args:
        graph: The graph.
        cell: The cell.
        states: Its input (T, N, I).
        lengths: Numbers of words; None: T each.
        reads: Whether only the output at the last word is wanted.
        dtype: How the matrices are stored.

    Returns:
        (T, N, H), or (N, H) at the last word.
    """
    size = cell.hidden_size
    order = np.concatenate(
        [np.arange(size) + gate * size for gate in (0, 3, 1, 2)]
    )  # ONNX: input, output, forget, cell
    weights = [graph.weight(matrix[order][None], dtype) for matrix in (cell.weight_ih, cell.weight_hh)]
    bias = graph.constant(np.concatenate([cell.bias[order], np.zeros_like(cell.bias)])[None], np.float32)
    if reads and cell.reverse:  # its output at the last word is that of its first step
        states, lengths, direction = _last_alone(graph, states, lengths), None, "forward"
    else:
        direction = "reverse" if cell.reverse else "forward"
    inputs = [states, *weights, bias]
    if lengths is not None:
        inputs.append(graph.add("Cast", lengths, to=graph.onnx.TensorProto.INT32))
    # Output 0 is the state of every step, (T, 1, N, H), output 1 that of the last one, (1, N, H).
    found = graph.add("LSTM", *inputs, output=int(reads), hidden_size=size, direction=direction)
    return graph.add("Squeeze", found, _sizes(graph, 0 if reads else 1))


def _last_alone(graph: _Graph, states: str, lengths: str | None) -> str:
    """Of each text the input at its last word, (1, N, I), of states (T, N, I)."""
    if lengths is None:
        return graph.add("Gather", states, _sizes(graph, -1), axis=0)
    places = graph.add("Unsqueeze", graph.add("Sub", lengths, _number(graph, 1)), _sizes(graph, 1))
    last = graph.add("GatherND", graph.add("Transpose", states, perm=[1, 0, 2]), places, batch_dims=1)  # (N, I)
    return graph.add("Unsqueeze", last, _sizes(graph, 0))


def _margin(graph: _Graph, output: runtime.Output, state: str) -> str:
    """The margin (N,) of the states (N, D * H) that are read."""
    direct = graph.add("MatMul", state, graph.constant(output.direct, np.float32))
    margin = graph.add("Add", direct, graph.constant(output.constant, np.float32))
    reached = graph.add("MatMul", state, graph.constant(output.weight.T, np.float32))
    behind = graph.add("Relu", graph.add("Add", reached, graph.constant(output.bias, np.float32)))
    return graph.add("Add", margin, graph.add("MatMul", behind, graph.constant(output.out, np.float32)))

"""Compact modules: a module as a thing of its own, without the base, made as small as its answers allow.

What goes: embedding rows that keep nothing (all their words share one row of zeros), columns of the embedding and units
of the LSTM that no answer can depend on, classes that cannot pass the head's ReLU. What is merged: the two biases of a
cell, the two outputs of the head into their difference, and classes whose ReLU passes everything into one linear row.
Everything that goes does so by proof and not by measurement, so the answers stay those of the module to float rounding.
"""

import functools
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import _ext, runtime
from .._version import __version__
from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, LINEAR_KEYS, LSTM_KEYS, lstm_shape
from ..errors import CheckpointError
from ..files.atomic import to_json, write_atomically
from ..ops.custom_op import choose_kernels
from .mask import Head
from .torch_module import TorchModule, refuse_torchscript

Array = npt.NDArray[Any]

DTYPES = ("float32", "float16", "int8")
"""How a compact module's weights may be stored."""

_AT_ONCE = 4096  # texts that are padded and computed at once: enough for all threads, and memory stays bounded

UNKNOWN = ("own", "dropped")
"""How a compact module may read words that its base does not know."""


class CompactModule(runtime.CompactModule):
    """A module that stands alone: tokenizer, vocabulary, kept weights and head.

    ``SeamModule.compact`` makes one, ``CompactModule.load`` reads one. It works like ``seam_fast.runtime``'s, which
    needs no torch, and computes with the compiled kernels where they are installed and the LSTM has one layer in one
    direction.
    """

    _weights: list[Tensor] | None = None
    _table: Tensor | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the module to a file, completely or not at all; raises CheckpointError for another ending than
        ``.safetensors``.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: a compact module's file ends in .safetensors")
        return write_atomically(path, runtime.to_bytes(self))

    def margins_of_rows(self, rows: list[list[int]]) -> Array:
        """As of the class above."""
        cell, out = self.layers[0][0], self.output
        plain = len(self.layers) == len(self.layers[0]) == 1 and cell.weight_ih.size and cell.weight_hh.size
        if not rows or not plain or choose_kernels("auto", torch.empty(0)) is not _ext.C:
            return super().margins_of_rows(rows)
        if self._weights is None:
            # One linear layer: the classes behind the ReLU, and the rest of the margin as one class more.
            weight, bias = np.concatenate([out.weight, out.direct[None]]), np.concatenate([out.bias, out.constant])
            parts = (self.embedding, *cell[:3], np.zeros_like(cell.bias), weight, bias)
            weights = [torch.from_numpy(np.array(part, dtype=np.float32, order="C")) for part in parts]
            if self.projects_words:
                self._table = _ext.C.project_words(weights)
            self._weights = weights
        last_word = self.card["readout"] == "last_word"
        found: list[Array] = []
        for start in range(0, len(rows), _AT_ONCE):
            ids, lengths = map(torch.from_numpy, self.padded(rows[start : start + _AT_ONCE]))
            logits = _ext.C.class_logits(self._weights, ids, lengths, last_word, self._table).numpy()
            found.append(np.maximum(logits[:, :-1], 0) @ out.out + logits[:, -1])
        margins: Array = np.concatenate(found)
        return margins

    def torch_module(self) -> TorchModule:
        """This module as a plain ``torch.nn.Module`` of rows and lengths, for ``torch.export``, a GPU or training."""
        return TorchModule(self)

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``."""
        refuse_torchscript("torch.jit.script cannot compile a compact module")


def make_compact(
    base: LSTMClassifier,
    weights: Mapping[str, Tensor],
    head: Head,
    target: Iterable[int],
    card: Mapping[str, Any],
    dtype: str = "float32",
    unknown: str = "own",
) -> CompactModule:
    """Makes a compact module; ``SeamModule.compact`` calls it.

    Args:
        base: The module's base, which must know its words.
        weights: Its masked weights, by weight key.
        head: The module's head.
        target: Class numbers.
        card: What else the module's card is to say.
        dtype: As of ``SeamModule.compact``.
        unknown: As of ``SeamModule.compact``.

    Raises:
        CheckpointError: The base does not say its words, or a weight is too large for the dtype.
        ValueError: Another value of dtype or unknown.
    """
    for name, value, choices in (("dtype", dtype, DTYPES), ("unknown", unknown, UNKNOWN)):
        if value not in choices:
            raise ValueError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")
    index, config = base.word_index(), base.corpus_config
    arrays = {key: value.detach().double().cpu().numpy() for key, value in weights.items()}
    table, cells = arrays[EMBEDDING], _cells_of(arrays)
    output = _fold_output(
        *(arrays[key] for key in LINEAR_KEYS), *(part.detach().double().cpu().numpy() for part in head)
    )
    columns, units = _used(table, cells, output)
    cells, output = _without_unused(cells, output, columns, units)
    table = table[:, columns].astype(np.float32)

    has_row = np.any(table, axis=1)
    words = sorted(word for word, token_id in index.items() if has_row[token_id])
    rows = [np.zeros_like(table[0]), *(table[index[word]] for word in words)]
    row_of = {index[word]: row for row, word in enumerate(words, start=1)}

    def row_of_id(token_id: int) -> int:
        """The row of a token id, which is added where no word has it."""
        if not has_row[token_id]:
            return 0
        if token_id not in row_of:
            row_of[token_id] = len(rows)
            rows.append(table[token_id])
        return row_of[token_id]

    skips_unknown = config.padding == "word"
    unknown_row = row_of_id(1) if unknown == "own" and not skips_unknown else 0
    padding_row = row_of_id(0) if base.readout == "last_position" or skips_unknown else 0
    if unknown == "own" and (unknown_row or skips_unknown):  # a dropped word is then not the same as an unknown one
        words = sorted(index)
    tensors, separator = _word_list(words, np.array([has_row[index[word]] for word in words], dtype=bool))
    tensors |= _stored("embedding", np.stack(rows), dtype)
    for depth, layer in enumerate(cells):
        for cell in layer:
            name = f"lstm.{depth}.{int(cell.reverse)}"
            tensors |= _stored(f"{name}.weight_ih", cell.weight_ih, "float16" if dtype == "int8" else dtype)
            tensors |= _stored(f"{name}.weight_hh", cell.weight_hh, "float16" if dtype == "int8" else dtype)
            tensors[f"{name}.bias"] = cell.bias.astype("<f4")
    tensors |= {f"output.{name}": array.astype("<f4") for name, array in output._asdict().items()}
    names = base.class_names
    made = {
        "target_names": [str(k) if names is None else names[k] for k in target],
        "tokenizer": base.tokenizer.as_card(),
        "padding": "own" if unknown == "dropped" else config.padding,
        "separator": separator,
        "max_length": config.max_length,
        "readout": base.readout,
        "unknown_row": unknown_row,
        "padding_row": padding_row,
        "embedding": [len(rows), len(columns)],
        "lstm": [[[c.weight_ih.shape[1], c.hidden_size, int(c.reverse)] for c in layer] for layer in cells],
        "dtype": dtype,
        "unknown": unknown,
        "base_weights": sum(array.size for array in arrays.values()),
        "made_by": f"seam-fast {__version__}",
    }
    rule = base.tokenizer if base.tokenizer.is_function else None
    return CompactModule(tensors, json.loads(to_json({**card, **made})), rule)


def _cells_of(weights: dict[str, Array]) -> list[list[runtime.Cell]]:
    """The cells of masked weights in float64, layer by layer."""
    num_layers, bidirectional = lstm_shape(weights)
    parts = [key.removesuffix("_l0") for key in LSTM_KEYS]
    cells = []
    for depth in range(num_layers):
        layer = []
        for reverse in (False, True)[: 1 + bidirectional]:
            end = f"_l{depth}" + ("_reverse" if reverse else "")
            weight_ih, weight_hh, bias_ih, bias_hh = (weights[part + end] for part in parts)
            layer.append(runtime.Cell(weight_ih, weight_hh, bias_ih + bias_hh, reverse))
        cells.append(layer)
    return cells


def _fold_output(weight: Array, bias: Array, head_weight: Array, head_bias: Array) -> runtime.Output:
    """The linear layer (C, D * H), (C,) and the head (2, C), (2,) as one output, in float64.

    An LSTM's output lies between -1 and 1, so |weight| summed over a class bounds what reaches its ReLU. A class that
    it never passes is dropped, one that it always passes needs no ReLU.
    """
    out, constant = head_weight[0] - head_weight[1], head_bias[:1] - head_bias[1:]
    reach = np.abs(weight).sum(1)
    always = bias - reach >= 0
    behind = (out != 0) & ~always & (bias + reach > 0)
    return runtime.Output(
        weight[behind],
        bias[behind],
        out[behind],
        out[always] @ weight[always],
        constant + out[always] @ bias[always],
    )


def _used(table: Array, cells: list[list[runtime.Cell]], output: runtime.Output) -> tuple[Array, list[list[Array]]]:
    """Columns of the embedding, and units of each cell, that some answer can depend on, as indices.

    They are those that can be other than zero and that the output can be reached from.
    """
    column_lives = np.any(table, axis=0)
    lives = _units_that_live(column_lives, cells)
    matter, column_matters = _units_that_matter(cells, lives, output)
    used = [
        [np.flatnonzero(alive & needed) for alive, needed in zip(*layers, strict=True)]
        for layers in zip(lives, matter, strict=True)
    ]
    return np.flatnonzero(column_lives & column_matters), used


def _units_that_live(inputs: Array, cells: list[list[runtime.Cell]]) -> list[list[Array]]:
    """Which units can have an output other than zero, by layer and cell, bool (H,).

    A unit whose cell gate is always tanh(0) keeps its memory at 0. By induction over the steps that holds for a set of
    units whose cell gates get nothing but from one another and have no bias.
    """
    found = []
    for layer in cells:
        alive_in_layer = []
        for cell in layer:
            gate = slice(2 * cell.hidden_size, 3 * cell.hidden_size)
            alive = (cell.bias[gate] != 0) | (cell.weight_ih[gate][:, inputs] != 0).any(1)
            while True:
                more = alive | (cell.weight_hh[gate][:, alive] != 0).any(1)
                if (more == alive).all():
                    break
                alive = more
            alive_in_layer.append(alive)
        found.append(alive_in_layer)
        inputs = np.concatenate(alive_in_layer)
    return found


def _units_that_matter(
    cells: list[list[runtime.Cell]], lives: list[list[Array]], output: runtime.Output
) -> tuple[list[list[Array]], Array]:
    """Which units the output can be reached from, by layer and cell, bool (H,); and which inputs of the first layer."""
    reached = (output.weight != 0).any(0) | (output.direct != 0)
    found: list[list[Array]] = []
    for layer, alive_in_layer in zip(reversed(cells), reversed(lives), strict=True):
        ends = np.cumsum([cell.hidden_size for cell in layer])[:-1]
        below = np.zeros(layer[0].weight_ih.shape[1], dtype=bool)
        in_layer = []
        for cell, alive, matters in zip(layer, alive_in_layer, np.split(reached, ends), strict=True):
            matters = matters & alive
            by_unit = (cell.weight_hh != 0).reshape(4, cell.hidden_size, -1).any(0)  # (to, from)
            while True:
                more = (matters | by_unit[matters].any(0)) & alive
                if (more == matters).all():
                    break
                matters = more
            rows = np.tile(matters, 4)
            below |= (cell.weight_ih[rows] != 0).any(0)
            in_layer.append(matters)
        found.insert(0, in_layer)
        reached = below
    return found, reached


def _without_unused(
    cells: list[list[runtime.Cell]], output: runtime.Output, inputs: Array, units: list[list[Array]]
) -> tuple[list[list[runtime.Cell]], runtime.Output]:
    """Cells and output with the given inputs of the first layer and units (indices) alone, in float32."""
    found = []
    for layer, chosen in zip(cells, units, strict=True):
        slim = []
        for cell, mine in zip(layer, chosen, strict=True):
            rows = np.concatenate([mine + gate * cell.hidden_size for gate in range(4)])
            slim.append(
                runtime.Cell(
                    cell.weight_ih[np.ix_(rows, inputs)].astype(np.float32),
                    cell.weight_hh[np.ix_(rows, mine)].astype(np.float32),
                    cell.bias[rows].astype(np.float32),
                    cell.reverse,
                )
            )
        found.append(slim)
        starts = np.cumsum([0, *(cell.hidden_size for cell in layer)])
        inputs = np.concatenate([start + mine for start, mine in zip(starts, chosen, strict=False)])
    slim_output = output._replace(weight=output.weight[:, inputs], direct=output.direct[inputs])
    return found, slim_output


def _word_list(words: list[str], has_row: Array) -> tuple[dict[str, Array], str]:
    """Sorted words, and whether each has a row of its own, as `runtime` reads them; and the separator."""
    shared, tails, separator = _in_front_code(tuple(words))
    kept = _deflated(np.packbits(has_row).tobytes())
    return {"words.shared": shared, "words.tails": tails, "words.kept": kept}, separator


@functools.lru_cache(maxsize=2)
def _in_front_code(words: tuple[str, ...]) -> tuple[Array, Array, str]:
    """``words.shared``, ``words.tails`` and the separator; the modules of one base mostly share all its words."""
    shared, tails, last = bytearray(), [], ""
    for word in words:
        count = _shared(word[:255], last)
        shared.append(count)
        tails.append(word[count:])
        last = word
    used = set().union(*words)
    separator = next(character for character in map(chr, (10, *range(0xD800))) if character not in used)
    text = separator.join(tails).encode("utf-8", "surrogatepass")
    return _deflated(bytes(shared)), _deflated(text), separator


def _shared(word: str, last: str) -> int:
    """Number of characters at the beginning that two words share."""
    pairs = enumerate(zip(word, last, strict=False))
    return next((k for k, (one, other) in pairs if one != other), min(len(word), len(last)))


def _deflated(data: bytes) -> Array:
    """Bytes as `runtime` inflates them."""
    return np.frombuffer(zlib.compress(data, 9), dtype=np.uint8)


def _stored(name: str, matrix: Array, dtype: str) -> dict[str, Array]:
    """A matrix as `runtime` reads it: one bit a value, and the values that are not zero."""
    kept = matrix != 0
    stored = {f"{name}.kept": _deflated(np.packbits(kept).tobytes())}
    if dtype == "int8":
        largest = np.abs(matrix).max(0, initial=0)
        scale = np.where(largest > 0, largest / 127, 1).astype("<f4")
        stored[f"{name}.values"] = np.rint(matrix / scale)[kept].astype(np.int8)
        stored[f"{name}.scale"] = scale
    else:
        values = matrix[kept]
        if dtype == "float16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise CheckpointError(f"{name} holds values that are too large for float16; take dtype float32")
        stored[f"{name}.values"] = values.astype("<f2" if dtype == "float16" else "<f4")
    return stored

"""A compact module as one file of C99: text in, probability out, without an allocation or a library.

What it holds and how it computes was measured with modules of R8 (20,000 words, 100 columns, 50 units, a fifth of the
values kept) on one core, a text at a time, compiled by gcc and clang for any x86-64 and for AVX2:

- tanh took most of a step's time as the C library computes it. Here it is a rational function that compilers make vector
  instructions of, and the answers are the same wherever they are computed.
- The input weights are applied to 16 steps at once, so that the zeros of a sparse matrix can be left out and what is left
  be computed in vectors: faster than leaving zeros out step by step, and than computing them. A table of the words'
  projections (``table``) is faster still, but takes several times the room of all else; so it is an option.
- The recurrent weights: rows in which much is kept are computed in full, unit by unit; of the others only what is kept.
  Either alone is slower, and the second much slower.
- The vocabulary: most words of a text are kept ones, so those are found by hashing. Words of which nothing is kept are
  most of the vocabulary, and are stored by what they do not share with their neighbours, in half the room.
"""

import os
import re
from pathlib import Path

import numpy as np

from .. import runtime
from .._version import __version__
from ..errors import CheckpointError
from ..files.atomic import write_atomically
from .export_arrays import Array, array, constants, hex_float, identifier, in_comment, indices, template, unsigned
from .export_words import words_part
from .seam_module import SeamModule

CHUNK = 16  # steps whose inputs are projected at once, SEAM_CHUNK in the templates
MOST_STACK = 4 << 20  # bytes
MOST_TABLE = 64 << 20  # bytes of a table of projected words
HEAVY = 7  # a row of recurrent weights is computed in full if more than one in so many of its values is kept
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def export_c(
    module: runtime.CompactModule | SeamModule,
    path: str | os.PathLike[str],
    name: str | None = None,
    table: bool = False,
) -> Path:
    """Writes a module as one file of C99, text in, probability out, completely or not at all.

    The file's functions are ``<name>_probability(text)`` and those that it consists of; its first lines declare and
    explain them. It needs no library and allocates nothing. Compiled with ``-DSEAM_MAIN`` it is a program.

    Args:
        module: A compact module, or a module of which one is made.
        path: Ends in ``.c``.
        name: What the functions' names begin with; default: one made of the target's name.
        table: Whether it holds what the LSTM gets from each word in place of the embedding: faster, and several times
            as large.

    Returns:
        The path.

    Raises:
        CheckpointError: The path has another ending; the name is none in C; the tokenizer is a function of the user's
            own; texts may be so long, or the table would become so large, that a C program should not hold it; or as
            ``SeamModule.compact`` does.
    """
    path = Path(path)
    if path.suffix != ".c":
        raise CheckpointError(f"{path}: the name of a file of C ends in .c")
    return write_atomically(path, to_c(module.compact() if isinstance(module, SeamModule) else module, name, table).encode())


def to_c(module: runtime.CompactModule, name: str | None = None, table: bool = False) -> str:
    """The contents of the file that ``export_c`` writes; arguments and errors as there."""
    name = identifier(module.target_names) if name is None else name
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"a name in C is letters, digits and _ beginning with a letter, not {name!r}; give another")
    network = _Network(module)
    if network.stack_bytes() > MOST_STACK:
        raise CheckpointError(
            f"the states of texts of {module.card['max_length']} words would take {network.stack_bytes() >> 20} MB of "
            f"stack in C, more than {MOST_STACK >> 20}; make a base with a smaller max_length or fewer units"
        )
    if table and network.table_bytes() > MOST_TABLE:
        raise CheckpointError(
            f"a table of all words' projections would take {network.table_bytes() >> 20} MB, more than "
            f"{MOST_TABLE >> 20}; export without it"
        )
    words = words_part(module)
    counted = "count, those that the module knows" if module.card["padding"] == "word" else "count, all"
    parts = [
        _head(module, name, network.stack_bytes()),
        template("interface.c", max_length=module.card["max_length"], counted=counted),
        words,
        "\n/* -- from words to the margin " + "-" * 90 + " */\n",
        network.code(table),
        template("main.c"),
        template("wasm.c"),
    ]
    text = re.sub(r"\bseam_(?=[a-z])", f"{name}_", "".join(parts))
    return re.sub(r"\bSEAM_(?!MAIN\b|WASM\b)", f"{name.upper()}_", text)


def stack_bytes(module: runtime.CompactModule) -> int:
    """About what the functions of a module's file take of the stack."""
    return _Network(module).stack_bytes()


def _head(module: runtime.CompactModule, name: str, stack: int) -> str:
    """The comment that the file begins with."""
    target = in_comment(" + ".join(module.target_names))
    return f"""\
/* {name}: the probability that a text is of the class {target}.
   Made by seam-fast {__version__} of a compact module; do not edit, make it again (seam-fast export MODULE --c FILE).

   Declare what you use of the functions below and link this file; it is C99 and needs no library:

       cc -std=c99 -O3 -c {name}.c                      an object file; with -march=native for this processor alone
       cc -std=c99 -O3 -DSEAM_MAIN {name}.c -o {name}     a program: a text a line in, a probability a line out

   No function allocates, fails or keeps anything, so all of them may run in any number of threads; they take about
   {max(1, stack >> 10)} kB of stack. */

"""


class _Cell:
    """One cell with gates and units filled up to multiples of four, the arguments of its sigmoids halved.

    Attributes:
        units: H, at least 1: a cell without units gets one that is always zero.
        padded: H as it is computed with.
        weight_ih: (4 * padded, I).
        weight_hh: (4 * padded, padded).
        bias: (4 * padded,).
        reverse: As of `runtime.Cell`.
    """

    def __init__(self, cell: runtime.Cell, inputs: Array) -> None:
        """inputs: for each column of the input weights in the file where it is taken from, -1 for zeros."""
        size = cell.hidden_size
        self.units = max(size, 1)
        self.padded = -(-self.units // 4) * 4
        half = np.full(4 * size, 0.5, dtype=np.float32)
        half[2 * size : 3 * size] = 1
        rows = np.concatenate([np.arange(size) + gate * self.padded for gate in range(4)])
        self.weight_ih = np.zeros((4 * self.padded, len(inputs)), dtype=np.float32)
        self.weight_hh = np.zeros((4 * self.padded, self.padded), dtype=np.float32)
        self.bias = np.zeros(4 * self.padded, dtype=np.float32)
        self.weight_ih[np.ix_(rows, inputs >= 0)] = (cell.weight_ih * half[:, None])[:, inputs[inputs >= 0]]
        self.weight_hh[rows, :size] = cell.weight_hh * half[:, None]
        self.bias[rows] = cell.bias * half
        self.reverse = cell.reverse


class _Network:
    """What follows the tokenizer: embedding, LSTM and output, in shapes that C can have (nothing is empty)."""

    def __init__(self, module: runtime.CompactModule) -> None:
        self.card, self.output = module.card, module.output
        self.embedding = module.embedding if module.embedding.size else np.zeros((len(module.embedding), 1), np.float32)
        self._scale = module.tensors.get("embedding.scale") if module.embedding.size else None
        inputs = np.arange(module.embedding.shape[1]) if module.embedding.size else np.array([-1])
        self.layers: list[list[_Cell]] = []
        for cells in module.layers:
            self.layers.append([_Cell(cell, inputs) for cell in cells])
            starts = np.cumsum([0, *(cell.hidden_size for cell in cells)])
            ranges = [np.arange(cell.hidden_size) + start for cell, start in zip(cells, starts, strict=False)]
            inputs = np.concatenate([part if len(part) else np.array([-1]) for part in ranges])
        self.of_output = inputs  # for each unit of the last layer its column of the output
        every = [cell for cells in self.layers for cell in cells]
        self.column_type = unsigned(max(cell.weight_ih.shape[1] for cell in every) - 1)
        groups = [sum(-(-int(count) // 4) for count in (cell.weight_ih != 0).sum(1)) for cell in every]
        self.start_type = unsigned(max(groups))

    def _widths(self) -> list[int]:
        """Units of each layer."""
        return [sum(cell.units for cell in cells) for cells in self.layers]

    def stack_bytes(self) -> int:
        """About what the functions take of the stack."""
        most = max(
            CHUNK * (len(cell.bias) + cell.weight_ih.shape[1]) + 6 * cell.padded
            for cells in self.layers
            for cell in cells
        )
        between = self.card["max_length"] * sum(self._widths()[:-1])
        return 4 * (most + between + self._widths()[-1]) + 28 * self.card["max_length"] + 512

    def table_bytes(self) -> int:
        """What the table of projected words takes."""
        return 4 * len(self.embedding) * sum(len(cell.bias) for cell in self.layers[0])

    def code(self, table: bool) -> str:
        """The part of the file from the embedding to the probability. table: as of `to_c`."""
        every = [cell for cells in self.layers for cell in cells]
        parts = [template("tanh.c", count=count) for count in sorted({1, *(n * c.padded for c in every for n in (1, 4))})]
        if not table:
            parts.append(self._embedding())
        if len(self.layers) > 1 or not table:
            parts.append(template("project.c", start_type=self.start_type, column_type=self.column_type))
        calls, source = [], "rows"
        for depth, cells in enumerate(self.layers):
            last, offset, width = depth == len(self.layers) - 1, 0, self._widths()[depth]
            if not last:
                calls.append(f"    float outputs_{depth}[SEAM_MAX_LENGTH * {width}];\n")
            out = "state" if last else f"outputs_{depth}"
            for cell in cells:
                parts.append(self._cell(cell, depth, last, table))
                # Of the reverse cell of the last layer only the output at the last word is read: that of its first step.
                steps = "count, 1" if last and cell.reverse else "count, count" if cell.reverse else "count"
                stride = 0 if last else width
                calls.append(
                    f"    seam_cell_{depth}_{int(cell.reverse)}({source}, {steps}, {out} + {offset}, {stride});\n"
                )
                offset += cell.units
            source = out
        return "".join([*parts, self._margin("".join(calls))])

    def _embedding(self) -> str:
        """The embedding's tables, and the function that reads a row."""
        kept = self.embedding != 0
        rows, columns = kept.shape
        numbers, value_type, value, before = self._stored()
        tables = array(value_type, "seam_values", [*numbers[kept].tolist(), 0])  # one more: the bits' form reads ahead
        if value_type == "int8_t":
            tables += array("float", "seam_scale", self._scale)
        tables += indices("seam_value_starts", np.concatenate([[0], np.cumsum(kept.sum(1))]))
        bytes_of_bits = -(-columns // 8)
        if rows * bytes_of_bits <= kept.sum() * (1 if columns <= 256 else 2):
            tables += constants(SEAM_KEPT_BYTES=bytes_of_bits)
            tables += array("uint8_t", "seam_kept", np.packbits(kept, axis=1, bitorder="little"))
            name = "embedding_bits.c"
        else:
            tables += indices("seam_value_columns", np.nonzero(kept)[1])
            name = "embedding_columns.c"
        return before + template(name, embedding_tables=tables, value_type=value_type, value=value, columns=columns)

    def _stored(self) -> tuple[Array, str, str, str]:
        """The embedding as the compact module's file stores it, its type in C, a value in C, and what that needs."""
        kind = self.card.get("dtype")
        if kind == "float16":
            return self.embedding.astype("<f2").view("<u2"), "uint16_t", "seam_half(*value)", template("half.c")
        if self._scale is not None:
            return np.rint(self.embedding / self._scale).astype(int), "int8_t", "((float)*value * seam_scale[c])", ""
        return self.embedding, "float", "*value", ""

    def _cell(self, cell: _Cell, depth: int, last: bool, table: bool) -> str:
        """The tables and the function of one cell."""
        name, gates = f"{depth}_{int(cell.reverse)}", len(cell.bias)
        reads_table = table and depth == 0
        time = "count - 1 - first - k" if cell.reverse else "first + k"
        inputs, project = cell.weight_ih.shape[1], ""
        if reads_table:
            projected = self.embedding @ cell.weight_ih.T + cell.bias
            tables = array("float", f"seam_table_{name}", projected)
            take = (
                f"for (int i = 0; i < {gates}; i++)\n"
                f"                gates[k][i] = seam_table_{name}[(size_t)rows[t] * {gates} + (size_t)i];"
            )
        else:
            tables = self._input_tables(cell, name)
            take = (
                "seam_embed(rows[t], inputs, k);"
                if depth == 0
                else f"for (int c = 0; c < {inputs}; c++)\n                inputs[c][k] = below[t * {inputs} + c];"
            )
            names = ", ".join(f"seam_{part}_{name}" for part in ("bias", "starts", "columns", "weights"))
            project = f"        seam_project({gates}, {names}, inputs, &gates[0][0]);\n"
        recurrent_tables, recur = _recurrence(cell, name)
        return template(
            "cell.c",
            title=f"Layer {depth + 1} of the LSTM, {'from the end' if cell.reverse else 'forward'}: {cell.units} units.",
            tables=tables + recurrent_tables,
            what=("words" if depth == 0 else "outputs of the layer below") + (", of `count` from the end" if cell.reverse else ""),
            id=name,
            source=("const int *rows" if depth == 0 else "const float *below") + (", int count" if cell.reverse else ""),
            gates=gates,
            inputs="" if reads_table else f", inputs[{inputs}][SEAM_CHUNK] = {{{{0}}}}",
            hidden=cell.padded,
            units=cell.units,
            time=time,
            take=take,
            project=project,
            recur=recur,
        )

    def _input_tables(self, cell: _Cell, name: str) -> str:
        """Biases and input weights as ``templates/project.c`` reads them."""
        starts, columns, weights = [0], [], []
        for row in cell.weight_ih:
            kept = np.flatnonzero(row)
            fill = -len(kept) % 4
            columns += [*kept.tolist(), *[0] * fill]
            weights += [*row[kept].tolist(), *[0.0] * fill]
            starts.append(len(columns) // 4)
        return (
            array("float", f"seam_bias_{name}", cell.bias)
            + array(self.start_type, f"seam_starts_{name}", starts)
            + array(self.column_type, f"seam_columns_{name}", columns)
            + array("float", f"seam_weights_{name}", weights)
        )

    def _margin(self, calls: str) -> str:
        """The output's tables, and the functions from words to the probability."""
        out, taken = self.output, self.of_output

        def widened(matrix: Array) -> Array:
            return np.where(taken >= 0, matrix[..., taken], 0) if matrix.shape[-1] else np.zeros((*matrix.shape[:-1], 1))

        skips = self.card["padding"] == "word"
        fill = f"""\
    for (; count < SEAM_MAX_LENGTH; count++)
        rows[count] = {self.card["padding_row"]}; /* the output is read after the padding */
"""
        return template(
            "margin.c",
            output_tables=array("float", "seam_direct", widened(out.direct))
            + array("float", "seam_output", widened(out.weight))
            + array("float", "seam_output_bias", out.bias)
            + array("float", "seam_output_out", out.out),
            width=len(taken),
            empty="padding" if skips else "an unknown one",
            empty_row=self.card["padding_row" if skips else "unknown_row"],
            fill=fill if self.card["readout"] == "last_position" else "",
            cells=calls,
            constant=hex_float(out.constant[0]),
            classes=len(out.bias),
        )


def _recurrence(cell: _Cell, name: str) -> tuple[str, str]:
    """The tables of a cell's recurrent weights, and the statements that apply them."""
    counts = (cell.weight_hh != 0).sum(1)
    heavy = np.flatnonzero(counts * HEAVY > cell.padded)
    light = np.flatnonzero((counts > 0) & (counts * HEAVY <= cell.padded))
    tables = code = ""
    if len(heavy):
        width = -(-len(heavy) // 8) * 8
        full = np.zeros((cell.padded, width), dtype=np.float32)
        full[:, : len(heavy)] = cell.weight_hh[heavy].T
        tables += array("float", f"seam_heavy_{name}", full) + indices(f"seam_heavy_rows_{name}", heavy)
        code += template("recur_heavy.c", id=name, heavy=width, heavy_rows=len(heavy), hidden=cell.padded)
    if len(light):
        part = cell.weight_hh[light]
        tables += (
            array("float", f"seam_light_{name}", part[part != 0])
            + indices(f"seam_light_units_{name}", np.nonzero(part)[1])
            + indices(f"seam_light_starts_{name}", np.concatenate([[0], np.cumsum((part != 0).sum(1))]))
            + indices(f"seam_light_rows_{name}", light)
        )
        code += template("recur_light.c", id=name, light_rows=len(light))
    return tables, code

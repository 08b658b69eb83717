"""What follows the tokenizer in C99: embedding, LSTM and output.

How it computes was chosen by measurement with modules of R8 (20,000 words, 100 columns, 50 units, a fifth of the values
kept), a text at a time on one core, compiled by gcc and clang for any x86-64 and for AVX2:

- tanh would take most of a step's time as the C library computes it. Here it is a few operations that compilers make
  vector instructions of, and answers are the same wherever they are computed. A rational function is a little faster,
  but in float its errors near 1 are three times as large, pile up over the steps, and move some answers by more than
  1e-5.
- The input weights are applied to 16 steps at once, so that the zeros of a sparse matrix are left out and what is left
  is computed in vectors: faster than leaving zeros out step by step, and than computing them. A table of the words'
  projections (``table``) is faster still, but takes several times the room of all else; so it is an option.
- The recurrent weights: rows in which much is kept are computed in full, unit by unit; of the others only what is kept.
  Either alone is slower, and the second much slower.
"""

import numpy as np

from .. import runtime
from .export_arrays import Array, array, constants, hex_float, indices, template, unsigned
from .torch_module import without_empty

CHUNK = 16  # steps whose inputs are projected at once, SEAM_CHUNK in the templates
HEAVY = 7  # a row of recurrent weights is computed in full if more than one in so many of its values is kept


class _Cell:
    """One cell with units filled up to a multiple of four, the arguments of its sigmoids halved.

    Attributes:
        units: H.
        padded: H as it is computed with.
        weight_ih: (4 * padded, I).
        weight_hh: (4 * padded, padded).
        bias: (4 * padded,).
        reverse: As of `runtime.Cell`.
    """

    def __init__(self, cell: runtime.Cell) -> None:
        self.units, self.reverse = cell.hidden_size, cell.reverse
        self.padded = -(-self.units // 4) * 4
        half = np.full((4 * self.units, 1), 0.5, dtype=np.float32)
        half[2 * self.units : 3 * self.units] = 1
        rows = np.concatenate([np.arange(self.units) + gate * self.padded for gate in range(4)])
        self.weight_ih = np.zeros((4 * self.padded, cell.weight_ih.shape[1]), dtype=np.float32)
        self.weight_hh = np.zeros((4 * self.padded, self.padded), dtype=np.float32)
        self.bias = np.zeros(4 * self.padded, dtype=np.float32)
        self.weight_ih[rows] = cell.weight_ih * half
        self.weight_hh[rows, : self.units] = cell.weight_hh * half
        self.bias[rows] = cell.bias * half[:, 0]


class Network:
    """A compact module's embedding, LSTM and output, to be written in C.

    Args:
        module: The module.
    """

    def __init__(self, module: runtime.CompactModule) -> None:
        layers, self._output = without_empty(module)  # C has no arrays without elements
        self._card = module.card
        self._layers = [[_Cell(cell) for cell in cells] for cells in layers]
        self._cells = [cell for cells in self._layers for cell in cells]
        self._widths = [sum(cell.units for cell in cells) for cells in self._layers]
        self._embedding, self._scale = module.embedding, module.tensors.get("embedding.scale")
        if not self._embedding.size:
            self._embedding, self._scale = np.zeros((len(module.embedding), 1), dtype=np.float32), None
        self._column_type = unsigned(max(cell.weight_ih.shape[1] for cell in self._cells) - 1)
        groups = [sum(-(-int(count) // 4) for count in (cell.weight_ih != 0).sum(1)) for cell in self._cells]
        self._start_type = unsigned(max(groups))

    def stack_bytes(self) -> int:
        """About what the functions take of the stack."""
        cells = (CHUNK * (len(cell.bias) + cell.weight_ih.shape[1]) + 6 * cell.padded for cell in self._cells)
        length = int(self._card["max_length"])
        # Beside them the outputs between layers, the words (24 bytes each) and their rows.
        return 4 * (max(cells) + length * sum(self._widths[:-1]) + self._widths[-1]) + 28 * length + 512

    def table_bytes(self) -> int:
        """What the table of projected words takes."""
        return 4 * len(self._embedding) * sum(len(cell.bias) for cell in self._layers[0])

    def code(self, table: bool) -> str:
        """The part of the file from the embedding to the probability. table: as of ``export_c``."""
        sizes = {1} | {count for cell in self._cells for count in (cell.padded, len(cell.bias))}
        parts = [template("tanh.c", count=count) for count in sorted(sizes)]
        if not table:
            parts.append(self._embedding_code())
        if len(self._layers) > 1 or not table:
            parts.append(template("project.c", start_type=self._start_type, column_type=self._column_type))
        calls, source = [], "rows"
        for depth, cells in enumerate(self._layers):
            last, offset, width = depth == len(self._layers) - 1, 0, self._widths[depth]
            if not last:
                calls.append(f"    float outputs_{depth}[SEAM_MAX_LENGTH * {width}];\n")
            out = "state" if last else f"outputs_{depth}"
            for cell in cells:
                parts.append(self._cell_code(cell, depth, table))
                given = f"{source}, count, count" if cell.reverse else f"{source}, count"
                if last and cell.reverse:  # its output at the last word, all that is read, is that of its first step
                    given = f"{source}, count, 1"
                stride = 0 if last else width
                calls.append(f"    seam_cell_{depth}_{int(cell.reverse)}({given}, {out} + {offset}, {stride});\n")
                offset += cell.units
            source = out
        return "".join([*parts, self._margin_code("".join(calls))])

    def _embedding_code(self) -> str:
        """The embedding's tables, and the function that reads a row."""
        kept = self._embedding != 0
        rows, columns = kept.shape
        numbers, value_type, value, before = self._stored()
        tables = array(value_type, "seam_values", [*numbers[kept].tolist(), 0])  # one more: the bits' form reads ahead
        if self._scale is not None:
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
        if self._scale is not None:
            return np.rint(self._embedding / self._scale).astype(int), "int8_t", "((float)*value * seam_scale[c])", ""
        if self._card.get("dtype") == "float16":
            return self._embedding.astype("<f2").view("<u2"), "uint16_t", "seam_half(*value)", template("half.c")
        return self._embedding, "float", "*value", ""

    def _cell_code(self, cell: _Cell, depth: int, table: bool) -> str:
        """The tables and the function of one cell."""
        name, gates, width = f"{depth}_{int(cell.reverse)}", len(cell.bias), cell.weight_ih.shape[1]
        inputs = project = ""
        if table and depth == 0:
            tables = array("float", f"seam_table_{name}", self._embedding @ cell.weight_ih.T + cell.bias)
            take = (
                f"for (int i = 0; i < {gates}; i++)\n"
                f"                gates[k][i] = seam_table_{name}[(size_t)rows[t] * {gates} + (size_t)i];"
            )
        else:
            tables = self._input_tables(cell, name)
            take = "seam_embed(rows[t], inputs, k);"
            if depth:
                take = f"for (int c = 0; c < {width}; c++)\n                inputs[c][k] = below[t * {width} + c];"
            names = ", ".join(f"seam_{part}_{name}" for part in ("bias", "starts", "columns", "weights"))
            inputs = f", inputs[{width}][SEAM_CHUNK] = {{{{0}}}}"
            project = f"        seam_project({gates}, {names}, inputs, &gates[0][0]);\n"
        recurrent_tables, recur = _recurrence(cell, name)
        return template(
            "cell.c",
            title=f"Layer {depth + 1} of the LSTM{', from the end' if cell.reverse else ''}: {cell.units} units.",
            tables=tables + recurrent_tables,
            what="outputs of the layer below" if depth else "words",
            of=" of `count`, the last one first" if cell.reverse else "",
            id=name,
            source=("const float *below" if depth else "const int *rows") + (", int count" if cell.reverse else ""),
            gates=gates,
            inputs=inputs,
            hidden=cell.padded,
            units=cell.units,
            time="count - 1 - first - k" if cell.reverse else "first + k",
            take=take,
            project=project,
            recur=recur,
        )

    def _input_tables(self, cell: _Cell, name: str) -> str:
        """Biases and input weights as ``templates/project.c`` reads them."""
        starts: list[int] = [0]
        columns: list[int] = []
        weights: list[float] = []
        for row in cell.weight_ih:
            kept = np.flatnonzero(row)
            fill = -len(kept) % 4
            columns += [*kept.tolist(), *[0] * fill]
            weights += [*row[kept].tolist(), *[0.0] * fill]
            starts.append(len(columns) // 4)
        return (
            array("float", f"seam_bias_{name}", cell.bias)
            + array(self._start_type, f"seam_starts_{name}", starts)
            + array(self._column_type, f"seam_columns_{name}", columns)
            + array("float", f"seam_weights_{name}", weights)
        )

    def _margin_code(self, calls: str) -> str:
        """The output's tables, and the functions from words to the probability. calls: those of the cells."""
        out, card = self._output, self._card
        skips = card["padding"] == "word"
        fill = ""
        if card["readout"] == "last_position":
            fill = "    for (; count < SEAM_MAX_LENGTH; count++)\n"
            fill += f"        rows[count] = {card['padding_row']}; /* the output is read after the padding */\n"
        return template(
            "margin.c",
            output_tables=array("float", "seam_direct", out.direct)
            + array("float", "seam_output", out.weight)
            + array("float", "seam_output_bias", out.bias)
            + array("float", "seam_output_out", out.out),
            width=len(out.direct),
            empty="padding" if skips else "an unknown one",
            empty_row=card["padding_row" if skips else "unknown_row"],
            fill=fill,
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

"""Uses a compact module with NumPy alone: text in, probability out.

A compact module (``SeamModule.compact``, ``seam-fast compact``) holds all that an answer needs: tokenizer, vocabulary,
kept weights and head. This file is one piece on purpose: it needs neither torch nor the rest of the package, so a copy
of it beside a module's file is a program. ::

    from seam_fast import runtime  # or, of a copy: import runtime
    ship = runtime.load("ship.compact.safetensors")
    ship(["the vessel left the port"])  # the target's probability, (1,)

    python runtime.py ship.compact.safetensors "the vessel left the port"

Letters: N texts, n texts of a batch, T words, R rows of the embedding, E embedding size, H hidden size, D directions,
K class outputs behind the ReLU. Gates stand in torch's order: input, forget, cell, output.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import re
import stat
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self

try:
    from .errors import CheckpointError, DataError
except ImportError:  # a copy of this file, without the package

    class CheckpointError(Exception):  # type: ignore[no-redef]
        """A file that is no compact module, or a damaged one. Its text is one sentence."""

    class DataError(Exception):  # type: ignore[no-redef]
        """Input that cannot be used. Its text is one sentence."""


FORMAT = "seam-fast compact 1"
BATCH = 64  # texts computed at once; with more of them OpenBLAS would start threads, which here only wait
MOST_PROJECTED = 64 << 20  # the most bytes that the table of projected words may take
MOST_WORDS = 256 << 20  # the most bytes of a vocabulary, uncompressed
MOST_HEADER = 16 << 20  # the most bytes of a file's header
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# -- from text to words ------------------------------------------------------------------------------------------------

JOINERS = (0x200C, 0x200D)  # zero-width, but part of the spelling in Persian and Indic scripts
ZERO_WIDTH_SPACE = 0x200B


_LETTERS = re.compile("[a-z]+")


def letters_only(text: str) -> str:
    """R8's form of a text: lower-case letters a to z, everything else a single space."""
    return " ".join(_LETTERS.findall(text.lower()))


class _SeparatePunctuation(dict[int, str]):
    """A table for `str.translate` that puts spaces around punctuation and symbols and removes invisible characters.

    Entries are made when a character first occurs.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if kind[0] in "PS":
            made = f" {character} "
        elif kind[0] == "Z" or kind == "Cc" or code == ZERO_WIDTH_SPACE:
            made = " "
        elif kind == "Cf" and code not in JOINERS:
            made = ""
        else:
            made = character
        self[code] = made
        return made


_SEPARATED = _SeparatePunctuation()


def _words(text: str) -> list[str]:
    """The words of rule "words"."""
    # By Unicode category and not by the regular expression \w, which splits words at the vowel signs of Indic scripts.
    return unicodedata.normalize("NFC", text.lower()).translate(_SEPARATED).split()


def _r8(text: str) -> list[str]:
    """The words of rule "r8", which are those of `letters_only`."""
    return _LETTERS.findall(text.lower())


def _characters(text: str) -> list[str]:
    """The words of rule "characters"."""
    return list(" ".join(unicodedata.normalize("NFC", text).split()))


RULES: dict[str, Callable[[str], list[str]]] = {
    "spaces": str.split,
    "r8": _r8,
    "words": _words,
    "characters": _characters,
}
"""The tokenizer's rules by name: what `seam_fast.Tokenizer` applies, too."""


def split_by(function: Callable[[str], Iterable[str]], text: str, name: str = "") -> list[str]:
    """The words of a text by a user's function, without empty ones.

    Args:
        function: from a text to its words.
        text: the text.
        name: the function's, for messages.

    Raises:
        DataError: the function fails or returns something other than strings.
    """
    which = f"the tokenizer {name}".rstrip()
    try:
        returned = function(text)
        words = None if isinstance(returned, str) else list(returned)
    except DataError:  # of a `seam_fast.Tokenizer`, which has said it all
        raise
    except Exception as error:
        raise DataError(f"{which} failed on {text[:40]!r}: {error!r}") from error
    if words is None or not all(isinstance(word, str) for word in words):
        raise DataError(f"{which} must return a list of strings; on {text[:40]!r} it did not.")
    return [word for word in words if word]


# -- the module --------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One LSTM cell: one layer in one direction.

    Attributes:
        weight_ih: (4 * H, I), I the size of its input.
        weight_hh: (4 * H, H).
        bias: both biases, added, (4 * H,).
        reverse: whether it reads from the last word to the first.
    """

    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray
    reverse: bool

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.weight_hh.shape[1]


class Output(NamedTuple):
    """From the LSTM's output to the margin: ``out . relu(weight h + bias) + direct . h + constant``.

    ``direct`` takes the classes whose ReLU provably passes everything: |h| < 1 bounds what reaches it.

    Attributes:
        weight: Of the classes behind the ReLU, (K, D * H).
        bias: (K,).
        out: What each of them adds to the margin, (K,).
        direct: (D * H,).
        constant: (1,).
    """

    weight: np.ndarray
    bias: np.ndarray
    out: np.ndarray
    direct: np.ndarray
    constant: np.ndarray

    def margin(self, state: np.ndarray) -> np.ndarray:
        """The margin (N,) of LSTM outputs (N, D * H)."""
        behind = np.maximum(state @ self.weight.T + self.bias, 0) @ self.out
        return behind + state @ self.direct + self.constant[0]


class CompactModule:
    """A module that stands alone. `load` reads one from a file, ``SeamModule.compact`` makes one.

    Args:
        tensors: The arrays of its file by name, see `load`.
        card: What the module is, and how its arrays are to be read.
        tokenizer: The function that splits texts, where the card names one and not a rule.

    Attributes:
        tensors: As given.
        card: As given.
        target_names: Names of the target's classes.
        row_of: The embedding row of each word, 0 (a row of zeros) for words of the base's vocabulary of which nothing
            is kept. Those are left out where they need not be told from unknown words.
        embedding: (R, E), float32.
        layers: The cells of each layer, the forward one first.
        output: What follows the LSTM.

    Raises:
        CheckpointError: Arrays or card are damaged.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        card: Mapping[str, Any],
        tokenizer: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        self.tensors, self.card = dict(tensors), _checked_card(card)
        self.row_of, self._kept_words = _rows_of_words(self.tensors, self.card["separator"])
        rows, width = self.card["embedding"]
        self.embedding = _matrix(self.tensors, "embedding", rows, width)
        self.layers = tuple(tuple(_cells(self.tensors, depth, sizes)) for depth, sizes in enumerate(self.card["lstm"]))
        self.output = _output(self.tensors, sum(cell.hidden_size for cell in self.layers[-1]))
        self._check_sizes()
        self.target_names: list[str] = self.card["target_names"]
        rule = self.card["tokenizer"]
        own = None if tokenizer is None else functools.partial(split_by, tokenizer)
        self._split = RULES[rule] if isinstance(rule, str) else own
        self._steps = [[_Steps(cell) for cell in cells] for cells in self.layers]
        self._projected: list[np.ndarray] | None = None

    def _check_sizes(self) -> None:
        """Raises CheckpointError where the arrays do not fit one another."""
        rows, width = self.embedding.shape
        needed = max(self.card["unknown_row"], self.card["padding_row"], self._kept_words)
        if needed >= rows:
            raise CheckpointError(f"the embedding has {rows} rows, and the words need {needed + 1}")
        for cells in self.layers:
            if {cell.weight_ih.shape[1] for cell in cells} != {width}:
                raise CheckpointError("the sizes of the LSTM's layers do not fit one another")
            width = sum(cell.hidden_size for cell in cells)

    @property
    def projects_words(self) -> bool:
        """Whether what the first layer's gates get from each word is held in a table, and looked up."""
        return 4 * len(self.embedding) * sum(len(cell.bias) for cell in self.layers[0]) <= MOST_PROJECTED

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(cells)} x {cells[0].hidden_size}" for cells in self.layers)
        return f"CompactModule(target={'+'.join(self.target_names)}, rows={len(self.embedding)}, lstm={sizes})"

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: Callable[[str], Iterable[str]] | None = None) -> Self:
        """Reads a compact module; arguments and errors as of the function `load`."""
        tensors, card = read(path)
        try:
            made = cls(tensors, card, tokenizer)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}; make the file again (seam-fast compact)") from None
        rule = made.card["tokenizer"]
        if tokenizer is not None and isinstance(rule, str) and getattr(tokenizer, "name", None) != rule:
            raise CheckpointError(
                f"{path}: its texts were split by the tokenizer {rule!r}, which it applies itself, and not by a "
                "function; give no tokenizer"
            )
        return made

    # -- using it ------------------------------------------------------------------------------------------------

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """The embedding rows of each text's words.

        Raises:
            DataError: It is one text and no list, an entry is no string, or the tokenizer is a function that was not
                given, fails, or returns something other than strings.
        """
        if isinstance(texts, str):
            raise DataError("a module takes a list of texts, not one text: put it into a list.")
        if self._split is None:
            raise DataError(
                f"texts were split by a function of the user's own, {self.card['tokenizer']['function']}, which files "
                "name but do not hold; give it again: load(path, tokenizer=...)."
            )
        width, unknown, row_of = self.card["max_length"], self.card["unknown_row"], self.row_of
        skips_unknown = self.card["padding"] == "word"
        # So many characters hold `width` words of nearly every text. By rule "characters" a text's beginning may depend
        # on its end: a letter's marks are ordered however many there are.
        enough = (
            16 * width if self.card["tokenizer"] in ("spaces", "r8", "words") and not skips_unknown else sys.maxsize
        )
        rows = []
        for text in texts:
            if not isinstance(text, str):
                raise DataError(f"a module takes a list of texts; {text!r} is a {type(text).__name__}.")
            end = enough
            if len(text) > end and self.card["tokenizer"] == "words":
                # At a space: cut elsewhere, a Greek sigma before the cut may take the form that ends words.
                end = max(text.rfind(" ", 0, end), 0) or len(text)
            words = self._split(text[:end])
            if len(words) <= width and len(text) > enough:  # the last of more words is not used, so it may be cut
                words = RULES[self.card["tokenizer"]](text)
            if not skips_unknown:
                rows.append([row_of.get(word, unknown) for word in words[:width]] or [unknown])
            else:  # unknown words do not count
                found = [row_of[word] for word in words[:width] if word in row_of]
                if len(found) < min(width, len(words)):
                    found = [row_of[word] for word in words if word in row_of][:width]
                rows.append(found or [self.card["padding_row"]])
        return rows

    def margins(self, texts: Iterable[str]) -> np.ndarray:
        """Logit of the target less that of the rest, float32 (N,); errors as of `encode`."""
        return self.margins_of_rows(self.encode(texts))

    def margins_of_rows(self, rows: list[list[int]]) -> np.ndarray:
        """`margins` of texts that `encode` has numbered."""
        margins = np.empty(len(rows), dtype=np.float32)
        # By falling length: the texts that still go on are then the first ones, and padding is not computed.
        order = sorted(range(len(rows)), key=lambda k: -len(rows[k]))
        for start in range(0, len(rows), BATCH):
            chosen = order[start : start + BATCH]
            ids, lengths = self.padded([rows[k] for k in chosen])
            if self.card["readout"] == "last_position":
                lengths = np.full_like(lengths, ids.shape[1])
            margins[chosen] = self.output.margin(self._state(np.ascontiguousarray(ids.T), lengths))
        return margins

    def padded(self, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The rows of texts as one array int64 (n, T), and their numbers (n,): T is ``max_length`` where the output is
        read after the padding, else that of the longest text.
        """
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        width = self.card["max_length"] if self.card["readout"] == "last_position" else int(lengths.max())
        ids = np.full((len(rows), width), self.card["padding_row"], dtype=np.int64)
        ids[np.arange(width) < lengths[:, None]] = list(itertools.chain.from_iterable(rows))
        return ids, lengths

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Probabilities float32 (N, 2) of target (column 0) and rest (column 1); errors as of `encode`."""
        target = self(texts)
        return np.stack([target, 1 - target], axis=1)

    def predict(self, texts: Iterable[str]) -> np.ndarray:
        """Whether each text is the target, bool (N,); errors as of `encode`."""
        return self.margins(texts) >= 0

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """Probability of the target, float32 (N,); errors as of `encode`."""
        return _sigmoid(self.margins(texts))

    # -- the recurrence ------------------------------------------------------------------------------------------

    def _state(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The LSTM output that is read, (n, D * H): ids (T, n), with the longest text first, and lengths (n,)."""
        steps = np.arange(len(ids))
        counts = (lengths > steps[:, None]).sum(1)  # texts that have a word at each step
        backwards = np.where(steps[:, None] < lengths, lengths - 1 - steps[:, None], steps[:, None])
        states: np.ndarray | None = None
        for depth, cells in enumerate(self._steps):
            reads, parts = depth == len(self._steps) - 1, []
            for direction, cell in enumerate(cells):
                first_only = reads and cell.reverse  # its output at the last word is that of its first step
                if states is None:
                    words = np.take_along_axis(ids, backwards, 0) if cell.reverse else ids
                    gates = self._gates_of_words(direction, words)
                else:
                    below = np.take_along_axis(states, backwards[:, :, None], 0) if cell.reverse else states
                    gates = below @ cell.weight_ih + cell.bias
                found = cell.run(gates, counts[:1] if first_only else counts, every=not reads)
                if cell.reverse and not reads:
                    found = np.take_along_axis(found, backwards[:, :, None], 0)
                parts.append(found)
            states = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        assert states is not None
        return states

    def _gates_of_words(self, direction: int, words: np.ndarray) -> np.ndarray:
        """What the first layer's gates get from words (T, n): (T, n, 4 * H)."""
        if self._projected is None:
            cells = self._steps[0]
            if not self.projects_words:
                return self.embedding[words] @ cells[direction].weight_ih + cells[direction].bias
            # The input projection of a word is a constant.
            self._projected = [self.embedding @ cell.weight_ih + cell.bias for cell in cells]
        return self._projected[direction][words]


class _Steps:
    """A cell made ready for its recurrence: transposed, with the cell gate last, the others' arguments halved.

    Since sigmoid(x) = (tanh(x / 2) + 1) / 2, one tanh over all four gates is enough.
    """

    def __init__(self, cell: Cell) -> None:
        size = cell.hidden_size
        order = np.concatenate([np.arange(2 * size), np.arange(3 * size, 4 * size), np.arange(2 * size, 3 * size)])
        factor = np.repeat(np.array([0.5, 1], dtype=np.float32), [3 * size, size])
        self.size, self.reverse = size, cell.reverse
        self.weight_ih = np.ascontiguousarray((cell.weight_ih[order] * factor[:, None]).T)
        self.weight_hh = np.ascontiguousarray((cell.weight_hh[order] * factor[:, None]).T)
        self.bias = cell.bias[order] * factor

    def run(self, inputs: np.ndarray, counts: np.ndarray, every: bool) -> np.ndarray:
        """The recurrence over all steps.

        Args:
            inputs: What the gates get from the cell's inputs, (T, n, 4 * H); it is written to.
            counts: Texts that have a word at each step, falling, (T,).
            every: Whether the outputs of all steps are wanted.

        Returns:
            All outputs (T, n, H), zero where a text is over; else each text's last one, (n, H).
        """
        size, texts = self.size, int(counts[0])
        hidden, memory = (np.zeros((texts, size), dtype=np.float32) for _ in range(2))
        states = np.zeros((len(counts), texts, size), dtype=np.float32) if every else None
        for t, k in enumerate(counts.tolist()):
            gates, state, cell = inputs[t, :k], hidden[:k], memory[:k]
            gates += state @ self.weight_hh
            np.tanh(gates, out=gates)
            sigmoids = gates[:, : 3 * size]
            sigmoids += 1
            sigmoids *= 0.5
            write = sigmoids[:, :size]
            write *= gates[:, 3 * size :]
            cell *= sigmoids[:, size : 2 * size]
            cell += write
            np.multiply(sigmoids[:, 2 * size :], np.tanh(cell), out=state)
            if states is not None:
                states[t, :k] = state
        return hidden if states is None else states


def _sigmoid(margins: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-margin)), without overflow."""
    return (np.tanh(margins * np.float32(0.5)) + np.float32(1)) * np.float32(0.5)


# -- on disk -----------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], tokenizer: Callable[[str], Iterable[str]] | None = None) -> CompactModule:
    """Reads a compact module.

    The file is one of safetensors' (a header in JSON, then the arrays), whose ``card`` says what the arrays are:

    - ``words.shared`` (z), ``words.tails`` (z): the words in sorted order, of each the number of characters (a byte)
      that it shares with the one before, and the rest; the rests are joined by the card's ``separator``.
    - ``words.kept`` (z): a bit a word, whether it has a row of its own. Those rows follow row 0 in the words' order.
    - ``embedding``, ``lstm.<layer>.<direction>.weight_ih`` and ``.weight_hh``: of each the bits ``.kept`` (z; one a
      value, row by row), the kept ``.values``, and for 8-bit values the ``.scale`` of each column.
    - ``lstm.<layer>.<direction>.bias``; ``output.weight``, ``.bias``, ``.out``, ``.direct``, ``.constant``.

    Those marked z are compressed by zlib; the first value of a byte is in its highest bit.

    Args:
        path: The file.
        tokenizer: The function that splits texts, for a module whose file names one.

    Raises:
        CheckpointError: The file is missing, damaged, or no compact module; or it names a rule and no function, and a
            tokenizer is given.
    """
    return CompactModule.load(path, tokenizer)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the card of a compact module's file; raises CheckpointError as `load` does."""
    try:
        with open(path, "rb") as file:
            if not _is_regular(file.fileno()):
                raise CheckpointError(f"{path}: is no regular file; give a compact module (seam-fast compact)")
            data = file.read()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such module file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        header, body = _header_and_body(data)
        metadata = header.pop("__metadata__", {})
        found = metadata.get("format") if isinstance(metadata, dict) else None
        if found != FORMAT:
            raise CheckpointError(_other_format(found))
        if metadata.get("sha256") != checksum(header, metadata["card"], body):
            raise CheckpointError("damaged, its checksum is wrong")
        return {name: _array(name, entry, body) for name, entry in header.items()}, json.loads(metadata["card"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; make the file again (seam-fast compact)") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path}: damaged, or not a compact module; make the file again (seam-fast compact)"
        ) from None


def is_compact(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is a compact module, of whatever version, damaged or not."""
    try:
        with open(path, "rb") as file:
            if not _is_regular(file.fileno()):
                return False
            (size,) = struct.unpack("<Q", file.read(8))
            return b'"seam-fast compact ' in file.read(min(size, MOST_HEADER))
    except (OSError, struct.error):
        return False


def to_bytes(module: CompactModule) -> bytes:
    """The contents of a compact module's file."""
    card = json.dumps(module.card)
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    position = 0
    for name, array in module.tensors.items():
        part = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + len(part)],
        }
        parts.append(part)
        position += len(part)
    body = b"".join(parts)
    header["__metadata__"] = {"format": FORMAT, "card": card, "sha256": checksum(header, card, body)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def checksum(header: Mapping[str, Any], card: str, body: bytes | memoryview) -> str:
    """Hex sha256 of all that a file says: of the header's entries for its arrays, the card, and the arrays."""
    digest = hashlib.sha256(f"{json.dumps(header, sort_keys=True)}\n{card}\n".encode())
    digest.update(body)
    return digest.hexdigest()


def _is_regular(handle: int) -> bool:
    """Whether an open file is a regular one: a pipe or a device may never end."""
    return stat.S_ISREG(os.fstat(handle).st_mode)


def _other_format(found: object) -> str:
    """Why a file of another format cannot be used."""
    if isinstance(found, str) and found.startswith("seam-fast module"):
        return "a module that needs its base, not a compact one"
    if isinstance(found, str) and found.startswith("seam-fast compact"):
        return f"of another version of the format ({found}, this program reads {FORMAT})"
    return "not a compact module"


def _header_and_body(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of a safetensors file and the bytes of its arrays. Raises ValueError where there are none."""
    (size,) = struct.unpack("<Q", data[:8]) if len(data) >= 8 else (0,)
    if not 2 <= size <= min(len(data) - 8, MOST_HEADER):
        raise ValueError
    header = json.loads(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError
    return header, memoryview(data)[8 + size :]


def _array(name: str, entry: Mapping[str, Any], body: memoryview) -> np.ndarray:
    """One array of a file. Raises CheckpointError or ValueError where its entry in the header is wrong."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    dtype: np.dtype[Any] | None = DTYPES.get(entry["dtype"])
    numbers = [*shape, start, end]
    if dtype is None or not all(type(number) is int and number >= 0 for number in numbers) or end > len(body):
        raise CheckpointError(f"{name} is damaged")
    if start > end or math.prod(shape) * dtype.itemsize != end - start:
        raise CheckpointError(f"{name} is damaged")
    array = np.frombuffer(body[start:end], dtype=dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise CheckpointError(f"{name} holds values that are not finite")
    return array


def _checked_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card, if all entries that are used are there and of their kind; else CheckpointError."""

    def is_count(value: object) -> bool:
        return type(value) is int and value >= 0

    def is_names(value: object) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)

    def is_tokenizer(value: object) -> bool:
        if isinstance(value, dict):
            return list(value) == ["function"] and isinstance(value["function"], str)
        return isinstance(value, str) and value in RULES

    def is_cell(value: object) -> bool:
        return isinstance(value, list) and len(value) == 3 and all(map(is_count, value[:2])) and value[2] in (0, 1)

    def is_lstm(value: Any) -> bool:
        return is_filled(value) and all(is_filled(cells) and all(map(is_cell, cells)) for cells in value)

    def is_filled(value: Any) -> bool:
        return isinstance(value, list) and bool(value)

    kinds: dict[str, Callable[[Any], bool]] = {
        "target_names": is_names,
        "tokenizer": is_tokenizer,
        "padding": lambda value: value in ("own", "word"),
        "readout": lambda value: value in ("last_word", "last_position"),
        "max_length": lambda value: is_count(value) and value > 0,
        "separator": lambda value: isinstance(value, str) and len(value) == 1,
        "unknown_row": is_count,
        "padding_row": is_count,
        "embedding": lambda value: isinstance(value, list) and len(value) == 2 and all(map(is_count, value)),
        "lstm": is_lstm,
    }
    if not isinstance(card, Mapping):
        raise CheckpointError("its card is damaged")
    for name, is_right in kinds.items():
        if name not in card or not is_right(card[name]):
            raise CheckpointError(f"its card is damaged ({name})")
    return dict(card)


def _get(tensors: Mapping[str, np.ndarray], name: str, kind: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """One array by name; CheckpointError where it is missing, of another kind of dtype or of another shape."""
    array = tensors.get(name)
    if array is None:
        raise CheckpointError(f"{name} is missing")
    if array.dtype.kind not in kind or (shape is not None and array.shape != shape):
        raise CheckpointError(f"{name} is damaged")
    return array


def _rows_of_words(tensors: Mapping[str, np.ndarray], separator: str) -> tuple[dict[str, int], int]:
    """The embedding row of each word, and how many have a row of their own; CheckpointError where they are damaged."""
    shared = _inflated(tensors, "words.shared", MOST_WORDS)
    try:
        tails = _inflated(tensors, "words.tails", MOST_WORDS).decode("utf-8", "surrogatepass").split(separator)
    except ValueError:
        raise CheckpointError("words.tails is damaged") from None
    if len(tails) != len(shared) + (not shared):
        raise CheckpointError("words.tails is damaged")
    word = ""
    # Of no words, the tails are one empty string.
    words = [word := word[:count] + tail for count, tail in zip(shared, tails, strict=False)]
    kept = _bits(tensors, "words.kept", len(words)).view(np.uint8)
    row_of = dict(zip(words, (kept * np.cumsum(kept, dtype=np.int32)).tolist(), strict=True))
    if len(row_of) != len(words):
        raise CheckpointError("a word occurs twice")
    return row_of, int(kept.sum())


def _inflated(tensors: Mapping[str, np.ndarray], name: str, most: int) -> bytes:
    """The bytes that an array holds compressed; CheckpointError where it does not, or they are more than ``most``."""
    try:
        return inflate(_get(tensors, name, "u").tobytes(), most)
    except ValueError:
        raise CheckpointError(f"{name} is damaged") from None


def _bits(tensors: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """That many bits of a compressed array, bool (count,)."""
    try:
        return inflate_bits(_get(tensors, name, "u").tobytes(), count)
    except ValueError:
        raise CheckpointError(f"{name} is damaged") from None


def inflate(data: bytes, most: int) -> bytes:
    """What zlib has compressed, whole; ValueError where it is damaged or more than ``most`` bytes."""
    unpack = zlib.decompressobj()
    try:
        found = unpack.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpack.eof:
        raise ValueError("it does not end")
    return found


def inflate_bits(data: bytes, count: int) -> np.ndarray:
    """That many bits, compressed, the first one in the highest bit of its byte: bool (count,); errors as of `inflate`,
    and ValueError where there are more or fewer.
    """
    size = (count + 7) // 8
    found = inflate(data, size + 1)
    if len(found) != size:
        raise ValueError("it is of another length")
    return np.unpackbits(np.frombuffer(found, dtype=np.uint8), count=count).view(bool)


def _matrix(tensors: Mapping[str, np.ndarray], name: str, rows: int, columns: int) -> np.ndarray:
    """A matrix of which some values are kept, float32 (rows, columns) with zeros elsewhere."""
    count = rows * columns
    kept = _bits(tensors, f"{name}.kept", count)
    values = _get(tensors, f"{name}.values", "fi", (int(kept.sum()),))
    flat = np.zeros(count, dtype=np.float32)
    flat[np.flatnonzero(kept)] = values  # three times as fast as by the bits themselves
    matrix = flat.reshape(rows, columns)
    if values.dtype.kind == "i":
        matrix *= _get(tensors, f"{name}.scale", "f", (columns,))
    return matrix


def _cells(tensors: Mapping[str, np.ndarray], depth: int, sizes: Iterable[tuple[int, int, int]]) -> Iterable[Cell]:
    """The cells of a layer from their input sizes, hidden sizes and directions (1 is the reverse one)."""
    for inputs, hidden, reverse in sizes:
        name = f"lstm.{depth}.{reverse}"
        yield Cell(
            _matrix(tensors, f"{name}.weight_ih", 4 * hidden, inputs),
            _matrix(tensors, f"{name}.weight_hh", 4 * hidden, hidden),
            _get(tensors, f"{name}.bias", "f", (4 * hidden,)),
            bool(reverse),
        )


def _output(tensors: Mapping[str, np.ndarray], width: int) -> Output:
    """What follows the LSTM, for an LSTM output of that width."""
    count = len(_get(tensors, "output.bias", "f"))
    shapes: tuple[tuple[int, ...], ...] = (count, width), (count,), (count,), (width,), (1,)
    parts = zip(Output._fields, shapes, strict=True)
    return Output(*(_get(tensors, f"output.{name}", "f", shape) for name, shape in parts))


def main(arguments: list[str]) -> int:
    """Prints the probability of each text, one a line: ``python runtime.py MODULE [TEXT...]``, or lines of standard
    input where there is no text.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python runtime.py MODULE [TEXT...]   (without texts, each line of standard input is one)")
        return 0 if arguments else 2
    try:
        module = load(arguments[0])
        for text in arguments[1:] or (line.rstrip("\n") for line in sys.stdin):
            shown = text.encode("utf-8", "backslashreplace").decode()  # arguments may hold half of a character
            print(f"{module([text])[0]:.6f}\t{shown}")
    except UnicodeDecodeError as error:
        print(f"runtime: standard input: is no text in {error.encoding} ({error.reason}); convert it", file=sys.stderr)
        return 1
    except (CheckpointError, DataError) as error:
        print(f"runtime: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

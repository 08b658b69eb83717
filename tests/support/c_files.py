"""Compiles exported C files and calls what is in them."""

import ctypes
import functools
import shutil
import subprocess

import numpy as np
import pytest

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


@functools.cache
def compilers() -> list[str]:
    return [name for name in ("gcc", "clang") if shutil.which(name)]


def a_compiler(name: str = "") -> str:
    """A C compiler, or the one of that name; the test is skipped where it is not installed."""
    found = [each for each in compilers() if name in ("", each)]
    if not found:
        pytest.skip(f"needs a C compiler: {name or 'gcc or clang'}")
    return found[0]


def compile_c(text: str, out, *flags: str, compiler: str = "", last: bool = False):
    """Compiles the text of a file, by the strictest warnings; `out` is the file to make.

    last: whether flags come after the file, as libraries do.
    """
    source = out.with_suffix(".c")
    source.write_text(text, encoding="utf-8")
    command = [a_compiler(compiler), *STRICT, *(() if last else flags), str(source), *(flags if last else ())]
    command += ["-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return out


class Word(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_size_t), ("end", ctypes.c_size_t), ("row", ctypes.c_int))


class InC:
    """An exported module's functions, called from a shared library that was made of its file."""

    def __init__(self, path, name: str) -> None:
        library = ctypes.CDLL(str(path))
        self._probability = getattr(library, f"{name}_probability_of")
        self._words = getattr(library, f"{name}_words")
        self._margin = getattr(library, f"{name}_margin")
        self._probability.restype = self._margin.restype = ctypes.c_float
        self._probability.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
        self._words.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(Word), ctypes.c_int)
        self._margin.argtypes = (ctypes.POINTER(Word), ctypes.c_int)

    def __call__(self, texts) -> np.ndarray:
        return np.array([self._probability(data := as_bytes(text), len(data)) for text in texts], dtype=np.float32)

    def words(self, text, most: int = 100):
        """Row, beginning and end of each word."""
        data, words = as_bytes(text), (Word * most)()
        count = self._words(data, len(data), words, most)
        return [(word.row, word.begin, word.end) for word in words[:count]]

    def rows(self, text, most: int = 100) -> list[int]:
        return [row for row, _, _ in self.words(text, most)]

    def margin(self, rows: list[int]) -> float:
        return self._margin((Word * max(1, len(rows)))(*(Word(0, 0, row) for row in rows)), len(rows))


def as_bytes(text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def rows_of(module, text, most: int = 10**9) -> list[int]:
    """What a C file's function finds in a text, by Python's rule: the rows of all words that count."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    words, row_of = module._split(text), module.row_of
    if module.card["padding"] == "word":
        return [row_of[word] for word in words if word in row_of][:most]
    return [row_of.get(word, module.card["unknown_row"]) for word in words][:most]

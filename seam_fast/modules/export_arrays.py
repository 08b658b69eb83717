"""How arrays and names are written in C99: numbers exactly (hexadecimal floats), in lines of readable length."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST_NAME = 40  # characters of a name in C


def template(name: str, **values: object) -> str:
    """A file of the folder ``templates`` with its ``$names`` filled in."""
    text = (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")
    return Template(text).substitute({key: str(value) for key, value in values.items()})


def array(kind: str, name: str, values: Iterable[Any], shape: str = "") -> str:
    """The definition of a constant array; one of zeros where it would be empty, which C does not allow.

    Args:
        kind: Its type in C; numbers are written in hexadecimal where it is float.
        name: Its name.
        values: All its values, or strings that stand for several.
        shape: Its dimensions after the first one, such as ``[2]``.
    """
    numbers = values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)
    written = [number if isinstance(number, str) else hex_float(number) for number in numbers]
    if kind != "float":
        written = [str(number) for number in numbers]
    written = written or ["{0}" if shape else "0"]
    each = 1 + 112 // (2 + max(map(len, written)))  # values a line
    body = ",\n    ".join(", ".join(written[k : k + each]) for k in range(0, len(written), each))
    return f"static const {kind} {name}[{len(written)}]{shape} = {{\n    {body}}};\n"


def hex_float(value: float) -> str:
    """A float32 as C99 reads it exactly."""
    mantissa, _, exponent = float(value).hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


def unsigned(largest: int) -> str:
    """The smallest unsigned type that holds a number."""
    return "uint8_t" if largest < 1 << 8 else "uint16_t" if largest < 1 << 16 else "uint32_t"


def indices(name: str, values: Sequence[int] | Array) -> str:
    """An array of numbers that are not negative, in the smallest type."""
    return array(unsigned(max(map(int, values), default=0)), name, [int(value) for value in values])


def constants(**values: int) -> str:
    """Whole numbers by name."""
    return "enum { " + ", ".join(f"{name} = {value}" for name, value in values.items()) + " };\n"


def identifier(names: Iterable[str]) -> str:
    """A name in C for a target of these classes: letters of ASCII where there are such, else their code points."""
    plain = ""
    for character in unicodedata.normalize("NFKD", "_".join(names)):
        if character.isascii():
            plain += character if character.isalnum() else "_"
        elif not unicodedata.combining(character):
            plain += f"u{ord(character):x}_" if character.isalnum() else "_"
    plain = re.sub("_+", "_", plain).strip("_").lower()
    if not plain or plain[0].isdigit():
        plain = f"module_{plain}".rstrip("_")
    if len(plain) > MOST_NAME:
        plain = f"{plain[: MOST_NAME - 9]}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return plain


def in_comment(text: str) -> str:
    """A text as a comment of C may hold it: no end of a comment, no line break, nothing that turns writing around."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    for mark in ("*/", "/*", "??", "\\"):
        plain = plain.replace(mark, " ".join(mark) if len(mark) > 1 else "/")
    return plain

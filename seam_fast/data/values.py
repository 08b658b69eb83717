"""Texts and labels as they lie in memory: strings are checked, labels of several types become class names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..common.arguments import shown
from ..errors import DataError
from .documents import Locations


def as_list(values: Any, what: str) -> list[Any]:
    """The entries of a list, array, series or column. Raises DataError for one text, and for what is not iterable."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DataError(f"{what} is {shown(values)}; it must be a list, with an entry for each document.")
    if (dimensions := getattr(values, "ndim", 1)) != 1:
        raise DataError(f"{what} has {dimensions} dimensions; it must have one, an entry for each document.")
    return list(values)


def texts_of(values: Sequence[Any], locations: Locations, what: str = "the text") -> list[str]:
    """The texts of documents.

    Args:
        values: a string for each.
        locations: how messages name each.
        what: how messages name a text.

    Raises:
        DataError: a text is missing, is no string, or holds half a character.
    """
    for i, text in enumerate(values):
        if isinstance(text, str):
            if not text.isascii() and not _is_whole(text):
                raise DataError(
                    f"{locations[i]}: {what} holds half of a character (a lone surrogate), so it was cut or decoded "
                    "wrongly; read it anew, or take it out."
                )
        elif is_missing(text):
            raise DataError(
                f"{locations[i]}: {what} is missing ({shown(text)}); take the document out, or give it a text."
            )
        else:
            way = "decode it first" if isinstance(text, (bytes, bytearray)) else "only strings are read"
            raise DataError(f"{locations[i]}: {what} is {shown(text)}, of type {type(text).__name__}; {way}.")
    return list(values)


def labels_of(
    values: Sequence[Any], locations: Locations, what: str = "the label", class_names: Sequence[str] | None = None
) -> list[str]:
    """The class name of each document.

    Args:
        values: a label for each: a string, which is a class name without the blanks around it; a whole number, which is
            an index into ``class_names``, or the name itself where there are none; or another number. Files know
            strings alone, so one of digits that is none of the names is a whole number, too.
        locations: how messages name each.
        what: how messages name a label.
        class_names: what whole numbers stand for.

    Raises:
        DataError: a label is missing, empty, of another type, or a number without a name.
    """
    return [_class_name(value, i, locations, what, class_names) for i, value in enumerate(values)]


def _class_name(value: Any, i: int, locations: Locations, what: str, class_names: Sequence[str] | None) -> str:
    """One label as a class name; see `labels_of`."""
    if isinstance(value, str):
        name = value.strip()
        if not name:
            raise DataError(f"{locations[i]}: {what} is empty; give it a class, or take the document out.")
        if not _is_whole(name):
            raise DataError(f"{locations[i]}: {what} {name!a} holds half of a character (a lone surrogate).")
        if class_names is not None and name not in class_names and _is_index(name, len(class_names)):
            return class_names[int(name)]
        return name
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if is_missing(plain):
        raise DataError(f"{locations[i]}: {what} is missing ({shown(value)}); give it a class, or take it out.")
    if isinstance(plain, str):
        return _class_name(str(plain), i, locations, what, class_names)
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)  # as where pandas makes floats of whole numbers because one is missing
    if not isinstance(plain, (bool, int, float)):
        raise DataError(
            f"{locations[i]}: {what} is {shown(value)}, of type {type(value).__name__}; a document has one class, "
            "given by a string or a whole number."
        )
    if class_names is None:
        return str(plain)
    if isinstance(plain, float) or not 0 <= plain < len(class_names):
        raise DataError(
            f"{locations[i]}: {what} is {plain}, and there are class names for 0 to {len(class_names) - 1} alone; give "
            "a string, a number among these, or more names."
        )
    return class_names[plain]


def checked_names(class_names: Any) -> list[str]:
    """Class names in the order of their numbers. Raises DataError for names that are no strings or not distinct."""
    names = as_list(class_names, "class_names")
    stripped = texts_of(names, Locations("class_names[", range(len(names)), "]"), "the name")
    stripped = [str(name).strip() for name in stripped]
    for i, name in enumerate(stripped):
        if not name:
            raise DataError(f"class_names[{i}] is empty; give the class a name.")
        if name in stripped[:i]:
            raise DataError(f"class_names[{i}]: {name!r} is there twice; give each class a name of its own.")
    return stripped


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or what pandas has in their place."""
    if value is None:
        return True
    try:
        return bool(value != value)  # true of NaN and NaT alone
    except (TypeError, ValueError, RuntimeError):  # of arrays and tensors; pandas' NA has no truth value
        return type(value).__name__ == "NAType"


def _is_index(name: str, count: int) -> bool:
    """Whether a string is a whole number below ``count``, written plainly."""
    return name.isascii() and name.isdecimal() and len(name) < 10 and str(int(name)) == name and int(name) < count


def _is_whole(text: str) -> bool:
    """Whether a text can be encoded, as one with half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Dates of documents, as far as their order needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, time, timezone
from typing import Any

from ..common.arguments import shown
from ..errors import DataError
from .documents import Documents
from .values import is_missing


def in_order_of(dates: Sequence[Any], documents: Documents) -> list[int]:
    """The documents' indices from the earliest to the latest; of one date, in the order of the documents.

    Args:
        dates: for each document a ``date`` or ``datetime``, such a string in ISO 8601, or a number (a year, seconds).
            What names no time zone is taken as UTC.
        documents: the documents, for messages.

    Raises:
        DataError: a date is missing or cannot be read, or some are numbers and others are none.
    """
    keys = [_key(value, documents.location(i)) for i, value in enumerate(dates)]
    for i, key in enumerate(keys):
        if isinstance(key, float) != isinstance(keys[0], float):
            raise DataError(
                f"{documents.location(i)}: the date {shown(dates[i])} cannot be compared with {shown(dates[0])} "
                f"({documents.location(0)}); give numbers alone, or dates alone."
            )
    return sorted(range(len(keys)), key=keys.__getitem__)


def _key(value: Any, location: str) -> float | datetime:
    """What a date is ordered by; ``location`` names the document in messages."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if is_missing(plain) or (isinstance(plain, str) and not plain.strip()):
        raise DataError(f"{location}: the date is missing ({shown(value)}); give it one, or take the document out.")
    if isinstance(plain, datetime):
        return _aware(plain)
    if isinstance(plain, date):
        return _aware(datetime.combine(plain, time()))
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        with suppress(OverflowError):
            return float(plain)
    if isinstance(plain, str):
        text = plain.strip()
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        with suppress(ValueError):  # Python 3.10 knows no Z for UTC
            return _aware(datetime.fromisoformat(text[:-1] + "+00:00" if text[-1] in "zZ" else text))
    raise DataError(
        f"{location}: the date {shown(value)} cannot be read; write it as 2024-01-31 or 2024-01-31T12:00:00 "
        "(ISO 8601), or as a number."
    )


def _aware(moment: datetime) -> datetime:
    """A moment with a time zone."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)

"""A module's marks: what is wrong with it, where something is, in words that its card, tables and summaries share."""

from collections.abc import Mapping
from typing import Any

FEWEST_TARGETS = 10
"""Of the documents that choose an epoch, and a threshold, so many must be the target's: a single one then moves the
recall by a tenth at most. With fewer, what is chosen by them is chosen by one or two documents.
"""
NEXT_TO_EVERYTHING = 0.99
"""From this share of kept weights on a module is not smaller than its base in any way that helps."""

CONSTANT, UNSETTLED, NOT_VALIDATED = "constant", "unsettled", "not validated"
KEPT_EVERYTHING, REJECTED = "kept everything", "rejected"
MARKS = {  # mark: what it says, and what can be done
    CONSTANT: (
        "a predictor that never reads a text could do as well on the documents that chose the epoch",
        "do not use it; try a larger --steps, a smaller --alpha, or a base that knows the class better",
    ),
    UNSETTLED: (
        "it is of an epoch in which scores and head had not come to rest",
        "let the run end, or give more --steps",
    ),
    NOT_VALIDATED: (
        f"fewer than {FEWEST_TARGETS} documents of its target were there to judge its epoch by",
        "judge it on documents of your own (seam-fast evaluate --documents) before you use it",
    ),
    KEPT_EVERYTHING: (
        "no smaller epoch reached the base",
        "it saves nothing; use the base, or give more --epochs, --keep or --protocol seam",
    ),
    REJECTED: (
        "the selection rejected every epoch, so the one delivered is no choice",
        "give more --epochs, or a smaller --alpha",
    ),
}
"""What each mark says, and what to do."""


def marks_on(card: Mapping[str, Any]) -> list[str]:
    """The marks on a module's card, in the order of ``MARKS``. Cards of version 0.1 only say whether an epoch was
    rejected.
    """
    found = card.get("marks", [REJECTED] if card.get("qualified") is False else [])
    return [mark for mark in MARKS if mark in found]

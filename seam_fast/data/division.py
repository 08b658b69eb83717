"""One set of documents divided into training and test documents: class by class, or by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import shown, whole_number
from ..errors import DataError
from .dates import in_order_of
from .documents import Documents

HELD_BACK = 2  # training documents that each class keeps: one to train on, one to choose an epoch by


@dataclass(frozen=True)
class Division:
    """How documents are divided; the defaults are used where the caller says nothing.

    Attributes:
        test_share: share of the documents that become test documents; 0: none.
        split: "stratified": drawn at random, the share of each class, copies of a text together; "time": the last ones.
        seed: of "stratified".

    Raises:
        DataError: another value.
    """

    test_share: float = 0.2
    split: str = "stratified"
    seed: int = 0

    def __post_init__(self) -> None:
        share = self.test_share
        if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 <= share < 1:
            raise DataError(f"test_share is {shown(share)}; it must be a number from 0 to less than 1 (--test-share).")
        if self.split not in ("stratified", "time"):
            raise DataError(f'split is {shown(self.split)}; it must be "stratified" or "time" (--split).')
        whole_number("split_seed", self.seed, 0, 2**32 - 1)

    @classmethod
    def of(cls, test_share: float | None, split: str | None, split_seed: int | None) -> Division:
        """A division by what a caller gives; None: the default."""
        given = {"test_share": test_share, "split": split, "seed": split_seed}
        return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def described(self, by: str | None) -> str:
        """A clause on how the test documents were chosen; ``by``: the name of their dates."""
        share = f"{100 * self.test_share:g} %"
        if self.test_share == 0:
            return "no test documents"
        if self.split == "time":
            return f"test: the last {share}{f' by {by}' if by else ''}"
        return f"test: {share} of each class, seed {self.seed}"


def divide(documents: Documents, division: Division, dates: Sequence[Any] | None = None) -> tuple[Documents, Documents]:
    """Training and test documents, each in the order in which they were.

    Args:
        documents: all documents.
        division: how to divide them.
        dates: for "time", the date of each; None: the documents are in the order of time.

    Raises:
        DataError: dates with "stratified", or as in `in_order_of`; one of the two parts would be empty.
    """
    if dates is not None and division.split != "time":
        raise DataError('dates have no effect unless split is "time" (--split time); leave them out, or choose that.')
    if division.test_share == 0:
        return documents, documents.take([])
    if division.split == "time":
        order = list(range(len(documents.texts))) if dates is None else in_order_of(dates, documents)
        count = round(division.test_share * len(order))
        rows = order[len(order) - count :]
    else:
        rows = _drawn(documents, division)
    if not 0 < len(rows) < len(documents.texts):
        raise DataError(
            f"{documents.path}: there are too few documents ({len(documents.texts)}) to take "
            f"{100 * division.test_share:g} % of them for the test{_why(division)}; choose another test_share "
            "(--test-share), or give a test set of its own."
        )
    chosen = np.zeros(len(documents.texts), dtype=bool)
    chosen[rows] = True
    return tuple(documents.take(np.flatnonzero(part).tolist()) for part in (~chosen, chosen))  # type: ignore[return-value]


def _drawn(documents: Documents, division: Division) -> list[int]:
    """The test documents' indices: the share of each class, rounded, of which `HELD_BACK` always remain for training.

    Of a class with more documents than that at least one is drawn, where its texts are not all the same.
    """
    random = np.random.RandomState(division.seed)  # the legacy generator: its stream is frozen
    members: dict[str, dict[str, list[int]]] = {}  # by class and text, which keeps copies of a text together
    for i, (label, text) in enumerate(zip(documents.labels, documents.texts, strict=True)):
        members.setdefault(label, {}).setdefault(text.strip(), []).append(i)
    rows: list[int] = []
    for copies in members.values():
        groups = list(copies.values())
        total = sum(map(len, groups))
        count = max(0, min(max(round(division.test_share * total), 1), total - HELD_BACK))
        for k in random.permutation(len(groups)):
            if len(groups[k]) <= count:
                rows += groups[k]
                count -= len(groups[k])
    return rows


def _why(division: Division) -> str:
    """A clause on what stratified documents need."""
    if division.split == "time":
        return ""
    return f" (each class keeps {HELD_BACK} for training, and copies of a text stay together)"

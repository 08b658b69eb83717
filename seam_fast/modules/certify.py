"""Certified indifference: how many words of a document a module's answer can depend on at all.

The row of a dropped word, one of which the module keeps nothing, is exactly zero. So whichever of them stands at a
place, the LSTM is given the same numbers and computes the same answer; that is a proof and not an observation. What an
answer may still depend on are the other words, the places of all, and the document's length.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import runtime
from ..classifier.state_keys import EMBEDDING
from .seam_module import SeamModule

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FEWER_THAN = (5, 10, 20)
"""The numbers of words of which `Certificate.figures` tells by default how often fewer decide."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What `certify` found of N documents.

    A word of a document is *free* if its row is zero: any dropped word may stand in its place, and the probability
    stays the same bit for bit, however many free words are exchanged at once. The other words *decide*. A document
    without words is read as one unknown word (as padding where unknown words are skipped), and counts so.

    Attributes:
        words: Number of words that are read of each document, (N,).
        free: How many of them are free, (N,).
        is_target: Whether the module says that the document is the target, (N,).
        kept_words: Number of words in the vocabulary of which something is kept.
        dropped_words: Number of words in the vocabulary that are dropped; None where a compact module does not list
            them, since every word that is not kept is read as one.
        unknown_is_free: Whether an unknown word is as good as a dropped one; None where unknown words are skipped.
    """

    words: Counts
    free: Counts
    is_target: Flags
    kept_words: int
    dropped_words: int | None
    unknown_is_free: bool | None

    @property
    def deciding(self) -> Counts:
        """How many words of each document decide, (N,)."""
        return self.words - self.free

    def share_below(self, count: int) -> float | None:
        """Share of the documents whose answer fewer than ``count`` words decide; None of no documents."""
        return float((self.deciding < count).mean()) if len(self.words) else None

    def among(self, chosen: Flags) -> "Certificate":
        """The same of the chosen documents, bool (N,)."""
        parts = self.words[chosen], self.free[chosen], self.is_target[chosen]
        return Certificate(*parts, self.kept_words, self.dropped_words, self.unknown_is_free)

    def figures(self, fewer_than: Iterable[int] = FEWER_THAN) -> dict[str, Any]:
        """The distribution over the documents as plain numbers.

        Args:
            fewer_than: Numbers of words, for ``share_below``.

        Returns:
            ``documents``; of ``words``, ``free`` and ``deciding`` the quantiles ``min``, ``low`` (10 %), ``median``,
            ``high`` (90 %) and ``max``, None of no documents; ``share_free``, of all words; and ``decided_by_fewer``,
            shares of the documents by number of words.
        """
        found: dict[str, Any] = {"documents": len(self.words)}
        for name, counts in (("words", self.words), ("free", self.free), ("deciding", self.deciding)):
            found[name] = _quantiles(counts)
        total = int(self.words.sum())
        found["share_free"] = int(self.free.sum()) / total if total else None
        found["decided_by_fewer"] = {str(count): self.share_below(count) for count in fewer_than}
        return found


def certify(
    module: SeamModule | runtime.CompactModule, documents: Tensor | Iterable[str], lengths: Tensor | None = None
) -> Certificate:
    """Counts in each document the words that a module's answer provably cannot depend on.

    Args:
        module: A module, or a compact one. Compaction may find more rows to be zero than the module has, since it
            leaves out columns that no answer depends on, and so may rounding to 8 or 16 bits; what is certified is what
            holds for the module that is given.
        documents: Texts, or for a module word ids, int64 (N, T).
        lengths: With word ids, numbers of words, (N,), each 1 to T.

    Raises:
        ValueError: Word ids without lengths or for a compact module; or a length outside 1 to T.
        TypeError: It is no module.
        CheckpointError: The module's base has changed since; or texts, and the base has no vocabulary.
        DataError: A text is no string, or the tokenizer was not given again.
    """
    if isinstance(module, SeamModule):
        return _of_module(module, documents, lengths)
    if not isinstance(module, runtime.CompactModule):
        raise TypeError(f"certify takes a module, compact or not, and no {type(module).__name__}")
    if isinstance(documents, Tensor):
        raise ValueError("a compact module numbers words in a way of its own: give it texts, not word ids")
    rows = module.encode(documents)
    zero = np.logical_not(np.any(module.embedding, axis=1))
    words = np.array([len(each) for each in rows], dtype=np.int64)
    free = np.array([int(zero[each].sum()) for each in rows], dtype=np.int64)
    unknown = None if module.card["padding"] == "word" else bool(zero[module.card["unknown_row"]])
    is_zero = zero[np.fromiter(module.row_of.values(), dtype=np.int64, count=len(module.row_of))]
    kept = int((~is_zero).sum())
    dropped = None if unknown else int(is_zero.sum())
    return Certificate(words, free, module.margins_of_rows(rows) >= 0, kept, dropped, unknown)


def _of_module(module: SeamModule, documents: Tensor | Iterable[str], lengths: Tensor | None) -> Certificate:
    """`certify` for a module that is not compact."""
    if not isinstance(documents, Tensor):
        documents, lengths = module.encode(documents)
    elif lengths is None:
        raise ValueError("word ids need their lengths: certify(module, ids, lengths)")
    is_target = module.predict(documents, lengths)  # checks lengths and base
    # Weights that are not kept may be -0.0, by which no sum and no product but the sign of a zero can change.
    zero = ~module.effective_weights()[EMBEDDING].any(1)
    inside = torch.arange(documents.shape[1]) < lengths[:, None]
    free = zero[documents] & inside
    own_marks = module.base.corpus_config.padding == "own"
    words = zero[2:] if own_marks else zero  # rows 0 and 1 are padding and the unknown word there
    unknown = bool(zero[1]) if own_marks and len(zero) > 1 else None
    return Certificate(
        lengths.long().numpy(), free.sum(1).numpy(), is_target.numpy(), int((~words).sum()), int(words.sum()), unknown
    )


def _quantiles(counts: Counts) -> Mapping[str, float] | None:
    """Smallest, 10 %, median, 90 % and largest of some numbers, each one of the numbers but for the median's means."""
    if not len(counts):
        return None
    low, high = np.quantile(counts, [0.1, 0.9], method="inverted_cdf").tolist()
    middle = float(np.median(counts))
    return {"min": int(counts.min()), "low": low, "median": middle, "high": high, "max": int(counts.max())}

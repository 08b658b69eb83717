"""A linear detector beside a module: what a list of weighted words makes of the same documents and words.

The detectors are linear SVMs on TF-IDF values (scikit-learn's ``LinearSVC``, extra ``[sklearn]``), fitted to all the
training documents that the module's run had, those for validation included, and to the words that the base reads of
them. Their settings are fixed (sublinear counts, C = 1) and not tuned. With ten targets or more the threshold is the
one of the best F1 on margins that five-fold cross-validation gives; with fewer it stays 0, since single documents would
decide. Module and detector are compared on the same test documents by a paired bootstrap.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..classifier.metrics import binary_metrics, undefined_as_none
from ..classifier.paired_bootstrap import f1_difference
from ..classifier.tfidf import FOLDS, Array, fold_numbers, need_sklearn, word_counts
from ..classifier.threshold import f1_threshold
from ..data.corpus import Corpus
from ..modules.marks import FEWEST_TARGETS
from ..modules.seam_module import SeamModule
from .document_sets import is_target

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

KINDS = ("l2", "l1")
"""The penalties: ``l2`` weights every word, ``l1`` few of them."""

SHOWN = ("precision", "recall", "f1", "accuracy", "average_precision")


class LinearSVMs:
    """Fits detectors for one corpus and compares modules with them.

    Args:
        corpus: The corpus that the modules' run had.

    Raises:
        DataError: scikit-learn is not installed.
    """

    def __init__(self, corpus: Corpus) -> None:
        need_sklearn("linear detectors")
        self.corpus = corpus

    @functools.cached_property
    def _documents(self) -> tuple[csr_matrix, csr_matrix]:
        """TF-IDF values of training and test documents, (N, V) each."""
        from sklearn.feature_extraction.text import TfidfTransformer

        splits = self.corpus.train, self.corpus.test
        train, test = (word_counts(each.ids, each.lengths, self.corpus.vocab_size) for each in splits)
        transform = TfidfTransformer(sublinear_tf=True).fit(train)
        return transform.transform(train), transform.transform(test)

    def judge(self, module: SeamModule) -> dict[str, dict[str, Any]]:
        """Figures on the test documents, by penalty.

        Args:
            module: A module over a base that numbers words and classes as the corpus does.

        Returns:
            For each of ``KINDS``: ``precision``, ``recall``, ``f1``, ``accuracy`` and ``average_precision`` (None where
            they are undefined); ``weights``, how many are not zero, never more than the module keeps;
            ``difference``, the module's F1 less the detector's, and ``low`` and ``high``, its 95 % interval;
            ``verdict``: what the interval says of the module, ``better``, ``not told apart`` or ``worse``. Nothing at
            all where all training documents, or none, are of the target.
        """
        split, most = self.corpus.test, sum(module.mask.counts().values())
        answers = module.predict(split.ids, split.lengths).numpy()
        return self.detector(module.target, most, answers)

    def detector(
        self, target: tuple[int, ...], most: int | None = None, answers: Array | None = None
    ) -> dict[str, Any]:
        """`judge` without a module, or with what it answered.

        Args:
            target: Class numbers.
            most: The most weights; None: all.
            answers: A module's answers to the test documents, bool (N,). Without them there is no difference and no
                verdict.
        """
        splits = self.corpus.train, self.corpus.test
        train, test = (is_target(split.labels, target).numpy() for split in splits)
        if train.all() or not train.any():
            return {}
        most = self.corpus.vocab_size if most is None else most
        found = {}
        for kind in KINDS:
            weights, bias = self._fit(train, kind, most)
            margins = self._documents[1] @ weights + bias
            figures = undefined_as_none(_figures(margins, test))
            found[kind] = {name: figures[name] for name in SHOWN} | {"weights": int(np.count_nonzero(weights))}
            if answers is not None:
                found[kind] |= compare(answers, margins >= 0, test)
        return found

    def class_margins(self, number: int) -> Array:
        """Margins of the test documents for one class against the rest, (N,), with L2 penalty and no threshold of its
        own; -inf where no training document, or each one, is of the class.
        """
        train = is_target(self.corpus.train.labels, (number,)).numpy()
        if train.all() or not train.any():
            return np.full(len(self.corpus.test), -np.inf)
        weights, bias = _fit_svm(self._documents[0], train, "l2", self.corpus.vocab_size)
        margins: Array = self._documents[1] @ weights + bias
        return margins

    def _fit(self, wanted: Array, kind: str, most: int) -> tuple[Array, float]:
        """Weights (V,) and bias of a detector with at most that many weights; the threshold is in the bias."""
        documents = self._documents[0]
        weights, bias = _fit_svm(documents, wanted, kind, most)
        if wanted.sum() >= FEWEST_TARGETS and (~wanted).sum() >= FEWEST_TARGETS:
            margins = np.empty(len(wanted))
            folds = fold_numbers(wanted)
            for held_out in (folds == fold for fold in range(FOLDS)):
                fitted = _fit_svm(documents[~held_out], wanted[~held_out], kind, most)
                margins[held_out] = documents[held_out] @ fitted[0] + fitted[1]
            bias -= best_threshold(margins, wanted)
        return weights, bias


def compare(answers: Array, others: Array, wanted: Array) -> dict[str, Any]:
    """What a paired bootstrap says of two detectors.

    Args:
        answers: The first one's answers, bool (N,).
        others: The second one's, bool (N,).
        wanted: Which documents are the target's, bool (N,).

    Returns:
        ``difference``, F1 of the first less that of the second; ``low`` and ``high``, its 95 % interval; ``verdict``.
        Without documents of the target all but the verdict are None.
    """
    if not wanted.any():
        return {"difference": None, "low": None, "high": None, "verdict": "not told apart"}
    difference, low, high = f1_difference(answers, others, wanted)
    verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return {"difference": difference, "low": low, "high": high, "verdict": verdict}


def best_threshold(margins: Array, wanted: Array) -> float:
    """The threshold of the highest F1: halfway between two margins, or below all of them; the one nearest to 0 where
    several are best. Documents of equal margin are on the same side of it.

    Args:
        margins: (N,), some of them of targets.
        wanted: Which documents are the target's, bool (N,).
    """
    # A place below all margins, which counts for no document.
    margins, probability = np.append(margins, margins.min() - 1.0), np.append(wanted, False).astype(np.float64)
    return f1_threshold(margins, probability, np.append(np.ones(len(wanted)), 0.0), zero=False)


def _figures(margins: Array, wanted: Array) -> dict[str, float]:
    """`binary_metrics` of margins (N,)."""
    import torch

    return binary_metrics(torch.from_numpy(margins >= 0), torch.from_numpy(wanted), torch.from_numpy(margins))


def _fit_svm(documents: csr_matrix, wanted: Array, kind: str, most: int) -> tuple[Array, float]:
    """Weights (V,) and bias of a linear SVM, the smallest weights left out where there are more than ``most``."""
    from sklearn.svm import LinearSVC

    machine = LinearSVC(penalty=kind, dual=kind == "l2", C=1.0, random_state=0, max_iter=5000)
    machine.fit(documents, wanted)
    weights = machine.coef_[0]
    if np.count_nonzero(weights) > most:
        weights = weights.copy()
        weights[np.argsort(-np.abs(weights), kind="stable")[most:]] = 0.0  # of equal weights the first words' stay
    return weights, float(machine.intercept_[0])

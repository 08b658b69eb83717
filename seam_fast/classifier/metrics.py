"""Figures of predictions: of a classifier over C classes, and of a module that tells its target from the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion, by Wilson's score method, which holds for few documents too."""
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    spread = Z95 * math.sqrt(share * (1 - share) / total + Z95**2 / (4 * total**2))
    middle, scale = share + Z95**2 / (2 * total), 1 + Z95**2 / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def precision_recall_f1(true_positive: int, false_positive: int, false_negative: int) -> tuple[float, float, float]:
    """Precision, recall and F1 of these counts; each is 0 where its denominator is."""
    precision = true_positive / max(true_positive + false_positive, 1)
    recall = true_positive / max(true_positive + false_negative, 1)
    return precision, recall, 2 * true_positive / max(2 * true_positive + false_positive + false_negative, 1)


def average_precision(margin: np.ndarray, is_target: np.ndarray) -> float:
    """Average precision: the area under the steps of the precision-recall curve, 0 without targets.

    Args:
        margin: the score by which documents are ranked, (N,); documents of equal score share one rank.
        is_target: (N,) bool.
    """
    total = np.count_nonzero(is_target)
    if not total:
        return 0.0
    order = np.argsort(-margin, kind="stable")
    hits = np.cumsum(is_target[order])
    ranked = margin[order]
    last_of_tie = np.ones(len(ranked), dtype=bool)
    np.not_equal(ranked[1:], ranked[:-1], out=last_of_tie[:-1])
    ranks = np.flatnonzero(last_of_tie) + 1
    hits = hits[ranks - 1]
    new = hits.copy()  # the hits that each group of equal scores adds
    new[1:] -= hits[:-1]
    return float(np.sum(new * hits / ranks) / total)


def binary_metrics(predicted: Tensor, is_target: Tensor, margin: Tensor | None = None) -> dict[str, float]:
    """Figures of a yes/no decision over documents.

    Args:
        predicted: which documents are taken for targets, (N,) bool.
        is_target: which are, (N,) bool.
        margin: the score of "target" minus that of "not", (N,).

    Returns:
        accuracy with its 95 % interval (accuracy_low, accuracy_high), balanced_accuracy (mean of both recalls),
        precision, recall and f1 of the target, specificity (recall of the rest), four counts (documents, targets,
        true_positive, false_positive), and, with a margin, average_precision.
    """
    return _binary_metrics(predicted.numpy(), is_target.numpy(), None if margin is None else margin.double().numpy())


def _binary_metrics(predicted: np.ndarray, is_target: np.ndarray, margin: np.ndarray | None) -> dict[str, float]:
    """`binary_metrics` of NumPy arrays (N,)."""
    true_positive = int(np.count_nonzero(predicted & is_target))
    return metrics_of_counts(
        len(predicted),
        int(np.count_nonzero(is_target)),
        int(np.count_nonzero(predicted)),
        true_positive,
        None if margin is None else average_precision(margin.astype(np.float64), is_target),
    )


def metrics_of_counts(
    total: int, targets: int, predicted: int, true_positive: int, average_precision: float | None = None
) -> dict[str, float]:
    """`binary_metrics` from counts.

    Args:
        total: documents.
        targets: documents of the target.
        predicted: documents taken for targets.
        true_positive: targets among these.
        average_precision: as in `average_precision`, which counts do not give.
    """
    false_positive, false_negative = predicted - true_positive, targets - true_positive
    true_negative = total - true_positive - false_positive - false_negative
    precision, recall, f1 = precision_recall_f1(true_positive, false_positive, false_negative)
    specificity = true_negative / max(true_negative + false_positive, 1)
    low, high = wilson(true_positive + true_negative, total)
    figures = {
        "accuracy": (true_positive + true_negative) / max(total, 1),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "specificity": specificity,
        "documents": total,
        "targets": targets,
        "true_positive": true_positive,
        "false_positive": false_positive,
    }
    if average_precision is not None:
        figures["average_precision"] = average_precision
    return figures


def undefined_as_none(figures: dict[str, float]) -> dict[str, float | None]:
    """`binary_metrics` with None for undefined figures: of a target or a rest without documents, of no documents."""
    targets, others = figures["targets"], figures["documents"] - figures["targets"]
    undefined: set[str] = set()
    if not targets:
        undefined |= {"precision", "recall", "f1", "balanced_accuracy", "average_precision"}
    if not others:
        undefined |= {"specificity", "balanced_accuracy"}
    if not figures["documents"]:
        undefined |= {"accuracy", "accuracy_low", "accuracy_high"}
    return {name: None if name in undefined else value for name, value in figures.items()}


def why_no_better_than_chance(predicted: Tensor, labels: Tensor) -> str | None:
    """Says so where predictions are no better than always choosing the most frequent class.

    Args:
        predicted: class ids (N,) int64.
        labels: the true ones, (N,) int64.

    Returns:
        A clause for a message; None where the predictions are better, or all labels are of one class.
    """
    counts = torch.bincount(labels)
    if int((counts > 0).sum()) < 2:
        return None
    right, most = int((predicted == labels).sum()), int(counts.max())
    if right > most:
        return None
    share, chance = 100 * right / len(labels), 100 * most / len(labels)
    return f"{share:.1f} % are right, and the most frequent class alone is {chance:.1f} %"


def module_metrics(logits: Tensor, is_target: Tensor) -> dict[str, float]:
    """`binary_metrics` of a module's logits (N, 2): output 0 is the target and wins a tie, as in argmax.

    ``is_target``: (N,) bool.
    """
    # NumPy is several times faster than torch on arrays this small; it has no bfloat16.
    values = (logits.float() if logits.dtype == torch.bfloat16 else logits).numpy()
    return _binary_metrics(values.argmax(1) == 0, is_target.numpy(), values[:, 0] - values[:, 1])


def base_metrics(logits: Tensor, is_target: Tensor, target: tuple[int, ...]) -> dict[str, float]:
    """`binary_metrics` of the base itself: its logits (N, C), where any class of ``target`` counts as the target.

    ``is_target``: (N,) bool.
    """
    wanted = torch.zeros(logits.shape[1], dtype=torch.bool)
    wanted[list(target)] = True
    rest = logits[:, ~wanted].amax(1) if not wanted.all() else logits.new_full((len(logits),), -math.inf)
    return binary_metrics(wanted[logits.argmax(1)], is_target, logits[:, wanted].amax(1) - rest)


@dataclass(frozen=True)
class ClassifierMetrics:
    """Figures of a classifier, all computed from its confusion matrix.

    A precision, recall or F1 whose denominator is 0 is 0 (in `as_dict` None, for a class without documents).

    Attributes:
        confusion: (C, C) int64, number of documents by true class (rows) and predicted class (columns).
    """

    confusion: Tensor

    @property
    def total(self) -> int:
        """Number of documents."""
        return int(self.confusion.sum())

    @property
    def support(self) -> Tensor:
        """Number of documents of each class, (C,) int64."""
        return self.confusion.sum(1)

    @property
    def accuracy(self) -> float:
        """Share of the documents whose class is predicted."""
        return int(self.confusion.diag().sum()) / max(1, self.total)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson's)."""
        return wilson(int(self.confusion.diag().sum()), self.total)

    @property
    def precision(self) -> Tensor:
        """Of each class, (C,) float64."""
        return self.confusion.diag().double() / self.confusion.sum(0).clamp(min=1)

    @property
    def recall(self) -> Tensor:
        """Of each class, (C,) float64."""
        return self.confusion.diag().double() / self.confusion.sum(1).clamp(min=1)

    @property
    def f1(self) -> Tensor:
        """Of each class, (C,) float64: 2 TP / (2 TP + FP + FN)."""
        return 2 * self.confusion.diag().double() / (self.confusion.sum(0) + self.confusion.sum(1)).clamp(min=1)

    @property
    def mean_f1(self) -> float:
        """Mean F1 over the classes that have documents, each with the same weight."""
        present = self.support > 0
        return float(self.f1[present].mean()) if bool(present.any()) else 0.0

    def as_dict(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """The figures in JSON's types: the overall ones and one entry a class.

        Args:
            class_names: C names for the entries; None: "0", "1", ...
        """
        count = len(self.confusion)
        names = [str(k) for k in range(count)] if class_names is None else list(class_names)
        low, high = self.accuracy_interval
        precision, recall, f1, support = (t.tolist() for t in (self.precision, self.recall, self.f1, self.support))
        return {
            "documents": self.total,
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "mean_f1": self.mean_f1,
            "classes": [
                {"name": names[k], "documents": support[k]}
                | (
                    {"precision": precision[k], "recall": recall[k], "f1": f1[k]}
                    if support[k]
                    else dict.fromkeys(("precision", "recall", "f1"))
                )
                for k in range(count)
            ],
            "confusion": self.confusion.tolist(),
        }


def confusion_metrics(labels: Tensor, predicted: Tensor, num_classes: int) -> ClassifierMetrics:
    """Figures of predictions.

    Args:
        labels: true class ids, (N,) int64.
        predicted: predicted class ids, (N,) int64.
        num_classes: C, above all ids.
    """
    cells = labels.cpu() * num_classes + predicted.cpu()
    counts = torch.bincount(cells, minlength=num_classes * num_classes)
    return ClassifierMetrics(counts.view(num_classes, num_classes))

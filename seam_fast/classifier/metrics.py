"""Figures about predictions: of a classifier over C classes, and of a module that tells its target from the rest."""

import math

import numpy as np
import torch
from torch import Tensor

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score method (which stays honest for ten documents)."""
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    spread = Z95 * math.sqrt(share * (1 - share) / total + Z95**2 / (4 * total**2))
    middle, scale = share + Z95**2 / (2 * total), 1 + Z95**2 / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def precision_recall_f1(true_positive: int, false_positive: int, false_negative: int) -> tuple[float, float, float]:
    """Precision, recall and F1, each 0 where its denominator is."""
    precision = true_positive / max(true_positive + false_positive, 1)
    recall = true_positive / max(true_positive + false_negative, 1)
    return precision, recall, 2 * true_positive / max(2 * true_positive + false_positive + false_negative, 1)


def average_precision(margin: np.ndarray, is_target: np.ndarray) -> float:
    """Area under the precision-recall steps of documents ranked by margin, ties taken together; 0 without targets."""
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
    new = hits.copy()  # hits that each tie adds
    new[1:] -= hits[:-1]
    return float(np.sum(new * hits / ranks) / total)


def binary_metrics(predicted: Tensor, is_target: Tensor, margin: Tensor | None = None) -> dict[str, float]:
    """Figures of a yes/no decision over documents; all arguments (N,), the first two bool.

    accuracy with its 95 % interval (accuracy_low, accuracy_high), balanced_accuracy (mean of both recalls), precision,
    recall and f1 of the target, specificity (recall of the rest), the four counts, and, given the margin by which the
    target wins, average_precision.
    """
    return _binary_metrics(predicted.numpy(), is_target.numpy(), None if margin is None else margin.double().numpy())


def _binary_metrics(predicted: np.ndarray, is_target: np.ndarray, margin: np.ndarray | None) -> dict[str, float]:
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
    """``binary_metrics`` of so many documents, targets, and documents taken for targets, rightly or in all."""
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
    """`binary_metrics`, with None for what cannot be said: of the target where it has no documents, of the rest where
    there is no other, of anything where there are none at all."""
    targets, others = figures["targets"], figures["documents"] - figures["targets"]
    unsaid = set()
    if not targets:
        unsaid |= {"precision", "recall", "f1", "balanced_accuracy", "average_precision"}
    if not others:
        unsaid |= {"specificity", "balanced_accuracy"}
    if not figures["documents"]:
        unsaid |= {"accuracy", "accuracy_low", "accuracy_high"}
    return {name: None if name in unsaid else value for name, value in figures.items()}


def why_no_better_than_chance(predicted: Tensor, labels: Tensor) -> str | None:
    """A clause where no more of ``predicted`` (N,) are right than if all were ``labels``' most frequent class; None
    where more are, or where there are not two classes."""
    counts = torch.bincount(labels)
    if int((counts > 0).sum()) < 2:
        return None
    right, most = int((predicted == labels).sum()), int(counts.max())
    if right > most:
        return None
    share, chance = 100 * right / len(labels), 100 * most / len(labels)
    return f"{share:.1f} % are right, and the most frequent class alone is {chance:.1f} %"


def module_metrics(logits: Tensor, is_target: Tensor) -> dict[str, float]:
    """``binary_metrics`` of a module's outputs, logits (N, 2): the target is output 0 and wins a tie, as in argmax."""
    # Of a few numbers, NumPy has all figures before torch has begun; it knows no bfloat16.
    values = (logits.float() if logits.dtype == torch.bfloat16 else logits).numpy()
    return _binary_metrics(values.argmax(1) == 0, is_target.numpy(), values[:, 0] - values[:, 1])


def base_metrics(logits: Tensor, is_target: Tensor, target: tuple[int, ...]) -> dict[str, float]:
    """The same of the base's C logits (N, C), collapsed to target or not by the class that wins."""
    wanted = torch.zeros(logits.shape[1], dtype=torch.bool)
    wanted[list(target)] = True
    rest = logits[:, ~wanted].amax(1) if not wanted.all() else logits.new_full((len(logits),), -math.inf)
    return binary_metrics(wanted[logits.argmax(1)], is_target, logits[:, wanted].amax(1) - rest)

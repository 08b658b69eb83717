"""Figures against published values and definitions written out the slow way."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seam_fast.classifier import metrics


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four: Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
        (10, 20, 0.2993, 0.7007),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(successes, total, low, high):
    assert metrics.wilson(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_holds_the_share_and_stays_within_0_and_1(successes, total):
    successes = min(successes, total)
    low, high = metrics.wilson(successes, total)
    assert 0 <= low <= successes / total + 1e-15 and successes / total - 1e-15 <= high <= 1
    assert metrics.wilson(total - successes, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3, 1, 2), (3 / 4, 3 / 5, 6 / 9)),
        ((0, 0, 0), (0, 0, 0)),
        ((0, 5, 0), (0, 0, 0)),
        ((0, 0, 5), (0, 0, 0)),
        ((4, 0, 0), (1, 1, 1)),
    ],
)
def test_precision_recall_f1(counts, expected):
    assert metrics.precision_recall_f1(*counts) == pytest.approx(expected)


# -- average precision ------------------------------------------------------------------------------------------------


def slow_average_precision(margins, targets):
    """Sum over thresholds, highest first, of precision times the recall gained there, in exact fractions."""
    total, area, recall = sum(targets), Fraction(0), Fraction(0)
    if total == 0:
        return 0.0
    for threshold in sorted(set(margins), reverse=True):
        chosen = [target for margin, target in zip(margins, targets, strict=True) if margin >= threshold]
        now = Fraction(sum(chosen), total)
        area += (now - recall) * Fraction(sum(chosen), len(chosen))
        recall = now
    return float(area)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_its_definition(documents):
    margins, targets = zip(*documents, strict=True)
    ours = metrics.average_precision(np.array(margins, dtype=float), np.array(targets))
    assert ours == pytest.approx(slow_average_precision(margins, targets), abs=1e-12)


@pytest.mark.parametrize(
    ("margins", "targets", "expected"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 1),
        ([3, 2, 1, 0], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
        ([3, 2, 1, 0], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([5, 5, 5, 5], [1, 0, 0, 0], 1 / 4),  # all tied: the share of targets, whatever the order of the file
        ([5, 5, 5, 5], [0, 0, 0, 1], 1 / 4),
        ([1, 0], [0, 0], 0),
        ([1, 0], [1, 1], 1),
    ],
)
def test_average_precision_by_hand(margins, targets, expected):
    result = metrics.average_precision(np.array(margins, dtype=float), np.array(targets, dtype=bool))
    assert result == pytest.approx(expected)


def test_average_precision_does_not_depend_on_the_order_of_documents():
    random = np.random.RandomState(0)
    margins, targets = random.randint(0, 5, 40).astype(float), random.rand(40) < 0.3
    first = metrics.average_precision(margins, targets)
    for _ in range(5):
        order = random.permutation(40)
        assert metrics.average_precision(margins[order], targets[order]) == pytest.approx(first, abs=1e-15)


def test_no_documents_at_all():
    nothing = torch.zeros(0, dtype=torch.bool)
    figures = metrics.binary_metrics(nothing, nothing, torch.zeros(0))
    assert figures["average_precision"] == figures["accuracy"] == figures["f1"] == figures["documents"] == 0
    assert (figures["accuracy_low"], figures["accuracy_high"]) == (0, 1)


# -- decisions --------------------------------------------------------------------------------------------------------


def test_binary_metrics_by_hand():
    predicted = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool)
    is_target = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    figures = metrics.binary_metrics(predicted, is_target)
    expected = {
        "accuracy": 0.7,
        "balanced_accuracy": (3 / 5 + 4 / 5) / 2,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": 6 / 9,
        "specificity": 4 / 5,
        "documents": 10,
        "targets": 5,
        "true_positive": 3,
        "false_positive": 1,
    }
    assert {key: figures[key] for key in expected} == pytest.approx(expected)
    assert (figures["accuracy_low"], figures["accuracy_high"]) == pytest.approx((0.3968, 0.8922), abs=5e-5)
    assert "average_precision" not in figures


@pytest.mark.parametrize("value", [False, True])
def test_one_kind_of_document_only(value):
    """Whatever would be divided by nothing is 0."""
    labels = torch.full((3,), value)
    yes, no = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    always, never = metrics.binary_metrics(yes, labels), metrics.binary_metrics(no, labels)
    assert (always["accuracy"], never["accuracy"]) == (value, 1 - value)
    assert (always["specificity"], never["specificity"]) == (0, 1 - value)
    assert (always["recall"], never["recall"]) == (value, 0)
    assert (always["precision"], never["precision"]) == (value, 0)
    assert (always["f1"], never["f1"]) == (value, 0)


def test_module_metrics_take_output_0_for_the_target_and_a_tie_for_it():
    logits = torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 3.0], [5.0, 6.0]])
    figures = metrics.module_metrics(logits, torch.tensor([True, True, False, True]))
    assert (figures["true_positive"], figures["false_positive"], figures["targets"]) == (2, 0, 3)
    assert figures["average_precision"] == pytest.approx(1)  # margins 1, 0, -3, -1


LOGITS = torch.tensor([[4.0, 1, 0, 2], [1, 5, 2, 0], [0, 1, 3, 2], [2, 0, 1, 3], [3, 2, 1, 0]])  # winners 0 1 2 3 0


@pytest.mark.parametrize(
    ("target", "labels", "true_positive", "false_positive", "margins"),
    [
        ((2,), [0, 1, 2, 2, 0], 1, 0, [-4, -3, 1, -2, -2]),
        ((0, 2), [0, 1, 2, 2, 1], 2, 1, [2, -3, 1, -1, 1]),
        ((1, 2, 3), [0, 1, 2, 3, 1], 3, 0, [-2, 4, 3, 1, -1]),
    ],
)
def test_base_metrics_collapse_the_classes(target, labels, true_positive, false_positive, margins):
    wanted = torch.tensor([label in target for label in labels])
    figures = metrics.base_metrics(LOGITS, wanted, target)
    assert (figures["true_positive"], figures["false_positive"]) == (true_positive, false_positive)
    assert figures["average_precision"] == pytest.approx(slow_average_precision(margins, wanted.tolist()))


def test_base_metrics_of_every_class():
    figures = metrics.base_metrics(LOGITS, torch.ones(5, dtype=torch.bool), (0, 1, 2, 3))
    assert figures["recall"] == figures["precision"] == figures["average_precision"] == 1


def test_a_blind_base_has_half_on_a_balanced_set():
    logits = torch.tensor([[1.0, 0.0]] * 6)
    figures = metrics.base_metrics(logits, torch.tensor([True] * 3 + [False] * 3), (1,))
    assert (figures["accuracy"], figures["recall"], figures["specificity"]) == (0.5, 0, 1)

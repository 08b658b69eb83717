"""The threshold of the best F1: by trying all, with probable classes and weights, and documents of equal margin."""

import numpy as np
import pytest

from seam_fast.classifier.threshold import f1_threshold


def f1_at(threshold, margin, wanted, weight=1.0):
    taken = margin >= threshold
    return 2 * np.sum(weight * taken * wanted) / np.sum(weight * (taken + wanted))


def drawn(seed, count=200, shift=-2.0):
    """Margins of a ranking that is good, around a threshold that is not 0; and who is a target."""
    generator = np.random.default_rng(seed)
    wanted = (generator.random(count) < 0.2).astype(float)
    return generator.normal(0, 1, count) + 2.0 * wanted + shift, wanted


def cuts(margin):
    """All thresholds that tell two documents apart."""
    found = np.unique(margin)
    return (found[1:] + found[:-1]) / 2


@pytest.mark.parametrize("shift", [-9.0, -2.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_is_better(seed, shift):
    margin, wanted = drawn(seed, shift=shift)
    threshold = f1_threshold(margin, wanted)
    assert f1_at(threshold, margin, wanted) == pytest.approx(max(f1_at(cut, margin, wanted) for cut in cuts(margin)))
    assert threshold * shift > 0 or shift == -2.0


def test_classes_that_are_probable_and_documents_that_count_for_several():
    margin, wanted = drawn(1)
    generator = np.random.default_rng(1)
    probability, weight = 0.5 * wanted + 0.5 * generator.random(200), generator.random(200)
    threshold = f1_threshold(margin, probability, weight)
    best = max(f1_at(cut, margin, probability, weight) for cut in cuts(margin))
    assert f1_at(threshold, margin, probability, weight) == pytest.approx(best)
    # A document that counts for three is three documents.
    times = generator.integers(1, 4, 200)
    assert f1_threshold(margin, wanted, times) == f1_threshold(np.repeat(margin, times), np.repeat(wanted, times))


def test_a_classifier_that_knows_its_probabilities_needs_half_the_best_f1():
    """Lipton et al., 2014, theorem 1; on a grid of probabilities, of which there are as many as there are documents."""
    probability = np.linspace(0.0005, 0.6, 4000) ** 2
    margin = np.log(probability / (1 - probability))
    threshold = f1_threshold(margin, probability)
    best = f1_at(threshold, margin, probability)
    assert 1 / (1 + np.exp(-threshold)) == pytest.approx(best / 2, abs=np.diff(probability).max())
    assert best / 2 < 0.2


def test_of_equal_thresholds_the_nearest_and_none_where_0_is_as_good():
    margin = np.array([3.0, 2.5, 1.0, -0.5, -1.0])
    assert f1_threshold(margin, np.array([1.0, 1.0, 1.0, 0.0, 0.0])) == 0
    assert f1_threshold(margin, np.array([1.0, 1.0, 0.0, 0.0, 0.0])) == 1.75
    # 1 of 1 or 2 of 4: an F1 of 2/3 either way
    assert f1_threshold(np.array([4.0, 3.0, 2.0, -1.0, -2.0]), np.array([1.0, 0.0, 0.0, 1.0, 0.0])) == -1.5


def test_no_threshold_lies_among_equal_margins():
    """What a ReLU makes: the documents of the largest margin are taken together, or with others."""
    margin = np.array([5.0] * 40 + [-1.0] * 20 + [-2.0] * 40) - 6.0
    wanted = np.array([1.0] * 30 + [0.0] * 10 + [1.0] * 5 + [0.0] * 55)
    assert f1_threshold(margin, wanted) == -4.0  # midway between -1 and -7: 30 of 40, not the next 20
    jitter = margin - 1e-7 * np.arange(100)  # rounding that happens to rank the targets first
    assert f1_threshold(jitter, wanted) > -1.1
    assert f1_threshold(jitter, wanted, resolution=1e-5) == pytest.approx(-4.0, abs=1e-4)
    assert f1_threshold(np.zeros(100), wanted) == 0


def test_without_targets_nothing_moves():
    assert f1_threshold(np.arange(20.0) - 30, np.zeros(20)) == 0


def test_not_all_documents_where_others_are_as_good():
    assert f1_threshold(np.array([-1.0, -2.0, -3.0]), np.ones(3)) == -2.5  # two of three: none takes all
    assert f1_threshold(np.array([3.0, 2.0, 1.0]), np.ones(3)) == 0  # unless the module does already

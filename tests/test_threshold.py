"""The threshold of the best F1: by trying all, its one standard error, and documents of equal margin."""

import numpy as np
import pytest

from seam_fast.classifier.threshold import _influence, f1_threshold


def f1_at(threshold, margin, wanted):
    taken = margin >= threshold
    return 2 * np.count_nonzero(taken & wanted) / (np.count_nonzero(taken) + np.count_nonzero(wanted))


def drawn(seed, count=400, share=0.2, shift=-2.0):
    """Margins of a ranking that is good, around a threshold that is not 0."""
    generator = np.random.default_rng(seed)
    wanted = generator.random(count) < share
    return generator.normal(0, 1, count) + 2.0 * wanted + shift, wanted


@pytest.mark.parametrize("seed", range(5))
def test_a_module_that_always_says_no_gets_the_f1_of_its_ranking(seed):
    margin, wanted = drawn(seed, shift=-9.0)
    assert f1_at(0.0, margin, wanted) == 0
    best = max(f1_at(value, margin, wanted) for value in margin)
    found = f1_at(f1_threshold(margin, wanted), margin, wanted)
    assert best - 0.06 < found <= best  # within a standard error of .8 at 80 targets, which is less than that


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_threshold_is_the_nearest_within_one_standard_error(sign):
    margin, wanted = drawn(7, shift=-1.0 + sign * 2.5)
    threshold = f1_threshold(margin, wanted)
    assert threshold * sign > 0
    cuts = np.unique(margin)
    cuts = (cuts[1:] + cuts[:-1]) / 2
    f1 = np.array([f1_at(cut, margin, wanted) for cut in cuts])
    order, total = wanted[np.argsort(-margin, kind="stable")].astype(float), int(wanted.sum())
    best = cuts[f1.argmax()]

    def is_near(cut):
        here, there = (_influence(np.count_nonzero(margin >= value), order, total) for value in (cut, best))
        return f1.max() - f1_at(cut, margin, wanted) <= np.linalg.norm(here - there)

    nearer = [cut for cut in [0.0, *cuts] if cut * sign >= 0 and abs(cut) < abs(threshold) - 1e-12]
    assert is_near(threshold) and not any(map(is_near, nearer))


def test_the_influence_is_the_derivative_of_the_f1():
    """By differences, of a document's weight; and the standard error is that of drawing the documents anew."""
    generator = np.random.default_rng(0)
    wanted, taken = (generator.random(60) < 0.4).astype(float), 25
    chosen, weights = np.arange(60) < taken, np.ones(60)

    def f1(weights):
        return 2 * np.sum(weights * wanted * chosen) / np.sum(weights * (wanted + chosen))

    influence = _influence(taken, wanted, int(wanted.sum()))
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    for k in range(60):
        moved = weights.copy()
        moved[k] += 1e-6
        assert influence[k] == pytest.approx((f1(moved) - f1(weights)) / 1e-6, abs=1e-6)
    again = [f1(generator.multinomial(60, np.full(60, 1 / 60))) for _ in range(4000)]
    assert np.linalg.norm(influence) == pytest.approx(np.std(again), rel=0.1)


def test_a_gain_that_chance_could_give_moves_nothing():
    margin = np.array([3.0, 2.0, 1.0, -0.5, -1.0, -2.0, -3.0, -4.0])
    wanted = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)  # one document would be won
    assert f1_threshold(margin, wanted) == 0
    margin, wanted = np.repeat(margin, 30) + 1e-3 * np.tile(np.arange(30), 8), np.repeat(wanted, 30)
    assert -1.0 < f1_threshold(margin, wanted) < -0.4  # thirty are no chance


def test_no_threshold_lies_among_equal_margins():
    """What a ReLU makes: the documents of the largest margin are taken together, or with others."""
    margin = np.array([5.0] * 40 + [-1.0] * 20 + [-2.0] * 40) - 6.0
    wanted = np.array([True] * 30 + [False] * 10 + [True] * 10 + [False] * 50)
    assert f1_threshold(margin, wanted) == pytest.approx(-4.0)  # midway between -1 and -7: 30 of 40, not the next 20
    jitter = margin + 1e-7 * np.arange(100)
    assert f1_threshold(jitter, wanted, resolution=1e-5) == pytest.approx(-4.0, abs=1e-4)
    assert f1_threshold(np.zeros(100), wanted) == 0


@pytest.mark.parametrize("all_of", [True, False])
def test_without_targets_or_others_nothing_moves(all_of):
    assert f1_threshold(np.arange(20.0) - 30, np.full(20, all_of)) == 0


def test_never_all_documents_and_never_none():
    generator = np.random.default_rng(3)
    for shift in (-50.0, 50.0):
        wanted = generator.random(100) < 0.95
        margin = generator.normal(0, 1, 100) + shift
        taken = np.count_nonzero(margin >= f1_threshold(margin, wanted))
        assert shift > 0 or 0 < taken < 100  # yes to all is as good as any at 0, and stays there

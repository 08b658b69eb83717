"""Rows whose words did not occur: how exactly the CPU's trainer makes up for the steps that they missed.

The truth is Adam in float64, step by step in NumPy. The engine's rows are put into states as training leaves them, then
it trains on documents of another word for as many steps as are to be skipped.
"""

import numpy as np
import pytest
import torch
from support.skipped_steps import EPS, PENALTIES, ROWS, STARTS, WIDTH, Rows, draw_states, errors, replay_exactly, same


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("t", "counts"), STARTS)
def test_quadrature_errs_no_more_than_replay(t, counts, penalty):
    """In float32, against the same steps in float64.

    For each number of skipped steps the largest error of 1,024 scores, and what 95 % stay below, must be no larger than
    replay's. An error may always be one rounding (of averages two: the way to the value at rest is a difference) of the
    largest number on the way: what was there, what comes out, where it would rest.
    """
    states = [part.astype(np.float32) for part in draw_states(t, penalty)]
    exact = replay_exactly(states, t, penalty, counts)
    quadrature, replay = Rows("quadrature", penalty), Rows("replay", penalty)
    for skipped in counts:
        fast, slow = quadrature.after(states, t, skipped), replay.after(states, t, skipped)
        assert skipped < 12 or not same(fast, slow), "it has replayed"
        for i, (rest, roundings) in enumerate(((0, 1), (penalty, 2), (penalty**2, 2))):
            true = exact[skipped][0][i]
            floor = roundings * EPS / 2 * max(rest, *(np.max(abs(part)) for part in (states[i], true)))
            assert (errors(fast[i], true) <= np.maximum(errors(slow[i], true), floor)).all(), (skipped, i)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("t", "counts"), STARTS)
def test_the_rule_itself_is_exact_to_a_millionth_of_the_way(t, counts, penalty):
    """In float64 there is no rounding to speak of: what is left is that a few nodes stand for all steps."""
    states = draw_states(t, penalty, seed=2)
    exact = replay_exactly(states, t, penalty, counts)
    quadrature = Rows("quadrature", penalty, torch.float64)
    for skipped in counts:
        (score, *averages), way = exact[skipped]
        found = [part.numpy() for part in quadrature.after(states, t, skipped)]
        assert (abs(found[0] - score) <= 1e-6 * way + 1e-14 * abs(score)).all(), skipped
        for ours, true, rest in zip(found[1:], averages, (penalty, penalty**2), strict=True):
            assert (abs(ours - true) <= 1e-12 * (abs(true) + rest)).all(), skipped


# -- where the rule does not hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [200, 1000, 50_000])
def test_states_that_no_training_leaves_are_replayed(t):
    """A row with an exp_avg_sq well below what the penalties alone would have left is replayed; others are not."""
    penalty = 4.2e-7
    states = [part.astype(np.float32) for part in draw_states(t, penalty)]
    states[2][0] = 0
    states[2][1, 17] = 0  # one score is enough
    states[2][2, WIDTH - 1] = 0.1 * penalty**2 * (1 - 0.999**t)
    broken, sound = slice(0, 3), slice(3, ROWS)
    quadrature, replay = Rows("quadrature", penalty), Rows("replay", penalty)
    for skipped in (12, 20) if t == 200 else (12, 60, 700, 2048, 2500):
        fast, slow = quadrature.after(states, t, skipped), replay.after(states, t, skipped)
        assert same([part[broken] for part in fast], [part[broken] for part in slow]), skipped
        assert not same([part[sound] for part in fast], [part[sound] for part in slow]), skipped


def test_early_skipped_steps_are_replayed():
    """Adam's correction of its beginning bends too much for a few nodes."""
    for t, counts in ((0, (1, 30, 1500)), (1, (20,)), (20, (5, 400)), (150, (6, 2000)), (300, (300,))):
        states = [part.astype(np.float32) for part in draw_states(max(t, 3), 1e-3)]
        if t < 3:
            states[1][:], states[2][:] = 0, 0  # as before the first step
        for skipped in counts:
            assert same(*(Rows(way, 1e-3).after(states, t, skipped) for way in ("quadrature", "replay")))


@pytest.mark.parametrize("lazy_update", ["quadrature", "replay"])
def test_what_is_not_a_number_stays_so_and_stays_where_it_is(lazy_update):
    """A broken score is for check_finite to find; its neighbours go on as they would."""
    clean = [part.astype(np.float32) for part in draw_states(1000, 4.2e-7)]
    rows = Rows(lazy_update, 4.2e-7)
    for i in range(3):
        states = [part.copy() for part in clean]
        states[i][5, 7] = np.nan
        found, wanted = rows.after(states, 1000, 500), rows.after(clean, 1000, 500)
        assert found[i][5, 7].isnan() and found[0][5, 7].isnan()
        for part in (*found, *wanted):
            part[5, 7] = 0
        assert same(found, wanted)

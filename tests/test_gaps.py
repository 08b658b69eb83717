"""Rows whose words did not occur: how exactly the native engine makes up for the steps that they missed.

The truth is Adam in float64, step by step in NumPy. The engine's rows are put into states as training leaves them, then
it trains on documents of another word for as many steps as the gap is long.
"""

import numpy as np
import pytest
import torch
from support import toy_weights, trainer_kinds

EPS = float(np.finfo(np.float32).eps)
GAPS = (1, 2, 3, 4, 5, 6, 8, 12, 20, 33, 60, 90, 125, 180, 201, 250, 400, 701, 1000, 1201, 1564, 1801, 2048, 2049)
GAPS += (2165, 3000, 4096, 4097, 5000)
SOON = tuple(gap for gap in GAPS if gap <= 25)  # after 200 steps longer gaps are replayed
PENALTIES = (8.4e-8, 4.2e-7, 1e-3, 0.5, 0.0)  # the first: alpha 0.2 at the reference's sizes
STARTS = ((200, SOON), (1000, GAPS), (50_000, GAPS))  # steps taken before, gaps
WIDTH, ROWS, LR = 64, 16, 0.1  # 1,024 scores


def draw_states(t, penalty, seed=0):
    """score, exp_avg, exp_avg_sq (ROWS, WIDTH) after t steps, in float64, as training gives them.

    In each step the gradient was the penalty; in up to 20 of them, the last one included, a gradient of the loss came
    to it, of any size from 1e-9 to 1. In one score in eight there was none.
    """
    random = np.random.RandomState(seed)
    shape = (ROWS, WIDTH)
    m, v = np.full(shape, penalty * (1 - 0.9**t)), np.full(shape, penalty**2 * (1 - 0.999**t))
    seen = random.rand(*shape) > 1 / 8
    ages = np.unique([0, *np.exp(random.uniform(0, np.log(min(t - 1, 5000)), 19)).astype(int)])
    for age in ages:
        size = 10 ** random.uniform(-9, 0, shape) * random.choice([-1, 1], shape) * seen
        m += 0.1 * 0.9**age * size
        v += 0.001 * 0.999**age * (2 * penalty * size + size**2)
    return random.uniform(-3, 3, shape), m, v


def replay_exactly(states, t, penalty, gaps):
    """By gap: the states after it, by steps in float64, and the way that each score has gone."""
    score, m, v = (part.astype(np.float64) for part in states)
    way, found = np.zeros_like(score), {}
    for j in range(t + 1, t + max(gaps) + 1):
        m = m + 0.1 * (penalty - m)
        v = 0.999 * v + 0.001 * penalty**2
        step = LR / (1 - 0.9**j) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**j) + 1e-8)
        score = score - step
        way = way + abs(step)
        if j - t in gaps:
            found[j - t] = (score, m, v), way
    return found


class Rows:
    """A tiny trainer: word 0 is fed, the rows of the words 1 to ROWS wait."""

    def __init__(self, lazy_update, penalty, dtype=torch.float32, kind="native"):
        weights = toy_weights.make_weights(dtype, sizes=(ROWS + 1, WIDTH, 1, 1))
        total = sum(weight.numel() for weight in weights.values())
        options = {"alpha": penalty * total, "lr_mask": LR, "lr_head": 0.01, "schedule": "port"}
        head = toy_weights.make_head(dtype, classes=1)
        self.trainer = trainer_kinds.make_trainer(
            f"{kind}-{lazy_update}", weights, head, torch.arange(ROWS + 1), **options
        )
        self.memory = [
            getattr(self.trainer, name)[toy_weights.EMBEDDING] for name in ("scores", "exp_avg", "exp_avg_sq")
        ]

    def after(self, states, t, gap):
        """score, exp_avg, exp_avg_sq (ROWS, WIDTH) that the states at step t have become `gap` steps later."""
        for memory, part in zip(self.memory, states, strict=True):
            memory.zero_()[1 : ROWS + 1] = torch.from_numpy(part)
        self.trainer.load_state(t)
        ids, ones = torch.zeros(gap, 1, dtype=torch.int64), torch.ones(gap, dtype=torch.int64)
        self.trainer.run_epoch(ids, ones, ones, 1)
        assert self.trainer.steps == t + gap
        return [memory[1 : ROWS + 1].clone() for memory in self.memory]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def errors(found, true):
    """What 95 % of the absolute errors stay below, and the largest."""
    return np.quantile(abs(found.double().numpy() - true), [0.95, 1])


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("t", "gaps"), STARTS)
def test_quadrature_errs_no_more_than_replay(t, gaps, penalty):
    """In float32, against the same steps in float64.

    For each gap the largest error of 1,024 scores, and what 95 % stay below, must be no larger than replay's. An error
    may always be one rounding (of averages two: the way to the value at rest is a difference) of the largest number on
    the way: what was there, what comes out, where it would rest.
    """
    states = [part.astype(np.float32) for part in draw_states(t, penalty)]
    exact = replay_exactly(states, t, penalty, gaps)
    quadrature, replay = Rows("quadrature", penalty), Rows("replay", penalty)
    for gap in gaps:
        fast, slow = quadrature.after(states, t, gap), replay.after(states, t, gap)
        assert gap < 12 or not same(fast, slow), "it has replayed"
        for i, (rest, roundings) in enumerate(((0, 1), (penalty, 2), (penalty**2, 2))):
            true = exact[gap][0][i]
            floor = roundings * EPS / 2 * max(rest, *(np.max(abs(part)) for part in (states[i], true)))
            assert (errors(fast[i], true) <= np.maximum(errors(slow[i], true), floor)).all(), (gap, i)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("t", "gaps"), STARTS)
def test_the_rule_itself_is_exact_to_a_millionth_of_the_way(t, gaps, penalty):
    """In float64 there is no rounding to speak of: what is left is that a few places stand for all steps."""
    states = draw_states(t, penalty, seed=2)
    exact = replay_exactly(states, t, penalty, gaps)
    quadrature = Rows("quadrature", penalty, torch.float64)
    for gap in gaps:
        (score, *averages), way = exact[gap]
        found = [part.numpy() for part in quadrature.after(states, t, gap)]
        assert (abs(found[0] - score) <= 1e-6 * way + 1e-14 * abs(score)).all(), gap
        for ours, true, rest in zip(found[1:], averages, (penalty, penalty**2), strict=True):
            assert (abs(ours - true) <= 1e-12 * (abs(true) + rest)).all(), gap


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
    for gap in (12, 20) if t == 200 else (12, 60, 700, 2048, 2500):
        fast, slow = quadrature.after(states, t, gap), replay.after(states, t, gap)
        assert same([part[broken] for part in fast], [part[broken] for part in slow]), gap
        assert not same([part[sound] for part in fast], [part[sound] for part in slow]), gap


def test_early_gaps_are_replayed():
    """Adam's correction of its beginning bends too much for a few places."""
    for t, gaps in ((0, (1, 30, 1500)), (1, (20,)), (20, (5, 400)), (150, (6, 2000)), (300, (300,))):
        states = [part.astype(np.float32) for part in draw_states(max(t, 3), 1e-3)]
        if t < 3:
            states[1][:], states[2][:] = 0, 0  # as before the first step
        for gap in gaps:
            assert same(Rows("quadrature", 1e-3).after(states, t, gap), Rows("replay", 1e-3).after(states, t, gap))


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

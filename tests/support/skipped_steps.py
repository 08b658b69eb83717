"""Rows whose words did not occur for a while, and the same steps in NumPy."""

import numpy as np
import torch

from . import toy_weights, trainer_kinds

EPS = float(np.finfo(np.float32).eps)
SKIPPED = (1, 2, 3, 4, 5, 6, 8, 12, 20, 33, 60, 90, 125, 180, 201, 250, 400, 701, 1000, 1201, 1564, 1801, 2048, 2049)
SKIPPED += (2165, 3000, 4096, 4097, 5000)
SOON = tuple(skipped for skipped in SKIPPED if skipped <= 25)  # after 200 steps more are replayed
PENALTIES = (8.4e-8, 4.2e-7, 1e-3, 0.5, 0.0)  # the first: alpha 0.2 at the reference's sizes
STARTS = ((200, SOON), (1000, SKIPPED), (50_000, SKIPPED))  # steps taken before, numbers of skipped ones
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


def replay_exactly(states, t, penalty, counts):
    """By number of skipped steps: the states after them, by steps in float64, and the way that each score has gone."""
    score, m, v = (part.astype(np.float64) for part in states)
    way, found = np.zeros_like(score), {}
    for j in range(t + 1, t + max(counts) + 1):
        m = m + 0.1 * (penalty - m)
        v = 0.999 * v + 0.001 * penalty**2
        step = LR / (1 - 0.9**j) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**j) + 1e-8)
        score = score - step
        way = way + abs(step)
        if j - t in counts:
            found[j - t] = (score, m, v), way
    return found


class Rows:
    """A tiny trainer: word 0 is fed, the rows of the words 1 to ROWS wait."""

    def __init__(self, lazy_update, penalty, dtype=torch.float32, kind="cpu"):
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

    def after(self, states, t, skipped):
        """score, exp_avg, exp_avg_sq (ROWS, WIDTH) that the states at step t have become `skipped` steps later."""
        for memory, part in zip(self.memory, states, strict=True):
            memory.zero_()[1 : ROWS + 1] = torch.from_numpy(part)
        self.trainer.load_state(t)
        ids, ones = torch.zeros(skipped, 1, dtype=torch.int64), torch.ones(skipped, dtype=torch.int64)
        self.trainer.run_epoch(ids, ones, ones, 1)
        assert self.trainer.steps == t + skipped
        return [memory[1 : ROWS + 1].clone() for memory in self.memory]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def errors(found, true):
    """What 95 % of the absolute errors stay below, and the largest."""
    return np.quantile(abs(found.double().numpy() - true), [0.95, 1])

"""What a trainer of one launch is held to, on the CPU and on a GPU: cases, runs, and how near they must come."""

import numpy as np
import pytest
import torch

from seam_fast import _ext
from seam_fast.training import reference_step

from . import agreement, toy_data, toy_weights, trainer_kinds
from .skipped_steps import EPS, Rows, draw_states, errors, replay_exactly, same
from .toy_data import with_soft_labels
from .trainer_kinds import OPTIONS, assert_same_bits

needs_ext = pytest.mark.skipif(not _ext.has_ext(), reason=f"needs the compiled part: {_ext.reason}")


def weights_and_head(sizes):
    """Not so large that the LSTM is chaotic, where rounding grows from step to step."""
    return toy_weights.make_weights(sizes=sizes, scale=min(0.7, 2 / sum(sizes[1:3]) ** 0.5)), toy_weights.make_head(
        classes=sizes[3]
    )


def check_case(kind, sizes, documents, batch_size, *, lazy_update="quadrature", steps=3, **options):
    """A step at a time from the state of float64, by the rules: no worse than plain PyTorch and the CPU's engine."""
    weights, head = weights_and_head(sizes)
    words = torch.arange(sizes[0])
    engine = trainer_kinds.make_trainer(f"{kind}-{lazy_update}", weights, head, words, **OPTIONS | options)
    beside = None
    if _ext.has_ext():
        beside = trainer_kinds.make_trainer(
            f"cpu-{lazy_update}", *toy_weights.single(weights, head), words, **OPTIONS | options
        )
    exact = reference_step.Stepper(weights, head, **OPTIONS | options)
    batches = toy_data.cut(documents, batch_size)
    agreement.follow_in_float32([engine], exact, [*batches[: steps - 1], batches[-1]][-steps:], beside=beside)


def check_drawn(kind, case, **options):
    """`check_case` on drawn documents; of SMALL or SHARED."""
    sizes, width, batch, count, readout = case
    documents = toy_data.make_documents(count, width, range(sizes[0]))
    check_case(kind, sizes, documents, batch, readout=readout, **options)


SMALL = [  # (words, embedding, hidden, classes), time steps, batch, documents, read
    ((30, 1, 1, 1), 1, 1, 2, "last_position"),
    ((30, 19, 21, 6), 9, 4, 10, "last_word"),
    ((30, 33, 64, 5), 7, 1, 3, "last_position"),
    ((30, 130, 64, 40), 3, 2, 5, "last_word"),
    ((40, 64, 50, 8), 12, 5, 12, "last_position"),
    ((30, 65, 63, 33), 5, 7, 16, "last_word"),
    ((30, 7, 33, 3), 6, 8, 17, "last_position"),
    ((30, 5, 17, 32), 40, 9, 11, "last_word"),
    ((90, 12, 32, 4), 4, 13, 30, "last_position"),
    ((200, 16, 16, 2), 20, 20, 41, "last_word"),
    ((30, 3, 5, 256), 2, 3, 4, "last_word"),
    ((6, 8, 5, 3), 3, 70, 5, "last_position"),
]
SHARED = [
    ((30, 1, 65, 2), 3, 1, 2, "last_position"),
    ((40, 50, 100, 8), 8, 5, 7, "last_word"),
    ((40, 130, 128, 40), 4, 9, 14, "last_position"),
    ((30, 17, 97, 256), 2, 4, 5, "last_word"),
]


def name_of(case):
    sizes, width, batch, count, readout = case
    return "-".join(["x".join(map(str, sizes)), f"T{width}", f"B{batch}", f"N{count}", readout])


WIDE = (80, 19, 21, 6)  # sizes that fill no tile


def train(kind, sizes=WIDE, epochs=4, count=30, batch_size=4, steps_before=0, **options):
    """Trained over some epochs, one of them of the head alone; returns the trainer, and losses and logits on the way.

    Words come back after any number of epochs, from none to all; some never come.
    """
    weights, head = toy_weights.single(*weights_and_head(sizes))
    options = OPTIONS | {"schedule": "seam", "lr_mask": 0.02} | options
    trainer = trainer_kinds.make_trainer(kind, weights, head, torch.arange(sizes[0] - 2), **options)
    if steps_before:
        for key, constant in trainer.penalty_gradient.items():
            trainer.exp_avg[key].fill_(constant)
            trainer.exp_avg_sq[key].fill_(constant**2 * (1 - 0.999**steps_before))
        trainer.load_state(steps_before)
    seen = []
    for epoch in range(epochs):
        most = sizes[0] - 5 if epoch % 2 else sizes[0] // 3
        documents = toy_data.make_documents(count, width=6, words=range(most), seed=epoch)
        documents = with_soft_labels(documents) if options.get("target_weight", 1) == 1 and epoch == 1 else documents
        documents = [part.clone() for part in documents]  # into watched memory, where it is watched
        trainer.scale_learning_rates(1 - 0.1 * epoch)
        seen.append(trainer.run_epoch(*documents, batch_size, head_only=epoch == 2 and options["schedule"] == "seam"))
        seen.append(trainer.class_logits(*documents[:2]))
    return trainer, seen


def assert_same_run(one, other):
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert_same_bits(one[0], other[0])


def assert_near(one, other, most=2e-5):
    """But for the few scores whose gradient is all rounding, where each goes its own way."""
    (ours, seen), (theirs, seen_too) = one, other
    assert ours.steps == theirs.steps
    for a, b in zip(seen, seen_too, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-4)
    for parts, others in zip(ours.full_scores(), theirs.full_scores(), strict=True):
        pairs = zip(parts, others, strict=True) if isinstance(parts, tuple) else [(parts[k], others[k]) for k in parts]
        for a, b in pairs:
            error, share = agreement.errors(a, b.double())
            assert error < most and share <= 0.05


SETTINGS = [
    {},
    {"schedule": "joint", "readout": "last_word"},
    {"schedule": "port", "penalty": "group", "lstm_penalty_scale": 3.0, "linear_penalty_scale": 0.25},
    {"target_weight": 3.0, "readout": "last_word"},
    {"batch_size": 1},
    {"batch_size": 7, "steps_before": 1500},
    {"batch_size": 50, "target_weight": 0.25},
    {"count": 1},
    {"sizes": (40, 9, 70, 3), "count": 10, "readout": "last_word"},
]


def gradients(kind, case, tf32):
    """Those of a first step, as Adam has them, by tensor: of float64, and from it the errors of the engine."""
    sizes, width, batch, _, readout = case
    weights, head = weights_and_head(sizes)
    exact = reference_step.Stepper(weights, head, **OPTIONS | {"readout": readout})
    documents = toy_data.make_documents(batch, width, range(sizes[0]))
    exact.step(*documents)
    true = {key: exact.adam_together.state[score]["exp_avg"] for key, score in exact.scores.items()}
    found = []
    for allowed in (True, False):
        tf32(allowed)
        engine = trainer_kinds.make_trainer(
            f"{kind}-off", weights, head, torch.arange(sizes[0]), **OPTIONS | {"readout": readout}
        )
        engine.run_epoch(*documents, batch)
        found.append({key: engine.exp_avg[key][: len(part)].cpu() - part for key, part in true.items()})
    return true, *found


def check_tf32(kind, case, tf32):
    true, short, full = gradients(kind, case, tf32)
    for key, part in true.items():
        size = part.abs().max()
        assert short[key].abs().max() <= 2.0**-6 * size, key
        assert full[key].abs().max() <= 2.0**-16 * size, key
    assert max(short[key].abs().max() / true[key].abs().max() for key in toy_weights.LSTM) > 2.0**-14


def check_skipped_steps(kind, t, penalty, counts):
    """By the rule of test_lazy_updates.py, against float64; and with at most twice the error that the CPU's rule has.

    The second is the sharper one: over many steps replay is a hundred times further off. Both rules are the same sum of
    up to six terms, but the CPU (AVX-512) takes inverses by a step of Newton's iteration, an ulp off, and the GPU
    divides. From there on their roundings are others, and those of the sum are of the size of the way that a score has
    gone (500 for a penalty of 0.5 over 5,000 steps): several units of the score itself. So the two are as far from one
    another as from float64, and that a single rounding parts them holds only for short ways.
    """
    states = [part.astype(np.float32) for part in draw_states(t, penalty)]
    exact = replay_exactly(states, t, penalty, counts)
    quadrature, rivals = Rows("quadrature", penalty, kind=kind), [Rows("replay", penalty), Rows("quadrature", penalty)]
    for skipped in counts:
        fast = [part.cpu() for part in quadrature.after(states, t, skipped)]
        slow, theirs = (rival.after(states, t, skipped) for rival in rivals)  # the CPU's
        assert skipped < 12 or not same(fast, slow), "it has replayed"
        for i, (rest, roundings) in enumerate(((0, 1), (penalty, 2), (penalty**2, 2))):
            true = exact[skipped][0][i]
            floor = roundings * EPS / 2 * max(rest, *(np.max(abs(part)) for part in (states[i], true)))
            assert (errors(fast[i], true) <= np.maximum(errors(slow[i], true), floor)).all(), (skipped, i)
            assert (errors(fast[i], true) <= 2 * errors(theirs[i], true) + floor).all(), (skipped, i)

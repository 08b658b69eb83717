"""How far a trainer may be from the reference step, and runs that hold it to that."""

import types

import pytest
import torch

from seam_fast.training import reference_step

from .toy_data import cut
from .toy_weights import EMBEDDING, KEYS, single
from .trainer_kinds import put_state

HEAD = ("head weight", "head bias")
EPS = torch.finfo(torch.float32).eps


def errors(tensor, exact):
    """The error that 95 % of a tensor's values stay below, and the share of values above 1e-5.

    Where a gradient all but cancels, its sign is rounding, and Adam makes a whole step of it in one or the other
    direction: in any float32 implementation a few scores in a thousand are far off, each time others. They are counted
    and not measured.
    """
    error = (tensor.detach().double() - exact.detach()).abs().flatten()
    return error.kthvalue(max(1, int(0.95 * len(error)))).values.item(), (error > 1e-5).double().mean().item()


def assert_as_good(exact, plain, engine, where="", least=1):
    """After a step from the same state: the engine's scores and head may err twice as much as float32 plain PyTorch's.

    exact, plain: Steppers in float64 and float32. To that comes one rounding: eps times the largest score, since none
    is held more exactly. Tensors of fewer than `least` numbers are left out: one number may be right by chance.
    """
    scores, head = engine.full_scores()
    triples = [(key, exact.scores[key], plain.scores[key], scores[key]) for key in KEYS]
    triples += zip(HEAD, exact.head, plain.head, head, strict=True)
    for key, true, theirs, ours in triples:
        if true.numel() < least:
            continue
        allowed, allowed_share = errors(theirs, true)
        error, share = errors(ours, true)
        assert error <= 2 * allowed + EPS * max(1, true.abs().max().item()), f"{key}, {where}"
        assert share <= 2 * allowed_share + 0.01, f"{key}, {where}"


def largest_difference(trainer, scores, head):
    """Between a Stepper's or HandSeam's state and scores by key and a head."""
    pairs = [(score, scores[key]) for key, score in trainer.scores.items()] + list(zip(trainer.head, head, strict=True))
    return max(float((torch.as_tensor(a).detach() - torch.as_tensor(b).detach()).abs().max()) for a, b in pairs)


def follow(engine, stepper, epochs, batch_size, tolerance=1e-9):
    """Runs a trainer and a Stepper over epochs of `make_documents`; after each, all that they have must
    agree.

    In float32 the trainer begins each step at the Stepper's state, and may err as `assert_as_good` has it.
    """
    for epoch, documents in enumerate(epochs):
        head_only = engine.schedule == "seam" and epoch % 5 == 0
        batches = cut(documents, batch_size)
        if engine.weights[EMBEDDING].dtype == torch.float32:
            follow_in_float32([engine], stepper, batches, head_only)
            continue
        wanted = [stepper.step(*batch, head_only=head_only).cross_entropy for batch in batches]
        loss = engine.run_epoch(*documents, batch_size, head_only=head_only)
        assert loss == pytest.approx(sum(wanted) / len(wanted), abs=1e-10), f"epoch {epoch}"
        scores, head = engine.full_scores()
        assert largest_difference(stepper, scores, head) < tolerance, f"epoch {epoch}"
        counts = {key: int((score > 0).sum()) for key, score in stepper.scores.items()}
        assert engine.kept_counts() == counts


def plain_like(exact):
    """A Stepper in float32 with the settings of one in float64, at its beginning."""
    (alpha, penalty, lstm_penalty_scale, linear_penalty_scale), groups = exact.penalty, exact.adam_together.param_groups
    schedule = "port" if exact.adam_head is None else "joint"
    rates = {"lr_mask": groups[0]["lr"], "lr_head": groups[-1]["lr"]}
    options = {
        "alpha": alpha,
        "penalty": penalty,
        "lstm_penalty_scale": lstm_penalty_scale,
        "linear_penalty_scale": linear_penalty_scale,
        "schedule": schedule,
        "readout": exact.readout,
    }
    return reference_step.Stepper(*single(exact.weights, exact.head), **options, **rates)


def follow_in_float32(engines, exact, batches, head_only=False, beside=None):
    """A float64 Stepper goes from batch to batch; each step the engines begin at its state, rounded, and take by
    themselves. They may err twice as much as plain PyTorch in float32, and as `beside`, a trainer, where there is one.
    """
    for step, batch in enumerate(batches):
        plain = plain_like(exact)
        taken = [
            int(adam.state[tensor]["step"]) if adam and tensor in adam.state else 0
            for adam, tensor in ((exact.adam_together, exact.scores[EMBEDDING]), (exact.adam_head, exact.head[0]))
        ]
        trainers = [*engines, beside] if beside else engines
        for other in (plain, *trainers):
            put_state(exact, other, sum(taken), taken[1])
        wanted = exact.step(*batch, head_only=head_only).cross_entropy
        theirs = plain.step(*batch, head_only=head_only).cross_entropy
        ours = [engine.run_epoch(*batch, len(batch[0]), head_only=head_only) for engine in trainers]
        if beside:
            ours.pop()
            scores, head = beside.full_scores()
            yardstick = types.SimpleNamespace(scores=scores, head=head)
        for engine, loss in zip(engines, ours, strict=True):
            where = f"step {step} of {type(engine).__name__}"
            assert abs(loss - wanted) <= 2 * abs(theirs - wanted) + 16 * EPS * max(1, wanted), f"loss of {where}"
            assert_as_good(exact, plain, engine, where)
            if beside:
                assert_as_good(exact, yardstick, engine, f"{where}, beside the other", least=50)
            scores, _ = engine.full_scores()
            assert engine.kept_counts() == {key: int((score > 0).sum()) for key, score in scores.items()}
            assert engine.steps == sum(taken) + 1


def assert_same(one, other):
    """Two modules bit for bit, and all that their runs say of them but for the seconds."""
    assert one.target == other.target
    for key, score in one.scores.items():
        assert torch.equal(score, other.scores[key]), key
    assert all(torch.equal(a, b) for a, b in zip(one.head, other.head, strict=True))
    for figures, expected in zip(one.history, other.history, strict=True):
        assert figures | {"seconds": 0} == expected | {"seconds": 0}
    assert one.metrics == other.metrics

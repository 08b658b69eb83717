"""Every trainer: what is said of numbers that are not finite, where it stops, and what it shows."""

import functools
import math
import threading

import numpy as np
import pytest
import torch
from support import agreement, toy_data, toy_weights, trainer_kinds
from support.stop_events import StopsAfter
from support.toy_data import with_soft_labels
from support.trainer_kinds import OPTIONS

from seam_fast.classifier import reference_model
from seam_fast.errors import TrainingError
from seam_fast.training import cpu_trainer


@pytest.fixture(params=trainer_kinds.TRAINERS)
def make(request):
    """Makes a trainer of weights, head, words and options: each test runs with every kind."""
    return functools.partial(trainer_kinds.make_trainer, request.param)


# -- what is not finite -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(  # an infinity in the LSTM saturates a gate, which is finite and so allowed
    ("key", "bad"), [*((key, math.nan) for key in toy_weights.KEYS), *((key, math.inf) for key in toy_weights.LINEAR)]
)
@pytest.mark.parametrize("head_only", [False, True])
def test_a_base_that_is_not_finite_stops_with_the_step_named(make_pair, key, bad, head_only):
    weights = toy_weights.make_weights()
    if key == toy_weights.EMBEDDING:
        weights[key][5] = bad
    else:
        weights[key].view(-1)[0] = bad
    engine, _ = make_pair(weights, schedule="seam")
    good, poor = toy_data.make_documents(2, words=[1, 2]), toy_data.make_documents(2, words=[5])
    documents = tuple(torch.cat(parts) for parts in zip(good, poor, strict=True))
    number = 2 if key == toy_weights.EMBEDDING else 1
    with pytest.raises(TrainingError, match=f"step {number}"):
        engine.run_epoch(*documents, 2, head_only=head_only)
        engine.check_finite()


def test_a_gradient_that_overflows_names_its_tensor(make_pair):
    weights = toy_weights.make_weights(torch.float32)
    weights["lstm.bias_ih_l0"][-toy_weights.H :] = -70.0  # output gates nearly shut: states near 1e-31 ...
    weights["hidden2label.weight"].fill_(3e38)  # ... so that the loss is finite and the gradient of the states is not
    head = torch.tensor([[1.0] * toy_weights.C, [-1.0] * toy_weights.C]), torch.zeros(2)
    engine, _ = make_pair(weights, head)
    ids, lengths, _ = toy_data.make_documents(2)
    with pytest.raises(TrainingError, match=r"gradient of word_embeddings\.weight is not finite in step 1"):
        engine.run_epoch(ids, lengths, torch.tensor([1, 1]), 2)


@pytest.mark.parametrize("head_only", [False, True])
def test_a_gradient_of_the_head_that_overflows_names_it(make_pair, head_only):
    weights = toy_weights.make_weights(torch.float32, scale=0)
    weights["hidden2label.bias"].fill_(3e38)
    head = torch.zeros(2, toy_weights.C), torch.zeros(2)  # the loss is log 2 (ten times it, less nine times)
    engine, _ = make_pair(weights, head, schedule="seam")
    ids, lengths, _ = toy_data.make_documents(3)
    target_probability = torch.full((3,), 10.0)  # no probability: with one the gradient could not overflow
    with pytest.raises(TrainingError, match="gradient of head weight is not finite in step 1"):
        engine.run_epoch(ids, lengths, target_probability, 3, head_only=head_only)
    assert not engine.head[0].any() and all((score == 1).all() for score in engine.scores.values())


def test_after_an_error_all_is_as_it_was_before_the_step(make_pair):
    """Rows of words that did not occur of late, too; and training may go on from there."""
    engine, stepper = make_pair()
    stepper.weights = {key: weight.clone() for key, weight in stepper.weights.items()}
    engine.weights[toy_weights.EMBEDDING][7, 0] = math.nan
    ones = torch.ones(9, dtype=torch.int64)
    good = torch.tensor([1, 2, *[3] * 7])[:, None], ones, ones % 2
    poor = torch.tensor([*[3] * 8, 7])[:, None], ones, ones % 2
    agreement.follow(engine, stepper, [good], 1)
    with pytest.raises(TrainingError, match="the loss is nan in step 18"):
        engine.run_epoch(*poor, 1)
    assert engine.steps == 17
    for batch in toy_data.cut(poor, 1)[:8]:
        stepper.step(*batch)
    assert agreement.largest_difference(stepper, *engine.full_scores()) < 1e-12
    engine.weights[toy_weights.EMBEDDING][7, 0] = stepper.weights[toy_weights.EMBEDDING][7, 0]
    agreement.follow(engine, stepper, [good, good], 1)


@pytest.mark.parametrize("key", toy_weights.KEYS)
def test_a_score_that_is_not_a_number_is_dropped_and_found(make_pair, key):
    engine, stepper = make_pair(readout="last_word")
    with torch.no_grad():
        for trainer in (engine, stepper):
            trainer.scores[key].view(-1)[1] = math.nan
    trainer_kinds.load_state(engine)
    documents = toy_data.make_documents(12, words=[0, *range(2, 15)])
    wanted = [stepper.step(*batch).cross_entropy for batch in toy_data.cut(documents, 4)]
    assert engine.run_epoch(*documents, 4) == pytest.approx(sum(wanted) / 3, abs=1e-12)
    for name, score in engine.full_scores()[0].items():
        torch.testing.assert_close(score, stepper.scores[name].detach(), rtol=0, atol=1e-12, equal_nan=True)
    with pytest.raises(TrainingError, match=f"{key} .*step 3"):
        engine.check_finite()


@pytest.mark.parametrize("key", [*toy_weights.KEYS, *agreement.HEAD])
def test_check_finite_names_the_tensor(make_pair, key):
    engine, _ = make_pair()
    engine.run_epoch(*toy_data.make_documents(4), 2)
    engine.check_finite()
    engine.evaluate()
    tensor = dict(zip(agreement.HEAD, engine.head, strict=True)).get(key, engine.scores.get(key))
    with torch.no_grad():
        tensor.view(-1)[0] = math.nan  # not in the row for all other words, which is uniform
    trainer_kinds.load_state(engine, engine.steps)
    for evaluate in (engine.check_finite, engine.evaluate):
        with pytest.raises(TrainingError, match=f"{key} .*step 2"):
            evaluate()


# -- stopping and reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_only", [False, True])
def test_stop_ends_an_epoch_between_two_steps(make_pair, monkeypatch, head_only):
    monkeypatch.setattr(cpu_trainer, "_STEPS_AT_ONCE", 1)
    engine, stepper = make_pair(schedule="seam")
    documents = toy_data.make_documents(12)
    engine.run_epoch(*documents, 2, head_only=head_only, stop=StopsAfter(3))
    for batch in toy_data.cut(documents, 2)[:3]:
        stepper.step(*batch, head_only=head_only)
    assert engine.steps == 3
    assert agreement.largest_difference(stepper, *engine.full_scores()) < 1e-12

    stop = threading.Event()
    stop.set()
    assert engine.run_epoch(*documents, 2, head_only=head_only, stop=stop) == 0
    assert engine.steps == 3


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
def test_what_it_shows_is_what_the_reference_ops_show(make_pair, readout):
    engine, _ = make_pair(readout=readout, lr_mask=0.1)
    documents = toy_data.make_documents(12)
    for _ in range(4):
        engine.run_epoch(*documents, 4)
    scores, head = engine.full_scores()
    effective = engine.effective_weights()
    for key in toy_weights.KEYS:
        assert torch.equal(effective[key], engine.weights[key] * (scores[key] > 0))
    # Words without rows may be read, too.
    ids, lengths, _ = toy_data.make_documents(20, words=range(1, toy_weights.V), seed=9)
    logits = reference_model.head_logits(
        reference_model.class_logits(ids, lengths, engine.weights, scores, readout), head
    )
    shown = engine.logits(ids, lengths)
    assert not shown.requires_grad
    torch.testing.assert_close(shown, logits.detach(), rtol=0, atol=1e-12)


def test_an_evaluation_agrees_with_single_calls(make_pair):
    engine, _ = make_pair(schedule="joint", lr_mask=0.5)
    seen = set()
    for epoch in range(4):
        engine.run_epoch(*toy_data.make_documents(12, seed=epoch), 4)
        ids, lengths, _ = toy_data.make_documents(20, words=range(1, toy_weights.V), seed=9)
        evaluation, snapshot = engine.evaluate((ids, lengths)), trainer_kinds.parts_of(engine.snapshot())
        assert evaluation.kept_counts == engine.kept_counts() and list(evaluation.kept_counts) == list(toy_weights.KEYS)
        assert torch.equal(evaluation.class_logits, engine.class_logits(ids, lengths))
        assert all(torch.equal(part, other.cpu()) for part, other in zip(evaluation.head, engine.head, strict=True))
        assert torch.equal(evaluation.outputs, engine.logits(ids, lengths))
        found = trainer_kinds.parts_of(evaluation.snapshot())
        assert list(found) == list(snapshot)
        assert all(found[key].dtype == snapshot[key].dtype for key in found)
        assert all(torch.equal(found[key], snapshot[key]) for key in found)
        assert engine.evaluate().class_logits is None
        seen.add(sum(evaluation.kept_counts.values()))
    assert len(seen) > 1, "the run should have dropped some"


def test_a_snapshot_stays_as_it_was(make_pair):
    engine, _ = make_pair()
    documents = toy_data.make_documents(12)
    engine.run_epoch(*documents, 4)
    taken = engine.snapshot()
    snapshot, evaluated = trainer_kinds.parts_of(taken), trainer_kinds.parts_of(engine.evaluate().snapshot())
    copy = {key: value.clone() for key, value in snapshot.items()}
    engine.run_epoch(*documents, 4)
    engine.evaluate()
    assert all(torch.equal(snapshot[key], copy[key]) and torch.equal(evaluated[key], copy[key]) for key in copy)
    scores, head = taken.mask.scores(), taken.head
    assert {key: tuple(score.shape) for key, score in scores.items()} == {
        key: tuple(weight.shape) for key, weight in engine.weights.items()
    }
    assert not any(tensor.requires_grad for tensor in (*scores.values(), *head))


def test_base_head_and_documents_are_left_alone(make_pair):
    weights, head, documents = toy_weights.make_weights(), toy_weights.make_head(), toy_data.make_documents()
    before = [tensor.clone() for tensor in (*weights.values(), *head, *documents)]
    engine, _ = make_pair(weights, head, schedule="seam")
    for head_only in (True, False):
        engine.run_epoch(*documents, 4, head_only=head_only)
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights.values(), *head, *documents), strict=True))
    assert not any(weight.requires_grad for weight in weights.values())


def test_port_never_moves_the_head(make_pair):
    engine, _ = make_pair(schedule="port")
    engine.run_epoch(*toy_data.make_documents(), 4)
    assert all(torch.equal(a, b) for a, b in zip(engine.head, toy_weights.make_head(), strict=True))


def test_the_same_twice(make_pair):
    states = []
    for _ in range(2):
        engine, _ = make_pair(
            toy_weights.make_weights(torch.float32), toy_weights.make_head(torch.float32), schedule="seam"
        )
        for epoch in range(6):
            engine.run_epoch(*toy_data.make_documents(seed=epoch), 4, head_only=epoch % 5 == 0)
        states.append(trainer_kinds.parts_of(engine.snapshot()))
    assert all(np.array_equal(states[0][key].numpy(), states[1][key].numpy()) for key in states[0])


def test_labels_that_cannot_be_are_refused(make):
    engine, weighted = (
        make(toy_weights.make_weights(), toy_weights.make_head(), torch.arange(15), **OPTIONS, target_weight=weight)
        for weight in (1, 2)
    )
    documents = toy_data.make_documents()
    (ids, lengths, certain), (*_, soft) = documents, with_soft_labels(documents)
    for labels, says in (
        ((certain == 0).long() + 1, "labels must be 0, target, or 1, rest"),
        (torch.stack([soft, soft], 1), "add up to 1"),
        (soft[:, None], r"\(N, 2\), but are torch.float64 of shape \(13, 1\)"),
    ):
        with pytest.raises(ValueError, match=says):
            engine.run_epoch(ids, lengths, labels, 4)
    with pytest.raises(ValueError, match="cannot be combined with a target_weight, which is 2"):
        weighted.run_epoch(ids, lengths, soft, 4)


def test_seams_labels_are_taken_as_well(make):
    """Class numbers, 0 the target's, and probabilities of target and rest, by the same bits."""
    documents = toy_data.make_documents()
    (ids, lengths, certain), (*_, soft) = documents, with_soft_labels(documents)
    for probability, others in (
        (certain, ((1 - certain).long(), certain == 0, torch.stack([certain, 1 - certain], 1))),
        (soft, (torch.stack([soft, 1 - soft], 1),)),
    ):
        states = []
        for labels in (probability, *others):
            engine = make(toy_weights.make_weights(), toy_weights.make_head(), torch.arange(15), **OPTIONS)
            losses = [engine.run_epoch(ids, lengths, labels, 4, head_only=head_only) for head_only in (False, True)]
            scores, head = engine.full_scores()
            states.append([*scores.values(), *head, torch.tensor(losses)])
        for state in states[1:]:
            assert all(torch.equal(*pair) for pair in zip(state, states[0], strict=True))

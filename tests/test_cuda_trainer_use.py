"""The engine of a GPU, run on the CPU: what it refuses, what is said of numbers that are not finite, modules beside one
another, and the whole SEAM loop over it. Its numbers are in test_cuda_trainer.py.
"""

import functools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import toy_data, toy_weights, trainer_kinds
from support.bare_trainers import Bare
from support.compiled_trainer_checks import (
    check_a_moved_tensor_is_refused,
    check_an_epoch_of_nothing,
    check_target_weight,
)
from support.cuda_trainer_checks import assert_same_run, needs_ext, train, weights_and_head
from support.stop_events import StopsAfter
from support.trainer_kinds import OPTIONS, assert_same_bits, tensors
from test_cpu_trainer_use import (  # noqa: F401
    test_a_batch_of_any_size_is_all_there_is,
    test_a_trainer_is_not_made_of_what_does_not_fit,
    test_an_epoch_may_begin_before_the_last_was_flushed,
    test_documents_that_do_not_fit_are_refused_and_nothing_moves,
    test_features_that_do_not_fit_are_refused,
    test_more_steps_than_announced_are_refused,
    test_numbers_of_steps_that_cannot_be_are_refused,
    test_reading_what_does_not_fit_is_refused,
)
from test_trainer_state import (  # noqa: F401
    test_a_base_that_is_not_finite_stops_with_the_step_named,
    test_a_gradient_that_overflows_names_its_tensor,
    test_check_finite_names_the_tensor,
    test_labels_that_cannot_be_are_refused,
    test_seams_labels_are_taken_as_well,
)
from test_trainers import (  # noqa: F401
    test_a_word_outside_words_is_refused_and_nothing_moves,
    test_words_in_any_order_and_shape,
)

from seam_fast import reengineer
from seam_fast.errors import TrainingError
from seam_fast.search import context
from seam_fast.training import cuda_trainer
from seam_fast.training.cuda_trainer import CudaTrainer


@pytest.fixture
def make(unwatched, kind):
    return functools.partial(trainer_kinds.make_trainer, f"{kind}-quadrature")


@pytest.fixture
def bare(host_module):
    return Bare(host_module, torch.float32)


def build(kind, weights=None, head=None, words=15, **options):
    kind = kind if kind.endswith(trainer_kinds.LAZY_UPDATES) else f"{kind}-quadrature"
    weights, head = toy_weights.single(weights or toy_weights.make_weights(), head or toy_weights.make_head())
    return trainer_kinds.make_trainer(kind, weights, head, torch.arange(words), **OPTIONS | options)


# -- what is not finite -----------------------------------------------------------------------------------------------

EMBEDDING, (IH, HH, BIAS, _), (LINEAR, LINEAR_BIAS) = toy_weights.EMBEDDING, toy_weights.LSTM, toy_weights.LINEAR


def a_nan(key):
    def change(weights, head):
        weights[key][5 if key == EMBEDDING else 0] = math.nan

    return change


def an_infinity(key, value=math.inf):
    def change(weights, head):
        weights[key].view(-1)[0] = value

    return change


def wrong(head, size):
    """A head that takes every target document for one of the rest."""
    head[0].copy_(size * torch.tensor([[-1.0], [1.0]]).expand(2, toy_weights.C))
    head[1].zero_()


def first_weight_ih(weights, head):
    """W_ih is 0 and keeps words and states apart; its own gradient is that of the gates, times an embedding of 3e38."""
    weights[EMBEDDING].fill_(3e38)
    for key in (IH, HH):
        weights[key].zero_()
    weights[BIAS].fill_(1.0)
    weights[LINEAR].fill_(500.0)
    wrong(head, 1.0)


def first_of_recurrence(small):
    """Gradients of the cells near 2e38, at 90 places, each of another word; states a little above 0, or 0."""

    def change(weights, head):
        weights[EMBEDDING].fill_(1e-3)
        for key in toy_weights.LSTM:
            weights[key].zero_()
        weights[BIAS].fill_(8.0)  # gates open ...
        weights[BIAS][2 * toy_weights.H : 3 * toy_weights.H] = 0.0 if small else 5e-3  # ... but for what comes in
        weights[LINEAR].fill_(1e19)
        weights[LINEAR_BIAS].fill_(1.0)
        wrong(head, 6e18)

    return change


def first_of_linear(small):
    """Logits just above 0 whose gradients are 2e38, three documents of them; nothing goes on to the LSTM."""

    def change(weights, head):
        for key in (*toy_weights.LSTM, LINEAR):
            weights[key].zero_()
        weights[BIAS].fill_(4.0)
        if small:  # output gates are shut
            weights[BIAS][-toy_weights.H :] = -80.0
        weights[LINEAR_BIAS].fill_(2e-38)
        wrong(head, 3e38)

    return change


def first_of_head(weights, head):
    for weight in weights.values():
        weight.zero_()
    weights[LINEAR_BIAS].fill_(3e38)
    head[0].zero_()
    head[1].zero_()


BROKEN = {
    **{f"nan {key}": a_nan(key) for key in toy_weights.KEYS},
    **{f"inf {key}": an_infinity(key) for key in toy_weights.LINEAR},
    "-inf bias": an_infinity(LINEAR_BIAS, -math.inf),
    "loss of 3e38": lambda weights, head: (weights[LINEAR_BIAS].fill_(3e38), head[0].fill_(1e30)),
    "weight_ih": first_weight_ih,
    "weight_hh": first_of_recurrence(False),
    "bias": first_of_recurrence(True),
    "linear": first_of_linear(False),
    "linear bias": first_of_linear(True),
    "head": first_of_head,
}
NAMED = {"weight_ih": IH, "weight_hh": HH, "bias": BIAS, "linear": LINEAR, "linear bias": LINEAR_BIAS}
NAMED |= {"head": "head weight"}


def failing(kind, change, head_only=False, **options):
    """What an epoch of one good step, where words may tell, and three others says ("": nothing), and the trainer."""
    weights, head = toy_weights.single(
        toy_weights.make_weights(sizes=(100, toy_weights.E, toy_weights.H, toy_weights.C)), toy_weights.make_head()
    )
    change(weights, head)
    engine = build(kind, weights, head, 100, schedule="seam", **options)
    good, poor = toy_data.make_documents(3, words=[1, 2, 3]), toy_data.make_documents(9, words=[5, 6, 7])
    documents = [torch.cat(parts) for parts in zip(good[:2], poor[:2], strict=True)]
    if change in (BROKEN["weight_hh"], BROKEN["bias"]):
        documents = [torch.arange(90).reshape(3, 30), torch.full((3,), 30)]
    # No probability where the head's gradient is to overflow: with one it could not.
    target_probability = torch.full((len(documents[0]),), 10.0 if change is first_of_head else 1.0)
    try:
        engine.run_epoch(*documents, target_probability, 3, head_only=head_only)
        engine.check_finite()
    except TrainingError as error:
        return str(error), engine
    return "", engine


@needs_ext
@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_it_says_what_the_engine_of_the_cpu_says(kind, name, head_only):
    said, engine = failing(f"{kind}-quadrature", BROKEN[name], head_only)
    wanted, other = failing("cpu-quadrature", BROKEN[name], head_only)
    assert said == wanted and engine.steps == other.steps
    assert said or head_only, "something should have been found"
    if name in NAMED and not head_only:
        assert f"gradient of {NAMED[name]} is not finite in step 1" in said


def test_after_a_failure_it_is_refused_until_state_is_loaded(kind):
    """The state stands for nothing; another one is as good as a new trainer."""
    said, engine = failing(f"{kind}-replay", a_nan(EMBEDDING))
    assert said == "the loss is nan in step 2: a base weight or score is not finite" and engine.steps == 1
    documents = toy_data.make_documents(8, words=range(6, 15))
    for head_only in (False, True):
        with pytest.raises(ValueError, match="has failed; make a new one, or set its scores and call load_state"):
            engine.run_epoch(*documents, 3, head_only=head_only)
    assert engine.steps == 1
    fresh = build(f"{kind}-replay", engine.weights, toy_weights.make_head(), 100, schedule="seam")
    mine = tensors(engine)
    for name, part in tensors(fresh).items():
        mine[name].copy_(part)
    for trainer in (engine, fresh):
        trainer.load_state(0)
    for head_only in (False, True, False):
        losses = [trainer.run_epoch(*documents, 3, head_only=head_only) for trainer in (engine, fresh)]
        assert losses[0] == losses[1]
    assert_same_bits(engine, fresh)


def test_a_failure_in_a_later_launch(kind, monkeypatch):
    """Its losses and steps are those until then."""
    monkeypatch.setattr(cuda_trainer, "_STEPS_AT_ONCE", 2)
    said, engine = failing(f"{kind}-quadrature", a_nan(EMBEDDING))
    assert "step 2" in said and engine.steps == 1


@needs_ext
@pytest.mark.parametrize("key", toy_weights.KEYS)
def test_a_score_that_is_not_a_number_is_dropped_and_found(kind, key):
    """As on the CPU: its weight counts as 0, and it stays one."""
    outcomes = []
    for name in (kind, "cpu"):
        engine = build(name, readout="last_word")
        engine.scores[key].view(-1)[1] = math.nan
        engine.load_state(0)
        loss = engine.run_epoch(*toy_data.make_documents(12, words=[0, *range(2, 15)]), 4)
        with pytest.raises(TrainingError, match=f"{key} .*step 3"):
            engine.check_finite()
        outcomes.append((loss, engine.full_scores()[0]))
    (loss, ours), (wanted, theirs) = outcomes
    assert loss == pytest.approx(wanted, abs=1e-6)
    for name, score in ours.items():
        torch.testing.assert_close(score, theirs[name], rtol=0, atol=1e-4, equal_nan=True)


# -- the head alone ---------------------------------------------------------------------------------------------------


@needs_ext
@pytest.mark.parametrize("target_weight", [1.0, 3.0])
@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (7, 6), (40, 40), (3, 256)])
def test_epochs_of_the_head_alone(kind, batch, classes, target_weight):
    """Its steps are those of the CPU's engine but for rounding, and scores stand still."""
    engines = []
    for name in (kind, "cpu"):
        weights, head = weights_and_head((23, 4, 3, classes))
        engine = build(name, weights, head, schedule="seam", target_weight=target_weight)
        losses = [engine.run_epoch(*toy_data.make_documents(23, seed=seed), batch, head_only=True) for seed in range(3)]
        assert all((score == 1).all() for score in engine.scores.values()) and engine.steps == 3 * -(-23 // batch)
        engines.append((engine, losses))
    (ours, losses), (theirs, wanted) = engines
    assert losses == pytest.approx(wanted, abs=1e-6)
    for part, other in zip(
        (*ours.head, *ours.head_only_moments), (*theirs.head, *theirs.head_only_moments), strict=True
    ):
        torch.testing.assert_close(part.cpu(), other, rtol=1e-4, atol=1e-5)
    assert not any(part.any() for part in ours.head_joint_moments)


@pytest.mark.parametrize("schedule", ["seam", "joint"])
def test_target_weight_is_as_good_as_that_many_copies(kind, schedule):
    check_target_weight(build(kind, target_weight=3.0, schedule=schedule), build(kind, schedule=schedule))


def test_port_never_moves_the_head(kind):
    engine, other = build(kind, schedule="port"), build(kind)
    engine.run_epoch(*toy_data.make_documents(), 4)
    assert all(torch.equal(*pair) for pair in zip(engine.head, other.head, strict=True))


# -- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "clusters", "text"),
    [
        ((9, 4, 3, 257), True, "takes bases of up to 256 classes, but this one has 257"),
        ((9, 4, 129, 5), True, r"up to 128 hidden units \(64 where blocks form no clusters\), but this one has 129"),
        ((9, 4, 65, 5), False, r"up to 128 hidden units \(64 where blocks form no clusters\), but this one has 65"),
    ],
)
def test_bases_that_are_too_large(host_module, sizes, clusters, text):
    host_module.pretend(4, clusters, False)
    weights, head = weights_and_head(sizes)
    with pytest.raises(ValueError, match=text):
        trainer_kinds.build(trainer_kinds.HostTrainer, *toy_weights.single(weights, head), torch.arange(9), **OPTIONS)
    table = toy_weights.single(weights, head)[0][EMBEDDING]
    assert host_module.modules_at_once(table, 64, 5) > 0
    assert (host_module.modules_at_once(table, sizes[2], 5) > 0) == (sizes[2] == 3)


def test_the_same_limits_are_known_before(monkeypatch):
    monkeypatch.setattr(cuda_trainer, "supported_gpus", lambda: [0, 1])
    monkeypatch.setattr(cuda_trainer, "has_clusters", lambda index: index == 1)
    for sizes, why in (
        ((9, 4, 128, 256), ""),
        ((9, 4, 129, 5), "the base has 129 hidden units, more than 128"),
        ((9, 4, 64, 257), "the base has 257 classes, more than 256"),
    ):
        assert CudaTrainer.unsupported(toy_weights.make_weights(torch.float32, sizes=sizes), 5) == why
    assert "not float32" in CudaTrainer.unsupported(toy_weights.make_weights(), 5)
    assert "more than one LSTM layer" in CudaTrainer.unsupported(toy_weights.make_deep_weights(2, False), 5)
    wide = toy_weights.make_weights(torch.float32, sizes=(9, 300, 128, 5))
    assert CudaTrainer.unsupported(wide, 256) == ""
    assert "257 documents to a step" in CudaTrainer.unsupported(wide, 257)
    assert CudaTrainer.unsupported(hidden_units(64), 2048) == ""
    assert "more than the 2048" in CudaTrainer.unsupported(hidden_units(64), 2049)
    monkeypatch.setattr(cuda_trainer, "has_clusters", lambda index: False)
    assert "65 hidden units, more than the 64" in CudaTrainer.unsupported(hidden_units(65), 5)
    assert CudaTrainer.unsupported(hidden_units(64), 5) == ""


def hidden_units(count):
    return toy_weights.make_weights(torch.float32, sizes=(9, 4, count, 5))


def test_batches_that_are_too_large_for_a_launch(kind):
    weights, head = weights_and_head((3, 1, 128, 1))
    engine, count = build(kind, weights, head, words=3)._native, 1 << 21
    engine.begin_epoch(0.1, 0.1, 1)
    documents = torch.zeros(count, 1, dtype=torch.int32), torch.ones(count).long(), torch.ones(count)
    with pytest.raises(ValueError, match=f"batches of {count} documents of 1 words are too large for one launch"):
        engine.train(*documents, count, 0, count)
    assert engine.steps == 0


def test_an_epoch_of_nothing(kind):
    check_an_epoch_of_nothing(build(kind, schedule="seam"))


def test_a_base_of_float64_is_refused(host_module):
    with pytest.raises(TypeError, match="must be float32, but are Double"):
        trainer_kinds.build(
            trainer_kinds.HostTrainer, toy_weights.make_weights(), toy_weights.make_head(), torch.arange(5), **OPTIONS
        )


# -- beside others ----------------------------------------------------------------------------------------------------


def test_modules_beside_one_another_are_as_alone(kind, unwatched):
    settings = [{}, {"batch_size": 1, "schedule": "joint"}, {"readout": "last_word", "target_weight": 2.0}, {}]
    alone = [train(f"{kind}-quadrature", **options) for options in settings]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda options: train(f"{kind}-quadrature", **options), settings))
    for one, other in zip(alone, beside, strict=True):
        assert_same_run(one, other)


def test_one_thread_at_a_time(kind, unwatched):
    """A second thread is refused while the first one trains, and disturbs nothing."""

    class Begun(threading.Event):
        def is_set(self):
            self.set()
            return False

    documents = tuple(part.repeat(30, *[1] * (part.ndim - 1)) for part in toy_data.make_documents())
    alone, engine, begun = build(kind), build(kind), Begun()
    alone.run_epoch(*documents, 2)
    worker = threading.Thread(target=engine.run_epoch, args=(*documents, 2), kwargs={"stop": begun})
    worker.start()
    threading.Event.wait(begun, 10)
    time.sleep(0.05)  # the launch takes ten times as long
    assert engine.steps == 0, "any thread may ask"
    with pytest.raises(ValueError, match="one thread at a time"):
        engine._native.flush()
    worker.join()
    assert engine.steps > 100
    assert_same_bits(alone, engine)


@pytest.mark.parametrize("change", ["resize", "move"])
def test_a_tensor_that_is_no_longer_where_it_was_is_refused(kind, change):
    check_a_moved_tensor_is_refused(build(kind), change)


@pytest.mark.parametrize("head_only", [False, True])
def test_stop_ends_an_epoch_between_two_launches(kind, monkeypatch, head_only):
    monkeypatch.setattr(cuda_trainer, "_STEPS_AT_ONCE", 2)
    documents = toy_data.make_documents(12)
    engine, other = build(kind, schedule="seam"), build(kind, schedule="seam")
    loss = engine.run_epoch(*documents, 2, head_only=head_only, stop=StopsAfter(2))
    assert loss == other.run_epoch(*(part[:8] for part in documents), 2, head_only=head_only) and engine.steps == 4
    assert_same_bits(engine, other)
    stop = threading.Event()
    stop.set()
    assert engine.run_epoch(*documents, 2, head_only=head_only, stop=stop) == 0 and engine.steps == 4


# -- the whole loop ---------------------------------------------------------------------------------------------------


QUICK = {"epochs": 4, "batch_size": 8, "lr_mask": 0.05}


@needs_ext
@pytest.mark.parametrize(
    "options", [{}, {"protocol": "reference", "schedule": "seam", "lazy_update": "replay"}], ids=str
)
def test_the_loop_ends_where_it_ends_on_the_cpu(toy, toy_base, on_host, options):
    """For two modules side by side: the same but for rounding, and what was kept in all but a few places."""
    runs = [reengineer(toy_base, toy, [0, (1, 3)], backend=name, **QUICK | options) for name in ("cuda", "cpu")]
    assert on_host == [options.get("lazy_update", "quadrature")] * 2
    total = sum(weight.numel() for weight in toy_base.weights().values())
    for ours, theirs in zip(*runs, strict=True):
        assert ours.card["engine"] == "cuda" and ours.card["steps"] == theirs.card["steps"]
        assert ours.card["best_epoch"] == theirs.card["best_epoch"]
        assert len(ours.history) == len(theirs.history) == 4
        for one, other in zip(ours.history, theirs.history, strict=True):
            assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], abs=1e-4)
            assert one["kept"] == pytest.approx(other["kept"], abs=0.01)
        differing = sum(int(((ours.scores[key] > 0) != (theirs.scores[key] > 0)).sum()) for key in toy_weights.KEYS)
        assert differing <= 0.01 * total
    again = reengineer(toy_base, toy, [0, (1, 3)], backend="cuda", threads=1, **QUICK | options)
    for one, other in zip(runs[0], again, strict=True):
        assert all(torch.equal(one.scores[key], other.scores[key]) for key in toy_weights.KEYS)
        assert all(torch.equal(*pair) for pair in zip(one.head, other.head, strict=True))


def test_an_error_in_the_loop_names_target_and_epoch(toy, toy_base, on_host, monkeypatch):
    monkeypatch.setattr(context, "copied_to", lambda device, weights: weights)
    base = type(toy_base)(toy.vocab_size, 6, 5, toy.num_classes, readout=toy_base.readout)
    with torch.no_grad():
        for weight in base.weights().values():
            weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"epoch 0: the loss is nan in step 1: a base weight or score"):
        reengineer(base, toy, [1], backend="cuda", evaluate_every=0, **QUICK)

"""The trainer of ordinary GPU kernels, on the CPU: the same sequence of operations, with and without a stand-in for the
CUDA graph that replays it.
"""

import functools
import gc
import math
import threading
import types
import weakref

import pytest
import torch
from support import agreement, gpu_stand_in, toy_data, toy_weights, trainer_kinds
from support.fake_gpus import GPU, FakeCuda, Watch
from support.stop_events import StopsAfter
from support.toy_data import with_soft_labels
from support.trainer_kinds import OPTIONS

# What every trainer is held to: with the fixture `make` below, these tests are run with this one.
from test_trainer_state import (  # noqa: F401
    test_a_base_that_is_not_finite_stops_with_the_step_named,
    test_a_gradient_of_the_head_that_overflows_names_it,
    test_a_gradient_that_overflows_names_its_tensor,
    test_a_score_that_is_not_a_number_is_dropped_and_found,
    test_a_snapshot_stays_as_it_was,
    test_after_an_error_all_is_as_it_was_before_the_step,
    test_an_evaluation_agrees_with_single_calls,
    test_base_head_and_documents_are_left_alone,
    test_check_finite_names_the_tensor,
    test_labels_that_cannot_be_are_refused,
    test_port_never_moves_the_head,
    test_the_same_twice,
    test_what_it_shows_is_what_the_reference_ops_show,
)
from test_trainers import (  # noqa: F401
    test_a_class_that_is_dropped_whole,
    test_a_score_of_exactly_0_is_dropped,
    test_a_word_outside_words_is_refused_and_nothing_moves,
    test_active_clamps,
    test_documents_of_one_repeated_word,
    test_documents_of_one_word_only,
    test_float32_stays_near,
    test_follows_the_reference_step,
    test_id_0_as_padding_and_as_a_word,
    test_kept_counts_are_those_of_the_full_scores,
    test_large_learning_rate_of_the_head_and_large_alpha,
    test_learning_rates_that_fall,
    test_loss_of_an_epoch_is_the_mean_over_batches,
    test_never_fed_words_share_the_dense_trajectory,
    test_one_document_a_step,
    test_rows_of_padding_words_get_the_penalty_alone,
    test_six_epochs_by_hand,
    test_soft_labels_and_a_heavier_lstm_penalty,
    test_target_weight_by_hand,
    test_target_weight_is_as_good_as_that_many_copies,
    test_when_an_absent_word_drops_out_in_float32,
    test_words_in_any_order_and_shape,
)

from seam_fast.classifier import inference, reference_model
from seam_fast.common import cuda_graphs
from seam_fast.common.cuda_graphs import CudaGraphRunner
from seam_fast.errors import BackendError, TrainingError
from seam_fast.training import cuda_graph_trainer, graph_inputs, reference_step
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer
from seam_fast.training.torch_trainer import TorchTrainer

SHAPES = ((1, False), *toy_weights.DEEP)


@pytest.fixture
def make():
    return functools.partial(trainer_kinds.build, CudaGraphTrainer)


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch):
    """How many steps are taken at once must not depend on how busy the machine is."""
    monkeypatch.setattr(cuda_graph_trainer, "_SECONDS_AT_ONCE", 1e9)


def deep(shape, trainer=CudaGraphTrainer, dtype=torch.float64, **options):
    weights, head = toy_weights.make_deep_weights(*shape, dtype=dtype), toy_weights.make_head(dtype)
    return trainer_kinds.build(trainer, weights, head, torch.arange(15), **OPTIONS | options)


def state(engine):
    scores, head = engine.full_scores()
    return [*scores.values(), *head]


def assert_same(some, others):
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# -- the same as other trainers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("shape", SHAPES)
def test_follows_the_reference_step_for_every_shape(shape, readout, backend):
    engine = deep(shape, readout=readout, backend=backend, schedule="seam", penalty="group")
    weights, head = toy_weights.make_deep_weights(*shape), toy_weights.make_head()
    stepper = reference_step.Stepper(
        weights, head, **OPTIONS | {"readout": readout, "schedule": "seam", "penalty": "group"}
    )
    agreement.follow(engine, stepper, [toy_data.make_documents(13, seed=epoch) for epoch in range(7)], 4)
    assert engine.steps == 28


READOUTS = ("last_position", "last_word")
# Every two of the four values.
PLAIN = [
    (shape, READOUTS[(i + j) % 2], schedule, ("hard", "weighted", "soft")[(i + j) % 3])
    for i, shape in enumerate(SHAPES)
    for j, schedule in enumerate(("seam", "port", "joint"))
]


@pytest.mark.parametrize(("shape", "readout", "schedule", "labels"), PLAIN)
def test_agrees_with_plain_pytorch(shape, readout, schedule, labels):
    """Epochs of many sizes: the last batch smaller, one batch larger than the documents, none at all, falling rates."""
    options = {"schedule": schedule, "readout": readout, "target_weight": 3.0 if labels == "weighted" else 1.0}
    ours, theirs = (deep(shape, trainer, **options) for trainer in (CudaGraphTrainer, TorchTrainer))
    for epoch, count in enumerate((13, 9, 3, 0, 8, 13)):
        documents = toy_data.make_documents(count, seed=epoch)
        documents = with_soft_labels(documents) if labels == "soft" else documents
        losses = []
        for engine in (ours, theirs):
            engine.scale_learning_rates(1 - 0.1 * epoch)
            losses.append(engine.run_epoch(*documents, 4, head_only=schedule == "seam" and epoch % 4 == 0))
        assert losses[0] == pytest.approx(losses[1], abs=1e-11)
    assert ours.steps == theirs.steps == 14
    for a, b in zip(state(ours), state(theirs), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-10)
    documents = toy_data.make_documents(20, words=range(toy_weights.V), seed=9)[:2]
    torch.testing.assert_close(ours.logits(*documents), theirs.logits(*documents).detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.class_logits(*documents), theirs.class_logits(*documents), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_is_never_seen(shape):
    """Other and wider padding, even a word of its own without a row, changes nothing but roundings."""
    ids, lengths, target_probability = toy_data.make_documents(12)
    lengths = lengths.clamp(max=5)
    wide = torch.cat([ids, torch.full((12, 9), 7)], 1)
    wide[torch.arange(16) >= lengths[:, None]] = 20
    states = []
    for documents in (ids, wide):
        engine = deep(shape, readout="last_word")
        for _ in range(4):
            engine.run_epoch(documents, lengths, target_probability, 5)
        states.append([*state(engine), engine.logits(documents, lengths)])
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
def test_as_good_as_plain_pytorch_in_float32(readout):
    """Single steps from the state of a float64 run, by the tolerance rule; some of the head alone."""
    sizes = (40, 6, 5, 5)
    weights, head = toy_weights.make_weights(sizes=sizes), toy_weights.make_head()
    single = {key: weight.float() for key, weight in weights.items()}, tuple(part.float() for part in head)
    options = OPTIONS | {"readout": readout, "schedule": "seam"}
    exact, taken = reference_step.Stepper(weights, head, **options), [0, 0]
    batches = [batch for seed in range(4) for batch in toy_data.cut(toy_data.make_documents(9, seed=seed), 4)]
    for step, batch in enumerate(batches):
        plain = reference_step.Stepper(*single, **options)
        engine = trainer_kinds.build(CudaGraphTrainer, *single, torch.arange(sizes[0]), **options)
        for other in (plain, engine):
            trainer_kinds.put_state(exact, other, step, taken[1])
        head_only = step % 5 == 0
        wanted, theirs = (stepper.step(*batch, head_only=head_only).cross_entropy for stepper in (exact, plain))
        ours = engine.run_epoch(*batch, 4, head_only=head_only)
        taken[head_only] += 1
        assert abs(ours - wanted) <= 2 * abs(theirs - wanted) + 16 * agreement.EPS * max(1, wanted), (
            f"loss of step {step}"
        )
        agreement.assert_as_good(exact, plain, engine, f"step {step}")


@pytest.mark.parametrize(("shape", "readout"), [((1, False), "last_word"), ((2, True), "last_position")])
def test_with_the_cuda_kernels_in_their_meaning_on_the_cpu(monkeypatch, shape, readout):
    wanted = deep(shape, TorchTrainer, torch.float64, readout=readout)
    gpu_stand_in.use_cuda_host(monkeypatch)
    engine = deep(shape, readout=readout)
    documents = toy_data.make_documents(5)
    for _ in range(2):
        assert engine.run_epoch(*documents, 3) == pytest.approx(wanted.run_epoch(*documents, 3), abs=1e-10)
    for a, b in zip(state(engine), state(wanted), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-10)
    logits = wanted.class_logits(*documents[:2])
    torch.testing.assert_close(engine.class_logits(*documents[:2]), logits, rtol=0, atol=1e-10)


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"float32 and float64, but this one is torch\.bfloat16"):
        deep((1, False), dtype=torch.bfloat16)
    with pytest.raises(BackendError, match="unknown"):
        deep((1, False), backend="tpu")


# -- in pieces, beside others, again ----------------------------------------------------------------------------------


def run(shape=(2, True), epochs=6, dtype=torch.float32):
    engine, losses = deep(shape, dtype=dtype, schedule="seam", readout="last_word"), []
    for epoch in range(epochs):
        documents = toy_data.make_documents(25, seed=epoch)
        losses.append(engine.run_epoch(*documents, 4, head_only=epoch % 5 == 0))
    return [torch.tensor(losses), *state(engine)]


def test_bits_depend_neither_on_pieces_nor_on_time(monkeypatch):
    wanted = run()
    monkeypatch.setattr(cuda_graph_trainer, "_STEPS_AT_ONCE", 3)
    assert_same(run(), wanted)
    monkeypatch.setattr(cuda_graph_trainer, "_SECONDS_AT_ONCE", 0.0)  # one by one
    monkeypatch.setattr(graph_inputs, "_STEPS_AT_FIRST", 1)
    assert_same(run(), wanted)


def test_bits_do_not_depend_on_trainers_beside():
    found, start = [None] * 4, threading.Barrier(4)

    def work(place, shape):
        start.wait()
        found[place] = run(shape)

    shapes = [(2, True), (2, True), (1, False), (2, False)]
    threads = [threading.Thread(target=work, args=each) for each in enumerate(shapes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for shape, states in zip(shapes, found, strict=True):
        assert_same(states, run(shape))


@pytest.mark.parametrize("head_only", [False, True])
def test_stop_ends_an_epoch_between_two_pieces(monkeypatch, head_only):
    monkeypatch.setattr(cuda_graph_trainer, "_STEPS_AT_ONCE", 2)
    engine = deep((1, True), schedule="seam")
    stepper = reference_step.Stepper(
        toy_weights.make_deep_weights(1, True), toy_weights.make_head(), **OPTIONS | {"schedule": "seam"}
    )
    documents = toy_data.make_documents(12)
    loss = engine.run_epoch(*documents, 2, head_only=head_only, stop=StopsAfter(2))
    wanted = [stepper.step(*batch, head_only=head_only).cross_entropy for batch in toy_data.cut(documents, 2)[:4]]
    assert loss == pytest.approx(sum(wanted) / 4, abs=1e-12) and engine.steps == 4
    assert agreement.largest_difference(stepper, *engine.full_scores()) < 1e-12
    stop = threading.Event()
    stop.set()
    assert engine.run_epoch(*documents, 2, head_only=head_only, stop=stop) == 0 and engine.steps == 4


def test_its_memory_is_free_as_soon_as_nobody_holds_it():
    """Without the garbage collector, which does not know how much lies on a GPU."""
    engine = deep((2, True), schedule="seam")
    for head_only in (False, True):
        engine.run_epoch(*toy_data.make_documents(5), 2, head_only=head_only)
    seen = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert seen() is None
    finally:
        gc.enable()


# -- what is not finite -----------------------------------------------------------------------------------------------


def test_steps_after_one_that_failed_change_nothing(monkeypatch):
    """They are on their way when the host learns of it."""
    engine = deep((2, True), readout="last_word")
    engine.weights[toy_weights.EMBEDDING][7, 0] = math.nan
    ids, lengths, target_probability = toy_data.make_documents(12, words=range(1, 7))
    ids[6, 0] = 7
    calls = []
    step = engine._joint_step
    monkeypatch.setattr(engine, "_joint_step", lambda feed: (step(feed), calls.append(feed)))
    with pytest.raises(TrainingError, match="the loss is nan in step 4"):
        engine.run_epoch(ids, lengths, target_probability, 2)
    assert len(calls) == 6 and engine.steps == 3
    wanted = deep((2, True), readout="last_word")
    wanted.run_epoch(ids[:6], lengths[:6], target_probability[:6], 2)
    assert_same(state(engine), state(wanted))
    for ours, theirs in ((engine.exp_avg, wanted.exp_avg), (engine.exp_avg_sq, wanted.exp_avg_sq)):
        assert_same(ours.values(), theirs.values())
    assert_same(engine.head_joint_moments, wanted.head_joint_moments)
    engine.run_epoch(ids[:6], lengths[:6], target_probability[:6], 2)
    wanted.run_epoch(ids[:6], lengths[:6], target_probability[:6], 2)
    assert engine.steps == 6
    assert_same(state(engine), state(wanted))


class Spoiled(torch.autograd.Function):
    """Passes a tensor on and makes its gradient infinite."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, math.inf)


@pytest.mark.parametrize("number", range(9))
def test_the_first_gradient_that_is_not_finite_is_named(monkeypatch, number):
    """All from one on are spoiled, in the order of the weights; the loss stays finite."""
    engine = deep((1, False))
    state_of, linear = engine._state, torch.nn.functional.linear
    names = (*engine.weights, *agreement.HEAD)

    def spoil(tensor, at):
        return Spoiled.apply(tensor) if at >= number else tensor

    def spoiled_state(embedded, lengths, scores):
        return state_of(spoil(embedded, 0), lengths, [spoil(score, at) for at, score in enumerate(scores, 1)])

    def spoiled_linear(input, weight, bias):
        first = 5 if len(weight) == toy_weights.C else 7  # the base's or the head's
        return linear(input, spoil(weight, first), spoil(bias, first + 1))

    monkeypatch.setattr(engine, "_state", spoiled_state)
    monkeypatch.setattr(torch.nn.functional, "linear", spoiled_linear)
    with pytest.raises(TrainingError, match=f"gradient of {names[number]} is not finite in step 1"):
        engine.run_epoch(*toy_data.make_documents(6), 3)
    assert engine.steps == 0 and all((score == 1).all() for score in engine.scores.values())


def test_constants_that_change_nothing_do_change_nothing():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        score, first, second, gradient = torch.randn(4, 1000, generator=generator, dtype=dtype)
        second = second.abs()
        second[:3] = torch.tensor([0.0, math.inf, 1e-45])
        before = [tensor.clone() for tensor in (score, first, second)]
        cuda_graph_trainer._adam(score, first, second, gradient, 0.1, *score.new_tensor([0, 1, 0, 0, 1]))
        assert_same((score, first, second), before)


# -- nothing crosses ------------------------------------------------------------------------------------------------


# Every two of the four values.
SEQUENCES = [
    (shape, readout, (i // 2 + j) % 2 == 1, ("auto", "torch")[(i + j) % 2])
    for i, shape in enumerate(SHAPES)
    for j, readout in enumerate(READOUTS)
]


@pytest.mark.parametrize(("shape", "readout", "head_only", "backend"), SEQUENCES)
def test_every_step_is_the_same_sequence_and_waits_for_nothing(monkeypatch, shape, readout, head_only, backend):
    """Also the smaller last one, and one in which something is not finite."""
    engine = deep(shape, readout=readout, backend=backend, schedule="seam")
    name, logs = "_head_step" if head_only else "_joint_step", []
    step = getattr(engine, name)

    def watched(feed):
        with Watch() as watch:
            step(feed)
        logs.append(watch.log)

    monkeypatch.setattr(engine, name, watched)
    documents = toy_data.make_documents(9)
    engine.run_epoch(*documents, 4, head_only=head_only)
    engine.weights[toy_weights.LINEAR[0]][:] = math.nan
    with pytest.raises(TrainingError, match="step 4"):
        engine.run_epoch(*toy_data.make_documents(9, seed=5), 4, head_only=head_only)
    assert len(logs) == 6 and all(log == logs[0] for log in logs)


def test_documents_that_come_again_are_on_the_device_already(monkeypatch):
    engine = deep((2, True), readout="last_word")
    placed = []
    monkeypatch.setattr(
        engine, "_to_device", lambda *parts: placed.append(parts) or CudaGraphTrainer._to_device(engine, *parts)
    )
    ids, lengths, target_probability = toy_data.make_documents(20)
    for _ in range(3):
        logits = engine.class_logits(ids, lengths)
        assert logits.device.type == "cpu"
        torch.testing.assert_close(
            engine.logits(ids, lengths), reference_model.head_logits(logits, engine.head), rtol=0, atol=0
        )
        engine.run_epoch(ids, lengths, target_probability, 4)
    assert len(placed) == 1
    engine.class_logits(ids[:9], lengths[:9])
    assert len(placed) == 2 and len(engine.class_logits(ids, lengths)) == 20


def test_documents_are_read_in_chunks(monkeypatch):
    """Those of like length together; none at all gives none."""
    monkeypatch.setattr(inference, "BATCH", 3)
    engine, theirs = (deep((2, True), trainer, readout="last_word") for trainer in (CudaGraphTrainer, TorchTrainer))
    ids, lengths, _ = toy_data.make_documents(20)
    chunks, _ = engine._to_device(ids, lengths)
    assert [len(words) for words, _ in chunks] == sorted(int(most.max()) for _, most in chunks)
    torch.testing.assert_close(engine.class_logits(ids, lengths), theirs.class_logits(ids, lengths), rtol=0, atol=1e-12)
    assert engine.logits(ids[:0], lengths[:0]).shape == (0, 2)


def test_documents_that_have_changed_are_read_anew():
    engine, theirs = (deep((1, False), trainer) for trainer in (CudaGraphTrainer, TorchTrainer))
    ids, lengths, _ = toy_data.make_documents(6)
    before = engine.class_logits(ids, lengths)
    assert torch.equal(engine.class_logits(ids, lengths), before)
    ids[0] = 14 - ids[0]
    after = engine.class_logits(ids, lengths)
    torch.testing.assert_close(after, theirs.class_logits(ids, lengths), rtol=0, atol=1e-12)
    assert not torch.equal(after, before)


def test_a_head_only_epoch_reads_the_base_once(monkeypatch):
    engine = deep((1, False), schedule="seam")
    calls, lstm = [], engine._masked_lstm
    monkeypatch.setattr(engine, "_masked_lstm", lambda *args, **kwargs: calls.append(args) or lstm(*args, **kwargs))
    engine.run_epoch(*toy_data.make_documents(25), 4, head_only=True)
    assert len(calls) == 1


# -- graphs -----------------------------------------------------------------------------------------------------------


def test_a_trainer_whose_steps_are_replayed(monkeypatch):
    """The stand-in for a graph does again what was recorded. Epochs of fewer steps use the graph that there is."""
    wanted = run()
    FakeCuda(monkeypatch)
    recorded = []

    def record(function):
        recorded.append(function)
        return types.SimpleNamespace(replay=function)

    monkeypatch.setattr(cuda_graphs, "_record", record)
    monkeypatch.setattr(graph_inputs, "CudaGraphRunner", lambda device: CudaGraphRunner(GPU))
    assert_same(run(), wanted)
    assert len(recorded) == 2, "joint steps, and those of the head alone"

    recorded.clear()
    engine, plain = deep((1, True)), deep((1, True), TorchTrainer)
    for count in (20, 12, 3, 20, 24):  # the third epoch has one step of 3, the last one six of 4
        documents = toy_data.make_documents(count, seed=count)
        assert engine.run_epoch(*documents, 4) == pytest.approx(plain.run_epoch(*documents, 4), abs=1e-11)
    assert len(recorded) == 3, "for at most 5 steps of 4, again after those of 3, and for 6"

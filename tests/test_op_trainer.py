"""Bases with several LSTM layers or both directions: their trainers against the reference step, and the whole way."""

import functools
import itertools
import math
import threading

import pytest
import torch
from support import agreement, by_hand, toy_data, toy_weights, trainer_kinds
from support.agreement import follow
from support.toy_data import with_soft_labels
from support.trainer_kinds import OPTIONS

import seam_fast
from seam_fast import LSTMClassifier, SeamModule
from seam_fast.classifier import reference_model
from seam_fast.errors import TrainingError
from seam_fast.training import reference_step
from seam_fast.training.op_trainer import OpTrainer
from seam_fast.training.torch_trainer import TorchTrainer

SHAPES = ((1, False), *toy_weights.DEEP)


def make_pair(shape, dtype=torch.float64, trainer=OpTrainer, words=range(15), weights=None, head=None, **options):
    """A trainer and a Stepper that begin alike; what the latter does not know is the trainer's alone."""
    weights = weights or toy_weights.make_deep_weights(*shape, dtype=dtype)
    head, options = head or toy_weights.make_head(dtype), OPTIONS | options
    known = {name: value for name, value in options.items() if name not in ("backend", "target_weight")}
    engine = trainer_kinds.build(trainer, weights, head, torch.tensor(list(words)), **options)
    return engine, reference_step.Stepper(weights, head, **known)


def epochs(count, documents=13):
    return [toy_data.make_documents(documents, seed=epoch) for epoch in range(count)]


# -- the same as the Stepper ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("shape", SHAPES)
def test_follows_the_reference_step(shape, readout):
    engine, stepper = make_pair(shape, readout=readout)
    assert list(engine.scores) == list(stepper.scores)
    follow(engine, stepper, epochs(10), 4)  # 4 steps an epoch, the last of one document
    kept = sum(engine.kept_counts().values()) / sum(weight.numel() for weight in engine.weights.values())
    assert 0.05 < kept < 0.95, "the run should have dropped some and kept some"
    assert engine.steps == 40


@pytest.mark.parametrize(
    ("schedule", "penalty"), list(itertools.product(("seam", "port", "joint"), ("global", "group")))
)
def test_schedules_penalties_and_soft_labels(schedule, penalty):
    """Epochs 0 and 5 of schedule seam step the head alone."""
    options = {"schedule": schedule, "penalty": penalty, "lstm_penalty_scale": 3.0, "readout": "last_word"}
    options["linear_penalty_scale"] = 0.25
    engine, stepper = make_pair((2, True), **options)
    before = [part.detach().clone() for part in engine.head]
    follow(engine, stepper, [with_soft_labels(documents) for documents in epochs(6)], 4)
    assert all(torch.equal(a, b) == (schedule == "port") for a, b in zip(before, engine.head, strict=True))


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
@pytest.mark.parametrize("trainer", [functools.partial(OpTrainer, backend="torch"), TorchTrainer])
def test_plain_pytorch_follows_as_well(trainer, shape, readout):
    engine, stepper = make_pair(shape, trainer=trainer, readout=readout, schedule="seam")
    follow(engine, stepper, epochs(4), 4)


def test_three_layers():
    engine, stepper = make_pair((3, True), readout="last_word")
    assert "lstm.weight_hh_l2_reverse" in engine.scores
    follow(engine, stepper, epochs(3), 4)


@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_active_clamps(shape):
    """Both parts of the gradient are large, and clamping their sum would be another thing."""
    weights, head = (
        toy_weights.make_deep_weights(*shape, scale=2.0),
        tuple(20 * part for part in toy_weights.make_head()),
    )
    total = sum(weight.numel() for weight in weights.values())
    for alpha in (0.5 * total, 3.0 * total):
        engine, stepper = make_pair(shape, weights=weights, head=head, alpha=alpha, lr_mask=0.02, readout="last_word")
        clamped = 0
        for epoch in range(4):
            follow(engine, stepper, [toy_data.make_documents(6, seed=epoch)], 2)
            share = min(alpha / total, 1)
            clamped += sum(int(((s.grad - share).abs() >= 1).sum()) for s in stepper.scores.values())
        assert clamped > 10


def test_learning_rates_that_fall():
    engine, stepper = make_pair((2, True), schedule="seam")
    initial = {adam: [g["lr"] for g in adam.param_groups] for adam in (stepper.adam_together, stepper.adam_head)}
    for epoch, factor in enumerate((1.0, 0.5, 0.25, 0.75, 0.001)):
        engine.scale_learning_rates(factor)
        for adam, rates in initial.items():
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = factor * rate
        documents, head_only = toy_data.make_documents(seed=epoch), epoch == 3
        engine.run_epoch(*documents, 4, head_only=head_only)
        for batch in toy_data.cut(documents, 4):
            stepper.step(*batch, head_only=head_only)
        assert agreement.largest_difference(stepper, *engine.full_scores()) < 1e-10, f"epoch {epoch}"


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_stays_near(shape):
    """Six steps, before a sign can flip: all that differs is rounding."""
    engine, stepper = make_pair(shape, dtype=torch.float32, readout="last_word")
    documents = toy_data.make_documents(12)
    engine.run_epoch(*documents, 2)
    for batch in toy_data.cut(documents, 2):
        stepper.step(*batch)
    scores, _ = engine.full_scores()
    assert all(score.dtype == torch.float32 for score in scores.values())
    errors = [(scores[key] - score.detach()).abs().mean().item() for key, score in stepper.scores.items()]
    assert max(errors) < 1e-4  # 1000 float32 roundings of a score of 1


def test_target_weight_is_as_good_as_that_many_copies():
    documents = toy_data.make_documents(7)
    times = torch.where(documents[2] == 1, 3, 1)
    copies = tuple(part.repeat_interleave(times, 0) for part in documents)
    engine, stepper = make_pair((2, True), readout="last_word", target_weight=3)
    for _ in range(10):
        loss = engine.run_epoch(*documents, 7)
        assert loss == pytest.approx(stepper.step(*copies).cross_entropy, abs=1e-11)
    assert agreement.largest_difference(stepper, *engine.full_scores()) < 1e-10


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_a_score_of_exactly_0_is_dropped(value):
    engine, stepper = make_pair((2, True), readout="last_word")
    for key in engine.scores:
        places = slice(3, 6) if key == toy_weights.EMBEDDING else slice(0, None, 2)
        with torch.no_grad():
            engine.scores[key][places] = value
            stepper.scores[key][places] = value
    follow(engine, stepper, epochs(3), 4)


# -- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_padding_is_never_seen(shape, backend):
    """Wider rows and other padding change nothing, bit for bit; the words in it get the penalty alone."""
    ids, lengths, target_probability = toy_data.make_documents(12, words=range(1, 7))
    lengths = lengths.clamp(max=5)  # room behind every document
    wide = torch.cat([ids, torch.full((12, 9), 7)], 1)
    wide[torch.arange(16) >= lengths[:, None]] = 7  # padding that looks like words
    states = []
    for documents in (ids, wide):
        engine, stepper = make_pair(shape, readout="last_word", backend=backend)
        follow(engine, stepper, [(documents, lengths, target_probability)] * 4, 4)
        scores, head = engine.full_scores()
        states.append([*scores.values(), *head, engine.logits(documents, lengths)])
        rows = scores[toy_weights.EMBEDDING]
        assert torch.equal(rows[7], rows[20]) and torch.equal(rows[0], rows[20])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


# -- reading it, and what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_what_it_shows_is_what_the_scores_say(shape, readout):
    engine, _ = make_pair(shape, readout=readout, lr_mask=0.1)
    for documents in epochs(3):
        engine.run_epoch(*documents, 4)
    scores, head = engine.full_scores()
    assert not any(tensor.requires_grad for tensor in (*scores.values(), *head))
    effective = engine.effective_weights()
    for key, weight in engine.weights.items():
        assert torch.equal(effective[key], weight * (scores[key] > 0))
    # Words without rows may be read, too.
    ids, lengths, _ = toy_data.make_documents(20, words=range(1, toy_weights.V), seed=9)
    wanted = reference_model.head_logits(by_hand.deep_logits(effective, ids, lengths, readout, *shape), head)
    shown = engine.logits(ids, lengths)
    assert not shown.requires_grad
    torch.testing.assert_close(shown, wanted, rtol=0, atol=1e-12)

    snapshot = engine.snapshot()
    engine.run_epoch(*toy_data.make_documents(seed=5), 4)
    signs, kept_head = snapshot.mask.scores(), snapshot.head
    assert all(torch.equal(signs[key] > 0, score > 0) for key, score in scores.items())
    assert all(torch.equal(a, b) for a, b in zip(kept_head, head, strict=True))


def test_the_same_twice():
    states = []
    for _ in range(2):
        engine, _ = make_pair((2, True), dtype=torch.float32, schedule="seam")
        for epoch, documents in enumerate(epochs(6)):
            engine.run_epoch(*documents, 4, head_only=epoch % 5 == 0)
        scores, head = engine.full_scores()
        states.append([*scores.values(), *head])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_word_outside_words_is_refused_and_nothing_moves():
    engine, _ = make_pair((1, True), words=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="word that was not among"):
        engine.run_epoch(*toy_data.make_documents(6, words=[4, 1]), 6)
    assert all((score == 1).all() for score in engine.scores.values())


@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize(
    "key", ["lstm.weight_ih_l1", "lstm.bias_hh_l1_reverse", "lstm.weight_hh_l0_reverse", *toy_weights.LINEAR]
)
def test_a_base_that_is_not_finite_stops_with_the_step_named(key, head_only):
    weights = toy_weights.make_deep_weights(2, True)
    weights[key].view(-1)[0] = math.nan
    engine, _ = make_pair((2, True), weights=weights, schedule="seam")
    with pytest.raises(TrainingError, match="step 1"):
        engine.run_epoch(*toy_data.make_documents(2), 2, head_only=head_only)
        engine.check_finite()


def test_a_gradient_that_overflows_names_its_tensor():
    weights = toy_weights.make_deep_weights(2, False, torch.float32)
    weights["lstm.bias_ih_l1"][-toy_weights.H :] = -70.0  # output gates nearly shut: states near 1e-31 ...
    weights[toy_weights.LINEAR[0]].fill_(3e38)  # ... so that the loss is finite and the gradient of the states is not
    head = torch.tensor([[1.0] * toy_weights.C, [-1.0] * toy_weights.C]), torch.zeros(2)
    engine, _ = make_pair((2, False), weights=weights, head=head)
    ids, lengths, _ = toy_data.make_documents(2)
    with pytest.raises(TrainingError, match=r"gradient of word_embeddings\.weight is not finite in step 1"):
        engine.run_epoch(ids, lengths, torch.tensor([1, 1]), 2)


def test_check_finite_names_the_tensor():
    engine, _ = make_pair((2, True))
    engine.run_epoch(*toy_data.make_documents(4), 2)
    engine.check_finite()
    with torch.no_grad():
        engine.scores["lstm.bias_ih_l1_reverse"][0] = math.inf
    with pytest.raises(TrainingError, match=r"lstm\.bias_ih_l1_reverse .*step 2"):
        engine.check_finite()


@pytest.mark.parametrize("head_only", [False, True])
def test_stop_ends_an_epoch(head_only):
    engine, _ = make_pair((1, True), schedule="seam")
    stop = threading.Event()
    stop.set()
    assert engine.run_epoch(*toy_data.make_documents(12), 2, head_only=head_only, stop=stop) == 0
    assert engine.steps == 0


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_reengineer_and_files(tmp_path, toy, shape):
    num_layers, bidirectional = shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = LSTMClassifier(toy.vocab_size, 6, 5, toy.num_classes, num_layers=num_layers, bidirectional=bidirectional)
    options = {"alpha": 0.01, "lr_mask": 0.1, "epochs": 3, "batch_size": 4, "schedule": "joint", "selection": "last"}
    module = seam_fast.reengineer(base, toy, [1], **options)[0]
    assert 0.05 < module.kept < 0.95
    best = module.history[module.card["best_epoch"]]
    assert best["kept"] == pytest.approx(module.kept) and best["kept_by_group"] == pytest.approx(module.kept_by_group)
    assert list(module.scores) == list(base.state_dict())
    for name in ("base.pt", "base.safetensors"):
        loaded_base = LSTMClassifier.load(base.save(tmp_path / name))
        for file in ("module.safetensors", "module.pth"):
            module.save(tmp_path / file)
            loaded = SeamModule.load(tmp_path / file, loaded_base, target=(1,))
            assert loaded.kept_by_weight == module.kept_by_weight
            wanted = module.predict_proba(toy.test.ids, toy.test.lengths)
            assert torch.equal(loaded.predict_proba(toy.test.ids, toy.test.lengths), wanted)

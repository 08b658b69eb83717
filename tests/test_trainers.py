"""Every trainer against the reference step, over tens of steps in float64, and against hand-written expectations.

What they show, and say of numbers that are not finite, is in test_trainer_state.py.
"""

import functools
import math

import pytest
import torch
from support import agreement, by_hand, toy_data, toy_weights, trainer_kinds
from support.toy_data import with_soft_labels
from support.trainer_kinds import OPTIONS

from seam_fast.training import reference_step


@pytest.fixture(params=trainer_kinds.TRAINERS)
def make(request):
    """Makes a trainer of weights, head, words and options: each test runs with every kind."""
    return functools.partial(trainer_kinds.make_trainer, request.param)


# -- the same as the Stepper ------------------------------------------------------------------------------------------


# Every two of schedule, penalty and readout; hypothesis draws all three (test_cpu_trainer.py, test_cuda_trainer.py).
PAIRS = [
    ("seam", "global", "last_position"),
    ("seam", "group", "last_word"),
    ("port", "global", "last_word"),
    ("port", "group", "last_position"),
    ("joint", "global", "last_position"),
    ("joint", "group", "last_word"),
]


@pytest.mark.parametrize(("schedule", "penalty", "readout"), PAIRS)
def test_follows_the_reference_step(make_pair, schedule, penalty, readout):
    engine, stepper = make_pair(schedule=schedule, penalty=penalty, readout=readout)
    epochs = [toy_data.make_documents(25, seed=epoch) for epoch in range(7)]
    agreement.follow(engine, stepper, epochs, 4)  # 7 steps an epoch, the last of one document
    kept = sum(engine.kept_counts().values()) / sum(weight.numel() for weight in engine.weights.values())
    assert 0.05 < kept < 0.95, "the run should have dropped some and kept some"
    assert engine.steps == 49


def test_one_document_a_step(make_pair):
    engine, stepper = make_pair(readout="last_word")
    agreement.follow(engine, stepper, [toy_data.make_documents(5, seed=epoch) for epoch in range(6)], 1)


def test_documents_of_one_repeated_word(make_pair):
    ids = torch.full((6, toy_weights.T), 3)
    ids[3:] = 9
    documents = ids, torch.tensor([7, 1, 3, 7, 7, 2]), torch.tensor([0, 1, 0, 1, 0, 1])
    for readout in ("last_position", "last_word"):
        engine, stepper = make_pair(readout=readout, words=[3, 9])
        agreement.follow(engine, stepper, [documents] * 10, 2)


def test_documents_of_one_word_only(make_pair):
    ids = torch.tensor([[4], [5], [4]])
    engine, stepper = make_pair(words=[4, 5])
    agreement.follow(engine, stepper, [(ids, torch.ones(3, dtype=torch.int64), torch.tensor([0, 1, 1]))] * 10, 2)


def test_id_0_as_padding_and_as_a_word(make_pair):
    """The reference's padding: id 0 fills rows up and is a word, so its row gathers gradient from both."""
    engine, stepper = make_pair(readout="last_position")
    epochs = [toy_data.make_documents(9, words=range(6), seed=epoch) for epoch in range(6)]
    assert any((ids[torch.arange(toy_weights.T) < lengths[:, None]] == 0).any() for ids, lengths, _ in epochs)
    agreement.follow(engine, stepper, epochs, 3)


def test_active_clamps(make_pair):
    """Both parts of the gradient are large, and clamping their sum would be another thing."""
    weights, head = toy_weights.make_weights(scale=2.0), tuple(20 * part for part in toy_weights.make_head())
    total = sum(weight.numel() for weight in weights.values())
    for alpha in (0.5 * total, 3.0 * total):
        engine, stepper = make_pair(weights, head, alpha=alpha, lr_mask=0.02, readout="last_word")
        clamped = 0
        for epoch in range(5):
            agreement.follow(engine, stepper, [toy_data.make_documents(6, seed=epoch)], 2)
            share = min(alpha / total, 1)
            clamped += sum(int(((s.grad - share).abs() >= 1).sum()) for s in stepper.scores.values())
        assert clamped > 10


def test_large_learning_rate_of_the_head_and_large_alpha(make_pair):
    engine, stepper = make_pair(schedule="seam", lr_head=0.5, lr_mask=0.1, alpha=5.0, penalty="group")
    agreement.follow(engine, stepper, [toy_data.make_documents(9, seed=epoch) for epoch in range(6)], 4)


def test_six_epochs_by_hand(make):
    """Against Adams written out in NumPy: two of them, with a state each."""
    weights, head, options = toy_weights.make_weights(), toy_weights.make_head(), OPTIONS | {"schedule": "seam"}
    engine = make(weights, head, torch.arange(15), **options)
    hand = by_hand.HandSeam(weights, head, **options)
    for epoch in range(6):
        documents = toy_data.make_documents(seed=epoch)
        for batch in toy_data.cut(documents, 4):
            hand.step(*batch, head_only=epoch % 5 == 0)
        engine.run_epoch(*documents, 4, head_only=epoch % 5 == 0)
        assert agreement.largest_difference(hand, *engine.full_scores()) < 1e-10, f"epoch {epoch}"


def test_a_class_that_is_dropped_whole(make_pair):
    """Its logit is exactly 0, where the ReLU's slope is 0."""
    engine, stepper = make_pair(readout="last_word")
    with torch.no_grad():
        for trainer in (engine, stepper):
            for key in toy_weights.LINEAR:
                trainer.scores[key][1] = -0.01  # a gradient other than the penalty's would soon show
    trainer_kinds.load_state(engine)
    agreement.follow(engine, stepper, [toy_data.make_documents(9, seed=epoch) for epoch in range(4)], 4)


@pytest.mark.parametrize("schedule", ["seam", "port", "joint"])
def test_soft_labels_and_a_heavier_lstm_penalty(make_pair, schedule):
    engine, stepper = make_pair(
        schedule=schedule, penalty="group", lstm_penalty_scale=3.0, linear_penalty_scale=0, readout="last_word"
    )
    agreement.follow(
        engine, stepper, [with_soft_labels(toy_data.make_documents(9, seed=epoch)) for epoch in range(6)], 4
    )


def test_learning_rates_that_fall(make):
    """Adam's memory stays; the rates are always multiples of the first ones."""
    options = OPTIONS | {"schedule": "seam"}
    weights, head = toy_weights.make_weights(), toy_weights.make_head()
    engine, hand = make(weights, head, torch.arange(15), **options), by_hand.HandSeam(weights, head, **options)
    for epoch, factor in enumerate((1.0, 0.5, 0.25, 0.75, 0.001, 0.3)):
        engine.scale_learning_rates(factor)
        hand.lr_mask, hand.lr_head = 0.05 * factor, 0.02 * factor
        documents = toy_data.make_documents(seed=epoch)
        engine.run_epoch(*documents, 4, head_only=epoch % 5 == 0)
        for batch in toy_data.cut(documents, 4):
            hand.step(*batch, head_only=epoch % 5 == 0)
        assert agreement.largest_difference(hand, *engine.full_scores()) < 1e-10, f"epoch {epoch}"


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_a_score_of_exactly_0_is_dropped(make_pair, value):
    """Set in every tensor, rows of fed words among them; the loss, the counts and all that follows tell."""
    engine, stepper = make_pair(readout="last_word")
    for key in toy_weights.KEYS:
        places = slice(3, 6) if key == toy_weights.EMBEDDING else slice(0, None, 2)
        with torch.no_grad():
            engine.scores[key][places] = value
            stepper.scores[key][places] = value
    trainer_kinds.load_state(engine)
    assert engine.kept_counts() == {key: int((score > 0).sum()) for key, score in stepper.scores.items()}
    for key, weight in engine.effective_weights().items():
        assert torch.equal(weight.cpu(), engine.weights[key].cpu() * (stepper.scores[key] > 0))
    agreement.follow(engine, stepper, [toy_data.make_documents(9, seed=epoch) for epoch in range(3)], 4)


def test_float32_stays_near(make_pair):
    """Six steps, before a sign can flip: all that differs is rounding."""
    weights, head = toy_weights.make_weights(torch.float32), toy_weights.make_head(torch.float32)
    engine, stepper = make_pair(weights, head, readout="last_word")
    documents = toy_data.make_documents(12)
    engine.run_epoch(*documents, 2)
    for batch in toy_data.cut(documents, 2):
        stepper.step(*batch)
    scores, head = engine.full_scores()
    assert all(score.dtype == torch.float32 for score in scores.values())
    errors = [(scores[key] - stepper.scores[key].detach()).abs().mean().item() for key in toy_weights.KEYS]
    assert max(errors) < 1e-4  # 1000 float32 roundings of a score of 1


# -- words with and without rows of their own -------------------------------------------------------------------------


def test_never_fed_words_share_the_dense_trajectory(make_pair):
    """Words 15 and above are outside `words`, 11 to 14 inside and never fed: they all move as dense scores do."""
    engine, stepper = make_pair(lr_mask=0.1)
    for epoch in range(4):
        documents = toy_data.make_documents(12, words=range(1, 11), seed=epoch)
        engine.run_epoch(*documents, 4)
        for batch in toy_data.cut(documents, 4):
            stepper.step(*batch)
        ours, dense = (
            engine.full_scores()[0][toy_weights.EMBEDDING][11:],
            stepper.scores[toy_weights.EMBEDDING].detach()[11:],
        )
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-12)
        assert torch.equal(ours, ours[:1, :1].expand_as(ours))
    assert (ours < 0).all(), "long enough to drop out"
    assert engine.kept_counts()[toy_weights.EMBEDDING] == int((stepper.scores[toy_weights.EMBEDDING] > 0).sum())


@pytest.mark.parametrize("words", [range(15), range(toy_weights.V), [0, *range(1, 11), 22]])
def test_kept_counts_are_those_of_the_full_scores(make_pair, words):
    engine, stepper = make_pair(words=words, lr_mask=0.1)
    total = toy_weights.V * toy_weights.E
    assert engine.kept_counts()[toy_weights.EMBEDDING] == total
    seen = set()
    for epoch in range(8):
        agreement.follow(engine, stepper, [toy_data.make_documents(8, words=range(1, 11), seed=epoch)], 4)
        scores, _ = engine.full_scores()
        assert engine.kept_counts() == {key: int((score > 0).sum()) for key, score in scores.items()}
        assert list(engine.kept_counts()) == list(toy_weights.KEYS)
        seen.add(engine.kept_counts()[toy_weights.EMBEDDING])
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("alpha", "lr_mask", "steps"), [(0.2, 0.01, 112), (0.2, 0.1, 12), (1, 0.01, 103), (1, 0.1, 11)]
)
def test_when_an_absent_word_drops_out_in_float32(make_pair, alpha, lr_mask, steps):
    """Counted in float32 with alpha / N as at the reference sizes, where N is 2,389,808."""
    weights = toy_weights.make_weights(torch.float32)
    alpha *= sum(weight.numel() for weight in weights.values()) / 2_389_808
    engine, _ = make_pair(weights, toy_weights.make_head(torch.float32), words=[0, 1, 2], alpha=alpha, lr_mask=lr_mask)
    documents = toy_data.make_documents(1, words=[1])
    kept = []
    for _ in range(steps):
        engine.run_epoch(*documents, 1)
        rows = engine.full_scores()[0][toy_weights.EMBEDDING] > 0
        assert rows[2].all() == rows[20].all() == rows[20].any()  # with and without a row of its own
        kept.append(bool(rows[20].all()))
    assert kept == [True] * (steps - 1) + [False]


def test_words_in_any_order_and_shape(make):
    words = torch.tensor([[5, 3, 3], [9, 0, 5]])
    engine = make(toy_weights.make_weights(), toy_weights.make_head(), words, **OPTIONS)
    engine.run_epoch(*toy_data.make_documents(4, words=[3, 5, 9]), 2)
    with pytest.raises(ValueError, match="word that was not among"):
        engine.run_epoch(*toy_data.make_documents(4, words=[3, 5, 4]), 4)


@pytest.mark.parametrize("words", [[4], [4, 1]])
def test_a_word_outside_words_is_refused_and_nothing_moves(make_pair, words):
    engine, _ = make_pair(words=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="word that was not among"):
        engine.run_epoch(*toy_data.make_documents(6, words=words), 6)
    assert all((score == 1).all() for score in engine.scores.values())


# -- padding ----------------------------------------------------------------------------------------------------------


def test_padding_of_its_own_is_never_seen(make_pair):
    """Wider rows and other padding change nothing, bit for bit, and the untrimmed reference agrees."""
    ids, lengths, target_probability = toy_data.make_documents(12)
    lengths = lengths.clamp(max=5)  # room behind every document
    wide = torch.cat([ids, torch.full((12, 9), 7)], 1)  # padding that looks like words
    wide[:, :5] = ids[:, :5]
    states = []
    for documents in (ids, wide):
        engine, stepper = make_pair(readout="last_word")
        agreement.follow(engine, stepper, [(documents, lengths, target_probability)] * 6, 4)
        states.append(trainer_kinds.parts_of(engine.snapshot()))
        logits = engine.logits(documents, lengths)
        states[-1]["logits"] = logits
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_rows_of_padding_words_get_the_penalty_alone(make_pair):
    engine, _ = make_pair(readout="last_word")
    engine.run_epoch(*toy_data.make_documents(12), 4)
    rows = engine.full_scores()[0][toy_weights.EMBEDDING]
    assert torch.equal(rows[0], rows[20])


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_target_weight_is_as_good_as_that_many_copies(make):
    """Weight 3 of a target document: three of it in the batch, and the mean over all of them."""
    documents = toy_data.make_documents(7)
    times = torch.where(documents[2] == 1, 3, 1)
    copies = tuple(part.repeat_interleave(times, 0) for part in documents)
    weights, head, options = toy_weights.make_weights(), toy_weights.make_head(), OPTIONS | {"readout": "last_word"}
    engine = make(weights, head, torch.arange(15), **options, target_weight=3)
    stepper = reference_step.Stepper(weights, head, **options)
    for _ in range(20):
        loss = engine.run_epoch(*documents, 7)
        assert loss == pytest.approx(stepper.step(*copies).cross_entropy, abs=1e-11)
    assert agreement.largest_difference(stepper, *engine.full_scores()) < 1e-10


def test_target_weight_by_hand(make):
    """All weights 0: the head's bias alone decides, so each document's loss is known. Head-only epochs weigh alike."""
    weights, (head_weight, _) = toy_weights.make_weights(scale=0.0), toy_weights.make_head()
    head = head_weight, torch.tensor([math.log(3.0), 0.0], dtype=torch.float64)  # probabilities 3/4 and 1/4
    ids, lengths, _ = toy_data.make_documents(3)
    target_probability = torch.tensor([1.0, 0, 0])
    wanted = (5 * math.log(4 / 3) + 2 * math.log(4)) / 7
    for head_only in (False, True):
        engine = make(weights, head, torch.arange(15), **OPTIONS | {"schedule": "seam"}, target_weight=5)
        loss = engine.run_epoch(ids, lengths, target_probability, 3, head_only=head_only)
        assert loss == pytest.approx(wanted, abs=1e-12)


def test_loss_of_an_epoch_is_the_mean_over_batches(make):
    weights = toy_weights.make_weights(scale=0.0)
    head = toy_weights.make_head()[0], torch.tensor([math.log(3.0), 0.0], dtype=torch.float64)
    engine = make(weights, head, torch.arange(15), **OPTIONS | {"schedule": "port"})
    ids, lengths, _ = toy_data.make_documents(3)
    loss = engine.run_epoch(ids, lengths, torch.tensor([0, 1, 1]), 2)  # batches of 2 and 1
    assert loss == pytest.approx(((math.log(4 / 3) + math.log(4)) / 2 + math.log(4)) / 2, abs=1e-12)

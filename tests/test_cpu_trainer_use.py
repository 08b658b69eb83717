"""The CPU's trainer in use: what it shows and refuses, beside other threads. Its numbers are in test_cpu_trainer.py."""

import itertools
import threading

import numpy as np
import pytest
import torch
from support import agreement, toy_data, toy_weights, trainer_kinds
from support.bare_trainers import (
    BAD_DOCUMENTS,
    BAD_TRAINERS,
    WORDS,
    Bare,
    R,
    documents_for,
    flipped,
    otherwise,
    with_value,
)
from support.compiled_trainer_checks import (
    check_a_moved_tensor_is_refused,
)
from support.cpu_trainers import make, train_one
from support.stop_events import CountsPolls
from support.trainer_kinds import assert_same_bits, tensors

from seam_fast import _ext
from seam_fast.classifier import inference
from seam_fast.training import cpu_trainer

pytestmark = pytest.mark.skipif(not _ext.has_ext(), reason=f"needs the compiled part: {_ext.reason}")


# -- what it shows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("lazy_update", trainer_kinds.LAZY_UPDATES)
def test_class_logits_are_those_of_the_kept_weights(lazy_update, readout, dtype):
    """In batches and in one go, of words with and without a row of their own, before and after these drop out."""
    weights = toy_weights.make_weights(dtype, sizes=(60, 17, 9, 5))
    engine = make(lazy_update, weights, readout=readout, lr_mask=0.1)
    probe = toy_data.make_documents(300, 12, range(60), seed=5)[:2]
    dropped = set()
    for epoch in range(5):
        documents = toy_data.make_documents(9, words=range(15), seed=epoch)
        engine.run_epoch(*documents, 2)
        shared = engine.full_scores()[0][toy_weights.EMBEDDING][20]
        dropped.add(bool((shared > 0).all()))
        kept = engine.effective_weights()
        exact = {key: weight.double() for key, weight in kept.items()}
        true = inference.class_logits(exact, *probe, readout)
        theirs, ours = inference.class_logits(kept, *probe, readout), engine.class_logits(*probe)
        assert ours.dtype == dtype and ours.shape == (300, 5)
        floor = agreement.EPS * max(1, true.abs().max().item()) if dtype == torch.float32 else 1e-12
        for q in (0.95, 1):
            error, allowed = (torch.quantile((logits.double() - true).abs(), q) for logits in (ours, theirs))
            assert error <= 2 * allowed + floor
        pieces = [engine.class_logits(*(part[i : i + 1] for part in probe)) for i in range(0, 300, 50)]
        assert torch.equal(torch.cat(pieces), ours[::50])
    assert dropped == {True, False}


def test_class_logits_follow_what_is_asked_and_what_has_moved():
    """The same between epochs of the head alone, and never behind a change."""
    engine = make(schedule="seam")
    documents = toy_data.make_documents()
    ids, lengths = (part.clone() for part in documents[:2])

    def fresh():
        return inference.class_logits(engine.effective_weights(), ids, lengths, "last_position")

    seen = [engine.class_logits(ids, lengths)]
    engine.run_epoch(*documents, 4, head_only=True)
    assert torch.equal(engine.class_logits(ids, lengths), seen[0])
    ids[0] = 3
    seen.append(engine.class_logits(ids, lengths))
    torch.testing.assert_close(seen[-1], fresh())
    for _ in range(6):
        engine.run_epoch(*documents, 4)
    seen.append(engine.class_logits(ids, lengths))
    torch.testing.assert_close(seen[-1], fresh())
    engine.scores["hidden2label.weight"].fill_(-1)
    engine.load_state(engine.steps)
    seen.append(engine.class_logits(ids, lengths))
    torch.testing.assert_close(seen[-1], fresh())
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("lazy_update", trainer_kinds.LAZY_UPDATES)
def test_counts_snapshot_and_full_scores_agree(lazy_update, odd_weights):
    engine = train_one(odd_weights, 2, lazy_update)
    scores, head = engine.full_scores()
    mask, head_too, _ = engine.snapshot()
    signs = mask.scores()
    assert engine.kept_counts() == {key: int((score > 0).sum()) for key, score in scores.items()}
    for key, score in scores.items():
        assert score.shape == odd_weights[key].shape and torch.equal(signs[key] > 0, score > 0), key
        assert torch.equal(engine.effective_weights()[key], odd_weights[key] * (score > 0))
    assert all(torch.equal(*pair) for pair in zip(head, head_too, strict=True))
    counts = engine.kept_counts()
    assert any(0 < counts[key] < odd_weights[key].numel() for key in counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_scores_are_those_that_numpy_packs(isa, dtype):
    for size in (0, 1, 7, 8, 9, 16, 100, 2048, 2049, 5000):
        scores = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(size))
        scores[::5] = 0
        bits, kept, finite = _ext.C.pack_keep_bits(scores)
        assert finite and kept == int((scores > 0).sum())
        assert bits.tolist() == np.packbits((scores > 0).numpy()).tolist()
        for place in (0, size // 2, size - 1) if size else ():
            for bad in (torch.nan, torch.inf, -torch.inf):
                spoilt = scores.clone()
                spoilt[place] = bad
                bits, kept, finite = _ext.C.pack_keep_bits(spoilt)
                assert not finite and kept == int((spoilt > 0).sum())
    for bad, words in ((torch.zeros(3).half(), "float32 or float64"), (torch.zeros(4, 4).T[:, ::2], "contiguous")):
        with pytest.raises((ValueError, TypeError), match=words):
            _ext.C.pack_keep_bits(bad)


def test_loaded_state_goes_on_as_its_own(odd_weights):
    """A trainer that takes over another's scores and averages continues to the last bit."""
    one = train_one(odd_weights, 0, "replay")
    other = make(
        "replay",
        odd_weights,
        toy_weights.make_head(torch.float32, classes=6),
        range(60),
        schedule="seam",
        alpha=0.1,
        lr_mask=0.02,
    )
    mine = tensors(other)
    for name, part in tensors(one).items():
        mine[name].copy_(part)
    head_steps = 3 * 150  # epochs 0, 5 and 10, of one document a step
    other.load_state(one.steps - head_steps, head_steps)
    for epoch in range(4):
        documents = toy_data.make_documents(30, words=range(60), seed=epoch)
        for trainer in (one, other):
            trainer.run_epoch(*documents, 4, head_only=epoch == 2)
        assert_same_bits(one, other)


# -- what it refuses --------------------------------------------------------------------------------------------------


@pytest.fixture
def bare():
    return Bare(_ext.C, torch.float64)


@pytest.mark.parametrize(("name", "change", "error", "text"), BAD_TRAINERS)
def test_a_trainer_is_not_made_of_what_does_not_fit(bare, name, change, error, text):
    bare()
    with pytest.raises(error, match=text):
        bare(**{name: change})


def changed(fine, place, change):
    return [*fine[:place], change(fine[place]) if callable(change) else change, *fine[place + 1 :]]


@pytest.mark.parametrize(("place", "change", "error", "text"), BAD_DOCUMENTS)
def test_documents_that_do_not_fit_are_refused_and_nothing_moves(bare, place, change, error, text):
    trainer = bare()
    trainer.begin_epoch(0.1, 0.1, 9)
    fine = [*documents_for(bare.dtype), 2, 0, 4]
    with pytest.raises(error, match=text):
        trainer.train(*changed(fine, place, change))
    assert trainer.steps == 0 and all((score == 1).all() for score in bare.given["scores"])
    losses, failure = trainer.train(*fine)
    assert len(losses) == 2 and failure.what == -1


@pytest.mark.parametrize(("place", "change", "error", "text"), [case for case in BAD_DOCUMENTS if case[0] > 1])
def test_features_that_do_not_fit_are_refused(bare, place, change, error, text):
    trainer = bare()
    trainer.begin_epoch(0.1, 0.1, 0)
    fine = [torch.ones(4, 5, dtype=bare.dtype), documents_for(bare.dtype)[2], 2, 0, 4]
    with pytest.raises(error, match=text):
        trainer.train_head(*changed(fine, place - 1, change))
    for features, kind in (
        (otherwise(fine[0]), TypeError),
        (fine[0][:, 1:], ValueError),
        (flipped(fine[0]), ValueError),
    ):
        with pytest.raises(kind, match="features"):
            trainer.train_head(features, *fine[1:])
    assert trainer.steps == 0
    assert len(trainer.train_head(*fine)[0]) == 2


def test_reading_what_does_not_fit_is_refused(bare):
    trainer = bare()
    score_rows, lengths, _ = documents_for(bare.dtype)
    ids = score_rows.long()
    assert trainer.class_logits(ids, score_rows, lengths).shape == (4, 5)
    assert trainer.class_logits(ids + WORDS - R, score_rows * 0 + R, lengths).shape == (4, 5)  # words without rows
    for probe, error, text in (
        ((ids.int(), score_rows, lengths), TypeError, "ids must be a? ?contiguous"),
        ((flipped(ids), score_rows, lengths), TypeError, "ids must be a? ?contiguous"),
        ((ids, score_rows.long(), lengths), TypeError, "score_rows must be a contiguous"),
        ((ids, score_rows[:, 1:].contiguous(), lengths), ValueError, "score_rows must have shape|lengths must lie"),
        ((ids, score_rows[1:], lengths), ValueError, "documents 0 to 4 of 3|shape"),
        ((with_value(ids, WORDS), score_rows, lengths), ValueError, f"but holds {WORDS}"),
        ((with_value(ids, -1), score_rows, lengths), ValueError, "but holds -1"),
        ((ids, with_value(score_rows, R + 1), lengths), ValueError, "but holds"),
        ((ids, score_rows, lengths + 1), ValueError, "between 1 and 3"),
        ((ids, score_rows, lengths * 0), ValueError, "between 1 and 3"),
        ((ids, score_rows, lengths[1:]), ValueError, "lengths must have shape"),
    ):
        with pytest.raises(error, match=text):
            trainer.class_logits(*probe)


def test_more_steps_than_announced_are_refused(bare):
    trainer = bare()
    documents = documents_for(bare.dtype)
    with pytest.raises(ValueError, match="more steps than begin_epoch was told"):
        trainer.train(*documents, 2, 0, 4)  # before any epoch
    trainer.begin_epoch(0.1, 0.1, 3)
    trainer.train(*documents, 2, 0, 4)
    with pytest.raises(ValueError, match="more steps than begin_epoch was told"):
        trainer.train(*documents, 2, 0, 4)
    trainer.train(*documents, 2, 0, 2)
    assert trainer.steps == 3
    trainer.flush()
    trainer.begin_epoch(0.1, 0.1, 0)
    with pytest.raises(ValueError, match="more steps"):
        trainer.train(*documents, 4, 0, 4)
    trainer.begin_epoch(0.1, 0.1, 1)
    assert len(trainer.train(*documents, 4, 0, 4)[0]) == 1


def test_numbers_of_steps_that_cannot_be_are_refused(bare):
    trainer = bare()
    for steps in (-1, -(2**63)):
        with pytest.raises(ValueError, match="steps"):
            trainer.begin_epoch(0.1, 0.1, steps)
    for steps in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="steps"):
            trainer.load_state(*steps)
    trainer.begin_epoch(0.1, 0.1, 5)
    trainer.train(*documents_for(bare.dtype), 1, 0, 4)
    trainer.load_state(0, 0)  # which ends the epoch
    with pytest.raises(ValueError, match="more steps"):
        trainer.train(*documents_for(bare.dtype), 1, 0, 4)


def test_a_batch_of_any_size_is_all_there_is(bare):
    trainers = [bare() for _ in range(2)]
    losses = []
    for trainer, batch in zip(trainers, (3, 2**63 - 1), strict=True):
        trainer.begin_epoch(0.1, 0.1, 9)
        losses.append(trainer.train(*documents_for(bare.dtype), batch, 1, 4)[0])
        losses.append(
            trainer.train_head(torch.ones(4, 5, dtype=bare.dtype), documents_for(bare.dtype)[2], batch, 1, 4)[0]
        )
    assert len(losses[0]) == 1 and losses[:2] == losses[2:]


def test_an_epoch_may_begin_before_the_last_was_flushed(bare):
    """Nothing is read that is not there; rows are as after a flush."""
    scores = []
    for flushes in (True, False):
        trainer = bare(lazy_update="replay")
        score_rows, lengths, target_probability = documents_for(bare.dtype, count=40)
        score_rows[1:] = 0
        for _ in range(3):
            trainer.begin_epoch(0.1, 0.1, 40)
            trainer.train(score_rows, lengths, target_probability, 1, 0, 40)
            if flushes:
                trainer.flush()
        trainer.flush()
        scores.append(bare.given["scores"][0])
    assert torch.equal(*scores)


# -- in other hands ---------------------------------------------------------------------------------------------------


def test_one_thread_at_a_time(monkeypatch):
    """A second thread is refused while the first one trains, and disturbs nothing."""
    monkeypatch.setattr(cpu_trainer, "_STEPS_AT_ONCE", 10**9)  # the whole epoch is one call
    monkeypatch.setattr(cpu_trainer, "_WORDS_AT_ONCE", 10**9)
    documents = tuple(part.repeat(4000, *[1] * (part.ndim - 1)) for part in toy_data.make_documents())
    alone, engine = make(), make()
    alone.run_epoch(*documents, 2)
    worker = threading.Thread(target=engine.run_epoch, args=(*documents, 2))
    worker.start()
    while worker.is_alive() and engine.steps == 0:
        pass
    with pytest.raises(ValueError, match="one thread at a time"):
        engine._native.flush()
    worker.join()
    assert_same_bits(alone, engine)


@pytest.mark.parametrize("change", ["resize", "move"])
def test_a_tensor_that_is_no_longer_where_it_was_is_refused(change):
    check_a_moved_tensor_is_refused(make(), change)


def test_the_instruction_set_of_a_trainer_stays():
    """Another one, chosen meanwhile, has other panels and changes nothing here."""
    engine, other = make(), make()
    before = _ext.C.isa()
    engine.run_epoch(*toy_data.make_documents(), 4)
    other.run_epoch(*toy_data.make_documents(), 4)
    try:
        _ext.C.set_isa("portable")
        engine.run_epoch(*toy_data.make_documents(seed=3), 4)
    finally:
        _ext.C.set_isa(before)
    other.run_epoch(*toy_data.make_documents(seed=3), 4)
    assert_same_bits(engine, other)


def test_padding_may_be_anything_where_it_is_never_fed():
    ids, lengths, target_probability = toy_data.make_documents(padding=20)
    one, other = make(words=range(1, 15), readout="last_word"), make(words=range(1, 15), readout="last_word")
    assert (ids == 20).any()
    one.run_epoch(ids, lengths, target_probability, 4)
    other.run_epoch(torch.where(ids == 20, 1, ids), lengths, target_probability, 4)
    assert_same_bits(one, other)
    with pytest.raises(ValueError, match="word that was not among"):
        make(words=range(1, 15), readout="last_position").run_epoch(ids, lengths, target_probability, 4)


def test_large_batches_are_stopped_between_two_of_them(monkeypatch):
    """However many steps are taken between two polls: it is words that take the time."""

    documents = toy_data.make_documents(24)
    for words, polls in ((toy_weights.T * 4, 6), (toy_weights.T * 8, 3), (1, 6), (10**6, 1)):
        monkeypatch.setattr(cpu_trainer, "_WORDS_AT_ONCE", words)
        stop = CountsPolls()
        make().run_epoch(*documents, 4, stop=stop)
        assert stop.polls == polls

"""What the base says of documents: read by the compiled engine, asked once for all who learn from it."""

import pytest
import torch
from support import toy_data, toy_weights
from support.agreement import assert_same
from torch.nn import functional

from seam_fast import Settings, reengineer, reengineer_many
from seam_fast.classifier import inference
from seam_fast.classifier.inference import class_logits
from seam_fast.classifier.state_keys import EMBEDDING, WEIGHT_KEYS
from seam_fast.search import context
from seam_fast.search.sampling import Sampler
from seam_fast.search.teacher_cache import TeacherCache

# -- the engine's forward pass ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_engine_reads_documents_as_torch_does(readout, dtype):
    """By the tolerance rule, for more documents than are projected at once, whatever stands in the padding."""
    pytest.importorskip("seam_fast._C")
    weights = toy_weights.make_weights(dtype, sizes=(60, 20, 21, 5))
    ids, lengths, _ = toy_data.make_documents(2300, width=9, words=range(60))
    ids[7], lengths[7] = 3, 1
    exact = class_logits({key: weight.double() for key, weight in weights.items()}, ids, lengths, readout)
    theirs, ours = (class_logits(weights, ids, lengths, readout, backend) for backend in ("torch", "cpu"))
    floor = 16 * torch.finfo(dtype).eps
    assert (ours.double() - exact).abs().max() <= 2 * (theirs.double() - exact).abs().max() + floor
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(class_logits(weights, ids, lengths, readout, "cpu"), ours), "whoever reads what"
    finally:
        torch.set_num_threads(threads)
    single = torch.cat([class_logits(weights, ids[i : i + 1], lengths[i : i + 1], readout, "cpu") for i in range(40)])
    assert torch.equal(single, ours[:40]), "no document depends on those beside it"
    assert class_logits(weights, ids[:0], lengths[:0], readout, "cpu").shape == (0, 5)


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_words_projected_beforehand_change_no_bit(readout, dtype, monkeypatch):
    compiled = pytest.importorskip("seam_fast._C")
    weights = toy_weights.make_weights(dtype, sizes=(60, 20, 21, 5))
    ids, lengths, _ = toy_data.make_documents(1100, width=9, words=range(60))
    projected = inference.project_words(weights)
    wanted = functional.linear(weights[EMBEDDING], weights["lstm.weight_ih_l0"])
    wanted += weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
    torch.testing.assert_close(projected, wanted)
    known = class_logits(weights, ids, lengths, readout, "cpu", projected)
    assert torch.equal(known, class_logits(weights, ids, lengths, readout, "cpu"))
    parts = [weights[key] for key in WEIGHT_KEYS]
    for bad, words in (
        (projected[:9], "projected must have shape"),
        (projected.to(torch.float16), "projected must have input's dtype"),
        (projected.T.contiguous().T, "projected must be contiguous"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            compiled.class_logits(parts, ids, lengths, True, bad)
    monkeypatch.setattr(inference, "MOST_PROJECTED", 1000)
    assert inference.project_words(weights) is None, "it would be too large"
    assert inference.project_words(toy_weights.make_deep_weights(*toy_weights.DEEP[0])) is None
    assert inference.project_words(weights, "torch") is None


def test_all_modules_share_one_projection_of_the_words(toy, toy_base, monkeypatch):
    pytest.importorskip("seam_fast._C")
    asked, given = [], []
    project, plain = context.project_words, context.class_logits
    monkeypatch.setattr(context, "project_words", lambda *rest: asked.append(1) or project(*rest))
    monkeypatch.setattr(context, "class_logits", lambda *rest: given.append(rest[-1]) or plain(*rest))
    settings = [Settings(epochs=3, batch_size=8, alpha=alpha) for alpha in (0.1, 1.0)]
    reengineer_many(toy_base, toy, [0, 1], settings, threads=2, backend="cpu")
    assert len(asked) == 1 and len(given) >= 2 * 3
    assert all(projected is given[0] for projected in given) and given[0].shape == (toy.vocab_size, 20)


def test_what_the_engine_cannot_read_is_refused():
    compiled = pytest.importorskip("seam_fast._C")
    weights = list(toy_weights.make_weights(torch.float32).values())
    ids, lengths, _ = toy_data.make_documents(4)
    assert compiled.class_logits(weights, ids, lengths, True).shape == (4, 5)
    for bad, words in (
        ((weights[:6], ids, lengths), "weights must hold 7 entries"),
        (([weights[0], *weights[2:], weights[1]], ids, lengths), "must have two dimensions|must have shape"),
        ((weights, ids + 20, lengths), "ids must be words, 0 to 22"),
        ((weights, ids - 1, lengths), "ids must be words, 0 to 22"),
        ((weights, ids, lengths * 0), "lengths must lie between 1 and 7"),
        ((weights, ids, lengths[:3]), "lengths must have shape"),
        ((weights, ids.int(), lengths), "ids must be a contiguous"),
        ((weights, ids.T.contiguous().T, lengths), "ids must be a contiguous"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            compiled.class_logits(*bad, True)


@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_other_shapes_are_read_by_torch(shape):
    weights = toy_weights.make_deep_weights(*shape)
    ids, lengths, _ = toy_data.make_documents(30)
    for readout in ("last_position", "last_word"):
        assert torch.equal(
            class_logits(weights, ids, lengths, readout, "auto"), class_logits(weights, ids, lengths, readout)
        )


# -- what the base is asked -------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Numbers of documents that the base was asked about in training."""
    found, plain = [], context.class_logits

    def counted(weights, ids, *rest):
        found.append(len(ids))
        return plain(weights, ids, *rest)

    monkeypatch.setattr(context, "class_logits", counted)
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_settings_that_see_the_same_documents_ask_the_base_once(toy, toy_base, asked, threads):
    settings = [Settings(epochs=4, batch_size=8, alpha=alpha) for alpha in (0.1, 0.5, 1.0)]
    options = {"backend": "torch", "evaluate_every": 0}
    rows = reengineer_many(toy_base, toy, [0, 1], settings, threads=threads, **options)
    if threads == 1:
        assert len(asked) == 2 * 4, "not once more for each of the settings"
    for row, one in zip(rows, settings, strict=True):
        for module, alone in zip(row, reengineer(toy_base, toy, [0, 1], settings=one, **options), strict=True):
            assert_same(module, alone)


def test_documents_that_stay_as_they_are_are_asked_about_once(toy, toy_base, asked):
    options = {"word_dropout": 0.0, "distill_weight": 1.0, "epochs": 3, "batch_size": 8, "evaluate_every": 0}
    modules = reengineer(toy_base, toy, [0, 1, 2], backend="torch", threads=2, **options)
    assert asked == [len(toy.train)]

    def teacher(ids, lengths):
        return torch.softmax(class_logits(toy_base.weights(), ids, lengths, "last_word"), 1)[:, 1]

    sampler = Sampler(toy, toy.validation_indices()[0], (1,), Settings(word_dropout=0.0), 0)
    order, _ = sampler.draw(2)
    taught = teacher(toy.train.ids[order], toy.train.lengths[order])
    wanted = sampler.soft(sampler.target_probability[order], taught)
    sampler.teacher = teacher
    torch.testing.assert_close(sampler.epoch(2).target_probability, wanted)
    assert len(modules[1].history) == 3


def test_what_was_taught_is_let_go_of():
    cache = TeacherCache()
    cache.users = 2
    said = [cache.get(3, lambda n=n: n) for n in ("first", "second", "third")]
    assert said == ["first", "first", "third"] and list(cache._known) == [3]
    assert cache.get(4, lambda: "other") == "other"

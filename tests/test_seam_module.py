"""Modules in memory: what they keep, say and answer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import by_hand, toy_weights
from support.module_cases import HEAD_KEYS, documents, kept, make_base, make_module

from seam_fast import CheckpointError, SeamModule
from seam_fast.classifier import reference_model
from seam_fast.modules.mask import KeepMask, packed, unpacked

# -- what it keeps and says -------------------------------------------------------------------------------------------


def test_kept_by_hand():
    module = make_module()
    for score in module.scores.values():
        score.fill_(-1.0)
    module.scores["word_embeddings.weight"][:4] = 0.1  # 12 of 33
    module.scores["lstm.weight_hh_l0"][0] = 1e-30  # 3 of 36 + 36 + 12 + 12
    module.scores["hidden2label.bias"][:2] = math.inf  # 2 of 15 + 5
    module.scores["hidden2label.weight"][0] = torch.tensor([0.0, math.nan, -0.0])  # none of these
    assert module.kept_by_group == pytest.approx({"embedding": 12 / 33, "lstm": 3 / 96, "linear": 2 / 20})
    assert module.kept == pytest.approx(17 / (33 + 96 + 20))
    assert module.kept_by_weight["lstm.weight_hh_l0"] == pytest.approx(3 / 36)
    assert list(module.kept_by_weight) == list(toy_weights.KEYS)
    assert "11.41 %" in repr(module)


def test_target_is_a_tuple_of_numbers():
    assert SeamModule(make_base(), [np.int64(1), 3], make_module().scores, make_module().head).target == (1, 3)


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
def test_predictions_are_those_of_the_reference_ops(readout):
    module = make_module(make_base(readout=readout))
    ids, lengths = documents()
    logits = reference_model.class_logits(ids, lengths, module.base.weights(), module.scores, readout)
    wanted = reference_model.head_logits(logits, module.head)
    torch.testing.assert_close(module.logits(ids, lengths), wanted, rtol=0, atol=1e-6)
    probabilities = module.predict_proba(ids, lengths)
    assert probabilities.shape == (20, 2) and not probabilities.requires_grad
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20))
    for row, (target, rest) in zip(probabilities.tolist(), wanted.tolist(), strict=True):
        assert row[0] == pytest.approx(1 / (1 + math.exp(rest - target)), abs=1e-5)  # column 0: the target


def test_predictions_of_one_document_and_of_none():
    module = make_module()
    ids, lengths = documents()
    every = module.predict_proba(ids, lengths)
    one = module.predict_proba(ids[3:4], lengths[3:4])
    torch.testing.assert_close(one, every[3:4], rtol=0, atol=1e-6)
    assert module.predict_proba(ids[:0], lengths[:0]).shape == (0, 2)


def test_effective_weights_are_the_base_s_or_zero():
    module = make_module()
    for key, weight in module.effective_weights().items():
        kept = module.scores[key] > 0
        assert torch.equal(weight[kept], module.base.weights()[key][kept])
        assert (weight[~kept] == 0).all()


# -- over several layers and both directions --------------------------------------------------------------------------


def test_kept_of_a_deep_base_by_hand():
    module = make_module(make_base(shape=(2, True)))
    for score in module.scores.values():
        score.fill_(-1.0)
    module.scores["word_embeddings.weight"][:4] = 0.1  # 12 of 33
    module.scores["lstm.weight_hh_l1_reverse"][0] = 1e-30  # 3 of 2 * (36 + 36 + 24) + 2 * (72 + 36 + 24)
    module.scores["lstm.bias_ih_l0_reverse"][:5] = 1.0  # and 5
    module.scores["hidden2label.bias"][:2] = 1.0  # 2 of 30 + 5
    assert module.kept_by_group == pytest.approx({"embedding": 12 / 33, "lstm": 8 / 456, "linear": 2 / 35})
    assert module.kept == pytest.approx(22 / (33 + 456 + 35))
    assert module.kept_by_weight["lstm.bias_ih_l0_reverse"] == pytest.approx(5 / 12)
    assert list(module.kept_by_weight) == list(toy_weights.make_deep_weights(2, True))


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_predictions_over_deep_bases(shape, readout):
    module = make_module(make_base(readout=readout, shape=shape))
    ids, lengths = documents()
    effective = module.effective_weights()
    for key, weight in effective.items():
        assert torch.equal(weight, torch.where(module.scores[key] > 0, module.base.weights()[key], 0))
    wanted = reference_model.head_logits(by_hand.deep_logits(effective, ids, lengths, readout, *shape), module.head)
    torch.testing.assert_close(module.logits(ids, lengths), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", toy_weights.DEEP)
@pytest.mark.parametrize("name", ["tc_2/module.pth", "module.safetensors"])
def test_deep_round_trip(tmp_path, shape, name):
    module = make_module(make_base(shape=shape))
    path = tmp_path / name
    module.save(path)
    loaded = SeamModule.load(path, make_base(shape=shape))
    assert kept(loaded) == kept(module) and list(loaded.scores) == list(toy_weights.make_deep_weights(*shape))
    assert loaded.target == (2,) and loaded.kept_by_group == module.kept_by_group
    assert torch.equal(loaded.predict_proba(*documents()), module.predict_proba(*documents()))
    if path.suffix == ".pth":
        suffixed = [f"{key}_mask" for key in toy_weights.make_deep_weights(*shape)]
        assert list(torch.load(path, weights_only=True)) == suffixed + list(HEAD_KEYS)
    with pytest.raises(CheckpointError, match=r"unknown keys: lstm|wrong shapes|made for the base"):
        SeamModule.load(path, make_base())


# -- bits -------------------------------------------------------------------------------------------------------------


def test_bits_by_hand():
    scores = torch.tensor([[1.0, -1.0, 0.0], [math.nan, 2.0, 1e-40], [0.5, 0.5, 0.5]])
    mask = KeepMask.of_scores({"hidden2label.weight": scores})
    assert mask.bits["hidden2label.weight"].tolist() == [0b10001111, 0b10000000]
    back = mask.scores(torch.float64)["hidden2label.weight"]
    assert back.dtype == torch.float64
    assert back.tolist() == [[1, -1, -1], [-1, 1, 1], [1, 1, 1]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), max_size=70))
def test_bits_of_any_number(flags):
    bits = packed(torch.tensor(flags, dtype=torch.bool))
    assert bits.dtype == torch.uint8 and len(bits) == math.ceil(len(flags) / 8)
    assert unpacked(bits, len(flags)).tolist() == flags


def test_a_mask_of_shared_rows_is_the_mask_of_all_rows():
    """Words 0, 2 and 5 have rows of their own, all others share the last."""
    scores = {key: torch.randn(weight.shape) for key, weight in toy_weights.make_weights().items()}
    row_of_id = torch.full((toy_weights.V,), 3)
    row_of_id[torch.tensor([0, 2, 5])] = torch.arange(3)
    rows = torch.randn(4, toy_weights.E)
    scores[toy_weights.EMBEDDING] = rows[row_of_id]
    shapes = {key: tuple(score.shape) for key, score in scores.items()}
    bits = {key: packed(score > 0) for key, score in scores.items()} | {toy_weights.EMBEDDING: packed(rows > 0)}
    shared, whole = KeepMask(shapes, bits, row_of_id), KeepMask.of_scores(scores)
    assert shared == whole and shared.counts() == whole.counts() and shared.kept_by_group() == whole.kept_by_group()
    assert torch.equal(shared.rows(), rows > 0) and torch.equal(whole.rows(), scores[toy_weights.EMBEDDING] > 0)
    weights = toy_weights.make_weights()
    for ours, theirs in zip(shared.apply(weights).values(), whole.apply(weights).values(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(shared.dense(key), score > 0) for key, score in scores.items())
    other = scores | {"hidden2label.bias": -scores["hidden2label.bias"]}
    assert shared != KeepMask.of_scores(other) and shared != "a mask"


def test_narrow_rows_are_not_made_of_what_fills_the_last_byte():
    rows = torch.ones(3, 2, dtype=torch.bool)  # 6 bits, and 2 that would be a row more
    row_of_id = torch.tensor([0, 2, 2, 1])
    mask = KeepMask({toy_weights.EMBEDDING: (4, 2)}, {toy_weights.EMBEDDING: packed(rows)}, row_of_id, 3)
    assert torch.equal(mask.rows(), rows) and mask.dense(toy_weights.EMBEDDING).all()


def test_a_module_follows_its_scores_and_its_base():
    """Masked weights are made once, and again where a score or a weight has changed."""
    module, documents_ = make_module(), documents()
    before = module.predict_proba(*documents_)
    folded = module._folded
    assert torch.equal(module.predict_proba(*documents_), before) and module._folded is folded
    key = "hidden2label.weight"
    for change in (
        lambda: module.scores[key].neg_(),
        lambda: module.scores.update({key: -module.scores[key]}),
        lambda: module.scores[key].fill_(-1.0),
    ):
        change()
        kept = {k: s > 0 for k, s in module.scores.items()}
        assert all(torch.equal(module.mask.dense(k), kept[k]) for k in kept)
        wanted = SeamModule(module.base, module.target, dict(module.scores), module.head)
        assert torch.equal(module.predict_proba(*documents_), wanted.predict_proba(*documents_))
        assert module.kept == wanted.kept
    with torch.no_grad():
        module.base.hidden2label.weight[0, 0] += 1
    with pytest.raises(CheckpointError, match="changed since"):
        module.predict_proba(*documents_)
    with torch.no_grad():
        module.base.hidden2label.weight[0, 0] -= 1
    module.base.hidden2label.weight.requires_grad_(False)

"""Modules in memory and on disk: both formats, what they are refused for, and that no file can run anything."""

import copy
import io
import json
import math
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, safe_open, save_file
from support import by_hand, toy_data, toy_weights

from seam_fast import CheckpointError, LSTMClassifier, SeamModule
from seam_fast.classifier import reference_model
from seam_fast.common import rng
from seam_fast.modules.mask import KeepMask, packed, unpacked

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch, of files that are refused

SIZES = (11, 3, 3, 5)  # V, E, H, C: no tensor's size is a multiple of eight, save that of the gates' weights
HEAD_KEYS = ("module_head.1.weight", "module_head.1.bias")


def make_base(seed=0, sizes=SIZES, readout="last_word", shape=(1, False)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LSTMClassifier(*sizes, readout=readout, num_layers=shape[0], bidirectional=shape[1])


def make_module(base=None, seed=0, **options):
    base = base or make_base()
    generator = torch.Generator().manual_seed(seed)
    scores = {key: torch.randn(weight.shape, generator=generator) for key, weight in base.weights().items()}
    head = torch.randn(2, base.num_classes, generator=generator), torch.randn(2, generator=generator)
    return SeamModule(base, (2,), scores, head, **options)


def documents(count=20, sizes=SIZES):
    ids, lengths, _ = toy_data.make_documents(count, words=range(1, sizes[0]))
    return ids, lengths


def kept(module):
    return {key: (score > 0).tolist() for key, score in module.scores.items()}


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


# -- the native format ------------------------------------------------------------------------------------------------


def test_native_round_trip(tmp_path):
    history = [{"epoch": 0, "cross_entropy": 0.5, "kept_by_group": {"embedding": 1.0}}]
    metrics = {"test": {"f1": 0.75}}
    module = make_module(history=history, metrics=metrics, card={"seed": 3, "target_names": ["ä"], "best_epoch": 0})
    path = tmp_path / "deep" / "module.safetensors"
    module.save(path)
    loaded = SeamModule.load(str(path), module.base)
    assert kept(loaded) == kept(module)
    assert {v for score in loaded.scores.values() for v in score.flatten().tolist()} == {1.0, -1.0}
    assert all(torch.equal(a, b) for a, b in zip(loaded.head, module.head, strict=True))
    assert (loaded.target, loaded.history, loaded.metrics) == ((2,), history, metrics)
    assert (loaded.card["seed"], loaded.card["target_names"], loaded.card["base_hash"]) == (3, ["ä"], module.base.hash)
    assert (loaded.kept, loaded.kept_by_group) == (module.kept, module.kept_by_group)
    assert torch.equal(loaded.predict_proba(*documents()), module.predict_proba(*documents()))
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    first, second = load_file(path), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_native_file_has_a_bit_a_score(tmp_path):
    module = make_module(make_base(sizes=(2000, 20, 3, 5)))
    module.save(tmp_path / "module.safetensors")
    total = sum(score.numel() for score in module.scores.values())
    assert (tmp_path / "module.safetensors").stat().st_size < total / 8 + 4000
    with safe_open(tmp_path / "module.safetensors", "pt") as file:
        card = json.loads(file.metadata()["card"])
    assert (card["target"], card["base_hash"], card["kept"]) == ([2], module.base.hash, module.kept)
    assert card["kept_by_group"] == module.kept_by_group


def test_native_target_of_several_classes(tmp_path):
    module = make_module()
    module.target = (0, 4)
    module.save(tmp_path / "module.safetensors")
    assert SeamModule.load(tmp_path / "module.safetensors", module.base).target == (0, 4)


def test_native_file_is_refused_on_another_base(tmp_path):
    module, other = make_module(), make_base(seed=1)
    path = tmp_path / "module.safetensors"
    module.save(path)
    with pytest.raises(CheckpointError, match=f"{module.base.hash[:12]}.*{other.hash[:12]}"):
        SeamModule.load(path, other)
    nudged = copy.deepcopy(module.base)
    with torch.no_grad():
        nudged.hidden2label.bias[4] += 1e-6
    with pytest.raises(CheckpointError, match="base it was trained on"):
        SeamModule.load(path, nudged)
    SeamModule.load(path, copy.deepcopy(module.base))


# -- the reference's format -------------------------------------------------------------------------------------------

PTH_KEYS = [f"{key}_mask" for key in toy_weights.KEYS] + list(HEAD_KEYS)


def test_reference_format_round_trip(tmp_path):
    module = make_module()
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0])
    module.scores["hidden2label.bias"] = odd.clone()
    path = tmp_path / "tc_2" / "lr_head_mask_0.1_0.1_alpha_0.2.pth"
    module.save(path)
    state = torch.load(path, weights_only=True)
    assert list(state) == PTH_KEYS
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    loaded = SeamModule.load(path, module.base)
    assert loaded.target == (2,)
    for key in toy_weights.KEYS:
        assert torch.equal(loaded.scores[key].nan_to_num(nan=77.0), module.scores[key].nan_to_num(nan=77.0))
    assert torch.equal(torch.signbit(loaded.scores["hidden2label.bias"])[3:], torch.tensor([False, True]))
    assert kept(loaded)["hidden2label.bias"] == [False, True, False, False, False]
    assert all(torch.equal(a, b) for a, b in zip(loaded.head, module.head, strict=True))
    assert torch.equal(loaded.predict_proba(*documents()), module.predict_proba(*documents()))


def test_file_holds_no_more_than_its_tensors(tmp_path):
    """A score that is a view of something large does not take it along."""
    module = make_module()
    large = torch.randn(500_000)
    module.scores["hidden2label.bias"] = large[:5]
    module.head = large[:10].reshape(2, 5), large[10:12]
    for name in ("module.pth", "module.safetensors"):
        module.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size < 50_000


def test_target_of_a_file_that_does_not_say(tmp_path):
    module = make_module()
    module.save(tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match="name the target"):
        SeamModule.load(tmp_path / "module.pth", module.base)
    assert SeamModule.load(tmp_path / "module.pth", module.base, target=(1, 3)).target == (1, 3)
    module.save(tmp_path / "tc_4" / "module.pth")
    assert SeamModule.load(tmp_path / "tc_4" / "module.pth", module.base).target == (4,)
    assert SeamModule.load(tmp_path / "tc_4" / "module.pth", module.base, target=(0,)).target == (0,)


@pytest.mark.parametrize("folder", ["tc_", "tc_x", "tc_-1", "tc_²", "xtc_1", "tc_1_old"])
def test_folders_that_name_no_target(tmp_path, folder):
    module = make_module()
    path = tmp_path / folder / "module.pth"
    module.save(path)
    with pytest.raises(CheckpointError, match="name the target"):
        SeamModule.load(path, module.base)


def test_a_target_that_the_base_has_not(tmp_path):
    module = make_module()
    module.save(tmp_path / "tc_5" / "module.pth")  # five classes: 0 to 4
    with pytest.raises(CheckpointError, match="5"):
        SeamModule.load(tmp_path / "tc_5" / "module.pth", module.base)


@pytest.mark.parametrize(
    ("suffix", "sizes"), [(".pth", (12, 3, 3, 5)), (".pth", (11, 3, 3, 4)), (".pth", (11, 3, 2, 5))]
)
def test_reference_format_on_a_base_of_other_shapes(tmp_path, suffix, sizes):
    path = tmp_path / "tc_2" / f"module{suffix}"
    make_module().save(path)
    with pytest.raises(CheckpointError, match=r"wrong shapes: .* instead of"):
        SeamModule.load(path, make_base(sizes=sizes))


# -- bases in double precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tc_2/module.pth", "module.safetensors"])
def test_a_module_of_a_float32_base_on_the_same_base_in_double(tmp_path, name):
    """The hash is that of the float32 values, so the base counts as the same; then it has to work."""
    module = make_module()
    module.save(tmp_path / name)
    double = copy.deepcopy(module.base).double()
    loaded = SeamModule.load(tmp_path / name, double)
    ids, lengths = documents()
    torch.testing.assert_close(loaded.predict_proba(ids, lengths).float(), module.predict_proba(ids, lengths))


def test_a_module_in_double_round_trips(tmp_path):
    base = make_base().double()
    module = make_module(base)
    module.scores = {key: score.double() for key, score in module.scores.items()}
    module.head = tuple(part.double() for part in module.head)
    module.save(tmp_path / "module.safetensors")
    loaded = SeamModule.load(tmp_path / "module.safetensors", base)
    assert kept(loaded) == kept(module)
    assert torch.equal(loaded.predict_proba(*documents()), module.predict_proba(*documents()))
    module.save(tmp_path / "tc_2" / "module.pth")
    assert kept(SeamModule.load(tmp_path / "tc_2" / "module.pth", base)) == kept(module)


# -- files that cannot be used ----------------------------------------------------------------------------------------


def saved(tmp_path, suffix):
    path = tmp_path / "tc_2" / f"module{suffix}"
    make_module().save(path)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".pth", ".safetensors"])


@SUFFIXES
def test_missing(tmp_path, suffix):
    with pytest.raises(CheckpointError, match="no such module file"):
        SeamModule.load(tmp_path / f"none{suffix}", make_base())
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(CheckpointError):
        SeamModule.load(tmp_path / f"folder{suffix}", make_base())


@SUFFIXES
def test_truncated(tmp_path, suffix):
    path = saved(tmp_path, suffix)
    data = path.read_bytes()
    for size in sorted({0, 1, 7, 8, 9, 100, *range(0, len(data), max(len(data) // 40, 1)), len(data) - 1}):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="module"):
            SeamModule.load(path, make_base())


@SUFFIXES
def test_damaged_is_refused_or_harmless(tmp_path, suffix):
    """One byte changed: whatever happens, it is a CheckpointError or a module of the right form."""
    path, random = saved(tmp_path, suffix), np.random.RandomState(0)
    data = path.read_bytes()
    for _ in range(150):
        changed = bytearray(data)
        changed[random.randint(len(data))] ^= 1 << random.randint(8)
        path.write_bytes(changed)
        try:
            loaded = SeamModule.load(path, make_base())
        except CheckpointError:
            continue
        assert {k: tuple(v.shape) for k, v in loaded.scores.items()} == {
            k: tuple(v.shape) for k, v in make_base().weights().items()
        }


@SUFFIXES
@pytest.mark.parametrize(
    "data", [b"", b"hello\n", b"\x80\x04.", b"PK\x03\x04", b"{}", bytes(64), bytes(range(256)) * 8]
)
def test_foreign_bytes(tmp_path, suffix, data):
    path = tmp_path / f"module{suffix}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="module"):
        SeamModule.load(path, make_base(), target=(2,))


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        torch.zeros(3),
        {"a": 1},
        {"state": {"a": torch.zeros(1)}},
        {3: torch.zeros(1)},
        {},
        make_base().state_dict(),
    ],
)
def test_torch_files_of_other_things(tmp_path, content):
    path = tmp_path / "tc_2" / "module.pth"
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"module\.pth"):
        SeamModule.load(path, make_base())


def change(state, key, value):
    return {k: v for k, v in (state | {key: value}).items() if v is not None}


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("lstm.bias_hh_l0_mask", None, r"missing keys: lstm\.bias_hh_l0_mask"),
        ("module_head.1.bias", None, r"missing keys: module_head\.1\.bias"),
        ("extra", torch.zeros(1), "unknown keys: extra"),
        ("hidden2label.bias_mask", torch.zeros(6), r"hidden2label\.bias_mask is \(6,\) instead of \(5,\)"),
        ("module_head.1.weight", torch.zeros(2, 4), r"module_head\.1\.weight is \(2, 4\) instead of \(2, 5\)"),
        ("module_head.1.bias", torch.tensor([0.0, math.nan]), r"module_head\.1\.bias holds values that are not finite"),
        ("module_head.1.bias", torch.zeros(2, dtype=torch.int64), r"module_head\.1\.bias"),
        ("hidden2label.bias_mask", torch.zeros(5, dtype=torch.complex64), r"hidden2label\.bias_mask"),
    ],
)
def test_reference_files_with_something_wrong(tmp_path, key, value, sentence):
    path = saved(tmp_path, ".pth")
    torch.save(change(torch.load(path, weights_only=True), key, value), path)
    with pytest.raises(CheckpointError, match=sentence):
        SeamModule.load(path, make_base())


def rewrite(path, key=None, value=None, card=None, metadata=None):
    """The native file again, with a tensor, its card or all its metadata changed."""
    with safe_open(path, "pt") as file:
        before = file.metadata()
    if card is not None:
        before["card"] = card if isinstance(card, str) else json.dumps(json.loads(before["card"]) | card)
    tensors = load_file(path)
    save_file(tensors if key is None else change(tensors, key, value), path, before if metadata is None else metadata)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"key": "lstm.bias_hh_l0.kept_bits"}, r"missing keys: lstm\.bias_hh_l0\.kept_bits"),
        ({"key": "more", "value": torch.zeros(1)}, "unknown keys: more"),
        ({"key": "hidden2label.bias.kept_bits", "value": torch.zeros(2, dtype=torch.uint8)}, "wrong shapes"),
        ({"key": "hidden2label.bias.kept_bits", "value": torch.zeros(1)}, r"hidden2label\.bias\.kept_bits"),
        ({"key": "module_head.1.bias", "value": torch.tensor([math.inf, 0])}, "not finite"),
        ({"key": "module_head.1.bias", "value": torch.zeros(2, dtype=torch.int64)}, r"module_head\.1\.bias"),
        ({"metadata": {}}, "not a module of seam-fast"),
        ({"metadata": {"format": "seam-fast module 99"}}, "seam-fast module 99"),
        ({"card": "not json"}, "module"),
        ({"card": "[1]"}, "module"),
        ({"card": "null"}, "module"),
        ({"card": {"target": None}}, "no valid target"),
        ({"card": {"target": "2"}}, "no valid target"),
        ({"card": {"target": [5]}}, "no valid target"),
        ({"card": {"target": [-1]}}, "no valid target"),
        ({"card": {"target": []}}, "no valid target"),
        ({"card": {"base_hash": 5}}, "made for the base 5"),
        ({"card": {"history": 5}}, "module"),
        ({"card": {"metrics": [1]}}, "module"),
    ],
)
def test_native_files_with_something_wrong(tmp_path, changes, sentence):
    path = saved(tmp_path, ".safetensors")
    rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        SeamModule.load(path, make_base())


def test_a_base_is_no_module(tmp_path):
    base = make_base()
    for name in ("base.safetensors", "base.pth"):
        base.save(tmp_path / name)
        with pytest.raises(CheckpointError, match="base"):
            SeamModule.load(tmp_path / name, base, target=(2,))


class Malicious:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle", "inside"])
@pytest.mark.parametrize("name", ["module.pth", "module.pt", "module.safetensors", "module.bin"])
def test_code_in_a_file_is_not_run(tmp_path, how, name):
    proof, path, buffer = tmp_path / "executed", tmp_path / name, io.BytesIO()
    if how == "pickle":
        pickle.dump(Malicious(proof), buffer)
    elif how == "inside":
        state = {key: score for key, score in make_module().scores.items()}
        torch.save({f"{key}_mask": score for key, score in state.items()} | {"evil": Malicious(proof)}, buffer)
    else:
        torch.save({"a": Malicious(proof)}, buffer, _use_new_zipfile_serialization=how == "torch")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError):
        SeamModule.load(path, make_base(), target=(2,))
    assert not proof.exists()
    if how == "pickle":  # the trap itself works
        pickle.loads(path.read_bytes())
        assert proof.exists()


# -- saving -----------------------------------------------------------------------------------------------------------


@SUFFIXES
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = saved(tmp_path, suffix)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make_module(seed=5).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["module", "module.txt", "module.npz"])
def test_endings_that_say_no_format(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"\.safetensors .*\.pth"):
        make_module().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_the_module_alone(tmp_path):
    module = make_module(history=[{"epoch": 0}], metrics={"test": {}}, card={"seed": 1})
    before = copy.deepcopy((module.scores, module.head, module.history, module.metrics, module.card))
    module.save(tmp_path / "module.safetensors")
    module.save(tmp_path / "module.pth")
    assert module.card == before[4] and module.history == before[2] and module.metrics == before[3]
    assert all(torch.equal(module.scores[key], before[0][key]) for key in toy_weights.KEYS)


def test_a_base_read_elsewhere_is_another_base(tmp_path, toy, toy_base):
    """Its tensors, and so its hash, are the same; what it computes is not."""
    scores = {key: torch.ones_like(weight) for key, weight in toy_base.weights().items()}
    module = SeamModule(toy_base, (1,), scores, rng.head(0, (1,), toy_base.num_classes))
    module.save(tmp_path / "module.safetensors")
    sizes = (toy_base.vocab_size, toy_base.embedding_dim, toy_base.hidden_dim, toy_base.num_classes)
    other = LSTMClassifier(*sizes, readout="last_position")
    other.load_state_dict(toy_base.state_dict())
    assert other.hash == toy_base.hash
    with pytest.raises(CheckpointError, match="read at 'last_word', this one is read at 'last_position'"):
        SeamModule.load(tmp_path / "module.safetensors", other)


@pytest.mark.parametrize("length", [0, 9])
def test_lengths_outside_the_documents_are_refused(toy, toy_base, length):
    scores = {key: torch.ones_like(weight) for key, weight in toy_base.weights().items()}
    module = SeamModule(toy_base, (1,), scores, rng.head(0, (1,), toy_base.num_classes))
    with pytest.raises(ValueError, match="lengths must lie between 1 and T = 8"):
        module.predict_proba(toy.test.ids[:2], torch.tensor([3, length]))

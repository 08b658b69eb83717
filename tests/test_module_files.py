"""Module files of both formats: what they hold, what they are refused for, and that none can run anything."""

import copy
import io
import json
import math
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from support import toy_weights
from support.module_cases import HEAD_KEYS, documents, kept, make_base, make_module

from seam_fast import CheckpointError, LSTMClassifier, SeamModule
from seam_fast.common import rng

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch, of files that are refused


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

"""The base: its files, what it refuses, where it reads, and its figures."""

import json
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import safetensors
import safetensors.torch
import torch
from support import by_hand, toy_weights

from seam_fast.classifier.evaluate import evaluate_classifier, predict_logits
from seam_fast.classifier.metrics import confusion_metrics
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.state_keys import WEIGHT_KEYS
from seam_fast.data.corpus import load_corpus
from seam_fast.errors import CheckpointError

SIZES = (11, 4, 3, 5)  # V, E, H, C


@dataclass
class Documents:
    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor


def make_model(seed=0, **options) -> LSTMClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LSTMClassifier(*SIZES, **options)


def state(**changes) -> dict[str, torch.Tensor]:
    """A good state dict with some tensors replaced, or left out where the change is None."""
    tensors = {key: tensor.clone() for key, tensor in make_model().weights().items()}
    for key, tensor in changes.items():
        key = next(k for k in (*WEIGHT_KEYS, key) if k.replace(".", "_") == key or k == key)
        tensors[key] = tensor
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


def documents(count=7, width=6, seed=0) -> Documents:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (count,), generator=generator)
    ids = torch.randint(1, SIZES[0], (count, width), generator=generator)
    ids[torch.arange(width) >= lengths[:, None]] = 0
    return Documents(ids, lengths, torch.randint(0, SIZES[3], (count,), generator=generator))


def logits_by_hand(model, words) -> torch.Tensor:
    """Class scores (C,) after the last of ``words`` (T,), one gate equation at a time."""
    w = model.weights()
    h = c = torch.zeros(model.hidden_dim, dtype=w[WEIGHT_KEYS[0]].dtype)
    for word in words:
        x = w["word_embeddings.weight"][word]
        gates = w["lstm.weight_ih_l0"] @ x + w["lstm.bias_ih_l0"] + w["lstm.weight_hh_l0"] @ h + w["lstm.bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return w["hidden2label.weight"] @ h + w["hidden2label.bias"]


# --- the model -------------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_public_checkpoint():
    model = make_model()
    assert tuple(model.state_dict()) == WEIGHT_KEYS == tuple(model.weights())
    assert [tuple(t.shape) for t in model.weights().values()] == [
        (11, 4), (12, 4), (12, 3), (12,), (12,), (5, 3), (5,)
    ]  # fmt: skip
    assert model.weights()["hidden2label.bias"].data_ptr() == model.hidden2label.bias.data_ptr()


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
def test_reading_position_against_a_loop(readout):
    model, batch = make_model(readout=readout).double(), documents()
    logits = model(batch.ids, batch.lengths)
    for row, words, length in zip(logits, batch.ids, batch.lengths, strict=True):
        torch.testing.assert_close(row, logits_by_hand(model, words[:length] if readout == "last_word" else words))


def test_without_lengths_rows_are_full():
    batch = documents()
    full = torch.full_like(batch.lengths, batch.ids.shape[1])
    model = make_model()
    assert torch.equal(model(batch.ids), model(batch.ids, full))


def test_padding_never_changes_what_the_last_word_gives():
    model, batch = make_model(readout="last_word"), documents()
    before = model(batch.ids, batch.lengths)
    wider = torch.cat([batch.ids, torch.full((len(batch.ids), 3), 9)], 1)
    wider[:, :6][batch.ids == 0] = 7
    torch.testing.assert_close(model(wider, batch.lengths), before, rtol=0, atol=0)
    with torch.no_grad():
        model.word_embeddings.weight[0] = 1e3
    torch.testing.assert_close(model(batch.ids, batch.lengths), before, rtol=0, atol=0)
    model.readout = "last_position"
    assert not torch.allclose(model(wider, batch.lengths), before)


def test_prediction_in_batches(monkeypatch):
    monkeypatch.setattr("seam_fast.classifier.inference.BATCH", 5)
    batch = documents(count=23)
    for readout in ("last_word", "last_position"):
        model = make_model(readout=readout).train()
        logits = predict_logits(model, batch.ids, batch.lengths)
        torch.testing.assert_close(logits, model(batch.ids, batch.lengths))
        assert model.training and not logits.requires_grad
    assert predict_logits(model, batch.ids[:0], batch.lengths[:0]).shape == (0, 5)


def test_hash_depends_on_values_and_shapes_alone():
    model = make_model()
    assert model.hash == make_model(readout="last_position", class_names="abcde").hash == make_model().double().hash
    assert len(model.hash) == 64
    assert model.hash != make_model(seed=1).hash
    with torch.no_grad():
        model.hidden2label.bias[0] += 1
    assert model.hash != make_model().hash


def test_the_hash_of_a_base_that_modules_may_remember():
    """As computed by the first version; every module file in the world names its base by it."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8 - 2)
    assert model.hash == "57f8e0014681bbbc61ef8d88ffe71e7a11aa1c64a522bdcfd7b1945f074cde51"


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="readout must be one of last_word, last_position, got 'middle'"):
        LSTMClassifier(*SIZES, readout="middle")
    with pytest.raises(ValueError, match="hidden_dim must be at least 1"):
        LSTMClassifier(5, 4, 0, 2)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        LSTMClassifier(*SIZES, num_layers=0)
    with pytest.raises(ValueError, match="class_names has 2 entries, but there are 5"):
        LSTMClassifier(*SIZES, class_names=["a", "b"])


# --- several layers, both directions ---------------------------------------------------------------------------------


def make_deep(num_layers, bidirectional, seed=0, **options) -> LSTMClassifier:
    return make_model(seed, num_layers=num_layers, bidirectional=bidirectional, **options)


@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_keys_of_deep_bases_are_torchs(shape):
    model = make_deep(*shape)
    wanted = toy_weights.make_deep_weights(*shape, sizes=SIZES)
    assert tuple(model.state_dict()) == tuple(model.weights()) == tuple(wanted)
    assert {key: w.shape for key, w in model.weights().items()} == {key: w.shape for key, w in wanted.items()}


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_deep_bases_against_documents_read_alone(shape, readout):
    model, batch = make_deep(*shape, readout=readout).double(), documents(count=23)
    wanted = by_hand.deep_logits(model.weights(), batch.ids, batch.lengths, readout, *shape)
    for logits in (model(batch.ids, batch.lengths), predict_logits(model, batch.ids, batch.lengths)):
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-13)
    full = torch.full_like(batch.lengths, batch.ids.shape[1])
    torch.testing.assert_close(model(batch.ids), model(batch.ids, full), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_padding_of_its_own_is_nothing_to_deep_bases(shape):
    """Not even where it is not a number, and not in the gradient."""
    model, batch = make_deep(*shape, readout="last_word"), documents()
    results = []
    for padding in (0, 9):
        ids = torch.cat([batch.ids, torch.full((len(batch.ids), 3), padding)], 1)
        ids[torch.arange(9) >= batch.lengths[:, None]] = padding
        logits = model(ids, batch.lengths)
        grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        results.append([logits, *grads, predict_logits(model, ids, batch.lengths)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        model.word_embeddings.weight[9] = float("nan")
    batch.ids[batch.ids == 9] = 8
    ids = torch.where(batch.ids == 0, 9, batch.ids)
    torch.testing.assert_close(model(ids, batch.lengths), model(batch.ids, batch.lengths), rtol=0, atol=0)
    before = predict_logits(model, batch.ids, batch.lengths)
    torch.testing.assert_close(predict_logits(model, ids, batch.lengths), before, rtol=0, atol=0)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_deep_round_trip(tmp_path, ending, shape):
    model = make_deep(*shape, class_names="abcde", info={"seed": 3})
    loaded = LSTMClassifier.load(model.save(tmp_path / f"base{ending}"))
    assert (loaded.num_layers, loaded.bidirectional) == shape == (loaded.lstm.num_layers, loaded.lstm.bidirectional)
    assert loaded.hash == model.hash != make_deep(*shape, seed=1).hash
    assert all(torch.equal(tensor, model.weights()[key]) for key, tensor in loaded.weights().items())
    assert (loaded.readout, loaded.class_names, loaded.info) == ("last_word", tuple("abcde"), {"seed": 3})
    batch = documents()
    assert torch.equal(loaded(batch.ids, batch.lengths), model(batch.ids, batch.lengths))


def test_a_deep_state_dict_of_another_origin(tmp_path):
    tensors = toy_weights.make_deep_weights(2, True, torch.float32, sizes=SIZES)
    torch.save(dict(reversed(tensors.items())), tmp_path / "base.pt")  # in any order
    loaded = LSTMClassifier.load(tmp_path / "base.pt")
    assert (loaded.num_layers, loaded.bidirectional, loaded.readout) == (2, True, "last_position")
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in loaded.weights().items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"lstm.bias_ih_l1": None, "lstm.bias_hh_l1_reverse": None},
            r"not the 19 tensors of a 2-layer bidirectional LSTM classifier: "
            r"missing lstm\.bias_ih_l1, lstm\.bias_hh_l1_reverse\.$",
        ),
        ({"lstm.weight_ih_l3": torch.zeros(12, 6)}, r"unknown lstm\.weight_ih_l3\.$"),
        ({"lstm.weight_hr_l0": torch.zeros(3, 2)}, r"lstm\.weight_hr_l0 is the projection .* not supported; "),
        ({"lstm.weight_ih_l1": torch.zeros(12, 3)}, r"weight_ih_l1 has shape \(12, 3\), expected \(12, 6\)\.$"),
        ({"lstm.weight_hh_l1_reverse": torch.zeros(12)}, r"weight_hh_l1_reverse has shape \(12,\), expected \(12, 3\)"),
        ({"hidden2label.weight": torch.zeros(5, 3)}, r"hidden2label\.weight has shape \(5, 3\), expected \(5, 6\)\.$"),
        ({"lstm.bias_ih_l1_reverse": torch.full((12,), float("inf"))}, r"not finite in lstm\.bias_ih_l1_reverse;"),
    ],
    ids=["missing", "unknown", "projection", "shape", "dimension", "width", "infinity"],
)
def test_deep_files_are_refused_with_the_key_named(tmp_path, changes, sentence):
    tensors = toy_weights.make_deep_weights(2, True, torch.float32, sizes=SIZES) | changes
    torch.save({key: tensor for key, tensor in tensors.items() if tensor is not None}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=sentence):
        LSTMClassifier.load(tmp_path / "base.pt")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path, ending, dtype):
    words = [f"w{k}é" for k in range(11)]
    model = make_model(class_names="abcde", vocabulary=words, info={"seed": 3}).to(dtype)
    path = model.save(tmp_path / "deep" / f"base{ending}")
    random_state = torch.get_rng_state()
    loaded = LSTMClassifier.load(path)
    assert torch.equal(random_state, torch.get_rng_state())
    assert loaded.hash == model.hash
    for key, tensor in loaded.weights().items():
        assert tensor.dtype == dtype and torch.equal(tensor, model.weights()[key]), key
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert (loaded.readout, loaded.class_names) == ("last_word", tuple("abcde"))
    assert (loaded.vocabulary, loaded.info) == (tuple(words), {"seed": 3})
    again = model.save(tmp_path / f"again{ending}")
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["deep", f"again{ending}"])  # no temporary left


def test_pt_is_a_plain_state_dict(tmp_path):
    path = make_model().save(tmp_path / "base.pt")
    tensors = torch.load(path, weights_only=True)
    assert isinstance(tensors, dict) and tuple(tensors) == WEIGHT_KEYS
    other = make_model(seed=1)
    assert str(other.load_state_dict(tensors)) == "<All keys matched successfully>"
    assert other.hash == make_model().hash


def test_a_bare_state_dict_is_read_at_the_end(tmp_path):
    words = [f"w{k}" for k in range(11)]
    torch.save(state(), tmp_path / "base.pt")
    loaded = LSTMClassifier.load(tmp_path / "base.pt")
    assert (loaded.readout, loaded.class_names, loaded.vocabulary, loaded.info) == ("last_position", None, None, {})
    given = LSTMClassifier.load(tmp_path / "base.pt", readout="last_word", vocabulary=words)
    assert (given.readout, given.vocabulary) == ("last_word", tuple(words))


@pytest.mark.parametrize("card", ["[1]", "no json", 5])
def test_a_state_dict_with_damaged_metadata_is_refused(tmp_path, card):
    tensors = OrderedDict(state())
    tensors._metadata = {"seam_fast": card}
    torch.save(tensors, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match="metadata"):
        LSTMClassifier.load(tmp_path / "base.pt")


def test_half_precision_is_read_as_float32(tmp_path):
    torch.save({key: tensor.half() for key, tensor in state().items()}, tmp_path / "base.pt")
    assert LSTMClassifier.load(tmp_path / "base.pt").hidden2label.weight.dtype == torch.float32


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lstm_bias_hh_l0": None, "hidden2label_bias": None}, r"missing lstm.bias_hh_l0, hidden2label.bias"),
        ({"lstm.weight_ih_l1": torch.zeros(12, 3)}, r"unknown lstm.weight_ih_l1"),
        ({"lstm_weight_ih_l0": torch.zeros(12, 7)}, r"lstm.weight_ih_l0 has shape \(12, 7\), expected \(12, 4\)"),
        ({"hidden2label_bias": torch.zeros(4)}, r"hidden2label.bias has shape \(4,\), expected \(5,\)"),
        ({"word_embeddings_weight": torch.zeros(11)}, r"word_embeddings.weight has shape \(11,\)"),
        ({"lstm_bias_ih_l0": torch.full((12,), float("nan"))}, r"not finite in lstm.bias_ih_l0"),
        ({"hidden2label_weight": torch.zeros(5, 3, dtype=torch.int64)}, r"hidden2label.weight .* got torch.int64"),
    ],
    ids=["missing", "unknown", "shape", "classes", "dimension", "nan", "dtype"],
)
def test_refused_with_the_key_named(tmp_path, ending, changes, sentence):
    path = tmp_path / f"base{ending}"
    if ending == ".pt":
        torch.save(state(**changes), path)
    else:
        safetensors.torch.save_file(state(**changes), path)
    with pytest.raises(CheckpointError, match=sentence) as error:
        LSTMClassifier.load(path)
    assert str(path) in str(error.value)


class Runs:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({**state(), "extra": Runs(tmp_path / "trace")}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        LSTMClassifier.load(tmp_path / "base.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_damaged_files(tmp_path, ending):
    whole = make_model().save(tmp_path / f"whole{ending}").read_bytes()
    path = tmp_path / f"base{ending}"
    for data in (b"", b"garbage", whole[: len(whole) // 2], whole[:20]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged"):
            LSTMClassifier.load(path)


def test_other_refusals(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        LSTMClassifier.load(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds list, not a state dict"):
        LSTMClassifier.load(tmp_path / "list.pt")
    torch.save(state(hidden2label_bias=3), tmp_path / "number.pt")
    with pytest.raises(CheckpointError, match=r"hidden2label.bias must be a dense floating-point tensor, got int"):
        LSTMClassifier.load(tmp_path / "number.pt")
    with pytest.raises(CheckpointError, match=r"must end in .pt, .pth or .safetensors"):
        make_model().save(tmp_path / "base.onnx")
    (tmp_path / "base.onnx").touch()
    with pytest.raises(CheckpointError, match="rename the file"):
        LSTMClassifier.load(tmp_path / "base.onnx")


def test_names_must_fit_and_agree(tmp_path):
    path = make_model(class_names="abcde").save(tmp_path / "base.safetensors")
    assert LSTMClassifier.load(path, class_names=list("abcde")).class_names == tuple("abcde")
    with pytest.raises(CheckpointError, match=r"class_names given differs .* at 1 \('x', not 'b'\)"):
        LSTMClassifier.load(path, class_names="axcde")
    with pytest.raises(CheckpointError, match="vocabulary given has 2 entries, but the tensors have 11"):
        LSTMClassifier.load(path, vocabulary=["a", "b"])
    card = {"read": "sideways", "class_names": ["a"]}
    for changes, sentence in (({}, "class_names in its metadata has 1"), ({"class_names": None}, "got 'sideways'")):
        safetensors.torch.save_file(state(), path, {"seam_fast": json.dumps({**card, **changes})})
        with pytest.raises(CheckpointError, match=sentence):
            LSTMClassifier.load(path)
    safetensors.torch.save_file(state(), path, {"seam_fast": "{"})
    with pytest.raises(CheckpointError, match="damaged"):
        LSTMClassifier.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = make_model().save(tmp_path / "base.pt")
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        make_model(seed=1).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# --- figures ---------------------------------------------------------------------------------------------------------


def test_metrics_of_a_confusion_done_by_hand():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 0, 0])
    figures = confusion_metrics(labels, predicted, 4)
    assert figures.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert figures.accuracy == pytest.approx(0.5)
    assert figures.precision.tolist() == pytest.approx([0.5, 0.5, 0, 0])
    assert figures.recall.tolist() == pytest.approx([2 / 3, 0.5, 0, 0])
    assert figures.f1.tolist() == pytest.approx([4 / 7, 0.5, 0, 0])
    assert figures.mean_f1 == pytest.approx((4 / 7 + 0.5) / 3)  # a class without documents does not count
    assert figures.accuracy_interval == pytest.approx((0.18761, 0.81239), abs=1e-5)
    card = json.loads(json.dumps(figures.as_dict("abcd")))
    assert card["classes"][1] == {"name": "b", "documents": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_golden_base(golden_dir, r8_dir):
    path = golden_dir / "base_public.safetensors"
    corpus = load_corpus(r8_dir, "r8", protocol="reference")
    model = LSTMClassifier.load(path, class_names=corpus.class_names, vocabulary=corpus.words)
    assert model.readout == "last_position" and model.info["test_accuracy"] == "0.834"
    with safetensors.safe_open(path, framework="pt") as file:
        for key, tensor in model.weights().items():
            assert torch.equal(tensor, file.get_tensor(key))
    assert evaluate_classifier(model, corpus.test).accuracy == pytest.approx(0.834, abs=5e-4)

"""Checkpoints that were written elsewhere: loaded where it is plain what is meant, else refused with what to pass."""

import argparse
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support import toy_data, toy_weights
from torch import nn
from torch.nn.utils import parametrizations, prune

from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.state_keys import WEIGHT_KEYS
from seam_fast.cli.main import main
from seam_fast.errors import CheckpointError
from seam_fast.modules.seam_module import SeamModule

V, E, H, C = SIZES = (11, 4, 3, 5)


class Theirs(nn.Module):
    """A classifier as others write it; E and H may be equal, so that shapes alone tell nothing."""

    def __init__(self, names=("embedding", "rnn", "fc"), e=E, h=H, bias=True, layers=1, both=False, proj=0):
        super().__init__()
        self.names = names
        lstm = nn.LSTM(e, h, layers, batch_first=True, bidirectional=both, bias=bias, proj_size=proj)
        parts = nn.Embedding(V, e), lstm, nn.Linear((proj or h) * (1 + both), C, bias=bias)
        for name, part in zip(names, parts, strict=True):
            self.add_module(name, part)

    def forward(self, ids):
        embedding, lstm, linear = (getattr(self, name) for name in self.names)
        return linear(lstm(embedding(ids))[0][:, -1])


@pytest.fixture
def file(tmp_path):
    """Saves things under a name and gives its path."""

    def save(thing, name="theirs.pt"):
        torch.save(thing, tmp_path / name)
        return tmp_path / name

    return save


def make(**options) -> Theirs:
    torch.manual_seed(0)
    return Theirs(**options)


def test_modules_are_no_bases_and_bases_no_modules(tmp_path, capsys):
    base = toy_weights.make_base(toy_data.make_corpus(), steps=0)
    module = SeamModule(base, [1], base.weights(), toy_weights.make_head(torch.float32, classes=base.num_classes))
    for name in ("m.safetensors", "m.pth"):
        file = tmp_path / name
        module.save(file)
        with pytest.raises(CheckpointError, match=r"is a module, .* not a base; give the base that it was made of"):
            LSTMClassifier.load(file)
        command = ["reengineer", "--base", str(file)]
        assert main(command) == 1 and "is a module" in capsys.readouterr().err
    for name in ("b.safetensors", "b.pt"):
        with pytest.raises(CheckpointError, match="is a base, not a module; give a module that was made of it"):
            SeamModule.load(base.save(tmp_path / name), base, target=[1])


IDS = torch.arange(12).view(3, 4) % V


def assert_same(base: LSTMClassifier, theirs: nn.Module) -> None:
    """The loaded base answers as the model that was saved."""
    torch.testing.assert_close(base.double()(IDS), theirs.double()(IDS), rtol=0, atol=1e-12)


# -- what is plain ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "net.classifier."])
@pytest.mark.parametrize("names", [("word_embeddings", "lstm", "hidden2label"), ("embedding", "lstm", "fc")])
def test_prefixes(file, prefix, names):
    theirs = make(names=names)
    base = LSTMClassifier.load(file({prefix + key: value for key, value in theirs.state_dict().items()}))
    assert tuple(base.weights()) == WEIGHT_KEYS and base.readout == "last_position"
    assert f"lstm = {prefix}lstm" in base.info["adapted"][0]
    assert_same(base, theirs)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "weights"])
def test_nested_dictionaries_beside_what_else_a_checkpoint_holds(file, key):
    theirs = make()
    adam = torch.optim.Adam(theirs.parameters())
    theirs(IDS).sum().backward()
    adam.step()
    content = {key: theirs.state_dict(), "optimizer_state_dict": adam.state_dict(), "epoch": 3, "loss": torch.ones(())}
    content |= {"args": argparse.Namespace(lr=0.1), "scheduler": {"last_epoch": 3}, "history": [1.0, 2.0]}
    assert_same(LSTMClassifier.load(file(content)), theirs)
    assert_same(LSTMClassifier.load(file({"checkpoint": {"inner": content}})), theirs)


def test_parts_in_dictionaries_of_their_own(file):
    theirs = make()
    content = {"encoder": {}, "head": theirs.fc.state_dict()}
    content["encoder"] = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert_same(LSTMClassifier.load(file(content)), theirs)
    apart = {"emb": theirs.embedding.state_dict(), "lstm": theirs.rnn.state_dict(), "out": theirs.fc.state_dict()}
    assert_same(LSTMClassifier.load(file(apart)), theirs)


NAMES = [
    ("embed", "encoder_lstm", "out"),
    ("encoder", "rnn", "decoder"),
    ("emb", "lstm", "classifier"),
    ("lookup_table", "recurrent", "hidden2tag"),
    ("embedder", "lstm", "label_head"),
]


@pytest.mark.parametrize("names", NAMES, ids=["-".join(names) for names in NAMES])
@pytest.mark.parametrize("width", [H, E], ids=["shapes differ", "shapes equal"])
def test_common_names(file, names, width):
    theirs = make(names=names, h=width)
    assert_same(LSTMClassifier.load(file(theirs.state_dict())), theirs)


def test_numbers_for_names(file):
    """As of nn.Sequential or nn.ModuleList: shapes tell."""
    theirs = make(names=("0", "1", "2"))
    assert_same(LSTMClassifier.load(file(theirs.state_dict())), theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "both"), [(1, False), *toy_weights.DEEP])
def test_layers_directions_and_no_biases(file, layers, both, bias):
    theirs = make(layers=layers, both=both, bias=bias)
    base = LSTMClassifier.load(file(theirs.state_dict()))
    assert (base.num_layers, base.bidirectional) == (layers, both)
    assert_same(base, theirs)
    assert ("zeros in their place" in " ".join(base.info["adapted"])) is not bias
    own = {key.replace("embedding", "word_embeddings"): value for key, value in theirs.state_dict().items()}
    own = {key.replace("rnn.", "lstm.").replace("fc.", "hidden2label."): value for key, value in own.items()}
    base = LSTMClassifier.load(file(own))
    assert_same(base, theirs)
    assert ("adapted" in base.info) is not bias


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_keeps_its_values(file, dtype):
    theirs = make().to(dtype)
    base = LSTMClassifier.load(file(theirs.state_dict()))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for ours, value in zip(base.weights().values(), theirs.state_dict().values(), strict=True):
        assert ours.dtype == wide and torch.equal(ours, value.to(wide))
    mixed = theirs.state_dict() | {"fc.bias": torch.full((C,), 1 / 3, dtype=torch.float64)}
    assert LSTMClassifier.load(file(mixed)).hidden2label.bias[0].item() == 1 / 3  # not rounded


@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model.pth.tar", "model.pth", "model.safetensors"])
def test_endings(file, tmp_path, name):
    theirs = make()
    if name.endswith("safetensors"):
        safetensors.torch.save_file(theirs.state_dict(), tmp_path / name)
    else:
        file(OrderedDict(theirs.state_dict()), name)
    assert_same(LSTMClassifier.load(tmp_path / name), theirs)


def test_an_averaged_model(file):
    """torch's own: a counter stands beside the weights."""
    theirs = make()
    averaged = torch.optim.swa_utils.AveragedModel(theirs)
    assert "n_averaged" in averaged.state_dict()
    assert_same(LSTMClassifier.load(file(averaged.state_dict())), theirs)


def test_what_was_adapted_is_saved_with_the_base_and_read_as_its_own(file, tmp_path):
    base = LSTMClassifier.load(file(make(bias=False).state_dict()))
    again = LSTMClassifier.load(base.save(tmp_path / "ours.safetensors"))
    assert again.hash == base.hash and again.info == base.info
    assert base.info["adapted"][0] == "keys: lstm = rnn, word_embeddings = embedding, hidden2label = fc"


# -- what is not plain, and what to pass ------------------------------------------------------------------------------


def refused(path, match, **options):
    with pytest.raises(CheckpointError, match=match) as caught:
        LSTMClassifier.load(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_where_names_and_shapes_leave_a_choice_the_key_map_makes_it(file):
    theirs = make(names=("a", "b", "c"), h=E)
    path = file(theirs.state_dict())
    refused(path, r"any of a\.weight, c\.weight may be the embedding; say which .*--key-map word_embeddings=NAME")
    assert_same(LSTMClassifier.load(path, key_map={"word_embeddings": "a", "hidden2label": "c"}), theirs)
    assert_same(LSTMClassifier.load(path, key_map={"word_embeddings": "a.weight", "lstm": "b"}), theirs)
    path = file({"state": {f"net.{key}": value for key, value in theirs.state_dict().items()}})
    for name in ("a", "net.a", "state.net.a"):  # the whole name or its end
        assert_same(LSTMClassifier.load(path, key_map={"word_embeddings": name}), theirs)


def test_dictionaries_that_are_there_twice_or_hold_themselves(file):
    theirs = make()
    content = {"model": theirs.state_dict()}
    content |= {"best": content["model"], "self": content, "me": content}
    assert_same(LSTMClassifier.load(file(content)), theirs)
    deep = theirs.state_dict()
    for _ in range(100):
        deep = {"inner": deep}
    refused(file(deep), "no LSTM was found")


def test_tensors_without_values(file):
    refused(file(make().to("meta").state_dict()), "was saved on the meta device, without values")


def test_several_lstms(file):
    theirs, other = make(), make()
    nn.init.ones_(other.fc.bias)
    path = file({"model": theirs.state_dict(), "ema": other.state_dict()})
    refused(path, r"holds 2 LSTMs \(model\.rnn, ema\.rnn\); say which it is: key_map=\{'lstm': NAME\}")
    assert_same(LSTMClassifier.load(path, key_map={"lstm": "model.rnn"}), theirs)
    assert_same(LSTMClassifier.load(path, key_map={"lstm": "ema.rnn"}), other)
    assert_same(LSTMClassifier.load(path, ignore_keys=["ema"]), theirs)
    refused(path, "holds no emb, which is to be ignored", ignore_keys=["ema", "emb"])


def test_tensors_of_other_names_one_by_one(file):
    """Such as nn.LSTMCell's, whose names have no number of a layer."""
    theirs = make()
    renamed = {key.replace("_l0", ""): value for key, value in theirs.state_dict().items()}
    path = file(renamed)
    refused(path, r"no LSTM was found; the file holds embedding\.weight \(11, 4\), rnn\.weight_ih \(12, 4\)")
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    assert_same(LSTMClassifier.load(path, key_map={f"lstm.{part}_l0": f"rnn.{part}" for part in parts}), theirs)
    only = {f"lstm.{part}_l0": f"rnn.{part}" for part in parts[:2]}  # never zeros for a bias that is there
    refused(path, r"holds more than embedding, LSTM and linear layer: rnn\.bias_ih, rnn\.bias_hh", key_map=only)


def test_more_tensors_than_the_models(file):
    theirs = make()
    extra = {"norm.weight": torch.ones(H + 1), "criterion.weight": torch.ones(C)}
    path = file(theirs.state_dict() | extra)
    refused(path, r"holds more than .*: norm\.weight, criterion\.weight; .*--ignore-keys NAME")
    refused(path, r"linear layer: norm\.weight; ", ignore_keys=["criterion"])
    for names in (["criterion.weight", "norm."], ["norm.weight", "criterion"]):
        assert_same(LSTMClassifier.load(path, ignore_keys=names), theirs)
        nested = file({"state_dict": theirs.state_dict() | extra})  # the whole name or that within its dictionary
        assert_same(LSTMClassifier.load(nested, ignore_keys=names), theirs)
        assert_same(LSTMClassifier.load(nested, ignore_keys=[f"state_dict.{name}" for name in names]), theirs)
        path = file(theirs.state_dict() | extra)
    own = LSTMClassifier(*SIZES).state_dict() | extra
    refused(file(own), r"unknown norm\.weight, criterion\.weight\.$")
    assert LSTMClassifier.load(file(own), ignore_keys=["criterion", "norm"]).num_classes == C


def test_two_linear_layers_are_another_model(file):
    theirs = make()
    path = file(theirs.state_dict() | {"fc2.weight": torch.ones(2, C), "fc2.bias": torch.ones(2)})
    refused(path, r"holds more than .*: fc2\.weight, fc2\.bias")
    path = file(theirs.state_dict() | {"fc2.weight": torch.ones(2, H)})
    refused(path, r"any of fc\.weight, fc2\.weight may be the last linear layer; .*--key-map hidden2label=NAME")


@pytest.mark.parametrize(
    ("make_content", "sentence"),
    [
        (lambda: make(proj=2).state_dict(), r"rnn\.weight_hr_l0|weight_hr_l0 is the projection .* not supported"),
        (lambda: {"rnn." + k: v for k, v in nn.GRU(E, H).state_dict().items()}, "rnn is a GRU, not an LSTM"),
        (lambda: {"rnn." + k: v for k, v in nn.RNN(E, H).state_dict().items()}, "rnn is a plain RNN, not an LSTM"),
        (lambda: {"epoch": 3, "args": {"lr": 0.1}}, r"holds no tensors: epoch \(int\), args.lr \(float\); say which"),
        (dict, "no LSTM was found; the file holds no tensors: nothing"),
        (lambda: {f"rnn.{k}": v for k, v in nn.LSTM(E, H).state_dict().items()}, "no embedding was found"),
        (lambda: make().state_dict() | {"rnn.bias_hh_l0": None}, r"missing lstm\.bias_hh_l0|must be a dense"),
        (lambda: {k: v for k, v in make().state_dict().items() if k != "rnn.bias_hh_l0"}, r"missing lstm\.bias_hh_l0"),
        (lambda: make().state_dict() | {"rnn.weight_ih_l0": torch.ones(3)}, "must both be matrices of an LSTM"),
        (lambda: make().state_dict() | {"fc.bias": torch.ones(2)}, r"fc\).*hidden2label\.bias has shape \(2,\)"),
        (lambda: make().state_dict() | {"fc.weight": torch.ones(C, H).to(torch.complex64)}, "dense floating-point"),
    ],
    ids=["projection", "gru", "rnn", "no tensors", "empty", "lstm", "none", "bias", "vector", "shape", "complex"],
)
def test_what_is_another_model(file, make_content, sentence):
    refused(file(make_content()), sentence)


def test_a_pruned_layer(file):
    theirs = make()
    prune.l1_unstructured(theirs.fc, "weight", 0.5)
    refused(file(theirs.state_dict()), r"fc\.weight_orig belongs to a pruned or parametrized layer; .*prune\.remove")
    prune.remove(theirs.fc, "weight")
    assert_same(LSTMClassifier.load(file(theirs.state_dict())), theirs)
    parametrizations.weight_norm(theirs.fc)
    refused(file(theirs.state_dict()), r"belongs to a pruned or parametrized layer")


@pytest.mark.parametrize(
    ("key_map", "sentence"),
    [
        ({"rnn": "lstm"}, "the key map names 'rnn', which is no part of the model; it maps word_embeddings, lstm, "),
        ({"lstm": "nowhere"}, r"holds no nowhere\.weight_hh_l0, which the key map names; the file holds embedding"),
        ({"hidden2label": "nowhere"}, "holds no nowhere, which the key map names"),
        ({"hidden2label.weight": "weight"}, r"several tensors are called weight \(embedding\.weight, fc\.weight\)"),
    ],
)
def test_a_key_map_that_does_not_fit(file, key_map, sentence):
    refused(file(make().state_dict()), sentence, key_map=key_map)


# -- what would run code ----------------------------------------------------------------------------------------------


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickled_module_is_refused_with_the_way_out(file):
    way_out = (
        r"holds more than tensors: a pickled test_checkpoint\.Theirs.*\(nothing in it was run\).*weights_only=False"
    )
    refused(file(make()), way_out)
    refused(file({"model": make()}), way_out)


def test_nothing_in_a_file_is_run(file, tmp_path):
    for content in (Trap(tmp_path / "trace"), {"args": argparse.Namespace(trap=Trap(tmp_path / "trace"))}):
        refused(file({**make().state_dict(), "extra": content}), "nothing in it was run")
    assert not (tmp_path / "trace").exists()


def test_a_torchscript_archive(tmp_path):
    class Plain(nn.Module):
        def forward(self, x):
            return x

    torch.jit.script(Plain()).save(str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt", r"a TorchScript archive, .*torch\.jit\.load")


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_takes_another_s_base(file, tmp_path, monkeypatch, capsys):
    from support.toy_data import TINY, write_corpus

    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    write_corpus(tmp_path / "corpus", "tiny")
    assert main(["train", *TINY, "--epochs", "1", "--out", "base.pt"]) == 0
    base = LSTMClassifier.load("base.pt")
    renamed = {re.sub("^hidden2label", "b", re.sub("^word_embeddings", "a", k)): v for k, v in base.weights().items()}
    square = {k: v for k, v in renamed.items() if not k.startswith("b")} | {"c.weight": torch.ones(2, base.hidden_dim)}
    file(square | {k: v for k, v in renamed.items() if k.startswith("b")}, "theirs.pt")
    command = ["reengineer", *TINY, "--base", "theirs.pt", "--steps", "2", "--no-plots", "--targets", "0"]
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "may be the last linear layer; say which it is" in said and "--key-map hidden2label=NAME" in said
    options = ["--key-map", "hidden2label=b", "--ignore-keys", "c", "--readout", "last_word"]
    assert main([*command, *options]) == 0
    assert "theirs.pt: keys: " in capsys.readouterr().err
    (module,) = Path("runs/tiny/modules").iterdir()
    evaluate = ["evaluate", str(module), "--base", "theirs.pt", *TINY]
    assert main([*evaluate, *options]) == 0 and main(evaluate) == 1
    with pytest.raises(SystemExit):
        main([*command, "--key-map", "hidden2label"])
    assert "'hidden2label' is not of the form OURS=THEIRS" in capsys.readouterr().err


def test_names_to_ignore_or_map_that_are_no_lists_of_names(tmp_path, toy_base):
    """A name alone is one name, not its letters."""
    torch.save(dict(toy_base.state_dict()) | {"fc.weight": torch.zeros(2)}, tmp_path / "base.pt")
    base = LSTMClassifier.load(tmp_path / "base.pt", ignore_keys="fc.weight")
    assert torch.equal(base.hidden2label.weight, toy_base.hidden2label.weight)
    with pytest.raises(CheckpointError, match=r"key_map is \{'hidden2label': 3\}; it must say by strings"):
        LSTMClassifier.load(tmp_path / "base.pt", key_map={"hidden2label": 3})


def test_the_last_layer_by_the_name_of_another_framework(tmp_path):
    """Where embedding and hidden size are one, two matrices have fitting shapes, and their names decide."""
    tensors = {
        "tokens.weight": torch.randn(5, 4),
        "dense.weight": torch.randn(5, 4),
        "dense.bias": torch.randn(5),
        **{f"rnn.{name}": part.detach() for name, part in torch.nn.LSTM(4, 4).named_parameters()},
    }
    torch.save(tensors, tmp_path / "theirs.pt")
    base = LSTMClassifier.load(tmp_path / "theirs.pt")
    assert torch.equal(base.hidden2label.weight, tensors["dense.weight"])


@pytest.mark.parametrize("ending", (".pt", ".safetensors"))
def test_a_flipped_bit_of_a_base_is_refused_or_changes_nothing(tmp_path, ending):
    """One bit of an exponent makes another network of it, whose answers nobody would doubt."""
    base = toy_weights.make_base(toy_data.make_corpus(), steps=0)
    path = base.save(tmp_path / f"base{ending}")
    whole, refused, tries = bytearray(path.read_bytes()), 0, range(0, 8 * path.stat().st_size, 997)
    for bit in tries:
        whole[bit // 8] ^= 1 << bit % 8
        path.write_bytes(whole)
        whole[bit // 8] ^= 1 << bit % 8
        try:
            found = LSTMClassifier.load(path)
        except CheckpointError:
            refused += 1
            continue
        assert found.hash == base.hash and found.vocabulary == base.vocabulary and found.info == base.info
    assert refused > len(tries) / 2


def test_a_base_that_another_program_changed(tmp_path):
    base = toy_weights.make_base(toy_data.make_corpus(), steps=0)
    path = base.save(tmp_path / "base.pt")
    state = torch.load(path, weights_only=True)
    state["hidden2label.bias"][0] += 1
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="its checksum is wrong: damaged, or changed by another program"):
        LSTMClassifier.load(path)
    torch.save(dict(state), path)  # without the metadata it is a state dict as any other
    assert not torch.equal(LSTMClassifier.load(path).hidden2label.bias, base.hidden2label.bias)

"""What a module knows of its base: whether it is still the one it was made on, and what cards say of it."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from support import toy_data, toy_weights
from support.own_corpus import MODULE

import seam_fast as sf
from seam_fast import CheckpointError, DataWarning, LSTMClassifier, SeamModule
from seam_fast.cli.main import main

# --- what a card says ------------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    corpus = toy_data.make_corpus()
    base = toy_weights.make_base(corpus, steps=20)
    (module,) = sf.reengineer(base, corpus, [0], steps=2)
    return base, module, corpus


@torch.no_grad()
def nudge(base, how="in place"):
    parameter = base.hidden2label.bias
    if how == "in place":
        parameter[0] += 1e-3
    elif how == "data":
        parameter.data.add_(1e-3)
    elif how == "numpy":
        parameter.numpy()[1] = 7
    elif how == "swap":
        table = base.word_embeddings.weight
        table[[2, 3]] = table[[3, 2]]
    else:
        base.hidden2label.bias = torch.nn.Parameter(parameter + 1)


@pytest.mark.parametrize("how", ["in place", "data", "numpy", "swap", "another parameter"])
@pytest.mark.parametrize("used_before", [False, True])
def test_a_module_does_not_answer_by_a_base_that_was_trained_on(pair, tmp_path, how, used_before):
    base, module, corpus = pair
    original, hash_then = copy.deepcopy(base), base.hash
    text = corpus.test.ids[:3], corpus.test.lengths[:3]
    before = module.predict_proba(*text) if used_before else None
    nudge(base, how)
    if used_before and how in ("data", "numpy"):
        # torch does not count such writes. The weights at hand are the module's own, so the answer is right all
        # the same.
        assert torch.equal(module.predict_proba(*text), before)
        with pytest.raises(CheckpointError, match="has been changed since"):
            module.effective_weights()
    else:
        for use in (module.predict_proba, module.logits):
            with pytest.raises(CheckpointError, match=r"has been changed since .*copy\.deepcopy"):
                use(*text)
    with pytest.raises(CheckpointError, match="has been changed since"):
        sf.evaluate_module(module, corpus)
    module.save(tmp_path / "module.safetensors")  # names the base it was made on
    with pytest.raises(CheckpointError, match="load it with the base it was trained on"):
        SeamModule.load(tmp_path / "module.safetensors", base)
    again = SeamModule.load(tmp_path / "module.safetensors", original)
    assert again.card["base_hash"] == hash_then
    if used_before:
        assert torch.equal(again.predict_proba(*text), before)
    base.load_state_dict(original.state_dict())  # the base as it was
    assert module.predict_proba(*text).equal(again.predict_proba(*text))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_checksum_sees_each_number(pair, dtype):
    """Also of weights that are views into one buffer, as cuDNN has them."""
    base = copy.deepcopy(pair[0]).to(dtype)
    flat = torch.cat([torch.zeros(1, dtype=dtype), *(p.detach().flatten() for p in base.parameters())])
    offset = 1
    for parameter in base.parameters():
        parameter.data = flat[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()
    before = base.checksum()
    for place in range(1, len(flat), 7):
        kept = flat[place].clone()
        flat[place] += 1
        assert base.checksum() != before
        flat[place] = kept
    assert base.checksum() == before


def test_a_base_read_elsewhere_afterwards(pair):
    base, module, corpus = pair
    base.readout = "last_position"
    with pytest.raises(CheckpointError, match="was read at 'last_word' and is read at 'last_position' now"):
        module.predict_proba(corpus.test.ids, corpus.test.lengths)


def test_a_base_in_another_precision_is_the_same(pair):
    base, module, corpus = pair
    before = module.predict_proba(corpus.test.ids, corpus.test.lengths)
    base.double()
    after = module.predict_proba(corpus.test.ids, corpus.test.lengths)
    torch.testing.assert_close(after.float(), before)


def test_points_of_a_front_know_their_base(pair):
    base, module, corpus = pair
    point = module.front[0].module()
    assert point.base_hash == module.base_hash == base.hash
    nudge(base)
    with pytest.raises(CheckpointError, match="changed since"):
        point.predict_proba(corpus.test.ids, corpus.test.lengths)


def test_the_base_of_a_run_is_the_one_it_began_with(pair, tmp_path):
    """Also where it is changed while modules are trained, here after their last step."""
    base, _, corpus = pair
    original, epochs = copy.deepcopy(base), []

    def change(job, figures):
        epochs.append(figures)
        if len(epochs) == 1:
            nudge(base)

    (module,) = sf.reengineer(base, corpus, [1], epochs=1, evaluate_every=0, on_epoch=change)
    assert module.base_hash == original.hash != base.hash
    module.save(tmp_path / "module.safetensors")
    with pytest.raises(CheckpointError, match="made for the base"):
        SeamModule.load(tmp_path / "module.safetensors", base)
    SeamModule.load(tmp_path / "module.safetensors", original)


def test_a_card_of_another_base_is_believed(pair):
    _, module, corpus = pair
    other = toy_weights.make_base(corpus, steps=1)
    moved = SeamModule(other, module.target, module.scores, module.head, card=module.card)
    with pytest.raises(CheckpointError, match="changed since"):
        moved.predict_proba(corpus.test.ids, corpus.test.lengths)


def test_a_base_whose_names_were_given_in_another_order(finished):
    """Its weights, and so its hash, are the same; what its numbers mean is not."""
    base = LSTMClassifier.load("runs/own/base.safetensors")
    torch.save(base.state_dict(), "bare.pt")
    names = {"readout": "last_word", "class_names": base.class_names, "vocabulary": base.vocabulary}
    SeamModule.load(MODULE, LSTMClassifier.load("bare.pt", **names))
    SeamModule.load(MODULE, LSTMClassifier.load("bare.pt", readout="last_word"))
    for name, sentence in (
        ("class_names", r"with the classes 'earn', 'grain', 'ship', and this one calls them 'ship', 'grain', 'earn'"),
        ("vocabulary", "made for a base with another vocabulary"),
    ):
        other = LSTMClassifier.load("bare.pt", **names | {name: names[name][::-1]})
        with pytest.raises(CheckpointError, match=sentence):
            SeamModule.load(MODULE, other)


# --- float64 ---------------------------------------------------------------------------------------------------------


def test_the_hash_is_exact_in_float64(tmp_path, pair):
    base, module, corpus = pair
    double = copy.deepcopy(base).double()
    assert double.hash == base.hash  # the same numbers
    with torch.no_grad():
        double.word_embeddings.weight.mul_(1 + 1e-12)
    assert double.hash_in_float32 == base.hash != double.hash
    other = copy.deepcopy(double)
    with torch.no_grad():
        other.hidden2label.bias[0] *= 1 + 1e-14
    assert other.hash != double.hash
    with pytest.raises(CheckpointError, match="made for the base"):
        module.save(tmp_path / "single.safetensors")
        SeamModule.load(tmp_path / "single.safetensors", double)
    module = SeamModule(double, (0,), {k: s.double() for k, s in module.scores.items()}, module.head)
    module.save(tmp_path / "double.safetensors")
    SeamModule.load(tmp_path / "double.safetensors", double)
    with pytest.raises(CheckpointError, match="made for the base"):
        SeamModule.load(tmp_path / "double.safetensors", other)
    with torch.no_grad():
        double.hidden2label.bias[0] *= 1 + 1e-14
    with pytest.raises(CheckpointError, match="changed since"):
        module.logits(corpus.test.ids, corpus.test.lengths)


def test_files_of_earlier_versions_over_float64_bases(tmp_path, pair):
    """Their hash was rounded: they still load, which is said, and follow no change that it can see."""
    base, module, corpus = pair
    double = copy.deepcopy(base).double()
    with torch.no_grad():
        double.word_embeddings.weight.mul_(1 + 1e-12)
    module = SeamModule(double, (0,), {k: s.double() for k, s in module.scores.items()}, module.head)
    path = tmp_path / "old.safetensors"
    module.save(path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    card = json.loads(metadata["card"])
    del card["base_dtype"]
    card["base_hash"] = double.hash_in_float32
    from safetensors.torch import save_file

    save_file(tensors, path, {"format": metadata["format"], "card": json.dumps(card)})
    with pytest.warns(DataWarning, match="told bases apart in float32 only"):
        old = SeamModule.load(path, double)
    text = corpus.test.ids, corpus.test.lengths
    assert torch.equal(old.logits(*text), module.logits(*text))
    nudge(double)
    with pytest.raises(CheckpointError, match="changed since"):
        old.logits(*text)


# --- a base's own figures --------------------------------------------------------------------------------------------


def test_a_base_that_was_trained_on_does_not_keep_its_figures(finished, capsys):
    path = "runs/own/base.safetensors"
    base = LSTMClassifier.load(path)
    assert {"test", "train_accuracy", "validation_accuracy", "validation_mean_f1"} <= set(base.info)
    base.save(path)
    assert LSTMClassifier.load(path).info == base.info
    nudge(base)
    base.save(path)
    info = LSTMClassifier.load(path).info
    assert info["changed_since_training"] is True and info["recipe"] == "strong"
    assert not {"test", "train_accuracy", "validation_accuracy", "validation_mean_f1"} & set(info)
    assert "test" in base.info  # the object is left alone
    assert main(["train", "--dataset", "own", "--data-dir", "corpus", "--epochs", "4", "--reuse"]) == 0
    assert "training the base" in capsys.readouterr().err  # what is there is not what this would make

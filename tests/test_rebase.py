"""A module of an older base: what is taken over, in which order, and what is said of the rest."""

import copy

import pytest
import torch
from support import toy_data, toy_weights

import seam_fast as sf
from seam_fast.classifier.state_keys import EMBEDDING, LINEAR_KEYS, LSTM_KEYS
from seam_fast.cli.main import main
from seam_fast.modules.rebase import BY_WEIGHT, BY_WORD, Rebase, correlation

RUN = {"steps": 30, "batch_size": 8, "lr_mask": 0.05}


def named(base, words, class_names):
    """A copy of a base that says its words and classes."""
    made = copy.deepcopy(base)
    made.vocabulary, made.class_names = tuple(words), tuple(class_names)
    return made


def reordered(base, words, classes):
    """A base with the rows of some words and classes of another, in the order given; -1: a row of its own."""
    generator = torch.Generator().manual_seed(5)
    made = sf.LSTMClassifier(len(words), base.embedding_dim, base.hidden_dim, len(classes), readout=base.readout)
    with torch.no_grad():
        for key, weight in made.state_dict().items():
            theirs = base.state_dict()[key]
            order = words if key == EMBEDDING else classes if key in LINEAR_KEYS else None
            if order is None:
                weight.copy_(theirs)
                continue
            for row, old in enumerate(order):
                fresh = torch.randn(weight[row].shape, generator=generator)
                weight[row] = theirs[old] if old >= 0 else fresh
    made.vocabulary = tuple(base.vocabulary[old] if old >= 0 else f"new{row}" for row, old in enumerate(words))
    made.class_names = tuple(base.class_names[old] if old >= 0 else f"fresh{row}" for row, old in enumerate(classes))
    return made


@pytest.fixture(scope="module")
def old(toy, toy_base):
    """An older base and a module of class k1 with real scores."""
    base = named(toy_base, toy.words, toy.class_names)
    (module,) = sf.reengineer(base, toy, [1], keep_scores=True, **RUN)
    return module


def test_words_and_classes_move_with_their_names(toy, old):
    base = old.base
    words = [0, 1, *reversed(range(4, base.vocab_size)), -1, -1]  # two gone, two new, the rest in another order
    new = reordered(base, words, [2, -1, 1, 0])  # k3 gone, a new one, the others renumbered
    rebase = Rebase(base, new)
    assert rebase.taken == dict.fromkeys(("embedding", "lstm", "linear"), BY_WEIGHT)
    scores = rebase.scores(old)
    for row, word in enumerate(words):
        if word < 0:
            assert scores[EMBEDDING][row].isnan().all()
        else:
            assert torch.equal(scores[EMBEDDING][row], old.scores[EMBEDDING][word].double())
    for key in LSTM_KEYS:
        assert torch.equal(scores[key], old.scores[key].double())
    for key in LINEAR_KEYS:
        assert torch.equal(scores[key][[0, 2, 3]], old.scores[key][[2, 1, 0]].double())
        assert scores[key][1].isnan().all()
    initial = torch.full((2, 4), 9.0), torch.zeros(2)
    weight, bias = rebase.head(old, initial)
    assert torch.equal(weight[:, [0, 2, 3]], old.head[0][:, [2, 1, 0]]) and (weight[:, 1] == 9).all()
    assert torch.equal(bias, old.head[1]) and (initial[0] == 9).all()
    assert rebase.target(old) == (2,)

    found = rebase.as_dict()
    count = len(words)
    assert found["words"] == {"taken_over": count - 2, "new": 2, "gone": 2}
    assert found["classes"] == {
        "taken_over": ["k2", "k1", "k0"],
        "new": ["fresh1"],
        "gone": ["k3"],
        "renumbered": {"k2": [2, 0], "k1": [1, 2], "k0": [0, 3]},
    }
    lines = rebase.sentences()
    assert f"{count - 2} words taken over, 2 new, 2 gone" in lines[0]
    assert lines[1] == (
        "classes, by name: 3 taken over, 1 new ('fresh1'), 1 gone ('k3'), "
        "3 renumbered (k2 2 -> 0, k1 1 -> 2, k0 0 -> 3)"
    )
    assert len(lines) == 2


def test_units_that_are_not_the_same_are_not_taken_for_it(toy, old):
    other = named(toy_weights.make_base(toy, seed=3), toy.words, toy.class_names)
    rebase = Rebase(old.base, other)
    assert rebase.taken == {"embedding": BY_WORD, "lstm": "", "linear": ""}
    generator = torch.Generator().manual_seed(0)
    drawn = {key: torch.randn(score.shape, generator=generator) - 1 for key, score in old.scores.items()}
    scattered = sf.SeamModule(old.base, old.target, drawn, old.head)
    scores = rebase.scores(scattered)
    kept_words = scattered.mask.dense(EMBEDDING).any(1)
    assert kept_words.any() and not kept_words.all()
    assert torch.equal((scores[EMBEDDING] > 0).all(1), kept_words)
    assert torch.equal((scores[EMBEDDING] > 0).any(1), kept_words)
    assert all(scores[key].isnan().all() for key in (*LSTM_KEYS, *LINEAR_KEYS))
    lines = rebase.sentences()
    assert lines[2].startswith("embedding: taken over word by word, since the units of the bases are not the same")
    assert lines[3].startswith("lstm: not taken over, since") and lines[4].startswith("linear: not taken over, since")


def test_a_base_that_was_trained_further_has_the_same_units(toy, old):
    further = copy.deepcopy(old.base)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adam = torch.optim.Adam(further.parameters(), lr=0.01)
        for _ in range(20):
            adam.zero_grad()
            logits = further(toy.train.ids, toy.train.lengths)
            torch.nn.functional.cross_entropy(logits, toy.train.labels).backward()
            adam.step()
    rebase = Rebase(old.base, further)
    assert not rebase.same and set(rebase.taken.values()) == {BY_WEIGHT}
    scores = rebase.scores(old)
    assert all(torch.equal(scores[key], score.double()) for key, score in old.scores.items())


def test_the_same_base_is_taken_as_it_is(toy, old):
    rebase = Rebase(old.base, copy.deepcopy(old.base))
    assert rebase.same and rebase.sentences() == [] and rebase.target(old) == old.target


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ({"embedding_dim": 7}, {"embedding": BY_WORD, "lstm": "", "linear": ""}),
        ({"hidden_dim": 9}, {"embedding": BY_WORD, "lstm": "", "linear": ""}),
    ],
)
def test_other_sizes(toy, old, sizes, taken):
    other = named(toy_weights.make_base(toy, seed=3, **sizes), toy.words, toy.class_names)
    rebase = Rebase(old.base, other)
    assert rebase.taken == taken
    shapes = {key: tuple(weight.shape) for key, weight in other.weights().items()}
    assert {key: tuple(score.shape) for key, score in rebase.scores(old).items()} == shapes
    assert "lstm: not taken over, since its layers, directions or sizes are others" in rebase.sentences()[3]


def test_where_nothing_can_be_taken_over(toy, old):
    nameless = toy_weights.make_base(toy, seed=3, hidden_dim=9)
    with pytest.raises(sf.CheckpointError, match=r"^nothing of a module .*: embedding: a base does not say its words;"):
        Rebase(nameless, old.base)
    foreign = named(nameless, [f"other{k}" for k in range(toy.vocab_size)], toy.class_names)
    with pytest.raises(sf.CheckpointError, match="the bases share no word"):
        Rebase(foreign, old.base)


def test_the_runs_words_and_classes_stand_for_a_base_that_does_not_say_them(toy, old):
    nameless = toy_weights.make_base(toy, seed=3)
    rebase = Rebase(old.base, nameless, toy.words, toy.class_names)
    assert rebase.taken["embedding"] == BY_WORD and rebase.target(old) == (1,)


def test_classes_by_number_where_names_are_not_said(toy, old):
    without = copy.deepcopy(old.base)
    without.class_names = None
    with torch.no_grad():
        without.hidden2label.bias += 1
    rebase = Rebase(without, old.base)
    assert rebase.target(old) == old.target
    assert rebase.sentences()[1].startswith("classes, by number, not by name: 4 taken over")


def test_a_score_that_is_not_a_number_is_dropped(toy, old):
    scores = {key: score.clone() for key, score in old.scores.items()}
    scores[EMBEDDING][2, 0] = torch.nan
    broken = sf.SeamModule(old.base, old.target, scores, old.head)
    assert Rebase(old.base, old.base).scores(broken)[EMBEDDING][2, 0] == -torch.inf


def test_correlation():
    values = torch.arange(6.0).reshape(2, 3)
    assert correlation(values, 3 * values + 1) == pytest.approx(1)
    assert correlation(values, -values) == pytest.approx(-1)
    assert correlation(values, torch.ones(2, 3)) == 0.0
    assert correlation(values, values * torch.nan) == 0.0


# -- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_run_from_last_weeks_module(toy, old, backend):
    """Over a corpus that has grown by words, with its classes in another order."""
    corpus = toy_data.make_corpus((9, 14, 20, 6), seed=4)
    base = toy_weights.make_base(corpus, seed=2)
    names = tuple(corpus.class_names)
    target = names.index("k1")
    with pytest.warns(sf.DataWarning) as said:
        made, again = (sf.reengineer(base, corpus, [target], start=[old], backend=backend, **RUN)[0] for _ in range(2))
    lines = [str(one.message) for one in said]
    assert any("words taken over" in line for line in lines) and any("classes, by name" in line for line in lines)
    start = made.card["start"]
    assert start["module"]["base_hash"] == old.base_hash and start["head"] == "taken over"
    assert start["rebase"]["groups"]["embedding"]["taken_over"] == BY_WORD
    shared = set(corpus.words) & set(toy.words)
    assert start["rebase"]["words"]["taken_over"] == len(shared)
    assert made.mask == again.mask and made.history[0]["cross_entropy"] == again.history[0]["cross_entropy"]


def test_the_command_says_what_has_changed(finished, capsys, monkeypatch):
    """Last week's run, then a corpus with more documents and a base of its own."""
    import shutil

    shutil.move("runs/own", "last")
    for path in sorted((finished / "corpus").iterdir()):
        if "train" in path.name:
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines[3:], *(f"{line} entirely novel" for line in lines[:6])]))
    own = ["--dataset", "own", "--data-dir", "corpus"]
    assert main(["train", *own, "--epochs", "2", "--seed", "3"]) == 0
    capsys.readouterr()
    assert main(["reengineer", *own, "--steps", "20", "--no-plots", "--start", "last"]) == 0
    error = capsys.readouterr().err
    assert "seam-fast: warning: start: an older base (" in error and "words taken over" in error
    assert main(["reengineer", *own, "--steps", "20", "--no-plots", "--start", "last/modules"]) == 0
    path = next((finished / "last" / "modules").iterdir())
    shutil.copy(path, "alone.safetensors")
    capsys.readouterr()
    assert main(["reengineer", *own, "--steps", "20", "--no-plots", "--start", "alone.safetensors"]) == 1
    assert "load it with the base it was trained on (on the command line --start-base)" in capsys.readouterr().err
    flags = ["--start", "alone.safetensors", "--start-base", "last/base.safetensors", "--targets", "0"]
    assert main(["reengineer", *own, "--steps", "20", "--no-plots", *flags]) == 0

"""Judging modules on documents of any origin: words and classes are the base's, as are those that are unknown to it."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.own_corpus import MODULE, TEST, TRAIN, write

import seam_fast as sf
from seam_fast import DataError, DataWarning, LSTMClassifier, SeamModule, TrainingError
from seam_fast.classifier.metrics import binary_metrics, undefined_as_none, why_no_better_than_chance
from seam_fast.cli.main import main


def place(options):
    return [] if "--documents" in options else ["--data-dir", "corpus"]


def judge(capsys, *options, module=MODULE):
    capsys.readouterr()
    assert main(["evaluate", module, *place(options), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)["metrics"]


def refused(capsys, *options, module=MODULE):
    capsys.readouterr()
    assert main(["evaluate", module, *place(options), *options]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err
    return shown.err.splitlines()[-1]


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train",
    [["grain\tsomething new in front\n", *TRAIN], TRAIN[::-1], TRAIN[:6], [*TRAIN, *(f"rye\tother{n}\n" for n in "ab")],
     [line.replace("all", "every") for line in TRAIN]],
    ids=["a line in front", "another order", "fewer documents", "another class", "other words"],
)  # fmt: skip
def test_figures_do_not_depend_on_the_training_file(finished, capsys, train):
    before = judge(capsys)
    with safe_open(MODULE, "pt") as file:
        assert json.loads(file.metadata()["card"])["metrics"] == before
    write(finished / "corpus", train)
    assert judge(capsys) == before


def test_figures_on_any_labelled_file(finished, capsys):
    before = judge(capsys)
    Path("more.txt").write_text("".join(reversed(TEST)))
    same = judge(capsys, "--documents", "more.txt")
    assert same["test"] == before["test"] and same["base"] == before["base"]
    Path("raw.txt").write_text("".join(TEST).replace("all", "ALL").replace("ship\t", "ship \t"))
    assert judge(capsys, "--documents", "raw.txt")["test"] == before["test"]  # words in capitals are the same words
    assert main(["evaluate", MODULE, "--documents", "more.txt"]) == 0
    assert "target grain on more.txt" in capsys.readouterr().out


def test_a_larger_vocabulary_is_no_traceback(finished, capsys):
    more = [f"{line.rstrip()} new{n}\n" for n, line in enumerate(TRAIN)]
    write(finished / "corpus", [*more, *TRAIN], [f"{line.rstrip()} newer{n}\n" for n, line in enumerate(TEST)])
    figures = judge(capsys)
    assert figures["test"]["documents"] == 30 and figures["test"]["targets"] == 10


def test_documents_of_classes_that_the_base_does_not_know_are_others(finished, capsys):
    before = judge(capsys)["test"]
    Path("more.txt").write_text("".join([*TEST, *(f"rye\tall1 rye{n}\n" for n in range(5))]))
    after = judge(capsys, "--documents", "more.txt")["test"]
    assert (after["documents"], after["targets"]) == (35, 10)
    assert after["recall"] == before["recall"] and after["true_positive"] == before["true_positive"]
    main(["evaluate", MODULE, "--documents", "more.txt"])
    assert "the base does not know the class of 5 documents ('rye')" in capsys.readouterr().err


def test_a_target_without_documents_has_no_f1(finished, capsys):
    write(finished / "corpus", test=[line for line in TEST if not line.startswith("grain")])
    figures = judge(capsys)
    for key in ("test", "base"):
        assert figures[key]["targets"] == 0 and figures[key]["f1"] is figures[key]["recall"] is None
        assert figures[key]["accuracy"] is not None
    assert main(["evaluate", MODULE, "--data-dir", "corpus"]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "module, whole test set" in line)
    assert row.split()[4:7] == ["-", "-", "-"] and "nothing can be said of its F1" in shown


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["rye\tx\n", "oats\ty\n"], "line 1: the base knows none of the classes here ('rye', 'oats'); its own are"),
        (["Grain\tx\n", "ship\ty\n"], "line 1: class 'Grain' beside 'grain' of the base; write them alike"),
        (["label\ttext\n", "ship\ty\n"], "line 1: 'label\\ttext' looks like a header line"),
        (["gra\u200bin\tx\n"], "line 1: the label 'gra\\u200bin' holds the invisible character U+200B"),
        (["grain x\n"], "line 1: no tab"),
        ([], "line 1: the file is empty"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_judged_on(finished, capsys, lines, sentence):
    Path("bad.txt").write_text("".join(lines), encoding="utf-8")
    assert sentence in refused(capsys, "--documents", "bad.txt")
    assert "nowhere.txt" in refused(capsys, "--documents", "nowhere.txt")


def test_a_base_that_does_not_say_its_words(finished, capsys):
    """Words are then numbered by the corpus, which is right for the very corpus it was trained on alone."""
    base = LSTMClassifier.load("runs/own/base.safetensors")
    before = judge(capsys)
    torch.save(base.state_dict(), "bare.pt")
    bare = LSTMClassifier.load("bare.pt", readout="last_word")
    bare.save("bare.safetensors")
    options = ["--base", "bare.safetensors", "--dataset", "own", "--tokenizer", "words"]
    assert judge(capsys, *options)["test"] == before["test"]
    assert main(["evaluate", MODULE, "--data-dir", "corpus", *options]) == 0
    assert "note: this base does not say its words" in capsys.readouterr().err
    assert "split by the tokenizer 'words', those of this base" in refused(capsys, *options[:5], "spaces")
    write(finished / "corpus", TRAIN[::-1])
    assert "these are not the documents it was trained on" in refused(capsys, *options)
    assert "does not say its words" in refused(
        capsys, "--base", "bare.safetensors", "--documents", "corpus/own-test-all-terms.txt"
    )


def test_chance_is_said(finished, capsys):
    swapped = {"earn": "grain", "grain": "ship", "ship": "earn"}
    wrong = [f"{swapped[line.partition(chr(9))[0]]}\t{line.partition(chr(9))[2]}" for line in TEST]
    write(finished / "corpus", test=wrong)
    judge(capsys)
    main(["evaluate", MODULE, "--data-dir", "corpus"])
    assert "warning: the base is no better than chance on these documents" in capsys.readouterr().err


def test_a_base_at_chance_is_said_when_it_is_trained(finished, capsys, monkeypatch):
    base = LSTMClassifier.load("runs/own/base.safetensors")
    with torch.no_grad():
        base.hidden2label.weight.zero_()
    monkeypatch.setattr("seam_fast.cli.bases.train_classifier", lambda *_, **__: base)
    assert main(["train", "--dataset", "own", "--data-dir", "corpus", "--out", "blind.safetensors"]) == 0
    assert "no better than chance on the test documents: 33.3 % are right" in capsys.readouterr().err


def test_reengineering_documents_in_another_order(finished, capsys):
    """Words and classes are numbered by the base, so that a module of grain is one of grain."""
    write(finished / "corpus", TRAIN[::-1])
    command = ["reengineer", "--dataset", "own", "--data-dir", "corpus", "--steps", "40", "--no-plots", "--json"]
    assert main([*command, "--targets", "grain", "--out", "again"]) == 0
    shown = capsys.readouterr()
    (row,) = json.loads(shown.out)["modules"]
    assert (row["target"], row["name"]) == ([1], "grain") and row["f1"] > 0.7 and row["base_f1"] > 0.7
    assert "hashes differ" in shown.err and "chance" not in shown.err


def test_targets_without_training_documents_are_left_out_of_all(finished, capsys):
    write(finished / "corpus", [line for line in TRAIN if not line.startswith("ship")])
    command = ["reengineer", "--dataset", "own", "--data-dir", "corpus", "--steps", "2", "--no-plots", "--out", "two"]
    assert main(command) == 0
    assert "note: no training documents, and so no module: ship" in capsys.readouterr().err
    assert sorted(path.name for path in Path("two/modules").iterdir()) == [
        "0-earn.safetensors", "1-grain.safetensors",
    ]  # fmt: skip


# --- from Python -----------------------------------------------------------------------------------------------------


def test_a_split_of_any_file(finished):
    base = LSTMClassifier.load("runs/own/base.safetensors")
    module = SeamModule.load(MODULE, base)
    Path("more.txt").write_text("grain\tgrain1 grain2 all1\nrye\tall1 unheard\nship\t\n")
    with pytest.warns(DataWarning, match=r"does not know the class of 1 documents \('rye'\)"):
        split = sf.load_split("more.txt", base)
    assert split.labels.tolist() == [1, -1, 2] and split.lengths.tolist() == [3, 2, 1]
    assert [base.vocabulary[i] for i in split.ids[0, :3]] == ["grain1", "grain2", "all1"]
    assert split.ids[1, 1] == split.ids[2, 0] == 1
    sf.evaluate_module(module, split, "more.txt")
    assert module.metrics["test"]["documents"] == 3 and module.metrics["test"]["targets"] == 1
    assert module.card["evaluated_on"] == {"source": "more.txt", "documents": 3}
    with pytest.raises(DataError, match="1 of 3 documents are of classes that this base does not know"):
        sf.evaluate_classifier(base, split)


def test_a_corpus_that_is_numbered_otherwise_is_refused(finished):
    base = LSTMClassifier.load("runs/own/base.safetensors")
    module = SeamModule.load(MODULE, base)
    before = copy.deepcopy(module.metrics)
    other = sf.load_corpus(write(finished / "other", TRAIN[::-1]), "own")
    with pytest.raises(TrainingError, match=r"numbers its words otherwise .* load_corpus\(folder, name, base=base\)"):
        sf.evaluate_module(module, other)
    larger = sf.load_corpus(write(finished / "other", [*TRAIN, "earn\tnew\n"]), "own")
    with pytest.raises(TrainingError, match=r"base knows \d+ words and 3 classes, the corpus has .* base=base"):
        sf.evaluate_module(module, larger)
    assert module.metrics == before
    sf.evaluate_module(module, sf.load_corpus(finished / "other", "own", base=base))
    assert module.metrics == before


def test_no_documents_at_all(finished):
    base = LSTMClassifier.load("runs/own/base.safetensors")
    nothing = sf.corpus.Split(torch.zeros(0, 8, dtype=torch.int64), *(torch.zeros(0, dtype=torch.int64),) * 2)
    with pytest.raises(DataError, match="no documents"):
        sf.evaluate_module(SeamModule.load(MODULE, base), nothing)


# --- one document, none ----------------------------------------------------------------------------------------------


def test_a_class_without_validation_documents_is_marked(tmp_path, monkeypatch, capsys):
    """Nothing chose its epoch: the one that is shown is the last."""
    write(tmp_path / "corpus", [*TRAIN, "rye\trye1 rye2 all1\n"], [*TEST, "rye\trye1 all2\n"])
    monkeypatch.chdir(tmp_path)
    own = ["--dataset", "own", "--data-dir", "corpus"]
    assert main(["train", *own, "--epochs", "4", "--smallest-class", "1"]) == 0
    assert main(["reengineer", *own, "--steps", "100", "--no-plots", "--targets", "rye,grain"]) == 0
    table = capsys.readouterr().out.partition("\n\n")[0]  # that of the costs follows
    rows = {line.split()[0]: line for line in table.splitlines() if line}
    assert "100/100" in rows["rye"] and rows["rye"].endswith("  not validated")
    assert rows["grain"].endswith("  not validated"), "fewer than ten of its documents are held out, too"
    unjudged = "fewer than 10 documents of its target were there to judge its epoch by"
    assert "not validated: rye, grain\n" in table and unjudged in table
    base = LSTMClassifier.load("runs/own/base.safetensors")
    assert SeamModule.load("runs/own/modules/3-rye.safetensors", base).card["marks"] == ["not validated"]
    assert main(["evaluate", "runs/own/modules/3-rye.safetensors", "--data-dir", "corpus"]) == 0
    assert f"NOT VALIDATED: {unjudged}" in capsys.readouterr().out
    # And a class without test documents has no F1 in the table.
    write(tmp_path / "corpus", [*TRAIN, "rye\trye1 rye2 all1\n"])
    assert main(["reengineer", *own, "--steps", "2", "--no-plots", "--targets", "rye,earn"]) == 0
    shown = capsys.readouterr().out
    rye = next(line.split() for line in shown.splitlines() if line.startswith("rye"))
    assert rye[1:5] == ["-", "-", "-", "-"]
    assert "without test documents, so nothing can be said of their F1 (-): rye" in shown
    mean, earn = (next(x.split() for x in shown.splitlines() if x.startswith(name)) for name in ("mean", "earn"))
    assert mean[1:3] == earn[1:3]


def test_figures_that_cannot_be_said():
    yes, no = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    figures = undefined_as_none(binary_metrics(no, no, torch.zeros(3)))
    assert {name for name, value in figures.items() if value is None} == {
        "precision", "recall", "f1", "balanced_accuracy", "average_precision",
    }  # fmt: skip
    figures = undefined_as_none(binary_metrics(no, yes, torch.zeros(3)))
    assert {name for name, value in figures.items() if value is None} == {"specificity", "balanced_accuracy"}
    assert figures["f1"] == 0
    both = torch.tensor([True, False, False])
    assert undefined_as_none(binary_metrics(yes, both)) == binary_metrics(yes, both)


@pytest.mark.parametrize(
    ("predicted", "labels", "says"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 1], True),  # always the most frequent class
        ([1, 1, 1, 0], [0, 0, 0, 1], True),
        ([0, 0, 1, 1], [0, 0, 0, 1], True),  # three right, as many as by always naming class 0
        ([0, 0, 0, 1], [0, 0, 0, 1], False),
        ([2, 2, 2], [2, 2, 2], False),  # one class: nothing to be told apart
        ([], [], False),
    ],
)
def test_chance(predicted, labels, says):
    sentence = why_no_better_than_chance(*(torch.tensor(each, dtype=torch.int64) for each in (predicted, labels)))
    assert bool(sentence) == says


def test_classes_without_documents_have_no_figures_in_a_record(toy, toy_base):
    figures = sf.evaluate_classifier(toy_base, toy.test).as_dict()
    assert all(row["f1"] is not None for row in figures["classes"])
    few = toy.test.labels != 2
    split = sf.corpus.Split(toy.test.ids[few], toy.test.lengths[few], toy.test.labels[few])
    row = sf.evaluate_classifier(toy_base, split).as_dict()["classes"][2]
    assert row == {"name": "2", "documents": 0, "precision": None, "recall": None, "f1": None}

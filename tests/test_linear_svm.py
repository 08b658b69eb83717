"""The linear SVM beside a module: it is scikit-learn's own, gets no more than the module has, and is judged fairly."""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import toy_data, toy_weights

import seam_fast as sf
from seam_fast import DataError, SeamModule
from seam_fast.classifier.metrics import binary_metrics
from seam_fast.classifier.tfidf import FOLDS, fold_numbers
from seam_fast.cli.main import main
from seam_fast.search import linear_svm
from seam_fast.search.linear_svm import LinearSVMs, best_threshold, compare

pytest.importorskip("sklearn")


def folds_of(wanted):
    return [fold_numbers(wanted) == fold for fold in range(FOLDS)]


def f1_of(says, wanted):
    return 2 * np.sum(says & wanted) / max(np.sum(says) + np.sum(wanted), 1)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30).filter(
        lambda drawn: any(wanted for _, wanted in drawn)
    )
)
@settings(deadline=None)
def test_the_threshold_is_the_best_one_and_parts_no_ties(drawn):
    margins, wanted = (np.array(column) for column in zip(*drawn, strict=True))
    threshold = best_threshold(margins.astype(float), wanted)
    assert threshold not in margins
    best = max(f1_of(margins >= each, wanted) for each in margins)
    assert f1_of(margins >= threshold, wanted) == best
    # Of the best ones it is the nearest to 0.
    places = sorted({*margins.tolist(), margins.min() - 1})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(places)]
    assert abs(threshold) == min(abs(each) for each in middles if f1_of(margins >= each, wanted) == best)


def test_the_bootstrap_is_that_of_documents():
    random = np.random.default_rng(3)
    wanted = random.random(400) < 0.2
    first, second = (wanted ^ (random.random(400) < share) for share in (0.05, 0.12))
    found = compare(first, second, wanted)
    assert found["difference"] == pytest.approx(f1_of(first, wanted) - f1_of(second, wanted))
    drawn = [random.integers(0, 400, 400) for _ in range(4000)]
    differences = [f1_of(first[each], wanted[each]) - f1_of(second[each], wanted[each]) for each in drawn]
    low, high = np.quantile(differences, (0.025, 0.975))
    # Each end is a quantile of a few thousand draws: its own error is about a twentieth of the interval's width.
    assert abs(found["low"] - low) < (high - low) / 8 and abs(found["high"] - high) < (high - low) / 8
    assert found["verdict"] == "better" and compare(second, first, wanted)["verdict"] == "worse"
    assert compare(first, first, wanted) == {"difference": 0, "low": 0, "high": 0, "verdict": "not told apart"}
    nothing = compare(first, second, np.zeros(400, dtype=bool))
    assert nothing == {"difference": None, "low": None, "high": None, "verdict": "not told apart"}


def make_module(corpus, target, density=1.0):
    base = toy_weights.make_base(corpus, steps=0)
    generator = torch.Generator().manual_seed(0)
    scores = {key: density - torch.rand(weight.shape, generator=generator) for key, weight in base.weights().items()}
    return SeamModule(base, target, scores, toy_weights.make_head(torch.float32, classes=base.num_classes))


@pytest.mark.parametrize("protocol", ["seam", "reference"])
@pytest.mark.parametrize("target", [(0,), (3,), (1, 2)])
def test_it_is_scikit_learns(protocol, target):
    """By another way: from texts of the words that the base reads, and thresholds by scikit-learn's own folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    corpus = toy_data.make_corpus(protocol=protocol)

    def read(split):
        rows = zip(split.ids.tolist(), split.lengths.tolist(), strict=True)
        return [" ".join(f"id{k}" for k in ids[:length]) for ids, length in rows]

    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(read(corpus.train))
    train, test = vectorizer.transform(read(corpus.train)), vectorizer.transform(read(corpus.test))
    wanted = np.isin(corpus.train.labels.numpy(), target)
    right = np.isin(corpus.test.labels.numpy(), target)
    module = make_module(corpus, target)
    found = LinearSVMs(corpus).judge(module)
    for kind in linear_svm.KINDS:
        machine = LinearSVC(penalty=kind, dual=kind == "l2", random_state=0, max_iter=5000).fit(train, wanted)
        margins = machine.decision_function(test)
        threshold = 0.0
        if wanted.sum() >= 10:
            out = np.empty(len(wanted))
            for fold in folds_of(wanted):
                part = LinearSVC(penalty=kind, dual=kind == "l2", random_state=0, max_iter=5000)
                out[fold] = part.fit(train[~fold], wanted[~fold]).decision_function(train[fold])
            threshold = best_threshold(out, wanted)
        says = margins - threshold >= 0
        figures = binary_metrics(*map(torch.from_numpy, (says, right, margins)))
        assert found[kind]["weights"] == np.count_nonzero(machine.coef_)
        for name in ("precision", "recall", "f1", "accuracy", "average_precision"):
            assert found[kind][name] == pytest.approx(figures[name], abs=1e-9), (kind, name)
        own = module.predict(corpus.test.ids, corpus.test.lengths).numpy()
        assert found[kind]["difference"] == pytest.approx(f1_of(own, right) - f1_of(says, right))


def test_folds_hold_every_document_once_and_targets_in_each():
    wanted = np.arange(43) % 4 == 0
    folds = folds_of(wanted)
    assert np.sum(folds, axis=0).tolist() == [1] * 43
    assert all(2 <= wanted[fold].sum() <= 3 for fold in folds)


def test_it_has_no_more_weights_than_the_module():
    corpus = toy_data.make_corpus()
    whole = LinearSVMs(corpus).judge(make_module(corpus, (0,)))
    small = make_module(corpus, (0,), 0.01)
    kept = sum(small.mask.counts().values())
    assert 0 < kept < whole["l2"]["weights"]
    assert 0 < LinearSVMs(corpus).judge(small)["l2"]["weights"] <= kept
    none = LinearSVMs(corpus).judge(make_module(corpus, (0,), -1.0))
    assert none["l2"]["weights"] == none["l1"]["weights"] == 0


def test_of_all_classes_or_none_there_is_no_detector():
    corpus = toy_data.make_corpus()
    assert LinearSVMs(corpus).judge(make_module(corpus, (0, 1, 2, 3))) == {}


def test_a_class_without_test_documents():
    corpus = toy_data.make_corpus(train=(8, 8, 12), test=(4, 4, 0))
    found = LinearSVMs(corpus).judge(make_module(corpus, (2,)))
    assert found["l2"]["f1"] is None and found["l2"]["difference"] is None and found["l2"]["accuracy"] is not None


def test_on_the_command_line(trained_once, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    arguments = ["reengineer", *toy_data.TINY, "--epochs", "2", "--no-plots", "--targets", "0"]
    capsys.readouterr()
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "SVM: F1 of a linear SVM fitted to the same documents and words" in table
    base = sf.LSTMClassifier.load("runs/tiny/base.safetensors")
    path = next((tmp_path / "runs/tiny/modules").glob("0-*.safetensors"))
    card = SeamModule.load(path, base).card
    assert set(card["svm"]) == {"l2", "l1"} and 0 <= card["svm"]["l2"]["f1"] <= 1

    judge = ["evaluate", str(path), "--data-dir", "corpus"]
    assert main([*judge, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["svm"] == {}  # it may be other documents than those of the run
    assert main([*judge, "--svm", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["svm"]
    assert shown["l2"]["f1"] == card["svm"]["l2"]["f1"] and shown["l1"]["weights"] == card["svm"]["l1"]["weights"]
    assert main([*judge, "--svm"]) == 0
    assert " words  " in capsys.readouterr().out

    (tmp_path / "more.txt").write_text("class0\tw0x1 all2\n")
    assert main(["evaluate", str(path), "--svm", "--documents", "more.txt"]) == 1
    assert "--svm has no effect with --documents, which has no training documents" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    assert main([*judge, "--svm"]) == 1
    assert "error: linear detectors need scikit-learn: pip install 'seam-fast[sklearn]'" in capsys.readouterr().err
    with pytest.raises(DataError):
        LinearSVMs(toy_data.make_corpus())
    assert main(arguments) == 0
    assert "no linear detector was fitted beside the modules" in capsys.readouterr().out
    assert "svm" not in SeamModule.load(path, base).card


def test_of_words_of_equal_weight_some_go():
    """Words that stand in the same documents have the same weight, so no least weight parts them."""
    from scipy.sparse import csr_matrix

    documents = csr_matrix(np.repeat([[1.0, 0.0], [0.0, 1.0]], 6, axis=0).repeat(4, axis=1))
    wanted = np.arange(12) < 6
    for kind, most in (("l2", 3), ("l2", 1), ("l2", 0)):
        assert np.count_nonzero(linear_svm._fit_svm(documents, wanted, kind, most)[0]) == most

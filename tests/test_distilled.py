"""Bases taught by a linear SVM: the teacher is scikit-learn's, and answers for the very words that the LSTM is fed."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from support import toy_data
from support.recipes import QUICK_STRONG, corpus_for, write_corpus
from torch.nn import functional as F

import seam_fast as sf
from seam_fast import DataError
from seam_fast.classifier import strong_recipe
from seam_fast.classifier.linear_teacher import fit_linear_teacher
from seam_fast.classifier.recipes import DistilledRecipe
from seam_fast.cli.main import main
from seam_fast.data.encoding import WholeTexts

pytest.importorskip("sklearn")

QUICK = DistilledRecipe(epochs=25, min_steps=15, batch_size=32, lstm_teachers=0)


@pytest.fixture
def tiny(tmp_path):
    return corpus_for(write_corpus(tmp_path), QUICK_STRONG)


def teacher_of(split, corpus):
    return fit_linear_teacher(split.ids, split.lengths, split.labels, corpus.num_classes, corpus.vocab_size)


@pytest.mark.parametrize("protocol", ["seam", "reference"])
def test_its_margins_are_scikit_learns(protocol):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    corpus = toy_data.make_corpus(protocol=protocol)
    teacher = teacher_of(corpus.train, corpus)

    def read(split):
        rows = zip(split.ids.tolist(), split.lengths.tolist(), strict=True)
        return [" ".join(f"id{k}" for k in ids[:length]) for ids, length in rows]

    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(read(corpus.train))
    documents = [vectorizer.transform(read(split)) for split in (corpus.train, corpus.test)]
    machine = LinearSVC(random_state=0, max_iter=5000).fit(documents[0], corpus.train.labels.numpy())
    margins = machine.decision_function(documents[1])
    found = teacher.probabilities(corpus.test.ids, corpus.test.lengths).log()
    # A softmax of one scale and a bias a class: differences of log-probabilities are those of margins, but for these.
    differences = (found[:, 1:] - found[:, :1]).double().numpy()
    for k in range(1, corpus.num_classes):
        slope, shift = np.polyfit(margins[:, k] - margins[:, 0], differences[:, k - 1], 1)
        rest = differences[:, k - 1] - slope * (margins[:, k] - margins[:, 0]) - shift
        assert np.abs(rest).max() < 1e-4, "float32's rounding of numbers of about ten"
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(found)))


def test_padding_and_what_stands_beside_have_no_say():
    corpus = toy_data.make_corpus()
    teacher, (ids, lengths, _) = teacher_of(corpus.train, corpus), corpus.test[:]
    whole = teacher.probabilities(ids, lengths)
    scribbled = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], 5)
    torch.testing.assert_close(teacher.probabilities(scribbled, lengths), whole)
    for k in range(4):
        alone = teacher.probabilities(ids[k : k + 1, : lengths[k]], lengths[k : k + 1])
        torch.testing.assert_close(alone[0], whole[k])


def test_it_is_calibrated_on_documents_it_was_not_fitted_to():
    """The scale is that of margins on held-out folds: less sure than the labels of its own documents would allow."""
    corpus = toy_data.make_corpus(train=(60, 50, 40, 30), test=(200, 150, 100, 100))
    teacher, test = teacher_of(corpus.train, corpus), corpus.test
    found = teacher.probabilities(test.ids, test.lengths).log()
    loss = F.nll_loss(found, test.labels)
    for scale in (0.3, 3.0):
        assert loss < F.nll_loss(torch.log_softmax(scale * found, 1), test.labels)


def test_a_class_without_documents_is_improbable():
    corpus = toy_data.make_corpus()
    chosen = corpus.train.labels != 2
    split = corpus.train
    parts = split.ids[chosen], split.lengths[chosen], split.labels[chosen]
    teacher = fit_linear_teacher(*parts, corpus.num_classes, corpus.vocab_size)
    found = teacher.probabilities(corpus.test.ids, corpus.test.lengths)
    assert found.isfinite().all() and found[:, 2].max() < 0.1


# -- windows -----------------------------------------------------------------------------------------------------------


def test_windows_are_pieces_of_the_whole_text():
    documents = [[f"w{n}" for n in range(start, start + size)] for start, size in ((2, 3), (5, 30), (35, 8), (43, 9))]
    index = {f"w{n}": n for n in range(2, 52)}
    whole = WholeTexts.of(documents, index)
    chosen = torch.tensor([1, 0, 3, 2, 1])
    ids = torch.zeros(5, 8, dtype=torch.int64)
    for row, document in enumerate(chosen.tolist()):
        words = documents[document][:8]
        ids[row, : len(words)] = torch.tensor([index[word] for word in words])
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(whole.windows(chosen, ids, torch.rand(2, 5, generator=generator), 0.0), ids)
    begins = set()
    for _ in range(300):
        found = whole.windows(chosen, ids, torch.rand(2, 5, generator=generator), 1.0)
        assert torch.equal(found[[1, 3]], ids[[1, 3]]), "texts that are read whole"
        begins |= {("long", k) for k in found[[0, 4], 0].tolist()} | {("nine", int(found[2, 0]))}
        for row in (0, 2, 4):
            assert found[row].tolist() == list(range(int(found[row, 0]), int(found[row, 0]) + 8))
    assert begins == {("long", k) for k in range(5, 28)} | {("nine", 43), ("nine", 44)}
    last = whole.windows(chosen, ids, torch.full((2, 5), 0.999), 1.0)
    assert last[0, -1] == 34 and last[2, -1] == 51, "the last window ends with the text"


def test_a_corpus_holds_its_training_texts_whole(tmp_path):
    lines = ["a\tone two three four five\n", "b\t...\n", "b\ttwo six\n", "a\tone\n"]
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    corpus = sf.load_corpus(tmp_path, "whole", config=sf.CorpusConfig(max_length=2, tokenizer="words"))
    words = [corpus.words[k] for k in corpus.whole_train.ids.tolist()]
    assert words == ["one", "two", "three", "four", "five", ".", ".", ".", "two", "six", "one"]
    assert corpus.whole_train.starts.tolist() == [0, 5, 8, 10, 11]
    config = sf.CorpusConfig(max_length=2, padding="word", vocabulary="train_and_test")
    assert sf.load_corpus(tmp_path, "whole", config=config).whole_train is None
    empty = WholeTexts.of([["x"], [], ["y"]], {"x": 2, "y": 3})
    assert empty.ids.tolist() == [2, 1, 3] and empty.starts.tolist() == [0, 1, 2, 3]


# -- training ----------------------------------------------------------------------------------------------------------


def test_it_learns_repeats_itself_and_says_how_it_was_made(tiny):
    base = sf.train_classifier(tiny, QUICK, seed=3)
    assert sf.evaluate_classifier(base, tiny.test).confusion[:2, :2].diag().tolist() == [4, 4]
    assert sf.train_classifier(tiny, QUICK, seed=3).hash == base.hash
    assert base.info["recipe"] == "distilled" and base.info["settings"]["window_share"] == 0.5
    assert sf.train_classifier(tiny, QUICK_STRONG, seed=3).hash != base.hash


def test_labels_are_the_teachers_for_the_words_that_are_fed(tiny, monkeypatch):
    seen = []
    loss = strong_recipe._loss
    monkeypatch.setattr(
        strong_recipe, "_loss", lambda model, batch, *rest: seen.append(batch) or loss(model, batch, *rest)
    )
    sf.train_classifier(tiny, dataclasses.replace(QUICK, epochs=1), seed=0)
    fit, _ = tiny.validation_indices()
    split = tiny.train
    teacher = fit_linear_teacher(
        split.ids[fit], split.lengths[fit], split.labels[fit], tiny.num_classes, tiny.vocab_size
    )
    assert len(seen) == 15 and any((batch.ids == tiny.unknown_id).any() for batch in seen)
    for batch in seen:
        torch.testing.assert_close(batch.labels, teacher.probabilities(batch.ids, batch.lengths))


def test_lstms_and_svm_have_half_a_say_each(tiny, monkeypatch):
    kept, teachers = [], strong_recipe.Teachers
    monkeypatch.setattr(strong_recipe, "Teachers", lambda *parts: kept.append(teachers(*parts)) or kept[-1])
    monkeypatch.setattr(strong_recipe, "StrongRecipe", lambda: dataclasses.replace(QUICK_STRONG, epochs=4))
    recipe, lines = dataclasses.replace(QUICK, lstm_teachers=2, epochs=2), []
    base = sf.train_classifier(tiny, recipe, seed=1, log=lines.append)
    assert "training teacher 2 of 2" in lines and sum("epoch 4/4" in line for line in lines) == 2
    linear, lstms = kept[0]
    assert len(lstms) == 2 and lstms[0].hash != lstms[1].hash
    ids, lengths, _ = tiny.test[:]
    each = [torch.softmax(one(ids, lengths), 1) for one in lstms]
    wanted = linear.probabilities(ids, lengths) / 2 + (each[0] + each[1]) / 4
    torch.testing.assert_close(kept[0].probabilities(ids, lengths), wanted)
    assert sf.train_classifier(tiny, recipe, seed=1).hash == base.hash
    assert sf.train_classifier(tiny, dataclasses.replace(recipe, lstm_teachers=1), seed=1).hash != base.hash


def test_without_scikit_learn_it_says_so_before_it_trains(trained_once, monkeypatch, capsys):
    monkeypatch.chdir(trained_once)
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    with pytest.raises(DataError, match=r"distilled bases need scikit-learn: pip install 'seam-fast\[sklearn\]'"):
        sf.train_classifier(toy_data.make_corpus(), "distilled")
    capsys.readouterr()
    assert main(["train", *toy_data.TINY, "--recipe", "distilled", "--out", "d.safetensors"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("seam-fast: error: distilled bases need scikit-learn")


def test_on_the_command_line(trained_once, tmp_path, monkeypatch):
    monkeypatch.chdir(trained_once)
    out = str(tmp_path / "d.safetensors")
    monkeypatch.setattr(strong_recipe, "StrongRecipe", lambda: dataclasses.replace(QUICK_STRONG, epochs=1))
    assert main(["train", *toy_data.TINY, "--recipe", "distilled", "--epochs", "2", "--out", out]) == 0
    base = sf.LSTMClassifier.load(out)
    assert base.info["recipe"] == "distilled" and base.info["settings"]["epochs"] == 2 and "test" in base.info
    before = (tmp_path / "d.safetensors").stat().st_mtime_ns
    assert main(["train", *toy_data.TINY, "--recipe", "distilled", "--epochs", "2", "--out", out, "--reuse"]) == 0
    assert (tmp_path / "d.safetensors").stat().st_mtime_ns == before

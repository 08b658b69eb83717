"""Training a base by either recipe, on corpora that take a second."""

import json
from dataclasses import replace

import pytest
import torch
from support import by_hand
from support.recipes import QUICK_PUBLIC, QUICK_STRONG, write_corpus

from seam_fast.classifier import strong_recipe
from seam_fast.classifier.evaluate import evaluate_classifier
from seam_fast.classifier.recipes import StrongRecipe
from seam_fast.classifier.training import train_classifier
from seam_fast.classifier.training_run import new_model
from seam_fast.classifier.word_vectors import cooccurrence_vectors
from seam_fast.data.corpus import CorpusConfig, load_corpus
from seam_fast.errors import TrainingError


@pytest.mark.parametrize("recipe", [QUICK_PUBLIC, QUICK_STRONG], ids=["public", "strong"])
def test_training_is_deterministic_and_leaves_the_random_state_alone(tiny, recipe):
    corpus = load_corpus(tiny, "tiny", protocol="reference" if recipe.name == "public" else "seam")
    random_state, lines = torch.get_rng_state(), []
    first = train_classifier(corpus, recipe, seed=1, epochs=3, log=lines.append)
    assert torch.equal(random_state, torch.get_rng_state())
    torch.manual_seed(5)
    torch.set_num_threads(2)
    assert train_classifier(corpus, recipe, seed=1, epochs=3, progress=True).hash == first.hash
    assert torch.get_num_threads() == 2
    assert train_classifier(corpus, recipe, seed=2, epochs=3).hash != first.hash
    assert len([line for line in lines if line.startswith("epoch ")]) == 3
    assert first.info["settings"]["epochs"] == 3 and first.info["seed"] == 1 and first.info["recipe"] == recipe.name
    json.dumps(first.info)


@pytest.mark.parametrize("recipe", [QUICK_PUBLIC, QUICK_STRONG], ids=["public", "strong"])
def test_a_tiny_corpus_is_learned(tiny, recipe):
    # Reading behind 24 words of padding takes SGD longer than a test may last, so the rows are short.
    protocol = "reference" if recipe.name == "public" else "seam"
    corpus = load_corpus(tiny, "tiny", config=replace(CorpusConfig.for_protocol(protocol), max_length=8))
    model = train_classifier(corpus, recipe, seed=0)
    assert model.readout == ("last_position" if recipe.name == "public" else "last_word")
    assert model.class_names == corpus.class_names and model.vocabulary == tuple(corpus.words)
    assert (model.embedding_dim, model.hidden_dim) == (100, 50)
    figures = evaluate_classifier(model, corpus.test)
    assert figures.recall[:2].min() >= 0.75, figures.confusion  # the third class has two documents, one to learn from


def test_many_classes_and_other_sizes(tmp_path):
    corpus = load_corpus(write_corpus(tmp_path, classes=52, per_class=2), "many")
    model = train_classifier(corpus, epochs=1, embedding_dim=12, hidden_dim=7)
    assert (model.num_classes, model.embedding_dim, model.hidden_dim) == (52, 12, 7)
    assert evaluate_classifier(model, corpus.test).total == 208


@pytest.mark.parametrize("recipe", [QUICK_PUBLIC, QUICK_STRONG], ids=["public", "strong"])
def test_several_layers_and_both_directions(tiny, recipe):
    """They learn by either recipe; in the strong one the reverse direction begins at the prefix's own end."""
    protocol = "reference" if recipe.name == "public" else "seam"
    corpus = load_corpus(tiny, "tiny", config=replace(CorpusConfig.for_protocol(protocol), max_length=8))
    lines = []
    model = train_classifier(
        corpus, recipe, embedding_dim=12, hidden_dim=7, num_layers=2, bidirectional=True, log=lines.append
    )
    assert (model.num_layers, model.bidirectional, model.hidden2label.in_features) == (2, True, 14)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines if line.startswith("epoch ")]
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.weights().values())


def test_the_second_reading_sees_no_word_behind_its_prefix(tiny, monkeypatch):
    """Of a base with both directions: the rows that are read have to be those of the shortened documents alone."""
    corpus = load_corpus(tiny, "tiny")
    recipe = StrongRecipe(word_dropout=0.0, vector_dropout=0.0, dropout=0.0, label_smoothing=0.0)
    sizes = {"embedding_dim": 6, "hidden_dim": 4, "num_layers": 2, "bidirectional": True}
    model = new_model(corpus, sizes, "last_word", torch.Generator().manual_seed(0))
    batch, seen = torch.arange(6), []
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))  # a quarter of each
    drawn = strong_recipe._draw_batch(corpus, batch, recipe, (6, 8), None)
    loss = strong_recipe._loss(model, drawn, recipe, model)
    lengths, labels = corpus.train.lengths[batch], corpus.train.labels[batch]
    for prefix in (lengths, torch.minimum((0.25 * lengths).long() + 1, lengths)):
        logits = by_hand.deep_logits(model.weights(), corpus.train.ids[batch], prefix, "last_word", 2, True)
        seen.append(torch.nn.functional.cross_entropy(logits, labels))
    torch.testing.assert_close(loss, sum(seen), rtol=0, atol=1e-5)


def test_strong_without_an_unknown_word(tiny):
    corpus = load_corpus(tiny, "tiny", protocol="reference")
    model = train_classifier(corpus, QUICK_STRONG, epochs=2)
    assert model.readout == "last_word" and model.vocab_size == corpus.vocab_size


def test_vectors_put_words_of_the_same_company_together():
    # Words 1 and 2 stand between the same neighbours, 3 and 4 between others; 5 stands alone; 0 and 6 are never seen.
    texts = [torch.tensor(t) for t in ([7, 1, 8, 7, 2, 8], [9, 3, 10, 9, 4, 10], [8, 2, 7], [10, 4, 9], [5])] * 3
    vectors = cooccurrence_vectors(texts, 11, 4, 2, torch.Generator().manual_seed(0))
    assert vectors.shape == (11, 4) and vectors.dtype == torch.float32
    assert vectors[[0, 5, 6]].abs().max() == 0
    met = vectors[[1, 2, 3, 4, 7, 8, 9, 10]]
    assert met.std(correction=0) == pytest.approx(1, abs=1e-5)
    like = torch.nn.functional.cosine_similarity
    assert like(vectors[1], vectors[2], 0) > 0.8 > 0.2 > like(vectors[1], vectors[3], 0).abs()
    alone = cooccurrence_vectors([torch.tensor([1])], 11, 4, 2, torch.Generator().manual_seed(0))
    assert alone.abs().max() == 0


def test_strong_never_sees_the_validation_documents(tiny):
    corpus = load_corpus(tiny, "tiny")
    _, held_out = corpus.validation_indices(0.1, seed=0)
    ids = corpus.train.ids.clone()
    ids[held_out, 0] = 2
    labels = corpus.train.labels.clone()
    labels[held_out] = 0
    changed = replace(corpus, train=replace(corpus.train, ids=ids, labels=labels))
    # The split follows the labels, so the changed corpus has to keep the old one.
    fit = corpus.validation_indices(0.1, seed=0)
    object.__setattr__(changed, "validation_indices", lambda *_, **__: fit)
    assert train_classifier(changed, epochs=2).hash == train_classifier(corpus, epochs=2).hash


@pytest.mark.parametrize("recipe", [QUICK_PUBLIC, QUICK_STRONG], ids=["public", "strong"])
def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(tiny, recipe, monkeypatch):
    corpus = load_corpus(tiny, "tiny")
    real, calls = torch.nn.functional.cross_entropy, []

    def poisoned(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options) * (float("nan") if len(calls) > 3 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", poisoned)
    with pytest.raises(TrainingError, match=r"loss is nan in epoch \d+, step \d+"):
        train_classifier(corpus, recipe, epochs=5)


def test_settings_that_make_no_sense(tiny):
    corpus = load_corpus(tiny, "tiny")
    with pytest.raises(TrainingError, match="recipe must be one of public, strong, distilled, got 'best'"):
        train_classifier(corpus, "best")
    with pytest.raises(TrainingError, match="epochs is 0; it must be at least 1"):
        train_classifier(corpus, epochs=0)

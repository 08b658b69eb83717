"""Training a base on a device: the same sequence of operations, run on the CPU, beside the training of the CPU."""

import dataclasses

import pytest
import torch
from support.recipes import QUICK_STRONG, RECIPES, SHAPES, corpus_for, losses

from seam_fast import TrainingError, evaluate_classifier, train_classifier
from seam_fast.classifier import public_recipe, strong_recipe, word_vectors
from seam_fast.classifier.device_training import EpochSteps, training_device

CPU = torch.device("cpu")


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Lets training take the way of a GPU, on the CPU."""

    def choose():
        monkeypatch.setattr(strong_recipe, "_epochs_on_cpu", strong_recipe._epochs_on_device)
        monkeypatch.setattr(public_recipe, "_steps_on_cpu", public_recipe._steps_on_device)

    return choose


@SHAPES
@RECIPES
def test_a_device_trains_what_the_cpu_trains(tiny, recipe, shape, as_on_a_device):
    """The same draws; losses and weights differ by rounding, which a few epochs do not blow up."""
    corpus = corpus_for(tiny, recipe)
    recipe = dataclasses.replace(recipe, batch_size=7, epochs=3)  # the last batch of recipe public is smaller
    options = {"embedding_dim": 12, "hidden_dim": 7, "num_layers": shape[0], "bidirectional": shape[1], "seed": 3}
    said: list[list[str]] = [[], []]
    wanted = train_classifier(corpus, recipe, log=said[0].append, **options)
    as_on_a_device()
    found = train_classifier(corpus, recipe, log=said[1].append, **options)
    assert len(losses(said[0])) == 3 and losses(said[1]) == pytest.approx(losses(said[0]), abs=2e-4)
    for key, weight in wanted.weights().items():
        torch.testing.assert_close(found.weights()[key], weight, rtol=2e-3, atol=2e-4)
    assert found.info.keys() == wanted.info.keys() and "device" not in found.info
    assert evaluate_classifier(found, corpus.test).total == len(corpus.test)


@RECIPES
def test_a_loss_that_is_not_finite_is_found_at_the_end_of_its_epoch(tiny, recipe, as_on_a_device, monkeypatch):
    corpus = corpus_for(tiny, recipe)
    real, calls = torch.nn.functional.cross_entropy, []

    def poisoned(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options) * (float("nan") if len(calls) > 3 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", poisoned)
    as_on_a_device()
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, step \d+"):
        train_classifier(corpus, recipe, epochs=5)


def test_steps_are_fed_slice_by_slice_and_nothing_is_read_before_the_end():
    seen = []

    def step(number, vector):
        seen.append((int(number), vector.tolist()))
        return vector.sum()

    steps = EpochSteps(CPU, step)
    for epoch in (0, 10):
        numbers = torch.arange(3) + epoch
        steps.begin([numbers, numbers[:, None] * torch.ones(2)])
        steps.run(1)
        steps.run(2)
        assert steps.losses() == [2.0 * epoch, 2.0 * epoch + 2, 2.0 * epoch + 4]
    assert [number for number, _ in seen] == [0, 1, 2, 10, 11, 12] and seen[4][1] == [11.0, 11.0]


def test_a_device_counts_the_same_pairs():
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 30, (n,), generator=generator) for n in (1, 9, 40, 2, 17, 64, 3)]
    for part, window in ((texts, 15), (texts, 1), (texts[:1], 4), (texts, 0)):
        wanted = word_vectors.count_pairs(part, 31, window)
        found = word_vectors.count_pairs_on(CPU, part, 31, window)
        assert torch.equal(found.indices(), wanted.indices())
        torch.testing.assert_close(found.values(), wanted.values())


def test_devices_that_cannot_train_are_refused(tiny, monkeypatch):
    corpus = corpus_for(tiny, QUICK_STRONG)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TrainingError, match="device is 'cuda', but torch sees no GPU here"):
        train_classifier(corpus, QUICK_STRONG, device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="device is 'cuda:2', but torch sees 2 GPUs here"):
        training_device("cuda:2")
    assert training_device("cuda:1") == torch.device("cuda", 1)
    for bad in ("mps", "gpu", 3.5, None):
        with pytest.raises(TrainingError, match="it must be 'cpu', 'cuda' or one GPU"):
            training_device(bad)

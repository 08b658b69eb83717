"""The rest of a run on a GPU: a base's training and evaluation there, scores stepped without a wait.

test_device_training.py runs the same sequence of operations on the CPU.
"""

import dataclasses

import pytest
import torch
from support.recipes import QUICK_PUBLIC, QUICK_STRONG, RECIPES, SHAPES, corpus_for, losses

from seam_fast import MaskedEmbedding, MaskedLinear, MaskedLSTM, ScoreAdam, evaluate_classifier, train_classifier
from seam_fast.backend import unavailable_reason
from seam_fast.classifier import word_vectors
from seam_fast.classifier.evaluate import predict_logits

if unavailable_reason("cuda"):
    pytest.skip(f"needs a GPU and the CUDA kernels: {unavailable_reason('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("faults_show_where_they_arise")


@SHAPES
@RECIPES
def test_a_gpu_trains_what_the_cpu_trains_and_the_same_each_time(tiny, recipe, shape, monkeypatch):
    corpus = corpus_for(tiny, recipe)
    recipe = dataclasses.replace(recipe, batch_size=7, epochs=3)
    options = {"embedding_dim": 12, "hidden_dim": 7, "num_layers": shape[0], "bidirectional": shape[1], "seed": 3}
    said: list[list[str]] = [[], [], []]
    # Vectors begin with the CPU's counts: of so few texts, rounding would turn them.
    monkeypatch.setattr(word_vectors, "count_pairs_on", lambda device, *rest: word_vectors.count_pairs(*rest))
    wanted = train_classifier(corpus, recipe, log=said[0].append, **options)
    found, again = (train_classifier(corpus, recipe, log=lines.append, device="cuda", **options) for lines in said[1:])
    assert losses(said[1]) == pytest.approx(losses(said[0]), abs=2e-3)
    for key, weight in wanted.weights().items():
        torch.testing.assert_close(found.weights()[key], weight, rtol=1e-2, atol=2e-3)
    assert again.hash == found.hash and found.hidden2label.weight.device.type == "cpu"
    assert found.info["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("recipe", [QUICK_PUBLIC, QUICK_STRONG], ids=["public", "strong"])
def test_a_base_is_judged_where_it_is(tiny, recipe):
    corpus = corpus_for(tiny, recipe)
    base = train_classifier(corpus, recipe, device="cuda")
    wanted, logits = evaluate_classifier(base, corpus.test), predict_logits(base, corpus.test.ids, corpus.test.lengths)
    base.cuda()
    assert torch.equal(evaluate_classifier(base, corpus.test).confusion, wanted.confusion)
    there = predict_logits(base, corpus.test.ids, corpus.test.lengths)
    torch.testing.assert_close(there.cpu(), logits, rtol=1e-4, atol=1e-4)


def test_the_gpu_counts_the_same_pairs_each_time():
    texts = [torch.randint(0, 300, (n,)) for n in (1, 9, 40, 2, 17, 64, 3) * 30]
    wanted = word_vectors.count_pairs(texts, 301, 15)
    found = [word_vectors.count_pairs_on(torch.device("cuda"), texts, 301, 15) for _ in range(3)]
    assert all(torch.equal(found[0].values(), again.values()) for again in found)
    assert torch.equal(found[0].indices(), wanted.indices()) and found[0].device.type == "cpu"
    torch.testing.assert_close(found[0].values(), wanted.values())


def test_scores_are_trained_without_a_wait():
    """Of embedding, LSTM and linear layer, as many parameters as there are: nothing is read back in a step."""
    torch.manual_seed(0)
    embedding, lstm, linear = MaskedEmbedding(40, 12), MaskedLSTM(12, 9), MaskedLinear(9, 4)
    for layer in (embedding, lstm, linear):
        layer.cuda()
    ids, labels = torch.randint(0, 40, (6, 5), device="cuda"), torch.randint(0, 4, (5,), device="cuda")
    lengths = torch.tensor([6, 2, 5, 1, 3], device="cuda")
    adam = ScoreAdam([*embedding.scores(), *lstm.scores(), *linear.scores()], lr=0.2, penalty=0.05)

    def step():
        adam.zero_grad()
        state = lstm(embedding(ids), lengths=lengths)[1][0][-1]
        torch.nn.functional.cross_entropy(linear(state), labels).backward()
        adam.step()

    step()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(12):
            step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    kept = adam.kept()
    assert kept == [int((score > 0).sum()) for group in adam.param_groups for score in group["params"]]
    assert all(isinstance(count, int) for count in kept)

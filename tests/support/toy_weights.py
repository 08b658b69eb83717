"""Weights by key, heads and trained bases of small sizes."""

import torch
from torch import nn

from seam_fast import SeamModule
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.data.corpus import Corpus

EMBEDDING = "word_embeddings.weight"
LSTM = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
LINEAR = ("hidden2label.weight", "hidden2label.bias")
KEYS = (EMBEDDING, *LSTM, *LINEAR)
V, E, H, C, T = 23, 4, 3, 5, 7  # words, embedding, hidden, classes, time steps
DEEP = ((2, False), (1, True), (2, True))  # layers, both directions: what a base may have besides (1, False)


def make_weights(dtype=torch.float64, seed=0, scale=0.7, sizes=(V, E, H, C)) -> dict[str, torch.Tensor]:
    """Random weights by key."""
    v, e, h, c = sizes
    shapes = ((v, e), (4 * h, e), (4 * h, h), (4 * h,), (4 * h,), (c, h), (c,))
    generator = torch.Generator().manual_seed(seed)
    draw = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return {key: tensor.to(dtype) for key, tensor in zip(KEYS, draw, strict=True)}


def make_deep_weights(num_layers, bidirectional, dtype=torch.float64, seed=0, scale=0.7, sizes=(V, E, H, C)):
    """Random weights by key of a base with such an LSTM, named and shaped as torch does."""
    v, e, h, c = sizes
    lstm = nn.LSTM(e, h, num_layers, bidirectional=bidirectional, device="meta")
    shapes = {EMBEDDING: (v, e)} | {f"lstm.{name}": part.shape for name, part in lstm.named_parameters()}
    shapes |= {LINEAR[0]: (c, 2 * h if bidirectional else h), LINEAR[1]: (c,)}
    generator = torch.Generator().manual_seed(seed)
    draw = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
    return {key: (scale * tensor).to(dtype) for key, tensor in draw.items()}


def make_head(dtype=torch.float64, seed=1, classes=C) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) - 0.4 for shape in ((2, classes), (2,))
    )


def single(weights, head, device="cpu"):
    """Both in float32, all that the compiled engine of a GPU takes."""
    return {key: weight.to(device, torch.float32) for key, weight in weights.items()}, tuple(
        part.to(device, torch.float32) for part in head
    )


def make_base(corpus: Corpus, steps=60, readout=None, embedding_dim=6, hidden_dim=5, seed=0) -> LSTMClassifier:
    """A classifier that has learned most of the corpus (0 steps: as drawn)."""
    readout = readout or ("last_word" if corpus.config.padding == "own" else "last_position")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small that a second thread only waits
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = LSTMClassifier(corpus.vocab_size, embedding_dim, hidden_dim, corpus.num_classes, readout=readout)
        adam = torch.optim.Adam(base.parameters(), lr=0.05)
        for _ in range(steps):
            adam.zero_grad()
            nn.functional.cross_entropy(base(corpus.train.ids, corpus.train.lengths), corpus.train.labels).backward()
            adam.step()
    torch.set_num_threads(threads)
    return base


NAMES = ["oats", "steel", "tin"]


def make_module(target, f1=0.5, base_f1=0.4, synthetic=False, evaluated=True):
    torch.manual_seed(0)
    base = LSTMClassifier(10, 4, 3, 3)
    scores = {key: torch.ones_like(weight) for key, weight in base.weights().items()}
    scores["word_embeddings.weight"][1:] = -1  # keeps 4 of 40
    history = [
        {"epoch": e, "kept": 1 / (e + 1), "kept_by_group": {}, "cross_entropy": 1.0}
        | ({"accuracy": 0.9 - e * e / 10, "f1": 0.4, "balanced_accuracy": 0.5 + e / 10} if evaluated else {})
        for e in range(3)
    ]
    counts = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.93, "precision": 0.6, "recall": 0.7}
    counts |= {"documents": 100}
    metrics = {key: counts | {"f1": f1} for key in ("test", "test_balanced")}
    metrics |= {key: counts | {"f1": base_f1} for key in ("base", "base_balanced")}
    card = {"target_names": [NAMES[k] for k in target], "class_names": NAMES, "vocabulary_floor": 0.25}
    card |= {"epochs": 3, "best_epoch": 1, "seconds": 2.5, "synthetic": synthetic, "settings": {"alpha": 0.2}}
    card |= {"evaluation": {"documents": "validation", "base": {"balanced_accuracy": 0.6}}}
    head = torch.zeros(2, 3), torch.zeros(2)
    return SeamModule(base, target, scores, head, history=history, metrics=metrics if evaluated else {}, card=card)

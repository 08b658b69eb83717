"""A small invented world: documents, a base, random weights, and SEAM worked out beside the package.

Whatever is expected of the package is computed here with other means: `torch.nn.LSTM` for the gradient of the loss,
NumPy for everything else.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from seam_fast.classifier import LSTMClassifier
from seam_fast.corpus import Corpus, CorpusConfig, load_corpus

EMBEDDING = "word_embeddings.weight"
LSTM = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
LINEAR = ("hidden2label.weight", "hidden2label.bias")
KEYS = (EMBEDDING, *LSTM, *LINEAR)
HEAD = ("head weight", "head bias")

V, E, H, C, T = 23, 4, 3, 5, 7  # words, embedding, hidden, classes, time steps


# -- a corpus and its base --------------------------------------------------------------------------------------------

TRAIN_SIZES, TEST_SIZES = (20, 14, 9, 6), (8, 6, 4, 3)


def make_corpus(train=TRAIN_SIZES, test=TEST_SIZES, protocol="seam", config=None, seed=0) -> Corpus:
    """Classes k0, k1, ... of the given sizes; documents of 2 to 11 invented words, half of them typical."""
    random = np.random.RandomState(seed)
    config = config or CorpusConfig(
        text="whole",
        max_length=8,
        **({"vocabulary": "train_and_test", "padding": "word"} if protocol != "seam" else {}),
    )

    def line(k):
        words = [f"w{k}x{random.randint(4)}" if random.rand() < 0.5 else f"all{random.randint(8)}" for _ in range(11)]
        return f"k{k}\t{' '.join(words[: random.randint(2, 12)])}"

    with tempfile.TemporaryDirectory() as folder:
        for split, sizes in (("train", train), ("test", test)):
            labels = [k for k, size in enumerate(sizes) for _ in range(size)]
            order = list(range(len(labels)))
            random.shuffle(order)
            if split == "train":  # class numbers go by first appearance
                firsts = [labels.index(k) for k in range(len(sizes))]
                order = firsts + [i for i in order if i not in firsts]
            text = "\n".join(line(labels[i]) for i in order)
            (Path(folder) / f"toy-{split}-all-terms.txt").write_text(text, encoding="utf-8")
        return load_corpus(folder, "toy", config=config)


def make_base(corpus: Corpus, steps=60, read=None, embedding_dim=6, hidden_dim=5, seed=0) -> LSTMClassifier:
    """A classifier that has learned most of the corpus (0 steps: as drawn)."""
    read = read or ("last_word" if corpus.config.padding == "own" else "end")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small that a second thread only waits
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = LSTMClassifier(corpus.vocab_size, embedding_dim, hidden_dim, corpus.num_classes, read=read)
        adam = torch.optim.Adam(base.parameters(), lr=0.05)
        for _ in range(steps):
            adam.zero_grad()
            nn.functional.cross_entropy(base(corpus.train.ids, corpus.train.lengths), corpus.train.labels).backward()
            adam.step()
    torch.set_num_threads(threads)
    return base


# -- weights and batches without a corpus -----------------------------------------------------------------------------


def make_weights(dtype=torch.float64, seed=0, scale=0.7, sizes=(V, E, H, C)) -> dict[str, torch.Tensor]:
    """Random weights by key."""
    v, e, h, c = sizes
    shapes = ((v, e), (4 * h, e), (4 * h, h), (4 * h,), (4 * h,), (c, h), (c,))
    generator = torch.Generator().manual_seed(seed)
    draw = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return {key: tensor.to(dtype) for key, tensor in zip(KEYS, draw, strict=True)}


def make_head(dtype=torch.float64, seed=1, classes=C) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) - 0.4 for shape in ((2, classes), (2,))
    )


def make_documents(count=13, width=T, words=range(1, 15), seed=2, padding=0):
    """ids (count, width), lengths, labels (0 or 1): random documents of `words`, filled up with `padding`."""
    random = np.random.RandomState(seed)
    ids = random.choice(np.array(list(words)), (count, width))
    lengths = random.randint(1, width + 1, count)
    ids[np.arange(width) >= lengths[:, None]] = padding
    labels = np.arange(count) % 2
    random.shuffle(labels)
    return tuple(torch.from_numpy(part.astype(np.int64)) for part in (ids, lengths, labels))


def cut(documents, size):
    """Batches of a few documents, the last one what is left."""
    return list(zip(*(part.split(size) for part in documents), strict=True))


# -- SEAM by hand -----------------------------------------------------------------------------------------------------


def hand_logits(weights, ids, lengths, read):
    """Class logits (B, C) of weights used as they are, by torch.nn.LSTM; differentiable."""
    table = weights[EMBEDDING]
    network = nn.LSTM(table.shape[1], weights[LSTM[1]].shape[1]).to(table.dtype)
    named = {key.removeprefix("lstm."): weights[key] for key in LSTM}
    states = torch.func.functional_call(network, named, (table[ids.T],))[0]
    state = states[-1] if read == "end" else torch.stack([states[n - 1, b] for b, n in enumerate(lengths.tolist())])
    return state @ weights[LINEAR[0]].T + weights[LINEAR[1]]


class HandAdam:
    """Adam as published (betas .9 and .999, eps 1e-8), in NumPy, with a state of its own."""

    def __init__(self):
        self.state = {}

    def step(self, name, value, gradient, lr):
        m, v, t = self.state.get(name, (np.zeros_like(value), np.zeros_like(value), 0))
        m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
        self.state[name] = m, v, t
        return value - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


class HandSeam:
    """One module in float64, its gradients clamped and added and its Adams stepped as SeaM has it."""

    def __init__(
        self, weights, head, *, alpha, lr_mask, lr_head, schedule="seam", penalty="global", read="end", lstm_factor=1.0
    ):
        self.lstm_factor = lstm_factor
        self.weights = {key: weights[key].double() for key in KEYS}
        self.scores = {key: np.ones(tuple(weight.shape)) for key, weight in self.weights.items()}
        self.head = [part.double().numpy().copy() for part in head]
        self.alpha, self.lr_mask, self.lr_head = alpha, lr_mask, lr_head
        self.schedule, self.penalty, self.read = schedule, penalty, read
        self.head_adam, self.joint_adam = HandAdam(), HandAdam()
        self.loss_path = {}  # of the last step: gradient of the loss before its clamp

    def penalty_gradient(self, key):
        if self.penalty == "group":
            group = next(group for group in ((EMBEDDING,), LSTM, LINEAR) if key in group)
        else:
            group = KEYS
        factor = self.lstm_factor if group is LSTM else 1
        return np.clip(factor * self.alpha / sum(self.scores[k].size for k in group), -1, 1)

    def step(self, ids, lengths, labels, head_only=False):
        kept = {key: torch.from_numpy((score > 0).astype(float)) for key, score in self.scores.items()}
        leaves = {key: (self.weights[key] * kept[key]).requires_grad_() for key in KEYS}
        head = [torch.from_numpy(part.copy()).requires_grad_() for part in self.head]
        logits = torch.relu(hand_logits(leaves, ids, lengths, self.read)) @ head[0].T + head[1]  # slope at 0: 0
        if labels.ndim == 1:
            labels = torch.stack([labels == 0, labels == 1], 1)
        loss = -(torch.log_softmax(logits, 1) * labels).sum(1).mean()
        loss.backward()
        if head_only:
            for i in range(2):
                self.head[i] = self.head_adam.step(i, self.head[i], head[i].grad.numpy(), self.lr_head)
            return loss.item()
        for key in KEYS:
            self.loss_path[key] = leaves[key].grad.numpy() * self.weights[key].numpy()
            gradient = np.clip(self.loss_path[key], -1, 1) + self.penalty_gradient(key)
            self.scores[key] = self.joint_adam.step(key, self.scores[key], gradient, self.lr_mask)
        if self.schedule != "port":
            for i in range(2):
                self.head[i] = self.joint_adam.step(i, self.head[i], head[i].grad.numpy(), self.lr_head)
        return loss.item()


def largest_difference(trainer, scores, head):
    """Between a Stepper's or HandSeam's state and scores by key and a head."""
    pairs = [(trainer.scores[key], scores[key]) for key in KEYS] + list(zip(trainer.head, head, strict=True))
    return max(float((torch.as_tensor(a).detach() - torch.as_tensor(b).detach()).abs().max()) for a, b in pairs)


# -- selection ---------------------------------------------------------------------------------------------------------


def choose(rule, history) -> int:
    """Index of the epoch that a rule keeps after a whole history; -1 for an empty one."""
    best = -1
    for epoch, figures in enumerate(history):
        if rule.offer(figures):
            best = epoch
        if rule.stop:
            break
    return best

"""A small invented world: documents, a base, random weights, and SEAM worked out beside the package.

Whatever is expected of the package is computed here with other means: `torch.nn.LSTM` for the gradient of the loss,
NumPy for everything else.
"""

import tempfile
import types
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from seam_fast import _ext
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.state_keys import HEAD_NAMES
from seam_fast.data.corpus import Corpus, CorpusConfig, load_corpus
from seam_fast.training import reference_step
from seam_fast.training.config import LAZY_UPDATES, StepConfig
from seam_fast.training.cpu_trainer import CpuTrainer
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer
from seam_fast.training.cuda_trainer import CudaTrainer
from seam_fast.training.torch_trainer import TorchTrainer

EMBEDDING = "word_embeddings.weight"
LSTM = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
LINEAR = ("hidden2label.weight", "hidden2label.bias")
KEYS = (EMBEDDING, *LSTM, *LINEAR)
HEAD = ("head weight", "head bias")

EPS = torch.finfo(torch.float32).eps
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


# -- weights and batches without a corpus -----------------------------------------------------------------------------


def make_weights(dtype=torch.float64, seed=0, scale=0.7, sizes=(V, E, H, C)) -> dict[str, torch.Tensor]:
    """Random weights by key."""
    v, e, h, c = sizes
    shapes = ((v, e), (4 * h, e), (4 * h, h), (4 * h,), (4 * h,), (c, h), (c,))
    generator = torch.Generator().manual_seed(seed)
    draw = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return {key: tensor.to(dtype) for key, tensor in zip(KEYS, draw, strict=True)}


DEEP = ((2, False), (1, True), (2, True))  # layers, both directions: what a base may have besides (1, False)


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


# -- trainers ---------------------------------------------------------------------------------------------------------

ADAMS = ("adam_together", "adam_head")
HEAD_STATES = dict(
    zip(ADAMS, ("head_joint_moments", "head_only_moments"), strict=True)
)  # what a native trainer calls the head's
TRAINERS = ("torch", *(f"native-{lazy_update}" for lazy_update in LAZY_UPDATES))


class HostTrainer(CudaTrainer):
    """The trainer of a GPU with its kernels in their meaning on the CPU."""

    @staticmethod
    def _module():
        from lstm_cases import cuda_host

        return cuda_host()


GPU = "cuda"  # where trainers of a GPU have their tensors


def single(weights, head, device="cpu"):
    """Both in float32, all that the compiled engine of a GPU takes."""
    return {key: weight.to(device, torch.float32) for key, weight in weights.items()}, tuple(
        part.to(device, torch.float32) for part in head
    )


def build(trainer, weights, head, fed_ids, **options):
    """A trainer of a class; of the options those that say how a step is taken become its StepConfig."""
    config = {field.name: options.pop(field.name) for field in fields(StepConfig) if field.name in options}
    return trainer(weights, head, fed_ids, StepConfig(**config), **options)


def make_trainer(kind, weights, head, words, **options):
    """A trainer of one of the TRAINERS; skips the test where what that needs is not there.

    Or in float32, whatever the weights are: "cuda-host-..." and a way to catch up, a GPU's trainer whose kernels run on
    the CPU; "cuda-...", the same on a GPU; "graph", the trainer of ordinary kernels on a GPU.
    """
    if kind == "torch":
        return TorchTrainer(weights, head, words, StepConfig(**options))
    if kind == "graph":
        return CudaGraphTrainer(*single(weights, head, GPU), words, StepConfig(**options), backend="cuda")
    if kind.startswith("cuda-"):
        trainer, device = (HostTrainer, "cpu") if kind.startswith("cuda-host-") else (CudaTrainer, GPU)
        try:
            lazy_update = kind.rpartition("-")[2]
            return trainer(*single(weights, head, device), words, StepConfig(**options), lazy_update=lazy_update)
        except ValueError as error:
            if "form no clusters" not in str(error):
                raise
            pytest.skip(str(error).splitlines()[0])
    if not _ext.has_ext():
        pytest.skip(f"needs the compiled part: {_ext.reason}")
    return CpuTrainer(weights, head, words, StepConfig(**options), lazy_update=kind.removeprefix("native-"))


def load_state(trainer, steps=0, head_steps=0):
    """Tells a native trainer that its scores or Adam's state were set by hand; others see it by themselves."""
    if hasattr(trainer, "load_state"):
        trainer.load_state(steps, head_steps)


def put_state(exact, other, step=0, head_steps=0):
    """Scores, head and both Adams' state of a float64 Stepper after `step` steps, rounded, into another trainer."""

    def fit(key, tensor):  # a trainer's last row stands for all words without one of their own, or for nobody
        if key != EMBEDDING or tensor.ndim == 0 or isinstance(other, reference_step.Stepper):
            return tensor
        shared = torch.nonzero(other.row_of_id == len(other.rows)).flatten()[:1]
        return tensor[torch.cat([other.rows, shared if len(shared) else other.rows[:1]])]

    parts = [(key, score, other.scores[key]) for key, score in exact.scores.items()]
    parts += [(i, *pair) for i, pair in enumerate(zip(exact.head, other.head, strict=True))]
    for key, theirs, ours in parts:
        with torch.no_grad():
            ours.copy_(fit(key, theirs.detach()))
        for name in ADAMS:
            adam = getattr(exact, name)
            if adam is None or theirs not in adam.state:
                continue
            state = {what: fit(key, value).float().clone() for what, value in adam.state[theirs].items()}
            if hasattr(other, "load_state"):  # which keeps Adam's memory by key
                for i, what in enumerate(("exp_avg", "exp_avg_sq")):
                    of_head = key not in KEYS
                    memory = getattr(other, HEAD_STATES[name])[2 * key + i] if of_head else getattr(other, what)[key]
                    memory.copy_(state[what])
            else:
                getattr(other, name if isinstance(other, reference_step.Stepper) else f"_{name}").state[ours] = state
    load_state(other, step - head_steps, head_steps)


def errors(tensor, exact):
    """The error that 95 % of a tensor's values stay below, and the share of values above 1e-5.

    Where a gradient all but cancels, its sign is rounding, and Adam makes a whole step of it in one or the other
    direction: in any float32 implementation a few scores in a thousand are far off, each time others. They are counted
    and not measured.
    """
    error = (tensor.detach().double() - exact.detach()).abs().flatten()
    return error.kthvalue(max(1, int(0.95 * len(error)))).values.item(), (error > 1e-5).double().mean().item()


def assert_as_good(exact, plain, engine, where="", least=1):
    """After a step from the same state: the engine's scores and head may err twice as much as float32 plain PyTorch's.

    exact, plain: Steppers in float64 and float32. To that comes one rounding: eps times the largest score, since none
    is held more exactly. Tensors of fewer than `least` numbers are left out: one number may be right by chance.
    """
    scores, head = engine.full_scores()
    triples = [(key, exact.scores[key], plain.scores[key], scores[key]) for key in KEYS]
    triples += zip(HEAD, exact.head, plain.head, head, strict=True)
    for key, true, theirs, ours in triples:
        if true.numel() < least:
            continue
        allowed, allowed_share = errors(theirs, true)
        error, share = errors(ours, true)
        assert error <= 2 * allowed + EPS * max(1, true.abs().max().item()), f"{key}, {where}"
        assert share <= 2 * allowed_share + 0.01, f"{key}, {where}"


OPTIONS = {"alpha": 0.2, "lr_mask": 0.05, "lr_head": 0.02, "schedule": "joint"}


def with_shares(documents):
    """Labels as shares of target and rest."""
    ids, lengths, labels = documents
    share = (0.75 * (labels == 0) + 0.05).double()
    return ids, lengths, torch.stack([share, 1 - share], 1)


def draw_documents(data, count, width, words):
    """Random documents, some with any shares as labels; data: of hypothesis."""
    documents = make_documents(count, width, words, seed=data.draw(st.integers(0, 1000)))
    if not data.draw(st.booleans()):
        return documents
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    return *documents[:2], torch.stack([share, 1 - share], 1)


def follow(engine, stepper, epochs, batch_size, tolerance=1e-9):
    """Runs a trainer and a Stepper over epochs of (ids, lengths, labels); after each, all that they have must agree.

    In float32 the trainer begins each step at the Stepper's state, and may err as `assert_as_good` has it.
    """
    for epoch, documents in enumerate(epochs):
        head_only = engine.schedule == "seam" and epoch % 5 == 0
        batches = cut(documents, batch_size)
        if engine.weights[EMBEDDING].dtype == torch.float32:
            follow_in_float32([engine], stepper, batches, head_only)
            continue
        wanted = [stepper.step(*batch, head_only=head_only).cross_entropy for batch in batches]
        loss = engine.run_epoch(*documents, batch_size, head_only=head_only)
        assert loss == pytest.approx(sum(wanted) / len(wanted), abs=1e-10), f"epoch {epoch}"
        scores, head = engine.full_scores()
        assert largest_difference(stepper, scores, head) < tolerance, f"epoch {epoch}"
        counts = {key: int((score > 0).sum()) for key, score in stepper.scores.items()}
        assert engine.kept_counts() == counts


def plain_like(exact):
    """A Stepper in float32 with the settings of one in float64, at its beginning."""
    (alpha, penalty, lstm_penalty_scale), groups = exact.penalty, exact.adam_together.param_groups
    schedule = "port" if exact.adam_head is None else "joint"
    rates = {"lr_mask": groups[0]["lr"], "lr_head": groups[-1]["lr"]}
    options = {
        "alpha": alpha,
        "penalty": penalty,
        "lstm_penalty_scale": lstm_penalty_scale,
        "schedule": schedule,
        "readout": exact.readout,
    }
    return reference_step.Stepper(*single(exact.weights, exact.head), **options, **rates)


def follow_in_float32(engines, exact, batches, head_only=False, beside=None):
    """A float64 Stepper goes from batch to batch; each step the engines begin at its state, rounded, and take by
    themselves. They may err twice as much as plain PyTorch in float32, and as `beside`, a trainer, where there is one.
    """
    for step, batch in enumerate(batches):
        plain = plain_like(exact)
        taken = [
            int(adam.state[tensor]["step"]) if adam and tensor in adam.state else 0
            for adam, tensor in ((exact.adam_together, exact.scores[EMBEDDING]), (exact.adam_head, exact.head[0]))
        ]
        trainers = [*engines, beside] if beside else engines
        for other in (plain, *trainers):
            put_state(exact, other, sum(taken), taken[1])
        labels = batch[2].float() if batch[2].ndim == 2 else batch[2]
        wanted = exact.step(*batch, head_only=head_only).cross_entropy
        theirs = plain.step(*batch[:2], labels, head_only=head_only).cross_entropy
        ours = [engine.run_epoch(*batch, len(batch[0]), head_only=head_only) for engine in trainers]
        if beside:
            ours.pop()
            scores, head = beside.full_scores()
            yardstick = types.SimpleNamespace(scores=scores, head=head)
        for engine, loss in zip(engines, ours, strict=True):
            where = f"step {step} of {type(engine).__name__}"
            assert abs(loss - wanted) <= 2 * abs(theirs - wanted) + 16 * EPS * max(1, wanted), f"loss of {where}"
            assert_as_good(exact, plain, engine, where)
            if beside:
                assert_as_good(exact, yardstick, engine, f"{where}, beside the other", least=50)
            scores, _ = engine.full_scores()
            assert engine.kept_counts() == {key: int((score > 0).sum()) for key, score in scores.items()}
            assert engine.steps == sum(taken) + 1


# -- SEAM by hand -----------------------------------------------------------------------------------------------------


def hand_logits(weights, ids, lengths, readout):
    """Class logits (B, C) of weights used as they are, by torch.nn.LSTM; differentiable."""
    table = weights[EMBEDDING]
    network = nn.LSTM(table.shape[1], weights[LSTM[1]].shape[1]).to(table.dtype)
    named = {key.removeprefix("lstm."): weights[key] for key in LSTM}
    states = torch.func.functional_call(network, named, (table[ids.T],))[0]
    state = (
        states[-1]
        if readout == "last_position"
        else torch.stack([states[n - 1, b] for b, n in enumerate(lengths.tolist())])
    )
    return state @ weights[LINEAR[0]].T + weights[LINEAR[1]]


def deep_logits(weights, ids, lengths, readout, num_layers, bidirectional):
    """Class logits (B, C) by torch.nn.LSTM, one document at a time, so that there is no padding to be seen."""
    table = weights[EMBEDDING]
    network = nn.LSTM(table.shape[1], weights[LSTM[1]].shape[1], num_layers, bidirectional=bidirectional)
    named = {key.removeprefix("lstm."): weights[key] for key in weights if key.startswith("lstm.")}
    states = []
    for document, length in zip(ids, lengths.tolist(), strict=True):
        words = document[:length] if readout == "last_word" else document
        states.append(torch.func.functional_call(network.to(table.dtype), named, (table[words],))[0][-1])
    return torch.stack(states) @ weights[LINEAR[0]].T + weights[LINEAR[1]]


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
        self,
        weights,
        head,
        *,
        alpha,
        lr_mask,
        lr_head,
        schedule="seam",
        penalty="global",
        readout="last_position",
        lstm_penalty_scale=1.0,
    ):
        self.lstm_penalty_scale = lstm_penalty_scale
        self.weights = {key: weights[key].double() for key in KEYS}
        self.scores = {key: np.ones(tuple(weight.shape)) for key, weight in self.weights.items()}
        self.head = [part.double().numpy().copy() for part in head]
        self.alpha, self.lr_mask, self.lr_head = alpha, lr_mask, lr_head
        self.schedule, self.penalty, self.readout = schedule, penalty, readout
        self.head_adam, self.joint_adam = HandAdam(), HandAdam()
        self.loss_path = {}  # of the last step: gradient of the loss before its clamp

    def penalty_gradient(self, key):
        if self.penalty == "group":
            group = next(group for group in ((EMBEDDING,), LSTM, LINEAR) if key in group)
        else:
            group = KEYS
        factor = self.lstm_penalty_scale if group is LSTM else 1
        return np.clip(factor * self.alpha / sum(self.scores[k].size for k in group), -1, 1)

    def step(self, ids, lengths, labels, head_only=False):
        kept = {key: torch.from_numpy((score > 0).astype(float)) for key, score in self.scores.items()}
        leaves = {key: (self.weights[key] * kept[key]).requires_grad_() for key in KEYS}
        head = [torch.from_numpy(part.copy()).requires_grad_() for part in self.head]
        logits = torch.relu(hand_logits(leaves, ids, lengths, self.readout)) @ head[0].T + head[1]  # slope at 0: 0
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
    pairs = [(score, scores[key]) for key, score in trainer.scores.items()] + list(zip(trainer.head, head, strict=True))
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


def parts_of(snapshot) -> dict:
    """All tensors of a trainer's snapshot by name."""
    return {**snapshot.mask.bits, **dict(zip(HEAD_NAMES, snapshot.head, strict=True))}

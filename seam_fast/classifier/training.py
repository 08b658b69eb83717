"""Training the base: the published recipe, and a strong one within the same architecture and sizes.

Both draw every random number from generators of their own: the same seed on the same machine gives the same weights
bit for bit, and the caller's random state is left alone. On the CPU they are plain PyTorch; on a GPU, see
``device_training``, the weights are others in the last places.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.arguments import MOST, callback, real_number, seed_number, shown, truth, whole_number
from ..common.batches import deal
from ..common.default_device import cpu_by_default, on_the_cpu
from ..common.progress import duration, progress_bar
from ..common.threads import one_thread
from ..data.corpus import Corpus, check_is_corpus
from ..errors import TrainingError
from .device_training import ClippedAdam, DeviceReader, EpochSteps, device_name, training_device
from .model import ClassifierMetrics, LSTMClassifier, confusion_metrics, predict_logits

Log = Callable[[str], Any]

WHOLE_NUMBERS = {"epochs": (1, MOST), "batch_size": (1, MOST), "decay_every": (1, MOST), "min_steps": (0, MOST)}
WHOLE_NUMBERS |= {"vector_window": (0, MOST)}
ENDLESS = (0, math.inf)
SHARE = (0, 1)
NOISE = (0, 0.999)
NUMBERS = {"lr": ENDLESS, "lr_decay": ENDLESS, "max_grad_norm": ENDLESS, "vector_scale": ENDLESS}
NUMBERS |= {"forget_bias": (-math.inf, math.inf), "class_exponent": (-math.inf, math.inf), "prefix_weight": ENDLESS}
NUMBERS |= {"word_dropout": NOISE, "vector_dropout": NOISE, "dropout": NOISE}
NUMBERS |= {"label_smoothing": SHARE, "averaged_part": SHARE}


class Recipe:
    """What both recipes have in common: their fields are Python's numbers, or TrainingError says which is not."""

    def __post_init__(self):
        for name, value in asdict(self).items():
            check, (low, high) = (
                (whole_number, WHOLE_NUMBERS[name]) if name in WHOLE_NUMBERS else (real_number, NUMBERS[name])
            )
            object.__setattr__(self, name, check(name, value, low, high))


@dataclass(frozen=True)
class PublicRecipe(Recipe):
    """The published recipe: plain SGD over the whole training set, the output read after the padding.

    Meant for the reference's treatment of the text (``load_r8(protocol="reference")``); there it ends at about 83 %
    test accuracy, half a point up or down with seed and order of the documents. From about epoch 25 on the learning
    rate is so small that nothing moves any more.
    """

    name: ClassVar[str] = "public"
    epochs: int = 50
    batch_size: int = 5
    lr: float = 0.01
    lr_decay: float = 0.1
    decay_every: int = 10


@dataclass(frozen=True)
class StrongRecipe(Recipe):
    """Adam with a cosine, much noise on the input, and word vectors that start from the training texts.

    The ingredients were chosen on documents held out of R8's training split (mean class F1 there .74 with word
    dropout, class weighting, label smoothing and dropout alone, .92 with all). The word vectors matter most, then the
    second reading after a part of the text, the forget bias, and more dropout on the input. Words are dropped to the
    unknown word; classes are drawn in proportion to ``count ** (1 - class_exponent)``.
    """

    name: ClassVar[str] = "strong"
    epochs: int = 20
    batch_size: int = 32
    min_steps: int = 50  # an epoch of a small corpus draws its documents more often
    lr: float = 2e-3
    max_grad_norm: float = 1.0  # over everything but the embedding
    vector_window: int = 15
    vector_scale: float = 0.5
    forget_bias: float = 2.0
    word_dropout: float = 0.4
    vector_dropout: float = 0.3  # whole dimensions, for all words of a document
    dropout: float = 0.5
    label_smoothing: float = 0.05
    class_exponent: float = 0.5
    prefix_weight: float = 1.0
    averaged_part: float = 0.5


@on_the_cpu
def train_classifier(
    corpus: Corpus,
    recipe: str | PublicRecipe | StrongRecipe = "strong",
    seed: int = 0,
    *,
    epochs: int | None = None,
    embedding_dim: int = 100,
    hidden_dim: int = 50,
    num_layers: int = 1,
    bidirectional: bool = False,
    progress: bool = False,
    log: Log | None = None,
    device: str | torch.device = "cpu",
) -> LSTMClassifier:
    """Train a base on ``corpus.train``; the test split is never looked at.

    ``recipe`` is ``"strong"``, ``"public"``, or a `StrongRecipe` / `PublicRecipe` with other settings; ``epochs``
    overrides its number of epochs. Sizes, ``num_layers`` and ``bidirectional`` are those of `LSTMClassifier`. The
    strong recipe leaves out the documents of ``corpus.validation_indices(0.1, seed=0)``, which select modules later,
    and reports its figures on them.
    ``progress`` says on standard error how it goes: a bar on a terminal, else a line after some seconds and then every
    half minute; ``log`` gets one line an epoch. The settings and figures are kept in the model's ``info``. Runs on one
    thread and in float32, whatever torch is set to, and on the CPU, unless ``device`` is ``"cuda"``, or one GPU of
    several: there the same documents and words are drawn, each step is a recorded sequence of kernels, and what comes
    out differs by rounding; ``info["device"]`` then names the GPU. The classifier is on the CPU in either case. Raises
    `TrainingError` where the loss is not finite or an argument makes no sense. Ctrl-C, and an exception in ``log``,
    come out with an attribute ``base``: the classifier as far as it was trained, ``info["interrupted"]`` the number of
    whole epochs, or None where none had ended.
    """
    recipe = _recipe(recipe, epochs)
    check_is_corpus(corpus)
    sizes = {
        "embedding_dim": whole_number("embedding_dim", embedding_dim, 1),
        "hidden_dim": whole_number("hidden_dim", hidden_dim, 1),
        "num_layers": whole_number("num_layers", num_layers, 1),
        "bidirectional": truth("bidirectional", bidirectional),
    }
    callback("log", log)
    device = training_device(device)
    info = {
        "recipe": recipe.name,
        "settings": asdict(recipe),
        "seed": seed_number(seed),
        "corpus": corpus.name,
        "corpus_config": corpus.config.as_dict(),
        "synthetic": corpus.synthetic,
        "data_hash": corpus.data_hash,
    }
    if (name := device_name(device)) is not None:
        info["device"] = name
    run = _train_public if isinstance(recipe, PublicRecipe) else _train_strong
    so_far = _SoFar()
    try:
        with _surroundings(device):
            model, figures = run(corpus, recipe, info["seed"], sizes, progress, log or _no_log, so_far, device)
            model.to("cpu")
    except BaseException as error:
        if not isinstance(error, TrainingError):
            with suppress(AttributeError):  # of a class that takes none
                error.base = so_far.base(info)
        raise
    model.info = info | {"weights_hash": model.hash} | figures
    return model


def _recipe(recipe: str | Recipe, epochs: int | None) -> Recipe:
    """The recipe of that name, or that recipe, for so many epochs where they are given."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise TrainingError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}.")
        recipe = RECIPES[recipe]()
    if not isinstance(recipe, Recipe):
        raise TrainingError(f"recipe is {shown(recipe)}; it must be a name, a StrongRecipe or a PublicRecipe")
    return recipe if epochs is None else replace(recipe, epochs=epochs)


def _surroundings(device: torch.device) -> ExitStack:
    """What training needs of the calling thread's torch, left as it was afterwards.

    One thread: batches this small gain nothing from more and lose much where cores are shared (measured: a factor of
    three); and sums are taken in the same order whatever the caller's number of threads. Every tensor is made in
    float32 by name, since the default dtype is the whole process's.
    """
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        stack.enter_context(cpu_by_default())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.autocast("cuda", enabled=False))
            stack.enter_context(torch.cuda.device(device))
        return stack.pop_all()


class _SoFar:
    """The model in training, for the case that the training is cut short."""

    def __init__(self) -> None:
        self.model: LSTMClassifier | None = None
        self.average: _Average | None = None
        self.epochs = 0

    def base(self, info: dict[str, Any]) -> LSTMClassifier | None:
        """The classifier as it stands, None before the first epoch had ended."""
        if self.epochs == 0:
            return None
        if self.average is not None:
            self.average.store()
        self.model.info = info | {"interrupted": self.epochs}
        return self.model.eval().to("cpu")


def _no_log(line: str) -> None:
    pass


def _new_model(corpus: Corpus, sizes: dict[str, Any], readout: str, generator: torch.Generator) -> LSTMClassifier:
    """A classifier with PyTorch's default initialisation, drawn from ``generator`` instead of the global one."""
    with torch.device("meta"):
        model = LSTMClassifier(
            corpus.vocab_size,
            num_classes=corpus.num_classes,
            **sizes,
            readout=readout,
            class_names=corpus.class_names,
            vocabulary=corpus.words,
            tokenizer=corpus.config.tokenizer,
        )
    model = model.to(torch.float32).to_empty(device="cpu")
    with torch.no_grad():
        model.word_embeddings.weight.normal_(generator=generator)
        for layer, size in ((model.lstm, model.hidden_dim), (model.hidden2label, model.hidden2label.in_features)):
            bound = 1 / math.sqrt(size)
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return model


def _epochs(count: int, progress: bool, steps: int) -> Iterator[tuple[int, Callable[[], None]]]:
    """Epoch numbers with a function to call after each step; says how it goes where wanted."""
    if not progress:
        for epoch in range(count):
            yield epoch, lambda: None
        return
    with closing(progress_bar(count * steps, "base")) as bar:
        for epoch in range(count):
            yield epoch, bar.update


def _times(started: float, epoch: int, epochs: int) -> str:
    """How long it took so far, and how much longer it will after this epoch (from 0)."""
    took = time.perf_counter() - started
    left = took / (epoch + 1) * (epochs - epoch - 1)
    return f"{took:.0f} s" + (f", about {duration(left)} left" if epoch + 1 < epochs else "")


def _check_loss(loss: float, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"Training the base: the loss is {loss} in epoch {epoch + 1}, step {step + 1}; try a smaller learning rate."
        )


def _figures(model: LSTMClassifier, corpus: Corpus, documents: Tensor) -> ClassifierMetrics:
    """Metrics of ``model`` on the given documents (indices into the training split)."""
    split = corpus.train
    predicted = predict_logits(model, split.ids[documents], split.lengths[documents]).argmax(1)
    return confusion_metrics(split.labels[documents], predicted, corpus.num_classes)


# --- the published recipe --------------------------------------------------------------------------------------------


def _train_public(
    corpus: Corpus,
    recipe: PublicRecipe,
    seed: int,
    sizes: dict[str, Any],
    progress: bool,
    log: Log,
    so_far: _SoFar,
    device: torch.device,
) -> tuple[LSTMClassifier, dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    so_far.model = model = _new_model(corpus, sizes, "last_position", generator).to(device)
    ids = corpus.train.ids
    steps = math.ceil(len(ids) / recipe.batch_size)
    run = (_public_on_cpu if device.type == "cpu" else _public_on_device)(corpus, recipe, model)
    started = time.perf_counter()
    for epoch, step_done in _epochs(recipe.epochs, progress, steps):
        lr = recipe.lr * recipe.lr_decay ** (epoch // recipe.decay_every)
        order = torch.randperm(len(ids), generator=generator)
        total = 0.0
        for step, value in enumerate(run(order.split(recipe.batch_size), lr)):
            _check_loss(value, epoch, step)
            total += value
            step_done()
        so_far.epochs = epoch + 1
        log(
            f"epoch {epoch + 1}/{recipe.epochs}: loss {total / steps:.4f}, learning rate {lr:g}, "
            f"{_times(started, epoch, recipe.epochs)}"
        )
    fit = _figures(model, corpus, torch.arange(len(ids)))
    return model, {"train_accuracy": fit.accuracy}


def _public_on_cpu(
    corpus: Corpus, recipe: PublicRecipe, model: LSTMClassifier
) -> Callable[[Sequence[Tensor], float], Iterator[float]]:
    """A function of an epoch's batches (document indices) and learning rate that yields the loss of each step."""
    ids, labels = corpus.train.ids, corpus.train.labels
    embedding = model.word_embeddings.weight.detach()
    rest = [*model.lstm.parameters(), *model.hidden2label.parameters()]

    def run(batches, lr):
        for batch in batches:
            words = ids[batch]
            # A dense gradient would be V rows, of which a batch touches a hundred: step only those.
            vectors = embedding[words].requires_grad_()
            loss = F.cross_entropy(model.hidden2label(model.lstm(vectors)[0][:, -1]), labels[batch])
            vectors_grad, *grads = torch.autograd.grad(loss, [vectors, *rest])
            with torch.no_grad():
                embedding.index_add_(0, words.flatten(), vectors_grad.flatten(0, 1), alpha=-lr)
                torch._foreach_add_(rest, grads, alpha=-lr)
            yield loss.item()

    return run


def _public_on_device(
    corpus: Corpus, recipe: PublicRecipe, model: LSTMClassifier
) -> Callable[[Sequence[Tensor], float], list[float]]:
    """The same on the model's device; the losses come when the epoch is done."""
    ids, labels = corpus.train.ids, corpus.train.labels
    parameters, reader = list(model.parameters()), DeviceReader(model)
    numbers, real = deal(len(ids), min(recipe.batch_size, len(ids)))
    share = real / real.sum(1, keepdim=True)  # of each document in its batch's mean

    def step(words, wanted, share, lr):
        output = reader.run_lstm(model.word_embeddings(words), None)
        loss = (F.cross_entropy(model.hidden2label(output[:, -1]), wanted, reduction="none") * share).sum()
        gradients = torch.autograd.grad(loss, parameters)  # dense: a sum by atomic additions would differ each time
        with torch.no_grad():
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, -lr))
        return loss

    steps = EpochSteps(parameters[0].device, step)

    def run(batches, lr):
        order = torch.cat(list(batches))[numbers]
        steps.begin([ids[order], labels[order], share, torch.full((len(numbers),), lr, dtype=torch.float32)])
        steps.run(len(numbers))
        return steps.losses()

    return run


# --- the strong recipe -----------------------------------------------------------------------------------------------


def _train_strong(
    corpus: Corpus,
    recipe: StrongRecipe,
    seed: int,
    sizes: dict[str, Any],
    progress: bool,
    log: Log,
    so_far: _SoFar,
    device: torch.device,
) -> tuple[LSTMClassifier, dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    fit, held_out = corpus.validation_indices()  # the split by which modules are chosen later
    so_far.model = model = _new_model(corpus, sizes, "last_word", generator)
    started = time.perf_counter()
    log(f"making word vectors from {len(fit)} training documents")
    _initialise_strong(model, corpus, fit, recipe, generator, device)
    log(f"word vectors made, {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()

    model.to(device).train()
    steps = max(math.ceil(len(fit) / recipe.batch_size), recipe.min_steps)
    plan = _StrongPlan(corpus, recipe, fit, steps, (model.embedding_dim, model.hidden2label.in_features), generator)
    embedding = model.word_embeddings.weight
    rest = [*model.lstm.parameters(), *model.hidden2label.parameters()]
    so_far.average = average = _Average([embedding, *rest])
    run = (_strong_on_cpu if device.type == "cpu" else _strong_on_device)(model, plan, embedding, rest, average)
    for epoch, step_done in _epochs(recipe.epochs, progress, steps):
        total = 0.0
        for step, value in enumerate(run(epoch)):
            _check_loss(value, epoch, step)
            total += value
            step_done()
        so_far.epochs = epoch + 1
        line = f"epoch {epoch + 1}/{recipe.epochs}: loss {total / steps:.4f}"
        if log is not _no_log and len(held_out):
            figures = _figures(model, corpus, held_out)
            line += f", validation accuracy {100 * figures.accuracy:.1f} %, mean F1 {figures.mean_f1:.3f}"
        log(f"{line}, {_times(started, epoch, recipe.epochs)}")
    average.store()
    model.eval()
    figures = {"documents": len(fit), "train_accuracy": _figures(model, corpus, fit).accuracy}
    if len(held_out):
        validation = _figures(model, corpus, held_out)
        figures |= {"validation_accuracy": validation.accuracy, "validation_mean_f1": validation.mean_f1}
        log(
            f"averaged weights: validation accuracy {100 * validation.accuracy:.1f} %, "
            f"mean F1 {validation.mean_f1:.3f} over {validation.total} documents"
        )
    return model, figures


class _StrongPlan:
    """What the steps of the strong recipe are: their batches, learning rates, and where weights are averaged."""

    def __init__(
        self,
        corpus: Corpus,
        recipe: StrongRecipe,
        fit: Tensor,
        steps: int,
        sizes: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        self.sizes = sizes  # of vectors and outputs
        self.corpus, self.recipe, self.fit, self.steps, self.generator = corpus, recipe, fit, steps, generator
        self.all_steps = recipe.epochs * steps
        self._average_from, self._average_every = round((1 - recipe.averaged_part) * self.all_steps), max(1, steps // 4)

    def batches(self) -> list[Tensor]:
        """The next epoch's batches (document indices), drawn from the generator."""
        return _strong_batches(self.corpus, self.fit, self.steps, self.recipe, self.generator)

    def draw(self, batch: Tensor) -> _Drawn:
        """A batch as it is fed."""
        return _draw_strong(self.corpus, batch, self.recipe, self.sizes, self.generator)

    def rate(self, done: int) -> float:
        """The learning rate of the step after so many."""
        return self.recipe.lr * max(1e-3, (1 + math.cos(math.pi * done / self.all_steps)) / 2)

    def averages_after(self, done: int) -> bool:
        """Whether the weights after that step (from 0) count in the average."""
        return done >= self._average_from and (done + 1) % self._average_every == 0


def _strong_on_cpu(
    model: LSTMClassifier, plan: _StrongPlan, embedding: nn.Parameter, rest: list[nn.Parameter], average: _Average
) -> Callable[[int], Iterator[float]]:
    """A function that yields the loss of each step of an epoch, before the step is taken."""
    optimizer = torch.optim.Adam([embedding, *rest], lr=plan.recipe.lr, fused=True)

    def run(epoch):
        for done, batch in enumerate(plan.batches(), epoch * plan.steps):
            optimizer.param_groups[0]["lr"] = plan.rate(done)
            loss = _strong_loss(model, plan.draw(batch), plan.recipe, model)
            yield loss.item()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(rest, plan.recipe.max_grad_norm)
            optimizer.step()
            if plan.averages_after(done):
                average.add()

    return run


def _strong_on_device(
    model: LSTMClassifier, plan: _StrongPlan, embedding: nn.Parameter, rest: list[nn.Parameter], average: _Average
) -> Callable[[int], list[float]]:
    """The same on the model's device; the losses come when the epoch is done, and the next one is drawn by then."""
    adam, reader = ClippedAdam(embedding, rest, plan.recipe.max_grad_norm), DeviceReader(model)
    width = plan.corpus.train.ids.shape[1]
    epochs = plan.recipe.epochs
    drawn: list[list[Tensor]] = []  # the next epoch, at most

    def step(rate, *parts):
        adam.rate.copy_(rate)
        loss = _strong_loss(model, _Drawn(*parts), plan.recipe, reader)
        adam.step(loss)
        return loss

    steps = EpochSteps(embedding.device, step)

    def draw(epoch):
        rates = torch.tensor([plan.rate(epoch * plan.steps + step) for step in range(plan.steps)], dtype=torch.float32)
        each = [plan.draw(batch).padded(width) for batch in plan.batches()]
        drawn.append([rates, *(torch.stack(parts) for parts in zip(*each, strict=True))])

    def run(epoch):
        if not drawn:
            draw(epoch)
        steps.begin(drawn.pop())
        since = 0
        for step in range(plan.steps):
            averages = plan.averages_after(epoch * plan.steps + step)
            if averages or step + 1 == plan.steps:
                steps.run(step + 1 - since)
                since = step + 1
            if averages:
                average.add()
        if epoch + 1 < epochs:
            draw(epoch + 1)  # while the device works
        return steps.losses()

    return run


class _Average:
    """Running mean of parameters over the moments at which `add` is called; `store` puts it into the parameters."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        self.count += 1
        if self.count == 1:
            self.means = [p.detach().clone() for p in self.parameters]
        else:
            torch._foreach_lerp_(self.means, [p.detach() for p in self.parameters], 1 / self.count)

    @torch.no_grad()
    def store(self) -> None:
        if self.count:
            torch._foreach_copy_(self.parameters, self.means)


@torch.no_grad()
def _initialise_strong(
    model: LSTMClassifier, corpus: Corpus, fit: Tensor, recipe: StrongRecipe, generator: torch.Generator, device
) -> None:
    split, table = corpus.train, model.word_embeddings.weight
    texts = [split.ids[i, : split.lengths[i]] for i in fit.tolist()]
    sizes = model.vocab_size, model.embedding_dim
    vectors = cooccurrence_vectors(texts, *sizes, recipe.vector_window, generator, device)
    # Words that meet nobody, and dimensions beyond the rank, keep their random start.
    table.copy_(torch.where(vectors != 0, vectors, table) * recipe.vector_scale)
    hidden = model.hidden_dim
    for name, parameter in model.lstm.named_parameters():
        if name.startswith("bias"):
            value = recipe.forget_bias if name.startswith("bias_ih") else 0.0
            parameter[hidden : 2 * hidden] = value  # gate order i, f, g, o


def _strong_batches(
    corpus: Corpus, fit: Tensor, steps: int, recipe: StrongRecipe, generator: torch.Generator
) -> list[Tensor]:
    """One epoch of batches (document indices): classes weighted, neighbours of similar length, in random order."""
    labels, lengths = corpus.train.labels[fit], corpus.train.lengths[fit]
    counts = torch.bincount(labels, minlength=corpus.num_classes).double()
    weight = counts[labels] ** -recipe.class_exponent
    drawn = torch.multinomial(weight, steps * recipe.batch_size, replacement=True, generator=generator)
    # Sorting by length inside chunks saves padding; chunks of twenty batches keep the company varied.
    chunks = drawn.split(20 * recipe.batch_size)
    drawn = torch.cat([chunk[lengths[chunk].argsort(stable=True)] for chunk in chunks])
    batches = fit[drawn].split(recipe.batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


class _Drawn(NamedTuple):
    """A batch as it is fed: words (B, T'), T' the longest one's, lengths (B,), labels (B,), dropout of dimensions of
    the vectors (B, 1, E) and of the output (B, D * H), and how far the second reading goes (B,)."""

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    vector_mask: Tensor
    mask: Tensor
    prefix: Tensor

    def padded(self, width: int) -> _Drawn:
        """The same with documents of that width, so that all batches have one shape."""
        return self._replace(ids=F.pad(self.ids, (0, width - self.ids.shape[1])))


def _draw_strong(corpus: Corpus, batch: Tensor, recipe: StrongRecipe, sizes: tuple[int, int], generator) -> _Drawn:
    """Documents (indices) with all that is drawn for them; sizes: E and D * H."""
    split = corpus.train
    labels, lengths = split.labels[batch], split.lengths[batch]
    ids = split.ids[batch, : int(lengths.max())]
    if corpus.unknown_id is not None:
        dropped = _uniform(ids.shape, generator) < recipe.word_dropout
        ids = ids.masked_fill(dropped, corpus.unknown_id)  # also trains the vector of unknown words
    vector_mask = _dropout_mask((len(ids), 1, sizes[0]), recipe.vector_dropout, generator)
    mask = _dropout_mask((len(ids), sizes[1]), recipe.dropout, generator)
    prefix = lengths
    if recipe.prefix_weight:
        # A second reading after a random 25 to 100 % of the words: shorter paths for the gradient, more texts.
        share = 0.25 + 0.75 * _uniform((len(ids),), generator)
        prefix = torch.minimum((share * lengths).long() + 1, lengths)
    return _Drawn(ids, lengths, labels, vector_mask, mask, prefix)


def _strong_loss(model: LSTMClassifier, drawn: _Drawn, recipe: StrongRecipe, reader) -> Tensor:
    """reader: runs the LSTM and reads its output, the model itself or a `DeviceReader` of it."""
    vectors = model.word_embeddings(drawn.ids) * drawn.vector_mask
    output = reader.run_lstm(vectors, drawn.lengths)

    def reading(output, lengths):
        logits = model.hidden2label(reader.read_output(output, lengths) * drawn.mask)
        return F.cross_entropy(logits, drawn.labels, label_smoothing=recipe.label_smoothing)

    loss = reading(output, drawn.lengths)
    if recipe.prefix_weight:
        if model.bidirectional:  # one direction has read on; the other begins at the prefix's own end
            output = reader.run_lstm(vectors, drawn.prefix)
        loss = loss + recipe.prefix_weight * reading(output, drawn.prefix)
    return loss


def _dropout_mask(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    return (_uniform(shape, generator) >= rate).float() / (1 - rate)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float32)


def cooccurrence_vectors(
    texts: list[Tensor], vocab_size: int, dim: int, window: int, generator: torch.Generator, device=None
) -> Tensor:
    """Word vectors (V, dim) float32 from the training texts alone, by factorising who stands near whom.

    ``texts``: id tensors (T,). Two words d <= ``window`` places apart count 1/d. The matrix of positive pointwise
    mutual information of these counts is factorised (Levy and Goldberg 2014), by randomised subspace iteration,
    each dimension scaled by the root of its singular value. Rows of words that meet nobody and dimensions beyond the
    rank are zero; the other rows together have standard deviation 1. device: a GPU that counts, or the CPU.
    """
    vectors = torch.zeros(vocab_size, dim, dtype=torch.float32)
    matrix = _positive_mutual_information(texts, vocab_size, window, device)
    if matrix is None:
        return vectors
    rank = min(dim, vocab_size)
    basis = torch.randn(vocab_size, min(rank + 20, vocab_size), generator=generator, dtype=torch.float32)
    for _ in range(2):
        basis = torch.linalg.qr(matrix.t() @ torch.linalg.qr(matrix @ basis)[0])[0]
    left, values, _ = torch.linalg.svd(matrix @ basis, full_matrices=False)
    vectors[:, :rank] = left[:, :rank] * values[:rank].sqrt()
    met = torch.zeros(vocab_size, dtype=torch.bool)
    met[matrix.indices()[0]] = True
    vectors[~met] = 0
    spread = vectors[met].std(correction=0)
    return vectors / spread if spread > 0 else vectors


# Sparse tensors that are right by construction; to say so in each call leaves the process's own setting alone.
_sparse = functools.partial(torch.sparse_coo_tensor, check_invariants=False)


def _positive_mutual_information(texts: list[Tensor], vocab_size: int, window: int, device=None) -> Tensor | None:
    """Sparse matrix (V, V) of words by contexts, coalesced; None where no two words stand beside each other."""
    size = (vocab_size, vocab_size)
    on_gpu = device is not None and device.type == "cuda"
    counts = count_pairs_on(device, texts, vocab_size, window) if on_gpu else _count_pairs(texts, vocab_size, window)
    if counts.values().numel() == 0:
        return None
    words, contexts = counts.indices()
    count = torch.zeros(vocab_size, dtype=torch.float64).index_add_(0, words, counts.values().double())
    context_share = count**0.75 / (count**0.75).sum()  # smoothed, else rare contexts look far too telling
    information = (counts.values() / (count[words] * context_share[contexts])).log()
    kept = information > 0
    if not bool(kept.any()):
        return None
    return _sparse(counts.indices()[:, kept], information[kept].float(), size, is_coalesced=True)


def _count_pairs(texts: list[Tensor], vocab_size: int, window: int) -> Tensor:
    """How often two words stand near each other, by their distance: sparse (V, V), coalesced."""
    size, sparse = (vocab_size, vocab_size), _sparse
    counts = sparse(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, dtype=torch.float32), size)
    for start in range(0, len(texts), 2000):  # in parts, since the pairs take far more room than their sums
        part = texts[start : start + 2000]
        for distance in range(1, window + 1):
            long_enough = [words for words in part if len(words) > distance]
            if not long_enough:
                break
            firsts = torch.cat([words[:-distance] for words in long_enough])
            seconds = torch.cat([words[distance:] for words in long_enough])
            pairs = torch.stack([torch.cat([firsts, seconds]), torch.cat([seconds, firsts])])
            weights = torch.full((pairs.shape[1],), 1.0 / distance, dtype=torch.float32)
            counts = counts + sparse(pairs, weights, size)
        counts = counts.coalesce()
    return counts


def count_pairs_on(device: torch.device, texts: list[Tensor], vocab_size: int, window: int) -> Tensor:
    """`_count_pairs` by a GPU, given back to the CPU; other by rounding, as sums are formed in another order."""
    size = (vocab_size, vocab_size)
    nothing = torch.zeros(2, 0, dtype=torch.int64, device=device), torch.zeros(0, dtype=torch.float32, device=device)
    counts = _sparse(*nothing, size).coalesce()
    for start in range(0, len(texts), 20_000):
        part = texts[start : start + 20_000]
        words, lengths = torch.cat(part).to(device), torch.tensor([len(text) for text in part])
        # How many words of its own text follow each word.
        rest = (torch.repeat_interleave(lengths.cumsum(0), lengths) - torch.arange(len(words)) - 1).to(device)
        pairs, weights = [counts.indices()], [counts.values()]
        for distance in range(1, window + 1):
            places = torch.nonzero(rest >= distance)[:, 0]
            firsts, seconds = words[places], words[places + distance]
            pairs += [torch.stack([firsts, seconds]), torch.stack([seconds, firsts])]
            weights.append(torch.full((2 * len(places),), 1.0 / distance, dtype=torch.float32, device=device))
        counts = _sparse(torch.cat(pairs, 1), torch.cat(weights), size).coalesce()
    return counts.cpu()


RECIPES = {"public": PublicRecipe, "strong": StrongRecipe}

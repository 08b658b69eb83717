"""The training loop of the strong recipe: what is drawn for each step, the loss, and the weights' average.

Letters: B documents of a batch, T' words of its longest, E embedding size, H hidden size, D directions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.corpus import Corpus
from .device_training import ClippedAdam, DeviceReader, EpochSteps
from .linear_teacher import fit_linear_teacher
from .model import LSTMClassifier
from .recipes import DistilledRecipe, StrongRecipe
from .teachers import Teachers
from .training_run import TrainingRun, WeightAverage
from .word_vectors import cooccurrence_vectors

TrainEpoch = Callable[[int], Iterable[float]]
"""Takes an epoch's number from 0; takes the steps and yields the loss of each, as it was before the step."""


class LSTMReader(Protocol):
    """Runs the LSTM of a model and reads its output: the model itself, or a `DeviceReader` of it."""

    def run_lstm(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """All outputs (B, T, D * H), of word vectors (B, T, E) and lengths (B,)."""

    def read_output(self, output: Tensor, lengths: Tensor) -> Tensor:
        """The outputs (B, D * H) at the last words, of all outputs."""


def train_strong(run: TrainingRun, recipe: StrongRecipe) -> tuple[LSTMClassifier, dict[str, Any]]:
    """Trains a base by the strong recipe. Returns it, on the run's device, and its figures."""
    corpus = run.corpus
    fit, held_out = corpus.validation_indices()  # the same split by which modules are selected later
    teacher = _teachers(run, recipe, fit) if isinstance(recipe, DistilledRecipe) else None
    model = run.new_model("last_word")
    started = time.perf_counter()
    run.say(f"making word vectors from {len(fit)} training documents")
    _initialise(model, corpus, fit, recipe, run.generator, run.device)
    run.say(f"word vectors made, {time.perf_counter() - started:.0f} s")

    model.to(run.device).train()
    steps = max(math.ceil(len(fit) / recipe.batch_size), recipe.min_steps)
    plan = _Plan(
        corpus, recipe, fit, steps, (model.embedding_dim, model.hidden2label.in_features), run.generator, teacher
    )
    embedding = model.word_embeddings.weight
    rest: list[Tensor] = [*model.lstm.parameters(), *model.hidden2label.parameters()]
    run.average = average = WeightAverage([embedding, *rest])
    choose = _epochs_on_cpu if run.device.type == "cpu" else _epochs_on_device

    def describe(epoch: int) -> str:
        if not len(held_out):
            return ""
        validation = run.figures(model, held_out)
        return f", validation accuracy {100 * validation.accuracy:.1f} %, mean F1 {validation.mean_f1:.3f}"

    run.train_epochs(recipe.epochs, steps, choose(model, plan, embedding, rest, average), describe)
    average.store()
    model.eval()
    figures: dict[str, Any] = {"documents": len(fit), "train_accuracy": run.figures(model, fit).accuracy}
    if len(held_out):
        validation = run.figures(model, held_out)
        figures |= {"validation_accuracy": validation.accuracy, "validation_mean_f1": validation.mean_f1}
        run.say(
            f"averaged weights: validation accuracy {100 * validation.accuracy:.1f} %, "
            f"mean F1 {validation.mean_f1:.3f} over {validation.total} documents"
        )
    return model, figures


def _teachers(run: TrainingRun, recipe: DistilledRecipe, fit: Tensor) -> Teachers:
    """The teachers of a distilled base, fitted to the documents ``fit``."""
    corpus, split, started = run.corpus, run.corpus.train, time.perf_counter()
    run.say(f"fitting a linear SVM to {len(fit)} training documents")
    chosen = split.ids[fit], split.lengths[fit], split.labels[fit]
    linear = fit_linear_teacher(*chosen, corpus.num_classes, corpus.vocab_size)
    run.say(f"fitted, {time.perf_counter() - started:.0f} s")
    lstms = []
    for number in range(1, recipe.lstm_teachers + 1):
        run.say(f"training teacher {number} of {recipe.lstm_teachers}")
        seed = int(torch.randint(1 << 62, (), generator=run.generator))
        teacher = TrainingRun(corpus, run.sizes, torch.Generator().manual_seed(seed), run.device, run.progress, run.log)
        lstms.append(train_strong(teacher, StrongRecipe())[0].to("cpu"))
    return Teachers(linear, lstms)


class _Plan:
    """The steps of a training: their batches and learning rates, and after which the weights are averaged.

    Args:
        corpus: the documents.
        recipe: the settings.
        fit: indices of the training documents that are trained on, (N,).
        steps: steps of an epoch.
        sizes: E and D * H.
        generator: draws the batches and their dropout.
        teacher: gives the labels, by the distilled recipe.
    """

    def __init__(
        self,
        corpus: Corpus,
        recipe: StrongRecipe,
        fit: Tensor,
        steps: int,
        sizes: tuple[int, int],
        generator: torch.Generator,
        teacher: Teachers | None = None,
    ) -> None:
        self.sizes, self.teacher = sizes, teacher
        self.corpus, self.recipe, self.fit, self.steps, self.generator = corpus, recipe, fit, steps, generator
        self.all_steps = recipe.epochs * steps
        self._average_from, self._average_every = round((1 - recipe.averaged_part) * self.all_steps), max(1, steps // 4)

    def batches(self) -> list[Tensor]:
        """The next epoch's batches (document indices), drawn from the generator."""
        return _draw_batches(self.corpus, self.fit, self.steps, self.recipe, self.generator)

    def draw(self, batch: Tensor) -> _Batch:
        """The input of a step on these documents, drawn from the generator."""
        return _draw_batch(self.corpus, batch, self.recipe, self.sizes, self.generator, self.teacher)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over all epochs."""
        return self.recipe.lr * max(1e-3, (1 + math.cos(math.pi * step / self.all_steps)) / 2)

    def averages_after(self, step: int) -> bool:
        """Whether the weights after that step count in the average."""
        return step >= self._average_from and (step + 1) % self._average_every == 0


def _epochs_on_cpu(
    model: LSTMClassifier, plan: _Plan, embedding: Tensor, rest: list[Tensor], average: WeightAverage
) -> TrainEpoch:
    """Epochs in plain PyTorch; each step is taken when the next loss is asked for."""
    optimizer = torch.optim.Adam([embedding, *rest], lr=plan.recipe.lr, fused=True)

    def train_epoch(epoch: int) -> Iterator[float]:
        for step, batch in enumerate(plan.batches(), epoch * plan.steps):
            optimizer.param_groups[0]["lr"] = plan.rate(step)
            loss = _loss(model, plan.draw(batch), plan.recipe, model)
            yield loss.item()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(rest, plan.recipe.max_grad_norm)
            optimizer.step()
            if plan.averages_after(step):
                average.add()

    return train_epoch


def _epochs_on_device(
    model: LSTMClassifier, plan: _Plan, embedding: Tensor, rest: list[Tensor], average: WeightAverage
) -> TrainEpoch:
    """The same epochs on the model's device: the losses are known when the whole epoch is done.

    The CPU draws the next epoch while the device computes the present one.
    """
    adam, reader = ClippedAdam(embedding, rest, plan.recipe.max_grad_norm), DeviceReader(model)
    width = plan.corpus.train.ids.shape[1]
    epochs = plan.recipe.epochs
    drawn: list[list[Tensor]] = []  # the next epoch's input, once it is drawn

    def take_step(rate: Tensor, *parts: Tensor) -> Tensor:
        adam.rate.copy_(rate)
        loss = _loss(model, _Batch(*parts), plan.recipe, reader)
        adam.step(loss)
        return loss

    steps = EpochSteps(embedding.device, take_step)

    def draw(epoch: int) -> None:
        rates = torch.tensor([plan.rate(epoch * plan.steps + step) for step in range(plan.steps)], dtype=torch.float32)
        each = [plan.draw(batch).padded(width) for batch in plan.batches()]
        drawn.append([rates, *(torch.stack(parts) for parts in zip(*each, strict=True))])

    def train_epoch(epoch: int) -> list[float]:
        if not drawn:
            draw(epoch)
        steps.begin(drawn.pop())
        done = 0
        for step in range(plan.steps):
            averages = plan.averages_after(epoch * plan.steps + step)
            if averages or step + 1 == plan.steps:
                steps.run(step + 1 - done)
                done = step + 1
            if averages:
                average.add()
        if epoch + 1 < epochs:
            draw(epoch + 1)
        return steps.losses()

    return train_epoch


@torch.no_grad()
def _initialise(
    model: LSTMClassifier,
    corpus: Corpus,
    fit: Tensor,
    recipe: StrongRecipe,
    generator: torch.Generator,
    device: torch.device,
) -> None:
    """Sets the embedding to co-occurrence vectors of the documents ``fit``, and the biases of the forget gates."""
    split, table = corpus.train, model.word_embeddings.weight
    texts = [split.ids[i, : int(split.lengths[i])] for i in fit.tolist()]
    sizes = model.vocab_size, model.embedding_dim
    vectors = cooccurrence_vectors(texts, *sizes, recipe.vector_window, generator, device)
    # Zeros stand for words that co-occur with none and dimensions beyond the rank: these keep their random start.
    table.copy_(torch.where(vectors != 0, vectors, table) * recipe.vector_scale)
    hidden = model.hidden_dim
    for name, parameter in model.lstm.named_parameters():
        if name.startswith("bias"):
            value = recipe.forget_bias if name.startswith("bias_ih") else 0.0
            parameter[hidden : 2 * hidden] = value  # gate order i, f, g, o


def _draw_batches(
    corpus: Corpus, fit: Tensor, steps: int, recipe: StrongRecipe, generator: torch.Generator
) -> list[Tensor]:
    """One epoch of batches (document indices): classes weighted, documents of similar length, in random order."""
    labels, lengths = corpus.train.labels[fit], corpus.train.lengths[fit]
    counts = torch.bincount(labels, minlength=corpus.num_classes).double()
    weight = counts[labels] ** -recipe.class_exponent
    drawn = torch.multinomial(weight, steps * recipe.batch_size, replacement=True, generator=generator)
    # Sorting by length saves padding; within chunks of twenty batches only, so that batches stay mixed.
    chunks = drawn.split(20 * recipe.batch_size)
    drawn = torch.cat([chunk[lengths[chunk].argsort(stable=True)] for chunk in chunks])
    batches = fit[drawn].split(recipe.batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


class _Batch(NamedTuple):
    """The input of one step.

    Attributes:
        ids: words (B, T').
        lengths: real words of each document, (B,).
        labels: class ids (B,), or a teacher's probabilities of all classes (B, C).
        vector_mask: dropout of dimensions of the word vectors, (B, 1, E).
        output_mask: dropout of the LSTM output, (B, D * H).
        prefix: the length after which the second readout is taken, (B,).
    """

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    vector_mask: Tensor
    output_mask: Tensor
    prefix: Tensor

    def padded(self, width: int) -> _Batch:
        """The same with documents padded to ``width`` words, so that all batches have one shape."""
        return self._replace(ids=F.pad(self.ids, (0, width - self.ids.shape[1])))


def _draw_batch(
    corpus: Corpus,
    batch: Tensor,
    recipe: StrongRecipe,
    sizes: tuple[int, int],
    generator: torch.Generator | None,
    teacher: Teachers | None = None,
) -> _Batch:
    """The input of a step on the documents ``batch`` (indices); sizes: E and D * H."""
    split = corpus.train
    labels, lengths = split.labels[batch], split.lengths[batch]
    ids = split.ids[batch, : int(lengths.max())]
    if isinstance(recipe, DistilledRecipe) and recipe.window_share and corpus.whole_train is not None:
        ids = corpus.whole_train.windows(batch, ids, _uniform((2, len(batch)), generator), recipe.window_share)
    if corpus.unknown_id is not None:
        dropped = _uniform(ids.shape, generator) < recipe.word_dropout
        ids = ids.masked_fill(dropped, corpus.unknown_id)  # also trains the vector of unknown words
    if teacher is not None:
        labels = teacher.probabilities(ids, lengths)
    vector_mask = _dropout_mask((len(ids), 1, sizes[0]), recipe.vector_dropout, generator)
    output_mask = _dropout_mask((len(ids), sizes[1]), recipe.dropout, generator)
    prefix = lengths
    if recipe.prefix_weight:
        # The first 25 to 100 % of the words, at random: shorter paths for the gradient, more different texts.
        share = 0.25 + 0.75 * _uniform((len(ids),), generator)
        prefix = torch.minimum((share * lengths).long() + 1, lengths)
    return _Batch(ids, lengths, labels, vector_mask, output_mask, prefix)


def _loss(model: LSTMClassifier, batch: _Batch, recipe: StrongRecipe, reader: LSTMReader) -> Tensor:
    """Cross-entropy of the readout, plus the weighted one of the readout after the prefix; a scalar."""
    vectors = model.word_embeddings(batch.ids) * batch.vector_mask
    output = reader.run_lstm(vectors, batch.lengths)

    def loss_at(output: Tensor, lengths: Tensor) -> Tensor:
        logits = model.hidden2label(reader.read_output(output, lengths) * batch.output_mask)
        return F.cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)

    loss = loss_at(output, batch.lengths)
    if recipe.prefix_weight:
        if model.bidirectional:  # the reverse direction must begin at the prefix's own end, so the LSTM runs again
            output = reader.run_lstm(vectors, batch.prefix)
        loss = loss + recipe.prefix_weight * loss_at(output, batch.prefix)
    return loss


def _dropout_mask(shape: tuple[int, ...], rate: float, generator: torch.Generator | None) -> Tensor:
    """Factors of inverted dropout: 0 with probability ``rate``, else 1 / (1 - rate)."""
    return (_uniform(shape, generator) >= rate).float() / (1 - rate)


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform random numbers in [0, 1), float32."""
    return torch.rand(shape, generator=generator, dtype=torch.float32)

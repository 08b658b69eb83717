"""What the training loops of both recipes share: the new model, the epochs with their reports, and what is left of a
training that is interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.progress import duration, progress_bar
from ..data.corpus import Corpus
from ..errors import TrainingError
from .evaluate import predict_logits
from .metrics import ClassifierMetrics, confusion_metrics
from .model import LSTMClassifier

Log = Callable[[str], Any]


class WeightAverage:
    """Running mean of parameters over the steps after which `add` is called.

    Args:
        parameters: tensors of any shapes; `store` writes the means into them.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Counts the parameters' present values."""
        self.count += 1
        if self.count == 1:
            self.means = [p.detach().clone() for p in self.parameters]
        else:
            torch._foreach_lerp_(self.means, [p.detach() for p in self.parameters], 1 / self.count)

    @torch.no_grad()
    def store(self) -> None:
        """Sets the parameters to their means, where any values were counted."""
        if self.count:
            torch._foreach_copy_(self.parameters, self.means)


@dataclass
class TrainingRun:
    """One training of a base: what it is given and how far it has come.

    Attributes:
        corpus: the documents.
        sizes: ``embedding_dim``, ``hidden_dim``, ``num_layers`` and ``bidirectional`` of the model.
        generator: draws all random numbers, on the CPU.
        device: where the steps are computed.
        progress: whether to show a progress bar.
        log: called with a line for each epoch; None: nothing is logged.
        model: the model in training, once there is one.
        average: the mean of its weights that the recipe stores in the end, if it does.
        epochs_done: whole epochs.
    """

    corpus: Corpus
    sizes: dict[str, Any]
    generator: torch.Generator
    device: torch.device
    progress: bool
    log: Log | None
    model: LSTMClassifier | None = None
    average: WeightAverage | None = None
    epochs_done: int = 0

    def say(self, line: str) -> None:
        """Logs a line, where a log is wanted."""
        if self.log is not None:
            self.log(line)

    def new_model(self, readout: str) -> LSTMClassifier:
        """The model to train, on the CPU."""
        self.model = new_model(self.corpus, self.sizes, readout, self.generator)
        return self.model

    def train_epochs(
        self,
        epochs: int,
        steps: int,
        train_epoch: Callable[[int], Iterable[float]],
        describe: Callable[[int], str],
    ) -> None:
        """Trains epoch by epoch, with progress and log.

        Args:
            epochs: how many.
            steps: steps of each.
            train_epoch: takes the epoch's number from 0, takes the steps and yields the loss of each.
            describe: takes the epoch's number, returns what the log says besides the loss and the time.

        Raises:
            TrainingError: a loss that is not finite.
        """
        started = time.perf_counter()
        with ExitStack() as stack:
            bar = stack.enter_context(closing(progress_bar(epochs * steps, "base"))) if self.progress else None
            for epoch in range(epochs):
                total = 0.0
                for step, loss in enumerate(train_epoch(epoch)):
                    _check_loss(loss, epoch, step)
                    total += loss
                    if bar is not None:
                        bar.update()
                self.epochs_done = epoch + 1
                if self.log is not None:
                    line = f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}{describe(epoch)}"
                    self.log(f"{line}, {_times(started, epoch, epochs)}")

    def figures(self, model: LSTMClassifier, documents: Tensor) -> ClassifierMetrics:
        """Metrics of the model on the given documents: indices (N,) into the training split."""
        split = self.corpus.train
        predicted = predict_logits(model, split.ids[documents], split.lengths[documents]).argmax(1)
        return confusion_metrics(split.labels[documents], predicted, self.corpus.num_classes)

    def interrupted_base(self, info: dict[str, Any]) -> LSTMClassifier | None:
        """The classifier as far as it was trained, on the CPU; None before the first epoch has ended."""
        if self.model is None or self.epochs_done == 0:
            return None
        if self.average is not None:
            self.average.store()
        self.model.info = info | {"interrupted": self.epochs_done}
        return self.model.eval().to("cpu")


def new_model(corpus: Corpus, sizes: dict[str, Any], readout: str, generator: torch.Generator) -> LSTMClassifier:
    """A classifier with PyTorch's default initialisation, drawn from ``generator`` instead of the global one."""
    with torch.device("meta"):
        model = LSTMClassifier.for_corpus(corpus, **sizes, readout=readout)
    model = model.to(torch.float32).to_empty(device="cpu")
    with torch.no_grad():
        model.word_embeddings.weight.normal_(generator=generator)
        for layer, size in ((model.lstm, model.hidden_dim), (model.hidden2label, model.hidden2label.in_features)):
            bound = 1 / math.sqrt(size)
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return model


def _times(started: float, epoch: int, epochs: int) -> str:
    """How long training took up to this epoch (from 0), and about how much longer it will take."""
    took = time.perf_counter() - started
    left = took / (epoch + 1) * (epochs - epoch - 1)
    return f"{took:.0f} s" + (f", about {duration(left)} left" if epoch + 1 < epochs else "")


def _check_loss(loss: float, epoch: int, step: int) -> None:
    """Raises TrainingError for a loss that is not finite; epoch and step count from 0."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"Training the base: the loss is {loss} in epoch {epoch + 1}, step {step + 1}; try a smaller learning rate."
        )

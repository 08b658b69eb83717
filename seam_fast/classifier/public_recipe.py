"""The training loop of the public recipe: plain SGD, the output read at the last position of each document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.batches import deal
from ..data.corpus import Corpus
from .device_training import DeviceReader, EpochSteps
from .model import LSTMClassifier
from .recipes import PublicRecipe
from .training_run import TrainingRun

Steps = Callable[[Sequence[Tensor], float], Iterable[float]]
"""Takes an epoch's batches (document indices) and its learning rate; takes the steps and yields the loss of each."""


def train_public(run: TrainingRun, recipe: PublicRecipe) -> tuple[LSTMClassifier, dict[str, Any]]:
    """Trains a base by the public recipe. Returns it, on the run's device, and its figures."""
    model = run.new_model("last_position").to(run.device)
    count = len(run.corpus.train)
    take_steps = (_steps_on_cpu if run.device.type == "cpu" else _steps_on_device)(run.corpus, recipe, model)

    def rate(epoch: int) -> float:
        return recipe.lr * recipe.lr_decay ** (epoch // recipe.decay_every)

    def train_epoch(epoch: int) -> Iterable[float]:
        order = torch.randperm(count, generator=run.generator)
        return take_steps(order.split(recipe.batch_size), rate(epoch))

    steps = math.ceil(count / recipe.batch_size)
    run.train_epochs(recipe.epochs, steps, train_epoch, lambda epoch: f", learning rate {rate(epoch):g}")
    return model, {"train_accuracy": run.figures(model, torch.arange(count)).accuracy}


def _steps_on_cpu(corpus: Corpus, recipe: PublicRecipe, model: LSTMClassifier) -> Steps:
    """Steps in plain PyTorch, each taken when its loss is asked for."""
    ids, labels = corpus.train.ids, corpus.train.labels
    embedding = model.word_embeddings.weight.detach()
    rest: list[Tensor] = [*model.lstm.parameters(), *model.hidden2label.parameters()]

    def take_steps(batches: Sequence[Tensor], lr: float) -> Iterator[float]:
        for batch in batches:
            words = ids[batch]
            # The embedding's dense gradient would have V rows, of which a batch touches a hundred: step only those.
            vectors = embedding[words].requires_grad_()
            loss = F.cross_entropy(model.hidden2label(model.lstm(vectors)[0][:, -1]), labels[batch])
            vectors_grad, *grads = torch.autograd.grad(loss, [vectors, *rest])
            with torch.no_grad():
                embedding.index_add_(0, words.flatten(), vectors_grad.flatten(0, 1), alpha=-lr)
                torch._foreach_add_(rest, grads, alpha=-lr)
            yield loss.item()

    return take_steps


def _steps_on_device(corpus: Corpus, recipe: PublicRecipe, model: LSTMClassifier) -> Steps:
    """The same steps on the model's device; the losses are known when the whole epoch is done."""
    ids, labels = corpus.train.ids, corpus.train.labels
    parameters: list[Tensor] = list(model.parameters())
    reader = DeviceReader(model)
    numbers, real = deal(len(ids), min(recipe.batch_size, len(ids)))
    share = real / real.sum(1, keepdim=True)  # the weight of each document in its batch's mean loss

    def step(words: Tensor, wanted: Tensor, share: Tensor, lr: Tensor) -> Tensor:
        output = reader.run_lstm(model.word_embeddings(words), None)
        loss = (F.cross_entropy(model.hidden2label(output[:, -1]), wanted, reduction="none") * share).sum()
        gradients = torch.autograd.grad(loss, parameters)  # dense: atomic additions would sum in an order of their own
        with torch.no_grad():
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, -lr))
        return loss

    steps = EpochSteps(parameters[0].device, step)

    def take_steps(batches: Sequence[Tensor], lr: float) -> list[float]:
        order = torch.cat(list(batches))[numbers]
        steps.begin([ids[order], labels[order], share, torch.full((len(numbers),), lr, dtype=torch.float32)])
        steps.run(len(numbers))
        return steps.losses()

    return take_steps

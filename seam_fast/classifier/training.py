"""Training a base, by the public recipe or by a strong one within the same architecture and sizes.

Both draw every random number from a generator of their own: the same seed on the same machine gives the same weights
bit for bit, and the caller's random state is not touched. On the CPU they are plain PyTorch; on a GPU (see
``device_training``) the weights differ from the CPU's by rounding.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any, cast

import torch

from ..common.arguments import callback, seed_number, shown, truth, whole_number
from ..common.default_device import cpu_by_default, on_the_cpu
from ..common.threads import one_thread
from ..data.corpus import Corpus, check_is_corpus
from ..errors import TrainingError
from .device_training import device_name, training_device
from .model import LSTMClassifier
from .public_recipe import train_public
from .recipes import RECIPES, PublicRecipe, StrongRecipe
from .strong_recipe import train_strong
from .training_run import Log, TrainingRun


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
    """Trains a base on ``corpus.train``; the test split is not used.

    Training runs on one thread and in float32, whatever torch is set to. The strong recipe leaves out the documents of
    ``corpus.validation_indices(0.1, seed=0)``, which select modules later, and reports its figures on them.

    Args:
        corpus: the documents.
        recipe: ``"strong"``, ``"public"``, or a `StrongRecipe` or `PublicRecipe` with other settings.
        seed: of the initial weights, the order of the documents, and dropout.
        epochs: replaces the recipe's number of epochs.
        embedding_dim: as in `LSTMClassifier`.
        hidden_dim: as in `LSTMClassifier`.
        num_layers: as in `LSTMClassifier`.
        bidirectional: as in `LSTMClassifier`.
        progress: whether to show progress on standard error: a bar on a terminal, else a line after some seconds and
            then every half minute.
        log: called with one line for each epoch.
        device: ``"cpu"``, ``"cuda"``, or one GPU of several. On a GPU the same documents and dropout are drawn, and
            each step is replayed from a CUDA graph; the weights differ by rounding.

    Returns:
        The classifier, on the CPU. Its ``info`` has the settings and figures, and ``info["device"]`` names the GPU.

    Raises:
        TrainingError: the loss is not finite, or an argument makes no sense.

    KeyboardInterrupt, and any exception of ``log``, are raised with an attribute ``base``: the classifier as far as it
    was trained, with the number of whole epochs in ``info["interrupted"]``; None before the first epoch has ended.
    """
    recipe = _chosen_recipe(recipe, epochs)
    check_is_corpus(corpus)
    sizes = {
        "embedding_dim": whole_number("embedding_dim", embedding_dim, 1),
        "hidden_dim": whole_number("hidden_dim", hidden_dim, 1),
        "num_layers": whole_number("num_layers", num_layers, 1),
        "bidirectional": truth("bidirectional", bidirectional),
    }
    callback("log", log)
    device = training_device(device)
    seed = seed_number(seed)
    info: dict[str, Any] = {
        "recipe": recipe.name,
        "settings": asdict(recipe),
        "seed": seed,
        "corpus": corpus.name,
        "corpus_config": corpus.config.as_dict(),
        "synthetic": corpus.synthetic,
        "data_hash": corpus.data_hash,
    }
    if (name := device_name(device)) is not None:
        info["device"] = name
    run = TrainingRun(corpus, sizes, torch.Generator().manual_seed(seed), device, progress, log)
    try:
        with _surroundings(device):
            if isinstance(recipe, PublicRecipe):
                model, figures = train_public(run, recipe)
            else:
                model, figures = train_strong(run, recipe)
            model.to("cpu")
    except BaseException as error:
        if not isinstance(error, TrainingError):
            with suppress(AttributeError):  # an exception class may forbid new attributes
                cast(Any, error).base = run.interrupted_base(info)
        raise
    model.info = info | {"weights_hash": model.hash} | figures
    return model


def _chosen_recipe(recipe: str | PublicRecipe | StrongRecipe, epochs: int | None) -> PublicRecipe | StrongRecipe:
    """The recipe of that name, or that recipe, with that number of epochs where one is given."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise TrainingError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}.")
        recipe = RECIPES[recipe]()
    if not isinstance(recipe, PublicRecipe | StrongRecipe):
        raise TrainingError(f"recipe is {shown(recipe)}; it must be a name, a StrongRecipe or a PublicRecipe")
    return recipe if epochs is None else replace(recipe, epochs=epochs)


def _surroundings(device: torch.device) -> ExitStack:
    """A context with the settings of torch that training needs in the calling thread; they are restored afterwards.

    One thread: batches this small gain nothing from more and lose much where cores are shared (measured: a factor of
    three), and sums do not depend on the caller's number of threads. The default dtype is not set, since it belongs to
    the whole process: training names float32 for each tensor that it makes.
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

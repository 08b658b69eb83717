"""Training, saving, loading and describing the bases that the commands work on."""

import argparse
import json
import sys
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from ..classifier.device_training import device_name
from ..classifier.evaluate import evaluate_classifier, predict_logits
from ..classifier.model import LSTMClassifier
from ..classifier.recipes import RECIPES
from ..classifier.training import train_classifier
from ..common.progress import is_terminal, say
from ..data.corpus import Corpus
from ..data.tokenizer import tokenizer_named
from ..errors import SeamFastError
from ..search.evaluate import warn_of_chance
from .corpora import Log
from .disk import check_room
from .paths import interrupted_file

RECIPE_PROTOCOL = {
    "strong": "seam",
    "distilled": "seam",
    "public": "reference",
}  # the text treatment each recipe was made for


def load_base(arguments: argparse.Namespace, path: str | PathLike[str]) -> LSTMClassifier:
    """Loads a base as the options of `add_base_options` and ``--tokenizer`` say.

    Where the names of the file's tensors were adapted, a line on standard error says how.

    Args:
        arguments: the parsed command line. ``tokenizer`` is for files that do not hold theirs.
        path: the base's file.

    Returns:
        The base.

    Raises:
        CheckpointError: for a file that cannot be read as a base, or that contradicts the options.
        DataError: for a tokenizer that does not exist.
    """
    tokenizer = tokenizer_named(arguments.tokenizer) if arguments.tokenizer else None
    base = LSTMClassifier.load(
        path,
        readout=arguments.readout,
        key_map=arguments.key_map,
        ignore_keys=arguments.ignore_keys,
        tokenizer=tokenizer,
    )
    if base.info.get("adapted"):
        say(f"{path}: {'; '.join(base.info['adapted'])}")
    return base


def train_base(corpus: Corpus, recipe: str, seed: int, path: Path, log: Log, **options: Any) -> LSTMClassifier:
    """Trains a base and saves it, with its figures on the test documents in its metadata (``info["test"]``).

    What there is when the training is cut short is saved beside it, marked ``.interrupted``.

    Args:
        corpus: the documents to train on.
        recipe: ``strong`` or ``public``.
        seed: of weights, order and dropout.
        path: the file to write.
        log: takes lines about the training.
        **options: as in `train_classifier`.

    Returns:
        The base.

    Raises:
        CheckpointError: where the disk has no room for the base.
        TrainingError: as `train_classifier` does.
        OSError: where the base cannot be written.
    """
    mark = "SYNTHETIC: " if corpus.synthetic else ""
    size = f"{len(corpus.train)} documents, {corpus.num_classes} classes"
    log(f"{mark}training the base: recipe {recipe}, {size}, seed {seed}")
    # The embedding's float32 values are nearly all of a base; twice, since a new file is written beside an old one.
    check_room(path.parent, 8 * corpus.vocab_size * options.get("embedding_dim", 100))
    lines = None if is_terminal(sys.stderr) else say  # on a terminal a progress bar shows the same
    try:
        base = train_classifier(corpus, recipe, seed, progress=True, log=lines, **options)
    except BaseException as error:
        unfinished: LSTMClassifier | None = getattr(error, "base", None)
        if unfinished is not None:
            written = unfinished.save(interrupted_file(path))
            log(f"{mark}cut short; the base after {unfinished.info['interrupted']} epochs: {written}")
        raise
    base.save(path)  # at once: a failure of the evaluation below must not lose the training
    base.info["test"] = evaluate_classifier(base, corpus.test).as_dict(corpus.class_names)
    warn_of_chance(predict_logits(base, corpus.test.ids, corpus.test.lengths), corpus.test.labels, "the test documents")
    base.save(path)
    log(f"{mark}base: {path} ({describe_base(base)})")
    return base


def reusable_base(path: Path, corpus: Corpus, arguments: argparse.Namespace) -> LSTMClassifier | None:
    """The base in a file if ``seam-fast train`` with these arguments would make the same one; None otherwise."""
    if not path.is_file():
        return None
    try:
        base = LSTMClassifier.load(path)
    except SeamFastError:
        return None
    recipe = RECIPES[arguments.recipe]()
    settings = asdict(replace(recipe, epochs=arguments.epochs) if arguments.epochs else recipe)
    wanted = {
        "recipe": arguments.recipe,
        "seed": arguments.seed,
        "data_hash": corpus.data_hash,
        "settings": json.loads(json.dumps(settings)),  # as the file's JSON gives them: lists in place of tuples
        "device": device_name(arguments.device),
    }
    same_shape = (base.num_layers, base.bidirectional) == (arguments.num_layers, arguments.bidirectional)
    as_trained = base.info.get("weights_hash") in (None, base.hash)  # older files do not hold that hash
    same = same_shape and as_trained and base.tokenizer == corpus.config.tokenizer
    return base if same and all(base.info.get(key) == value for key, value in wanted.items()) else None


def describe_base(base: LSTMClassifier) -> str:
    """A line about a base's quality on the test documents, from its metadata; its sizes where that says nothing."""
    test = base.info.get("test")
    if not isinstance(test, dict):
        return f"{base.num_classes} classes, {base.vocab_size} words"
    mark = "SYNTHETIC, " if base.info.get("synthetic") else ""
    low, high = test["accuracy_low"], test["accuracy_high"]
    interval = f"95 % interval {100 * low:.1f}-{100 * high:.1f}"
    return f"{mark}test accuracy {100 * test['accuracy']:.2f} % ({interval}), mean class F1 {test['mean_f1']:.3f}"

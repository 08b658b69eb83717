"""The bases and documents that the benchmarks train on: R8 as the reference treats it, or invented documents."""

from pathlib import Path

import torch

from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.training import train_classifier
from seam_fast.cli.bases import train_base
from seam_fast.cli.corpora import corpus_for_base, get_corpus
from seam_fast.common.progress import say
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.errors import NoSourceError


def load_base(arguments):
    """A base of the public recipe and its corpus: the one in ``arguments.base``, which is trained if it does not exist.

    A quick run trains two epochs only and saves nothing, since the time of a step does not depend on what the weights
    have learned. Without any source of R8 a quick run invents documents, and its record says so. With
    ``arguments.smoke`` both are tiny.
    """
    if arguments.smoke:
        return smoke_base()
    path = Path(arguments.base)
    if path.exists():
        base = LSTMClassifier.load(path)
        return base, corpus_for_base(base, "r8", arguments.data_dir, say)
    try:
        corpus = get_corpus("r8", arguments.data_dir, "reference", None, say)
    except NoSourceError as error:
        if not arguments.quick:
            raise
        say(f"{error}\nGoing on with generated documents of the same shape.")
        corpus = synthetic_r8("reference")
    if arguments.quick:
        say(f"{path} is not there: two epochs of training give a base that is good enough for a quick run")
        return train_classifier(corpus, "public", 0, epochs=2, progress=True), corpus
    return train_base(corpus, "public", 0, path, say), corpus


def smoke_base():
    """A tiny base that has learned nothing, and invented documents."""
    corpus = synthetic_r8("reference")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LSTMClassifier(corpus.vocab_size, 6, 5, corpus.num_classes, readout="last_position"), corpus

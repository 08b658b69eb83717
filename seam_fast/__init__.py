"""seam-fast: small modules out of a trained LSTM text classifier.

A base is a trained classifier; a target is a class of it; a module is the part of the base's weights that tells the
target from the rest, found by learning a score for each weight (SeaM) while the weights stay frozen.
"""

from ._version import __version__
from .backend import backends
from .classifier import LSTMClassifier, evaluate_classifier
from .corpus import Corpus, CorpusConfig, load_corpus
from .errors import CheckpointError, DataError, SeamFastError, TrainingError
from .r8 import load_r8
from .reengineer import Interrupted, reengineer
from .reference import binarize
from .seam_module import SeamModule
from .settings import Settings
from .train_base import train

__all__ = [
    "CheckpointError",
    "Corpus",
    "CorpusConfig",
    "DataError",
    "Interrupted",
    "LSTMClassifier",
    "SeamFastError",
    "SeamModule",
    "Settings",
    "TrainingError",
    "__version__",
    "backends",
    "binarize",
    "evaluate_classifier",
    "load_corpus",
    "load_r8",
    "reengineer",
    "train",
]

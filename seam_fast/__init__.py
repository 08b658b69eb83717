"""seam-fast: small modules out of a trained LSTM text classifier, and the masked LSTM op behind them.

A base is a trained classifier, a target one of its classes (or several). A module is the part of the base's weights
that tells the target from the rest. It is found by learning a score for each weight while the weights stay frozen
(SeaM, Qi et al., ICSE 2023).

Three entrances: `reengineer` and its kin work on whole classifiers; `MaskedLSTM`, `MaskedEmbedding`, `MaskedLinear` and
`ScoreAdam` are used like torch's own; `masked_lstm`, `masked_embedding` and `masked_linear` are the ops alone.
``seam_fast.testing`` helps to test kernels of one's own.

Without torch there is only ``seam_fast.runtime``, which uses modules that `SeamModule.compact` made.
"""

import importlib as _importlib
import importlib.util as _importlib_util

from ._version import __version__

_HAS_TORCH = _importlib_util.find_spec("torch") is not None
if _HAS_TORCH:
    from . import _moved
    from ._ext import build_info, has_cuda, has_ext
    from .backend import backends
    from .classifier.evaluate import evaluate_classifier
    from .classifier.model import LSTMClassifier
    from .classifier.training import train_classifier
    from .common import deprecation as _deprecation
    from .data.corpus import Corpus, CorpusConfig, load_corpus, load_split
    from .data.r8 import load_r8
    from .data.tokenizer import Tokenizer
    from .errors import BackendError, CheckpointError, DataError, DataWarning, SeamFastError, TrainingError
    from .modules.certify import certify
    from .modules.compact import CompactModule
    from .modules.costs import module_costs
    from .modules.export_c import export_c
    from .modules.export_onnx import export_onnx
    from .modules.export_page import export_html
    from .modules.seam_module import SeamModule
    from .modules.stable_core import StableCore
    from .nn import MaskedEmbedding, MaskedLinear, MaskedLSTM
    from .ops.functional import binarize, masked_embedding, masked_linear, masked_lstm
    from .optim import ScoreAdam
    from .search.evaluate import evaluate_module
    from .search.reengineer import reengineer, reengineer_many
    from .search.scheduler import Interrupted
    from .search.settings import Settings

__all__ = [
    "BackendError",
    "CheckpointError",
    "CompactModule",
    "Corpus",
    "CorpusConfig",
    "DataError",
    "DataWarning",
    "Interrupted",
    "LSTMClassifier",
    "MaskedEmbedding",
    "MaskedLSTM",
    "MaskedLinear",
    "ScoreAdam",
    "SeamFastError",
    "SeamModule",
    "Settings",
    "StableCore",
    "Tokenizer",
    "TrainingError",
    "__version__",
    "backends",
    "binarize",
    "build_info",
    "certify",
    "evaluate_classifier",
    "evaluate_module",
    "export_c",
    "export_html",
    "export_onnx",
    "has_cuda",
    "has_ext",
    "load_corpus",
    "load_r8",
    "load_split",
    "masked_embedding",
    "masked_linear",
    "masked_lstm",
    "module_costs",
    "reengineer",
    "reengineer_many",
    "train_classifier",
]


def __getattr__(name: str):
    if not _HAS_TORCH and name in __all__:
        raise ImportError(
            f"seam_fast.{name} needs PyTorch, which is not installed (pip install torch); without it there is only "
            "seam_fast.runtime, which uses compact modules"
        )
    if name == "train" and _HAS_TORCH:
        _deprecation.warn_renamed("seam_fast.train", "seam_fast.train_classifier")
        return train_classifier
    if _HAS_TORCH and name in _moved.MOVED:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if _HAS_TORCH:
    _moved.install()

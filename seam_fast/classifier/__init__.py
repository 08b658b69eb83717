"""The base: the LSTM classifier, its files, its predictions, how it is trained and evaluated."""

import importlib as _importlib

from ..common import deprecation as _deprecation

# ``seam_fast.classifier`` was a module: its names, by the module where they are now.
_MOVED = {
    "ClassifierMetrics": "metrics",
    "LSTMClassifier": "model",
    "confusion_metrics": "metrics",
    "evaluate_classifier": "evaluate",
    "predict_logits": "evaluate",
}


def __getattr__(name: str) -> object:
    """Names from before, with a DeprecationWarning."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_MOVED[name]}"
    _deprecation.warn_renamed(f"{__name__}.{name}", f"{module}.{name}", stacklevel=2)
    return getattr(_importlib.import_module(module), name)

"""The base: the LSTM classifier, its files, its predictions, how it is trained and evaluated."""

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
    return _deprecation.moved_name(__name__, name, {old: f"{__name__}.{now}" for old, now in _MOVED.items()})

"""Estimators for scikit-learn, over bases and modules: `SeamClassifier` and `SeamDetector`.

Nothing else in the package imports this room or scikit-learn, which comes with ``seam-fast[sklearn]``.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("seam_fast.sklearn needs scikit-learn 1.6 or newer: pip install 'seam-fast[sklearn]'") from error

from .classifier import SeamClassifier
from .detector import SeamDetector

__all__ = ["SeamClassifier", "SeamDetector"]

"""A module as a binary classifier of texts in scikit-learn's form: is it the target, or not?"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from ..modules.seam_module import SeamModule
from ..search.reengineer import reengineer
from ..search.settings import Settings
from .classifier import SeamClassifier, check_for_modules, numbers_of, of_texts, seed_from
from .inputs import InputError, as_input_errors, checked_labels, checked_texts, corpus_of_classes


class SeamDetector(ClassifierMixin, BaseEstimator):
    """A module that tells one class, or several together, from all others.

    ``fit(texts, y)`` takes the labels of all classes: a classifier is trained on them, and a module for the target is
    cut out of it. The answers are True (the target) and False.

    Args:
        target: the label of the class to detect, or a list, tuple or set of labels that count as one; None: of two
            classes the second, such as True.
        classifier: the `SeamClassifier` to train first, which is cloned; None: one with the defaults. A trained one is
            kept as it is where it is wrapped: ``sklearn.frozen.FrozenEstimator(classifier)``.
        settings: how the module is learned, a `Settings`; None: protocol ``"seam"``.
        backend: what trains the module, as in `reengineer`.
        random_state: of the module: a number, a ``RandomState``, or None for another result at each fit.
        verbose: whether to show progress on standard error.

    Attributes:
        classes_: ``array([False, True])``.
        classifier_: the trained classifier.
        module_: the `SeamModule`.
        target_: the labels that count as the target.
    """

    def __init__(
        self,
        target: Any = None,
        classifier: SeamClassifier | None = None,
        *,
        settings: Settings | None = None,
        backend: str = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.target = target
        self.classifier = classifier
        self.settings = settings
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> SeamDetector:
        """Trains the classifier, then the module.

        Args:
            X: N texts.
            y: N labels of all classes.

        Returns:
            Itself.

        Raises:
            ValueError: texts, labels or parameters that cannot be used.
        """
        texts = checked_texts(X)
        classes, numbers = checked_labels(y, len(texts))
        target = self._target_among(classes)
        check_for_modules(self.settings, self.backend)
        classifier: Any = clone(SeamClassifier() if self.classifier is None else self.classifier)
        classifier.fit(texts, y)
        if not np.array_equal(classifier.classes_, classes):
            raise InputError(
                f"y has the classes {classes.tolist()}, the trained classifier has {classifier.classes_.tolist()}; "
                "give it labels of those classes, each at least once."
            )
        base = classifier.base_
        with as_input_errors():
            corpus = corpus_of_classes(texts, numbers, classes, base=base)
            (module,) = reengineer(
                base,
                corpus,
                [tuple(target)],
                settings=self.settings,
                seed=seed_from(self.random_state),
                backend=self.backend,
                progress=bool(self.verbose),
            )
        self.classes_ = np.array([False, True])
        self.classifier_ = classifier
        self.module_: SeamModule = module
        self.target_: list[Any] = classes[sorted(target)].tolist()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The module's probabilities: N texts -> (N, 2) float64 of not the target, and of the target."""
        check_is_fitted(self, "module_")
        texts = checked_texts(X)
        return self.module_.predict_proba(*self.module_.encode(texts)).double().numpy()[:, ::-1].copy()

    def predict(self, X: Any) -> np.ndarray:
        """Whether the module takes each text for the target: N texts -> (N,) bool."""
        probabilities = self.predict_proba(X)
        return probabilities[:, 1] >= probabilities[:, 0]

    def is_target(self, y: Any) -> np.ndarray:
        """Which labels count as the target: (N,) -> (N,) bool, such as a scorer needs."""
        check_is_fitted(self, "module_")
        return np.isin(np.asarray(y), self.target_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the texts that are rightly told: N texts and their labels of all classes -> accuracy.

        Args:
            X: N texts.
            y: N labels of all classes.
            sample_weight: the weight of each text (N,).
        """
        return float(np.average(self.predict(X) == self.is_target(y), weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        """Tells scikit-learn that X is a list of strings."""
        return of_texts(super().__sklearn_tags__())

    def _target_among(self, classes: np.ndarray) -> list[int]:
        """The numbers of the target's classes. Raises InputError where they do not exist, or are all there are."""
        if self.target is None:
            if len(classes) != 2:
                raise InputError(
                    f"target is None, which means the second of two classes, and y has {len(classes)}; name a label."
                )
            return [1]
        several = isinstance(self.target, (list, tuple, set, frozenset, np.ndarray))
        numbers = numbers_of(self.target if several else [self.target], classes, "target")
        if len(numbers) == len(classes):
            raise InputError("target names all classes of y, so that nothing is to be told from it; name fewer.")
        return numbers

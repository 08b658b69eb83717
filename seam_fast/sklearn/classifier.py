"""A base, and modules if wanted, as a classifier of texts in scikit-learn's form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..backend import choose_engine
from ..classifier.evaluate import predict_logits
from ..classifier.model import LSTMClassifier
from ..classifier.recipes import PublicRecipe, StrongRecipe
from ..classifier.training import train_classifier
from ..data.tokenizer import Tokenizer
from ..modules.seam_module import SeamModule
from ..search.reengineer import reengineer
from ..search.settings import Settings, check_settings
from .inputs import InputError, as_input_errors, checked_labels, checked_texts, corpus_of_classes


class SeamClassifier(ClassifierMixin, BaseEstimator):
    """An LSTM classifier of texts, with a module for some or all of its classes.

    ``fit(texts, y)`` takes a list, array or series of N strings and as many labels; the other methods take texts. It is
    a usual estimator: it can be cloned, put at the end of a ``Pipeline`` whose steps give texts, cross-validated and
    searched over.

    Args:
        recipe: how the base is trained: ``"strong"``, ``"public"``, or a `StrongRecipe` or `PublicRecipe`.
        epochs: replaces the recipe's number of epochs (20 of ``"strong"``).
        modules: for which classes a module is learned: None, ``"all"``, or a list of labels.
        settings: how modules are learned, a `Settings`; None: protocol ``"seam"``.
        tokenizer: how texts become words, as in `CorpusConfig`; None: what suits the texts.
        min_count: how often a word must occur.
        max_length: words read of each text; None: 64 (256 characters, 32 words of the recipe ``"public"``).
        embedding_dim: as in `LSTMClassifier`.
        hidden_dim: as in `LSTMClassifier`.
        num_layers: as in `LSTMClassifier`.
        bidirectional: as in `LSTMClassifier`.
        device: where the base is trained, ``"cpu"`` or ``"cuda"``.
        backend: what trains modules, as in `reengineer`.
        random_state: of the base and modules: a number, a ``RandomState``, or None for another result at each fit.
        verbose: whether to show progress on standard error.

    Attributes:
        classes_: the labels (C,) in sorted order.
        base_: the trained `LSTMClassifier`.
        modules_: `SeamModule` by label.
        seed_: the seed of base and modules.
    """

    def __init__(
        self,
        recipe: str | StrongRecipe | PublicRecipe = "strong",
        *,
        epochs: int | None = None,
        modules: str | Iterable[Any] | None = None,
        settings: Settings | None = None,
        tokenizer: str | Tokenizer | Callable[[str], Iterable[str]] | None = None,
        min_count: int = 1,
        max_length: int | None = None,
        embedding_dim: int = 100,
        hidden_dim: int = 50,
        num_layers: int = 1,
        bidirectional: bool = False,
        device: str = "cpu",
        backend: str = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.epochs = epochs
        self.modules = modules
        self.settings = settings
        self.tokenizer = tokenizer
        self.min_count = min_count
        self.max_length = max_length
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.device = device
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> SeamClassifier:
        """Trains the base, then the modules.

        Args:
            X: N texts.
            y: N labels, strings or numbers, of at least two classes.

        Returns:
            Itself.

        Raises:
            ValueError: texts, labels or parameters that cannot be used.
        """
        texts = checked_texts(X)
        if not texts:
            raise InputError("X is empty: found array with 0 sample(s), and at least one of each of two is required.")
        classes, numbers = checked_labels(y, len(texts))
        chosen = self._classes_of_modules(classes)
        check_for_modules(self.settings, self.backend)
        seed = seed_from(self.random_state)
        with as_input_errors():
            corpus = corpus_of_classes(texts, numbers, classes, protocol=self._protocol(), **self._text_settings())
            base = train_classifier(
                corpus,
                self.recipe,
                seed,
                epochs=self.epochs,
                embedding_dim=self.embedding_dim,
                hidden_dim=self.hidden_dim,
                num_layers=self.num_layers,
                bidirectional=self.bidirectional,
                progress=bool(self.verbose),
                device=self.device,
            )
            found = reengineer(
                base,
                corpus,
                chosen,
                settings=self.settings,
                seed=seed,
                backend=self.backend,
                progress=bool(self.verbose) and bool(chosen),
            )
        self.classes_: np.ndarray = classes
        self.base_: LSTMClassifier = base
        self.modules_: dict[Any, SeamModule] = {
            classes[k].item() if isinstance(classes[k], np.generic) else classes[k]: module
            for k, module in zip(chosen, found, strict=True)
        }
        self.seed_ = seed
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The base's probability of each class: N texts -> (N, C) float64, in the order of ``classes_``."""
        check_is_fitted(self, "base_")
        texts = checked_texts(X)
        logits = predict_logits(self.base_, *self.base_.encode(texts))
        return torch.softmax(logits.double(), 1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The base's class of each text: N texts -> (N,) labels."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def __sklearn_tags__(self) -> Any:
        """Tells scikit-learn that X is a list of strings."""
        return of_texts(super().__sklearn_tags__())

    def _classes_of_modules(self, classes: np.ndarray) -> list[int]:
        """The numbers of the classes that get a module. Raises InputError for a label that does not occur."""
        if self.modules is None:
            return []
        if isinstance(self.modules, str):
            if self.modules != "all":
                raise InputError(f"modules is {self.modules!r}; it must be None, 'all', or a list of labels.")
            return list(range(len(classes)))
        return numbers_of(self.modules, classes, "modules")

    def _protocol(self) -> str:
        """The protocol whose treatment of texts the recipe was made for."""
        is_public = self.recipe == "public" or isinstance(self.recipe, PublicRecipe)
        return "reference" if is_public else "seam"

    def _text_settings(self) -> dict[str, Any]:
        """The fields of `CorpusConfig` that the parameters give."""
        given = {"tokenizer": self.tokenizer, "max_length": self.max_length, "min_count": self.min_count}
        return {name: value for name, value in given.items() if value is not None}


def check_for_modules(settings: Settings | None, backend: str) -> None:
    """Raises InputError for settings and backends with which no module can be learned, before a base is trained."""
    with as_input_errors():
        if settings is not None:
            check_settings(settings)
        choose_engine(backend)


def of_texts(tags: Any) -> Any:
    """scikit-learn's tags of an estimator whose X is a list of strings."""
    tags.input_tags.string = tags.input_tags.one_d_array = True
    tags.input_tags.two_d_array = False
    return tags


def seed_from(random_state: Any) -> int:
    """A seed: the number given, or one that a ``RandomState``, or NumPy's global one for None, draws."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def numbers_of(labels: Any, classes: np.ndarray, what: str) -> list[int]:
    """The numbers of labels among ``classes`` (C,). Raises InputError for one that is not there, or none at all."""
    known = {label: k for k, label in enumerate(classes.tolist())}
    numbers: list[int] = []
    for label in labels:
        plain = label.item() if isinstance(label, np.generic) else label
        if plain not in known:
            raise InputError(f"{what} names {label!r}, and there is no such class in y; there are {list(known)}.")
        numbers.append(known[plain])
    if not numbers:
        raise InputError(f"{what} names no class; give at least one label.")
    return list(dict.fromkeys(numbers))

"""Estimators: what they compute is what base and module compute, and scikit-learn takes them for its own."""

import copy
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [sklearn]")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

import seam_fast as sf
from seam_fast.classifier.recipes import PublicRecipe, StrongRecipe
from seam_fast.sklearn import SeamClassifier, SeamDetector

# As few steps as learn the documents below; the default recipe takes seconds for each fit.
QUICK = {
    "recipe": StrongRecipe(
        epochs=2, min_steps=15, lr=0.03, word_dropout=0, vector_dropout=0, dropout=0, prefix_weight=0
    ),
    "embedding_dim": 8,
    "hidden_dim": 8,
}
STEPS = sf.Settings(steps=20)


def make_texts(counts, seed=0):
    """Texts and labels: each class has words of its own among words of all."""
    random = np.random.RandomState(seed)
    labels = [label for label, count in counts.items() for _ in range(count)]
    random.shuffle(labels)
    texts = []
    for label in labels:
        own = [f"own{label}{n}" for n in random.randint(3, size=3)]
        texts.append(" ".join(random.permutation([*own, *(f"w{n}" for n in random.randint(9, size=4))])))
    return texts, labels


TEXTS, LABELS = make_texts({"grain": 16, "ship": 12, "earn": 20})


@pytest.fixture(scope="module")
def classifier():
    """A trained classifier with modules; tests leave it as it is."""
    return SeamClassifier(**QUICK, modules="all", settings=STEPS).fit(TEXTS, LABELS)


# --- the classifier --------------------------------------------------------------------------------------------------


def test_it_is_the_base_that_answers(classifier):
    assert classifier.classes_.tolist() == ["earn", "grain", "ship"] == list(classifier.base_.class_names)
    logits = classifier.base_(*classifier.base_.encode(TEXTS)).detach().double().softmax(1).numpy()
    assert np.abs(classifier.predict_proba(TEXTS) - logits).max() < 1e-6
    assert np.abs(classifier.predict_proba(TEXTS).sum(1) - 1).max() < 1e-12
    assert classifier.predict(TEXTS).tolist() == [classifier.base_.class_names[k] for k in logits.argmax(1)]
    assert classifier.score(TEXTS, LABELS) > 0.9
    assert classifier.predict([]).shape == (0,) and classifier.predict_proba([]).shape == (0, 3)


def test_the_base_is_that_of_the_package(classifier):
    corpus = sf.Corpus.from_lists(TEXTS, LABELS, class_names=["earn", "grain", "ship"], test_share=0)
    base = sf.train_classifier(corpus, QUICK["recipe"], 0, embedding_dim=8, hidden_dim=8)
    assert base.hash == classifier.base_.hash and base.tokenizer == classifier.base_.tokenizer
    (module,) = sf.reengineer(base, corpus, [1], settings=STEPS)
    ids, lengths = base.encode(TEXTS)
    ours = classifier.modules_["grain"].predict_proba(ids, lengths)
    assert (module.predict_proba(ids, lengths) - ours).abs().max() < 1e-6


def test_modules(classifier):
    assert list(classifier.modules_) == ["earn", "grain", "ship"]
    assert [module.target for module in classifier.modules_.values()] == [(0,), (1,), (2,)]
    few = SeamClassifier(**QUICK, modules=["ship", "earn", "ship"], settings=STEPS).fit(TEXTS, LABELS)
    assert list(few.modules_) == ["ship", "earn"]
    assert SeamClassifier(**QUICK).fit(TEXTS, LABELS).modules_ == {}


@pytest.mark.parametrize(
    "kinds",
    [("grain", "ship"), (3, -1), (2.0, 1.0), (True, False), ("10", "9")],
    ids=["strings", "whole", "floats", "booleans", "digits"],
)
def test_labels_come_back_as_they_were(kinds):
    texts, names = make_texts({"a": 12, "b": 12})
    labels = [kinds[name == "b"] for name in names]
    fitted = SeamClassifier(**QUICK, modules=[kinds[0]], settings=STEPS).fit(np.array(texts), np.array(labels))
    assert fitted.classes_.tolist() == sorted(set(labels)) and fitted.classes_.dtype == np.array(labels).dtype
    assert set(fitted.predict(texts).tolist()) == set(labels) and fitted.score(texts, labels) > 0.9
    assert list(fitted.modules_) == [kinds[0]] and type(next(iter(fitted.modules_))) is type(kinds[0])


def test_parameters_reach_base_and_texts():
    options = {"tokenizer": "characters", "max_length": 12, "min_count": 2, "num_layers": 2, "bidirectional": True}
    fitted = SeamClassifier(**QUICK | {"epochs": 1} | options).fit(TEXTS, LABELS)
    base = fitted.base_
    assert (base.num_layers, base.bidirectional, base.hidden_dim, base.info["settings"]["epochs"]) == (2, True, 8, 1)
    config = base.corpus_config
    assert (config.tokenizer.name, config.max_length, config.min_count) == ("characters", 12, 2)
    public = SeamClassifier(PublicRecipe(epochs=1), embedding_dim=4, hidden_dim=4).fit(TEXTS, LABELS).base_
    assert public.readout == "last_position" and public.corpus_config.text == "label_stripped"


def test_seeds():
    fits = [SeamClassifier(**QUICK, random_state=state).fit(TEXTS, LABELS) for state in (0, 0, 1)]
    assert fits[0].base_.hash == fits[1].base_.hash != fits[2].base_.hash
    drawn = [SeamClassifier(**QUICK, random_state=np.random.RandomState(3)).fit(TEXTS, LABELS).seed_ for _ in range(2)]
    assert drawn[0] == drawn[1]
    free = [SeamClassifier(**QUICK, random_state=None).fit(TEXTS, LABELS).seed_ for _ in range(2)]
    assert free[0] != free[1]


def test_copies_answer_alike(classifier):
    wanted = classifier.predict_proba(TEXTS)
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert np.array_equal(other.predict_proba(TEXTS), wanted)
        assert other.modules_["ship"].mask.kept() == classifier.modules_["ship"].mask.kept()
    fresh = clone(classifier)
    assert not hasattr(fresh, "base_") and fresh.get_params() == classifier.get_params()


# --- among scikit-learn's own ----------------------------------------------------------------------------------------


def test_in_a_pipeline_and_cross_validated():
    shout = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    pipeline = make_pipeline(shout, SeamClassifier(**QUICK))
    scores = cross_val_score(pipeline, np.array(TEXTS), np.array(LABELS), cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.7
    assert pipeline.fit(TEXTS, LABELS).predict(TEXTS[:2]).tolist() == LABELS[:2]
    scores = cross_val_score(SeamClassifier(**QUICK), TEXTS, LABELS, cv=3, scoring="f1_macro")
    assert scores.mean() > 0.7


def test_searched_over():
    search = GridSearchCV(SeamClassifier(**QUICK), {"hidden_dim": [4, 8], "tokenizer": ["spaces"]}, cv=2)
    assert search.fit(TEXTS, LABELS).best_params_["tokenizer"] == "spaces"
    assert search.best_estimator_.base_.hidden_dim in (4, 8)


def test_of_pandas():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    fitted = SeamClassifier(**QUICK).fit(frame["text"], frame["label"])
    assert fitted.predict(frame["text"]).tolist() == fitted.predict(TEXTS).tolist()
    with pytest.raises(ValueError, match="X has 2 dimensions; it must be a list of texts: of a table give one column"):
        fitted.predict(frame[["text"]])
    frame.loc[3, "text"] = None
    with pytest.raises(ValueError, match=r"X\[3\]: the text is missing"):
        SeamClassifier(**QUICK).fit(frame["text"], frame["label"])


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "y", "options", "says"),
    [
        ("one text", ["a"], {}, "X is 'one text'; it must be a list"),
        ([], [], {}, "X is empty"),
        ([["a"], ["b"]], ["a", "b"], {}, r"X\[0\]: the text is \['a'\], of type list"),
        (np.zeros((4, 2)), [0, 1, 0, 1], {}, "X has 2 dimensions"),
        ([1.5, 2.5], [0, 1], {}, r"X\[0\]: the text is 1.5, of type float; only strings are read"),
        (["a", None], ["a", "b"], {}, r"X\[1\]: the text is missing"),
        (["a", "b"], None, {}, "the target y is None"),
        (["a", "b"], ["a"], {}, "X has 2 entries, y has 1"),
        (["a", "b"], ["a", "a"], {}, "y has 1 class alone, 'a'; at least two are needed"),
        (["a", "b"], ["a", None], {}, r"y\[1\] is missing \(None\)"),
        (["a", "b"], [0, float("nan")], {}, "Input y contains NaN"),
        (["a", "b"], [0.5, 1.7], {}, "Unknown label type: continuous"),
        (TEXTS, LABELS, {"modules": "some"}, "modules is 'some'; it must be None, 'all', or a list of labels"),
        (TEXTS, LABELS, {"modules": ["wheat"]}, "modules names 'wheat', and there is no such class in y; there are"),
        (TEXTS, LABELS, {"modules": []}, "modules names no class"),
        (TEXTS, LABELS, {"recipe": "weak"}, "recipe must be one of public, strong, distilled, got 'weak'"),
        (TEXTS, LABELS, {"epochs": 0}, "epochs is 0; it must be at least 1"),
        (TEXTS, LABELS, {"tokenizer": "letters"}, "corpus setting tokenizer must be"),
        (TEXTS, LABELS, {"hidden_dim": 2.5}, "hidden_dim is 2.5; it must be a whole number"),
        (TEXTS, LABELS, {"backend": "tpu"}, "backend"),
        (TEXTS, LABELS, {"settings": "seam"}, "settings is 'seam'; it must be a Settings object"),
        (TEXTS, LABELS, {"random_state": "x"}, "cannot be used to seed"),
        (TEXTS, [f"c{n}" for n in range(48)], {}, "so they are no classes"),
    ],
)  # fmt: skip
def test_a_value_error_of_one_sentence(X, y, options, says):
    with pytest.raises(ValueError, match=says):
        SeamClassifier(**QUICK | options).fit(X, y)


def test_nothing_is_left_of_a_failed_fit(classifier):
    fitted = copy.deepcopy(classifier)
    with pytest.raises(ValueError, match="y has 1 class alone"):
        fitted.fit(TEXTS, ["a"] * len(TEXTS))
    assert np.array_equal(fitted.predict(TEXTS), classifier.predict(TEXTS))


def test_an_estimator_that_is_not_fitted():
    for estimator in (SeamClassifier(), SeamDetector("grain")):
        for method in (estimator.predict, estimator.predict_proba):
            with pytest.raises(NotFittedError):
                method(TEXTS)


# --- the detector ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    """A trained detector; tests leave it as it is."""
    return SeamDetector("grain", SeamClassifier(**QUICK), settings=STEPS).fit(TEXTS, LABELS)


def test_it_is_the_module_that_answers(detector):
    assert detector.classes_.tolist() == [False, True] and detector.target_ == ["grain"]
    module = detector.module_
    assert module.target == (1,) and module.base is detector.classifier_.base_
    of_target = module.predict_proba(*module.encode(TEXTS))[:, 0].numpy()
    assert np.array_equal(detector.predict_proba(TEXTS)[:, 1], of_target.astype(np.float64))
    assert np.array_equal(detector.predict(TEXTS), of_target >= 0.5)
    right = np.mean(detector.predict(TEXTS) == [label == "grain" for label in LABELS])
    assert detector.score(TEXTS, LABELS) == right
    weights = np.array([label == "ship" for label in LABELS], dtype=float)
    shown = detector.predict(TEXTS)[weights > 0]
    assert detector.score(TEXTS, LABELS, sample_weight=weights) == 1 - shown.mean()


def test_a_detector_of_a_trained_classifier(classifier):
    from sklearn.frozen import FrozenEstimator

    with_it = SeamDetector(["ship", "earn"], FrozenEstimator(classifier), settings=STEPS).fit(TEXTS, LABELS)
    assert with_it.module_.base is classifier.base_ and with_it.module_.target == (0, 2)
    assert with_it.target_ == ["earn", "ship"]
    assert with_it.is_target(["ship", "grain", "oil"]).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="the trained classifier has"):
        SeamDetector("ship", FrozenEstimator(classifier)).fit(*make_texts({"ship": 5, "oil": 5}))


def test_a_detector_of_true_and_false():
    wanted = np.array([label == "grain" for label in LABELS])
    scores = cross_val_score(SeamDetector(classifier=SeamClassifier(**QUICK), settings=STEPS), TEXTS, wanted, cv=2)
    assert scores.shape == (2,) and np.isfinite(scores).all()
    search = GridSearchCV(
        SeamDetector("grain", SeamClassifier(**QUICK), settings=STEPS), {"classifier__hidden_dim": [4, 8]}, cv=2
    )
    assert search.fit(TEXTS, LABELS).best_estimator_.classifier_.base_.hidden_dim in (4, 8)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (None, "target is None, which means the second of two classes, and y has 3"),
        ("wheat", "target names 'wheat', and there is no such class in y"),
        (["earn", "grain", "ship"], "target names all classes of y"),
        ([], "target names no class"),
    ],
)
def test_targets_that_are_wrong(target, says):
    with pytest.raises(ValueError, match=says):
        SeamDetector(target, SeamClassifier(**QUICK)).fit(TEXTS, LABELS)


# --- scikit-learn's checks -------------------------------------------------------------------------------------------


def test_the_tags_say_texts():
    for estimator in (SeamClassifier(), SeamDetector()):
        tags = get_tags(estimator)
        assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)
        assert tags.estimator_type == "classifier" and tags.requires_fit and tags.target_tags.required


def of_texts():
    """Estimators as they are. scikit-learn tests little of those that take no tables, and warns of that."""
    return [SeamClassifier(), SeamDetector()]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    checks_of_texts = parametrize_with_checks(of_texts())


@checks_of_texts
def test_checks_of_estimators_of_texts(estimator, check):
    check(estimator)


def rows_as_texts(X):
    """A text of each row of numbers, one word a number, for the checks below."""
    return [" ".join(f"f{column}v{round(2 * value)}" for column, value in enumerate(row)) for row in X]


class OfRows(SeamClassifier):
    """The classifier on tables of numbers, in texts: so the checks that need tables can be held against the rest of it.

    What it adds is the check of the table; labels, attributes, copies, parameters and answers are the class's own.
    """

    def fit(self, X, y):
        return super().fit(rows_as_texts(validate_data(self, X)), y)

    def predict_proba(self, X):
        check_is_fitted(self, "base_")
        return super().predict_proba(rows_as_texts(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.string = tags.input_tags.one_d_array = False
        return tags


@parametrize_with_checks([OfRows(**QUICK, tokenizer="spaces")])
@pytest.mark.filterwarnings("ignore")
def test_checks_of_estimators_of_tables(estimator, check):
    check(estimator)

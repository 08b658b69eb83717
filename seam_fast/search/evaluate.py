"""Evaluation of modules on documents: the figures that every report is made of."""

from typing import Any

from torch import Tensor

from ..classifier.corpus_check import check_corpus
from ..classifier.inference import class_logits
from ..classifier.metrics import base_metrics, module_metrics, undefined_as_none, why_no_better_than_chance
from ..data.checks import warn
from ..data.corpus import OF_NO_CLASS, Corpus, Split
from ..errors import DataError
from ..modules.seam_module import SeamModule
from .document_sets import balanced, is_target


def warn_of_chance(logits: Tensor, labels: Tensor, what: str) -> None:
    """Warns where a base is right no more often than a constant answer, the most frequent class.

    Args:
        logits: The base's (N, C).
        labels: Class numbers (N,), ``OF_NO_CLASS`` where the base does not know the class.
        what: The documents, for the message.
    """
    known = labels != OF_NO_CLASS
    sentence = why_no_better_than_chance(logits[known].argmax(1), labels[known])
    if sentence:
        warn(f"the base is no better than chance on {what}: {sentence}; do its classes and words mean these?")


def figures_on(
    module: SeamModule, split: Split, base_logits: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, dict[str, Any]]:
    """Figures of a module and its base on documents.

    Args:
        module: The module.
        split: Documents, with words and classes numbered as the base numbers them.
        base_logits: The base's logits for these documents (N, C), where known.
        logits: The module's outputs for them (N, 2), where known.

    Returns:
        Figures by name, as ``metrics.module_metrics`` and ``metrics.base_metrics`` give them: ``test`` and ``base`` on
        all documents, in their natural class shares; ``test_balanced`` and ``base_balanced`` on the reference's subset
        with as many others as targets. Undefined figures, such as the F1 of a target without documents, are None.
    """
    wanted, subset = is_target(split.labels, module.target), balanced(split.labels, module.target)
    if logits is None:
        logits = module.logits(split.ids, split.lengths)
    if base_logits is None:
        base_logits = class_logits(module.base.weights(), split.ids, split.lengths, module.base.readout)
    figures = {
        "test": module_metrics(logits, wanted),
        "test_balanced": module_metrics(logits[subset], wanted[subset]),
        "base": base_metrics(base_logits, wanted, module.target),
        "base_balanced": base_metrics(base_logits[subset], wanted[subset], module.target),
    }
    return {name: undefined_as_none(each) for name, each in figures.items()}


def figures_on_test(
    module: SeamModule, corpus: Corpus, base_logits: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, dict[str, Any]]:
    """``figures_on`` the test documents of a corpus."""
    return figures_on(module, corpus.test, base_logits, logits)


def evaluate_module(module: SeamModule, documents: Corpus | Split, source: str | None = None) -> SeamModule:
    """Evaluates a module and enters the figures in ``module.metrics``, and what a report needs in ``module.card``.

    Args:
        module: The module, which is changed.
        documents: A corpus, whose test documents are used, or documents that ``load_split`` gave.
        source: Where the documents came from, for the card's ``evaluated_on``; default: the corpus's source.

    Returns:
        The module.

    Raises:
        TrainingError: The corpus numbers words or classes differently from the module's base.
        DataError: There are no documents.
        CheckpointError: The base has changed since the module was made.
    """
    base, card = module.base, module.card
    module.check_base()
    if isinstance(documents, Corpus):
        check_corpus(base, documents)
        split, source = documents.test, source or documents.source
        card.setdefault("class_names", list(documents.class_names))
        card.setdefault("corpus", documents.name)
        card.setdefault("synthetic", documents.synthetic)
    else:
        split = documents
    if not len(split):
        raise DataError("there are no documents to judge the module on")
    if base.class_names is not None:
        card.setdefault("class_names", list(base.class_names))
    if "class_names" in card:
        card.setdefault("target_names", [card["class_names"][k] for k in module.target])
    logits = class_logits(base.weights(), split.ids, split.lengths, base.readout)
    warn_of_chance(logits, split.labels, "these documents")
    card.pop("svm", None)  # of a detector that was judged on other documents, perhaps
    module.metrics |= figures_on(module, split, logits)
    card["evaluated_on"] = {"source": source, "documents": len(split)}
    return module

"""Judges modules on documents: the figures every report is made of."""

from torch import Tensor

from ..classifier.inference import class_logits
from ..classifier.metrics import base_metrics, module_metrics, undefined_as_none, why_no_better_than_chance
from ..classifier.model import LSTMClassifier
from ..classifier.reference_model import READOUTS
from ..data.checks import warn
from ..data.corpus import OF_NO_CLASS, Corpus, Split
from ..errors import DataError, TrainingError
from ..modules.seam_module import SeamModule
from .sampling import balanced, is_target


def check_corpus(base: LSTMClassifier, corpus: Corpus) -> None:
    """Raises TrainingError where a corpus numbers words or classes otherwise than a base, as far as both say."""
    way_out = "load it by the base: load_corpus(folder, name, base=base), or load_r8(base=base)"
    if base.vocab_size != corpus.vocab_size or base.num_classes != corpus.num_classes:
        if base.vocabulary is None:
            other = next(readout for readout in READOUTS if readout != base.readout)
            way_out = (
                "the base does not say its words, so its corpus must be given, and its texts be treated as they were "
                f"then; try readout={other!r} (--readout {other}), which goes with the other protocol's treatment, or "
                "another tokenizer (--tokenizer)"
            )
        raise TrainingError(
            f"the base knows {base.vocab_size} words and {base.num_classes} classes, the corpus has "
            f"{corpus.vocab_size} and {corpus.num_classes}; {way_out}"
        )
    if base.vocabulary is not None and tuple(base.vocabulary) != tuple(corpus.words):
        raise TrainingError(
            f"the base numbers its words otherwise than this corpus; load the one it was trained on, or {way_out}"
        )
    if base.class_names is not None and tuple(base.class_names) != tuple(corpus.class_names):
        pairs = zip(base.class_names, corpus.class_names, strict=True)
        k, (ours, theirs) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        raise TrainingError(
            f"the base numbers its classes otherwise than this corpus: class {k} is {ours!r} for the base and "
            f"{theirs!r} in the corpus; {way_out}"
        )


def warn_of_chance(logits: Tensor, labels: Tensor, what: str) -> None:
    """Warns where a base is right no more often than one that always names the most frequent class."""
    known = labels != OF_NO_CLASS
    sentence = why_no_better_than_chance(logits[known].argmax(1), labels[known])
    if sentence:
        warn(f"the base is no better than chance on {what}: {sentence}; do its classes and words mean these?")


def figures_on(
    module: SeamModule, split: Split, base_logits: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, dict]:
    """Figures of a module and its base on documents that are numbered as its base numbers them.

    ``test`` and ``base``: all documents, natural class shares; ``test_balanced`` and ``base_balanced``: the reference's
    subset with as many others as targets. Figures that nothing can be said of, such as the F1 of a target without
    documents, are None. base_logits: the base's logits (N, C) on these documents, where known; logits: the module's
    (N, 2), likewise.
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
) -> dict[str, dict]:
    """`figures_on` the test documents of the corpus."""
    return figures_on(module, corpus.test, base_logits, logits)


def evaluate_module(module: SeamModule, documents: Corpus | Split, source: str | None = None) -> SeamModule:
    """Puts figures on the test documents of a corpus, or on the documents of `load_split`, into ``module.metrics``,
    and what a report needs into its card; returns the module.

    source: where the documents came from, for the card's ``evaluated_on``. Raises TrainingError for a corpus that
    numbers words or classes otherwise than the module's base, DataError where there are no documents.
    """
    base, card = module.base, module.card
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
    module.metrics |= figures_on(module, split, logits)
    card["evaluated_on"] = {"source": source, "documents": len(split)}
    return module

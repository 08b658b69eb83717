"""Judges modules on documents: the figures every report is made of."""

from torch import Tensor

from .corpus import Corpus
from .inference import class_logits
from .metrics import base_metrics, module_metrics
from .sampling import balanced, is_target
from .seam_module import SeamModule


def figures_on_test(
    module: SeamModule, corpus: Corpus, base_logits: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, dict]:
    """Figures of a module and its base on the test documents.

    ``test`` and ``base``: all documents, natural class shares; ``test_balanced`` and ``base_balanced``: the reference's
    subset with as many others as targets. base_logits: the base's logits (N, C) on the test documents, where known;
    logits: the module's (N, 2), likewise.
    """
    test = corpus.test
    wanted, subset = is_target(test.labels, module.target), balanced(test.labels, module.target)
    if logits is None:
        logits = module.logits(test.ids, test.lengths)
    if base_logits is None:
        base_logits = class_logits(module.base.weights(), test.ids, test.lengths, module.base.read)
    return {
        "test": module_metrics(logits, wanted),
        "test_balanced": module_metrics(logits[subset], wanted[subset]),
        "base": base_metrics(base_logits, wanted, module.target),
        "base_balanced": base_metrics(base_logits[subset], wanted[subset], module.target),
    }


def evaluate_module(module: SeamModule, corpus: Corpus) -> SeamModule:
    """Puts the test figures into ``module.metrics`` and what a report needs into its card; returns the module."""
    module.metrics |= figures_on_test(module, corpus)
    module.card.setdefault("target_names", [corpus.class_names[k] for k in module.target])
    module.card.setdefault("class_names", list(corpus.class_names))
    module.card.setdefault("corpus", corpus.name)
    module.card.setdefault("synthetic", corpus.synthetic)
    return module

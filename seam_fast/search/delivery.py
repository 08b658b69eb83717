"""The last look at a chosen module before it is delivered: where its threshold lies, and what is wrong with it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..classifier.metrics import module_metrics, undefined_as_none
from ..classifier.threshold import f1_threshold
from ..data.corpus import Split
from ..modules.marks import (
    CONSTANT,
    FEWEST_TARGETS,
    KEPT_EVERYTHING,
    MARKS,
    NEXT_TO_EVERYTHING,
    NOT_VALIDATED,
    REJECTED,
    UNSETTLED,
)
from ..modules.mask import Snapshot
from .document_sets import is_target
from .selection import is_constant_like

Outputs = Callable[[Snapshot, Tensor, Tensor], Tensor]
"""Function of a snapshot, ids (n, T) and lengths (n,) to the module's outputs (n, 2)."""


def judged(
    best: Snapshot,
    documents: Split,
    own: Split,
    target: tuple[int, ...],
    outputs: Outputs,
    prior: tuple[Tensor, float] | None,
    settled: bool,
    qualified: bool | None,
) -> tuple[Snapshot, dict[str, Any]]:
    """A module with its threshold where the F1 is best, and what its card says of that and of what is wrong with it.

    Args:
        best: The module.
        documents: What chose its epoch.
        own: The documents of the target that it was trained on.
        target: Class numbers of the target.
        outputs: The module's.
        prior: The base's probability that each of ``documents`` is the target's (n,), and for how many of these each of
            ``own`` counts, both for ``moved_threshold``; None: the threshold stays.
        settled: Whether its epoch is one that could be chosen freely.
        qualified: Whether the selection's requirement was met; None where nothing was chosen.

    Returns:
        The module; and ``marks``, see ``modules.marks``, with, where the threshold was moved, ``threshold``: what a
        margin (output 0 minus output 1) has to be above its old threshold (``moved_by``), and the target's F1 on
        ``documents`` before (``f1_before``) and after (``f1``), None where none of these is the target's.
    """
    found, wanted = outputs(best, documents.ids, documents.lengths), is_target(documents.labels, target)
    of_own = outputs(best, own.ids, own.lengths)
    verdict: dict[str, Any] = {}
    if prior is not None and (moved := moved_threshold(best, found, wanted, of_own, *prior)):
        weight, bias = best.head
        # A margin's threshold is 0 in every file, so it is the bias that moves.
        best = best._replace(head=(weight, bias - torch.tensor([moved, 0.0], dtype=bias.dtype)))
        before, found = found, outputs(best, documents.ids, documents.lengths)
        f1 = [undefined_as_none(module_metrics(each, wanted))["f1"] for each in (before, found)]
        verdict["threshold"] = {"moved_by": moved, "f1_before": f1[0], "f1": f1[1]}
    validated = int(wanted.sum()) >= FEWEST_TARGETS
    if not validated:  # tells a module that always says no from one whose few held-out documents were hard
        found = torch.cat([found, outputs(best, own.ids, own.lengths)])
        wanted = torch.cat([wanted, is_target(own.labels, target)])
    constant = is_constant_like(module_metrics(found, wanted))
    is_so = {
        CONSTANT: constant,
        UNSETTLED: not settled,
        NOT_VALIDATED: not validated,
        KEPT_EVERYTHING: best.mask.kept() >= NEXT_TO_EVERYTHING,
        REJECTED: qualified is False and validated and not constant and not verdict,
    }
    return best, {"marks": [mark for mark in MARKS if is_so[mark]], **verdict}


def moved_threshold(
    best: Snapshot, outputs: Tensor, wanted: Tensor, of_own: Tensor, base_probability: Tensor, own_weight: float
) -> float:
    """The threshold of a module's margin, from documents of which few may be the target's.

    Where ten held-out documents are the target's, their labels place a threshold; where one is, they place it by
    chance. So a held-out document is taken for the target's by the mean of its label and of the base's probability,
    which the module learned, and the target's training documents count as well, though they are easier: all of them
    together for as many documents as were held out of training for each that was not. Chosen on divisions of the
    training documents of five corpora.

    Args:
        best: The module.
        outputs: Its outputs for the held-out documents (n, 2).
        wanted: Which of these are the target's, bool (n,).
        of_own: Its outputs for the target's training documents (m, 2).
        base_probability: The base's, that the held-out documents are the target's (n,).
        own_weight: For how many held-out documents a training document counts.
    """
    weight, bias = best.head
    every = torch.cat([outputs, of_own]).double()
    probability = torch.cat([(wanted.double() + base_probability.double()) / 2, torch.ones(len(of_own)).double()])
    counts_for = torch.cat([torch.ones(len(outputs)), torch.full((len(of_own),), own_weight)])
    # An output is a sum of a product for each class and the bias, in the head's dtype.
    resolution = (weight.shape[1] + 1) * torch.finfo(bias.dtype).eps * float(every.abs().max())
    return f1_threshold((every[:, 0] - every[:, 1]).numpy(), probability.numpy(), counts_for.numpy(), resolution)

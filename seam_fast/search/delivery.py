"""The last look at a chosen module before it is delivered: where its threshold lies, and what is wrong with it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..classifier.metrics import module_metrics
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
    move: bool,
    settled: bool,
    qualified: bool | None,
) -> tuple[Snapshot, dict[str, Any]]:
    """A module with its threshold where the F1 is best, and what its card says of that and of what is wrong with it.

    Args:
        best: The module.
        documents: What chose its epoch.
        own: Documents of the target that it was trained on. Where ``documents`` hold too few of the target's, these
            tell a module that always says no from one whose few targets were hard.
        target: Class numbers of the target.
        outputs: The module's.
        move: Whether its threshold may be moved.
        settled: Whether its epoch is one that could be chosen freely.
        qualified: Whether the selection's requirement was met; None where nothing was chosen.

    Returns:
        The module; and ``marks``, see ``modules.marks``, with, where the threshold was moved, ``threshold``: what a
        margin (output 0 minus output 1) has to be above its old threshold (``moved_by``), and the target's F1 on
        ``documents`` before (``f1_before``) and after (``f1``).
    """
    found, wanted = outputs(best, documents.ids, documents.lengths), is_target(documents.labels, target)
    validated = int(wanted.sum()) >= FEWEST_TARGETS
    verdict: dict[str, Any] = {}
    if move and validated and (moved := moved_threshold(best, found, wanted)):
        weight, bias = best.head
        # A margin's threshold is 0 in every file, so it is the bias that moves.
        best = best._replace(head=(weight, bias - torch.tensor([moved, 0.0], dtype=bias.dtype)))
        before, found = module_metrics(found, wanted)["f1"], outputs(best, documents.ids, documents.lengths)
        after = module_metrics(found, wanted)["f1"]
        verdict["threshold"] = {"moved_by": moved, "f1_before": before, "f1": after}
    if not validated:
        found = torch.cat([found, outputs(best, own.ids, own.lengths)])
        wanted = torch.cat([wanted, is_target(own.labels, target)])
    constant = is_constant_like(module_metrics(found, wanted))
    is_so = {
        CONSTANT: constant,
        UNSETTLED: not settled,
        NOT_VALIDATED: not validated,
        KEPT_EVERYTHING: best.mask.kept() >= NEXT_TO_EVERYTHING,
        REJECTED: qualified is False and validated and not constant and "threshold" not in verdict,
    }
    return best, {"marks": [mark for mark in MARKS if is_so[mark]], **verdict}


def moved_threshold(best: Snapshot, outputs: Tensor, wanted: Tensor) -> float:
    """The threshold of a module's margin by ``f1_threshold``: outputs (N, 2), wanted bool (N,)."""
    weight, bias = best.head
    # An output is a sum of a product for each class and the bias, in the head's dtype.
    resolution = (weight.shape[1] + 1) * torch.finfo(bias.dtype).eps * float(outputs.abs().max())
    return f1_threshold((outputs[:, 0] - outputs[:, 1]).double().numpy(), wanted.numpy(), resolution)

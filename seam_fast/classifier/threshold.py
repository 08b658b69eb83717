"""Where a module's margin has to begin for a document to be the target's: the threshold of the best F1."""

import numpy as np


def f1_threshold(margin: np.ndarray, is_target: np.ndarray, resolution: float = 0.0) -> float:
    """The threshold nearest to 0 whose F1 is the best one, as far as these documents can tell.

    Thresholds lie midway between neighbouring margins. Of those from 0 to that of the best F1 the first one is taken
    whose F1 is lower by no more than the standard error of the difference: the rule of one standard error (Breiman et
    al., Classification and Regression Trees, 1984), which moves nothing for a gain that chance could have given. The
    difference's variance is that of its influence function over the documents, so it is paired.

    Documents of equal margin, as a ReLU makes them, cannot be told apart by any threshold: no threshold lies among
    them, and those at the largest margin are taken together or not at all. Nor is there one that takes all documents or
    none.

    Args:
        margin: Score of "target" minus that of "not", (N,); a document is taken for a target at or above the threshold.
        is_target: Which documents are targets, (N,) bool.
        resolution: How far rounding can move a margin; margins no further apart than twice that are equal.

    Returns:
        The threshold; 0 where it is as good as any, where there is no target or nothing else, and where all margins are
        equal.
    """
    total = int(np.count_nonzero(is_target))
    if not 0 < total < len(is_target):
        return 0.0
    order = np.argsort(-margin, kind="stable")
    ranked = margin[order].astype(np.float64)
    ends = np.flatnonzero(ranked[:-1] - ranked[1:] > 2 * resolution)  # the last document of each group, but the lowest
    if not len(ends):
        return 0.0
    hits, taken = np.cumsum(is_target[order])[ends], ends + 1
    thresholds, f1 = (ranked[ends] + ranked[ends + 1]) / 2, 2 * hits / (taken + total)
    best = int(np.flatnonzero(f1 == f1.max())[np.argmin(np.abs(thresholds[f1 == f1.max()]))])
    counts = np.concatenate([[np.count_nonzero(ranked >= 0)], taken])
    between = np.flatnonzero((np.abs(thresholds) <= abs(thresholds[best])) & (thresholds * thresholds[best] > 0))
    candidates = [0, *(1 + between[np.argsort(np.abs(thresholds[between]), kind="stable")])]
    wanted = is_target[order].astype(np.float64)
    influence_of_best = _influence(taken[best], wanted, total)
    for candidate in candidates:
        share = 2 * np.sum(wanted[: counts[candidate]]) / (counts[candidate] + total)
        difference = influence_of_best - _influence(counts[candidate], wanted, total)
        if f1[best] - share <= np.sqrt(np.sum(difference**2)):
            return 0.0 if candidate == 0 else float(thresholds[candidate - 1])
    return float(thresholds[best])


def _influence(taken: int, wanted: np.ndarray, total: int) -> np.ndarray:
    """What each document adds to the F1, to first order, where the first ``taken`` of them are taken for targets.

    F1 = 2 sum(w t) / sum(w + t) over the documents, with w whether one is a target and t whether it is taken, so the
    derivative by the weight of a document is (2 w t - F1 (w + t)) / sum(w + t); these sum to 0. Shape (N,).
    """
    chosen = np.arange(len(wanted)) < taken
    f1 = 2 * np.sum(wanted[:taken]) / (taken + total)
    influence: np.ndarray = (2 * wanted * chosen - f1 * (wanted + chosen)) / (taken + total)
    return influence

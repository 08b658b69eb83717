"""Where a module's margin has to begin for a document to be the target's: the threshold of the best F1."""

import numpy as np


def f1_threshold(
    margin: np.ndarray,
    target_probability: np.ndarray,
    weight: np.ndarray | None = None,
    resolution: float = 0.0,
    zero: bool = True,
) -> float:
    """The threshold of the best expected F1 over documents whose class is known or only probable.

    With w a document's probability of being the target's and t whether it is taken for one, the F1 is
    2 sum(w t) / sum(w + t), for true labels the usual one. It is largest at a probability below one half wherever it is
    below 1 (half of the best F1; Lipton, Elkan and Narayanaswamy, 2014), so a classifier that is unsure of a class must
    not wait for one half. Thresholds lie midway between neighbouring margins; of several that are as good the one
    nearest to 0 is taken.

    Documents of equal margin, as a ReLU makes them, cannot be told apart by any threshold: none lies among them, and
    those of the largest margin are taken together or not at all. Nor is there one that takes all documents or none.

    Args:
        margin: Score of "target" minus that of "not", (N,); a document is taken for a target at or above the threshold.
        target_probability: That a document is the target's, (N,): 1 and 0 where it is known.
        weight: For how many documents each counts, (N,); None: for one.
        resolution: How far rounding can move a margin; margins no further apart than twice that are equal.

        zero: Whether 0 itself is tried, wherever it lies.

    Returns:
        The threshold; 0 where it is tried and as good as any, where no document can be the target's, and where all
        margins are equal.
    """
    weight = np.ones(len(margin)) if weight is None else weight.astype(np.float64)
    total = float(np.sum(weight * target_probability))
    order = np.argsort(-margin, kind="stable")
    ranked = margin[order].astype(np.float64)
    ends = np.flatnonzero(ranked[:-1] - ranked[1:] > 2 * resolution)  # the last document of each group, but the lowest
    if total == 0 or not len(ends):
        return 0.0
    found, taken = (np.append(0.0, np.cumsum(part[order])) for part in (weight * target_probability, weight))

    def f1(count: np.ndarray) -> np.ndarray:
        reached: np.ndarray = 2 * found[count] / (taken[count] + total)
        return reached

    thresholds, reached = (ranked[ends] + ranked[ends + 1]) / 2, f1(ends + 1)
    if zero:
        thresholds = np.append(thresholds, 0.0)
        reached = np.append(reached, f1(np.array([np.count_nonzero(ranked >= 0)])))
    as_good = np.flatnonzero(reached >= reached.max() * (1 - 1e-12))  # sums of another order differ by rounding
    return float(thresholds[as_good[np.argmin(np.abs(thresholds[as_good]))]])

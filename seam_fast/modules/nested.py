"""Masks of any size from the scores of one module. They are nested: a smaller one lies bit for bit inside a larger one.

Scores order the weights. A size then is a number of weights from the top of that order, so it is met exactly. Weights
of equal score are taken in the order of their tensors and indices.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..classifier.state_keys import groups
from .mask import KeepMask, packed

ORDERS = ("global", "group")
"""How weights of different groups are ordered: all weights by their scores alone, or each group in the proportion in
which the module keeps it."""

_FLOAT32_LEAST = float(np.finfo(np.float32).smallest_subnormal)


def cut(
    scores: Mapping[str, Tensor], count: int, order: str = ORDERS[0], kept_of: Mapping[str, int] | None = None
) -> KeepMask:
    """The mask of the first ``count`` weights in the order of their scores.

    Args:
        scores: In the weights' shapes, by weight key, on the CPU, finite; a weight of the module has a score > 0.
        count: Number of weights to keep, from 0 to all.
        order: One of ``ORDERS``.
        kept_of: Of order ``"group"``: how many weights the module keeps of each group. Default: as many as have a
            score > 0.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    shapes = {key: tuple(score.shape) for key, score in scores.items()}
    return KeepMask(shapes, {key: packed(flags) for key, flags in cut_flags(scores, count, order, kept_of).items()})


def cut_flags(
    scores: Mapping[str, Tensor], count: int, order: str = ORDERS[0], kept_of: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """What ``cut`` keeps, by weight key, bool in the scores' shapes. Arguments and errors as of ``cut``."""
    flat = _flat(scores)
    kept = np.zeros(len(flat), dtype=bool)
    for part, number in _parts(scores, flat, count, order, kept_of):
        kept[part] = highest(flat[part], number)
    found, begin = {}, 0
    for key, score in scores.items():
        end = begin + score.numel()
        found[key] = torch.from_numpy(kept[begin:end]).reshape(score.shape)
        begin = end
    return found


def share_count(share: float, total: int) -> int:
    """Number of weights of a share of all, at least one."""
    return max(1, round(share * total))


def shifted(scores: Mapping[str, Tensor], mask: KeepMask) -> dict[str, Tensor]:
    """Scores in the same order of which just those in ``mask`` are > 0.

    Args:
        scores: By weight key.
        mask: What ``cut`` made of them; each group is shifted by a number of its own.
    """
    kept = {key: mask.dense(key) for key in scores}
    found: dict[str, Tensor] = {}
    for key, border in borders(scores, kept).items():
        moved = scores[key] - border
        # Of equal scores at the border some are inside, and those shall be > 0 as well.
        found[key] = torch.where(kept[key], moved.clamp(min=_least_positive(moved.dtype)), moved.clamp(max=0))
    return found


def _least_positive(dtype: torch.dtype) -> float:
    """The least number above 0 of a dtype, but of float64 that of float32, in which files hold scores."""
    info = torch.finfo(dtype)
    return max(info.smallest_normal * info.eps, _FLOAT32_LEAST)


def borders(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest score of each group that is not kept, by weight key; where all of a group are, 0, or if some of its
    scores are not above that, the number below the least.

    Args:
        scores: By weight key.
        kept: What ``cut_flags`` made of them.
    """
    found: dict[str, float] = {}
    for keys in groups(scores).values():
        outside = [part for key in keys if len(part := scores[key][~kept[key]])]
        if outside:
            border = max(float(part.max()) for part in outside)
        else:
            least = torch.stack([scores[key].min() for key in keys]).min()
            border = 0.0 if least > 0 else float(torch.nextafter(least, torch.full_like(least, -torch.inf)))
        found |= dict.fromkeys(keys, border)
    return found


def counts_by_group(kept: Mapping[str, int], sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """How many weights each group has of ``count`` in order ``"group"``: in the proportions of ``kept``, and what a
    full group cannot take goes to the others. No group's number falls where ``count`` rises.

    Args:
        kept: Number of weights that the module keeps of each group.
        sizes: Number of weights of each group.
        count: Number of weights, at most all.
    """
    # Weight i of a group has place (i + 1/2) / kept, and the lowest places come first. A group that keeps nothing gets
    # places behind all others.
    weight = {group: max(kept[group], 1e-6) for group in sizes}

    def before(place: float) -> dict[str, int]:
        """How many of each group have a place below this one."""
        return {group: min(sizes[group], int(place * weight[group] + 0.5)) for group in sizes}

    low, high = 0.0, max((size + 1) / weight[group] for group, size in sizes.items())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(before(middle).values()) <= count else (low, middle)
    found = before(low)
    while sum(found.values()) < count:  # weights that share the next place; at most a few
        open_groups = [group for group in sizes if found[group] < sizes[group]]
        found[min(open_groups, key=lambda group: (found[group] + 0.5) / weight[group])] += 1
    return found


def _flat(scores: Mapping[str, Tensor]) -> npt.NDArray[np.floating]:
    """All scores in one array."""
    parts = (score.detach().cpu() for score in scores.values())
    # NumPy has no bfloat16, all of whose values are float32's too.
    return np.concatenate([(part.float() if part.dtype == torch.bfloat16 else part).numpy().ravel() for part in parts])


def _parts(
    scores: Mapping[str, Tensor],
    flat: npt.NDArray[np.floating],
    count: int,
    order: str,
    kept_of: Mapping[str, int] | None,
) -> list[tuple[npt.NDArray[np.intp] | slice, int]]:
    """Places of weights in ``flat``, and how many of them are kept."""
    if order == "global":
        return [(slice(None), count)]
    places, begin = {}, 0
    for key, score in scores.items():
        places[key] = np.arange(begin, begin + score.numel())
        begin += score.numel()
    of_group = {group: np.concatenate([places[key] for key in keys]) for group, keys in groups(scores).items()}
    if kept_of is None:
        kept_of = {group: int(np.count_nonzero(flat[part] > 0)) for group, part in of_group.items()}
    numbers = counts_by_group(kept_of, {group: len(part) for group, part in of_group.items()}, count)
    return [(part, numbers[group]) for group, part in of_group.items()]


def highest(values: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.bool_]:
    """Which ``count`` values are the highest, bool (n,); of equal ones the first. ValueError where one is NaN or
    infinite, since NaN has no place in an order.
    """
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite numbers to be ordered, and some are NaN or infinite")
    if count <= 0:
        return np.zeros(len(values), dtype=bool)
    border = np.partition(values, len(values) - count)[len(values) - count]
    found: npt.NDArray[np.bool_] = values > border
    equal = np.flatnonzero(values == border)[: count - np.count_nonzero(found)]
    found[equal] = True
    return found

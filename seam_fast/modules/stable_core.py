"""What modules of one target, trained with different seeds, have in common.

A weight that nearly every seed keeps is one that the target needs; a weight that one seed keeps and the next does not
is one of several that would do. The core is what at least a given share of the seeds keeps, and with the mean of the
seeds' heads it is a module itself.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..classifier.state_keys import groups
from ..common.arguments import real_number
from ..data.corpus import Corpus, Split
from .mask import Head, KeepMask
from .resize import figures_on_documents, validation_documents
from .seam_module import SeamModule

RESAMPLES = 10_000  # of the seeds, for an interval of their mean


class StableCore:
    """Modules of one target and base beside one another.

    Args:
        modules: At least two, of the same base and target; their seeds differ.

    Attributes:
        modules: As given.
        target: Their target.
        seeds: The seeds on their cards, None where a card does not say it.
        counts: How many of the modules keep each weight: int16 in the weights' shapes, by weight key.

    Raises:
        ValueError: Fewer than two modules, or they are not of one base and target.
    """

    def __init__(self, modules: Iterable[SeamModule]) -> None:
        self.modules = list(modules)
        if len(self.modules) < 2:
            raise ValueError(f"a stable core needs two modules or more, got {len(self.modules)}")
        first = self.modules[0]
        for each in self.modules[1:]:
            if (each.target, each.base_hash) != (first.target, first.base_hash):
                raise ValueError(
                    f"a stable core needs modules of one target and base; these are of targets {list(first.target)} "
                    f"and {list(each.target)}, bases {first.base_hash[:12]} and {each.base_hash[:12]}"
                )
        self.target = first.target
        self.seeds = [each.card.get("seed") for each in self.modules]
        self.counts: dict[str, Tensor] = {
            key: torch.zeros(shape, dtype=torch.int16) for key, shape in first.mask.shapes.items()
        }
        for each in self.modules:
            for key, count in self.counts.items():
                count += each.mask.dense(key)

    def __repr__(self) -> str:
        kept = 100 * self.mask(0.9).kept()
        return f"StableCore(target={list(self.target)}, {len(self.modules)} modules, {kept:.2f} % kept by 90 % of them)"

    def keep_probability(self) -> dict[str, Tensor]:
        """Share of the modules that keep each weight: float32 in the weights' shapes, by weight key."""
        return {key: count.float() / len(self.modules) for key, count in self.counts.items()}

    def mask(self, share: float = 0.9) -> KeepMask:
        """The weights that at least this share of the modules keeps.

        Raises:
            TrainingError: ``share`` is no number between 0 and 1.
        """
        # As whole modules, so that .9 of ten is nine however .9 * 10 rounds.
        least = max(1, math.ceil(real_number("share", share, 0, 1) * len(self.modules) - 1e-9))
        return KeepMask.of_scores({key: (count >= least).float() for key, count in self.counts.items()})

    def head(self) -> Head:
        """The mean of the modules' heads."""
        weights, biases = zip(*(each.head for each in self.modules), strict=True)
        return torch.stack(weights).mean(0), torch.stack(biases).mean(0)

    def module(self, share: float = 0.5) -> SeamModule:
        """The module of the weights that at least this share of the modules keeps, with the mean of their heads.

        Its card says which modules it is of (``core``). It has not been trained, so look at its figures.

        Raises:
            TrainingError: As ``mask`` does.
        """
        first = self.modules[0]
        names = ("class_names", "target_names", "corpus", "synthetic", "data_hash", "settings")
        card = {name: first.card[name] for name in names if name in first.card}
        card = {name: value for name, value in card.items() if all(one.card.get(name) == value for one in self.modules)}
        card |= {"base_hash": first.base_hash, "core": {"share": share, "seeds": self.seeds}}
        made = SeamModule(first.base, self.target, self.mask(share), self.head(), card=card)
        made._hash_in_float32 = first._hash_in_float32
        return made

    def overlap(self) -> float:
        """Mean Jaccard index of each two of the modules: weights that both keep, of those that either keeps."""
        shares = []
        for number, one in enumerate(self.modules):
            for other in self.modules[:number]:
                both = either = 0
                for key in self.counts:
                    ours, theirs = one.mask.dense(key), other.mask.dense(key)
                    both += int((ours & theirs).sum())
                    either += int((ours | theirs).sum())
                shares.append(both / max(either, 1))
        return float(np.mean(shares))

    def histogram(self) -> dict[str, list[int]]:
        """How many weights of each group 0, 1, ... all of the modules keep: (n + 1) numbers by group."""
        count = len(self.modules) + 1
        found = {}
        for group, keys in groups(self.counts).items():
            parts = [torch.bincount(self.counts[key].flatten().long(), minlength=count) for key in keys]
            found[group] = torch.stack(parts).sum(0).tolist()
        return found

    def curve(self, documents: Corpus | Split) -> list[dict[str, Any]]:
        """Figures of the core for each number of modules that agree, on documents.

        Args:
            documents: A corpus, of which those held out of training are taken, or a split.

        Returns:
            For each ``share``, 1 / n to 1: ``kept``, ``f1``, ``precision``, ``recall`` and ``average_precision``; None
            where undefined.

        Raises:
            ValueError: ``documents`` is something else.
        """
        split, found = validation_documents(documents), []
        for number in range(1, len(self.modules) + 1):
            module = self.module(number / len(self.modules))
            figures = figures_on_documents(module, split)
            names = ("f1", "precision", "recall", "average_precision")
            row = {"share": number / len(self.modules), "kept": module.kept}
            found.append(row | {name: figures[name] for name in names})
        return found


def seed_interval(values: Iterable[float], resamples: int = RESAMPLES) -> dict[str, float]:
    """Mean of a figure over seeds, with least, greatest and the 95 % interval of the mean.

    The interval is a bootstrap over the seeds: of what another draw of as many seeds would give as their mean, on the
    same documents.

    Args:
        values: One number a seed, at least one.
        resamples: How often seeds are drawn.

    Returns:
        ``mean``, ``min``, ``max``, ``low`` and ``high``.
    """
    numbers = np.array(list(values), dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(numbers), (resamples, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(1), (0.025, 0.975))
    found = {"mean": numbers.mean(), "min": numbers.min(), "max": numbers.max(), "low": low, "high": high}
    return {name: float(value) for name, value in found.items()}

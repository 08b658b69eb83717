"""Which documents a module is trained on, epoch by epoch: their draw, their order, and the words dropped from them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common import rng
from ..data.corpus import Corpus, Split
from ..errors import TrainingError
from ..training.epoch_source import EpochDocuments
from .document_sets import balanced, distinct_ids, is_target, take
from .epoch_sizes import documents_of_epoch, epochs_of
from .settings import Settings
from .teacher_cache import TeacherCache

Teacher = Callable[[Tensor, Tensor], Tensor]
"""Function of ids (n, T) and lengths (n,) to the base's probability of the target (n,)."""

Address = tuple[Any, ...]
"""What the draws of a sampler depend on, beside the epoch."""


class Sampler:
    """The training documents of one module in each epoch, as a pure function of seed, target and epoch.

    Args:
        corpus: Where the documents come from.
        fit: Indices (int64) of the training documents that may be used.
        target: Class numbers of the target.
        settings: How documents are drawn and labelled.
        seed: Of all draws.
        teacher: Gives the probabilities for ``Settings.distill_weight``; not used where that is 0.

    Attributes:
        split: All training documents, with class numbers as labels.
        target_probability: Of each of them, by its true label: float32 (N,), 1 target and 0 rest.
        target: As given.
        settings: As given.
        seed: As given.
        teacher: As given, or None where it is not used.
        teacher_cache: Shares the teacher's answers with other modules; None: does not.
        unknown_id: Word id that replaces dropped words, or None.
        fixed: Indices of the documents of every epoch; None where they are drawn anew.
        targets: Indices of the target's documents that may be used.
        others: Indices of the other documents that may be used.
        positives: Where ``fixed`` is None: number of ``targets`` in an epoch.
        negatives: Where ``fixed`` is None: number of ``others`` in an epoch.

    Raises:
        TrainingError: The settings do not fit the corpus, or the target has no documents, too few, or all.
    """

    def __init__(
        self,
        corpus: Corpus,
        fit: Tensor,
        target: tuple[int, ...],
        settings: Settings,
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        self.teacher = teacher if settings.distill_weight > 0 else None
        self.split, self.target, self.settings, self.seed = corpus.train, target, settings, seed
        self._fed_ids: np.ndarray | None = None
        self._taught: Tensor | None = None  # the teacher's probabilities for all training documents (N,)
        self.teacher_cache: TeacherCache | None = None
        self.unknown_id = corpus.unknown_id
        if settings.word_dropout > 0 and self.unknown_id is None:
            raise TrainingError(
                f"no words can be dropped in training (word_dropout is {settings.word_dropout:g}): this corpus has no "
                "unknown word to put in their place, since its rows are filled up with a real one; pass "
                "word_dropout=0, on the command line --word-dropout 0"
            )
        belongs = is_target(self.split.labels, target)
        self.target_probability, wanted = belongs.float(), belongs[fit]
        self.targets, self.others = fit[wanted], fit[~wanted]
        if len(self.targets) == 0:
            raise TrainingError(f"target {list(target)} has no training documents")
        if len(self.others) == 0:
            raise TrainingError(f"target {list(target)} is every document: nothing is left to tell it from")
        self.positives, self.negatives = documents_of_epoch(settings, len(self.targets), len(self.others))
        if settings.shots > 0:
            if settings.shots > len(self.targets):
                raise TrainingError(
                    f"shots is {settings.shots}, but target {list(target)} has {len(self.targets)} documents"
                )
            numbers = rng.permutation(seed, rng.SHOTS, target, 0, len(self.targets))[: settings.shots]
            self.targets = take(self.targets, np.sort(numbers))
        self.fixed: Tensor | None = None
        if settings.sampling == "balanced":
            self.fixed = self._fixed_pool(fit)
        elif settings.sampling == "all":
            self.fixed = torch.cat([self.targets, self.others])

    def _fixed_pool(self, fit: Tensor) -> Tensor:
        """Indices of the target's documents, then of equally many others from the reference's draw."""
        drawn = fit[balanced(self.split.labels[fit], self.target)]
        others = drawn[~is_target(self.split.labels[drawn], self.target)]
        return torch.cat([self.targets, others[: len(self.targets)]])

    @property
    def size(self) -> int:
        """Number of documents of an epoch."""
        return len(self.fixed) if self.fixed is not None else self.positives + self.negatives

    @property
    def epochs(self) -> int:
        """Number of epochs to run."""
        return epochs_of(self.settings, self.size)

    def fed_ids(self) -> np.ndarray:
        """Every word id that any epoch can feed: int64, distinct and sorted."""
        if self._fed_ids is None:
            pool = self.fixed if self.fixed is not None else torch.cat([self.targets, self.others])
            found = distinct_ids(self.split.ids[pool])
            self._fed_ids = np.union1d(found, [self.unknown_id]) if self.settings.word_dropout > 0 else found
        return self._fed_ids

    @property
    def address(self) -> Address:
        """What all draws depend on, beside the epoch: samplers of one corpus with equal addresses draw the same."""
        settings = self.settings
        names = ("sampling", "negatives_per_target", "targets_per_epoch", "shots", "word_dropout", "evaluation")
        return (self.seed, self.target, *(getattr(settings, name) for name in names))

    @property
    def purposes(self) -> tuple[str, ...]:
        """What is drawn for an epoch, in order; purposes as in ``common.rng``."""
        pools: list[str] = []
        if self.fixed is None:
            pools += [rng.TARGETS] * (self.positives < len(self.targets))
            pools += [rng.NEGATIVES] * (self.negatives < len(self.others))
        return (*pools, rng.ORDER, *[rng.DROPOUT] * (self.settings.word_dropout > 0))

    def keys(self, epoch: int, purposes: tuple[str, ...]) -> list[int]:
        """The random generator's key of each purpose in an epoch, two numbers of 64 bits each."""
        keys: list[int] = []
        for purpose in purposes:
            keys += rng.key_of(self.seed, purpose, self.target, epoch)
        return keys

    def draw(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        """What is drawn for an epoch, from 0.

        Returns:
            Indices of its documents in training order, int64 (n,); and the positions whose word is dropped where there
            is one, bool (n, T), or None without word dropout.
        """
        pool = self.fixed
        if pool is None:
            targets = self._draw(rng.TARGETS, epoch, self.targets, self.positives)
            pool = torch.cat([targets, self._draw(rng.NEGATIVES, epoch, self.others, self.negatives)])
        order = take(pool, rng.permutation(self.seed, rng.ORDER, self.target, epoch, len(pool)))
        dropout = self.settings.word_dropout
        if dropout == 0:
            return order, None
        shape = len(order), self.split.ids.shape[1]
        return order, torch.from_numpy(
            rng.chance(self.seed, rng.DROPOUT, self.target, epoch, math.prod(shape), dropout).reshape(shape)
        )

    def dropped(self, ids: Tensor, lengths: Tensor, dropped: Tensor | None) -> Tensor:
        """Documents (n, T) with the unknown word at the positions that ``draw`` gave; padding is left as it is. On any
        device.
        """
        if dropped is None or self.unknown_id is None:
            return ids
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return torch.where(real & dropped, self.unknown_id, ids)

    def soft(self, target_probability: Tensor, taught: Tensor) -> Tensor:
        """Soft labels: probabilities of the target (n,), on any device.

        Args:
            target_probability: By the true labels, 1 target and 0 rest, (n,).
            taught: By the teacher, (n,).
        """
        share = self.settings.distill_weight
        return (1 - share) * target_probability.to(taught.dtype) + share * taught

    def epoch(self, epoch: int) -> EpochDocuments:
        """The documents of an epoch, from 0, in training order. Their ``target_probability`` is 1 for the target and 0
        for the rest, or with distillation what ``soft`` makes of that.
        """
        order, dropped = self.draw(epoch)
        parts = self.split.ids, self.split.lengths, self.target_probability
        ids, lengths, target_probability = (take(part, order.numpy()) for part in parts)
        ids = self.dropped(ids, lengths, dropped)
        if self.teacher is not None:
            taught = self._taught_probability(self.teacher, epoch, order, ids, lengths, dropped is None)
            target_probability = self.soft(target_probability, taught)
        return EpochDocuments(ids, lengths, target_probability)

    def as_they_are(self, epoch: int) -> tuple[Split, Tensor]:
        """The documents of an epoch with all of their words, and which of them are the target's, bool (n,)."""
        order = self.draw(epoch)[0]
        split = self.split
        return Split(split.ids[order], split.lengths[order], split.labels[order]), self.target_probability[order] > 0.5

    def _taught_probability(
        self, teacher: Teacher, epoch: int, order: Tensor, ids: Tensor, lengths: Tensor, unchanged: bool
    ) -> Tensor:
        """The teacher's probabilities for an epoch's documents (n,). It is asked once for all documents where no words
        are dropped, and otherwise once for all modules that share ``teacher_cache``.

        Args:
            teacher: The teacher.
            epoch: The epoch.
            order: Indices of the documents (n,).
            ids: Their words (n, T), after dropout.
            lengths: Their lengths (n,).
            unchanged: Whether no words are dropped in any epoch.
        """
        if unchanged:
            if self._taught is None:
                self._taught = teacher(self.split.ids, self.split.lengths)
            return self._taught.take(order)
        if self.teacher_cache is None:
            return teacher(ids, lengths)
        return self.teacher_cache.get(epoch, lambda: teacher(ids, lengths))

    def _draw(self, purpose: str, epoch: int, documents: Tensor, count: int) -> Tensor:
        """``count`` of some documents' indices, drawn without replacement for an epoch."""
        if count == len(documents):
            return documents
        return take(documents, rng.permutation(self.seed, purpose, self.target, epoch, len(documents), count))

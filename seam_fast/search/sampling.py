"""Which documents a module sees: the pool of an epoch, its order, and the words dropped from it."""

import math
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..common import rng
from ..data.corpus import Corpus, Split
from ..errors import TrainingError
from .settings import Settings


def is_target(labels: Tensor, target: tuple[int, ...]) -> Tensor:
    """Which documents belong to the target: labels (N,) -> bool (N,)."""
    return torch.isin(labels, torch.tensor(target))


def balanced(labels: Tensor, target: tuple[int, ...]) -> Tensor:
    """The reference's fixed draw, as indices (n,): all target documents in order, then equally many others.

    The others are the first ones after ``RandomState(0).shuffle`` of their indices (NumPy's legacy generator, as in
    SeaM); where there are fewer others than targets, all of them.
    """
    wanted = is_target(labels, target)
    targets, others = torch.nonzero(wanted)[:, 0], torch.nonzero(~wanted)[:, 0].numpy()
    np.random.RandomState(0).shuffle(others)
    return torch.cat([targets, torch.from_numpy(others[: len(targets)].copy())])


def chosen(tensor: Tensor, numbers: np.ndarray) -> Tensor:
    """The entries of a tensor on the CPU with those numbers; by NumPy, which unlike torch lets no other thread go
    first: where dozens of modules are trained, that is what an epoch's documents would wait for."""
    return torch.from_numpy(tensor.numpy()[numbers])


def distinct(ids: Tensor) -> np.ndarray:
    """The word ids that occur, each once, sorted: there are few numbers, so they are marked and not sorted."""
    ids = ids.numpy()
    occurs = np.zeros(ids.max(initial=-1) + 1, dtype=bool)
    occurs[ids] = True
    return np.flatnonzero(occurs)


def documents_of_epoch(settings: Settings, targets: int, others: int) -> tuple[int, int]:
    """How many documents of the target, and others, an epoch has, of so many that may be used."""
    if settings.sampling == "redraw":
        targets = min(settings.targets_per_epoch or targets, targets)
        return targets, min(math.ceil(settings.negatives_per_target * targets), others)
    return targets, min(targets, others) if settings.sampling == "balanced" else others


def epochs_of(settings: Settings, size: int) -> int:
    """Epochs of so many documents to run: the setting, or as many as the budget in steps fills."""
    if settings.epochs is not None:
        return settings.epochs
    return max(1, math.ceil(settings.steps / math.ceil(size / settings.batch_size)))


class Taught:
    """What the base says of epochs that several modules see alike, kept until each of them has had it.

    users: how many there are.
    """

    def __init__(self):
        self.users = 0
        self._known: dict[int, list] = {}  # by epoch: what was said, and how many have had it
        self._lock = threading.Lock()

    def get(self, epoch: int, make: Callable[[], Tensor]) -> Tensor:
        """``make()`` for that epoch, or what it gave to another module."""
        with self._lock:
            known = self._known.get(epoch)
        made = make() if known is None else known[0]
        with self._lock:
            known = self._known.setdefault(epoch, [made, 0])
            known[1] += 1
            if known[1] >= self.users:
                del self._known[epoch]
            return known[0]


class Sampler:
    """Training documents of one module, epoch by epoch, as a pure function of seed, target and epoch.

    corpus: where they come from. fit: indices (int64) of the training documents that may be used. teacher: a function
    of ids (N, T) and lengths (N,) to what the base gives the target (N,), for ``Settings.distill``; None: not used.
    """

    def __init__(
        self,
        corpus: Corpus,
        fit: Tensor,
        target: tuple[int, ...],
        settings: Settings,
        seed: int,
        teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.teacher = teacher if settings.distill_weight > 0 else None
        self.split, self.target, self.settings, self.seed = corpus.train, target, settings, seed
        self._words: np.ndarray | None = None
        self._of_all: Tensor | None = None  # what the teacher says of all documents
        self.taught: Taught | None = None  # where there are modules that see the same epochs
        self.unknown_id = corpus.unknown_id
        if settings.word_dropout > 0 and self.unknown_id is None:
            raise TrainingError(
                f"no words can be dropped in training (word_dropout is {settings.word_dropout:g}): this corpus has no "
                "unknown word to put in their place, since its rows are filled up with a real one; pass "
                "word_dropout=0, on the command line --word-dropout 0"
            )
        self.rest = 1 - is_target(self.split.labels, target).long()  # of every document: 0 target, 1 rest
        wanted = self.rest[fit] == 0
        self.targets, self.others = fit[wanted], fit[~wanted]
        if len(self.targets) == 0:
            raise TrainingError(f"target {list(target)} has no training documents")
        if len(self.others) == 0:
            raise TrainingError(f"target {list(target)} is every document: nothing is left to tell it from")
        if settings.shots > 0:
            if settings.shots > len(self.targets):
                raise TrainingError(
                    f"shots is {settings.shots}, but target {list(target)} has {len(self.targets)} documents"
                )
            numbers = rng.permutation(seed, rng.SHOTS, target, 0, len(self.targets))[: settings.shots]
            self.targets = chosen(self.targets, np.sort(numbers))
        if settings.sampling == "balanced":
            self.fixed = self._fixed_pool(fit)
        elif settings.sampling == "all":
            self.fixed = torch.cat([self.targets, self.others])
        else:
            self.fixed = None
            self.positives, self.negatives = documents_of_epoch(settings, len(self.targets), len(self.others))

    def _fixed_pool(self, fit: Tensor) -> Tensor:
        drawn = fit[balanced(self.split.labels[fit], self.target)]
        others = drawn[~is_target(self.split.labels[drawn], self.target)]
        return torch.cat([self.targets, others[: len(self.targets)]])

    @property
    def size(self) -> int:
        """Documents an epoch."""
        return len(self.fixed) if self.fixed is not None else self.positives + self.negatives

    @property
    def epochs(self) -> int:
        """Epochs to run."""
        return epochs_of(self.settings, self.size)

    def words(self) -> np.ndarray:
        """Every word id that any epoch can feed, sorted."""
        if self._words is None:
            pool = self.fixed if self.fixed is not None else torch.cat([self.targets, self.others])
            words = distinct(self.split.ids[pool])
            self._words = np.union1d(words, [self.unknown_id]) if self.settings.word_dropout > 0 else words
        return self._words

    @property
    def address(self) -> tuple:
        """What all draws follow from, beside the epoch: two samplers of one corpus with the same draw the same."""
        settings = self.settings
        names = ("sampling", "negatives_per_target", "targets_per_epoch", "shots", "word_dropout", "evaluation")
        return (self.seed, self.target, *(getattr(settings, name) for name in names))

    @property
    def purposes(self) -> tuple[str, ...]:
        """What is drawn for an epoch, in order."""
        some = []
        if self.fixed is None:
            some += [rng.TARGETS] * (self.positives < len(self.targets))
            some += [rng.NEGATIVES] * (self.negatives < len(self.others))
        return (*some, rng.ORDER, *[rng.DROPOUT] * (self.settings.word_dropout > 0))

    def keys(self, epoch: int, purposes: tuple[str, ...]) -> list[int]:
        """Where the draws of an epoch begin: two numbers for each purpose."""
        keys: list[int] = []
        for purpose in purposes:
            keys += rng.key_of(self.seed, purpose, self.target, epoch)
        return keys

    def draw(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        """What is drawn for one epoch (from 0): the numbers of its documents (n,) in training order, and which of their
        places (n, T) lose the word that they may hold; None: none does."""
        pool = self.fixed
        if pool is None:
            targets = self._draw(rng.TARGETS, epoch, self.targets, self.positives)
            pool = torch.cat([targets, self._draw(rng.NEGATIVES, epoch, self.others, self.negatives)])
        order = chosen(pool, rng.permutation(self.seed, rng.ORDER, self.target, epoch, len(pool)))
        share = self.settings.word_dropout
        if share == 0:
            return order, None
        shape = len(order), self.split.ids.shape[1]
        return order, torch.from_numpy(
            rng.chance(self.seed, rng.DROPOUT, self.target, epoch, math.prod(shape), share).reshape(shape)
        )

    def dropped(self, ids: Tensor, lengths: Tensor, dropped: Tensor | None) -> Tensor:
        """Documents (n, T) without the words that `draw` has chosen; padding stays padding. On any device."""
        if dropped is None:
            return ids
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return torch.where(real & dropped, self.unknown_id, ids)

    def soft(self, labels: Tensor, probability: Tensor) -> Tensor:
        """Shares of target and rest (n, 2), of labels (n,) and what the base gives the target (n,). On any device."""
        share = self.settings.distill_weight
        wanted = (1 - share) * (labels == 0).to(probability.dtype) + share * probability
        return torch.stack([wanted, 1 - wanted], 1)

    def epoch(self, epoch: int) -> Split:
        """The documents of one epoch (from 0) in training order; labels (N,): 0 target, 1 rest; with
        distillation (N, 2): shares of both."""
        order, dropped = self.draw(epoch)
        ids, lengths, labels = (chosen(t, order.numpy()) for t in (self.split.ids, self.split.lengths, self.rest))
        ids = self.dropped(ids, lengths, dropped)
        if self.teacher is not None:
            labels = self.soft(labels, self._probability(epoch, order, ids, lengths, dropped))
        return Split(ids, lengths, labels)

    def _probability(self, epoch: int, order: Tensor, ids: Tensor, lengths: Tensor, dropped: Tensor | None) -> Tensor:
        """What the teacher says of an epoch's documents (n,). It is asked once for documents that stay as they are, and
        once for those that other modules see alike.
        """
        if dropped is None:
            if self._of_all is None:
                self._of_all = self.teacher(self.split.ids, self.split.lengths)
            return self._of_all.take(order)
        if self.taught is None:
            return self.teacher(ids, lengths)
        return self.taught.get(epoch, lambda: self.teacher(ids, lengths))

    def _draw(self, purpose: str, epoch: int, documents: Tensor, count: int) -> Tensor:
        """``count`` of these documents, drawn without replacement for one epoch."""
        if count == len(documents):
            return documents
        return chosen(documents, rng.permutation(self.seed, purpose, self.target, epoch, len(documents), count))


def vocabulary_floor(corpus: Corpus, indices: Tensor, total: int, embedding_dim: int) -> float:
    """Share of weights left when nothing is learned but the rows of words absent from these documents are dropped.

    indices: training documents (int64); total: number of weights; everything outside the embedding is kept.
    Padding counts as a word only where the corpus pads with one.
    """
    ids, lengths = corpus.train.ids[indices], corpus.train.lengths[indices]
    if corpus.config.padding == "own":
        ids = ids[torch.arange(ids.shape[1]) < lengths[:, None]]
    rows = len(distinct(ids))
    return (total - (corpus.vocab_size - rows) * embedding_dim) / total

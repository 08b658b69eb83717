"""What a trainer needs to know of the object that draws its documents, such as ``search.sampling.Sampler``."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..data.corpus import Split


class SamplingSettings(Protocol):
    """The settings of a sampler that trainers of the compiled engine read.

    Attributes:
        word_dropout: Probability that a word is replaced by the unknown word, in [0, 1).
        distill_weight: Share of the teacher's probability in ``target_probability``, in [0, 1].
    """

    @property
    def word_dropout(self) -> float: ...

    @property
    def distill_weight(self) -> float: ...


class EpochDocuments(NamedTuple):
    """The documents of an epoch in training order, as ``Trainer.run_epoch`` takes them.

    Attributes:
        ids: Word ids (n, T).
        lengths: Numbers of words (n,).
        target_probability: Probability that a document is the target's, floating (n,).
    """

    ids: Tensor
    lengths: Tensor
    target_probability: Tensor


class EpochSource(Protocol):
    """Draws the documents of each epoch, as a pure function of the epoch's number.

    ``epoch`` gives the documents themselves. All else says how they are drawn, so that the compiled engine can draw the
    same ones by itself.

    Attributes:
        split: The documents to draw from, with the base's class numbers as labels.
        target_probability: Of each of them, by its true label: float32 (N,), 1 target and 0 rest.
        target: The target's class numbers.
        settings: See ``SamplingSettings``.
        teacher: Function of ids (n, T) and lengths (n,) to the base's probability of the target (n,), or None.
        unknown_id: Word id that replaces dropped words; None where no words can be dropped.
        fixed: Indices (int64) of the documents of every epoch; None where they are drawn anew.
        targets: Indices of the target's documents.
        others: Indices of the other documents.
        positives: Where ``fixed`` is None: number of ``targets`` in an epoch.
        negatives: Where ``fixed`` is None: number of ``others`` in an epoch.
    """

    split: Split
    target_probability: Tensor
    target: tuple[int, ...]
    teacher: Any
    unknown_id: int | None
    fixed: Tensor | None
    targets: Tensor
    others: Tensor
    positives: int
    negatives: int

    @property
    def settings(self) -> SamplingSettings: ...

    @property
    def size(self) -> int:
        """Number of documents of an epoch."""

    @property
    def purposes(self) -> tuple[str, ...]:
        """What is drawn for an epoch, in order; purposes as in ``common.rng``."""

    def keys(self, epoch: int, purposes: tuple[str, ...]) -> list[int]:
        """The random generator's key of each purpose in an epoch, two numbers of 64 bits each."""

    def epoch(self, epoch: int) -> EpochDocuments:
        """The documents of an epoch."""

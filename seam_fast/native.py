"""Training of one module by the compiled engine: whole epochs in native code, embedding rows touched only when their
words occur."""

import torch
from torch import Tensor

from . import _ext
from .engine import HEAD_NAMES, Trainer
from .inference import class_logits
from .keys import EMBEDDING, WEIGHT_KEYS

CATCH_UPS = ("quadrature", "replay", "dense")
_STEPS_AT_ONCE = 64  # between two looks at `stop`, at most: some 20 milliseconds at the reference's sizes ...
_WORDS_AT_ONCE = 64 * 160  # ... and fewer steps where batches hold more words than its own


class NativeTrainer(Trainer):
    """The trainer of the compiled engine on a CPU, float32 or float64.

    catch_up: how rows whose words did not occur make up for the steps they missed, in which their gradient was the
    penalty alone. ``"replay"`` takes the steps one by one, ``"quadrature"`` all at once: not the same to the last bit,
    but no less exact in float32. ``"dense"`` never misses one; it is there to be compared with, and ``"replay"`` gives
    its very bits.

    Scores may be read whenever no epoch is running; whoever sets them, or ``exp_avg`` and ``exp_avg_sq``, calls
    ``adopt`` afterwards.
    """

    def __init__(self, weights, head, words, *, catch_up="quadrature", **options):
        super().__init__({key: weight.contiguous() for key, weight in weights.items()}, head, words, **options)
        self.catch_up = catch_up
        self.scores, self.exp_avg, self.exp_avg_sq = _three_like(self.scores, self._empty)
        self.head = tuple(part.contiguous() for part in self.head)
        # exp_avg and exp_avg_sq of the weight, then of the bias
        self.head_together = [torch.zeros_like(self.head[i // 2]) for i in range(4)]
        self.head_alone = [torch.zeros_like(part) for part in self.head_together]
        self._slot = self.slot.int()
        self._factor = 1.0
        self._native = self._module().SeamTrainer(
            weights=[self.weights[key] for key in WEIGHT_KEYS],
            rows=self.rows,
            scores=[self.scores[key] for key in WEIGHT_KEYS],
            exp_avg=[self.exp_avg[key] for key in WEIGHT_KEYS],
            exp_avg_sq=[self.exp_avg_sq[key] for key in WEIGHT_KEYS],
            head=self.head,
            head_together=self.head_together,
            head_alone=self.head_alone,
            penalty=[self.penalty_gradient[key] for key in WEIGHT_KEYS],
            train_head=self.schedule != "port",
            read_last_word=self.read == "last_word",
            target_weight=self.target_weight,
            catch_up=catch_up,
        )

    _module = staticmethod(lambda: _ext.C)  # whose trainer it is

    @staticmethod
    def _empty(size: int, like: Tensor) -> Tensor:
        """Uninitialised memory."""
        return _ext.C.empty_scratch(size, like.dtype)

    @staticmethod
    def _steps_at_once(batch_size: int, width: int) -> int:
        """How many steps of documents of so many words are taken between two looks at `stop`."""
        return max(1, min(_STEPS_AT_ONCE, _WORDS_AT_ONCE // max(1, batch_size * width)))

    @property
    def steps(self) -> int:
        """Steps taken in all, head-only ones included; any thread may ask."""
        return self._native.steps

    def adopt(self, steps: int, head_steps: int = 0) -> None:
        """Takes scores, ``exp_avg`` and ``exp_avg_sq`` as they now stand, as the state after so many steps."""
        self._native.adopt(steps, head_steps)

    def scale_learning_rates(self, factor: float) -> None:
        self._factor = factor

    def run_epoch(self, ids: Tensor, lengths: Tensor, labels: Tensor, batch_size: int, *, head_only=False, stop=None):
        self._check_labels(labels)
        count = -(-len(ids) // batch_size)
        lengths, shares = lengths.long().contiguous(), self._shares(labels)
        self._native.begin_epoch(self.lr_mask * self._factor, self.lr_head * self._factor, 0 if head_only else count)
        if head_only:
            features = self._features(ids, lengths)
            run = self._native.train_head
            documents = (features, shares)
        else:
            slots = self._slot[ids]
            if self.read == "last_word":  # padding is never fed, so it may be anything
                slots[torch.arange(ids.shape[1]) >= lengths[:, None]] = 0
            if len(ids):
                self._check_rows(slots.max())
            run = self._native.train
            documents = (slots, lengths, shares)
        losses = []
        at_once = self._steps_at_once(batch_size, ids.shape[1])
        try:
            for begin in range(0, count, at_once):
                if stop is not None and stop.is_set():
                    break
                end = min((begin + at_once) * batch_size, len(ids))
                done, failure = run(*documents, batch_size, begin * batch_size, end)
                losses += done
                self._raise(failure)
        finally:
            self._native.flush()
        return sum(losses) / max(len(losses), 1)

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self._features(ids, lengths).cpu()

    def survey(self):
        """As in ``Trainer``, by one pass over the scores."""
        bits, counts, finite = zip(*map(_ext.C.pack_kept, self.scores.values()), strict=True)
        if not all(finite) or not all(torch.isfinite(part).all() for part in self.head):
            self.check_finite()  # which says what
        shared = int((self.scores[EMBEDDING][-1] > 0).sum())
        bits = dict(zip(self.scores, bits, strict=True))
        return self.kept_of([*counts, shared]), lambda: self._snapshot_of(bits)

    def _logits_of(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        return class_logits(weights, ids, lengths, self.read, "cpu")

    def _features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`class_logits` on the trainer's device."""
        return self._native.class_logits(*self._documents(ids, lengths))

    def _documents(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words, their rows of scores, and lengths, as the engine takes them."""
        return ids.contiguous(), self._slot[ids], lengths.long().contiguous()

    def _shares(self, labels: Tensor) -> Tensor:
        """What of each document is target and rest, (N, 2), of the scores' dtype, on the CPU."""
        dtype = self.head[0].dtype
        if labels.ndim == 2:
            return labels.to(dtype).contiguous()
        return torch.stack([labels == 0, labels == 1], 1).to(dtype)

    def _raise(self, failure) -> None:
        if failure.what >= 0:
            self._stop((None, *WEIGHT_KEYS, *HEAD_NAMES)[failure.what], failure.loss)


def _three_like(scores: dict[str, Tensor], empty) -> list[dict[str, Tensor]]:
    """The same scores and twice zeros of their shapes, all in one piece of memory. empty: as in ``_empty``."""
    sizes = [score.numel() for score in scores.values()]
    whole = empty(3 * sum(sizes), next(iter(scores.values()))).view(3, -1).zero_()
    found = [dict(zip(scores, row.split(sizes), strict=True)) for row in whole]
    found = [{key: part.view_as(scores[key]) for key, part in parts.items()} for parts in found]
    for key, score in scores.items():
        found[0][key].copy_(score)
    return found


def in_large_pages(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a base's weights, for all its trainers: rows here and there in a large table are found sooner."""
    return {key: _ext.C.empty_scratch(w.numel(), w.dtype).view_as(w).copy_(w) for key, w in weights.items()}

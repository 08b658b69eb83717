"""Training of one module on a GPU by ordinary kernels: several LSTM layers, both directions, float64, any size.

A step is a fixed sequence of device operations. Which batch it takes, Adam's constants and whether all values are
finite are numbers on the device, so that the host need not wait for any of them: the sequence is recorded once as a
CUDA graph and replayed for each step. On a CPU the same sequence just runs, which is how it is tested.

Letters: T time steps, B documents of a batch, E embedding size, C classes, S steps, R rows with scores of their own.
"""

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.inference import by_length
from ..classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, lstm_keys, lstm_shape
from ..common.batches import deal
from ..modules.mask import Head, Snapshot, packed
from ..ops import custom_op, eager, reference
from ..ops.functional import masked_lstm
from .base import LastCallCache, Trainer, as_head
from .config import StepConfig
from .graph_inputs import GraphInputs

SIDE_BY_SIDE = 8  # workers on a GPU whose modules are trained by many small kernels
_STEPS_AT_ONCE = 256  # steps queued between two synchronisations, which read `stop` and failures, at most ...
_SECONDS_AT_ONCE = 0.1  # ... and fewer where they take longer than this

DeviceDocuments = tuple[list[tuple[Tensor, Tensor]], Tensor]
"""Documents on the device, as `CudaGraphTrainer.to_device` gives them."""


class CudaGraphTrainer(Trainer):
    """Trains by ``masked_lstm`` and plain PyTorch for the rest; made for GPUs, float32 or float64.

    Results are those of ``TorchTrainer`` up to rounding. The calling thread's current stream is used; on a GPU each
    thread must have set one of its own.

    Scores, moments and head may be read, and written to in place, whenever no epoch is running; ``load_state`` then
    says how many steps they stand for.

    Args:
        weights: As in ``Trainer``.
        head: As in ``Trainer``.
        fed_ids: As in ``Trainer``.
        config: As in ``Trainer``.
        backend: Of the op, as in ``seam_fast.masked_lstm``.

    Attributes:
        exp_avg: Adam's first moments of the scores, by weight key and in the scores' shapes.
        exp_avg_sq: Adam's second moments, likewise.
        head_joint_moments: exp_avg and exp_avg_sq of the head's weight, then of its bias, in joint steps.
        head_only_moments: The same for head-only steps, which have an Adam of their own.

    Raises:
        ValueError: The base is neither float32 nor float64.
    """

    engine = "cuda"

    @classmethod
    def capacity(cls, device: torch.device, weights: Mapping[str, Tensor], batch_size: int) -> int:
        """As in ``Trainer``."""
        return SIDE_BY_SIDE

    @classmethod
    def for_engine(
        cls, weights: Mapping[str, Tensor], head: Head, fed_ids: Tensor, config: StepConfig, lazy_update: str
    ) -> Trainer:
        """As in ``Trainer``."""
        return cls(weights, head, fed_ids, config, backend=cls.engine)

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        head: Head,
        fed_ids: Tensor,
        config: StepConfig,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__({key: weight.contiguous() for key, weight in weights.items()}, head, fed_ids, config)
        table = self.weights[EMBEDDING]
        if table.dtype not in custom_op.FULL_DTYPES:
            raise ValueError(f"CudaGraphTrainer takes bases of float32 and float64, but this one is {table.dtype}")
        plain = custom_op.choose_kernels(backend, table) is eager
        # The reference op never reads lengths on the host, which the faster plain one does.
        self._masked_lstm = reference.masked_lstm if plain else functools.partial(masked_lstm, backend=backend)
        self._lstm, (self._num_layers, self._bidirectional) = lstm_keys(self.weights), lstm_shape(self.weights)
        self._row_of_id = self.row_of_id.to(self.device)
        self._joint_steps, self._head_steps = 0, 0
        self._factor = 1.0  # of the learning rates
        self._inputs: dict[bool, GraphInputs] = {}  # by head_only
        self._last_call: LastCallCache[DeviceDocuments] = LastCallCache()
        self._make_state()

    def _make_state(self) -> None:
        """Makes scores, head and moments: those of the embedding, and all others in one piece of memory each, so that
        one sequence of operations steps them all.
        """
        rows, *rest = self.scores.values()
        rest += self.head
        flat = torch.cat([tensor.flatten() for tensor in rest])
        # Values, exp_avg and exp_avg_sq of each piece.
        self._rows = rows, torch.zeros_like(rows), torch.zeros_like(rows)
        self._rest = flat, torch.zeros_like(flat), torch.zeros_like(flat)
        keys, views = list(self.scores), [_views(whole, rest) for whole in self._rest]
        self.scores, self.exp_avg, self.exp_avg_sq = (
            dict(zip(keys, [first, *others[:-2]], strict=True)) for first, others in zip(self._rows, views, strict=True)
        )
        self.head = as_head(views[0][-2:])
        self.head_joint_moments = [whole[part] for part in (-2, -1) for whole in views[1:]]
        both = flat[-sum(part.numel() for part in self.head) :]
        self._head_only = both, torch.zeros_like(both), torch.zeros_like(both)
        self.head_only_moments = [_views(whole, self.head)[part] for part in (0, 1) for whole in self._head_only[1:]]

        def spread(values: list[float]) -> Tensor:
            """A value for each tensor of ``rest`` -> one for each of its elements."""
            sizes = torch.tensor([tensor.numel() for tensor in rest[: len(values)]])
            return torch.tensor(values, dtype=flat.dtype).repeat_interleave(sizes).to(self.device)

        lr_head = 0.0 if self.schedule == "port" else self.lr_head  # at a rate of 0 the head does not change
        self._rates = spread([self.lr_mask] * len(keys[1:]) + [lr_head] * 2)
        self._penalty = spread([self.penalty_gradient[key] for key in keys[1:]])

    @property
    def steps(self) -> int:
        """Number of steps taken, head-only ones included. May be read by any thread at any time."""
        return self._joint_steps + self._head_steps

    def load_state(self, steps: int, head_steps: int = 0) -> None:
        """Declares the present scores, moments and head to be the state after ``steps`` joint steps and ``head_steps``
        steps of the head alone.
        """
        self._joint_steps, self._head_steps = steps, head_steps

    def scale_learning_rates(self, factor: float) -> None:
        """As in ``Trainer``."""
        self._factor = factor

    # -- an epoch ------------------------------------------------------------------------------------------------

    def run_epoch(
        self,
        ids: Tensor,
        lengths: Tensor,
        target_probability: Tensor,
        batch_size: int,
        *,
        head_only: bool = False,
        stop: threading.Event | None = None,
    ) -> float:
        """As in ``Trainer``."""
        target_probability = self._probability_of(target_probability)
        if not len(ids):
            return 0.0
        numbers, real = deal(len(ids), min(batch_size, len(ids)))
        loss_weights = self.loss_weights(target_probability, numbers, real)
        batches: tuple[Tensor, ...]
        if head_only:
            features = self._features(self._to_device(ids, lengths))
            batches, step = (features[numbers.to(self.device)], loss_weights), self._head_step
        else:
            ids = self._checked_ids(ids, lengths)
            batches = ids[numbers].transpose(1, 2), lengths.long()[numbers], loss_weights
            step = self._joint_step
        inputs = self._inputs_for(batches, head_only)
        losses: list[float] = []
        count = len(numbers)
        while len(losses) < count:
            if stop is not None and stop.is_set():
                break
            end = min(len(losses) + inputs.steps_at_once, len(losses) + len(inputs.losses), count)
            losses += self._run(inputs, step, [part[len(losses) : end] for part in batches], head_only)
        return sum(losses) / max(len(losses), 1)

    def _checked_ids(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """``without_padding``; ValueError for a word without a row of scores of its own."""
        ids = self.without_padding(ids, lengths)
        self._check_rows(self.row_of_id[ids].max())
        return ids

    def without_padding(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Documents (N, T) in which padding that is not read is replaced by the document's first word, so that no other
        row is touched. On any device.
        """
        if self.readout == "last_position":
            return ids
        return torch.where(torch.arange(ids.shape[1], device=ids.device) < lengths[:, None], ids, ids[:, :1])

    def loss_weights(self, target_probability: Tensor, numbers: Tensor, real: Tensor) -> Tensor:
        """The weights of each document's two log-probabilities in its batch's loss, on any device.

        Args:
            target_probability: Of each document (N,), 0 or 1 where ``target_weight`` is not 1.
            numbers: Indices of each batch's documents (S, B).
            real: Which of them are real and not repeated to fill up a batch, bool (S, B).

        Returns:
            (S, B, 2), in the scores' dtype, 0 for repeated documents.
        """
        of_rest = (1 - target_probability).double()
        weights = torch.stack([target_probability.double() * self.target_weight, of_rest], 1)
        weights = weights[numbers] * real[:, :, None]
        total = real.sum(1) if self.target_weight == 1 else weights.sum((1, 2))
        return (weights / total[:, None, None]).to(self.scores[EMBEDDING].dtype)

    def _inputs_for(self, batches: Sequence[Tensor], head_only: bool) -> GraphInputs:
        """The inputs for batches of such shapes; new ones, with a graph of their own, where the last do not fit."""
        steps = min(len(batches[0]), _STEPS_AT_ONCE)
        inputs = self._inputs.get(head_only)
        if inputs is None or not inputs.fits(batches, steps):
            self._inputs.pop(head_only, None)  # frees the old graph before the new one is made
            self._inputs[head_only] = inputs = self._make_inputs(batches, steps, head_only)
        return inputs

    def _make_inputs(self, batches: Sequence[Tensor], steps: int, head_only: bool) -> GraphInputs:
        """New inputs; numbers of what is checked: 0 the loss, then the scores' tensors in order, then the head's."""
        tensors = [*self.scores.values(), *self.head]
        checked = [(number, tensor.numel()) for number, tensor in enumerate(tensors, start=1)]
        checked[0] = 1, batches[0][0].numel() * self.scores[EMBEDDING].shape[1]  # the gradient at each word of a batch
        checked = [(0, 1), *(checked[-2:] if head_only else checked)]
        return GraphInputs(self.scores[EMBEDDING], batches, steps, checked)

    def inputs_over(self, batches: list[Tensor]) -> GraphInputs:
        """Inputs of joint steps for a whole epoch that reads the given batches in place of copies of them."""
        inputs = self._make_inputs(batches, len(batches[0]), False)
        inputs.batches = batches
        return inputs

    def _run(
        self, inputs: GraphInputs, step: Callable[[GraphInputs], None], batches: Sequence[Tensor], head_only: bool
    ) -> list[float]:
        """Takes some steps and synchronises with the device once, after the last one; returns their losses."""
        begun, count = time.perf_counter(), len(batches[0])
        for target, part in zip(inputs.batches, batches, strict=True):
            target[:count].copy_(part)
        taken = self._head_steps if head_only else self._joint_steps
        inputs.constants[:count].copy_(self._constants(taken, count))
        inputs.next_step.zero_()
        inputs.runner(functools.partial(step, inputs), count)
        *losses, done, failed = torch.cat([inputs.losses[:count], inputs.next_step, inputs.failed]).tolist()
        self.count_steps(int(done), losses, int(failed), head_only)
        inputs.steps_at_once = max(1, int(count * _SECONDS_AT_ONCE / (time.perf_counter() - begun)))
        return losses

    def count_steps(self, done: int, losses: list[float], failed: int, head_only: bool = False) -> None:
        """Counts the steps that succeeded among those that were queued.

        Args:
            done: Number of steps that succeeded.
            losses: Losses of all queued steps.
            failed: Number of what was not finite, as in ``GraphInputs.failed``.
            head_only: Whether the steps were of the head alone.

        Raises:
            TrainingError: Not all of them succeeded.
        """
        if head_only:
            self._head_steps += done
        else:
            self._joint_steps += done
        if done < len(losses):
            self._raise_not_finite((None, *self.weights, *HEAD_NAMES)[failed], losses[done])

    def constants(self, count: int) -> Tensor:
        """Adam's constants of the next joint steps: (count, 5)."""
        return self._constants(self._joint_steps, count)

    def _constants(self, steps: int, count: int) -> Tensor:
        """Adam's constants of the next steps after ``steps`` ones: (count, 5), as ``_adam`` takes them."""
        beta1, beta2 = reference.ADAM["betas"]
        numbers = range(steps + 1, steps + count + 1)
        corrections = [(-self._factor / (1 - beta1**n), math.sqrt(1 - beta2**n)) for n in numbers]
        return torch.tensor([(1 - beta1, beta2, 1 - beta2, *pair) for pair in corrections], dtype=torch.float64)

    # -- steps: no decision on the host, the same tensors each time -------------------------------------------------

    @torch.no_grad()
    def _joint_step(self, inputs: GraphInputs) -> None:
        """Steps scores and head on the next batch."""
        ids, lengths, loss_weights = inputs.batch()
        row_weights, score_rows = self._embedding_rows(ids)
        kept = functional.embedding(score_rows, self.scores[EMBEDDING]) > 0
        leaves = [row_weights * kept, *(self.scores[key].detach() for key in self._lstm)]
        leaves += [*self._linear(), *(part.detach() for part in self.head)]
        with torch.enable_grad():
            embedded, *scores, weight, bias, head_weight, head_bias = (leaf.requires_grad_() for leaf in leaves)
            logits = functional.linear(self._state(embedded, lengths, scores), weight, bias)
            loss = _loss(logits, (head_weight, head_bias), loss_weights)
        gradient, fine, constants = inputs.report(loss, torch.autograd.grad(loss, leaves))

        of_words, rest = gradient.split([embedded.numel(), len(self._rates)])
        # Times the weights before the sum over the occurrences of a word, so that weights of absent words, which may
        # be NaN, are never read. This backward function sums without atomic additions, in the same order each time.
        of_words = torch.where(fine, of_words.view_as(embedded) * row_weights, 0)
        table = self.scores[EMBEDDING]
        of_rows = torch.ops.aten.embedding_dense_backward(of_words, score_rows, len(table), -1, False)
        of_rows = of_rows.clamp_(-1, 1).add_(self.penalty_gradient[EMBEDDING])
        _adam(*self._rows, of_rows, self.lr_mask, *constants)

        of_scores = rest[: len(self._penalty)]
        linear = torch.cat([self.weights[key].view(-1) for key in LINEAR_KEYS])
        of_scores[-len(linear) :].mul_(linear)  # the op gives the LSTM's gradients as those of scores already
        of_scores.clamp_(-1, 1).add_(self._penalty)
        _adam(*self._rest, torch.where(fine, rest, 0), self._rates, *constants)

    @torch.no_grad()
    def _head_step(self, inputs: GraphInputs) -> None:
        """Steps the head on the next batch of the masked base's logits."""
        features, loss_weights = inputs.batch()
        leaves = [part.detach() for part in self.head]
        with torch.enable_grad():
            loss = _loss(features, as_head(leaf.requires_grad_() for leaf in leaves), loss_weights)
        gradient, fine, constants = inputs.report(loss, torch.autograd.grad(loss, leaves))
        _adam(*self._head_only, torch.where(fine, gradient, 0), self.lr_head, *constants)

    def _embedding_rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (T, B) -> their rows of the base's embedding (T, B, E), and their rows of scores (T, B)."""
        return functional.embedding(ids, self.weights[EMBEDDING]), self._row_of_id[ids]

    def _linear(self) -> list[Tensor]:
        """Masked weight (C, H) and bias (C,) of the linear layer."""
        return [self.weights[key] * (self.scores[key] > 0) for key in LINEAR_KEYS]

    def _state(self, embedded: Tensor, lengths: Tensor, scores: list[Tensor]) -> Tensor:
        """The linear layer's input: embedded (T, B, E), lengths (B,) on the device -> (B, H), or (B, 2H)."""
        output, (h_n, _) = self._masked_lstm(
            embedded,
            None,
            [self.weights[key] for key in self._lstm],
            [*scores],
            num_layers=self._num_layers,
            bidirectional=self._bidirectional,
            lengths=lengths if self.readout == "last_word" else None,
        )
        if not self._bidirectional:
            return h_n[-1]  # after the last word, or for "last_position" after the padding
        if self.readout == "last_position":
            return output[-1]
        # Not by indexing, whose backward function is slower.
        last = torch.arange(len(output), device=output.device)[:, None] == lengths - 1
        return torch.where(last[:, :, None], output, 0).sum(0)

    def joint_step(self, inputs: GraphInputs) -> None:
        """Takes one joint step on the next batch of ``inputs``, without synchronisation."""
        self._joint_step(inputs)

    # -- which weights are kept, in one piece --------------------------------------------------------------------

    def bits(self) -> Tensor:
        """Which scores are positive, packed, on the device: those of the embedding, then, from the next byte on, those
        of all other weights without gaps.
        """
        rest = self._rest[0][: -len(self._head_only[0])]
        return torch.cat([packed(self._rows[0] > 0), packed(rest > 0)])

    def snapshot_of(self, bits: Tensor, head: Tensor) -> Snapshot:
        """The snapshot of what ``bits`` gave and of the head's values in one piece (2C + 2,); both on the CPU."""
        first, *others = self.scores.values()
        at, sizes = -(-first.numel() // 8), [score.numel() for score in others]
        flags = np.unpackbits(bits[at:].numpy(), count=sum(sizes)).astype(bool)
        rest = (torch.from_numpy(np.packbits(part)) for part in np.split(flags, np.cumsum(sizes)[:-1]))
        of_keys = dict(zip(self.scores, (bits[:at].clone(), *rest), strict=True))
        return self.snapshot_of_bits(of_keys, self.head_of(head))

    def head_of(self, values: Tensor) -> Head:
        """A copy of weight (2, C) and bias (2,) from their values in one piece (2C + 2,), in the head's dtype."""
        return as_head(part.clone() for part in _views(values.to(self.head[0].dtype), self.head))

    def snapshot(self) -> Snapshot:
        """As in ``Trainer``."""
        return self.snapshot_of(self.bits().cpu(), self._head_only[0].cpu())

    # -- reading the state ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits_as(self, snapshot: Snapshot, ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``. Computed on the device; the scores keep the snapshot's weights from then on."""
        for key, score in self.scores.items():
            kept = snapshot.mask.rows() if key == EMBEDDING else snapshot.mask.dense(key)
            score.copy_(kept).mul_(2).sub_(1)
        for ours, theirs in zip(self.head, snapshot.head, strict=True):
            ours.copy_(theirs)
        return self.logits(ids, lengths)

    def to_device(self, ids: Tensor, lengths: Tensor) -> DeviceDocuments:
        """Documents, ids (N, T) and lengths (N,), on the device as ``features`` takes them."""
        return self._to_device(ids, lengths)

    def features(self, documents: DeviceDocuments) -> Tensor:
        """Logits of the masked base (N, C), on the device, for documents as ``to_device`` gives them."""
        return self._features(documents)

    @torch.no_grad()
    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``."""
        return reference_model.head_logits(
            self._features(self._last_call.get(ids, lengths, self._to_device)), self.head
        ).cpu()

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``. The last documents stay on the device, for the case that the same two tensors, unchanged,
        come again.
        """
        return self._features(self._last_call.get(ids, lengths, self._to_device)).cpu()

    def _to_device(self, ids: Tensor, lengths: Tensor) -> DeviceDocuments:
        """Documents, ids (N, T) and lengths (N,), on the device, those of similar length together.

        Returns:
            Chunks of ids (T', n) and lengths (n,); and the index among all of them of each document (N,).
        """
        parts = list(by_length(ids, lengths, self.readout))
        chunks = [(words.to(self.device), length.long().to(self.device)) for _, words, length in parts]
        order = torch.cat([ids.new_empty(0), *(chosen for chosen, _, _ in parts)])
        return chunks, torch.argsort(order).to(self.device)

    @torch.no_grad()
    def _features(self, documents: DeviceDocuments) -> Tensor:
        """Logits of the masked base (N, C), on the device, for documents as ``_to_device`` gives them."""
        chunks, index_of_document = documents
        linear, scores = self._linear(), [self.scores[key] for key in self._lstm]
        found = [linear[0].new_empty(0, len(linear[0]))]
        for ids, lengths in chunks:
            row_weights, score_rows = self._embedding_rows(ids)
            embedded = row_weights * (functional.embedding(score_rows, self.scores[EMBEDDING]) > 0)
            found.append(functional.linear(self._state(embedded, lengths, scores), *linear))
        return torch.cat(found)[index_of_document]


def _views(whole: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    """Views of the consecutive parts of a flat tensor, in the shapes of other tensors."""
    like = list(like)
    parts = whole.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def _loss(logits: Tensor, head: Head, loss_weights: Tensor) -> Tensor:
    """A batch's mean cross entropy: logits (B, C), loss_weights (B, 2) as in ``CudaGraphTrainer.loss_weights``."""
    return -(loss_weights * functional.log_softmax(reference_model.head_logits(logits, head), 1)).sum()


def _adam(
    score: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    rate: Tensor | float,
    new_in_avg: Tensor,
    old_in_sq: Tensor,
    new_in_sq: Tensor,
    step_size: Tensor,
    root: Tensor,
) -> None:
    """A step of Adam in place, as in ``reference.score_adam_``.

    Args:
        score: Values to step, of any shape.
        exp_avg: First moments, in that shape.
        exp_avg_sq: Second moments, in that shape.
        gradient: In that shape.
        rate: Learning rate of each value, or of all of them.
        new_in_avg: 1 - beta1. It and all that follow are tensors () on the device, so that a recorded step reads them
            anew each time; with the values 0, 1, 0, 0, 1 and a finite gradient nothing changes.
        old_in_sq: beta2.
        new_in_sq: 1 - beta2.
        step_size: -1 / (1 - beta1^n), the bias correction of exp_avg, times the factor of the learning rates.
        root: sqrt(1 - beta2^n), the bias correction of exp_avg_sq.
    """
    exp_avg.lerp_(gradient, new_in_avg)
    exp_avg_sq.mul_(old_in_sq).addcmul_(gradient, gradient * new_in_sq)
    score.addcdiv_(exp_avg * (step_size * rate), exp_avg_sq.sqrt().div_(root).add_(reference.ADAM["eps"]))

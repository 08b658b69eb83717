"""Training of one module on a GPU by ordinary kernels: several LSTM layers, both directions, float64, any size.

A step is a fixed sequence of device operations. Which batch it takes, Adam's constants and whether anything is finite
are numbers on the device, so that the host waits for none of them: the sequence is recorded once, as a CUDA graph, and
replayed for each step. On a CPU the same sequence simply runs, which is how it is tested.

Letters: T time steps, B documents of a batch, E embedding size, C classes, S steps, R rows with scores of their own.
"""

import functools
import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import reference_model
from ..classifier.inference import by_length
from ..classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, lstm_keys, lstm_shape
from ..common.batches import deal
from ..common.cuda_graphs import CudaGraphRunner
from ..modules.mask import Snapshot, packed
from ..ops import custom_op, eager, reference
from ..ops.functional import masked_lstm
from .base import LastCallCache, Trainer
from .config import StepConfig

SIDE_BY_SIDE = 8  # workers on a GPU whose modules are trained by many small kernels
_STEPS_AT_ONCE = 256  # between two looks at `stop` and at what has failed, at most ...
_SECONDS_AT_ONCE = 0.1  # ... and fewer where they take longer than this
_STEPS_AT_FIRST = 16  # before it is known how long they take
_FINE = 2**31 - 1  # above every number of something that can fail


class GraphInputs:
    """Device tensors, at the same addresses in every epoch, from which the steps are fed and which they report to.

    like: gives dtype and device; batches: tensors (S, ...) of whole epochs, of which each step takes one slice;
    steps: how many at most between two looks; found: (number, size) of all that must be finite, in order.
    """

    def __init__(self, like: Tensor, batches, steps: int, found):
        self.batches = [like.new_empty(steps, *part.shape[1:], dtype=part.dtype) for part in batches]
        self.constants = like.new_empty(steps, 5)
        self.losses = like.new_empty(steps)
        self.at = torch.zeros(1, dtype=torch.int64, device=like.device)  # steps done, and so the next one's place
        self.failed = torch.zeros(1, dtype=torch.int32, device=like.device)  # number of what was not finite, or _FINE
        numbers, sizes = (torch.tensor(part) for part in zip(*found, strict=True))
        self.numbers = numbers.int().repeat_interleave(sizes).to(like.device)
        self._idle = like.new_tensor([0, 1, 0, 0, 1])  # Adam's constants of a step that changes nothing
        self.repeat = CudaGraphRunner(like.device)
        self.steps_at_once = _STEPS_AT_FIRST

    def idle_constants(self) -> Tensor:
        """Constants of steps that change nothing, for as many steps as there are."""
        return self._idle.expand_as(self.constants)

    def fits(self, batches, steps: int) -> bool:
        alike = zip(self.batches, batches, strict=True)
        return steps <= len(self.losses) and all(ours.shape[1:] == theirs.shape[1:] for ours, theirs in alike)

    def batch(self) -> list[Tensor]:
        """The next step's slices."""
        return [part.index_select(0, self.at)[0] for part in self.batches]

    def report(self, loss: Tensor, gradients) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Gradients in one piece, whether all of them and the loss are finite, and Adam's constants of this step.

        If they are not, the constants are those that change nothing, and the place stays as well: every later step then
        finds and reports the same again.
        """
        found = torch.cat([loss.view(1), *(gradient.reshape(-1) for gradient in gradients)])
        failed = torch.where(found.abs() < math.inf, _FINE, self.numbers).amin()  # false for a NaN, too
        fine = failed == _FINE
        constants = torch.where(fine, self.constants.index_select(0, self.at)[0], self._idle)
        self.losses.index_copy_(0, self.at, found[:1])
        self.failed.copy_(failed)
        self.at.add_(fine)
        return found[1:], fine, constants.unbind()


class CudaGraphTrainer(Trainer):
    """By ``masked_lstm`` and plain PyTorch for the rest; made for GPUs, float32 or float64.

    backend: of the op, as in ``seam_fast.masked_lstm``. All else as in ``TorchTrainer``, whose results it has, but for
    rounding. The calling thread's current stream is used, and on a GPU each thread must have set one of its own.

    Scores, ``exp_avg`` and ``exp_avg_sq`` by weight key, and of the head ``head_joint_moments`` (exp_avg and exp_avg_sq
    of the weight, then of the bias; in joint steps) and ``head_only_moments`` may be read and set, in place, whenever
    no epoch is running; ``load_state`` then says how many steps they stand for.
    """

    engine = "cuda"

    @classmethod
    def capacity(cls, device, weights, batch_size):
        return SIDE_BY_SIDE

    @classmethod
    def for_engine(cls, weights, head, fed_ids, config, lazy_update):
        return cls(weights, head, fed_ids, config, backend=cls.engine)

    def __init__(self, weights, head, fed_ids, config: StepConfig, *, backend="auto"):
        super().__init__({key: weight.contiguous() for key, weight in weights.items()}, head, fed_ids, config)
        table = self.weights[EMBEDDING]
        if table.dtype not in custom_op.FULL_DTYPES:
            raise ValueError(f"CudaGraphTrainer takes bases of float32 and float64, but this one is {table.dtype}")
        plain = custom_op.choose_kernels(backend, table) is eager
        # The readable twin reads no lengths on the host, as the faster plain one does.
        self._masked_lstm = reference.masked_lstm if plain else functools.partial(masked_lstm, backend=backend)
        self._lstm, (self._num_layers, self._bidirectional) = lstm_keys(self.weights), lstm_shape(self.weights)
        self._row_of_id = self.row_of_id.to(self.device)
        self._steps, self._head_steps = 0, 0
        self._factor = 1.0
        self._feeds: dict[bool, GraphInputs] = {}  # by head_only
        self._last_call = LastCallCache()
        self._make_state()

    def _make_state(self) -> None:
        """Puts the scores of all but the embedding, then the head, in one piece of memory, so that Adam goes over it
        at once; likewise what Adam remembers.
        """
        rows, *rest = self.scores.values()
        rest += self.head
        flat = torch.cat([tensor.flatten() for tensor in rest])
        self._rows = rows, torch.zeros_like(rows), torch.zeros_like(rows)
        self._rest = flat, torch.zeros_like(flat), torch.zeros_like(flat)
        keys, views = list(self.scores), [_views(whole, rest) for whole in self._rest]
        self.scores, self.exp_avg, self.exp_avg_sq = (
            dict(zip(keys, [first, *others[:-2]], strict=True)) for first, others in zip(self._rows, views, strict=True)
        )
        self.head = tuple(views[0][-2:])
        self.head_joint_moments = [whole[place] for place in (-2, -1) for whole in views[1:]]
        both = flat[-sum(part.numel() for part in self.head) :]
        self._alone = both, torch.zeros_like(both), torch.zeros_like(both)
        self.head_only_moments = [_views(whole, self.head)[place] for place in (0, 1) for whole in self._alone[1:]]

        def spread(values):
            """A value for each tensor -> one for each of its elements."""
            sizes = torch.tensor([tensor.numel() for tensor in rest[: len(values)]])
            return torch.tensor(values, dtype=flat.dtype).repeat_interleave(sizes).to(self.device)

        lr_head = 0.0 if self.schedule == "port" else self.lr_head  # by which it stands still
        self._rates = spread([self.lr_mask] * len(keys[1:]) + [lr_head] * 2)
        self._penalty = spread([self.penalty_gradient[key] for key in keys[1:]])

    @property
    def steps(self) -> int:
        """Steps taken in all, head-only ones included; any thread may ask."""
        return self._steps + self._head_steps

    def load_state(self, steps: int, head_steps: int = 0) -> None:
        """Takes the state as it now stands as that after so many joint steps and steps of the head alone."""
        self._steps, self._head_steps = steps, head_steps

    def scale_learning_rates(self, factor: float) -> None:
        self._factor = factor

    # -- an epoch ------------------------------------------------------------------------------------------------

    def run_epoch(self, ids: Tensor, lengths: Tensor, labels: Tensor, batch_size: int, *, head_only=False, stop=None):
        self._check_labels(labels)
        if not len(ids):
            return 0.0
        numbers, real = deal(len(ids), min(batch_size, len(ids)))
        shares = self.shares(labels, numbers, real)
        if head_only:
            features = self._features(self._place(ids, lengths))
            batches, step = (features[numbers.to(self.device)], shares), self._head_step
        else:
            ids = self._fed(ids, lengths)
            batches, step = (ids[numbers].transpose(1, 2), lengths.long()[numbers], shares), self._joint_step
        feed = self._feed(batches, head_only)
        losses, count = [], len(numbers)
        while len(losses) < count:
            if stop is not None and stop.is_set():
                break
            end = min(len(losses) + feed.steps_at_once, len(losses) + len(feed.losses), count)
            losses += self._run(feed, step, [part[len(losses) : end] for part in batches], head_only)
        return sum(losses) / max(len(losses), 1)

    def _fed(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The words (N, T) of documents, with nothing foreign in the padding that is not read: a document's own first
        word. ValueError for a word without a row of its own.
        """
        ids = self.without_padding(ids, lengths)
        self._check_rows(self.row_of_id[ids].max())
        return ids

    def without_padding(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Documents (N, T) with their own first word in the place of padding that is not read. On any device."""
        if self.readout == "last_position":
            return ids
        return torch.where(torch.arange(ids.shape[1], device=ids.device) < lengths[:, None], ids, ids[:, :1])

    def shares(self, labels: Tensor, numbers: Tensor, real: Tensor) -> Tensor:
        """What each document's two log-probabilities count in its batch's loss: (S, B, 2), none for what fills up. On
        any device.
        """
        if labels.ndim == 1:
            shares = torch.stack([(labels == 0).double() * self.target_weight, (labels == 1).double()], 1)
        else:
            shares = labels.double()
        shares = shares[numbers] * real[:, :, None]
        total = shares.sum((1, 2)) if labels.ndim == 1 else real.sum(1)
        return (shares / total[:, None, None]).to(self.scores[EMBEDDING].dtype)

    def _feed(self, batches, head_only: bool) -> GraphInputs:
        """The feed for batches of such shapes; a new one, with a graph of its own, where the last does not fit."""
        steps = min(len(batches[0]), _STEPS_AT_ONCE)
        feed = self._feeds.get(head_only)
        if feed is None or not feed.fits(batches, steps):
            self._feeds.pop(head_only, None)
            self._feeds[head_only] = feed = self._make_feed(batches, steps, head_only)
        return feed

    def _make_feed(self, batches, steps: int, head_only: bool) -> GraphInputs:
        tensors = [*self.scores.values(), *self.head]
        found = [(number, tensor.numel()) for number, tensor in enumerate(tensors, start=1)]
        found[0] = 1, batches[0][0].numel() * self.scores[EMBEDDING].shape[1]  # the gradient at each word fed
        found = [(0, 1), *(found[-2:] if head_only else found)]
        return GraphInputs(self.scores[EMBEDDING], batches, steps, found)

    def feed_of(self, batches) -> GraphInputs:
        """A feed of joint steps for whole epochs, whose batches are those tensors themselves."""
        feed = self._make_feed(batches, len(batches[0]), False)
        feed.batches = batches
        return feed

    def _run(self, feed: GraphInputs, step, batches, head_only: bool) -> list[float]:
        """Some steps, without a look at the device before the last one is done; returns their losses."""
        begun, count = time.perf_counter(), len(batches[0])
        for target, part in zip(feed.batches, batches, strict=True):
            target[:count].copy_(part)
        feed.constants[:count].copy_(self._constants(self._head_steps if head_only else self._steps, count))
        feed.at.zero_()
        feed.repeat(functools.partial(step, feed), count)
        *losses, done, failed = torch.cat([feed.losses[:count], feed.at, feed.failed]).tolist()
        self.took(int(done), losses, int(failed), head_only)
        feed.steps_at_once = max(1, int(count * _SECONDS_AT_ONCE / (time.perf_counter() - begun)))
        return losses

    def took(self, done: int, losses: list[float], failed: int, head_only: bool = False) -> None:
        """Counts the steps done of those that were queued; raises TrainingError where not all of them could be."""
        if head_only:
            self._head_steps += done
        else:
            self._steps += done
        if done < len(losses):
            self._stop((None, *self.weights, *HEAD_NAMES)[failed], losses[done])

    def constants(self, count: int) -> Tensor:
        """Adam's constants of the next joint steps: (count, 5)."""
        return self._constants(self._steps, count)

    def _constants(self, steps: int, count: int) -> Tensor:
        """Adam's constants of steps so many after the first: (count, 5), as `_adam` takes them."""
        beta1, beta2 = reference.ADAM["betas"]
        numbers = range(steps + 1, steps + count + 1)
        corrections = [(-self._factor / (1 - beta1**n), math.sqrt(1 - beta2**n)) for n in numbers]
        return torch.tensor([(1 - beta1, beta2, 1 - beta2, *pair) for pair in corrections], dtype=torch.float64)

    # -- steps: no decision on the host, the same tensors each time -------------------------------------------------

    @torch.no_grad()
    def _joint_step(self, feed: GraphInputs) -> None:
        words, lengths, shares = feed.batch()
        row_weights, slots = self._look_up(words)
        kept = functional.embedding(slots, self.scores[EMBEDDING]) > 0
        leaves = [row_weights * kept, *(self.scores[key].detach() for key in self._lstm)]
        leaves += [*self._linear(), *(part.detach() for part in self.head)]
        with torch.enable_grad():
            embedded, *scores, weight, bias, head_weight, head_bias = (leaf.requires_grad_() for leaf in leaves)
            logits = functional.linear(self._state(embedded, lengths, scores), weight, bias)
            loss = _loss(logits, (head_weight, head_bias), shares)
        gradient, fine, constants = feed.report(loss, torch.autograd.grad(loss, leaves))

        of_words, rest = gradient.split([embedded.numel(), len(self._rates)])
        # Times the weight before the sum over a word's places, so that no weight of an absent word is looked at.
        # The sum is formed without atomic additions, in the same order each time.
        of_words = torch.where(fine, of_words.view_as(embedded) * row_weights, 0)
        table = self.scores[EMBEDDING]
        of_rows = torch.ops.aten.embedding_dense_backward(of_words, slots, len(table), -1, False)
        of_rows = of_rows.clamp_(-1, 1).add_(self.penalty_gradient[EMBEDDING])
        _adam(*self._rows, of_rows, self.lr_mask, *constants)

        of_scores = rest[: len(self._penalty)]
        linear = torch.cat([self.weights[key].view(-1) for key in LINEAR_KEYS])
        of_scores[-len(linear) :].mul_(linear)  # the LSTM's come from the op as those of scores
        of_scores.clamp_(-1, 1).add_(self._penalty)
        _adam(*self._rest, torch.where(fine, rest, 0), self._rates, *constants)

    @torch.no_grad()
    def _head_step(self, feed: GraphInputs) -> None:
        features, shares = feed.batch()
        leaves = [part.detach() for part in self.head]
        with torch.enable_grad():
            loss = _loss(features, [leaf.requires_grad_() for leaf in leaves], shares)
        gradient, fine, constants = feed.report(loss, torch.autograd.grad(loss, leaves))
        _adam(*self._alone, torch.where(fine, gradient, 0), self.lr_head, *constants)

    def _look_up(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """words (T, B): their rows of the base (T, B, E), and the rows of scores that they have (T, B)."""
        return functional.embedding(words, self.weights[EMBEDDING]), self._row_of_id[words]

    def _linear(self) -> list[Tensor]:
        return [self.weights[key] * (self.scores[key] > 0) for key in LINEAR_KEYS]

    def _state(self, embedded: Tensor, lengths: Tensor, scores: list[Tensor]) -> Tensor:
        """What the linear layer sees: embedded (T, B, E), lengths (B,) on the device -> (B, H), or (B, 2H)."""
        output, (h_n, _) = self._masked_lstm(
            embedded,
            None,
            [self.weights[key] for key in self._lstm],
            scores,
            num_layers=self._num_layers,
            bidirectional=self._bidirectional,
            lengths=lengths if self.readout == "last_word" else None,
        )
        if not self._bidirectional:
            return h_n[-1]  # at the last word, or the end
        if self.readout == "last_position":
            return output[-1]
        # Not by an index, whose gradient would be summed up by a slower way.
        last = torch.arange(len(output), device=output.device)[:, None] == lengths - 1
        return torch.where(last[:, :, None], output, 0).sum(0)

    def joint_step(self, feed: GraphInputs) -> None:
        """One joint step, fed by ``feed``; nothing is read back."""
        self._joint_step(feed)

    # -- what is kept, in one piece ------------------------------------------------------------------------------

    def bits(self) -> Tensor:
        """Which scores are positive, eight a byte, on the device: those of the embedding, then all others."""
        rest = self._rest[0][: -len(self._alone[0])]
        return torch.cat([packed(self._rows[0] > 0), packed(rest > 0)])

    def snapshot_of(self, bits: Tensor, head: Tensor) -> Snapshot:
        """`snapshot` of what `bits` gave and of the head's numbers, both on the CPU."""
        first, *others = self.scores.values()
        at, sizes = -(-first.numel() // 8), [score.numel() for score in others]
        rest = np.unpackbits(bits[at:].numpy(), count=sum(sizes)).astype(bool)
        rest = (torch.from_numpy(np.packbits(part)) for part in np.split(rest, np.cumsum(sizes)[:-1]))
        heads = tuple(part.clone() for part in _views(head.to(self.head[0].dtype), self.head))
        return self.snapshot_of_bits(dict(zip(self.scores, (bits[:at].clone(), *rest), strict=True)), heads)

    def snapshot(self) -> Snapshot:
        return self.snapshot_of(self.bits().cpu(), self._alone[0].cpu())

    # -- looking at it -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits_as(self, snapshot: Snapshot, ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``; on the device, where the scores keep the same as the snapshot's from then on."""
        for key, score in self.scores.items():
            kept = snapshot.mask.rows() if key == EMBEDDING else snapshot.mask.dense(key)
            score.copy_(kept).mul_(2).sub_(1)
        for ours, theirs in zip(self.head, snapshot.head, strict=True):
            ours.copy_(theirs)
        return self.logits(ids, lengths)

    def place(self, ids: Tensor, lengths: Tensor):
        """Documents on the device, as `features` takes them."""
        return self._place(ids, lengths)

    def features(self, documents) -> Tensor:
        """Logits of the masked base (N, C), on the device, of documents as `place` gives them."""
        return self._features(documents)

    @torch.no_grad()
    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return reference_model.head_logits(
            self._features(self._last_call.get(ids, lengths, self._place)), self.head
        ).cpu()

    def class_logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """As in ``Trainer``. The documents last looked at stay on the device for the case that the same two tensors,
        unchanged, come again.
        """
        return self._features(self._last_call.get(ids, lengths, self._place)).cpu()

    def _place(self, ids: Tensor, lengths: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Documents on the device, those of like length together: chunks of words (T', n) and lengths (n,), and where
        in all of them each document is (N,).
        """
        parts = list(by_length(ids, lengths, self.readout))
        chunks = [(words.to(self.device), length.long().to(self.device)) for _, words, length in parts]
        order = torch.cat([ids.new_empty(0), *(chosen for chosen, _, _ in parts)])
        return chunks, torch.argsort(order).to(self.device)

    @torch.no_grad()
    def _features(self, documents) -> Tensor:
        """Logits of the masked base, on the device, of documents as `_place` gives them: (N, C)."""
        chunks, places = documents
        linear, scores = self._linear(), [self.scores[key] for key in self._lstm]
        found = [linear[0].new_empty(0, len(linear[0]))]
        for words, lengths in chunks:
            row_weights, slots = self._look_up(words)
            embedded = row_weights * (functional.embedding(slots, self.scores[EMBEDDING]) > 0)
            found.append(functional.linear(self._state(embedded, lengths, scores), *linear))
        return torch.cat(found)[places]


def _views(whole: Tensor, like) -> list[Tensor]:
    """The parts of a flat tensor, shaped like those tensors, one after the other."""
    parts = whole.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def _loss(logits: Tensor, head, shares: Tensor) -> Tensor:
    """The batch's mean cross entropy: logits (B, C), shares (B, 2) as in `CudaGraphTrainer._shares`."""
    return -(shares * functional.log_softmax(reference_model.head_logits(logits, head), 1)).sum()


def _adam(score, exp_avg, exp_avg_sq, gradient, rate, take1, keep2, take2, size, root) -> None:
    """A step of Adam in place, as in ``reference.score_adam_``; rate: of each score, or of all.

    take1, keep2, take2: 1 - beta1, beta2, 1 - beta2; size: of a step, negative, for a rate of 1; root: of the
    correction of exp_avg_sq. They are tensors on the device: with 0, 1, 0, 0, 1 and a finite gradient nothing changes.
    """
    exp_avg.lerp_(gradient, take1)
    exp_avg_sq.mul_(keep2).addcmul_(gradient, gradient * take2)
    score.addcdiv_(exp_avg * (size * rate), exp_avg_sq.sqrt().div_(root).add_(reference.ADAM["eps"]))

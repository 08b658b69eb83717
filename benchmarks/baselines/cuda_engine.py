"""The ways to train a module on a GPU that are timed against the engine, and how far off their results may be.

As in baselines/reference_step.py each is made from weights, head and words on the CPU, and has ``run_epoch`` and
``full_scores``.
"""

import contextlib
import copy

import torch
from torch import Tensor
from torch.backends.cudnn import rnn as cudnn_rnn
from torch.nn import functional

from benchmarks.baselines.reference_step import BinaryMask, Reference, ReferenceBest, Truth, Workload, build
from seam_fast.classifier.reference_model import head_logits
from seam_fast.classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, LSTM_KEYS
from seam_fast.common.cuda_graphs import CudaGraphRunner
from seam_fast.errors import SeamFastError
from seam_fast.ops import reference
from seam_fast.training.base import Trainer
from seam_fast.training.loss import seam_labels
from seam_fast.training.torch_trainer import TorchTrainer


@contextlib.contextmanager
def tf32_allowed(allowed: bool = True):
    """Sets torch's two switches for tf32 (products, cuDNN) inside; restores them afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class Way:
    """A named way to make a trainer on a device.

    Args:
        name: As in the record.
        make: Called with weights and head on ``device``, words and options; returns the trainer.
        device: Where the trainer works.
        tf32: Allow tf32 while the trainer is made and in each of its epochs, and so in the graphs that it records.
        options: Passed to ``make``; they take precedence over those of the call.
    """

    def __init__(self, name: str, make, device, *, tf32=False, **options):
        self.name, self.make, self.device, self.tf32, self.options = name, make, device, tf32, options

    def __str__(self) -> str:
        return self.name

    def __call__(self, weights, head, words, **options):
        weights = {key: weight.to(self.device) for key, weight in weights.items()}
        head = tuple(part.to(self.device) for part in head)
        if not self.tf32:
            return build(self.make, weights, head, words, **options | self.options)
        with tf32_allowed():
            trainer = build(self.make, weights, head, words, **options | self.options)
        trainer.run_epoch = tf32_allowed()(trainer.run_epoch)
        return trainer


# The reference, eager ------------------------------------------------------------------------------------------------


class OnDevice:
    """Mixin: the reference on the device of its weights, to which each batch is copied, as in the port's loop."""

    def step(self, ids: Tensor, labels: Tensor) -> float:
        device = self.head[0].device
        return super().step(ids.to(device), labels.to(device))

    def full_scores(self):
        scores, head = super().full_scores()
        return {key: score.cpu() for key, score in scores.items()}, tuple(part.cpu() for part in head)


class GpuReference(OnDevice, Reference):
    pass


class GpuReferenceBest(OnDevice, ReferenceBest):
    pass


class _WithoutCopies(Reference):
    """The same step, but the gradients are not copied to the host."""

    def step(self, ids: Tensor, labels: Tensor) -> float:
        logits = self.logits(ids)
        cross_entropy = functional.cross_entropy(logits, labels)
        kept = sum(BinaryMask.apply(score).sum() for score in self.scores.values()) / self.count
        self.optimizer.zero_grad()
        (cross_entropy + self.alpha * kept).backward()
        self.optimizer.step()
        self.steps += 1
        hits = (logits.argmax(1) == labels).sum()
        loss = cross_entropy.item()
        self.totals = [a + b for a, b in zip(self.totals, (loss, kept.item(), hits.item()), strict=True)]
        return loss


class GpuReferenceWithoutCopies(OnDevice, _WithoutCopies):
    pass


# Torch at its best ---------------------------------------------------------------------------------------------------


class Captured(Trainer):
    """cuDNN's LSTM and torch's fused Adam, with a whole step recorded as a CUDA graph and replayed.

    All documents of an epoch are copied to the GPU at once, and a step picks its batch by a counter on the GPU, so that
    the host does nothing between two replays. Supports the joint schedule, reading at the end and whole batches only.

    whole_table: every row of the embedding has scores, as in the reference; otherwise the rows of ``words``, as in this
    package. The rows of a batch alone are not possible: their number, and so the shapes in the graph, would change with
    each batch.
    """

    def __init__(self, weights, head, words, config, *, whole_table=False):
        words = torch.arange(len(weights[EMBEDDING])) if whole_table else words
        super().__init__(weights, head, words, config)
        if (self.schedule, self.readout, self.target_weight) != ("joint", "last_position", 1):
            raise ValueError("this rival has schedule 'joint', readout 'last_position' and target_weight 1")
        self._row_of_id = self.row_of_id.to(self.device)
        self._batches = None  # ids (S, T, B) and labels (S, B) of the epoch, and room for the loss of each step
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)
        groups = [{"params": list(self.scores.values())}, {"params": list(self.head), "lr": self.lr_head}]
        on_gpu = self.device.type == "cuda"  # elsewhere nothing is recorded, and torch refuses capturable
        self._adam = torch.optim.Adam(groups, lr=self.lr_mask, fused=True, capturable=on_gpu, **reference.ADAM)
        self._kept = [self.weights[key].clone() for key in LSTM_KEYS]  # masked weights, in the layout of cuDNN
        if on_gpu:
            table, recurrent = self.weights[EMBEDDING], self.weights[LSTM_KEYS[1]]
            lstm = cudnn_rnn.get_cudnn_mode("LSTM"), recurrent.shape[1], 0, 1, False, False
            with torch.no_grad(), contextlib.suppress(RuntimeError):  # otherwise cuDNN copies them in every step
                torch._cudnn_rnn_flatten_weight(self._kept, 4, table.shape[1], *lstm)
        self._kept = [weight.requires_grad_() for weight in self._kept]

    def run_epoch(self, ids: Tensor, lengths: Tensor, target_probability: Tensor, batch_size: int) -> float:
        count = len(ids) // batch_size
        if count * batch_size != len(ids):
            raise ValueError("this rival takes whole batches only")
        words = ids.view(count, batch_size, -1).transpose(1, 2)
        self._make_room(words)
        labels = seam_labels(target_probability).view(count, batch_size)
        for there, here in zip(self._batches, (words, labels), strict=False):
            there[:count].copy_(here)
        self._at.zero_()
        self._repeat(self._step, count)
        self._steps += count
        return self._batches[2][:count].double().mean().item()

    def _make_room(self, words: Tensor) -> None:
        """Makes sure that the buffers hold an epoch; with new buffers the graph that reads them is recorded again."""
        if self._batches is not None:
            there = self._batches[0]
            if len(words) <= len(there) and words.shape[1:] == there.shape[1:]:
                return
        count, _, batch = words.shape
        like = self._row_of_id
        losses = self.scores[EMBEDDING].new_empty(count)
        self._batches = [like.new_empty(words.shape), like.new_empty(count, batch), losses]
        self._repeat = CudaGraphRunner(self.device)

    @torch.no_grad()
    def _step(self) -> None:
        words, labels = (part.index_select(0, self._at)[0] for part in self._batches[:2])
        slots, table = self._row_of_id[words], self.scores[EMBEDDING]
        rows = functional.embedding(words, self.weights[EMBEDDING])  # (T, B, E)
        embedded = rows * (functional.embedding(slots, table) > 0)
        for masked, key in zip(self._kept, LSTM_KEYS, strict=True):
            torch.mul(self.weights[key], self.scores[key] > 0, out=masked)
        linear = [self.weights[key] * (self.scores[key] > 0) for key in LINEAR_KEYS]
        head = [part.detach() for part in self.head]
        zeros = embedded.new_zeros(1, words.shape[1], self.weights[LSTM_KEYS[1]].shape[1])
        with torch.enable_grad():
            leaves = [embedded.requires_grad_(), *self._kept, *(part.requires_grad_() for part in (*linear, *head))]
            _, h_n, _ = torch._VF.lstm(embedded, (zeros, zeros), self._kept, True, 1, 0.0, True, False, False)
            logits = head_logits(functional.linear(h_n[-1], *linear), tuple(head))
            loss = functional.cross_entropy(logits, labels)
        of_words, *gradients = torch.autograd.grad(loss, leaves)
        of_rows = torch.ops.aten.embedding_dense_backward(of_words * rows, slots, len(table), -1, False)
        keys = (*LSTM_KEYS, *LINEAR_KEYS)
        of_scores = [of_rows, *torch._foreach_mul(gradients[:-2], [self.weights[key] for key in keys])]
        torch._foreach_clamp_min_(of_scores, -1)
        torch._foreach_clamp_max_(of_scores, 1)
        torch._foreach_add_(of_scores, [self.penalty_gradient[key] for key in self.scores])
        parameters = (*self.scores.values(), *self.head)
        for parameter, gradient in zip(parameters, (*of_scores, *gradients[-2:]), strict=True):
            parameter.grad = gradient
        self._adam.step()
        self._batches[2].index_copy_(0, self._at, loss.detach().view(1))
        self._at.add_(1)


def rivals(device) -> dict[str, Way]:
    """The ways that use none of this package's engines, by name."""
    ways = {
        "graph_rows": (Captured, {}),
        "graph_table": (Captured, {"whole_table": True}),
        "graph_rows_tf32": (Captured, {"tf32": True}),
        "reference": (GpuReference, {}),
        "reference_without_copies": (GpuReferenceWithoutCopies, {}),
        "reference_best": (GpuReferenceBest, {}),
    }
    return {name: Way(name, make, device, **options) for name, (make, options) in ways.items()}


# Agreement by tf32 and of rivals -------------------------------------------------------------------------------------

# tf32 keeps 10 bits of a factor where float32 keeps 23, so rounding errors of products are 2^13 times as large. By tf32
# losses, scores and flips may therefore be that many times as far off as in float32, and a score counts as far off at
# that many times the distance; the share of scores that may be far off stays. Adam divides by the size of a gradient
# and so hides a wrong factor in it; therefore gradients are compared too, by the same rule, but with a tolerance of at
# most a tenth, so that half or double a gradient is always refused.
COARSER = 2.0**13
MOST_OF_A_GRADIENT = 0.1


# A rival in float32 may be less exact than the reference by six of the 24 bits and is still timed, because its users
# get the same results (cuDNN's LSTM loses two to three bits); the tables say how far off it is. A larger error means
# another algorithm, or tf32 in place of float32, whose time cannot be compared.
LESS_EXACT = 2.0**6


def coarser(truth: Truth, times: float) -> Truth:
    """The same truth with ``times`` as much allowed, and ``times`` the distance from which a score is far off.

    The share of scores that may be far off stays.
    """
    coarse = copy.copy(truth)
    coarse.far = {name: times * distance for name, distance in truth.far.items()}
    coarse.allowed = {name: error if name.endswith(" far") else times * error for name, error in truth.allowed.items()}
    return coarse


def by_tf32(truth: Truth) -> Truth:
    """The same truth with the tolerance of tf32."""
    return coarser(truth, COARSER)


def for_rivals(truth: Truth) -> Truth:
    """The same truth with the tolerance of a rival in float32."""
    return coarser(truth, LESS_EXACT)


def mean_gradients(trainer) -> dict[str, Tensor]:
    """Adam's first moments of scores and head by name, for the engine's trainers and for those by torch."""
    if hasattr(trainer, "exp_avg"):
        found = trainer.exp_avg | dict(zip(HEAD_NAMES, trainer.head_joint_moments[::2], strict=True))
    else:
        state = (trainer._adam if isinstance(trainer, Captured) else trainer._adam_together).state
        parts = trainer.scores | dict(zip(HEAD_NAMES, trainer.head, strict=True))
        found = {name: state[part]["exp_avg"] for name, part in parts.items()}
    return {name: part.detach().to("cpu", torch.float64) for name, part in found.items()}


class Gradients:
    """The gradients in float64, by Adam's first moments after some steps without a flip, and the tolerance of tf32.

    The error is the norm of the difference divided by the norm of the true tensor. Plain PyTorch over the rows that
    occur is truth and yardstick; allowed are twice the yardstick's error and a machine epsilon, both times ``COARSER``.
    """

    def __init__(self, workload: Workload, batch_size: int, steps: int):
        self.workload, self.batch_size, self.steps = workload, batch_size, steps
        self.documents = workload.first(batch_size * steps)
        self.exact = self._run(TorchTrainer, torch.float64)
        eps = torch.finfo(torch.float32).eps
        of_yardstick = self.errors(self._run(TorchTrainer))
        self.allowed = {name: min(COARSER * (2 * e + eps), MOST_OF_A_GRADIENT) for name, e in of_yardstick.items()}

    def _run(self, way, dtype=torch.float32) -> dict[str, Tensor]:
        trainer = self.workload.make(way, dtype, lr_mask=0.5 / self.steps)
        trainer.run_epoch(*self.documents, self.batch_size)
        return mean_gradients(trainer)

    def errors(self, found: dict[str, Tensor]) -> dict[str, float]:
        errors = {}
        for name, true in self.exact.items():
            errors[name] = ((found[name] - true).norm() / true.norm()).nan_to_num(nan=torch.inf).item()
        return errors

    def check(self, way) -> dict[str, float]:
        """The errors of a way. Raises SeamFastError if some are larger than allowed."""
        found = self.errors(self._run(way))
        faults = [
            f"the gradient of {name} of {way} is off by {error:.2g} of it; allowed is {self.allowed[name]:.2g}"
            for name, error in found.items()
            if not error <= self.allowed[name]
        ]
        if faults:
            raise SeamFastError(f"{', '.join(faults)}, so its time says nothing")
        return found

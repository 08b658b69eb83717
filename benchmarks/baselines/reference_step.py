"""The ways to train a module that are timed against each other, what they train on, and their agreement.

``Reference`` does per step what the public LSTM port does: plain PyTorch over the whole embedding table.
``ReferenceBest`` computes the same with torch's fastest optimizer and without anything that the result does not need.
Both were written from a description of the procedure and share no code with ``seam_fast.training.reference_step``,
against which they are tested. All rivals have the part of a trainer's interface that a benchmark needs: ``run_epoch``
and ``full_scores``.
"""

import functools
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn import functional

from seam_fast import _ext
from seam_fast.backend import untrainable_reason
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.state_keys import EMBEDDING, HEAD_NAMES, LINEAR_KEYS, LSTM_KEYS, WEIGHT_KEYS
from seam_fast.common import rng
from seam_fast.data.corpus import Corpus
from seam_fast.errors import SeamFastError
from seam_fast.search.sampling import Sampler
from seam_fast.search.settings import Settings
from seam_fast.training.base import Trainer
from seam_fast.training.config import StepConfig
from seam_fast.training.cpu_trainer import CpuTrainer
from seam_fast.training.loss import seam_labels
from seam_fast.training.reference_step import Stepper
from seam_fast.training.torch_trainer import TorchTrainer

OPTIONS = {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.01, "schedule": "joint"}


# The reference -------------------------------------------------------------------------------------------------------


class BinaryMask(torch.autograd.Function):
    """1 for a positive score, else 0; straight-through: the score gets the mask's gradient, clamped to [-1, 1]."""

    @staticmethod
    def forward(ctx, score):
        return score.gt(0).to(score.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return functional.hardtanh(gradient)


class Reference:
    """One module with dense scores: all weights are masked in every step, and torch's default Adam steps all scores.

    Args:
        weights: The frozen base by weight key, all of one floating dtype.
        head: Initial weight (2, C) and bias (2,) in the same dtype.
        words: Ignored; other rivals have scores for these rows only.
        alpha, lr_mask, lr_head: As in ``seam_fast.Settings``, with the global penalty.
        schedule: ``"port"`` steps the scores alone; any other steps head and scores together.
        readout: Must be ``"last_position"``: the state after the padding is the document's.
    """

    fused = None  # torch's default: on a CPU neither fused nor foreach

    def __init__(self, weights, head, words=None, *, alpha, lr_mask, lr_head, schedule, readout="last_position"):
        if readout != "last_position":
            raise ValueError(f"the reference reads documents at the end, not {readout!r}")
        self.weights = {key: weights[key].detach() for key in WEIGHT_KEYS}
        self.scores = {key: torch.ones_like(weight).requires_grad_() for key, weight in self.weights.items()}
        self.head = tuple(part.detach().clone().requires_grad_(schedule != "port") for part in head)
        self.alpha, self.steps = alpha, 0
        self.count = sum(score.numel() for score in self.scores.values())
        self.gradients, self.totals = {}, [0.0, 0.0, 0]  # sums of the losses, kept ratios and hits
        groups = [{"params": list(self.scores.values())}]
        if schedule != "port":
            groups.append({"params": list(self.head), "lr": lr_head})
        self.optimizer = torch.optim.Adam(groups, lr=lr_mask, fused=self.fused)

    def run_epoch(self, ids: Tensor, lengths: Tensor, target_probability: Tensor, batch_size: int) -> float:
        """Steps over documents in order: ids (N, T), lengths (N,) (ignored), target_probability (N,), 0 or 1 -> mean
        cross entropy.
        """
        labels = seam_labels(target_probability)
        losses = [self.step(*batch) for batch in zip(ids.split(batch_size), labels.split(batch_size), strict=True)]
        return sum(losses) / len(losses)

    def step(self, ids: Tensor, labels: Tensor) -> float:
        """One step on one batch; labels (B,): 0 target, 1 rest. Returns its cross entropy before the step."""
        logits = self.logits(ids)
        cross_entropy = functional.cross_entropy(logits, labels)
        kept = sum(BinaryMask.apply(score).sum() for score in self.scores.values()) / self.count
        self.optimizer.zero_grad()
        (cross_entropy + self.alpha * kept).backward()
        # The port turns every gradient into a NumPy array in host memory. From a GPU that is a copy of ten megabytes;
        # on a CPU it is a view that costs next to nothing.
        parameters = (*self.scores.items(), *enumerate(self.head))
        self.gradients = {name: p.grad.cpu().numpy() for name, p in parameters if p.grad is not None}
        self.optimizer.step()
        self.steps += 1
        loss = cross_entropy.item()
        hits = (logits.argmax(1) == labels).sum()
        self.totals = [a + b for a, b in zip(self.totals, (loss, kept.item(), hits.item()), strict=True)]
        return loss

    def logits(self, ids: Tensor) -> Tensor:
        """Outputs of the module: ids (B, T) -> (B, 2)."""
        return self.outputs(
            {key: weight * BinaryMask.apply(self.scores[key]) for key, weight in self.weights.items()}, ids.t()
        )

    def outputs(self, masked: dict[str, Tensor], rows: Tensor) -> Tensor:
        """Outputs with masked weights: rows (T, B) of the embedding -> (B, 2)."""
        embedded = functional.embedding(rows, masked[EMBEDDING])  # (T, B, E)
        zeros = embedded.new_zeros(1, rows.shape[1], masked[LSTM_KEYS[1]].shape[1])
        parameters = [masked[key] for key in LSTM_KEYS]
        states, _, _ = torch.lstm(embedded, (zeros, zeros), parameters, True, 1, 0.0, True, False, False)
        classes = functional.linear(states[-1], *(masked[key] for key in LINEAR_KEYS))
        return functional.linear(functional.relu(classes), *self.head)

    def full_scores(self) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Copies of the scores by weight key and of the head."""
        scores = {key: score.detach().clone() for key, score in self.scores.items()}
        return scores, tuple(part.detach().clone() for part in self.head)

    @torch.no_grad()
    def load_scores(self, scores: dict[str, Tensor], head: tuple[Tensor, Tensor]) -> None:
        """Copies scores and head from another trainer; the optimizer's state stays as it is."""
        for key, score in self.scores.items():
            score.copy_(scores[key])
        for ours, theirs in zip(self.head, head, strict=True):
            ours.copy_(theirs)


class ReferenceBest(Reference):
    """The same procedure at its best: torch's fused Adam, only the rows of a batch, and only the loss is read.

    Every score of the table is still stepped, as the procedure says. The gradient of the penalty is the same constant
    for every score, so it is written into the gradients once and is not part of the autograd graph.
    """

    fused = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.constant = max(-1.0, min(1.0, self.alpha / self.count))
        for score in self.scores.values():
            score.grad = torch.full_like(score, self.constant)

    def step(self, ids: Tensor, labels: Tensor) -> float:
        unique_rows, index = torch.unique(ids.t(), return_inverse=True)  # (U,), (T, B)
        weights = self.weights | {EMBEDDING: self.weights[EMBEDDING][unique_rows]}
        with torch.no_grad():
            scores = {key: s[unique_rows] if key == EMBEDDING else s for key, s in self.scores.items()}
            masked = {key: weight * (scores[key] > 0) for key, weight in weights.items()}
        head = [part for part in self.head if part.requires_grad]
        leaves = [part.requires_grad_() for part in masked.values()]
        loss = functional.cross_entropy(self.outputs(masked, index), labels)
        gradients = torch.autograd.grad(loss, [*leaves, *head])
        for key, gradient in zip(masked, gradients, strict=False):
            gradient = gradient.mul_(weights[key]).clamp_(-1, 1).add_(self.constant)
            if key == EMBEDDING:
                self.scores[key].grad.index_copy_(0, unique_rows, gradient)
            else:
                self.scores[key].grad = gradient
        for part, gradient in zip(head, gradients[len(masked) :], strict=True):
            part.grad = gradient
        self.optimizer.step()
        self.scores[EMBEDDING].grad.index_fill_(0, unique_rows, self.constant)
        self.steps += 1
        return loss.item()


class ReferenceStepper:
    """``seam_fast.training.reference_step.Stepper`` with the interface of the rivals; arguments as in ``Reference``."""

    def __init__(self, weights, head, words=None, **options):
        self.stepper = Stepper(weights, head, **options)

    def run_epoch(self, ids, lengths, target_probability, batch_size):
        batches = zip(*(part.split(batch_size) for part in (ids, lengths, target_probability)), strict=True)
        losses = [self.stepper.step(*batch).cross_entropy for batch in batches]
        return sum(losses) / len(losses)

    def full_scores(self):
        return self.stepper.scores, self.stepper.head


def build(make, weights, head, words, **options):
    """A trainer, by its class or a function. One of the package's gets those options that say how a step is taken as
    its StepConfig.
    """
    if not (isinstance(make, type) and issubclass(make, Trainer)):
        return make(weights, head, words, **options)
    config = {field.name: options.pop(field.name) for field in fields(StepConfig) if field.name in options}
    return make(weights, head, words, StepConfig(**config), **options)


# What makes each rival, by name. The others are compared with the first.
RIVALS = {
    "reference": Reference,
    "reference_best": ReferenceBest,
    "best_torch": TorchTrainer,
    "native": functools.partial(build, CpuTrainer, lazy_update="quadrature"),
    "native_replay": functools.partial(build, CpuTrainer, lazy_update="replay"),
    "native_dense": functools.partial(build, CpuTrainer, lazy_update="off"),
}


def is_native(name: str) -> bool:
    return name.startswith("native")


def available(names) -> tuple[list[str], dict[str, str]]:
    """The rivals that can run here, and why the others cannot."""
    reason = untrainable_reason(torch.float32)
    left_out = {name: reason for name in names if is_native(name) and reason}
    return [name for name in names if name not in left_out], left_out


# What is trained -----------------------------------------------------------------------------------------------------


class Workload:
    """One class against the rest as the reference samples it: weights, head and documents, the same for every rival.

    Args:
        base: The base classifier.
        corpus: Its corpus.
        target: The class.
        vocabulary: Rows of the embedding table; those beyond the base's own stand for words that never occur. alpha
            then grows with the number N of weights, so that alpha / N, the penalty's gradient of a score, stays.
        fit: Indices of the training documents to use (default: all).
        seed: Of the head and of the order of documents.
    """

    def __init__(
        self,
        base: LSTMClassifier,
        corpus: Corpus,
        target: int = 1,
        vocabulary: int | None = None,
        fit: Tensor | None = None,
        seed: int = 0,
    ):
        settings = Settings.for_protocol("reference")
        fit = torch.arange(len(corpus.train)) if fit is None else fit
        self.sampler = Sampler(corpus, fit, (target,), settings, seed)
        self.weights = base.weights()
        self.head = rng.head(seed, (target,), corpus.num_classes)
        self.words = torch.from_numpy(self.sampler.fed_ids())
        self.options = dict(OPTIONS)
        before = self.count
        if vocabulary is not None and vocabulary > len(self.weights[EMBEDDING]):
            table = self.weights[EMBEDDING]
            rest = torch.randn(vocabulary - len(table), table.shape[1], generator=torch.Generator().manual_seed(0))
            self.weights[EMBEDDING] = torch.cat([table, rest.to(table.dtype)])
        if _ext.has_ext():
            from seam_fast.training.cpu_trainer import copy_to_huge_pages

            self.weights = copy_to_huge_pages(self.weights)  # the same advantage for every rival
        self.options["alpha"] *= self.count / before

    @property
    def count(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.weights.values())

    def documents(self, begin: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """ids (n, T), lengths and target_probability (n,) of ``count`` epochs in the sampler's order, from epoch
        ``begin`` on.
        """
        return tuple(
            torch.cat(parts) for parts in zip(*(self.sampler.epoch(begin + n) for n in range(count)), strict=True)
        )

    def first(self, documents: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first so many documents of the whole run."""
        epochs = -(-documents // self.sampler.size)
        return tuple(part[:documents] for part in self.documents(0, epochs))

    def make(self, way, dtype=torch.float32, **options):
        """A new rival, by its name in RIVALS or by what makes it; options replace those of the workload."""
        way = RIVALS[way] if isinstance(way, str) else way
        weights = {key: weight.to(dtype) for key, weight in self.weights.items()}
        head = tuple(part.to(dtype) for part in self.head)
        return build(way, weights, head, self.words, **(self.options | {"readout": "last_position"} | options))


# Agreement -----------------------------------------------------------------------------------------------------------


class Truth:
    """A run of some steps in float64, and how far a float32 run may be from it.

    ``exact`` is the rival (a name, or what makes it) that gives the truth, in float64; ``yardstick`` the one that gives
    the error of plain float32. The error of a tensor is the 95th percentile of its absolute errors. A gradient that
    almost cancels has a sign that is decided by rounding, and Adam turns it into a whole step; so a few scores, others
    in each run, are far off in any float32 run. Of these ("far": errors above 1e-5 and above ten times the yardstick's)
    the share is compared. Allowed are twice the yardstick's error and a floor: 16 machine epsilons for the loss, one
    rounding of the largest score, 1 % of the scores far off, and one flipped mask bit in a million.
    """

    def __init__(self, workload: Workload, batch_size: int, steps: int, exact, yardstick, **options):
        self.workload, self.batch_size, self.steps, self.options = workload, batch_size, steps, options
        self.documents = workload.first(batch_size * steps)
        self.met = torch.unique(self.documents[0])
        self.far = {}  # by tensor: the error above which a score counts as far off
        self.losses, self.state = self._run(workload.make(exact, torch.float64, **options), one_by_one=True)
        found = self._run(workload.make(yardstick, **options), one_by_one=True)
        self.far = {name.removesuffix(" error"): max(1e-5, 10 * error) for name, error in self.errors(*found).items()}
        self.of_yardstick = self.errors(*found)
        eps = torch.finfo(torch.float32).eps
        self.allowed = {}
        for name, error in self.of_yardstick.items():
            floor = {"loss": 16 * eps * max(1.0, *self.losses), "flipped": 1e-6 * workload.count}.get(name)
            if floor is None:
                tensor, _, kind = name.rpartition(" ")
                floor = 0.01 if kind == "far" else eps * max(1.0, self._parts(*self.state)[tensor].abs().max().item())
            self.allowed[name] = 2 * error + floor

    def _run(self, trainer, one_by_one: bool) -> tuple[list[float], tuple]:
        """Losses and final state of a run by one call per step, or by one call for all steps."""
        size = self.batch_size if one_by_one else len(self.documents[0])
        parts = zip(*(part.split(size) for part in self.documents), strict=True)
        losses = [trainer.run_epoch(*part, self.batch_size) for part in parts]
        return losses, trainer.full_scores()

    def _parts(self, scores, head) -> dict[str, Tensor]:
        """All tensors by name; the rows of the embedding are split into those that occurred in the steps and others."""
        table = scores[EMBEDDING].detach()
        other = torch.ones(len(table), dtype=torch.bool)
        other[self.met] = False
        parts = {"rows met": table[self.met], "other rows": table[other]}
        parts |= {key: scores[key].detach() for key in WEIGHT_KEYS[1:]}
        return parts | {name: part.detach() for name, part in zip(HEAD_NAMES, head, strict=True)}

    def errors(self, losses: list[float], state) -> dict[str, float]:
        """Errors by name. losses: of every step, or only their mean."""
        true = self.losses if len(losses) > 1 else [sum(self.losses) / len(self.losses)]
        found = {"loss": max(abs(ours - theirs) for ours, theirs in zip(losses, true, strict=True)), "flipped": 0}
        theirs = self._parts(*self.state)
        for name, ours in self._parts(*state).items():
            if ours.numel():
                error = (ours.double() - theirs[name]).abs().nan_to_num(nan=torch.inf).flatten()
                found[name + " error"] = error.kthvalue(max(1, int(0.95 * len(error)))).values.item()
                found[name + " far"] = (error > self.far.get(name, 0)).double().mean().item()
                if name not in HEAD_NAMES:
                    found["flipped"] += int(((ours > 0) != (theirs[name] > 0)).sum())
        return found

    def check(self, way) -> dict[str, float]:
        """The errors of a rival: the larger of those of its steps one by one and in one call.

        Raises:
            SeamFastError: Some are larger than allowed; lists them.
        """
        found = {}
        for one_by_one in (True, False):
            trainer = self.workload.make(way, **self.options)
            for name, error in self.errors(*self._run(trainer, one_by_one)).items():
                found[name] = max(found.get(name, 0.0), error)
        faults = [
            f"{name} of {way} is off by {error:.2g}, more than the {self.allowed[name]:.2g} allowed"
            for name, error in found.items()
            if not error <= self.allowed[name]  # also true for NaN
        ]
        if faults:
            raise SeamFastError(f"batch {self.batch_size}: {', '.join(faults)}, so its time says nothing")
        return found


def first_steps(workload: Workload, batch_size: int, steps: int, **options) -> Truth:
    """The truth about the first steps of a run, by ``seam_fast.training.reference_step``; options as in ``make``."""
    return Truth(workload, batch_size, steps, ReferenceStepper, "reference", **options)


def long_run(workload: Workload, batch_size: int, steps: int) -> Truth:
    """The truth about a run so long that the optimizer's lazy state is as it is when times are taken.

    The learning rate is so small that no score reaches zero: after a flipped mask bit two runs differ for good, without
    one they can be compared after any number of steps. To save time, plain PyTorch over the rows that occur is truth
    and yardstick; tests compare it with ``seam_fast.training.reference_step``.
    """
    return Truth(workload, batch_size, steps, "best_torch", "best_torch", lr_mask=0.5 / steps)

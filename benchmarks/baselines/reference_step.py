"""The ways to train a module that are timed against each other, what they train on, and whether they agree.

``Reference`` does in a step what the public LSTM port does in one: plain PyTorch over the whole table.
``ReferenceBest`` computes the same with the fastest optimizer of torch, and nothing that the result does not need.
Both are written from a description, in words of their own, and share no code with ``seam_fast.reference``, against
which they are tested. All rivals have the part of ``seam_fast.engine.Trainer`` that a benchmark needs: ``run_epoch``
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
from seam_fast.training.reference_step import Stepper
from seam_fast.training.torch_trainer import TorchTrainer

OPTIONS = {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.01, "schedule": "joint"}


# The reference -------------------------------------------------------------------------------------------------------


class Kept(torch.autograd.Function):
    """1 where a score is positive, else 0; its gradient goes on to the score, clamped to [-1, 1]."""

    @staticmethod
    def forward(ctx, score):
        return score.gt(0).to(score.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return functional.hardtanh(gradient)


class Reference:
    """One module with dense scores: all weights masked anew in every step, torch's default Adam over all scores.

    weights: frozen base by weight key; head: initial weight (2, C) and bias (2,); all of one floating dtype. words: not
    looked at. alpha, lr_mask, lr_head: as in ``seam_fast.Settings``, with the global penalty. schedule: ``"port"``
    steps the scores alone, any other head and scores together. readout: ``"last_position"``, after the padding, and
    nothing else.
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
        self.gradients, self.totals = {}, [0.0, 0.0, 0]  # of the losses, of the shares kept, of the hits
        groups = [{"params": list(self.scores.values())}]
        if schedule != "port":
            groups.append({"params": list(self.head), "lr": lr_head})
        self.optimizer = torch.optim.Adam(groups, lr=lr_mask, fused=self.fused)

    def run_epoch(self, ids: Tensor, lengths: Tensor, labels: Tensor, batch_size: int) -> float:
        """Steps over documents in order: ids (N, T), lengths (N,), not looked at, labels (N,) -> mean cross entropy."""
        losses = [self.step(*batch) for batch in zip(ids.split(batch_size), labels.split(batch_size), strict=True)]
        return sum(losses) / len(losses)

    def step(self, ids: Tensor, labels: Tensor) -> float:
        """One step on one batch; returns its cross entropy before the step."""
        logits = self.logits(ids)
        cross_entropy = functional.cross_entropy(logits, labels)
        kept = sum(Kept.apply(score).sum() for score in self.scores.values()) / self.count
        self.optimizer.zero_grad()
        (cross_entropy + self.alpha * kept).backward()
        # The port hands every gradient to NumPy by way of the host's memory. From a GPU that is a copy of ten
        # megabytes; on a CPU it is a view, and the reference pays next to nothing for it here.
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
            {key: weight * Kept.apply(self.scores[key]) for key, weight in self.weights.items()}, ids.t()
        )

    def outputs(self, masked: dict[str, Tensor], places: Tensor) -> Tensor:
        """Outputs with masked weights: places (T, B), rows of the embedding -> (B, 2)."""
        embedded = functional.embedding(places, masked[EMBEDDING])  # (T, B, E)
        zeros = embedded.new_zeros(1, places.shape[1], masked[LSTM_KEYS[1]].shape[1])
        parameters = [masked[key] for key in LSTM_KEYS]
        states, _, _ = torch.lstm(embedded, (zeros, zeros), parameters, True, 1, 0.0, True, False, False)
        classes = functional.linear(states[-1], *(masked[key] for key in LINEAR_KEYS))
        return functional.linear(functional.relu(classes), *self.head)

    def full_scores(self) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Copies of the scores by weight key and of the head."""
        scores = {key: score.detach().clone() for key, score in self.scores.items()}
        return scores, tuple(part.detach().clone() for part in self.head)

    @torch.no_grad()
    def put_scores(self, scores: dict[str, Tensor], head: tuple[Tensor, Tensor]) -> None:
        """Goes on from another's scores and head; the optimizer's own state stays."""
        for key, score in self.scores.items():
            score.copy_(scores[key])
        for ours, theirs in zip(self.head, head, strict=True):
            ours.copy_(theirs)


class ReferenceBest(Reference):
    """The same procedure at its best: torch's fused Adam, a batch's rows alone, and no number read but the loss.

    Still every score of the table is stepped, as the procedure has it. The penalty's gradient is the same number for
    every score, so it lies in the gradients from the beginning, and autograd sees nothing of it.
    """

    fused = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.constant = max(-1.0, min(1.0, self.alpha / self.count))
        for score in self.scores.values():
            score.grad = torch.full_like(score, self.constant)

    def step(self, ids: Tensor, labels: Tensor) -> float:
        words, places = torch.unique(ids.t(), return_inverse=True)  # (U,), (T, B)
        weights = self.weights | {EMBEDDING: self.weights[EMBEDDING][words]}
        with torch.no_grad():
            kept = {key: score[words] if key == EMBEDDING else score for key, score in self.scores.items()}
            masked = {key: weight * (kept[key] > 0) for key, weight in weights.items()}
        head = [part for part in self.head if part.requires_grad]
        leaves = [part.requires_grad_() for part in masked.values()]
        loss = functional.cross_entropy(self.outputs(masked, places), labels)
        gradients = torch.autograd.grad(loss, [*leaves, *head])
        for key, gradient in zip(masked, gradients, strict=False):
            gradient = gradient.mul_(weights[key]).clamp_(-1, 1).add_(self.constant)
            if key == EMBEDDING:
                self.scores[key].grad.index_copy_(0, words, gradient)
            else:
                self.scores[key].grad = gradient
        for part, gradient in zip(head, gradients[len(masked) :], strict=True):
            part.grad = gradient
        self.optimizer.step()
        self.scores[EMBEDDING].grad.index_fill_(0, words, self.constant)
        self.steps += 1
        return loss.item()


class ByTheBook:
    """``seam_fast.training.reference_step.Stepper`` with the face of the others; arguments as in ``Reference``."""

    def __init__(self, weights, head, words=None, **options):
        self.stepper = Stepper(weights, head, **options)

    def run_epoch(self, ids, lengths, labels, batch_size):
        batches = zip(*(part.split(batch_size) for part in (ids, lengths, labels)), strict=True)
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


# By name: how it is made. The first is what the others are compared with.
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


def usable(names) -> tuple[list[str], dict[str, str]]:
    """The rivals that can run here, and why the others cannot."""
    reason = untrainable_reason(torch.float32)
    left_out = {name: reason for name in names if is_native(name) and reason}
    return [name for name in names if name not in left_out], left_out


# What is trained -----------------------------------------------------------------------------------------------------


class Workload:
    """One class against the rest as the reference samples it: weights, head and documents, the same for every rival.

    A base and its corpus; ``target``: the class. ``vocabulary``: rows of the table, of which those past the base's own
    stand for words that never occur; alpha then grows with the number of weights, so that alpha / N, the gradient of
    every kept weight, is what it was. fit: indices of the training documents to use (default: all). seed: of head and
    order of documents.
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
        self.words = torch.from_numpy(self.sampler.words())
        self.options = dict(OPTIONS)
        before = self.count
        if vocabulary is not None and vocabulary > len(self.weights[EMBEDDING]):
            table = self.weights[EMBEDDING]
            rest = torch.randn(vocabulary - len(table), table.shape[1], generator=torch.Generator().manual_seed(0))
            self.weights[EMBEDDING] = torch.cat([table, rest.to(table.dtype)])
        if _ext.has_ext():
            from seam_fast.training.cpu_trainer import copy_to_huge_pages

            self.weights = copy_to_huge_pages(self.weights)  # for every rival
        self.options["alpha"] *= self.count / before

    @property
    def count(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.weights.values())

    def documents(self, begin: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """ids (n, T), lengths and labels (n,) of so many epochs in the sampler's order, from epoch ``begin`` on."""
        epochs = [self.sampler.epoch(begin + n) for n in range(count)]
        return tuple(torch.cat([getattr(epoch, name) for epoch in epochs]) for name in ("ids", "lengths", "labels"))

    def first(self, documents: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first documents of the whole run."""
        epochs = -(-documents // self.sampler.size)
        return tuple(part[:documents] for part in self.documents(0, epochs))

    def make(self, way, dtype=torch.float32, **options):
        """A rival at its beginning, by its name in RIVALS or by what makes it; options replace the workload's."""
        way = RIVALS[way] if isinstance(way, str) else way
        weights = {key: weight.to(dtype) for key, weight in self.weights.items()}
        head = tuple(part.to(dtype) for part in self.head)
        return build(way, weights, head, self.words, **(self.options | {"readout": "last_position"} | options))


# Agreement -----------------------------------------------------------------------------------------------------------


class Truth:
    """What float64 says of a run of some steps, and how far a float32 result may be from it.

    exact, yardstick: the rivals (names, or what makes them) that give the truth, in float64, and the plain float32
    error. The error of a tensor is what 95 % of its values stay below; where a gradient all but cancels, its sign is
    rounding, and Adam makes a whole step of that, so that in any float32 run a few scores are far off, each time
    others: of these the share is compared (errors above 1e-5 and above ten times the yardstick's). Allowed is twice the
    yardstick's and a floor: 16 roundings for the loss, one rounding of the largest score, 1 % of the scores far off,
    and one kept bit in a million.
    """

    def __init__(self, workload: Workload, batch_size: int, steps: int, exact, yardstick, **options):
        self.workload, self.batch_size, self.steps, self.options = workload, batch_size, steps, options
        self.documents = workload.first(batch_size * steps)
        self.met = torch.unique(self.documents[0])
        self.far = {}  # by tensor, above which error a score counts as far off
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
        """Losses and the final state: of every step by itself, or of all steps in one call."""
        size = self.batch_size if one_by_one else len(self.documents[0])
        parts = zip(*(part.split(size) for part in self.documents), strict=True)
        losses = [trainer.run_epoch(*part, self.batch_size) for part in parts]
        return losses, trainer.full_scores()

    def _parts(self, scores, head) -> dict[str, Tensor]:
        """All tensors by name, the embedding's rows in those that the steps met and the others."""
        table = scores[EMBEDDING].detach()
        other = torch.ones(len(table), dtype=torch.bool)
        other[self.met] = False
        parts = {"rows met": table[self.met], "other rows": table[other]}
        parts |= {key: scores[key].detach() for key in WEIGHT_KEYS[1:]}
        return parts | {name: part.detach() for name, part in zip(HEAD_NAMES, head, strict=True)}

    def errors(self, losses: list[float], state) -> dict[str, float]:
        """Errors by name; losses: of every step, or their mean alone."""
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
        """The errors of a rival: the larger ones of its steps one by one and in one call.

        Raises SeamFastError, with all of them, where some are larger than allowed.
        """
        found = {}
        for one_by_one in (True, False):
            trainer = self.workload.make(way, **self.options)
            for name, error in self.errors(*self._run(trainer, one_by_one)).items():
                found[name] = max(found.get(name, 0.0), error)
        faults = [
            f"{name} of {way} is off by {error:.2g}, more than the {self.allowed[name]:.2g} allowed"
            for name, error in found.items()
            if not error <= self.allowed[name]  # a NaN is not, either
        ]
        if faults:
            raise SeamFastError(f"batch {self.batch_size}: {', '.join(faults)}, so its time says nothing")
        return found


def first_steps(workload: Workload, batch_size: int, steps: int, **options) -> Truth:
    """The truth about the first steps of a run, by the book, every word and every weight; options as in ``make``."""
    return Truth(workload, batch_size, steps, ByTheBook, "reference", **options)


def long_run(workload: Workload, batch_size: int, steps: int) -> Truth:
    """The truth about a run long enough for the lazy state to be what it is when times are taken.

    Scores move so slowly that none comes to zero: with a flip runs part for good, without one they can be compared
    after any number of steps. Plain PyTorch over the rows that occur is truth and yardstick, for the sake of time; it
    is held against the book by the tests.
    """
    return Truth(workload, batch_size, steps, "best_torch", "best_torch", lr_mask=0.5 / steps)

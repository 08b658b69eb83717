"""The training of one module, from the first epoch to the module that is kept."""

import contextlib
import functools
import platform
import threading
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .._version import __version__
from ..classifier.metrics import base_metrics, module_metrics
from ..common import rng
from ..common.default_device import cpu_by_default
from ..common.deprecation import warn_renamed
from ..data.corpus import Split
from ..errors import TrainingError
from ..modules.mask import Snapshot
from ..modules.pareto import Front
from ..modules.seam_module import SeamModule
from ..training.base import Trainer
from ..training.devices import CPU, WorkerDevice
from .cohort import Lane
from .context import SearchContext
from .cuda_cohort import LaunchedLane
from .evaluate import figures_on_test
from .sampling import Sampler, balanced, is_target, vocabulary_floor
from .selection import F1Selection, ReferenceSelection


class ModuleRun:
    """One target's run: trainer, selection, history, the best state so far and the front."""

    def __init__(self, context: SearchContext, target: tuple[int, ...], seed: int, evaluate_every: int):
        self.context, self.target, self.seed, self.evaluate_every = context, target, seed, evaluate_every
        settings = context.settings
        self.device = CPU.device  # where it is trained; `train` says
        self.sampler = Sampler(context.corpus, context.fit, target, settings, seed, self._base_probability)
        self.sampler.taught = context.taught[self.sampler.address, self.sampler.epochs]
        self.sampler.taught.users += 1
        self.epochs = self.sampler.epochs
        self.history: list[dict] = []
        self.best_epoch: int | None = None
        self.seconds = 0.0
        self.trainer: Trainer | None = None
        self.front: Front | None = None
        self._best, self._best_steps = None, 0  # bits and head of the epoch to keep, and the steps taken by then
        self._view = self._evaluation_view()
        self._metrics: dict | None = None
        self._base_figures: dict | None = None
        self.qualified: bool | None = None  # whether an epoch passed the rule's gate
        self._steps = 0
        self._module: SeamModule | None = None
        self.finished = False  # to the end, or as far as it was let
        self.cut_short = False  # by Ctrl-C or a failure
        self.ended = False  # with or without a module

    @property
    def study(self) -> SearchContext:
        """Deprecated: ``context``."""
        warn_renamed("study", "context")
        return self.context

    @property
    def name(self) -> str:
        """The target's class names."""
        return "+".join(self.context.corpus.class_names[k] for k in self.target)

    @property
    def steps(self) -> int:
        """Steps of the whole run, early stopping apart."""
        return self.epochs * self.epoch_steps

    @property
    def steps_done(self) -> int:
        """Steps taken so far."""
        trainer = self.trainer  # once: the working thread lets go of it
        return trainer.steps if trainer else self._steps

    def _base_probability(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.context.base_probability(self.target, ids, lengths, self.device)

    def _evaluation_view(self) -> Tensor:
        """Indices into the evaluation split: the reference's balanced subset where its sampling is used, else all."""
        labels = self.context.evaluation.labels
        settings = self.context.settings
        if settings.evaluation_subset == "sampled" and settings.sampling == "balanced":
            return balanced(labels, self.target)
        return torch.arange(len(labels))

    def train(
        self, stop: threading.Event, report: Callable[["ModuleRun", dict], None], worker: WorkerDevice = CPU
    ) -> None:
        """Trains at a worker's device, which the calling thread has entered, to the end or until ``stop`` is set;
        ``report(run, figures)`` follows each epoch.
        """
        self.begin(worker)
        settings, trainer = self.context.settings, self.trainer
        known = None  # the last look at the evaluation documents, as long as the scores stand still
        for epoch in range(self.epochs):
            head_only, evaluates = settings.head_only(epoch), self.evaluates(epoch)
            trainer.scale_learning_rates(settings.lr_scale(epoch, self.epochs))
            options = {"head_only": head_only, "stop": stop, "known": known if head_only else None}
            with self.naming(epoch):
                evaluated_on = self._evaluated_on if evaluates else None
                loss, evaluation = trainer.take_epoch(
                    self.sampler, epoch, settings.batch_size, evaluated_on=evaluated_on, **options
                )
            if stop.is_set():
                self.cut_short = True
                break
            if evaluates or not head_only:
                known = evaluation if evaluates else None
            known_outputs = functools.partial(getattr, evaluation, "outputs")
            if not self.end_epoch(
                epoch, loss, evaluation.kept, known_outputs, evaluation.snapshot, report, evaluation.figures
            ):
                break
        self.finish()

    def begin(self, worker: WorkerDevice) -> None:
        """Makes the trainer at a worker's device, where there is none yet."""
        if self.trainer is not None:
            return
        context, self.device = self.context, worker.device
        self._begun = time.perf_counter()
        base_dtype = next(iter(context.weights.values())).dtype
        head = rng.head(self.seed, self.target, context.corpus.num_classes)
        head = tuple(part.to(base_dtype) for part in head)
        self.trainer = context.make_trainer(head, self.sampler.words(), worker.device)
        self.front = Front()
        self._selection = self._rule() if self.evaluate_every else None

    @contextlib.contextmanager
    def naming(self, epoch: int) -> Iterator[None]:
        """TrainingErrors raised inside say whose epoch it is."""
        try:
            yield
        except TrainingError as error:
            raise TrainingError(f"target {self.name}, epoch {epoch}: {error}") from None

    def evaluates(self, epoch: int) -> bool:
        """Whether the evaluation documents are looked at after an epoch."""
        if self._selection is None:
            return False
        return (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs

    def end_epoch(
        self,
        epoch: int,
        loss: float,
        kept: dict[str, int],
        outputs: Callable[[], Tensor],
        snapshot: Callable[[], Snapshot],
        report,
        known_figures: dict[str, float] | None = None,
    ) -> bool:
        """Draws the conclusions from an epoch. Returns whether another one is wanted.

        kept: numbers by weight key; outputs(): those of the module for the evaluation documents (n, 2); snapshot(): the
        trainer's; known_figures: `module_metrics` of the outputs, where they are known already.
        """
        rule, trainer = self._selection, self.trainer
        figures = {"epoch": epoch, "cross_entropy": loss} | self._kept(kept)
        taken = None  # the choice and the front share one
        if self.evaluates(epoch):
            figures |= known_figures or module_metrics(outputs(), self._evaluation_documents[1])
            figures["best_so_far"] = rule.offer(figures)
            taken = self.front.offer(figures, snapshot)
        keep_each = rule is None or self.context.settings.selection == "last"  # the last whole epoch is what counts
        if keep_each or self._best is None or figures.get("best_so_far"):
            self.best_epoch, self._best, self._best_steps = epoch, taken or snapshot(), trainer.steps
        self.seconds = figures["seconds"] = time.perf_counter() - self._begun
        self.history.append(figures)
        report(self, figures)
        if rule and self.context.settings.selection != "last":  # where the last is what counts, none is chosen
            self.qualified = rule.qualified
        return epoch + 1 < self.epochs and not (rule and rule.stop)

    def _rule(self):
        settings = self.context.settings
        accuracy_base = self.base_figures()["accuracy"]
        if settings.selection == "reference":
            return ReferenceSelection(accuracy_base, settings.early_stop, settings.reject_constant)
        return F1Selection(settings.early_stop, settings.first_selectable_epoch(self.epochs))

    def base_figures(self) -> dict[str, float]:
        """The base's own figures on the evaluation documents."""
        if self._base_figures is None:
            logits = self.context.base_logits(self.context.evaluation, self.device)[self._view]
            wanted = is_target(self.context.evaluation.labels[self._view], self.target)
            self._base_figures = base_metrics(logits, wanted, self.target)
        return self._base_figures

    def _kept(self, counts: dict[str, int]) -> dict[str, float]:
        sizes, parts = self.context.sizes, self.context.groups
        shares = {group: sum([counts[key] for key in keys]) / sizes[group] for group, keys in parts.items()}
        return {"kept": sum(counts.values()) / self.context.total, "kept_by_group": shares}

    @property
    def in_step(self) -> bool:
        """Whether this module can be trained in step with others; see ``cohort`` and ``cuda_cohort``."""
        context = self.context
        if context.engine != "cuda":
            return False
        return self.launched if context.trainer_class.fused else context.settings.schedule != "seam"

    @functools.cached_property
    def launched(self) -> bool:
        """Whether its steps can go into the launches of others: those of a cluster, an epoch at a time, without a
        teacher, whose answers would be waited for module by module."""
        context, settings = self.context, self.context.settings
        if context.engine != "cuda" or not context.trainer_class.fused or self.sampler.teacher is not None:
            return False
        width = context.corpus.train.ids.shape[1]
        return context.trainer_class.shares_launches(context.weights, settings.batch_size, width, self.epoch_steps)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.sampler.size // self.context.settings.batch_size)

    def lane(self):
        """Its place in a cohort, once it has begun."""
        context, settings = self.context, self.context.settings
        if self.launched:
            return LaunchedLane(self.trainer, self.sampler, settings.batch_size, settings.head_only, self._evaluated_on)
        teacher = context.teacher_on(self.device, self.target) if settings.distill_weight > 0 else None
        looked_at = self._evaluation_documents[0] if self._selection else None
        documents = context.documents_on(self.device)
        return Lane(self.trainer, self.sampler, documents, settings.batch_size, teacher, looked_at)

    @functools.cached_property
    def _evaluation_documents(self) -> tuple[Split, Tensor]:
        """The documents of the view, and which of them are the target's, until the run ends."""
        split, view = self.context.evaluation, self._view
        if not torch.equal(view, torch.arange(len(split))):
            split = Split(split.ids[view], split.lengths[view], split.labels[view])
        return split, is_target(split.labels, self.target)

    @functools.cached_property
    def _evaluated_on(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same as words, lengths and which are the target's."""
        split, wanted = self._evaluation_documents
        return split.ids, split.lengths, wanted

    def finish(self) -> None:
        """Lets go of the trainer's state; only the chosen scores stay."""
        trainer, context = self.trainer, self.context
        if self._best is None:  # not one whole epoch
            self._best, self._best_steps = trainer.snapshot(), trainer.steps
        whole = trainer.steps == self._best_steps and not self.cut_short  # else a step may have begun after the best
        self._scores, self._head = self._best  # their signs; their values only where they still stand
        if whole:
            self._scores, self._head = trainer.full_scores()
        test, logits = context.corpus.test, None
        if self.evaluate_every:
            logits = trainer.logits_as(self._best, test.ids, test.lengths)
        self.release()
        self.finished = True  # now the module is there, whatever its judgement meets
        if self.evaluate_every:
            card = {"base_hash": context.base_hash}
            module = SeamModule(context.base, self.target, self._scores, self._head, card=card)
            self._metrics = figures_on_test(module, context.corpus, context.base_logits(test, self.device), logits)

    def rescue(self) -> None:
        """After a failure: keeps the best epoch's module, where there is one, and gives back the memory."""
        self.cut_short = not self.finished
        if self.trainer is not None and self.history:
            with contextlib.suppress(Exception):  # it is the failure before this one that is told
                self.finish()
        self.release()

    def release(self) -> None:
        """Gives back the memory that only training needs, also after a failure."""
        self._steps, self.trainer, self._best = self.steps_done, None, None
        self.__dict__.pop("_evaluation_documents", None)
        self.__dict__.pop("_evaluated_on", None)

    @property
    def has_module(self) -> bool:
        """Whether it is finished, or was cut short after an epoch at least."""
        return self.finished and (bool(self.history) or not self.cut_short)

    def module(self) -> SeamModule:
        """The chosen module, with its history, metrics and card; always the same object."""
        if self._module is None:
            with cpu_by_default():
                self._module = self._make_module()
        return self._module

    def _make_module(self) -> SeamModule:
        context = self.context
        documents = context.fit[balanced(context.corpus.train.labels[context.fit], self.target)]
        card = {
            "class_names": list(context.corpus.class_names),
            "target_names": [context.corpus.class_names[k] for k in self.target],
            "corpus": context.corpus.name,
            "synthetic": context.corpus.synthetic,
            "data_hash": context.corpus.data_hash,
            "base_hash": context.base_hash,
            "settings": context.settings.as_dict(),
            "seed": self.seed,
            "evaluate_every": self.evaluate_every,
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "qualified": self.qualified,
            "steps": self.steps_done,
            "engine": context.engine,
            "seconds": round(self.seconds, 3),
            "evaluation": {
                "documents": context.settings.evaluation,
                "count": len(self._view),
                "base": self._base_figures,
            },
            "vocabulary_floor": vocabulary_floor(context.corpus, documents, context.total, context.base.embedding_dim),
            "versions": {"seam_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        if context.trainer_class.fused:
            card["lazy_update"] = context.lazy_update
        if self.cut_short:
            card["interrupted"] = True
        module = SeamModule(
            context.base, self.target, self._scores, self._head, history=self.history, metrics=self._metrics, card=card
        )
        module.front = self.front.points(module)
        return module

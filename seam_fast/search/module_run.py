"""The training of one module, from the first epoch to the module that is kept.

It is more than 500 lines, since nearly all of it reads and writes the state of one run; what does not, has files of its
own: ``sampling``, ``selection``, ``held_sizes``, ``start``, ``delivery``.
"""

import contextlib
import functools
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..classifier.metrics import base_metrics, module_metrics
from ..common.default_device import cpu_by_default
from ..common.deprecation import warn_renamed
from ..data.corpus import Split
from ..errors import TrainingError
from ..modules.mask import Head, KeepMask, Snapshot
from ..modules.nested import shifted
from ..modules.pareto import Figures, Front
from ..modules.resize import order_weights, size_curve
from ..modules.seam_module import SeamModule
from ..training.base import Evaluation, EvaluationDocuments, Trainer
from ..training.cuda_graph_trainer import CudaGraphTrainer
from ..training.cuda_trainer import CudaTrainer
from ..training.devices import CPU, WorkerDevice
from .cohort import Lane
from .context import SearchContext
from .cuda_cohort import LaunchedLane
from .delivery import judged
from .document_sets import balanced, evaluation_view, is_target, vocabulary_floor
from .epoch_sizes import evaluation_period
from .evaluate import figures_on_test
from .held_sizes import ORDER, Cut, HeldSizes
from .sampling import Sampler
from .selection import F1Selection, ReferenceSelection, Selection, over_sizes
from .start import starting_point


class ModuleRun:
    """The run of one target: its trainer, selection rule, history, best state so far and Pareto front.

    Args:
        context: What it shares with other runs.
        target: Class numbers of the target, sorted.
        seed: Of all random choices.
        evaluate_every: Epochs between two evaluations; 0: never evaluate, and keep the last epoch; None: see
            ``epoch_sizes.evaluation_period``.
        keep_scores: Whether the module keeps the scores of its epoch; it does where it is trained for several sizes.

    Attributes:
        context: As given.
        target: As given.
        seed: As given.
        evaluate_every: As given.
        period: The same, or what None stands for.
        keep_scores: Whether the module keeps the scores of its epoch.
        device: Where it is trained.
        sampler: Draws its documents.
        epochs: Number of epochs, if nothing stops it.
        history: Figures of each epoch so far.
        best_epoch: Number of the epoch whose module would be kept, or None.
        trainer: What trains it, from ``begin`` to ``release``; else None.
        front: Its Pareto front.
        qualified: Whether an epoch has met the selection rule's requirement; None where no rule chooses.
        seconds: Time from its beginning to the end of its last epoch.
        finished: Whether its module is there: it has trained to its end, or as far as it was allowed to.
        cut_short: Whether Ctrl-C or a failure ended it early.
        ended: Whether nothing more will be done, with or without a module.
    """

    def __init__(
        self,
        context: SearchContext,
        target: tuple[int, ...],
        seed: int,
        evaluate_every: int | None,
        keep_scores: bool = False,
    ) -> None:
        self.context, self.target, self.seed, self.evaluate_every = context, target, seed, evaluate_every
        settings = context.settings
        self.keep_scores = keep_scores or len(settings.sizes) > 1
        self.device = CPU.device
        self.sampler = Sampler(context.corpus, context.fit, target, settings, seed, self._base_probability)
        cache = context.teacher_caches[self.sampler.address, self.sampler.epochs]
        cache.users += 1
        self.sampler.teacher_cache = cache
        self.epochs = self.sampler.epochs
        self.history: list[Figures] = []
        self.best_epoch: int | None = None
        self.seconds = 0.0
        self.trainer: Trainer | None = None
        self.front = Front()
        self._sizes = HeldSizes(settings.sizes, context.total, self.epochs) if settings.sizes else None
        self._selection: Selection | None = None
        self._best: Snapshot | None = None
        self._head_steps = self._best_steps = 0  # steps of the head alone; all steps up to the best snapshot
        self._started: dict[str, Any] = {}  # what the card says of where it started
        self._view = evaluation_view(settings, context.evaluation.labels, target)
        period = evaluation_period(settings, self.sampler.size, len(self._view))
        self.period = period if evaluate_every is None else evaluate_every
        self._metrics: dict[str, Any] | None = None
        self._base_figures: dict[str, float] | None = None
        self._size_curve: list[dict[str, Any]] | None = None
        self._verdict: dict[str, Any] = {}  # what the card says of threshold and marks
        self.qualified: bool | None = None
        self._steps = 0  # once there is no trainer any more
        self._chosen: tuple[KeepMask | dict[str, Tensor], Head] | None = None  # of the module that is kept
        self._module: SeamModule | None = None
        self.finished = self.cut_short = self.ended = False

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
        """Steps of the whole run, if nothing stops it."""
        return self.epochs * self.epoch_steps

    @property
    def steps_done(self) -> int:
        """Steps taken so far. May be read by any thread."""
        trainer = self.trainer  # read once, because the worker's thread may set it to None
        return trainer.steps if trainer else self._steps

    def _base_probability(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The base's probability of the target, as ``Sampler``'s teacher: ids (n, T), lengths (n,) -> (n,)."""
        return self.context.base_probability(self.target, ids, lengths, self.device)

    def train(
        self, stop: threading.Event, report: Callable[["ModuleRun", Figures], None], worker: WorkerDevice = CPU
    ) -> None:
        """Trains the module to its end, or until ``stop`` is set.

        Args:
            stop: Ends the run between two steps.
            report: Called as ``report(run, figures)`` after each epoch.
            worker: Where to train; the calling thread has entered it.
        """
        trainer = self.begin(worker)
        settings = self.context.settings
        known: Evaluation | None = None  # the last one with class logits, until the scores change
        for epoch in range(self.epochs):
            head_only, evaluates = settings.head_only(epoch), self.evaluates_in_training(epoch)
            trainer.scale_learning_rates(settings.lr_scale(epoch, self.epochs))
            with self.naming(epoch):
                loss, evaluation = trainer.take_epoch(
                    self.sampler,
                    epoch,
                    settings.batch_size,
                    head_only=head_only,
                    stop=stop,
                    evaluated_on=self._evaluated_on if evaluates else None,
                    known=known if head_only else None,
                )
            if stop.is_set():
                self.cut_off()
                break
            if evaluates or not head_only:
                known = evaluation if evaluates else None
            if not self.end_epoch(epoch, loss, evaluation, report):
                break
        self.finish()

    def begin(self, worker: WorkerDevice) -> Trainer:
        """Makes the trainer on a worker's device, where there is none yet, and returns it."""
        if self.trainer is not None:
            return self.trainer
        context, self.device = self.context, worker.device
        self._begun = time.perf_counter()
        head, modules = context.initial_head(self.seed, self.target), context.start_modules
        start = starting_point(context.weights, self.sampler, context.base.readout, head, modules)
        self._started = {} if start.card is None else {"start": start.card}
        self.trainer = trainer = context.make_trainer(start.head, self.sampler.fed_ids(), worker.device)
        start.apply_to(trainer)
        self.front = Front()
        self._selection = self._rule() if self.period else None
        return trainer

    @contextlib.contextmanager
    def naming(self, epoch: int) -> Iterator[None]:
        """Adds target and epoch to the message of TrainingErrors raised inside."""
        try:
            yield
        except TrainingError as error:
            raise TrainingError(f"target {self.name}, epoch {epoch}: {error}") from None

    def evaluates(self, epoch: int) -> bool:
        """Whether the module is evaluated after an epoch."""
        settings = self.context.settings
        if self._selection is None:
            return False
        early = settings.selection == "f1" and epoch < settings.first_selectable_epoch(self.epochs)
        if early and self._sizes is not None:
            return False  # it is not of its size yet, and must not be chosen however bad the later ones are
        every = self.period * (len(self._sizes.turns) if self._sizes else 1)  # all sizes have had their turn
        return (epoch + 1) % every == 0 or epoch + 1 == self.epochs

    def evaluates_in_training(self, epoch: int) -> bool:
        """Whether the module is evaluated as the trainer has it; where a size is asked for, its cut is instead."""
        return self._sizes is None and self.evaluates(epoch)

    def end_epoch(
        self, epoch: int, loss: float, evaluation: Evaluation, report: Callable[["ModuleRun", Figures], None]
    ) -> bool:
        """Enters an epoch in the history and decides whether its module is the best so far.

        Args:
            epoch: Its number, from 0.
            loss: Its mean cross entropy.
            evaluation: What is known of the module after it.
            report: Called as ``report(run, figures)``.

        Returns:
            Whether another epoch is to follow.
        """
        rule, trainer, settings = self._selection, self.trainer, self.context.settings
        assert trainer is not None
        keep_each = rule is None or settings.selection == "last"  # the last epoch that ends is kept
        in_training = sum(evaluation.kept_counts.values()) / self.context.total
        evaluates = self.evaluates(epoch)
        cut: Cut | None = None
        if self._sizes is not None and (keep_each or self._best is None or evaluates):
            shifts = self._sizes.several and (evaluates or epoch + 1 == self.epochs)
            fitted_on = self.sampler.as_they_are(epoch) if shifts else None
            evaluated_on = self._evaluation_documents if evaluates else None
            cut = self._sizes.cut(trainer, self.context, fitted_on, evaluated_on)
            evaluation = cut.evaluation
        figures: Figures = {"epoch": epoch, "cross_entropy": loss} | self._kept(evaluation.kept_counts)
        if self._sizes is not None:
            figures["kept_in_training"] = in_training
        taken: Snapshot | None = None  # one snapshot serves the front and the choice
        if rule is not None and evaluates:
            figures |= cut.figures[-1] if cut else self._evaluated_figures(evaluation)
            offered = figures
            if cut and len(cut.figures) > 1:
                offered = figures | over_sizes(cut.figures)
                figures["mean_f1"] = offered["f1"]
                figures["f1_by_size"] = self._by_size([each["f1"] for each in cut.figures])
            figures["best_so_far"] = rule.offer(offered)
            taken = self.front.offer(figures, evaluation.snapshot)
        if cut and cut.shifts:
            figures["shift_by_size"] = self._by_size(cut.shifts)
        if keep_each or self._best is None or figures.get("best_so_far"):
            self.best_epoch, self._best_steps = epoch, self.steps_done
            self._best = self._with_scores(taken or evaluation.snapshot())
        self.seconds = figures["seconds"] = time.perf_counter() - self._begun
        self.history.append(figures)
        report(self, figures)
        if rule and settings.selection != "last":
            self.qualified = rule.qualified
        if epoch + 1 == self.epochs or (rule and rule.stop):
            return False
        if self._sizes is not None:
            if settings.head_only(epoch):
                self._head_steps += self.epoch_steps
            count = self._sizes.after(epoch, [one["kept_in_training"] for one in self.history])
            if count is not None:
                trainer.hold_size(count, self._head_steps)
        return True

    def _with_scores(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot of the trainer's present state, with its scores where they are to be kept."""
        if not self.keep_scores or self.trainer is None:
            return snapshot
        scores = self.trainer.full_scores()[0]
        if self._sizes is not None:
            scores = shifted(scores, snapshot.mask)
        return snapshot._replace(scores=scores)

    def _evaluated_figures(self, evaluation: Evaluation) -> dict[str, float]:
        """Figures on the evaluation documents: the engine's where it has computed them, else those of the outputs."""
        if evaluation.figures:
            return evaluation.figures
        outputs = evaluation.outputs
        return {} if outputs is None else module_metrics(outputs, self._evaluation_documents[1])

    def _rule(self) -> Selection:
        """The selection rule of the settings."""
        settings = self.context.settings
        accuracy_base = self.base_figures()["accuracy"]
        if settings.selection == "reference":
            return ReferenceSelection(accuracy_base, settings.early_stop, settings.reject_constant)
        targets = int(self.base_figures()["targets"])
        return F1Selection(settings.early_stop, settings.first_selectable_epoch(self.epochs), targets)

    def base_figures(self) -> dict[str, float]:
        """The base's own figures on the evaluation documents."""
        if self._base_figures is None:
            logits = self.context.base_logits(self.context.evaluation, self.device)[self._view]
            wanted = is_target(self.context.evaluation.labels[self._view], self.target)
            self._base_figures = base_metrics(logits, wanted, self.target)
        return self._base_figures

    def _by_size(self, values: Sequence[float]) -> dict[str, float]:
        """Values of each size, by its share of all weights."""
        return dict(zip(map(str, self.context.settings.sizes), values, strict=True))

    def _about_sizes(self) -> dict[str, Any]:
        """What the card says of how the module's sizes are cut, where it was trained for several."""
        if self._sizes is None or not self._sizes.several:
            return {}
        shifts = self.history[self.best_epoch].get("shift_by_size", {}) if self.best_epoch is not None else {}
        return {"size_order": ORDER, "size_shifts": shifts}

    def _kept(self, counts: dict[str, int]) -> Figures:
        """Shares of weights kept, in all and by group, from numbers by weight key."""
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
        """Whether its steps can go into the launches of other modules' steps: those of a cluster, a whole epoch in one
        launch, without a teacher, which would need a synchronisation for each module.
        """
        context, settings = self.context, self.context.settings
        if context.engine != "cuda" or not context.trainer_class.fused or self.sampler.teacher is not None:
            return False
        width = context.corpus.train.ids.shape[1]
        return context.trainer_class.shares_launches(context.weights, settings.batch_size, width, self.epoch_steps)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.sampler.size // self.context.settings.batch_size)

    def launched_lane(self) -> LaunchedLane:
        """Its lane in a ``LaunchedCohort``, once it has begun.

        Raises:
            TypeError: It is trained by something other than ``CudaTrainer``.
        """
        settings, trainer = self.context.settings, self.trainer
        if not isinstance(trainer, CudaTrainer):
            raise TypeError(f"target {self.name}: a {type(trainer).__name__} cannot queue its epochs")
        return LaunchedLane(trainer, self.sampler, settings.batch_size, settings.head_only, self._evaluated_on)

    def lane(self) -> Lane:
        """Its lane in a ``Cohort``, once it has begun.

        Raises:
            TypeError: It is trained by something other than ``CudaGraphTrainer``.
        """
        context, settings, trainer = self.context, self.context.settings, self.trainer
        if not isinstance(trainer, CudaGraphTrainer):
            raise TypeError(f"target {self.name}: the steps of a {type(trainer).__name__} cannot be recorded")
        teacher = context.teacher_on(self.device, self.target) if settings.distill_weight > 0 else None
        evaluated_on = self._evaluation_documents[0] if self._selection else None
        documents = context.documents_on(self.device)
        return Lane(trainer, self.sampler, documents, settings.batch_size, teacher, evaluated_on)

    @functools.cached_property
    def _evaluation_documents(self) -> tuple[Split, Tensor]:
        """The evaluation documents, and which of them are the target's, bool (n,); kept until the run ends."""
        split, view = self.context.evaluation, self._view
        if not torch.equal(view, torch.arange(len(split))):
            split = Split(split.ids[view], split.lengths[view], split.labels[view])
        return split, is_target(split.labels, self.target)

    @functools.cached_property
    def _evaluated_on(self) -> EvaluationDocuments:
        """The same as ``Trainer.take_epoch`` takes them."""
        split, wanted = self._evaluation_documents
        return split.ids, split.lengths, wanted

    def finish(self) -> None:
        """Ends the run: takes the chosen module from the trainer, releases the trainer, and computes the module's
        metrics on the test documents.
        """
        trainer, context = self.trainer, self.context
        if trainer is None:
            raise RuntimeError(f"target {self.name}: a run that has not begun cannot be finished")
        if self._best is None:  # not one epoch has ended
            self._best, self._best_steps = self._with_scores(trainer.snapshot()), trainer.steps
        best = self._best
        chosen: tuple[KeepMask | dict[str, Tensor], Head]
        if best.scores is not None:
            chosen = best.scores, best.head
        elif trainer.steps == self._best_steps and not self.cut_short and self._sizes is None:
            chosen = trainer.full_scores()  # they are the best epoch's, since no step has been begun after it
        else:
            chosen = best.mask, best.head
        test, logits = context.corpus.test, None
        documents = self._evaluation_documents
        if self.period:
            best = self._judged(best, trainer)
            chosen = chosen[0], best.head
            logits = trainer.logits_as(best, test.ids, test.lengths)
        self._chosen = chosen
        self.release()
        self.finished = True  # from here on there is a module, even if its evaluation fails
        if self.period:
            card = {"base_hash": context.base_hash} | self._about_sizes()
            module = SeamModule(context.base, self.target, *chosen, card=card)
            if best.scores is not None and order_weights(best.scores):
                self._size_curve = size_curve(module, documents[0], context.settings.sizes)
            self._metrics = figures_on_test(module, context.corpus, context.base_logits(test, self.device), logits)

    def cut_off(self) -> None:
        """Notes that Ctrl-C ended the run early. Where a size is asked for, and no epoch has been evaluated yet, the
        module is cut from the present scores: those of the first epoch, which it has till then, know nothing.
        """
        self.cut_short = True
        trainer, sizes, taken = self.trainer, self._sizes, self.best_epoch
        if trainer is None or sizes is None or taken is None or "best_so_far" in self.history[taken]:
            return
        with contextlib.suppress(ValueError):  # scores that are not finite
            self._best = self._with_scores(sizes.cut(trainer, self.context, None, None).evaluation.snapshot())
            self.best_epoch, self._best_steps = self.history[-1]["epoch"], trainer.steps

    def _judged(self, best: Snapshot, trainer: Trainer) -> Snapshot:
        """The chosen module with its threshold; notes that, and what is wrong with it, for the card."""
        context, settings, documents = self.context, self.context.settings, self._evaluation_documents[0]
        own = Split(*(part[self.sampler.targets] for part in vars(context.corpus.train).values()))
        # SeaM's rule is free to choose any epoch.
        first = 0 if settings.selection == "reference" else settings.first_selectable_epoch(self.epochs)
        settled = self.best_epoch is not None and self.best_epoch >= first
        prior: tuple[Tensor, float] | None = None
        if settings.threshold == "f1" and self.history and len(settings.sizes) < 2:  # several have shifts of their own
            probability = self._base_probability(documents.ids, documents.lengths)
            prior = probability.cpu(), len(context.evaluation) / len(context.fit)
        of_module = documents, own, self.target, trainer.logits_as
        best, self._verdict = judged(best, *of_module, prior, settled, self.qualified)
        return best

    def rescue(self) -> None:
        """After a failure: finishes with the best epoch's module, where there is one, and releases all memory."""
        self.cut_short = not self.finished
        if self.trainer is not None and self.history:
            with contextlib.suppress(Exception):  # the first failure is the one to report
                self.finish()
        self.release()

    def release(self) -> None:
        """Releases the memory that only training needs."""
        self._steps, self.trainer, self._best = self.steps_done, None, None
        self.__dict__.pop("_evaluation_documents", None)
        self.__dict__.pop("_evaluated_on", None)

    @property
    def has_module(self) -> bool:
        """Whether it is finished, and if it was cut short, whether at least one epoch had ended."""
        return self.finished and (bool(self.history) or not self.cut_short)

    def module(self) -> SeamModule:
        """The chosen module of a finished run, with its history, metrics and card; always the same object."""
        if self._module is None:
            with cpu_by_default():
                self._module = self._make_module()
        return self._module

    def _make_module(self) -> SeamModule:
        """Makes the chosen module."""
        context = self.context
        if self._chosen is None:
            raise RuntimeError(f"target {self.name}: the run has no module, because it is not finished")
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
        if self.keep_scores:
            card |= {"keep_scores": True, **self._about_sizes()}
        if self._size_curve is not None:
            card["size_curve"] = self._size_curve
        card |= self._started | self._verdict
        if self.cut_short:
            card["interrupted"] = True
        module = SeamModule(
            context.base, self.target, *self._chosen, history=self.history, metrics=self._metrics, card=card
        )
        module.front = self.front.points(module)
        return module

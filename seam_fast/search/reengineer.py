"""The SEAM loop: trains the scores of each target over one base, looks at them, keeps the best epoch's."""

import collections
import contextlib
import functools
import itertools
import operator
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .._version import __version__
from ..backend import NAMES, choose_engine, resolve, supported_gpus, untrainable_reason
from ..classifier.inference import class_logits, logits_at_once, project_words
from ..classifier.metrics import base_metrics, module_metrics
from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, LSTM_KEYS, group_sizes, groups, is_plain
from ..common import rng
from ..common.arguments import callback, choice, seed_number, shown, whole_number
from ..common.cores import usable_cores
from ..common.default_device import cpu_by_default, on_the_cpu
from ..common.deprecation import warn_renamed
from ..common.progress import progress_bar
from ..common.threads import set_own_threads
from ..data.corpus import Corpus, Split, check_is_corpus
from ..errors import SeamFastError, TrainingError
from ..modules.mask import Snapshot
from ..modules.pareto import Front
from ..modules.seam_module import SeamModule
from ..training.base import Trainer
from ..training.cpu_trainer import LAZY_UPDATES, copy_to_huge_pages
from ..training.devices import (
    CPU,
    WorkerDevice,
    free_bytes,
    gpu_workers,
    is_out_of_memory,
    module_bytes,
    room_in_memory,
)
from ..training.torch_trainer import TorchTrainer
from .evaluate import check_corpus, figures_on_test, warn_of_chance
from .quicker import Work, quicker, steps_of
from .sampling import Sampler, Taught, balanced, is_target, vocabulary_floor
from .selection import F1Selection, ReferenceSelection
from .settings import Settings

OnEpoch = Callable[["ModuleRun", dict], None]
OnModule = Callable[["ModuleRun", SeamModule], None]
STEPPED_AT_ONCE = 8  # workers side by side on a GPU whose modules are trained by many small kernels ...
IN_STEP = 8  # ... and the most modules that one of them trains in step with each other
FEW_IN_STEP = 4  # where `threads` are given, a worker more for each so many
TAUGHT_AT_ONCE = 2048  # documents
BETWEEN_SHOWS = 0.05  # seconds between two looks at all jobs for the bar; while it is drawn no worker can go on


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during ``reengineer``; ``modules`` holds each target's best so far (None where no epoch had ended)."""

    def __init__(self, modules: list[SeamModule | None]):
        super().__init__("interrupted; the best modules so far are in .modules")
        self.modules = modules


def reengineer(
    base: LSTMClassifier,
    corpus: Corpus,
    targets: Iterable[int | Sequence[int]],
    *,
    protocol: str | None = None,
    alpha: float | None = None,
    lr_mask: float | None = None,
    lr_head: float | None = None,
    epochs: int | None = None,
    schedule: str | None = None,
    sampling: str | None = None,
    seed: int = 0,
    evaluate_every: int = 1,
    threads: int | None = None,
    backend: str = "auto",
    lazy_update: str = "quadrature",
    progress: bool = False,
    on_epoch: OnEpoch | None = None,
    on_module: OnModule | None = None,
    settings: Settings | None = None,
    catch_up: str | None = None,
    **options,
) -> list[SeamModule]:
    """Learns which weights of a trained classifier each target needs; the weights themselves stay as they are.

    Parameters
    ----------
    base: the trained classifier, frozen.
    corpus: the documents, numbered with the base's vocabulary.
    targets: class numbers; a target may also be a set of classes, such as ``(1, 4)``.
    protocol: ``"seam"`` (the default: validation documents choose the epoch, the test set is looked at once) or
        ``"reference"`` (the public port's procedure); it sets the defaults of all that follows.
    alpha, lr_mask, lr_head, epochs, schedule, sampling, **options: override fields of ``Settings``.
    settings: a whole ``Settings`` object instead of a protocol's defaults.
    seed: a whole number, of head, order, drawn documents and dropped words; same seed, same machine: same modules, bit
        for bit.
    evaluate_every: epochs between two looks at the evaluation documents; 0 never looks, not even at the end, and keeps
        the last epoch.
    threads: modules trained at the same time; default: as many as there are cores, or on GPUs as many as all of these
        together have multiprocessors and free memory for, which is also the most. The others wait for their turn.
        Results do not depend on it, unless backend is ``"auto"`` on a machine with a GPU.
    backend: ``"cuda"``, every NVIDIA GPU of the machine, ``"cpu"``, the compiled engine of the CPU, ``"torch"``, plain
        PyTorch, or ``"auto"``, the first of them that can be used; but the CPU's engine where a job is so small that it
        is done there before a GPU has begun.
    lazy_update: when the compiled engine, that of a GPU as well, steps an embedding row whose word does not occur:
        only once the word occurs again, by ``"quadrature"`` (all steps it has skipped at once, no less exact than
        float32 is step by step) or ``"replay"`` (step by step), or ``"off"``, in every step. Where bases are trained by
        the ops (several layers, both directions, or too large for one launch on a GPU) and in plain PyTorch every row
        is stepped in every step.
    progress: say on standard error how it goes: by a bar if that is a terminal, else by a line after some seconds and
        then every half minute; steps a second, time left and modules done, of all.
    on_epoch: called as ``on_epoch(job, figures)`` in the calling thread after each epoch of each module.
    on_module: called as ``on_module(job, module)`` in the calling thread as soon as a module is ready, while others are
        still trained: the moment to save it.

    Returns one ``SeamModule`` a target, in order. Its ``front`` lists the epochs that no other epoch equals or beats in
    both accuracy on the evaluation documents and share of kept weights, each with its module. Raises TrainingError for
    arguments and settings that cannot work, before anything is trained, and for values that are not finite or a GPU
    without memory once the other targets have ended. Ctrl-C raises ``Interrupted``, and an exception in a callback ends
    the training as Ctrl-C does. All these exceptions have ``modules``, one a target: those that were ready; the best so
    far of a target that was cut short, its card saying ``interrupted``; None where no epoch had ended.
    """
    if settings is None:
        settings = Settings.for_protocol("seam" if protocol is None else protocol)
    check_settings(settings)
    if protocol not in (None, settings.protocol):
        raise TrainingError(
            f"protocol is {shown(protocol)}, but the settings given are of protocol {settings.protocol!r}; give one of "
            "them"
        )
    overrides = {
        "alpha": alpha,
        "lr_mask": lr_mask,
        "lr_head": lr_head,
        "epochs": epochs,
        "schedule": schedule,
        "sampling": sampling,
    }
    settings = settings.with_options(**overrides, **options)
    same = {"seed": seed, "evaluate_every": evaluate_every, "threads": threads, "backend": backend}
    if catch_up is not None:
        lazy_update = _lazy_update_of(catch_up)
    same |= {"lazy_update": lazy_update, "progress": progress, "on_epoch": on_epoch, "on_module": on_module}
    return reengineer_many(base, corpus, targets, [settings], **same)[0]


@on_the_cpu
def reengineer_many(
    base: LSTMClassifier,
    corpus: Corpus,
    targets: Iterable[int | Sequence[int]],
    settings: Sequence[Settings],
    *,
    seed: int = 0,
    evaluate_every: int = 1,
    threads: int | None = None,
    backend: str = "auto",
    lazy_update: str = "quadrature",
    progress: bool = False,
    on_epoch: OnEpoch | None = None,
    on_module: OnModule | None = None,
    catch_up: str | None = None,
) -> list[list[SeamModule]]:
    """``reengineer`` with each of several settings, all modules side by side: on a GPU a whole study costs little more
    than its longest module.

    Returns a list of modules for each of the settings, in order, each as ``reengineer`` gives it. Errors and Ctrl-C as
    there; their ``modules`` come one settings' after the other's. ``job.study.settings`` tells ``on_epoch`` which they
    are.
    """
    if catch_up is not None:
        lazy_update = _lazy_update_of(catch_up)
    if isinstance(settings, Settings) or not isinstance(settings, Iterable):
        raise TrainingError(f"settings is {shown(settings)}; give a list of Settings")
    settings = [check_settings(one) for one in settings]
    check_base(base)
    check_is_corpus(corpus)
    engine = choose_engine(backend, base.hidden2label.weight.dtype)
    if not isinstance(targets, Iterable) or isinstance(targets, str):
        raise TrainingError(f"targets is {shown(targets)}; give a list of targets, such as [4] or range(8)")
    targets = [normalise_target(target, corpus.num_classes) for target in targets]
    if threads is not None:
        threads = whole_number("threads", threads, 1, otherwise=", or None for all cores")
    evaluate_every = whole_number("evaluate_every", evaluate_every, 0)
    if evaluate_every == 0 and any(one.early_stop >= 0 for one in settings):
        raise TrainingError("early_stop has no effect where evaluate_every is 0; leave one of them out")
    seed = seed_number(seed)
    callback("on_epoch", on_epoch)
    callback("on_module", on_module)
    engine = quicker_engine(engine, backend, base, corpus, targets, settings, threads)
    contexts: list[SearchContext] = []
    with cpu_by_default():
        for one in settings:
            contexts.append(
                SearchContext(base, corpus, one, engine, lazy_update, beside=contexts[0] if contexts else None)
            )
        jobs = [[ModuleRun(context, target, seed, evaluate_every) for target in targets] for context in contexts]
        if evaluate_every and contexts:
            split, what = contexts[0].evaluation, contexts[0].settings.evaluation
            warn_of_chance(contexts[0].base_logits(split), split.labels, f"the {what} documents")
    run_jobs([job for row in jobs for job in row], threads, progress, on_epoch, on_module)
    return [[job.module() for job in row] for row in jobs]


def _lazy_update_of(catch_up: str) -> str:
    """What the deprecated ``catch_up`` means."""
    lazy_update = "off" if catch_up == "dense" else catch_up
    warn_renamed(f"catch_up={catch_up!r}", f"lazy_update={lazy_update!r}", stacklevel=4)
    return lazy_update


def check_settings(settings: Settings) -> Settings:
    """The same; TrainingError for anything else."""
    if not isinstance(settings, Settings):
        raise TrainingError(f"settings is {shown(settings)}; it must be a Settings object")
    return settings


def check_base(base: LSTMClassifier) -> None:
    """Raises TrainingError for what is no classifier, or has no values."""
    if not isinstance(base, LSTMClassifier):
        raise TrainingError(f"base is {shown(base)}; it must be an LSTMClassifier, such as LSTMClassifier.load gives")
    weights = base.weights().values()
    if any(weight.is_meta for weight in weights):
        raise TrainingError("the base has no values, it is on the device 'meta'; load or train it first")
    if len(dtypes := {str(weight.dtype).removeprefix("torch.") for weight in weights}) > 1:
        raise TrainingError(f"the base's weights are of several dtypes, {', '.join(sorted(dtypes))}; make them of one")


def normalise_target(target: int | Sequence[int], num_classes: int) -> tuple[int, ...]:
    """A class number or a set of them as a sorted tuple; TrainingError where a class does not exist."""
    single = getattr(target, "ndim", 0) == 0 and (isinstance(target, str) or not isinstance(target, Iterable))
    if single or (isinstance(target, Tensor) and target.ndim == 0):
        target = [target]
    try:
        if any(isinstance(k, bool) for k in target):
            raise TypeError
        classes = sorted({operator.index(k) for k in target})
    except TypeError:
        raise TrainingError(f"a target is a class number or a set of class numbers, not {shown(target)}") from None
    if not classes:
        raise TrainingError("a target needs at least one class")
    for k in classes:
        if not 0 <= k < num_classes:
            raise TrainingError(
                f"target class {shown(k)} does not exist: the corpus has classes 0 to {num_classes - 1}"
            )
    return tuple(classes)


class SearchContext:
    """What all modules of one settings share: base, corpus, settings, the splits, and the base's own outputs.

    engine: ``"cuda"``, ``"cpu"`` or ``"torch"``; lazy_update: see ``reengineer``. beside: another context of the same
    base, corpus and engine, with which this one shares what does not depend on settings. The weights are on the CPU;
    ``weights_on`` gives those of a GPU.
    """

    def __init__(
        self,
        base: LSTMClassifier,
        corpus: Corpus,
        settings: Settings,
        engine: str = "torch",
        lazy_update: str = LAZY_UPDATES[0],
        beside: "SearchContext | None" = None,
    ):
        check_settings(settings)
        choice("engine", engine, NAMES)
        choice("lazy_update", lazy_update, LAZY_UPDATES)
        check_corpus(base, corpus)
        weights = {key: weight.to(CPU.device) for key, weight in base.weights().items()}
        self.base_hash = beside.base_hash if beside else base.hash  # now: the base may be trained on meanwhile
        self.base, self.corpus, self.settings, self.weights = base, corpus, settings, weights
        self.engine, self.lazy_update = engine, lazy_update
        if beside and beside.settings.evaluation == settings.evaluation:
            self.fit, self.evaluation = beside.fit, beside.evaluation
        elif settings.evaluation == "validation":
            self.fit, held_out = corpus.validation_indices()
            self.evaluation = Split(
                *(part[held_out] for part in (corpus.train.ids, corpus.train.lengths, corpus.train.labels))
            )
        else:
            self.fit, self.evaluation = torch.arange(len(corpus.train)), corpus.test
        self.uses_fused_engine = uses_fused_engine(engine, weights, settings.batch_size)
        if beside and self.uses_fused_engine == beside.uses_fused_engine:
            self.weights = beside.weights
        elif engine == "cpu" and self.uses_fused_engine:
            self.weights = copy_to_huge_pages(weights)
        self.groups, self.sizes = groups(weights), group_sizes(weights)
        self.total = sum(self.sizes.values())
        self._base_logits: dict[int, Tensor] = {}
        self._copies: dict[torch.device, dict[str, Tensor]] = {}
        self._documents: dict[torch.device, Split] = {}
        self.taught: collections.defaultdict[tuple, Taught] = collections.defaultdict(Taught)  # by what samplers draw
        self._projected: dict[str, Tensor | None] = {}  # the base's projection of all words, once somebody needs it
        self._lock, self._projecting = threading.Lock(), threading.Lock()
        if beside:
            self._base_logits, self._copies, self._lock = beside._base_logits, beside._copies, beside._lock
            self._documents, self.taught = beside._documents, beside.taught
            self._projected, self._projecting = beside._projected, beside._projecting

    def weights_on(self, device: torch.device) -> dict[str, Tensor]:
        """The base's weights by key on a device, copied there once for all its modules."""
        if device.type == "cpu":
            return self.weights
        with self._lock:
            if device not in self._copies:
                self._copies[device] = copied_to(device, self.weights)
            return self._copies[device]

    def documents_on(self, device: torch.device) -> Split:
        """The training documents on a device, copied there once for all modules."""
        train = self.corpus.train
        if device.type == "cpu":
            return train
        with self._lock:
            if device not in self._documents:
                self._documents[device] = Split(**copied_to(device, dict(vars(train))))
            return self._documents[device]

    def base_logits(self, split: Split, device: torch.device = CPU.device) -> Tensor:
        """The base's logits of a split (N, C), computed once, where somebody first asks for them."""
        weights = self.weights_on(device)
        with self._lock:
            if id(split) not in self._base_logits:
                self._base_logits[id(split)] = self._class_logits(weights, split.ids, split.lengths)
            return self._base_logits[id(split)]

    def base_probability(self, target: tuple[int, ...], ids: Tensor, lengths: Tensor, device=CPU.device) -> Tensor:
        """What the base gives the target: ids (N, T), lengths (N,) -> (N,), computed on that device."""
        if ids is self.corpus.train.ids:  # the same for all modules
            logits = self.base_logits(self.corpus.train, device)
        else:
            logits = self._class_logits(self.weights_on(device), ids, lengths)
        return torch.softmax(logits, 1)[:, list(target)].sum(1)

    def teacher_on(self, device: torch.device, target: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
        """`base_probability` as a function of words (T, n) and lengths (n,) on a device that reads nothing back."""
        weights = self.weights_on(device)
        wanted = torch.tensor(target).to(weights[EMBEDDING].device)

        def teacher(words, lengths):
            pieces = zip(words.split(TAUGHT_AT_ONCE, 1), lengths.split(TAUGHT_AT_ONCE), strict=True)
            logits = torch.cat([logits_at_once(weights, *piece, self.base.readout) for piece in pieces])
            return torch.softmax(logits, 1).index_select(1, wanted).sum(1)

        return teacher

    def _class_logits(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        if self.engine != "cpu":
            backend = "cuda" if weights[EMBEDDING].is_cuda else "torch"
            return class_logits(weights, ids, lengths, self.base.readout, backend)
        with self._projecting:
            if not self._projected:
                self._projected["words"] = project_words(weights, "cpu")
        return class_logits(weights, ids, lengths, self.base.readout, "cpu", self._projected["words"])


def quicker_engine(engine: str, backend: str, base, corpus, targets, settings, threads: int | None) -> str:
    """The engine that ``"auto"`` takes for a job: of CPU and GPU, where both can train it, the one that is done sooner;
    otherwise, and where the caller has named one, that engine.
    """
    weights = base.weights()
    if engine != "cuda" or resolve(backend) != "auto" or untrainable_reason(weights[EMBEDDING].dtype):
        return engine
    if not settings or not targets or not is_plain(weights):  # the CPU has no engine for several layers, but the op
        return engine
    return quicker(*work_of(weights, corpus, targets, settings), len(supported_gpus()), threads)[0]


def work_of(weights: dict[str, Tensor], corpus: Corpus, targets, settings: Sequence[Settings]) -> tuple[Work, bool]:
    """What a job is, and whether a GPU trains all of it by many steps a launch."""
    labels = corpus.train.labels
    size = sum(weights[key].numel() for key in LSTM_KEYS[:2])
    works = []
    for one in settings:
        used = 0.9 if one.evaluation == "validation" else 1.0
        counts = [int(used * int(is_target(labels, target).sum())) for target in targets]
        steps = tuple(steps_of(one, count, int(used * len(labels)) - count) for count in counts)
        works.append(Work(steps, one.batch_size * corpus.train.ids.shape[1], size))
    from ..training.cuda_trainer import takes_cluster

    one_launch = all(
        uses_fused_engine("cuda", weights, one.batch_size) and takes_cluster(weights, one.batch_size)
        for one in settings
    )
    return functools.reduce(operator.add, works), one_launch


def copied_to(device: torch.device, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A base's weights by key on another device; all are there when this returns, whichever stream reads them."""
    return {key: weight.to(device) for key, weight in weights.items()}


def uses_fused_engine(engine: str, weights: dict[str, Tensor], batch_size: int) -> bool:
    """Whether an engine trains modules over this base in whole epochs of native code, in which the rows of absent words
    wait and catch up; all others go through the ops step by step.
    """
    if engine == "cuda" and is_plain(weights) and weights[EMBEDDING].dtype == torch.float32:
        from ..training.cuda_trainer import unsupported_reason

        return not unsupported_reason(weights, batch_size)
    return engine == "cpu" and is_plain(weights)


def engines_on_card(
    weights: dict[str, Tensor], backend: str, lazy_update: str, batch_size: int
) -> list[dict[str, str | None]]:
    """What the card of a module may say of its engine: ``engine`` and, where it has one, ``lazy_update``. More than one
    thing where ``"auto"`` takes one engine or the other, as a job is large or small.
    """
    dtype = weights[EMBEDDING].dtype
    engines = [choose_engine(backend, dtype)]
    if engines == ["cuda"] and resolve(backend) == "auto" and not untrainable_reason(dtype):
        engines.append("cpu")
    return [
        {"engine": engine, "lazy_update": lazy_update if uses_fused_engine(engine, weights, batch_size) else None}
        for engine in engines
    ]


def make_trainer(
    context: SearchContext, head: tuple[Tensor, Tensor], words, device: torch.device = CPU.device
) -> Trainer:
    """The trainer for a study's base and engine on a device; head and words as in ``Trainer``."""
    settings = context.settings
    options = {
        "alpha": settings.alpha,
        "lr_mask": settings.lr_mask,
        "lr_head": settings.lr_head,
        "schedule": settings.schedule,
        "penalty": settings.penalty,
        "lstm_penalty_scale": settings.lstm_penalty_scale,
        "readout": context.base.readout,
        "target_weight": settings.target_weight,
    }
    weights = context.weights_on(device)
    if context.engine == "cuda" and context.uses_fused_engine:
        from ..training.cuda_trainer import CudaTrainer

        return CudaTrainer(weights, head, words, lazy_update=context.lazy_update, **options)
    if context.engine == "cuda":  # another shape or dtype
        from ..training.cuda_graph_trainer import CudaGraphTrainer

        return CudaGraphTrainer(weights, head, words, backend="cuda", **options)
    if context.engine == "cpu" and context.uses_fused_engine:
        from ..training.cpu_trainer import CpuTrainer

        return CpuTrainer(weights, head, words, lazy_update=context.lazy_update, **options)
    if context.engine == "cpu":  # several layers or both directions
        from ..training.op_trainer import OpTrainer

        return OpTrainer(weights, head, words, backend="cpu", **options)
    return TorchTrainer(weights, head, words, **options)


class ModuleRun:
    """One target's run: trainer, selection, history, the best state so far and the front."""

    def __init__(self, context: SearchContext, target: tuple[int, ...], seed: int, evaluate_every: int):
        self.context, self.target, self.seed, self.evaluate_every = context, target, seed, evaluate_every
        settings = context.settings
        self.device = CPU.device  # where it is trained; `run` says
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

    def run(
        self, stop: threading.Event, report: Callable[["ModuleRun", dict], None], place: WorkerDevice = CPU
    ) -> None:
        """Trains at a place, which the calling thread has entered, to the end or until ``stop`` is set;
        ``report(job, figures)`` follows each epoch.
        """
        self.begin(place)
        settings, trainer = self.context.settings, self.trainer
        known = None  # the last look at the evaluation documents, as long as the scores stand still
        for epoch in range(self.epochs):
            head_only, evaluates = settings.head_only(epoch), self.evaluates(epoch)
            trainer.scale_learning_rates(settings.lr_scale(epoch, self.epochs))
            options = {"head_only": head_only, "stop": stop, "known": known if head_only else None}
            with self.naming(epoch):
                evaluated_on = self._evaluated_on if evaluates else None
                loss, look = trainer.take_epoch(
                    self.sampler, epoch, settings.batch_size, evaluated_on=evaluated_on, **options
                )
            if stop.is_set():
                self.cut_short = True
                break
            if evaluates or not head_only:
                known = look if evaluates else None
            if not self.end_epoch(
                epoch, loss, look.kept, lambda look=look: look.outputs, look.snapshot, report, look.figures
            ):
                break
        self.finish()

    def begin(self, place: WorkerDevice) -> None:
        """Makes the trainer at a place, where there is none yet."""
        if self.trainer is not None:
            return
        context, self.device = self.context, place.device
        self._begun = time.perf_counter()
        base_dtype = next(iter(context.weights.values())).dtype
        head = rng.head(self.seed, self.target, context.corpus.num_classes)
        head = tuple(part.to(base_dtype) for part in head)
        self.trainer = make_trainer(context, head, self.sampler.words(), place.device)
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
        judged: dict[str, float] | None = None,
    ) -> bool:
        """Draws the conclusions from an epoch; kept: numbers by weight key; outputs(): those of the module for the
        evaluation documents (n, 2); snapshot(): the trainer's; judged: `module_metrics` of the outputs, where they are
        known already. Returns whether another epoch is wanted.
        """
        rule, trainer = self._selection, self.trainer
        figures = {"epoch": epoch, "cross_entropy": loss} | self._kept(kept)
        taken = None  # the choice and the front share one
        if self.evaluates(epoch):
            figures |= judged or module_metrics(outputs(), self._evaluation_documents[1])
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
        return self.launched if context.uses_fused_engine else context.settings.schedule != "seam"

    @functools.cached_property
    def launched(self) -> bool:
        """Whether its steps can go into the launches of others: those of a cluster, an epoch at a time, without a
        teacher, whose answers would be waited for module by module."""
        context, settings = self.context, self.context.settings
        if context.engine != "cuda" or not context.uses_fused_engine or self.sampler.teacher is not None:
            return False
        from ..training.cuda_trainer import steps_at_once, takes_cluster

        width, weights = context.corpus.train.ids.shape[1], context.weights
        at_once = steps_at_once(weights, settings.batch_size, width)
        return takes_cluster(weights, settings.batch_size) and self.epoch_steps <= at_once

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.sampler.size // self.context.settings.batch_size)

    def lane(self):
        """Its place in a cohort, once it has begun."""
        context, settings = self.context, self.context.settings
        if self.launched:
            from .cuda_cohort import LaunchedLane

            return LaunchedLane(self.trainer, self.sampler, settings.batch_size, settings.head_only, self._evaluated_on)
        from .cohort import Lane

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
        if context.uses_fused_engine:
            card["lazy_update"] = context.lazy_update
        if self.cut_short:
            card["interrupted"] = True
        module = SeamModule(
            context.base, self.target, self._scores, self._head, history=self.history, metrics=self._metrics, card=card
        )
        module.front = self.front.points(module)
        return module


def run_jobs(
    jobs: list[ModuleRun],
    threads: int | None,
    progress: bool,
    on_epoch: OnEpoch | None,
    on_module: OnModule | None = None,
) -> None:
    """Runs all jobs on worker threads, one a place, longest first, one torch thread each; raises the error of the first
    job that failed.

    Callbacks and the progress bar stay in the calling thread. Ctrl-C, and an exception in a callback, let each job end
    the steps that it has begun, at most 64 on the CPU and a launch on a GPU; Ctrl-C raises Interrupted.
    """
    places = workers_for(jobs, threads)
    if threads is not None and jobs and jobs[0].in_step and not jobs[0].launched:
        places = places[: -(-threads // FEW_IN_STEP)]
    units = units_of(jobs, places, threads)
    room = Room(places) if any(len(unit) > 1 and unit[0].launched for unit in units) else None
    places = places[: max(1, len(units))]
    waiting: queue.SimpleQueue[list[ModuleRun]] = queue.SimpleQueue()
    for unit in units:
        waiting.put(unit)
    reports: queue.SimpleQueue = queue.SimpleQueue()  # (job, figures), (job, None): it is ready, None: a worker left
    stop, errors = threading.Event(), {}

    def tell(job, figures):
        if on_epoch or figures is None:  # else nobody wants to hear of it, and this thread would be woken in vain
            reports.put((job, figures))

    def fail(job, error):
        # In its stead, for its traceback would keep the trainer, and so the memory that the others lack.
        errors[job] = out_of_memory(job, place_of[job], places) if is_out_of_memory(error) else error
        job.rescue()
        job.ended = True

    place_of = {}

    def work(place):
        set_own_threads(1)  # a module is too small to share; a core each is what pays
        while not stop.is_set():
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                return
            if room and not room.take(place, unit, stop):
                return
            place_of.update(dict.fromkeys(unit, place))
            try:
                with place.entered():
                    if not (unit[0].in_step and run_in_step(unit, stop, tell, fail, place)):
                        for job in unit:
                            job.run(stop, tell, place)
            except BaseException as error:  # the other modules go on
                if halves := split_for_memory(unit, error):
                    for half in halves:
                        waiting.put(half)
                    continue
                for job in unit:
                    if not job.ended:
                        fail(job, error)
            finally:
                if room:
                    room.give_back(place, unit)
            for job in unit:
                job.ended = True
                if job.finished and not job.cut_short and job not in errors:
                    tell(job, None)

    def work_and_say_so(place):
        try:
            work(place)
        finally:
            reports.put(None)

    def show(bar):
        bar.total = sum(job.steps_done if job.ended else job.steps for job in jobs)  # less where some stopped early
        bar.set_postfix_str(f"{sum(job.ended for job in jobs)}/{len(jobs)} modules", refresh=False)
        bar.update(sum(job.steps_done for job in jobs) - bar.n)

    workers: list[threading.Thread] = []
    due = time.monotonic()  # when the bar is shown again
    bar = progress_bar(sum(job.steps for job in jobs), "re-engineering") if progress else None
    try:
        start_workers(workers, work_and_say_so, places)
        count = len(workers)
        while count:
            try:
                report = reports.get(timeout=0.1)
            except queue.Empty:
                pass
            else:
                if report is None:
                    count -= 1
                elif report[1] is not None:
                    if on_epoch:
                        on_epoch(*report)
                elif on_module:
                    on_module(report[0], report[0].module())
            if bar is not None and (time.monotonic() >= due or not count):
                show(bar)
                due = time.monotonic() + BETWEEN_SHOWS
    except BaseException as error:
        end(workers, stop)
        modules = [job.module() if job.has_module else None for job in jobs]
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(modules) from None
        with contextlib.suppress(AttributeError):  # of a class that takes none
            error.modules = modules
        raise
    finally:
        end(workers, stop)
        if bar is not None:
            bar.close()
    for job in jobs:
        if job in errors:
            error = errors[job]
            if isinstance(error, Exception) and not isinstance(error, SeamFastError):
                error = RuntimeError(f"target {job.name} failed")
                error.__cause__ = errors[job]
            error.modules = [other.module() if other.has_module else None for other in jobs]
            raise error


def start_workers(
    workers: list[threading.Thread], work: Callable[[WorkerDevice], None], places: list[WorkerDevice]
) -> None:
    """Adds a running thread for each place, or for as many as can be started. Raises TrainingError where none can."""
    for place in places:
        worker = threading.Thread(target=work, args=(place,), daemon=True)
        try:
            worker.start()
        except RuntimeError as error:
            if not workers:
                raise TrainingError(f"no thread to train in can be started: {error}; allow more threads") from None
            return
        workers.append(worker)


def end(workers: list[threading.Thread], stop: threading.Event) -> None:
    """Lets the workers end what they have begun."""
    stop.set()
    for worker in workers:
        worker.join()


class Room:
    """For as many modules on each device as there are places there, whoever trains how many of them together."""

    def __init__(self, places: list[WorkerDevice]):
        self._free = collections.Counter(place.device for place in places)
        self._changed = threading.Condition()

    def take(self, place: WorkerDevice, unit: list[ModuleRun], stop: threading.Event) -> bool:
        """Waits until there is room for a unit; False once ``stop`` is set."""
        with self._changed:
            while self._free[place.device] < len(unit):
                if stop.is_set():
                    return False
                self._changed.wait(0.1)
            self._free[place.device] -= len(unit)
        return True

    def give_back(self, place: WorkerDevice, unit: list[ModuleRun]) -> None:
        with self._changed:
            self._free[place.device] += len(unit)
            self._changed.notify_all()


def units_of(jobs: list[ModuleRun], places: list[WorkerDevice], threads: int | None) -> list[list[ModuleRun]]:
    """The jobs that a worker takes at a time, longest first: one, or those of equally many steps an epoch in step.

    At most IN_STEP and, at all places, ``threads``; and not all of them in one, so that one worker's modules are
    trained while another looks at its own. Of those whose steps share launches two units at least for each device, and
    each finds room beside another.
    """
    limits = [IN_STEP, *(place.modules for place in places if place.modules is not None)]
    together = max(1, min(limits if threads is None else [*limits, threads // len(places)]))
    on_each = collections.Counter(place.device for place in places)
    alike: dict = {}
    for job in jobs:
        alike.setdefault((job.epoch_steps, job.context.settings.batch_size) if job.in_step else job, []).append(job)
    units = []
    for group in alike.values():
        group.sort(key=lambda job: -job.steps)
        size, least = together, 2
        if group[0].launched:
            size, least = min(together, max(1, min(on_each.values()) // 2)), 2 * len(on_each)
        size = min(size, -(-len(group) // least))
        count = -(-len(group) // size)
        bounds = [len(group) * number // count for number in range(count + 1)]
        units += [group[begin:end] for begin, end in itertools.pairwise(bounds)]
    return sorted(units, key=lambda unit: -max(job.steps for job in unit))


def run_in_step(jobs: list[ModuleRun], stop: threading.Event, report, fail, place: WorkerDevice) -> bool:
    """Trains jobs together as ``Job.run`` would each of them; fail(job, error) is told of those that end in an error
    of their own. False, with nothing done, where their trainers are not made for it.
    """
    for job in jobs:
        job.begin(place)
    if not (cohort := cohort_of(jobs, place)):
        return False
    lanes, longest = dict(zip(jobs, cohort.lanes, strict=True)), max(job.epochs for job in jobs)
    rows = dict(zip(jobs, range(len(jobs)), strict=True))
    running = [job for job in jobs if job.epochs]
    drawn = cohort.draw(0) if longest else {}
    for epoch in range(longest):
        if stop.is_set() or not running:
            break
        for job in running:
            job.trainer.scale_learning_rates(job.context.settings.lr_scale(epoch, job.epochs))
        evaluates = any(job.evaluates(epoch) for job in running)
        wait = cohort.run_epoch(epoch, drawn, evaluates)
        drawn = cohort.draw(epoch + 1) if epoch + 1 < longest else {}  # while the device works
        told = wait()
        if stop.is_set():
            break
        for job in list(running):
            try:
                with job.naming(epoch):
                    look = lanes[job].read(told[rows[job]], evaluates)
                outputs = functools.partial(getattr, look, "logits")
                if job.end_epoch(epoch, look.loss, look.kept, outputs, look.snapshot, report, look.figures):
                    continue
                lanes[job].alive = False
                job.finish()
                job.ended = True
            except TrainingError as error:
                lanes[job].alive = False
                fail(job, error)
            running.remove(job)
    for job in jobs:
        if not job.ended:
            job.cut_short = job in running and stop.is_set()
            job.finish()
    return True


def cohort_of(jobs: list[ModuleRun], place: WorkerDevice):
    """Jobs that have begun, as a cohort; None where there is nothing to be gained."""
    if all(job.launched and hasattr(job.trainer, "queued") for job in jobs):
        from .cuda_cohort import LaunchedCohort

        return LaunchedCohort([job.lane() for job in jobs]) if len(jobs) > 1 else None
    if all(hasattr(job.trainer, "feed_of") for job in jobs):
        from .cohort import Cohort

        return Cohort([job.lane() for job in jobs], place.branches)
    return None


def split_for_memory(unit: list[ModuleRun], error: BaseException) -> list[list[ModuleRun]]:
    """Two smaller units for another try where a GPU had no memory for all of these at once, and nothing is lost."""
    if len(unit) == 1 or not is_out_of_memory(error) or any(job.history or job.ended for job in unit):
        return []
    for job in unit:
        job.release()
    return [unit[: len(unit) // 2], unit[len(unit) // 2 :]]


def workers_for(jobs: list[ModuleRun], threads: int | None) -> list[WorkerDevice]:
    """A place for each worker: cores, or streams on all GPUs, on each as many as it can train at once and has memory
    for; at most ``threads``, and no more than there are jobs.
    """
    if not jobs or jobs[0].context.engine != "cuda":
        return [CPU] * max(1, min(threads or usable_cores(), len(jobs)))
    most, contexts = min(threads or len(jobs), len(jobs)), list({id(job.context): job.context for job in jobs}.values())
    rows = max(len(job.sampler.words()) for job in jobs)
    longest = contexts[0].corpus.train.ids.shape[1]
    largest = max(context.settings.batch_size for context in contexts)
    need = module_bytes(contexts[0].weights, rows, largest, longest)
    room, fits, tight, suits = {}, {}, {}, False
    for index in supported_gpus():
        if len(room) == most:  # where there are fewer modules than GPUs, the other GPUs are left alone
            break
        try:
            weights = contexts[0].weights_on(torch.device("cuda", index))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            suits = True
            continue
        if at_once := min(modules_at_once(context, index, weights) for context in contexts):
            suits, free = True, free_bytes(index)
            if fitting := room_in_memory(free, need):
                room[index], fits[index] = min(at_once, fitting), fitting
            else:
                tight[index] = free
    if not suits:
        raise TrainingError("no GPU here can train modules of this base; choose backend 'cpu'")
    if not room and tight:  # an estimate may be wrong: one module is tried, and says so if it is not
        room = {max(tight, key=tight.get): 1}
    if not room:
        raise TrainingError("no GPU has room for the base and a module; free its memory, or choose backend 'cpu'")
    if all(context.uses_fused_engine for context in contexts):
        return gpu_workers(room, most)
    places = gpu_workers(room, most, IN_STEP)
    workers = collections.Counter(place.device.index for place in places)
    return [replace(place, modules=fits.get(i := place.device.index, 1) // workers[i]) for place in places]


def modules_at_once(context: SearchContext, index: int, weights: dict[str, Tensor]) -> int:
    """How many modules a GPU can train at the same time, memory apart."""
    if not context.uses_fused_engine:
        return STEPPED_AT_ONCE
    from ..training.cuda_trainer import places_at_once

    return places_at_once(index, weights, context.settings.batch_size)


def out_of_memory(job: ModuleRun, place: WorkerDevice, places: list[WorkerDevice]) -> TrainingError:
    """What is said of a job for which its GPU had no memory left."""
    beside = sum(other.device == place.device for other in places)
    modules = "one module was" if beside == 1 else f"up to {beside} modules were"
    todo = "choose a smaller batch_size (--batch-size) or backend 'cpu' (--backend cpu)"
    if len(places) > 1:
        todo = f"give fewer threads (--threads) than the {len(places)} of this run"
    return TrainingError(
        f"target {job.name}: no memory was left on {place.device}, where {modules} trained at once; {todo}"
    )

"""Re-engineering: learns which weights of a trained classifier each target needs."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..backend import choose_engine
from ..classifier.corpus_check import check_corpus
from ..classifier.model import LSTMClassifier
from ..common.arguments import callback, seed_number, shown, truth, whole_number
from ..common.default_device import cpu_by_default, on_the_cpu
from ..common.deprecation import warn_renamed
from ..data.checks import warn
from ..data.corpus import Corpus, check_is_corpus
from ..errors import TrainingError
from ..modules.seam_module import SeamModule
from .auto_engine import quicker_engine
from .context import SearchContext
from .evaluate import warn_of_chance
from .module_run import ModuleRun
from .scheduler import OnEpoch, OnModule, run_all
from .settings import START_FROM_MODULE, Settings, check_settings
from .start import StartModules


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
    evaluate_every: int | None = None,
    threads: int | None = None,
    backend: str = "auto",
    lazy_update: str = "quadrature",
    progress: bool = False,
    on_epoch: OnEpoch | None = None,
    on_module: OnModule | None = None,
    settings: Settings | None = None,
    keep_scores: bool = False,
    start: str | SeamModule | Iterable[SeamModule] | StartModules | None = None,
    catch_up: str | None = None,
    **options: Any,
) -> list[SeamModule]:
    """Learns which weights of a trained classifier each target needs; the weights themselves do not change.

    Args:
        base: The trained classifier.
        corpus: The documents, numbered with the base's vocabulary.
        targets: Class numbers; a target may also be a set of classes, such as ``(1, 4)``.
        protocol: ``"seam"`` (the default: validation documents choose the epoch, and the test set is used once, at the
            end) or ``"reference"`` (the public port's procedure). It sets the defaults of all that follow.
        alpha: See ``Settings``, as for the other fields of it.
        lr_mask: See ``Settings``.
        lr_head: See ``Settings``.
        epochs: See ``Settings``.
        schedule: See ``Settings``.
        sampling: See ``Settings``.
        seed: Seed of initial head, order, drawn documents and dropped words: a whole number. The same seed gives the
            same modules on the same machine, bit for bit.
        evaluate_every: Epochs between two evaluations; 0: never evaluate, not even at the end, and keep the last epoch.
            Default: 1, or with selection ``"f1"`` as many as it takes for evaluations to read no more documents than
            training.
        threads: How many modules are trained at the same time. Default: as many as there are cores; on GPUs, as many as
            these have multiprocessors and free memory for, which is also the maximum. Results do not depend on it,
            unless ``backend`` is ``"auto"`` on a machine with a GPU.
        backend: ``"cuda"``, all NVIDIA GPUs of the machine; ``"cpu"``, the compiled engine on the CPU; ``"torch"``,
            plain PyTorch; or ``"auto"``, the first of these that can be used, but the CPU where a job is so small that
            it is done there before a GPU has started.
        lazy_update: When the compiled engine, on CPU or GPU, steps the scores of an embedding row whose word does not
            occur in a step: not before the word occurs again, by ``"quadrature"`` (all skipped steps at once, no less
            exact in float32 than step by step) or ``"replay"`` (step by step); or ``"off"``, in every step. It has no
            effect in plain PyTorch, and where the ops train (several layers, both directions, or bases too large for
            the compiled engine on a GPU): there every row is stepped in every step.
        progress: Whether to report on standard error: by a progress bar if that is a terminal, else by a line after
            some seconds and then every half minute.
        on_epoch: Called as ``on_epoch(run, figures)`` in the calling thread after each epoch of each module.
        on_module: Called as ``on_module(run, module)`` in the calling thread as soon as a module is ready, while others
            are still trained: the moment to save it.
        settings: A whole ``Settings`` object in place of a protocol's defaults.
        keep_scores: Whether each module keeps the real scores of its epoch, in its file as well: they order its
            weights, so that ``SeamModule.resized`` can make it smaller or larger. They take four bytes a weight of
            memory a module. The card then has ``size_curve``, figures on the evaluation documents by size. Modules that
            are trained for several sizes (``keep`` of ``Settings``) keep them in any case.
        start: Where scores start: a kind, see ``Settings``; a module, from which all targets start; or several, from
            which each target starts that has one. Their real scores count where they have them, else their masks, and
            of the same target the head. They may be of an older base, with other words, classes and sizes: what can be
            told to be the same is taken over, and ``card["start"]["rebase"]`` of the new modules, and a warning, say
            what was not.
        catch_up: Deprecated: ``lazy_update``.
        **options: More fields of ``Settings``.

    Returns:
        One ``SeamModule`` for each target, in order. Its ``front`` lists the epochs that no other epoch equals or beats
        in both accuracy on the evaluation documents and share of kept weights, each with its module.

    Raises:
        CheckpointError: Before anything is trained: nothing of a module to start from can be taken over to this base.
        TrainingError: Before anything is trained: arguments or settings cannot work. After all other targets have
            ended: a value was not finite, or a GPU had no memory left.
        Interrupted: Ctrl-C. An exception in a callback ends the training in the same way.

        All exceptions raised after training has begun have ``modules``, one for each target: its module if that was
        ready; the best so far of a target that was cut short, with ``interrupted`` on its card; None where no epoch had
        ended.
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
        "start": start if start is None or isinstance(start, str) else START_FROM_MODULE,
    }
    settings = settings.with_options(**overrides, **options)
    if catch_up is not None:
        lazy_update = _lazy_update_of(catch_up, 3)
    return reengineer_many(
        base,
        corpus,
        targets,
        [settings],
        seed=seed,
        evaluate_every=evaluate_every,
        threads=threads,
        backend=backend,
        lazy_update=lazy_update,
        progress=progress,
        on_epoch=on_epoch,
        on_module=on_module,
        keep_scores=keep_scores,
        start_modules=None if isinstance(start, str) else start,
    )[0]


@on_the_cpu
def reengineer_many(
    base: LSTMClassifier,
    corpus: Corpus,
    targets: Iterable[int | Sequence[int]],
    settings: Sequence[Settings],
    *,
    seed: int = 0,
    seeds: Iterable[int] | None = None,
    evaluate_every: int | None = None,
    threads: int | None = None,
    backend: str = "auto",
    lazy_update: str = "quadrature",
    progress: bool = False,
    on_epoch: OnEpoch | None = None,
    on_module: OnModule | None = None,
    keep_scores: bool = False,
    start_modules: SeamModule | Iterable[SeamModule] | StartModules | None = None,
    catch_up: str | None = None,
) -> list[list[SeamModule]]:
    """``reengineer`` with each of several settings and seeds, all modules side by side: on a GPU a study of many takes
    little more time than its longest module.

    Args:
        base: As of ``reengineer``.
        corpus: As of ``reengineer``.
        targets: As of ``reengineer``.
        settings: The settings. ``run.context.settings`` tells ``on_epoch`` and ``on_module`` which ones a run has.
        seed: As of ``reengineer``.
        seeds: Several in place of ``seed``. Modules of a target that differ in seed alone have a ``StableCore``.
        evaluate_every: As of ``reengineer``.
        threads: As of ``reengineer``.
        backend: As of ``reengineer``.
        lazy_update: As of ``reengineer``.
        progress: As of ``reengineer``.
        on_epoch: As of ``reengineer``.
        on_module: As of ``reengineer``.
        keep_scores: As of ``reengineer``.
        start_modules: What the runs with ``Settings(start="module")`` start from, as ``start`` of ``reengineer``.
        catch_up: Deprecated: ``lazy_update``.

    Returns:
        For each of the settings, in order, and of each for each seed, a list of modules as ``reengineer`` gives it.

    Raises:
        CheckpointError: As ``reengineer``.
        TrainingError: As ``reengineer``.
        Interrupted: As ``reengineer``. ``modules`` of exceptions is one list, with the modules of the first settings
            first.
    """
    if catch_up is not None:
        lazy_update = _lazy_update_of(catch_up, 4)
    if isinstance(settings, Settings) or not isinstance(settings, Iterable):
        raise TrainingError(f"settings is {shown(settings)}; give a list of Settings")
    settings = [check_settings(one) for one in settings]
    check_base(base)
    check_is_corpus(corpus)
    engine = choose_engine(backend, base.hidden2label.weight.dtype)
    if not isinstance(targets, Iterable) or isinstance(targets, str):
        raise TrainingError(f"targets is {shown(targets)}; give a list of targets, such as [4] or range(8)")
    chosen = [normalise_target(target, corpus.num_classes) for target in targets]
    if threads is not None:
        threads = whole_number("threads", threads, 1, otherwise=", or None for all cores")
    if evaluate_every is not None:
        evaluate_every = whole_number("evaluate_every", evaluate_every, 0, otherwise=", or None")
    if evaluate_every == 0 and any(one.early_stop >= 0 for one in settings):
        raise TrainingError("early_stop has no effect where evaluate_every is 0; leave one of them out")
    numbers = [seed_number(one) for one in ([seed] if seeds is None else seeds)]
    callback("on_epoch", on_epoch)
    callback("on_module", on_module)
    keep_scores = truth("keep_scores", keep_scores)
    from_modules = _start_modules(start_modules, base, corpus, chosen, settings)
    engine = quicker_engine(engine, backend, base, corpus, chosen, settings, threads)
    contexts: list[SearchContext] = []
    with cpu_by_default():
        for one in settings:
            contexts.append(
                SearchContext(base, corpus, one, engine, lazy_update, contexts[0] if contexts else None, from_modules)
            )
        runs = [
            [ModuleRun(context, target, number, evaluate_every, keep_scores) for target in chosen]
            for context in contexts
            for number in numbers
        ]
        if evaluate_every != 0 and contexts:
            split, what = contexts[0].evaluation, contexts[0].settings.evaluation
            warn_of_chance(contexts[0].base_logits(split), split.labels, f"the {what} documents")
    run_all([run for row in runs for run in row], threads, progress, on_epoch, on_module)
    return [[run.module() for run in row] for row in runs]


def _start_modules(
    modules: SeamModule | Iterable[SeamModule] | StartModules | None,
    base: LSTMClassifier,
    corpus: Corpus,
    targets: Sequence[tuple[int, ...]],
    settings: Sequence[Settings],
) -> StartModules | None:
    """What runs start from, where there are settings that say so; warns of what cannot be taken over as it is."""
    wanted = any(one.start == START_FROM_MODULE for one in settings)
    if modules is None:
        if wanted:
            raise TrainingError("start is 'module', but no module is given; give the module itself as start")
        return None
    if not wanted:
        raise TrainingError("start_modules has no effect, since no settings have start 'module'; leave it out")
    check_corpus(base, corpus)
    if isinstance(modules, StartModules):  # of a run of which some modules are there already
        found = modules
    else:
        found = StartModules(modules, base, corpus.words, corpus.class_names, targets)
    for sentence in found.sentences(targets):
        warn(f"start: {sentence}")
    return found


def _lazy_update_of(catch_up: str, stacklevel: int) -> str:
    """The ``lazy_update`` that a value of the deprecated ``catch_up`` stands for; warns."""
    lazy_update = "off" if catch_up == "dense" else catch_up
    warn_renamed(f"catch_up={catch_up!r}", f"lazy_update={lazy_update!r}", stacklevel=stacklevel)
    return lazy_update


def check_base(base: LSTMClassifier) -> None:
    """Raises TrainingError where the base is no classifier, or its weights have no values or several dtypes."""
    if not isinstance(base, LSTMClassifier):
        raise TrainingError(f"base is {shown(base)}; it must be an LSTMClassifier, such as LSTMClassifier.load gives")
    weights = base.weights().values()
    if any(weight.is_meta for weight in weights):
        raise TrainingError("the base has no values, it is on the device 'meta'; load or train it first")
    if len(dtypes := {str(weight.dtype).removeprefix("torch.") for weight in weights}) > 1:
        raise TrainingError(f"the base's weights are of several dtypes, {', '.join(sorted(dtypes))}; make them of one")


def normalise_target(target: int | Iterable[int], num_classes: int) -> tuple[int, ...]:
    """A class number, or several, as a sorted tuple of distinct ones; TrainingError where one does not exist."""
    single = getattr(target, "ndim", 0) == 0 and (isinstance(target, str) or not isinstance(target, Iterable))
    numbers: Any = [target] if single or (isinstance(target, Tensor) and target.ndim == 0) else target
    try:
        if any(isinstance(k, bool | np.bool_) for k in numbers):
            raise TypeError
        classes = sorted({operator.index(k) for k in numbers})
    except TypeError:
        raise TrainingError(f"a target is a class number or a set of class numbers, not {shown(numbers)}") from None
    if not classes:
        raise TrainingError("a target needs at least one class")
    for k in classes:
        if not 0 <= k < num_classes:
            raise TrainingError(
                f"target class {shown(k)} does not exist: the corpus has classes 0 to {num_classes - 1}"
            )
    return tuple(classes)

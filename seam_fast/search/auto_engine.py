"""Whether the CPU or a GPU finishes a job sooner, from measured times and, for the start of CUDA, an estimate.

All times are of R8's sizes (embedding size 100, 50 hidden units) on the machines that the benchmarks' records name: the
CPU's on a core of an AMD EPYC, the GPU's on one H100. The CPU's time grows with the number of words and the size of the
base; a GPU's hardly does, since its steps are short and depend on each other. The choice only has to be right where the
two times are far apart; where they are close either engine will do.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backend import choose_engine, resolve, supported_gpus, untrainable_reason
from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, LSTM_KEYS, is_plain
from ..common.cores import usable_cores
from ..data.corpus import Corpus
from ..training.cuda_trainer import CudaTrainer, takes_cluster
from ..training.registry import trainer_class
from .document_sets import is_target
from .epoch_sizes import steps_of
from .settings import Settings

# Seconds of a CPU core for a word and a weight of the LSTM, everything in a step included: 362 us for 5 x 32 words and
# 30,000 weights (`native` in benchmarks/records/step.json).
CPU_PRODUCT = 362e-6 / (5 * 32 * 30_000)
# Seconds for a step on a GPU: of a module by itself; and of many side by side, divided by the number of their steps.
# Where many steps are taken in a launch (`step` and `scaling`, 16 modules, in benchmarks/records/cuda_engine.json):
GPU_LAUNCHED = 44e-6, 129e-6 / 16
# Elsewhere, evaluation included: protocol seam, 500 steps of one module in 1.3 s, 4,026 of eight modules in 2.9 s
# (benchmarks/cuda/default_protocol.py on the H100; no record is kept of it). That was with recorded sequences of
# ordinary kernels; the kernels of csrc/cuda/wide_steps.cuh should take a fraction of it, which has not been measured.
GPU_STEPPED = 2.6e-3, 0.72e-3
# Seconds for the start of CUDA in a process: context, kernels, libraries. An estimate, which has not been measured.
GPU_START = 3.0


@dataclass(frozen=True)
class Work:
    """The size of a job.

    Attributes:
        steps: Number of steps of each module.
        words: Words of a step, padding included.
        weights: Number of weights in the LSTM's matrices.
    """

    steps: tuple[int, ...]
    words: int
    weights: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.steps + other.steps, max(self.words, other.words), self.weights)


def cpu_seconds(work: Work, workers: int | None = None) -> float:
    """Seconds that the compiled engine takes for a job on the CPU, a module a core, on at most ``workers`` cores."""
    cores = min(usable_cores(), workers or math.inf)
    return CPU_PRODUCT * work.words * work.weights * max(max(work.steps, default=0), sum(work.steps) / cores)


def gpu_seconds(work: Work, one_launch: bool, gpus: int = 1, begun: bool | None = None) -> float:
    """Seconds that GPUs take for a job.

    Args:
        work: The job.
        one_launch: Whether many steps are taken in one launch.
        gpus: Number of GPUs.
        begun: Whether this process has started CUDA; None: ask torch.
    """
    alone, beside = GPU_LAUNCHED if one_launch else GPU_STEPPED
    if begun is None:
        begun = has_begun()
    steps = max(alone * max(work.steps, default=0), beside * sum(work.steps) / gpus)
    return steps + (0.0 if begun else GPU_START)


def has_begun() -> bool:
    """Whether this process has a context on a GPU. ``is_initialized`` alone does not say so: it is also true when torch
    has merely counted the GPUs, which takes little of the time that a context takes.
    """
    if not torch.cuda.is_initialized():
        return False
    has_context: Callable[[int], bool] = torch._C._cuda_hasPrimaryContext  # type: ignore[attr-defined]
    return any(map(has_context, range(torch.cuda.device_count())))


def quicker(work: Work, one_launch: bool, gpus: int = 1, workers: int | None = None) -> tuple[str, str]:
    """The engine that finishes a job sooner, ``"cuda"`` or ``"cpu"``, and the reason, in a clause. Arguments as of
    ``cpu_seconds`` and ``gpu_seconds``.
    """
    cpu, gpu = cpu_seconds(work, workers), gpu_seconds(work, one_launch, gpus)
    chosen = "cuda" if gpu < cpu else "cpu"
    return chosen, f"about {seconds(gpu)} on the GPU, {seconds(cpu)} on the CPU"


def seconds(value: float) -> str:
    """A time as text, with two digits."""
    return f"{value:.0f} s" if value >= 9.5 else f"{value:.1f} s"


R8_WEIGHTS = 30_000
R8_SEAM, R8_REFERENCE = 128 * 64, 5 * 32  # words of a step
R8_EPOCHS = (1097, 639, 101, 44, 17, 102, 76, 83)  # steps of an epoch of each class in protocol reference
JOBS = (  # for `what_auto_takes`: a name, the work, and whether a GPU takes many steps a launch
    ("one module of R8, 100 steps", Work((100,), R8_SEAM, R8_WEIGHTS), False),
    ("one module of R8", Work((504,), R8_SEAM, R8_WEIGHTS), False),
    ("eight modules of R8", Work((504,) * 8, R8_SEAM, R8_WEIGHTS), False),
    ("the same by protocol reference", Work(tuple(300 * n for n in R8_EPOCHS), R8_REFERENCE, R8_WEIGHTS), True),
)


def what_auto_takes(engine: str, gpus: int) -> list[str]:
    """Lines of text on which engine ``"auto"`` takes on this machine, and why.

    Args:
        engine: The first engine that can be used here.
        gpus: Number of GPUs.
    """
    if engine not in ("cuda", "cpu", "torch") or resolve("auto") != "auto":
        return []
    if engine == "cuda" and not untrainable_reason(torch.float32):
        lines = []
        for name, work, one_launch in JOBS:
            chosen, why = quicker(work, one_launch, gpus)
            lines.append(f"{name}: {chosen}, {why}")
        by = "by times measured on an H100 and an AMD EPYC, starting CUDA estimated"
        return [f"auto takes what is sooner done, {by}, for example", *lines]
    better = [f"{name} cannot be used" for name in ("cuda", "cpu") if untrainable_reason(torch.float32, name)]
    return [f"auto takes {engine}: {', '.join(better)}"] if better else []


def quicker_engine(
    engine: str,
    backend: str,
    base: LSTMClassifier,
    corpus: Corpus,
    targets: Sequence[tuple[int, ...]],
    settings: Sequence[Settings],
    threads: int | None,
) -> str:
    """The engine to use for a job.

    Args:
        engine: The engine that ``backend`` stands for.
        backend: As the caller of ``reengineer`` gave it. Only ``"auto"`` leaves a choice.
        base: The base.
        corpus: The corpus.
        targets: All targets.
        settings: All settings.
        threads: As of ``reengineer``.

    Returns:
        Of CPU and GPU the one that finishes sooner, where both can train the job and there is a choice; else
        ``engine``.
    """
    weights = base.weights()
    if engine != "cuda" or resolve(backend) != "auto" or untrainable_reason(weights[EMBEDDING].dtype):
        return engine
    if not settings or not targets or not is_plain(weights):  # for several layers the CPU has only the op
        return engine
    return quicker(*work_of(weights, corpus, targets, settings), len(supported_gpus()), threads)[0]


def work_of(
    weights: dict[str, Tensor], corpus: Corpus, targets: Sequence[tuple[int, ...]], settings: Sequence[Settings]
) -> tuple[Work, bool]:
    """The size of a job, and whether a GPU takes many steps in a launch for all of it."""
    labels = corpus.train.labels
    size = sum(weights[key].numel() for key in LSTM_KEYS[:2])
    works = []
    for one in settings:
        used = 0.9 if one.evaluation == "validation" else 1.0
        counts = [int(used * int(is_target(labels, target).sum())) for target in targets]
        steps = tuple(steps_of(one, count, int(used * len(labels)) - count) for count in counts)
        works.append(Work(steps, one.batch_size * corpus.train.ids.shape[1], size))
    one_launch = all(
        not CudaTrainer.unsupported(weights, one.batch_size) and takes_cluster(weights, one.batch_size)
        for one in settings
    )
    return functools.reduce(operator.add, works), one_launch


def engines_on_card(
    weights: dict[str, Tensor], backend: str, lazy_update: str, batch_size: int
) -> list[dict[str, str | None]]:
    """What a module's card may say of its engine: ``engine``, and ``lazy_update`` where the trainer has one, else None.

    Args:
        weights: The base's, by weight key.
        backend: As of ``reengineer``.
        lazy_update: As of ``reengineer``.
        batch_size: Documents a step.

    Returns:
        All possibilities; two where ``"auto"`` chooses between GPU and CPU by the size of the job.
    """
    dtype = weights[EMBEDDING].dtype
    engines = [choose_engine(backend, dtype)]
    if engines == ["cuda"] and resolve(backend) == "auto" and not untrainable_reason(dtype):
        engines.append("cpu")
    return [
        {"engine": engine, "lazy_update": lazy_update if trainer_class(engine, weights, batch_size).fused else None}
        for engine in engines
    ]

"""Whether the CPU or a GPU trains a job sooner, by times that were measured and, for starting CUDA, estimated.

All are of R8's sizes (100 numbers a word, 50 hidden units) on the machines that the benchmarks' records name: the CPU's
on a core of an AMD EPYC, the GPU's on one H100. The CPU's time grows with the words and with the base; a GPU's hardly
does, since its steps are short and wait for each other. What is chosen only has to be right where the two lie far
apart; where they are close either will do.
"""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backend import choose_engine, resolve, supported_gpus, untrainable_reason
from ..classifier.state_keys import EMBEDDING, LSTM_KEYS, is_plain
from ..common.cores import usable_cores
from ..data.corpus import Corpus
from ..training.cuda_trainer import CudaTrainer, takes_cluster
from ..training.registry import trainer_class
from .sampling import documents_of_epoch, epochs_of, is_target
from .settings import Settings

# Seconds that a core takes for a word and a weight of the LSTM, forward, backward and all else: 362 us for 5 x 32 words
# and 30,000 weights (`native` in benchmarks/records/step.json).
CPU_PRODUCT = 362e-6 / (5 * 32 * 30_000)
# Seconds a step on a GPU: of a module alone, and of many side by side by the number of all their steps.
# Many steps a launch (`step` and `scaling`, 16 modules, in benchmarks/records/cuda_engine.json):
GPU_LAUNCHED = 44e-6, 129e-6 / 16
# Else, evaluation and all included: protocol seam, 500 steps of one module in 1.3 s, 4,026 of eight modules in 2.9 s
# (benchmarks/cuda/default_protocol.py on the H100; no record is kept of it). That was by recorded sequences of ordinary
# kernels; csrc/cuda/wide_steps.cuh should take a fraction of it, but nobody has measured that.
GPU_STEPPED = 2.6e-3, 0.72e-3
# Until a process has begun to use CUDA: context, kernels, libraries. An estimate; nobody has measured it.
GPU_START = 3.0


@dataclass(frozen=True)
class Work:
    """A job. steps: of each of its modules; words: of a step, padding included; weights: of the LSTM's matrices."""

    steps: tuple[int, ...]
    words: int
    weights: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.steps + other.steps, max(self.words, other.words), self.weights)


def steps_of(settings: Settings, targets: int, others: int) -> int:
    """Steps of a module with so many documents of its target, and others, to learn from."""
    if settings.shots > 0:
        targets = min(settings.shots, targets)
    size = sum(documents_of_epoch(settings, targets, others))
    return epochs_of(settings, size) * math.ceil(size / settings.batch_size) if size else 0


def cpu_seconds(work: Work, workers: int | None = None) -> float:
    """How long the compiled engine takes on the CPU, a module a core. workers: at most so many cores."""
    cores = min(usable_cores(), workers or math.inf)
    return CPU_PRODUCT * work.words * work.weights * max(max(work.steps, default=0), sum(work.steps) / cores)


def gpu_seconds(work: Work, one_launch: bool, gpus: int = 1, begun: bool | None = None) -> float:
    """How long so many GPUs take. one_launch: whether many steps go into one launch; begun: whether this process uses
    CUDA already, None: look.
    """
    alone, beside = GPU_LAUNCHED if one_launch else GPU_STEPPED
    if begun is None:
        begun = has_begun()
    steps = max(alone * max(work.steps, default=0), beside * sum(work.steps) / gpus)
    return steps + (0.0 if begun else GPU_START)


def has_begun() -> bool:
    """Whether this process has a context on a GPU. That torch has looked at the GPUs is told by ``is_initialized``, and
    costs little of what starting takes."""
    if not torch.cuda.is_initialized():
        return False
    return any(map(torch._C._cuda_hasPrimaryContext, range(torch.cuda.device_count())))


def quicker(work: Work, one_launch: bool, gpus: int = 1, workers: int | None = None) -> tuple[str, str]:
    """``"cuda"`` or ``"cpu"``, and why, in a clause."""
    cpu, gpu = cpu_seconds(work, workers), gpu_seconds(work, one_launch, gpus)
    chosen = "cuda" if gpu < cpu else "cpu"
    return chosen, f"about {seconds(gpu)} on the GPU, {seconds(cpu)} on the CPU"


def seconds(value: float) -> str:
    """A time in words, to two digits."""
    return f"{value:.0f} s" if value >= 9.5 else f"{value:.1f} s"


R8_WEIGHTS = 30_000
R8_SEAM, R8_REFERENCE = 128 * 64, 5 * 32  # words a step
R8_EPOCHS = (1097, 639, 101, 44, 17, 102, 76, 83)  # steps of each class in protocol reference
JOBS = (  # for `what_auto_takes`: a name, the work, and whether a GPU takes many steps a launch
    ("one module of R8, 100 steps", Work((100,), R8_SEAM, R8_WEIGHTS), False),
    ("one module of R8", Work((504,), R8_SEAM, R8_WEIGHTS), False),
    ("eight modules of R8", Work((504,) * 8, R8_SEAM, R8_WEIGHTS), False),
    ("the same by protocol reference", Work(tuple(300 * n for n in R8_EPOCHS), R8_REFERENCE, R8_WEIGHTS), True),
)


def what_auto_takes(engine: str, gpus: int) -> list[str]:
    """Lines on what ``"auto"`` takes here, and why; engine: the first that can be used."""
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
    one_launch = all(
        not CudaTrainer.unsupported(weights, one.batch_size) and takes_cluster(weights, one.batch_size)
        for one in settings
    )
    return functools.reduce(operator.add, works), one_launch


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
        {"engine": engine, "lazy_update": lazy_update if trainer_class(engine, weights, batch_size).fused else None}
        for engine in engines
    ]

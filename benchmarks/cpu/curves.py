"""How the time of a training step grows with batch, hidden size, length, vocabulary and modules side by side.

    seam-fast bench step --curves                          # some ten minutes on two cores
    seam-fast bench step --curves --axes batch hidden
    seam-fast bench step --curves --quick

Each curve varies one of the reference's sizes (B 5, H 50, T 32, V 23,590, one module). The weights are random, not
trained, since there is no base of every size; the time of a step does not depend on them.
"""

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from benchmarks.baselines.reference_step import Truth, Workload, first_steps
from benchmarks.cpu.step import WARM_STEPS, as_record, block_in_own_process, block_of, choose_rivals, is_dense, warm
from benchmarks.harness import processes, timing
from benchmarks.harness.peak import Peak
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.cli.corpora import get_corpus
from seam_fast.common.cores import usable_cores
from seam_fast.common.progress import say
from seam_fast.data.corpus import CorpusConfig
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.errors import NoSourceError, SeamFastError

FORMAT = "seam-fast curves 2"
RIVALS = ("reference", "reference_best", "best_torch", "native")
SIZES = {"V": None, "E": 100, "H": 50, "C": None, "T": 32, "B": 5}
AXES = {
    "batch": ("documents a batch", (1, 2, 5, 16, 64, 256)),
    "hidden": ("hidden units", (16, 32, 50, 64, 128, 256)),
    "length": ("words a document", (8, 16, 32, 64, 128)),
    "vocabulary": ("words in the vocabulary", (23_590, 50_000, 100_000, 300_000, 1_000_000)),
    "modules": ("modules side by side", (1, 2, 4, 8)),
}
SMOKE = {"batch": (2, 5), "hidden": (4, 8), "length": (4, 8), "vocabulary": (100, 30_000), "modules": (1, 2)}
QUICK = {"batch": (5, 64), "hidden": (50, 128), "length": (32, 64), "vocabulary": (23_590, 100_000), "modules": (1, 2)}
MOST_WORDS = {"reference": 300_000, "reference_best": 300_000}  # with more, a step takes seconds
BLOCK = {"reference": 3, "reference_best": 10, "best_torch": 40, "native": 300}  # steps a round, at most an epoch's
METHOD = (
    "Blocks of steps of all rivals in turn, one thread a module; class acq against as many others, joint schedule; "
    "ms: seconds of a block by its steps. best_torch and native share a process; the references have processes of "
    "their own, as their users have them, since the time of their steps depends on what others leave in memory. "
    "Modules: ms by the steps of all of them together, so that half the time is twice the work, as many at once as "
    "there are cores: best_torch and native in threads, as seam_fast.reengineer trains them, the references in as "
    "many processes as there are cores, the modules of a process one after the other. Ratio: other / native of the "
    "same round. best_torch and native have taken some hundred steps before (fewer than in the record of steps); the "
    "references begin at the scores of best_torch at that point. Weights are drawn as torch draws them. Before the "
    "clock runs, the first steps of every rival are compared with seam_fast.reference in float64, above 300,000 words "
    "with plain PyTorch in float64; modules side by side are those of the point before, several times. Rows that the "
    "vocabulary has beyond the corpus' own stand for words that never occur."
)


def run(arguments, peak: Peak) -> dict:
    """The record without its header."""
    for option in ("parts", "batch_sizes"):
        if getattr(arguments, option):
            raise SeamFastError(f"--{option.replace('_', '-')} says nothing about --curves; their sizes are --axes")
    if arguments.processes != "one":
        raise SeamFastError("--processes says nothing about --curves: there the references alone have their own")
    names, left_out = choose_rivals(arguments.rivals or RIVALS)
    for axis in arguments.axes or ():
        if axis not in AXES:
            raise SeamFastError(f"axis {axis!r} is unknown; there are {', '.join(AXES)}")
    torch.set_num_threads(1)
    workloads = Workloads(arguments)
    corpus = workloads.corpus(SIZES["T"])
    sizes = SIZES | {"V": corpus.vocab_size, "C": corpus.num_classes}
    curves = {}
    for axis in arguments.axes or AXES:
        label, values = AXES[axis]
        values = (SMOKE if arguments.smoke else QUICK if arguments.quick else {axis: values})[axis]
        points = []
        for x in values:
            points.append(measure_point(workloads, axis, x, names, arguments))
            times = ", ".join(f"{name} {ms['median']:.3g}" for name, ms in points[-1]["ms"].items())
            say(f"{axis} {x:,}: ms a step: {times}")
        curves[axis] = {"x": label, "points": points}
        peak.burst()
    return {
        "machine": {"processes": "own"},
        "method": METHOD,
        "seeds": {"documents": 0, "head": 0, "weights": 0},
        "synthetic": corpus.synthetic,
        "data_hash": corpus.data_hash,
        "workload": sizes,
        "rivals": names,
        "left_out": left_out,
        "curves": curves,
    }


def finish(record: dict) -> None:
    """Nothing to add to a record of curves."""


class Workloads:
    """Makes corpora and workloads by size; the latest corpus is cached."""

    def __init__(self, arguments):
        self.data_dir, self.smoke, self.quick = arguments.data_dir, arguments.smoke, arguments.quick
        self.corpus = functools.lru_cache(maxsize=1)(self._corpus)

    def _corpus(self, length: int):
        config = replace(CorpusConfig.for_protocol("reference"), max_length=length)
        if self.smoke:
            return synthetic_r8("reference", config)
        try:
            return get_corpus("r8", self.data_dir, "reference", config, say)
        except NoSourceError as error:
            if not self.quick:
                raise
            say(f"{error}\nGoing on with generated documents of the same shape.")
            return synthetic_r8("reference", config)

    def workload(self, H: int = 50, T: int = 32, vocabulary: int | None = None) -> Workload:
        corpus = self.corpus(T)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            width = 6 if self.smoke else SIZES["E"]
            base = LSTMClassifier(corpus.vocab_size, width, H, corpus.num_classes, readout="last_position")
        return Workload(base, corpus, corpus.class_names.index("grain" if self.smoke else "acq"), vocabulary)


def measure_point(workloads: Workloads, axis: str, x: int, names: list[str], arguments) -> dict:
    """One point of a curve: the time of every rival, and its errors in the first steps."""
    option = {"hidden": "H", "length": "T", "vocabulary": "vocabulary"}.get(axis)
    workload = workloads.workload(**({option: x} if option else {}))
    batch_size = x if axis == "batch" else SIZES["B"]
    names = [name for name in names if axis != "vocabulary" or x <= MOST_WORDS.get(name, x)]
    agreement = None
    if axis != "modules" or x == 1:
        agreement = as_record(truth_of(workload, batch_size), names)
        del agreement["steps"]
    warm_steps = 5 if arguments.smoke else min(WARM_STEPS, 200)
    runs, state = {}, None
    if any(map(is_dense, names)):
        state = warm(workload, "best_torch", batch_size, warm_steps).full_scores()
    few, most, budget = (2, 2, 0) if arguments.smoke else (3, 9, 3) if arguments.quick else (5, 31, 12)
    with contextlib.ExitStack() as stack:
        for name in names:
            block = (workload, name, batch_size, warm_steps, state, BLOCK.get(name))
            runs[name] = side_by_side(x if axis == "modules" else 1, block, stack)
        times, _, _ = timing.time_blocks_in_turn(runs, arguments.rounds or (few, most), budget, f"{axis} {x:,}")
    return {
        "x": x,
        "rounds": len(times[names[0]]),
        "ms": {name: timing.spread(found, 1e3) for name, found in times.items()},
        "against": {other: timing.paired_ratios(times, other, "native") for other in names if other != "native"}
        if "native" in names
        else {},
        "agreement": agreement,
    }


def truth_of(workload: Workload, batch_size: int) -> Truth:
    """The first steps in float64: by ``seam_fast.reference``, if its five tables fit the memory of most machines."""
    if workload.count < 40_000_000:
        return first_steps(workload, batch_size, 4)
    return Truth(workload, batch_size, 4, "best_torch", "best_torch")


def side_by_side(modules: int, block: tuple, stack: contextlib.ExitStack):
    """A function that takes a block of steps of one or several modules at once, and returns what ``time_block`` does.

    block: arguments of ``block_of``. stack: ends the processes and threads.
    """
    cores = min(modules, usable_cores())
    if is_dense(block[1]):
        shares = [len(range(core, modules, cores)) for core in range(cores)]
        workers = [processes.Worker(one_after_the_other, share, block) for share in shares]
        for worker in workers:
            stack.callback(worker.close)

        def run(number):
            for worker in workers:
                worker.start(number)
            found = [worker.result() for worker in workers]
            steps = sum(count for _, _, count in found)
            seconds = max(one * count for one, _, count in found)  # of the slowest process
            return seconds / steps, sum(faults * count for _, faults, count in found) / steps, steps

        return run
    blocks = [block_of(*block) for _ in range(modules)]
    if modules == 1:
        return functools.partial(timing.time_block, blocks[0])
    pool = stack.enter_context(ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)))
    return functools.partial(timing.time_block, lambda number: sum(pool.map(lambda run: run(number), blocks)))


def one_after_the_other(modules: int, block: tuple):
    """A block of steps of ``modules`` modules in one process, one module after the other."""
    runs = [block_in_own_process(*block) for _ in range(modules)]
    return lambda number: sum(run(number) for run in runs)

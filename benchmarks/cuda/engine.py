"""The SEAM engine on a GPU beside the reference and a captured graph of cuDNN, and how many modules it trains at once.

    python -m benchmarks.cuda.engine --minutes 8                   # most telling piece first; says what it left out
    python -m benchmarks.cuda.engine --more runs/cuda_engine.json  # what that record lacks
    python -m benchmarks.cuda.engine --pieces study --epochs 30
    python -m benchmarks.cuda.engine --dry                         # tiny, on the CPU: shows that the script runs

R8 where SEAM_FAST_DATA or --data-dir says where it is, else invented documents of its sizes. Writes the record after
every piece and, beside it, a table of the figures that were set as targets. Ends with exit code 1 if a result was wrong
or a piece failed; the others are measured all the same.
"""

import argparse
import gc
import hashlib
import json
import os
import re
import shlex
import statistics
import sys
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

import seam_fast as sf
from benchmarks.baselines.cuda_engine import Gradients, Way, by_tf32, for_rivals, rivals
from benchmarks.baselines.lstm import absent
from benchmarks.baselines.reference_step import Workload, first_steps, long_run
from benchmarks.cuda import lstm as cuda_lstm
from benchmarks.cuda.lstm import first_line, rounded, settled_heap
from benchmarks.harness import measure
from benchmarks.harness.bases import smoke_base
from seam_fast import places, report
from seam_fast.classifier import LSTMClassifier
from seam_fast.cli import run_guarded
from seam_fast.engine import TorchTrainer
from seam_fast.errors import DataWarning, SeamFastError
from seam_fast.sampling import Sampler
from seam_fast.settings import Settings
from seam_fast.synthetic import synthetic_r8
from seam_fast.train_base import train
from seam_fast.workflow import corpus_for_base, get_corpus, say, write_json

FORMAT = "seam-fast cuda engine 1"
PIECES = ("step", "scaling", "eight", "study", "kernels")  # the last one may slow down what comes after it
CLASS, BATCH, EPOCHS = "acq", 5, 300
BASE_EPOCHS = 2  # of a base that is trained here: how long a step takes does not depend on what the weights know
WARM_STEPS = 1001  # with scores, that the lazy state has behind it when times are taken
LONG_STEPS = 1500  # of the long agreement
FEW = 20  # steps of a block of the eager rivals, which need no warm state; the others: an epoch
ALPHAS, RATES = (0.05, 0.1, 0.2, 0.4), (0.02, 0.05, 0.1, 0.2)  # of the study; the reference's 0.2, 0.1 among them
TF32_WAYS = ("engine_tf32", "graph_rows_tf32")
NO_TF32 = "its figures are those of float32: there is no tf32 kernel for this GPU or these sizes"
OURS = ("engine", "engine_tf32", "graph_trainer")
# must, aim: microseconds, times as fast, seconds
TARGETS = {"us": (50, 32), "us_tf32": (42, 26), "reference": (100, 150), "graph": (4.5, 7), "eight": (18, 11)}
TARGETS |= {"study": (25, 15)}
METHOD = (
    "One process, to which CUDA gives 32 queues (CUDA_DEVICE_MAX_CONNECTIONS), as seam-fast reengineer does. "
    "step: one module of a class against as many others, batch 5, head and scores together; blocks of "
    "all ways in turn, round after round. us: microseconds a step by the host's clock from the epoch's documents in "
    "the host's memory to its mean loss, by the number of steps: plan, copies, launches, flush, all of it. us_events: "
    "the same between two CUDA events before and after the block, on its stream. A ratio is of two times of the same "
    "round by the host's clock, above 1 the engine is faster; that of graph_rows_tf32 is against engine_tf32. "
    "engine: seam_fast's CudaTrainer, many steps a launch. graph_trainer: its GraphTrainer, ordinary kernels and the "
    "op in a captured graph. "
    "graph_rows, graph_table: a captured graph of cuDNN's LSTM and torch's fused Adam, with scores for the rows that "
    "the documents can touch, or for all; documents lie on the GPU, so nothing but replays is between two steps. "
    "reference: the public port's step on the GPU, eager, every weight masked and stepped, three numbers read and "
    "every gradient copied to the host. reference_without_copies: without the latter. reference_best: rows of the "
    "batch alone, fused Adam, only the loss read. engine_tf32, graph_rows_tf32: engine and graph_rows with torch's "
    "switches for tf32, of products and of cuDNN, on while they are made, recorded and run, and off again after each "
    "epoch. All but the eager ones have taken 1,001 steps before. Agreement: "
    "first: 20 steps of every way against seam_fast.reference in float64, allowed is twice the reference's own float32 "
    "error and a floor, and to rivals in float32, which may be less exact, 2^6 times that, by the rule of tf32 below; "
    "the tables say where a rival is off by more than is allowed to ours; "
    "long: 1,500 steps of the engine and graph_trainer at a rate at which no score flips, against "
    "plain PyTorch in float64. By tf32 losses, scores and flips may be 2^13 times as far off (10 bits instead of 23), "
    "a score counts as far off at 2^13 times the distance, and no more of them may be; and gradients, by Adam's mean "
    "of them after 20 steps without a flip, may be off by 2^13 times twice float32's own error and a rounding, but by "
    "no more than a tenth. scaling: so many modules beside one another, each in a thread and on a stream of its "
    "own, an epoch each; us: from the start of the first to the end of the last by the steps of one; before, all of "
    "them must come to the very bits of one that was alone. eight: seam_fast.reengineer, protocol reference, all eight "
    "classes, from the call to the modules. study: 8 classes x 16 settings of alpha and lr_mask, by one call of "
    "seam_fast.reengineer_many, from the call to the modules. Runs of the "
    "same must give the same bits, and the study's modules at the reference's own settings those of eight. Where time "
    "ran out, seconds are estimated from the steps done. kernels: what the profiler saw the GPU do in a block of step, "
    "kernels and copies; gaps between them do not count. float32 without tf32 but in the two ways named so. "
    "Corpus, base and the modules' classes are on the CPU before any clock runs."
)


class TimeOver(Exception):
    """Raised in a callback: the workers end the launch that they are in."""


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=PIECES, metavar="PIECE", help=", ".join(PIECES))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of eight and study (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin nothing after so many minutes, and cut runs short then")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the rounds of step and scaling, each")
    parser.add_argument("--more", nargs="+", metavar="RECORD", help="keep what these records hold, measure the rest")
    parser.add_argument(
        "--base", metavar="FILE", help=f"trained base (default: one of {BASE_EPOCHS} epochs, made here)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder with R8 (see also SEAM_FAST_DATA)")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU, which says nothing about speed")
    parser.add_argument("--commit", help="the commit to write down, where the source lies outside of a git checkout")
    parser.add_argument("--out", default="runs/cuda_engine.json", help="the record (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.rivals_only = False
    command = shlex.join(["python", "-m", "benchmarks.cuda.engine", *argv])
    return run_guarded("cuda_engine", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    begin = time.monotonic()
    places.ask_for_queues()
    if arguments.dry:
        warnings.simplefilter("ignore", DataWarning)  # its base has learned nothing
    if arguments.seconds <= 0 or arguments.epochs < 1 or (arguments.minutes is not None and arguments.minutes < 0):
        raise SeamFastError("--seconds must be above 0, --epochs 1 or more and --minutes not below 0")
    record, out = earlier_records(arguments), Path(arguments.out)
    if arguments.minutes == 0:  # nothing but to put records together
        return finish(record, out)
    end = None if arguments.minutes is None else begin + 60 * arguments.minutes
    bench = Bench(arguments, end)
    this = {
        "command": command,
        "machine": bench.machine(arguments.commit),
        "settings": {name: getattr(arguments, name) for name in ("seconds", "minutes", "epochs", "dry")}
        | {"seed": 0, "tf32": {"matmul": False, "cudnn": False, "but_in": sorted(TF32_WAYS)}},
        "workload": bench.about(),
        "stopped": "",
    }
    record["runs"].append(this)
    check_identity(record["runs"])
    known = {row["key"] for row in record["rows"]}
    chosen = [name for name in PIECES if name in arguments.pieces and bench.key(name) not in known]
    record["unmeasured"], broken = chosen[:], False
    with settled_heap():
        while chosen and not broken:
            if bench.is_over():
                this["stopped"] = f"the {arguments.minutes:g} minutes were over"
                break
            row = bench.row(chosen.pop(0), record["rows"]) | {"run": len(record["runs"]) - 1}
            record["rows"].append(row)
            record["unmeasured"] = chosen[:]
            say(describe(row))
            this["stopped"] = bench.why_stop()
            broken = bool(this["stopped"])
            save(record, out)
    this["machine"]["load"]["after"] = measure.load()
    this["gpu_after"] = bench.gpu_state()
    return max(int(broken), finish(record, out))


def earlier_records(arguments) -> dict:
    """A record of nothing but the right and whole rows of earlier ones."""
    record = {"format": FORMAT, "method": METHOD, "left_out": absent(gpu=True)}
    record |= {"runs": [], "unmeasured": [], "rows": []}
    for path in arguments.more or ():
        earlier = json.loads(Path(path).read_text())
        if earlier.get("format") != FORMAT:
            raise SeamFastError(f"{path} is not a record of this kind")
        first, have = len(record["runs"]), {row["key"] for row in record["rows"]}
        record["runs"] += earlier["runs"]
        for row in earlier["rows"]:
            if not failures(row) and row["whole"] and row["key"] not in have:
                record["rows"].append(row | {"run": row["run"] + first})
    if arguments.minutes == 0 and not record["runs"]:
        raise SeamFastError("--minutes 0 measures nothing: it puts the records together that --more names")
    check_identity(record["runs"])
    return record


def check_identity(runs: list[dict]) -> None:
    """Raises SeamFastError where runs differ in what rows must share to stand in one table."""
    cuda_lstm.check_identity(runs)
    if len({run["workload"]["data_hash"] for run in runs}) > 1:
        raise SeamFastError("rows of different documents cannot stand in one table")


def finish(record: dict, out: Path) -> int:
    save(record, out)
    print(summary(record))
    return int(any(failures(row) for row in record["rows"]))


def failures(row: dict) -> list[str]:
    """What failed or was wrong: the whole row, or ways of it that have no figures."""
    ways = [f"{row['key']}, {name}: {why}" for name, why in row.get("wrong", {}).items()]
    return ([f"{row['key']}: {row['fault']}"] if row["fault"] else []) + ways


# Measuring -----------------------------------------------------------------------------------------------------------


class Bench(cuda_lstm.Bench):
    """Where and what is measured: on the GPU, or dry. end: when time is over, by the monotonic clock, or None."""

    def __init__(self, arguments, end: float | None):
        super().__init__(arguments)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(1)  # as reengineer has it
        self.end, self.epochs = end, min(arguments.epochs, 2) if self.dry else arguments.epochs
        self.base, self.corpus = smoke_base() if self.dry else load_base(arguments)
        # Dry: the two smallest classes.
        sizes = torch.bincount(self.corpus.train.labels).tolist()
        smallest = sorted(range(len(sizes)), key=sizes.__getitem__)[:2]
        self.targets = sorted(smallest) if self.dry else list(range(self.corpus.num_classes))
        self.target = smallest[0] if self.dry else self.corpus.class_names.index(CLASS)
        self.workload = Workload(self.base, self.corpus, self.target)
        self.settings = Settings.for_protocol("reference").with_options(epochs=self.epochs)

    def about(self) -> dict:
        """What is trained."""
        base, corpus, workload = self.base, self.corpus, self.workload
        return {
            "base": base.hash,
            "data_hash": corpus.data_hash,
            "corpus": corpus.name,
            "synthetic": corpus.synthetic,
            "target": corpus.class_names[self.target],
            "documents": workload.sampler.size,
            "words": len(workload.words),
            "weights": workload.count,
            "sizes": {"V": base.vocab_size, "E": base.embedding_dim, "H": base.hidden_dim, "C": base.num_classes}
            | {"T": corpus.train.ids.shape[1], "B": BATCH},
            **workload.options,
        }

    def is_over(self) -> bool:
        return self.end is not None and time.monotonic() > self.end

    def key(self, piece: str) -> str:
        return f"{piece}, {self.epochs} epochs" if piece in ("eight", "study") else piece

    def row(self, piece: str, rows: list[dict]) -> dict:
        """All figures of a piece; where it fails or a result is wrong, why, and no figures. rows: those before it."""
        row = {"key": self.key(piece), "piece": piece, "left_out": {}, "wrong": {}, "fault": "", "whole": True}
        try:
            with self.place(self.streams(1)[0]).entered():
                return row | getattr(self, piece)(row["left_out"], rows)
        except (SeamFastError, RuntimeError) as error:
            return row | {"fault": first_line(error)}

    def streams(self, count: int) -> list:
        return [None] * count if self.dry else places.own_streams(0, count)

    def place(self, stream) -> places.Place:
        return places.Place(torch.device(self.device, None if self.device == "cpu" else 0), stream)

    # -- one module ----------------------------------------------------------------------------------------------------

    def engine(self, name: str = "engine", tf32: bool = False) -> Way:
        if self.backend != "cuda":
            return Way(name, TorchTrainer, self.device, tf32=tf32)
        from seam_fast.cuda_trainer import CudaTrainer

        return Way(name, CudaTrainer, self.device, tf32=tf32)

    def ways(self) -> dict[str, Way]:
        """The ways to train a module by name, ours first."""
        from seam_fast.graph_trainer import GraphTrainer

        graph = Way("graph_trainer", GraphTrainer, self.device, backend=self.backend)
        ours = {"engine": self.engine(), "graph_trainer": graph, "engine_tf32": self.engine("engine_tf32", tf32=True)}
        return ours | rivals(self.device)

    def step(self, left_out: dict, rows: list[dict]) -> dict:
        first = first_steps(self.workload, BATCH, 6 if self.dry else 20)
        long = long_run(self.workload, BATCH, 40 if self.dry else LONG_STEPS)
        truths = {"first": first, "long": long, "first_rivals": for_rivals(first)}
        truths |= {"first_tf32": by_tf32(first), "long_tf32": by_tf32(long)}
        truths["gradients_tf32"] = Gradients(self.workload, BATCH, first.steps)
        agreement = {
            key: {"steps": truth.steps, "errors": {}, "allowed": all_rounded(truth.allowed)}
            for key, truth in truths.items()
        }
        blocks, wrong = {}, {}
        for name, way in self.ways().items():
            try:
                for key in held_against(way):
                    agreement[key]["errors"][name] = all_rounded(truths[key].check(way))
                if name == "engine_tf32" and self.backend == "cuda" and same_as_float32(agreement):
                    left_out[name] = NO_TF32
                    continue
                blocks[name] = self.block(name, way)
            except (SeamFastError, RuntimeError) as error:
                if name in ("engine", "graph_trainer") or not self.alive():
                    raise
                # A rival that fails is no reason to measure nothing; nor is tf32, but that counts as a failure.
                (wrong if name in OURS else left_out)[name] = first_line(error)
        runs = {name: lambda number, run=run: self.time_block(run, number) for name, run in blocks.items()}
        wall, events, steps = measure.blocks_in_turn(runs, (2, 2) if self.dry else (7, 61), self.seconds)
        against = dict.fromkeys(list(blocks)[1:], "engine") | {"graph_rows_tf32": "engine_tf32"}
        return {
            "wrong": wrong,
            "us": {name: measure.spread(found, 1e6) for name, found in wall.items()},
            "us_events": {name: measure.spread(found, 1e6) for name, found in events.items() if found[0] is not None},
            "ratio": {
                name: measure.paired(wall, name, ours) for name, ours in against.items() if {name, ours} <= set(blocks)
            },
            "rounds": len(wall["engine"]),
            "steps_a_block": {name: found[0] for name, found in steps.items()},
            "agreement": agreement,
        }

    def block(self, name: str, way: Way):
        """What is timed: a trainer in its usual regime takes the steps of that round; returns how many."""
        trainer, epoch = self.workload.make(way), self.workload.sampler.size // BATCH
        eager = name.startswith("reference")
        for number in range(0 if eager else 1 if self.dry else -(-WARM_STEPS // epoch)):
            trainer.run_epoch(*self.documents(number), BATCH)
        count = min(FEW, epoch) if eager else epoch
        rounds = [[part[: count * BATCH] for part in self.documents(1000 + number)] for number in range(4)]

        def run(number):
            trainer.run_epoch(*rounds[number % len(rounds)], BATCH)
            return count

        return run

    def documents(self, epoch: int):
        """Those of an epoch, in whole batches."""
        size = self.workload.sampler.size // BATCH * BATCH
        return [part[:size].contiguous() for part in self.workload.documents(epoch, 1)]

    def time_block(self, run, number: int) -> tuple[float, float | None, int]:
        """Seconds a step by the host's clock, seconds a step between two events of the GPU, and steps."""
        gc.collect()
        gc.disable()
        try:
            if self.dry:
                seconds, steps = timed(run, number)
                return seconds / steps, None, steps
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            before.record()
            seconds, steps = timed(run, number)
            after.record()
            after.synchronize()
            return seconds / steps, before.elapsed_time(after) * 1e-3 / steps, steps
        finally:
            gc.enable()

    def kernels(self, left_out: dict, rows: list[dict]) -> dict:
        """What the GPU itself does in a block: microseconds, launches and copies of a step, and the largest shares."""
        found, known = {}, {}
        for row in rows:
            if row["piece"] == "step":
                known = row["left_out"] | row.get("wrong", {})
        for name, way in self.ways().items():
            if self.dry or name in known:
                left_out[name] = known.get(name, "a dry run")
                continue
            try:
                run = self.block(name, way)
                with measure.quiet_profile(activities=[ProfilerActivity.CUDA]) as profiler:
                    steps = run(1)
                    torch.cuda.synchronize()
                events = [e for e in profiler.profiler.kineto_results.events() if e.device_type() == DeviceType.CUDA]
                if events:
                    found[name] = of_events(events, steps)
                else:
                    left_out[name] = "the profiler saw nothing"
            except (SeamFastError, RuntimeError) as error:
                if not self.alive():
                    raise
                left_out[name] = first_line(error)
        return {"steps": found}

    def alive(self) -> bool:
        return not self.why_stop()

    # -- modules beside one another ------------------------------------------------------------------------------------

    def most_beside(self) -> int:
        """How many modules the GPU trains at once, as reengineer counts them."""
        if self.backend != "cuda":
            return 3
        from seam_fast.cuda_trainer import places_at_once

        weights = self.base.weights()
        need = places.module_bytes(weights, len(self.workload.words), BATCH, self.corpus.train.ids.shape[1])
        weights = {key: weight.to(self.device) for key, weight in weights.items()}
        return min(places_at_once(0, weights, BATCH), places.room_in_memory(places.free_bytes(0), need))

    def scaling(self, left_out: dict, rows: list[dict]) -> dict:
        most = self.most_beside()
        if most < 1:
            raise SeamFastError("this GPU trains no module in one launch")
        counts = [1]
        while counts[-1] < most:
            counts.append(min(2 * counts[-1], most))
        way = self.engine()
        weights = {key: weight.to(self.device) for key, weight in self.workload.weights.items()}  # once, for all
        head, options = self.workload.head, self.workload.options | {"read": "end"}
        trainers = [way(weights, head, self.workload.words, **options) for _ in range(most + 1)]
        self.synchronize()
        documents, streams = [self.documents(number) for number in range(4)], self.streams(most)
        with ThreadPoolExecutor(most) as pool:

            def together(count, number):
                """An epoch of each: seconds, CPU seconds of this process, steps of one."""
                barrier = threading.Barrier(count + 1)

                def work(trainer, stream):
                    with self.place(stream).entered():
                        barrier.wait()
                        trainer.run_epoch(*documents[number % len(documents)], BATCH)

                futures = [pool.submit(work, *pair) for pair in zip(trainers[:count], streams, strict=False)]
                cpu, start = time.process_time(), time.perf_counter()
                barrier.wait()
                for future in futures:
                    future.result()
                return time.perf_counter() - start, time.process_time() - cpu, len(documents[0][0]) // BATCH

            self.check_company(trainers, together, documents[0])

            def block(count):
                def run(number):
                    seconds, cpu, steps = together(count, number)
                    return seconds / steps, cpu / seconds, steps

                return run

            gc.collect()
            runs = {str(count): block(count) for count in counts}
            wall, cores, steps = measure.blocks_in_turn(runs, (2, 2) if self.dry else (3, 31), self.seconds)
        one = wall["1"]
        return {
            "most": most,
            "us": {name: measure.spread(found, 1e6) for name, found in wall.items()},
            # Modules a second, against one alone.
            "gain": {
                name: measure.spread([int(name) * a / b for a, b in zip(one, found, strict=True)])
                for name, found in wall.items()
            },
            "cores_busy": {name: measure.spread(found) for name, found in cores.items()},
            "rounds": len(one),
            "steps_a_block": steps["1"][0],
        }

    def check_company(self, trainers: list, together, documents) -> None:
        """Raises SeamFastError where a module comes to other bits beside others than alone. The last one is alone."""
        alone = trainers.pop()
        alone.run_epoch(*documents, BATCH)
        self.synchronize()
        together(len(trainers), 0)
        wanted = digest(*alone.whole_scores())
        others = sum(digest(*trainer.whole_scores()) != wanted for trainer in trainers)
        if others:
            raise SeamFastError(f"{others} of {len(trainers)} modules beside one another differ from one trained alone")

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    # -- whole runs ----------------------------------------------------------------------------------------------------

    def eight(self, left_out: dict, rows: list[dict]) -> dict:
        def train_all(watch):
            settings, backend = self.settings, self.backend
            return sf.reengineer(
                self.base, self.corpus, self.targets, settings=settings, backend=backend, on_epoch=watch
            )

        return self.whole_runs("eight", 3, train_all, [self.settings])

    def study(self, left_out: dict, rows: list[dict]) -> dict:
        few = slice(1, 3) if self.dry else slice(None)
        grid = [{"alpha": a, "lr_mask": rate} for a in ALPHAS[few] for rate in RATES[few]]
        every = [self.settings.with_options(**options) for options in grid]

        def train_all(watch):
            found = sf.reengineer_many(
                self.base, self.corpus, self.targets, every, backend=self.backend, on_epoch=watch
            )
            return [module for modules in found for module in modules]

        found = self.whole_runs("study", 2, train_all, every)
        eight = [row for row in rows if row["key"] == self.key("eight") and row["modules"] and not row["fault"]]
        if found["modules"] and eight and eight[0]["base"] == self.base.hash:
            wanted = {row["class"]: row["digest"] for row in eight[0]["modules"]}
            ours = [m for m in found["modules"] if all(m[key] == getattr(self.settings, key) for key in grid[0])]
            different = [row["class"] for row in ours if wanted.get(row["class"]) != row["digest"]]
            if different:
                raise SeamFastError(f"modules of {', '.join(different)} differ from those that eight were trained of")
            found["same_bits_as_eight"] = len(ours)
        return found

    def whole_runs(self, piece: str, rounds: int, train_all, every: list[Settings]) -> dict:
        """Trains all modules of some settings, up to so many times: ``train_all(on_epoch)`` returns them."""
        steps = sum(self.steps_of(settings, target) for settings in every for target in self.targets)
        seconds, digests, cut, modules = [], None, None, []
        for _ in range(rounds):
            if seconds and self.end is not None and time.monotonic() + 1.2 * max(seconds) > self.end:
                break
            watch = Watch(self.end)
            begun = time.perf_counter()
            try:
                trained = train_all(watch)
            except TimeOver:
                if not seconds:
                    spent, done = time.perf_counter() - begun, watch.steps()
                    cut = {"seconds": rounded(spent, 4), "steps": done, "estimate": rounded(spent * steps / done)}
                break
            seconds.append(time.perf_counter() - begun)
            modules = [module_row(module) for module in trained]
            found = [row["digest"] for row in modules]
            if digests not in (None, found):
                raise SeamFastError(f"two runs of {piece} gave different modules")
            digests = found
        figures = {"epochs": self.epochs, "modules_in_all": len(every) * len(self.targets), "steps": steps}
        figures |= {"base": self.base.hash, "rounds": len(seconds), "cut": cut, "whole": cut is None}
        figures |= {"seconds": measure.spread(seconds) if seconds else None, "modules": modules}
        figures["steps_a_second"] = rounded(steps / statistics.median(seconds), 4) if seconds else None
        return figures

    def steps_of(self, settings: Settings, target: int) -> int:
        """Of a module's whole run."""
        sampler = Sampler(self.corpus, torch.arange(len(self.corpus.train)), (target,), settings, 0)
        return sampler.epochs * -(-sampler.size // settings.batch_size)


class Watch:
    """Looks at the clock after each epoch of each module."""

    def __init__(self, end: float | None):
        self.end, self.jobs = end, {}

    def __call__(self, job, figures) -> None:
        self.jobs[id(job)] = job
        if self.end is not None and time.monotonic() > self.end:
            raise TimeOver

    def steps(self) -> int:
        """That all modules seen have taken."""
        return sum(job.steps_done for job in self.jobs.values())


def held_against(way: Way) -> list[str]:
    """The truths by which a way is judged: ours also by a long run, tf32 also by its gradients."""
    kind = "_tf32" * way.tf32
    ours = way.name in OURS
    keys = ["first" + kind if ours or way.tf32 else "first_rivals", *(["long" + kind] if ours else [])]
    return keys + ["gradients_tf32"] * way.tf32


def same_as_float32(agreement: dict) -> bool:
    """Whether the engine came to the same by tf32 as without, so that it had no kernel for that."""
    ours, plain = agreement["first_tf32"]["errors"]["engine_tf32"], agreement["first"]["errors"]["engine"]
    return all(error == plain[name] for name, error in ours.items() if not name.endswith(" far"))


def timed(run, number: int) -> tuple[float, int]:
    start = time.perf_counter()
    steps = run(number)
    return time.perf_counter() - start, steps


def of_events(events, steps: int) -> dict:
    spent = Counter()
    for event in events:
        spent[event.name()[:80]] += event.duration_ns()
    total = sum(spent.values())
    return {
        "us": rounded(total * 1e-3 / steps, 4),
        "launches": rounded(len(events) / steps),
        "largest": {name: rounded(part / total) for name, part in spent.most_common(4)},
    }


def load_base(arguments):
    """Base and corpus: R8's, or where nobody says where that is, invented documents of its sizes."""
    # By name, so that it must hold R8: from the environment, what it lacks would be looked for on the network.
    there = arguments.data_dir or os.environ.get("SEAM_FAST_DATA")
    if arguments.base:
        base = LSTMClassifier.load(arguments.base)
        return base, corpus_for_base(base, "r8" if there else "r8-synthetic", there, say)
    if there:
        corpus = get_corpus("r8", there, "reference", None, say)
    else:
        say(report.SYNTHETIC_NOTE)
        corpus = synthetic_r8("reference")
    return train(corpus, "public", 0, epochs=BASE_EPOCHS), corpus


def digest(scores: dict, head) -> str:
    """Of the bits of scores and head."""
    found = hashlib.sha256()
    for tensor in (*scores.values(), *head):
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def module_row(module) -> dict:
    """A module's settings and figures."""
    chosen = module.history[module.card["best_epoch"]]
    return {
        "class": "+".join(module.card["target_names"]),
        "alpha": module.card["settings"]["alpha"],
        "lr_mask": module.card["settings"]["lr_mask"],
        "engine": module.card["engine"],
        "epoch": chosen["epoch"],
        "accuracy": rounded(chosen["accuracy"], 6),
        "base_accuracy": rounded(module.card["evaluation"]["base"]["accuracy"], 6),
        "kept": rounded(module.kept, 6),
        "steps": module.card["steps"],
        "seconds": module.card["seconds"],
        "digest": digest(module.scores, module.head),
    }


def all_rounded(errors: dict) -> dict:
    return {name: rounded(error) for name, error in errors.items()}


# Tables --------------------------------------------------------------------------------------------------------------


def save(record: dict, out: Path) -> None:
    write_json(out, record)
    text = "\n\n".join([summary(record), *details(record)])
    out.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


def describe(row: dict) -> str:
    """One line as soon as a piece is done."""
    if row["fault"]:
        return f"{row['key']}: FAILED: {row['fault']}"
    if row["piece"] in ("step", "scaling"):
        times = [f"{name} {found['median']:.4g} us" for name, found in row["us"].items()]
        times += [f"without {name} ({why})" for name, why in row["left_out"].items()]
        times += [f"FAILED: {name} ({why})" for name, why in row.get("wrong", {}).items()]
        return f"{row['key']}: " + ", ".join(times)
    if row["piece"] == "kernels":
        times = [f"{name} {found['us']:g} us" for name, found in row["steps"].items()]
        return f"{row['key']}: " + (", ".join(times) or "nothing was seen")
    return f"{row['key']}: {row['modules_in_all']} modules, {seconds_in_words(row)}"


def seconds_in_words(row: dict) -> str:
    if row["cut"]:
        return f"about {row['cut']['estimate']:g} s (stopped after {row['cut']['seconds']:g} s: estimated)"
    return f"{row['seconds']['median']:.4g} s ({row['seconds']['min']:.4g} to {row['seconds']['max']:.4g})"


def reached(value: float, must: float, aim: float) -> str:
    sign = 1 if aim > must else -1
    return "aim" if sign * value >= sign * aim else "must" if sign * value >= sign * must else "below must"


def of_spread(found: dict) -> str:
    return f"{found['median']:.4g} ({found['q1']:.4g} to {found['q3']:.4g})"


def off_by(step: dict, name: str) -> str:
    """Where a rival is off by more than what is allowed to ours: by how much, and the engine; else ""."""
    agreement = step["agreement"]
    found = agreement.get("first_rivals", {"errors": {}})["errors"].get(name, {})
    allowed = agreement["first"]["allowed"]
    over = {part: error / allowed[part] for part, error in found.items() if part.endswith(" error")}
    worst = max(over, key=over.get, default=None)
    if worst is None or over[worst] <= 1:
        return ""
    ours = agreement["first"]["errors"]["engine"][worst]
    return f"; less exact: scores of {worst.removesuffix(' error')} off by {found[worst]:.1g}, the engine's {ours:.1g}"


def left_out(step: dict, name: str) -> str | None:
    """Why a way has no time; of what was off, the first thing."""
    reason = step["left_out"].get(name)
    if reason is None:
        return None
    off = re.search(r"(?:: )?([^:]+?)(?: error)? of \S+ is off by (\S+), more than the (\S+) allowed", reason)
    return "left out: " + (f"{off[1]} off by {off[2]}, allowed {off[3]}" if off else reason)


def largest_error(step: dict, name: str) -> str:
    """The largest of a way's errors of scores and head after the first steps."""
    for part in ("first", "first_rivals", "first_tf32"):
        if name in step["agreement"].get(part, {"errors": ()})["errors"]:
            errors = step["agreement"][part]["errors"][name]
            return f"{max(error for key, error in errors.items() if key.endswith(' error')):.1g}"
    return "-"


def summary(record: dict) -> str:
    """A line for each figure that was set as a target."""
    found = {row["piece"]: row for row in record["rows"] if not row["fault"]}
    run = record["runs"][-1]
    lines = ["| what | found | must | aim | reached |", "|---|---|---|---|---|"]

    def line(words, target, value=None, text=None, counts=True):
        must, aim = TARGETS[target] if target else ("-", "-")
        verdict = reached(value, must, aim) if target and value is not None and counts else "-"
        lines.append(f"| {words} | {text or 'not measured'} | {must} | {aim} | {verdict} |")

    step = found.get("step")
    ratio = step["ratio"] if step else {}
    counts = not run["settings"]["dry"]  # else nothing is said about speed
    for words, target, name in (("float32", "us", "engine"), ("tf32", "us_tf32", "engine_tf32")):
        us, text = step and step["us"].get(name), None
        if us:
            kernels = found["kernels"]["steps"].get(name) if "kernels" in found else None
            text = of_spread(us) + (f"; the GPU works {kernels['us']:g} of it" if kernels else "")
            if name == "engine_tf32" and "graph_rows_tf32" in ratio:
                text += f"; graph_rows_tf32 / engine_tf32 {of_spread(ratio['graph_rows_tf32'])}"
        elif step:
            text = "FAILED" if name in step.get("wrong", {}) else step["left_out"].get(name)
        line(f"one module, us a step, {words}", target, us and us["median"], text, counts)
    for words, target, name in (
        ("the reference, eager / engine", "reference", "reference"),
        ("the same without copies of gradients", None, "reference_without_copies"),
        ("the reference at its best, eager", None, "reference_best"),
        ("captured graph of cuDNN + fused Adam, rows that occur / engine", "graph", "graph_rows"),
        ("the same over the whole table", None, "graph_table"),
        ("GraphTrainer / engine", None, "graph_trainer"),
    ):
        value = ratio.get(name)
        text = of_spread(value) + off_by(step, name) if value else step and left_out(step, name)
        line(words, target, value and value["median"], text, counts)
    for piece in ("eight", "study"):
        row = found.get(piece)
        if row is None:
            line({"eight": "8 classes, s", "study": "128 modules, s"}[piece], piece)
            continue
        value = row["cut"]["estimate"] if row["cut"] else row["seconds"]["median"]
        words = f"{row['modules_in_all']} modules, {row['epochs']} epochs, s"
        line(words, piece, value, seconds_in_words(row), counts and row["epochs"] == EPOCHS)
    scaling = found.get("scaling")
    if scaling:
        gain = scaling["gain"][str(scaling["most"])]["median"]
        line(f"{scaling['most']} modules at once: modules a second, against one", None, gain, f"{gain:.3g} times")
    faults = [f"FAILED: {why}" for row in record["rows"] for why in failures(row)]
    about, workload = run["machine"], run["workload"]
    lines += ["", *faults, *([""] if faults else [])]
    lines.append(
        f"{about['gpu']['name']}, driver {(about['gpu'].get('state') or {}).get('driver_version', 'unknown')}, torch "
        f"{about['torch']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, commit {about['commit']}, {about['date']}; "
        f"{workload['corpus']}{' (SYNTHETIC)' * workload['synthetic']}, {workload['target']}, "
        + ", ".join(f"{letter} {size}" for letter, size in workload["sizes"].items())
    )
    if record["unmeasured"]:
        lines.append(f"Not measured: {', '.join(record['unmeasured'])}: {run['stopped']}.")
    lines += [f"Not measured: {name}: {why}." for name, why in record["left_out"].items()]
    return "\n".join(lines)


def details(record: dict) -> list[str]:
    """A table for each piece."""
    found = []
    for row in record["rows"]:
        if row["fault"]:
            continue
        if row["piece"] == "step":
            lines = ["| way | us a step | by events | engine is faster by | largest error of a score |"]
            lines.append("|---" * 5 + "|")
            for name, us in row["us"].items():
                events, ratio = (row[key].get(name) for key in ("us_events", "ratio"))
                lines.append(
                    f"| {name} | {of_spread(us)} | {of_spread(events) if events else '-'} "
                    f"| {of_spread(ratio) if ratio else '-'} | {largest_error(row, name)} |"
                )
        elif row["piece"] == "kernels":
            lines = ["| way | the GPU works, us a step | launches | largest shares |", "|---" * 4 + "|"]
            for name, part in row["steps"].items():
                shares = ", ".join(f"{100 * share:.0f} % {kernel}" for kernel, share in part["largest"].items())
                lines.append(f"| {name} | {part['us']:g} | {part['launches']:g} | {shares} |")
        elif row["piece"] == "scaling":
            lines = ["| modules at once | us a step of each | modules a second, against one | cores busy |"]
            lines.append("|---" * 4 + "|")
            for name, us in row["us"].items():
                gain, cores = row["gain"][name]["median"], row["cores_busy"][name]["median"]
                lines.append(f"| {name} | {of_spread(us)} | {gain:.3g} | {cores:.2g} |")
        else:
            lines = ["| class | alpha | lr_mask | accuracy | base | kept % | epoch | steps | s |", "|---" * 9 + "|"]
            for module in row["modules"]:
                lines.append(
                    f"| {module['class']} | {module['alpha']} | {module['lr_mask']} | {module['accuracy']:.4f} "
                    f"| {module['base_accuracy']:.4f} | {100 * module['kept']:.1f} | {module['epoch']} "
                    f"| {module['steps']} | {module['seconds']:.3g} |"
                )
        found.append("\n".join([f"{row['key']}:", "", *lines]))
    return found


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    # Where the profiler tears its tracer down, graphs may crash.
    os.environ.update(DISABLE_CUPTI_LAZY_REINIT="1", TEARDOWN_CUPTI="0")
    sys.exit(main())

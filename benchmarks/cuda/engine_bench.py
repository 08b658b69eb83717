"""Measures the training engine on a GPU: a step, modules side by side, whole runs, and what the GPU does in a step."""

import gc
import hashlib
import os
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

import seam_fast as sf
from benchmarks.baselines.cuda_engine import Gradients, Way, by_tf32, for_rivals, rivals
from benchmarks.baselines.reference_step import Workload, first_steps, long_run
from benchmarks.cuda.device import DeviceBench, first_line, rounded
from benchmarks.harness import profiler, timing
from benchmarks.harness.bases import smoke_base
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.training import train_classifier
from seam_fast.cli import report
from seam_fast.cli.corpora import corpus_for_base, get_corpus
from seam_fast.common.progress import say
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.errors import SeamFastError
from seam_fast.search.sampling import Sampler
from seam_fast.search.settings import Settings
from seam_fast.training import devices
from seam_fast.training.torch_trainer import TorchTrainer

CLASS, BATCH = "acq", 5
BASE_EPOCHS = 2  # of a base that is trained here: the time of a step does not depend on what the weights have learned
WARM_STEPS = 1001  # steps with scores before times are taken, so that the lazy state of the optimizer is as in a run
LONG_STEPS = 1500  # steps of the long agreement
EAGER_STEPS = 20  # steps per block of the eager rivals, which need no warm state; the others run an epoch
ALPHAS, RATES = (0.05, 0.1, 0.2, 0.4), (0.02, 0.05, 0.1, 0.2)  # of the study; the reference's 0.2, 0.1 among them
NO_TF32 = "its figures are those of float32: there is no tf32 kernel for this GPU or these sizes"
OURS = ("engine", "engine_tf32", "graph_trainer")


class TimeLimitReached(Exception):
    """Raised in a callback to cut a run short: the workers finish the launch that they are in."""


class Bench(DeviceBench):
    """Measures the pieces of a record. end: when time is up, by the monotonic clock, or None for no limit."""

    def __init__(self, arguments, end: float | None):
        super().__init__(arguments)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(1)  # as in reengineer
        self.end, self.epochs = end, min(arguments.epochs, 2) if self.dry else arguments.epochs
        self.base, self.corpus = smoke_base() if self.dry else load_base(arguments)
        # A dry run takes the two smallest classes.
        sizes = torch.bincount(self.corpus.train.labels).tolist()
        smallest = sorted(range(len(sizes)), key=sizes.__getitem__)[:2]
        self.targets = sorted(smallest) if self.dry else list(range(self.corpus.num_classes))
        self.target = smallest[0] if self.dry else self.corpus.class_names.index(CLASS)
        self.workload = Workload(self.base, self.corpus, self.target)
        self.settings = Settings.for_protocol("reference").with_options(epochs=self.epochs)

    def about(self) -> dict:
        """The field ``workload`` of a run: what is trained."""
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

    def time_is_up(self) -> bool:
        return self.end is not None and time.monotonic() > self.end

    def key(self, piece: str) -> str:
        return f"{piece}, {self.epochs} epochs" if piece in ("eight", "study") else piece

    def row(self, piece: str, rows: list[dict]) -> dict:
        """All figures of a piece; if it fails or a result is wrong, the reason in ``fault`` and no figures.

        rows: the rows before it, whose results some pieces build on.
        """
        row = {"key": self.key(piece), "piece": piece, "left_out": {}, "wrong": {}, "fault": "", "whole": True}
        try:
            with self.worker_device(self.streams(1)[0]).entered():
                return row | getattr(self, piece)(row["left_out"], rows)
        except (SeamFastError, RuntimeError) as error:
            return row | {"fault": first_line(error)}

    def streams(self, count: int) -> list:
        return [None] * count if self.dry else devices.own_streams(0, count)

    def worker_device(self, stream) -> devices.WorkerDevice:
        return devices.WorkerDevice(torch.device(self.device, None if self.device == "cpu" else 0), stream)

    # One module ----------------------------------------------------------------------------------------------------

    def engine(self, name: str = "engine", tf32: bool = False) -> Way:
        if self.backend != "cuda":
            return Way(name, TorchTrainer, self.device, tf32=tf32)
        from seam_fast.training.cuda_trainer import CudaTrainer

        return Way(name, CudaTrainer, self.device, tf32=tf32)

    def ways(self) -> dict[str, Way]:
        """The ways to train a module, by name, ours first."""
        from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer

        graph = Way("graph_trainer", CudaGraphTrainer, self.device, backend=self.backend)
        ours = {"engine": self.engine(), "graph_trainer": graph, "engine_tf32": self.engine("engine_tf32", tf32=True)}
        return ours | rivals(self.device)

    def step(self, left_out: dict, rows: list[dict]) -> dict:
        """Times of a step of one module, by every way, after each was compared with float64."""
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
                for key in truths_for(way):
                    agreement[key]["errors"][name] = all_rounded(truths[key].check(way))
                if name == "engine_tf32" and self.backend == "cuda" and same_as_float32(agreement):
                    left_out[name] = NO_TF32
                    continue
                blocks[name] = self.block(name, way)
            except (SeamFastError, RuntimeError) as error:
                if name in ("engine", "graph_trainer") or not self.alive():
                    raise
                # The others are measured all the same; a failure by tf32 counts against the run, one of a rival not.
                (wrong if name in OURS else left_out)[name] = first_line(error)
        runs = {name: lambda number, run=run: self.time_block(run, number) for name, run in blocks.items()}
        wall, events, steps = timing.time_blocks_in_turn(runs, (2, 2) if self.dry else (7, 61), self.seconds)
        against = dict.fromkeys(list(blocks)[1:], "engine") | {"graph_rows_tf32": "engine_tf32"}
        against = {name: ours for name, ours in against.items() if {name, ours} <= set(blocks)}
        return {
            "wrong": wrong,
            "us": {name: timing.spread(found, 1e6) for name, found in wall.items()},
            "us_events": {name: timing.spread(found, 1e6) for name, found in events.items() if found[0] is not None},
            "ratio": {
                name: timing.paired_ratios(wall, name, ours)
                for name, ours in against.items()
                if {name, ours} <= set(blocks)
            },
            "rounds": len(wall["engine"]),
            "steps_a_block": {name: found[0] for name, found in steps.items()},
            "agreement": agreement,
        }

    def block(self, name: str, way: Way):
        """What is timed: a warm trainer that takes the steps of a round and returns how many."""
        trainer, epoch = self.workload.make(way), self.workload.sampler.size // BATCH
        eager = name.startswith("reference")
        for number in range(0 if eager else 1 if self.dry else -(-WARM_STEPS // epoch)):
            trainer.run_epoch(*self.documents(number), BATCH)
        count = min(EAGER_STEPS, epoch) if eager else epoch
        rounds = [[part[: count * BATCH] for part in self.documents(1000 + number)] for number in range(4)]

        def run(number):
            trainer.run_epoch(*rounds[number % len(rounds)], BATCH)
            return count

        return run

    def documents(self, epoch: int):
        """The documents of an epoch, in whole batches."""
        size = self.workload.sampler.size // BATCH * BATCH
        return [part[:size].contiguous() for part in self.workload.documents(epoch, 1)]

    def time_block(self, run, number: int) -> tuple[float, float | None, int]:
        """Seconds per step by the host's clock, seconds per step between two CUDA events (None if dry), steps."""
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
        """What the GPU itself does in a block, by the profiler: microseconds and launches per step, largest shares."""
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
                with profiler.quiet_profile(activities=[ProfilerActivity.CUDA]) as profile:
                    steps = run(1)
                    torch.cuda.synchronize()
                events = profile.profiler.kineto_results.events()
                events = [event for event in events if event.device_type() == DeviceType.CUDA]
                if events:
                    found[name] = of_events(events, steps)
                else:
                    left_out[name] = "the profiler saw nothing"
            except (SeamFastError, RuntimeError) as error:
                if not self.alive():
                    raise
                left_out[name] = first_line(error)
        return {"steps": found}

    # Modules side by side ------------------------------------------------------------------------------------

    def max_side_by_side(self) -> int:
        """How many modules the GPU trains at once, by the rule that reengineer uses."""
        if self.backend != "cuda":
            return 3
        from seam_fast.training.cuda_trainer import CudaTrainer

        weights = self.base.weights()
        need = devices.module_bytes(weights, len(self.workload.words), BATCH, self.corpus.train.ids.shape[1])
        weights = {key: weight.to(self.device) for key, weight in weights.items()}
        at_once = CudaTrainer.capacity(torch.device(self.device), weights, BATCH)
        return min(at_once, devices.room_in_memory(devices.free_bytes(0), need))

    def scaling(self, left_out: dict, rows: list[dict]) -> dict:
        """Times with 1, 2, 4, ... modules side by side, each in a thread and on a stream of its own."""
        most = self.max_side_by_side()
        if most < 1:
            raise SeamFastError("this GPU trains no module in one launch")
        counts = [1]
        while counts[-1] < most:
            counts.append(min(2 * counts[-1], most))
        way = self.engine()
        weights = {key: weight.to(self.device) for key, weight in self.workload.weights.items()}  # shared by all
        head, options = self.workload.head, self.workload.options | {"readout": "last_position"}
        trainers = [way(weights, head, self.workload.words, **options) for _ in range(most + 1)]
        self.synchronize()
        documents, streams = [self.documents(number) for number in range(4)], self.streams(most)
        with ThreadPoolExecutor(most) as pool:

            def together(count, number):
                """An epoch of each module: seconds, CPU seconds of this process, steps of one module."""
                barrier = threading.Barrier(count + 1)

                def work(trainer, stream):
                    with self.worker_device(stream).entered():
                        barrier.wait()
                        trainer.run_epoch(*documents[number % len(documents)], BATCH)

                futures = [pool.submit(work, *pair) for pair in zip(trainers[:count], streams, strict=False)]
                cpu, start = time.process_time(), time.perf_counter()
                barrier.wait()
                for future in futures:
                    future.result()
                return time.perf_counter() - start, time.process_time() - cpu, len(documents[0][0]) // BATCH

            self.check_same_bits(trainers, together, documents[0])

            def block(count):
                def run(number):
                    seconds, cpu, steps = together(count, number)
                    return seconds / steps, cpu / seconds, steps

                return run

            gc.collect()
            runs = {str(count): block(count) for count in counts}
            wall, cores, steps = timing.time_blocks_in_turn(runs, (2, 2) if self.dry else (3, 31), self.seconds)
        one = wall["1"]
        return {
            "most": most,
            "us": {name: timing.spread(found, 1e6) for name, found in wall.items()},
            # Modules a second, against one alone.
            "gain": {
                name: timing.spread([int(name) * a / b for a, b in zip(one, found, strict=True)])
                for name, found in wall.items()
            },
            "cores_busy": {name: timing.spread(found) for name, found in cores.items()},
            "rounds": len(one),
            "steps_a_block": steps["1"][0],
        }

    def check_same_bits(self, trainers: list, together, documents) -> None:
        """Raises SeamFastError if a module trained beside others differs in any bit from one trained alone.

        The last trainer is the one that is alone.
        """
        alone = trainers.pop()
        alone.run_epoch(*documents, BATCH)
        self.synchronize()
        together(len(trainers), 0)
        wanted = digest(*alone.full_scores())
        others = sum(digest(*trainer.full_scores()) != wanted for trainer in trainers)
        if others:
            raise SeamFastError(f"{others} of {len(trainers)} modules beside one another differ from one trained alone")

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    # Whole runs ----------------------------------------------------------------------------------------------------

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
        """Trains all modules of some settings up to ``rounds`` times, and compares their bits.

        train_all: called with an on_epoch callback, returns the modules. every: the settings, of which each class has
        one module.
        """
        steps = sum(self.steps_of(settings, target) for settings in every for target in self.targets)
        seconds, digests, cut, modules = [], None, None, []
        for _ in range(rounds):
            if seconds and self.end is not None and time.monotonic() + 1.2 * max(seconds) > self.end:
                break
            watch = EpochWatch(self.end)
            begun = time.perf_counter()
            try:
                trained = train_all(watch)
            except TimeLimitReached:
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
        figures |= {"seconds": timing.spread(seconds) if seconds else None, "modules": modules}
        figures["steps_a_second"] = rounded(steps / statistics.median(seconds), 4) if seconds else None
        return figures

    def steps_of(self, settings: Settings, target: int) -> int:
        """Steps of the whole run of a module."""
        sampler = Sampler(self.corpus, torch.arange(len(self.corpus.train)), (target,), settings, 0)
        return sampler.epochs * -(-sampler.size // settings.batch_size)


class EpochWatch:
    """An on_epoch callback that raises TimeLimitReached when time is up, and counts the steps taken until then."""

    def __init__(self, end: float | None):
        self.end, self.jobs = end, {}

    def __call__(self, job, figures) -> None:
        self.jobs[id(job)] = job
        if self.end is not None and time.monotonic() > self.end:
            raise TimeLimitReached

    def steps(self) -> int:
        """Steps of all modules so far."""
        return sum(job.steps_done for job in self.jobs.values())


def truths_for(way: Way) -> list[str]:
    """The truths that a way is compared with, by name: ours also with a long run, tf32 also with its gradients."""
    kind = "_tf32" * way.tf32
    ours = way.name in OURS
    keys = ["first" + kind if ours or way.tf32 else "first_rivals", *(["long" + kind] if ours else [])]
    return keys + ["gradients_tf32"] * way.tf32


def same_as_float32(agreement: dict) -> bool:
    """Whether the engine's errors with and without tf32 are the same, which means that it had no tf32 kernel."""
    ours, plain = agreement["first_tf32"]["errors"]["engine_tf32"], agreement["first"]["errors"]["engine"]
    return all(error == plain[name] for name, error in ours.items() if not name.endswith(" far"))


def timed(run, number: int) -> tuple[float, int]:
    """Seconds and steps of ``run(number)``."""
    start = time.perf_counter()
    steps = run(number)
    return time.perf_counter() - start, steps


def of_events(events, steps: int) -> dict:
    """Microseconds and launches per step, and the largest shares of the time by kernel."""
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
    """Base and corpus: R8, or invented documents of its sizes if no folder with R8 is given."""
    # Passed on by name, so that the folder must hold R8; get_corpus would download what one from the environment lacks.
    there = arguments.data_dir or os.environ.get("SEAM_FAST_DATA")
    if arguments.base:
        base = LSTMClassifier.load(arguments.base)
        return base, corpus_for_base(base, "r8" if there else "r8-synthetic", there, say)
    if there:
        corpus = get_corpus("r8", there, "reference", None, say)
    else:
        say(report.SYNTHETIC_NOTE)
        corpus = synthetic_r8("reference")
    return train_classifier(corpus, "public", 0, epochs=BASE_EPOCHS), corpus


def digest(scores: dict, head) -> str:
    """Hash of the bits of scores and head."""
    found = hashlib.sha256()
    for tensor in (*scores.values(), *head):
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def module_row(module) -> dict:
    """The row of a module in a record: settings and figures."""
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

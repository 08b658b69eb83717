"""The masked LSTM on a GPU beside cuDNN: both in one process, in turn, forward and backward with all gradients.

    python -m benchmarks.cuda.lstm --minutes 8                 # most telling shapes first; says what it left out
    python -m benchmarks.cuda.lstm --more runs/cuda_lstm.json  # what that record lacks
    python -m benchmarks.cuda.lstm --groups anchors h512 --dtypes bfloat16
    python -m benchmarks.cuda.lstm --rivals-only               # cuDNN alone: needs no kernels of ours
    python -m benchmarks.cuda.lstm --dry                       # tiny shapes on the CPU: shows that the script runs

Each group of shapes has a process of its own, and a new one after a shape that leaves none to work with. Writes the
record after every shape and, beside it, a table of the ratios in each row of targets. Ends with exit code 1 if a result
was wrong or a shape failed; the others are measured all the same.
"""

import argparse
import contextlib
import functools
import gc
import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import seam_fast
from benchmarks import ROOT
from benchmarks.baselines import cuda_lstm as ways
from benchmarks.baselines import lstm as rivals
from benchmarks.baselines.lstm import SEED
from benchmarks.harness import measure
from benchmarks.harness.cuda_grid import DEFAULT, DTYPES, GROUPS, ROWS, Entry
from benchmarks.harness.shapes import Shape
from seam_fast import report
from seam_fast.backend import choose_backend
from seam_fast.cli import run_guarded
from seam_fast.errors import SeamFastError
from seam_fast.workflow import say, write_json

FORMAT = "seam-fast cuda lstm 1"
METHOD = (
    "A process for each group of shapes; blocks of calls of all ways in turn, round after round, each block timed by "
    "two CUDA events. Times in ms a call. seam, cudnn, whole, seam_forward, cudnn_forward, padded and compiled are "
    "CUDA graphs of one call that are replayed back to back; those whose names end in _eager are called from Python "
    "back to back. seam: seam_fast.masked_lstm with the gradients of input and scores. cudnn: torch's LSTM kernel on "
    "weights that were masked before the clock ran, in one piece of memory where in_one_piece says so, with the "
    "gradients of input and weights. whole: products of weights and masks, that kernel, gradients times weights and "
    "their clamp. packed_eager: cudnn on a PackedSequence, packed and unpacked on the way (no graph can record it). "
    "padded: cudnn on all T steps, padding made zero, without c_n. A ratio is of two times of the same round; above 1 "
    "seam-fast is faster: cudnn, whole and padded against seam; cudnn_forward against seam_forward; cudnn_eager and "
    "packed_eager against seam_eager; packed against seam. Numbers are random but the same for all ways; half of the "
    "scores are positive. Before the clock runs and after it, all results are compared with cuDNN in float64 on the "
    "same numbers: error is the largest difference relative to the largest value, and seam's may be twice whole's plus"
    " 8 roundings; a rival may be less exact than that, up to what rounding every addition of its longest sum can cost"
    " (a quarter at most), and the tables say how far off it is. float32 is computed without tf32 but where a row says"
    " tf32. Memory: the most that a call holds beyond what was there and what it returns. GFLOP/s count the matrix "
    "products of real steps, 24 H (I + H) a step."
)
# Seconds that a shape may take, or a process to begin or to answer anything else, before it counts as lost.
LIMIT, COMPILED_LIMIT, ANSWER_LIMIT = 150, 600, 150
# Ratios: name, the rival's time, ours.
RATIOS = (
    ("cudnn", "cudnn", "seam"),
    ("whole", "whole", "seam"),
    ("packed", "packed_eager", "seam"),
    ("padded", "padded", "seam"),
    ("compiled", "compiled", "seam"),
    ("cudnn_forward", "cudnn_forward", "seam_forward"),
    ("cudnn_eager", "cudnn_eager", "seam_eager"),
    ("packed_eager", "packed_eager", "seam_eager"),
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--groups", nargs="+", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all but the last)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, metavar="DTYPE", help=", ".join(DTYPES))
    parser.add_argument("--minutes", type=float, help="begin no further shape after so many minutes")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for the rounds of a shape (default: 1)")
    parser.add_argument("--rivals-only", action="store_true", help="measure cuDNN alone")
    parser.add_argument("--more", nargs="+", metavar="RECORD", help="keep what these records hold, measure the rest")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU, which say nothing about speed")
    parser.add_argument("--commit", help="the commit to write down, where the source lies outside of a git checkout")
    parser.add_argument("--out", default="runs/cuda_lstm.json", help="the record (default: %(default)s)")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.cuda.lstm", *argv])
    return run_guarded("cuda_lstm", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    begin = time.monotonic()
    groups = {name: entries[: len(DTYPES)] for name, entries in GROUPS.items()} if arguments.dry else GROUPS
    unknown = [name for name in arguments.groups or () if name not in groups]
    if unknown:
        raise SeamFastError(f"group {unknown[0]!r} is unknown; there are {', '.join(GROUPS)}")
    if arguments.seconds <= 0 or (arguments.minutes is not None and arguments.minutes < 0):
        raise SeamFastError("--seconds must be above 0 and --minutes not below")
    record = earlier_records(arguments)
    if arguments.minutes == 0:  # nothing but to put records together
        return finish(record, Path(arguments.out))
    this = {
        "command": command,
        "settings": {"seed": SEED, "seconds": arguments.seconds, "minutes": arguments.minutes, "dry": arguments.dry},
        "stopped": "",
    }
    chosen = [entry for name in arguments.groups or DEFAULT for entry in groups[name]]
    known = {row["key"] for row in record["rows"]}
    chosen = [entry for entry in chosen if entry.dtype in arguments.dtypes and entry.key not in known]
    bench = Benches(arguments)
    try:
        this["machine"] = bench.ask("machine", arguments.commit)
        record["runs"].append(this)
        check_identity(record["runs"])
        record["unmeasured"] = [entry.key for entry in chosen]
        while chosen and not this["stopped"]:
            if arguments.minutes is not None and time.monotonic() - begin > 60 * arguments.minutes:
                this["stopped"] = f"the {arguments.minutes:g} minutes were over"
                break
            try:
                row = bench.row(chosen[0]) | {"run": len(record["runs"]) - 1}
            except SeamFastError as error:
                this["stopped"] = first_line(error)
                break
            record["rows"].append(row)
            record["unmeasured"] = [entry.key for entry in chosen[1:]]
            chosen.pop(0)
            say(describe(row))
            save(record, Path(arguments.out))
        this["machine"]["load"]["after"] = measure.load()
        this["gpu_after"] = bench.last_state()
    finally:
        bench.close()
    return max(int(bench.gone), finish(record, Path(arguments.out)))


@contextlib.contextmanager
def settled_heap():
    """Spares the collector of garbage, which runs before each shape, all that torch's import has left."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def earlier_records(arguments) -> dict:
    """A record of nothing but the right rows of earlier ones."""
    left_out = rivals.absent(gpu=True)
    if "compiled" not in (arguments.groups or ()):
        left_out["compiled"] = "it takes minutes to compile; ask for it by --groups compiled"
    record = {"format": FORMAT, "method": METHOD, "rivals_only": arguments.rivals_only, "left_out": left_out}
    record |= {"runs": [], "unmeasured": [], "rows": []}
    for path in arguments.more or ():
        earlier = json.loads(Path(path).read_text())
        if earlier.get("format") != FORMAT or earlier["rivals_only"] != arguments.rivals_only:
            raise SeamFastError(f"{path} is not a record of this kind")
        first, have = len(record["runs"]), {row["key"] for row in record["rows"]}
        record["runs"] += earlier["runs"]
        for row in earlier["rows"]:
            if not row["fault"] and row["key"] not in have:
                record["rows"].append(row | {"run": row["run"] + first})
    if arguments.minutes == 0 and not record["runs"]:
        raise SeamFastError("--minutes 0 measures nothing: it puts the records together that --more names")
    check_identity(record["runs"])
    return record


def check_identity(runs: list[dict]) -> None:
    """Raises SeamFastError where runs differ in what rows must share to stand in one table."""
    for run in runs[1:]:
        for name in ("gpu", "torch", "cudnn", "sources"):
            one, other = runs[0]["machine"][name], run["machine"][name]
            if name == "gpu":
                one, other = one["name"], other["name"]
            if one != other:
                raise SeamFastError(f"rows of {name} {one} and {other} cannot stand in one table")


def finish(record: dict, out: Path) -> int:
    save(record, out)
    print(summary(record))
    return int(any(row["fault"] for row in record["rows"]))


# Measuring -----------------------------------------------------------------------------------------------------------


class Benches:
    """A Bench for each group of shapes, in a process of its own, so that a shape that fails spoils no other; a dry run,
    which can spoil nothing, has them in this process.
    """

    def __init__(self, arguments):
        self._begin = functools.partial(Here if arguments.dry else Apart, Bench, arguments)
        self._arguments, self._group = arguments, None
        self._lost = False  # whether the bench that is there can measure nothing more
        self.gone = False  # whether no further one can be had
        self._bench = self._begin()
        self.ask, self.close = self._bench.ask, self._bench.close

    def row(self, entry: Entry) -> dict:
        """The figures of a shape, or why there are none. Raises SeamFastError where nothing more can be measured."""
        if self._lost or self._group not in (None, entry.group):
            self._renew()
        self._group = entry.group
        try:
            row = self.ask("row", entry, limit=COMPILED_LIMIT if entry.group == "compiled" else LIMIT)
            self._lost = bool(self.ask("why_stop"))
        except SeamFastError as error:
            row, self._lost = blank_row(entry, self._arguments.dry) | {"fault": first_line(error)}, True
        return row

    def _renew(self) -> None:
        self.close()
        self._lost = self.gone = True
        self._bench = self._begin()
        self.ask, self.close = self._bench.ask, self._bench.close
        if reason := self.ask("why_stop"):
            raise SeamFastError(reason)
        self._lost = self.gone = False

    def last_state(self) -> dict | None:
        """What nvidia-smi says at the end."""
        return None if self._lost else self.ask("gpu_state")


class Here:
    """A bench, and how it is asked."""

    def __init__(self, make, arguments):
        self._bench = make(arguments)

    def ask(self, what: str, *values, limit: float = ANSWER_LIMIT):
        """What a method of the bench returns."""
        return getattr(self._bench, what)(*values)

    def close(self) -> None:
        """Ends what it has begun."""


class Apart(Here):
    """The same in a process of its own. Raises SeamFastError where that ends or does not answer in time."""

    def __init__(self, make, arguments):
        self._child = measure.Child(serve, make, arguments)
        self.close = self._child.close
        try:
            self._child.answer(ANSWER_LIMIT)
        except (SeamFastError, RuntimeError) as error:
            self.close()
            if isinstance(error, SeamFastError):
                raise
            raise SeamFastError(f"the GPU does not answer ({first_line(error)})") from None

    def ask(self, what, *values, limit=ANSWER_LIMIT):
        self._child.send((what, values))
        return self._child.answer(limit)


def serve(connection, make, arguments) -> None:
    """Answers what `Apart.ask` asks of a bench that is made here."""
    bench = make(arguments)
    connection.send(None)
    with settled_heap():
        while True:
            what, values = connection.recv()
            connection.send(getattr(bench, what)(*values))


def blank_row(entry: Entry, dry: bool) -> dict:
    """What is known of a shape before it is measured."""
    shape = (entry.shrunk() if dry else entry).shape
    return {
        "key": entry.key,
        "group": entry.group,
        "row": entry.row,
        "dtype": entry.dtype,
        "tf32": entry.tf32,
        "sizes": {letter: getattr(shape, letter) for letter in "IHBT"} | {"lengths": "1..T" * shape.spread},
        "flop": shape.flop(),
        "target": entry.target(),
        "left_out": {},
        "fault": "",
    }


class Bench:
    """Where and what is measured: on the GPU, or dry."""

    def __init__(self, arguments):
        self.dry, self.seconds, self.rivals_only = arguments.dry, arguments.seconds, arguments.rivals_only
        self.device = "cpu" if self.dry else "cuda"
        self.backend = "torch" if self.dry else "cuda"
        if self.dry:
            torch.set_num_threads(1)
            self.seconds = 0.001
            return
        if not torch.cuda.is_available():
            raise SeamFastError("torch sees no GPU; --dry shows without one that this script runs")
        if not self.rivals_only:
            choose_backend("cuda")  # which says why it cannot be used
        square = torch.ones(4096, 4096, device="cuda")
        end = time.monotonic() + 1
        while time.monotonic() < end:  # until the clocks are up
            square @ square
            torch.cuda.synchronize()

    def machine(self, commit: str | None) -> dict:
        native, about = seam_fast._ext.C, report.machine()
        return about | {
            "commit": about["commit"] or commit,
            "gpu": self.gpu(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "sources": None if self.rivals_only else hash_of_sources(),
            "backends": seam_fast.backends(),
            "build": None if native is None else dict(native.build_info()),
            "load": {"before": measure.load(), "after": None},
        }

    def gpu(self) -> dict:
        if self.dry:
            return {"name": "none: a dry run on the CPU"}
        about = torch.cuda.get_device_properties(0)
        return {
            "name": about.name,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory": about.total_memory,
            "state": self.gpu_state(),
        }

    def gpu_state(self) -> dict | None:
        """Driver, clocks, power and temperature, as far as nvidia-smi tells them."""
        fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
        if self.dry or shutil.which("nvidia-smi") is None:
            return None
        command = ["nvidia-smi", "-i", "0", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            return None
        values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout else []
        return dict(zip(fields.split(","), values, strict=False))

    def why_stop(self) -> str:
        """Why nothing more can be measured, or "". An illegal access leaves a process no GPU to work with."""
        if not self.dry:
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                return f"the GPU does not answer any more ({first_line(error)})"
        return ""

    def row(self, entry: Entry) -> dict:
        """All figures of one shape; where it fails or a result is wrong, why, and no times."""
        row, shape = blank_row(entry, self.dry), (entry.shrunk() if self.dry else entry).shape
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = entry.tf32
        try:
            row |= self.figures(entry, shape, row["left_out"])
        except (SeamFastError, RuntimeError) as error:
            row["fault"] = first_line(error)
        return row

    def figures(self, entry: Entry, shape: Shape, left_out: dict) -> dict:
        problem = ways.Problem(shape, getattr(torch, entry.dtype), self.device, self.backend)
        truth = ways.Truth(problem, entry.tf32)
        runs, results, errors, memory = {}, {}, {}, {"saved_bytes": saved_bytes(shape, problem.dtype)}
        for name, way in self.ways(entry, problem).items():
            try:
                errors[name] = truth.check(name, way(problem))
                if name in ("seam", "cudnn", "packed_eager"):
                    memory[name] = self.peak_memory(way, problem)
                runs[name], results[name] = self.prepare(name, way, problem)
            except (SeamFastError, RuntimeError) as error:
                if name in truth.OURS or not self.alive():
                    raise
                left_out[name] = first_line(error)  # a rival that fails is no reason to measure nothing
        clock = measure.seconds_of if self.dry else event_seconds
        block, rounds = (1e-6, (2, 2)) if self.dry else (0.003, (7, 61))
        times, loops, _ = measure.in_turn(runs, rounds, block, self.seconds, clock)
        for name, found in results.items():  # what the graphs left behind
            try:
                truth.check(name, found)
            except SeamFastError as error:
                if name in truth.OURS:
                    raise
                left_out[name] = first_line(error)
                del times[name], loops[name], errors[name]
        ratios = {name: (times[rival], times[ours]) for name, rival, ours in RATIOS if {rival, ours} <= times.keys()}
        return {
            "ms": {name: measure.spread(found, 1e3) for name, found in times.items()},
            "ratio": {
                name: measure.spread([rival / ours for rival, ours in zip(*pair, strict=True)])
                for name, pair in ratios.items()
            },
            "gflops": {
                name: rounded(shape.flop() / statistics.median(found) / 1e9, 4)
                for name, found in times.items()
                if "forward" not in name
            },
            "rounds": len(next(iter(times.values()))),
            "loops": loops,
            "in_one_piece": problem.in_one_piece,
            "memory": memory,
            "agreement": {
                "errors": {
                    name: {key: rounded(error) for key, error in found.items()} for name, found in errors.items()
                },
                "allowed": {key: rounded(error) for key, error in truth.allowed.items()},
            },
        }

    def ways(self, entry: Entry, problem) -> dict:
        """The ways of a shape by name, ours first."""
        found = {}
        if not self.rivals_only:
            found |= {"seam": ways.seam}
        if problem.lengths is None:
            found |= {"cudnn": ways.cudnn, "whole": ways.whole}
        else:
            found |= {"packed_eager": ways.cudnn, "padded": ways.make_padded(problem)}
        if not self.rivals_only:
            found |= {"seam_eager": ways.seam}
        if problem.lengths is None:
            found |= {"cudnn_eager": ways.cudnn}
            if not self.rivals_only:
                found |= {"seam_forward": ways.seam_forward}
            found |= {"cudnn_forward": ways.cudnn_forward}
        if entry.group == "compiled" and not self.dry:
            found |= {"compiled": ways.make_compiled(problem)}
        return found

    def prepare(self, name: str, way, problem):
        """What is timed, and the tensors that it fills each time (none where it returns new ones)."""
        if name.endswith("_eager") or self.dry:
            return (lambda: way(problem)), [None] * len(rivals.RESULTS)
        replay, results = capture(lambda: way(problem))
        for tensor in results:
            if tensor is not None:
                tensor.detach().fill_(float("nan"))  # so that only what a replay computes can pass
        return replay, results

    def peak_memory(self, way, problem) -> int | None:
        """Most bytes that a call holds beyond what was there before and what it returns."""
        if self.dry:
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        results = [tensor for tensor in way(problem) if tensor is not None]
        torch.cuda.synchronize()
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in results}
        return torch.cuda.max_memory_allocated() - before - sum(storages.values())

    def alive(self) -> bool:
        return not self.why_stop()


def capture(run):
    """A call as a CUDA graph: a function that replays it, and the tensors that each replay fills.

    The function holds the call: a graph knows only addresses, and what the call reads (a rival's index, say) would
    otherwise be freed, given to others and read by the graph all the same.
    """
    stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        for _ in range(3):  # what libraries set up in their first calls cannot be recorded
            run()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            results = run()
    except RuntimeError:
        torch.cuda.set_stream(before)  # where a capture fails, its stream stays the current one
        raise

    def replay(held=run):
        return graph.replay()

    return replay, results


def event_seconds(run, loops: int) -> tuple[float, None]:
    """Seconds a call, of a block of calls, by the GPU's own clock."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(loops):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / loops, None


def hash_of_sources() -> str:
    """Of all that a figure of seam-fast depends on; a commit also changes with what it does not."""
    found, root = hashlib.sha256(), ROOT
    for path in sorted([root / "setup.py", *root.glob("csrc/**/*.*"), *root.glob("seam_fast/**/*.py")]):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def saved_bytes(shape: Shape, dtype) -> int:
    """What a training forward pass keeps: gates in the dtype, cell states in float32 at least."""
    size = torch.finfo(dtype).bits // 8
    return shape.T * shape.B * shape.H * (4 * size + max(4, size))


def rounded(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# Tables --------------------------------------------------------------------------------------------------------------


def save(record: dict, out: Path) -> None:
    write_json(out, record)
    out.with_suffix(".txt").write_text(f"{summary(record)}\n\n{details(record)}\n", encoding="utf-8")


def words(row: dict) -> str:
    sizes = row["sizes"]
    return ", ".join(f"{letter} {sizes[letter]}" for letter in "IHBT") + ", lengths 1..T" * bool(sizes["lengths"])


def describe(row: dict) -> str:
    """One line as soon as a shape is done."""
    start = f"{row['group']}: {words(row)}, {kind_of(row)}: "
    if row["fault"]:
        return start + f"FAILED: {row['fault']}"
    ratios = [f"{name} {found['median']:.2f}x" for name, found in row["ratio"].items()]
    times = [f"{name} {1e3 * found['median']:.4g} us" for name, found in row["ms"].items()]
    without = [f"without {name} ({why})" for name, why in row["left_out"].items()]
    return start + "; ".join([", ".join(ratios), ", ".join(times), *without]).removeprefix("; ")


def kind_of(row: dict) -> str:
    return row["dtype"] + " by tf32" * row["tf32"]


def main_ratio(row: dict) -> float | None:
    """That of the row's target: against cuDNN, or against a PackedSequence."""
    found = row.get("ratio", {}).get("packed" if row["row"] == "lengths" else "cudnn")
    return found and found["median"]


def verdict(ratio: float, target) -> str:
    return "-" if target is None else "aim" if ratio >= target[1] else "must" if ratio >= target[0] else "below"


def three(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in (min(values), statistics.median(values), max(values)))


def summary(record: dict) -> str:
    """A row for each row of targets and kind of dtype: the least, the median and the greatest of the shapes' ratios."""
    lines = []
    if not record["rivals_only"]:
        lines += [
            "| shapes | dtype | how many | rival / seam-fast: min / median / max | must, aim | reached by the median "
            "| below must | against all that it takes without seam-fast: min / median / max | eager, median |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in ROWS.items():
            for kinds in (("float32", "bfloat16"), ("float16",), ("float32 by tf32",)):
                found = [
                    entry
                    for entry in record["rows"]
                    if entry["row"] == name and kind_of(entry) in kinds and main_ratio(entry)
                ]
                if found:
                    lines.append(summary_line(row.words, " and ".join(kinds), found))
    faults = [f"FAILED: {entry['key']}: {entry['fault']}" for entry in record["rows"] if entry["fault"]]
    run = record["runs"][-1]
    about = run["machine"]
    lines += ["", *faults, *([""] if faults else [])]
    lines.append(
        f"{about['gpu']['name']}, driver {(about['gpu'].get('state') or {}).get('driver_version', 'unknown')}, torch "
        f"{about['torch']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, commit {about['commit']}, {about['date']}; "
        f"{len(record['rows'])} shapes measured"
        + (f", {len(record['unmeasured'])} not: {run['stopped']}" if run["stopped"] else "")
    )
    lines += [f"Not measured: {name}: {why}." for name, why in record["left_out"].items()]
    return "\n".join(lines).lstrip("\n")


def summary_line(title: str, kinds: str, rows: list[dict]) -> str:
    ratios, target = [main_ratio(row) for row in rows], rows[0]["target"]
    whole = [row["ratio"]["whole"]["median"] for row in rows if "whole" in row["ratio"]]
    eager = [
        row["ratio"][key]["median"] for row in rows for key in ("cudnn_eager", "packed_eager") if key in row["ratio"]
    ]
    below = "-" if target is None else sum(ratio < target[0] for ratio in ratios)
    goal = "-" if target is None else f"{target[0]}, {target[1]}"
    return (
        f"| {title} | {kinds} | {len(rows)} | {three(ratios)} | {goal} "
        f"| {verdict(statistics.median(ratios), target)} | {below} | {three(whole) if whole else '-'} "
        f"| {f'{statistics.median(eager):.2f}' if eager else '-'} |"
    )


def largest(errors: dict | None) -> float | None:
    """Of a way's errors by result, or None where it was not measured."""
    return max(errors.values()) if errors else None


def both(values: list) -> str:
    return ", ".join("-" if value is None else f"{value:.3g}" for value in values)


def details(record: dict) -> str:
    """A row for each shape."""
    names = list(dict.fromkeys(name for row in record["rows"] for name in row.get("ms", ())))
    lines = [
        "| group | I, H, B, T | dtype | ratio (quartiles) | target | "
        + " | ".join(f"{name} us" for name in names)
        + " | us a step: seam, cudnn | GFLOP/s: seam, cudnn | extra memory / saved: seam, cudnn "
        "| largest error: seam, cudnn (allowed to seam) |",
        "|---" * (8 + len(names)) + "|",
    ]
    for row in record["rows"]:
        if row["fault"]:
            continue
        ratio = row["ratio"].get("packed" if row["row"] == "lengths" else "cudnn")
        quartiles = f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})" if ratio else "-"
        target = verdict(ratio["median"], row["target"]) if ratio else "-"
        times = [f"{1e3 * row['ms'][name]['median']:.4g}" if name in row["ms"] else "-" for name in names]
        pair = ("seam", "cudnn")
        medians = [row["ms"][name]["median"] if name in row["ms"] else None for name in pair]
        steps = both([median and 1e3 * median / row["sizes"]["T"] for median in medians])
        rates = both([row["gflops"].get(name) for name in pair])
        extra = [row["memory"].get(name) for name in pair]
        shares = both([None if bytes is None else bytes / row["memory"]["saved_bytes"] for bytes in extra])
        found, allowed = row["agreement"]["errors"], row["agreement"]["allowed"]
        errors = both([largest(found.get("seam")), largest(found.get("cudnn") or found.get("packed_eager"))])
        lines.append(
            f"| {row['group']} | {words(row)} | {kind_of(row)} | {quartiles} | {target} | {' | '.join(times)} "
            f"| {steps} | {rates} | {shares} | {errors} ({largest(allowed):.2g}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.exit(main())

"""The GPU benchmark and the GPU check without a GPU: dry runs, and a torch.cuda that only pretends."""

import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import time
import types
import weakref
from pathlib import Path

import pytest
import torch

from seam_fast.backend import why_not
from seam_fast.training.reference_step import Stepper

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
SPREAD = {"median", "min", "max", "q1", "q3"}
PAIR = {"seam", "cudnn", "whole", "seam_eager", "cudnn_eager", "seam_forward", "cudnn_forward"}
LENGTHS = {"seam", "seam_eager", "packed_eager", "padded"}


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def _settings_stay():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def bench(tmp_path, capsys):
    """Runs the script dry: exit code, record, text, and what it said."""

    def run(*arguments, dry=True):
        import cuda_lstm

        out = tmp_path / "record.json"
        code = cuda_lstm.main([*(["--dry"] if dry else []), *arguments, "--out", str(out)])
        said = capsys.readouterr()
        if not out.exists():
            return code, None, "", said
        return code, json.loads(out.read_text()), out.with_suffix(".txt").read_text(), said

    return run


def check_record(record: dict) -> None:
    """Every field that a reader of the record counts on."""
    import cuda_grid
    import schema

    schema.check(record)
    assert record["format"] == "seam-fast cuda lstm 1" and record["method"] and record["left_out"]["flashrnn"]
    for run in record["runs"]:
        assert run["command"].startswith("python benchmarks/cuda_lstm.py") and run["settings"]["seed"] == 1
        for key in ("date", "cpu", "torch", "seam_fast", "commit", "gpu", "cuda", "cudnn", "sources", "load", "build"):
            assert key in run["machine"], key
    assert len({row["key"] for row in record["rows"]}) == len(record["rows"])
    for row in record["rows"]:
        assert row["run"] < len(record["runs"]) and set(row["sizes"]) == {"I", "H", "B", "T", "lengths"}
        assert row["row"] in cuda_grid.ROWS and row["dtype"] in cuda_grid.DTYPES and row["flop"] > 0
        if row["fault"]:
            assert "ms" not in row
            continue
        for figures in (*row["ms"].values(), *row["ratio"].values()):
            assert set(figures) == SPREAD and 0 < figures["min"] <= figures["median"] <= figures["max"]
        assert row["rounds"] >= 1 and set(row["loops"]) == set(row["ms"])
        if not record["rivals_only"]:
            assert set(row["ms"]) | set(row["left_out"]) >= (LENGTHS if row["row"] == "lengths" else PAIR)
        for way, errors in row["agreement"]["errors"].items():
            for name, error in errors.items():
                if way.startswith("seam"):
                    assert error <= 1.01 * row["agreement"]["allowed"][name]  # both are rounded


def test_a_dry_run_writes_a_whole_record_and_its_tables(bench):
    import cuda_grid

    code, record, text, said = bench()
    assert code == 0
    check_record(record)
    assert {row["group"] for row in record["rows"]} == set(cuda_grid.DEFAULT) and not record["unmeasured"]
    assert {row["row"] for row in record["rows"]} == set(cuda_grid.ROWS)
    assert sum(row["tf32"] for row in record["rows"]) == 3 and "compiled" in record["left_out"]
    for row in record["rows"]:
        assert set(row["ms"]) == (LENGTHS if row["row"] == "lengths" else PAIR) and not row["left_out"]
    for title in ("H up to 128", "H 257 to 512, B up to 64", "lengths 1 to T, against a PackedSequence"):
        for kind in ("float32 and bfloat16", "float16"):
            assert f"| {title} | {kind} |" in text and f"| {title} | {kind} |" in said.out
    assert "| anchors | I 2, H 2, B 3, T 4 | bfloat16 |" in text
    assert len(said.err.splitlines()) == len(record["rows"])


def test_rivals_alone(bench, monkeypatch):
    import cuda_rivals

    monkeypatch.setattr(cuda_rivals, "seam", None)
    code, record, text, _ = bench("--rivals-only", "--groups", "anchors", "lengths", "--dtypes", "float16")
    assert code == 0
    check_record(record)
    straight, spread = record["rows"]
    assert set(straight["ms"]) == {"cudnn", "whole", "cudnn_eager", "cudnn_forward"} and not straight["ratio"]
    assert set(spread["ms"]) == {"packed_eager", "padded"} and "float16" in text


def test_a_run_may_stop_and_another_go_on(bench, tmp_path, monkeypatch):
    import cuda_lstm

    part = ["--groups", "anchors", "tf32"]
    code, record, text, said = bench(*part, "--minutes", "1e-9")
    assert code == 0 and not record["rows"] and len(record["unmeasured"]) == 6
    assert record["runs"][0]["stopped"] == "the 1e-09 minutes were over" and "0 shapes measured, 6 not" in text
    _, first, _, _ = bench("--groups", "anchors", "--dtypes", "float32")
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(first))
    code, record, _, said = bench(*part, "--more", str(earlier))
    check_record(record)
    assert [row["run"] for row in record["rows"]] == [0] + [1] * 5 and len(said.err.splitlines()) == 5
    assert record["rows"][0] == first["rows"][0]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record))
    code, record, text, _ = bench("--minutes", "0", "--more", str(earlier), str(other), dry=False)  # needs no GPU
    check_record(record)
    assert code == 0 and len(record["rows"]) == 6 and len(record["runs"]) == 3 and "6 shapes measured" in text
    monkeypatch.setattr(cuda_lstm, "hash_of_sources", lambda: "changed")
    code, _, _, said = bench(*part, "--more", str(earlier))
    assert code == 1 and "changed cannot stand in one table" in said.err


def test_a_wrong_result_has_no_time_and_a_rival_that_fails_no_say(bench, monkeypatch):
    import cuda_rivals

    seam = cuda_rivals.seam

    def spoilt(problem):
        results = seam(problem)
        return [*results[:-1], results[-1] * 1.1] if problem.dtype == torch.float32 else results

    def failing(problem):
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(cuda_rivals, "seam", spoilt)
    monkeypatch.setattr(cuda_rivals, "cudnn_forward", failing)
    code, record, text, said = bench("--groups", "anchors")
    check_record(record)
    half, single, _ = record["rows"]
    assert code == 1 and "bias_hh_l0 score.grad of seam is" in single["fault"]
    assert not half["fault"] and half["left_out"] == {"cudnn_forward": "out of order"}
    assert "FAILED: anchors: I 100, H 50, B 5, T 32, float32: bias_hh_l0" in text and "FAILED" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--groups", "h7"], "group 'h7' is unknown; there are anchors, h128"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--minutes", "0"], "--minutes 0 measures nothing"),
    ],
)
def test_it_says_what_is_wrong(bench, arguments, sentence):
    code, record, _, said = bench(*arguments)
    assert code == 1 and record is None and sentence in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(bench):
    code, record, _, said = bench(dry=False)
    assert code == 1 and record is None and "torch sees no GPU; --dry shows" in said.err


def test_the_grid_is_what_was_set():
    import cuda_grid

    rows = {(128, 256): "h128", (129, 1): "h256", (257, 64): "h512", (512, 65): "wide", (513, 64): "h1024"}
    for (hidden, batch), row in (rows | {(384, 128): "between"}).items():
        assert cuda_grid.row_of(hidden, batch) == row
    shapes = [entry for group in cuda_grid.GROUPS.values() for entry in group]
    assert len({entry.key for entry in shapes}) == len(shapes)
    grid = {(e.shape.H, e.shape.B) for e in shapes if e.group in ("h128", "h256", "h512", "h1024", "wide", "between")}
    hidden = (50, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024)
    assert grid == {(h, b) for h in hidden for b in (1, 8, 32, 64, 128, 256)}
    first = [cuda_grid.GROUPS[name][0].shape for name in ("anchors", "h128", "h1024")]
    assert [(shape.I, shape.H, shape.B, shape.T) for shape in first] == [
        (100, 50, 5, 32),
        (128, 128, 32, 128),
        (1024, 1024, 32, 128),
    ]


# -- what only a GPU does ---------------------------------------------------------------------------------------------


class FakeCuda:
    """Takes down what is asked of torch.cuda; a graph is the last call made while it was recorded."""

    def __init__(self, monkeypatch):
        self.log = []
        for name in ("Stream", "CUDAGraph", "Event"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_stream", self.Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: self.within("stream"))
        monkeypatch.setattr(torch.cuda, "graph", lambda graph: self.within("graph"))
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: self.log.append("set_stream"))

    @contextlib.contextmanager
    def within(self, name):
        self.log.append(f"begin {name}")
        yield
        self.log.append(f"end {name}")

    class Stream:
        def wait_stream(self, other):
            pass

    class CUDAGraph:
        def replay(self):
            return "replayed"

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return 1e3 * (other.at - self.at)


def test_a_call_is_recorded_after_it_was_made(monkeypatch):
    import cuda_lstm

    fake = FakeCuda(monkeypatch)
    replay, results = cuda_lstm.capture(lambda: fake.log.append("call") or ["results"])
    assert fake.log == ["begin stream", *["call"] * 3, "end stream", "begin graph", "call", "end graph"]
    assert results == ["results"] and replay() == "replayed"

    def failing():
        fake.log.append("call")
        if fake.log.count("call") == 4:
            raise RuntimeError("cannot be recorded")

    fake.log.clear()
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        cuda_lstm.capture(failing)
    assert fake.log[-1] == "set_stream"


def test_a_recorded_call_holds_what_it_reads(monkeypatch):
    """A graph knows only addresses: an index that was freed would be read as what lies there now."""
    import cuda_lstm

    FakeCuda(monkeypatch)

    def make():
        index = torch.arange(3)
        return (lambda: [index]), weakref.ref(index)

    call, index = make()
    replay, _ = cuda_lstm.capture(call)
    del call, _
    gc.collect()
    assert index() is not None
    del replay
    gc.collect()
    assert index() is None


def test_a_rival_that_goes_wrong_while_it_is_timed_is_left_out_alone(bench, monkeypatch):
    """What is ours keeps its figures; where ours goes wrong, there are none."""
    import cuda_lstm

    def run(spoilt):
        def prepare(self, name, way, problem):
            results = way(problem)
            return (lambda: way(problem)), [results[0] + 1 if name == spoilt else results[0], *results[1:]]

        monkeypatch.setattr(cuda_lstm.Bench, "prepare", prepare)
        code, record, _, _ = bench("--groups", "lengths", "--dtypes", "float32")
        check_record(record)
        return code, record["rows"][0]

    code, row = run("padded")
    assert code == 0 and not row["fault"] and row["left_out"]["padded"].startswith("output of padded is ")
    assert set(row["ms"]) == set(row["loops"]) == LENGTHS - {"padded"}
    assert set(row["ratio"]) == {"packed", "packed_eager"}
    code, row = run("seam")
    assert code == 1 and row["fault"].startswith("output of seam is ")


@pytest.mark.slow
def test_a_shape_that_fails_spoils_no_other(bench, monkeypatch):
    import breaking_bench
    import cuda_grid
    import cuda_lstm

    anchors, tf32 = cuda_grid.GROUPS["anchors"], cuda_grid.GROUPS["tf32"]
    groups = {"anchors": anchors[:6], "tf32": tf32[:1], "lengths": cuda_grid.GROUPS["lengths"][:1]}
    monkeypatch.setattr(cuda_lstm, "GROUPS", groups)
    monkeypatch.setattr(cuda_lstm, "Bench", breaking_bench.Bench)
    monkeypatch.setattr(cuda_lstm, "LIMIT", 15)  # a loaded machine needs more than 3 to answer at all
    code, record, _, _ = bench("--groups", *groups, dry=False)
    check_record(record)
    assert code == 1 and not record["unmeasured"] and not record["runs"][0]["stopped"]
    faults = [row["fault"] for row in record["rows"]]
    ended, lost = "a process that measures ended with code 3: its last words stand above", "index out of bounds"
    assert faults == ["", ended, lost, "", ended, lost, "a process that measures has not answered for 15 seconds", ""]
    processes = [row["process"] for row in record["rows"] if "process" in row]
    assert len(set(processes)) == 5  # anew after the end of one, after a loss and for each group


@pytest.mark.slow
def test_where_no_process_can_be_begun_the_record_stays(bench, monkeypatch):
    import breaking_bench
    import cuda_grid
    import cuda_lstm

    monkeypatch.setattr(cuda_lstm, "GROUPS", {"anchors": cuda_grid.GROUPS["anchors"][:6]})
    monkeypatch.setattr(cuda_lstm, "Bench", breaking_bench.Bench)
    code, record, _, said = bench("--groups", "anchors", "--seconds", "7", dry=False)
    assert code == 1 and record is None and "the GPU does not answer (no GPU is left)" in said.err
    real = cuda_lstm.Apart

    class Once(real):
        def __init__(self, make, arguments):
            super().__init__(make, arguments)
            arguments.seconds = 7

    monkeypatch.setattr(cuda_lstm, "Apart", Once)
    code, record, _, said = bench("--groups", "anchors", dry=False)
    check_record(record)
    assert code == 1 and len(record["rows"]) == 2 and len(record["unmeasured"]) == 4
    assert record["runs"][0]["stopped"] == "the GPU does not answer (no GPU is left)"


def test_events_time_blocks(monkeypatch):
    import cuda_lstm

    FakeCuda(monkeypatch)
    calls = []
    seconds, nothing = cuda_lstm.event_seconds(lambda: calls.append(time.sleep(0.002)), 3)
    assert len(calls) == 3 and 0.002 <= seconds < 0.1 and nothing is None


def test_the_branches_of_the_gpu_run_on_a_pretended_one(bench, monkeypatch):
    """All of a run but what a graph and a GPU themselves do."""
    import cuda_lstm

    FakeCuda(monkeypatch)
    real = cuda_lstm.Bench

    class Pretended(real):
        def __init__(self, arguments):
            arguments.dry = True
            super().__init__(arguments)
            self.dry, self.backend = False, "torch"

        def gpu(self):
            return {"name": "pretended", "state": {"driver_version": "1.2"}}

        def row(self, entry):
            return super().row(entry.shrunk())

    def capture(run):
        results = run()

        def replay():
            for place, tensor in zip(results, run(), strict=True):
                if place is not None:
                    place.detach().copy_(tensor.detach())

        return replay, results

    names = {"memory_allocated": 5, "max_memory_allocated": 5_000_000, "reset_peak_memory_stats": None}
    for name, value in (names | {"synchronize": None, "empty_cache": None}).items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(cuda_lstm, "Bench", Pretended)
    monkeypatch.setattr(cuda_lstm, "Apart", cuda_lstm.Here)
    monkeypatch.setattr(cuda_lstm, "capture", capture)
    code, record, text, _ = bench("--groups", "anchors", "lengths", "--dtypes", "float32", "--seconds", "0.01")
    check_record(record)
    assert code == 0 and "driver 1.2" in text and all(row["memory"]["seam"] > 0 for row in record["rows"])

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: (_ for _ in ()).throw(RuntimeError("illegal access")))
    code, record, _, _ = bench("--groups", "anchors")
    assert code == 1 and "does not answer any more (illegal access)" in record["runs"][0]["stopped"]
    assert len(record["rows"]) == 1 and len(record["unmeasured"]) == 2


# -- the check itself -------------------------------------------------------------------------------------------------


def check(*arguments, **environment):
    command = ["bash", "scripts/gpu_check.sh", *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(not why_not("cuda"), reason="there is a GPU")
def test_the_check_goes_on_after_a_failure_and_tells(tmp_path):
    done = check(tmp_path, "test", "sanitize")
    assert done.returncode == 1 and f"failed: test sanitize; logs in {tmp_path}" in done.stdout
    for part in ("test", "sanitize"):
        assert "the CUDA kernels cannot be used" in (tmp_path / f"{part}.log").read_text()


def test_the_check_refuses_what_it_does_not_know(tmp_path):
    for arguments, sentence in (
        (["--minutes", "3"], "--minutes is no option of this script; those of the benchmark come after --"),
        ([tmp_path, "bend"], "bend is neither build, test, sanitize, bench, engine nor profile"),
    ):
        done = check(*arguments)
        assert done.returncode == 2 and sentence in done.stderr
    assert "bash scripts/gpu_check.sh [FOLDER] [PART ...]" in check("--help").stdout


PYTHON = r"""#!/bin/bash
echo "python $*" >>"$LOG"
case "$*" in
    *collect-only*test_cuda_engine*) ;;
    *test_cuda.py*collect-only*) printf 'tests/test_cuda.py::%s\n' 'test_one[1]' 'test_one[2]' test_two ;;
    *test_two) echo "1 failed" && exit 1 ;;
    *pytest*) echo "2 passed" ;;
    *"engine_tour"*) exit "${TOUR:-0}" ;;
    *"_ext.C.__file__"*) echo "$MODULE" ;;
    *why_not*) exit "${UNUSABLE:-0}" ;;
    *) ;;
esac
"""
SANITIZER = r"""#!/bin/bash
echo "sanitizer $*" >>"$LOG"
while [ "$1" != python3 ] && [ $# -gt 0 ]; do [ "$1" = --print-limit ] && shift 2 && break; shift; done
"$@"
code=$?
echo "========= ERROR SUMMARY: $code errors"
exit $code
"""


@pytest.fixture
def pretended_check(tmp_path):
    """The check with a Python and a compute-sanitizer that only take down what they are asked."""

    def run(*arguments, **environment):
        for name, text in (("python3", PYTHON), ("compute-sanitizer", SANITIZER)):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {"PYTHON": str(tmp_path / "python3"), "PATH": path, "LOG": str(log)} | environment
        done = check(tmp_path / "out", *arguments, **environment)
        return done, log.read_text() if log.exists() else ""

    return run


def test_each_test_function_has_a_process_and_a_failure_is_told(pretended_check, tmp_path):
    done, log = pretended_check("test", JOBS="2")
    assert done.returncode == 1 and "failed: test" in done.stdout
    assert log.count("tests/test_cuda.py::test_one") == log.count("tests/test_cuda.py::test_two") == 1
    assert "test_cuda.test_one: exit 0; 2 passed" in done.stdout
    assert "test_cuda.test_two: exit 1; 1 failed" in done.stdout
    assert (tmp_path / "out" / "tests.log").read_text().count("passed") == 1


def test_what_has_no_time_left_is_not_begun(pretended_check):
    done, log = pretended_check("test", "sanitize", LIMIT="-1")
    assert done.returncode == 1 and "::test_one" not in log and "sanitizer" not in log
    assert "test_cuda.test_one: not begun, the time was over" in done.stdout
    assert "engine, memcheck: not begun, the time was over" in done.stdout


def test_the_sanitizer_sees_the_engine_and_the_op(pretended_check):
    done, log = pretended_check("sanitize")
    tools = [line.split()[2] for line in log.splitlines() if line.startswith("sanitizer")]
    assert done.returncode == 0 and tools == ["memcheck", "racecheck", "synccheck", "memcheck", "racecheck"]
    assert log.count("python scripts/gpu_engine_tour.py") == 3 and log.count("python scripts/gpu_tour.py") == 2
    assert "engine, synccheck: exit 0; ========= ERROR SUMMARY: 0 errors" in done.stdout
    done, log = pretended_check("sanitize", TOOLS="memcheck", TOUR="9")
    assert done.returncode == 1 and log.count("sanitizer --tool") == 2 and "engine, memcheck: exit 9" in done.stdout


def test_a_compiled_part_that_works_is_not_built_again(pretended_check, tmp_path):
    module = tmp_path / "_C.so"
    module.touch()
    os.utime(module, (time.time() + 60,) * 2)
    done, log = pretended_check("build", MODULE=str(module))
    assert done.returncode == 0 and "pip install" not in log and "setup.py" not in log
    assert f"not built: {module} works and is used; REBUILD=1 builds it anew" in done.stdout
    assert "warning" not in done.stdout
    os.utime(module, (0, 0))
    done, _ = pretended_check("build", MODULE=str(module))
    assert "source files are newer than it" in done.stdout
    done, log = pretended_check("build", MODULE=str(module), REBUILD="1")
    assert done.returncode == 0 and "pip install" in log and "not built" not in done.stdout
    done, log = pretended_check("build", UNUSABLE="1")
    assert done.returncode == 1 and "pip install" in log  # what cannot be used is built, and then looked at again


def test_each_benchmark_has_its_part_and_its_options(pretended_check):
    commands = ["benchmarks/cuda_lstm.py --out", "benchmarks/cuda_engine.py --out"]
    done, log = pretended_check("bench", "engine", "--", "--groups", "anchors")
    lines = [line for line in log.splitlines() if "benchmarks/" in line]
    assert done.returncode == 0 and all(word in line for word, line in zip(commands, lines, strict=True))
    assert lines[0].endswith("--groups anchors") and lines[1].endswith("--minutes 7")
    _, log = pretended_check("engine", "--", "--pieces", "study")
    assert log.strip().endswith("--pieces study")


def test_committed_records_are_whole():
    for path in RECORDS.glob("cuda_lstm*.json"):
        check_record(json.loads(path.read_text()))
    for path in RECORDS.glob("cuda_engine*.json"):
        check_engine_record(json.loads(path.read_text()))


# -- the benchmark of the engine --------------------------------------------------------------------------------------

BY_TF32 = {"engine_tf32", "graph_rows_tf32"}
WAYS = {"engine", "graph_trainer", "graph_rows", "graph_table"} | BY_TF32
WAYS |= {"reference", "reference_without_copies", "reference_best"}


@pytest.fixture
def engine_bench(tmp_path, capsys):
    """Runs the engine's benchmark dry: exit code, record, text, and what it said."""

    def run(*arguments, dry=True):
        import cuda_engine

        out = tmp_path / "engine.json"
        code = cuda_engine.main([*(["--dry"] if dry else []), *arguments, "--out", str(out)])
        said = capsys.readouterr()
        if not out.exists():
            return code, None, "", said
        return code, json.loads(out.read_text()), out.with_suffix(".txt").read_text(), said

    return run


def check_engine_record(record: dict) -> None:
    """Every field that a reader of the record counts on."""
    import schema

    schema.check(record)
    assert record["format"] == "seam-fast cuda engine 1" and record["method"]
    for run in record["runs"]:
        assert run["command"].startswith("python benchmarks/cuda_engine.py")
        assert run["settings"]["tf32"] == {"matmul": False, "cudnn": False, "but_in": sorted(BY_TF32)}
        for key in ("date", "cpu", "torch", "seam_fast", "commit", "gpu", "cuda", "cudnn", "sources", "load", "build"):
            assert key in run["machine"], key
        for key in ("base", "data_hash", "synthetic", "target", "documents", "words", "sizes"):
            assert key in run["workload"], key
    assert len({row["key"] for row in record["rows"]}) == len(record["rows"])
    for row in record["rows"]:
        assert row["run"] < len(record["runs"])
        if row["fault"]:
            assert not row.keys() & {"us", "seconds"}
            continue
        spreads = [*row.get("us", {}).values(), *row.get("ratio", {}).values(), *row.get("gain", {}).values()]
        spreads += [row["seconds"]] if row.get("seconds") else []
        for figures in spreads:
            assert set(figures) == SPREAD and 0 < figures["min"] <= figures["median"] <= figures["max"]
        if row["piece"] == "step":
            assert set(row["us"]) | set(row["left_out"]) | set(row["wrong"]) == WAYS
            without_ratio = {"engine"} if "engine_tf32" in row["us"] else {"engine", "graph_rows_tf32"}
            assert set(row["ratio"]) == set(row["us"]) - without_ratio and set(row["wrong"]) <= {"engine_tf32"}
            truths = {"first", "long", "first_rivals", "first_tf32", "long_tf32", "gradients_tf32"}
            assert truths - {"first_rivals"} <= set(row["agreement"]) <= truths  # older records have no such rivals
            for name in row["us"]:  # nothing is timed that was not held against float64, by the allowance that is its
                ours, kind = name.startswith("engine") or name == "graph_trainer", "_tf32" * (name in BY_TF32)
                first = "first" + kind if ours or kind else "first_rivals"
                wanted = {first, *(["long" + kind] * ours), *(["gradients_tf32"] * bool(kind))}
                assert {key for key, part in row["agreement"].items() if name in part["errors"]} == wanted
            assert all(allowed <= 0.1 for allowed in row["agreement"]["gradients_tf32"]["allowed"].values())
            for part in row["agreement"].values():
                for errors in part["errors"].values():
                    for name, error in errors.items():
                        assert error <= 1.01 * part["allowed"][name]  # both are rounded
        elif row["piece"] == "scaling":
            assert set(row["us"]) == set(row["gain"]) == set(row["cores_busy"]) and str(row["most"]) in row["us"]
        elif row["piece"] == "kernels":
            assert set(row["steps"]) | set(row["left_out"]) == WAYS
            for part in row["steps"].values():
                assert part["us"] > 0 and part["launches"] > 0 and part["largest"]
        else:
            assert row["whole"] == (row["cut"] is None) == bool(row["seconds"])
            assert len(row["modules"]) == (row["modules_in_all"] if row["whole"] else 0)


def test_the_engines_dry_run_writes_a_whole_record_and_its_table(engine_bench):
    code, record, text, said = engine_bench()
    assert code == 0 and not record["unmeasured"]
    check_engine_record(record)
    step, scaling, eight, study, kernels = record["rows"]
    assert set(step["us"]) == WAYS and set(step["agreement"]["long"]["errors"]) == {"engine", "graph_trainer"}
    assert list(step["agreement"]["long_tf32"]["errors"]) == ["engine_tf32"] and not step["wrong"]
    assert list(scaling["us"]) == ["1", "2", "3"] and set(kernels["left_out"]) == WAYS
    assert (eight["modules_in_all"], eight["rounds"]) == (2, 3) and (study["modules_in_all"], study["rounds"]) == (8, 2)
    assert study["same_bits_as_eight"] == 2 and eight["steps"] == sum(m["steps"] for m in eight["modules"])
    assert len({(m["class"], m["alpha"], m["lr_mask"]) for m in study["modules"]}) == 8
    for line in (
        "; graph_rows_tf32 / engine_tf32 ",
        "2 modules, 2 epochs, s",
        "(SYNTHETIC)",
    ):
        assert line in text and line in said.out
    assert "| reference | " in text and "aim |" not in text.split("|---")[1]  # a dry run reaches nothing
    assert len(said.err.splitlines()) == 5


def test_the_engines_run_may_stop_and_another_go_on(engine_bench, tmp_path, monkeypatch):
    import cuda_engine

    monkeypatch.setattr(cuda_engine.cuda_lstm, "hash_of_sources", lambda: "the same")  # whoever edits them meanwhile
    code, record, text, _ = engine_bench("--minutes", "1e-9")
    assert code == 0 and not record["rows"] and record["unmeasured"] == list(cuda_engine.PIECES)
    assert "Not measured: step, scaling, eight, study, kernels: the 1e-09 minutes were over." in text
    _, first, _, _ = engine_bench("--pieces", "eight", "--epochs", "1")
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(first))
    _, record, _, _ = engine_bench("--pieces", "eight", "--epochs", "1", "--more", str(earlier))
    assert record["rows"] == first["rows"] and len(record["runs"]) == 2
    _, record, _, _ = engine_bench("--pieces", "eight", "scaling", "--epochs", "2", "--more", str(earlier))
    check_engine_record(record)
    assert [row["key"] for row in record["rows"]] == ["eight, 1 epochs", "scaling", "eight, 2 epochs"]
    code, record, _, _ = engine_bench("--minutes", "0", "--more", str(earlier), dry=False)  # needs no GPU
    assert code == 0 and record["rows"] == first["rows"]
    changed = json.loads(earlier.read_text())
    changed["runs"][0]["workload"]["data_hash"] = "other"
    earlier.write_text(json.dumps(changed))
    code, _, _, said = engine_bench("--more", str(earlier))
    assert code == 1 and "different documents" in said.err


def test_a_run_that_takes_too_long_is_cut_and_estimated(engine_bench, monkeypatch):
    import cuda_engine

    def over(watch, job, figures):
        watch.jobs[id(job)] = job
        raise cuda_engine.TimeOver

    monkeypatch.setattr(cuda_engine.Watch, "__call__", over)
    code, record, text, _ = engine_bench("--pieces", "eight")
    check_engine_record(record)
    (row,) = record["rows"]
    assert code == 0 and not row["whole"] and 0 < row["cut"]["steps"] <= row["steps"]
    assert row["cut"]["estimate"] >= row["cut"]["seconds"] and "estimated" in text


def test_wrong_results_of_the_engine_have_no_times(engine_bench, monkeypatch):
    import cuda_engine
    import cuda_engine_rivals

    class Spoilt(cuda_engine.TorchTrainer):
        made = 0

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            Spoilt.made += 1
            self.spoilt = Spoilt.made % 2

        def whole_scores(self):
            scores, head = super().whole_scores()
            return scores, tuple(part + self.spoilt for part in head)

    monkeypatch.setattr(cuda_engine, "TorchTrainer", Spoilt)
    monkeypatch.setattr(cuda_engine, "digest", lambda *state: os.urandom(8).hex())
    code, record, text, _ = engine_bench("--pieces", "step", "scaling", "eight")
    check_engine_record(record)
    step, scaling, eight = (row["fault"] for row in record["rows"])
    assert code == 1 and "head weight error of engine is off by" in step
    assert "3 of 3 modules beside one another differ" in scaling and "two runs of eight gave different" in eight
    assert text.count("FAILED: ") == 3
    monkeypatch.undo()

    def failing(self, words):
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(cuda_engine_rivals.Captured, "_make_room", failing)
    code, record, _, said = engine_bench("--pieces", "step")
    check_engine_record(record)
    without = dict.fromkeys(("graph_rows", "graph_table", "graph_rows_tf32"), "out of order")
    assert code == 0 and record["rows"][0]["left_out"] == without
    (line,) = [line for line in said.out.splitlines() if "us a step, tf32" in line]
    assert line.endswith("| 42 | 26 | - |") and "graph_rows_tf32" not in line
    assert "without graph_rows (out of order)" in said.err


def spoil_rivals(monkeypatch, factor):
    """Adds to all scores of the captured rivals so many times what is allowed to the engine."""
    import cuda_engine_rivals

    class Spoilt(cuda_engine_rivals.Captured):
        def whole_scores(self):
            scores, head = super().whole_scores()
            return {key: score + 1e-6 * factor for key, score in scores.items()}, head

    monkeypatch.setattr(cuda_engine_rivals, "Captured", Spoilt)


def test_a_rival_that_is_less_exact_is_timed_and_the_table_says_how_far_off(engine_bench, monkeypatch):
    spoil_rivals(monkeypatch, 10)
    code, record, text, _ = engine_bench("--pieces", "step")
    check_engine_record(record)
    (step,) = record["rows"]
    assert code == 0 and not step["left_out"] and {"graph_rows", "graph_table"} <= set(step["us"])
    agreement = step["agreement"]
    errors, allowed = agreement["first_rivals"]["errors"]["graph_rows"], agreement["first"]["allowed"]
    assert errors["lstm.bias_ih_l0 error"] == pytest.approx(1e-5, rel=0.2)
    assert allowed["lstm.bias_ih_l0 error"] < 0.8e-5
    (line,) = [line for line in text.splitlines() if "rows that occur / engine" in line]
    assert re.search(r"less exact: scores of [\w. ]+ off by 1e-05, the engine's \de-0[789]", line)
    (line,) = [line for line in text.splitlines() if line.startswith("| graph_rows | ")]
    assert line.endswith("| 1e-05 |")
    assert "less exact" not in "".join(line for line in text.splitlines() if "| the reference, eager" in line)


def test_a_rival_of_another_algorithm_is_left_out_with_the_reason(engine_bench, monkeypatch):
    spoil_rivals(monkeypatch, 1000)
    code, record, text, _ = engine_bench("--pieces", "step")
    check_engine_record(record)
    (step,) = record["rows"]
    assert code == 0 and set(step["left_out"]) == {"graph_rows", "graph_table"}  # by tf32 that is exact enough
    assert "of graph_rows is off by 0.001, more than the" in step["left_out"]["graph_rows"]
    assert re.search(r"\| left out: rows met off by 0\.001, allowed [\d.]+e-05 \|", text)


def test_tf32_is_no_float32_of_less_exactness(monkeypatch):
    """What a rival may be off is between what cuDNN's float32 is (6 times what the engine may) and tf32 (900 times)."""
    import cuda_engine_rivals
    from reference_step import Workload, first_steps
    from sources import smoke_base

    truth = first_steps(Workload(*smoke_base()), 5, 6)
    coarse = cuda_engine_rivals.for_rivals(truth)
    for name, allowed in truth.allowed.items():
        assert coarse.allowed[name] == (allowed if name.endswith(" far") else 64 * allowed)


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def by_tf32_alone(monkeypatch, scores=None, gradient=None):
    """Spoils the engine's stand-in where tf32 is allowed; returns the switches in each of its epochs."""
    import cuda_engine

    seen = []

    class Spoilt(cuda_engine.TorchTrainer):
        def run_epoch(self, *arguments, **options):
            seen.append(switches())
            return super().run_epoch(*arguments, **options)

        def _joint_step(self):
            if gradient and switches() == (True, True):
                key, factor = gradient
                penalty = self.penalty_gradient.get(key, 0)
                part = self.scores.get(key, self.head[0])
                part.grad.sub_(penalty).mul_(factor).add_(penalty)
            super()._joint_step()
            if scores and switches() == (True, True):
                self.scores["lstm.weight_hh_l0"].data.add_(scores)

    monkeypatch.setattr(cuda_engine, "TorchTrainer", Spoilt)
    return seen


@pytest.mark.parametrize("factor", [2, 0.5, float("nan")])
@pytest.mark.parametrize("key", ["lstm.weight_hh_l0", "word_embeddings.weight", "hidden2label.bias", "head weight"])
def test_a_wrong_gradient_by_tf32_is_refused(monkeypatch, key, factor):
    import cuda_engine
    import cuda_engine_rivals
    from reference_step import Workload
    from sources import smoke_base

    by_tf32_alone(monkeypatch, gradient=(key, factor))
    gradients = cuda_engine_rivals.Gradients(Workload(*smoke_base()), 5, 6)
    for tf32 in (False, True):
        way = cuda_engine_rivals.Way("engine", cuda_engine.TorchTrainer, "cpu", tf32=tf32)
        with pytest.raises(Exception, match=f"gradient of {key}|loss is nan") if tf32 else contextlib.nullcontext():
            gradients.check(way)


def test_a_fault_by_tf32_costs_its_own_time_and_the_exit_code(engine_bench, monkeypatch, tmp_path):
    seen = by_tf32_alone(monkeypatch, gradient=("lstm.weight_hh_l0", 2))
    code, record, text, said = engine_bench("--pieces", "step", "kernels")
    check_engine_record(record)
    step, kernels = record["rows"]
    assert code == 1 and not step["fault"] and set(step["wrong"]) == {"engine_tf32"}
    assert "lstm.weight_hh_l0 error of engine_tf32 is off by" in step["wrong"]["engine_tf32"]
    assert set(step["us"]) == WAYS - {"engine_tf32"} and "graph_rows_tf32" not in step["ratio"]
    assert kernels["left_out"]["engine_tf32"] == step["wrong"]["engine_tf32"]
    assert "one module, us a step, tf32 | FAILED | 42 | 26 | -" in text and "FAILED: step, engine_tf32: " in text
    assert "FAILED: engine_tf32 (" in said.err
    assert set(seen) == {(False, False), (True, True)} and switches() == (False, False)
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(record))
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    by_tf32_alone(monkeypatch, scores=0.05)
    code, record, _, _ = engine_bench("--pieces", "step", "--more", str(earlier))  # what failed is measured again
    check_engine_record(record)
    assert code == 1 and [row["key"] for row in record["rows"]] == ["kernels", "step"]
    assert "lstm.weight_hh_l0 error of engine_tf32" in record["rows"][1]["wrong"]["engine_tf32"]


def test_the_switch_is_on_for_the_ways_of_tf32_alone(engine_bench, monkeypatch):
    import cuda_engine_rivals

    real, seen = cuda_engine_rivals.Captured, []

    class Watched(real):
        def __init__(self, *arguments, **options):
            self.made = switches()
            super().__init__(*arguments, **options)

        def _step(self):
            seen.append((self.made, switches()))
            super()._step()

    monkeypatch.setattr(cuda_engine_rivals, "Captured", Watched)
    ours = by_tf32_alone(monkeypatch)
    code, record, _, _ = engine_bench("--pieces", "step", "scaling")
    check_engine_record(record)
    on, off = (True, True), (False, False)
    assert code == 0 and set(seen) == {(on, on), (off, off)} and set(ours) == {on, off} and switches() == off

    def fail():
        raise RuntimeError(str(switches()))

    way = cuda_engine_rivals.Way("way", lambda *arguments: types.SimpleNamespace(run_epoch=fail), "cpu", tf32=True)
    with pytest.raises(RuntimeError, match="True, True"):
        way({}, (), None).run_epoch()
    assert switches() == off


def test_an_engine_without_a_kernel_for_tf32_is_left_out(engine_bench, monkeypatch):
    import cuda_engine

    way = cuda_engine.Bench.engine

    def engine(self, *arguments, **options):
        self.backend = "torch"
        found = way(self, *arguments, **options)
        self.backend = "cuda"
        return found

    def ways(self):  # the op, too, has no kernels for a CPU by that name
        return all_ways(self) | {"graph_trainer": self.engine("graph_trainer")}

    all_ways = cuda_engine.Bench.ways
    monkeypatch.setattr(cuda_engine.Bench, "engine", engine)
    monkeypatch.setattr(cuda_engine.Bench, "ways", ways)
    code, record, text, _ = engine_bench("--pieces", "step")
    check_engine_record(record)
    assert code == 0 and record["rows"][0]["left_out"] == {"engine_tf32": cuda_engine.NO_TF32}
    assert f"us a step, tf32 | {cuda_engine.NO_TF32} | 42" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", "0"], "--epochs 1 or more"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--minutes", "0"], "--minutes 0 measures nothing"),
    ],
)
def test_the_engines_benchmark_says_what_is_wrong(engine_bench, arguments, sentence):
    code, record, _, said = engine_bench(*arguments)
    assert code == 1 and record is None and sentence in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_engines_benchmark_says_so(engine_bench):
    code, record, _, said = engine_bench(dry=False)
    assert code == 1 and record is None and "torch sees no GPU; --dry shows" in said.err


def test_the_engines_branches_of_the_gpu_run_on_a_pretended_one(engine_bench, monkeypatch):
    """All of a run but what kernels, graphs and streams do."""
    import cuda_engine

    class Fake(FakeCuda):
        class Stream(FakeCuda.Stream):
            def __init__(self, index=0, priority=0):
                self.cuda_stream = id(self)

    fake = Fake(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device", lambda device: fake.within("device"))
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    real = cuda_engine.Bench

    class Pretended(real):
        def __init__(self, arguments, end):
            arguments.dry = True
            super().__init__(arguments, end)
            self.dry, self.seconds = False, 0.01

        def gpu(self):
            return {"name": "pretended", "state": {"driver_version": "1.2"}}

        def streams(self, count):
            monkeypatch.setattr(self, "device", "cpu")
            return real.streams(self, count)

    class Event:
        def __init__(self, name, nanoseconds):
            self.name, self.duration_ns = lambda: name, lambda: nanoseconds

        def device_type(self):
            return cuda_engine.DeviceType.CUDA

    class Profile:
        """Stands for torch's, which announces itself by native code on stderr: nobody should see that."""

        def __init__(self, activities):
            events = [Event("large", 3000), Event("small", 500), Event("large", 4500)]
            self.profiler = types.SimpleNamespace(kineto_results=types.SimpleNamespace(events=lambda: events))

        def start(self):
            assert os.path.samestat(os.fstat(2), os.stat(os.devnull))

        stop = start

    monkeypatch.setattr(cuda_engine, "Bench", Pretended)
    monkeypatch.setattr(cuda_engine.measure, "profile", Profile)
    monkeypatch.setattr(cuda_engine, "WARM_STEPS", 20)
    monkeypatch.setattr(cuda_engine, "LONG_STEPS", 40)
    code, record, text, _ = engine_bench("--pieces", "step", "scaling", "kernels", "--epochs", "1")
    check_engine_record(record)
    step, scaling, kernels = record["rows"]
    assert code == 0 and "driver 1.2" in text and set(step["us_events"]) == WAYS
    kernels = kernels["steps"]["engine"]
    assert kernels["us"] == pytest.approx(8 / 16, rel=0.01) and kernels["largest"] == {"large": 0.938, "small": 0.0625}
    assert f"the GPU works {kernels['us']:g} of it" in text and scaling["rounds"] >= 3


def test_a_folder_without_r8_is_an_error_and_nothing_else_is_looked_for(monkeypatch, tmp_path):
    import cuda_engine

    from seam_fast import DataError
    from seam_fast.data import r8

    monkeypatch.setattr(r8, "_from_mirrors", None)
    monkeypatch.setattr(r8, "_from_npm", None)
    for data_dir, environment in ((str(tmp_path), ""), (None, str(tmp_path))):
        monkeypatch.setenv("SEAM_FAST_DATA", environment)
        with pytest.raises(DataError, match="holds no R8"):
            cuda_engine.load_base(types.SimpleNamespace(base=None, data_dir=data_dir))


def test_the_captured_rival_takes_whole_batches_only(engine_bench):
    import cuda_engine_rivals
    from support import toy_data, toy_weights, trainer_kinds

    weights, head = toy_weights.make_weights(torch.float32), toy_weights.make_head(torch.float32)
    rival = cuda_engine_rivals.Captured(weights, head, torch.arange(15), **trainer_kinds.OPTIONS)
    documents = toy_data.make_documents(13)
    with pytest.raises(ValueError, match="whole batches only"):
        rival.run_epoch(*documents, 4)
    stepper = Stepper(weights, head, **trainer_kinds.OPTIONS)
    for count in (8, 4, 12):  # fewer fit in what is there, more ask for more room
        part = [tensor[:count] for tensor in documents]
        wanted = [stepper.step(*batch).cross_entropy for batch in toy_data.cut(part, 4)]
        assert rival.run_epoch(*part, 4) == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
    assert rival.steps == 6
    with pytest.raises(ValueError, match="schedule 'joint'"):
        cuda_engine_rivals.Captured(weights, head, torch.arange(15), **trainer_kinds.OPTIONS | {"schedule": "port"})

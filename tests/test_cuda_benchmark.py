"""The GPU benchmark and the GPU check without a GPU: dry runs, and a torch.cuda that only pretends."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from seam_fast.backend import why_not

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
    monkeypatch.setattr(cuda_lstm, "capture", capture)
    code, record, text, _ = bench("--groups", "anchors", "lengths", "--dtypes", "float32", "--seconds", "0.01")
    check_record(record)
    assert code == 0 and "driver 1.2" in text and all(row["memory"]["seam"] > 0 for row in record["rows"])

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: (_ for _ in ()).throw(RuntimeError("illegal access")))
    code, record, _, _ = bench("--groups", "anchors")
    assert code == 1 and "does not answer any more (illegal access)" in record["runs"][0]["stopped"]
    assert len(record["rows"]) == 1 and len(record["unmeasured"]) == 2


# -- the check itself -------------------------------------------------------------------------------------------------


def check(*arguments):
    command = ["bash", "scripts/gpu_check.sh", *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
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
        ([tmp_path, "bend"], "bend is neither build, test, sanitize nor bench"),
    ):
        done = check(*arguments)
        assert done.returncode == 2 and sentence in done.stderr
    assert "bash scripts/gpu_check.sh [FOLDER] [PART ...]" in check("--help").stdout


def test_committed_records_are_whole():
    for path in RECORDS.glob("cuda_lstm*.json"):
        check_record(json.loads(path.read_text()))

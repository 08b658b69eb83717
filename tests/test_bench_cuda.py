"""The benchmarks of the GPU without a GPU: a dry run of each, the schema of their records, and what voids a time."""

import contextlib
import json
import types

import breaking_bench
import pytest
import torch
from bench_checks import RECORDS, SPREAD
from support import toy_data, toy_weights, trainer_kinds

from benchmarks.baselines import cuda_engine as engine_rivals
from benchmarks.baselines import cuda_lstm as lstm_rivals
from benchmarks.baselines.reference_step import Workload, build, first_steps
from benchmarks.cuda import bench_process, engine, engine_bench, lstm
from benchmarks.harness import cuda_grid, schema
from benchmarks.harness.bases import smoke_base
from benchmarks.report import cuda_engine_text, words
from seam_fast import DataError
from seam_fast.data import r8
from seam_fast.training.reference_step import Stepper

PAIR = {"seam", "cudnn", "whole", "seam_eager", "cudnn_eager", "seam_forward", "cudnn_forward"}
LENGTHS = {"seam", "seam_eager", "packed_eager", "padded"}
BY_TF32 = {"engine_tf32", "graph_rows_tf32"}
WAYS = {"engine", "graph_trainer", "graph_rows", "graph_table"} | BY_TF32
WAYS |= {"reference", "reference_without_copies", "reference_best"}
MACHINE = ("date", "cpu", "torch", "seam_fast", "commit", "gpu", "cuda", "cudnn", "sources", "load", "build")


@pytest.fixture(autouse=True)
def _restore_tf32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def run_script(tmp_path, capsys):
    """Runs one of the two scripts dry: exit code, record (or None), text beside it, and what was printed."""

    def run(script, *arguments, dry=True):
        out = tmp_path / "record.json"
        code = script.main([*(["--dry"] if dry else []), *arguments, "--out", str(out)])
        said = capsys.readouterr()
        if not out.exists():
            return code, None, "", said
        return code, json.loads(out.read_text()), out.with_suffix(".txt").read_text(), said

    return run


def check_spread(figures: dict) -> None:
    assert set(figures) == SPREAD and 0 < figures["min"] <= figures["median"] <= figures["max"]


# The op --------------------------------------------------------------------------------------------------------------


def check_lstm_record(record: dict) -> None:
    """Every field that a reader of the record counts on."""
    schema.check(record)
    assert record["format"] == "seam-fast cuda lstm 1" and record["method"] and record["left_out"]["flashrnn"]
    for run in record["runs"]:
        assert words.command(run).startswith("python -m benchmarks.cuda.lstm") and run["settings"]["seed"] == 1
        assert set(MACHINE) <= set(run["machine"])
    assert len({row["key"] for row in record["rows"]}) == len(record["rows"])
    for row in record["rows"]:
        assert row["run"] < len(record["runs"]) and set(row["sizes"]) == {"I", "H", "B", "T", "lengths"}
        assert row["row"] in cuda_grid.ROWS and row["dtype"] in cuda_grid.DTYPES and row["flop"] > 0
        if row["fault"]:
            assert "ms" not in row
            continue
        for figures in (*row["ms"].values(), *row["ratio"].values()):
            check_spread(figures)
        assert row["rounds"] >= 1 and set(row["loops"]) == set(row["ms"])
        if not record["rivals_only"]:
            assert set(row["ms"]) | set(row["left_out"]) >= (LENGTHS if row["row"] == "lengths" else PAIR)
        for way, errors in row["agreement"]["errors"].items():
            for name, error in errors.items():
                if way.startswith("seam"):
                    assert error <= 1.01 * row["agreement"]["allowed"][name]  # both are rounded


def test_a_dry_run_of_the_op_writes_a_whole_record_and_its_tables(run_script):
    code, record, text, said = run_script(lstm)
    assert code == 0
    check_lstm_record(record)
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


def test_a_run_may_stop_and_another_go_on(run_script, tmp_path, monkeypatch):
    part = ["--groups", "anchors", "tf32"]
    code, record, text, _ = run_script(lstm, *part, "--minutes", "1e-9")
    assert code == 0 and not record["rows"] and len(record["unmeasured"]) == 6
    assert record["runs"][0]["stopped"] == "the 1e-09 minutes were over" and "0 shapes measured, 6 not" in text
    _, first, _, _ = run_script(lstm, "--groups", "anchors", "--dtypes", "float32")
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(first))
    code, record, _, said = run_script(lstm, *part, "--more", str(earlier))
    check_lstm_record(record)
    assert [row["run"] for row in record["rows"]] == [0] + [1] * 5 and len(said.err.splitlines()) == 5
    assert record["rows"][0] == first["rows"][0]
    first["runs"][0]["machine"]["sources"] = "changed"
    earlier.write_text(json.dumps(first))
    code, _, _, said = run_script(lstm, *part, "--more", str(earlier))
    assert code == 1 and "rows of sources changed and" in said.err and "cannot stand in one table" in said.err


def test_a_wrong_result_has_no_time_and_a_rival_that_fails_no_say(run_script, monkeypatch):
    seam = lstm_rivals.seam

    def spoilt(problem):
        results = seam(problem)
        return [*results[:-1], results[-1] * 1.1] if problem.dtype == torch.float32 else results

    def failing(problem):
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(lstm_rivals, "seam", spoilt)
    monkeypatch.setattr(lstm_rivals, "cudnn_forward", failing)
    code, record, text, said = run_script(lstm, "--groups", "anchors")
    check_lstm_record(record)
    half, single, _ = record["rows"]
    assert code == 1 and "bias_hh_l0 score.grad of seam is" in single["fault"]
    assert not half["fault"] and half["left_out"] == {"cudnn_forward": "out of order"}
    assert "FAILED: anchors: I 100, H 50, B 5, T 32, float32: bias_hh_l0" in text and "FAILED" in said.err


@pytest.mark.slow
def test_a_shape_that_fails_spoils_no_other(run_script, monkeypatch):
    groups = {name: cuda_grid.GROUPS[name][:count] for name, count in (("anchors", 4), ("compiled", 1), ("lengths", 1))}
    monkeypatch.setattr(lstm, "GROUPS", groups)
    monkeypatch.setattr(bench_process, "Bench", breaking_bench.Bench)
    monkeypatch.setattr(bench_process, "COMPILED_LIMIT", 0.5)  # that of the shape that hangs
    code, record, _, _ = run_script(lstm, "--groups", *groups, dry=False)
    check_lstm_record(record)
    assert code == 1 and not record["unmeasured"] and not record["runs"][0]["stopped"]
    faults = [row["fault"] for row in record["rows"]]
    ended, lost = "a process that measures ended with code 3: its last words stand above", "index out of bounds"
    assert faults == ["", ended, lost, "", "a process that measures has not answered for 0.5 seconds", ""]
    processes = [row["process"] for row in record["rows"] if "process" in row]
    assert len(set(processes)) == 4  # a new one after the end of one, after a loss and for each group


def test_the_grid_is_what_was_set():
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


# The engine ----------------------------------------------------------------------------------------------------------


def check_engine_record(record: dict) -> None:
    """Every field that a reader of the record counts on."""
    schema.check(record)
    assert record["format"] == "seam-fast cuda engine 1" and record["method"]
    for run in record["runs"]:
        assert words.command(run).startswith("python -m benchmarks.cuda.engine")
        assert run["settings"]["tf32"] == {"matmul": False, "cudnn": False, "but_in": sorted(BY_TF32)}
        assert set(MACHINE) <= set(run["machine"])
        for key in ("base", "data_hash", "synthetic", "target", "documents", "words", "sizes"):
            assert key in run["workload"], key
    assert len({row["key"] for row in record["rows"]}) == len(record["rows"])
    for row in record["rows"]:
        assert row["run"] < len(record["runs"])
        if row["fault"]:
            assert not row.keys() & {"us", "seconds"}
            continue
        spreads = [*row.get("us", {}).values(), *row.get("ratio", {}).values(), *row.get("gain", {}).values()]
        for figures in [*spreads, *([row["seconds"]] if row.get("seconds") else [])]:
            check_spread(figures)
        if row["piece"] == "step":
            check_step(row)
        elif row["piece"] == "scaling":
            assert set(row["us"]) == set(row["gain"]) == set(row["cores_busy"]) and str(row["most"]) in row["us"]
        elif row["piece"] == "kernels":
            assert set(row["steps"]) | set(row["left_out"]) == WAYS
            for part in row["steps"].values():
                assert part["us"] > 0 and part["launches"] > 0 and part["largest"]
        else:
            assert row["whole"] == (row["cut"] is None) == bool(row["seconds"])
            assert len(row["modules"]) == (row["modules_in_all"] if row["whole"] else 0)


def check_step(row: dict) -> None:
    """Nothing is timed that was not compared with float64, by the tolerance of its kind."""
    assert set(row["us"]) | set(row["left_out"]) | set(row["wrong"]) == WAYS
    without_ratio = {"engine"} if "engine_tf32" in row["us"] else {"engine", "graph_rows_tf32"}
    assert set(row["ratio"]) == set(row["us"]) - without_ratio and set(row["wrong"]) <= {"engine_tf32"}
    truths = {"first", "long", "first_rivals", "first_tf32", "long_tf32", "gradients_tf32"}
    assert truths - {"first_rivals"} <= set(row["agreement"]) <= truths  # older records have no such rivals
    for name in row["us"]:
        ours, kind = name.startswith("engine") or name == "graph_trainer", "_tf32" * (name in BY_TF32)
        first = "first" + kind if ours or kind else "first_rivals"
        wanted = {first, *(["long" + kind] * ours), *(["gradients_tf32"] * bool(kind))}
        assert {key for key, part in row["agreement"].items() if name in part["errors"]} == wanted
    assert all(allowed <= 0.1 for allowed in row["agreement"]["gradients_tf32"]["allowed"].values())
    for part in row["agreement"].values():
        for errors in part["errors"].values():
            for name, error in errors.items():
                assert error <= 1.01 * part["allowed"][name]  # both are rounded


def test_the_engines_dry_run_writes_a_whole_record_and_its_table(run_script):
    code, record, text, said = run_script(engine)
    assert code == 0 and not record["unmeasured"]
    check_engine_record(record)
    step, scaling, eight, study, kernels = record["rows"]
    assert set(step["us"]) == WAYS and set(step["agreement"]["long"]["errors"]) == {"engine", "graph_trainer"}
    assert list(step["agreement"]["long_tf32"]["errors"]) == ["engine_tf32"] and not step["wrong"]
    assert list(scaling["us"]) == ["1", "2", "3"] and set(kernels["left_out"]) == WAYS
    assert (eight["modules_in_all"], eight["rounds"]) == (2, 3) and (study["modules_in_all"], study["rounds"]) == (8, 2)
    assert study["same_bits_as_eight"] == 2 and eight["steps"] == sum(m["steps"] for m in eight["modules"])
    assert len({(m["class"], m["alpha"], m["lr_mask"]) for m in study["modules"]}) == 8
    for line in ("; graph_rows_tf32 / engine_tf32 ", "2 modules, 2 epochs, s", "(SYNTHETIC)"):
        assert line in text and line in said.out
    assert "| reference | " in text and "aim |" not in text.split("|---")[1]  # a dry run reaches nothing
    assert len(said.err.splitlines()) == 5


def test_a_run_of_the_engine_without_time_measures_nothing_and_records_are_joined(run_script, tmp_path):
    code, record, text, _ = run_script(engine, "--minutes", "1e-9")
    assert code == 0 and not record["rows"] and record["unmeasured"] == list(cuda_engine_text.PIECES)
    assert "Not measured: step, scaling, eight, study, kernels: the 1e-09 minutes were over." in text
    committed = RECORDS / "cuda_engine.json"
    earlier = json.loads(committed.read_text())
    code, record, text, _ = run_script(engine, "--minutes", "0", "--more", str(committed), dry=False)  # needs no GPU
    assert code == 0 and record["runs"] == earlier["runs"]
    assert record["rows"] == [row for row in earlier["rows"] if row["whole"]]
    assert "| one module, us a step, float32 | " in text and "\nstep:\n" in text
    earlier["runs"][0]["workload"]["data_hash"] = "other"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(earlier))
    code, _, _, said = run_script(engine, "--minutes", "0", "--more", str(committed), str(other), dry=False)
    assert code == 1 and "different documents" in said.err


def test_wrong_results_of_the_engine_have_no_times(run_script, monkeypatch):
    class Spoilt(engine_bench.TorchTrainer):
        made = 0

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            Spoilt.made += 1
            self.spoilt = Spoilt.made % 2

        def full_scores(self):
            scores, head = super().full_scores()
            return scores, tuple(part + self.spoilt for part in head)

    digests = iter(range(1_000_000))
    monkeypatch.setattr(engine_bench, "TorchTrainer", Spoilt)
    monkeypatch.setattr(engine_bench, "digest", lambda *state: f"{next(digests):016x}")
    code, record, text, _ = run_script(engine, "--pieces", "step", "scaling", "eight")
    check_engine_record(record)
    step, scaling, eight = (row["fault"] for row in record["rows"])
    assert code == 1 and "head weight error of engine is off by" in step
    assert "3 of 3 modules beside one another differ" in scaling and "two runs of eight gave different" in eight
    assert text.count("FAILED: ") == 3


def test_a_rival_that_fails_is_left_out_and_the_others_are_timed(run_script, monkeypatch):
    def failing(self, words):
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(engine_rivals.Captured, "_make_room", failing)
    code, record, _, said = run_script(engine, "--pieces", "step")
    check_engine_record(record)
    without = dict.fromkeys(("graph_rows", "graph_table", "graph_rows_tf32"), "out of order")
    assert code == 0 and record["rows"][0]["left_out"] == without
    (line,) = [line for line in said.out.splitlines() if "us a step, tf32" in line]
    assert line.endswith("| 42 | 26 | - |") and "graph_rows_tf32" not in line
    assert "without graph_rows (out of order)" in said.err


def test_a_run_that_takes_too_long_is_cut_and_estimated(run_script, monkeypatch):
    def over(watch, job, figures):
        watch.jobs[id(job)] = job
        raise engine_bench.TimeLimitReached

    monkeypatch.setattr(engine_bench.EpochWatch, "__call__", over)
    code, record, text, _ = run_script(engine, "--pieces", "eight")
    check_engine_record(record)
    (row,) = record["rows"]
    assert code == 0 and not row["whole"] and 0 < row["cut"]["steps"] <= row["steps"]
    assert row["cut"]["estimate"] >= row["cut"]["seconds"] and "estimated" in text


def test_a_rival_that_is_less_exact_is_named_in_the_table():
    step = {
        "agreement": {"first": {"allowed": {"rows met error": 1e-6}, "errors": {"engine": {"rows met error": 2e-7}}}}
    }
    step["agreement"]["first_rivals"] = {"errors": {"graph_rows": {"rows met error": 1e-5, "loss": 1.0}}}
    wanted = "; less exact: scores of rows met off by 1e-05, the engine's 2e-07"
    assert cuda_engine_text.off_by(step, "graph_rows") == wanted and cuda_engine_text.off_by(step, "reference") == ""
    assert cuda_engine_text.largest_error(step, "graph_rows") == "1e-05"
    why = (
        "batch 5: rows met error of graph_rows is off by 0.001, more than the 6.4e-05 allowed, so its time says nothing"
    )
    step["left_out"] = {"graph_rows": why, "reference": "out of order"}
    assert cuda_engine_text.left_out(step, "graph_rows") == "left out: rows met off by 0.001, allowed 6.4e-05"
    assert cuda_engine_text.left_out(step, "reference") == "left out: out of order"


def test_rivals_may_be_less_exact_but_tf32_does_not_pass_for_float32():
    """The factor is between how far cuDNN's float32 (6 times what the engine may) and tf32 (900 times) were off."""
    truth = first_steps(Workload(*smoke_base()), 5, 6)
    coarse = engine_rivals.for_rivals(truth)
    for name, allowed in truth.allowed.items():
        assert coarse.allowed[name] == (allowed if name.endswith(" far") else 64 * allowed)


def tf32_switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("key", "factor"),
    [
        ("lstm.weight_hh_l0", 2),
        ("word_embeddings.weight", 0.5),
        ("hidden2label.bias", 2),
        ("head weight", float("nan")),
    ],
)
def test_a_wrong_gradient_by_tf32_is_refused(key, factor):
    class Spoilt(engine_bench.TorchTrainer):
        """Scales a gradient where tf32 is allowed."""

        def _joint_step(self):
            if tf32_switches() == (True, True):
                penalty = self.penalty_gradient.get(key, 0)
                part = self.scores.get(key, self.head[0])
                part.grad.sub_(penalty).mul_(factor).add_(penalty)
            super()._joint_step()

    gradients = engine_rivals.Gradients(Workload(*smoke_base()), 5, 6)
    for tf32 in (False, True):
        way = engine_rivals.Way("engine", Spoilt, "cpu", tf32=tf32)
        with pytest.raises(Exception, match=f"gradient of {key}|loss is nan") if tf32 else contextlib.nullcontext():
            gradients.check(way)


def test_tf32_is_allowed_only_inside_a_way_that_asks_for_it():
    seen = []

    class Trainer:
        def __init__(self, *arguments, **options):
            seen.append(tf32_switches())

        def run_epoch(self):
            seen.append(tf32_switches())
            raise RuntimeError("an epoch that fails")

    for tf32 in (False, True):
        seen.clear()
        with engine_rivals.tf32_allowed(False):
            trainer = engine_rivals.Way("way", Trainer, "cpu", tf32=tf32)({}, (), None)
            with pytest.raises(RuntimeError, match="that fails"):
                trainer.run_epoch()
            assert seen == [(tf32, tf32)] * 2 and tf32_switches() == (False, False)


def test_the_captured_rival_takes_whole_batches_only():
    weights, head = toy_weights.make_weights(torch.float32), toy_weights.make_head(torch.float32)
    rival = build(engine_rivals.Captured, weights, head, torch.arange(15), **trainer_kinds.OPTIONS)
    documents = toy_data.make_documents(13)
    with pytest.raises(ValueError, match="whole batches only"):
        rival.run_epoch(*documents, 4)
    stepper = Stepper(weights, head, **trainer_kinds.OPTIONS)
    for count in (8, 4, 12):  # fewer fit into the memory that is there, more need more
        part = [tensor[:count] for tensor in documents]
        wanted = [stepper.step(*batch).cross_entropy for batch in toy_data.cut(part, 4)]
        assert rival.run_epoch(*part, 4) == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
    assert rival.steps == 6
    with pytest.raises(ValueError, match="schedule 'joint'"):
        build(engine_rivals.Captured, weights, head, torch.arange(15), **trainer_kinds.OPTIONS | {"schedule": "port"})


def test_a_folder_without_r8_is_an_error_and_nothing_else_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(r8, "from_mirrors", None)
    monkeypatch.setattr(r8, "from_npm", None)
    for data_dir, environment in ((str(tmp_path), ""), (None, str(tmp_path))):
        monkeypatch.setenv("SEAM_FAST_DATA", environment)
        with pytest.raises(DataError, match="holds no R8"):
            engine_bench.load_base(types.SimpleNamespace(base=None, data_dir=data_dir))


# Both ----------------------------------------------------------------------------------------------------------------


def test_committed_records_are_whole():
    for path in RECORDS.glob("cuda_lstm*.json"):
        check_lstm_record(json.loads(path.read_text()))
    for path in RECORDS.glob("cuda_engine*.json"):
        check_engine_record(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        (lstm, ["--groups", "h7"], "group 'h7' is unknown; there are anchors, h128"),
        (lstm, ["--seconds", "0"], "--seconds must be above 0"),
        (lstm, ["--minutes", "0"], "--minutes 0 measures nothing"),
        (engine, ["--epochs", "0"], "--epochs 1 or more"),
        (engine, ["--seconds", "0"], "--seconds must be above 0"),
        (engine, ["--minutes", "0"], "--minutes 0 measures nothing"),
    ],
)
def test_the_scripts_say_what_is_wrong(run_script, script, arguments, sentence):
    code, record, _, said = run_script(script, *arguments)
    assert code == 1 and record is None and sentence in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_engines_benchmark_says_so(run_script):
    code, record, _, said = run_script(engine, dry=False)
    assert code == 1 and record is None and "torch sees no GPU; --dry shows" in said.err

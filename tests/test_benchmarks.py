"""`seam-fast bench` runs, measures what it says and writes whole records; nothing here looks at speed."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import agreement, toy_data, toy_weights

import seam_fast
from seam_fast.cli import main as cli
from seam_fast.errors import SeamFastError
from seam_fast.training.reference_step import Stepper

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
SPREAD = {"median", "min", "max", "q1", "q3"}


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def check_spread(figures: dict) -> None:
    assert set(figures) == SPREAD
    assert 0 < figures["min"] <= figures["q1"] <= figures["median"] <= figures["q3"] <= figures["max"]


@pytest.fixture
def bench(tmp_path, capsys):
    """Runs `seam-fast bench`: exit code, record, and what it printed and said."""

    def run(*arguments):
        out = tmp_path / "record.json"
        code = cli.main(["bench", *arguments, "--out", str(out)])
        record = json.loads(out.read_text()) if out.exists() else None
        return code, record, capsys.readouterr()

    return run


def check_op_record(record: dict, shapes: list[str]) -> None:
    """What the schema does not tell: that the figures of a record fit together."""
    import schema

    schema.check(record)
    machine, peak = record["machine"], record["machine"]["peak"]
    assert machine["isa"]["seam"] or machine["backend"]["used"] == "torch"
    assert peak["matrix_product_gflops"] > 0 and (peak["gflops"] or peak["reason"])
    assert [row["shape"] for row in record["rows"]] == shapes
    for row in record["rows"]:
        for key in ("seam_ms", "rival_ms", "ratio"):
            check_spread(row[key])
        assert row["rounds"] >= 1 and row["flop"] > 0 and row["ratio_of_minima"] > 0 and row["aim"] >= row["must"]
        for key in ("gflops", "loops", *(["of_peak"] if peak["gflops"] else [])):
            assert set(row[key]) == {"seam", "rival"} and min(row[key].values()) > 0
        assert row["verdict"] in ("aim", "must", "below")
        assert {"seam", "rival"} <= set(row["agreement"]["errors"])
        for errors in (row["agreement"]["errors"]["seam"], row["agreement"]["allowed"]):
            assert len(errors) == 8  # output, h_n, c_n, the input's gradient and four scores'
        seam = row["agreement"]["errors"]["seam"]
        assert all(error <= row["agreement"]["allowed"][name] * 1.01 for name, error in seam.items())  # rounded both
        memory = row["memory"]
        assert memory["within"] == (memory["seam"]["peak"] <= 1.1 * memory["saved_bytes"])
        for name, figures in row["others"].items():
            check_spread(figures["ms"])
            assert ("ratio" in figures) == (not name.startswith("seam"))


@pytest.mark.slow
def test_ops_side_by_side_write_a_whole_record_and_tables(bench):
    import schema

    code, record, said = bench("op", "--smoke")
    assert code == 0
    check_op_record(record, ["tiny", "tiny_lengths"])
    assert schema.FORMATS[record["format"]] is schema.OP
    assert record["machine"]["threads"] == 1 and set(record["left_out"]) == {"flashrnn", "haste"}
    straight, spread = (set(row["others"]) | set(row["left_out"]) for row in record["rows"])
    both = {
        "seam",
        "seam_forward",
        "rival_forward",
        "kernel_only",
        "kernel_only_forward",
        "parametrized",
        "plain_pytorch",
    }
    assert straight == both | {"rival_without_onednn", "compiled"} and spread == both | {"padded"}
    assert "| 5, 7, 3, 4 |" in said.out and "| 5, 7, 6, 4, lengths 1 to T |" in said.out


def test_a_rival_with_wrong_results_is_left_out_and_the_others_are_timed(bench, monkeypatch):
    import rivals

    def wrong(problem):
        return [result * 2 for result in rivals.rival(problem)]

    others = rivals.others
    monkeypatch.setattr(rivals, "others", lambda problem: others(problem) | {"parametrized": wrong})
    monkeypatch.setattr(rivals, "compiles", lambda shape: False)
    code, record, said = bench("op", "--smoke", "--shapes", "tiny")
    (row,) = record["rows"]
    assert code == 0 and "tiny: parametrized is left out: tiny: output of parametrized is" in said.err
    assert list(row["left_out"]) == ["parametrized"] and "parametrized" not in row["others"]
    assert "kernel_only" in row["others"] and "parametrized" not in row["agreement"]["errors"]


@pytest.mark.parametrize("record", sorted(RECORDS.glob("masked_lstm*.json")), ids=lambda p: p.stem)
def test_the_committed_op_records_are_whole(record):
    from shapes import SHAPES

    record = json.loads(record.read_text())
    check_op_record(record, list(SHAPES))
    assert record["machine"]["threads"] == 1 and record["machine"]["backend"]["used"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["op", "--shapes", "h7"], "shape 'h7' is unknown; there are r8, h128"),
        (["op", "--rounds", "0"], "--rounds must be 1 or more"),
        (["op", "--threads", "0"], "--threads must be 1 or more"),
        (["step", "--smoke", "--curves", "--rounds", "-1"], "--rounds must be 1 or more"),
        (["step", "--smoke", "--curves", "--parts", "memory"], "--parts says nothing about --curves"),
        (["step", "--smoke", "--curves", "--processes", "own"], "--processes says nothing about --curves"),
        (["step", "--smoke", "--batch-sizes", "5", "0"], "--batch-sizes must be 1 or more"),
        (["step", "--smoke", "--rivals", "fast"], "rival 'fast' is unknown; there are reference, reference_best"),
        (["step", "--smoke", "--parts", "all"], "part 'all' is unknown; there are steps, memory, vocabulary"),
        (["step", "--smoke", "--curves", "--axes", "depth"], "axis 'depth' is unknown; there are batch, hidden"),
        (["job", "--smoke", "--epochs", "0"], "--epochs must be 1 or more"),
        (["job", "--smoke", "--threads", "0"], "--threads must be 1 or more"),
        ([], "--out names the record of one kind; say which: step, op or job"),
    ],
)
def test_bench_says_what_is_wrong(bench, arguments, sentence):
    code, record, said = bench(*arguments)
    assert code == 1 and record is None and sentence in said.err


def test_bench_says_where_the_benchmarks_are_if_they_are_not_here(monkeypatch, tmp_path, capsys):
    from seam_fast.cli import bench

    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert cli.main(["bench", "op", "--quick"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("seam-fast: error: the benchmarks are in the source checkout") and "git" not in said
    assert "clone the repository" in said and len(said.splitlines()) == 1


def test_without_a_kind_all_are_measured(monkeypatch):
    import runner

    seen = []
    monkeypatch.setattr(
        runner, "run_kind", lambda arguments, **flags: seen.append((arguments.kind, arguments.rounds, flags)) or 0
    )
    assert cli.main(["bench", "--quick"]) == 0
    assert [kind for kind, _, _ in seen] == ["op", "step", "job"] and seen[0][2] == {"quick": True, "check": False}
    assert cli.main(["bench", "--check", "step"]) == 0 and seen[-1] == ("step", None, {"quick": False, "check": True})


def test_instruction_sets_are_limited_for_all_rivals_in_a_fresh_process(monkeypatch):
    import machine

    seen = {}

    def run(command, env):
        seen.update(env, command=command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(machine.subprocess, "run", run)
    assert cli.main(["bench", "op", "--isa", "avx2", "--smoke"]) == 7
    assert seen["SEAM_FAST_ISA"] == "avx2" and seen["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert seen["command"][1:] == ["-m", "seam_fast", "bench", "op", "--isa", "avx2", "--smoke"]


def test_the_suite_runs_with_machine_and_backend_in_its_json(tmp_path):
    pytest.importorskip("pytest_benchmark")
    out = tmp_path / "suite.json"
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/bench_masked_lstm.py", "benchmarks/bench_layers.py"]
    command += ["-k", "tiny and not compiled"]
    command += ["-p", "no:cacheprovider", f"--benchmark-json={out}", "--benchmark-max-time=0.001"]
    command += ["--benchmark-min-rounds=1", "--benchmark-warmup=off", "--benchmark-calibration-precision=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    benchmarks = json.loads(out.read_text())["benchmarks"]
    groups = {"tiny", "tiny_lengths", "embedding_tiny", "linear_tiny", "adam_tiny"}
    assert {entry["group"] for entry in benchmarks} == groups
    assert {entry["params"]["way"] for entry in benchmarks} >= {"seam", "rival", "parametrized", "padded"}
    for entry in benchmarks:
        info = entry["extra_info"]
        assert info["machine"]["cpu"] and info["threads"] == 1 and set(info["backends"]) == {"cuda", "cpu", "torch"}


def test_the_suites_are_not_collected_with_the_tests():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "benchmarks", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout  # pytest's own code for no tests


def test_a_wrong_result_voids_the_time():
    import rivals
    from shapes import SMOKE

    from seam_fast import SeamFastError

    for shape in SMOKE.values():
        truth, problem = rivals.Truth(shape), rivals.Problem(shape)
        results = rivals.seam(problem)
        assert max(truth.check("seam", results).values()) < 1e-5
        for place, name in enumerate(rivals.RESULTS):
            for wrong in (1 + 1e-4, float("nan")):
                spoilt = list(results)
                spoilt[place] = spoilt[place] * wrong
                with pytest.raises(SeamFastError, match=rf"{shape.name}: {name} of seam is .* its time says nothing"):
                    truth.check("seam", spoilt)
            spoilt[place] = spoilt[place][..., :-1]
            with pytest.raises(SeamFastError, match="has shape"):
                truth.check("rival", spoilt)


def test_clamps_act_in_the_shapes_that_are_timed():
    import rivals
    from shapes import SHAPES

    assert rivals.Truth(SHAPES["r8"]).clamped > 0


def test_memory_meter_counts_what_is_held_at_once_and_not_what_is_returned():
    import measure

    measure.check_memory_meter()
    source, keep = torch.ones(1000, 100), []

    def run():
        scratch = source + 1  # 400 kB at the peak, with what is kept
        keep.append(source[:10] * 1.0)  # 4 kB that stay
        whole = scratch * 2  # returned, but only half of it: the other 200 kB count
        del scratch
        return [whole[:500], None]

    if native := seam_fast._ext.C:  # what the kernels take past torch's allocator counts as well, in whole large pages
        found = measure.extra_memory(lambda: [native.empty_scratch(530_000, torch.float32)] * 0)
        assert found["peak"] == 4 * 530_000
        found = measure.extra_memory(lambda: [native.empty_scratch(3_000_000, torch.float32)] * 0)
        assert found["peak"] == 6 * 2**21 and found["kept"] == 0
    found = measure.extra_memory(run)
    assert 604_000 <= found["peak"] <= 605_000 and 204_000 <= found["kept"] <= 205_000
    assert found["largest"][:3] == [400_000, 200_000, 4_000]


def test_runs_take_turns():
    import measure

    calls = []
    runs = {name: (lambda name=name: calls.append(name) or name) for name in "ab"}
    times, loops, results = measure.in_turn(runs, 5, 1e-12, 1)
    assert "".join(calls) == "aabb" + "ab" * 5  # two to warm up, then turns
    assert [len(found) for found in times.values()] == [5, 5]
    assert loops == {"a": 1, "b": 1} and results == {"a": "a", "b": "b"}


def test_spread_and_operations():
    import measure
    from shapes import SHAPES

    assert measure.spread([3.0, 1.0, 2.0], 10) == {"median": 20, "min": 10, "max": 30, "q1": 15, "q3": 25}
    assert measure.spread([2.0])["q1"] == 2
    r8, lengths = SHAPES["r8"], SHAPES["lengths"]
    # one step of the forward pass: a matrix of 4H = 200 rows and I + H = 150 columns, times a vector
    assert r8.flop(backward=False) == 2 * 200 * 150 * 160 and r8.flop() == 3 * r8.flop(backward=False)
    found = lengths.lengths()
    assert (
        len(found) == 64 and (int(found.min()), int(found.max())) == (1, 128) and not found.equal(found.sort().values)
    )
    assert lengths.steps() == int(found.sum())


def test_peak_is_at_least_what_a_matrix_product_reaches():
    import measure

    peak = measure.Peak()
    peak.burst()
    figures = peak.figures()
    if figures["gflops"] is None:
        pytest.skip(figures["reason"])
    # half of it at least: the product may use instructions that the loop has no form for, and machines are busy
    assert figures["gflops"] > 0.5 * figures["matrix_product_gflops"] > 0


# -- a SEAM step ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """The invented corpus as the reference treats it, and a base that has learned it."""
    corpus = toy_data.make_corpus(protocol="reference")
    return toy_weights.make_base(corpus), corpus


@pytest.mark.parametrize("schedule", ["port", "joint"])
@pytest.mark.parametrize("name", ["Reference", "ReferenceBest"])
def test_the_rivals_take_the_reference_step(name, schedule):
    import reference_step

    weights, head = toy_weights.make_weights(), toy_weights.make_head()
    options = {"alpha": 0.7, "lr_mask": 0.1, "lr_head": 0.02, "schedule": schedule}
    rival = getattr(reference_step, name)(weights, head, **options)
    stepper = Stepper(weights, head, **options)
    results, losses = [], []
    for epoch in range(4):
        documents = toy_data.make_documents(10, seed=epoch)
        results += [stepper.step(*batch) for batch in toy_data.cut(documents, 3)]  # the last batch is of one document
        losses.append(rival.run_epoch(*documents, 3))
        wanted = sum(result.cross_entropy for result in results[-4:]) / 4
        assert losses[-1] == pytest.approx(wanted, abs=1e-12)
        assert agreement.largest_difference(stepper, *rival.whole_scores()) < 1e-12
    assert rival.steps == len(results) == 16
    kept = [result.kept for result in results]
    assert min(kept) < 0.9 < max(kept), "the run should have dropped some"
    if name == "Reference":  # what the port reads in a step: loss, share kept, hits; and every gradient as an array
        assert rival.totals[0] == pytest.approx(sum(result.cross_entropy for result in results))
        assert rival.totals[1] == pytest.approx(sum(kept)) and 0 < rival.totals[2] <= 40
        assert len(rival.gradients) == (7 if schedule == "port" else 9)
    else:
        assert rival.totals == [0, 0, 0] and not rival.gradients
    assert rival.optimizer.defaults["fused"] == (None if name == "Reference" else True)


def test_the_reference_reads_at_the_end_only():
    import reference_step

    with pytest.raises(ValueError, match="reads documents at the end, not 'last_word'"):
        reference_step.Reference(
            toy_weights.make_weights(), toy_weights.make_head(), read="last_word", **reference_step.OPTIONS
        )


def test_rows_that_never_occur_change_nothing(small):
    from reference_step import Workload

    few = Workload(*small)
    many = Workload(*small, vocabulary=few.weights[toy_weights.EMBEDDING].shape[0] + 50)
    assert many.options["alpha"] / many.count == pytest.approx(few.options["alpha"] / few.count, rel=1e-14)
    states = []
    for workload in (few, many):
        trainer = workload.make("best_torch", torch.float64)
        states.append((trainer.run_epoch(*workload.first(24), 5), trainer.whole_scores()[0]))
    assert states[0][0] == states[1][0]
    for key in toy_weights.KEYS:
        ours, theirs = states[0][1][key], states[1][1][key]
        torch.testing.assert_close(theirs[: len(ours)], ours, rtol=0, atol=1e-12)


def test_a_wrong_step_voids_the_time(small):
    from reference_step import ReferenceBest, Workload, first_steps, long_run

    from seam_fast import SeamFastError

    class Loss(ReferenceBest):
        def run_epoch(self, *arguments):
            return super().run_epoch(*arguments) * (1 + 1e-5)

    class Scores(ReferenceBest):
        def whole_scores(self):
            scores, head = super().whole_scores()
            scores[self.spoilt] *= 1 + 1e-5
            return scores, head

    class Flip(ReferenceBest):
        def whole_scores(self):
            scores, head = super().whole_scores()
            scores[toy_weights.EMBEDDING][-1, -1] *= -1
            return scores, head

    class Nan(ReferenceBest):
        def whole_scores(self):
            scores, head = super().whole_scores()
            return scores, (head[0] * float("nan"), head[1])

    class Late(ReferenceBest):  # right in steps of their own, wrong in one call: what a lazy engine may get wrong
        def run_epoch(self, ids, lengths, labels, batch_size):
            loss = super().run_epoch(ids, lengths, labels, batch_size)
            if len(ids) > batch_size:
                self.put_scores({key: score + 1e-5 for key, score in self.scores.items()}, self.head)
            return loss

    workload = Workload(*small)
    for truth in (first_steps(workload, 5, 6), long_run(workload, 5, 30)):
        for name in ("reference", "reference_best", "best_torch"):
            errors = truth.check(name)
            assert set(errors) == set(truth.allowed) and errors["flipped"] == 0
        for key in toy_weights.KEYS:
            Scores.spoilt = key
            with pytest.raises(SeamFastError, match=r"batch 5: .* its time says nothing"):
                truth.check(Scores)
        for wrong, what in ((Loss, "loss"), (Flip, "flipped"), (Nan, "head weight error"), (Late, "rows met error")):
            with pytest.raises(SeamFastError, match=rf"batch 5: .*{what} of .* its time says nothing"):
                truth.check(wrong)


def check_step_record(record: dict) -> None:
    """What the schema does not tell: that the figures of a record fit together."""
    import schema

    schema.check(record)
    assert record["machine"]["threads"] == 1 and record["machine"]["processes"] in ("one", "own")
    workload = record["workload"]
    assert len(workload["base"]) == 64
    assert workload["documents"] > 0 and workload["words"] <= workload["sizes"]["V"]
    names = record["rivals"]
    assert not set(names) & set(record["left_out"])
    for row in record["rows"]:
        assert list(row["ms"]) == names and row["rounds"] >= 2
        assert set(row["steps_a_block"]) == set(row["page_faults"]) == set(names)
        assert max(row["steps_a_block"].values()) <= row["steps_an_epoch"]
        for figures in row["ms"].values():
            check_spread(figures)
        assert row["against"] or len(names) == 1
        for other, ratios in row["against"].items():
            assert set(ratios) == set(names) - {other}
            for figures in ratios.values():
                check_spread(figures)
        for kind, found in row["agreement"].items():
            assert found["steps"] > 0 and kind in ("first", "long")
            for errors in found["errors"].values():
                assert set(errors) == set(found["allowed"])
                assert all(error <= found["allowed"][name] * 1.01 for name, error in errors.items())  # rounded both
        assert list(row["agreement"]["first"]["errors"]) == names
    for figures in (record["memory"] or {}).values():
        check_spread(figures["resident_bytes"])
        assert figures["tensor_bytes"] > 0 and figures["modules"] >= 3
    if record["vocabulary"]:
        assert record["vocabulary"]["V"]["large"] > record["vocabulary"]["V"]["small"]
        for figures in record["vocabulary"]["rivals"].values():
            check_spread(figures["ratio"])


@pytest.mark.slow
def test_steps_side_by_side_write_a_whole_record_and_tables(bench):
    import step

    code, record, said = bench("step", "--smoke", "--batch-sizes", "16", "--processes", "one")
    assert code == 0
    check_step_record(record)
    assert [row["batch_size"] for row in record["rows"]] == [16] and record["workload"]["synthetic"]
    # What plain PyTorch holds: scores, their gradient and two moments, for every score of a row that can occur.
    tensors = {name: figures["tensor_bytes"] for name, figures in record["memory"].items()}
    assert tensors["reference"] == pytest.approx(16 * record["workload"]["weights"], rel=0.01)
    assert tensors["best_torch"] < tensors["reference"]
    assert record["memory"]["reference"]["resident_bytes"]["median"] == pytest.approx(tensors["reference"], rel=0.3)
    assert set(record["rivals"]) >= set(step.AGAINST) and record["machine"]["processes"] == "one"
    assert list(record["rows"][0]["against"]) == list(step.AGAINST)
    assert "| batch | reference, ms | reference at its best, ms |" in said.out
    assert "30,000 words" in said.out and "| memory a module" in said.out


@pytest.mark.slow
def test_steps_are_timed_in_processes_of_their_own(bench):
    rivals = ["reference_best", "best_torch"]
    arguments = ["step", "--smoke", "--processes", "own", "--batch-sizes", "64", "--parts", "steps"]
    code, record, _ = bench(*arguments, "--rivals", *rivals)
    assert code == 0
    check_step_record(record)
    assert record["rivals"] == rivals and record["machine"]["processes"] == "own"
    assert record["memory"] is None and record["vocabulary"] is None


@pytest.mark.parametrize("record", sorted(RECORDS.glob("step*.json")), ids=lambda p: p.stem)
def test_the_committed_step_records_are_whole(record):
    record = json.loads(record.read_text())
    check_step_record(record)
    assert [row["batch_size"] for row in record["rows"]] == [5, 16, 64] and len(record["rivals"]) == 6
    assert not record["workload"]["synthetic"]
    if record["machine"]["processes"] == "one":  # memory and vocabulary are measured once
        assert set(record["memory"]) == {"reference", "best_torch", "native"}
        assert "native" in record["vocabulary"]["rivals"]


def test_a_native_engine_that_is_not_there_is_left_out_with_the_reason(monkeypatch, bench):
    import reference_step

    monkeypatch.setattr(reference_step, "why_not_train", lambda dtype: "no compiler")
    code, record, said = bench("step", "--smoke", "--rivals", "native")
    assert code == 1 and record is None
    assert "native is left out: no compiler" in said.err and "none of these rivals can run here" in said.err
    kept, left_out = reference_step.usable(["reference", "native", "native_dense"])
    assert kept == ["reference"] and left_out == {"native": "no compiler", "native_dense": "no compiler"}


@pytest.mark.slow
def test_curves_write_a_whole_record(bench):
    import curves

    code, record, said = bench("step", "--curves", "--smoke", "--axes", "hidden", "modules")
    assert code == 0 and record["synthetic"] and list(record["curves"]) == ["hidden", "modules"]
    for axis, curve in record["curves"].items():
        assert [point["x"] for point in curve["points"]] == list(curves.SMOKE[axis])
        for point in curve["points"]:
            assert list(point["ms"]) == record["rivals"]
            assert (point["agreement"] is None) == (axis == "modules" and point["x"] > 1)
            for figures in (*point["ms"].values(), *point["against"].values()):
                check_spread(figures)
    assert "| hidden units |" in said.out and "| modules side by side |" in said.out


@pytest.mark.parametrize("name", ["reference_best", "best_torch"])
def test_modules_side_by_side_count_the_steps_of_all(small, name, monkeypatch):
    import contextlib

    import curves
    from reference_step import Workload

    monkeypatch.setattr(curves, "usable_cores", lambda: 2)
    workload = Workload(*small)
    with contextlib.ExitStack() as stack:
        run = curves.side_by_side(3, (workload, name, 5, 5, workload.make(name).whole_scores(), 2), stack)
        for number in range(2):  # two at once, the third after one of them
            seconds, _, steps = run(number)
            assert steps == 3 * 2 and seconds > 0


def test_rows_that_change_others_void_the_time(small, monkeypatch):
    import step
    from reference_step import Workload

    few, many = Workload(*small), Workload(*small, vocabulary=small[0].vocab_size + 50)
    step.check_same_bits(few, many, "best_torch", 5)
    many.weights["lstm.weight_hh_l0"] = many.weights["lstm.weight_hh_l0"] * 1.5
    with pytest.raises(SeamFastError, match="rows that never occur change the scores of others"):
        step.check_same_bits(few, many, "best_torch", 5)


def test_a_place_for_no_record_is_told_before_the_time_is_spent(tmp_path, capsys):
    import records

    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "record.json"):
        with pytest.raises(SeamFastError, match="no record can be written there"):
            records.check_place(place)
    assert cli.main(["bench", "op", "--smoke", "--out", str(tmp_path / "file" / "x.json")]) == 1
    assert "no record can be written there" in capsys.readouterr().err
    assert records.check_place(tmp_path / "new" / "record.json").parent.is_dir()


def test_a_process_that_dies_is_an_error_of_one_sentence():
    import measure

    assert measure.in_fresh_process(abs, -3) == 3
    with pytest.raises(SeamFastError, match="ended with code -9: too little memory"):
        measure.in_fresh_process(kill_oneself)
    worker = measure.Worker(sleeper, os.devnull, "a", 1)
    worker._child._process.kill()
    worker._child._process.join()
    with pytest.raises(SeamFastError, match="ended with code -9"):  # between two turns as well
        worker(1)
    worker.close()


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_verdicts():
    import step

    assert [step.verdict(value, 90, 130)["reached"] for value in (89, 90, 130)] == ["below", "must", "aim"]
    assert [step.verdict(value, 20, 8)["reached"] for value in (21, 20, 8)] == ["below", "must", "aim"]


@pytest.mark.slow
def test_the_suite_of_steps_runs(tmp_path):
    pytest.importorskip("pytest_benchmark")
    out = tmp_path / "suite.json"
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/bench_step.py", "-k", "b64", "-p", "no:cacheprovider"]
    command += [f"--benchmark-json={out}", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
    command += ["--benchmark-warmup=off", "--benchmark-calibration-precision=1"]
    environment = os.environ | {"SEAM_FAST_BENCH_BASE": "tiny"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    benchmarks = json.loads(out.read_text())["benchmarks"]
    assert {entry["params"]["name"] for entry in benchmarks} >= {"reference", "reference_best", "best_torch"}
    for entry in benchmarks:
        info = entry["extra_info"]
        assert info["machine"]["cpu"] and info["threads"] == 1 and info["steps_a_call"] >= 1 and info["tiny"]


# -- the whole job ----------------------------------------------------------------------------------------------------


def check_job_record(record: dict) -> None:
    """What the schema does not tell: that the figures of a record fit together."""
    import schema

    schema.check(record)
    part = record["eight"]
    if part:
        figures, rows = part["figures"], part["rows"]
        assert figures["seconds"] > 0 and figures["peak_resident"] >= figures["resident_before"] > 1e7
        assert figures["steps"] == sum(row["steps"] for row in rows)
        assert figures["steps_a_second"] == pytest.approx(figures["steps"] / figures["seconds"], rel=0.01)
        for row in rows:
            shares = [row["acc_pre"], row["kept"], row["vocabulary_floor"], row["base_f1"], *row["whole_test"].values()]
            assert all(0 <= share <= 1 for share in shares)
            assert 0 <= row["selected_accuracy"] <= row["best_accuracy"] <= 1
    for found in (record["one"] or {"rivals": {}})["rivals"].values():
        check_spread(found["ms_a_step"])
        check_spread(found["seconds"])
        assert found["peak_resident"] >= found["resident_before"] > 1e7
        assert found["estimated"] == (found["epochs_run"] < record["one"]["epochs"])
    for row in (record["to_f1"] or {"rows": []})["rows"]:
        assert row["f1"] == min(found["best_f1"] for found in row["rivals"].values())
        for found in row["rivals"].values():
            assert (
                found["f1_by_epoch"][found["epoch"]]
                >= row["f1"]
                > max(found["f1_by_epoch"][: found["epoch"]], default=-1)
            )
            assert found["seconds"] == found["seconds_by_epoch"][found["epoch"]] > 0


@pytest.mark.slow
def test_jobs_are_recorded(bench):
    code, record, said = bench("job", "--smoke", "--rivals", "reference_best", "best_torch")
    assert code == 0 and record["synthetic"]
    check_job_record(record)
    assert list(record["one"]["rivals"]) == record["rivals"] == ["reference_best", "best_torch"]
    assert list(record["one"]["against"]) == ["reference_best", "best_torch"] and len(record["to_f1"]["rows"]) == 2
    for part in ("one", "to_f1"):
        assert list(record["agreement"][part]["errors"]) == record["rivals"]
    assert "| class interest, 4 epochs, one core |" in said.out and "| class crude: seed |" in said.out
    assert "8 classes, 2 epochs, every epoch evaluated" in said.out


def test_a_run_that_was_cut_short_is_told_to_its_end():
    import job_one

    one = {"seconds": 10.0, "ends": [3.0, 5.0, 7.0]}  # two seconds before the first epoch and three after the last
    assert job_one.an_epoch(one) == 2 and job_one.whole(one, 3) == 10 and job_one.whole(one, 300) == 10 + 297 * 2
    assert job_one.an_epoch({"seconds": 4.0, "ends": [3.0]}) == 3
    counts = [job_one.epochs_to_run(name, 10, quick) for name in ("reference", "native") for quick in (False, True)]
    assert counts == [6, 2, 10, 2] and job_one.epochs_to_run("native", 1, False) == 1


def test_a_race_ends_where_all_have_been():
    import types

    import job_f1

    def racer(*f1):
        return types.SimpleNamespace(f1=list(f1), seconds=[1.0, 2.0, 3.0])

    found = job_f1.race(0, {"a": racer(0.2, 0.5, 0.9), "b": racer(0.6, 0.1, 0.3)})
    assert found["f1"] == 0.6 and [found["rivals"][name]["epoch"] for name in "ab"] == [2, 0]
    assert job_f1.race(0, {"a": racer(0, 0, 0), "b": racer(0.6, 0.1, 0.3)})["f1"] == 0


def test_eight_classes_are_measured_as_they_are_trained(small):
    import argparse

    import job

    part = job.measure_eight(*small, argparse.Namespace(epochs=3, threads=1, seed=0, backend="torch"))
    assert [row["class"] for row in part["rows"]] == ["k0", "k1", "k2", "k3"] and part["engine"] == "torch"
    sizes = [min(n, sum(toy_data.TRAIN_SIZES) - n) + n for n in toy_data.TRAIN_SIZES]
    assert [row["steps"] for row in part["rows"]] == [3 * -(-size // 5) for size in sizes]
    assert "reached" not in part["figures"]


@pytest.mark.parametrize("way", ["reference", "reference_best"])
def test_the_loop_of_the_reference_gives_what_reengineer_gives(small, way):
    import copy

    from reference_loop import ReferenceLoop

    import seam_fast as sf

    base, corpus = copy.deepcopy(small[0]).double(), small[1]
    for target in range(corpus.num_classes):
        (module,) = sf.reengineer(
            base, corpus, [target], protocol="reference", schedule="port", epochs=6, backend="torch", seed=3
        )
        loop = ReferenceLoop(base, corpus, target, way, seed=3)
        assert loop.run(6) == module.card["steps"]
        assert loop.accuracy_before == module.card["evaluation"]["base"]["accuracy"]
        for ours, theirs in zip(loop.history, module.history, strict=True):
            assert ours["accuracy"] == theirs["accuracy"] and ours["kept"] == theirs["kept"]
        assert loop.best["epoch"] == module.card["best_epoch"]
        for key, score in loop.best["scores"].items():
            assert torch.equal(score > 0, module.scores[key] > 0)


@pytest.mark.parametrize("record", sorted(RECORDS.glob("job*.json")), ids=lambda p: p.stem)
def test_the_committed_job_records_are_whole(record):
    record = json.loads(record.read_text())
    check_job_record(record)
    assert not record["synthetic"] and not record["quick"] and record["one"] and record["to_f1"]
    assert len(record["eight"]["rows"]) == 8 and record["eight"]["settings"]["epochs"] == 300


# -- measuring --------------------------------------------------------------------------------------------------------


def sleeper(log, name, steps):
    """A block of steps of two milliseconds that takes note of itself."""

    def run(number):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name}{number} ")
        time.sleep(0.002 * steps)
        if number > 5:
            raise ValueError("no sixth round")
        return steps

    return run


@pytest.mark.parametrize("own", [False, True])
def test_blocks_take_turns_and_times_are_by_the_step(own, tmp_path):
    import measure

    log, runs = tmp_path / "log", {}
    for name, steps in (("a", 1), ("b", 5)):
        run = functools.partial(measure.time_block, sleeper(log, name, steps))
        runs[name] = measure.Worker(sleeper, log, name, steps) if own else run
    times, faults, steps = measure.blocks_in_turn(runs, 3, 0)
    assert log.read_text().split() == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]  # round 0 does not count
    assert steps == {"a": [1] * 3, "b": [5] * 3} and [len(found) for found in faults.values()] == [3, 3]
    assert all(len(found) == 3 and min(found) >= 0.002 for found in times.values())
    assert min(times["b"]) < 0.009, "a time is that of a step, not of the block"
    with pytest.raises(ValueError, match="no sixth round"):
        runs["a"](6)
    if own:
        with pytest.raises(TypeError):
            measure.Worker(sleeper, log)  # what is wrong while it is made shows at once
        for worker in runs.values():
            worker.close()


def test_bytes_of_tensors_counts_every_storage_once():
    import measure

    shared, own = torch.ones(1000), torch.ones(100)

    class Thing:
        def __init__(self):
            self.shared, self.view, self.list = shared, own[:10], [own, {"a": (torch.ones(7, dtype=torch.float64),)}]
            self.parameter = torch.ones(5).requires_grad_()
            self.adam = torch.optim.Adam([self.parameter])
            self.parameter.grad = torch.zeros(5)
            self.adam.step()
            self.me = self

    steps = 4  # Adam counts in a tensor of its own
    assert measure.bytes_of_tensors(Thing(), [shared]) == 4 * 100 + 8 * 7 + 4 * 5 * 4 + steps
    assert measure.bytes_of_tensors(Thing()) == 4000 + 4 * 100 + 8 * 7 + 4 * 5 * 4 + steps


def test_the_peak_of_before_can_be_forgotten():
    import measure

    held = torch.ones(50_000_000)
    del held
    if measure.forget_peak():  # which not every system permits
        assert measure.peak_resident() < measure.resident() + 50e6
    held = torch.ones(50_000_000)
    assert measure.peak_resident() > 200e6
    del held


def test_other_work_is_counted_by_cores():
    import measure

    busy = measure.busy_cores(0.2)
    assert busy is None or 0 <= busy <= os.cpu_count()


def test_resident_memory_follows_what_is_held():
    import measure

    before = measure.resident()
    held = torch.ones(10_000_000)
    assert measure.resident() - before == pytest.approx(40e6, rel=0.1)
    assert measure.peak_resident() >= measure.resident()
    del held
    assert abs(measure.resident() - before) < 4e6
    faults = measure.page_faults()
    held = torch.ones(10_000_000)
    assert measure.page_faults() - faults >= 4, "forty megabytes in pages of at most two, or of four thousand"
    del held


def test_vmap_is_compared_before_it_is_timed(monkeypatch):
    import vmap_scores
    from shapes import SMOKE

    monkeypatch.setattr(vmap_scores.measure, "in_turn", lambda ways, *_: pytest.fail(f"timed: {sorted(ways)}"))
    options = vmap_scores.argparse.Namespace(quick=True, alone=False)
    for shape in SMOKE.values():
        with pytest.raises(pytest.fail.Exception, match=r"timed: \['func_loop', 'loop', 'vmap'\]"):
            vmap_scores.measure_case(shape, 2, 1, "torch", options)
    wrong = {"vmap": [torch.zeros(2, 28, 5), torch.zeros(2, 28, 7), torch.zeros(2, 28), torch.zeros(2, 28)]}
    shape = SMOKE["tiny"]
    with pytest.raises(SeamFastError, match="tiny: vmap is off by 1, where"):
        vmap_scores.compare(wrong, shape, *vmap_scores.tensors(shape, 2))

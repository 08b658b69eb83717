"""The benchmark scripts run, measure what they say and write whole records; nothing here looks at speed."""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import world

from seam_fast import reference

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "records" / "masked_lstm.json"
SPREAD = {"median", "min", "max", "q1", "q3"}


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def check_spread(figures: dict) -> None:
    assert set(figures) == SPREAD
    assert 0 < figures["min"] <= figures["q1"] <= figures["median"] <= figures["q3"] <= figures["max"]


def check_record(record: dict, shapes: list[str]) -> None:
    """Every field that a reader of the record counts on."""
    assert record["format"] == "seam-fast masked lstm 1"
    assert record["command"].startswith("python benchmarks/masked_lstm.py") and record["method"]
    machine = record["machine"]
    assert machine["isa"]["seam"] or machine["backend"]["used"] == "torch"
    for key in ("date", "cpu", "torch", "seam_fast", "commit", "caches", "threads", "backends", "build"):
        assert key in machine, key
    assert set(machine["isa"]) == {"asked", "seam", "available", "torch", "limits"}
    assert set(machine["backend"]) == {"asked", "used"} and set(machine["load"]) == {"before", "after"}
    peak = machine["peak"]
    assert peak["matrix_product_gflops"] > 0 and (peak["gflops"] or peak["reason"])
    assert [row["shape"] for row in record["rows"]] == shapes
    for row in record["rows"]:
        assert set(row["sizes"]) == {"I", "H", "B", "T", "lengths"} and row["aim"] >= row["must"]
        for key in ("seam_ms", "rival_ms", "ratio"):
            check_spread(row[key])
        assert row["rounds"] >= 1 and row["flop"] > 0 and row["ratio_of_minima"] > 0
        for key in ("gflops", "loops", *(["of_peak"] if peak["gflops"] else [])):
            assert set(row[key]) == {"seam", "rival"} and min(row[key].values()) > 0
        assert row["verdict"] in ("aim", "must", "below") and "ratio_at_peak" in row
        assert {"seam", "rival"} <= set(row["agreement"]["errors"])
        for errors in (row["agreement"]["errors"]["seam"], row["agreement"]["allowed"]):
            assert len(errors) == 8  # output, h_n, c_n, the input's gradient and four scores'
        seam = row["agreement"]["errors"]["seam"]
        assert all(error <= row["agreement"]["allowed"][name] * 1.01 for name, error in seam.items())  # rounded both
        memory = row["memory"]
        for key in ("seam", "rival"):
            assert set(memory[key]) == {"peak", "kept", "largest", "of_saved"}
        assert memory["within"] == (memory["seam"]["peak"] <= 1.1 * memory["saved_bytes"])
        for figures in row["others"].values():
            assert set(figures["ms"]) == SPREAD and figures["rounds"] >= 1


def test_side_by_side_writes_a_whole_record_and_a_table(tmp_path, capsys):
    import masked_lstm

    out = tmp_path / "record.json"
    assert masked_lstm.main(["--smoke", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    check_record(record, ["tiny", "tiny_lengths"])
    assert record["machine"]["threads"] == 1
    straight, spread = (set(row["others"]) for row in record["rows"])
    both = {"seam_forward", "rival_forward", "kernel_only", "kernel_only_forward", "parametrized", "plain_pytorch"}
    assert straight == both | {"rival_without_onednn"} and spread == both | {"padded"}
    table = capsys.readouterr().out
    assert "| I 5, H 7, B 3, T 4 |" in table and "| I 5, H 7, B 6, T 4, lengths 1..T |" in table


def test_the_committed_record_is_whole():
    from shapes import SHAPES

    record = json.loads(RECORD.read_text())
    check_record(record, list(SHAPES))
    assert record["machine"]["threads"] == 1 and record["machine"]["backend"]["used"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shapes", "h7"], "shape 'h7' is unknown; there are r8, h128"),
        (["--rounds", "0"], "--rounds and --threads must be 1 or more"),
    ],
)
def test_side_by_side_says_what_is_wrong(arguments, sentence, tmp_path, capsys):
    import masked_lstm

    assert masked_lstm.main([*arguments, "--out", str(tmp_path / "none.json")]) == 1
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_instruction_sets_are_limited_for_both_sides_in_a_fresh_process(monkeypatch):
    import masked_lstm

    seen = {}

    def run(command, env):
        seen.update(env)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(masked_lstm.subprocess, "run", run)
    assert masked_lstm.main(["--isa", "avx2", "--smoke"]) == 7
    assert seen["SEAM_FAST_ISA"] == "avx2" and seen["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_the_suite_runs_with_machine_and_backend_in_its_json(tmp_path):
    pytest.importorskip("pytest_benchmark")
    out = tmp_path / "suite.json"
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/bench_masked_lstm.py", "-k", "tiny"]
    command += ["-p", "no:cacheprovider", f"--benchmark-json={out}", "--benchmark-max-time=0.001"]
    command += ["--benchmark-min-rounds=1", "--benchmark-warmup=off", "--benchmark-calibration-precision=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    benchmarks = json.loads(out.read_text())["benchmarks"]
    assert {entry["group"] for entry in benchmarks} == {"tiny", "tiny_lengths"}
    assert {entry["params"]["way"] for entry in benchmarks} >= {"seam", "rival", "parametrized", "padded"}
    for entry in benchmarks:
        info = entry["extra_info"]
        assert info["machine"]["cpu"] and info["threads"] == 1 and set(info["backends"]) == {"cuda", "cpu", "torch"}


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
    corpus = world.make_corpus(protocol="reference")
    return world.make_base(corpus), corpus


@pytest.mark.parametrize("schedule", ["port", "joint"])
@pytest.mark.parametrize("name", ["Reference", "ReferenceAtItsBest"])
def test_the_rivals_take_the_reference_step(name, schedule):
    import reference_step

    weights, head = world.make_weights(), world.make_head()
    options = {"alpha": 0.7, "lr_mask": 0.1, "lr_head": 0.02, "schedule": schedule}
    rival = getattr(reference_step, name)(weights, head, **options)
    stepper = reference.Stepper(weights, head, **options)
    results, losses = [], []
    for epoch in range(4):
        documents = world.make_documents(10, seed=epoch)
        results += [stepper.step(*batch) for batch in world.cut(documents, 3)]  # the last batch is of one document
        losses.append(rival.run_epoch(*documents, 3))
        wanted = sum(result.cross_entropy for result in results[-4:]) / 4
        assert losses[-1] == pytest.approx(wanted, abs=1e-12)
        assert world.largest_difference(stepper, *rival.whole_scores()) < 1e-12
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
        reference_step.Reference(world.make_weights(), world.make_head(), read="last_word", **reference_step.OPTIONS)


def test_rows_that_never_occur_change_nothing(small):
    from reference_step import Workload

    few = Workload(*small)
    many = Workload(*small, vocabulary=few.weights[world.EMBEDDING].shape[0] + 50)
    assert many.options["alpha"] / many.count == pytest.approx(few.options["alpha"] / few.count, rel=1e-14)
    states = []
    for workload in (few, many):
        trainer = workload.make("best_torch", torch.float64)
        states.append((trainer.run_epoch(*workload.first(24), 5), trainer.whole_scores()[0]))
    assert states[0][0] == states[1][0]
    for key in world.KEYS:
        ours, theirs = states[0][1][key], states[1][1][key]
        torch.testing.assert_close(theirs[: len(ours)], ours, rtol=0, atol=1e-12)


def test_a_wrong_step_voids_the_time(small):
    from reference_step import ReferenceAtItsBest, Workload, first_steps, long_run

    from seam_fast import SeamFastError

    class Loss(ReferenceAtItsBest):
        def run_epoch(self, *arguments):
            return super().run_epoch(*arguments) * (1 + 1e-5)

    class Scores(ReferenceAtItsBest):
        def whole_scores(self):
            scores, head = super().whole_scores()
            scores[self.spoilt] *= 1 + 1e-5
            return scores, head

    class Flip(ReferenceAtItsBest):
        def whole_scores(self):
            scores, head = super().whole_scores()
            scores[world.EMBEDDING][-1, -1] *= -1
            return scores, head

    class Nan(ReferenceAtItsBest):
        def whole_scores(self):
            scores, head = super().whole_scores()
            return scores, (head[0] * float("nan"), head[1])

    class Late(ReferenceAtItsBest):  # right in steps of their own, wrong in one call: what a lazy engine may get wrong
        def run_epoch(self, ids, lengths, labels, batch_size):
            loss = super().run_epoch(ids, lengths, labels, batch_size)
            if len(ids) > batch_size:
                self.put_scores({key: score + 1e-5 for key, score in self.scores.items()}, self.head)
            return loss

    workload = Workload(*small)
    for truth in (first_steps(workload, 5, 6), long_run(workload, 5, 30)):
        for name in ("reference", "reference_at_its_best", "best_torch"):
            errors = truth.check(name)
            assert set(errors) == set(truth.allowed) and errors["flipped"] == 0
        for key in world.KEYS:
            Scores.spoilt = key
            with pytest.raises(SeamFastError, match=r"batch 5: .* its time says nothing"):
                truth.check(Scores)
        for wrong, what in ((Loss, "loss"), (Flip, "flipped"), (Nan, "head weight error"), (Late, "rows met error")):
            with pytest.raises(SeamFastError, match=rf"batch 5: .*{what} of .* its time says nothing"):
                truth.check(wrong)


def check_step_record(record: dict) -> None:
    """Every field that a reader of the record counts on."""
    import step
    from reference_step import RIVALS

    assert record["format"] == "seam-fast step 1" and record["method"] == step.METHOD
    assert record["command"].startswith("python benchmarks/step.py")
    machine = record["machine"]
    for key in ("date", "cpu", "torch", "seam_fast", "commit", "caches", "backends", "build", "isa", "load", "peak"):
        assert key in machine, key
    assert machine["threads"] == 1 and machine["processes"] in ("one", "own")
    workload = record["workload"]
    assert set(workload["sizes"]) == {"V", "E", "H", "C", "T"} and len(workload["base"]) == 64
    assert workload["documents"] > 0 and workload["words"] <= workload["sizes"]["V"]
    names = record["rivals"]
    assert [name for name in RIVALS if name in names] == names and not set(names) & set(record["left_out"])
    for row in record["rows"]:
        assert list(row["ms"]) == names and row["rounds"] >= 2
        assert set(row["steps_a_block"]) == set(row["page_faults"]) == set(names)
        assert max(row["steps_a_block"].values()) <= row["steps_an_epoch"]
        for figures in row["ms"].values():
            check_spread(figures)
        assert list(row["against"]) == [name for name in step.AGAINST if name in names]
        for other, ratios in row["against"].items():
            assert set(ratios) == set(names) - {other}
            for figures in ratios.values():
                check_spread(figures)
        wanted = [key[1:] for key in step.TARGETS if key[0] == row["batch_size"] and key[1] in names]
        assert [(entry["rival"], entry["against"]) for entry in row["verdicts"]] == wanted
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
            assert set(figures["ms"]) == {"small", "large"}


@pytest.mark.slow
def test_steps_side_by_side_write_a_whole_record_and_tables(tmp_path, capsys):
    import step

    out = tmp_path / "record.json"
    assert step.main(["--smoke", "--batch-sizes", "16", "--processes", "one", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    check_step_record(record)
    assert [row["batch_size"] for row in record["rows"]] == [16] and record["workload"]["synthetic"]
    # What plain PyTorch holds: scores, their gradient and two moments, for every score of a row that can occur.
    tensors = {name: figures["tensor_bytes"] for name, figures in record["memory"].items()}
    assert tensors["reference"] == pytest.approx(16 * record["workload"]["weights"], rel=0.01)
    assert tensors["best_torch"] < tensors["reference"]
    assert record["memory"]["reference"]["resident_bytes"]["median"] == pytest.approx(tensors["reference"], rel=0.3)
    assert set(record["rivals"]) >= set(step.AGAINST) and record["machine"]["processes"] == "one"
    table = capsys.readouterr().out
    assert "| 16 | best_torch |" in table and "| V 30,000 |" in table and "| memory a module" in table


@pytest.mark.slow
def test_steps_are_timed_in_processes_of_their_own(tmp_path):
    import step

    out, rivals = tmp_path / "record.json", ["reference_at_its_best", "best_torch"]
    arguments = ["--smoke", "--processes", "own", "--batch-sizes", "64", "--parts", "steps"]
    arguments += ["--rivals", *rivals, "--out", str(out)]
    assert step.main(arguments) == 0
    record = json.loads(out.read_text())
    check_step_record(record)
    assert record["rivals"] == rivals and record["machine"]["processes"] == "own"
    assert record["memory"] is None and record["vocabulary"] is None


@pytest.mark.parametrize("record", sorted((ROOT / "benchmarks" / "records").glob("step*.json")), ids=lambda p: p.stem)
def test_the_committed_step_records_are_whole(record):
    record = json.loads(record.read_text())
    check_step_record(record)
    assert [row["batch_size"] for row in record["rows"]] == [5, 16, 64] and len(record["rivals"]) == 6
    assert not record["workload"]["synthetic"]
    if record["machine"]["processes"] == "one":  # memory and vocabulary are measured once
        assert set(record["memory"]) == {"reference", "best_torch", "native"}
        assert "native" in record["vocabulary"]["rivals"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "0"], "--rounds and --batch-sizes must be 1 or more"),
        (["--batch-sizes", "5", "0"], "--rounds and --batch-sizes must be 1 or more"),
    ],
)
def test_steps_side_by_side_say_what_is_wrong(arguments, sentence, tmp_path, capsys):
    import step

    assert step.main([*arguments, "--smoke", "--out", str(tmp_path / "none.json")]) == 1
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_native_engine_that_is_not_there_is_left_out_with_the_reason(monkeypatch, tmp_path, capsys):
    import reference_step
    import step

    monkeypatch.setattr(reference_step, "why_not_train", lambda dtype: "no compiler")
    assert step.main(["--smoke", "--rivals", "native", "--out", str(tmp_path / "none.json")]) == 1
    said = capsys.readouterr().err
    assert "native is left out: no compiler" in said and "none of these rivals can run here" in said
    kept, left_out = reference_step.usable(["reference", "native", "native_dense"])
    assert kept == ["reference"] and left_out == {"native": "no compiler", "native_dense": "no compiler"}


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
    assert {entry["params"]["name"] for entry in benchmarks} >= {"reference", "reference_at_its_best", "best_torch"}
    for entry in benchmarks:
        info = entry["extra_info"]
        assert info["machine"]["cpu"] and info["threads"] == 1 and info["steps_a_call"] >= 1 and info["tiny"]


# -- the whole job ----------------------------------------------------------------------------------------------------


def check_job_record(record: dict) -> None:
    assert record["format"] == "seam-fast job 1" and record["command"].startswith("python benchmarks/job.py")
    for key in ("date", "cpu", "cores", "torch", "commit", "engine", "catch_up", "isa", "threads", "load"):
        assert key in record["machine"], key
    figures, rows = record["figures"], record["rows"]
    assert figures["seconds"] > 0 and figures["peak_resident"] >= figures["resident_before"] > 1e7
    assert figures["steps"] == sum(row["steps"] for row in rows)
    assert figures["steps_a_second"] == pytest.approx(figures["steps"] / figures["seconds"], rel=0.01)
    for row in rows:
        assert set(row["whole_test"]) == {"precision", "recall", "f1"} and set(row["kept_by_group"]) >= {"lstm"}
        shares = [row["acc_pre"], row["kept"], row["vocabulary_floor"], row["base_f1"], *row["whole_test"].values()]
        assert all(0 <= share <= 1 for share in shares)
        assert 0 <= row["selected_accuracy"] <= row["best_accuracy"] <= 1


def test_the_job_is_recorded(small, tmp_path):
    import job

    arguments = argparse.Namespace(epochs=3, threads=1, seed=0, backend="torch")
    record = json.loads(json.dumps(job.do_job(*small, arguments, "python benchmarks/job.py --epochs 3")))
    check_job_record(record)
    assert [row["class"] for row in record["rows"]] == ["k0", "k1", "k2", "k3"]
    sizes = [min(n, sum(world.TRAIN_SIZES) - n) + n for n in world.TRAIN_SIZES]
    assert [row["steps"] for row in record["rows"]] == [3 * -(-size // 5) for size in sizes]
    assert "reached" not in record["figures"] and record["machine"]["engine"] == "torch"
    lines = job.markdown(record).splitlines()
    assert len(lines) == 2 + 4 + 1 + 2 and lines[6].startswith("| mean |") and "3 epochs in" in lines[-1]


def test_the_job_says_what_is_wrong(tmp_path, capsys):
    import job

    assert job.main(["--epochs", "0", "--out", str(tmp_path / "none.json")]) == 1
    assert "--epochs must be 1 or more" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("record", sorted((ROOT / "benchmarks" / "records").glob("job*.json")), ids=lambda p: p.stem)
def test_the_committed_job_records_are_whole(record):
    record = json.loads(record.read_text())
    check_job_record(record)
    assert len(record["rows"]) == 8 and record["settings"]["epochs"] == 300 and not record["synthetic"]


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

"""`seam-fast bench step`, its rivals and their agreement; nothing here looks at speed."""

import contextlib
import json

import pytest
import torch
from bench_checks import RECORDS, check_spread
from support import agreement, toy_data, toy_weights
from support.scripts import run_suite

from benchmarks.baselines import reference_step
from benchmarks.baselines.reference_step import ReferenceBest, Workload, first_steps, long_run
from benchmarks.cpu import curves, step
from benchmarks.harness import schema
from seam_fast.errors import SeamFastError
from seam_fast.training.reference_step import Stepper


@pytest.mark.parametrize("schedule", ["port", "joint"])
@pytest.mark.parametrize("name", ["Reference", "ReferenceBest"])
def test_the_rivals_take_the_reference_step(name, schedule):
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
        assert agreement.largest_difference(stepper, *rival.full_scores()) < 1e-12
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
    with pytest.raises(ValueError, match="reads documents at the end, not 'last_word'"):
        reference_step.Reference(
            toy_weights.make_weights(), toy_weights.make_head(), readout="last_word", **reference_step.OPTIONS
        )


def test_rows_that_never_occur_change_nothing(small_reference):
    few = Workload(*small_reference)
    many = Workload(*small_reference, vocabulary=few.weights[toy_weights.EMBEDDING].shape[0] + 50)
    assert many.options["alpha"] / many.count == pytest.approx(few.options["alpha"] / few.count, rel=1e-14)
    states = []
    for workload in (few, many):
        trainer = workload.make("best_torch", torch.float64)
        states.append((trainer.run_epoch(*workload.first(24), 5), trainer.full_scores()[0]))
    assert states[0][0] == states[1][0]
    for key in toy_weights.KEYS:
        ours, theirs = states[0][1][key], states[1][1][key]
        torch.testing.assert_close(theirs[: len(ours)], ours, rtol=0, atol=1e-12)


def test_a_wrong_step_voids_the_time(small_reference):
    class Loss(ReferenceBest):
        def run_epoch(self, *arguments):
            return super().run_epoch(*arguments) * (1 + 1e-5)

    class Scores(ReferenceBest):
        def full_scores(self):
            scores, head = super().full_scores()
            scores[self.spoilt] *= 1 + 1e-5
            return scores, head

    class Flip(ReferenceBest):
        def full_scores(self):
            scores, head = super().full_scores()
            scores[toy_weights.EMBEDDING][-1, -1] *= -1
            return scores, head

    class Nan(ReferenceBest):
        def full_scores(self):
            scores, head = super().full_scores()
            return scores, (head[0] * float("nan"), head[1])

    class Late(ReferenceBest):  # right in steps of their own, wrong in one call: what a lazy engine may get wrong
        def run_epoch(self, ids, lengths, target_probability, batch_size):
            loss = super().run_epoch(ids, lengths, target_probability, batch_size)
            if len(ids) > batch_size:
                self.load_scores({key: score + 1e-5 for key, score in self.scores.items()}, self.head)
            return loss

    workload = Workload(*small_reference)
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


def test_steps_side_by_side_write_a_whole_record_and_tables(run_bench):
    options = ["--batch-sizes", "16", "--processes", "one", "--parts", "steps", "vocabulary"]
    code, record, said = run_bench("step", "--smoke", *options)
    assert code == 0
    check_step_record(record)
    assert [row["batch_size"] for row in record["rows"]] == [16] and record["workload"]["synthetic"]
    assert set(record["rivals"]) >= set(step.AGAINST) and record["machine"]["processes"] == "one"
    assert list(record["rows"][0]["against"]) == list(step.AGAINST)
    assert "| batch | reference, ms | reference at its best, ms |" in said.out
    assert "30,000 words" in said.out


@pytest.mark.slow
def test_memory_of_a_module_is_what_a_fresh_process_grows_by(run_bench):
    rivals = ["reference", "best_torch"]
    code, record, said = run_bench("step", "--smoke", "--parts", "memory", "--rivals", *rivals)
    assert code == 0
    check_step_record(record)
    # What plain PyTorch holds: scores, their gradient and two moments, for every score of a row that can occur.
    tensors = {name: figures["tensor_bytes"] for name, figures in record["memory"].items()}
    assert tensors["reference"] == pytest.approx(16 * record["workload"]["weights"], rel=0.01)
    assert tensors["best_torch"] < tensors["reference"]
    assert record["memory"]["reference"]["resident_bytes"]["median"] == pytest.approx(tensors["reference"], rel=0.3)
    assert "| memory a module" in said.out


@pytest.mark.slow
def test_steps_are_timed_in_processes_of_their_own(run_bench):
    """A rival is enough: that several take turns is tested in test_bench_harness.py."""
    arguments = ["step", "--smoke", "--processes", "own", "--batch-sizes", "64", "--parts", "steps"]
    code, record, _ = run_bench(*arguments, "--rivals", "reference_best")
    assert code == 0
    check_step_record(record)
    assert record["rivals"] == ["reference_best"] and record["machine"]["processes"] == "own"
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


def test_a_native_engine_that_is_not_there_is_left_out_with_the_reason(monkeypatch, run_bench):
    monkeypatch.setattr(reference_step, "untrainable_reason", lambda dtype: "no compiler")
    code, record, said = run_bench("step", "--smoke", "--rivals", "native")
    assert code == 1 and record is None
    assert "native is left out: no compiler" in said.err and "none of these rivals can run here" in said.err
    kept, left_out = reference_step.available(["reference", "native", "native_dense"])
    assert kept == ["reference"] and left_out == {"native": "no compiler", "native_dense": "no compiler"}


@pytest.mark.usefixtures("in_this_process")
def test_curves_write_a_whole_record(run_bench):
    rivals = ["reference_best", "best_torch", "native"]  # of processes, of threads, and compiled
    code, record, said = run_bench("step", "--curves", "--smoke", "--axes", "hidden", "modules", "--rivals", *rivals)
    assert code == 0 and record["synthetic"] and list(record["curves"]) == ["hidden", "modules"]
    for axis, curve in record["curves"].items():
        assert [point["x"] for point in curve["points"]] == list(curves.SMOKE[axis])
        for point in curve["points"]:
            assert list(point["ms"]) == record["rivals"]
            assert (point["agreement"] is None) == (axis == "modules" and point["x"] > 1)
            for figures in (*point["ms"].values(), *point["against"].values()):
                check_spread(figures)
    assert "| hidden units |" in said.out and "| modules side by side |" in said.out


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", ["reference_best", "best_torch"])
def test_modules_side_by_side_count_the_steps_of_all(small_reference, name, monkeypatch):
    monkeypatch.setattr(curves, "usable_cores", lambda: 2)
    workload = Workload(*small_reference)
    with contextlib.ExitStack() as stack:
        run = curves.side_by_side(3, (workload, name, 5, 5, workload.make(name).full_scores(), 2), stack)
        for number in range(2):  # two at once, the third after one of them
            seconds, _, steps = run(number)
            assert steps == 3 * 2 and seconds > 0


def test_rows_that_change_others_void_the_time(small_reference, monkeypatch):
    few, many = Workload(*small_reference), Workload(*small_reference, vocabulary=small_reference[0].vocab_size + 50)
    step.check_same_bits(few, many, "best_torch", 5)
    many.weights["lstm.weight_hh_l0"] = many.weights["lstm.weight_hh_l0"] * 1.5
    with pytest.raises(SeamFastError, match="rows that never occur change the scores of others"):
        step.check_same_bits(few, many, "best_torch", 5)


def test_verdicts():
    assert [step.verdict(value, 90, 130)["reached"] for value in (89, 90, 130)] == ["below", "must", "aim"]
    assert [step.verdict(value, 20, 8)["reached"] for value in (21, 20, 8)] == ["below", "must", "aim"]


@pytest.mark.slow
def test_the_suite_of_steps_runs(tmp_path):
    suite = "benchmarks/pytest/bench_step.py", "-k", "b64"
    benchmarks = run_suite(tmp_path / "suite.json", *suite, SEAM_FAST_BENCH_BASE="tiny")
    assert {entry["params"]["name"] for entry in benchmarks} >= {"reference", "reference_best", "best_torch"}
    for entry in benchmarks:
        info = entry["extra_info"]
        assert info["machine"]["cpu"] and info["threads"] == 1 and info["steps_a_call"] >= 1 and info["tiny"]

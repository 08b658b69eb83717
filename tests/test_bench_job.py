"""`seam-fast bench job`: whole runs, their figures and the loop of the reference; nothing here looks at speed."""

import argparse
import copy
import json
import types

import pytest
import torch
from bench_checks import RECORDS, check_spread
from support import toy_data

import seam_fast as sf
from benchmarks.baselines.reference_loop import ReferenceLoop
from benchmarks.cpu import job, job_f1, job_one
from benchmarks.harness import schema


def check_job_record(record: dict) -> None:
    """What the schema does not tell: that the figures of a record fit together."""
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


@pytest.mark.usefixtures("in_this_process")
def test_jobs_are_recorded(run_bench):
    code, record, said = run_bench("job", "--smoke", "--rivals", "reference_best", "best_torch")
    assert code == 0 and record["synthetic"]
    check_job_record(record)
    assert list(record["one"]["rivals"]) == record["rivals"] == ["reference_best", "best_torch"]
    assert list(record["one"]["against"]) == ["reference_best", "best_torch"] and len(record["to_f1"]["rows"]) == 2
    for part in ("one", "to_f1"):
        assert list(record["agreement"][part]["errors"]) == record["rivals"]
    assert "| class interest, 4 epochs, one core |" in said.out and "| class crude: seed |" in said.out
    assert "8 classes, 2 epochs, every epoch evaluated" in said.out


def test_a_run_that_was_cut_short_is_told_to_its_end():
    one = {"seconds": 10.0, "ends": [3.0, 5.0, 7.0]}  # two seconds before the first epoch and three after the last
    assert (
        job_one.seconds_per_epoch(one) == 2
        and job_one.total_seconds(one, 3) == 10
        and job_one.total_seconds(one, 300) == 10 + 297 * 2
    )
    assert job_one.seconds_per_epoch({"seconds": 4.0, "ends": [3.0]}) == 3
    counts = [job_one.epochs_to_run(name, 10, quick) for name in ("reference", "native") for quick in (False, True)]
    assert counts == [6, 2, 10, 2] and job_one.epochs_to_run("native", 1, False) == 1


def test_a_race_ends_where_all_have_been():
    def racer(*f1):
        return types.SimpleNamespace(f1=list(f1), seconds=[1.0, 2.0, 3.0])

    found = job_f1.race(0, {"a": racer(0.2, 0.5, 0.9), "b": racer(0.6, 0.1, 0.3)})
    assert found["f1"] == 0.6 and [found["rivals"][name]["epoch"] for name in "ab"] == [2, 0]
    assert job_f1.race(0, {"a": racer(0, 0, 0), "b": racer(0.6, 0.1, 0.3)})["f1"] == 0


def test_eight_classes_are_measured_as_they_are_trained(small_reference):
    part = job.measure_eight(*small_reference, argparse.Namespace(epochs=3, threads=1, seed=0, backend="torch"))
    assert [row["class"] for row in part["rows"]] == ["k0", "k1", "k2", "k3"] and part["engine"] == "torch"
    sizes = [min(n, sum(toy_data.TRAIN_SIZES) - n) + n for n in toy_data.TRAIN_SIZES]
    assert [row["steps"] for row in part["rows"]] == [3 * -(-size // 5) for size in sizes]
    assert "reached" not in part["figures"]


@pytest.mark.parametrize("way", ["reference", "reference_best"])
def test_the_loop_of_the_reference_gives_what_reengineer_gives(small_reference, way):
    base, corpus = copy.deepcopy(small_reference[0]).double(), small_reference[1]
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

"""`seam-fast bench op`: what is compared, left out, timed and recorded; nothing here looks at speed."""

import functools
import json

import pytest
import torch
from bench_checks import RECORDS, check_spread
from support.scripts import run_suite

from benchmarks.baselines import lstm as rivals
from benchmarks.cpu import vmap_scores
from benchmarks.harness import schema
from benchmarks.harness.shapes import SHAPES, SMOKE
from seam_fast.errors import SeamFastError


def check_op_record(record: dict, shapes: list[str]) -> None:
    """What the schema does not tell: that the figures of a record fit together."""
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


def test_ops_side_by_side_write_a_whole_record_and_tables(run_bench, monkeypatch):
    # What is compiled is traced whole and run as it is: Inductor takes half a minute (test_compile.py has it once).
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    code, record, said = run_bench("op", "--smoke")
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


def test_a_rival_with_wrong_results_is_left_out_and_the_others_are_timed(run_bench, monkeypatch):
    def wrong(problem):
        return [result * 2 for result in rivals.rival(problem)]

    others = rivals.others
    monkeypatch.setattr(rivals, "others", lambda problem: others(problem) | {"parametrized": wrong})
    monkeypatch.setattr(rivals, "compiles_quickly", lambda shape: False)
    code, record, said = run_bench("op", "--smoke", "--shapes", "tiny")
    (row,) = record["rows"]
    assert code == 0 and "tiny: parametrized is left out: tiny: output of parametrized is" in said.err
    assert list(row["left_out"]) == ["parametrized"] and "parametrized" not in row["others"]
    assert "kernel_only" in row["others"] and "parametrized" not in row["agreement"]["errors"]


@pytest.mark.parametrize("record", sorted(RECORDS.glob("masked_lstm*.json")), ids=lambda p: p.stem)
def test_the_committed_op_records_are_whole(record):
    record = json.loads(record.read_text())
    check_op_record(record, list(SHAPES))
    assert record["machine"]["threads"] == 1 and record["machine"]["backend"]["used"] == "cpu"


def test_the_suite_runs_with_machine_and_backend_in_its_json(tmp_path):
    suites = [f"benchmarks/pytest/bench_{name}.py" for name in ("masked_lstm", "layers")]
    benchmarks = run_suite(tmp_path / "suite.json", *suites, "-k", "tiny and not compiled")
    groups = {"tiny", "tiny_lengths", "embedding_tiny", "linear_tiny", "adam_tiny"}
    assert {entry["group"] for entry in benchmarks} == groups
    assert {entry["params"]["way"] for entry in benchmarks} >= {"seam", "rival", "parametrized", "padded"}
    for entry in benchmarks:
        info = entry["extra_info"]
        assert info["machine"]["cpu"] and info["threads"] == 1 and set(info["backends"]) == {"cuda", "cpu", "torch"}


def test_a_wrong_result_voids_the_time():
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
    assert rivals.Truth(SHAPES["r8"]).clamped > 0


def test_vmap_is_compared_before_it_is_timed(monkeypatch):
    monkeypatch.setattr(vmap_scores.timing, "time_in_turn", lambda ways, *_: pytest.fail(f"timed: {sorted(ways)}"))
    options = vmap_scores.argparse.Namespace(quick=True, alone=False)
    for shape in SMOKE.values():
        with pytest.raises(pytest.fail.Exception, match=r"timed: \['func_loop', 'loop', 'vmap'\]"):
            vmap_scores.measure_case(shape, 2, 1, "torch", options)
    wrong = {"vmap": [torch.zeros(2, 28, 5), torch.zeros(2, 28, 7), torch.zeros(2, 28), torch.zeros(2, 28)]}
    shape = SMOKE["tiny"]
    with pytest.raises(SeamFastError, match="tiny: vmap is off by 1, where"):
        vmap_scores.compare(wrong, shape, *vmap_scores.tensors(shape, 2))

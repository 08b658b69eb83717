"""The benchmark scripts run, measure what they say and write whole records; nothing here looks at speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "records" / "masked_lstm.json"
SPREAD = {"median", "min", "max", "q1", "q3"}


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


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
            figures = row[key]
            assert set(figures) == SPREAD
            assert 0 < figures["min"] <= figures["q1"] <= figures["median"] <= figures["q3"] <= figures["max"]
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

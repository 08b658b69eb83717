"""What "auto" takes for a job: by times that the committed records hold, and as `info` says it."""

import json
from pathlib import Path

import pytest
import torch

from seam_fast import LSTMClassifier, Settings
from seam_fast.cli import main as cli
from seam_fast.search import auto_engine
from seam_fast.search.auto_engine import Work, cpu_seconds, gpu_seconds, steps_of
from seam_fast.search.sampling import Sampler
from seam_fast.training.cuda_trainer import CudaTrainer

RECORDS = Path(__file__).parent.parent / "benchmarks" / "records"
SMALL, LARGE = Work((20,), 160, 30_000), Work((504,) * 8, 128 * 64, 30_000)


def rows(name):
    return json.loads((RECORDS / f"{name}.json").read_text())["rows"]


def test_the_times_are_those_of_the_records():
    (native,) = (row["ms"]["native"]["median"] for row in rows("step") if row["batch_size"] == 5)
    assert pytest.approx(native / 1000, rel=0.01) == auto_engine.CPU_PRODUCT * 5 * 32 * 30_000
    found = {row["key"]: row for row in rows("cuda_engine")}
    assert auto_engine.GPU_LAUNCHED[0] == pytest.approx(found["step"]["us"]["engine"]["median"] / 1e6, rel=0.02)
    assert auto_engine.GPU_LAUNCHED[1] == pytest.approx(found["scaling"]["us"]["16"]["median"] / 16e6, rel=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets_per_epoch": 6, "negatives_per_target": 2.0, "batch_size": 8},
        {"targets_per_epoch": 0, "negatives_per_target": 0.7, "batch_size": 5, "shots": 4, "steps": 33},
        {"sampling": "balanced", "epochs": 7, "batch_size": 4},
        {"sampling": "all", "epochs": 2, "batch_size": 3, "shots": 3},
        {"sampling": "all", "epochs": 0},
    ],
)
def test_steps_are_those_that_modules_take(toy, options):
    settings = Settings(**({} if "steps" in options else {"epochs": 3}) | options)
    fit, _ = toy.validation_indices()
    for target in ((0,), (1, 2)):
        sampler = Sampler(toy, fit, target, settings, 0)
        steps = sampler.epochs * -(-sampler.size // settings.batch_size)
        wanted = torch.isin(toy.train.labels[fit], torch.tensor(target)).sum()
        assert steps_of(settings, int(wanted), len(fit) - int(wanted)) == steps


def test_small_jobs_stay_on_the_cpu(monkeypatch):
    monkeypatch.setattr(auto_engine, "usable_cores", lambda: 2)
    for one_launch in (False, True):
        assert auto_engine.quicker(SMALL, one_launch)[0] == "cpu"
        assert auto_engine.quicker(LARGE, one_launch)[0] == "cuda"
    assert cpu_seconds(LARGE) == pytest.approx(4 * cpu_seconds(Work((504,), 128 * 64, 30_000)))
    assert cpu_seconds(LARGE, workers=1) == pytest.approx(2 * cpu_seconds(LARGE))
    assert gpu_seconds(SMALL, True, begun=True) < gpu_seconds(SMALL, True, begun=False) - 1
    assert gpu_seconds(LARGE, False, gpus=2) < gpu_seconds(LARGE, False)
    assert auto_engine.quicker(LARGE, False)[1] == "about 5.9 s on the GPU, 37 s on the CPU"


def test_a_job_goes_where_it_is_sooner_done(toy, monkeypatch):
    """Unless the caller, or the environment, has named an engine, or there is one only."""
    monkeypatch.setattr(auto_engine, "supported_gpus", lambda: [0])
    monkeypatch.setattr(auto_engine, "untrainable_reason", lambda dtype: "")
    monkeypatch.setattr(CudaTrainer, "unsupported", lambda weights, batch_size: "")
    small, large = [Settings(steps=3)], [Settings(steps=100_000)] * 2

    base = LSTMClassifier(toy.vocab_size, 100, 50, 4, readout="last_word")

    def chosen(engine, backend, settings):
        return auto_engine.quicker_engine(engine, backend, base, toy, [(0,), (1,)], settings, None)

    assert chosen("cuda", "auto", small) == "cpu" and chosen("cuda", "auto", large) == "cuda"
    assert chosen("cuda", "cuda", small) == "cuda" and chosen("torch", "auto", small) == "torch"
    assert chosen("cuda", "auto", []) == "cuda"
    monkeypatch.setenv("SEAM_FAST_BACKEND", "cuda")
    assert chosen("cuda", "auto", small) == "cuda"
    monkeypatch.delenv("SEAM_FAST_BACKEND")
    monkeypatch.setattr(auto_engine, "untrainable_reason", lambda dtype: "it rains")
    assert chosen("cuda", "auto", small) == "cuda"
    work, one_launch = auto_engine.work_of(base.weights(), toy, [(0,), (1,)], large)
    assert not one_launch and len(work.steps) == 4 and work.weights == 30_000
    assert auto_engine.work_of(base.weights(), toy, [(0,), (1,)], [Settings("reference")])[1]


def test_info_says_what_auto_takes_and_why(monkeypatch, capsys):
    monkeypatch.setattr(auto_engine, "usable_cores", lambda: 2)
    monkeypatch.setattr(auto_engine, "untrainable_reason", lambda dtype, name="cpu": "")
    monkeypatch.setattr(auto_engine, "has_begun", lambda: False)
    lines = auto_engine.what_auto_takes("cuda", 1)
    assert lines[1:] == [
        "one module of R8, 100 steps: cpu, about 3.3 s on the GPU, 1.9 s on the CPU",
        "one module of R8: cuda, about 4.3 s on the GPU, 9.3 s on the CPU",
        "eight modules of R8: cuda, about 5.9 s on the GPU, 37 s on the CPU",
        "the same by protocol reference: cuda, about 17 s on the GPU, 119 s on the CPU",
    ]
    monkeypatch.setattr(
        auto_engine, "untrainable_reason", lambda dtype, name="cpu": "it rains" if name == "cuda" else ""
    )
    assert auto_engine.what_auto_takes("cpu", 0) == ["auto takes cpu: cuda cannot be used"]
    monkeypatch.setenv("SEAM_FAST_BACKEND", "cpu")
    assert auto_engine.what_auto_takes("cpu", 0) == []
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["auto"] == []

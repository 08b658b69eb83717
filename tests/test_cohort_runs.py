"""Whole runs of modules that are trained in step, on invented GPUs: who is beside whom must not show."""

import copy
import dataclasses
import math

import pytest
import torch
from support import toy_weights
from support.agreement import assert_same
from support.fake_gpus import Stream

from seam_fast import Settings, TrainingError, reengineer, reengineer_many
from seam_fast.common import rng
from seam_fast.search import context, module_run, scheduler, workers
from seam_fast.training import devices, gpu_memory, registry
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer

QUICK = {"epochs": 3, "batch_size": 8, "lr_mask": 0.1, "distill_weight": 0.0}


@pytest.fixture
def stepped(gpus, monkeypatch):
    """GPUs whose modules are trained by the real trainer of ordinary kernels, on the CPU."""

    class Stepped(CudaGraphTrainer):
        def __init__(self, weights, head, fed_ids, config, *, backend):
            assert backend == "cuda"
            super().__init__(dict(weights), head, fed_ids, config, backend="torch")
            gpus.seen.append((gpus.here.device, gpus.here.stream.cuda_stream, config))

    monkeypatch.setattr(registry, "TRAINERS", [registry.TRAINERS[0], Stepped, *registry.TRAINERS[2:]])
    monkeypatch.setattr(Stream, "wait_stream", lambda self, other: None, raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: gpus.here.stream)
    gpus.unavailable_reason = "it has too many units"
    return gpus


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | {"distill_weight": 1.0} | options)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("joint", {}),
        ("port", {}),
        ("joint", {"evaluate_every": 2}),
        ("port", {"evaluate_every": 0}),
        ("joint", {"selection": "last"}),
        ("joint", {"start": "magnitude"}),
    ],
)
def test_whole_runs_do_not_depend_on_who_is_beside(toy, toy_base, stepped, schedule, options):
    options = options | {"schedule": schedule, "epochs": 3}
    targets = [0, 1, 2, 3, (0, 1), (1, 2)]
    together = run(toy_base, toy, targets, **options)
    for threads in (1, 5):
        for one, other in zip(together, run(toy_base, toy, targets, threads=threads, **options), strict=True):
            assert_same(one, other)
    assert all(len(module.history) == 3 for module in together)


@pytest.mark.parametrize("start", ["full", "magnitude", "saliency"])
def test_a_whole_run_is_that_of_plain_pytorch(toy, toy_base, stepped, start):
    base, options = copy.deepcopy(toy_base).double(), {"epochs": 5, "start": start}
    ours = run(base, toy, [0, 1, 2, 3], **options)
    for one, other in zip(ours, run(base, toy, [0, 1, 2, 3], **options, backend="torch"), strict=True):
        for a, b in zip(one.history, other.history, strict=True):
            assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], abs=1e-9)
            assert (a["kept"], a["f1"], a["best_so_far"]) == (b["kept"], b["f1"], b["best_so_far"])
        assert one.metrics == other.metrics
        for key in toy_weights.KEYS:
            assert torch.equal(one.scores[key] > 0, other.scores[key] > 0)


def test_runs_of_other_lengths_end_by_themselves(toy, toy_base, stepped):
    ends = ((2, -1), (6, -1), (9, 1))
    settings = [Settings(**QUICK | {"epochs": epochs, "early_stop": stop}) for epochs, stop in ends]
    settings += [dataclasses.replace(settings[1], lr_mask=0.0, lr_head=0.0, early_stop=2, min_epoch_fraction=0.0)]
    rows = reengineer_many(toy_base, toy, [0, 1], settings)
    for row, one in zip(rows, settings, strict=True):
        for module, alone in zip(row, reengineer(toy_base, toy, [0, 1], settings=one, threads=1), strict=True):
            assert_same(module, alone)
            assert len(module.history) == len(alone.history)
    assert [len(row[0].history) for row in rows][:2] == [2, 6] and len(rows[3][0].history) == 3


def test_no_epochs_at_all(toy, toy_base, stepped):
    for module in run(toy_base, toy, [0, 1], epochs=0):
        assert module.kept == 1 and module.history == [] and module.metrics["test"]["documents"] == len(toy.test)


def test_a_target_that_fails_fails_alone(toy, toy_base, stepped, monkeypatch):
    wanted = run(toy_base, toy, [0, 1, 2, 3])
    made = context.SearchContext.make_trainer

    def spoiled(search, head, fed_ids, device):
        trainer = made(search, head, fed_ids, device)
        if torch.equal(head[0], rng.head(0, (1,), 4, True)[0]):
            trainer.weights = trainer.weights | {toy_weights.LINEAR[0]: torch.full((4, 5), math.nan)}
        return trainer

    monkeypatch.setattr(context.SearchContext, "make_trainer", spoiled)
    with pytest.raises(TrainingError, match=r"target k\d, epoch 0: the loss is nan in step 1") as caught:
        run(toy_base, toy, [0, 1, 2, 3])
    failed = [k for k, module in enumerate(caught.value.modules) if module is None]
    assert failed == [1]
    for k, module in enumerate(caught.value.modules):
        if module is not None:
            assert_same(module, wanted[k])


def test_without_memory_for_all_smaller_groups_are_tried(toy, toy_base, stepped, monkeypatch):
    wanted, plain, sizes = run(toy_base, toy, [0] * 6), scheduler.run_in_step, []

    def tight(jobs, *rest):
        sizes.append(len(jobs))
        if len(jobs) > 1:
            jobs[0].begin(rest[-1])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(jobs, *rest)

    monkeypatch.setattr(scheduler, "run_in_step", tight)
    for one, other in zip(wanted, run(toy_base, toy, [0] * 6), strict=True):
        assert_same(one, other)
    assert max(sizes) == 3 and sizes.count(1) == 6


def test_without_memory_for_one_it_says_so(toy, toy_base, stepped, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(scheduler, "run_in_step", full)
    with pytest.raises(TrainingError, match="target k0: no memory was left on cuda:"):
        run(toy_base, toy, [0, 1])


def test_ctrl_c_ends_a_cohort_between_epochs(toy, toy_base, stepped):
    seen = []

    def on_epoch(job, figures):
        seen.append(job)
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(scheduler.Interrupted) as caught:
        run(toy_base, toy, [0, 1, 2], epochs=5000, on_epoch=on_epoch)
    modules = caught.value.modules
    assert {job.target[0] for job in seen} <= {k for k, module in enumerate(modules) if module is not None}
    assert all(0 < len(module.history) < 5000 for module in modules if module is not None)


def test_a_run_says_what_it_cannot_do(toy, toy_base):
    run = module_run.ModuleRun(context.SearchContext(toy_base, toy, Settings(**QUICK), "torch"), (0,), 0, 1)
    with pytest.raises(RuntimeError, match="target k0: a run that has not begun cannot be finished"):
        run.finish()
    with pytest.raises(RuntimeError, match="target k0: the run has no module, because it is not finished"):
        run.module()
    run.begin(devices.CPU)
    with pytest.raises(TypeError, match="target k0: a TorchTrainer cannot queue its epochs"):
        run.launched_lane()
    with pytest.raises(TypeError, match="target k0: the steps of a TorchTrainer cannot be recorded"):
        run.lane()


def test_units(toy, toy_base, stepped):
    search = context.SearchContext(toy_base, toy, Settings(**QUICK), "cuda")
    seam = context.SearchContext(toy_base, toy, Settings(**QUICK | {"schedule": "seam"}), "cuda")

    def units(search, count, threads=None):
        jobs = [module_run.ModuleRun(search, (0,), seed, 1) for seed in range(count)]
        return [len(unit) for unit in scheduler.units_of(jobs, [devices.CPU] * min(8, threads or count), threads)]

    assert units(search, 1) == [1] and units(search, 2) == [1, 1] and units(search, 8) == [4, 4]
    assert units(search, 40) == [8] * 5 and units(search, 17) == [5, 6, 6]
    assert units(search, 8, threads=1) == [1] * 8
    assert units(seam, 5) == [1] * 5, "epochs of the head alone are not made for it"
    other = dataclasses.replace(search.settings, batch_size=3)
    jobs = [
        module_run.ModuleRun(search, (0,), 0, 1),
        module_run.ModuleRun(context.SearchContext(toy_base, toy, other, "cuda"), (0,), 0, 1),
    ]
    assert [len(unit) for unit in scheduler.units_of(jobs * 2, [devices.CPU] * 4, None)] == [1] * 4


def test_no_more_in_step_than_find_room(toy, toy_base, stepped):
    search = context.SearchContext(toy_base, toy, Settings(**QUICK), "cuda")
    jobs = [module_run.ModuleRun(search, (0,), seed, 1) for seed in range(80)]
    need = gpu_memory.module_bytes(toy_base.weights(), len(jobs[0].sampler.fed_ids()), 8, toy.train.ids.shape[1])
    for room, (most, wanted) in {80: (8, 8), 35: (8, 4), 12: (8, 1), 3: (3, 1)}.items():
        stepped.free = [int(room * need / gpu_memory.SHARE_OF_FREE_MEMORY) + 9, 0]
        found = workers.workers_for(jobs, None)
        units = scheduler.units_of(jobs, found, None)
        assert len(found) == most and max(map(len, units)) == wanted
    stepped.free = [need // 2, 0]
    assert max(map(len, scheduler.units_of(jobs, workers.workers_for(jobs, None), None))) == 1


def test_no_more_at_once_than_threads(toy, toy_base, stepped, monkeypatch):
    plain, sizes, at_once = scheduler.run_in_step, [], []

    def counted(jobs, *rest):
        sizes.append(len(jobs))
        at_once.append(sum(sizes))
        try:
            return plain(jobs, *rest)
        finally:
            sizes.remove(len(jobs))

    monkeypatch.setattr(scheduler, "run_in_step", counted)
    for threads in (1, 2, 3, 5, 7):
        at_once.clear()
        run(toy_base, toy, [0] * 9, threads=threads, epochs=1)
        assert max(at_once) <= threads


def test_every_worker_has_branches_of_its_own(stepped):
    found = devices.gpu_workers({0: 8, 1: 8}, branches=8)
    for index in (0, 1):
        streams = [s for worker in found if worker.device.index == index for s in (worker.stream, *worker.branches)]
        assert len({stream.cuda_stream for stream in streams}) == len(streams) == 72

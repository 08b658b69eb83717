"""Modules whose steps go into the same launches of a GPU: each is what it is by itself. On the CPU, as in
test_cuda_trainer.py.
"""

import threading

import pytest
import torch
from support import toy_weights, trainer_kinds
from support.agreement import assert_same
from support.trainer_kinds import assert_same_bits

from seam_fast import Settings, TrainingError, reengineer_many
from seam_fast.search import context, module_run, scheduler
from seam_fast.search.sampling import Sampler
from seam_fast.training.devices import WorkerDevice

QUICK = {"epochs": 4, "batch_size": 8, "lr_mask": 0.05}
ALPHAS = (0.2, 0.5, 1.0, 2.0, 4.0)

pytestmark = pytest.mark.usefixtures("on_host")


@pytest.fixture
def cohorts(monkeypatch):
    """How many modules each cohort had."""
    sizes, plain = [], scheduler.LaunchedCohort

    def counted(lanes):
        sizes.append(len(lanes))
        return plain(lanes)

    monkeypatch.setattr(scheduler, "LaunchedCohort", counted)
    return sizes


def alone(monkeypatch):
    monkeypatch.setattr(module_run.ModuleRun, "launched", property(lambda job: False))


def assert_same_modules(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)
        assert one.card["steps"] == other.card["steps"]


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": "reference"},
        {"distill_weight": 0.0, "early_stop": 1, "word_dropout": 0.2, "selection": "reference"},
        {"protocol": "reference", "start": "saliency"},
    ],
    ids=["reference", "seam", "prior"],
)
def test_together_each_is_what_it_is_alone(toy, toy_base, monkeypatch, cohorts, options):
    settings = [Settings(**{"protocol": "seam", "alpha": alpha} | QUICK | options) for alpha in ALPHAS]
    (together,) = zip(*reengineer_many(toy_base, toy, [0], settings, backend="cuda"), strict=True)
    assert sorted(cohorts) == [2, 2]  # and one by itself
    alone(monkeypatch)
    (by_themselves,) = zip(*reengineer_many(toy_base, toy, [0], settings, backend="cuda"), strict=True)
    assert_same_modules(together, by_themselves)
    assert sorted(cohorts) == [2, 2]  # and one by itself


def test_one_that_fails_lets_the_others_end(toy, toy_base, monkeypatch, cohorts):
    settings = [Settings("reference", alpha=alpha, **QUICK) for alpha in ALPHAS[:3]]
    settings.append(Settings("reference", target_weight=3e38, **QUICK))
    with pytest.raises(TrainingError, match="epoch 0: the loss is") as caught:
        reengineer_many(toy_base, toy, [0], settings, backend="cuda")
    assert cohorts == [2, 2]
    alone(monkeypatch)
    wanted = [row[0] for row in reengineer_many(toy_base, toy, [0], settings[:3], backend="cuda")]
    assert_same_modules([module for module in caught.value.modules if module], wanted)


def test_modules_of_other_lengths_and_few_threads_go_alone(toy, toy_base, cohorts):
    targets = [0, 1, 2]  # of 8 documents a step, none has as many steps as another
    reengineer_many(toy_base, toy, targets, [Settings("reference", **QUICK)], backend="cuda")
    reengineer_many(
        toy_base, toy, [0], [Settings("reference", alpha=alpha, **QUICK) for alpha in ALPHAS], backend="cuda", threads=2
    )
    assert cohorts == []


# -- epochs that are queued -------------------------------------------------------------------------------------------


def teacher(ids, lengths):
    """Never asked: the engine asks the base itself."""
    raise AssertionError


def trainers_and_sampler(toy, kind, count, **options):
    settings = Settings("reference", batch_size=4, **options)
    sampler = Sampler(toy, torch.arange(len(toy.train.ids)), (0,), settings, 0, teacher)
    weights = toy_weights.make_weights(torch.float32, sizes=(toy.vocab_size, 6, 5, 4))
    head = toy_weights.make_head(torch.float32, classes=4)
    words = torch.from_numpy(sampler.fed_ids())
    made = [
        trainer_kinds.make_trainer(kind, weights, head, words, **trainer_kinds.OPTIONS | {"alpha": 0.3 * (i + 1)})
        for i in range(count)
    ]
    return made, sampler


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("options", [{}, {"distill_weight": 0.7, "word_dropout": 0.2}], ids=str)
def test_queued_epochs_are_those_that_are_run(toy, kind, host_module, threads, options):
    ours, sampler = trainers_and_sampler(toy, f"{kind}-quadrature", 3, **options)
    theirs, _ = trainers_and_sampler(toy, f"{kind}-quadrature", 3, **options)
    stop = threading.Event()
    evaluated_on = toy.test.ids, toy.test.lengths, toy.test.labels == 0
    for epoch in range(3):
        trainers, epochs = zip(*(one.queued(sampler, epoch, 4, evaluated_on=evaluated_on) for one in ours), strict=True)
        found = host_module.QueuedEpochs(list(trainers), list(epochs), threads=threads).take()
        for one, row, other in zip(ours, found, theirs, strict=True):
            loss, evaluation = one.result_of(row)
            loss_too, evaluation_too = other.take_epoch(sampler, epoch, 4, stop=stop, evaluated_on=evaluated_on)
            assert loss == loss_too and evaluation.figures == evaluation_too.figures
            assert evaluation.kept_counts == evaluation_too.kept_counts
            assert torch.equal(evaluation.outputs, evaluation_too.outputs)
            parts, parts_too = (trainer_kinds.parts_of(each.snapshot()) for each in (evaluation, evaluation_too))
            assert all(torch.equal(part, parts_too[name]) for name, part in parts.items())
            assert one.steps == other.steps
    for one, other in zip(ours, theirs, strict=True):
        assert_same_bits(one, other)


def test_what_cannot_be_queued_is_refused(toy, kind, host_module):
    (one, other), sampler = trainers_and_sampler(toy, f"{kind}-quadrature", 2)
    (trainer, epoch), (another, _) = (each.queued(sampler, 0, 4) for each in (one, other))
    with pytest.raises(ValueError, match="a trainer at least"):
        host_module.QueuedEpochs([], [], threads=1)
    with pytest.raises(ValueError, match="as many epochs as trainers"):
        host_module.QueuedEpochs([trainer, another], [epoch], threads=1)
    with pytest.raises(ValueError, match="one epoch at a time"):
        host_module.QueuedEpochs([trainer, trainer], [epoch, epoch], threads=1)
    queued = host_module.QueuedEpochs([trainer], [epoch], threads=1)
    assert len(queued.take()) == 1
    with pytest.raises(ValueError, match="taken already"):
        queued.take()


# -- how many, and where ----------------------------------------------------------------------------------------------


def jobs_like(toy, toy_base, count):
    search = context.SearchContext(toy_base, toy, Settings("reference", **QUICK), "cuda")
    return [module_run.ModuleRun(search, (0,), seed, 1) for seed in range(count)]


@pytest.mark.parametrize(
    ("devices", "each", "count", "sizes"),
    [(1, 26, 16, [8, 8]), (1, 1, 4, [1] * 4), (1, 3, 4, [1] * 4), (4, 26, 16, [2] * 8), (4, 26, 8, [1] * 8)],
)
def test_units_find_room_and_leave_no_device_idle(toy, toy_base, devices, each, count, sizes):
    jobs = jobs_like(toy, toy_base, count)
    found = [WorkerDevice(torch.device("cuda", index)) for index in range(devices)] * each
    assert [len(unit) for unit in scheduler.units_of(jobs, found, None)] == sizes


def test_no_more_modules_at_once_than_there_is_room_for(toy, toy_base):
    """A unit waits until others have gone, or until all is to end."""
    worker, jobs, stop = WorkerDevice(torch.device("cuda", 0)), jobs_like(toy, toy_base, 3), threading.Event()
    room = scheduler.Room([worker] * 3)
    assert room.take(worker, jobs[:2], stop)
    waits = threading.Thread(target=lambda: room.take(worker, jobs[:2], stop))
    waits.start()
    waits.join(0.3)
    assert waits.is_alive()
    room.give_back(worker, jobs[:2])
    waits.join(10)
    assert not waits.is_alive()
    stop.set()
    assert not room.take(worker, jobs[:2], stop)

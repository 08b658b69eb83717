"""Modules trained in step, on the CPU: the same operations, with and without stand-ins for graphs, streams and GPUs."""

import copy
import dataclasses
import math
import types

import numpy as np
import pytest
import torch
from support import toy_data, toy_weights, trainer_kinds
from support.agreement import assert_same
from support.cohort_cases import assert_bits, make_sampler, make_trainer, state, teacher_of
from support.fake_gpus import FakeCuda, Stream, Watch
from test_devices import QUICK
from torch.nn import functional

from seam_fast import Settings, TrainingError, reengineer, reengineer_many
from seam_fast.classifier import inference
from seam_fast.classifier.inference import class_logits
from seam_fast.classifier.state_keys import EMBEDDING, WEIGHT_KEYS
from seam_fast.common import cuda_graphs, rng
from seam_fast.common.cuda_graphs import CudaGraphRunner
from seam_fast.search import context, module_run, scheduler, workers
from seam_fast.search.cohort import Cohort, Lane
from seam_fast.search.sampling import Sampler
from seam_fast.search.teacher_cache import TeacherCache
from seam_fast.training import devices, gpu_memory, registry
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer
from seam_fast.training.torch_trainer import TorchTrainer

SHAPES = ((1, False), *toy_weights.DEEP)


def make_base(corpus, shape=(1, False), dtype=torch.float64):
    return toy_weights.make_deep_weights(*shape, dtype=dtype, sizes=(corpus.vocab_size, 4, 3, 4))


# -- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.0, 1e-300, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.999, 1 - 2.0**-53])
def test_chances_are_those_of_the_uniform_numbers(probability):
    address = (3, rng.DROPOUT, (1, 2), 7, 20_000)
    assert np.array_equal(rng.chance(*address, probability), rng.uniform(*address) < probability)


def test_chances_at_the_very_edge(monkeypatch):
    """Numbers just below, at and above the probability, with all the bits that do not count."""
    least = math.ceil(0.3 * 2**53)
    edge = [(least + at) << 11 | low for at in (-1, 0, 1) for low in (0, 1, 2047)]
    monkeypatch.setattr(rng, "raw", lambda *address: np.array(edge, dtype=np.uint64))
    monkeypatch.setattr(rng._ext, "has_ext", lambda: False)
    wanted = rng.uniform(0, "", (), 0, 9) < 0.3
    assert np.array_equal(rng.chance(0, "", (), 0, 9, 0.3), wanted) and wanted.tolist() == [True] * 3 + [False] * 6


@pytest.mark.parametrize("sampling", ["redraw", "balanced", "all"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_an_epoch_is_what_its_draws_say(toy, sampling, dropout):
    sampler = make_sampler(toy, sampling=sampling, word_dropout=dropout, distill_weight=0.0)
    for epoch in range(3):
        whole, (order, dropped) = sampler.epoch(epoch), sampler.draw(epoch)
        assert (dropped is None) == (dropout == 0)
        lengths = toy.train.lengths[order]
        assert torch.equal(whole.ids, sampler.dropped(toy.train.ids[order], lengths, dropped))
        assert torch.equal(whole.lengths, lengths) and torch.equal(whole.labels, sampler.rest[order])
        if dropout:
            real = torch.arange(toy.train.ids.shape[1]) < lengths[:, None]
            assert torch.equal(whole.ids[~real], toy.train.ids[order][~real])
            assert 0.25 < (whole.ids != toy.train.ids[order])[real].double().mean() < 0.55


def test_an_address_tells_apart_what_is_drawn_otherwise(toy):
    first = make_sampler(toy).address
    assert make_sampler(toy, alpha=0.7, lr_mask=0.2, distill_weight=0.1).address == first
    for other in ({"target": (1,)}, {"seed": 1}, {"word_dropout": 0.1}, {"negatives_per_target": 1.0}, {"shots": 3}):
        assert make_sampler(toy, **other).address != first


# -- a cohort beside trainers by themselves ---------------------------------------------------------------------------


# Every two of the four values.
LANES = [
    (shape, ("last_position", "last_word")[(i + j) % 2], labels, ("auto", "torch")[(i // 2 + j) % 2])
    for i, shape in enumerate(SHAPES)
    for j, labels in enumerate(("soft", "half", "hard"))
]


@pytest.mark.parametrize(("shape", "readout", "labels", "backend"), LANES)
def test_lanes_have_the_bits_of_trainers_by_themselves(toy, shape, readout, labels, backend):
    weights, lanes, alone = make_base(toy, shape, torch.float32), [], []
    distill_weight = {"soft": 1.0, "half": 0.5, "hard": 0.0}[labels]
    for target in ((0,), (1,), (0, 1)):
        at_once, teacher = teacher_of(weights, target, readout)
        options = {"word_dropout": 0.2, "distill_weight": distill_weight}
        heavy = {"target_weight": 3.0} if labels == "hard" else {}
        sampler = make_sampler(toy, target, teacher, **options)
        alone.append((sampler, make_trainer(weights, sampler, readout=readout, backend=backend, **heavy)))
        trainer = make_trainer(weights, sampler, readout=readout, backend=backend, **heavy)
        lanes.append(Lane(trainer, sampler, toy.train, 8, at_once if distill_weight else None, toy.test))
    cohort = Cohort(lanes)
    assert cohort.lanes[0].steps == 3, "18 documents, the last batch is smaller"
    for epoch in range(5):
        for lane, (_, trainer) in zip(lanes, alone, strict=True):
            lane.trainer.scale_learning_rates(1 - 0.1 * epoch)
            trainer.scale_learning_rates(1 - 0.1 * epoch)
        rows = cohort.run_epoch(epoch, cohort.draw(epoch), True)()
        for row, lane, (sampler, trainer) in zip(rows, lanes, alone, strict=True):
            documents, (loss, evaluation) = sampler.epoch(epoch), lane.read(row, True)
            assert loss == trainer.run_epoch(documents.ids, documents.lengths, documents.labels, 8)
            assert_bits(state(lane.trainer), state(trainer))
            assert evaluation.kept_counts == trainer.kept_counts()
            assert lane.trainer.steps == trainer.steps == 3 * (epoch + 1)
            parts, snapshot = (trainer_kinds.parts_of(one.snapshot()) for one in (evaluation, trainer))
            assert list(parts) == list(snapshot)
            assert_bits(parts.values(), snapshot.values())
            assert torch.equal(evaluation.outputs, trainer.logits(toy.test.ids, toy.test.lengths))


def test_lanes_are_as_plain_pytorch_has_them(toy):
    weights = make_base(toy)
    at_once, teacher = teacher_of(weights, (1,), "last_word")
    sampler = make_sampler(toy, (1,), teacher)
    plain = make_trainer(weights, sampler, TorchTrainer)
    lane = Lane(make_trainer(weights, sampler), sampler, toy.train, 8, at_once)
    cohort = Cohort([lane])
    for epoch in range(6):
        found, evaluation = lane.read(cohort.run_epoch(epoch, cohort.draw(epoch), False)()[0], False)
        documents = sampler.epoch(epoch)
        loss = plain.run_epoch(documents.ids, documents.lengths, documents.labels, 8)
        assert found == pytest.approx(loss, abs=1e-11) and evaluation.outputs is None
    ours, theirs = (trainer.full_scores() for trainer in (lane.trainer, plain))
    for a, b in zip((*ours[0].values(), *ours[1]), (*theirs[0].values(), *theirs[1]), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-10)


def make_cohort(toy, count=2, **options):
    weights = make_base(toy, dtype=torch.float32)
    samplers = [make_sampler(toy, (k,), distill_weight=0.0, **options) for k in range(count)]
    lanes = [Lane(make_trainer(copy.copy(weights), s), s, toy.train, 8, None, toy.test) for s in samplers]
    return Cohort(lanes)


def run_epochs(cohort, epochs, evaluates=True):
    for epoch in range(epochs):
        rows = cohort.run_epoch(epoch, cohort.draw(epoch), evaluates)()
    return rows


def test_what_is_drawn_alike_is_drawn_and_made_once(toy, monkeypatch):
    weights, drawn = make_base(toy), []
    plain = rng.permutation
    monkeypatch.setattr(rng, "permutation", lambda *address: drawn.append(address) or plain(*address))
    at_once, _ = teacher_of(weights, (1,), "last_word")
    asked = []

    def teacher(words, lengths):
        asked.append(words.shape)
        return at_once(words, lengths)

    samplers = [make_sampler(toy, (1,), teacher, alpha=alpha) for alpha in (0.1, 0.5)]
    lanes = [Lane(make_trainer(weights, s, alpha=s.settings.alpha), s, toy.train, 8, teacher) for s in samplers]
    run_epochs(Cohort(lanes), 2, evaluates=False)
    assert len(asked) == 2 and len(drawn) == len(set(drawn)) == 6
    assert not torch.equal(
        lanes[0].trainer.scores[toy_weights.EMBEDDING], lanes[1].trainer.scores[toy_weights.EMBEDDING]
    )
    assert lanes[0].batches is lanes[1].batches


def test_a_lane_that_has_ended_stands_still(toy):
    cohort = make_cohort(toy)
    run_epochs(cohort, 1)
    first, second = (lane.trainer for lane in cohort.lanes)
    cohort.lanes[0].alive = False
    before, other = [part.clone() for part in state(first)], [part.clone() for part in state(second)]
    assert list(cohort.draw(1)) == [cohort.lanes[1].address]
    run_epochs(cohort, 2)
    assert_bits(state(first), before)
    assert not torch.equal(state(second)[0], other[0])


def test_a_lane_that_fails_names_step_and_tensor_and_the_others_go_on(toy):
    cohort, alone = make_cohort(toy), make_cohort(toy)
    bad, good = cohort.lanes
    bad.trainer.weights = bad.trainer.weights | {toy_weights.LINEAR[0]: torch.full((4, 3), math.nan)}
    rows = run_epochs(cohort, 1)
    with pytest.raises(TrainingError, match="the loss is nan in step 1"):
        bad.read(rows[0], True)
    assert all((score == 1).all() for score in bad.trainer.scores.values())
    run_epochs(alone, 1)
    good.read(rows[1], True)
    assert_bits(state(good.trainer), state(alone.lanes[1].trainer))


def test_scores_that_are_not_finite_are_named(toy):
    cohort = make_cohort(toy)
    rows = run_epochs(cohort, 1)
    cohort.lanes[0].trainer.exp_avg[toy_weights.LSTM[1]][:] = math.nan
    rows = run_epochs(cohort, 1)
    with pytest.raises(TrainingError, match=r"lstm.weight_hh_l0 holds a value that is not finite after step"):
        cohort.lanes[0].read(rows[0], True)


# -- nothing crosses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, False), (2, False)])
def test_every_sequence_is_the_same_each_time_and_waits_for_nothing(toy, shape, monkeypatch):
    weights = make_base(toy, shape)
    at_once, _ = teacher_of(weights, (1,), "last_word")
    sampler = make_sampler(toy, (1,))
    sampler.teacher = at_once
    lane = Lane(make_trainer(weights, sampler), sampler, toy.train, 8, at_once, toy.test)
    logs = {}
    for name in ("fill", "step", "report"):
        function = getattr(lane, name)

        def watched(*arguments, name=name, function=function):
            with Watch() as watch:
                function(*arguments)
            logs.setdefault(name, []).append(watch.log)

        monkeypatch.setattr(lane, name, watched)
    run_epochs(Cohort([lane]), 3)
    assert [len(logs[name]) for name in ("fill", "step", "report")] == [3, 9, 3]
    assert all(log == each[0] for each in logs.values() for log in each)


def test_epochs_are_replayed_on_branches(toy, monkeypatch):
    """Stand-ins for graphs do again what was recorded; every branch is forked from the thread's stream and joined."""
    wanted = make_cohort(toy, 3)
    run_epochs(wanted, 6)
    cuda, recorded = FakeCuda(monkeypatch), []

    def record(function):
        recorded.append(function)
        return types.SimpleNamespace(replay=function)

    monkeypatch.setattr(cuda_graphs, "_record", record)
    cohort = make_cohort(toy, 3)
    branches = [cuda.stream(f"branch {number}") for number in range(8)]
    cohort = Cohort(cohort.lanes, branches)
    for name in ("_fill", "_step"):
        setattr(cohort, name, CudaGraphRunner(torch.device("cuda", 0)))
    cohort._report = {evaluates: CudaGraphRunner(torch.device("cuda", 0)) for evaluates in (False, True)}
    for found, expected in zip(run_epochs(cohort, 6), run_epochs(make_cohort(toy, 3), 6), strict=True):
        assert_bits(found, expected)
    for lane, other in zip(cohort.lanes, wanted.lanes, strict=True):
        assert_bits(state(lane.trainer), state(other.trainer))
    assert [function.__name__ for function in recorded] == ["_step_all", "_fill_all", "_report_with"]
    forks = [entry for entry in cuda.log if entry[0].startswith("branch")]
    joins = [entry for entry in cuda.log if entry[0] == "mine"]
    assert len(forks) == len(joins) == 3 * (6 + 3 * 6 + 6 + 3 - 3)
    assert {entry[0] for entry in forks} == {entry[2] for entry in joins} == {f"branch {n}" for n in range(3)}


def test_branches_are_joined_where_one_fails(toy, monkeypatch):
    cuda = FakeCuda(monkeypatch)
    cohort = make_cohort(toy)
    cohort._branches = [cuda.stream("a"), cuda.stream("b")]

    def broken():
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        cohort._on_branches([broken, broken])
    assert cuda.log == [("a", "waits for", "mine"), ("mine", "waits for", "a")]


# -- whole runs -------------------------------------------------------------------------------------------------------


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
    ],
)
def test_whole_runs_do_not_depend_on_who_is_beside(toy, toy_base, stepped, schedule, options):
    options = options | {"schedule": schedule, "epochs": 4}
    targets = [0, 1, 2, 3, (0, 1), (1, 2)]
    together = run(toy_base, toy, targets, **options)
    for threads in (1, 2, 5):
        for one, other in zip(together, run(toy_base, toy, targets, threads=threads, **options), strict=True):
            assert_same(one, other)
            without = [{k: v for k, v in f.items() if k != "seconds"} for f in one.history]
            assert without == [{k: v for k, v in f.items() if k != "seconds"} for f in other.history]
    assert all(len(module.history) == 4 for module in together)


def test_a_whole_run_is_that_of_plain_pytorch(toy, toy_base, stepped):
    base = copy.deepcopy(toy_base).double()
    ours = run(base, toy, [0, 1, 2, 3], epochs=5)
    for one, other in zip(ours, run(base, toy, [0, 1, 2, 3], epochs=5, backend="torch"), strict=True):
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
        if torch.equal(head[0], rng.head(0, (1,), 4)[0]):
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


# -- the engine's forward pass ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_engine_reads_documents_as_torch_does(readout, dtype):
    """By the tolerance rule, for more documents than are projected at once, whatever stands in the padding."""
    pytest.importorskip("seam_fast._C")
    weights = toy_weights.make_weights(dtype, sizes=(60, 20, 21, 5))
    ids, lengths, _ = toy_data.make_documents(2300, width=9, words=range(60))
    ids[7], lengths[7] = 3, 1
    exact = class_logits({key: weight.double() for key, weight in weights.items()}, ids, lengths, readout)
    theirs, ours = (class_logits(weights, ids, lengths, readout, backend) for backend in ("torch", "cpu"))
    floor = 16 * torch.finfo(dtype).eps
    assert (ours.double() - exact).abs().max() <= 2 * (theirs.double() - exact).abs().max() + floor
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(class_logits(weights, ids, lengths, readout, "cpu"), ours), "whoever reads what"
    finally:
        torch.set_num_threads(threads)
    single = torch.cat([class_logits(weights, ids[i : i + 1], lengths[i : i + 1], readout, "cpu") for i in range(40)])
    assert torch.equal(single, ours[:40]), "no document depends on those beside it"
    assert class_logits(weights, ids[:0], lengths[:0], readout, "cpu").shape == (0, 5)


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_words_projected_beforehand_change_no_bit(readout, dtype, monkeypatch):
    compiled = pytest.importorskip("seam_fast._C")
    weights = toy_weights.make_weights(dtype, sizes=(60, 20, 21, 5))
    ids, lengths, _ = toy_data.make_documents(1100, width=9, words=range(60))
    projected = inference.project_words(weights)
    wanted = functional.linear(weights[EMBEDDING], weights["lstm.weight_ih_l0"])
    wanted += weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
    torch.testing.assert_close(projected, wanted)
    known = class_logits(weights, ids, lengths, readout, "cpu", projected)
    assert torch.equal(known, class_logits(weights, ids, lengths, readout, "cpu"))
    parts = [weights[key] for key in WEIGHT_KEYS]
    for bad, words in (
        (projected[:9], "projected must have shape"),
        (projected.to(torch.float16), "projected must have input's dtype"),
        (projected.T.contiguous().T, "projected must be contiguous"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            compiled.class_logits(parts, ids, lengths, True, bad)
    monkeypatch.setattr(inference, "MOST_PROJECTED", 1000)
    assert inference.project_words(weights) is None, "it would be too large"
    assert inference.project_words(toy_weights.make_deep_weights(*toy_weights.DEEP[0])) is None
    assert inference.project_words(weights, "torch") is None


def test_all_modules_share_one_projection_of_the_words(toy, toy_base, monkeypatch):
    pytest.importorskip("seam_fast._C")
    asked, given = [], []
    project, plain = context.project_words, context.class_logits
    monkeypatch.setattr(context, "project_words", lambda *rest: asked.append(1) or project(*rest))
    monkeypatch.setattr(context, "class_logits", lambda *rest: given.append(rest[-1]) or plain(*rest))
    settings = [Settings(epochs=3, batch_size=8, alpha=alpha) for alpha in (0.1, 1.0)]
    reengineer_many(toy_base, toy, [0, 1], settings, threads=2, backend="cpu")
    assert len(asked) == 1 and len(given) >= 2 * 3
    assert all(projected is given[0] for projected in given) and given[0].shape == (toy.vocab_size, 20)


def test_what_the_engine_cannot_read_is_refused():
    compiled = pytest.importorskip("seam_fast._C")
    weights = list(toy_weights.make_weights(torch.float32).values())
    ids, lengths, _ = toy_data.make_documents(4)
    assert compiled.class_logits(weights, ids, lengths, True).shape == (4, 5)
    for bad, words in (
        ((weights[:6], ids, lengths), "weights must hold 7 entries"),
        (([weights[0], *weights[2:], weights[1]], ids, lengths), "must have two dimensions|must have shape"),
        ((weights, ids + 20, lengths), "ids must be words, 0 to 22"),
        ((weights, ids - 1, lengths), "ids must be words, 0 to 22"),
        ((weights, ids, lengths * 0), "lengths must lie between 1 and 7"),
        ((weights, ids, lengths[:3]), "lengths must have shape"),
        ((weights, ids.int(), lengths), "ids must be a contiguous"),
        ((weights, ids.T.contiguous().T, lengths), "ids must be a contiguous"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            compiled.class_logits(*bad, True)


@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_other_shapes_are_read_by_torch(shape):
    weights = toy_weights.make_deep_weights(*shape)
    ids, lengths, _ = toy_data.make_documents(30)
    for readout in ("last_position", "last_word"):
        assert torch.equal(
            class_logits(weights, ids, lengths, readout, "auto"), class_logits(weights, ids, lengths, readout)
        )


# -- what the base is asked -------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Numbers of documents that the base was asked about in training."""
    found, plain = [], context.class_logits

    def counted(weights, ids, *rest):
        found.append(len(ids))
        return plain(weights, ids, *rest)

    monkeypatch.setattr(context, "class_logits", counted)
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_settings_that_see_the_same_documents_ask_the_base_once(toy, toy_base, asked, threads):
    settings = [Settings(epochs=4, batch_size=8, alpha=alpha) for alpha in (0.1, 0.5, 1.0)]
    options = {"backend": "torch", "evaluate_every": 0}
    rows = reengineer_many(toy_base, toy, [0, 1], settings, threads=threads, **options)
    if threads == 1:
        assert len(asked) == 2 * 4, "not once more for each of the settings"
    for row, one in zip(rows, settings, strict=True):
        for module, alone in zip(row, reengineer(toy_base, toy, [0, 1], settings=one, **options), strict=True):
            assert_same(module, alone)


def test_documents_that_stay_as_they_are_are_asked_about_once(toy, toy_base, asked):
    options = {"word_dropout": 0.0, "epochs": 3, "backend": "torch", "threads": 2, "evaluate_every": 0}
    modules = run(toy_base, toy, [0, 1, 2], **options)
    assert asked == [len(toy.train)]

    def teacher(ids, lengths):
        return torch.softmax(class_logits(toy_base.weights(), ids, lengths, "last_word"), 1)[:, 1]

    sampler = Sampler(toy, toy.validation_indices()[0], (1,), Settings(word_dropout=0.0), 0)
    order, _ = sampler.draw(2)
    wanted = sampler.soft(sampler.rest[order], teacher(toy.train.ids[order], toy.train.lengths[order]))
    sampler.teacher = teacher
    torch.testing.assert_close(sampler.epoch(2).labels, wanted)
    assert len(modules[1].history) == 3


def test_what_was_taught_is_let_go_of():
    cache = TeacherCache()
    cache.users = 2
    said = [cache.get(3, lambda n=n: n) for n in ("first", "second", "third")]
    assert said == ["first", "first", "third"] and list(cache._known) == [3]
    assert cache.get(4, lambda: "other") == "other"

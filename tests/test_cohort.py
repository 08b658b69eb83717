"""Modules trained in step, on the CPU: the same operations, with and without stand-ins for graphs, streams and GPUs."""

import copy
import math
import types

import numpy as np
import pytest
import torch
from support import toy_weights, trainer_kinds
from support.cohort_cases import assert_bits, make_sampler, make_trainer, state, teacher_of
from support.fake_gpus import FakeCuda, Watch

from seam_fast import TrainingError
from seam_fast.common import cuda_graphs, rng
from seam_fast.common.cuda_graphs import CudaGraphRunner
from seam_fast.search.cohort import Cohort, Lane
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
        assert torch.equal(whole.lengths, lengths)
        assert torch.equal(whole.target_probability, sampler.target_probability[order])
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
            assert loss == trainer.run_epoch(*documents, 8)
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
        loss = plain.run_epoch(*sampler.epoch(epoch), 8)
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

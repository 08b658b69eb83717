"""Modules in step on a GPU: graphs with a branch for each, beside other cohorts, with the draws of the CPU."""

import copy
import gc

import pytest
import torch
from support import toy_weights
from support.agreement import assert_same
from support.cohort_cases import assert_bits, make_sampler, make_trainer, state, teacher_of

from seam_fast import Interrupted, LSTMClassifier, Settings, TrainingError, reengineer, reengineer_many
from seam_fast.backend import unavailable_reason
from seam_fast.data.corpus import Split
from seam_fast.search.cohort import Cohort, Lane
from seam_fast.training.streams import own_streams

if unavailable_reason("cuda"):
    pytest.skip(f"needs a GPU and the CUDA kernels: {unavailable_reason('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("faults_show_where_they_arise")

DEVICE = torch.device("cuda", 0)
RUN = {"epochs": 6, "batch_size": 128, "lr_mask": 0.05, "backend": "cuda"}


@pytest.fixture(scope="module")
def large(toy):
    """A base of R8's sizes, which with batches of 128 is stepped by ordinary kernels."""
    torch.manual_seed(0)
    return LSTMClassifier(toy.vocab_size, 100, 50, toy.num_classes, readout="last_word")


def on_gpu(weights):
    return {key: weight.to(DEVICE) for key, weight in weights.items()}


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("shape", [(1, False), (2, True)])
def test_lanes_have_the_bits_of_trainers_by_themselves(toy, shape, readout):
    """Also where steps are replayed on branches, and after the whole epoch's batches have been made by a graph."""
    weights = on_gpu(toy_weights.make_deep_weights(*shape, dtype=torch.float32, sizes=(toy.vocab_size, 12, 9, 4)))
    documents = Split(**{name: part.to(DEVICE) for name, part in vars(toy.train).items()})
    streams = own_streams(0, 4)
    with torch.cuda.stream(streams[0]):
        lanes, alone = [], []
        for target in ((0,), (1,), (0, 1)):
            at_once, teacher = teacher_of(weights, target, readout)
            sampler = make_sampler(
                toy, target, lambda ids, lengths, teacher=teacher: teacher(ids.to(DEVICE), lengths.to(DEVICE)).cpu()
            )
            alone.append((sampler, make_trainer(weights, sampler, readout=readout, backend="cuda")))
            trainer = make_trainer(weights, sampler, readout=readout, backend="cuda")
            lanes.append(Lane(trainer, sampler, documents, 8, at_once, toy.test))
        cohort = Cohort(lanes, streams[1:])
        for epoch in range(7):
            rows = cohort.run_epoch(epoch, cohort.draw(epoch), True)()
            for row, lane, (sampler, trainer) in zip(rows, lanes, alone, strict=True):
                fed, (loss, evaluation) = sampler.epoch(epoch), lane.read(row, True)
                words = toy.train.ids[sampler.draw(epoch)[0]]
                assert (fed.ids != words).any()
                assert loss == trainer.run_epoch(*fed, 8)
                assert_bits(state(lane.trainer), state(trainer))
                assert evaluation.kept_counts == trainer.kept_counts()
                assert torch.equal(evaluation.outputs, trainer.logits(toy.test.ids, toy.test.lengths))


def test_any_number_at_once_gives_the_same_modules(toy, large):
    targets = [0, 1, 2, 3, (0, 1), (2, 3), (0, 3), (1, 2)]
    runs = [reengineer(large, toy, targets, threads=threads, **RUN) for threads in (1, 3, None, None)]
    for modules in runs[1:]:
        for one, other in zip(runs[0], modules, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_are_near_those_of_the_cpu(toy, large, dtype):
    base = copy.deepcopy(large).to(dtype)
    ours, theirs = (reengineer(base, toy, [0, 1, 2], **RUN | {"backend": name}) for name in ("cuda", "cpu"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.card["engine"] == "cuda" and "lazy_update" not in one.card
        for a, b in zip(one.history, other.history, strict=True):
            assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], abs=1e-4)
            assert a["kept"] == pytest.approx(b["kept"], abs=0.01)
        assert one.metrics["base"] == pytest.approx(other.metrics["base"], abs=1e-6)


def test_many_settings_at_once(toy, large):
    settings = [Settings(epochs=3 + number % 3, alpha=0.1 * number) for number in range(12)]
    rows = reengineer_many(large, toy, [0, 1, 2], settings, backend="cuda")
    for row, one in zip(rows[::5], settings[::5], strict=True):
        for module, alone in zip(row, reengineer(large, toy, [0, 1, 2], settings=one, backend="cuda"), strict=True):
            assert_same(module, alone)


def test_a_base_that_is_not_finite_is_named(toy, large):
    broken = copy.deepcopy(large)
    with torch.no_grad():
        broken.hidden2label.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"epoch 0: the loss is nan in step 1"):
        reengineer(broken, toy, [0, 1, 2], **RUN | {"distill_weight": 0.0, "evaluate_every": 0})
    assert len(reengineer(large, toy, [0], **RUN)) == 1, "the GPU is free again"


def test_nothing_stays_behind(toy, large):
    """By one worker: cuBLAS keeps memory for each pair of a thread and a stream, and which of several workers has which
    stream may change from run to run.
    """
    reengineer(large, toy, [0, 1, 2, 3], threads=4, **RUN)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        reengineer(large, toy, [0, 1, 2, 3], threads=4, **RUN)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + (64 << 10)


def test_ctrl_c_carries_the_best_modules(toy, large):
    seen = []

    def on_epoch(job, figures):
        seen.append(job)
        if len(set(seen)) == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        reengineer(large, toy, [0, 1, 2, 3], on_epoch=on_epoch, **RUN | {"epochs": 100_000})
    assert all(module is not None for module in caught.value.modules)
    torch.cuda.synchronize()

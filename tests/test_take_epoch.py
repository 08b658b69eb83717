"""An epoch of a module in one compiled call gives documents, steps and figures as single calls do, to the bit."""

import threading

import numpy as np
import pytest
import torch
from support import toy_weights, trainer_kinds

from seam_fast import TrainingError, _ext
from seam_fast.classifier import metrics
from seam_fast.search.sampling import Sampler
from seam_fast.search.settings import Settings
from seam_fast.training.base import Trainer
from seam_fast.training.cuda_trainer import CudaTrainer

pytestmark = pytest.mark.skipif(not _ext.has_ext(), reason=f"needs the compiled part: {_ext.reason}")

DRAWS = [  # how documents are chosen: of a fixed pool, all of it, and anew for each epoch, some or all of each kind
    {"sampling": "balanced", "word_dropout": 0.3},
    {"sampling": "all"},
    {"sampling": "redraw", "negatives_per_target": 1.5, "targets_per_epoch": 5, "word_dropout": 0.5},
    {"sampling": "redraw", "negatives_per_target": 100.0},
    {"sampling": "redraw", "negatives_per_target": "corpus", "targets_per_epoch": 5, "word_dropout": 0.5},
    {"sampling": "redraw", "shots": 6, "negatives_per_target": 0.5},
]


def make_sampler(corpus, target=(1,), teacher=None, **options):
    given = {
        "word_dropout": 0.0,
        "targets_per_epoch": 0,
        "batch_size": 4,
        "distill_weight": 0.0,
        "schedule": "seam",
    } | options
    everything = torch.arange(len(corpus.train))
    return Sampler(corpus, everything, target, Settings(epochs=4, **given), seed=2, teacher=teacher)


@pytest.fixture(params=["cpu-quadrature", "cuda-host-quadrature"])
def in_one_call(request):
    """The trainers that can, as `trainer_kinds.make_trainer` calls them; test_cuda_engine.py has another."""
    if request.param.startswith("cuda-host"):
        request.getfixturevalue("unwatched")
    return request.param


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("options", DRAWS)
def test_documents_are_those_of_the_sampler(toy, toy_base, options, readout):
    sampler = make_sampler(toy, **options)
    trainer = trainer_kinds.make_for_sampler("cpu-quadrature", toy_base, sampler, readout=readout)
    drawn, purposes = trainer._draws_of(sampler, 4)
    for epoch in range(3):
        documents = sampler.epoch(epoch)
        ids, *found = drawn.draw(sampler.keys(epoch, purposes))
        wanted = *trainer._documents_to_train(documents.ids, documents.lengths), documents.target_probability
        assert torch.equal(ids, documents.ids)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def all_of(trainer, loss, evaluation, wanted):
    """All of an epoch that anybody asks for."""
    figures = evaluation.figures
    if figures is None and evaluation.outputs is not None:
        figures = metrics.module_metrics(evaluation.outputs, wanted)
    parts = {
        **trainer_kinds.parts_of(evaluation.snapshot()),
        "head weight now": evaluation.head[0],
        "logits": evaluation.class_logits,
        "outputs": evaluation.outputs,
    }
    return (
        loss,
        evaluation.kept_counts,
        figures,
        {name: None if part is None else part.tolist() for name, part in parts.items()},
    )


@pytest.mark.parametrize("evaluates", ["always", "every other time", "never"])
def test_it_is_what_single_calls_give(toy, toy_base, make_one, evaluated_on, evaluates):
    sampler, stop = make_sampler(toy, word_dropout=0.3), threading.Event()
    trainers = [make_one(toy_base, sampler) for _ in range(2)]
    known, kept = [None, None], set()
    for epoch in range(4):
        at = evaluated_on if evaluates == "always" or (evaluates != "never" and epoch % 2) else None
        seen, head_only = [], epoch in (0, 2)
        for i, take in enumerate((type(trainers[0]).take_epoch, Trainer.take_epoch)):
            options = {
                "head_only": head_only,
                "stop": stop,
                "evaluated_on": at,
                "known": known[i] if head_only else None,
            }
            loss, evaluation = take(trainers[i], sampler, epoch, 4, **options)
            assert (evaluation.figures is not None) == (i == 0 and at is not None)
            known[i] = evaluation if at is not None else None
            seen.append(all_of(trainers[i], loss, evaluation, evaluated_on[2]))
        assert seen[0] == seen[1], epoch
        kept.add(sum(seen[0][1].values()))
    assert len(kept) > 1, "the run should have dropped some"
    assert trainers[0].steps == trainers[1].steps


def test_a_teacher_and_long_epochs_go_step_by_step(toy, toy_base, make_one, monkeypatch):
    """As there is somebody to ask in between, unless it is the engine of a GPU that asks."""
    teacher = lambda ids, lengths: torch.full((len(ids),), 0.5)  # noqa: E731
    soft, plain = make_sampler(toy, distill_weight=0.5, teacher=teacher, word_dropout=0.1), make_sampler(toy)
    trainer = make_one(toy_base, plain)
    assert (trainer._draws_of(soft, 4)[0] is None) is not isinstance(trainer, CudaTrainer)
    once = make_sampler(toy, distill_weight=0.5, teacher=teacher)  # all documents stay as they are: it is asked once
    assert trainer._draws_of(once, 4) == (None, ())
    assert trainer._draws_of(plain, 4)[0] is not None
    monkeypatch.setattr(type(trainer), "_steps_at_once", lambda *sizes: 2)
    assert trainer._draws_of(plain, 4) == (None, ())
    loss, evaluation = trainer.take_epoch(plain, 0, 4, stop=threading.Event())
    assert loss > 0 and evaluation.outputs is None and trainer.steps == -(-plain.size // 4)


@pytest.mark.parametrize("options", [{"word_dropout": 0.4}, {"distill_weight": 0.3, "word_dropout": 0.1}], ids=str)
@pytest.mark.parametrize("target", [(1,), (0, 3)])
def test_the_engine_of_a_gpu_asks_the_base_itself(toy, toy_base, host_module, unwatched, evaluated_on, options, target):
    weights = list(toy_weights.single(toy_base.weights(), [])[0].values())

    def teacher(ids, lengths):
        logits = host_module.class_logits_on_gpu(weights, ids, lengths, True)
        return torch.softmax(logits, 1)[:, list(target)].sum(1)

    options = {"distill_weight": 1.0, "sampling": "redraw"} | options
    sampler, stop = make_sampler(toy, target, teacher, **options), threading.Event()
    trainers = [trainer_kinds.make_for_sampler("cuda-host-quadrature", toy_base, sampler) for _ in range(2)]
    for epoch in range(2):
        seen = []
        for trainer, take in zip(trainers, (type(trainers[0]).take_epoch, Trainer.take_epoch), strict=True):
            loss, evaluation = take(trainer, sampler, epoch, 40, stop=stop, evaluated_on=evaluated_on)
            seen.append(all_of(trainer, loss, evaluation, evaluated_on[2]))
        assert seen[0] == seen[1], epoch


def test_nothing_is_done_once_stop_is_set(toy, toy_base, make_one, evaluated_on):
    sampler, stop = make_sampler(toy), threading.Event()
    trainer = make_one(toy_base, sampler)
    stop.set()
    loss, evaluation = trainer.take_epoch(sampler, 0, 4, stop=stop, evaluated_on=evaluated_on)
    assert loss == 0 and trainer.steps == 0 and evaluation.outputs is None


def test_it_says_what_is_not_finite(toy, toy_base, make_one, evaluated_on):
    sampler = make_sampler(toy)
    trainer = make_one(toy_base, sampler)
    trainer.scores[toy_weights.LSTM[0]][0, 0] = float("inf")
    trainer.load_state(0)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.take_epoch(sampler, 0, 4, stop=threading.Event(), evaluated_on=evaluated_on)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 100, 129, 700])
def test_counts_and_average_precision_are_numpys(count):
    random = np.random.RandomState(count)
    for levels, dtype in ((3, np.float32), (10**6, np.float32), (10**6, np.float64)):
        outputs = (random.randint(0, levels, (count, 2)) / 7).astype(dtype)
        outputs[: count // 9, 1] = np.nan
        wanted = random.rand(count) < 0.3
        counts = _ext.C.binary_counts(torch.from_numpy(outputs), torch.from_numpy(wanted))
        found = metrics.metrics_of_counts(
            counts.documents, counts.targets, counts.predicted, counts.true_positive, counts.average_precision
        )
        expected = metrics.module_metrics(torch.from_numpy(outputs), torch.from_numpy(wanted))
        assert found == pytest.approx(expected, rel=1e-14) and list(found) == list(expected)


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("ids", torch.zeros(5, 2), TypeError, "ids must be a contiguous int64"),
        ("lengths", torch.ones(4, dtype=torch.int64), ValueError, "lengths must have shape"),
        (
            "target_probability",
            torch.ones(5, dtype=torch.int64),
            TypeError,
            "target_probability must be a contiguous float32",
        ),
        ("target_probability", torch.ones(4), ValueError, "target_probability must have shape"),
        ("targets", torch.tensor([5, 1, 2]), ValueError, "targets must be documents, 0 to 4, but holds 5"),
        ("others", torch.tensor([-1, 1]), ValueError, "others must be documents"),
        ("others_per_epoch", 3, ValueError, "cannot have 3 of 2 others"),
        ("row_of_id", torch.zeros(3, dtype=torch.int64), TypeError, "row_of_id must be"),
    ],
)
def test_a_pool_that_cannot_be(name, value, error, says):
    numbers = torch.arange(5)
    given = {"ids": numbers[:, None].expand(5, 2).contiguous() % 3, "lengths": numbers * 0 + 1}
    given |= {
        "target_probability": 1 - (numbers % 2).float(),
        "targets": numbers[:3],
        "others": numbers[3:],
        "targets_per_epoch": 3,
        "others_per_epoch": 2,
        "unknown_id": 0,
    }
    given |= {
        "distill_weight": 0.0,
        "target_classes": [],
        "threshold": 0,
        "row_of_id": torch.zeros(3, dtype=torch.int32),
        "absent_row": 3,
    }
    with pytest.raises(error, match=says):
        _ext.C.DrawnDocuments(**given | {"read_last_word": True, name: value}).draw([1, 2])
    with pytest.raises(ValueError, match="keys must hold 2 numbers, but holds 1"):
        _ext.C.DrawnDocuments(**given, read_last_word=True).draw([1])

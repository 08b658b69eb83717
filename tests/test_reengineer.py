"""The whole loop on the invented corpus: results, their order, the figures and what stays as it was."""

import copy
import dataclasses
import importlib
import math
import random
import threading

import numpy as np
import pytest
import torch
from support import agreement, by_hand, toy_data, toy_weights
from support.agreement import assert_same
from support.by_hand import choose
from support.trainer_kinds import ENGINES

from seam_fast import (
    SeamModule,
    Settings,
    reengineer,
    reengineer_many,
)
from seam_fast.classifier import reference_model
from seam_fast.classifier.metrics import base_metrics, module_metrics
from seam_fast.common import rng
from seam_fast.modules.marks import FEWEST_TARGETS
from seam_fast.search import context, module_run
from seam_fast.search.evaluate import figures_on
from seam_fast.search.sampling import Sampler, is_target
from seam_fast.search.selection import F1Selection
from seam_fast.training.torch_trainer import TorchTrainer

loop = importlib.import_module("seam_fast.search.reengineer")  # the package gives that name to the function
QUICK = {"epochs": 3, "batch_size": 8, "lr_mask": 0.1, "threads": 1}


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | options)


# -- results ----------------------------------------------------------------------------------------------------------


def test_one_module_a_target_in_order(toy, toy_base):
    modules = run(toy_base, toy, [2, (3, 1), 0], threads=2)
    assert [module.target for module in modules] == [(2,), (1, 3), (0,)]
    assert all(isinstance(module, SeamModule) and module.base is toy_base for module in modules)
    assert [module.card["target_names"] for module in modules] == [["k2"], ["k1", "k3"], ["k0"]]


def test_targets_in_any_form(toy, toy_base):
    modules = run(toy_base, toy, (k for k in (np.int64(1), 2, {3, 1}, [1, 3, 3])), epochs=1)
    assert [module.target for module in modules] == [(1,), (2,), (1, 3), (1, 3)]
    assert_same(modules[2], modules[3])
    assert run(toy_base, toy, []) == []


def test_targets_out_of_a_tensor(toy, toy_base):
    """As in `for k in labels.unique()`."""
    modules = run(toy_base, toy, torch.tensor([1, 3]), epochs=1)
    assert [module.target for module in modules] == [(1,), (3,)]


def test_a_set_of_classes_is_one_target(toy, toy_base):
    (module,) = run(toy_base, toy, [(1, 3)], sampling="all")
    test = toy.test
    wanted = (test.labels == 1) | (test.labels == 3)
    assert module.metrics["test"]["targets"] == int(wanted.sum()) == 9
    assert module.metrics["test"] == module_metrics(module.logits(test.ids, test.lengths), wanted)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"protocol": "reference", "word_dropout": 0.1, "epochs": 6}])
def test_the_same_twice_in_any_number_of_threads(toy, toy_base, options, engine):
    options = options | {"backend": engine}
    first = run(toy_base, toy, [0, 1, 2, 3], **options)
    for threads in (1, 2, None):
        for one, other in zip(first, run(toy_base, toy, [0, 1, 2, 3], **options | {"threads": threads}), strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_does_not_depend_on_those_beside_it(toy, toy_base, engine):
    together = run(toy_base, toy, [0, 3, 2], backend=engine)
    assert_same(together[2], run(toy_base, toy, [2], backend=engine)[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_several_settings_side_by_side(toy, toy_base, engine):
    """Each as by itself, whatever their protocol and batches."""
    quick = {"epochs": 3, "batch_size": 8}
    several = [Settings.for_protocol("seam").with_options(alpha=alpha, **quick) for alpha in (0.1, 0.4)]
    several.append(Settings.for_protocol("reference").with_options(**quick | {"batch_size": 3}))
    seen = set()
    found = reengineer_many(
        toy_base,
        toy,
        [2, 0],
        several,
        threads=2,
        backend=engine,
        on_epoch=lambda job, figures: seen.add((job.name, job.context.settings.alpha)),
    )
    assert [len(row) for row in found] == [2, 2, 2]
    for row, settings in zip(found, several, strict=True):
        alone = reengineer(toy_base, toy, [2, 0], settings=settings, threads=1, backend=engine)
        for one, other in zip(row, alone, strict=True):
            assert_same(one, other)
            assert one.card["settings"] == settings.as_dict()
    assert {("k2", 0.1), ("k2", 0.4), ("k0", several[2].alpha)} <= seen
    assert reengineer_many(toy_base, toy, [2], []) == []


def test_seeds_differ(toy, toy_base):
    one, other = (run(toy_base, toy, [1], seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(one.head[0], other.head[0])
    assert any(not torch.equal(one.scores[key], other.scores[key]) for key in toy_weights.KEYS)
    assert (one.card["seed"], other.card["seed"]) == (0, 1)


@pytest.mark.parametrize("schedule", ["seam", "port", "joint"])
def test_a_whole_run_by_hand(toy, toy_base, schedule):
    """In float64 against the NumPy version, fed with the documents and the head that the seed says."""
    base = copy.deepcopy(toy_base).double()
    options = {"alpha": 0.2, "lr_mask": 0.05, "lr_head": 0.02, "schedule": schedule}
    (module,) = run(
        base, toy, [2], protocol="reference", selection="last", seed=4, **options | {"epochs": 6, "batch_size": 5}
    )
    hand = by_hand.HandSeam(base.weights(), rng.head(4, (2,), 4), readout="last_word", **options)
    settings = Settings.for_protocol("reference")
    sampler = Sampler(toy, torch.arange(len(toy.train)), (2,), settings, 4)
    for epoch in range(6):
        for batch in toy_data.cut(sampler.epoch(epoch), 5):  # 18 documents: the last batch has three
            hand.step(*batch, head_only=schedule == "seam" and epoch % 5 == 0)
    assert all(score.dtype == torch.float64 for score in module.scores.values())
    assert agreement.largest_difference(hand, module.scores, module.head) < 1e-9
    assert module.card["steps"] == 24


def test_a_whole_run_of_protocol_seam_by_hand(toy, toy_base):
    """Its defaults in float64: redrawn documents of the fit part, dropped words, soft labels, falling rates."""
    base = copy.deepcopy(toy_base).double()
    options = {"lr_mask": 0.05, "epochs": 5, "batch_size": 16, "threshold": "half"}
    (module,) = run(base, toy, [1], selection="last", seed=2, **options)
    settings = Settings(lr_mask=0.05, epochs=5)

    def teacher(ids, lengths):
        with torch.no_grad():
            return torch.softmax(base(ids, lengths), 1)[:, 1]

    sampler = Sampler(toy, toy.validation_indices()[0], (1,), settings, 2, teacher)
    options = {
        "alpha": settings.alpha,
        "penalty": "group",
        "lstm_penalty_scale": settings.lstm_penalty_scale,
        "linear_penalty_scale": settings.linear_penalty_scale,
        "schedule": "joint",
    }
    hand = by_hand.HandSeam(
        base.weights(), rng.head(2, (1,), 4, True), readout="last_word", lr_mask=0, lr_head=0, **options
    )
    for epoch in range(5):
        scale = (1 + math.cos(math.pi * epoch / 5)) / 2
        hand.lr_mask, hand.lr_head = 0.05 * scale, 0.01 * scale
        for batch in toy_data.cut(sampler.epoch(epoch), 16):
            hand.step(*batch)
    assert agreement.largest_difference(hand, module.scores, module.head) < 1e-9


def test_a_float64_base_goes_all_the_way(toy, toy_base):
    base = copy.deepcopy(toy_base).double()
    (module,) = run(base, toy, [1])
    assert module.predict_proba(toy.test.ids, toy.test.lengths).dtype == torch.float64
    (narrow,) = run(toy_base, toy, [1])
    assert [f["cross_entropy"] for f in module.history] == pytest.approx(
        [f["cross_entropy"] for f in narrow.history], rel=0.05
    )


def test_52_classes(many_classes):
    corpus, base = many_classes
    modules = run(base, corpus, [0, 51, range(10)], threads=2)
    assert [module.target for module in modules] == [(0,), (51,), tuple(range(10))]
    assert modules[0].head[0].shape == (2, 52)
    assert modules[2].metrics["test"]["targets"] == 20
    assert (modules[0].metrics["test"]["documents"], modules[0].metrics["test_balanced"]["documents"]) == (104, 4)


def test_it_learns(toy, toy_base):
    (module,) = run(toy_base, toy, [0], epochs=40, lr_mask=0.03, sampling="all", word_dropout=0.0, distill_weight=0.0)
    assert module.history[-1]["cross_entropy"] < 0.5 * module.history[0]["cross_entropy"]
    assert module.metrics["test"]["balanced_accuracy"] > 0.7
    assert module.kept < 0.9


# -- history, figures and the choice ----------------------------------------------------------------------------------


def test_history_and_card(toy, toy_base):
    (module,) = run(toy_base, toy, [2], epochs=4, seed=3, alpha=0.3, early_stop=-1)
    assert [figures["epoch"] for figures in module.history] == [0, 1, 2, 3]
    for figures in module.history:
        assert 0 < figures["cross_entropy"] < 10 and 0 < figures["kept"] <= 1 and figures["seconds"] > 0
        assert set(figures["kept_by_group"]) == {"embedding", "lstm", "linear"}
        assert figures["documents"] == len(toy.validation_indices()[1])
    assert module.history[0]["targets"] < FEWEST_TARGETS, "a toy: too few to choose by"
    best = choose(F1Selection(targets=1), module.history)
    card = module.card
    assert card["best_epoch"] == best
    assert module.kept == module.history[best]["kept"]
    assert module.kept_by_group == module.history[best]["kept_by_group"]
    assert (card["seed"], card["epochs"], card["settings"]["alpha"]) == (3, 4, 0.3)
    assert (card["corpus"], card["synthetic"], card["class_names"]) == ("toy", False, ["k0", "k1", "k2", "k3"])
    assert (card["data_hash"], card["base_hash"]) == (toy.data_hash, toy_base.hash)
    assert 0 < card["vocabulary_floor"] <= 1
    assert card["versions"]["torch"] == torch.__version__


def test_figures_are_those_of_the_documents_they_claim(toy, toy_base):
    (module,) = run(toy_base, toy, [2], selection="last", threshold="half")
    weights, test = toy_base.weights(), toy.test

    def figures(split, chosen):
        ids, lengths, labels = split.ids[chosen], split.lengths[chosen], split.labels[chosen]
        classes = reference_model.class_logits(ids, lengths, weights, module.scores, "last_word")
        with torch.no_grad():
            base = toy_base(ids, lengths)
        wanted = is_target(labels, (2,))
        return module_metrics(reference_model.head_logits(classes, module.head), wanted), base_metrics(
            base, wanted, (2,)
        )

    last, _ = figures(toy.train, toy.validation_indices()[1])
    assert {key: module.history[-1][key] for key in last} == pytest.approx(last)
    own, base = figures(test, torch.arange(len(test)))
    assert module.metrics["test"] == pytest.approx(own)
    assert module.metrics["base"] == pytest.approx(base)
    assert (module.metrics["test_balanced"]["targets"], module.metrics["test_balanced"]["documents"]) == (4, 8)


def test_protocol_seam_reads_the_test_set_only_at_the_end(toy, toy_base):
    other = dataclasses.replace(toy, test=toy.train)
    one, another = (run(toy_base, corpus, [1])[0] for corpus in (toy, other))
    assert one.metrics["test"] != another.metrics["test"]
    another.metrics = one.metrics
    assert_same(one, another)


def test_protocol_reference_chooses_on_a_balanced_draw_of_the_test_set(toy, toy_base):
    (module,) = run(toy_base, toy, [2], protocol="reference", word_dropout=0.0)
    assert all((figures["documents"], figures["targets"]) == (8, 4) for figures in module.history)
    everything = run(toy_base, toy, [2], protocol="reference", sampling="all")[0]
    assert all(figures["documents"] == len(toy.test) for figures in everything.history)


def test_evaluate_every_0_never_evaluates(toy, toy_base, monkeypatch):
    def forbidden(*args, **kwargs):
        pytest.fail("evaluated")

    (evaluated,) = run(toy_base, toy, [1], selection="last", threshold="half", distill_weight=0.0, backend="torch")
    for owner, name in (
        (context, "class_logits"),
        (module_run, "module_metrics"),
        (module_run, "base_metrics"),
        (TorchTrainer, "logits"),
        (SeamModule, "logits"),
    ):
        monkeypatch.setattr(owner, name, forbidden)
    for options in (
        {"distill_weight": 0.0},
        {"protocol": "reference"},
    ):  # soft labels need the base's outputs, in training
        (module,) = run(toy_base, toy, [1], evaluate_every=0, backend="torch", **options)
        assert module.metrics == {} and module.card["best_epoch"] == 2
        assert all("accuracy" not in figures and figures["kept"] <= 1 for figures in module.history)
    (module,) = run(toy_base, toy, [1], evaluate_every=0, distill_weight=0.0, backend="torch")
    assert all(torch.equal(module.scores[key], evaluated.scores[key]) for key in toy_weights.KEYS), "the last epoch's"


def test_evaluate_every_other_epoch_and_always_the_last(toy, toy_base):
    (module,) = run(toy_base, toy, [1], epochs=5, evaluate_every=2)
    assert [figures["epoch"] for figures in module.history if "f1" in figures] == [1, 3, 4]
    assert module.card["best_epoch"] in (1, 3, 4)


def test_no_epochs_leave_everything_kept(toy, toy_base):
    (module,) = run(toy_base, toy, [1], epochs=0)
    assert module.kept == 1 and module.history == []
    weight, bias = rng.head(0, (1,), 4, True)
    assert torch.equal(module.head[0], weight) and torch.equal(module.head[1], bias)
    assert module.metrics["test"]["documents"] == len(toy.test)


def test_early_stop_ends_early(toy, toy_base):
    """Nothing moves, so no epoch is any progress."""
    still = {"lr_mask": 0.0, "lr_head": 0.0, "epochs": 10, "min_epoch_fraction": 0.0}
    assert len(run(toy_base, toy, [0], early_stop=3, **still)[0].history) == 4
    assert len(run(toy_base, toy, [0], early_stop=-1, **still)[0].history) == 10


def test_the_threshold_moves_the_heads_bias_and_the_card_says_so(toy, toy_base):
    """Figures on the test documents and answers are those of the moved one; everything else is as without."""
    half, moved = (run(toy_base, toy, [1], threshold=threshold, seed=3)[0] for threshold in ("half", "f1"))
    found = moved.card["threshold"]
    assert found["moved_by"] != 0 and "threshold" not in half.card
    assert torch.equal(half.head[0], moved.head[0])
    shift = half.head[1] - moved.head[1]
    assert shift.tolist() == pytest.approx([found["moved_by"], 0.0], abs=1e-6)
    assert half.mask == moved.mask and half.history[-1]["f1"] == moved.history[-1]["f1"] == found["f1_before"]
    figures = figures_on(moved, toy.test)
    assert moved.metrics == figures != half.metrics


def test_rare_classes_are_evaluated_more_seldom(toy, toy_base):
    """So that evaluations read no more documents than training; a rule that counts epochs sees each of them."""
    count = len(toy.validation_indices()[1])
    few = {"targets_per_epoch": 1, "negatives_per_target": 1, "epochs": 9}

    def evaluated(**options):
        (module,) = run(toy_base, toy, [1], **few | options)
        return [figures["epoch"] for figures in module.history if "f1" in figures]

    assert count == 5 and evaluated() == [2, 5, 8], "two documents an epoch: after the third, six"
    assert evaluated(early_stop=5) == evaluated(evaluate_every=1)[: len(evaluated(early_stop=5))]
    assert evaluated(evaluate_every=4) == [3, 7, 8]
    assert evaluated(targets_per_epoch=2, negatives_per_target=2) == list(range(9))


def test_selection_last(toy, toy_base):
    (module,) = run(toy_base, toy, [3], epochs=5, selection="last")
    assert module.card["best_epoch"] == 4 and module.kept == module.history[4]["kept"]


def test_budget_in_steps(toy, toy_base):
    (module,) = run(toy_base, toy, [0], epochs=None, steps=7, sampling="all", batch_size=16)
    assert (len(module.history), module.card["steps"]) == (3, 9)  # 44 documents are left to train on: 3 batches


# -- callbacks and threads --------------------------------------------------------------------------------------------


def test_on_epoch_is_called_in_the_calling_thread(toy, toy_base):
    calls = []
    modules = run(
        toy_base,
        toy,
        [1, (0, 2)],
        threads=2,
        on_epoch=lambda job, figures: calls.append((threading.get_ident(), job, figures)),
    )
    assert {thread for thread, _, _ in calls} == {threading.get_ident()}
    for module, name in zip(modules, ("k1", "k0+k2"), strict=True):
        assert [figures for _, job, figures in calls if job.target == module.target] == module.history
        assert {job.name for _, job, _ in calls if job.target == module.target} == {name}


def test_what_was_global_is_as_it_was(toy, toy_base):
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    threads = set(threading.enumerate())
    torch.set_num_threads(3)
    run(toy_base, toy, [0, 1], threads=2)
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError):
        run(toy_base, toy, [0, 1], threads=2, on_epoch=lambda job, figures: 1 / 0)
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    assert set(threading.enumerate()) <= threads, "no worker is left behind"


def test_the_base_and_the_corpus_are_as_they_were(toy, toy_base):
    tensors = [
        *toy_base.parameters(),
        *(getattr(split, part) for split in (toy.train, toy.test) for part in ("ids", "labels")),
    ]
    before, training = [tensor.detach().clone() for tensor in tensors], toy_base.training
    run(toy_base, toy, [0, 2], schedule="seam")
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert toy_base.training == training


def test_it_works_where_gradients_are_off(toy, toy_base):
    (usual,) = run(toy_base, toy, [1])
    with torch.no_grad():
        assert_same(usual, run(toy_base, toy, [1])[0])

"""The whole loop on the invented corpus: results, their order, what stays as it was, and what is said on errors."""

import copy
import dataclasses
import importlib
import io
import math
import random
import re
import threading

import numpy as np
import pytest
import torch
from support import agreement, by_hand, toy_data, toy_weights
from support.by_hand import choose

from seam_fast import (
    Interrupted,
    LSTMClassifier,
    SeamModule,
    Settings,
    TrainingError,
    backend,
    backends,
    reengineer,
    reengineer_many,
)
from seam_fast.classifier import reference_model
from seam_fast.classifier.metrics import base_metrics, module_metrics
from seam_fast.common import progress, rng
from seam_fast.search import context, module_run, scheduler
from seam_fast.search.sampling import Sampler, is_target
from seam_fast.search.selection import F1Selection
from seam_fast.training import registry
from seam_fast.training.cpu_trainer import CpuTrainer
from seam_fast.training.op_trainer import OpTrainer
from seam_fast.training.torch_trainer import TorchTrainer

loop = importlib.import_module("seam_fast.search.reengineer")  # the package gives that name to the function
ENGINES = [name for name in ("torch", "cpu", "cuda") if not backend.untrainable_reason(torch.float32, name)]
QUICK = {"epochs": 3, "batch_size": 8, "lr_mask": 0.1, "threads": 1}


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | options)


def without_seconds(history):
    return [{key: value for key, value in figures.items() if key != "seconds"} for figures in history]


def assert_same(one, other):
    """Bit for bit."""
    assert one.target == other.target
    for key in toy_weights.KEYS:
        assert torch.equal(one.scores[key], other.scores[key]), key
    assert all(torch.equal(a, b) for a, b in zip(one.head, other.head, strict=True))
    assert without_seconds(one.history) == without_seconds(other.history)
    assert one.metrics == other.metrics


@pytest.fixture(scope="module")
def many():
    """52 classes of three training documents each, and a base as drawn."""
    corpus = toy_data.make_corpus((3,) * 52, (2,) * 52)
    return corpus, toy_weights.make_base(corpus, steps=0)


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
        drawn = sampler.epoch(epoch)
        for batch in toy_data.cut(
            (drawn.ids, drawn.lengths, drawn.labels), 5
        ):  # 18 documents: the last batch has three
            hand.step(*batch, head_only=schedule == "seam" and epoch % 5 == 0)
    assert all(score.dtype == torch.float64 for score in module.scores.values())
    assert agreement.largest_difference(hand, module.scores, module.head) < 1e-9
    assert module.card["steps"] == 24


def test_a_whole_run_of_protocol_seam_by_hand(toy, toy_base):
    """Its defaults in float64: redrawn documents of the fit part, dropped words, soft labels, falling rates."""
    base = copy.deepcopy(toy_base).double()
    (module,) = run(base, toy, [1], selection="last", seed=2, **{"lr_mask": 0.05, "epochs": 5, "batch_size": 16})
    settings = Settings(lr_mask=0.05, epochs=5)

    def teacher(ids, lengths):
        with torch.no_grad():
            return torch.softmax(base(ids, lengths), 1)[:, 1]

    sampler = Sampler(toy, toy.validation_indices()[0], (1,), settings, 2, teacher)
    options = {
        "alpha": settings.alpha,
        "penalty": "group",
        "lstm_penalty_scale": settings.lstm_penalty_scale,
        "schedule": "joint",
    }
    hand = by_hand.HandSeam(base.weights(), rng.head(2, (1,), 4), readout="last_word", lr_mask=0, lr_head=0, **options)
    for epoch in range(5):
        scale = (1 + math.cos(math.pi * epoch / 5)) / 2
        hand.lr_mask, hand.lr_head = 0.05 * scale, 0.01 * scale
        drawn = sampler.epoch(epoch)
        for batch in toy_data.cut((drawn.ids, drawn.lengths, drawn.labels), 16):
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


def test_52_classes(many):
    corpus, base = many
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
    best = choose(F1Selection(), module.history)
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
    (module,) = run(toy_base, toy, [2], selection="last")
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

    (evaluated,) = run(toy_base, toy, [1], selection="last", distill_weight=0.0, backend="torch")
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
    weight, bias = rng.head(0, (1,), 4)
    assert torch.equal(module.head[0], weight) and torch.equal(module.head[1], bias)
    assert module.metrics["test"]["documents"] == len(toy.test)


def test_early_stop_ends_early(toy, toy_base):
    """Nothing moves, so no epoch is any progress."""
    still = {"lr_mask": 0.0, "lr_head": 0.0, "epochs": 10, "min_epoch_fraction": 0.0}
    assert len(run(toy_base, toy, [0], early_stop=3, **still)[0].history) == 4
    assert len(run(toy_base, toy, [0], early_stop=-1, **still)[0].history) == 10


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


def test_no_bar_where_the_output_is_no_terminal(toy, toy_base, capsys):
    run(toy_base, toy, [1], progress=True)
    assert capsys.readouterr() == ("", "")


class Bar:
    """Stands in for tqdm's: remembers what it was told after each update."""

    def __init__(self, total):
        self.total, self.n, self.postfix, self.seen = total, 0, "", []

    def set_postfix_str(self, text, refresh=True):
        self.postfix = text

    def update(self, n):
        assert n >= 0
        self.n += n
        self.seen.append((self.n, self.total, self.postfix))

    def close(self):
        self.seen.append("closed")


@pytest.fixture
def bars(monkeypatch):
    made = []
    monkeypatch.setattr(scheduler, "progress_bar", lambda total, what: made.append(Bar(total)) or made[-1])
    return made


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bar_counts_steps_and_modules_of_all(toy, toy_base, bars, threads):
    modules = run(toy_base, toy, [0, 1, 2], progress=True, threads=threads, sampling="all", epochs=4)
    (bar,) = bars
    steps = sum(module.card["steps"] for module in modules)
    assert bar.seen[-2:] == [(steps, steps, "3/3 modules"), "closed"] and steps == 3 * 4 * 6
    assert all(total == steps for _, total, _ in bar.seen[:-1])
    assert {text for _, _, text in bar.seen[:-1]} <= {f"{n}/3 modules" for n in range(4)}


def test_the_bar_expects_less_once_a_module_stopped_early(toy, toy_base, bars):
    """Nothing moves, so each module stops after four of its 50 epochs."""
    still = {
        "lr_mask": 0.0,
        "lr_head": 0.0,
        "epochs": 50,
        "min_epoch_fraction": 0.0,
        "early_stop": 3,
        "sampling": "all",
    }
    run(toy_base, toy, [0, 1], progress=True, **still)
    seen = bars[0].seen[:-1]
    assert bars[0].total == 48 == seen[-1][0], "two modules, four epochs, six steps"
    for n, total, text in seen:
        ended = int(text[0])
        assert n <= total == (2 - ended) * 300 + ended * 24


def test_the_bar_ends_where_a_module_failed(toy, toy_base, bars, monkeypatch):
    check = TorchTrainer.check_finite

    def failing(self):
        if self.steps > 6:
            raise TrainingError("invented")
        check(self)

    monkeypatch.setattr(TorchTrainer, "check_finite", failing)
    with pytest.raises(TrainingError, match="target k0, epoch 1: invented"):
        run(toy_base, toy, [0], progress=True, sampling="all", backend="torch")
    assert bars[0].seen[-2] == (12, 12, "1/1 modules")


def test_the_bar_on_a_terminal(toy, toy_base, monkeypatch):
    """What tqdm makes of it: steps of steps, time left, steps a second, modules done."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    bar = progress.progress_bar(100, "re-engineering")
    bar.close()
    shown = terminal.getvalue()
    assert re.search(r"re-engineering: +0%.* 0/100 \[00:00<\?, \?step/s\]", shown), shown


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


def interrupt_at(target, epoch):
    def on_epoch(job, figures):
        if (job.target, figures["epoch"]) == (target, epoch):
            raise KeyboardInterrupt

    return on_epoch


def test_ctrl_c_carries_the_best_modules_so_far(toy, toy_base):
    threads = set(threading.enumerate())
    with pytest.raises(Interrupted) as caught:
        run(toy_base, toy, [1, 0, 3], sampling="all", epochs=20_000, on_epoch=interrupt_at((1,), 1))
    assert isinstance(caught.value, KeyboardInterrupt)
    module, *others = caught.value.modules
    assert others == [None, None], "one thread: they had not begun"
    assert 2 <= len(module.history) < 20_000 and module.target == (1,)
    assert module.card["best_epoch"] == choose(F1Selection(), module.history)
    assert module.kept == module.history[module.card["best_epoch"]]["kept"]
    assert module.predict_proba(toy.test.ids, toy.test.lengths).shape == (21, 2)
    assert module.front[0].module().kept == min(figures["kept"] for figures in module.history)
    assert set(threading.enumerate()) <= threads


def wait_for_stop_in(monkeypatch, epoch, steps):
    """Lets training go on in this epoch until it has taken a few steps, and there wait for Ctrl-C."""
    run_epoch, calls = TorchTrainer.run_epoch, []

    def waiting(self, ids, lengths, labels, batch_size, *, head_only=False, stop=None):
        calls.append(1)
        if len(calls) - 1 != epoch:
            return run_epoch(self, ids, lengths, labels, batch_size, head_only=head_only, stop=stop)
        some = slice(0, steps * batch_size)
        loss = run_epoch(self, ids[some], lengths[some], labels[some], batch_size, head_only=head_only)
        assert stop.wait(30)
        return loss

    monkeypatch.setattr(TorchTrainer, "run_epoch", waiting)


@pytest.mark.parametrize("options", [{}, {"selection": "last"}, {"evaluate_every": 0}, {"evaluate_every": 5}])
def test_ctrl_c_in_the_middle_of_an_epoch_gives_a_whole_epochs_module(toy, toy_base, monkeypatch, options):
    """Scores, history and card speak of the same state: that after the last epoch that had ended."""
    options = options | {"backend": "torch"}
    (wanted,) = run(toy_base, toy, [1], epochs=1, **options)
    wait_for_stop_in(monkeypatch, epoch=1, steps=2)
    with pytest.raises(Interrupted) as caught:
        run(toy_base, toy, [1], epochs=9, on_epoch=interrupt_at((1,), 0), **options)
    (module,) = caught.value.modules
    assert module.card["best_epoch"] == 0
    for key in toy_weights.KEYS:
        assert torch.equal(module.scores[key] > 0, wanted.scores[key] > 0), key
    assert module.kept == module.history[0]["kept"]


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ([4], "target class 4 does not exist: the corpus has classes 0 to 3"),
        ([-1], "target class -1 does not exist"),
        ([0, (1, 9)], "target class 9 does not exist"),
        ([()], "at least one class"),
        ([(0, 1, 2, 3)], "every document"),
    ],
)
def test_targets_that_cannot_be(toy, toy_base, targets, sentence):
    with pytest.raises(TrainingError, match=sentence):
        run(toy_base, toy, targets)


@pytest.mark.parametrize("target", ["grain", "k1", 1.5, None])
def test_targets_that_are_no_numbers(toy, toy_base, target):
    with pytest.raises(TrainingError, match="target"):
        run(toy_base, toy, [target])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"protocol": "other"}, "protocol is 'other'; it must be one of seam, reference"),
        ({"sampling": "some"}, "sampling is 'some'"),
        ({"schedule": "none"}, "schedule is 'none'"),
        ({"alpha": -1}, "alpha is -1; it must be at least 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"evaluate_every": -1}, "evaluate_every is -1"),
        ({"shots": 1000}, "shots is 1000"),
        ({"backend": "warp"}, "backend 'warp' is unknown"),
    ],
)
def test_options_that_cannot_be(toy, toy_base, options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        run(toy_base, toy, [0], **options)


@pytest.mark.parametrize("options", [{"epochs": 2.5}, {"batch_size": 2.5}, {"alpha": math.inf}, {"lr_mask": math.inf}])
def test_numbers_that_cannot_be(toy, toy_base, options):
    with pytest.raises(TrainingError, match=next(iter(options))):
        run(toy_base, toy, [0], **options)


def test_an_unknown_option(toy, toy_base):
    with pytest.raises(TypeError, match="colour"):
        run(toy_base, toy, [0], colour="blue")


def test_a_base_of_another_corpus(toy, toy_base, many):
    corpus, _ = many
    sentence = f"the base knows {toy.vocab_size} words and 4 classes, the corpus has {corpus.vocab_size} and 52"
    with pytest.raises(TrainingError, match=sentence):
        run(toy_base, corpus, [0])
    base = copy.deepcopy(toy_base)
    base.vocabulary = tuple(reversed(toy.words))
    with pytest.raises(TrainingError, match="numbers its words otherwise"):
        run(base, toy, [0])
    base.vocabulary = tuple(toy.words)
    run(base, toy, [0], epochs=1)


def poisoned(many, k):
    """The base of 52 classes with a NaN in the rows of class k's own words, and a class whose draw has none of them."""
    corpus, base = many
    base = copy.deepcopy(base)
    words = [i for i, word in enumerate(corpus.words) if word.startswith(f"w{k}x")]
    with torch.no_grad():
        base.word_embeddings.weight[words, 0] = math.nan
    fit, _ = corpus.validation_indices()
    for other in range(52):
        if other != k and not set(words) & set(Sampler(corpus, fit, (other,), BALANCED, 0).fed_ids().tolist()):
            return corpus, base, other
    raise AssertionError("no class is clean of them")


BALANCED = Settings(sampling="balanced", word_dropout=0.0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_is_raised_when_the_other_modules_have_ended(many, threads, engine):
    corpus, base, good = poisoned(many, 7)
    calls = []
    with pytest.raises(TrainingError, match=r"target k7, epoch 0: .*step 1"):
        run(
            base,
            corpus,
            [7, good],
            settings=BALANCED,
            evaluate_every=0,
            epochs=5,
            threads=threads,
            backend=engine,
            on_epoch=lambda job, figures: calls.append((job.target, figures["epoch"])),
        )
    assert calls == [((good,), epoch) for epoch in range(5)]


def test_ctrl_c_after_a_failure_still_carries_the_others(toy, toy_base, monkeypatch):
    """The first target fails in its second epoch, the second one is interrupted after its first."""
    check, calls = TorchTrainer.check_finite, []

    def failing(self):
        calls.append(1)
        if len(calls) == 2:
            raise TrainingError("invented")
        check(self)

    monkeypatch.setattr(TorchTrainer, "check_finite", failing)
    with pytest.raises(Interrupted) as caught:
        run(toy_base, toy, [0, 1], sampling="all", epochs=50, backend="torch", on_epoch=interrupt_at((1,), 0))
    assert len(caught.value.modules) == 2
    assert caught.value.modules[1].target == (1,)


def test_an_unexpected_error_names_the_target_and_keeps_its_cause(toy, toy_base, monkeypatch):
    def broken(self, *args, **kwargs):
        raise MemoryError("invented")

    monkeypatch.setattr(TorchTrainer, "run_epoch", broken)
    with pytest.raises(RuntimeError, match="k2") as caught:
        run(toy_base, toy, [2], backend="torch")
    assert isinstance(caught.value.__cause__, MemoryError)


# -- backends ---------------------------------------------------------------------------------------------------------


def test_backends_say_why_not(toy, toy_base, monkeypatch):
    reasons = backends()
    assert {"torch", "cpu", "cuda"} <= set(reasons) and reasons["torch"] == ""
    for name, reason in reasons.items():
        if reason:
            with pytest.raises(TrainingError, match=f"backend '{name}' cannot be used"):
                run(toy_base, toy, [0], backend=name)
    assert_same(run(toy_base, toy, [0], backend=ENGINES[-1])[0], run(toy_base, toy, [0], backend="auto")[0])
    monkeypatch.setenv("SEAM_FAST_BACKEND", "abacus")
    with pytest.raises(TrainingError, match="backend 'abacus' is unknown"):
        run(toy_base, toy, [0])
    run(toy_base, toy, [0], backend="torch", epochs=1)  # what the call says counts


def test_the_trainer_that_is_made(toy, toy_base, monkeypatch):
    """By engine and base; only the compiled engine is given a lazy_update."""
    made = []

    def fake(real):
        class Fake(TorchTrainer):
            engine, fused = real.engine, real.fused
            unsupported = real.unsupported
            for_engine = classmethod(real.for_engine.__func__)

            def __init__(self, weights, head, fed_ids, config, *, backend=None, lazy_update=None):
                made.append((real.__name__, backend, lazy_update))
                super().__init__(weights, head, fed_ids, config)

        return Fake

    fakes = [fake(CpuTrainer), fake(OpTrainer), TorchTrainer]
    monkeypatch.setattr(registry, "TRAINERS", fakes)
    deep = LSTMClassifier(toy.vocab_size, 6, 5, 4, readout="last_word", num_layers=2)
    for base, engine, wanted in (
        (toy_base, "cpu", ("CpuTrainer", None, "replay")),
        (toy_base, "torch", None),
        (deep, "cpu", ("OpTrainer", "cpu", None)),
        (deep, "torch", None),
    ):
        monkeypatch.setattr(loop, "choose_engine", lambda requested, dtype, engine=engine: engine)
        made.clear()
        (module,) = run(base, toy, [1], epochs=0, lazy_update="replay")
        assert made == ([wanted] if wanted else [])
        assert module.card["engine"] == engine
        assert module.card.get("lazy_update") == ("replay" if wanted and wanted[0] == "CpuTrainer" else None)


def test_the_engine_is_chosen_for_the_bases_dtype(toy, toy_base, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "choose_engine", lambda requested, dtype: asked.append((requested, dtype)) or "torch")
    run(copy.deepcopy(toy_base).double(), toy, [1], epochs=0, backend="cpu")
    assert asked == [("cpu", torch.float64)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_target_without_evaluation_documents(engine):
    """Nothing is said of it, and nothing fails: the reference's subset of none is none."""
    corpus = toy_data.make_corpus(test=(8, 6, 4, 0), protocol="reference")
    (module,) = run(toy_weights.make_base(corpus, steps=0), corpus, [3], protocol="reference", epochs=2, backend=engine)
    assert [figures["documents"] for figures in module.history] == [0, 0]


def test_a_base_of_bfloat16(toy, toy_base):
    (module,) = run(copy.deepcopy(toy_base).bfloat16(), toy, [0], epochs=1, backend="torch")
    assert 0 <= module.history[0]["average_precision"] <= 1

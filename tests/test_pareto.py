"""The Pareto front of a run: which epochs are on it, and that each point's module is the one its figures speak of."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import toy_weights

from seam_fast import LSTMClassifier, SeamModule, TrainingError, backend, reengineer
from seam_fast.classifier.metrics import module_metrics
from seam_fast.modules.marks import marks_on
from seam_fast.modules.pareto import Front, pareto
from seam_fast.search.context import SearchContext
from seam_fast.search.sampling import balanced, is_target

ENGINES = ["torch"] if backend.untrainable_reason(torch.float32) else ["torch", "cpu"]
QUICK = {"epochs": 14, "batch_size": 8, "lr_mask": 0.03, "threads": 1, "threshold": "half"}


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | options)


def slow_front(history):
    """Numbers of the epochs on the front, by comparing each with every other one."""
    seen = [figures for figures in history if "accuracy" in figures]

    def beaten(figures):
        for other in seen:
            as_good = other["accuracy"] >= figures["accuracy"] and other["kept"] <= figures["kept"]
            better = other["accuracy"] > figures["accuracy"] or other["kept"] < figures["kept"]
            if as_good and (better or other["epoch"] > figures["epoch"]):
                return True
        return False

    return [f["epoch"] for f in sorted((f for f in seen if not beaten(f)), key=lambda f: f["kept"])]


histories = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 6), st.integers(0, 6))), max_size=40).map(
    lambda epochs: [
        {"epoch": e} | ({} if pair is None else {"accuracy": pair[0] / 6, "kept": pair[1] / 6})
        for e, pair in enumerate(epochs)
    ]
)


# -- which epochs -----------------------------------------------------------------------------------------------------


@given(histories)
def test_the_front_is_what_nobody_beats(history):
    front = pareto(history)
    assert [figures["epoch"] for figures in front] == slow_front(history)
    assert all(a["kept"] < b["kept"] and a["accuracy"] < b["accuracy"] for a, b in itertools.pairwise(front))


@given(histories)
def test_snapshots_are_taken_on_entering_and_dropped_with_their_epoch(history):
    front, taken = Front(), {}
    for figures in history:
        if "accuracy" not in figures:
            continue
        epoch = figures["epoch"]

        def take(epoch=epoch):
            assert epoch not in taken, "once an epoch"
            state = {"bits": torch.tensor([epoch])}
            taken[epoch] = weakref.ref(state["bits"])
            return state

        front.offer(figures, take)
        so_far = slow_front(history[: epoch + 1])
        assert [f["epoch"] for f in front.figures] == so_far
        assert sorted(e for e, bits in taken.items() if bits() is not None) == sorted(so_far)


def test_of_two_equal_epochs_the_later_one_stays():
    assert pareto([{"epoch": e, "accuracy": 0.5, "kept": 0.1} for e in range(3)])[0]["epoch"] == 2


# -- of a run ---------------------------------------------------------------------------------------------------------

RUNS = [
    {},
    {"protocol": "reference", "alpha": 5.0, "lr_mask": 0.1, "epochs": 40},  # every fifth epoch trains the head only
    {"protocol": "reference", "sampling": "all", "selection": "last", "evaluate_every": 3, "lr_mask": 0.1},
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", RUNS)
def test_each_module_of_the_front_has_the_figures_of_its_epoch(toy, toy_base, engine, options):
    modules = run(toy_base, toy, [0, 2, (1, 3)], backend=engine, **options)
    assert max(len(module.front) for module in modules) > 1
    for module in modules:
        if options.get("protocol") == "reference":
            everything = torch.arange(len(toy.test))
            view = everything if "sampling" in options else balanced(toy.test.labels, module.target)
            split = toy.test
        else:
            split, view = toy.train, toy.validation_indices()[1]
        wanted = is_target(split.labels[view], module.target)
        assert [point.epoch for point in module.front] == slow_front(module.history)
        for point in module.front:
            assert point.figures == module.history[point.epoch]
            made = point.module()
            figures = module_metrics(made.logits(split.ids[view], split.lengths[view]), wanted)
            assert {key: point.figures[key] for key in figures} == figures
            assert (made.kept, made.kept_by_group) == (point.figures["kept"], point.figures["kept_by_group"])
            assert (made.target, made.base, made.history) == (module.target, toy_base, module.history)
            chosen = {name: value for name, value in module.card.items() if name not in ("marks", "qualified")}
            assert made.card == chosen | {"best_epoch": point.epoch}
            assert made.metrics == {} and made.front == []


def test_epochs_of_the_head_alone_can_be_on_the_front(toy, toy_base):
    """They keep what the epoch before them kept, so they are there for their accuracy."""
    modules = run(toy_base, toy, [0, 1, 2, 3], **RUNS[1])
    assert any(point.epoch % 5 == 0 for module in modules for point in module.front)


def test_the_point_of_the_chosen_epoch_is_the_module(toy, toy_base):
    """The epoch of fewest weights is on every front; chosen as the last one, it must come out the same twice."""
    (module,) = run(toy_base, toy, [1], selection="last")
    (point,) = [point for point in module.front if point.epoch == module.card["best_epoch"]]
    made = point.module()
    for key in toy_weights.KEYS:
        assert torch.equal(made.scores[key] > 0, module.scores[key] > 0), key
    assert all(torch.equal(a, b) for a, b in zip(made.head, module.head, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_fronts_do_not_depend_on_threads_or_on_who_runs_beside(toy, toy_base, engine):
    targets = [0, 1, 2, 3]
    one, other = (run(toy_base, toy, targets, threads=threads, backend=engine) for threads in (1, 3))
    (alone,) = run(toy_base, toy, [2], backend=engine)
    for a, b in [*zip(one, other, strict=True), (one[2], alone)]:
        assert [point.epoch for point in a.front] == [point.epoch for point in b.front]
        for mine, theirs in zip(a.front, b.front, strict=True):
            mine, theirs = mine.module(), theirs.module()
            assert all(torch.equal(mine.scores[key], theirs.scores[key]) for key in toy_weights.KEYS)
            assert all(torch.equal(p, q) for p, q in zip(mine.head, theirs.head, strict=True))


def test_without_evaluation_there_is_no_front(toy, toy_base):
    for options in ({"evaluate_every": 0}, {"epochs": 0}):
        assert run(toy_base, toy, [1], **options)[0].front == []


def test_a_front_of_a_float64_base_and_of_a_saved_point(toy, toy_base, tmp_path):
    base = copy.deepcopy(toy_base).double()
    (module,) = run(base, toy, [1])
    made = module.front[0].module()
    assert made.scores[toy_weights.EMBEDDING].dtype == torch.float64 == made.head[0].dtype
    made.save(tmp_path / "small.safetensors")
    loaded = SeamModule.load(tmp_path / "small.safetensors", base)
    assert loaded.card["best_epoch"] == module.front[0].epoch and loaded.kept == made.kept and loaded.front == []


def test_a_base_of_several_layers_has_fronts_too(toy):
    torch.manual_seed(0)
    base = LSTMClassifier(toy.vocab_size, 6, 5, 4, readout="last_word", num_layers=2, bidirectional=True)
    (module,) = run(base, toy, [2], epochs=4, lr_mask=0.3)
    assert "lstm.weight_hh_l1_reverse" in module.scores and "lazy_update" not in module.card
    held_out = toy.validation_indices()[1]
    wanted = is_target(toy.train.labels[held_out], (2,))
    for point in module.front:
        made = point.module()
        figures = module_metrics(made.logits(toy.train.ids[held_out], toy.train.lengths[held_out]), wanted)
        assert {key: point.figures[key] for key in figures} == figures
        assert made.kept == point.figures["kept"] < 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_front_does_not_keep_the_trainer_alive(toy, toy_base, monkeypatch, engine):
    trainers, make = [], SearchContext.make_trainer

    def watched(*arguments):
        trainer = make(*arguments)
        trainers.append(weakref.ref(trainer))
        trainers.append(weakref.ref(trainer.scores[toy_weights.EMBEDDING]))
        return trainer

    monkeypatch.setattr(SearchContext, "make_trainer", watched)
    modules = run(toy_base, toy, [0, 1], selection="f1", backend=engine)
    gc.collect()
    assert len(trainers) == 4 and all(trainer() is None for trainer in trainers)
    assert all(module.front for module in modules)


# -- which trainer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_card_says_what_trained(toy, toy_base, engine):
    (module,) = run(toy_base, toy, [1], epochs=1, backend=engine, lazy_update="replay")
    assert module.card["engine"] == engine
    assert module.card.get("lazy_update") == ("replay" if engine == "cpu" else None)


def test_a_lazy_update_that_does_not_exist(toy, toy_base):
    with pytest.raises(TrainingError, match="lazy_update is 'slow'; it must be one of quadrature, replay, off"):
        run(toy_base, toy, [1], lazy_update="slow")


def test_a_point_has_nothing_that_is_said_of_the_chosen_module(toy, toy_base):
    """No epoch of this run qualifies; that a card says so would mark the points as rejected."""
    (module,) = run(toy_base, toy, [1], selection="reference", alpha=1000.0, epochs=3)
    module.card |= {"svm": {"l2": {}}, "evaluated_on": {"source": "elsewhere"}, "qualified": False}
    for point in module.front:
        card = point.module().card
        assert marks_on(card) == [] and not {"svm", "evaluated_on", "qualified", "threshold"} & set(card)
        assert card["best_epoch"] == point.epoch and card["settings"] == module.card["settings"]

"""What goes wrong in a run: bad arguments, failures beside other modules, Ctrl-C; and which trainer a run takes."""

import copy
import importlib
import math
import threading

import pytest
import torch
from support import toy_data, toy_weights
from support.agreement import assert_same
from support.by_hand import choose
from support.trainer_kinds import ENGINES

from seam_fast import (
    Interrupted,
    LSTMClassifier,
    Settings,
    TrainingError,
    backends,
    reengineer,
)
from seam_fast.search.sampling import Sampler
from seam_fast.search.selection import F1Selection
from seam_fast.training import registry
from seam_fast.training.cpu_trainer import CpuTrainer
from seam_fast.training.op_trainer import OpTrainer
from seam_fast.training.torch_trainer import TorchTrainer

loop = importlib.import_module("seam_fast.search.reengineer")  # the package gives that name to the function
QUICK = {"epochs": 3, "batch_size": 8, "lr_mask": 0.1, "threads": 1}


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | options)


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
    assert module.card["best_epoch"] == choose(F1Selection(targets=1), module.history)
    assert module.kept == module.history[module.card["best_epoch"]]["kept"]
    assert module.predict_proba(toy.test.ids, toy.test.lengths).shape == (21, 2)
    assert module.front[0].module().kept == min(figures["kept"] for figures in module.history)
    assert set(threading.enumerate()) <= threads


def wait_for_stop_in(monkeypatch, epoch, steps):
    """Lets training go on in this epoch until it has taken a few steps, and there wait for Ctrl-C."""
    run_epoch, calls = TorchTrainer.run_epoch, []

    def waiting(self, ids, lengths, target_probability, batch_size, *, head_only=False, stop=None):
        calls.append(1)
        if len(calls) - 1 != epoch:
            return run_epoch(self, ids, lengths, target_probability, batch_size, head_only=head_only, stop=stop)
        some = (part[: steps * batch_size] for part in (ids, lengths, target_probability))
        loss = run_epoch(self, *some, batch_size, head_only=head_only)
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


def test_a_base_of_another_corpus(toy, toy_base, many_classes):
    corpus, _ = many_classes
    sentence = f"the base knows {toy.vocab_size} words and 4 classes, the corpus has {corpus.vocab_size} and 52"
    with pytest.raises(TrainingError, match=sentence):
        run(toy_base, corpus, [0])
    base = copy.deepcopy(toy_base)
    base.vocabulary = tuple(reversed(toy.words))
    with pytest.raises(TrainingError, match="numbers its words otherwise"):
        run(base, toy, [0])
    base.vocabulary = tuple(toy.words)
    run(base, toy, [0], epochs=1)


def poisoned(many_classes, k):
    """The base of 52 classes with a NaN in the rows of class k's own words, and a class whose draw has none of them."""
    corpus, base = many_classes
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
def test_a_failure_is_raised_when_the_other_modules_have_ended(many_classes, threads, engine):
    corpus, base, good = poisoned(many_classes, 7)
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

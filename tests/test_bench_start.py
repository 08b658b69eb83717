"""The benchmark of starts: its pieces are what they say, its record has its shape, and its table says what is in it."""

import argparse

import numpy as np
import pytest
from support import toy_weights

import seam_fast as sf
from seam_fast.classifier.metrics import module_metrics


@pytest.fixture
def kept(toy, toy_base, tmp_path):
    from benchmarks.quality import start

    return start.Kept(tmp_path, toy_base, toy, [1, 2], 1, [5])


@pytest.fixture
def record(kept, toy, toy_base, monkeypatch):
    from benchmarks.harness import schema
    from benchmarks.quality import start

    monkeypatch.setattr(start, "BUDGETS", (40, 20))
    monkeypatch.setattr(start, "RESAMPLES", 50)
    older = toy_weights.make_base(toy, seed=3)
    older.vocabulary, older.class_names = tuple(toy.words), tuple(toy.class_names)
    done = {(5, "full", 40): kept.modules("full", 40, 5, None)}
    for name in start.STARTS:
        done[5, name, 20] = kept.modules(name, 20, 5, lambda: (toy, older))
    arguments = argparse.Namespace(budgets=[40, 20], seeds=[5])
    return schema.check(start.record_of(done, toy_base, toy, arguments, "python -m x"))


def test_pieces(record, kept, toy, toy_base):
    starts = {(piece["start"], piece["steps"]): piece for piece in record["pieces"]}
    assert len(starts) == 6 and starts["older base", 20]["rebase"]["words"]["taken_over"] == toy.vocab_size
    assert not starts["same base", 20]["rebase"]
    for piece in record["pieces"]:
        (module, _) = kept.modules(piece["start"], piece["steps"], 5, lambda: pytest.fail("it is there already"))
        row = piece["modules"][0]
        assert row["kept"] == module.kept and row["class"] == "k1"
        logits = module.logits(toy.test.ids, toy.test.lengths)
        assert row["test"]["f1"] == module_metrics(logits, toy.test.labels == 1)["f1"]
        few = piece["start"] in ("magnitude", "saliency")
        assert (row["started_with"] < 0.11) == few and (few or row["started_with"] <= 1)


def test_reached_is_the_first_step_that_is_good_and_small_enough():
    from benchmarks.quality import start

    reference = toy_weights.make_module([1])
    reference.history[1] |= {"f1": 0.8, "kept": 0.2}
    module = toy_weights.make_module([1])
    module.card |= {"steps": 30, "epochs": 3}
    for figures, f1, share in zip(module.history, (0.79, 0.795, 0.9), (0.3, 0.21, 0.1), strict=True):
        figures |= {"f1": f1, "kept": share}
    assert start.reached(module, reference) == 20
    module.history[1]["f1"] = 0.78
    assert start.reached(module, reference) == 30
    module.history[2]["kept"] = 0.23
    assert start.reached(module, reference) is None


def test_the_mean_f1_and_its_interval():
    from benchmarks.quality import start

    random = np.random.default_rng(1)
    wanted, answers = random.random((2, 60)) < 0.4, random.random((2, 60)) < 0.5
    weights = np.ones((1, 60))
    hits = (answers & wanted).sum(1)
    f1 = 2 * hits / (answers.sum(1) + wanted.sum(1))
    assert start.mean_f1(answers, wanted, weights)[0] == pytest.approx(f1.mean())
    found = start.bootstrap([answers, answers], [wanted, answers], wanted)
    assert found["test_f1"]["mean"] == pytest.approx(f1.mean())
    assert found["test_f1"]["low"] < f1.mean() < found["test_f1"]["high"]
    assert found["test_f1_less_reference"]["mean"] == pytest.approx(f1.mean() - (1 + f1.mean()) / 2)


def test_no_validation_document_is_among_the_older_bases(toy):
    from benchmarks.quality import start

    chosen = start.earlier_documents(toy)
    assert not set(chosen) & set(toy.validation_indices()[1].tolist())
    assert max(chosen) < round(0.8 * len(toy.train)) and chosen == sorted(chosen)


def test_the_table_and_the_verdict(record):
    from benchmarks.report import tables_start

    f1 = {("full", 40): 0.9, ("full", 20): 0.8, ("magnitude", 20): 0.895, ("saliency", 20): 0.889}
    for piece in record["pieces"]:
        for row in piece["modules"]:
            row["validation_f1"], row["kept"] = f1.get((piece["start"], piece["steps"]), 0.91), 0.02
            row["kept"] = 0.05 if piece["start"] == "older base" else 0.02
    assert tables_start.fewest(record) == {
        "full": 40,
        "magnitude": 20,
        "saliency": None,
        "same base": 20,
        "older base": None,
    }
    said = tables_start.verdict(record)
    assert "Saved: magnitude 20 steps (20 in place of 40), same base 20 steps (20 in place of 40)." in said
    assert "without a prior that is 40." in said
    assert said.endswith(
        "Nothing saved: saliency (after 20 steps F1 0.889 at 2.00 % of the weights), older base (after 20 steps F1 "
        "0.910 at 5.00 % of the weights)."
    )
    assert "| magnitude | 20 |" in tables_start.starts(record)


def test_modules_that_are_there_are_not_trained_again(kept, monkeypatch):
    assert not kept.are_there("full", 20, 5)
    first = kept.modules("full", 20, 5, None)
    assert kept.are_there("full", 20, 5)
    monkeypatch.setattr(sf, "reengineer", lambda *_, **__: pytest.fail("it was trained again"))
    assert [module.mask for module in kept.modules("full", 20, 5, None)] == [module.mask for module in first]

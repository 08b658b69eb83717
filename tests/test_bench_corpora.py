"""The benchmark over corpora: its intervals, its pieces, and what its tables say."""

import numpy as np
import pytest

import seam_fast as sf
from seam_fast.classifier.evaluate import evaluate_classifier
from seam_fast.cli import report


def test_the_interval_is_that_of_documents_drawn_anew():
    from benchmarks.quality import corpora

    generator = np.random.default_rng(0)
    wanted = generator.random(300) < 0.2
    base, module = (np.where(generator.random(300) < right, wanted, ~wanted) for right in (0.95, 0.9))
    low, high = corpora.paired_interval(wanted, base, module, 1)

    def f1(said, chosen):
        both = (said & wanted)[chosen].sum()
        return 2 * both / (said[chosen].sum() + wanted[chosen].sum())

    drawn = [generator.integers(0, 300, 300) for _ in range(2000)]
    differences = [f1(module, chosen) - f1(base, chosen) for chosen in drawn]
    assert [low, high] == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.015)
    assert corpora.paired_interval(wanted, base, base, 1) == (0.0, 0.0)


@pytest.fixture
def record(toy, toy_base):
    from benchmarks.harness import schema
    from benchmarks.quality import corpora

    toy_base.info["test"] = evaluate_classifier(toy_base, toy.test).as_dict(toy.class_names)
    targets = corpora.by_size(toy)
    assert targets == [0, 1, 2, 3], "the largest first"
    pieces = [corpora.measure(toy_base, toy, targets, seed, 1) | {"corpus": "toy", "run": 0} for seed in (0, 1)]
    found = {"format": corpora.FORMAT, "method": corpora.METHOD, "unmeasured": [], "pieces": pieces}
    found |= {"corpora": {"toy": corpora.about_corpus(toy)}}
    return schema.check(found | {"runs": [{"command": "python -m x", "machine": report.machine()}]})


def test_pieces(record, toy):
    for piece in record["pieces"]:
        assert len(piece["modules"]) == toy.num_classes and piece["settings"] == sf.Settings().as_dict()
        for row in piece["modules"]:
            difference = row["difference"]
            assert difference["f1"] == pytest.approx(row["test"]["f1"] - row["base"]["f1"])
            assert difference["low"] <= difference["f1"] + 1e-9 and difference["f1"] - 1e-9 <= difference["high"]
            assert "not validated" in row["marks"] and row["documents"]["held_out"] < 10


def test_the_tables(record):
    from benchmarks.report import tables_corpora

    for piece in record["pieces"]:
        for number, row in enumerate(piece["modules"]):
            row["base"]["f1"], row["test"]["f1"], row["kept"], row["marks"] = 0.8, 0.8 - 0.1 * number, 0.02, []
            row["difference"] = {"f1": -0.1 * number, "low": -0.1 * number - 0.05, "high": -0.1 * number + 0.081}
    record["pieces"][1]["modules"][2]["marks"] = ["constant"]
    head, _, line = tables_corpora.corpora(record).splitlines()
    assert "more than 0.02 below the base" in head
    assert line.endswith("| 0.800 | 0.650 (0.650 to 0.650) | 2.00 | 4 of 8 | 1 |")
    said = tables_corpora.verdict(record)
    assert said.count("-0.200") == said.count("-0.300") == 2 and "-0.100" not in said
    assert "(-0.250 to -0.119, constant)" in said
    by_class = tables_corpora.by_class(record, "toy").splitlines()
    assert "| -0.100 -0.100 |" in by_class[3] and "| **-0.200** **-0.200** |" in by_class[4]
    for piece in record["pieces"]:
        for row in piece["modules"]:
            row["difference"]["high"] = -0.01
    assert tables_corpora.verdict(record).startswith("No module is more than 0.02 of F1 below its base")

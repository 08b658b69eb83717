"""The benchmark of sizes: its pieces are what they say, its record has its shape, and its tables say what is in it."""

import copy

import pytest
import torch

from seam_fast.classifier.metrics import binary_metrics
from seam_fast.cli import report
from seam_fast.data.class_numbers import is_target

SHARES = (0.02, 0.04)


@pytest.fixture(scope="module")
def measured(toy, toy_base):
    from benchmarks.harness import schema
    from benchmarks.quality import sizes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "SIZES", SHARES)
        pieces = [sizes.measure(toy_base, toy, [1, 2], each, 0, 40) for each in (SHARES, (0.02,), (0.04,), ())]
    counts = dict(zip(toy.class_names, toy.test.labels.bincount().tolist(), strict=True))
    about = {"hash": toy_base.hash, "data_hash": toy.data_hash, "synthetic": True, "test_documents": counts}
    found = {"format": sizes.FORMAT, "method": sizes.METHOD, "base": about, "unmeasured": [], "pieces": pieces}
    return schema.check(found | {"runs": [{"command": "python -m x", "machine": report.machine()}]})


@pytest.fixture
def record(measured):
    return copy.deepcopy(measured)


def test_pieces(record):
    several, two, four, own = record["pieces"]
    for share, piece in (("0.02", two), ("0.04", four)):
        rows = zip(several["modules"], own["modules"], piece["modules"], strict=True)
        for file, row, trained in rows:
            assert trained["own"]["kept"] == pytest.approx(float(share), abs=0.003)  # to the weight, of few weights
            for way in ("global", "group", "refit"):
                assert row["nested"][way][share]["kept"] == trained["own"]["kept"]
                assert file["nested"][way][share]["kept"] == trained["own"]["kept"]
    assert several["modules"][0]["own"] == several["modules"][0]["nested"]["group"]["0.04"]


def test_the_wrong_answers_give_the_f1(record, toy):
    """Their numbers go by class, whatever order the documents have."""
    for row, target in zip(record["pieces"][1]["modules"], ((1,), (2,)), strict=True):
        wanted = is_target(toy.test.labels.sort().values, target)
        wrong = torch.zeros(len(wanted), dtype=torch.bool)
        wrong[list(map(int, row["own"]["wrong"].split()))] = True
        scores = torch.zeros(len(wanted))
        assert binary_metrics(wanted ^ wrong, wanted, scores)["f1"] == pytest.approx(row["own"]["test"]["f1"])


def put(row, share, f1, wrong):
    """Gives a nested mask, or the module itself, an F1 and wrong answers."""
    figures = row["own"] if share is None else row["nested"]["group"][share]
    figures["test"]["f1"], figures["wrong"] = f1, " ".join(map(str, wrong))


def test_tables_and_verdict(record):
    from benchmarks.report import tables_sizes

    several, two, four, _ = record["pieces"]
    record["base"]["test_documents"] = {"k0": 10, "k1": 10, "k2": 10, "k3": 10}
    for k in range(2):
        targets = range(10 + 10 * k, 20 + 10 * k)
        put(several["modules"][k], "0.02", 1.0, [])
        put(several["modules"][k], "0.04", 0.0, targets)
        put(two["modules"][k], None, 0.99, [0])
        put(four["modules"][k], None, 1.0, [])
    found = tables_sizes.differences(record)
    assert found["0.02"]["mean"] == pytest.approx(0.01) and found["0.04"]["mean"] == -1
    # Document 0 is in some samples and not in others; all of a class's are never all left out of 2,000.
    assert found["0.02"]["low"] == 0 < found["0.02"]["high"] < 0.2
    assert (found["0.04"]["low"], found["0.04"]["high"]) == (-1, -1)
    said = tables_sizes.verdict(record)
    assert "1 seed: within 0.01 or better at 2 % (+0.010); more than 0.01 below at 4 % (-1.000)." in said
    assert "reach down to -1.000, so a loss of 0.01 is not excluded." in said
    table = tables_sizes.sizes(record)
    assert "| 2 | " in table and "1.000 (" in table and "-1.000 (-1.000 to -1.000) | -1.000 |" in table
    assert "| 1.000 / 0.990 | 0.000 / 1.000 |" in tables_sizes.by_class(record)
    assert tables_sizes.ways(record).count("by group, head refitted") == 2
    record["pieces"] = record["pieces"][:-1]
    assert tables_sizes.ways(record).count("by group, head refitted") == 1


def test_samples_are_paired(record):
    """Two that err in the same documents differ by nothing in every sample."""
    from benchmarks.report import tables_sizes

    for share, piece in (("0.02", record["pieces"][1]), ("0.04", record["pieces"][2])):
        for file, one in zip(record["pieces"][0]["modules"], piece["modules"], strict=True):
            one["own"]["wrong"] = file["nested"]["group"][share]["wrong"]
    assert all(each["low"] == each["high"] == 0 for each in tables_sizes.differences(record).values())

"""The benchmark of sizes: its pieces are what they say, its record has its shape, and its table says what is in it."""

import pytest

from seam_fast.cli import report


@pytest.fixture
def record(toy, toy_base):
    from benchmarks.harness import schema
    from benchmarks.quality import sizes

    pieces = [sizes.measure(toy_base, toy, [1, 2], keep, 0, 40) for keep in (None, 0.02, 0.04)]
    about = {"hash": toy_base.hash, "data_hash": toy.data_hash, "synthetic": True}
    found = {"format": sizes.FORMAT, "method": sizes.METHOD, "base": about, "unmeasured": [], "pieces": pieces}
    return schema.check(found | {"runs": [{"command": "python -m x", "machine": report.machine()}]})


def test_pieces(record):
    own, two, four = record["pieces"]
    for share, piece in (("0.02", two), ("0.04", four)):
        for row, trained in zip(own["modules"], piece["modules"], strict=True):
            assert trained["own"]["kept"] == pytest.approx(float(share), abs=0.003)  # to the weight, of few weights
            for way in ("global", "group", "refit"):
                assert row["nested"][way][share]["kept"] == trained["own"]["kept"]


def test_the_table_and_the_verdict(record):
    from benchmarks.report import tables_sizes

    for piece, f1 in zip(record["pieces"], (0.5, 0.6, 0.62), strict=True):
        for row in piece["modules"]:
            row["own"]["test"]["f1"] = f1
            for by_share in row.get("nested", {}).values():
                by_share["0.02"]["test"]["f1"], by_share["0.04"]["test"]["f1"] = 0.595, 0.5
    said = tables_sizes.verdict(record)
    assert said.endswith("1 seed: within 0.01 or better at 2 % (-0.005); more than 0.01 below at 4 % (-0.120).")
    assert "| 2 | " in tables_sizes.sizes(record) and "0.595 (" in tables_sizes.sizes(record)
    assert "| 0.595 / 0.600 | 0.500 / 0.620 |" in tables_sizes.by_class(record)

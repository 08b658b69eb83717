"""The benchmarks of penalties and of linear SVMs: records of their shape, and tables that say what is in them."""

import copy
import json

import pytest
from support import toy_data

from seam_fast.cli import report


@pytest.fixture(scope="module")
def measured(toy, toy_base):
    from benchmarks.harness import schema
    from benchmarks.quality import frontier

    pieces = [frontier.measure(toy_base, toy, [1, 2], alpha, scale, 3, 40) for alpha, scale in ((0.2, 1.0), (5.0, 0.1))]
    about = {"hash": toy_base.hash, "recipe": "strong", "data_hash": toy.data_hash, "synthetic": True}
    about["classes"] = frontier.of_base(toy_base, toy, [1, 2])
    found = {"format": frontier.FORMAT, "method": frontier.METHOD, "base": about, "unmeasured": [], "pieces": pieces}
    runs = [{"command": "python -m x", "machine": report.machine()}]
    return schema.check(json.loads(json.dumps(found | {"runs": runs})))


def test_pieces_are_modules_of_their_settings(measured):
    first, second = measured["pieces"]
    assert (first["settings"]["alpha"], first["settings"]["lstm_penalty_scale"]) == (0.2, 1.0)
    assert (second["settings"]["alpha"], second["settings"]["lstm_penalty_scale"]) == (5.0, 0.1)
    assert [row["class"] for row in first["modules"]] == ["k1", "k2"]


def test_the_table_has_means_over_classes_and_seeds(measured):
    from benchmarks.report import tables_frontier

    record = copy.deepcopy(measured)
    other = copy.deepcopy(record["pieces"][0]) | {"seed": 4}
    record["pieces"].append(other)
    for k, piece in enumerate((record["pieces"][0], other)):
        for row, f1 in zip(piece["modules"], (0.5, 0.7), strict=True):
            row["test"] = {"f1": f1 + 0.1 * k, "average_precision": 0.8}
    for figures in record["base"]["classes"].values():
        figures["test"] = {"f1": 0.9, "average_precision": 0.95}
    points = tables_frontier.points(record)
    (point,) = (each for each in points if each["alpha"] == 0.2)
    assert point["test f1"] == pytest.approx(0.65) and point["test by seed"] == pytest.approx([0.6, 0.7])
    assert [each["kept"] for each in points] == sorted(each["kept"] for each in points)
    table = tables_frontier.frontier(record)
    assert "0.650 (0.800) | 0.600 0.700" in table and table.splitlines()[-1].count("0.900 (0.950)") == 1


def test_linear_svms_write_a_whole_record(tmp_path, capsys):
    from benchmarks.harness import schema
    from benchmarks.quality import linear

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        toy_data.write_corpus(tmp_path / name, name)
    out = tmp_path / "linear.json"
    assert linear.main([f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}", "--out", str(out)]) == 0
    record = schema.check(json.loads(out.read_text()))
    assert record["command"] == "python -m benchmarks.quality.linear one=DIR two=DIR"
    assert [each["corpus"] for each in record["corpora"]] == ["one", "two"]
    for each in record["corpora"]:
        assert 0.5 < each["classifier"]["accuracy"] <= 1 and len(each["classes"]) == 3
        mean = sum(row["l2"]["f1"] for row in each["classes"]) / 3
        assert each["mean"]["l2"]["f1"] == pytest.approx(mean)
    assert "| one | 3 | " in capsys.readouterr().out
    assert linear.main(["one", "--out", str(out)]) == 1
    assert "one: give a corpus as NAME=DIR" in capsys.readouterr().err

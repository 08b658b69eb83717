"""The table, the record and the pictures of a run, on modules with invented figures."""

import json

import numpy as np
import pytest
from support.toy_weights import make_module

from seam_fast.cli import plots, report
from seam_fast.modules.marks import MARKS


def test_table_has_a_row_a_class_a_mean_and_marks_what_is_below_the_base():
    lines = report.table([make_module((0,)), make_module((2,), f1=0.3), make_module((0, 1))]).splitlines()
    assert lines[0].split()[:3] == ["class", "base", "F1"]
    oats, tin, both = lines[2:5]
    # embedding 4 of 40, LSTM and linear whole: 84 + 24 = 108 weights in LSTM, 12 linear, so 124 of 160 kept
    assert oats.split() == [
        "oats",
        ".400",
        ".500",
        "-",
        ".600",
        ".700",
        "90.0",
        "(85.0-93.0)",
        "77.50",
        "25.0",
        "10.00",
        "100.0",
        "100.0",
        "2/3",
        "2.5",
    ]
    assert tin.split()[2] == ".300v" and both.split()[0] == "oats+steel"
    assert lines[6].split()[:3] == ["mean", ".400", ".433"]
    assert "below the base (marked v): tin" in lines[7]


def test_the_linear_svm_stands_beside_the_modules():
    modules = [make_module((0,)), make_module((2,)), make_module((0, 1))]
    for module, verdict, f1 in zip(modules, ("better", "worse", "not told apart"), (0.4, 0.7, None), strict=True):
        low, high = (None, None) if f1 is None else (-0.1, 0.2)
        each = {"f1": f1, "precision": f1, "recall": f1, "accuracy": 0.9, "weights": 1200, "verdict": verdict}
        each |= {"difference": None if f1 is None else 0.05, "low": low, "high": high}
        module.card["svm"] = {"l2": each, "l1": each | {"weights": 30 if f1 else 90}}
    table = report.table(modules)
    assert [line.split()[3] for line in table.splitlines()[2:5]] == [".400+", ".700-", "-"]
    assert table.splitlines()[6].split()[:4] == ["mean", ".400", ".500", ".550"]
    assert "with L1 penalty it has 30 words in the mean, and F1 0.550." in table
    assert "told apart from it by a paired bootstrap (95 %): better (marked +): oats; worse (marked -): tin" in table
    text = report.comparison(modules[1])
    assert f"{'L2 SVM, 1,200 words':28}   0.700   0.700   0.700   90.0 %" in text and "L1 SVM, 30 words" in text
    assert "the module's F1 less this: +0.050 (-0.100 to +0.200), worse" in text
    assert "no linear detector was fitted" in report.table([make_module((0,))])
    assert report.module_row(modules[0])["svm_f1"] == 0.4 and report.module_row(make_module((0,)))["svm"] == {}


def test_synthetic_is_marked_in_every_line():
    text = report.table([make_module((0,), synthetic=True), make_module((1,), synthetic=True)])
    assert all(line.startswith("SYNTHETIC") for line in text.splitlines())
    comparison = report.comparison(make_module((1,), synthetic=True))
    assert all(line.startswith("SYNTHETIC") for line in comparison.splitlines())


def test_a_run_without_evaluation_still_has_a_table():
    text = report.table([make_module((0,), evaluated=False)])
    assert "oats" in text and " - " in text and "mean" not in text


def test_comparison_names_both():
    text = report.comparison(make_module((2,)))
    assert "module, whole test set" in text and "base, balanced subset" in text
    assert "85.0-93.0" in text and "vocabulary floor 25.0 %" in text


def test_record_is_json_with_machine_settings_and_histories():
    record = json.loads(json.dumps(report.record([make_module((0,)), make_module((1,))], "a command")))
    assert record["command"] == "a command" and record["settings"] == {"alpha": 0.2}
    assert {"cpu", "cores", "torch", "python", "commit", "date"} <= record["machine"].keys()
    assert [len(module["history"]) for module in record["modules"]] == [3, 3]
    assert record["mean"]["f1"] == 0.5


def test_record_has_the_front_of_each_module():
    module = make_module((0,))
    module.history.append(module.history[1] | {"epoch": 3, "kept": 0.7, "seconds": 1.0})  # epoch 1 is as good
    (row,) = report.record([module], "a command")["modules"]
    assert row["front"] == [
        {"epoch": 2, "accuracy": 0.5, "f1": 0.4, "kept": 1 / 3},
        {"epoch": 1, "accuracy": 0.8, "f1": 0.4, "kept": 1 / 2},
        {"epoch": 0, "accuracy": 0.9, "f1": 0.4, "kept": 1.0},
    ]
    assert report.record([make_module((0,), evaluated=False)], "a command")["modules"][0]["front"] == []


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("synthetic", [False, True])
def test_pictures_are_drawn(tmp_path, count, synthetic):
    modules = [make_module((k % 3,), synthetic=synthetic) for k in range(count)]
    paths = plots.plot_all(modules, np.array([[5, 1, 0], [0, 3, 2], [0, 0, 4]]), tmp_path / "new")
    assert [path.name for path in paths] == ["kept_by_group.png", "accuracy_against_kept.png", "base_confusion.png"]
    assert all(path.read_bytes().startswith(PNG) and path.stat().st_size > 5000 for path in paths)


def test_pictures_without_evaluation_and_with_an_empty_group(tmp_path):
    module = make_module((0,), evaluated=False)
    module.scores["hidden2label.weight"].fill_(-1)
    module.scores["hidden2label.bias"].fill_(-1)
    assert [path.name for path in plots.plot_all([module], None, tmp_path)] == ["kept_by_group.png"]


def test_confusion_of_many_classes(tmp_path):
    path = plots.base_confusion(np.eye(52, dtype=int), [f"c{k}" for k in range(52)], tmp_path / "many.png")
    assert path.read_bytes().startswith(PNG)


def test_marks_are_in_the_table_and_its_notes_in_the_line_and_beside_the_base():
    marked, plain = make_module((0,)), make_module((1,))
    assert report.table([plain]).splitlines()[0].split()[-1] == "s", "no column without a mark"
    marked.card |= {"marks": ["constant", "kept everything"], "threshold": {"moved_by": -1, "f1_before": 0, "f1": 0.5}}
    head, _, one, other, *rest = report.table([marked, plain]).splitlines()
    assert head.endswith("  marks") and one.endswith("  constant, kept everything") and other.endswith("2.5")
    at = rest.index("constant: oats")
    words, advice = MARKS["constant"]
    assert rest[at + 1 : at + 4] == [f"    {words};", f"    {advice}", "kept everything: oats"]
    assert report.in_a_line(marked).endswith(", CONSTANT, KEPT EVERYTHING")
    lines = report.comparison(marked).splitlines()
    assert "threshold moved on the documents that chose its epoch, from F1 0.000 to 0.500 on these" in lines
    assert f"CONSTANT: {words}" in lines and f"    {advice}" in lines
    assert report.record([marked], "a command")["modules"][0]["marks"] == ["constant", "kept everything"]

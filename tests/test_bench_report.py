"""README, docs, pictures and records agree; and the report says so where they do not."""

import importlib.util
import json
import re
import shlex
import shutil
import sys

import pytest
from bench_checks import RECORDS, ROOT

from benchmarks.report import blocks, markdown, pictures, tables_cuda, tables_op, tables_quality, words
from seam_fast.cli import main as cli
from seam_fast.errors import SeamFastError


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("bench_report", ROOT / "scripts" / "bench_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copies(tmp_path):
    """Arguments that name a page and pictures which a test may change, and the folder that they are in."""
    (tmp_path / "docs").mkdir()
    page, drawn = tmp_path / "docs" / "page.md", tmp_path / "benchmarks" / "pictures"
    page.write_text("".join(f"<!-- bench:{name} --><!-- /bench -->\n" for name in ("op", "step", "floors")))
    shutil.copytree(blocks.PICTURES, drawn)
    page.write_text(markdown.render(page, drawn)[0])
    return [str(page), "--pictures", str(drawn)], tmp_path


def test_readme_and_docs_say_what_the_records_say(report, capsys):
    assert report.main(["--check"]) == 0, capsys.readouterr().err


def test_every_block_is_in_readme_or_docs_and_names_its_command():
    pages = markdown.marked_files()
    found = [block for page in pages for block in markdown.found_blocks(page.read_text(encoding="utf-8"))]
    assert {name for name, _ in found} == set(blocks.BLOCKS)
    for name, text in found:
        if "\n" in text:
            assert "*`" in text.splitlines()[-1] or "`.*" in text, f"{name} does not say what makes it"


def test_pages_are_found_by_their_markers_and_link_to_the_pictures_from_where_they_are(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    for name, text in {
        "README.md": "no block",
        "docs/about.md": "Between `<!-- bench:NAME -->` and `<!-- /bench -->` stands a block.",
        "docs/deep/page.md": "<!-- bench:step --><!-- /bench -->",
        "docs/half.md": "<!-- /bench -->",
        "other.md": "<!-- bench:step --><!-- /bench -->",
    }.items():
        (tmp_path / name).write_text(text)
    pages = markdown.marked_files(tmp_path)
    assert [page.relative_to(tmp_path).as_posix() for page in pages] == ["docs/deep/page.md", "docs/half.md"]
    text, names = markdown.render(pages[0], tmp_path / "benchmarks" / "pictures")
    assert names == ["step"] and "![times of a step](../../benchmarks/pictures/step.png)" in text
    with pytest.raises(SeamFastError, match=r"half\.md: a marker without its other half"):
        markdown.render(pages[1])


def test_what_was_typed_by_hand_is_found_and_written_over(report, copies, capsys):
    arguments, folder = copies
    page = folder / "docs" / "page.md"
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace("| 1024, 1024, 32, 32 |", "| 1024, 1024, 32, 31 |", 1), encoding="utf-8")
    (folder / "benchmarks" / "pictures" / "op.png").unlink()
    assert report.main(["--check", *arguments]) == 1
    said = capsys.readouterr().err
    assert "not what the records say: page.md: op; op.png; run python scripts/bench_report.py" in said
    assert report.main(arguments) == 0 and capsys.readouterr().out == "written anew: page.md: op; op.png\n"
    assert page.read_text(encoding="utf-8") == right
    assert report.main(["--check", *arguments]) == 0
    with pytest.warns(DeprecationWarning, match="--readme FILE is now FILE"):
        assert report.main(["--check", "--readme", *arguments]) == 0


def test_a_picture_of_another_record_is_found(report, copies, monkeypatch, tmp_path, capsys):
    arguments, _ = copies
    records = tmp_path / "records"
    shutil.copytree(RECORDS, records)
    record = json.loads((records / "step.json").read_text())
    record["rows"][0]["ms"]["native"]["median"] *= 1.5
    (records / "step.json").write_text(json.dumps(record))
    monkeypatch.setattr(blocks, "RECORDS", records)
    assert report.main(["--check", *arguments]) == 1
    assert "page.md: step; step.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- bench:speed --><!-- /bench -->", "no block is named 'speed'; there are base"),
        ("<!-- bench:op --> and no end", "a marker without its other half"),
        ("<!-- /bench -->", "a marker without its other half"),
    ],
)
def test_it_says_what_is_wrong(report, tmp_path, text, sentence, capsys):
    (tmp_path / "page.md").write_text(text)
    assert report.main([str(tmp_path / "page.md")]) == 1
    assert sentence in capsys.readouterr().err


def test_a_loss_is_bold_and_named():
    record = json.loads((RECORDS / "masked_lstm.json").read_text())
    record["rows"][2]["ratio"] = dict.fromkeys(("median", "min", "max", "q1", "q3"), 0.8)
    assert "| **0.80** (0.80 to 0.80) |" in tables_op.pair(record)
    assert "256, 256, 32, 128 (0.80)" in tables_op.losses(record)
    assert words.ratio({"median": 12.3, "q1": 9.6, "q3": 14.4}) == "12 (10 to 14)"
    assert words.number(1234.5) == "1,230" and words.number(0.35512) == "0.355"


def test_sentences_follow_the_records():
    record = json.loads((RECORDS / "step.json").read_text())
    for row, ratio in zip(record["rows"], (3.6, 12.2, 5.0), strict=True):
        row["against"]["best_torch"]["native"]["median"] = ratio
    assert blocks.plain(record) == "4 to 12"
    record = json.loads((RECORDS / "masked_lstm.json").read_text())
    for row in record["rows"]:
        row["memory"]["seam"]["peak"], row["memory"]["rival"]["peak"] = 1, 1
    for row, share in zip(record["rows"][1:5], (0.25, 0.3, 0.4, 0.5), strict=True):  # the large batches of full length
        row["of_peak"]["rival"] = 2 * share - 0.1
        row["memory"]["seam"]["peak"], row["memory"]["rival"]["peak"] = 100 * share, 100
    assert blocks.memory_share(record) == "25 to 50 %" and blocks.peak_share(record) == "40 to 90 %"
    record = json.loads((RECORDS / "quality_study.json").read_text())
    for piece in record["pieces"]:
        for module in piece["modules"]:
            module["test"]["f1"] = 0.5
            for name, baseline in module["baselines"].items():
                baseline["test"]["f1"] = 0.75 if (name, piece["protocol"]) == ("random_mask", "seam") else 0.25
    better = "random mask (0.750)"
    parts = (f"protocol `seam`, own budget (0.500): {better}", f"protocol `seam`, 300 epochs (0.500): {better}")
    assert tables_quality.study_losses(record) == f"What does better than the modules, by mean F1: {'; '.join(parts)}."


def test_the_command_of_every_rendered_record_is_one_of_today_and_its_commit_clean():
    assert words.command({"command": "a b --out benchmarks/records/x.json --c 1"}) == "a b --c 1"
    older = {"command": "python benchmarks/quality.py base --records benchmarks/records"}
    assert words.command(older) == "python -m benchmarks.quality base"
    pages = [page.read_text(encoding="utf-8") for page in markdown.marked_files()]
    names = set(re.findall(r"record `(\w+)\.json`", "".join(pages)))
    assert names >= {"step", "masked_lstm", "curves", "job", "quality_study"}
    for name in names:
        record = blocks.load(name)
        run = record["runs"][0] if "runs" in record else record
        assert re.fullmatch("[0-9a-f]{40}", run["machine"]["commit"] or ""), f"{name}: made from a changed checkout"
        program, *arguments = shlex.split(words.command(run))
        if program == "seam-fast":
            parsed = cli.make_parser().parse_args(arguments)
            assert not getattr(parsed, "quick", False) and not record["quick"]
        else:
            assert program == "python" and arguments[0] == "-m", name
            module = importlib.util.find_spec(arguments[1])
            main = f"{arguments[1]}.__main__"
            assert module and (not module.submodule_search_locations or importlib.util.find_spec(main)), name


def spread(median):
    return dict.fromkeys(("median", "min", "max", "q1", "q3"), median)


def test_where_cudnn_is_faster_is_bold_and_named():
    record = json.loads((RECORDS / "cuda_lstm.json").read_text())
    record["rows"] = [row for row in record["rows"] if not row["fault"]]
    record["unmeasured"] = []
    for row in record["rows"]:
        row["ratio"] = dict.fromkeys(row["ratio"], spread(2.0))
        row["ms"]["cudnn"] = spread(1.0)
    for part in (tables_cuda.op, tables_cuda.op_groups):
        assert "2.00" in part(record) and "**" not in part(record)
    assert tables_cuda.op_losses(record) == "In none of these rows is cuDNN faster."
    assert tables_cuda.op_precision(record) == tables_cuda.op_open(record) == ""
    for row in record["rows"]:
        row["agreement"]["errors"] = {"seam": {"output": 1e-7, "c_n": 2e-7}, "whole": {"output": 3e-6}}
    assert "median of the shapes: float32 2.0e-07, with cuDNN 3.0e-06; bfloat16 2.0e-07" in tables_cuda.op_errors(
        record
    )
    half = next(row for row in record["rows"] if row["dtype"] == "float16" and row["sizes"]["H"] == 50)
    half["ratio"] |= {"cudnn": spread(0.5), "cudnn_forward": spread(0.25)}
    half["ms"]["cudnn"] = spread(0.125)
    count = sum(row["dtype"] == "float16" for row in record["rows"])
    losses = f"cuDNN is faster in float16 at 1 of {count} shapes: 100, 50, 5, 32 (0.50)."
    assert tables_cuda.op_losses(record).startswith(f"{losses} Forward only, it is faster at 1 of")
    assert "| **0.50** (0.50 to 0.50) | 2.00 | **0.25** |" in tables_cuda.op(record)
    assert "8.0 times as fast in float16 as in bfloat16 (at 100, 50, 5, 32)" in tables_cuda.op_precision(record)
    record["rows"].append(half | {"key": "some shape", "fault": "output of padded is 1, more than 0 allowed, c is 2"})
    record["unmeasured"] = ["another"]
    opened = tables_cuda.op_open(record)
    assert opened.startswith("Without figures: some shape (output of padded is 1, more than 0 allowed). At fault")
    assert opened.endswith("1 further shapes are not measured yet.")


def test_a_gpu_record_of_the_engine_is_rendered_with_and_without_rivals_that_are_less_exact():
    record = json.loads((RECORDS / "cuda_engine.json").read_text())
    (step,) = [row for row in record["rows"] if row["piece"] == "step"]
    step["ratio"]["graph_trainer"] = spread(0.9)
    step["left_out"] = {"reference": "out of order"}
    for what in ("us", "ratio"):
        step[what].pop("reference", None)  # which another record may have timed
    step["us"] |= {"graph_rows": spread(226.0), "graph_new": spread(99.0)}
    step["ratio"] |= {"graph_rows": spread(1.19), "graph_new": spread(0.5)}
    del step["us"]["engine_tf32"], step["ratio"]["engine_tf32"]
    step["wrong"] = {"engine_tf32": "the head is off"}
    step["agreement"]["first_rivals"] = {"errors": {"graph_rows": {"loss": 1.0, "rows met error": 6e-6}}}
    text = tables_cuda.engine(record)
    assert "rows that occur | 226 (226 to 226) | 1.19 (1.19 to 1.19) | 6e-06 |" in text
    assert "| the reference, eager | left out: out of order | - | - |" in text
    assert "| `graph_new` | 99 (99 to 99) | **0.50** (0.50 to 0.50) | - |" in text
    assert "| engine, by tf32 | the head is off | - | - |" in text
    losses = tables_cuda.engine_losses(record)
    slower = "`CudaGraphTrainer`: the op in a recorded graph (0.90) and graph_new (0.50)"
    assert losses == f"Faster than the engine: {slower}."
    assert tables_cuda.engine_exactness(record) == ""
    del step["agreement"]["first_rivals"]
    assert "says how far off" not in text and "less exact" in tables_cuda.engine_exactness(record)
    scaling = {"piece": "scaling", "fault": "", "us": {"1": spread(190.0), "8": spread(192.0)}}
    scaling |= {"gain": {"1": spread(1.0), "8": spread(7.9)}, "cores_busy": {"1": spread(1.0), "8": spread(3.2)}}
    eight = {"piece": "eight", "fault": "", "modules_in_all": 8, "epochs": 300, "cut": None, "seconds": spread(12.5)}
    record["rows"] = [scaling, eight]
    assert "| 8 | 192 | 7.9 | 3.2 |" in tables_cuda.engine_scaling(record)
    assert tables_cuda.engine_runs(record) == "8 modules, 300 epochs: 12.5 s (12.5 to 12.5)."
    wanted = "Not measured yet: a step of one module, 8 classes by 16 settings and what the GPU does in a step."
    assert tables_cuda.engine_open(record) == wanted
    record["rows"].append({"piece": "step", "key": "step", "fault": "out of order"})
    wanted = "Failed: step: out of order. Not measured yet: 8 classes by 16 settings and what the GPU does in a step."
    assert tables_cuda.engine_open(record) == wanted
    assert tables_cuda.engine(record) == tables_cuda.engine_losses(record) == tables_cuda.engine_exactness(record) == ""


def test_without_matplotlib_nothing_is_written(report, copies, monkeypatch, capsys):
    arguments, folder = copies
    (folder / "benchmarks" / "pictures" / "op.png").unlink()
    (folder / "docs" / "page.md").write_text("<!-- bench:floors -->1 %<!-- /bench -->")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main(arguments) == 1
    assert "matplotlib draws the pictures and is not installed" in capsys.readouterr().err
    assert "1 %" in (folder / "docs" / "page.md").read_text()


def test_pictures_are_drawn_from_every_kind_of_record():
    for name, function in (("masked_lstm", pictures.op), ("step", pictures.step)):
        record = json.loads((RECORDS / f"{name}.json").read_text())
        data = pictures.png(function(record), "abc")
        assert data.startswith(b"\x89PNG") and pictures.source_of(data) == "abc"
    spread = {"median": 2.0, "min": 1.0, "max": 3.0, "q1": 1.5, "q3": 2.5}
    points = [{"x": x, "ms": {"reference": spread, "native": spread}} for x in (1, 10)]
    curves = {axis: {"x": axis, "points": points} for axis in ("batch", "hidden", "length", "vocabulary")}
    sizes = {"B": 5, "H": 50, "T": 32, "V": 23590}
    figure = pictures.curves({"curves": curves, "rivals": ["reference", "native"], "workload": sizes})
    assert len(figure.axes) == 6 and not figure.axes[5].axison
    racer = {"seconds": 2.0, "epoch": 1, "f1_by_epoch": [0.1, 0.5], "seconds_by_epoch": [1.0, 2.0]}
    part = {"class": "crude", "seeds": [0], "rows": [{"rivals": {"reference": racer, "native": racer}}]}
    assert len(pictures.to_f1({"to_f1": part}).axes[0].lines) == 4

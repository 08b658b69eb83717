"""The command line on a corpus in one file, from the file to a module that is judged."""

import csv
import json
import shutil

import pytest

import seam_fast as sf
from seam_fast.cli.main import main

COLUMNS = ["posted", "kind", "body"]
NAMED = ["--text-column", "body", "--label-column", "kind"]


def rows_of(corpus_folder):
    """The training documents of the corpus called tiny as rows: a date, the label, the text."""
    lines = (corpus_folder / "tiny-train-all-terms.txt").read_text().splitlines()
    rows = []
    for n, line in enumerate(lines):
        label, text = line.split("\t")
        rows.append([f"2024-{12 - n // 5:02d}-01", label, text.replace(" ", ", ")])
    return rows


@pytest.fixture
def posts(here):
    """A working folder with posts.csv."""
    with (here / "posts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows_of(here / "corpus")])
    return here


def said(capsys, *command) -> str:
    """What a command that fails prints on standard error, which is one sentence."""
    assert main([*command]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.strip().splitlines()) == 1
    return shown.err


def test_data_of_a_file(posts, capsys):
    assert main(["data", "--data-file", "posts.csv", *NAMED, "--test-share", ".25"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "posts: posts.csv, columns 'body' and 'kind' (test: 25 % of each class, seed 0)\n45 training and"
    )
    command = ["data", "--data-file", "posts.csv", *NAMED, "--split", "time", "--date-column", "posted", "--json"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["source"] == "posts.csv, columns 'body' and 'kind' (test: the last 20 % by column 'posted')"
    assert facts["classes"] == {f"class{k}": [16, 4] for k in range(3)}
    wanted = sf.Corpus.from_file(
        "posts.csv", text_column="body", label_column="kind", split="time", date_column="posted"
    )
    assert facts["data_hash"] == wanted.data_hash and facts["name"] == "posts"


def test_a_file_without_names_and_a_test_file(posts, capsys):
    lines = (posts / "posts.csv").read_text().splitlines()[1:]
    (posts / "a.csv").write_text("\n".join(lines[:40]))
    (posts / "b.csv").write_text("\n".join(lines[40:]))
    files = ["--data-file", "a.csv", "--test-file", "b.csv", "--columns", "posted, kind,body", *NAMED]
    assert main(["data", *files, "--dataset", "mine"]) == 0
    out = capsys.readouterr().out
    assert (
        out.startswith("mine: a.csv, columns 'body' and 'kind' and b.csv, columns") and "40 training and 20 test" in out
    )


def test_from_a_file_to_a_module(posts, capsys):
    file = ["--data-file", "posts.csv", *NAMED]
    assert main(["train", *file, "--epochs", "2"]) == 0
    assert main(["train", *file, "--epochs", "2", "--reuse"]) == 0
    assert "is there already: kept" in capsys.readouterr().err
    assert main(["reengineer", *file, "--targets", "class1", "--steps", "4", "--no-plots"]) == 0
    assert "hashes differ" not in capsys.readouterr().err
    module = "runs/posts/modules/1-class1.safetensors"
    assert main(["evaluate", module, *file, "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["metrics"]["test"]["documents"] == 12 and "(test: 20 %" in judged["source"]
    record = json.loads((posts / "runs/posts/targets_1/record.json").read_text())
    assert judged["f1"] == record["modules"][0]["f1"]
    # On all documents of a file, by its ending.
    assert main(["evaluate", module, "--documents", "posts.csv", *NAMED, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["test"]["documents"] == 60
    # Divided otherwise, the base has seen documents that are for the test now.
    assert main(["reengineer", *file, "--split-seed", "1", "--targets", "class1", "--steps", "2", "--no-plots"]) == 0
    assert "divide it as then, or test documents are not new" in capsys.readouterr().err
    assert "needs --data-dir, the folder with posts-train-all-terms.txt, or --data-file" in said(
        capsys, "evaluate", module
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--split", "time"], "--split has no effect without --data-file"),
        (["--text-column", "body"], "--text-column has no effect without --data-file"),
        (["--test-file", "posts.csv"], "--test-file has no effect without --data-file"),
        (["--data-file", "posts.csv", "--data-dir", "corpus"], "--data-dir has no effect with --data-file"),
        (["--data-file", "posts.csv", "--dataset", "r8"], "--data-file is a corpus of your own, and r8 is not"),
        (["--data-file", "r8.csv"], "r8 is not; give it another name by --dataset"),
        (["--data-file", "none.csv"], "none.csv cannot be read: No such file or directory"),
        (["--data-file", "corpus"], "corpus is a folder; load_corpus reads those (--data-dir)"),
        (["--dataset", "tiny", "--data-dir", "posts.csv"], "posts.csv is a file: read it by Corpus.from_file"),
        (["--data-file", "posts.csv", "--label-column", "kind", "--text-column", "text"], "no column 'text'"),
        (["--data-file", "posts.csv", *NAMED, "--split", "time", "--split-seed", "1"], "--split-seed has no effect"),
        (["--data-file", "posts.csv", *NAMED, "--date-column", "posted"], "unless split is \"time\" (--split time)"),
        (["--data-file", "posts.csv", *NAMED, "--split", "time", "--date-column", "kind"], "the date 'class0' cannot"),
        (["--data-file", "posts.csv", *NAMED, "--test-file", "posts.csv", "--test-share", ".1"], "--test-share"),
        (["--data-file", "posts.csv", "--label-column", "body", "--text-column", "kind"], "name others by"),
    ],
)  # fmt: skip
def test_a_sentence_for_what_is_wrong(posts, capsys, options, says):
    assert says in said(capsys, "data", *options)


@pytest.mark.parametrize("share", ["0", "1", "-1", "x"])
def test_a_share_that_is_none(posts, capsys, share):
    with pytest.raises(SystemExit) as end:
        main(["data", "--data-file", "posts.csv", "--test-share", share])
    assert end.value.code == 2


def test_options_that_need_a_file_serve_documents_too(posts, capsys):
    shutil.copy("posts.csv", "more.csv")
    assert "--split has no effect without --data-file" in said(capsys, "train", "--split", "time")
    assert "--data-file has no effect with --documents" in said(
        capsys, "evaluate", "m.safetensors", "--documents", "more.csv", "--data-file", "posts.csv"
    )

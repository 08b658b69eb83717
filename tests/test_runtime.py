"""Compact modules where there is no torch, and on the command line."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support import toy_data

from seam_fast import CompactModule, runtime
from seam_fast.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["all1 all2 w0x1", "", "never heard of", "w1x0 w1x1 w1x2 all3"]


@pytest.fixture(scope="module")
def run_once(trained_once, tmp_path_factory):
    """A working folder with a base and modules; tests get copies of it."""
    folder = tmp_path_factory.mktemp("reengineered")
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["reengineer", *toy_data.TINY, "--epochs", "2"]) == 0
    return folder


@pytest.fixture
def made(run_once, tmp_path, monkeypatch):
    """A working folder with a base and modules; the path of one of these."""
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return sorted(Path("runs/tiny/modules").glob("*.safetensors"))[0]


def output(capsys, *arguments, code=0):
    """What a command prints on standard output, or its message where it fails."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    found = capsys.readouterr()
    if code:
        assert not found.out and found.err.count("\n") == 1 and "Traceback" not in found.err
    return found.err if code else found.out


# -- without torch -----------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import seam_fast
from seam_fast import runtime
module = runtime.load(sys.argv[1])
print(module(sys.argv[2:]).tolist())
try:
    seam_fast.load_r8
except ImportError as error:
    print(error)
try:
    from seam_fast import train
except ImportError:
    print("no train")
print(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "safetensors")))
"""


def test_without_torch(made, capsys):
    output(capsys, "compact", made, "--out", "m.safetensors")
    command = [sys.executable, "-c", WITHOUT_TORCH, "m.safetensors", *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    answers, sentence, train, loaded = done.stdout.splitlines()
    assert np.allclose(json.loads(answers), CompactModule.load("m.safetensors")(TEXTS), atol=1e-6)
    assert sentence.startswith("seam_fast.load_r8 needs PyTorch, which is not installed (pip install torch)")
    assert train == "no train" and loaded == "['torch']"


def test_a_copy_of_the_file_is_a_program(made, capsys, tmp_path):
    output(capsys, "compact", made, "--out", "m.safetensors")
    shutil.copy(runtime.__file__, tmp_path / "alone.py")
    wanted = [f"{p:.6f}\t{text}" for p, text in zip(CompactModule.load("m.safetensors")(TEXTS), TEXTS, strict=True)]

    def run(*arguments, text=None):
        command = [sys.executable, "-I", tmp_path / "alone.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=text, encoding="utf-8")

    assert run("m.safetensors", *TEXTS).stdout.splitlines() == wanted
    assert run("m.safetensors", text="\n".join(TEXTS)).stdout.splitlines() == wanted
    failed = run("none.safetensors")
    assert failed.returncode == 1 and failed.stderr == "runtime: none.safetensors: no such module file\n"
    assert run().returncode == 2 and "usage" in run("--help").stdout


def test_the_program_in_this_process(made, capsys, monkeypatch):
    output(capsys, "compact", made, "--out", "m.safetensors")
    assert runtime.main(["m.safetensors", "all1"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("all1\nall2\n"))
    assert runtime.main(["m.safetensors"]) == 0
    first, again, other = capsys.readouterr().out.splitlines()
    assert first == again != other
    assert runtime.main([str(made)]) == 1 and "needs its base" in capsys.readouterr().err


def test_text_that_cannot_be_read_or_shown(made, capsys, monkeypatch):
    output(capsys, "compact", made, "--out", "m.safetensors")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"K\xf6ln\n"), encoding="utf-8"))
    assert runtime.main(["m.safetensors"]) == 1
    assert capsys.readouterr().err.startswith("runtime: standard input: is no text in utf-8 (")
    assert runtime.main(["m.safetensors", "K\udcf6ln"]) == 0
    assert capsys.readouterr().out.endswith("\tK\\udcf6ln\n")


def test_a_pipe_is_no_module_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    writer = threading.Thread(target=lambda: open(tmp_path / "pipe.safetensors", "wb").close())
    writer.start()  # a pipe can be opened only with a writer at its other end
    with pytest.raises(runtime.CheckpointError, match=r"is no regular file"):
        runtime.load(tmp_path / "pipe.safetensors")
    writer.join()


# -- the command line --------------------------------------------------------------------------------------------------


def test_compact_and_predict(made, capsys):
    modules = sorted(Path("runs/tiny/modules").glob("*.safetensors"))
    lines = output(capsys, "compact", *modules).splitlines()
    assert len(lines) == len(modules) > 1
    small = made.with_name(f"{made.stem}.compact.safetensors")
    assert lines[0].startswith(f"{small}: ") and " units, float32" in lines[0]
    answers = output(capsys, "predict", small, *TEXTS)
    assert answers == output(capsys, "predict", made, *TEXTS)  # to four digits
    assert [line.partition("\t")[2] for line in answers.splitlines()] == TEXTS
    base = "runs/tiny/base.safetensors"
    assert answers == output(capsys, "predict", made, TEXTS[0], "--base", base, *TEXTS[1:])  # in any order
    with pytest.raises(SystemExit) as wrong:
        main(["predict", str(made), "--base", base, "--bass", "a text"])
    assert wrong.value.code == 2 and "unrecognized arguments: --bass a text" in capsys.readouterr().err
    (facts,) = json.loads(output(capsys, "compact", made, "--dtype", "int8", "--unknown", "dropped", "--json"))
    assert facts["bytes"] == small.stat().st_size and facts["dtype"] == "int8" and facts["unknown"] == "dropped"
    rows = json.loads(output(capsys, "predict", small, *TEXTS, "--json"))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["probability"] for row in rows] == CompactModule.load(small)(TEXTS).tolist()


def test_predict_reads_lines(made, capsys, monkeypatch):
    wanted = output(capsys, "predict", made, *TEXTS)
    Path("texts").write_text("\r\n".join(TEXTS) + "\r\n", encoding="utf-8", newline="")
    assert output(capsys, "predict", made, "--documents", "texts") == wanted
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS)))
    assert output(capsys, "predict", made) == wanted
    monkeypatch.setattr("seam_fast.cli.verbs.predict.AT_ONCE", 3)
    assert output(capsys, "predict", made, "--documents", "texts") == wanted


def test_a_byte_order_mark_is_no_word(made, capsys):
    wanted = output(capsys, "predict", made, "--documents", written("plain", b"all1 all2\n"))
    assert output(capsys, "predict", made, "--documents", written("marked", b"\xef\xbb\xbfall1 all2\n")) == wanted


def written(name, data):
    """The name of a file that holds these bytes."""
    Path(name).write_bytes(data)
    return name


def test_options_without_effect_are_refused(made, capsys):
    output(capsys, "compact", made, "--out", "m.safetensors")
    written("few.csv", b"text,label\nall1,class0\n")
    for arguments, sentence in (
        (["predict", "m.safetensors", "all1", "--base", "b"], "--base has no effect with m.safetensors"),
        (["predict", "m.safetensors", "all1", "--target", "1"], "--target has no effect with m.safetensors"),
        (["predict", "m.safetensors", "all1", "--tokenizer", "characters"], "give no tokenizer"),
        (["compact", made, "--data-file", "few.csv"], "--data-file has no effect without --min-f1"),
        (["compact", made, "--split", "time"], "--split has no effect without --data-file"),
        (
            ["certify", made, "--documents", "few.csv", "--test-share", ".3"],
            "--test-share has no effect with --documents",
        ),
        (["evaluate", "m.safetensors"], "m.safetensors: is a compact module"),
    ):
        assert sentence in output(capsys, *arguments, code=1)


def test_mistakes_are_told(made, capsys):
    output(capsys, "compact", made, "--out", "m.safetensors")
    others = sorted(Path("runs/tiny/modules").glob("*.safetensors"))[:2]
    Path("latin").write_bytes("Köln\n".encode("latin-1"))
    for arguments, sentence in (
        (["compact", "m.safetensors"], "m.safetensors: is compact already"),
        (["compact", *others, "--out", "x.safetensors"], "--out names one file, and there are 2 modules"),
        (["compact", made, "--out", "x.bin"], "x.bin: a compact module's file ends in .safetensors"),
        (["compact", "none.safetensors"], "none.safetensors: no such module file"),
        (["compact", "runs/tiny/base.safetensors"], "is a base, not a module"),
        (["predict", "none.safetensors", "a"], "none.safetensors: no such module file"),
        (["predict", "runs/tiny/base.safetensors", "a"], "is a base, not a module"),
        (["predict", made, "--documents", "latin"], "latin: is no text in UTF-8"),
        (["predict", made, "--documents", "nowhere"], "nowhere: No such file"),
        (["predict", made, "a", "--documents", "latin"], "give texts or --documents, not both"),
    ):
        assert sentence in output(capsys, *arguments, code=1)
    assert not list(Path().glob("x.*"))

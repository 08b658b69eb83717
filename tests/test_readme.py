"""What the README shows runs as written (the example on a small corpus, the commands as far as their arguments go)."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import torch

import seam_fast as sf
from seam_fast.cli.main import make_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    for split in ("train", "test"):
        lines = [f"class{k}\tword{k} wheat and corn exports number{n}" for n in range(6) for k in range(8)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    small = sf.load_corpus(tmp_path, "small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sf, "load_r8", lambda: small)
    monkeypatch.setattr(sf, "train", functools.partial(sf.train, epochs=1))
    monkeypatch.setattr(sf, "reengineer", functools.partial(sf.reengineer, steps=2))
    example, _ = blocks("python")
    assert len(example.strip().splitlines()) <= 15
    exec(compile(example, "README.md", "exec"), {})
    first, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith("SeamModule(target=[4]") and 0 <= float(last.removeprefix("tensor(").rstrip(")")) <= 1
    assert (tmp_path / "grain.safetensors").exists()


def test_the_example_of_the_op_alone_runs(capsys):
    _, example = blocks("python")
    lines = [line for line in example.splitlines() if line]
    assert len(lines) <= 10
    torch.manual_seed(0)
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    kept = float(re.match(r"MaskedLSTM\(100, 50, kept=([\d.]+)% of 30400\) LSTM\(100, 50\)\n$", shown)[1])
    assert 1 < kept < 99


def test_the_examples_of_what_torch_does_to_the_op_run():
    """Scaled gradients and many sets of scores, with the tensors of the example before."""
    torch.manual_seed(0)
    names = {}
    exec(compile(blocks("python")[-1], "README.md", "exec"), names)
    for example in blocks("py"):
        exec(compile(example, "README.md", "exec"), names)
    assert all(score.grad.abs().max() <= 1 for score in names["layer"].scores())
    assert [grads.shape for grads in names["gradients"]] == [(8, *score.shape) for score in names["layer"].scores()]


def test_the_commands_are_understood():
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts" / "model_reengineering.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    parsers = {"seam-fast": make_parser(), "scripts/model_reengineering.py": script.make_parser()}
    seen = set()
    for line in "\n".join(blocks("bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] in ("python", "bash"):
            assert (ROOT / words[1]).is_file(), line
            words = words[1:]
        if words and words[0] in parsers:
            parsers[words[0]].parse_args(words[1:])
            seen.add(words[0])
    assert seen == set(parsers)


def test_every_environment_variable_is_in_the_table():
    used = set()
    for pattern in ("setup.py", "seam_fast/**/*.py", "scripts/*.sh", "tests/*.py"):
        for path in ROOT.glob(pattern):
            used |= set(re.findall(r"SEAM_FAST_[A-Z]+(?:_[A-Z]+)*", path.read_text(encoding="utf-8")))
    listed = set(re.findall(r"^\| `(SEAM_FAST_[A-Z_]+)", README, flags=re.M))
    assert used == listed

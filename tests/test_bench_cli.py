"""The verb `seam-fast bench`: its arguments, and the way to the benchmarks of a checkout."""

import importlib
import importlib.util
import re
import subprocess
import sys

import pytest
from bench_checks import ROOT

from benchmarks.cpu import runner
from benchmarks.harness import machine, records
from seam_fast.cli import main as cli
from seam_fast.cli.verbs import bench
from seam_fast.errors import SeamFastError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["op", "--shapes", "h7"], "shape 'h7' is unknown; there are r8, h128"),
        (["op", "--rounds", "0"], "--rounds must be 1 or more"),
        (["op", "--threads", "0"], "--threads must be 1 or more"),
        (["step", "--smoke", "--curves", "--rounds", "-1"], "--rounds must be 1 or more"),
        (["step", "--smoke", "--curves", "--parts", "memory"], "--parts says nothing about --curves"),
        (["step", "--smoke", "--curves", "--processes", "own"], "--processes says nothing about --curves"),
        (["step", "--smoke", "--batch-sizes", "5", "0"], "--batch-sizes must be 1 or more"),
        (["step", "--smoke", "--rivals", "fast"], "rival 'fast' is unknown; there are reference, reference_best"),
        (["step", "--smoke", "--parts", "all"], "part 'all' is unknown; there are steps, memory, vocabulary"),
        (["step", "--smoke", "--curves", "--axes", "depth"], "axis 'depth' is unknown; there are batch, hidden"),
        (["job", "--smoke", "--epochs", "0"], "--epochs must be 1 or more"),
        (["job", "--smoke", "--threads", "0"], "--threads must be 1 or more"),
        ([], "--out names the record of one kind; say which: step, op or job"),
    ],
)
def test_bench_says_what_is_wrong(run_bench, arguments, sentence):
    code, record, said = run_bench(*arguments)
    assert code == 1 and record is None and sentence in said.err


def test_bench_says_where_the_benchmarks_are_if_they_are_not_here(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert cli.main(["bench", "op", "--quick"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("seam-fast: error: the benchmarks are in the source checkout") and "git" not in said
    assert "clone the repository" in said and len(said.splitlines()) == 1


def test_without_a_kind_all_are_measured(monkeypatch):
    seen = []
    monkeypatch.setattr(
        runner, "run_kind", lambda arguments, **flags: seen.append((arguments.kind, arguments.rounds, flags)) or 0
    )
    assert cli.main(["bench", "--quick"]) == 0
    assert [kind for kind, _, _ in seen] == ["op", "step", "job"] and seen[0][2] == {"quick": True, "check": False}
    assert cli.main(["bench", "--check", "step"]) == 0 and seen[-1] == ("step", None, {"quick": False, "check": True})


def test_instruction_sets_are_limited_for_all_rivals_in_a_fresh_process(monkeypatch):
    seen = {}

    def run(command, env):
        seen.update(env, command=command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(machine.subprocess, "run", run)
    assert cli.main(["bench", "op", "--isa", "avx2", "--smoke"]) == 7
    assert seen["SEAM_FAST_ISA"] == "avx2" and seen["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert seen["command"][1:] == ["-m", "seam_fast", "bench", "op", "--isa", "avx2", "--smoke"]


def test_a_place_for_no_record_is_told_before_the_time_is_spent(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "record.json"):
        with pytest.raises(SeamFastError, match="no record can be written there"):
            records.check_path(place)
    assert cli.main(["bench", "op", "--smoke", "--out", str(tmp_path / "file" / "x.json")]) == 1
    assert "no record can be written there" in capsys.readouterr().err
    assert records.check_path(tmp_path / "new" / "record.json").parent.is_dir()


def test_the_suites_are_not_collected_with_the_tests():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "benchmarks", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout  # pytest's own code for no tests


def test_every_command_of_the_benchmarks_is_listed_and_starts():
    from benchmarks.__main__ import COMMANDS

    for command in COMMANDS:
        program, *arguments = command.split()
        if program == "seam-fast":
            cli.make_parser().parse_args(arguments)
        elif arguments[0] == "-m":
            name = arguments[1]
            assert importlib.util.find_spec(name), command
            with_main = name if "." in name.removeprefix("benchmarks.") else f"{name}.cli"
            assert callable(importlib.import_module(with_main).main)
        else:
            assert (ROOT / arguments[0]).is_file(), command
    listed = {command.split()[2] for command in COMMANDS if " -m " in command}
    scripts = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__")
        for path in (ROOT / "benchmarks").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert scripts - {"benchmarks"} == listed


def test_imports_between_the_rooms_of_the_benchmarks_go_down_only():
    below = {"harness": set(), "baselines": {"harness"}, "report": {"harness"}}
    below |= {room: {"harness", "baselines", "report"} for room in ("cpu", "cuda", "quality")}
    below["pytest"] = {"harness", "baselines", "cpu"}
    for path in (ROOT / "benchmarks").glob("*/*.py"):
        room, text = path.parent.name, path.read_text(encoding="utf-8")
        imported = set(re.findall(r"^\s*(?:from|import) benchmarks\.(\w+)", text, flags=re.M))
        assert imported <= below[room] | {room}, path

"""scripts/gpu_check.sh, with a Python and a compute-sanitizer that only log how they are called."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = r"""#!/bin/bash
echo "python $*" >>"$LOG"
case "$*" in
    *collect-only*test_cuda_engine*) ;;
    *test_cuda.py*collect-only*) printf 'tests/test_cuda.py::%s\n' 'test_one[1]' 'test_one[2]' test_two ;;
    *test_two) echo "1 failed" && exit 1 ;;
    *pytest*) echo "2 passed" ;;
    *"_ext.C.__file__"*) echo "$MODULE" ;;
    *) ;;
esac
"""
SANITIZER = r"""#!/bin/bash
echo "sanitizer $*" >>"$LOG"
while [ "$1" != python3 ] && [ $# -gt 0 ]; do [ "$1" = --print-limit ] && shift 2 && break; shift; done
"$@"
code=$?
echo "========= ERROR SUMMARY: $code errors"
exit $code
"""


def check(*arguments, **environment):
    command = ["bash", "scripts/gpu_check.sh", *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.fixture
def logged_check(tmp_path):
    """Runs the check with the two stubs; returns the finished process and the log of the calls."""

    def run(*arguments, **environment):
        for name, text in (("python3", PYTHON), ("compute-sanitizer", SANITIZER)):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        log = tmp_path / "log"
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {"PYTHON": str(tmp_path / "python3"), "PATH": path, "LOG": str(log)} | environment
        done = check(tmp_path / "out", *arguments, **environment)
        return done, log.read_text() if log.exists() else ""

    return run


def test_the_check_refuses_what_it_does_not_know(tmp_path):
    for arguments, sentence in (
        (["--minutes", "3"], "--minutes is no option of this script; those of the benchmark come after --"),
        ([tmp_path, "bend"], "bend is neither build, test, sanitize, bench, engine nor profile"),
    ):
        done = check(*arguments)
        assert done.returncode == 2 and sentence in done.stderr
    assert "bash scripts/gpu_check.sh [FOLDER] [PART ...]" in check("--help").stdout


def test_every_part_runs_and_a_failed_test_is_reported(logged_check, tmp_path):
    module = tmp_path / "_C.so"
    module.touch()
    os.utime(module, (time.time() + 60,) * 2)
    parts = ["build", "test", "sanitize", "bench", "engine"]
    done, log = logged_check(*parts, "--", "--groups", "anchors", JOBS="2", MODULE=str(module))
    assert done.returncode == 1 and "failed: test; logs in" in done.stdout  # test_two fails, and nothing else
    # A compiled module that works is not built again.
    assert "pip install" not in log and "setup.py" not in log
    assert f"not built: {module} works and is used; REBUILD=1 builds it anew" in done.stdout
    # Each test function runs in a process of its own.
    assert log.count("tests/test_cuda.py::test_one") == log.count("tests/test_cuda.py::test_two") == 1
    assert "test_cuda.test_one: exit 0; 2 passed" in done.stdout
    assert "test_cuda.test_two: exit 1; 1 failed" in done.stdout
    assert (tmp_path / "out" / "tests.log").read_text().count("passed") == 1
    # The sanitizer's tools see the engine and the op.
    tools = [line.split()[2] for line in log.splitlines() if line.startswith("sanitizer")]
    assert tools == ["memcheck", "racecheck", "synccheck", "memcheck", "racecheck"]
    assert log.count("python scripts/gpu_engine_tour.py") == 3 and log.count("python scripts/gpu_tour.py") == 2
    assert "engine, synccheck: exit 0; ========= ERROR SUMMARY: 0 errors" in done.stdout
    # Each benchmark gets its own options.
    lstm, engine = [line for line in log.splitlines() if "-m benchmarks." in line]
    assert "-m benchmarks.cuda.lstm --out" in lstm and lstm.endswith("--groups anchors")
    assert "-m benchmarks.cuda.engine --out" in engine and engine.endswith("--minutes 7")


def test_python_within_the_shell_scripts_imports_what_there_is():
    """What a script of Python asks of the package exists, though no test here reaches those lines."""
    found = []
    for path in sorted(ROOT.glob("scripts/*.sh")):
        for module, names in re.findall(r"^from (seam_fast[\w.]*) import ([\w, ]+)$", path.read_text(), flags=re.M):
            found += [(path.name, module, name.strip()) for name in names.split(",")]
    assert found
    for script, module, name in found:
        there = importlib.import_module(module)
        assert hasattr(there, name) or importlib.util.find_spec(f"{module}.{name}"), f"{script}: {module}.{name}"

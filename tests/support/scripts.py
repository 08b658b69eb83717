"""The scripts of the checkout as modules, and its measuring suites as processes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script(name):
    """scripts/NAME.py, loaded anew; its `main` takes the arguments of the command line."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_suite(out: Path, *arguments: str, **environment: str) -> list[dict]:
    """Runs measuring suites, each case once and as briefly as can be; what pytest-benchmark found, a case each.

    Args:
        out: The JSON file to be written.
        arguments: Of pytest: files of benchmarks/pytest, and which of their cases.
    """
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "-q", *arguments, "-p", "no:cacheprovider", f"--benchmark-json={out}"]
    command += ["--benchmark-max-time=0.001", "--benchmark-min-rounds=1", "--benchmark-warmup=off"]
    command += ["--benchmark-calibration-precision=1"]
    # pytest-benchmark measures nothing where it sees a worker of pytest-xdist.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")} | environment
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())["benchmarks"]

"""The quickstart, with a Python that only notes what it is asked to do: its steps and what they are called."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *"seam_fast data"*) echo "facts"; echo "$CORPUS" ;;
    *choose_engine*) exit $PLAIN ;;
esac
"""


@pytest.fixture
def quickstart(tmp_path):
    """Runs it in a copy; returns what it prints and the commands of seam-fast that it runs."""
    (tmp_path / "scripts").mkdir()
    for name in ("quickstart.sh", "common.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for name in ("python3", "python"):
        (tmp_path / "bin" / name).write_text(PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(corpus="r8", plain=0):
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
        environment |= {"CORPUS": corpus, "PLAIN": str(plain)}
        command = ["bash", str(tmp_path / "scripts" / "quickstart.sh")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        calls = (tmp_path / "calls").read_text().splitlines()
        return done.stdout, [call.removeprefix("-m seam_fast ") for call in calls if call.startswith("-m seam_fast ")]

    return run


@pytest.mark.parametrize(("plain", "epochs"), [(0, 30), (1, 5)])
def test_steps_and_what_they_are_called(quickstart, plain, epochs):
    shown, calls = quickstart(plain=plain)
    base = "--base runs/r8/base.safetensors"
    assert calls == [
        "data --dataset r8 --or-synthetic",
        "train --dataset r8 --out runs/r8/base.safetensors --reuse",
        f"reengineer --dataset r8 {base} --out runs/r8 --reuse",
        f"reengineer --dataset r8 {base} --out runs/r8/reference_settings --reuse "
        f"--protocol reference --epochs {epochs}",
    ]
    third = next(line for line in shown.splitlines() if line.startswith("Step 3"))
    assert f"{epochs} of its 300 epochs" in third and "settings" in third and "procedure" not in third


def test_the_long_run_is_left_to_commands_that_readme_names(quickstart):
    shown, _ = quickstart()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"-m seam_fast (.*)", shown.split("whole procedure")[1].replace(" \\\n     ", ""))
    assert len(named) == 2
    for command in named:
        assert f"seam-fast {command.replace(' --dataset r8', '')}" in readme, command
    assert "--epochs" not in " ".join(named), "all of the protocol's 300"


def test_synthetic_is_marked(quickstart):
    shown, calls = quickstart(corpus="r8-synthetic")
    assert all("--dataset r8-synthetic" in call for call in calls[1:])
    assert len(re.findall("^SYNTHETIC: Step", shown, re.M)) == 3

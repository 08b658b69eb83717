"""What runs the CUDA kernels on the CPU is itself tested: cuda_host/self_test.cpp, compiled and run."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "cuda_host"
CSRC = Path(__file__).parents[1] / "csrc"
COMPILER = shutil.which("c++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (c++) to build tests/cuda_host")


@pytest.mark.parametrize("switch", ["by hand", "by ucontext"])
def test_the_runtime_finds_what_it_should(tmp_path, switch):
    """Threads change stacks by a few lines of assembler where there are any for the processor, else by ucontext."""
    program = tmp_path / "self_test"
    command = [COMPILER, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}", f"-I{CSRC}"]
    command += ["-DSEAM_UCONTEXT"] if switch == "by ucontext" else []
    built = subprocess.run([*command, FOLDER / "self_test.cpp", "-o", program], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].endswith("passed, 0 failed")

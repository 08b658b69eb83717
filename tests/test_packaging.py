"""Building and installing from a copy of this checkout: offline, into temporary folders, never a full compilation."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NO_COMPILER = {"CXX": "/nowhere/c++"}
BUILD = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"

# A module that takes no time to compile: neither torch's headers nor pybind11's.
STUB = """#include <Python.h>
#include "part.h"
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", PART, -1, NULL};
PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module); }
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what an installation needs of this checkout, without what was built in it."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("needs the source tree")
    pytest.importorskip("wheel")
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("csrc", "seam_fast", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "_build_note*"))
    return copy


def run(*command, cwd, **environment):
    ours = {name: value for name, value in os.environ.items() if name not in ("SEAM_FAST_REQUIRE_EXT", "DEBUG", "CXX")}
    ours |= {"SEAM_FAST_BUILD": "auto", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, env=ours, timeout=300, errors="replace"
    )
    return done.returncode, done.stdout + done.stderr


def wheel_of(checkout, **environment):
    """Builds a wheel; returns its files with their contents, and what was said."""
    target = checkout.parent / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    code, said = run("-c", BUILD, str(target), cwd=checkout, **environment)
    assert code == 0, said
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name, {name: archive.read(name) for name in archive.namelist()}, said


@pytest.mark.slow
def test_an_installation_without_a_compiler(checkout, tmp_path):
    target = tmp_path / "target"
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--target", str(target)]
    code, said = run("-m", "pip", "install", "-v", *options, ".", cwd=checkout, **NO_COMPILER)
    assert code == 0, said
    assert said.count("without its compiled part") == 1 and "no C++ compiler was found" in said
    there = {path.relative_to(target).parts[0] for path in target.rglob("*.py")}
    assert there == {"seam_fast"} and not list(target.rglob("_C*"))
    assert not list((checkout / "seam_fast").glob("_build_note*"))
    code, said = run("-W", "error", "-m", "seam_fast", "info", cwd=tmp_path, PYTHONPATH=str(target))
    assert code == 0 and said.count("no C++ compiler was found (/nowhere/c++)") == 2, said
    code = "import seam_fast as sf, torch; print(sf.__file__, sf.has_ext(), sf.binarize(torch.tensor([-1.0, 2.0])))"
    code, said = run("-c", code, cwd=tmp_path, PYTHONPATH=str(target))
    assert code == 0 and str(target) in said and "False tensor([0., 1.]" in said, said


def test_what_a_wheel_holds(checkout):
    name, files, said = wheel_of(checkout, SEAM_FAST_BUILD="none")
    assert name.endswith("-py3-none-any.whl")
    assert {file.split("/")[0] for file in files} == {"seam_fast", name.split("-py3")[0] + ".dist-info"}
    wanted = {f"seam_fast/{path.name}" for path in (ROOT / "seam_fast").glob("*.py")}
    assert {file for file in files if file.endswith(".py")} == wanted
    assert "seam_fast/r8_newids.txt.gz" in files
    assert files["seam_fast/_build_note.txt"] == b"it was installed with SEAM_FAST_BUILD=none\n"
    assert said.count("without its compiled part") == 1


def test_the_extension_can_be_required(checkout):
    for environment in (NO_COMPILER, {"SEAM_FAST_BUILD": "none"}):
        code, said = run("-c", BUILD, "wheel", cwd=checkout, SEAM_FAST_REQUIRE_EXT="1", **environment)
        assert code != 0 and "Traceback" not in said
        assert len(re.findall(r"^error: SEAM_FAST_REQUIRE_EXT is set, but nothing can be compiled: ", said, re.M)) == 1


@pytest.mark.parametrize("mode", ["gpu", "cuda"])
def test_a_mode_that_cannot_be_had(checkout, mode):
    code, said = run("-c", BUILD, "wheel", cwd=checkout, SEAM_FAST_BUILD=mode, CXX=sys.executable)
    lines = [line for line in said.splitlines() if line.strip() and "Warning" not in line]
    assert code != 0 and lines[-1].startswith(f"error: SEAM_FAST_BUILD is '{mode}'"), said
    assert "Traceback" not in said


def test_sources_that_are_missing_are_named(checkout):
    (checkout / "csrc" / "bindings.cpp").unlink()
    files = wheel_of(checkout)[1]
    assert files["seam_fast/_build_note.txt"].startswith(b"csrc/bindings.cpp")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="needs a C++ compiler")
def test_builds_after_one_another(checkout):
    """Success removes the note of a failure, failure the module of a success; a changed header compiles again."""

    def modules_and_notes(**environment):
        files = wheel_of(checkout, **environment)[1]
        return [name for name in files if "/_C." in name], files.get("seam_fast/_build_note.txt")

    sources = re.findall(r'"(csrc/.+\.cpp)"', (checkout / "setup.py").read_text())
    assert "csrc/bindings.cpp" in sources
    shutil.rmtree(checkout / "csrc")
    for source in sources:
        (checkout / source).parent.mkdir(parents=True, exist_ok=True)
        (checkout / source).write_text("")
    (checkout / "csrc/part.h").write_text('#define PART "first part"\n')
    (checkout / "csrc/bindings.cpp").write_text(STUB)

    built, note = modules_and_notes()
    assert len(built) == 1 and note is None
    assert modules_and_notes(**NO_COMPILER)[0] == []
    (checkout / "csrc/part.h").write_text('#define PART "second part"\n')
    name, files, _ = wheel_of(checkout)
    assert b"second part" in files[built[0]] and b"first part" not in files[built[0]]
    assert "seam_fast/_build_note.txt" not in files and "none-any" not in name
    (checkout / "csrc/part.h").write_text("#error out of chalk\n")
    built, note = modules_and_notes()
    assert built == [] and note.startswith(b"compiling it failed") and b"-v" in note
    code, said = run("-c", BUILD, "wheel", cwd=checkout, SEAM_FAST_REQUIRE_EXT="1")
    assert code != 0 and "out of chalk" in said

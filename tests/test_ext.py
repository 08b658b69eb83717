"""Loading the compiled part: what is used, what is refused, and what it says then."""

import ast
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from support.fake_module import FakeModule

import seam_fast as sf
from seam_fast import _ext

needs_ext = pytest.mark.skipif(not _ext.has_ext(), reason=f"needs the compiled part: {_ext.reason}")


def load(monkeypatch, module):
    monkeypatch.delenv("SEAM_FAST_DISABLE_EXT", raising=False)
    monkeypatch.setitem(sys.modules, "seam_fast._C", module)
    return _ext.load_extension()


def fresh(code, **environment):
    """Runs code in a new Python; returns its output and its errors."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


# -- what is there ----------------------------------------------------------------------------------------------------


@needs_ext
def test_the_compiled_part_is_loaded():
    assert sf.has_ext() and _ext.reason == "" and sf.backends()["cpu"] == ""
    info = sf.build_info()
    assert info["loaded"] and info["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    assert info["compiler"] and "-ffp-contract=off" in info["flags"] and "fast-math" not in info["flags"]
    assert info["isa"] in info["isas"] and info["isas"][-1] == "portable" and set(info["isas"]) <= set(_ext.ISAS)
    assert info["openmp"] == ("backend: OpenMP" in torch.__config__.parallel_info() and sys.platform == "linux")


@needs_ext
def test_every_instruction_set_can_be_chosen_and_no_other():
    before = _ext.C.isa()
    try:
        for name in _ext.C.isas():
            _ext.C.set_isa(name)
            assert _ext.C.isa() == name
        with pytest.raises(ValueError, match="abacus"):
            _ext.C.set_isa("abacus")
    finally:
        _ext.C.set_isa(before)


def test_build_info_without_the_compiled_part(monkeypatch):
    monkeypatch.setattr(_ext, "C", None)
    monkeypatch.setattr(_ext, "reason", "of the weather")
    assert sf.build_info() == {"loaded": False, "reason": "of the weather"} and not sf.has_ext()
    assert sf.backends() == {"cuda": "of the weather", "cpu": "of the weather", "torch": ""}


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_sound_module_is_taken(monkeypatch):
    module = FakeModule()
    assert load(monkeypatch, module) == (module, "")


@pytest.mark.parametrize("version", ["1.0.0", "2.0.1+cu118", "3.1.0"])
def test_a_module_for_another_torch_is_refused(monkeypatch, version):
    with pytest.warns(UserWarning, match="pip install --no-build-isolation") as caught:
        module, reason = load(monkeypatch, FakeModule(version))
    assert module is None and len(caught) == 1
    assert reason == f"the compiled part was built for torch {version}, but this is torch {torch.__version__}"


def test_a_module_for_another_patch_release_is_taken(monkeypatch):
    version = ".".join(torch.__version__.split(".")[:2]) + ".99"
    assert load(monkeypatch, FakeModule(version))[1] == ""


def test_a_module_of_other_sources_is_refused(monkeypatch):
    module = FakeModule()
    del module.score_adam_
    with pytest.warns(UserWarning, match="other sources"):
        assert load(monkeypatch, module)[1].endswith("(it lacks score_adam_)")


def test_a_module_that_cannot_be_loaded_is_refused(monkeypatch):
    def broken(name):
        raise ImportError("undefined symbol: _ZN2at")

    monkeypatch.setattr(_ext.importlib, "import_module", broken)
    with pytest.warns(UserWarning, match="undefined symbol"):
        module, reason = load(monkeypatch, FakeModule())
    assert module is None and reason == "the compiled part cannot be loaded (undefined symbol: _ZN2at)"


def test_a_missing_module_is_no_cause_for_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(_ext, "__file__", str(tmp_path / "_ext.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module, reason = load(monkeypatch, None)
        assert module is None and reason.endswith("nothing was compiled for this Python")
        (tmp_path / "_build_note.txt").write_text("the compiler was on strike\n")
        assert load(monkeypatch, None)[1] == "the compiled part is not installed: the compiler was on strike"


def test_a_refused_module_leaves_a_working_package():
    code = (
        "import sys, types; m = types.ModuleType('seam_fast._C'); sys.modules['seam_fast._C'] = m\n"
        f"for name in {_ext.NEEDED!r}: setattr(m, name, lambda: None)\n"
        "m.build_info = lambda: {'torch': '1.0.0', 'with_cuda': False}\n"
        "import seam_fast as sf; print(sf.has_ext(), sf.has_cuda(), sf.backends()['cpu'])"
    )
    out, err = fresh(code, SEAM_FAST_DISABLE_EXT="")
    assert out.startswith("False False the compiled part was built for torch 1.0.0")
    assert err.count("pip install") == 1


def test_the_compiled_part_can_be_disabled_and_the_first_use_says_that_it_is_slow():
    code = "import seam_fast as sf, sys; print(sf.has_ext(), 'seam_fast._C' in sys.modules, sf.backends()['cpu'])\n"
    code += "print('imported', file=sys.stderr)\nfor _ in range(2): sf.backend.choose_engine()"
    out, err = fresh(code, SEAM_FAST_DISABLE_EXT="1")
    assert out == "False False SEAM_FAST_DISABLE_EXT is set"
    slow = "seam-fast: slow, because plain PyTorch computes: SEAM_FAST_DISABLE_EXT is set; if this is meant, set SEAM"
    before, after = err.split("imported\n")
    assert before == "" and after.count(slow) == 1


# -- its types --------------------------------------------------------------------------------------------------------


def stub():
    """What _C.pyi declares: argument names of each function, names of each class's members."""
    declared = {}
    text = Path(_ext.__file__).with_name("_C.pyi").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            declared[node.name] = [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.ClassDef):
            members = [member for member in node.body if isinstance(member, ast.FunctionDef)]
            declared[node.name] = {member.name: [argument.arg for argument in member.args.args] for member in members}
    return declared


def arguments_of(function):
    """Names in the first line of pybind's docstring, ``name(first: type, second: type = default) -> type``."""
    inside = function.__doc__.split("\n")[0].split("(", 1)[1].rsplit(") ->", 1)[0]
    return re.findall(r"(?:^|, )(\w+): ", inside)


@needs_ext
def test_the_stub_declares_what_the_compiled_part_has():
    declared = stub()
    there = {name: value for name, value in vars(_ext.C).items() if not name.startswith("_")}
    missing = set(_ext.NEEDED_WITH_CUDA) if not _ext.built_with_cuda else set()
    assert declared.keys() - missing == there.keys()
    for name, value in there.items():
        if not isinstance(value, type):
            assert declared[name] == arguments_of(value), name
            continue
        members = {member for member in vars(value) if not member.startswith("_")}
        assert declared[name].keys() - {"__init__"} == members, name
        for member, names in declared[name].items():
            if callable(getattr(value, member)):
                assert names == arguments_of(getattr(value, member)), f"{name}.{member}"


# -- the instruction set ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("requested", "used"), [("", "avx2"), ("auto", "avx2"), ("portable", "portable")])
def test_the_instruction_set_that_is_asked_for(monkeypatch, requested, used):
    monkeypatch.setenv("SEAM_FAST_ISA", requested)
    module = FakeModule()
    assert _ext.apply_isa_override(module) == "" and module.used == used


@pytest.mark.parametrize(
    ("requested", "why"),
    [("avx512", "this CPU can run avx2, portable"), ("mmx", "it can be auto, avx512, avx2, portable")],
)
def test_an_instruction_set_that_cannot_be_had(monkeypatch, requested, why):
    monkeypatch.setenv("SEAM_FAST_ISA", requested)
    module = FakeModule()
    with pytest.warns(UserWarning, match="using avx2"):
        assert _ext.apply_isa_override(module) == f"SEAM_FAST_ISA={requested} is ignored: {why}"
    assert module.used == "avx2"


@needs_ext
def test_a_bad_instruction_set_does_not_hinder_the_import():
    code = "import seam_fast as sf; from seam_fast import _ext; print(sf.has_ext(), _ext.isa_note)"
    out, err = fresh(code, SEAM_FAST_ISA="mmx")
    assert out.startswith("True SEAM_FAST_ISA=mmx is ignored") and err.count("is ignored") == 1
    assert fresh("import seam_fast as sf; print(sf.build_info()['isa'])", SEAM_FAST_ISA="portable") == ("portable", "")

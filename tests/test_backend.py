"""Backends and engines: which is chosen, why one cannot be used, what is said where something is slow, and info."""

import importlib.machinery
import json
import sys
import types
import warnings

import pytest
import torch
from support.fake_module import FakeModule

import seam_fast as sf
from seam_fast import TrainingError, _ext, backend
from seam_fast.cli import main as cli
from seam_fast.cli.main import main

# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_module(monkeypatch):
    """Makes a module the one that is loaded, or none."""
    monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)

    def use(module, reason=""):
        monkeypatch.setattr(_ext, "C", module)
        monkeypatch.setattr(_ext, "reason", reason)
        monkeypatch.setattr(_ext, "built_with_cuda", module is not None and module.build_info()["with_cuda"])

    return use


@pytest.fixture
def nothing_said(monkeypatch):
    """As if nothing had been warned of in this process."""
    monkeypatch.setattr(backend, "_warned_texts", set())
    monkeypatch.setattr(backend, "_handled", set())
    monkeypatch.setattr(_ext, "warned", False)
    monkeypatch.delenv("SEAM_FAST_DISABLE_EXT", raising=False)
    monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)


def said_by(*calls):
    """The warnings of these calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call in calls:
            call()
    return [str(warning.message) for warning in caught]


def every_way_to_begin():
    """What a user's first call may be."""
    weights = [torch.ones(8, 3), torch.ones(8, 2), torch.ones(8), torch.ones(8)]
    score = torch.ones(3, requires_grad=True)
    score.grad = torch.ones(3)
    return [
        lambda: sf.masked_lstm(torch.ones(2, 1, 3), None, weights, weights),
        lambda: sf.ScoreAdam([score], lr=0.1).step(),
        backend.choose_backend,
        backend.choose_engine,
    ]


@pytest.mark.parametrize("first", range(4))
def test_without_kernels_the_first_use_says_so_once(with_module, nothing_said, first, monkeypatch):
    with_module(None, "it rains")
    calls = every_way_to_begin()
    (text,) = said_by(calls[first])
    assert said_by(*calls) == []
    assert text.startswith("seam-fast: slow, because plain PyTorch computes: it rains") and "\n" not in text
    assert text.endswith("; if this is meant, set SEAM_FAST_BACKEND=torch")


@pytest.mark.parametrize("name", ["SEAM_FAST_BACKEND", "warned", "backend="])
def test_who_wants_it_so_hears_nothing(with_module, nothing_said, monkeypatch, name):
    with_module(None, "it rains")
    calls = every_way_to_begin()
    if name == "warned":
        monkeypatch.setattr(_ext, "warned", True)  # when it was loaded
    elif name == "backend=":
        calls = [lambda: backend.choose_backend("torch"), lambda: backend.choose_engine("torch")]
    else:
        monkeypatch.setenv(name, "torch")
    assert said_by(*calls) == []


def test_the_command_line_says_it_in_one_line(with_module, nothing_said, capsys):
    with_module(None, "it rains")

    def use():
        backend.choose_engine()
        warnings.warn("of another's", stacklevel=1)

    before = warnings.showwarning
    with pytest.warns(UserWarning, match="of another's"):
        assert cli.run_guarded("seam-fast", use) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("seam-fast: slow, because plain PyTorch computes: it rains")
    assert warnings.showwarning is before


def test_with_kernels_nothing_is_said(with_module, nothing_said):
    with_module(FakeModule())
    assert said_by(backend.choose_backend, backend.choose_engine) == []


def test_what_is_slow_beside_kernels_is_said_too(with_module, with_gpus, nothing_said, monkeypatch):
    with_module(FakeModule())
    with_gpus(True)
    (text,) = said_by(backend.choose_backend, backend.choose_engine, backend.choose_engine)
    assert text == (
        "seam-fast: slow, because the GPU here is used by plain PyTorch alone: the compiled part has no CUDA kernels; "
        "if this is meant, set SEAM_FAST_BACKEND=cpu or torch"
    )
    with_gpus()
    (text,) = said_by(lambda: backend.choose_engine(dtype=torch.float16))
    assert "plain PyTorch trains: it takes bases of float32 and float64, not float16; if this is meant" in text
    module = FakeModule()
    module.build_info = lambda: {"torch": torch.__version__, "with_cuda": False, "flags": "-O0 -g"}
    with_module(module)
    monkeypatch.setattr(backend, "_handled", set())
    (text,) = said_by(backend.choose_backend)
    assert text == "seam-fast: slow, because the compiled part was built with DEBUG=1; build it again without"


def test_a_checkout_that_is_not_compiled_names_the_copy_that_is(nothing_said, tmp_path, monkeypatch):
    checkout, installed, editable = (tmp_path / name for name in ("checkout", "site", "other"))
    for place in (checkout, installed, editable):
        (place / "seam_fast").mkdir(parents=True)
    monkeypatch.setattr(_ext, "__file__", str(checkout / "seam_fast" / "_ext.py"))
    monkeypatch.setattr(sys, "path", [str(checkout)])
    assert _ext.advice() == ""
    (checkout / "setup.py").touch()
    command = f"cd {checkout} && {sys.executable} setup.py build_ext --inplace"
    assert _ext.advice() == f"; to compile it: {command}"
    sys.path.append(str(installed))
    assert _ext.compiled_elsewhere() is None
    ending = importlib.machinery.EXTENSION_SUFFIXES[0]
    (installed / "seam_fast" / f"_C{ending}").touch()
    hint = (
        f"; this is the copy in {checkout}/seam_fast, but the one in {installed}/seam_fast is compiled: run elsewhere"
    )
    assert _ext.advice() == f"{hint}, or {command}"
    (installed / "seam_fast" / f"_C{ending}").unlink()
    (editable / "seam_fast" / f"_C{ending}").touch()
    about = installed / "seam_fast-0.1.0.dist-info"  # an editable installation
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: seam-fast\nVersion: 0.1.0\n")
    (about / "direct_url.json").write_text(json.dumps({"url": editable.as_uri(), "dir_info": {"editable": True}}))
    assert _ext.compiled_elsewhere() == editable / "seam_fast"
    (about / "direct_url.json").write_text("{")  # of no use, and no fault
    assert _ext.compiled_elsewhere() is None


# -- what is chosen ---------------------------------------------------------------------------------------------------


def test_the_best_backend_is_chosen(with_module, monkeypatch):
    with_module(None, "it rains")
    assert backend.choose_backend() == "torch"
    with_module(FakeModule())
    assert backend.choose_backend() == "cpu" and backend.choose_backend("torch") == "torch"
    assert sf.backends()["cuda"] == "the compiled part has no CUDA kernels" and not sf.has_cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with_module(FakeModule(with_cuda=True))
    assert sf.backends()["cuda"] == "torch sees no GPU" and not sf.has_cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(backend, "is_supported_gpu", lambda index: False)
    assert sf.backends()["cuda"] == "its kernels need a GPU of compute capability 8.0 or more, and torch sees none"
    monkeypatch.setattr(backend, "is_supported_gpu", lambda index: True)
    assert backend.choose_backend() == "cuda" and sf.has_cuda()


def test_the_environment_chooses_where_the_call_does_not(with_module, monkeypatch):
    with_module(FakeModule())
    monkeypatch.setenv("SEAM_FAST_BACKEND", "torch")
    assert backend.choose_backend() == "torch" and backend.choose_backend("cpu") == "cpu"


def test_unusable_backends_say_why(with_module, monkeypatch):
    with_module(None, "it rains")
    with pytest.raises(ValueError, match="backend 'cpu' cannot be used: it rains"):
        backend.choose_backend("cpu")
    monkeypatch.setenv("SEAM_FAST_BACKEND", "abacus")
    with pytest.raises(TrainingError, match="backend 'abacus' is unknown; there are auto, cuda, cpu, torch"):
        backend.choose_backend()


def test_the_engine_is_compiled_where_it_can_be(with_module):
    with_module(FakeModule())
    assert backend.choose_engine() == backend.choose_engine("cpu") == "cpu"
    assert backend.choose_engine("torch") == "torch"
    assert backend.choose_engine(dtype=torch.float64) == backend.choose_engine("cpu", torch.float64) == "cpu"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_trained_in_plain_pytorch(with_module, dtype):
    with_module(FakeModule())
    assert backend.choose_engine("auto", dtype) == "torch"
    with pytest.raises(TrainingError, match=rf"'cpu' cannot be used for training: .*float64, not {str(dtype)[6:]};"):
        backend.choose_engine("cpu", dtype)


def test_without_the_compiled_part_training_is_plain_pytorch(with_module):
    with_module(None, "it rains")
    assert backend.choose_engine() == "torch"
    with pytest.raises(TrainingError, match="'cpu' cannot be used for training: it rains; choose 'auto' or 'torch'"):
        backend.choose_engine("cpu")


@pytest.fixture
def with_gpus(monkeypatch):
    """Makes torch see GPUs, given by whether each is new enough."""

    def use(*able):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(able))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(able))
        monkeypatch.setattr(backend, "is_supported_gpu", lambda index: able[index])
        properties = types.SimpleNamespace(name="NVIDIA H100", multi_processor_count=132)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)

    return use


def test_a_gpu_trains_where_there_is_one(with_module, with_gpus):
    with_module(FakeModule(with_cuda=True))
    with_gpus(False, True)
    assert backend.supported_gpus() == [1]
    assert backend.choose_engine() == backend.choose_engine("cuda") == "cuda"
    assert backend.choose_engine(dtype=torch.float64) == "cuda"
    assert backend.choose_engine("cpu") == "cpu" and backend.choose_engine("torch") == "torch"


@pytest.mark.parametrize(
    ("with_cuda", "able", "why"),
    [
        (False, [True], "the compiled part has no CUDA kernels"),
        (True, [], "torch sees no GPU"),
        (True, [False], "its kernels need a GPU of compute capability 8.0 or more, and torch sees none"),
    ],
)
def test_where_no_gpu_can_train(with_module, with_gpus, with_cuda, able, why):
    with_module(FakeModule(with_cuda=with_cuda))
    with_gpus(*able)
    assert backend.choose_engine() == "cpu"
    with pytest.raises(TrainingError) as caught:
        backend.choose_engine("cuda")
    assert str(caught.value) == f"backend 'cuda' cannot be used for training: {why}; choose 'auto', 'cpu' or 'torch'"


def test_what_else_could_train_is_said(with_module, with_gpus):
    """Only what would work is named."""
    with_module(FakeModule(with_cuda=True))
    with_gpus(True)
    assert backend.choose_engine(dtype=torch.float16) == "torch"
    sentence = "'cuda' cannot be used for training: it takes bases of float32 and float64, not float16"
    with pytest.raises(TrainingError, match=f"{sentence}; choose 'auto' or 'torch'$"):
        backend.choose_engine("cuda", torch.float16)
    with_module(None, "it rains")
    with pytest.raises(TrainingError, match=r"'cuda' cannot be used for training: it rains; choose 'auto' or 'torch'$"):
        backend.choose_engine("cuda")


def test_the_environment_chooses_the_engine_where_the_call_does_not(with_module, monkeypatch):
    with_module(FakeModule())
    monkeypatch.setenv("SEAM_FAST_BACKEND", "torch")
    assert backend.choose_engine() == "torch" and backend.choose_engine("cpu") == "cpu"
    monkeypatch.setenv("SEAM_FAST_BACKEND", "cuda")
    with pytest.raises(TrainingError, match="'cuda' cannot be used for training"):
        backend.choose_engine()
    monkeypatch.setenv("SEAM_FAST_BACKEND", "abacus")
    with pytest.raises(TrainingError, match="unknown"):
        backend.choose_engine()


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_with_the_compiled_part(with_module, capsys):
    with_module(FakeModule())
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for part in (
        "cpu    usable",
        "not usable: the compiled part has no CUDA",
        "chisel 1.0",
        "-O9",
        "avx2, of avx2, po",
    ):
        assert part in text
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["build"]["isas"] == ["avx2", "portable"] and facts["training"] == "cpu"


def test_info_without_the_compiled_part(with_module, monkeypatch, capsys):
    with_module(None, "it rains")
    monkeypatch.setenv("SEAM_FAST_BACKEND", "cpu")  # info is for finding out what is wrong, so it goes on
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert text.count("not usable: it rains") == 2 and "cannot be used for training" in text


def test_info_with_gpus(with_module, with_gpus, capsys):
    with_module(FakeModule(with_cuda=True))
    with_gpus(True, False, True)
    assert main(["info"]) == 0
    h100 = "NVIDIA H100, 132 multiprocessors"
    assert f"training       cuda ({h100}; {h100})\n" in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["training"] == "cuda" and facts["gpus"] == [h100, h100]

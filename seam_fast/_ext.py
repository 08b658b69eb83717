"""The compiled part, loaded once, or the reason why it is not there. Never compiles and never raises.

Attributes:
    C: the module ``seam_fast._C``, or None (`has_ext` tells).
    reason: why C is None, in one clause; "" where it is not.
    isa_note: the warning about a SEAM_FAST_ISA that could not be followed; "" where there was none.
    built_with_cuda: whether C has CUDA kernels.
"""

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.metadata
import json
import os
import sys
import urllib.parse
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch  # also because _C needs the libraries that torch loads

REINSTALL = "pip install --no-build-isolation --no-deps --force-reinstall ."
ISAS = ("avx512", "avx2", "portable")
# What the Python side calls; a module without it was built from other sources.
NEEDED = (
    *("build_info", "isa", "isas", "set_isa", "score_adam_"),
    *("masked_lstm_layer", "masked_lstm_layer_transformed", "masked_lstm_forward", "masked_lstm_backward"),
    *("SeamTrainer", "empty_scratch", "score_rows_of", "draw_chance", "draw_permutation"),
    *("class_logits", "project_words", "DrawnDocuments", "binary_counts"),
)
NEEDED_WITH_CUDA = ("choose_cuda", "choose_steps", "modules_at_once", "class_logits_on_gpu", "QueuedEpochs")

warned = False  # whether the load below has warned of an unusable module


def is_disabled() -> bool:
    """Whether the user has switched the compiled part off (SEAM_FAST_DISABLE_EXT)."""
    return os.environ.get("SEAM_FAST_DISABLE_EXT", "") not in ("", "0")


def load_extension() -> tuple[ModuleType | None, str]:
    """The compiled module and "", or None and the reason. Warns once of a module that exists but cannot be used."""
    if is_disabled():
        return None, "SEAM_FAST_DISABLE_EXT is set"
    # Only beside this file: the import system would also find the module of another installed copy of the package.
    beside = importlib.machinery.PathFinder.find_spec("seam_fast._C", [str(Path(__file__).parent)])
    if beside is None and "seam_fast._C" not in sys.modules:
        return None, why_not_built()
    try:
        module = importlib.import_module("seam_fast._C")
    except ModuleNotFoundError as error:
        return None, why_not_built() if error.name == "seam_fast._C" else drop(f"cannot be loaded ({error})")
    except Exception as error:
        return None, drop(f"cannot be loaded ({error})")
    needed = NEEDED + NEEDED_WITH_CUDA if hasattr(module, "choose_cuda") else NEEDED
    missing = [name for name in needed if not hasattr(module, name)]
    if missing:
        return None, drop(f"was built from other sources than these (it lacks {', '.join(missing)})")
    built = module.build_info()["torch"]
    if built.split(".")[:2] != torch.__version__.split(".")[:2]:
        return None, drop(f"was built for torch {built}, but this is torch {torch.__version__}")
    return module, ""


def why_not_built() -> str:
    """The reason that setup.py wrote down when it installed the package without the compiled part."""
    try:
        note = Path(__file__).with_name("_build_note.txt").read_text(encoding="utf-8").strip()
    except OSError:
        note = ""
    return f"the compiled part is not installed: {note or 'nothing was compiled for this Python'}"


def advice() -> str:
    """What to do where nothing is compiled, as the end of a sentence; "" where the reason says so already."""
    if is_disabled():
        return ""
    here = Path(__file__).resolve().parent
    command = f"cd {here.parent} && {sys.executable} setup.py build_ext --inplace"
    if there := compiled_elsewhere():
        return f"; this is the copy in {here}, but the one in {there} is compiled: run elsewhere, or {command}"
    return f"; to compile it: {command}" if (here.parent / "setup.py").is_file() else ""


def compiled_elsewhere() -> Path | None:
    """The folder of another installed copy of this package that is compiled for this Python, or None.

    This copy hides that one, as where Python was started in a source folder.
    """
    here = Path(__file__).resolve().parent
    parents = [Path(entry or ".") for entry in sys.path]
    for distribution in importlib.metadata.distributions(name="seam-fast"):
        parents.append(Path(str(distribution.locate_file(""))))
        # The source folder of an editable installation; other installations have no such file or no such entry.
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            source = json.loads(distribution.read_text("direct_url.json") or "null")["url"]
            parents.append(Path(urllib.parse.unquote(urllib.parse.urlparse(source).path)))
    for parent in parents:
        folder = (parent / "seam_fast").resolve()
        if folder != here and importlib.machinery.PathFinder.find_spec("seam_fast._C", [str(folder)]):
            return folder
    return None


def drop(fault: str) -> str:
    """Warns that the compiled part has a fault and is not used; returns the fault as a reason."""
    global warned
    warned = True
    reason = f"the compiled part {fault}"
    rebuild = f"to rebuild it, run in seam-fast's source folder: {REINSTALL}"
    warnings.warn(f"seam-fast: {reason}; using plain PyTorch; {rebuild}", stacklevel=2)
    return reason


def apply_isa_override(module: ModuleType) -> str:
    """Sets the instruction set that SEAM_FAST_ISA names. One that cannot be used becomes a warning, also returned."""
    requested = os.environ.get("SEAM_FAST_ISA") or "auto"
    if requested == "auto":
        return ""
    if requested in module.isas():
        module.set_isa(requested)
        return ""
    why = f"this CPU can run {', '.join(module.isas())}" if requested in ISAS else f"it can be auto, {', '.join(ISAS)}"
    note = f"SEAM_FAST_ISA={requested} is ignored: {why}"
    warnings.warn(f"seam-fast: {note}; using {module.isa()}", stacklevel=2)
    return note


if TYPE_CHECKING:
    from . import _C

    C = _C  # at run time also None: has_ext() has to be asked before it is used
    reason = ""
else:
    C, reason = load_extension()
isa_note = "" if C is None else apply_isa_override(C)
built_with_cuda = C is not None and bool(C.build_info()["with_cuda"])


@functools.cache  # called at each step of an optimizer
def why_without_cuda(module: ModuleType) -> str:
    """Why a compiled module has no CUDA kernels, or "" where it does not say."""
    return str(module.build_info().get("without_cuda", ""))


def has_ext() -> bool:
    """Whether the compiled part is there and in use."""
    return C is not None


def has_cuda() -> bool:
    """Whether the compiled part has CUDA kernels and torch sees a GPU to run them on."""
    return built_with_cuda and torch.cuda.is_available()


def build_info() -> dict[str, Any]:
    """What the compiled part was built with and runs with, for bug reports.

    Returns:
        ``loaded`` (bool) and ``reason`` (why it is not loaded, or ""); where it is loaded also ``torch``, ``cuda``,
        ``with_cuda``, ``without_cuda`` (the reason, only where there is one), ``compiler``, ``flags``, ``openmp``,
        ``isa`` (the instruction set in use) and ``isas`` (those that this CPU can run, best first).
    """
    info: dict[str, Any] = {"loaded": has_ext(), "reason": reason}
    if C is not None:
        info |= C.build_info() | {"isa": C.isa(), "isas": list(C.isas())}
    return info

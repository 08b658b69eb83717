"""The compiled part, loaded once, or the reason why it is not there. Never compiles and never raises.

C is the module ``seam_fast._C`` or None; reason is "" or one clause that says why C is None.
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

import torch  # also because _C needs the libraries that torch loads

REINSTALL = "pip install --no-build-isolation --no-deps --force-reinstall ."
ISAS = ("avx512", "avx2", "portable")
# What the Python side calls; a module without it was built from other sources.
NEEDED = ("build_info", "isa", "isas", "set_isa", "score_adam_")
NEEDED += ("masked_lstm_layer", "masked_lstm_layer_transformed", "masked_lstm_forward", "masked_lstm_backward")
NEEDED += ("SeamTrainer", "empty_scratch", "documents_to_train", "draw_chance", "draw_permutation")
NEEDED += ("class_logits", "project_words", "DrawnDocuments", "binary_counts")
NEEDED_WITH_CUDA = ("choose_cuda", "choose_steps", "modules_at_once", "class_logits_on_gpu", "QueuedEpochs")


told = False  # whether loading it has warned already


def is_disabled() -> bool:
    """Whether the user wants none."""
    return os.environ.get("SEAM_FAST_DISABLE_EXT", "") not in ("", "0")


def load_extension() -> tuple[object | None, str]:
    """The compiled module and "", or None and the reason; a module that is there and of no use gets one warning."""
    if is_disabled():
        return None, "SEAM_FAST_DISABLE_EXT is set"
    # In this very folder: an editable install elsewhere would lend its own module to a copy that has none.
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
    """What setup.py wrote down when it went without the compiled part."""
    try:
        note = Path(__file__).with_name("_build_note.txt").read_text(encoding="utf-8").strip()
    except OSError:
        note = ""
    return f"the compiled part is not installed: {note or 'nothing was compiled for this Python'}"


def advice() -> str:
    """What to do where nothing is compiled, as the end of a sentence; "" where the reason says it."""
    if is_disabled():
        return ""
    here = Path(__file__).resolve().parent
    command = f"cd {here.parent} && {sys.executable} setup.py build_ext --inplace"
    if there := compiled_elsewhere():
        return f"; this is the copy in {here}, but the one in {there} is compiled: run elsewhere, or {command}"
    return f"; to compile it: {command}" if (here.parent / "setup.py").is_file() else ""


def compiled_elsewhere() -> Path | None:
    """Another installed copy of this package that is compiled for this Python, which this one hides; or None."""
    here = Path(__file__).resolve().parent
    places = [Path(place or ".") for place in sys.path]
    for distribution in importlib.metadata.distributions(name="seam-fast"):
        places.append(Path(distribution.locate_file("")))
        with contextlib.suppress(ValueError, AttributeError):  # an editable installation lies where this file says
            source = json.loads(distribution.read_text("direct_url.json") or "null")["url"]
            places.append(Path(urllib.parse.unquote(urllib.parse.urlparse(source).path)))
    for place in places:
        folder = (place / "seam_fast").resolve()
        if folder != here and importlib.machinery.PathFinder.find_spec("seam_fast._C", [str(folder)]):
            return folder
    return None


def drop(fault: str) -> str:
    """Warns that the compiled part is not used; returns the fault as a reason."""
    global told
    told = True
    reason = f"the compiled part {fault}"
    rebuild = f"to rebuild it, run in seam-fast's source folder: {REINSTALL}"
    warnings.warn(f"seam-fast: {reason}; using plain PyTorch; {rebuild}", stacklevel=2)
    return reason


def obey_isa(module) -> str:
    """Sets the instruction set that SEAM_FAST_ISA names. A wish that cannot be met becomes a warning, also returned."""
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


C, reason = load_extension()
isa_note = "" if C is None else obey_isa(C)
built_with_cuda = C is not None and bool(C.build_info()["with_cuda"])


@functools.cache  # asked for at each step of an optimizer
def why_without_cuda(module) -> str:
    """Why a compiled module has no CUDA kernels, or "" where it does not say."""
    return module.build_info().get("without_cuda", "")


def has_ext() -> bool:
    """Whether the compiled part is there and in use."""
    return C is not None


def has_cuda() -> bool:
    """Whether the compiled part has CUDA kernels and torch sees a GPU to run them on."""
    return built_with_cuda and torch.cuda.is_available()


def build_info() -> dict:
    """What the compiled part was built with and runs with, for reports of faults; without one, the reason.

    Keys: loaded, reason; where it is loaded also torch, cuda, with_cuda, without_cuda (why, if so), compiler, flags,
    openmp, isa (in use), isas (that this CPU can run, best first).
    """
    info = {"loaded": has_ext(), "reason": reason}
    if C is not None:
        info |= C.build_info() | {"isa": C.isa(), "isas": list(C.isas())}
    return info

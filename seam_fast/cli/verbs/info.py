"""``seam-fast info``: says what is installed and which backends work."""

import argparse
import platform
from pathlib import Path
from typing import Any

import torch

from ... import _ext
from ..._version import __version__
from ...backend import backends, choose_engine, supported_gpus
from ...errors import SeamFastError
from ...search.auto_engine import what_auto_takes
from ...training.devices import describe
from ..json_output import print_json
from ..machine import cores_in_words
from ..options import Subparsers, add_verb

PACKAGE = Path(__file__).resolve().parents[2]


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    add_verb(verbs, "info", run, "say what is installed and which backends work")


def run(arguments: argparse.Namespace) -> int:
    """Prints what is installed."""
    facts = _facts()
    if arguments.json:
        print_json(facts)
    else:
        _print_for_people(facts)
    return 0


def _facts() -> dict[str, Any]:
    """Versions, machine, what training would use, every backend's state and the build, by name."""
    try:
        training = choose_engine(warn=False)
    except SeamFastError as error:  # SEAM_FAST_BACKEND names a backend that cannot train here
        training = f"not possible: {error}"
    gpus = supported_gpus() if training == "cuda" else []
    facts = {
        "seam-fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}, {cores_in_words()}",
        "package": str(PACKAGE),
        "training": training,
        "gpus": [describe(index) for index in gpus],
        "auto": what_auto_takes(training, len(gpus)),
        "backends": backends(),
        "build": _ext.build_info(),
    }
    if _ext.isa_note:
        facts["isa_note"] = _ext.isa_note
    return facts


def _print_for_people(facts: dict[str, Any]) -> None:
    """Prints the facts as lines of a name and a value."""
    for name in ("seam-fast", "package", "python", "torch", "system"):
        print(f"{name:14} {facts[name]}")
    for name, reason in facts["backends"].items():
        print(f"{'backend ' + name:14} {'usable' if not reason else 'not usable: ' + reason}")
    print(f"{'training':14} {facts['training']}" + (f" ({'; '.join(facts['gpus'])})" if facts["gpus"] else ""))
    for line in facts["auto"]:
        print(f"{'':14} {line}")
    build = facts["build"]
    if build["loaded"]:
        cuda = f"CUDA {build['cuda']}" if build["with_cuda"] else "no CUDA"
        threads = "OpenMP" if build["openmp"] else "no OpenMP"
        print(f"{'compiled':14} for torch {build['torch']} by {build['compiler']}, {cuda}, {threads}")
        print(f"{'flags':14} {build['flags']}")
        print(f"{'instructions':14} {build['isa']}, of {', '.join(build['isas'])}")
        if "isa_note" in facts:
            print(f"{'':14} {facts['isa_note']}")

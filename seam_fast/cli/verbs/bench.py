"""``seam-fast bench``: its options. The benchmarks themselves are in the source's checkout, not in the package."""

import argparse
import importlib
import sys
from pathlib import Path

from ...errors import SeamFastError
from ..options import OptionGroup, Subparsers, add_verb

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
ON_GPUS = "All on the CPU; for GPUs there is scripts/gpu_check.sh."
ISAS = ("avx512", "avx2", "portable")


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser, with a parser for each kind of measurement."""
    parser = add_verb(verbs, "bench", run, "measure seam-fast and its rivals in turn, on this machine")
    add_common(parser)
    kinds = parser.add_subparsers(dest="kind", metavar="{step,op,job}")

    def add(name: str, help: str, epilog: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)
        add_common(sub)
        sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the record itself")
        sub.add_argument("--rounds", type=int, metavar="N", help="rounds (default: as many as fit some seconds)")
        sub.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # tiny sizes, for tests
        sub.add_argument("--isa", choices=ISAS, help="instruction set of all rivals, in a process of its own")
        return sub

    sub = add(
        "step",
        "a training step of every engine beside the reference's",
        f"docs/benchmarks says what it gave. {ON_GPUS}",
    )
    base_options(sub)
    sub.add_argument("--batch-sizes", type=int, nargs="+", metavar="B", help="default: 5 16 64")
    sub.add_argument(
        "--rivals", nargs="+", metavar="RIVAL", help="default: all of benchmarks/baselines/reference_step.py"
    )
    sub.add_argument("--parts", nargs="+", metavar="PART", help="of steps, memory, vocabulary (default: all)")
    sub.add_argument("--processes", choices=("own", "one"), default="one", help="one: all rivals share a process")
    sub.add_argument("--curves", action="store_true", help="instead: step time against batch, hidden size, length, ...")
    sub.add_argument("--axes", nargs="+", metavar="AXIS", help="curves: of batch, hidden, length, vocabulary, modules")

    sub = add("op", "the masked LSTM alone beside torch.nn.LSTM's kernels", f"Needs no data. {ON_GPUS}")
    sub.add_argument(
        "--shapes", nargs="+", metavar="SHAPE", help="names from benchmarks/harness/shapes.py (default: all)"
    )
    sub.add_argument("--threads", type=int, default=1)
    sub.add_argument("--backend", default="auto", help="backend of seam_fast.masked_lstm (default: auto)")

    sub = add(
        "job",
        "whole runs: one class, eight classes, time to the same F1, memory",
        f"Needs R8; with --quick it invents documents where there is none. {ON_GPUS}",
    )
    base_options(sub)
    sub.add_argument("--parts", nargs="+", metavar="PART", help="of one, eight, to_f1 (default: all)")
    sub.add_argument("--rivals", nargs="+", metavar="RIVAL", help="default: those of the tables in docs/benchmarks")
    sub.add_argument("--epochs", type=int, help="of one and eight (default: 300)")
    sub.add_argument("--threads", type=int, default=2, help="of eight: modules trained at the same time")
    sub.add_argument("--backend", default="auto", help="of eight: what trains (default: auto)")
    sub.add_argument("--seed", type=int, default=0)


def add_common(parser: OptionGroup) -> None:
    """Adds options that stand before or after the kind; a default after it would overwrite a value given before it."""
    for name, help in (
        ("--quick", "fewer cases and rounds: at most two minutes a kind"),
        ("--check", "quick, and fail where a ratio is a fifth below the newest record's of such a machine, or more"),
    ):
        parser.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=help)
    parser.add_argument("--out", metavar="FILE", default=argparse.SUPPRESS, help="default: runs/bench/KIND.json")


def base_options(sub: OptionGroup) -> None:
    """Adds the options that name the base and its data."""
    sub.add_argument("--base", metavar="FILE", default="data/models/LSTM_classifier.pt", help="trained if not there")
    sub.add_argument("--data-dir", metavar="DIR", help="folder with R8 (see also SEAM_FAST_DATA)")


def run(arguments: argparse.Namespace) -> int:
    """Runs ``benchmarks/cpu/runner.py`` of the checkout that this package is in."""
    if not (FOLDER / "cpu" / "runner.py").is_file():
        raise SeamFastError(
            "the benchmarks are in the source checkout, which this installation is not: clone the repository, run "
            "`pip install --no-build-isolation -e .` in it, and then this command again"
        )
    if str(FOLDER.parent) not in sys.path:  # processes that the benchmarks start inherit it
        sys.path.insert(0, str(FOLDER.parent))
    return importlib.import_module("benchmarks.cpu.runner").run(arguments)

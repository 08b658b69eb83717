"""``seam-fast export``: a module as a file for other programs."""

import argparse
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...modules.compact import CompactModule
from ...modules.export_c import export_c, stack_bytes
from ...modules.export_onnx import export_onnx
from ...modules.export_page import export_html
from ...modules.seam_module import SeamModule
from ..any_module import ModuleLoader, add_module_options
from ..c_figures import c_figures
from ..json_output import print_json
from ..options import Subparsers, add_verb


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "export", run, "write a module as a file for other programs")
    add_module_options(parser)
    formats = parser.add_mutually_exclusive_group(required=True)
    formats.add_argument(
        "--onnx",
        metavar="FILE",
        help="an ONNX graph of any batch size and length, with tokenizer and vocabulary in its metadata",
    )
    formats.add_argument("--c", metavar="FILE", help="one file of C99 that needs no library: text in, probability out")
    formats.add_argument(
        "--html",
        metavar="FILE",
        help="a page that shows a text's probability and the words that count, without network; needs a compiler for "
        "WebAssembly (pip install 'seam-fast[wasm]', or clang and lld)",
    )
    parser.add_argument("--name", help="with --c: what the functions' names begin with (default: the target's name)")
    parser.add_argument(
        "--table",
        action="store_true",
        help="with --c or --html: hold what the LSTM gets from each word in place of the embedding; faster, and "
        "several times as large",
    )
    parser.add_argument(
        "--time", action="store_true", help="with --c: compile the file and say how many microseconds a text takes"
    )
    parser.add_argument(
        "--documents", metavar="FILE", help="with --time: a text a line (default: invented texts of full length)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says how large it is."""
    _check_options(arguments)
    module = ModuleLoader(arguments).load(Path(arguments.module))
    made = module.compact() if isinstance(module, SeamModule) else module
    facts = _written(made, arguments)
    if arguments.json:
        print_json(facts)
    else:
        print(_line(facts))
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises CheckpointError for options that have no effect, before any work."""
    for option, needed in (("name", "c"), ("time", "c"), ("documents", "time")):
        if getattr(arguments, option) and not getattr(arguments, needed):
            raise CheckpointError(f"--{option} has no effect without --{needed}; give that as well, or leave it out")
    if arguments.table and arguments.onnx:
        raise CheckpointError("--table has no effect with --onnx; leave it out")


def _written(module: CompactModule, arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the file; what it is, by name."""
    if arguments.onnx:
        kind, path = "onnx", export_onnx(module, arguments.onnx)
    elif arguments.html:
        kind, path = "html", export_html(module, arguments.html, arguments.table)
    else:
        kind, path = "c", export_c(module, arguments.c, arguments.name, arguments.table)
    facts = {"file": str(path), "format": kind, "target": module.target_names, "bytes": path.stat().st_size}
    if kind == "c":
        facts["stack_bytes"] = stack_bytes(module)
        facts |= c_figures(module, path, arguments.time, arguments.documents)
    return facts


def _line(facts: dict[str, Any]) -> str:
    """The facts in a line."""
    line = f"{facts['file']}: {facts['bytes'] / 1000:.0f} kB, {'+'.join(facts['target'])}"
    if facts["format"] != "c":
        return line
    if "object_bytes" in facts:
        line += f"; {facts['object_bytes'] / 1000:.0f} kB as an object file ({facts['compiler']})"
    else:
        line += "; its size as an object file is not known, for no C compiler was found"
    line += f", {facts['stack_bytes'] / 1000:.0f} kB of stack"
    if "microseconds" in facts:
        line += f"; {facts['microseconds']:.1f} microseconds a text"
        if facts["microseconds_native"] is not None:
            line += f", {facts['microseconds_native']:.1f} with -march=native"
        line += f" ({facts['texts']:,} texts)"
    return line

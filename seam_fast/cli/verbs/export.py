"""``seam-fast export``: a module as a file for other programs."""

import argparse
from pathlib import Path

from ...modules.export_onnx import export_onnx
from ...modules.seam_module import SeamModule
from ..any_module import ModuleLoader, add_module_options
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


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says how large it is."""
    module = ModuleLoader(arguments).load(Path(arguments.module))
    made = module.compact() if isinstance(module, SeamModule) else module
    path = export_onnx(made, arguments.onnx)
    size = path.stat().st_size
    if arguments.json:
        print_json({"file": str(path), "format": "onnx", "target": made.target_names, "bytes": size})
    else:
        print(f"{path}: {size / 1000:.0f} kB, {'+'.join(made.target_names)}")
    return 0

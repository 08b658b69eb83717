"""``seam-fast compact``: makes modules into files of their own, which need no base."""

import argparse
from pathlib import Path
from typing import Any

from ...common.progress import say
from ...errors import CheckpointError
from ...modules.compact import DTYPES, UNKNOWN, CompactModule
from ...modules.seam_module import SeamModule
from ..any_module import ModuleLoader, add_module_options
from ..corpora import corpus_for_base
from ..corpus_choice import data_file, dataset_name
from ..json_output import print_json
from ..options import Subparsers, add_corpus_options, add_verb, refuse_given, weights_share

ENDING = ".compact.safetensors"


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "compact", run, "make modules into files of their own, which need neither base nor torch")
    add_module_options(parser, nargs="+")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="how weights are stored: float32, with the module's very answers (default); float16; or int8, the "
        "embedding in 8 bits and the LSTM in 16",
    )
    parser.add_argument(
        "--unknown",
        choices=UNKNOWN,
        default="own",
        help="how words are read that the base does not know: own, as the module does (default); or dropped, as words "
        "of which nothing is kept: a smaller file, and other answers to some texts with unknown words",
    )
    size = parser.add_argument_group("size", "of modules that were made with --keep-scores; at most one of these")
    one = size.add_mutually_exclusive_group()
    one.add_argument("--keep", type=weights_share, metavar="SHARE", help="share of all weights to keep, such as 1%%")
    one.add_argument(
        "--max-kb", type=float, metavar="N", help="the largest module whose file takes at most so many kB (1000 bytes)"
    )
    one.add_argument(
        "--min-f1",
        type=float,
        metavar="F1",
        help="the smallest module of this F1 on the corpus' validation documents",
    )
    add_corpus_options(size, default=None)
    parser.add_argument("--out", metavar="FILE", help=f"for one module: the file (default: MODULE{ENDING} beside it)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the files and says what is in them."""
    paths = [Path(name) for name in arguments.module]
    if arguments.out and len(paths) > 1:
        raise CheckpointError(
            f"{arguments.out}: --out names one file, and there are {len(paths)} modules; leave it out"
        )
    data_file(arguments)  # refuses options that have no effect beside one another
    if arguments.min_f1 is None:
        reason = "without --min-f1, which judges on its documents"
        refuse_given(arguments, ("dataset", "data_dir", "data_file"), reason, CheckpointError)
    loader, rows = ModuleLoader(arguments), []
    for path in paths:
        module = loader.load(path)
        if isinstance(module, CompactModule):
            raise CheckpointError(f"{path}: is compact already; give the module that it was made of")
        module = _resized(module, path, arguments)
        made = module.compact(arguments.dtype, arguments.unknown)
        out = made.save(arguments.out or path.with_name(path.stem + ENDING))
        rows.append(_facts(made, out))
        if not arguments.json:
            print(_line(rows[-1]))
    if arguments.json:
        print_json(rows)
    return 0


def _resized(module: SeamModule, path: Path, arguments: argparse.Namespace) -> SeamModule:
    """The module in the size that the command line asks for."""
    size: dict[str, Any] = {}
    if arguments.keep is not None:
        size = {"keep": arguments.keep}
    elif arguments.max_kb is not None:
        size = {"max_kb": arguments.max_kb, "dtype": arguments.dtype, "unknown": arguments.unknown}
    elif arguments.min_f1 is not None:
        base = module.base
        dataset = dataset_name(arguments) or base.info.get("corpus") or "r8"
        corpus = corpus_for_base(base, dataset, arguments.data_dir, say, data_file(arguments))
        size = {"min_f1": arguments.min_f1, "documents": corpus}
    try:
        return module.resized(**size) if size else module
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _facts(module: CompactModule, path: Path) -> dict[str, Any]:
    """What a compact module holds, by name."""
    return {
        "file": str(path),
        "target": module.target_names,
        "bytes": path.stat().st_size,
        "dtype": module.card["dtype"],
        "unknown": module.card["unknown"],
        "embedding_rows": len(module.embedding),
        "kept_words": sum(map(bool, module.row_of.values())),
        "embedding_dim": module.embedding.shape[1],
        "hidden_sizes": [[cell.hidden_size for cell in cells] for cells in module.layers],
        "kept_weights": module.card["kept_weights"],
        "base_weights": module.card["base_weights"],
    }


def _line(facts: dict[str, Any]) -> str:
    """The facts in a line."""
    units = " + ".join(str(size) for sizes in facts["hidden_sizes"] for size in sizes)
    return (
        f"{facts['file']}: {facts['bytes'] / 1000:.0f} kB, {'+'.join(facts['target'])}, {facts['kept_weights']:,} of "
        f"{facts['base_weights']:,} weights, {facts['kept_words']:,} words, {units} units, {facts['dtype']}"
    )

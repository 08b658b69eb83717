"""``seam-fast predict``: a module's answers to texts."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ...errors import DataError
from ..any_module import ModuleLoader, add_module_options
from ..json_output import print_json
from ..options import Subparsers, add_verb

AT_ONCE = 1024  # texts; results of a long file appear while it is read


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "predict", run, "say for each text how probable it is that it is the module's target")
    add_module_options(parser)
    parser.add_argument("text", metavar="TEXT", nargs="*", help="a text; without any, each line of --documents is one")
    parser.add_argument("--documents", metavar="FILE", help="a text a line (default: standard input)")


def run(arguments: argparse.Namespace) -> int:
    """Prints a probability and the text, a line for each text."""
    if arguments.text and arguments.documents:
        raise DataError("give texts or --documents, not both")
    module = ModuleLoader(arguments).load(Path(arguments.module))
    texts = iter(arguments.text) if arguments.text else _lines(arguments.documents)
    found = []
    while some := list(islice(texts, AT_ONCE)):
        for text, probability in zip(some, module(some).tolist(), strict=True):
            if arguments.json:
                found.append({"text": text, "probability": probability})
            else:
                print(f"{probability:.4f}\t{text}")
    if arguments.json:
        print_json(found)
    return 0


def _lines(path: str | None) -> Iterator[str]:
    """The lines of a file in UTF-8, or of standard input, without their ends; DataError where they are no text."""
    try:
        if path is None:
            yield from _without_ends(sys.stdin)
        else:
            with open(path, encoding="utf-8-sig") as file:  # a byte-order mark is no part of the first text
                yield from _without_ends(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path or 'standard input'}: is no text in UTF-8 ({error.reason}); convert it") from None


def _without_ends(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line.rstrip("\r\n")

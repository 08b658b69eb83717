"""A compact module as one file of C99: text in, probability out, without an allocation or a library."""

import os
import re
from pathlib import Path

from .. import runtime
from .._version import __version__
from ..errors import CheckpointError
from ..files.atomic import write_atomically
from .export_arrays import identifier, in_comment, template
from .export_network import Network
from .export_words import words_part
from .seam_module import SeamModule

MOST_STACK = 4 << 20  # bytes
MOST_TABLE = 64 << 20  # bytes of a table of projected words
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def export_c(
    module: runtime.CompactModule | SeamModule,
    path: str | os.PathLike[str],
    name: str | None = None,
    table: bool = False,
) -> Path:
    """Writes a module as one file of C99, text in, probability out, completely or not at all.

    The file's functions are ``<name>_probability(text)`` and those that it consists of; its first lines declare and
    explain them. It needs no library and allocates nothing. Compiled with ``-DSEAM_MAIN`` it is a program.

    Args:
        module: A compact module, or a module of which one is made.
        path: Ends in ``.c``.
        name: What the functions' names begin with; default: one made of the target's name.
        table: Whether it holds what the LSTM gets from each word in place of the embedding: faster, and several times
            as large.

    Returns:
        The path.

    Raises:
        CheckpointError: The path has another ending; the name is none in C; the tokenizer is a function of the user's
            own; texts may be so long, or the table would become so large, that a C program should not hold it; or as
            ``SeamModule.compact`` does.
    """
    path = Path(path)
    if path.suffix != ".c":
        raise CheckpointError(f"{path}: the name of a file of C ends in .c")
    made = module.compact() if isinstance(module, SeamModule) else module
    return write_atomically(path, to_c(made, name, table).encode())


def to_c(module: runtime.CompactModule, name: str | None = None, table: bool = False) -> str:
    """The contents of the file that ``export_c`` writes; arguments and errors as there."""
    name = identifier(module.target_names) if name is None else name
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"a name in C is letters, digits and _ beginning with a letter, not {name!r}")
    network = Network(module)
    stack = network.stack_bytes()
    if stack > MOST_STACK:
        raise CheckpointError(
            f"the LSTM's outputs for texts of {module.card['max_length']} words would take {stack >> 20} MB of stack, "
            f"more than {MOST_STACK >> 20}; make a base with a smaller max_length, fewer units or one layer"
        )
    if table and network.table_bytes() > MOST_TABLE:
        raise CheckpointError(
            f"the table of all words would take {network.table_bytes() >> 20} MB, more than {MOST_TABLE >> 20}; export "
            "without it"
        )
    counted = "count, those that the module knows" if module.card["padding"] == "word" else "count, all"
    parts = [
        _head(module, name, stack),
        template("interface.c", max_length=module.card["max_length"], counted=counted),
        words_part(module),
        "\n/* -- from words to the margin " + "-" * 88 + " */\n",
        network.code(table),
        template("main.c"),
        template("wasm.c"),
    ]
    text = re.sub(r"\bseam_(?=[a-z])", f"{name}_", "".join(parts))
    return re.sub(r"\bSEAM_(?!MAIN\b|WASM\b)", f"{name.upper()}_", text)


def stack_bytes(module: runtime.CompactModule) -> int:
    """About what the functions of a module's file take of the stack."""
    return Network(module).stack_bytes()


def _head(module: runtime.CompactModule, name: str, stack: int) -> str:
    """The comment that the file begins with."""
    target = in_comment(" + ".join(module.target_names))
    return f"""\
/* {name}: the probability that a text is of the class {target}.
   Made by seam-fast {__version__} of a compact module; not to be edited but made again (seam-fast export).

   Declare what you use of the functions below and link this file; it is C99 and needs no library:

       cc -std=c99 -O3 -c {name}.c                      an object file; with -march=native for this processor alone
       cc -std=c99 -O3 -DSEAM_MAIN {name}.c -o {name}     a program: a text a line in, a probability a line out

   No function allocates, fails or keeps anything, so all of them may run in any number of threads; they take about
   {max(1, stack >> 10)} kB of stack. */

"""

"""A compact module as one page of HTML: the C file compiled to WebAssembly, with what shows its answers.

WebAssembly and not a program in JavaScript, so that there is one program: what is tested in C is what the page runs, in
floats as everywhere else, and no second tokenizer has to know Unicode as Python does.
"""

import base64
import gzip
import html
import os
import tempfile
from importlib import resources
from pathlib import Path

from .. import runtime
from .._version import __version__
from ..errors import CheckpointError
from ..files.atomic import write_atomically
from .compilers import compile_c, wasm_compiler
from .export_c import stack_bytes, to_c
from .seam_module import SeamModule

_EXPORTS = ("seam_page_read", "seam_page_begin", "seam_page_end", "seam_page_row", "seam_page_without", "__heap_base")
# Vector instructions (-msimd128) and gzip's streams are in the browsers of 2023 and later.
_FLAGS = (
    "-std=c99",
    "-O3",
    "-msimd128",
    "-mbulk-memory",
    "-nostdlib",
    "-DSEAM_WASM",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
    *(f"-Wl,--export={name}" for name in _EXPORTS),
)


def export_html(module: runtime.CompactModule | SeamModule, path: str | os.PathLike[str], table: bool = False) -> Path:
    """Writes a module as one page of HTML, completely or not at all: one types a text and sees its probability and the
    words that count. The page needs no other file and no network.

    Args:
        module: A compact module, or a module of which one is made.
        path: Ends in ``.html``.
        table: As of ``export_c``.

    Returns:
        The path.

    Raises:
        CheckpointError: The path has another ending; no compiler for WebAssembly is installed (extra ``[wasm]``), or it
            fails; or as ``export_c`` does.
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise CheckpointError(f"{path}: the name of a page ends in .html")
    return write_atomically(
        path, to_html(module.compact() if isinstance(module, SeamModule) else module, table).encode()
    )


def to_html(module: runtime.CompactModule, table: bool = False) -> str:
    """The contents of the file that ``export_html`` writes; arguments and errors as there."""
    program = to_wasm(module, table)
    card = module.card
    names = " + ".join(module.target_names)
    size, kind = f"{len(program) / 1000:.0f} kB", card.get("dtype", "float32")
    packed = gzip.compress(program, 9, mtime=0)  # the same bytes at each export, so without the time of day
    facts = f"A module that keeps something of {len(module.embedding) - 1:,} words, {kind}, {size} of program and data"
    values = {
        "version": __version__,
        "target": html.escape("".join(letter if letter.isprintable() else "?" for letter in names)),
        "facts": html.escape(f"{facts}; seam-fast {__version__}."),
        "max_length": str(card["max_length"]),
        "counts": " that the module knows" if card["padding"] == "word" else "",
        "bytes": str(len(packed)),
        # Five characters for four bytes, where base64 needs 5.3. A script of HTML must not hold "<".
        "program": base64.b85encode(packed, pad=True).decode().replace("<", "/"),
    }
    page = (resources.files(__package__) / "templates" / "page.html").read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def to_wasm(module: runtime.CompactModule, table: bool = False) -> bytes:
    """The program of a page; arguments and errors as of ``export_html``."""
    command = wasm_compiler()
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "seam.c", Path(folder) / "seam.wasm"
        source.write_text(to_c(module, "seam", table), encoding="utf-8")
        stack = f"-Wl,-z,stack-size={stack_bytes(module) + (64 << 10) & ~15}"
        compile_c(command, source, out, [*_FLAGS, stack])
        return out.read_bytes()

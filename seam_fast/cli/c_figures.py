"""Compiles an exported file of C to say how large and how fast it is."""

import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError
from ..modules.compact import CompactModule
from ..modules.compilers import c_compiler, compile_c

FLAGS = ("-std=c99", "-O3")
TEXTS = 200  # invented ones, where no documents are given to measure with
RUNS = 3  # of which the fastest counts


def c_figures(module: CompactModule, path: Path, timed: bool, documents: str | None) -> dict[str, Any]:
    """What a compiler makes of an exported file: ``object_bytes``, and ``microseconds`` a text where that is wanted.

    Args:
        module: The module that was exported.
        path: Its file.
        timed: Whether to measure.
        documents: A file of texts, one a line, to measure with; None for invented ones.

    Returns:
        The figures and ``compiler``; nothing where there is no compiler.

    Raises:
        CheckpointError: The compiler fails, or there is none to measure with.
        DataError: The documents cannot be read, or there are none.
    """
    compiler = c_compiler()
    if compiler is None:
        if timed:
            raise CheckpointError(
                f"--time needs a C compiler, and none was found (CC, cc, gcc, clang); {path} is written"
            )
        return {}
    texts = _texts(module, documents) if timed else b""
    figures: dict[str, Any] = {"compiler": shlex.join([*compiler, *FLAGS])}
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "module.c", Path(folder) / "module.o"
        source.write_bytes(path.read_bytes())
        compile_c(compiler, source, made, [*FLAGS, "-c"])
        figures["object_bytes"] = made.stat().st_size
        if timed:
            figures["texts"] = texts.count(b"\n")
            figures["microseconds"] = _microseconds(compiler, source, texts, [])
            try:
                figures["microseconds_native"] = _microseconds(compiler, source, texts, ["-march=native"])
            except CheckpointError:  # not every compiler knows that option
                figures["microseconds_native"] = None
    return figures


def _texts(module: CompactModule, path: str | None) -> bytes:
    """Texts to measure with, a line each: those of a file, or invented ones of as many words as are read."""
    if path is None:
        words = sorted(module.row_of) or ["word"]
        length = module.card["max_length"]
        picked = [[words[(7 * k + 13 * n) % len(words)] for k in range(length)] for n in range(TEXTS)]
        join = "" if module.card["tokenizer"] == "characters" else " "
        return "".join(join.join(some).replace("\n", " ") + "\n" for some in picked).encode("utf-8", "replace")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not data.strip():
        raise DataError(f"{path}: is empty; give a file of texts, one a line")
    return data if data.endswith(b"\n") else data + b"\n"


def _microseconds(compiler: tuple[str, ...], source: Path, texts: bytes, flags: list[str]) -> float:
    """Microseconds of one core that a text takes, from bytes to probability; CheckpointError where that fails."""
    program = source.with_suffix(".exe")
    compile_c(compiler, source, program, [*FLAGS, *flags, "-DSEAM_MAIN"])
    found = []
    for _ in range(RUNS):
        done = subprocess.run([str(program), "--time"], input=texts, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise CheckpointError(f"the program cannot be measured: {said[:200] or f'it ended with {done.returncode}'}")
        found.append(float(done.stderr.split()[0]))
    return min(found)

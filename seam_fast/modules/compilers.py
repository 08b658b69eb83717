"""Finds and runs C compilers: for the program of this machine, and for WebAssembly."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError

MOST_SECONDS = 600.0  # for one compilation


def c_compiler() -> tuple[str, ...] | None:
    """The command of a C compiler: that of ``$CC``, else cc, gcc or clang; None where there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return tuple(command)
    return None


def wasm_compiler() -> tuple[str, ...]:
    """The command of a compiler for WebAssembly: Zig's from PyPI (extra ``[wasm]``), or clang with LLVM's linker.

    Raises:
        CheckpointError: There is none.
    """
    if importlib.util.find_spec("ziglang") is not None:
        return sys.executable, "-m", "ziglang", "cc", "--target=wasm32-freestanding"
    if shutil.which("clang") and shutil.which("wasm-ld"):
        return "clang", "--target=wasm32", "-ffreestanding"
    raise CheckpointError(
        "a page needs a compiler for WebAssembly, and none was found; pip install 'seam-fast[wasm]', or install clang "
        "and lld"
    )


def compile_c(command: Sequence[str], source: Path, out: Path, flags: Sequence[str]) -> None:
    """Compiles a file.

    Args:
        command: The compiler.
        source: The file.
        out: The file to make.
        flags: Further arguments.

    Raises:
        CheckpointError: The compiler refuses the file or cannot be run; the text holds the first line of what it says.
    """
    try:
        done = subprocess.run(
            [*command, *flags, str(source), "-o", str(out)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MOST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"the compiler {shlex.join(command)} could not be run ({error})") from None
    if done.returncode:
        said = next((line for line in (done.stderr + done.stdout).splitlines() if "error" in line), "no message")
        raise CheckpointError(f"the compiler {shlex.join(command)} failed: {said.strip()[:300]}")

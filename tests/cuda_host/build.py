"""Builds the CUDA op for the CPU: its host side as it is, its kernels in the meaning that block_host.h gives them.

What is built lies under build/ and is built again when a source that it is made of has changed. Processes that want it
at the same time wait for the one that builds it.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[2]
CSRC, HOST = ROOT / "csrc", ROOT / "tests" / "cuda_host"
NAME = "seam_fast_cuda_host"
SLOW = ("recurrent_backward", "recurrent_forward", "gate_rows")  # a third of the work, so they are not left to the end
KERNELS = sorted(CSRC.glob("cuda/*.cu"), key=lambda path: (*(path.stem != name for name in SLOW), path))
# The host side, in groups of sources that ask for the same of torch's headers: these take longer to be read than all of
# a source to be compiled, and so the sources of a group are compiled as one.
GROUPS = {
    "autograd": ("cuda/masked_lstm_cuda", "cuda/vmap_calls_cuda", "host/autograd", "host/transforms"),
    "host": (
        *(
            f"host/{name}"
            for name in ("binary_counts", "drawn_documents", "layer", "module_epoch", "rng", "trainer_base")
        ),
        "common/quadrature_rules",
    ),
    "trainer": (
        *(f"cuda/seam_trainer_cuda{part}" for part in ("", "_evaluate", "_params", "_stages")),
        "cuda/class_logits_cuda",
        "cuda/queued_epochs",
    ),
}
FOLDER = ROOT / "build" / f"cuda-host-{sysconfig.get_config_var('SOABI')}-torch-{torch.__version__}"
JOBS = min(4, os.cpu_count() or 1)


def compiler() -> list[str]:
    """The command, with all flags but those that say what is compiled."""
    folders = [CSRC, HOST, CSRC / "torch_lacks", *cpp_extension.include_paths(), sysconfig.get_path("include")]
    # No contraction, as in the installed module: a product and a sum that the source keeps apart stay apart.
    wanted = "-std=c++20 -O2 -g0 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Werror -Wno-unknown-pragmas"
    found = [f"-I{folder}" for folder in folders[:3]]
    found += [f"-isystem{folder}" for folder in folders[3:]]  # torch's headers are not ours to warn about
    # As torch itself was compiled: its wheels for CUDA had the older strings of libstdc++ until version 2.6.
    found.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}")
    # By these the pybind11 of older versions of torch tells whose exceptions it translates.
    for name in ("COMPILER_TYPE", "STDLIB", "BUILD_ABI"):
        if (value := getattr(torch._C, f"_PYBIND11_{name}", None)) is not None:
            found.append(f'-DPYBIND11_{name}="{value}"')
    return ["c++", *wanted.split(), f"-DTORCH_EXTENSION_NAME={NAME}", *found]


def run_compiler(what: str, *arguments: str | Path) -> str:
    done = subprocess.run([*compiler(), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} cannot be compiled:\n{done.stderr[-4000:]}")
    return done.stdout


def compile_one(source: Path, folder: Path) -> Path:
    """The object file of a source, which holds the hash of all that went into it in its name."""
    text = run_compiler(source.name, "-x", "c++", "-E", source)
    key = hashlib.sha256(f"{shlex.join(compiler())}\n{text}".encode()).hexdigest()[:16]
    built = folder / f"{source.parent.name}-{source.stem}-{key}.o"
    if not built.exists():
        made = built.with_suffix(".part")
        run_compiler(source.name, "-x", "c++", "-c", source, "-o", made)
        for old in folder.glob(f"{source.parent.name}-{source.stem}-*.o"):
            old.unlink()
        made.rename(built)
    return built


def write_groups(folder: Path) -> list[Path]:
    """A source for each of the GROUPS."""
    written = []
    for name, members in GROUPS.items():
        path = folder / f"{name}.cpp"
        path.write_text("".join(f'#include "{member}.cpp"\n' for member in members))
        written.append(path)
    return written


@contextlib.contextmanager
def locked(folder: Path):
    """Only one process at a time is within; others wait."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, also by the end of the process
        yield


def key_of_all() -> str:
    """A hash of every file that the sources may include, of the flags and of the compiler.

    Only where it has changed are the sources preprocessed to see which of them that concerns, which takes ten seconds.
    """
    key = hashlib.sha256(shlex.join(compiler()).encode())
    key.update(subprocess.run(["c++", "--version"], capture_output=True).stdout)
    for path in sorted(path for folder in (CSRC, HOST) for path in folder.rglob("*") if path.is_file()):
        if path.suffix != ".pyc":
            key.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return key.hexdigest()[:16]


def make(folder: Path) -> Path:
    """The library's path, after it has been compiled where something has changed."""
    sources = [*KERNELS, HOST / "module.cpp", *write_groups(folder)]
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(lambda source: compile_one(source, folder), sources))
    key = hashlib.sha256(" ".join(path.name for path in objects).encode()).hexdigest()[:16]
    library = folder / f"{NAME}-{key}.so"
    if not library.exists():
        made = library.with_suffix(".part")
        links = [f"-L{path}" for path in cpp_extension.library_paths()]
        links += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python", "-Wl,-z,now"]
        done = subprocess.run(["c++", "-shared", *objects, *links, "-o", made], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{NAME} cannot be linked:\n{done.stderr[-4000:]}")
        for old in folder.glob(f"{NAME}-*.so"):
            old.unlink()
        made.rename(library)
    return library


def built(folder: Path, key: str) -> Path | None:
    """The library, if it is there and made of the files that have this key."""
    stamp = folder / "made_of"
    said, _, name = stamp.read_text().partition(" ") if stamp.exists() else ("", "", "")
    return folder / name if said == key and (folder / name).is_file() else None


def begin() -> subprocess.Popen | None:
    """A process that builds it, for somebody who will want it later; None where it is there."""
    if built(FOLDER, key_of_all()):
        return None
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, __file__], **options)


def build():
    """The module, built if need be. Raises RuntimeError with the compiler's words."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with locked(FOLDER):
        key = key_of_all()
        library = built(FOLDER, key)
        if library is None:
            library = make(FOLDER)
            (FOLDER / "made_of").write_text(f"{key} {library.name}")
    spec = importlib.util.spec_from_file_location(NAME, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build().__file__)

"""Builds the CUDA op for the CPU: its host side as it is, its kernels in the meaning that block_host.h gives them.

What is built lies under build/ and is built again when a source that it is made of has changed. Processes that want it
at the same time wait for the one that builds it.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import shlex
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[2]
CSRC, HOST = ROOT / "csrc", ROOT / "tests" / "cuda_host"
NAME = "seam_fast_cuda_host"
KERNELS = sorted(CSRC.glob("cuda/*.cu"))
SHARED = ("autograd", "binary_counts", "drawn_documents", "layer", "module_epoch", "rng", "trainer_base", "transforms")
SHARED = (*(f"host/{name}.cpp" for name in SHARED), "common/quadrature_rules.cpp")
HOST_SIDE = ("class_logits_cuda", "masked_lstm_cuda", "queued_epochs", "vmap_calls_cuda", "seam_trainer_cuda")
HOST_SIDE += tuple(f"seam_trainer_cuda_{part}" for part in ("evaluate", "params", "stages"))
SOURCES = [*KERNELS, *(CSRC / "cuda" / f"{name}.cpp" for name in HOST_SIDE)]
SOURCES += [*(CSRC / name for name in SHARED), HOST / "module.cpp"]


def flags() -> list[str]:
    folders = [CSRC, HOST, CSRC / "torch_lacks", *cpp_extension.include_paths(), sysconfig.get_path("include")]
    # No contraction, as in the installed module: a product and a sum that the source keeps apart stay apart.
    wanted = "-std=c++20 -O2 -g0 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Werror -Wno-unknown-pragmas"
    # torch's headers are not ours to warn about.
    return [*wanted.split(), f"-DTORCH_EXTENSION_NAME={NAME}", *(f"-isystem{folder}" for folder in folders[3:])] + [
        f"-I{folder}" for folder in folders[:3]
    ]


def compile_one(source: Path, folder: Path) -> Path:
    """The object file of a source, which holds the hash of all that went into it in its name."""
    command = ["c++", *flags(), "-x", "c++"]
    text = subprocess.run([*command, "-E", source], capture_output=True, text=True)
    if text.returncode:
        raise RuntimeError(f"{source.name} cannot be read by the compiler:\n{text.stderr[-4000:]}")
    key = hashlib.sha256(f"{shlex.join(command)}\n{text.stdout}".encode()).hexdigest()[:16]
    built = folder / f"{source.parent.name}-{source.stem}-{key}.o"
    if not built.exists():
        made = built.with_suffix(".part")
        done = subprocess.run([*command, "-c", source, "-o", made], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} cannot be compiled:\n{done.stderr[-4000:]}")
        for old in folder.glob(f"{source.parent.name}-{source.stem}-*.o"):
            old.unlink()
        made.rename(built)
    return built


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
    key = hashlib.sha256(shlex.join(flags()).encode())
    key.update(subprocess.run(["c++", "--version"], capture_output=True).stdout)
    for path in sorted(path for folder in (CSRC, HOST) for path in folder.rglob("*") if path.is_file()):
        if path.suffix != ".pyc":
            key.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return key.hexdigest()[:16]


def make(folder: Path) -> Path:
    """The library's path, after it has been compiled where something has changed."""
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: compile_one(source, folder), SOURCES))
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


def build():
    """The module, built if need be. Raises RuntimeError with the compiler's words."""
    folder = ROOT / "build" / f"cuda-host-{sysconfig.get_config_var('SOABI')}-torch-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        stamp, key = folder / "made_of", key_of_all()
        said, _, name = stamp.read_text().partition(" ") if stamp.exists() else ("", "", "")
        library = folder / name
        if said != key or not library.is_file():
            library = make(folder)
            stamp.write_text(f"{key} {library.name}")
    spec = importlib.util.spec_from_file_location(NAME, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build().__file__)

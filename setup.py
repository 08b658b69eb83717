"""Installs seam-fast: with its compiled part where that can be built, as plain Python where it cannot.

A compiled part works only with the torch that it was built against. So torch is no build requirement (pip would fetch
another one): the torch of the environment that is installed into is used, also with build isolation. Whatever is in the
way of compiling becomes one sentence, shown in a box and kept in the package for `seam-fast info`.

Settings: SEAM_FAST_BUILD=auto|cpu|cuda|none, SEAM_FAST_REQUIRE_EXT=1 (fail rather than go without), DEBUG=1, CXX,
CUDA_HOME, TORCH_CUDA_ARCH_LIST, NVCC_FLAGS, MAX_JOBS.
"""

import contextlib
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "seam_fast" / "_version.py").read_text())[1]

# Lists, not globs: a forgotten file shall be an error.
CPU_SOURCES = [
    "csrc/bindings.cpp",
    "csrc/autograd.cpp",
    "csrc/masked_lstm.cpp",
    "csrc/score_adam.cpp",
    "csrc/gap_rules.cpp",
    "csrc/seam_trainer.cpp",
    "csrc/cpu/dispatch.cpp",
    "csrc/cpu/kernels_portable.cpp",
    "csrc/cpu/kernels_avx2.cpp",
    "csrc/cpu/kernels_avx512.cpp",
]
CUDA_SOURCES = []  # none in this version

MODES = ("auto", "cpu", "cuda", "none")
MODE = os.environ.get("SEAM_FAST_BUILD") or "auto"
REQUIRED = os.environ.get("SEAM_FAST_REQUIRE_EXT", "") not in ("", "0")
DEBUG = os.environ.get("DEBUG", "") not in ("", "0")
NAME = "seam_fast._C"
NOTE = "_build_note.txt"  # beside the module; seam_fast/_ext.py reads it
BUILDING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop", "install"} & set(sys.argv)

if MODE not in MODES:
    raise SystemExit(f"error: SEAM_FAST_BUILD is {MODE!r}; it must be one of {', '.join(MODES)}")


class NoExtension(Exception):
    """Why there is nothing to compile or no way to: one sentence."""


def find_torch():
    """The torch of the environment that is installed into; build isolation hides its folders, so they are added."""
    with contextlib.suppress(ImportError, OSError):  # the second try below says what is wrong with a broken one
        import torch

        return torch
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if sys.prefix == sys.base_prefix:
        folders.append(site.getusersitepackages())
    for folder in dict.fromkeys(folders):
        site.addsitedir(folder)
    try:
        import torch
    except (ImportError, OSError) as error:
        raise NoExtension(
            "no torch was found to build against; install torch first, then seam-fast with --no-build-isolation"
            if isinstance(error, ModuleNotFoundError) and error.name == "torch"
            else f"torch could not be imported ({error})"
        ) from error
    return torch


def find_compiler() -> str:
    """The C++ compiler that torch's build tools will call, with its own words about its version."""
    command = shlex.split(os.environ.get("CXX") or "") or ["c++"]
    if os.name == "nt":
        raise NoExtension("the compiled part is not built on Windows")
    if shutil.which(command[0]) is None:
        raise NoExtension(f"no C++ compiler was found ({command[0]}); on Debian: apt install g++")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise NoExtension("Python's headers (Python.h) were not found; on Debian: apt install python3-dev")
    return subprocess.run([*command, "--version"], capture_output=True, text=True).stdout


def find_cuda_home() -> str | None:
    """The CUDA toolkit. An `nvcc` may be a script that calls the real one, so it is asked where it lies."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home is None and (nvcc := shutil.which("nvcc")):
        dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
        top = re.search(r"^#\$ TOP=(.+)$", dry, flags=re.M)
        home = str(Path(top[1] if top else Path(nvcc).parent.parent).resolve())
    home = home or "/usr/local/cuda"
    return home if Path(home, "bin", "nvcc").is_file() else None


def use_cuda(torch) -> bool:
    """Whether to compile for CUDA: torch must be built for it and nvcc be there; a GPU need not be."""
    if MODE == "cpu":
        return False
    obstacle = home = None
    if not CUDA_SOURCES:
        obstacle = "this version of seam-fast has no CUDA kernels"
    elif torch.version.cuda is None:
        obstacle = f"torch {torch.__version__} is built without CUDA"
    elif (home := find_cuda_home()) is None:
        obstacle = "nvcc was not found; install the CUDA toolkit or set CUDA_HOME"
    if obstacle and MODE == "cuda":
        raise SystemExit(f"error: SEAM_FAST_BUILD is 'cuda', but {obstacle}")
    if obstacle:
        return False
    os.environ["CUDA_HOME"] = home  # read when torch.utils.cpp_extension is imported
    if torch.cuda.device_count() == 0:  # then torch has no GPU to ask for an architecture
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;8.6;9.0+PTX")
    return True


def plan():
    """The extension and the torch command that compiles it. Raises NoExtension."""
    if MODE == "none":
        raise NoExtension("it was installed with SEAM_FAST_BUILD=none")
    missing = [source for source in CPU_SOURCES + CUDA_SOURCES if not (HERE / source).is_file()]
    if missing:
        raise NoExtension(f"{', '.join(missing)} not found in the source tree")
    compiler = find_compiler()
    torch = find_torch()
    os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")  # for ninja, if the environment is not activated
    cuda = use_cuda(torch)
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:  # such as an old torch with a new setuptools
        raise NoExtension(f"torch's build tools could not be loaded ({error})") from error

    # No fast-math and no contraction: a score changes its mask on a sign. No -std: torch adds its own.
    # No -march: kernels choose their instruction set when they run.
    flags = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
    flags += ["-fvisibility=hidden", "-Wall", "-ffp-contract=off"]
    link = []
    if sys.platform.startswith("linux"):
        # Bound at load, so that a symbol that torch lacks is an ImportError and not a crash later.
        link.append("-Wl,-z,now")
        if "backend: OpenMP" in torch.__config__.parallel_info():
            flags.append("-fopenmp")
            # gcc's calls are answered by the OpenMP library that torch has loaded, whose threads and settings are
            # then shared; linking one more could bring in a second pool. Clang's calls are not gcc's.
            link += ["-fopenmp"] if "clang" in compiler else []
    macros = {"SEAM_BUILT_TORCH": torch.__version__, "SEAM_BUILT_FLAGS": " ".join(flags)}
    arguments = {"cxx": flags}
    if cuda:
        macros["SEAM_BUILT_CUDA"] = torch.version.cuda
        arguments["nvcc"] = ["-O3", "-lineinfo", *shlex.split(os.environ.get("NVCC_FLAGS", ""))]
    extension = (CUDAExtension if cuda else CppExtension)(
        NAME,
        CPU_SOURCES + (CUDA_SOURCES if cuda else []),
        include_dirs=[str(HERE / "csrc")],
        define_macros=[(name, f'"{text}"') for name, text in macros.items()],
        extra_compile_args=arguments,
        extra_link_args=link,
        depends=sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.h*")),
    )
    objects = HERE / "build" / f"objects-{sys.implementation.cache_tag}-torch-{torch.__version__}"
    return extension, BuildExtension, objects


def build_command(base, reason: str, objects: Path | None):
    """The build_ext command: compiles, or writes down why not."""

    class OptionalBuildExt(base):
        def finalize_options(self):
            super().finalize_options()
            if objects is not None:
                # Kept from build to build (pip would give a fresh folder), but never shared by two torches.
                self.build_temp = str(objects)
                self.force = True

        def run(self):
            in_place = self.inplace  # the base class changes it
            failure = reason
            if not failure:
                try:
                    super().run()
                except (Exception, SystemExit) as error:
                    if REQUIRED:
                        raise
                    text = " ".join(str(error).split()) or type(error).__name__
                    text = text if len(text) <= 200 else text[:200] + " ..."
                    failure = f"compiling it failed ({text}); pip install -v shows the compiler's messages"
            # What an earlier build left must not pass for the work of this one.
            built = Path("" if in_place else self.build_lib) / self.get_ext_filename(NAME)
            note = built.with_name(NOTE)
            if not failure:
                note.unlink(missing_ok=True)
                return
            self.extensions = []
            built.unlink(missing_ok=True)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(failure + "\n", encoding="utf-8")
            print(boxed(failure), file=sys.stderr, flush=True)

    return OptionalBuildExt


def boxed(reason: str) -> str:
    """What a user should not miss."""
    text = f"seam-fast is installed without its compiled part: {reason}."
    lines = [*textwrap.wrap(text, 76), "Everything works in plain PyTorch, only slower."]
    rule = "+" + "-" * 78 + "+"
    return "\n".join(["", rule, *(f"| {line:76} |" for line in lines), rule, ""])


class Build(build):
    """Runs build_ext also where there is nothing to compile, because it then says why."""

    sub_commands = tuple((name, None if name == "build_ext" else wanted) for name, wanted in build.sub_commands)


extensions, command, objects, reason = [], build_ext, None, ""
if BUILDING:  # questions about name and version need no torch, whose import takes seconds
    try:
        extension, command, objects = plan()
        extensions = [extension]
    except NoExtension as error:
        reason = str(error)
        if REQUIRED:
            raise SystemExit(f"error: SEAM_FAST_REQUIRE_EXT is set, but nothing can be compiled: {reason}") from None

setup(
    name="seam-fast",
    version=VERSION,
    description="Takes a trained LSTM text classifier apart into small modules, one per class (SeaM), fast.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["seam_fast", "seam_fast.*"]),
    package_data={"seam_fast": ["*.txt.gz"]},
    ext_modules=extensions,
    cmdclass={"build": Build, "build_ext": build_command(command, reason, objects)},
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=["torch>=2.6", "numpy", "tqdm", "matplotlib", "safetensors"],
    extras_require={
        "build": ["setuptools>=64", "wheel", "ninja"],
        "dev": ["pytest", "pytest-benchmark", "hypothesis", "ruff"],
    },
    entry_points={"console_scripts": ["seam-fast = seam_fast.cli:main"]},
)

"""Installs seam-fast: with its compiled part where that can be built, as plain Python where it cannot.

A compiled part works only with the torch that it was built against. So torch is no build requirement (pip would fetch
another one): the torch of the environment that is installed into is used, also with build isolation. Whatever is in the
way of compiling becomes one sentence, shown in a box and kept in the package for `seam-fast info`. CUDA kernels come
along where torch is built for CUDA and nvcc is there; what keeps them out becomes a sentence, too.

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

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "seam_fast" / "_version.py").read_text())[1]

# Lists, not globs: a forgotten file shall be an error.
CPU_SOURCES = [
    "csrc/bindings/bindings.cpp",
    "csrc/bindings/device_dispatch.cpp",
    "csrc/common/quadrature_rules.cpp",
    "csrc/host/autograd.cpp",
    "csrc/host/binary_counts.cpp",
    "csrc/host/drawn_documents.cpp",
    "csrc/host/layer.cpp",
    "csrc/host/module_epoch.cpp",
    "csrc/host/rng.cpp",
    "csrc/host/trainer_base.cpp",
    "csrc/host/transforms.cpp",
    "csrc/cpu/class_logits_cpu.cpp",
    "csrc/cpu/dispatch.cpp",
    "csrc/cpu/kernels_avx2.cpp",
    "csrc/cpu/kernels_avx512.cpp",
    "csrc/cpu/kernels_portable.cpp",
    "csrc/cpu/masked_lstm_cpu.cpp",
    "csrc/cpu/score_adam_cpu.cpp",
    "csrc/cpu/seam_trainer_cpu.cpp",
    "csrc/cpu/vmap_calls_cpu.cpp",
]
CUDA_SOURCES = [
    "csrc/cuda/class_logits_cuda.cpp",
    "csrc/cuda/device.cpp",
    "csrc/cuda/elementwise.cu",
    "csrc/cuda/gate_rows.cu",
    "csrc/cuda/gate_rows_tf32.cu",
    "csrc/cuda/masked_lstm_cuda.cpp",
    "csrc/cuda/product.cu",
    "csrc/cuda/queued_epochs.cpp",
    "csrc/cuda/recurrent_backward.cu",
    "csrc/cuda/recurrent_forward.cu",
    "csrc/cuda/seam.cu",
    "csrc/cuda/seam_trainer_cuda.cpp",
    "csrc/cuda/seam_trainer_cuda_evaluate.cpp",
    "csrc/cuda/seam_trainer_cuda_params.cpp",
    "csrc/cuda/seam_trainer_cuda_stages.cpp",
    "csrc/cuda/vmap_calls_cuda.cpp",
    "csrc/cuda/wide.cu",
]

MODES = ("auto", "cpu", "cuda", "none")
MODE = os.environ.get("SEAM_FAST_BUILD") or "auto"
REQUIRED = os.environ.get("SEAM_FAST_REQUIRE_EXT", "") not in ("", "0")
DEBUG = os.environ.get("DEBUG", "") not in ("", "0")
NAME = "seam_fast._C"
NOTE = "_build_note.txt"  # beside the module; seam_fast/_ext.py reads it
BUILDING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop", "install"} & set(sys.argv)

NO_TORCH = (
    "no torch was found to build against (uv and python -m build keep the environment's from a build); with torch, "
    "setuptools, wheel and ninja in the environment, install with --no-build-isolation"
)

if MODE not in MODES:
    raise SystemExit(f"error: SEAM_FAST_BUILD is {MODE!r}; it must be one of {', '.join(MODES)}")


class NoExtension(Exception):
    """Why there is nothing to compile or no way to: one sentence."""


def find_torch():
    """The torch of the environment that is installed into; build isolation hides its folders, so they are added.

    pip's isolation runs that environment's Python, whose folders are known; that of uv runs another, and says nothing
    of the environment.
    """
    with contextlib.suppress(ImportError, OSError):  # the second try below says what is wrong with a broken one
        import torch

        return torch
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    # `python -m build` makes an environment of its own, but leaves these of the active one.
    for prefix in filter(None, map(os.environ.get, ("VIRTUAL_ENV", "CONDA_PREFIX"))):
        folders += [
            sysconfig.get_path(kind, vars={"base": prefix, "platbase": prefix}) for kind in ("purelib", "platlib")
        ]
    if sys.prefix == sys.base_prefix:
        folders.append(site.getusersitepackages())
    for folder in dict.fromkeys(folders):
        site.addsitedir(folder)
    try:
        import torch
    except (ImportError, OSError) as error:
        raise NoExtension(
            NO_TORCH
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


def ask_nvcc(home: str, question: str) -> str:
    """What the toolkit's compiler answers; "" if it cannot be run."""
    with contextlib.suppress(OSError):
        return subprocess.run([str(Path(home, "bin", "nvcc")), question], capture_output=True, text=True).stdout
    return ""


def cuda_obstacle(torch) -> str:
    """What is in the way of compiling for CUDA, or "". It takes a torch for CUDA and its nvcc; no GPU need be there."""
    if MODE == "cpu":
        return "it was installed with SEAM_FAST_BUILD=cpu"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if (home := find_cuda_home()) is None:
        return "nvcc was not found; install the CUDA toolkit or set CUDA_HOME"
    release = re.search(r"release (\d+)\.\d+", ask_nvcc(home, "--version"))
    if release is None:
        return "nvcc was found, but does not tell its version"
    if release[1] != torch.version.cuda.split(".")[0]:  # torch's build tools would refuse it, too
        return (
            f"nvcc is of CUDA {release[0].split()[1]}, but torch {torch.__version__} of CUDA {torch.version.cuda}; "
            "install that toolkit or set CUDA_HOME to it"
        )
    os.environ["CUDA_HOME"] = home  # read when torch.utils.cpp_extension is imported
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return ""
    here = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    if not here:  # else torch asks the GPUs
        os.environ["TORCH_CUDA_ARCH_LIST"] = common_architectures(home, torch)
    elif min(here) < (8, 0):
        return (
            f"a GPU here has compute capability {'.'.join(map(str, min(here)))}, but the kernels need 8.0 or more; "
            "for other GPUs set TORCH_CUDA_ARCH_LIST"
        )
    return ""


def common_architectures(home: str, torch) -> str:
    """What to compile for where no GPU can be asked: A100 and all of 8.x, H100, B200; as PTX for what is newer."""
    wanted = ["8.0", "9.0"]  # 9.0a has nothing that the kernels use
    if tuple(map(int, torch.version.cuda.split("."))) >= (12, 8):  # before, torch's build tools did not know it
        wanted.append("10.0")
    known = ask_nvcc(home, "--list-gpu-arch").split()
    return ";".join(number for number in wanted if f"compute_{number.replace('.', '')}" in known) + "+PTX"


class Plan:
    """How to compile. Raises NoExtension."""

    def __init__(self):
        if MODE == "none":
            raise NoExtension("it was installed with SEAM_FAST_BUILD=none")
        missing = [source for source in CPU_SOURCES + CUDA_SOURCES if not (HERE / source).is_file()]
        if missing:
            raise NoExtension(f"{', '.join(missing)} not found in the source tree")
        self.compiler = find_compiler()
        self.torch = find_torch()
        os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")  # for ninja, if that folder is not in it
        self.without_cuda = cuda_obstacle(self.torch)  # the reason; with CUDA where it is ""
        if self.without_cuda and MODE == "cuda":
            raise NoExtension(self.without_cuda)
        try:
            from torch.utils import cpp_extension
        except ImportError as error:  # such as an old torch with a new setuptools
            raise NoExtension(f"torch's build tools could not be loaded ({error})") from error
        self.tools = cpp_extension
        self.objects = HERE / "build" / f"objects-{sys.implementation.cache_tag}-torch-{self.torch.__version__}"

    def extension(self):
        # No fast-math and no contraction: a score changes its mask on a sign. No -std: torch adds its own.
        # No -march: kernels choose their instruction set when they run.
        flags = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
        flags += ["-fvisibility=hidden", "-Wall", "-ffp-contract=off"]
        link = []
        if sys.platform.startswith("linux"):
            # Bound at load, so that a symbol that torch lacks is an ImportError and not a crash later.
            link.append("-Wl,-z,now")
            if "backend: OpenMP" in self.torch.__config__.parallel_info():
                flags.append("-fopenmp")
                # gcc's calls are answered by the OpenMP library that torch has loaded, whose threads and settings are
                # then shared; linking one more could bring in a second pool. Clang's calls are not gcc's.
                link += ["-fopenmp"] if "clang" in self.compiler else []
        texts = {"SEAM_BUILT_TORCH": self.torch.__version__, "SEAM_BUILT_FLAGS": " ".join(flags)}
        arguments, sources, make = {"cxx": flags}, CPU_SOURCES, self.tools.CppExtension
        if self.without_cuda:
            texts["SEAM_WITHOUT_CUDA"] = self.without_cuda
        else:
            texts["SEAM_BUILT_CUDA"] = self.torch.version.cuda
            # With a -std, since the kernels know nothing of torch; several architectures side by side.
            nvcc = ["-std=c++17", "-O3", "-lineinfo", "--threads=3", "-Xcompiler=-fvisibility=hidden"]
            arguments["nvcc"] = nvcc + shlex.split(os.environ.get("NVCC_FLAGS", ""))
            sources, make = CPU_SOURCES + CUDA_SOURCES, self.tools.CUDAExtension
        macros = [(name, '"' + re.sub(r'["\\$]', "'", text) + '"') for name, text in texts.items()]
        return make(
            NAME,
            sources,
            include_dirs=[str(HERE / "csrc"), str(HERE / "csrc" / "torch_lacks")],
            define_macros=macros if self.without_cuda else [*macros, ("SEAM_WITH_CUDA", None)],
            extra_compile_args=arguments,
            extra_link_args=link,
            depends=sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.*h")),
        )


def build_command(plan: Plan | None, reason: str):
    """The build_ext command: compiles by the plan, or writes down the reason why not."""

    class OptionalBuildExt(plan.tools.BuildExtension if plan else build_ext):
        def finalize_options(self):
            super().finalize_options()
            if plan:
                # Kept from build to build (pip would give a fresh folder), but never shared by two torches.
                self.build_temp = str(plan.objects)
                self.force = True

        def run(self):
            in_place = self.inplace  # the base class changes it
            failure = reason
            if not failure:
                try:
                    self.compile()
                except (Exception, SystemExit) as error:
                    if REQUIRED or MODE == "cuda":
                        raise
                    failure = f"compiling it failed ({shortened(error)}); pip install -v shows the compiler's messages"
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
            tell("compiled part", failure, "Everything works in plain PyTorch, only slower.")

        def compile(self):
            """With CUDA; without it where that fails and nobody insists."""
            before = dict(vars(self))
            try:
                super().run()
            except (Exception, SystemExit) as error:
                if plan.without_cuda or MODE == "cuda":
                    raise
                print(f"seam-fast: compiling with CUDA failed, now without it: {error}", file=sys.stderr, flush=True)
                plan.without_cuda = f"compiling with CUDA failed ({shortened(error)}); see pip install -v"
                vars(self).clear()  # what the failed try has set would be in the way of another
                vars(self).update(before)
                vars(self.extensions[0]).update(vars(plan.extension()))
                super().run()
            if plan.without_cuda and MODE == "auto" and plan.torch.version.cuda:  # else nobody expects it
                tell("CUDA kernels", plan.without_cuda, "What lies on a GPU is computed in plain PyTorch, only slower.")

    return OptionalBuildExt


def shortened(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def tell(part: str, reason: str, comfort: str) -> None:
    """What a user should not miss, in a box."""
    text = f"seam-fast is installed without its {part}: {reason}."
    lines = [*textwrap.wrap(text, 76), *textwrap.wrap(comfort, 76)]
    rule = "+" + "-" * 78 + "+"
    print("\n".join(["", rule, *(f"| {line:76} |" for line in lines), rule, ""]), file=sys.stderr, flush=True)


class Build(build):
    """Runs build_ext also where there is nothing to compile, because it then says why."""

    sub_commands = tuple((name, None if name == "build_ext" else wanted) for name, wanted in build.sub_commands)


plan, reason = None, ""
if BUILDING:  # questions about name and version need no torch, whose import takes seconds
    try:
        plan = Plan()
    except NoExtension as error:
        reason = str(error)
        if MODE == "cuda":
            raise SystemExit(f"error: SEAM_FAST_BUILD is 'cuda', but {reason}") from None
        if REQUIRED:
            raise SystemExit(f"error: SEAM_FAST_REQUIRE_EXT is set, but nothing can be compiled: {reason}") from None

# Everything that need not be computed stands in pyproject.toml.
setup(
    version=VERSION,
    ext_modules=[plan.extension()] if plan else [],
    cmdclass={"build": Build, "build_ext": build_command(plan, reason)},
)

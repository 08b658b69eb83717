"""The CUDA kernels, compiled for the GPUs that they are meant for; no GPU is needed for that.

They keep weights in registers. A kernel that needs more of them than there are moves some to memory and has lost its
point: ptxas reports that, and the tests read the report.
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import setup_file

HOME = setup_file.load().find_cuda_home()
NVCC = Path(HOME, "bin", "nvcc") if HOME else None
CSRC = setup_file.ROOT / "csrc"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")  # A100, H100, B200
FLAGS = [f"-I{CSRC}", "-std=c++17", "-O3", "-cubin", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage"]
STRICT = ["--Werror", "all-warnings"]
REGISTERS = 64 << 10  # of a multiprocessor, in all of these

# Minutes of compiling, which scripts/check_cuda_build.sh takes.
ASKED_FOR = os.environ.get("SEAM_FAST_TEST_NVCC", "") not in ("", "0")
WHY_NOT = "set SEAM_FAST_TEST_NVCC=1 to compile every kernel by nvcc, as scripts/check_cuda_build.sh does"
needs_nvcc = pytest.mark.skipif(
    NVCC is None or not ASKED_FOR,
    reason=WHY_NOT if NVCC else "needs nvcc: install the CUDA toolkit or set CUDA_HOME",
)


@dataclass(frozen=True)
class Function:
    """What ptxas says about one function: bytes of memory that each thread needs because its registers do not do."""

    name: str
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int | None  # None where it is no kernel

    @property
    def sound(self) -> bool:
        return self.stack == self.spill_stores == self.spill_loads == 0


def functions_in(report: str) -> list[Function]:
    """The functions that ptxas -v reports on."""
    found = []
    for part in re.split(r"^ptxas info\s*: Function properties for ", report, flags=re.M)[1:]:
        name = part.split("\n", 1)[0].strip()
        memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"^ptxas info\s*: Used (\d+) registers", part, flags=re.M)
        found.append(Function(name, *map(int, memory.groups()), int(registers[1]) if registers else None))
    return found


def listed(functions: list[Function]) -> str:
    """One a line, by the names that they have in C++ where c++filt is there to tell them."""
    lines = [
        f"\n{f.name}: {f.stack} bytes of stack, {f.spill_stores} stored and {f.spill_loads} loaded for want of "
        f"registers ({f.registers})"
        for f in functions
    ]
    text = "".join(lines)
    if shutil.which("c++filt"):
        text = subprocess.run(["c++filt"], input=text, capture_output=True, text=True).stdout
        text = re.sub(r"void \S*entry<(.+?) ?>\(.*(?=: \d)", r"\1", text.replace("seam::gpu::", ""))
    return text


def threads_in(ptx: str) -> dict[str, int]:
    """The threads of a block that each kernel is compiled for."""
    found = re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx)
    return {name: int(threads) for name, threads in found}


@dataclass(frozen=True)
class Compiled:
    code: int
    report: str
    functions: list[Function]
    threads: dict[str, int]


def compile_one(source: Path, architecture: str, folder: Path, *flags: str) -> Compiled:
    """Compiles one file for one architecture; what is built is looked into and thrown away."""
    kept = folder / f"{source.stem}-{architecture}"
    kept.mkdir()
    command = [
        NVCC,
        *FLAGS,
        f"-arch={architecture}",
        *flags,
        "--keep",
        "--keep-dir",
        kept,
        source,
        "-o",
        kept / "cubin",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900)
    report = done.stdout + done.stderr
    ptx = next(kept.glob("*.ptx"), None)
    threads = threads_in(ptx.read_text()) if ptx else {}
    shutil.rmtree(kept)
    return Compiled(done.returncode, report, functions_in(report), threads)


# -- the reading of reports -------------------------------------------------------------------------------------------

REPORT = """ptxas warning : Registers are spilled to local memory in function 'greedy', 12 bytes spill stores
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'greedy' for 'sm_90a'
ptxas info    : Function properties for greedy
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size
ptxas info    : Compile time = 914.315 ms
ptxas info    : Function properties for helper
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'modest' for 'sm_90a'
ptxas info    : Function properties for modest
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
"""


def test_a_report_is_read():
    greedy, helper, modest = functions_in(REPORT)
    assert greedy == Function("greedy", 8, 12, 16, 128) and not greedy.sound
    assert helper == Function("helper", 0, 0, 0, None) and helper.sound
    assert modest == Function("modest", 0, 0, 0, 40) and modest.sound
    assert functions_in("ptxas info    : 0 bytes gmem\n") == []
    assert listed([greedy, modest]).startswith("\ngreedy: 8 bytes of stack, 12 stored and 16 loaded for ")


@pytest.mark.parametrize("memory", [(8, 0, 0), (0, 4, 0), (0, 0, 4)])
def test_any_use_of_memory_counts(memory):
    assert not Function("kernel", *memory, 255).sound


SPILLS = """
__global__ void __launch_bounds__(1024, 2) greedy(float* x) {
  float kept[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) kept[i] = x[threadIdx.x + 1024 * i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) x[threadIdx.x + 1024 * i] = kept[63 - i] * kept[i];
}
"""
STACK = """
__global__ void __launch_bounds__(32) indexed(const int* at, float* x) {
  float kept[64] = {};
  for (int i = 0; i < 64; ++i) kept[at[i]] += x[i];
  for (int i = 0; i < 64; ++i) x[i] = kept[at[63 - i]];
}
"""


@needs_nvcc
@pytest.mark.parametrize(("text", "spills"), [(SPILLS, True), (STACK, False)])
def test_a_kernel_that_needs_memory_is_found(tmp_path, text, spills):
    (tmp_path / "planted.cu").write_text(text)
    compiled = compile_one(tmp_path / "planted.cu", "sm_90a", tmp_path)
    (kernel,) = compiled.functions
    assert compiled.code == 0 and not kernel.sound and (kernel.spill_stores > 0) == spills
    assert compiled.threads == {kernel.name: 1024 if spills else 32}
    assert compile_one(tmp_path / "planted.cu", "sm_80", tmp_path, *STRICT).code != 0


# -- the kernels ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(request, tmp_path_factory):
    """What a source is for an architecture, by compiling it.

    In one process what the chosen tests ask for is compiled as many at once as there are cores, the slow ones first.
    Where the tests are shared among processes, each compiles what its own tests ask for.
    """
    folder, path = tmp_path_factory.mktemp("cuda"), {source.name: source for source in SOURCES}
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield lambda source, architecture: compile_one(path[source], architecture, folder, *STRICT)
        return
    asked = [
        item.callspec.params for item in request.session.items if item.originalname == "test_no_kernel_needs_memory"
    ]
    asked = sorted(((p["source"], p["architecture"]) for p in asked), key=lambda one: "recurrent" not in one[0])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        begun = {one: pool.submit(compile_one, path[one[0]], one[1], folder, *STRICT) for one in asked}
        yield lambda source, architecture: begun[source, architecture].result()


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", [source.name for source in SOURCES])
def test_no_kernel_needs_memory(compiled, source, architecture):
    here = compiled(source, architecture)
    greedy = [function for function in here.functions if not function.sound]
    assert not greedy, listed(greedy)
    assert here.code == 0, here.report[-4000:]
    kernels = [function for function in here.functions if function.registers is not None]
    assert kernels and {kernel.name for kernel in kernels} == set(here.threads)
    # Registers are given to warps by 256, so by 8 to a thread.
    large = [kernel for kernel in kernels if -(-kernel.registers // 8) * 8 * here.threads[kernel.name] > REGISTERS]
    assert not large, listed(large)


def test_no_kernel_is_left_out():
    """What is compiled here is what setup.py builds."""
    assert SOURCES and [source.name for source in SOURCES] == sorted(
        Path(source).name for source in setup_file.load().CUDA_SOURCES if source.endswith(".cu")
    )

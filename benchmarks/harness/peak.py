"""The peak of one core, measured: how many multiply-adds per second it can do at most."""

import ctypes
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness.timing import spread

# Twelve independent sums, more than latency times execution units of any x86 core, so that no addition waits for
# another; volatile assembly, so that no compiler can merge or remove them.
SOURCE = r"""
#include <immintrin.h>
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define FMA(k) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(s##k) : "v"(x), "v"(y));
#define BODY(TYPE, SET, LANES) \
    TYPE x = SET(0.5f), y = SET(1e-3f); \
    TWELVE(DECLARE) \
    for (long n = 0; n < count; ++n) { TWELVE(FMA) } \
    return 12.0 * 2 * LANES * count;
#define DECLARE(k) __m256 s##k = _mm256_set1_ps(k);
extern "C" __attribute__((target("avx2,fma"))) double fma_avx2(long count) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    BODY(__m256, _mm256_set1_ps, 8)
}
#undef DECLARE
#define DECLARE(k) __m512 s##k = _mm512_set1_ps(k);
static __attribute__((target("avx512f"))) double loop_avx512(long count) { BODY(__m512, _mm512_set1_ps, 16) }
extern "C" double fma_avx512(long count) { return __builtin_cpu_supports("avx512f") ? loop_avx512(count) : 0; }
"""


class Peak:
    """The multiply-add peak of one core, measured by a loop that a C++ compiler builds at run time.

    Without a compiler, or not on x86, ``reason`` says why there is no peak; the speed of a large matrix product, which
    is always measured, then is a lower bound of it.
    """

    def __init__(self):
        self.bursts = {"avx512": [], "avx2": []}
        self.product = []
        self.library, self.reason = None, ""
        compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
        if platform.machine() not in ("x86_64", "AMD64"):
            self.reason = f"the loop is written for x86, not {platform.machine()}"
        elif compiler is None:
            self.reason = "no C++ compiler found (c++, g++ or clang++)"
        else:
            with tempfile.TemporaryDirectory() as folder:
                source, library = Path(folder) / "peak.cpp", Path(folder) / "peak.so"
                source.write_text(SOURCE)
                command = [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    self.reason = f"{compiler} failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
                else:
                    self.library = ctypes.CDLL(str(library))

    def burst(self) -> None:
        """Measures once more, for about 0.1 s: the clock frequency of a core changes with time and with its load."""
        for isa, found in self.bursts.items():
            if self.library is not None:
                run = getattr(self.library, f"fma_{isa}")
                run.restype, run.argtypes = ctypes.c_double, [ctypes.c_long]
                if not run(1000):
                    continue
                for _ in range(4):
                    start = time.perf_counter_ns()
                    operations = run(1_500_000)
                    found.append(operations / (time.perf_counter_ns() - start))
        square = torch.ones(512, 512)
        start = time.perf_counter_ns()
        square @ square
        self.product.append(2 * 512**3 / (time.perf_counter_ns() - start))

    def figures(self) -> dict:
        """GFLOP/s of one core: best and median burst by instruction set, and the best product of 512 x 512 matrices."""
        found = {isa: spread(bursts) for isa, bursts in self.bursts.items() if bursts}
        return {
            "gflops": max((figures["max"] for figures in found.values()), default=None),
            "by_isa": found,
            "matrix_product_gflops": float(f"{max(self.product):.5g}"),
            "reason": self.reason,
        }

// The CPU kernels for x86 with AVX-512 (F, VL, DQ, BW): 512-bit vectors. Compiled for that target whatever the
// compiler's flags say, and called only where the CPU has it.
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

// Everything that may be shared with other files comes first, under the ordinary target.
#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#endif

#define SEAM_SIMD 512
#include "masked_lstm_kernels.h"
#include "score_adam_kernel.h"
#include "seam_kernels.h"

#include "kernel_table.h"  // after the kernels

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

static bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
}

const seam::Isa seam::kAvx512 = {"avx512", supported, kTable32, kTable64};

#else

const seam::Isa seam::kAvx512 = {"avx512", [] { return false; }, {}, {}};

#endif

// The CPU kernels for x86 with AVX2 and FMA: 256-bit vectors. Compiled for that target whatever the
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
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define SEAM_SIMD 256
#include "masked_lstm_kernels.h"
#include "score_adam_kernel.h"
#include "seam_kernels.h"

#include "kernel_table.h"  // after the kernels

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

static bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const seam::Isa seam::kAvx2 = {"avx2", supported, kTable32, kTable64};

#else

const seam::Isa seam::kAvx2 = {"avx2", [] { return false; }, {}, {}};

#endif

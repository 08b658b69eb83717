// What every room of csrc shares: inlining on host and device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SEAM_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define SEAM_INLINE __forceinline
#else
// Always inlined, or in an unnamed namespace: each instruction set must get its own copy of every function.
#define SEAM_INLINE inline __attribute__((always_inline))
#endif

// SEAM_INLINE: for functions that are compiled for the host and for the GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SEAM_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define SEAM_INLINE __forceinline
#else
// Always inlined (or else in an unnamed namespace), because each instruction set must get its own copy of a function:
// the linker would keep one of them, perhaps with instructions that the CPU lacks.
#define SEAM_INLINE inline __attribute__((always_inline))
#endif

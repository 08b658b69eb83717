// Conditional loads and stores of global memory without a branch, by predicated instructions: a branch would keep later
// instructions from being issued early.
#pragma once

#include "block.cuh"

namespace seam::gpu {

#if defined(__CUDACC__)

SEAM_KERNEL float load_if(bool happens, const float* at, float otherwise) {
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p ld.global.f32 %0, [%1];}"
               : "+f"(otherwise)
               : "l"(at), "r"(int(happens)));
  return otherwise;
}
// What is stored must not be read in the same kernel.
SEAM_KERNEL void store_if(bool happens, float* at, float value) {
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p st.global.f32 [%0], %1;}" ::"l"(at), "f"(value),
               "r"(int(happens)));
}
SEAM_KERNEL uint32_t load_if(bool happens, const uint32_t* at, uint32_t otherwise) {
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p ld.global.b32 %0, [%1];}"
               : "+r"(otherwise)
               : "l"(at), "r"(int(happens)));
  return otherwise;
}
SEAM_KERNEL void store_if(bool happens, uint32_t* at, uint32_t value) {
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p st.global.b32 [%0], %1;}" ::"l"(at), "r"(value),
               "r"(int(happens)));
}
// The same for 16-bit numbers.
template <class T>
SEAM_KERNEL T load_if(bool happens, const T* at, T otherwise) {
  static_assert(sizeof(T) == 2);
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p ld.global.b16 %0, [%1];}"
               : "+h"(otherwise.bits)
               : "l"(at), "r"(int(happens)));
  return otherwise;
}
template <class T>
SEAM_KERNEL void store_if(bool happens, T* at, T value) {
  static_assert(sizeof(T) == 2);
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p st.global.b16 [%0], %1;}" ::"l"(at), "h"(value.bits),
               "r"(int(happens)));
}

#else

template <class T>
SEAM_KERNEL T load_if(bool happens, const T* at, T otherwise, host::Site site = host::Site::current()) {
  return happens ? load(at, site) : otherwise;
}
template <class T>
SEAM_KERNEL void store_if(bool happens, T* at, T value, host::Site site = host::Site::current()) {
  if (happens) store(at, value, site);
}

#endif

// Two adjacent 16-bit numbers. Even: they are in one 32-bit word, and either both exist or neither.
template <class T, bool Even>
struct Pair {
  uint32_t both;
  SEAM_KERNEL static Pair load_if(bool first, bool, const T* at) {
    return {gpu::load_if(first, reinterpret_cast<const uint32_t*>(at), uint32_t(0))};
  }
  SEAM_KERNEL static void store_if(bool first, bool, T* at, uint32_t word) {
    gpu::store_if(first, reinterpret_cast<uint32_t*>(at), word);
  }
  SEAM_KERNEL uint32_t word() const { return both; }
};
template <class T>
struct Pair<T, false> {
  T low, high;
  SEAM_KERNEL static Pair load_if(bool first, bool second, const T* at) {
    const T zero = narrow<T>(0.0f);
    return {gpu::load_if(first, at, zero), gpu::load_if(second, at + 1, zero)};
  }
  SEAM_KERNEL static void store_if(bool first, bool second, T* at, uint32_t word) {
    gpu::store_if(first, at, low_half<T>(word));
    gpu::store_if(second, at + 1, high_half<T>(word));
  }
  SEAM_KERNEL uint32_t word() const { return pack(low, high); }
};

}  // namespace seam::gpu

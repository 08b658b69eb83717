// Global memory read and written under a condition, without a branch: where the compiler makes one, what comes behind it
// cannot begin before.
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
// Nobody in the same kernel reads what is stored.
SEAM_KERNEL void store_if(bool happens, float* at, float value) {
  asm volatile("{.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p st.global.f32 [%0], %1;}" ::"l"(at), "f"(value),
               "r"(int(happens)));
}

#else

SEAM_KERNEL float load_if(bool happens, const float* at, float otherwise, host::Site site = host::Site::current()) {
  return happens ? load(at, site) : otherwise;
}
SEAM_KERNEL void store_if(bool happens, float* at, float value, host::Site site = host::Site::current()) {
  if (happens) store(at, value, site);
}

#endif

}  // namespace seam::gpu

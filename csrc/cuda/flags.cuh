// Flags in global memory by which blocks that all run at once tell each other how far they are, so that they may read
// what others have written: for kernels started by `launch_resident`, whose blocks exchange something every step but
// are not a cluster.
//
// A flag only grows. Waits are bounded: if a flag does not come within many times the duration of any step, the kernel
// ends with an error instead of blocking the GPU for good.
#pragma once

#include "block.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

// Called by one thread after a barrier of its block: who waits for that value sees what the block wrote before the
// barrier.
template <class B>
SEAM_KERNEL void post(const B&, int32_t* flag, int32_t value) {
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// Waits until a flag has at least that value. Whole warps call it, each lane with its own flag; it waits for all of
// them.
template <class B>
SEAM_KERNEL void wait_for(const B& block, const int32_t* flag, int32_t value) {
  int32_t found;
  int patience = 1 << 24;  // polls of some hundred clocks each
  do {
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(found) : "l"(flag) : "memory");
    if (--patience == 0) __trap();
  } while (found < value);
  block.sync_warp();
}

}  // namespace seam::gpu

#else

#include "flags_host.h"  // tests/cuda_host

#endif

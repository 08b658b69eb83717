// Blocks that are on the GPU all at once tell each other by flags in global memory how far they have come, and read what others
// have written there: for kernels that `launch_resident` starts, whose blocks exchange something every step without being
// neighbours of a cluster.
//
// A flag only grows. A wait is bounded: where a flag does not come within many times what any step takes, the kernel ends with
// an error instead of holding the GPU for good.
#pragma once

#include "block.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

// By one thread behind a barrier of its block: who waits for that value sees what the block has written before the barrier.
template <class B>
SEAM_KERNEL void post(const B&, int32_t* flag, int32_t value) {
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// Until a flag has that value or more. Whole warps wait, each lane for a flag of its choice: for those of all lanes.
template <class B>
SEAM_KERNEL void wait_for(const B& block, const int32_t* flag, int32_t value) {
  int32_t found;
  int patience = 1 << 24;  // polls, of which each takes some hundred clocks
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

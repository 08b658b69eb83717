// A barrier in shared memory that counts the bytes that arrive there (mbarrier): for asynchronous copies and messages.
// It is used round after round; a round is identified by its parity.
#pragma once

#include "block.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

struct ByteBarrier {
  uint64_t memory;

  // Called by one thread, before a barrier of all threads that use it.
  SEAM_KERNEL void begin() {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(address()) : "memory");
  }
  // Sets how many bytes this round waits for. Called by one thread, once a round.
  SEAM_KERNEL void expect(int bytes) {
    asm volatile("{.reg .b64 t;\nmbarrier.arrive.expect_tx.shared.b64 t, [%0], %1;}" ::"r"(address()), "r"(bytes)
                 : "memory");
  }
  // Waits until the round of that parity is over; then what has arrived in it can be read.
  SEAM_KERNEL void wait(int parity) {
    asm volatile(
        "{.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@p bra done;\nbra "
        "again;\ndone:\n}" ::"r"(address()),
        "r"(parity)
        : "memory");
  }
  SEAM_KERNEL uint32_t address() { return uint32_t(__cvta_generic_to_shared(&memory)); }
};

}  // namespace seam::gpu

#endif

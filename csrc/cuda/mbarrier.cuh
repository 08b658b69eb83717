// A barrier in shared memory that counts the bytes which arrive there, as a GPU has it: for what is sent or copied behind the
// threads' backs. Its rounds follow one another; a round is told by its parity.
#pragma once

#include "block.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

struct ByteBarrier {
  uint64_t memory;

  // By one thread, before a barrier of all who use it.
  SEAM_KERNEL void begin() {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(address()) : "memory");
  }
  // So many bytes are to come in this round, which is over when they have. By one thread, once a round.
  SEAM_KERNEL void expect(int bytes) {
    asm volatile("{.reg .b64 t;\nmbarrier.arrive.expect_tx.shared.b64 t, [%0], %1;}" ::"r"(address()), "r"(bytes) : "memory");
  }
  // Until the round of that parity is over; what has come in it is seen then.
  SEAM_KERNEL void wait(int parity) {
    asm volatile(
        "{.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(
            address()),
        "r"(parity)
        : "memory");
  }
  SEAM_KERNEL uint32_t address() { return uint32_t(__cvta_generic_to_shared(&memory)); }
};

}  // namespace seam::gpu

#endif

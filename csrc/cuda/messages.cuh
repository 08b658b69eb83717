// Messages: numbers stored into the shared memory of a cluster's other blocks, where their bytes are counted as they
// arrive. For kernels that exchange something every step: the cluster's barrier takes as long as one of their steps,
// because it also waits for all earlier stores to global memory.
//
// A sender must know that what it overwrites has been read. The race detection of tests/cuda_host does not check that,
// nor anything else that is finer than a barrier.
#pragma once

#include "block.cuh"
#include "mbarrier.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

// Counts the bytes that arrive in a block, round by round: a round is over when all expected bytes have arrived, and
// must be armed (the bytes announced) before the one after it. Lies in shared memory.
struct Arrivals {
  ByteBarrier barrier;

  // Called by one thread of the block, before the sync_cluster after which others may send. Arms the first round.
  SEAM_KERNEL void begin(int bytes) {
    barrier.begin();
    arm(bytes);
  }
  // Arms the next round. Called by one thread that has waited for the last one.
  SEAM_KERNEL void arm(int bytes) { barrier.expect(bytes); }
  // Waits until round `round`, from 0, is over; rounds must be waited for in order. Then what was sent for it can be
  // read.
  SEAM_KERNEL void wait(int round) { barrier.wait(round & 1); }

  SEAM_KERNEL uint32_t address() { return barrier.address(); }
};

// Stores numbers to the same address in the shared memory of block `rank`, which may be the own one, and counts them
// there.
struct Addresses {
  uint32_t to, counted;
};
// The address of the barrier there is derived from that of the data, so that a kernel need map only one address per
// block.
template <class T, int N>
SEAM_KERNEL Addresses addresses_in(int rank, Shared<T, N>& shared, int i, Arrivals& arrivals) {
  const uint32_t mine = uint32_t(__cvta_generic_to_shared(&shared.memory[0]));
  uint32_t theirs = 0;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(mine), "r"(rank));
#endif
  return {theirs + uint32_t(i * sizeof(T)), theirs + (arrivals.address() - mine)};
}
template <class T>
SEAM_KERNEL uint32_t word_of(T value) {
  static_assert(sizeof(T) == 4);
  return *reinterpret_cast<const uint32_t*>(&value);
}
template <class B, class T, int N>
SEAM_KERNEL void send(const B&, int rank, Shared<T, N>& shared, int i, T value, Arrivals& arrivals) {
#if __CUDA_ARCH__ >= 900
  const Addresses there = addresses_in(rank, shared, i, arrivals);
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(there.to),
               "r"(word_of(value)), "r"(there.counted)
               : "memory");
#endif
}
template <class B, class T, int N>
SEAM_KERNEL void send4(const B&, int rank, Shared<T, N>& shared, int i, const T (&values)[4], Arrivals& arrivals) {
#if __CUDA_ARCH__ >= 900
  const Addresses there = addresses_in(rank, shared, i, arrivals);
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(there.to),
      "r"(word_of(values[0])), "r"(word_of(values[1])), "r"(word_of(values[2])), "r"(word_of(values[3])),
      "r"(there.counted)
      : "memory");
#endif
}

// Copies `count` numbers of the own block's shared memory to the same address in another block by one request. Called
// by all lanes of a warp. Size and address are multiples of 16 bytes. Threads that wrote the numbers call
// `ready_to_send` and then pass a barrier with the warp; until the copy has arrived nobody may write there, nor may the
// block end.
SEAM_KERNEL void ready_to_send() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <class B, class T, int N>
SEAM_KERNEL void send_all(const B& block, int rank, Shared<T, N>& shared, int i, int count, Arrivals& arrivals) {
#if __CUDA_ARCH__ >= 900
  const Addresses there = addresses_in(rank, shared, i, arrivals);
  const uint32_t here = uint32_t(__cvta_generic_to_shared(&shared.memory[i]));
  if (block.lane() == 0) {
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(there.to),
        "r"(here), "r"(count * int(sizeof(T))), "r"(there.counted)
        : "memory");
  }
#endif
}

}  // namespace seam::gpu

#else

#include "messages_host.h"  // tests/cuda_host

#endif

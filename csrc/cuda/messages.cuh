// Numbers sent into the shared memory of a cluster's blocks, with a count of what has arrived: for kernels that exchange
// something every step. The cluster's barrier takes as long as a step of theirs, because it waits for all that was stored
// in global memory before it.
//
// Who sends must know that what he overwrites has been read. The watch on the CPU does not see that, nor anything else that
// is finer than a barrier.
#pragma once

#include "block.cuh"
#include "mbarrier.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

// Counts the bytes that arrive for a block, round by round: a round is over when all that were expected are there, and has
// to be armed before the next can be. In shared memory.
struct Arrivals {
  ByteBarrier barrier;

  // By one thread of the block, before any other of the cluster has passed a sync_cluster behind it. The first round is
  // armed then.
  SEAM_KERNEL void begin(int bytes) {
    barrier.begin();
    arm(bytes);
  }
  // For the next round, by one thread that has waited for the last one.
  SEAM_KERNEL void arm(int bytes) { barrier.expect(bytes); }
  // Until round `round` is over, counted from 0; no earlier one is asked for. What has been sent for it is seen then.
  SEAM_KERNEL void wait(int round) { barrier.wait(round & 1); }

  SEAM_KERNEL uint32_t address() { return barrier.address(); }
};

// Numbers into the same place of block `rank`, which may be one's own, and what they count for there.
struct Addresses {
  uint32_t to, counted;
};
// One is asked for and the other as far from it there as it is here, so that a kernel can hold one a block and not ask again.
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
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(there.to),
               "r"(word_of(values[0])), "r"(word_of(values[1])), "r"(word_of(values[2])), "r"(word_of(values[3])),
               "r"(there.counted)
               : "memory");
#endif
}

// `count` numbers of one's own block's shared memory into the same place of another block by one request, of a warp whose lanes
// all call it. Count times their size and both places are multiples of 16 bytes. Threads that have written them say
// `ready_to_send` and meet the warp in a barrier; nobody writes there, nor does the block end, before they have come.
SEAM_KERNEL void ready_to_send() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <class B, class T, int N>
SEAM_KERNEL void send_all(const B& block, int rank, Shared<T, N>& shared, int i, int count, Arrivals& arrivals) {
#if __CUDA_ARCH__ >= 900
  const Addresses there = addresses_in(rank, shared, i, arrivals);
  const uint32_t here = uint32_t(__cvta_generic_to_shared(&shared.memory[i]));
  if (block.lane() == 0) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(there.to),
                 "r"(here), "r"(count * int(sizeof(T))), "r"(there.counted)
                 : "memory");
  }
#endif
}

}  // namespace seam::gpu

#else

#include "messages_host.h"  // tests/cuda_host

#endif

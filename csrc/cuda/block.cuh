// What a CUDA kernel of this project is written with: who a thread is, shared memory, barriers, shuffles, tensor-core
// tiles, exchange within a cluster. A kernel is a struct
//
//   struct Kernel {
//     static constexpr int kThreads = 128;      // of a block, a multiple of 32
//     static constexpr int kCluster = 1;        // blocks of a cluster
//     struct Params { ... };                    // sizes and pointers, by value
//     struct Smem { Shared<float, 64> h; };     // shared memory; may be empty
//     static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p);
//   };
//
// and uses nothing else, so that the same source can be compiled in two ways: with the definitions below for the GPU,
// and with those of tests/cuda_host/block_host.h for the CPU, which run it thread by thread and detect what no GPU
// reports: races, reads of uninitialised memory, barriers that not all threads reach. For that, shared memory is
// accessed only through Shared, global memory only through load and store below; a kernel has no early return; all
// threads of a block meet in the same barrier, on the same source line; shuffles and tensor-core tiles are executed by
// whole warps.
#pragma once

#include <cstdint>

#include "common/inline.h"
#include "real.cuh"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define SEAM_KERNEL __device__ __forceinline__

namespace seam::gpu {

// ---- Global memory --------------------------------------------------------------------------------------------------

template <class T>
SEAM_KERNEL T load(const T* at) {
  return *at;
}
template <class T>
SEAM_KERNEL void store(T* at, T value) {
  *at = value;
}

// Prefetches the 128 bytes around an address into the L2 cache.
template <class T>
SEAM_KERNEL void prefetch(const T* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// ---- Shared memory --------------------------------------------------------------------------------------------------

// N values of T. `load4` and `store4` (`load2`, `store2`) move adjacent values at once; the index must be a multiple of
// 4 (2).
template <class T, int N>
struct alignas(16) Shared {
  T memory[N];

  SEAM_KERNEL T load(int i) const { return memory[i]; }
  SEAM_KERNEL void store(int i, T value) { memory[i] = value; }
  SEAM_KERNEL void load2(int i, T (&to)[2]) const { copy<2>(&memory[i], to); }
  SEAM_KERNEL void load4(int i, T (&to)[4]) const { copy<4>(&memory[i], to); }
  SEAM_KERNEL void store2(int i, const T (&from)[2]) { copy<2>(from, &memory[i]); }
  SEAM_KERNEL void store4(int i, const T (&from)[4]) { copy<4>(from, &memory[i]); }

 private:
  template <int M>
  struct alignas(M * sizeof(T) < 16 ? M * sizeof(T) : 16) Pack {
    T values[M];
  };
  template <int M>
  static SEAM_KERNEL void copy(const T* from, T (&to)[M]) {
    const Pack<M> pack = *reinterpret_cast<const Pack<M>*>(from);
#pragma unroll
    for (int k = 0; k < M; ++k) to[k] = pack.values[k];
  }
  template <int M>
  static SEAM_KERNEL void copy(const T (&from)[M], T* to) {
    Pack<M> pack;
#pragma unroll
    for (int k = 0; k < M; ++k) pack.values[k] = from[k];
    *reinterpret_cast<Pack<M>*>(to) = pack;
  }
};

// Copies 16 bytes from global into shared memory asynchronously: the thread may read them after `copies_done`, its
// block after the next barrier, and nobody may use the destination before. Both addresses are multiples of 16 bytes.
// The copy bypasses the L1 cache, so it sees what other blocks of the cluster wrote before its last barrier.
template <class T, int N>
SEAM_KERNEL void copy_async(Shared<T, N>& to, int i, const T* from) {
  static_assert(sizeof(T) == 4, "four numbers of 4 bytes");
  const uint32_t at = uint32_t(__cvta_generic_to_shared(&to.memory[i]));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
SEAM_KERNEL void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// ---- Threads, barriers, shuffles ------------------------------------------------------------------------------------

// A thread's number in its block: read from the register threadIdx each time, or held in a variable.
template <bool Held>
struct ThreadNumber {
  SEAM_KERNEL int thread() const { return int(threadIdx.x); }
};
template <>
struct ThreadNumber<true> {
  int held;
  SEAM_KERNEL int thread() const { return held; }
};

// CL: blocks of a cluster. The blocks of a cluster are adjacent in the grid. Held: see `opaque`.
template <int CL, bool Held = false>
struct BlockOf : ThreadNumber<Held> {
  using ThreadNumber<Held>::thread;

  SEAM_KERNEL int lane() const { return thread() & 31; }
  SEAM_KERNEL int warp() const { return thread() >> 5; }
  SEAM_KERNEL int threads() const { return int(blockDim.x); }
  SEAM_KERNEL int index() const {
    return int(blockIdx.x) / CL;
  }  // index of the cluster; of the block if there are no clusters
  SEAM_KERNEL int count() const { return int(gridDim.x) / CL; }                // number of clusters
  SEAM_KERNEL int rank() const { return CL == 1 ? 0 : int(blockIdx.x) % CL; }  // index of the block in its cluster

  // Barriers: what was written before one can be read after it.
  SEAM_KERNEL void sync() const { __syncthreads(); }
  SEAM_KERNEL void sync_warp() const { __syncwarp(); }
  // A barrier of four adjacent warps: threads 0 to 127, 128 to 255, and so on. (The block's own barrier is number 0.)
  SEAM_KERNEL void sync_half() const { asm volatile("bar.sync %0, 128;" ::"r"(1 + (thread() >> 7)) : "memory"); }
  SEAM_KERNEL void sync_cluster() const {
    if constexpr (CL == 1) {
      __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
      asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
    }
  }

  // The same thread, for code that a block runs without its cluster.
  SEAM_KERNEL BlockOf<1, Held> single() const {
    if constexpr (Held) return {{thread()}};
    else return {};
  }
  // The same thread, with a number that the compiler cannot relate to the old one: for a part of a long kernel, so that
  // values derived from the thread's number are not kept in registers from one part to the next.
  SEAM_KERNEL BlockOf<CL, true> opaque() const {
    int same = thread();
    asm volatile("" : "+r"(same));
    return {{same}};
  }

  // Clock cycles of this multiprocessor; for profiles.
  SEAM_KERNEL int64_t clock() const { return clock64(); }

  // Whether the value is true in any lane of the warp; in which lanes, bit k for lane k. These and the shuffles are no
  // barriers.
  SEAM_KERNEL bool any(bool value) const { return __any_sync(0xffffffffu, value); }
  SEAM_KERNEL uint32_t ballot(bool value) const { return __ballot_sync(0xffffffffu, value); }
  // The value of another lane.
  SEAM_KERNEL float shuffle_xor(float value, int mask) const { return __shfl_xor_sync(0xffffffffu, value, mask); }
  SEAM_KERNEL uint32_t shuffle_xor(uint32_t value, int mask) const { return __shfl_xor_sync(0xffffffffu, value, mask); }
  SEAM_KERNEL float shuffle(float value, int lane) const { return __shfl_sync(0xffffffffu, value, lane); }
  // Transposes an 8 x 8 matrix of 16-bit numbers, of which lane 4 r + k has row r, columns 2 k and 2 k + 1, the first
  // in the lower half.
  SEAM_KERNEL uint32_t transpose(uint32_t two) const {
    uint32_t other;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(other) : "r"(two));
    return other;
  }

  // Stores a value at the same address of the shared memory of block `rank` of the cluster, which may be the own one.
  // It can be read there after the next sync_cluster, in the own block after any barrier. There must be a sync_cluster
  // before the first such store and after the last one.
  template <class T, int N>
  SEAM_KERNEL void store_peer(int rank, Shared<T, N>& shared, int i, T value) const {
    static_assert(sizeof(T) == 4 || sizeof(T) == 2, "words of 4 or 2 bytes");
    if constexpr (CL == 1) {
      shared.store(i, value);
    } else {
#if __CUDA_ARCH__ >= 900
      const uint32_t mine = uint32_t(__cvta_generic_to_shared(&shared.memory[i]));
      uint32_t theirs;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(mine), "r"(rank));
      if constexpr (sizeof(T) == 4) {
        const uint32_t bits = *reinterpret_cast<const uint32_t*>(&value);
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(theirs), "r"(bits) : "memory");
      } else {
        const uint16_t bits = *reinterpret_cast<const uint16_t*>(&value);
        asm volatile("st.shared::cluster.u16 [%0], %1;" ::"r"(theirs), "h"(bits) : "memory");
      }
#endif
    }
  }

  // A product of tensor-core tiles by a warp, which must have converged: d (16 x 8, float) += a (16 x K, row-major) b
  // (K x 8, column-major). With g = lane / 4 and t = lane % 4, a lane holds
  //   d[0..3]: (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)
  //   K = 16, two 16-bit numbers a word, the lower column (of a) or row (of b) in the lower half:
  //     a[0..3]: (g, 2t..) (g + 8, 2t..) (g, 2t + 8..) (g + 8, 2t + 8..);   b[0..1]: (2t.., g) (2t + 8.., g)
  //   K = 8, a float rounded to tf32 a word:
  //     a[0..3]: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4);               b[0..1]: (t, g) (t + 4, g)
  SEAM_KERNEL void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  SEAM_KERNEL void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  SEAM_KERNEL void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Tf32) const {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

// ---- Launching ------------------------------------------------------------------------------------------------------

using Stream = cudaStream_t;

template <class K>
__global__ void __launch_bounds__(K::kThreads, 1) entry(const __grid_constant__ typename K::Params p) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kRuns = true;
#else
  constexpr bool kRuns = K::kCluster == 1;  // without clusters: such a kernel is never started
#endif
  if constexpr (kRuns) {
    extern __shared__ __align__(16) unsigned char memory[];
    K::run(BlockOf<K::kCluster>{}, *reinterpret_cast<typename K::Smem*>(memory), p);
  }
}

// Several launches of a kernel that differ only in their parameters, as one: row y of the grid has the parameters of
// number y. They are passed by value, as many as fit (4 KB before CUDA 12.1).
#if CUDART_VERSION >= 12010
constexpr size_t kBytesOfParameters = 32764;
#else
constexpr size_t kBytesOfParameters = 4096;
#endif
template <class Params>
struct BatchedParams {
  static constexpr int kWanted = 16, kRoom = int(kBytesOfParameters / sizeof(Params)),
                       kMost = kRoom < kWanted ? kRoom : kWanted;
  Params each[kMost];
};

template <class K>
__global__ void __launch_bounds__(K::kThreads, 1)
    entry_batched(const __grid_constant__ BatchedParams<typename K::Params> p) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kRuns = true;
#else
  constexpr bool kRuns = K::kCluster == 1;
#endif
  if constexpr (kRuns) {
    extern __shared__ __align__(16) unsigned char memory[];
    K::run(BlockOf<K::kCluster>{}, *reinterpret_cast<typename K::Smem*>(memory), p.each[blockIdx.y]);
  }
}

}  // namespace seam::gpu

#else

#include "block_host.h"  // tests/cuda_host

#endif

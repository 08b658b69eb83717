// Starts kernels on the GPU; tests/cuda_host/block_host.h has the same functions for the CPU.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "block.cuh"
#include "collected_launches.h"

namespace seam::gpu {

// Kernels with kBatched always run for several sets of parameters in one launch; those with kMayBeBatched may.
template <class K, class = void>
struct IsBatched : std::false_type {};
template <class K>
struct IsBatched<K, std::enable_if_t<K::kBatched>> : std::true_type {};
template <class K, class = void>
struct MayBeBatched : std::false_type {};
template <class K>
struct MayBeBatched<K, std::enable_if_t<K::kMayBeBatched>> : std::true_type {};

}  // namespace seam::gpu

#if defined(__CUDACC__)

namespace seam::gpu {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which the next call would return again
  throw std::runtime_error(std::string("seam-fast: ") + what + " failed: " + cudaGetErrorString(error));
}

template <class K>
constexpr size_t shared_bytes() {
  return std::is_empty_v<typename K::Smem> ? 0 : sizeof(typename K::Smem);
}

template <class K>
constexpr auto entry_of() {
  if constexpr (IsBatched<K>::value) return entry_batched<K>;
  else return entry<K>;
}

// Shared memory and cluster sizes above the defaults have to be allowed on each device.
template <class K, class Entry>
cudaError_t allow(Entry entry) {
  constexpr size_t kOrdinary = 48 << 10;
  constexpr int kPortableCluster = 8;
  cudaError_t error = cudaSuccess;
  if constexpr (shared_bytes<K>() > kOrdinary) {
    error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes<K>()));
  }
  if constexpr (K::kCluster > kPortableCluster) {
    if (error == cudaSuccess) error = cudaFuncSetAttribute(entry, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return error;
}
template <class K>
cudaError_t allow() {
  cudaError_t error = allow<K>(entry_of<K>());
  if constexpr (MayBeBatched<K>::value) {
    if (error == cudaSuccess) error = allow<K>(entry_batched<K>);
  }
  return error;
}

// The same, once on each device: it takes about as long as a launch.
template <class K>
void allow_once() {
  static std::atomic<uint64_t> allowed = 0;  // a bit for each device
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (allowed.load(std::memory_order_relaxed) & bit) return;
  check(allow<K>(), "preparing a kernel");
  allowed |= bit;
}

template <class K>
cudaLaunchConfig_t configuration(cudaStream_t stream, int64_t clusters, cudaLaunchAttribute& cluster) {
  if (clusters * K::kCluster > 0x7fffffff) throw std::runtime_error("seam-fast: too many blocks for one launch");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(clusters * K::kCluster));
  config.blockDim = dim3(K::kThreads);
  config.dynamicSmemBytes = shared_bytes<K>();
  config.stream = stream;
  if (K::kCluster > 1) {
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = K::kCluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  return config;
}

template <class K>
void launch(void* stream, int64_t clusters, const typename K::Params& p) {
  if (clusters == 0) return;
  allow_once<K>();
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configuration<K>(static_cast<cudaStream_t>(stream), clusters, cluster);
  check(cudaLaunchKernelEx(&config, entry<K>, p), "starting a kernel");
}

// So many clusters for each of `count` calls.
template <class K>
void launch_batched(void* stream, int64_t clusters, const typename K::Params* calls, int64_t count) {
  using Calls = BatchedParams<typename K::Params>;
  static_assert(Calls::kMost > 0, "parameters of one call find room");
  allow_once<K>();
  for (int64_t first = 0; first < count; first += Calls::kMost) {
    const int64_t some = std::min<int64_t>(count - first, Calls::kMost);
    Calls p;
    std::copy(calls + first, calls + first + some, p.each);
    cudaLaunchAttribute cluster;
    cudaLaunchConfig_t config = configuration<K>(static_cast<cudaStream_t>(stream), clusters, cluster);
    config.gridDim.y = unsigned(some);
    check(cudaLaunchKernelEx(&config, entry_batched<K>, p), "starting a kernel");
  }
}

// Starts groups of `blocks` blocks, all of which run at once: at most `resident_blocks` in all.
template <class K>
void launch_resident(void* stream, int64_t groups, int64_t blocks, const typename K::Params& p) {
  static_assert(K::kCluster == 1);
  allow_once<K>();
  cudaLaunchAttribute together;
  cudaLaunchConfig_t config = configuration<K>(static_cast<cudaStream_t>(stream), groups * blocks, together);
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, entry<K>, p), "starting a kernel");
}

// Caches what ask(count) finds for a device, 0 where it returns an error, which is then cleared. An error for lack of
// memory is not cached, since it may pass. known: one more than the count.
constexpr int kDevices = 64;
template <class Ask>
int64_t asked_once(std::atomic<int> (&known)[kDevices], int device, const Ask& ask) {
  const bool remembers = 0 <= device && device < kDevices;
  if (const int found = remembers ? known[device].load() : 0) return found - 1;
  int count = 0;
  const cudaError_t error = ask(count);
  if (error != cudaSuccess) {
    count = 0;
    cudaGetLastError();
  }
  if (remembers && error != cudaErrorMemoryAllocation) known[device] = count + 1;
  return count;
}

// How many blocks of a kernel the device can run at once, for `launch_resident`: 0 if it cannot start such a kernel.
// Cached per device.
template <class K>
int64_t resident_blocks(int device) {
  static std::atomic<int> known[kDevices] = {};
  return asked_once(known, device, [device](int& count) {
    int together = 0, multiprocessors = 0, of_each = 0;
    cudaError_t error = cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess) error = allow<K>();
    if (error == cudaSuccess) {
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_each, entry<K>, K::kThreads, shared_bytes<K>());
    }
    count = together ? of_each * multiprocessors : 0;
    return error;
  });
}

// How many clusters of a kernel the device can run at once: 0 if it has no clusters of that size, too little shared
// memory, or only code compiled for devices without clusters, which does nothing. Cached per device.
template <class K>
int64_t resident_clusters(int device) {
  static std::atomic<int> known[kDevices] = {};
  return asked_once(known, device, [](int& count) {
    cudaLaunchAttribute cluster;
    const cudaLaunchConfig_t config = configuration<K>(nullptr, 1, cluster);
    cudaFuncAttributes code;
    cudaError_t error = cudaFuncGetAttributes(&code, entry_of<K>());
    if (error == cudaSuccess) error = allow<K>();
    if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&count, entry_of<K>(), &config);
    if (error == cudaSuccess && code.ptxVersion < 90) count = 0;
    return error;
  });
}

}  // namespace seam::gpu

#else

namespace seam::gpu {

template <class K>
int64_t resident_clusters(int) {
  return 4;
}
template <class K>
int64_t resident_blocks(int) {
  return 80;
}

}  // namespace seam::gpu

#endif

namespace seam::gpu {

// The same for GPU and CPU: a launch, which is only recorded where the queue collects launches.
template <class K>
void launch(const Queue& queue, int64_t clusters, const typename K::Params& p) {
  if (queue.collected) queue.collected->record<K>(clusters, p);
  else launch<K>(queue.stream, clusters, p);
}
template <class K>
void launch_resident(const Queue& queue, int64_t groups, int64_t blocks, const typename K::Params& p) {
  launch_resident<K>(queue.stream, groups, blocks, p);
}
template <class K>
void launch_batched(const Queue& queue, int64_t clusters, const typename K::Params* calls, int64_t count) {
  launch_batched<K>(queue.stream, clusters, calls, count);
}

template <class K>
void CollectedLaunches::Launches<K>::start(void* stream) const {
  if constexpr (MayBeBatched<K>::value) {
    launch_batched<K>(stream, clusters, calls.data(), int64_t(calls.size()));
  } else {
    for (const typename K::Params& p : calls) launch<K>(stream, clusters, p);
  }
}

}  // namespace seam::gpu

// Starting a kernel on the GPU; tests/cuda_host/block_host.h has the same for the CPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "block.cuh"

#if defined(__CUDACC__)

namespace seam::gpu {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it has been told; the next call is not to blame
  throw std::runtime_error(std::string("seam-fast: ") + what + " failed: " + cudaGetErrorString(error));
}

template <class K>
constexpr size_t shared_bytes() {
  return std::is_empty_v<typename K::Smem> ? 0 : sizeof(typename K::Smem);
}

// What a kernel needs beyond the ordinary has to be allowed on each device.
template <class K>
cudaError_t allow() {
  constexpr size_t kOrdinary = 48 << 10;
  constexpr int kPortableCluster = 8;
  cudaError_t error = cudaSuccess;
  if constexpr (shared_bytes<K>() > kOrdinary) {
    error = cudaFuncSetAttribute(entry<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes<K>()));
  }
  if constexpr (K::kCluster > kPortableCluster) {
    if (error == cudaSuccess) error = cudaFuncSetAttribute(entry<K>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return error;
}

// The same once on each device: asking takes about as long as starting a kernel.
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

// Groups of so many blocks, all of which are on the device at once: as many as `resident_blocks` allows.
template <class K>
void launch_together(void* stream, int64_t groups, int64_t blocks, const typename K::Params& p) {
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

// How many blocks of a kernel the device can run at once, for `launch_together`: 0 where it cannot start such a kernel. Asked
// once of each device.
template <class K>
int64_t resident_blocks(int device) {
  constexpr int kDevices = 64, kUnknown = -1;
  static std::atomic<int> known[kDevices] = {};  // one more than the count
  const bool remembers = 0 <= device && device < kDevices;
  int count = remembers ? known[device].load() - 1 : kUnknown;
  if (count != kUnknown) return count;
  int together = 0, multiprocessors = 0, of_each = 0;
  cudaError_t error = cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = allow<K>();
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_each, entry<K>, K::kThreads, shared_bytes<K>());
  }
  count = error == cudaSuccess && together ? of_each * multiprocessors : 0;
  if (error != cudaSuccess) cudaGetLastError();  // it is no error of anybody's
  if (remembers && error != cudaErrorMemoryAllocation) known[device] = count + 1;
  return count;
}

// How many clusters of a kernel the device can run at once: 0 where it has none so large, or too little shared memory, or
// only code that was compiled for devices without clusters, which does nothing. Asked once of each device.
template <class K>
int64_t resident_clusters(int device) {
  constexpr int kDevices = 64, kUnknown = -1;
  static std::atomic<int> known[kDevices] = {};  // one more than the count
  const bool remembers = 0 <= device && device < kDevices;
  int count = remembers ? known[device].load() - 1 : kUnknown;
  if (count != kUnknown) return count;
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configuration<K>(nullptr, 1, cluster);
  cudaFuncAttributes code;
  cudaError_t error = cudaFuncGetAttributes(&code, entry<K>);
  if (error == cudaSuccess) error = allow<K>();
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&count, entry<K>, &config);
  if (error != cudaSuccess || code.ptxVersion < 90) count = 0;
  if (error != cudaSuccess) cudaGetLastError();  // it is no error of anybody's
  // A want of memory may pass; that a device has no such clusters, or no shared memory for them, does not.
  if (remembers && error != cudaErrorMemoryAllocation) known[device] = count + 1;
  return count;
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

// What the host side asks CUDA and torch about a GPU: its only file that needs CUDA's headers. Only the runtime's, so
// that a toolkit without libraries (cuBLAS and others) suffices for the build.
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/version.h>

#include <array>
#include <atomic>

#include "masked_lstm_cuda.h"

namespace seam::gpu {

namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

struct Hardware {
  int major, multiprocessors;
};

// Cached per device.
Hardware hardware(c10::DeviceIndex index) {
  static std::array<std::atomic<Hardware>, 64> known = {};
  const bool remembers = size_t(index) < known.size();
  Hardware found = remembers ? known[size_t(index)].load(std::memory_order_relaxed) : Hardware{};
  if (found.major != 0) return found;
  found = {attribute(cudaDevAttrComputeCapabilityMajor, index), attribute(cudaDevAttrMultiProcessorCount, index)};
  if (remembers) known[size_t(index)].store(found, std::memory_order_relaxed);
  return found;
}

// torch's own setting for products. Its older names raise errors in newer versions of torch.
bool tf32_allowed() {
  if (at::NoTF32Guard::should_disable_tf32()) return false;
  const at::Context& context = at::globalContext();
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 10
  return context.float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) == at::Float32Precision::TF32;
#elif TORCH_VERSION_MINOR == 9
  return context.float32Precision("cuda", "matmul") == "tf32";
#else
  return context.allowTF32CuBLAS();
#endif
}

}  // namespace

Device device_of(const Tensor& input) {
  const c10::DeviceIndex index = input.device().index();
  const auto [major, multiprocessors] = hardware(index);
  TORCH_CHECK(major >= 8, "seam-fast's CUDA kernels need a GPU of compute capability 8.0 or more, and this one has ",
              major, ".", attribute(cudaDevAttrComputeCapabilityMinor, index));
  return {index, {c10::cuda::getCurrentCUDAStream(index).stream()}, multiprocessors, major >= 9, tf32_allowed()};
}

void wait_for(const Device& device) {
  cudaEvent_t done;
  C10_CUDA_CHECK(cudaEventCreateWithFlags(&done, cudaEventBlockingSync | cudaEventDisableTiming));
  cudaError_t error = cudaEventRecord(done, static_cast<cudaStream_t>(device.stream.stream));
  if (error == cudaSuccess) error = cudaEventSynchronize(done);
  cudaEventDestroy(done);
  C10_CUDA_CHECK(error);
}

}  // namespace seam::gpu

// Device memory that a trainer keeps from launch to launch.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "class_logits_cuda.h"

namespace seam::gpu {

// Device memory that grows when needed.
class DeviceBuffer {
 public:
  template <typename T>
  T* get(int64_t count, const at::TensorOptions& options) {
    const int64_t bytes = count * int64_t(sizeof(T));
    if (!memory_.defined() || memory_.numel() < bytes) {
      const c10::InferenceMode ordinary(false);  // it will also be used outside of inference mode
      memory_ = at::empty({bytes + bytes / 4 + 16}, options.dtype(at::kByte));
    }
    return reinterpret_cast<T*>(memory_.mutable_data_ptr());
  }
  // Copies arrays from the host, in stream order and without waiting. One copy for all of them, each at a multiple of
  // 16 bytes, because a copy takes several calls of CUDA, in which the threads of other modules wait for each other.
  template <typename... T>
  std::tuple<T*...> put_all(const at::TensorOptions& options, const std::vector<T>&... values) {
    const void* const from[] = {values.data()...};
    const size_t sizes[] = {values.size() * sizeof(T)...};
    size_t at[sizeof...(T)], bytes = 0;
    for (size_t i = 0; i < sizeof...(T); ++i) {
      at[i] = bytes;
      bytes += (sizes[i] + 15) / 16 * 16;
    }
    uint8_t* const to = get<uint8_t>(int64_t(bytes), options);
    if (bytes > 0) {
      // From pinned memory, so that the copy is asynchronous; torch keeps it until then.
      const c10::InferenceMode ordinary(false);
      const Tensor here =
          at::empty({int64_t(bytes)}, at::TensorOptions(at::kByte).pinned_memory(options.device().is_cuda()));
      for (size_t i = 0; i < sizeof...(T); ++i) {
        if (sizes[i] > 0) std::memcpy(static_cast<uint8_t*>(here.mutable_data_ptr()) + at[i], from[i], sizes[i]);
      }
      memory_.narrow(0, 0, int64_t(bytes)).copy_(here, /*non_blocking=*/true);
    }
    std::tuple<T*...> found;
    size_t i = 0;
    std::apply([&](T*&... there) { ((there = reinterpret_cast<T*>(to + at[i++])), ...); }, found);
    return found;
  }
  template <typename T>
  T* put(const std::vector<T>& values, const at::TensorOptions& options) {
    return std::get<0>(put_all(options, values));
  }
  void clear() { memory_.zero_(); }
  // A copy of the first `count` numbers to the host, as bytes, in stream order; to be read after synchronisation.
  template <typename T>
  Tensor fetch(int64_t count) const {
    return copy_to_host(memory_.narrow(0, 0, count * int64_t(sizeof(T))));
  }

 private:
  Tensor memory_;
};

// Host tensors and their copies on the device, which are valid as long as the tensors are the same and unmodified.
struct DeviceCopies {
  std::vector<Tensor> here, there;
  std::vector<uint32_t> version;

  DeviceCopies() = default;
  DeviceCopies(const Tensor& a, const Tensor& b, const Tensor& c, const c10::Device& device) : here{a, b, c} {
    for (const Tensor& t : here) {
      there.push_back(t.to(device));
      version.push_back(t.is_inference() ? 0 : t._version());
    }
  }
  bool same(const Tensor& a, const Tensor& b, const Tensor& c) const {
    const Tensor* const others[] = {&a, &b, &c};
    if (here.empty()) return false;
    for (size_t i = 0; i < here.size(); ++i) {
      if (!here[i].is_same(*others[i]) || here[i].is_inference() || here[i]._version() != version[i]) return false;
    }
    return true;
  }
};

}  // namespace seam::gpu

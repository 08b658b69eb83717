// Memory of a GPU that a trainer keeps from launch to launch.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <cstring>
#include <vector>

#include "documents.h"

namespace seam::gpu {

// Memory on the device that grows when it has to.
class DeviceBuffer {
 public:
  template <typename T>
  T* get(int64_t count, const at::TensorOptions& options) {
    const int64_t bytes = count * int64_t(sizeof(T));
    if (!memory_.defined() || memory_.numel() < bytes) {
      const c10::InferenceMode ordinary(false);  // it will be used outside of any such mode, too
      memory_ = at::empty({bytes + bytes / 4 + 16}, options.dtype(at::kByte));
    }
    return reinterpret_cast<T*>(memory_.mutable_data_ptr());
  }
  // Copies values from the host, when all that the stream was given before is done; it does not wait for that.
  template <typename T>
  T* put(const std::vector<T>& values, const at::TensorOptions& options) {
    T* const to = get<T>(int64_t(values.size()), options);
    const int64_t bytes = int64_t(values.size() * sizeof(T));
    if (bytes == 0) return to;
    // From memory that the device can read while the host goes on, which torch keeps until it has.
    const c10::InferenceMode ordinary(false);
    const Tensor from = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(options.device().is_cuda()));
    std::memcpy(from.mutable_data_ptr(), values.data(), size_t(bytes));
    memory_.narrow(0, 0, bytes).copy_(from, /*non_blocking=*/true);
    return to;
  }
  void clear() { memory_.zero_(); }
  // The first so many numbers, as bytes, as they are when all that the stream was given before is done.
  template <typename T>
  Tensor fetch(int64_t count) const {
    return fetched(memory_.narrow(0, 0, count * int64_t(sizeof(T))));
  }

 private:
  Tensor memory_;
};

// Tensors of the host and their copies on the device, as long as they stay the same.
struct Mirrored {
  std::vector<Tensor> here, there;
  std::vector<uint32_t> version;

  Mirrored() = default;
  Mirrored(const Tensor& a, const Tensor& b, const Tensor& c, const c10::Device& device) : here{a, b, c} {
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

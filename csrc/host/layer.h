// The sizes and the checks of a masked LSTM layer's arguments, and their memory as kernels read it: the same for every
// device.
#pragma once

#include <ATen/ops/empty.h>

#include <string>
#include <vector>

#include "common/masked_lstm_params.h"
#include "ops.h"

namespace seam {

struct LayerSizes {
  int64_t T, B, I, H, D;  // steps, batch, input size, hidden size, directions
  int64_t per_direction;  // weight tensors: 2, or 4 with biases
  bool biases() const { return per_direction == 4; }
};

// Elements that the CPU's forward pass saves: activated gates and cell states.
inline int64_t saved_size(const LayerSizes& l) { return l.D * l.T * l.B * (kGates + 1) * l.H; }

// Which tensors a device's kernels take.
struct Accepted {
  c10::DeviceType device;
  bool short_types;  // bfloat16 and float16 besides float32 and float64; weights and scores may be float32 then
};

// Raises what is wrong with a call's arguments; returns its sizes.
LayerSizes check_layer(const Accepted& accepted, const LayerArguments& arguments);

// Raises what is wrong with the arguments that only the backward pass has. saved_size: elements of `saved`; weights,
// scores: how many of each it is asked about.
void check_backward(const LayerSizes& l, const LayerBackwardArguments& arguments, int64_t saved_size, size_t weights,
                    size_t scores);

// A tensor whose memory holds its numbers, not their negatives (torch has views that negate lazily). Asks first,
// because resolve_neg alone takes a microsecond.
inline Tensor resolved(const Tensor& t) { return t.is_neg() ? t.resolve_neg() : t; }

// Keeps tensors alive whose memory the kernels read: the given ones where their layout fits, else copies.
struct HeldInputs {
  std::vector<Tensor> tensors;

  template <typename T>
  const T* contiguous(const OptionalTensor& t) {
    if (!t) return nullptr;
    tensors.push_back(resolved(*t).contiguous());
    return tensors.back().const_data_ptr<T>();
  }
  template <typename T>
  StridedView<const T> view(const OptionalTensor& t, int64_t offset = 0) {
    if (!t) return {};
    const Tensor plain = resolved(*t);
    tensors.push_back(plain.size(2) == 1 || plain.stride(2) == 1 ? plain : plain.contiguous());
    const Tensor& held = tensors.back();
    return {held.const_data_ptr<T>() + offset, held.stride(0), held.stride(1)};
  }
};

template <typename T>
StridedView<T> writable_view(const Tensor& t, int64_t offset = 0) {
  return {t.mutable_data_ptr<T>() + offset, t.stride(0), t.stride(1)};
}

// An uninitialised (T, B, width) tensor whose memory is laid out so, or as (B, T, width).
inline Tensor empty_rows(int64_t T, int64_t B, int64_t width, bool batch_first, const Tensor& like) {
  return batch_first ? at::empty({B, T, width}, like.options()).transpose(0, 1)
                     : at::empty({T, B, width}, like.options());
}

inline bool is_batch_first(const Tensor& t) { return t.size(0) > 1 && t.size(1) > 1 && t.stride(1) > t.stride(0); }

}  // namespace seam

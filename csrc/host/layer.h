// What the arguments of a masked LSTM layer say, and their memory as kernels read it: the same for every device.
#pragma once

#include <ATen/ops/empty.h>

#include <string>
#include <vector>

#include "checks.h"
#include "common/masked_lstm_params.h"

namespace seam {

struct Layer {
  int64_t T, B, I, H, D;
  int64_t per_direction;  // tensors: 2 or 4
  bool biases() const { return per_direction == 4; }
};

// Elements that the CPU's forward pass saves: activated gates and cell states.
inline int64_t saved_size(const Layer& l) { return l.D * l.T * l.B * (kGates + 1) * l.H; }

// Which tensors a device's kernels take.
struct Accepted {
  c10::DeviceType device;
  bool short_types;  // bfloat16 and float16 besides float32 and float64; weights and scores may be float32 then
};

Layer check_layer(const Accepted& accepted, const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0,
                  const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& scores,
                  const OptionalTensor& lengths);

// The arguments that only the backward pass has. saved_size: elements of `saved`.
void check_backward(const Layer& l, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                    const OptionalTensor& grad_c_n, const Tensor& input, const Tensor& output, const Tensor& saved,
                    int64_t saved_size, size_t need_weights, size_t need_scores);

// A tensor whose memory holds its numbers, and not their negatives. Asking torch for that alone takes a microsecond.
inline Tensor resolved(const Tensor& t) { return t.is_neg() ? t.resolve_neg() : t; }

// Tensors whose memory the kernels use as it is; copies live as long as this does.
struct Kept {
  std::vector<Tensor> tensors;

  template <typename T>
  const T* contiguous(const OptionalTensor& t) {
    if (!t) return nullptr;
    tensors.push_back(resolved(*t).contiguous());
    return tensors.back().const_data_ptr<T>();
  }
  template <typename T>
  Rows<const T> rows(const OptionalTensor& t, int64_t offset = 0) {
    if (!t) return {};
    const Tensor plain = resolved(*t);
    tensors.push_back(plain.size(2) == 1 || plain.stride(2) == 1 ? plain : plain.contiguous());
    const Tensor& kept = tensors.back();
    return {kept.const_data_ptr<T>() + offset, kept.stride(0), kept.stride(1)};
  }
};

template <typename T>
Rows<T> writable_rows(const Tensor& t, int64_t offset = 0) {
  return {t.mutable_data_ptr<T>() + offset, t.stride(0), t.stride(1)};
}

// An uninitialised (T, B, width) tensor whose memory is in that order, or in that of (B, T, width).
inline Tensor empty_rows(int64_t T, int64_t B, int64_t width, bool batch_first, const Tensor& like) {
  return batch_first ? at::empty({B, T, width}, like.options()).transpose(0, 1)
                     : at::empty({T, B, width}, like.options());
}

inline bool is_batch_first(const Tensor& t) { return t.size(0) > 1 && t.size(1) > 1 && t.stride(1) > t.stride(0); }

}  // namespace seam

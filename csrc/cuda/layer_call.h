// A call of the masked LSTM op on a GPU: its tensors as kernels take them, and who computes its products.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/version.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "host/layer.h"
#include "masked_lstm_cuda.h"
#include "vmap_calls_cuda.h"

namespace seam::gpu {

// Turns off autocast and autograd for torch's products in here: the backward pass runs under its caller's autocast and,
// with create_graph, under autograd, which already has a node for the whole layer. Skipping both also saves time on
// each call.
struct PlainTensors {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
};

// ---- Types ----------------------------------------------------------------------------------------------------------

template <class Scalar>
struct NativeOf {
  using type = Scalar;
};
template <>
struct NativeOf<at::BFloat16> {
  using type = BFloat16;
};
template <>
struct NativeOf<at::Half> {
  using type = Half;
};

inline bool is_short(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }
inline at::ScalarType wide(at::ScalarType type) { return is_short(type) ? at::kFloat : type; }

inline Kind kind_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kDouble: return Kind::float64;
    case at::kBFloat16: return Kind::bfloat16;
    case at::kHalf: return Kind::float16;
    default: return Kind::float32;
  }
}

template <class T>
T* pointer(const Tensor& t, int64_t offset = 0) {
  return static_cast<T*>(t.mutable_data_ptr()) + offset;
}
template <class T>
const T* pointer_or_null(const OptionalTensor& t, int64_t offset) {
  return t ? static_cast<const T*>(t->const_data_ptr()) + offset : nullptr;
}
template <class T>
StridedView<T> view_of(const Tensor& t, int64_t offset = 0) {  // (T, B, width)
  if constexpr (std::is_const_v<T>) return {static_cast<T*>(t.const_data_ptr()) + offset, t.stride(0), t.stride(1)};
  else return {static_cast<T*>(t.mutable_data_ptr()) + offset, t.stride(0), t.stride(1)};
}

inline OptionalTensor contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(resolved(*t).contiguous()) : std::nullopt;
}
inline Tensor with_plain_rows(const Tensor& t) {  // with stride 1 within a row
  const Tensor plain = resolved(t);
  return plain.size(2) == 1 || plain.stride(2) == 1 ? plain : plain.contiguous();
}

// ---- Own kernels or a matrix library for products over all rows -----------------------------------------------------

// A matrix library pays its launch back by faster tiles above this many operations, with 16-bit numbers, for which it
// has tensor cores, earlier; and where a sum has more terms than this, because our own kernels form each sum in one
// block.
constexpr double kLibraryFrom = 1e9, kLibraryFromShort = 1e8;
constexpr int64_t kLibraryTerms = 1024;

inline bool use_library(double operations, int64_t terms, at::ScalarType type) {
  if (BatchedCalls::collecting()) return false;
  if (choices().products != Choice::automatic) return choices().products == Choice::library;
  return terms > kLibraryTerms || operations > (is_short(type) ? kLibraryFromShort : kLibraryFrom);
}

// out = a b, with sums in full width. Where torch has no such product of 16-bit numbers, the operands are widened some
// terms at a time: widened copies of all of them would take more memory than what is saved for the backward pass.
inline void multiply_wide(Tensor out, const Tensor& a, const Tensor& b) {
  if (!is_short(a.scalar_type())) {
    at::mm_out(out, a, b);
    return;
  }
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 8
  if (a.is_cuda()) {
    at::mm_out(out, a, b, at::kFloat);
    return;
  }
#endif
  const int64_t each = std::max<int64_t>(choices().scratch_bytes / int64_t(sizeof(float)) / (a.size(0) + b.size(1)), 1);
  for (int64_t k = 0; k < a.size(1); k += each) {
    const int64_t terms = std::min(each, a.size(1) - k);
    const Tensor left = a.narrow(1, k, terms).to(at::kFloat), right = b.narrow(0, k, terms).to(at::kFloat);
    if (k == 0) at::mm_out(out, left, right);
    else at::addmm_out(out, out, left, right);
  }
}

// ---- A call ---------------------------------------------------------------------------------------------------------

// A call of either pass: its tensors as the kernels take them. The rows of all temporaries are in the memory order of
// the input's, (T, B) or (B, T), so that products over all rows need no copies.
struct Call {
  LayerSizes l;
  Device device;
  Tensor input;
  OptionalTensor h_0, c_0;
  std::vector<Tensor> weights;
  std::vector<OptionalTensor> scores;
  Tensor ranks;  // (2, B) int32: order, length; undefined where all are T long
  bool batch_first;

  Call(const LayerSizes& layer, const LayerArguments& arguments)
      : l(layer),
        device(gpu::device_of(arguments.input)),
        input(with_plain_rows(arguments.input)),
        h_0(contiguous(arguments.h_0)),
        c_0(contiguous(arguments.c_0)),
        batch_first(is_batch_first(arguments.input)) {
    const OptionalTensor& lengths = arguments.lengths;
    for (const Tensor& weight : arguments.weights) weights.push_back(*contiguous(weight));
    for (const OptionalTensor& score : arguments.scores) scores.push_back(contiguous(score));
    if (auto* const together = BatchedCalls::collecting()) {
      together->take_part(device);
      for (const Tensor& weight : weights) together->hold(weight);
      for (const OptionalTensor& score : scores) hold(score);
      for (const OptionalTensor& state : {h_0, c_0, lengths}) hold(state);
      hold(input);
    }
    if (!lengths) return;
    ranks = held(at::empty({2, l.B}, input.options().dtype(at::kInt)));
    order(device,
          {l.T, l.B, lengths->const_data_ptr<int64_t>(), pointer<int32_t>(ranks), pointer<int32_t>(ranks, l.B)});
  }

  at::ScalarType type() const { return input.scalar_type(); }
  int64_t rows() const { return l.T * l.B; }
  double operations(int64_t columns) const { return 2.0 * rows() * kGates * l.H * columns; }
  int64_t state(int64_t d) const { return d * l.B * l.H; }

  Sequences sequences(int64_t d) const {
    Sequences s{l.T, l.B, d == 1};
    if (ranks.defined()) s.order = ranks.const_data_ptr<int32_t>(), s.length = s.order + l.B;
    return s;
  }
  MaskedNumbers masked(int64_t d, int64_t which) const {  // 0 to 3: weight_ih, weight_hh, bias_ih, bias_hh
    if (which >= l.per_direction) return {};
    const int64_t i = d * l.per_direction + which;
    return {weights[i].const_data_ptr(), scores[i] ? scores[i]->const_data_ptr() : nullptr, kind_of(weights[i])};
  }

  // Where launches are only recorded (vmap), keeps what they use alive until they have been started.
  static const Tensor& held(const Tensor& t) {
    if (auto* const together = BatchedCalls::collecting()) together->hold(t);
    return t;
  }
  static void hold(const OptionalTensor& t) {
    if (t) held(*t);
  }

  Tensor empty(int64_t size) const { return held(at::empty({size}, input.options())); }
  Tensor empty_wide(int64_t size) const { return held(at::empty({size}, input.options().dtype(wide(type())))); }
  // The memory that recurrent_grid.cuh needs to exchange states, for layers of its sizes. `numbers`: per unit.
  Exchange exchange(int64_t numbers, Tensor& memory) const {
    if (!is_short(type()) || l.H <= 512 || l.H > 1024) return {};
    const ExchangeSize size = ExchangeSize::of(l.H, l.B, numbers);
    memory = at::empty({size.words + size.flags}, input.options().dtype(at::kInt));
    memory.narrow(0, size.words, size.flags).zero_();
    int32_t* const words = pointer<int32_t>(memory);
    return {reinterpret_cast<uint32_t*>(words), words + size.words};
  }
  // Memory seen as (T, B, width), in the order of input's rows; and, for a matrix library, as (rows, width) in memory
  // order.
  template <class T>
  StridedView<T> rows_in(T* memory, int64_t width) const {
    if (batch_first) return {memory, width, l.T * width};
    return {memory, l.B * width, width};
  }
  Tensor matrix_in(const Tensor& memory, int64_t offset, int64_t width) const {
    return memory.narrow(0, offset, rows() * width).view({rows(), width});
  }
  Tensor flat(const Tensor& t) const {  // (T, B, width) -> (rows, width)
    return (batch_first ? t.transpose(0, 1) : t).reshape({rows(), t.size(2)});
  }

  // The effective (masked) weight, (rows, columns), in input's type.
  template <class T>
  Tensor effective_matrix(int64_t d, int64_t which) const {
    const Tensor& weight = weights[d * l.per_direction + which];
    const Tensor kept = held(at::empty(weight.sizes(), input.options()));
    effective<T, T>(device, {weight.numel(), masked(d, which), {}, pointer<T>(kept)});
    return kept;
  }
  // W_hh for the recurrence, which masks it while it reads; masked here already where its type is wider than input's
  // (autocast).
  template <class T>
  MaskedNumbers recurrent_weight(int64_t d, Tensor& kept) const {
    const MaskedNumbers given = masked(d, 1);
    if (given.kind == kind_of(input)) return given;
    kept = effective_matrix<T>(d, 1);
    return {kept.const_data_ptr(), nullptr, kind_of(kept)};
  }
  template <class T>
  void zero_padding(const Sequences& s, const StridedView<T>& rows, int64_t width) const {
    if (ranks.defined()) padding<T>(device, {s, width, rows});
  }
};

// What is saved of a direction, in a tensor from `offset` on: activated gates (T, B, 4H) and, in full width, cell
// states (T, B, H). Where nothing is saved, memory for the gates alone.
template <class T>
struct Saved {
  const Tensor& memory;
  int64_t offset;
  T* gates;
  Wide<T>* cells;

  Saved(const Call& call, const Tensor& all, int64_t d, bool with_cells)
      : memory(all),
        offset(with_cells ? d * saved_size(call.rows(), call.l.H, call.type()) : 0),
        gates(pointer<T>(all, offset)),
        cells(with_cells ? reinterpret_cast<Wide<T>*>(gates + gates_size(call)) : nullptr) {}

  static int64_t gates_size(const Call& call) { return call.rows() * kGates * call.l.H; }
  Tensor cells_as_they_lie(const Call& call) const {  // 1-D, of input's type
    const int64_t size = gates_size(call);
    return memory.narrow(0, offset + size, saved_size(call.rows(), call.l.H, call.type()) - size);
  }
};

}  // namespace seam::gpu

// The backward pass of the masked LSTM op after the recurrence, for large layers: gradients by products of a matrix
// library, where the sums of our own kernels would take long.
#pragma once

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <optional>

#include "layer_call.h"

namespace seam::gpu {

// The gradients that a call of the backward pass is asked for; none where it is not.
struct WantedGradients : LayerGradients {
  bool clamp = true;  // those of scores

  Gradient gradient(const Call& call, int64_t d, int64_t which) const {
    if (which >= call.l.per_direction) return {};
    const int64_t i = d * call.l.per_direction + which;
    return {call.masked(d, which), weights[i] ? weights[i]->mutable_data_ptr() : nullptr,
            scores[i] ? scores[i]->mutable_data_ptr() : nullptr, clamp};
  }
  // One of the gradients of weight `which` that is of the type of its sums.
  OptionalTensor as_wide_as_sums(const Call& call, int64_t d, int64_t which) const {
    const int64_t i = d * call.l.per_direction + which;
    for (const OptionalTensor& grad : {scores[i], weights[i]}) {
      if (grad && grad->scalar_type() == wide(call.type())) return grad;
    }
    return std::nullopt;
  }
};

// ---- By products of a matrix library --------------------------------------------------------------------------------

// Memory for operands that a product needs in another layout: that of the saved cell states, which the recurrence has
// already read. Where `saved` may not be overwritten, as much new memory, so that sums are cut in the same places.
struct Scratch {
  const Call& call;
  Tensor cells;  // 1-D, of input's type
  bool overwrite;

  int64_t scratch_elements() const {  // elements
    const int64_t size = int64_t(call.input.element_size());
    return std::max(saved_size(call.rows(), call.l.H, call.type()) / 10, choices().scratch_bytes / size);
  }
  // How many of `columns` to take at once, in all of `rows`, so that they fit into `size` elements.
  static int64_t columns_at_once(int64_t columns, int64_t rows, int64_t size) {
    if (columns * rows <= size) return columns;
    const int64_t fit = std::max<int64_t>(size / rows, 1), pieces = (columns + fit - 1) / fit;
    const int64_t each = (columns + pieces - 1) / pieces;
    return each + 7 <= fit ? (each + 7) / 8 * 8 : each;  // tensor cores want rows of whole 16 bytes
  }
  int64_t columns_at_once(int64_t columns) const {
    return columns_at_once(columns, call.rows(), std::max(scratch_elements(), cells.numel()));
  }
  Tensor take(int64_t size) const {
    return overwrite && size <= cells.numel() ? cells.narrow(0, 0, size) : call.empty(size);
  }
};

// Whether Call::flat gives a view of `rows`, not a copy.
inline bool lies_in_one_piece(const Call& call, const Tensor& rows) {
  const int64_t outer = call.batch_first ? 1 : 0, inner = 1 - outer;
  return rows.size(outer) == 1 || rows.stride(outer) == rows.size(inner) * rows.stride(inner);
}

// The hidden states that the steps began with, as a view of the output, and the gates' gradients of the same rows: of
// all steps but the first, which began with zeros and adds nothing. None where there is no such view.
struct StatesBefore {
  Tensor d_gates, states;
};
inline std::optional<StatesBefore> states_before(const Call& call, int64_t d, const Tensor& d_gates,
                                                 const Tensor& output) {
  const LayerSizes& l = call.l;
  if (call.ranks.defined() || call.h_0 || call.batch_first || l.T == 1 || output.stride(0) != l.B * output.stride(1)) {
    return std::nullopt;
  }
  const int64_t count = call.rows() - l.B, first = d == 0 ? 0 : l.B;
  const Tensor states = output.narrow(2, d * l.H, l.H).flatten(0, 1);
  return StatesBefore{d_gates.narrow(0, l.B - first, count), states.narrow(0, first, count)};
}

// The gradient of weight `which`: d_gates^T (4H, rows) times right (rows, columns), block by block where the operand or
// the sums would be large. right(first, count) gives those columns, `at_once` at most.
template <class T, class Right>
inline void weight_gradient(const Call& call, int64_t d, int64_t which, const Scratch& scratch,
                            const WantedGradients& grads, const Tensor& d_gates, int64_t at_once, const Right& right) {
  const int64_t gates = kGates * call.l.H, columns = call.weights[d * call.l.per_direction + which].size(1);
  const Gradient gradient = grads.gradient(call, d, which);
  // Sums of the type of a gradient are formed in that gradient's memory.
  const OptionalTensor own = at_once == columns ? grads.as_wide_as_sums(call, d, which) : std::nullopt;
  for (int64_t first = 0; first < columns; first += at_once) {
    const int64_t count = std::min(at_once, columns - first);
    const Tensor operand = right(first, count);
    const int64_t size = scratch.scratch_elements() * call.input.element_size() / int64_t(sizeof(Wide<T>));
    const int64_t rows_at_once = own ? gates : Scratch::columns_at_once(gates, count, size);
    for (int64_t row = 0; row < gates; row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, gates - row);
      const Tensor sum = own ? *own : call.empty_wide(rows * count).view({rows, count});
      multiply_wide(sum, d_gates.narrow(1, row, rows).t(), operand);
      finish<T>(call.device,
                {rows * count, count, columns, pointer<Wide<T>>(sum), count, 1, row * columns + first, gradient});
    }
  }
}

// The gradients of the biases: sums over all rows, first over parts of them, then over the parts.
template <class T>
inline void bias_gradients(const Call& call, const GradientParams<T>& p) {
  constexpr int64_t kMostParts = 64,
                    kLeastRows = 128;  // each is summed by one thread in a row, so neither should be many
  const int64_t gates = kGates * call.l.H;
  const int64_t each = std::max((call.rows() + kMostParts - 1) / kMostParts, kLeastRows);
  const int64_t parts = (call.rows() + each - 1) / each;
  const Tensor sums = call.empty_wide(parts * gates);
  column_sums<T>(call.device, {call.rows(), gates, each, p.d_gates.data, pointer<Wide<T>>(sums)});
  const bool both = p.bias_ih.wanted() && p.bias_hh.wanted();
  finish<T>(call.device, {gates, gates, gates, pointer<Wide<T>>(sums), gates, parts, 0,
                          p.bias_ih.wanted() ? p.bias_ih : p.bias_hh, both ? p.bias_hh : Gradient{}});
}

template <class T>
inline void gradients_by_library(const Call& call, int64_t d, const GradientParams<T>& p, const WantedGradients& grads,
                                 const Tensor& output, const Tensor& flat,
                                 const Scratch& scratch) {  // flat: d_gates as (rows, 4H)
  const LayerSizes& l = call.l;
  call.zero_padding<T>(p.sequences, call.rows_in(pointer<T>(flat), kGates * l.H), kGates * l.H);
  if (grads.input) {
    Tensor out = call.flat(*grads.input);  // a view
    const Tensor weight_ih = call.effective_matrix<T>(d, 0);
    if (p.add_to_grad_input) at::addmm_out(out, out, flat, weight_ih);
    else at::mm_out(out, flat, weight_ih);
    call.zero_padding<T>(p.sequences, p.grad_input, l.I);
  }
  const auto copied = [&](CopyRowsParams<T> rows) {
    const Tensor memory = scratch.take(call.rows() * rows.width);
    rows.to = call.rows_in(pointer<T>(memory), rows.width);
    copy_rows<T>(call.device, rows);
    return memory.view({call.rows(), rows.width});
  };
  if (p.ih.wanted()) {
    // What is in the padding, which may be NaN, must not reach a sum.
    const bool in_place = !call.ranks.defined() && lies_in_one_piece(call, call.input);
    weight_gradient<T>(call, d, 0, scratch, grads, flat, in_place ? l.I : scratch.columns_at_once(l.I),
                       [&](int64_t first, int64_t count) {
                         if (in_place) return call.flat(call.input);
                         return copied({p.sequences, first, count, p.input, false, nullptr, l.H});
                       });
  }
  if (p.hh.wanted()) {
    if (const auto before = states_before(call, d, flat, output)) {
      weight_gradient<T>(call, d, 1, scratch, grads, before->d_gates, l.H,
                         [&](int64_t, int64_t) { return before->states; });
    } else {
      weight_gradient<T>(call, d, 1, scratch, grads, flat, scratch.columns_at_once(l.H),
                         [&](int64_t first, int64_t count) {
                           return copied({p.sequences, first, count, p.output, true, p.h_0, l.H});
                         });
    }
  }
  if (p.bias_ih.wanted() || p.bias_hh.wanted()) bias_gradients<T>(call, p);
}

}  // namespace seam::gpu

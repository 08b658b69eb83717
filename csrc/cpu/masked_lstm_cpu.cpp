// The masked LSTM op: checks its tensors, allocates, and hands pointers to the kernels stage by stage. A stage is
// shared among threads as a whole; within it a thread runs all its time steps without waiting for the others.
#include "masked_lstm_cpu.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "common/masked_lstm_params.h"
#include "host/layer.h"
#include "huge_pages.h"
#include "kernels.h"
#include "parallel.h"
#include "sequence_plan.h"

namespace seam::cpu {

namespace {

// Scratch may take a tenth of what is saved for the backward pass, or this many bytes, whichever is more.
constexpr int64_t kFreeScratch = int64_t{1} << 20;
// From this many sequences on, packing W_hh again at each step costs little compared with the products. For smaller
// batches all of W_hh is packed once, however much scratch that takes.
constexpr int64_t kBatchThatHidesPacking = 16;
// Rows after which the sums of the weights' gradients are updated: more rows would not stay in the cache, fewer would
// make memory the bottleneck.
constexpr int64_t kRowsPerChunk = 1024;
constexpr Accepted kAccepted = {at::kCPU, false};

// ---- The parameters of the kernels ----------------------------------------------------------------------------------

// The parameters of direction d that both passes have in common.
template <typename T>
void describe(MaskedLstmParams<T>& p, const LayerSizes& l, const SequencePlan& plan, int64_t d, const LayerArguments& a,
              const Tensor& zeros, HeldInputs& held) {
  p.input_size = l.I, p.hidden_size = l.H;
  p.first_row = plan.first_row.data();
  p.sequence = plan.sequence.data();
  p.time_index = plan.time_index[d].data();
  p.input = held.view<T>(a.input);
  const int64_t state = d * l.B * l.H;
  p.h_0 = a.h_0 ? held.contiguous<T>(a.h_0) + state : nullptr;
  p.c_0 = a.c_0 ? held.contiguous<T>(a.c_0) + state : nullptr;
  Masked<T>* const masked[] = {&p.weight_ih, &p.weight_hh, &p.bias_ih, &p.bias_hh};
  for (int64_t i = 0; i < l.per_direction; ++i) {
    masked[i]->weight = held.contiguous<T>(a.weights[d * l.per_direction + i]);
    masked[i]->score = held.contiguous<T>(a.scores[d * l.per_direction + i]);
  }
  p.zeros = zeros.const_data_ptr<T>();
}

double operations(const LayerSizes& l, int64_t rows) { return 2.0 * rows * kGates * l.H * (l.I + l.H); }

int64_t scratch_budget(const LayerSizes& l, int64_t element) {
  return std::max(l.T * l.B * (kGates + 1) * l.H / 10, kFreeScratch / element);
}

int64_t keep_bits_stride(int64_t hidden) { return (hidden + 15) / 16 * 2; }  // bytes for the bits of a row of W_hh

// How many of `blocks` blocks of W_hh stay packed over all steps. The budget must also hold the keep bits of the
// others.
int64_t blocks_to_pack(const LayerSizes& l, int64_t blocks, int64_t block_size, int64_t budget, int64_t element) {
  if (l.B < kBatchThatHidesPacking || blocks * block_size <= budget) return blocks;
  return std::clamp<int64_t>((budget - kGates * l.H * keep_bits_stride(l.H) / element) / block_size, 0, blocks);
}

// The keep bits of W_hh, where blocks of it will be packed at every step: reading bits instead of scores halves the
// memory traffic.
template <typename T>
Tensor mark_keep_bits(MaskedLstmParams<T>& p, int64_t blocks, int64_t threads) {
  if (p.packed == blocks || !p.weight_hh.score) return {};
  const int64_t rows = kGates * p.hidden_size, stride = keep_bits_stride(p.hidden_size);
  const Tensor kept = at::empty({rows * stride}, at::kByte);
  p.weight_hh.keep_bits_stride = stride;
  p.weight_hh.keep_bits = kept.mutable_data_ptr<uint8_t>();
  parallel_ranges(rows, threads, [&](int64_t b, int64_t e, int64_t) { cpu_kernels<T>().mark_keep_bits(p, b, e); });
  return kept;
}

// ---- Forward --------------------------------------------------------------------------------------------------------

template <typename T>
void forward_direction(MaskedLstmParams<T>& p, const LayerSizes& l, const SequencePlan& plan, const Tensor& input) {
  const CpuKernels<T>& kernels = cpu_kernels<T>();
  const int64_t threads = threads_for(operations(l, plan.rows()));
  const int64_t panel = kernels.scratch_size(l.I, l.H, plan.rows());
  const Tensor scratch = at::empty({threads * panel}, input.options());
  T* const scratch_data = scratch.mutable_data_ptr<T>();

  p.packed = blocks_to_pack(l, kernels.unit_blocks(l.H), kernels.packed_block_size(l.H),
                            scratch_budget(l, sizeof(T)) - threads * panel, sizeof(T));
  const Tensor packed = empty_scratch(p.packed * kernels.packed_block_size(l.H), input.options());
  p.packed_hh = packed.mutable_data_ptr<T>();
  parallel_ranges(p.packed, threads, [&](int64_t b, int64_t e, int64_t) { kernels.pack_recurrent(p, b, e); });
  const Tensor kept = mark_keep_bits(p, kernels.unit_blocks(l.H), threads);

  // Where nothing is saved, the gates of only some steps exist at a time: of enough rows to be worth packing W_ih for.
  int64_t chunk = plan.steps;
  Tensor gates, cells;
  if (!p.save) {
    const int64_t rows = std::max(kFreeScratch / int64_t(sizeof(T)) / (kGates * l.H), kRowsPerChunk / 2);
    chunk = std::clamp<int64_t>(rows / std::max<int64_t>(l.B, 1), 1, std::max<int64_t>(plan.steps, 1));
    gates = at::empty({chunk * l.B * kGates * l.H}, input.options());
    cells = at::empty({l.B * l.H}, input.options());
    p.gates = gates.mutable_data_ptr<T>();
    p.cells = cells.mutable_data_ptr<T>();
  }
  for (int64_t from = 0; from < plan.steps; from += chunk) {
    const int64_t to = std::min(from + chunk, plan.steps);
    p.gates_from = p.save ? 0 : plan.first_row[from];
    parallel_ranges(kernels.unit_blocks(l.H), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.project(p, from, to, b, e, scratch_data + thread * panel);
    });
    parallel_ranges(kernels.row_tiles(l.B), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.recur(p, from, to, b, e, scratch_data + thread * panel);
    });
  }

  for (int64_t rank = 0; rank < l.B; ++rank) {
    const int64_t last = plan.length[rank] - 1, state = plan.sequence[rank] * l.H;
    const T *h = p.h_0 ? p.h_0 + state : p.zeros, *c = p.c_0 ? p.c_0 + state : p.zeros;
    if (last >= 0) {
      const int64_t row = plan.first_row[last] + rank;
      h = p.output.at(p.time_index[row]);
      c = p.cells + (p.save ? row : rank) * l.H;
    }
    std::memcpy(p.h_n + state, h, l.H * sizeof(T));
    std::memcpy(p.c_n + state, c, l.H * sizeof(T));
  }
}

void zero_after_end(const Tensor& t, const SequencePlan& plan, int64_t T) {
  for (size_t rank = 0; rank < plan.length.size(); ++rank) {
    const int64_t length = plan.length[rank];
    if (length < T) t.select(1, plan.sequence[rank]).narrow(0, length, T - length).zero_();
  }
}

void forward_into(const LayerSizes& l, const LayerArguments& a, bool save, const LayerOutputs& to) {
  const SequencePlan plan(l.T, l.B, l.D, a.lengths ? a.lengths->const_data_ptr<int64_t>() : nullptr);
  const Tensor zeros = at::zeros({l.H}, a.input.options());
  if (a.lengths) zero_after_end(to.output, plan, l.T);
  AT_DISPATCH_FLOATING_TYPES(a.input.scalar_type(), "masked_lstm_forward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      HeldInputs held;
      MaskedLstmParams<scalar_t> p{};
      describe(p, l, plan, d, a, zeros, held);
      p.output = writable_view<scalar_t>(to.output, d * l.H);
      p.h_n = to.h_n.mutable_data_ptr<scalar_t>() + d * l.B * l.H;
      p.c_n = to.c_n.mutable_data_ptr<scalar_t>() + d * l.B * l.H;
      p.save = save;
      if (save) {
        p.gates = to.saved.mutable_data_ptr<scalar_t>() + d * l.T * l.B * (kGates + 1) * l.H;
        p.cells = p.gates + plan.rows() * kGates * l.H;
      }
      forward_direction(p, l, plan, a.input);
    }
  });
}

}  // namespace

LayerOutputs masked_lstm_forward(const LayerArguments& arguments, bool batch_first_output, bool save) {
  const LayerSizes l = check_layer(kAccepted, arguments);
  const Tensor& input = arguments.input;
  LayerOutputs to;
  to.output = empty_rows(l.T, l.B, l.D * l.H, batch_first_output, input);
  to.h_n = at::empty({l.D, l.B, l.H}, input.options());
  to.c_n = at::empty_like(to.h_n);
  to.saved = empty_scratch(save ? saved_size(l) : 0, input.options());
  forward_into(l, arguments, save, to);
  return to;
}

void masked_lstm_forward_into(const LayerArguments& arguments, bool save, const LayerOutputs& to) {
  forward_into(check_layer(kAccepted, arguments), arguments, save, to);
}

// ---- Backward -------------------------------------------------------------------------------------------------------

namespace {

// Gradients of h_n, c_n, ordered by sequence, to the order of ranks; and back for those of h_0, c_0.
template <typename T>
void gather_ranks(T* out, const T* in, const SequencePlan& plan, int64_t H) {
  for (size_t rank = 0; rank < plan.sequence.size(); ++rank) {
    if (in) std::memcpy(out + rank * H, in + plan.sequence[rank] * H, H * sizeof(T));
    else std::memset(out + rank * H, 0, H * sizeof(T));
  }
}

template <typename T>
void scatter_ranks(T* out, const T* in, const SequencePlan& plan, int64_t H) {
  for (size_t rank = 0; rank < plan.sequence.size(); ++rank) {
    std::memcpy(out + plan.sequence[rank] * H, in + rank * H, H * sizeof(T));
  }
}

template <typename T>
void backward_direction(MaskedLstmBackwardParams<T>& p, const LayerSizes& l, const SequencePlan& plan,
                        const Tensor& input, bool overwrite) {
  const CpuKernels<T>& kernels = cpu_kernels<T>();
  const int64_t threads = threads_for(2 * operations(l, plan.rows()));
  const int64_t panel = kernels.scratch_size(l.I, l.H, plan.rows());
  const Tensor scratch = at::empty({threads * panel}, input.options());
  T* const scratch_data = scratch.mutable_data_ptr<T>();

  // Gradients of gates overwrite the gates where that is allowed; else they go into a quarter of the scratch, some
  // steps at a time. The number of steps must not depend on the number of threads, because sums over rows are formed
  // chunk by chunk.
  const int64_t step_size = std::max<int64_t>(kGates * l.H * l.B, 1);
  const int64_t chunk_steps =
      overwrite ? kRowsPerChunk / std::max<int64_t>(l.B, 1) : scratch_budget(l, sizeof(T)) / 4 / step_size;
  const int64_t chunk = std::clamp<int64_t>(chunk_steps, 1, std::max<int64_t>(plan.steps, 1));
  const int64_t d_gates_size = overwrite ? 0 : chunk * step_size;
  const Tensor d_gates = at::empty({d_gates_size}, input.options());

  const int64_t taken = threads * panel + 2 * l.B * l.H + d_gates_size;
  p.packed = blocks_to_pack(l, kernels.column_panels(l.H), kernels.packed_panel_size(l.H),
                            scratch_budget(l, sizeof(T)) - taken, sizeof(T));
  const Tensor packed = empty_scratch(p.packed * kernels.packed_panel_size(l.H), input.options());
  p.packed_hh = packed.mutable_data_ptr<T>();
  parallel_ranges(p.packed, threads, [&](int64_t b, int64_t e, int64_t) { kernels.pack_recurrent_backward(p, b, e); });
  const Tensor kept = mark_keep_bits(p, kernels.column_panels(l.H), threads);

  for (int64_t to = plan.steps; to > 0; to -= chunk) {
    const int64_t from = std::max<int64_t>(to - chunk, 0);
    p.d_gates = overwrite ? p.gates : d_gates.mutable_data_ptr<T>();
    p.d_gates_from = overwrite ? 0 : plan.first_row[from];
    parallel_ranges(kernels.row_tiles(l.B), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.backward_steps(p, from, to, b, e, scratch_data + thread * panel);
    });
    parallel_ranges(kernels.outer_tasks(p), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.outer(p, from, to, b, e, scratch_data + thread * panel);
    });
  }
}

// Turns the sum over rows into the gradients that are wanted; the sum is in the memory of one of them.
template <typename T>
void finish(const T* sum, const Tensor& weight, const OptionalTensor& score, const OptionalTensor& grad_weight,
            const OptionalTensor& grad_score, bool clamp) {
  HeldInputs held;
  MaskedGradientParams<T> p{};
  p.size = weight.numel();
  p.sum = sum;
  p.weight = held.contiguous<T>(weight);
  p.score = held.contiguous<T>(score);
  p.grad_weight = grad_weight ? grad_weight->mutable_data_ptr<T>() : nullptr;
  p.grad_score = grad_score ? grad_score->mutable_data_ptr<T>() : nullptr;
  p.clamp = clamp;
  constexpr int64_t block = 4096;
  parallel_ranges((p.size + block - 1) / block, threads_for(10.0 * p.size), [&](int64_t b, int64_t e, int64_t) {
    cpu_kernels<T>().finish_gradient(p, b * block, std::min(e * block, p.size));
  });
}

void backward_into(const LayerSizes& l, const LayerBackwardArguments& arguments, const LayerGradients& grads) {
  const LayerArguments& a = arguments.forward;
  const Tensor activations = arguments.saved.contiguous();  // written to only if it may be overwritten
  const SequencePlan plan(l.T, l.B, l.D, a.lengths ? a.lengths->const_data_ptr<int64_t>() : nullptr);

  if (grads.input && a.lengths) zero_after_end(*grads.input, plan, l.T);
  std::vector<Tensor> sums(a.weights.size());  // of an effective weight's gradient; a direction's biases share one
  for (size_t i = 0; i < a.weights.size(); ++i) {
    if (int64_t(i) % l.per_direction >= 2) continue;
    if (grads.weights[i]) sums[i] = *grads.weights[i];
    else if (grads.scores[i]) sums[i] = *grads.scores[i];
  }
  const Tensor zeros = at::zeros({l.H}, a.input.options());
  const Tensor d_h = at::empty({l.B, l.H}, a.input.options()), d_c = at::empty_like(d_h);

  AT_DISPATCH_FLOATING_TYPES(a.input.scalar_type(), "masked_lstm_backward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      HeldInputs held;
      const int64_t state = d * l.B * l.H, first = d * l.per_direction;
      MaskedLstmBackwardParams<scalar_t> p{};
      describe(p, l, plan, d, a, zeros, held);
      const StridedView<const scalar_t> states = held.view<scalar_t>(arguments.output, d * l.H);
      p.output = {const_cast<scalar_t*>(states.data), states.time_stride, states.sequence_stride};  // only read
      p.save = true;
      p.gates = const_cast<scalar_t*>(activations.const_data_ptr<scalar_t>()) + d * l.T * l.B * (kGates + 1) * l.H;
      p.cells = p.gates + plan.rows() * kGates * l.H;
      p.grad_output = held.view<scalar_t>(arguments.grad_output, d * l.H);
      if (grads.input) p.grad_input = writable_view<scalar_t>(*grads.input);
      p.add_to_grad_input = d > 0;
      p.need_h_0 = grads.h_0.has_value();
      p.d_h = d_h.mutable_data_ptr<scalar_t>();
      p.d_c = d_c.mutable_data_ptr<scalar_t>();
      const scalar_t *h_n = held.contiguous<scalar_t>(arguments.grad_h_n),
                     *c_n = held.contiguous<scalar_t>(arguments.grad_c_n);
      gather_ranks(p.d_h, h_n ? h_n + state : nullptr, plan, l.H);
      gather_ranks(p.d_c, c_n ? c_n + state : nullptr, plan, l.H);
      if (sums[first].defined()) p.sum_ih = sums[first].mutable_data_ptr<scalar_t>();
      if (sums[first + 1].defined()) p.sum_hh = sums[first + 1].mutable_data_ptr<scalar_t>();
      Tensor sum_bias;
      if (l.biases() && (grads.weights[first + 2] || grads.weights[first + 3] || grads.scores[first + 2] ||
                         grads.scores[first + 3])) {
        sum_bias = at::zeros({kGates * l.H}, a.input.options());
        p.sum_bias = sum_bias.mutable_data_ptr<scalar_t>();
      }

      backward_direction(p, l, plan, a.input, arguments.overwrite_saved);

      if (grads.h_0) scatter_ranks(grads.h_0->mutable_data_ptr<scalar_t>() + state, p.d_h, plan, l.H);
      if (grads.c_0) scatter_ranks(grads.c_0->mutable_data_ptr<scalar_t>() + state, p.d_c, plan, l.H);
      for (int64_t i = first; i < first + l.per_direction; ++i) {
        const Tensor& sum = i - first < 2 ? sums[i] : sum_bias;
        if (!grads.weights[i] && !grads.scores[i]) continue;
        finish<scalar_t>(sum.const_data_ptr<scalar_t>(), a.weights[i], a.scores[i], grads.weights[i], grads.scores[i],
                         arguments.clamp);
      }
    }
  });
}

}  // namespace

LayerGradients masked_lstm_backward(const LayerBackwardArguments& arguments, const GradientsNeeded& needed) {
  const LayerSizes l = check_layer(kAccepted, arguments.forward);
  check_backward(l, arguments, saved_size(l), needed.weights.size(), needed.scores.size());
  const Tensor& input = arguments.forward.input;
  const std::vector<Tensor>& weights = arguments.forward.weights;
  LayerGradients grads;
  if (needed.input) grads.input = empty_rows(l.T, l.B, l.I, is_batch_first(input), input);
  if (needed.h_0) grads.h_0 = at::empty({l.D, l.B, l.H}, input.options());
  if (needed.c_0) grads.c_0 = at::empty({l.D, l.B, l.H}, input.options());
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto like_weight = [&](bool zeroed) {
      return zeroed ? at::zeros(weights[i].sizes(), input.options()) : at::empty(weights[i].sizes(), input.options());
    };
    const bool need_score = needed.scores[i] && arguments.forward.scores[i];
    grads.weights.push_back(needed.weights[i] ? OptionalTensor(like_weight(true)) : std::nullopt);
    grads.scores.push_back(need_score ? OptionalTensor(like_weight(!needed.weights[i])) : std::nullopt);
  }
  backward_into(l, arguments, grads);
  return grads;
}

void masked_lstm_backward_into(const LayerBackwardArguments& arguments, const LayerGradients& grads) {
  const LayerSizes l = check_layer(kAccepted, arguments.forward);
  check_backward(l, arguments, saved_size(l), grads.weights.size(), grads.scores.size());
  backward_into(l, arguments, grads);
}

}  // namespace seam::cpu

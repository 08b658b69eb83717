// The masked LSTM op: checks its tensors, allocates, and hands pointers to the kernels stage by stage. A stage is shared
// among threads as a whole; within it a thread runs all its time steps without waiting for the others.
#include "common/masked_lstm_params.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "host/layer.h"
#include "huge_pages.h"
#include "host/ops.h"
#include "parallel.h"
#include "sequence_plan.h"
#ifdef SEAM_WITH_CUDA
#include "cuda/masked_lstm_cuda.h"
#endif

namespace seam {

namespace {

// Scratch may take a tenth of what is saved for the backward pass, or so many bytes, whichever is more.
constexpr int64_t kFreeScratch = int64_t{1} << 20;
// From so many sequences on, packing recurrent weights anew at each step costs little beside the products with them.
// For fewer, all of W_hh is packed once, whatever the scratch may be.
constexpr int64_t kBatchThatHidesPacking = 16;
// The weights' gradients are added to after so many rows: more would leave the cache, fewer would wait for memory.
constexpr int64_t kRowsPerChunk = 1024;
constexpr Accepted kAccepted = {at::kCPU, false};

// ---- What the kernels are told ----------------------------------------------------------------------------------------

// What both passes know of direction d.
template <typename T>
void describe(MaskedLstmParams<T>& p, const Layer& l, const Plan& plan, int64_t d, const Tensor& input,
              const OptionalTensor& h_0, const OptionalTensor& c_0, const std::vector<Tensor>& weights,
              const std::vector<OptionalTensor>& scores, const Tensor& zeros, Kept& kept) {
  p.input_size = l.I, p.hidden_size = l.H;
  p.first_row = plan.first_row.data();
  p.sequence = plan.sequence.data();
  p.place = plan.place[d].data();
  p.input = kept.rows<T>(input);
  const int64_t state = d * l.B * l.H;
  p.h_0 = h_0 ? kept.contiguous<T>(h_0) + state : nullptr;
  p.c_0 = c_0 ? kept.contiguous<T>(c_0) + state : nullptr;
  Masked<T>* const masked[] = {&p.weight_ih, &p.weight_hh, &p.bias_ih, &p.bias_hh};
  for (int64_t i = 0; i < l.per_direction; ++i) {
    masked[i]->weight = kept.contiguous<T>(weights[d * l.per_direction + i]);
    masked[i]->score = kept.contiguous<T>(scores[d * l.per_direction + i]);
  }
  p.zeros = zeros.const_data_ptr<T>();
}

double operations(const Layer& l, int64_t rows) { return 2.0 * rows * kGates * l.H * (l.I + l.H); }

int64_t scratch_budget(const Layer& l, int64_t element) {
  return std::max(l.T * l.B * (kGates + 1) * l.H / 10, kFreeScratch / element);
}

int64_t kept_stride(int64_t hidden) { return (hidden + 15) / 16 * 2; }  // bytes for the bits of a row of W_hh

// How many of `blocks` blocks of W_hh stay packed over all steps; the budget has to do for the bits of the others, too.
int64_t blocks_to_pack(const Layer& l, int64_t blocks, int64_t block_size, int64_t budget, int64_t element) {
  if (l.B < kBatchThatHidesPacking || blocks * block_size <= budget) return blocks;
  return std::clamp<int64_t>((budget - kGates * l.H * kept_stride(l.H) / element) / block_size, 0, blocks);
}

// Bits of the scores of W_hh, where blocks of it will be packed again and again: half the memory to read.
template <typename T>
Tensor mark_kept(MaskedLstmParams<T>& p, int64_t blocks, int64_t threads) {
  if (p.packed == blocks || !p.weight_hh.score) return {};
  const int64_t rows = kGates * p.hidden_size, stride = kept_stride(p.hidden_size);
  const Tensor kept = at::empty({rows * stride}, at::kByte);
  p.weight_hh.kept_stride = stride;
  p.weight_hh.kept = kept.mutable_data_ptr<uint8_t>();
  share(rows, threads, [&](int64_t b, int64_t e, int64_t) { cpu_kernels<T>().mark_kept(p, b, e); });
  return kept;
}

// ---- Forward ------------------------------------------------------------------------------------------------------------

template <typename T>
void forward_direction(MaskedLstmParams<T>& p, const Layer& l, const Plan& plan, const Tensor& input) {
  const CpuKernels<T>& kernels = cpu_kernels<T>();
  const int64_t threads = threads_for(operations(l, plan.rows()));
  const int64_t panel = kernels.scratch_size(l.I, l.H, plan.rows());
  const Tensor scratch = at::empty({threads * panel}, input.options());
  T* const scratch_data = scratch.mutable_data_ptr<T>();

  p.packed = blocks_to_pack(l, kernels.unit_blocks(l.H), kernels.packed_block_size(l.H),
                            scratch_budget(l, sizeof(T)) - threads * panel, sizeof(T));
  const Tensor packed = empty_scratch(p.packed * kernels.packed_block_size(l.H), input.options());
  p.packed_hh = packed.mutable_data_ptr<T>();
  share(p.packed, threads, [&](int64_t b, int64_t e, int64_t) { kernels.pack_recurrent(p, b, e); });
  const Tensor kept = mark_kept(p, kernels.unit_blocks(l.H), threads);

  // Where nothing is saved, there are gates of some steps at a time only: of enough rows to be worth packing W_ih for.
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
    share(kernels.unit_blocks(l.H), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.project(p, from, to, b, e, scratch_data + thread * panel);
    });
    share(kernels.row_tiles(l.B), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.recur(p, from, to, b, e, scratch_data + thread * panel);
    });
  }

  for (int64_t rank = 0; rank < l.B; ++rank) {
    const int64_t last = plan.length[rank] - 1, state = plan.sequence[rank] * l.H;
    const T *h = p.h_0 ? p.h_0 + state : p.zeros, *c = p.c_0 ? p.c_0 + state : p.zeros;
    if (last >= 0) {
      const int64_t row = plan.first_row[last] + rank;
      h = p.output.at(p.place[row]);
      c = p.cells + (p.save ? row : rank) * l.H;
    }
    std::memcpy(p.h_n + state, h, l.H * sizeof(T));
    std::memcpy(p.c_n + state, c, l.H * sizeof(T));
  }
}

void zero_after_end(const Tensor& t, const Plan& plan, int64_t T) {
  for (size_t rank = 0; rank < plan.length.size(); ++rank) {
    const int64_t length = plan.length[rank];
    if (length < T) t.select(1, plan.sequence[rank]).narrow(0, length, T - length).zero_();
  }
}

void forward_into(const Layer& l, const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0,
                  const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& scores,
                  const OptionalTensor& lengths, bool save, const Tensor& output, const Tensor& h_n, const Tensor& c_n,
                  const Tensor& saved) {
  const Plan plan(l.T, l.B, l.D, lengths ? lengths->const_data_ptr<int64_t>() : nullptr);
  const Tensor zeros = at::zeros({l.H}, input.options());
  if (lengths) zero_after_end(output, plan, l.T);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "masked_lstm_forward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      Kept kept;
      MaskedLstmParams<scalar_t> p{};
      describe(p, l, plan, d, input, h_0, c_0, weights, scores, zeros, kept);
      p.output = writable_rows<scalar_t>(output, d * l.H);
      p.h_n = h_n.mutable_data_ptr<scalar_t>() + d * l.B * l.H;
      p.c_n = c_n.mutable_data_ptr<scalar_t>() + d * l.B * l.H;
      p.save = save;
      if (save) {
        p.gates = saved.mutable_data_ptr<scalar_t>() + d * l.T * l.B * (kGates + 1) * l.H;
        p.cells = p.gates + plan.rows() * kGates * l.H;
      }
      forward_direction(p, l, plan, input);
    }
  });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> masked_lstm_forward(const Tensor& input, const OptionalTensor& h_0,
                                                               const OptionalTensor& c_0,
                                                               const std::vector<Tensor>& weights,
                                                               const std::vector<OptionalTensor>& scores,
                                                               const OptionalTensor& lengths, bool batch_first_output,
                                                               bool save) {
#ifdef SEAM_WITH_CUDA
  if (input.is_cuda()) {
    return gpu::masked_lstm_forward(input, h_0, c_0, weights, scores, lengths, batch_first_output, save);
  }
#endif
  const Layer l = check_layer(kAccepted, input, h_0, c_0, weights, scores, lengths);
  const Tensor output = empty_rows(l.T, l.B, l.D * l.H, batch_first_output, input);
  const Tensor h_n = at::empty({l.D, l.B, l.H}, input.options()), c_n = at::empty_like(h_n);
  const Tensor saved = empty_scratch(save ? saved_size(l) : 0, input.options());
  forward_into(l, input, h_0, c_0, weights, scores, lengths, save, output, h_n, c_n, saved);
  return {output, h_n, c_n, saved};
}

void masked_lstm_forward_into(const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0,
                              const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& scores,
                              const OptionalTensor& lengths, bool save, const Tensor& output, const Tensor& h_n,
                              const Tensor& c_n, const Tensor& saved) {
  const Layer l = check_layer(kAccepted, input, h_0, c_0, weights, scores, lengths);
  forward_into(l, input, h_0, c_0, weights, scores, lengths, save, output, h_n, c_n, saved);
}

// ---- Backward -----------------------------------------------------------------------------------------------------------

namespace {

// Gradients of h_n, c_n by sequence -> by rank; and back for those of h_0, c_0.
template <typename T>
void gather_ranks(T* out, const T* in, const Plan& plan, int64_t H) {
  for (size_t rank = 0; rank < plan.sequence.size(); ++rank) {
    if (in) std::memcpy(out + rank * H, in + plan.sequence[rank] * H, H * sizeof(T));
    else std::memset(out + rank * H, 0, H * sizeof(T));
  }
}

template <typename T>
void scatter_ranks(T* out, const T* in, const Plan& plan, int64_t H) {
  for (size_t rank = 0; rank < plan.sequence.size(); ++rank) {
    std::memcpy(out + plan.sequence[rank] * H, in + rank * H, H * sizeof(T));
  }
}

template <typename T>
void backward_direction(MaskedLstmBackwardParams<T>& p, const Layer& l, const Plan& plan, const Tensor& input,
                        bool overwrite) {
  const CpuKernels<T>& kernels = cpu_kernels<T>();
  const int64_t threads = threads_for(2 * operations(l, plan.rows()));
  const int64_t panel = kernels.scratch_size(l.I, l.H, plan.rows());
  const Tensor scratch = at::empty({threads * panel}, input.options());
  T* const scratch_data = scratch.mutable_data_ptr<T>();

  // Gradients of gates go where the gates were, if that may be; else some steps at a time into scratch, a quarter of it.
  // How many steps must not follow the number of threads: sums over rows are formed chunk by chunk.
  const int64_t step_size = std::max<int64_t>(kGates * l.H * l.B, 1);
  const int64_t fitting =
      overwrite ? kRowsPerChunk / std::max<int64_t>(l.B, 1) : scratch_budget(l, sizeof(T)) / 4 / step_size;
  const int64_t chunk = std::clamp<int64_t>(fitting, 1, std::max<int64_t>(plan.steps, 1));
  const int64_t d_gates_size = overwrite ? 0 : chunk * step_size;
  const Tensor d_gates = at::empty({d_gates_size}, input.options());

  const int64_t taken = threads * panel + 2 * l.B * l.H + d_gates_size;
  p.packed = blocks_to_pack(l, kernels.column_panels(l.H), kernels.packed_panel_size(l.H),
                            scratch_budget(l, sizeof(T)) - taken, sizeof(T));
  const Tensor packed = empty_scratch(p.packed * kernels.packed_panel_size(l.H), input.options());
  p.packed_hh = packed.mutable_data_ptr<T>();
  share(p.packed, threads, [&](int64_t b, int64_t e, int64_t) { kernels.pack_recurrent_backward(p, b, e); });
  const Tensor kept = mark_kept(p, kernels.column_panels(l.H), threads);

  for (int64_t to = plan.steps; to > 0; to -= chunk) {
    const int64_t from = std::max<int64_t>(to - chunk, 0);
    p.d_gates = overwrite ? p.gates : d_gates.mutable_data_ptr<T>();
    p.d_gates_from = overwrite ? 0 : plan.first_row[from];
    share(kernels.row_tiles(l.B), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.backward_steps(p, from, to, b, e, scratch_data + thread * panel);
    });
    share(kernels.outer_tasks(p), threads, [&](int64_t b, int64_t e, int64_t thread) {
      kernels.outer(p, from, to, b, e, scratch_data + thread * panel);
    });
  }
}

// The sum over rows becomes the gradients that are wanted; it lives in the memory of one of them.
template <typename T>
void finish(const T* sum, const Tensor& weight, const OptionalTensor& score, const OptionalTensor& grad_weight,
            const OptionalTensor& grad_score, bool clamp) {
  Kept kept;
  MaskedGradientParams<T> p{};
  p.size = weight.numel();
  p.sum = sum;
  p.weight = kept.contiguous<T>(weight);
  p.score = kept.contiguous<T>(score);
  p.grad_weight = grad_weight ? grad_weight->mutable_data_ptr<T>() : nullptr;
  p.grad_score = grad_score ? grad_score->mutable_data_ptr<T>() : nullptr;
  p.clamp = clamp;
  constexpr int64_t block = 4096;
  share((p.size + block - 1) / block, threads_for(10.0 * p.size), [&](int64_t b, int64_t e, int64_t) {
    cpu_kernels<T>().finish_gradient(p, b * block, std::min(e * block, p.size));
  });
}

void backward_into(const Layer& l, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                   const OptionalTensor& grad_c_n, const Tensor& input, const Tensor& output, const OptionalTensor& h_0,
                   const OptionalTensor& c_0, const Tensor& saved, const std::vector<Tensor>& weights,
                   const std::vector<OptionalTensor>& scores, const OptionalTensor& lengths, const LstmGradients& grads,
                   bool overwrite_saved, bool clamp) {
  const Tensor activations = saved.contiguous();  // written to only if it may be overwritten
  const Plan plan(l.T, l.B, l.D, lengths ? lengths->const_data_ptr<int64_t>() : nullptr);

  if (grads.input && lengths) zero_after_end(*grads.input, plan, l.T);
  std::vector<Tensor> sums(weights.size());  // of an effective weight's gradient; a direction's biases share one
  for (size_t i = 0; i < weights.size(); ++i) {
    if (int64_t(i) % l.per_direction >= 2) continue;
    if (grads.weights[i]) sums[i] = *grads.weights[i];
    else if (grads.scores[i]) sums[i] = *grads.scores[i];
  }
  const Tensor zeros = at::zeros({l.H}, input.options());
  const Tensor d_h = at::empty({l.B, l.H}, input.options()), d_c = at::empty_like(d_h);

  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "masked_lstm_backward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      Kept kept;
      const int64_t state = d * l.B * l.H, first = d * l.per_direction;
      MaskedLstmBackwardParams<scalar_t> p{};
      describe(p, l, plan, d, input, h_0, c_0, weights, scores, zeros, kept);
      const Rows<const scalar_t> states = kept.rows<scalar_t>(output, d * l.H);
      p.output = {const_cast<scalar_t*>(states.data), states.time_stride, states.sequence_stride};  // only read
      p.save = true;
      p.gates = const_cast<scalar_t*>(activations.const_data_ptr<scalar_t>()) + d * l.T * l.B * (kGates + 1) * l.H;
      p.cells = p.gates + plan.rows() * kGates * l.H;
      p.grad_output = kept.rows<scalar_t>(grad_output, d * l.H);
      if (grads.input) p.grad_input = writable_rows<scalar_t>(*grads.input);
      p.add_to_grad_input = d > 0;
      p.need_h_0 = grads.h_0.has_value();
      p.d_h = d_h.mutable_data_ptr<scalar_t>();
      p.d_c = d_c.mutable_data_ptr<scalar_t>();
      const scalar_t *h_n = kept.contiguous<scalar_t>(grad_h_n), *c_n = kept.contiguous<scalar_t>(grad_c_n);
      gather_ranks(p.d_h, h_n ? h_n + state : nullptr, plan, l.H);
      gather_ranks(p.d_c, c_n ? c_n + state : nullptr, plan, l.H);
      if (sums[first].defined()) p.sum_ih = sums[first].mutable_data_ptr<scalar_t>();
      if (sums[first + 1].defined()) p.sum_hh = sums[first + 1].mutable_data_ptr<scalar_t>();
      Tensor sum_bias;
      if (l.biases() && (grads.weights[first + 2] || grads.weights[first + 3] || grads.scores[first + 2] ||
                         grads.scores[first + 3])) {
        sum_bias = at::zeros({kGates * l.H}, input.options());
        p.sum_bias = sum_bias.mutable_data_ptr<scalar_t>();
      }

      backward_direction(p, l, plan, input, overwrite_saved);

      if (grads.h_0) scatter_ranks(grads.h_0->mutable_data_ptr<scalar_t>() + state, p.d_h, plan, l.H);
      if (grads.c_0) scatter_ranks(grads.c_0->mutable_data_ptr<scalar_t>() + state, p.d_c, plan, l.H);
      for (int64_t i = first; i < first + l.per_direction; ++i) {
        const Tensor& sum = i - first < 2 ? sums[i] : sum_bias;
        if (!grads.weights[i] && !grads.scores[i]) continue;
        finish<scalar_t>(sum.const_data_ptr<scalar_t>(), weights[i], scores[i], grads.weights[i], grads.scores[i],
                         clamp);
      }
    }
  });
}

}  // namespace

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, std::vector<OptionalTensor>, std::vector<OptionalTensor>>
masked_lstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                     const Tensor& input, const Tensor& output, const OptionalTensor& h_0, const OptionalTensor& c_0,
                     const Tensor& saved, const std::vector<Tensor>& weights,
                     const std::vector<OptionalTensor>& scores, const OptionalTensor& lengths, bool need_input,
                     bool need_h_0, bool need_c_0, const std::vector<bool>& need_weights,
                     const std::vector<bool>& need_scores, bool overwrite_saved, bool clamp) {
#ifdef SEAM_WITH_CUDA
  if (input.is_cuda()) {
    return gpu::masked_lstm_backward(grad_output, grad_h_n, grad_c_n, input, output, h_0, c_0, saved, weights, scores,
                                     lengths, need_input, need_h_0, need_c_0, need_weights, need_scores,
                                     overwrite_saved, clamp);
  }
#endif
  const Layer l = check_layer(kAccepted, input, h_0, c_0, weights, scores, lengths);
  check_backward(l, grad_output, grad_h_n, grad_c_n, input, output, saved, saved_size(l), need_weights.size(),
                 need_scores.size());
  LstmGradients grads;
  if (need_input) grads.input = empty_rows(l.T, l.B, l.I, is_batch_first(input), input);
  if (need_h_0) grads.h_0 = at::empty({l.D, l.B, l.H}, input.options());
  if (need_c_0) grads.c_0 = at::empty({l.D, l.B, l.H}, input.options());
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto like_weight = [&](bool zeroed) {
      return zeroed ? at::zeros(weights[i].sizes(), input.options()) : at::empty(weights[i].sizes(), input.options());
    };
    const bool need_score = need_scores[i] && scores[i];
    grads.weights.push_back(need_weights[i] ? OptionalTensor(like_weight(true)) : std::nullopt);
    grads.scores.push_back(need_score ? OptionalTensor(like_weight(!need_weights[i])) : std::nullopt);
  }
  backward_into(l, grad_output, grad_h_n, grad_c_n, input, output, h_0, c_0, saved, weights, scores, lengths, grads,
                overwrite_saved, clamp);
  return {grads.input, grads.h_0, grads.c_0, grads.weights, grads.scores};
}

void masked_lstm_backward_into(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                               const OptionalTensor& grad_c_n, const Tensor& input, const Tensor& output,
                               const OptionalTensor& h_0, const OptionalTensor& c_0, const Tensor& saved,
                               const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& scores,
                               const OptionalTensor& lengths, const LstmGradients& grads, bool overwrite_saved,
                               bool clamp) {
  const Layer l = check_layer(kAccepted, input, h_0, c_0, weights, scores, lengths);
  check_backward(l, grad_output, grad_h_n, grad_c_n, input, output, saved, saved_size(l), grads.weights.size(),
                 grads.scores.size());
  backward_into(l, grad_output, grad_h_n, grad_c_n, input, output, h_0, c_0, saved, weights, scores, lengths, grads,
                overwrite_saved, clamp);
}

}  // namespace seam

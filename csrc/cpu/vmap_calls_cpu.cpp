// Several independent calls of the layer at once (see host/transforms.h): each is one thread's and writes its own slice
// of the results.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "host/layer.h"
#include "huge_pages.h"
#include "masked_lstm_cpu.h"
#include "parallel.h"

namespace seam::cpu {

namespace {

constexpr Accepted kOnCpu = {at::kCPU, false};

// Runs body(i) for each call on whichever thread is free; or one call after the other, each shared among all threads,
// where there are fewer calls than threads. Uses torch's own threads: those spin for a while after each op that they
// have shared, and would take the cores from any others.
template <class Body>
void for_each_call(int64_t calls, double operations, const Body& body) {
  const bool one_by_one = threads_for(operations) > calls;
  const int64_t threads = one_by_one ? 1 : std::min<int64_t>(at::get_num_threads(), calls);
  std::atomic<int64_t> next = 0;
  const bool inference = c10::InferenceMode::is_enabled();
  parallel_ranges(threads, threads, [&](int64_t, int64_t, int64_t) {
    const c10::InferenceMode as_the_caller(inference);  // both are settings of a thread
    const at::NoGradGuard no_grad;
    for (int64_t i = next++; i < calls; i = next++) body(i);
  });
}

// Tensor k of call i.
Tensor call_tensor(const Calls& calls, const variable_list& tensors, int64_t k, int64_t i) {
  return tensors[k].defined() && calls.leading[k] ? tensors[k].select(0, i) : tensors[k];
}

double operations(const LayerSizes& l, const std::vector<Tensor>& weights) {
  double all = 0;
  for (const Tensor& weight : weights) all += 2.0 * double(l.T * l.B) * double(weight.numel());
  return all;
}

// The arguments of call i; in `tensors` those of the layer begin at index `first`.
struct CallArguments {
  Tensor input;
  OptionalTensor h_0, c_0, lengths;
  std::vector<Tensor> weights;
  std::vector<OptionalTensor> scores;

  CallArguments(const Calls& calls, const variable_list& tensors, int64_t first, int64_t i)
      : input(call_tensor(calls, tensors, first + kInput, i)),
        h_0(optional(call_tensor(calls, tensors, first + kH0, i))),
        c_0(optional(call_tensor(calls, tensors, first + kC0, i))),
        lengths(optional(call_tensor(calls, tensors, first + kLengths, i))) {
    for (int64_t k = first + kWeights; k < first + calls.tensors(); ++k) {
      const Tensor t = call_tensor(calls, tensors, k, i);
      if (k < first + kWeights + calls.count) weights.push_back(t);
      else scores.push_back(optional(t));
    }
  }
  LayerArguments layer() const { return {input, h_0, c_0, weights, scores, lengths}; }
};

Tensor stack_of(at::IntArrayRef sizes, int64_t calls, const Tensor& like) {
  std::vector<int64_t> all = {calls};
  all.insert(all.end(), sizes.begin(), sizes.end());
  return at::empty(all, like.options());
}

}  // namespace

variable_list forward_calls(const Calls& calls, const variable_list& tensors) {
  const CallArguments a(calls, tensors, 0, 0);
  const LayerSizes l = check_layer(kOnCpu, a.layer());
  const int64_t saved = calls.save ? saved_size(l) : 0;
  const int64_t states[] = {l.D, l.B, l.H};
  const variable_list results = {stack_of({l.T, l.B, l.D * l.H}, calls.size, a.input),
                                 stack_of(states, calls.size, a.input), stack_of(states, calls.size, a.input),
                                 empty_scratch(calls.size * saved, a.input.options()).view({calls.size, saved})};
  for_each_call(calls.size, operations(l, a.weights), [&](int64_t i) {
    const CallArguments own(calls, tensors, 0, i);
    masked_lstm_forward_into(
        own.layer(), calls.save,
        {results[0].select(0, i), results[1].select(0, i), results[2].select(0, i), results[3].select(0, i)});
  });
  return results;
}

variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors) {
  const int64_t count = calls.count, last = int64_t(tensors.size()) - 1;
  const CallArguments a(calls, tensors, kGrads, 0);
  const LayerSizes l = check_layer(kOnCpu, a.layer());
  variable_list results(calls.tensors());
  for (int64_t k = 0; k < calls.tensors(); ++k) {
    const Tensor& t = tensors[kGrads + k];
    if (!needs[k] || !t.defined()) continue;
    results[k] = stack_of(t.sizes().slice(calls.leading[kGrads + k]), calls.size, a.input);
  }
  for_each_call(calls.size, 2 * operations(l, a.weights), [&](int64_t i) {
    const CallArguments own(calls, tensors, kGrads, i);
    const auto of_call = [&](int64_t k) {
      if (!results[k].defined()) return OptionalTensor();
      const Tensor own_part = results[k].select(0, i);
      if (k >= kWeights) std::memset(own_part.mutable_data_ptr(), 0, own_part.nbytes());
      return OptionalTensor(own_part);
    };
    LayerGradients grads{of_call(kInput), of_call(kH0), of_call(kC0), {}, {}};
    for (int64_t k = kWeights; k < kWeights + count; ++k) {
      grads.weights.push_back(of_call(k));
      grads.scores.push_back(of_call(k + count));
    }
    masked_lstm_backward_into(
        {own.layer(), optional(call_tensor(calls, tensors, 0, i)), optional(call_tensor(calls, tensors, 1, i)),
         optional(call_tensor(calls, tensors, 2, i)), call_tensor(calls, tensors, last - 1, i),
         call_tensor(calls, tensors, last, i), false, calls.clamp},
        grads);
  });
  return results;
}

}  // namespace seam::cpu

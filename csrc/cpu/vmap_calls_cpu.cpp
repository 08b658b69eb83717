// Calls of the layer side by side: on the CPU each writes its part of the results.
#include <c10/core/InferenceMode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "host/layer.h"
#include "huge_pages.h"
#include "host/ops.h"
#include "parallel.h"
#include "host/transforms.h"
#if defined(SEAM_WITH_CUDA)
#include <c10/core/DeviceGuard.h>

#include "cuda/vmap_calls_cuda.h"
#endif

namespace seam {

namespace {

constexpr Accepted kOnCpu = {at::kCPU, false};

// body(i) for each call, by one thread, whichever is free; or one after the other where there are fewer calls than
// threads to share a single one. By torch's own threads: others would wait for those, which keep a core busy for a while
// after each op that they have shared.
template <class Body>
void each(int64_t calls, double operations, const Body& body) {
  const bool one_by_one = threads_for(operations) > calls;
  const int64_t threads = one_by_one ? 1 : std::min<int64_t>(at::get_num_threads(), calls);
  std::atomic<int64_t> next = 0;
  const bool inference = c10::InferenceMode::is_enabled();
  share(threads, threads, [&](int64_t, int64_t, int64_t) {
    const c10::InferenceMode as_the_caller(inference);  // both of this thread
    const at::NoGradGuard no_grad;
    for (int64_t i = next++; i < calls; i = next++) body(i);
  });
}

// Tensor k of call i.
Tensor part(const Calls& calls, const variable_list& tensors, int64_t k, int64_t i) {
  return tensors[k].defined() && calls.leading[k] ? tensors[k].select(0, i) : tensors[k];
}

double operations(const Layer& l, const std::vector<Tensor>& weights) {
  double all = 0;
  for (const Tensor& weight : weights) all += 2.0 * double(l.T * l.B) * double(weight.numel());
  return all;
}

// The arguments of call i as the layer takes them; its tensors begin at `first`.
struct Arguments {
  Tensor input;
  OptionalTensor h_0, c_0, lengths;
  std::vector<Tensor> weights;
  std::vector<OptionalTensor> scores;

  Arguments(const Calls& calls, const variable_list& tensors, int64_t first, int64_t i)
      : input(part(calls, tensors, first + kInput, i)),
        h_0(optional(part(calls, tensors, first + kH0, i))),
        c_0(optional(part(calls, tensors, first + kC0, i))),
        lengths(optional(part(calls, tensors, first + kLengths, i))) {
    for (int64_t k = first + kWeights; k < first + calls.tensors(); ++k) {
      const Tensor t = part(calls, tensors, k, i);
      if (k < first + kWeights + calls.count) weights.push_back(t);
      else scores.push_back(optional(t));
    }
  }
};

// make(turns), on a GPU by launches of many calls where that can be.
template <class Make>
variable_list in_turn(const Calls& calls, const variable_list& tensors, int64_t first, const Make& make) {
#if defined(SEAM_WITH_CUDA)
  if (calls.several() && tensors[first + kInput].is_cuda()) {
    const c10::DeviceGuard guard(tensors[first + kInput].device());
    gpu::CallsTogether turns(calls, tensors, first);
    return make(turns);
  }
#endif
  Turns turns;
  return make(turns);
}

Tensor stack_of(at::IntArrayRef sizes, int64_t calls, const Tensor& like) {
  std::vector<int64_t> all = {calls};
  all.insert(all.end(), sizes.begin(), sizes.end());
  return at::empty(all, like.options());
}

}  // namespace

variable_list forward_each(const Calls& calls, const variable_list& tensors) {
  if (!calls.several() || !tensors[kInput].is_cpu()) {
    return in_turn(calls, tensors, 0, [&](Turns& turns) { return forward_in_turn(calls, tensors, turns); });
  }
  const Arguments a(calls, tensors, 0, 0);
  const Layer l = check_layer(kOnCpu, a.input, a.h_0, a.c_0, a.weights, a.scores, a.lengths);
  const int64_t saved = calls.save ? saved_size(l) : 0;
  const int64_t states[] = {l.D, l.B, l.H};
  const variable_list results = {stack_of({l.T, l.B, l.D * l.H}, calls.size, a.input),
                                 stack_of(states, calls.size, a.input), stack_of(states, calls.size, a.input),
                                 empty_scratch(calls.size * saved, a.input.options()).view({calls.size, saved})};
  each(calls.size, operations(l, a.weights), [&](int64_t i) {
    const Arguments own(calls, tensors, 0, i);
    masked_lstm_forward_into(own.input, own.h_0, own.c_0, own.weights, own.scores, own.lengths, calls.save,
                             results[0].select(0, i), results[1].select(0, i), results[2].select(0, i),
                             results[3].select(0, i));
  });
  return results;
}

variable_list backward_each(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors) {
  if (!calls.several() || !tensors[kGrads + kInput].is_cpu()) {
    return in_turn(calls, tensors, kGrads, [&](Turns& turns) { return backward_in_turn(calls, needs, tensors, turns); });
  }
  const int64_t count = calls.count, last = int64_t(tensors.size()) - 1;
  const Arguments a(calls, tensors, kGrads, 0);
  const Layer l = check_layer(kOnCpu, a.input, a.h_0, a.c_0, a.weights, a.scores, a.lengths);
  variable_list results(calls.tensors());
  for (int64_t k = 0; k < calls.tensors(); ++k) {
    const Tensor& t = tensors[kGrads + k];
    if (!needs[k] || !t.defined()) continue;
    results[k] = stack_of(t.sizes().slice(calls.leading[kGrads + k]), calls.size, a.input);
  }
  each(calls.size, 2 * operations(l, a.weights), [&](int64_t i) {
    const Arguments own(calls, tensors, kGrads, i);
    const auto of_call = [&](int64_t k) {
      if (!results[k].defined()) return OptionalTensor();
      const Tensor own_part = results[k].select(0, i);
      if (k >= kWeights) std::memset(own_part.mutable_data_ptr(), 0, own_part.nbytes());
      return OptionalTensor(own_part);
    };
    LstmGradients grads{of_call(kInput), of_call(kH0), of_call(kC0), {}, {}};
    for (int64_t k = kWeights; k < kWeights + count; ++k) {
      grads.weights.push_back(of_call(k));
      grads.scores.push_back(of_call(k + count));
    }
    masked_lstm_backward_into(optional(part(calls, tensors, 0, i)), optional(part(calls, tensors, 1, i)),
                              optional(part(calls, tensors, 2, i)), own.input, part(calls, tensors, last - 1, i),
                              own.h_0, own.c_0, part(calls, tensors, last, i), own.weights, own.scores, own.lengths,
                              grads, false, calls.clamp);
  });
  return results;
}

}  // namespace seam

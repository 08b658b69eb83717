// Calls of the layer that know nothing of each other, as torch.func.vmap makes them. A short LSTM keeps one thread busy;
// many of them can keep all.
#include <ATen/core/grad_mode.h>

#include "ops.h"
#include "parallel.h"

namespace seam {

namespace {

// results[i] = body(i), each by one thread, or one after the other where there are fewer calls than threads to share a
// single one.
template <class Result, class Body>
std::vector<Result> each(size_t count, double operations, const Body& body) {
  std::vector<Result> results(count);
  const bool one_by_one = threads_for(operations) > int64_t(count);
  share(count, one_by_one ? 1 : at::get_num_threads(), [&](int64_t begin, int64_t end, int64_t) {
    const at::NoGradGuard no_grad;  // of this thread
    for (int64_t i = begin; i < end; ++i) results[i] = body(i);
  });
  return results;
}

double operations(const Tensor& input, const std::vector<Tensor>& weights) {
  double all = 0;
  for (const Tensor& weight : weights) all += 2.0 * input.size(0) * input.size(1) * weight.numel();
  return all;
}

}  // namespace

std::vector<ForwardResult> masked_lstm_forward_each(const std::vector<ForwardCall>& calls, bool save) {
  if (calls.empty()) return {};
  const double work = operations(std::get<0>(calls[0]), std::get<3>(calls[0]));
  return each<ForwardResult>(calls.size(), work, [&](int64_t i) {
    const auto& [input, h_0, c_0, weights, scores, lengths] = calls[i];
    return masked_lstm_forward(input, h_0, c_0, weights, scores, lengths, false, save);
  });
}

std::vector<BackwardResult> masked_lstm_backward_each(const std::vector<BackwardCall>& calls, bool need_input,
                                                      bool need_h_0, bool need_c_0,
                                                      const std::vector<bool>& need_weights,
                                                      const std::vector<bool>& need_scores, bool clamp) {
  if (calls.empty()) return {};
  const double work = 2 * operations(std::get<3>(calls[0]), std::get<8>(calls[0]));
  return each<BackwardResult>(calls.size(), work, [&](int64_t i) {
    const auto& [grad_output, grad_h_n, grad_c_n, input, output, h_0, c_0, saved, weights, scores, lengths] = calls[i];
    return masked_lstm_backward(grad_output, grad_h_n, grad_c_n, input, output, h_0, c_0, saved, weights, scores,
                                lengths, need_input, need_h_0, need_c_0, need_weights, need_scores, false, clamp);
  });
}

}  // namespace seam

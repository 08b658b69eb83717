// The masked LSTM layer as a node of autograd's graph. In C++, because a node in Python costs tens of microseconds a
// call, where a layer of 50 units takes some 400 for a batch of five.
#include "autograd.h"

#include <ATen/SavedTensorHooks.h>
#include <torch/csrc/autograd/graph_task.h>

#include "ops.h"

namespace seam {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;

// Makes results that were computed outside the graph depend on `sources`, and refuses to be differentiated.
struct OnlyOnce : Function<OnlyOnce> {
  struct Computed {
    variable_list results;
  };
  static variable_list forward(AutogradContext*, const Computed& computed, at::TensorList /*sources*/) {
    return computed.results;
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false,
                "masked_lstm: the compiled kernels have no second derivative; call it with backend='torch', which is "
                "slower and differentiable as often as wanted");
  }
};

// `is_grads_batched` passes many gradients as one batched tensor, which has no memory of its own (the first of the
// keys).
void refuse_batched(const variable_list& grads) {
  const c10::DispatchKeySet batched({c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched});
  for (const Tensor& t : grads) {
    TORCH_CHECK(
        !t.defined() || !t.key_set().has_any(batched),
        "masked_lstm: the compiled kernels take no batched gradients (is_grads_batched, vectorize=True); call it "
        "with backend='torch', or differentiate by torch.func.vjp or torch.func.jacrev");
  }
}

struct MaskedLstmLayer : Function<MaskedLstmLayer> {
  // `scores` holds only those that are given; bit i of `masked` says whether weight i has one.
  static variable_list forward(AutogradContext* ctx, const Tensor& input, const OptionalTensor& h_0,
                               const OptionalTensor& c_0, at::TensorList weights, at::TensorList scores,
                               const OptionalTensor& lengths, int64_t masked, bool batch_first_output, bool clamp) {
    auto [output, h_n, c_n, saved] = masked_lstm_forward(
        {input, h_0, c_0, weights.vec(), spread(scores, masked, weights.size()), lengths}, batch_first_output, true);
    variable_list kept = {
        output, saved, input, undefined_if_none(h_0), undefined_if_none(c_0), undefined_if_none(lengths)};
    kept.insert(kept.end(), weights.begin(), weights.end());
    kept.insert(kept.end(), scores.begin(), scores.end());
    ctx->save_for_backward(std::move(kept));
    ctx->saved_data["count"] = int64_t(weights.size());
    ctx->saved_data["masked"] = masked;
    ctx->saved_data["clamp"] = clamp;
    // Hooks on saved tensors may have kept a reference: then what was saved must not be overwritten.
    ctx->saved_data["hooked"] = at::SavedTensorDefaultHooks::get_hooks().has_value();
    ctx->set_materialize_grads(false);
    return {output, h_n, c_n};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_batched(grads);
    const variable_list kept = ctx->get_saved_variables();
    const int64_t count = ctx->saved_data["count"].toInt(), masked = ctx->saved_data["masked"].toInt();
    const bool overwrite = !ctx->saved_data["hooked"].toBool() && !torch::autograd::get_current_graph_task_keep_graph();
    const auto weights = kept.begin() + 6, scores = weights + count;
    const OptionalTensor h_0 = optional(kept[3]), c_0 = optional(kept[4]);
    // The node has edges only for the inputs that were given.
    size_t edge = 0;
    const bool need_input = ctx->needs_input_grad(edge++);
    const bool need_h_0 = h_0 && ctx->needs_input_grad(edge++);
    const bool need_c_0 = c_0 && ctx->needs_input_grad(edge++);
    std::vector<bool> need_weights(count), need_scores(count);
    for (int64_t i = 0; i < count; ++i) need_weights[i] = ctx->needs_input_grad(edge++);
    for (int64_t i = 0; i < count; ++i) need_scores[i] = (masked >> i & 1) && ctx->needs_input_grad(edge++);

    variable_list results(3 + count + (kept.end() - scores) + 4);  // one for each argument of forward
    if (!grads[0].defined() && !grads[1].defined() && !grads[2].defined()) return results;
    const LayerGradients found =
        masked_lstm_backward({{kept[2], h_0, c_0, std::vector<Tensor>(weights, scores),
                               spread(at::ArrayRef<Tensor>(kept).slice(6 + count), masked, count), optional(kept[5])},
                              optional(grads[0]),
                              optional(grads[1]),
                              optional(grads[2]),
                              kept[0],
                              kept[1],
                              overwrite,
                              ctx->saved_data["clamp"].toBool()},
                             {need_input, need_h_0, need_c_0, need_weights, need_scores});
    size_t at = 0;
    for (const OptionalTensor* grad : {&found.input, &found.h_0, &found.c_0}) results[at++] = undefined_if_none(*grad);
    for (const OptionalTensor& grad : found.weights) results[at++] = undefined_if_none(grad);
    for (int64_t i = 0; i < count; ++i) {
      if (masked >> i & 1) results[at++] = undefined_if_none(found.scores[i]);
    }
    if (at::GradMode::is_enabled()) differentiate_only_once(results, {&grads, &kept});  // create_graph
    return results;
  }

 private:
  static std::vector<OptionalTensor> spread(at::ArrayRef<Tensor> scores, int64_t masked, size_t count) {
    std::vector<OptionalTensor> all(count);
    size_t next = 0;
    for (size_t i = 0; i < count; ++i) {
      if (masked >> i & 1) all[i] = scores[next++];
    }
    return all;
  }
};

bool wants_gradient(const OptionalTensor& t) { return t && t->requires_grad(); }

}  // namespace

void differentiate_only_once(variable_list& results, std::initializer_list<const variable_list*> sources) {
  variable_list found, tracked;
  for (const Tensor& result : results) {
    if (result.defined()) found.push_back(result);
  }
  for (const variable_list* tensors : sources) {
    for (const Tensor& t : *tensors) {
      if (t.defined() && t.requires_grad()) tracked.push_back(t);
    }
  }
  if (found.empty() || tracked.empty()) return;
  const variable_list once = OnlyOnce::apply(OnlyOnce::Computed{std::move(found)}, at::TensorList(tracked));
  size_t next = 0;
  for (Tensor& result : results) {
    if (result.defined()) result = once[next++];
  }
}

std::tuple<Tensor, Tensor, Tensor> masked_lstm_layer(const LayerArguments& arguments, bool batch_first_output,
                                                     bool clamp) {
  const auto& [input, h_0, c_0, weights, scores, lengths] = arguments;
  bool tracked = input.requires_grad() || wants_gradient(h_0) || wants_gradient(c_0);
  for (const Tensor& weight : weights) tracked = tracked || weight.requires_grad();
  for (const OptionalTensor& score : scores) tracked = tracked || wants_gradient(score);
  if (!tracked || !at::GradMode::is_enabled()) {
    auto [output, h_n, c_n, saved] = masked_lstm_forward(arguments, batch_first_output, false);
    return {output, h_n, c_n};
  }
  variable_list given;
  int64_t masked = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!scores[i]) continue;
    given.push_back(*scores[i]);
    masked |= int64_t{1} << i;
  }
  const variable_list results = MaskedLstmLayer::apply(input, h_0, c_0, at::TensorList(weights), at::TensorList(given),
                                                       lengths, masked, batch_first_output, clamp);
  return {results[0], results[1], results[2]};
}

}  // namespace seam

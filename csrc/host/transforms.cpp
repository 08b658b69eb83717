// The masked LSTM layer under torch.func: grad, vjp, jacrev, vmap and what they make together.
//
// torch.func keeps a stack of transforms, and a tensor within them is wrapped once for each. The layer unwraps level by
// level: a level of vmap becomes many independent calls, at a level that differentiates it adds a node of its own to
// the graph. In C++, because the same by torch.autograd.Function costs several times what a layer of 50 units takes.
#include "transforms.h"

#include <ATen/core/grad_mode.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/functorch/TensorWrapper.h>
#include <ATen/ops/stack.h>

#include "ops.h"

namespace seam {

namespace {

namespace functorch = at::functorch;
using functorch::TransformType;
using torch::autograd::AutogradContext;
using torch::autograd::Function;

// Pops the innermost transform, and pushes it back when this object dies.
class Lower {
 public:
  Lower() : top_(functorch::popDynamicLayer()), grad_mode_(grad_mode_below(top_)) {}
  ~Lower() { functorch::pushDynamicLayer(std::move(top_)); }
  Lower(const Lower&) = delete;

 private:
  static bool grad_mode_below(const functorch::DynamicLayer& top) {
    if (top.key() != TransformType::Grad || !at::GradMode::is_enabled()) return at::GradMode::is_enabled();
    return std::get<functorch::GradInterpreterMeta>(top.interpreter().meta()).prevGradMode_;
  }
  functorch::DynamicLayer top_;
  at::AutoGradMode grad_mode_;
};

Tensor alive(const Tensor& t) { return t.defined() ? functorch::unwrapIfDead(t) : t; }

// The tensor that a level that differentiates wraps.
Tensor below(const Tensor& t, int64_t level) {
  const auto* wrapper = functorch::maybeGetTensorWrapper(t);
  return wrapper && wrapper->level() == level ? wrapper->value() : t;
}

// Whether its gradient can be asked for, at any level.
bool wants_gradient(const Tensor& t) {
  if (!t.defined()) return false;
  if (t.requires_grad()) return true;
  if (const auto* wrapper = functorch::maybeGetTensorWrapper(t)) return wants_gradient(wrapper->value());
  if (const auto* batched = functorch::maybeGetBatchedImpl(t)) return wants_gradient(batched->value());
  return false;
}

void check_differentiable(const functorch::DynamicLayer& level, const variable_list& tensors) {
  TORCH_CHECK(level.key() == TransformType::Grad || level.key() == TransformType::Jvp,
              "torch.func.functionalize is not supported for masked layers: leave it out, or use what to_lstm() gives");
  if (level.key() == TransformType::Grad) return;
  for (const Tensor& t : tensors) {
    TORCH_CHECK(
        !t.defined() || !t._fw_grad(0).defined(),
        "masked_lstm: forward-mode derivatives are not supported; use seam_fast.reference.masked_lstm, which is "
        "plain PyTorch throughout, for tangents of input, hx and weights");
  }
}

// ---- vmap -----------------------------------------------------------------------------------------------------------

// The same calls once for each entry of another axis, `size` long; dims: where a tensor has that axis, or -1.
Calls folded(const Calls& calls, int64_t size, const std::vector<int64_t>& dims, variable_list& tensors) {
  Calls all = calls;
  all.size = calls.several() ? size * calls.size : size;
  for (size_t i = 0; i < tensors.size(); ++i) {
    Tensor& t = tensors[i];
    const bool leads = calls.several() && calls.leading[i];
    all.leading[i] = leads || dims[i] >= 0;
    if (!all.leading[i]) continue;
    if (dims[i] > 0) t = t.movedim(dims[i], 0);
    if (!calls.several()) continue;
    if (dims[i] < 0) t = t.unsqueeze(0);
    if (!leads) t = t.unsqueeze(1);
    std::vector<int64_t> sizes = t.sizes().vec();
    sizes[0] = size, sizes[1] = calls.size;
    t = t.expand(sizes).flatten(0, 1);
  }
  return all;
}

// compute(calls, tensors) one level below vmap: its axis becomes the axis of calls.
template <class Compute>
variable_list over_axis(const functorch::DynamicLayer& vmap, const Calls& calls, variable_list tensors,
                        const Compute& compute) {
  const int64_t level = vmap.layerId(), size = vmap.batchSize().expect_int();
  TORCH_CHECK_VALUE(size > 0, "masked_lstm: torch.func.vmap needs at least one entry along the axis, but it has none");
  std::vector<int64_t> dims(tensors.size(), -1);
  bool any = false;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto* batched = functorch::maybeGetBatchedImpl(tensors[i]);
    if (!batched || batched->level() != level) continue;
    any = true;
    dims[i] = batched->bdim();
    tensors[i] = Tensor(batched->value());  // a copy first: the wrapper may go with the assignment
  }
  variable_list results;
  {
    const Lower lower;
    if (!any) return compute(calls, tensors);
    const Calls all = folded(calls, size, dims, tensors);
    results = compute(all, tensors);
    for (Tensor& t : results) {
      if (t.defined() && calls.several()) t = t.unflatten(0, {size, calls.size});
    }
  }
  for (Tensor& t : results) {
    if (t.defined()) t = functorch::makeBatched(t, 0, level);
  }
  return results;
}

// ---- Differentiation ------------------------------------------------------------------------------------------------

// What a node keeps in ctx besides tensors.
struct KeptCalls : torch::CustomClassHolder {
  explicit KeptCalls(Calls calls) : calls(std::move(calls)) {}
  Calls calls;
};

struct Computed {
  const Calls& calls;
  variable_list results, kept;
};

variable_list backward(const Calls& calls, const std::vector<bool>& needs, variable_list tensors);

struct LayerNode : Function<LayerNode> {
  // computed: the results, and what the backward pass gets: the tensors, the output and what was saved.
  static variable_list forward(AutogradContext* ctx, const Computed& computed,
                               at::TensorList /*inputs that are given*/) {
    ctx->save_for_backward(computed.kept);
    ctx->saved_data["calls"] = c10::IValue::make_capsule(c10::make_intrusive<KeptCalls>(computed.calls));
    ctx->set_materialize_grads(false);
    return computed.results;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    for (const Tensor& t : grads) {
      TORCH_CHECK(
          !t.defined() || !t.key_set().has(c10::DispatchKey::Batched),
          "masked_lstm: the compiled kernels take no batched gradients (is_grads_batched, vectorize=True); call "
          "it with backend='torch', or differentiate by torch.func.vjp or torch.func.jacrev");
    }
    const auto held = ctx->saved_data["calls"].toCapsule();
    const Calls& calls = static_cast<const KeptCalls&>(*held).calls;
    variable_list tensors = grads;
    const variable_list kept = ctx->get_saved_variables();
    tensors.insert(tensors.end(), kept.begin(), kept.end());
    std::vector<bool> needs(calls.tensors());
    std::vector<int64_t> given;
    for (int64_t i = 0; i < calls.tensors(); ++i) {
      if (!kept[i].defined()) continue;
      needs[i] = ctx->needs_input_grad(given.size());
      given.push_back(i);
    }
    variable_list results(1 + given.size());  // one for each argument of forward; `computed` has none
    if (!grads[0].defined() && !grads[1].defined() && !grads[2].defined()) return results;
    variable_list found = seam::backward(calls.of_backward(), needs, std::move(tensors));
    for (size_t i = 0; i < given.size(); ++i) {
      Tensor& grad = found[given[i]];
      const bool shared = calls.several() && !calls.leading[given[i]];  // each call has its own gradient of it
      results[1 + i] = grad.defined() && shared ? grad.sum(0) : grad;
    }
    return results;
  }
};

// Empties the stack of transforms for as long as it lives: autograd refuses C++ functions within torch.func, because it
// cannot know that they handle its levels themselves.
class NoTransforms {
 public:
  NoTransforms() {
    while (!functorch::getDynamicLayerStack().empty()) layers_.push_back(functorch::popDynamicLayer());
  }
  ~NoTransforms() {
    for (; !layers_.empty(); layers_.pop_back()) functorch::pushDynamicLayer(std::move(layers_.back()));
  }
  NoTransforms(const NoTransforms&) = delete;

 private:
  std::vector<functorch::DynamicLayer> layers_;
};

variable_list wrapped(variable_list tensors, const std::optional<functorch::DynamicLayer>& top) {
  for (Tensor& t : tensors) {
    if (top && t.defined()) t = functorch::makeTensorWrapper(t, top->layerId());
  }
  return tensors;
}

// The results at a level that differentiates, or below the last transform: below_it(tensors of the level below), or
// computed(tensors) where no transform is left; neither is recorded in the graph.
template <class Below, class Computed>
variable_list results_of(const std::optional<functorch::DynamicLayer>& top, const variable_list& tensors,
                         const Below& below_it, const Computed& computed) {
  if (!top) {
    const at::NoGradGuard no_grad;
    return computed(tensors);
  }
  check_differentiable(*top, tensors);
  variable_list inner = tensors;
  for (Tensor& t : inner) t = below(t, top->layerId());
  const Lower lower;
  return below_it(std::move(inner));
}

variable_list forward(const Calls& calls, variable_list tensors) {
  for (Tensor& t : tensors) t = alive(t);
  const auto top = functorch::maybeCurrentDynamicLayer();
  if (top && top->key() == TransformType::Vmap) return over_axis(*top, calls, std::move(tensors), forward);
  const variable_list results = results_of(
      top, tensors, [&](variable_list inner) { return forward(calls, std::move(inner)); },
      [&](const variable_list& all) { return forward_calls(calls, all); });
  variable_list outer = wrapped(results, top), given;
  bool tracked = false;
  for (const Tensor& t : tensors) {
    if (!t.defined()) continue;
    given.push_back(t);
    tracked = tracked || t.requires_grad();
  }
  if (!tracked || !at::GradMode::is_enabled()) return outer;
  variable_list kept = std::move(tensors);
  kept.push_back(results[0]);
  kept.push_back(results[3]);
  const NoTransforms none;
  const Tensor saved = outer.back();
  outer.pop_back();
  outer = LayerNode::apply(Computed{calls, std::move(outer), std::move(kept)}, at::TensorList(given));
  outer.push_back(saved);
  return outer;
}

variable_list backward(const Calls& calls, const std::vector<bool>& needs, variable_list tensors) {
  for (Tensor& t : tensors) t = alive(t);
  const auto top = functorch::maybeCurrentDynamicLayer();
  if (top && top->key() == TransformType::Vmap) {
    return over_axis(*top, calls, std::move(tensors),
                     [&](const Calls& all, const variable_list& inner) { return backward(all, needs, inner); });
  }
  variable_list results = results_of(
      top, tensors, [&](variable_list inner) { return backward(calls, needs, std::move(inner)); },
      [&](const variable_list& all) { return backward_calls(calls, needs, all); });
  results = wrapped(std::move(results), top);
  if (at::GradMode::is_enabled()) {
    const NoTransforms none;
    differentiate_only_once(results, {&tensors});
  }
  return results;
}

// ---- One call after the other ---------------------------------------------------------------------------------------

// The tensors of call i.
variable_list of_call(const Calls& calls, const variable_list& tensors, int64_t i) {
  variable_list own = tensors;
  for (size_t k = 0; calls.several() && k < own.size(); ++k) {
    if (calls.leading[k] && own[k].defined()) own[k] = own[k].select(0, i);
  }
  return own;
}

std::vector<OptionalTensor> optionals(at::TensorList tensors) {
  std::vector<OptionalTensor> all;
  for (const Tensor& t : tensors) all.push_back(optional(t));
  return all;
}

variable_list stacked(const Calls& calls, std::vector<variable_list>& results) {
  if (!calls.several()) return std::move(results[0]);
  variable_list all(results.at(0).size());
  for (size_t k = 0; k < all.size(); ++k) {
    if (!results[0][k].defined()) continue;
    variable_list parts;
    for (variable_list& of_one : results) parts.push_back(std::move(of_one[k]));
    all[k] = at::stack(parts);
  }
  return all;
}

}  // namespace

Calls Calls::of_backward() const {
  Calls all = *this;
  all.leading.insert(all.leading.begin(), kGrads, several());
  all.leading.insert(all.leading.end(), 2, several());
  return all;
}

variable_list forward_one_by_one(const Calls& calls, const variable_list& tensors, CallObserver& observer) {
  std::vector<variable_list> results;
  for (int64_t i = 0; i < (calls.several() ? calls.size : 1); ++i) {
    observer.next_call();
    const variable_list own = of_call(calls, tensors, i);
    const at::TensorList weights = at::TensorList(own).slice(kWeights, calls.count);
    auto [output, h_n, c_n, saved] =
        masked_lstm_forward({own[kInput], optional(own[kH0]), optional(own[kC0]), weights.vec(),
                             optionals(at::TensorList(own).slice(kWeights + calls.count)), optional(own[kLengths])},
                            false, calls.save);
    results.push_back({output, h_n, c_n, saved});
  }
  observer.end();
  return stacked(calls, results);
}

variable_list backward_one_by_one(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors,
                                  CallObserver& observer) {
  const int64_t count = calls.count, first = kGrads + kWeights;
  const std::vector<bool> need_weights(needs.begin() + kWeights, needs.begin() + kWeights + count);
  const std::vector<bool> need_scores(needs.begin() + kWeights + count, needs.end());
  std::vector<variable_list> results;
  for (int64_t i = 0; i < (calls.several() ? calls.size : 1); ++i) {
    observer.next_call();
    const variable_list own = of_call(calls, tensors, i);
    const at::TensorList all(own);
    const LayerGradients grads = masked_lstm_backward(
        {{own[kGrads + kInput], optional(own[kGrads + kH0]), optional(own[kGrads + kC0]), all.slice(first, count).vec(),
          optionals(all.slice(first + count, count)), optional(own[kGrads + kLengths])},
         optional(own[0]),
         optional(own[1]),
         optional(own[2]),
         own[own.size() - 2],
         own.back(),
         false,
         calls.clamp},
        {needs[kInput], needs[kH0], needs[kC0], need_weights, need_scores});
    variable_list found = {undefined_if_none(grads.input), undefined_if_none(grads.h_0), undefined_if_none(grads.c_0),
                           Tensor()};
    for (const auto* group : {&grads.weights, &grads.scores}) {
      for (const OptionalTensor& grad : *group) found.push_back(undefined_if_none(grad));
    }
    results.push_back(std::move(found));
  }
  observer.end();
  return stacked(calls, results);
}

std::tuple<Tensor, Tensor, Tensor> masked_lstm_layer_transformed(const LayerArguments& arguments, bool clamp) {
  const auto& [input, h_0, c_0, weights, scores, lengths] = arguments;
  TORCH_CHECK_VALUE(scores.size() == weights.size(), "scores must hold as many entries as weights, ", weights.size(),
                    ", but holds ", scores.size());
  variable_list tensors = {input, undefined_if_none(h_0), undefined_if_none(c_0), undefined_if_none(lengths)};
  tensors.insert(tensors.end(), weights.begin(), weights.end());
  for (const OptionalTensor& score : scores) tensors.push_back(undefined_if_none(score));
  bool save = false;
  for (const Tensor& t : tensors) save = save || wants_gradient(t);
  Calls calls{int64_t(weights.size()), save && at::GradMode::is_enabled(), clamp};
  calls.leading.resize(tensors.size());
  const variable_list results = forward(calls, std::move(tensors));
  return {results[0], results[1], results[2]};
}

}  // namespace seam

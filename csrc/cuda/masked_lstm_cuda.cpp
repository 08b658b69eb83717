// The host side of the op: memory, and the order of launches. Nothing here waits for the device or asks it anything, so
// that a CUDA graph can record it.
#include "masked_lstm_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/core/DeviceGuard.h>

#include <utility>

#include "layer_call.h"
#include "library_gradients.h"

namespace seam::gpu {

Choices& choices() {
  static Choices chosen;
  return chosen;
}

void choose(const std::string& recurrence, const std::string& products) {
  const auto named = [](const std::string& name) {
    TORCH_CHECK_VALUE(name == "automatic" || name == "own" || name == "library",
                      "a choice must be 'automatic', 'own' or 'library', but is '", name, "'");
    return name == "own" ? Choice::own : name == "library" ? Choice::library : Choice::automatic;
  };
  choices().recurrence = named(recurrence);
  choices().products = named(products);
}

namespace {

Accepted accepted_on(const Tensor& input) { return {input.device().type(), true}; }

// ---- Forward --------------------------------------------------------------------------------------------------------

template <class T>
void project(const Call& call, int64_t d, const Saved<T>& saved) {
  if (use_library(call.operations(call.l.I), call.l.I, call.type())) {
    Tensor out = call.matrix_in(saved.memory, saved.offset, kGates * call.l.H);
    at::mm_out(out, call.flat(call.input), call.effective_matrix<T>(d, 0).t());
  } else {
    projection<T>(call.device, {call.sequences(d), call.l.I, call.l.H, view_of<const T>(call.input), call.masked(d, 0),
                                call.rows_in(saved.gates, kGates * call.l.H)});
  }
}

template <class T>
void forward_by_steps(const Call& call, int64_t d, const ForwardParams<T>& params) {
  const LayerSizes& l = call.l;
  const Tensor weight_hh = call.effective_matrix<T>(d, 1);
  const Tensor h = call.empty(l.B * l.H), c = call.empty_wide(l.B * l.H), bias = call.empty_wide(kGates * l.H);
  Tensor product = call.empty(l.B * kGates * l.H).view({l.B, kGates * l.H});
  ForwardStepParams<T> p{params, 0, l.B};
  if (l.biases()) {
    effective<T, Wide<T>>(call.device, {kGates * l.H, params.bias_ih, params.bias_hh, pointer<Wide<T>>(bias)});
    p.bias = pointer<Wide<T>>(bias);
  }
  p.product = pointer<T>(product);
  p.h = pointer<T>(h);
  p.c = pointer<Wide<T>>(c);
  forward_start<T>(call.device, p);
  for (; p.step < l.T; ++p.step) {
    at::mm_out(product, h.view({l.B, l.H}), weight_hh.t());
    forward_step<T>(call.device, p);
  }
}

template <class T>
void forward_direction(const Call& call, int64_t d, const LayerOutputs& to, const Saved<T>& saved) {
  const LayerSizes& l = call.l;
  project<T>(call, d, saved);
  Tensor kept;
  ForwardParams<T> p{call.sequences(d), l.H, call.recurrent_weight<T>(d, kept), call.masked(d, 2), call.masked(d, 3)};
  p.h_0 = pointer_or_null<T>(call.h_0, call.state(d));
  p.c_0 = pointer_or_null<T>(call.c_0, call.state(d));
  p.gates = call.rows_in(saved.gates, kGates * l.H);
  if (saved.cells) p.cells = call.rows_in(saved.cells, l.H);
  p.output = view_of<T>(to.output, d * l.H);
  p.h_n = pointer<T>(to.h_n, call.state(d));
  p.c_n = pointer<T>(to.c_n, call.state(d));
  Tensor memory;
  p.exchange = call.exchange(1, memory);
  const Choice chosen = choices().recurrence;
  if (chosen == Choice::library || !recurrent_forward<T>(call.device, p)) {
    TORCH_CHECK(chosen != Choice::own, "no kernel of seam-fast does a layer of ", l.H, " units of ", call.type(),
                " for ", l.B, " sequences in one launch on this device");
    TORCH_INTERNAL_ASSERT(!BatchedCalls::collecting());
    forward_by_steps<T>(call, d, p);
  }
  call.zero_padding<T>(p.sequences, p.output, l.H);
  // Nobody reads these, but what is saved should be the same in every call.
  if (saved.cells) call.zero_padding<Wide<T>>(p.sequences, p.cells, l.H);
}

}  // namespace

int64_t saved_size(int64_t rows, int64_t hidden, at::ScalarType type) {
  return rows * hidden * (kGates + (is_short(type) ? 2 : 1));
}

LayerOutputs masked_lstm_forward(const LayerArguments& arguments, bool batch_first_output, bool save) {
  const Tensor& input = arguments.input;
  const LayerSizes l = check_layer(accepted_on(input), arguments);
  const c10::DeviceGuard guard(input.device());
  const PlainTensors plain_tensors;
  LayerOutputs to;
  to.output = empty_rows(l.T, l.B, l.D * l.H, batch_first_output, input);
  to.h_n = at::empty({l.D, l.B, l.H}, input.options());
  to.c_n = at::empty({l.D, l.B, l.H}, input.options());
  to.saved = at::empty({save ? l.D * saved_size(l.T * l.B, l.H, input.scalar_type()) : 0}, input.options());
  if (l.B == 0) return to;
  const Call call(l, arguments);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, input.scalar_type(), "masked_lstm_forward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      using T = NativeOf<scalar_t>::type;
      const Tensor memory = save ? to.saved : call.empty(Saved<T>::gates_size(call));
      forward_direction<T>(call, d, to, Saved<T>(call, memory, d, save));
    }
  });
  return to;
}

// ---- Backward -------------------------------------------------------------------------------------------------------

namespace {

template <class T>
void backward_by_steps(const Call& call, int64_t d, const BackwardParams<T>& params) {
  const LayerSizes& l = call.l;
  const Tensor weight_hh = call.effective_matrix<T>(d, 1), d_c = call.empty_wide(l.B * l.H);
  const Tensor d_step = call.empty(l.B * kGates * l.H).view({l.B, kGates * l.H});
  Tensor product = call.empty(l.B * l.H).view({l.B, l.H});
  BackwardStepParams<T> p{params, l.T - 1, l.B};
  p.product = pointer<T>(product);
  p.d_c = pointer<Wide<T>>(d_c);
  p.d_step = pointer<T>(d_step);
  for (; p.step >= 0; --p.step) {
    backward_step<T>(call.device, p);
    if (p.step > 0 || p.grad_h_0) at::mm_out(product, d_step, weight_hh);
  }
  if (p.grad_h_0 || p.grad_c_0) backward_end<T>(call.device, p);
}

template <class T>
void backward_direction(const Call& call, int64_t d, const LayerBackwardArguments& arguments,
                        const WantedGradients& grads) {
  const LayerSizes& l = call.l;
  const OptionalTensor &grad_output = arguments.grad_output, &grad_h_n = arguments.grad_h_n,
                       &grad_c_n = arguments.grad_c_n;
  const Tensor &output = arguments.output, &saved = arguments.saved;
  const bool overwrite = arguments.overwrite_saved;
  const Saved<T> given(call, saved, d, true);
  const Tensor own = overwrite ? Tensor() : call.empty(Saved<T>::gates_size(call));  // gradients of gates
  Tensor kept;
  BackwardParams<T> p{call.sequences(d), l.H, call.recurrent_weight<T>(d, kept)};
  p.c_0 = pointer_or_null<T>(call.c_0, call.state(d));
  p.gates = call.rows_in<const T>(given.gates, kGates * l.H);
  p.cells = call.rows_in<const Wide<T>>(given.cells, l.H);
  if (grad_output) p.grad_output = view_of<const T>(*grad_output, d * l.H);
  p.grad_h_n = pointer_or_null<T>(grad_h_n, call.state(d));
  p.grad_c_n = pointer_or_null<T>(grad_c_n, call.state(d));
  p.d_gates = call.rows_in(overwrite ? given.gates : pointer<T>(own), kGates * l.H);
  if (grads.h_0) p.grad_h_0 = pointer<T>(*grads.h_0, call.state(d));
  if (grads.c_0) p.grad_c_0 = pointer<T>(*grads.c_0, call.state(d));
  Tensor memory;
  p.exchange = call.exchange(kGates, memory);
  const Choice chosen = choices().recurrence;
  if (chosen == Choice::library || !recurrent_backward<T>(call.device, p)) {
    TORCH_CHECK(chosen != Choice::own, "no kernel of seam-fast does a layer of ", l.H, " units of ", call.type(),
                " for ", l.B, " sequences in one launch on this device");
    TORCH_INTERNAL_ASSERT(!BatchedCalls::collecting());
    backward_by_steps<T>(call, d, p);
  }

  GradientParams<T> g{p.sequences, l.I, l.H};
  g.d_gates = call.rows_in<const T>(p.d_gates.data, kGates * l.H);
  g.input = view_of<const T>(call.input);
  g.output = view_of<const T>(output, d * l.H);
  g.h_0 = pointer_or_null<T>(call.h_0, call.state(d));
  g.weight_ih = call.masked(d, 0);
  if (grads.input) g.grad_input = view_of<T>(*grads.input);
  g.add_to_grad_input = d > 0;
  g.ih = grads.gradient(call, d, 0);
  g.hh = grads.gradient(call, d, 1);
  g.bias_ih = grads.gradient(call, d, 2);
  g.bias_hh = grads.gradient(call, d, 3);
  const int64_t columns = (grads.input ? l.I : 0) + (g.ih.wanted() ? l.I : 0) + (g.hh.wanted() ? l.H : 0);
  if (use_library(call.operations(columns), call.rows(), call.type())) {
    const Tensor d_gates = call.matrix_in(overwrite ? saved : own, overwrite ? given.offset : 0, kGates * l.H);
    gradients_by_library<T>(call, d, g, grads, output, d_gates, {call, given.cells_as_they_lie(call), overwrite});
  } else {
    gradients<T>(call.device, g);
  }
}

void backward_all(const Call& call, const LayerBackwardArguments& arguments, const WantedGradients& grads) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, call.type(), "masked_lstm_backward", [&] {
    for (int64_t d = 0; d < call.l.D; ++d) backward_direction<NativeOf<scalar_t>::type>(call, d, arguments, grads);
  });
}

OptionalTensor empty_if(bool needed, at::IntArrayRef sizes, at::TensorOptions options) {
  return needed ? OptionalTensor(at::empty(sizes, options)) : std::nullopt;
}

}  // namespace

LayerGradients masked_lstm_backward(const LayerBackwardArguments& arguments, const GradientsNeeded& needed) {
  const auto& [input, h_0, c_0, weights, scores, lengths] = arguments.forward;
  const LayerSizes l = check_layer(accepted_on(input), arguments.forward);
  check_backward(l, arguments, l.D * saved_size(l.T * l.B, l.H, input.scalar_type()), needed.weights.size(),
                 needed.scores.size());
  const c10::DeviceGuard guard(input.device());
  const PlainTensors plain_tensors;
  WantedGradients grads;
  grads.clamp = arguments.clamp;
  if (needed.input) grads.input = empty_rows(l.T, l.B, l.I, is_batch_first(input), input);
  grads.h_0 = empty_if(needed.h_0, {l.D, l.B, l.H}, input.options());
  grads.c_0 = empty_if(needed.c_0, {l.D, l.B, l.H}, input.options());
  for (size_t i = 0; i < weights.size(); ++i) {
    grads.weights.push_back(empty_if(needed.weights[i], weights[i].sizes(), weights[i].options()));
    grads.scores.push_back(empty_if(needed.scores[i] && scores[i], weights[i].sizes(),
                                    scores[i] ? scores[i]->options() : weights[i].options()));
  }
  if (l.B == 0) {
    for (const auto* list : {&grads.weights, &grads.scores}) {
      for (const OptionalTensor& grad : *list) {
        if (grad) grad->zero_();
      }
    }
    return grads;
  }
  const Call call(l, arguments.forward);
  const OptionalTensor grad_rows =
      arguments.grad_output ? OptionalTensor(with_plain_rows(*arguments.grad_output)) : std::nullopt;
  const OptionalTensor of_h_n = contiguous(arguments.grad_h_n), of_c_n = contiguous(arguments.grad_c_n);
  const Tensor states = Call::held(with_plain_rows(arguments.output));
  const Tensor activations = Call::held(arguments.saved.contiguous());
  for (const OptionalTensor& grad : {grad_rows, of_h_n, of_c_n}) Call::hold(grad);
  const LayerBackwardArguments plain = {arguments.forward,         grad_rows,      of_h_n, of_c_n, states, activations,
                                        arguments.overwrite_saved, arguments.clamp};
  backward_all(call, plain, grads);
  return grads;
}

}  // namespace seam::gpu

// The host side of the op: memory, and the order of launches. Nothing here waits for the device or asks it anything, so
// that a CUDA graph can record it.
#include "masked_lstm.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/version.h>

#include <tuple>
#include <utility>

#include "../layer.h"

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
  choices() = {named(recurrence), named(products)};
}

namespace {

// The backward pass runs under whatever autocast its caller has on, and products in there must stay what they are.
using NoAutocast = c10::impl::ExcludeDispatchKeyGuard;

// ---- Types ------------------------------------------------------------------------------------------------------------

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

bool is_short(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }
at::ScalarType wide(at::ScalarType type) { return is_short(type) ? at::kFloat : type; }

Kind kind_of(const Tensor& t) {
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
Rows<T> rows_of(const Tensor& t, int64_t offset = 0) {  // (T, B, width)
  if constexpr (std::is_const_v<T>) return {static_cast<T*>(t.const_data_ptr()) + offset, t.stride(0), t.stride(1)};
  else return {static_cast<T*>(t.mutable_data_ptr()) + offset, t.stride(0), t.stride(1)};
}

OptionalTensor contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(t->resolve_neg().contiguous()) : std::nullopt;
}
Tensor with_plain_rows(const Tensor& t) {  // numbers of a row side by side
  const Tensor plain = t.resolve_neg();
  return plain.size(2) == 1 || plain.stride(2) == 1 ? plain : plain.contiguous();
}

// ---- Who computes a product over all rows -----------------------------------------------------------------------------

// Above so many operations a matrix library's tiles beat its start, and its tensor cores a plain sum. The same where a sum
// has so many terms: our own is formed by one block from the first to the last.
constexpr double kLibraryFrom = 1e9, kLibraryFromShort = 1e8;
constexpr int64_t kLibraryTerms = 1024;

bool use_library(double operations, int64_t terms, at::ScalarType type) {
  if (choices().products != Choice::automatic) return choices().products == Choice::library;
  return terms > kLibraryTerms || operations > (is_short(type) ? kLibraryFromShort : kLibraryFrom);
}

// A product whose sums keep their full width.
Tensor multiply_wide(const Tensor& a, const Tensor& b) {
  if (!is_short(a.scalar_type())) return at::mm(a, b);
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 8
  if (a.is_cuda()) return at::mm(a, b, at::kFloat);
#endif
  return at::mm(a.to(at::kFloat), b.to(at::kFloat));
}

// ---- A call -----------------------------------------------------------------------------------------------------------

// What both passes know. Rows of all tensors are numbered as those of input lie in memory, so that products over all rows
// need no copies.
struct Call {
  Layer l;
  Device device;
  Tensor input;
  OptionalTensor h_0, c_0;
  std::vector<Tensor> weights;
  std::vector<OptionalTensor> scores;
  Tensor ranks;  // (2, B) int32: order, length; undefined where all are T long
  bool batch_first;

  Call(const Layer& layer, const Tensor& given, const OptionalTensor& first_h, const OptionalTensor& first_c,
       const std::vector<Tensor>& all_weights, const std::vector<OptionalTensor>& all_scores,
       const OptionalTensor& lengths)
      : l(layer),
        device(gpu::device_of(given)),
        input(with_plain_rows(given)),
        h_0(contiguous(first_h)),
        c_0(contiguous(first_c)),
        batch_first(is_batch_first(given)) {
    for (const Tensor& weight : all_weights) weights.push_back(*contiguous(weight));
    for (const OptionalTensor& score : all_scores) scores.push_back(contiguous(score));
    if (!lengths) return;
    ranks = at::empty({2, l.B}, input.options().dtype(at::kInt));
    order(device, {l.T, l.B, lengths->const_data_ptr<int64_t>(), pointer<int32_t>(ranks), pointer<int32_t>(ranks, l.B)});
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

  Tensor empty(int64_t size) const { return at::empty({size}, input.options()); }
  Tensor empty_wide(int64_t size) const { return at::empty({size}, input.options().dtype(wide(type()))); }
  // 1-D memory as (T, B, width), in the order of input's rows; and (rows, width), in whatever order they are.
  Tensor as_rows(const Tensor& memory, int64_t width) const {
    return batch_first ? memory.view({l.B, l.T, width}).transpose(0, 1) : memory.view({l.T, l.B, width});
  }
  Tensor flat(const Tensor& t) const {  // (T, B, width) -> (rows, width)
    return (batch_first ? t.transpose(0, 1) : t).reshape({rows(), t.size(2)});
  }

  // The weight that scores keep, (rows, columns), in input's type.
  template <class T>
  Tensor effective_matrix(int64_t d, int64_t which) const {
    const Tensor& weight = weights[d * l.per_direction + which];
    const Tensor kept = at::empty(weight.sizes(), input.options());
    effective<T, T>(device, {weight.numel(), masked(d, which), {}, pointer<T>(kept)});
    return kept;
  }
  // W_hh as the recurrence reads it many times: masked by it, or already where it is wider than input (autocast).
  template <class T>
  MaskedNumbers recurrent_weight(int64_t d, Tensor& kept) const {
    const MaskedNumbers given = masked(d, 1);
    if (given.kind == kind_of(input)) return given;
    kept = effective_matrix<T>(d, 1);
    return {kept.const_data_ptr(), nullptr, kind_of(kept)};
  }
  template <class T>
  void zero_padding(const Sequences& s, const Tensor& t, int64_t width, int64_t offset = 0) const {
    if (ranks.defined()) padding<T>(device, {s, width, rows_of<T>(t, offset)});
  }
};

Accepted accepted_on(const Tensor& input) { return {input.device().type(), true}; }

// ---- Forward ------------------------------------------------------------------------------------------------------------

template <class T>
void project(const Call& call, int64_t d, const Tensor& gates) {  // gates: (T, B, 4H)
  if (use_library(call.operations(call.l.I), call.l.I, call.type())) {
    Tensor out = call.flat(gates);  // a view
    at::mm_out(out, call.flat(call.input), call.effective_matrix<T>(d, 0).t());
  } else {
    projection<T>(call.device, {call.sequences(d), call.l.I, call.l.H, rows_of<const T>(call.input), call.masked(d, 0),
                                rows_of<T>(gates)});
  }
}

template <class T>
void forward_by_steps(const Call& call, int64_t d, const ForwardParams<T>& params) {
  const Layer& l = call.l;
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
void forward_direction(const Call& call, int64_t d, const Tensor& output, const Tensor& h_n, const Tensor& c_n,
                       const Tensor& gates_memory, const Tensor& cells_memory) {
  const Layer& l = call.l;
  const Tensor gates = call.as_rows(gates_memory, kGates * l.H);
  project<T>(call, d, gates);
  Tensor kept;
  ForwardParams<T> p{call.sequences(d), l.H, call.recurrent_weight<T>(d, kept), call.masked(d, 2), call.masked(d, 3)};
  p.h_0 = pointer_or_null<T>(call.h_0, call.state(d));
  p.c_0 = pointer_or_null<T>(call.c_0, call.state(d));
  p.gates = rows_of<T>(gates);
  if (cells_memory.defined()) p.cells = rows_of<Wide<T>>(call.as_rows(cells_memory, l.H));
  p.output = rows_of<T>(output, d * l.H);
  p.h_n = pointer<T>(h_n, call.state(d));
  p.c_n = pointer<T>(c_n, call.state(d));
  const Choice chosen = choices().recurrence;
  if (chosen == Choice::library || !recurrent_forward<T>(call.device, p)) {
    TORCH_CHECK(chosen != Choice::own, "no kernel of seam-fast does a layer of ", l.H, " units of ", call.type(), " for ",
                l.B, " sequences in one launch on this device");
    forward_by_steps<T>(call, d, p);
  }
  call.zero_padding<T>(p.sequences, output, l.H, d * l.H);
  // Nobody reads these; but what is saved shall not differ from call to call.
  if (cells_memory.defined()) call.zero_padding<Wide<T>>(p.sequences, call.as_rows(cells_memory, l.H), l.H);
}

// The parts of `saved` that direction d has.
std::pair<Tensor, Tensor> split_saved(const Call& call, const Tensor& saved, int64_t d) {
  const int64_t each = saved_size(call.rows(), call.l.H, call.type()), gates = call.rows() * kGates * call.l.H;
  return {saved.narrow(0, d * each, gates),
          saved.narrow(0, d * each + gates, each - gates).view(wide(call.type()))};
}

}  // namespace

int64_t saved_size(int64_t rows, int64_t hidden, at::ScalarType type) {
  return rows * hidden * (kGates + (is_short(type) ? 2 : 1));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> masked_lstm_forward(const Tensor& input, const OptionalTensor& h_0,
                                                               const OptionalTensor& c_0,
                                                               const std::vector<Tensor>& weights,
                                                               const std::vector<OptionalTensor>& scores,
                                                               const OptionalTensor& lengths, bool batch_first_output,
                                                               bool save) {
  const Layer l = check_layer(accepted_on(input), input, h_0, c_0, weights, scores, lengths);
  const c10::DeviceGuard guard(input.device());
  const NoAutocast no_autocast(c10::autocast_dispatch_keyset);
  const Tensor output = empty_rows(l.T, l.B, l.D * l.H, batch_first_output, input);
  const Tensor h_n = at::empty({l.D, l.B, l.H}, input.options()), c_n = at::empty_like(h_n);
  const Tensor saved =
      at::empty({save ? l.D * saved_size(l.T * l.B, l.H, input.scalar_type()) : 0}, input.options());
  if (l.B == 0) return {output, h_n, c_n, saved};
  const Call call(l, input, h_0, c_0, weights, scores, lengths);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, input.scalar_type(), "masked_lstm_forward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      Tensor gates, cells;
      if (save) std::tie(gates, cells) = split_saved(call, saved, d);
      else gates = call.empty(call.rows() * kGates * l.H);
      forward_direction<NativeOf<scalar_t>::type>(call, d, output, h_n, c_n, gates, cells);
    }
  });
  return {output, h_n, c_n, saved};
}

// ---- Backward -----------------------------------------------------------------------------------------------------------

namespace {

template <class T>
void backward_by_steps(const Call& call, int64_t d, const BackwardParams<T>& params) {
  const Layer& l = call.l;
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

// The gradients that a call of the backward pass is asked for; none where it is not.
struct Wanted {
  OptionalTensor input, h_0, c_0;
  std::vector<OptionalTensor> weights, scores;
  bool clamp = true;  // those of scores

  Gradient gradient(const Call& call, int64_t d, int64_t which) const {
    if (which >= call.l.per_direction) return {};
    const int64_t i = d * call.l.per_direction + which;
    return {call.masked(d, which), weights[i] ? weights[i]->mutable_data_ptr() : nullptr,
            scores[i] ? scores[i]->mutable_data_ptr() : nullptr, clamp};
  }
};

template <class T>
void finish_sum(const Call& call, const Tensor& sum, const Gradient& gradient) {
  const Tensor plain = sum.contiguous();
  TORCH_INTERNAL_ASSERT(plain.scalar_type() == wide(call.type()));
  if (gradient.wanted()) finish<T>(call.device, {plain.numel(), pointer<Wide<T>>(plain), gradient});
}

// By products of a matrix library: for large layers, whose products would keep plain sums busy for long.
template <class T>
void gradients_by_library(const Call& call, int64_t d, const GradientParams<T>& p, const Wanted& grads,
                          const Tensor& d_gates) {
  const Layer& l = call.l;
  call.zero_padding<T>(p.sequences, d_gates, kGates * l.H);
  const Tensor flat = call.flat(d_gates);
  if (grads.input) {
    Tensor out = call.flat(*grads.input);  // a view
    const Tensor weight_ih = call.effective_matrix<T>(d, 0);
    if (p.add_to_grad_input) at::addmm_out(out, out, flat, weight_ih);
    else at::mm_out(out, flat, weight_ih);
    call.zero_padding<T>(p.sequences, *grads.input, l.I);
  }
  if (p.ih.wanted()) {
    Tensor input = call.input;
    if (call.ranks.defined()) {  // what stands in the padding must not reach a sum, and may be NaN
      input = call.as_rows(call.flat(call.input).clone().view({-1}), l.I);
      call.zero_padding<T>(p.sequences, input, l.I);
    }
    finish_sum<T>(call, multiply_wide(flat.t(), call.flat(input)), p.ih);
  }
  if (p.hh.wanted()) {
    const Tensor before = call.as_rows(call.empty(call.rows() * l.H), l.H);
    hidden_before<T>(call.device, {p.sequences, l.H, p.output, p.h_0, rows_of<T>(before)});
    finish_sum<T>(call, multiply_wide(flat.t(), call.flat(before)), p.hh);
  }
  if (p.bias_ih.wanted() || p.bias_hh.wanted()) {
    const Tensor sum = at::sum(flat, at::IntArrayRef{0}, false, wide(call.type()));
    finish_sum<T>(call, sum, p.bias_ih);
    finish_sum<T>(call, sum, p.bias_hh);
  }
}

template <class T>
void backward_direction(const Call& call, int64_t d, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                        const OptionalTensor& grad_c_n, const Tensor& output, const Tensor& saved, bool overwrite,
                        const Wanted& grads) {
  const Layer& l = call.l;
  const auto [gates_memory, cells_memory] = split_saved(call, saved, d);
  const Tensor gates = call.as_rows(gates_memory, kGates * l.H), cells = call.as_rows(cells_memory, l.H);
  const Tensor d_gates = overwrite ? gates : call.as_rows(call.empty(call.rows() * kGates * l.H), kGates * l.H);
  Tensor kept;
  BackwardParams<T> p{call.sequences(d), l.H, call.recurrent_weight<T>(d, kept)};
  p.c_0 = pointer_or_null<T>(call.c_0, call.state(d));
  p.gates = rows_of<const T>(gates);
  p.cells = rows_of<const Wide<T>>(cells);
  if (grad_output) p.grad_output = rows_of<const T>(*grad_output, d * l.H);
  p.grad_h_n = pointer_or_null<T>(grad_h_n, call.state(d));
  p.grad_c_n = pointer_or_null<T>(grad_c_n, call.state(d));
  p.d_gates = rows_of<T>(d_gates);
  if (grads.h_0) p.grad_h_0 = pointer<T>(*grads.h_0, call.state(d));
  if (grads.c_0) p.grad_c_0 = pointer<T>(*grads.c_0, call.state(d));
  const Choice chosen = choices().recurrence;
  if (chosen == Choice::library || !recurrent_backward<T>(call.device, p)) {
    TORCH_CHECK(chosen != Choice::own, "no kernel of seam-fast does a layer of ", l.H, " units of ", call.type(), " for ",
                l.B, " sequences in one launch on this device");
    backward_by_steps<T>(call, d, p);
  }

  GradientParams<T> g{p.sequences, l.I, l.H};
  g.d_gates = rows_of<const T>(d_gates);
  g.input = rows_of<const T>(call.input);
  g.output = rows_of<const T>(output, d * l.H);
  g.h_0 = pointer_or_null<T>(call.h_0, call.state(d));
  g.weight_ih = call.masked(d, 0);
  if (grads.input) g.grad_input = rows_of<T>(*grads.input);
  g.add_to_grad_input = d > 0;
  g.ih = grads.gradient(call, d, 0);
  g.hh = grads.gradient(call, d, 1);
  g.bias_ih = grads.gradient(call, d, 2);
  g.bias_hh = grads.gradient(call, d, 3);
  const int64_t columns = (grads.input ? l.I : 0) + (g.ih.wanted() ? l.I : 0) + (g.hh.wanted() ? l.H : 0);
  if (use_library(call.operations(columns), call.rows(), call.type())) {
    gradients_by_library<T>(call, d, g, grads, d_gates);
  } else {
    gradients<T>(call.device, g);
  }
}

OptionalTensor empty_if(bool needed, at::IntArrayRef sizes, at::TensorOptions options) {
  return needed ? OptionalTensor(at::empty(sizes, options)) : std::nullopt;
}

}  // namespace

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, std::vector<OptionalTensor>, std::vector<OptionalTensor>>
masked_lstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                     const Tensor& input, const Tensor& output, const OptionalTensor& h_0, const OptionalTensor& c_0,
                     const Tensor& saved, const std::vector<Tensor>& weights,
                     const std::vector<OptionalTensor>& scores, const OptionalTensor& lengths, bool need_input,
                     bool need_h_0, bool need_c_0, const std::vector<bool>& need_weights,
                     const std::vector<bool>& need_scores, bool overwrite_saved, bool clamp) {
  const Layer l = check_layer(accepted_on(input), input, h_0, c_0, weights, scores, lengths);
  check_backward(l, grad_output, grad_h_n, grad_c_n, input, output, saved,
                 l.D * saved_size(l.T * l.B, l.H, input.scalar_type()), need_weights.size(), need_scores.size());
  const c10::DeviceGuard guard(input.device());
  const NoAutocast no_autocast(c10::autocast_dispatch_keyset);
  Wanted grads;
  grads.clamp = clamp;
  if (need_input) grads.input = empty_rows(l.T, l.B, l.I, is_batch_first(input), input);
  grads.h_0 = empty_if(need_h_0, {l.D, l.B, l.H}, input.options());
  grads.c_0 = empty_if(need_c_0, {l.D, l.B, l.H}, input.options());
  for (size_t i = 0; i < weights.size(); ++i) {
    grads.weights.push_back(empty_if(need_weights[i], weights[i].sizes(), weights[i].options()));
    grads.scores.push_back(empty_if(need_scores[i] && scores[i], weights[i].sizes(),
                                    scores[i] ? scores[i]->options() : weights[i].options()));
  }
  if (l.B == 0) {
    for (const auto* list : {&grads.weights, &grads.scores}) {
      for (const OptionalTensor& grad : *list) {
        if (grad) grad->zero_();
      }
    }
    return {grads.input, grads.h_0, grads.c_0, grads.weights, grads.scores};
  }
  const Call call(l, input, h_0, c_0, weights, scores, lengths);
  const OptionalTensor grad_rows = grad_output ? OptionalTensor(with_plain_rows(*grad_output)) : std::nullopt;
  const OptionalTensor of_h_n = contiguous(grad_h_n), of_c_n = contiguous(grad_c_n);
  const Tensor states = with_plain_rows(output), activations = saved.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, input.scalar_type(), "masked_lstm_backward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      backward_direction<NativeOf<scalar_t>::type>(call, d, grad_rows, of_h_n, of_c_n, states, activations,
                                                   overwrite_saved, grads);
    }
  });
  return {grads.input, grads.h_0, grads.c_0, grads.weights, grads.scores};
}

}  // namespace seam::gpu

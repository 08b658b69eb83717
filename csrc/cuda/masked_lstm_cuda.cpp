// The host side of the op: memory, and the order of launches. Nothing here waits for the device or asks it anything, so
// that a CUDA graph can record it.
#include "masked_lstm_cuda.h"

#include "vmap_calls_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/version.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "host/layer.h"

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

// Products in here must stay what they are: the backward pass runs under whatever autocast its caller has on, and, where a
// second derivative is asked for, with autograd, which has a node for the whole. To pass over both also saves time a call.
struct PlainTensors {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
};

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
  return t ? OptionalTensor(resolved(*t).contiguous()) : std::nullopt;
}
Tensor with_plain_rows(const Tensor& t) {  // numbers of a row side by side
  const Tensor plain = resolved(t);
  return plain.size(2) == 1 || plain.stride(2) == 1 ? plain : plain.contiguous();
}

// ---- Who computes a product over all rows -----------------------------------------------------------------------------

// Above so many operations a matrix library's tiles beat its start, and its tensor cores a plain sum. The same where a sum
// has so many terms: our own is formed by one block from the first to the last.
constexpr double kLibraryFrom = 1e9, kLibraryFromShort = 1e8;
constexpr int64_t kLibraryTerms = 1024;

bool use_library(double operations, int64_t terms, at::ScalarType type) {
  if (CallsTogether::collecting()) return false;
  if (choices().products != Choice::automatic) return choices().products == Choice::library;
  return terms > kLibraryTerms || operations > (is_short(type) ? kLibraryFromShort : kLibraryFrom);
}

// out = a b, whose sums keep their full width. Where torch has no such product of short numbers, some terms after the other
// are widened: copies of them all would take more memory than what is saved.
void multiply_wide(Tensor out, const Tensor& a, const Tensor& b) {
  if (!is_short(a.scalar_type())) {
    at::mm_out(out, a, b);
    return;
  }
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 8
  if (a.is_cuda()) {
    at::mm_out(out, a, b, at::kFloat);
    return;
  }
#endif
  const int64_t each = std::max<int64_t>(choices().little / int64_t(sizeof(float)) / (a.size(0) + b.size(1)), 1);
  for (int64_t k = 0; k < a.size(1); k += each) {
    const int64_t terms = std::min(each, a.size(1) - k);
    const Tensor left = a.narrow(1, k, terms).to(at::kFloat), right = b.narrow(0, k, terms).to(at::kFloat);
    if (k == 0) at::mm_out(out, left, right);
    else at::addmm_out(out, out, left, right);
  }
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
    if (auto* const together = CallsTogether::collecting()) {
      together->take_part(device);
      for (const Tensor& weight : weights) together->hold(weight);
      for (const OptionalTensor& score : scores) hold(score);
      for (const OptionalTensor& state : {h_0, c_0, lengths}) hold(state);
      hold(input);
    }
    if (!lengths) return;
    ranks = held(at::empty({2, l.B}, input.options().dtype(at::kInt)));
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

  // Where launches go out later, what they use is kept until then.
  static const Tensor& held(const Tensor& t) {
    if (auto* const together = CallsTogether::collecting()) together->hold(t);
    return t;
  }
  static void hold(const OptionalTensor& t) {
    if (t) held(*t);
  }

  Tensor empty(int64_t size) const { return held(at::empty({size}, input.options())); }
  Tensor empty_wide(int64_t size) const { return held(at::empty({size}, input.options().dtype(wide(type())))); }
  // What recurrent_grid.cuh needs of memory, where it may be asked. `numbers`: of a unit.
  Exchange exchange(int64_t numbers, Tensor& memory) const {
    if (!is_short(type()) || l.H <= 512 || l.H > 1024) return {};
    const ExchangeSize size = ExchangeSize::of(l.H, l.B, numbers);
    memory = at::empty({size.words + size.flags}, input.options().dtype(at::kInt));
    memory.narrow(0, size.words, size.flags).zero_();
    int32_t* const words = pointer<int32_t>(memory);
    return {reinterpret_cast<uint32_t*>(words), words + size.words};
  }
  // Memory as (T, B, width), in the order of input's rows; and, for a matrix library, as (rows, width), in whatever order
  // they are.
  template <class T>
  Rows<T> rows_in(T* memory, int64_t width) const {
    if (batch_first) return {memory, width, l.T * width};
    return {memory, l.B * width, width};
  }
  Tensor matrix_in(const Tensor& memory, int64_t offset, int64_t width) const {
    return memory.narrow(0, offset, rows() * width).view({rows(), width});
  }
  Tensor flat(const Tensor& t) const {  // (T, B, width) -> (rows, width)
    return (batch_first ? t.transpose(0, 1) : t).reshape({rows(), t.size(2)});
  }

  // The weight that scores keep, (rows, columns), in input's type.
  template <class T>
  Tensor effective_matrix(int64_t d, int64_t which) const {
    const Tensor& weight = weights[d * l.per_direction + which];
    const Tensor kept = held(at::empty(weight.sizes(), input.options()));
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
  void zero_padding(const Sequences& s, const Rows<T>& rows, int64_t width) const {
    if (ranks.defined()) padding<T>(device, {s, width, rows});
  }
};

// What is saved of a direction, from `offset` of a tensor on: activated gates (T, B, 4H) and, in full width, cell states
// (T, B, H); or memory for the gates alone, where nothing is saved.
template <class T>
struct Saved {
  const Tensor& memory;
  int64_t offset;
  T* gates;
  Wide<T>* cells;

  Saved(const Call& call, const Tensor& all, int64_t d, bool with_cells)
      : memory(all),
        offset(with_cells ? d * saved_size(call.rows(), call.l.H, call.type()) : 0),
        gates(pointer<T>(all, offset)),
        cells(with_cells ? reinterpret_cast<Wide<T>*>(gates + gates_size(call)) : nullptr) {}

  static int64_t gates_size(const Call& call) { return call.rows() * kGates * call.l.H; }
  Tensor cells_as_they_lie(const Call& call) const {  // 1-D, of input's type
    const int64_t size = gates_size(call);
    return memory.narrow(0, offset + size, saved_size(call.rows(), call.l.H, call.type()) - size);
  }
};

Accepted accepted_on(const Tensor& input) { return {input.device().type(), true}; }

// ---- Forward ------------------------------------------------------------------------------------------------------------

template <class T>
void project(const Call& call, int64_t d, const Saved<T>& saved) {
  if (use_library(call.operations(call.l.I), call.l.I, call.type())) {
    Tensor out = call.matrix_in(saved.memory, saved.offset, kGates * call.l.H);
    at::mm_out(out, call.flat(call.input), call.effective_matrix<T>(d, 0).t());
  } else {
    projection<T>(call.device, {call.sequences(d), call.l.I, call.l.H, rows_of<const T>(call.input), call.masked(d, 0),
                                call.rows_in(saved.gates, kGates * call.l.H)});
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
                       const Saved<T>& saved) {
  const Layer& l = call.l;
  project<T>(call, d, saved);
  Tensor kept;
  ForwardParams<T> p{call.sequences(d), l.H, call.recurrent_weight<T>(d, kept), call.masked(d, 2), call.masked(d, 3)};
  p.h_0 = pointer_or_null<T>(call.h_0, call.state(d));
  p.c_0 = pointer_or_null<T>(call.c_0, call.state(d));
  p.gates = call.rows_in(saved.gates, kGates * l.H);
  if (saved.cells) p.cells = call.rows_in(saved.cells, l.H);
  p.output = rows_of<T>(output, d * l.H);
  p.h_n = pointer<T>(h_n, call.state(d));
  p.c_n = pointer<T>(c_n, call.state(d));
  Tensor memory;
  p.exchange = call.exchange(1, memory);
  const Choice chosen = choices().recurrence;
  if (chosen == Choice::library || !recurrent_forward<T>(call.device, p)) {
    TORCH_CHECK(chosen != Choice::own, "no kernel of seam-fast does a layer of ", l.H, " units of ", call.type(), " for ",
                l.B, " sequences in one launch on this device");
    TORCH_INTERNAL_ASSERT(!CallsTogether::collecting());
    forward_by_steps<T>(call, d, p);
  }
  call.zero_padding<T>(p.sequences, p.output, l.H);
  // Nobody reads these; but what is saved shall not differ from call to call.
  if (saved.cells) call.zero_padding<Wide<T>>(p.sequences, p.cells, l.H);
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
  const PlainTensors plain_tensors;
  const Tensor output = empty_rows(l.T, l.B, l.D * l.H, batch_first_output, input);
  const Tensor h_n = at::empty({l.D, l.B, l.H}, input.options()), c_n = at::empty({l.D, l.B, l.H}, input.options());
  const Tensor saved =
      at::empty({save ? l.D * saved_size(l.T * l.B, l.H, input.scalar_type()) : 0}, input.options());
  if (l.B == 0) return {output, h_n, c_n, saved};
  const Call call(l, input, h_0, c_0, weights, scores, lengths);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, input.scalar_type(), "masked_lstm_forward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      using T = NativeOf<scalar_t>::type;
      const Tensor memory = save ? saved : call.empty(Saved<T>::gates_size(call));
      forward_direction<T>(call, d, output, h_n, c_n, Saved<T>(call, memory, d, save));
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
  // One of the gradients of weight `which` that is of the type of its sums.
  OptionalTensor as_wide_as_sums(const Call& call, int64_t d, int64_t which) const {
    const int64_t i = d * call.l.per_direction + which;
    for (const OptionalTensor& grad : {scores[i], weights[i]}) {
      if (grad && grad->scalar_type() == wide(call.type())) return grad;
    }
    return std::nullopt;
  }
};

// ---- Gradients by products of a matrix library: for large layers, whose products would keep plain sums busy for long -----

// Memory for rows that a product needs in another form: that of the cell states, once the recurrence has read them; where
// they must stay, as much again, so that sums are the same.
struct Scratch {
  const Call& call;
  Tensor cells;  // 1-D, of input's type
  bool overwrite;

  int64_t little() const {  // elements
    const int64_t size = int64_t(call.input.element_size());
    return std::max(saved_size(call.rows(), call.l.H, call.type()) / 10, choices().little / size);
  }
  // How many columns of so many to take at once, in all of `rows`, so that they find room in `size`.
  static int64_t columns_at_once(int64_t columns, int64_t rows, int64_t size) {
    if (columns * rows <= size) return columns;
    const int64_t fitting = std::max<int64_t>(size / rows, 1), pieces = (columns + fitting - 1) / fitting;
    const int64_t each = (columns + pieces - 1) / pieces;
    return each + 7 <= fitting ? (each + 7) / 8 * 8 : each;  // tensor cores like rows of whole 16 bytes
  }
  int64_t columns_at_once(int64_t columns) const {
    return columns_at_once(columns, call.rows(), std::max(little(), cells.numel()));
  }
  Tensor take(int64_t size) const {
    return overwrite && size <= cells.numel() ? cells.narrow(0, 0, size) : call.empty(size);
  }
};

// Whether `flat` is a view.
bool lies_in_one_piece(const Call& call, const Tensor& rows) {
  const int64_t outer = call.batch_first ? 1 : 0, inner = 1 - outer;
  return rows.size(outer) == 1 || rows.stride(outer) == rows.size(inner) * rows.stride(inner);
}

// The hidden states that steps began with, as a view of the output: not there for the first step, which has begun with zeros.
// Of the gradients of gates the same rows.
struct StatesBefore {
  Tensor d_gates, states;
};
std::optional<StatesBefore> states_before(const Call& call, int64_t d, const Tensor& d_gates, const Tensor& output) {
  const Layer& l = call.l;
  if (call.ranks.defined() || call.h_0 || call.batch_first || l.T == 1 || output.stride(0) != l.B * output.stride(1)) {
    return std::nullopt;
  }
  const int64_t count = call.rows() - l.B, first = d == 0 ? 0 : l.B;
  const Tensor states = output.narrow(2, d * l.H, l.H).flatten(0, 1);
  return StatesBefore{d_gates.narrow(0, l.B - first, count), states.narrow(0, first, count)};
}

// The gradient of weight `which`, d_gates^T (4H, rows) times right (rows, columns), a block after the other where operand
// or sums would be large. right(first, count) gives that many columns, `at_once` at most.
template <class T, class Right>
void weight_gradient(const Call& call, int64_t d, int64_t which, const Scratch& scratch, const Wanted& grads,
                     const Tensor& d_gates, int64_t at_once, const Right& right) {
  const int64_t gates = kGates * call.l.H, columns = call.weights[d * call.l.per_direction + which].size(1);
  const Gradient gradient = grads.gradient(call, d, which);
  // Sums that are as wide as a gradient lie in its memory.
  const OptionalTensor own = at_once == columns ? grads.as_wide_as_sums(call, d, which) : std::nullopt;
  for (int64_t first = 0; first < columns; first += at_once) {
    const int64_t count = std::min(at_once, columns - first);
    const Tensor operand = right(first, count);
    const int64_t size = scratch.little() * call.input.element_size() / int64_t(sizeof(Wide<T>));
    const int64_t rows_at_once = own ? gates : Scratch::columns_at_once(gates, count, size);
    for (int64_t row = 0; row < gates; row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, gates - row);
      const Tensor sum = own ? *own : call.empty_wide(rows * count).view({rows, count});
      multiply_wide(sum, d_gates.narrow(1, row, rows).t(), operand);
      finish<T>(call.device, {rows * count, count, columns, pointer<Wide<T>>(sum), count, 1, row * columns + first, gradient});
    }
  }
}

// The gradients of the biases: sums of all rows, formed in parts, then of the parts.
template <class T>
void bias_gradients(const Call& call, const GradientParams<T>& p) {
  constexpr int64_t kMostParts = 64, kLeastRows = 128;  // both are summed one after the other, so neither should be many
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
void gradients_by_library(const Call& call, int64_t d, const GradientParams<T>& p, const Wanted& grads, const Tensor& output,
                          const Tensor& flat, const Scratch& scratch) {  // flat: d_gates as (rows, 4H)
  const Layer& l = call.l;
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
    // What stands in the padding must not reach a sum, and may be NaN.
    const bool as_it_is = !call.ranks.defined() && lies_in_one_piece(call, call.input);
    weight_gradient<T>(call, d, 0, scratch, grads, flat, as_it_is ? l.I : scratch.columns_at_once(l.I),
                       [&](int64_t first, int64_t count) {
                         if (as_it_is) return call.flat(call.input);
                         return copied({p.sequences, first, count, p.input, false, nullptr, l.H});
                       });
  }
  if (p.hh.wanted()) {
    if (const auto before = states_before(call, d, flat, output)) {
      weight_gradient<T>(call, d, 1, scratch, grads, before->d_gates, l.H, [&](int64_t, int64_t) { return before->states; });
    } else {
      weight_gradient<T>(call, d, 1, scratch, grads, flat, scratch.columns_at_once(l.H), [&](int64_t first, int64_t count) {
        return copied({p.sequences, first, count, p.output, true, p.h_0, l.H});
      });
    }
  }
  if (p.bias_ih.wanted() || p.bias_hh.wanted()) bias_gradients<T>(call, p);
}

template <class T>
void backward_direction(const Call& call, int64_t d, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                        const OptionalTensor& grad_c_n, const Tensor& output, const Tensor& saved, bool overwrite,
                        const Wanted& grads) {
  const Layer& l = call.l;
  const Saved<T> given(call, saved, d, true);
  const Tensor own = overwrite ? Tensor() : call.empty(Saved<T>::gates_size(call));  // gradients of gates
  Tensor kept;
  BackwardParams<T> p{call.sequences(d), l.H, call.recurrent_weight<T>(d, kept)};
  p.c_0 = pointer_or_null<T>(call.c_0, call.state(d));
  p.gates = call.rows_in<const T>(given.gates, kGates * l.H);
  p.cells = call.rows_in<const Wide<T>>(given.cells, l.H);
  if (grad_output) p.grad_output = rows_of<const T>(*grad_output, d * l.H);
  p.grad_h_n = pointer_or_null<T>(grad_h_n, call.state(d));
  p.grad_c_n = pointer_or_null<T>(grad_c_n, call.state(d));
  p.d_gates = call.rows_in(overwrite ? given.gates : pointer<T>(own), kGates * l.H);
  if (grads.h_0) p.grad_h_0 = pointer<T>(*grads.h_0, call.state(d));
  if (grads.c_0) p.grad_c_0 = pointer<T>(*grads.c_0, call.state(d));
  Tensor memory;
  p.exchange = call.exchange(kGates, memory);
  const Choice chosen = choices().recurrence;
  if (chosen == Choice::library || !recurrent_backward<T>(call.device, p)) {
    TORCH_CHECK(chosen != Choice::own, "no kernel of seam-fast does a layer of ", l.H, " units of ", call.type(), " for ",
                l.B, " sequences in one launch on this device");
    TORCH_INTERNAL_ASSERT(!CallsTogether::collecting());
    backward_by_steps<T>(call, d, p);
  }

  GradientParams<T> g{p.sequences, l.I, l.H};
  g.d_gates = call.rows_in<const T>(p.d_gates.data, kGates * l.H);
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
    const Tensor d_gates = call.matrix_in(overwrite ? saved : own, overwrite ? given.offset : 0, kGates * l.H);
    gradients_by_library<T>(call, d, g, grads, output, d_gates, {call, given.cells_as_they_lie(call), overwrite});
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
  const PlainTensors plain_tensors;
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
  const Tensor states = Call::held(with_plain_rows(output)), activations = Call::held(saved.contiguous());
  for (const OptionalTensor& grad : {grad_rows, of_h_n, of_c_n}) Call::hold(grad);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, input.scalar_type(), "masked_lstm_backward", [&] {
    for (int64_t d = 0; d < l.D; ++d) {
      backward_direction<NativeOf<scalar_t>::type>(call, d, grad_rows, of_h_n, of_c_n, states, activations,
                                                   overwrite_saved, grads);
    }
  });
  return {grads.input, grads.h_0, grads.c_0, grads.weights, grads.scores};
}

// ---- Calls together -----------------------------------------------------------------------------------------------------

namespace {

thread_local CallsTogether* current = nullptr;

bool suit(const Calls& calls, const variable_list& tensors, int64_t first) {
  constexpr int64_t kMostUnits = 128;
  const Choices& chosen = choices();
  if (calls.size < 2 || chosen.recurrence == Choice::library || chosen.products == Choice::library) return false;
  const auto of_call = [&](int64_t k) { return calls.leading[size_t(k)] ? tensors[k].select(0, 0) : tensors[k]; };
  const Tensor input = of_call(first + kInput), weight_hh = of_call(first + kWeights + 1);
  if (input.dim() != 3 || weight_hh.dim() != 2 || input.scalar_type() != at::kFloat || input.numel() == 0) return false;
  const int64_t rows = input.size(0) * input.size(1), I = input.size(2), H = weight_hh.size(1);
  const Device device = gpu::device_of(input);
  if (H > kMostUnits || !has_recurrence(device, H, input.size(0), input.size(1))) return false;
  const auto operations = [&](int64_t columns) { return 2.0 * double(rows * kGates * H * columns); };
  return !use_library(operations(I), I, at::kFloat) && !use_library(operations(2 * I + H), rows, at::kFloat);
}

}  // namespace

CallsTogether::CallsTogether(const Calls& calls, const variable_list& tensors, int64_t first)
    : suits_(suit(calls, tensors, first)), count_(calls.size) {}
CallsTogether::~CallsTogether() {
  if (current == this) current = nullptr;
}
CallsTogether* CallsTogether::collecting() { return current; }

void CallsTogether::next_call() {
  if (!suits_) return;
  constexpr int64_t kMost = 16;  // of a launch, see Together in block.cuh: to note more would only take memory
  if (noted_ == kMost) {
    start();
    noted_ = 0;
  }
  ++noted_;
  current = this;
  launches_.next_call();
}
void CallsTogether::start() {
  launches_.start(stream_);
  launches_ = {};
  held_.clear();
}
void CallsTogether::take_part(Device& device) {
  stream_ = device.stream.stream;
  device.stream.collected = &launches_;
  device.calls = count_;
}
void CallsTogether::end() {
  if (!suits_) return;
  current = nullptr;
  start();
}

}  // namespace seam::gpu

// Checks of a layer's arguments; each error is one sentence.
#include "layer.h"

#include <limits>

namespace seam {

namespace {

const char* const kNames[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"};

bool is_short(const Tensor& t) { return t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kHalf; }

// Weights are like input; or float32 where input is short, as under autocast.
void check_weight(const Tensor& t, const Tensor& input, const std::string& name) {
  if (is_short(input) && t.scalar_type() == at::kFloat && t.device() == input.device()) return;
  check_same_kind(t, input, name);
}

// Whether the checks of a score would pass: asked first, because they need a name, which costs an allocation.
bool is_alike(const Tensor& t, const Tensor& other) {
  return t.scalar_type() == other.scalar_type() && t.device() == other.device() && t.sizes() == other.sizes();
}

}  // namespace

LayerSizes check_layer(const Accepted& accepted, const LayerArguments& arguments) {
  const auto& [input, h_0, c_0, weights, scores, lengths] = arguments;
  TORCH_CHECK_TYPE(input.device().type() == accepted.device, "input must be on ", accepted.device, ", but is on ",
                   input.device());
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat || input.scalar_type() == at::kDouble ||
                       (accepted.short_types && is_short(input)),
                   "input must be float32 or float64", accepted.short_types ? ", bfloat16 or float16" : "", ", but is ",
                   input.scalar_type());
  TORCH_CHECK_VALUE(input.dim() == 3, "input must have shape (T, B, I), but has ", input.sizes());
  const size_t count = weights.size();
  TORCH_CHECK_VALUE(count == 2 || count == 4 || count == 8, "weights must hold 2 or 4 tensors a direction, but holds ",
                    count);
  TORCH_CHECK_VALUE(scores.size() == count, "scores must hold as many entries as weights, ", count, ", but holds ",
                    scores.size());
  LayerSizes l;
  l.per_direction = count == 2 || weights[2].dim() == 2 ? 2 : 4;
  l.D = int64_t(count) / l.per_direction;
  TORCH_CHECK_VALUE(l.D <= 2, "weights must be of 1 or 2 directions, but holds ", count, " matrices");
  l.T = input.size(0), l.B = input.size(1), l.I = input.size(2);
  TORCH_CHECK_VALUE(weights[1].dim() == 2, "weight_hh must have shape (4H, H), but has ", weights[1].sizes());
  l.H = weights[1].size(1);
  TORCH_CHECK_VALUE(l.T >= 1, "input must have at least one time step, but has shape ", input.sizes());
  TORCH_CHECK_VALUE(l.H >= 1 && l.I >= 1, "hidden and input size must be at least 1, but are ", l.H, " and ", l.I);
  constexpr int64_t limit = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(l.T <= limit && l.B <= limit, "input may have at most 2^31 - 1 steps and sequences, but has ",
                    input.sizes());
  for (size_t i = 0; i < count; ++i) {
    const int64_t kind = int64_t(i) % l.per_direction;
    const std::string name = std::string(kNames[kind]) + (int64_t(i) < l.per_direction ? "" : "_reverse");
    const int64_t matrix[] = {kGates * l.H, kind == 0 ? l.I : l.H}, vector[] = {kGates * l.H};
    const at::IntArrayRef expected = kind < 2 ? at::IntArrayRef(matrix) : at::IntArrayRef(vector);
    check_weight(weights[i], input, name);
    check_shape(weights[i], expected, name);
    if (scores[i] && !is_alike(*scores[i], weights[i])) {
      check_same_kind(*scores[i], weights[i], "the score of " + name);
      check_shape(*scores[i], expected, "the score of " + name);
    }
  }
  for (const auto& [state, name] : {std::pair(h_0, "h_0"), std::pair(c_0, "c_0")}) {
    if (!state) continue;
    check_same_kind(*state, input, name);
    check_shape(*state, {l.D, l.B, l.H}, name);
  }
  if (lengths) {
    TORCH_CHECK_TYPE(
        lengths->scalar_type() == at::kLong && lengths->device() == input.device() && lengths->is_contiguous(),
        "lengths must be a contiguous int64 tensor on ", input.device(), ", where input is, but is ",
        lengths->scalar_type(), " on ", lengths->device());
    check_shape(*lengths, {l.B}, "lengths");
    if (!lengths->is_cpu())
      return l;  // reading them would synchronise with the device, whose kernels clamp them to [0, T]
    const int64_t* n = lengths->const_data_ptr<int64_t>();
    for (int64_t b = 0; b < l.B; ++b) {
      TORCH_CHECK_VALUE(0 <= n[b] && n[b] <= l.T, "lengths must lie between 0 and the ", l.T,
                        " steps of input, but holds ", n[b], " for sequence ", b);
    }
  }
  return l;
}

void check_backward(const LayerSizes& l, const LayerBackwardArguments& arguments, int64_t saved_size, size_t weights,
                    size_t scores) {
  const Tensor &input = arguments.forward.input, &output = arguments.output, &saved = arguments.saved;
  const OptionalTensor& grad_output = arguments.grad_output;
  const size_t count = size_t(l.D * l.per_direction);
  check_shape(output, {l.T, l.B, l.D * l.H}, "output");
  check_same_kind(output, input, "output");
  check_shape(saved, {saved_size}, "saved");
  check_same_kind(saved, input, "saved");
  for (const auto& [t, name] : {std::pair(arguments.grad_h_n, "grad_h_n"), std::pair(arguments.grad_c_n, "grad_c_n")}) {
    if (!t) continue;
    check_same_kind(*t, input, name);
    check_shape(*t, {l.D, l.B, l.H}, name);
  }
  if (grad_output) {
    check_same_kind(*grad_output, input, "grad_output");
    check_shape(*grad_output, output.sizes(), "grad_output");
  }
  TORCH_CHECK_VALUE(weights == count && scores == count, "need_weights and need_scores must hold ", count,
                    " entries, but hold ", weights, " and ", scores);
}

}  // namespace seam

// The parameters of the training kernels on a GPU, and their scratch memory.
#include "seam_trainer_cuda_impl.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "common/adam_constants.h"
#include "seam_trainer_cuda.h"

namespace seam::gpu {

namespace {

enum class Steps { automatic, cluster, wide };
std::atomic<Steps> chosen_steps = Steps::automatic;

// Divides memory among several arrays, each of which begins at a multiple of 16 bytes.
int64_t padded(int64_t count) { return (count + 3) / 4 * 4; }
template <size_t N>
int64_t size_of(const int64_t (&sizes)[N]) {
  int64_t size = 0;
  for (const int64_t s : sizes) size += padded(s);
  return size;
}
template <size_t N>
void divide_memory(float* at, float** const (&pointers)[N], const int64_t (&sizes)[N]) {
  for (size_t i = 0; i < N; ++i) {
    *pointers[i] = at;
    at += padded(sizes[i]);
  }
}

}  // namespace

void choose_steps(const std::string& steps) {
  TORCH_CHECK_VALUE(steps == "automatic" || steps == "cluster" || steps == "wide",
                    "steps must be 'automatic', 'cluster' or 'wide', but is '", steps, "'");
  chosen_steps = steps == "cluster" ? Steps::cluster : steps == "wide" ? Steps::wide : Steps::automatic;
}

Scored CudaTrainer::scored(int w) const {
  return {tensors_.weights[w].const_data_ptr<float>(),
          score_state<float>(tensors_.scores[w], tensors_.exp_avg[w], tensors_.exp_avg_sq[w]),
          adam_rule<float>(kBeta1, kBeta2, kEps, options_.penalty[w])};
}

RowsParams CudaTrainer::rows_params() {
  const Scored all = scored(kEmbedding);
  const double penalty = all.rule.penalty;
  return {int32_t(E_),
          all.state,
          all.rule,
          options_.lazy_update == "quadrature",
          first_,
          step_on_device_,
          beta2_power_on_device_,
          rules_on_device_.get<QuadratureRule<float>>(0, device_),
          float(lr_),
          penalty * penalty};
}

HeadParams CudaTrainer::head_params(const std::vector<Tensor>& adam, int64_t batch) {
  float* const scratch = head_scratch_.get<float>(batch * (C_ + 3), device_);
  return {int32_t(C_),
          float(options_.target_weight),
          score_state<float>(tensors_.head[0], adam[0], adam[1]),
          score_state<float>(tensors_.head[1], adam[2], adam[3]),
          adam_rule<float>(kBeta1, kBeta2, kEps, 0),
          scratch,
          scratch + batch * C_,
          scratch + batch * (C_ + 2)};
}

float CudaTrainer::total(const float* target_probability, int64_t from, int64_t to) const {
  if (options_.target_weight == 1) return float(to - from);
  double sum = 0;
  for (int64_t i = from; i < to; ++i)
    sum += target_probability[i] * options_.target_weight + (1.0f - target_probability[i]);
  return float(sum);
}

// Whether the whole GPU takes the steps of batches of so many documents. A cluster takes about as long for half a
// million products a time step as ten launches do (an estimate): 16 documents of the R8 size.
bool CudaTrainer::takes_wide(const gpu::Device& device, int64_t batch) const {
  constexpr int64_t kMostProducts = 500'000;
  if (chosen_steps == Steps::cluster || !is_wide(device, H_, batch)) return false;
  return chosen_steps == Steps::wide || kGates * H_ * (E_ + H_) * batch > kMostProducts;
}

TrainParams CudaTrainer::params() {
  TrainParams p = {};
  p.E = int32_t(E_), p.H = int32_t(H_);
  p.read_last_word = options_.read_last_word, p.train_head = options_.train_head;
  p.rows_by_four = E_ % 4 == 0;
  for (const auto* list : {&tensors_.weights, &tensors_.scores, &tensors_.exp_avg, &tensors_.exp_avg_sq}) {
    p.rows_by_four &= reinterpret_cast<uintptr_t>((*list)[kEmbedding].const_data_ptr()) % 16 == 0;
  }
  p.embedding = tensors_.weights[kEmbedding].const_data_ptr<float>();
  p.id_of_row = id_of_row_.get<int32_t>(0, device_);
  p.weight_ih = scored(kWeightIh), p.weight_hh = scored(kWeightHh);
  p.bias_ih = scored(kBiasIh), p.bias_hh = scored(kBiasHh);
  p.linear = scored(kLinear), p.linear_bias = scored(kLinearBias);
  p.head_step = head_step_on_device_;
  p.bad = bad_.get<int32_t>(kBadFlags + kReasons, device_);
  p.reasons = p.bad + kBadFlags;
  return p;
}

void CudaTrainer::take_recurrence(TrainParams& p) {
  const int64_t T = p.T, batch = p.batch;
  const int64_t U = plan_.most_words, G = kGates * H_, positions = T * batch;
  float** const pointers[] = {&p.x,   &p.w_ih, &p.w_hh,  &p.gates,   &p.cells,   &p.output,
                              &p.h_n, &p.c_n,  &p.d_h_n, &p.d_words, &p.d_logits};
  const int64_t sizes[] = {U * E_,     2 * G * E_, G * H_,     positions * G, positions * H_, (positions + batch) * H_,
                           batch * H_, batch * H_, batch * H_, U * G,         batch * C_};
  divide_memory(scratch_.get<float>(size_of(sizes), device_), pointers, sizes);
  const StridedView<float> gates = {p.gates, batch * G, G}, cells = {p.cells, batch * H_, H_};
  const MaskedNumbers w_hh = {p.w_hh};
  p.forward.hidden = p.backward.hidden = H_;
  p.forward.weight_hh = p.backward.weight_hh = w_hh;
  p.forward.bias_ih = {p.bias_ih.weight, p.bias_ih.state.score};
  p.forward.bias_hh = {p.bias_hh.weight, p.bias_hh.state.score};
  p.forward.gates = p.backward.d_gates = gates;
  p.forward.cells = cells;
  p.forward.output = {p.output + batch * H_, batch * H_, H_};
  p.forward.h_n = p.h_n, p.forward.c_n = p.c_n;
  p.backward.gates = {p.gates, batch * G, G};
  p.backward.cells = {p.cells, batch * H_, H_};
  p.backward.grad_h_n = p.d_h_n;
}

WideScratch CudaTrainer::wide_scratch() {
  const int64_t G = kGates * H_, words = plan_.most_words;
  const int64_t position_parts = (plan_.most_positions + kWidePositions - 1) / kWidePositions,
                of_words = (words + kWideWords - 1) / kWideWords;
  WideScratch w = {};
  float** const pointers[] = {&w.projected, &w.of_pieces, &w.of_w_hh, &w.of_w_ih};
  const int64_t sizes[] = {words * G, plan_.most_pieces * G, position_parts * G * (H_ + 1), of_words * G * E_};
  divide_memory(wide_.get<float>(size_of(sizes), device_), pointers, sizes);
  w.flags = wide_flags_.get<int32_t>(kWideFlags, device_);
  return w;
}

void CudaTrainer::take_gate_rows(TrainParams& p, const GateRowLayout& layout) {
  const int64_t batch = p.batch;
  GateRowScratch& to = p.rows_of_gates;
  p.layout = layout;
  const int64_t G = kGates * H_, words = layout.words, positions = layout.positions;
  float** const pointers[] = {&to.x,      &to.w_ih,     &to.w_hh,     &to.projected, &to.d_gates,
                              &to.hidden, &to.state_ih, &to.state_hh, &p.h_n,        &p.d_logits};
  const int64_t sizes[] = {2 * words * layout.pitch_e,
                           2 * G * layout.pitch_e,
                           int64_t{4} * kUnitStride * padded_units(int32_t(H_)),
                           words * G,
                           positions * G,
                           positions * layout.pitch_h,
                           int64_t{4} * layout.blocks * layout.numbers_ih(),
                           int64_t{4} * layout.blocks * layout.numbers_hh(int32_t(H_)),
                           batch * H_,
                           batch * C_};
  const int64_t size = size_of(sizes);
  float* const memory = gate_rows_.get<float>(size, device_);
  // What is behind the last column of a row is zero and stays so; arrays of other sizes begin elsewhere.
  if (std::memcmp(&layout, &last_layout_, sizeof(layout)) != 0 || memory != last_memory_) gate_rows_.clear();
  last_layout_ = layout, last_memory_ = memory;
  divide_memory(memory, pointers, sizes);
}

}  // namespace seam::gpu

// The training engine on a GPU: its calls, and the rows of the embedding that are updated lazily.
#include "seam_trainer_cuda.h"

#include "seam_trainer_cuda_impl.h"

#include <c10/core/DeviceGuard.h>

#include <cmath>
#include <tuple>

#include "class_logits_cuda.h"
#include "common/adam_constants.h"
#include "common/score_update.h"
#include "masked_lstm_cuda.h"

namespace seam::gpu {

CudaTrainer::CudaTrainer(SeamTrainerTensors tensors, const SeamTrainerOptions& options)
    : TrainerBase(std::move(tensors), options),
      rows_(tensors_.fed_ids.numel()),
      device_(tensors_.weights[kEmbedding].options()),
      plan_(tensors_.fed_ids.const_data_ptr<int64_t>(), rows_, options.lazy_update == "off"),
      live_trainers_(device_.device().index()) {
  const int64_t* row = tensors_.fed_ids.const_data_ptr<int64_t>();
  id_of_row_.put(std::vector<int32_t>(row, row + rows_), device_);
  rule_ = adam_rule<float>(kBeta1, kBeta2, kEps, options_.penalty[kEmbedding]);
  rules_.resize(kMaxSkippedSteps + 1);
  has_rule_.resize(kMaxSkippedSteps + 1);
  put_tables();
  read_untouched_state();
}

void CudaTrainer::begin_epoch(double lr_mask, double lr_head, int64_t steps) {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  check_epoch(lr_mask, lr_head, now_, steps);
  flush_rows();  // what was missed so far was missed at another rate
  first_ = now_;
  step_.resize(steps);
  head_step_.resize(steps);
  beta2_power_.resize(steps + 1);
  for (int64_t i = 0; i <= steps; ++i) beta2_power_[i] = std::pow(kBeta2, double(now_ + i));
  for (int64_t i = 0; i < steps; ++i) {
    step_[i] = adam_step_constants<float>(kBeta1, kBeta2, lr_mask, now_ + i + 1);
    head_step_[i] = adam_step_constants<float>(kBeta1, kBeta2, lr_head, now_ + i + 1);
  }
  tables_are_new_ = true;
  lr_ = lr_mask;
  lr_head_ = lr_head;
}

std::tuple<std::vector<double>, SeamFailure> CudaTrainer::train(const Tensor& score_rows, const Tensor& lengths,
                                                                const Tensor& target_probability, int64_t batch,
                                                                int64_t begin, int64_t end) {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  begin_run(score_rows, lengths, target_probability, batch, begin, end);
  const gpu::Device device = gpu::device_of(tensors_.weights[kEmbedding]);
  for (size_t i = 0; i < launches(); ++i) {
    plan_launch(i);
    const TrainParams p = prepare_launch(device, i);
    if (p.layout.blocks) train_gate_rows(device, &p, 1);
    print_profile(p);
  }
  end_run();
  wait_for(device);
  return finish_run();
}

std::tuple<std::vector<double>, SeamFailure> CudaTrainer::train_head(const Tensor& features,
                                                                     const Tensor& target_probability, int64_t batch,
                                                                     int64_t begin, int64_t end) {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  begin_head_run(features, target_probability, batch, begin, end);
  if (head_.steps == 0) return {{}, {}};
  const gpu::Device device = gpu::device_of(tensors_.weights[kEmbedding]);
  gpu::train_head(device, &head_.p, 1);
  end_head_run();
  wait_for(device);
  return finish_head_run();
}

void CudaTrainer::flush() {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  flush_rows();
}

void CudaTrainer::load_state(int64_t steps, int64_t head_steps) {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  check_loaded_steps(steps, head_steps);
  now_ = first_ = steps;
  step_.clear();
  plan_.load_state(steps);
  read_untouched_state();
  head_steps_ = head_steps;
  failed_ = flushed_ = false;
  steps_.store(steps + head_steps, std::memory_order_relaxed);
}

Tensor CudaTrainer::class_logits(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths) {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  return read(logits_documents_, ids, score_rows, lengths);
}

Tensor CudaTrainer::base_logits(const Tensor& ids, const Tensor& lengths) {
  return gpu::class_logits(tensors_.weights, ids, lengths, options_.read_last_word);
}

SeamEvaluation CudaTrainer::evaluate(const OptionalTensor& ids, const OptionalTensor& score_rows,
                                     const OptionalTensor& lengths) {
  const ExclusiveUse use(*this);
  const c10::DeviceGuard guard(device_.device());
  begin_evaluation(ids, score_rows, lengths);
  wait_for(gpu::device_of(tensors_.weights[kEmbedding]));
  return finish_evaluation();
}

void CudaTrainer::check_whole() const {
  TORCH_CHECK_VALUE(!failed_,
                    "a step of this trainer has failed; make a new one, or set its scores and call load_state");
}

// ---- Rows of the embedding ------------------------------------------------------------------------------------------

void CudaTrainer::put_tables() {
  std::tie(step_on_device_, head_step_on_device_, beta2_power_on_device_) =
      tables_on_device_.put_all(device_, step_, head_step_, beta2_power_);
  tables_are_new_ = false;
}

void CudaTrainer::read_untouched_state() {
  for (int i = 0; i < 3; ++i) {
    const Tensor& state = (i == 0 ? tensors_.scores : i == 1 ? tensors_.exp_avg : tensors_.exp_avg_sq)[kEmbedding];
    untouched_[i] = state.select(0, rows_).select(0, 0).item<float>();
  }
}

const std::vector<float>& CudaTrainer::untouched_states(int64_t steps) {
  float score = untouched_[0], m = untouched_[1], v = untouched_[2];
  untouched_states_.assign({score, m, v});
  for (int64_t i = 0; i < steps; ++i) {
    adam_step<Exact<float>>(rule_, step_[now_ - first_ + i], rule_.penalty, score, m, v);
    untouched_states_.insert(untouched_states_.end(), {score, m, v});
  }
  return untouched_states_;
}

void CudaTrainer::need_rule(int64_t from, int64_t now) {
  while (from != kUntouched && from < now) {
    const int64_t count = std::min(now - from, kMaxSkippedSteps);
    if (!has_rule_[count] && uses_closed_form(from, count)) {
      rules_[count] = quadrature_rule<float>(count);
      has_rule_[count] = true;
      new_rules_ = true;
    }
    from += count;
  }
}

void CudaTrainer::copy_rules() {
  if (new_rules_) rules_on_device_.put(rules_, device_);
  new_rules_ = false;
}

void CudaTrainer::need_rules(int64_t now) {
  if (options_.lazy_update != "quadrature") return;
  for (size_t s = 0; s + EpochPlan::kBehind < plan_.steps.size(); ++s) {
    const PlanStep& step = plan_.steps[s];
    for (int32_t i = 0; i < step.stale; ++i)
      need_rule(plan_.numbers[step.stale_at + kStaleNumbers * i + 1], now + int64_t(s));
  }
  copy_rules();
}

void CudaTrainer::flush_rows() {
  if (failed_ || flushed_) return;
  failed_ = true;  // until it has gone well
  plan_.flush(now_, stale_);
  stale_.insert(stale_.end(), {int32_t(rows_), kUntouched, kNone});
  if (options_.lazy_update == "quadrature") {
    for (size_t i = 1; i < stale_.size(); i += kStaleNumbers) need_rule(stale_[i], now_);
    copy_rules();
  }
  FlushParams p = {rows_params(),
                   now_,
                   int64_t(stale_.size()) / kStaleNumbers,
                   stale_on_device_.put(stale_, device_),
                   {untouched_[0], untouched_[1], untouched_[2]}};
  gpu::flush(gpu::device_of(tensors_.weights[kEmbedding]), p);
  failed_ = false, flushed_ = true;
}

// ---- The functions of seam_trainer_cuda.h ---------------------------------------------------------------------------

int64_t modules_at_once(const Tensor& like, int64_t hidden, int64_t batch) {
  const c10::DeviceGuard guard(like.device());
  return modules_at_once(gpu::device_of(like), hidden, batch);
}

std::shared_ptr<SeamTrainer> make_trainer(SeamTrainerTensors t, const SeamTrainerOptions& options) {
  check_trainer(t, options, {t.weights.empty() ? c10::kCPU : t.weights[0].device().type(), false});
  const int64_t H = t.weights[kWeightHh].size(1), C = t.weights[kLinear].size(0);
  TORCH_CHECK_VALUE(C <= kMostClasses, "the engine on a GPU takes bases of up to ", int64_t(kMostClasses),
                    " classes, but this one has ", C);
  TORCH_CHECK_VALUE(modules_at_once(t.weights[kEmbedding], H, 1) > 0, "the engine on this GPU takes bases of up to ",
                    kMostHiddenUnits, " hidden units (64 where blocks form no clusters), but this one has ", H);
  // The kernel of keep_bits.cuh numbers them in 32 bits, by words of 32.
  TORCH_CHECK_VALUE(t.scores[kEmbedding].numel() < (int64_t{1} << 31) - 32,
                    "the engine on a GPU takes up to 2^31 scores of the "
                    "embedding, but this base and corpus have ",
                    t.scores[kEmbedding].numel());
  const c10::DeviceGuard guard(t.weights[kEmbedding].device());
  return std::make_shared<CudaTrainer>(std::move(t), options);
}

}  // namespace seam::gpu

// An epoch of a module on a GPU in stages: its steps in launches of some hundred, each planned while the GPU takes the
// one before.
#include "seam_trainer_cuda_impl.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "common/adam_constants.h"
#include "masked_lstm_cuda.h"

namespace seam::gpu {

void CudaTrainer::begin_staged(const EpochRequest& e, const DrawnDocuments::Epoch& drawn) {
  TORCH_CHECK_VALUE(e.batch >= 1, "batch must be at least 1");
  const int64_t N = drawn.score_rows.size(0);
  const Tensor features = e.head_only ? class_logits(drawn.ids, drawn.score_rows, drawn.lengths) : Tensor();
  begin_epoch(e.lr_mask, e.lr_head, e.head_only ? 0 : (N + e.batch - 1) / e.batch);
  const ExclusiveUse use(*this);
  run_ = {}, head_ = {};  // whatever an epoch that was never taken has left
  if (e.head_only) begin_head_run(features, drawn.target_probability, e.batch, 0, N);
  else begin_run(drawn.score_rows, drawn.lengths, drawn.target_probability, e.batch, 0, N);
}

TrainParams CudaTrainer::prepare_launch(const gpu::Device& device, size_t i) {
  TrainParams p = run_.p;
  const int64_t before = run_.taken[i];
  p.now = now_ + before;
  p.steps = int32_t(run_.taken[i + 1] - before);
  p.target_probability += before * run_.batch, p.untouched += 3 * before, p.losses += before, p.outcome += i;
  if (!run_.wide) {
    const GateRowSizes sizes = {int32_t(E_),      int32_t(H_),          int32_t(C_),     plan_.most_length,
                                plan_.most_words, plan_.most_positions, plan_.most_lists};
    const GateRowLayout layout = gate_row_layout(device, sizes, live_trainers_.modules());
    if (layout.blocks) {
      put_plan(p);
      take_gate_rows(p, layout);
      start_profile(p);
      return p;
    }
    plan_.undo();
    plan_launch(i, EpochPlan::by_time);
  }
  put_plan(p);
  take_recurrence(p);
  if (run_.wide) train_wide(device, p, wide_scratch(), plan_.steps.data());
  else gpu::train(device, p);
  return p;
}

void CudaTrainer::end_staged(const EpochRequest& e) {
  const ExclusiveUse use(*this);
  if (e.head_only) end_head_run();
  else end_run();
  begin_evaluation(e.evaluation_documents.ids, e.evaluation_documents.score_rows, e.evaluation_documents.lengths);
}

SeamEpoch CudaTrainer::finish_staged(const EpochRequest& e) {
  const ExclusiveUse use(*this);
  const auto [losses, failure] = e.head_only ? finish_head_run() : finish_run();
  return concluded(losses, failure, finish_evaluation(), e.evaluation_documents);
}

// ---- Steps with scores ----------------------------------------------------------------------------------------------

void CudaTrainer::begin_run(const Tensor& score_rows, const Tensor& lengths, const Tensor& target_probability,
                            int64_t batch, int64_t begin, int64_t end) {
  check_documents(score_rows, at::kInt, "score_rows", lengths, begin, end, batch);
  const int64_t whole = batch;  // what is left of an epoch goes the way that all of it goes
  batch = std::min(batch, std::max<int64_t>(end - begin, 1));
  check_target_probability(target_probability, score_rows.size(0));
  check_score_rows(score_rows, begin, end, rows_ - 1);
  const int64_t steps = (end - begin + batch - 1) / batch, T = score_rows.size(1);
  check_steps_left(steps, int64_t(step_.size()) - (now_ - first_));
  check_whole();
  run_ = {score_rows, lengths, target_probability, batch, begin, end};
  if (steps == 0) return;
  TORCH_CHECK_VALUE(T * batch < (int64_t{1} << 30) / std::max(kGates * H_, E_), "batches of ", batch, " documents of ",
                    T, " words are too large for one launch; choose smaller ones, or backend 'torch'");
  // A plan is made while the GPU takes the steps of the one before: the first is short, so that it need not wait for
  // long.
  constexpr int64_t kFirst = 32, kMost = 512;
  for (int64_t most = kFirst; run_.taken.back() < steps; most = std::min(2 * most, kMost)) {
    run_.taken.push_back(std::min(run_.taken.back() + most, steps));
  }
  failed_ = true;  // until it has gone well: from here on the plan takes the steps for taken
  flushed_ = false;
  if (tables_are_new_) put_tables();
  const float* const probability = target_probability.const_data_ptr<float>();
  TrainParams& p = run_.p = params();
  p.T = int32_t(T), p.batch = int32_t(batch);
  p.head = head_params(tensors_.head_joint_moments, batch);
  std::tie(p.target_probability, p.untouched) = documents_on_device_.put_all(
      device_, std::vector<float>(probability + begin, probability + end), untouched_states(steps));
  std::tie(p.outcome, p.losses) = results_on_device(launches(), steps);
  run_.wide = takes_wide(gpu::device_of(tensors_.weights[kEmbedding]), whole);
}

void CudaTrainer::plan_launch(size_t i, EpochPlan::FlatOrder order) {
  const int64_t first = run_.begin + run_.taken[i] * run_.batch;
  const int64_t last = std::min(run_.begin + run_.taken[i + 1] * run_.batch, run_.end);
  const float* const probability = run_.target_probability.const_data_ptr<float>();
  plan_.make(order, run_.score_rows.const_data_ptr<int32_t>(),
             options_.read_last_word ? run_.lengths.const_data_ptr<int64_t>() : nullptr, run_.p.T, run_.batch, first,
             last, now_ + run_.taken[i], [&](int64_t from, int64_t to) { return total(probability, from, to); });
}

void CudaTrainer::put_plan(TrainParams& p) {
  TORCH_CHECK_VALUE(plan_.numbers.size() < size_t{1} << 31,
                    "the plan of so many steps is too large; take fewer at once");
  std::tie(p.plan, p.numbers) = plan_on_device_.put_all(device_, plan_.steps, plan_.numbers);
  need_rules(p.now);
  p.rows = rows_params();
}

void CudaTrainer::end_run() {
  const int64_t steps = run_.taken.back();
  if (steps == 0) return;
  run_.results = copy_results_to_host(launches(), steps);
  for (int k = 0; k < 3; ++k) untouched_[k] = untouched_states_[3 * steps + k];
  now_ += steps;
  failed_ = false;
}

// ---- Results --------------------------------------------------------------------------------------------------------

namespace {

int64_t bytes_of_outcomes(size_t launches) { return (int64_t(launches * sizeof(Outcome)) + 15) / 16 * 16; }

std::tuple<const Outcome*, const float*> read_results(const Tensor& results, size_t launches) {
  const auto* const from = static_cast<const uint8_t*>(results.const_data_ptr());
  return {reinterpret_cast<const Outcome*>(from), reinterpret_cast<const float*>(from + bytes_of_outcomes(launches))};
}

// Of several launches, the i-th of which had the steps from taken[i] on, the first that failed, or the last; and the
// steps until then.
std::pair<Outcome, int64_t> first_that_failed(const Outcome* outcomes, const std::vector<int64_t>& taken) {
  size_t i = 0;
  while (i + 2 < taken.size() && outcomes[i].what < 0) ++i;
  return {outcomes[i], taken[i] + outcomes[i].steps};
}

std::tuple<std::vector<double>, SeamFailure> losses_and_failure(const Outcome& outcome, const float* losses,
                                                                int64_t steps) {
  SeamFailure failure;
  if (outcome.what >= 0) failure = {outcome.what, outcome.loss};
  return {{losses, losses + steps}, failure};
}

}  // namespace

std::tuple<Outcome*, float*> CudaTrainer::results_on_device(size_t launches, int64_t steps) {
  const int64_t losses_at = bytes_of_outcomes(launches);
  uint8_t* const to = results_.get<uint8_t>(losses_at + steps * int64_t(sizeof(float)), device_);
  return {reinterpret_cast<Outcome*>(to), reinterpret_cast<float*>(to + losses_at)};
}

Tensor CudaTrainer::copy_results_to_host(size_t launches, int64_t steps) const {
  return results_.fetch<uint8_t>(bytes_of_outcomes(launches) + steps * int64_t(sizeof(float)));
}

std::tuple<std::vector<double>, SeamFailure> CudaTrainer::finish_run() {
  const Run run = std::exchange(run_, {});
  if (run.taken.back() == 0) return {};
  const auto [outcomes, loss] = read_results(run.results, run.taken.size() - 1);
  const auto [outcome, steps] = first_that_failed(outcomes, run.taken);
  steps_.fetch_add(steps, std::memory_order_relaxed);
  failed_ |= outcome.what >= 0;
  return losses_and_failure(outcome, loss, steps);
}

// ---- Steps of the head alone ----------------------------------------------------------------------------------------

void CudaTrainer::begin_head_run(const Tensor& features, const Tensor& target_probability, int64_t batch, int64_t begin,
                                 int64_t end) {
  check_features(features);
  check_range(begin, end, features.size(0), batch);
  check_target_probability(target_probability, features.size(0));
  batch = std::min(batch, std::max<int64_t>(end - begin, 1));
  const int64_t steps = (end - begin + batch - 1) / batch;
  head_ = {features, steps};
  if (steps == 0) return;
  check_whole();
  std::vector<AdamStep<float>> step(steps);
  for (int64_t i = 0; i < steps; ++i)
    step[i] = adam_step_constants<float>(kBeta1, kBeta2, lr_head_, head_steps_ + i + 1);
  const float* const probability = target_probability.const_data_ptr<float>();
  TrainHeadParams& p = head_.p;
  p.head = head_params(tensors_.head_only_moments, batch);
  p.documents = int32_t(end - begin), p.batch = int32_t(batch);
  p.features = features.const_data_ptr<float>() + begin * C_;
  std::tie(p.target_probability, p.step) =
      documents_on_device_.put_all(device_, std::vector<float>(probability + begin, probability + end), step);
  p.bad = bad_.get<int32_t>(kBadFlags, device_);
  std::tie(p.outcome, p.losses) = results_on_device(1, steps);
  failed_ = true;  // until it has gone well
}

void CudaTrainer::end_head_run() {
  if (head_.steps == 0) return;
  head_.results = copy_results_to_host(1, head_.steps);
  failed_ = false;
}

std::tuple<std::vector<double>, SeamFailure> CudaTrainer::finish_head_run() {
  const HeadRun run = std::exchange(head_, {});
  if (run.steps == 0) return {};
  const auto [outcomes, losses] = read_results(run.results, 1);
  const Outcome outcome = *outcomes;
  head_steps_ += outcome.steps;
  steps_.fetch_add(outcome.steps, std::memory_order_relaxed);
  failed_ |= outcome.what >= 0;
  return losses_and_failure(outcome, losses, outcome.steps);
}

// ---- Profile --------------------------------------------------------------------------------------------------------

// Where the extension is compiled with SEAM_PROFILE, each launch prints on stderr how many clocks a step took by phase
// and block. Each phase ends at the mark of its number in gate_row_steps.cuh.
#if defined(SEAM_PROFILE)

void CudaTrainer::start_profile(TrainParams& p) {
  p.profile = profile_.get<int64_t>(16 * kMarks, device_);
  profile_.clear();
}

void CudaTrainer::print_profile(const TrainParams& p) {
  if (!p.profile) return;
  const int blocks = p.layout.blocks;
  const int64_t steps = p.steps;
  constexpr const char* kNames[] = {"x arrives", "project", "meet",      "gates arrive", "forward", "head",
                                    "backward",  "",        "hand over", "meet",         "fetch",   "W_hh",
                                    "sums",      "W_ih",    "end",       "d x",          "words",   "meet"};
  const Tensor profile = profile_.fetch<int64_t>(blocks * kMarks);
  wait_for(gpu::device_of(tensors_.weights[kEmbedding]));
  const auto* const clocks = static_cast<const int64_t*>(profile.const_data_ptr());
  std::fprintf(stderr, "clocks a step over %lld steps, by phase and block\n", static_cast<long long>(steps));
  for (size_t phase = 0; phase < std::size(kNames); ++phase) {
    std::fprintf(stderr, "%-13s", kNames[phase]);
    for (int b = 0; b < blocks; ++b) {
      std::fprintf(stderr, " %6lld", static_cast<long long>(clocks[b * kMarks + phase] / steps));
    }
    std::fprintf(stderr, "\n");
  }
}

#else

void CudaTrainer::start_profile(TrainParams&) {}

void CudaTrainer::print_profile(const TrainParams&) {}
#endif

}  // namespace seam::gpu

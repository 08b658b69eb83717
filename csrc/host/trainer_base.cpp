#include "trainer_base.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/masked_lstm_params.h"

namespace seam {

namespace {

void check_tensor(const Tensor& tensor, const Tensor& first, at::IntArrayRef shape, const std::string& name) {
  check_same_kind(tensor, first, name);
  check_shape(tensor, shape, name);
  TORCH_CHECK_VALUE(tensor.is_contiguous() && !tensor.is_neg(), name, " must be contiguous");
}

}  // namespace

std::vector<std::vector<int64_t>> check_classifier(const std::vector<Tensor>& weights, const TrainerKind& kind) {
  TORCH_CHECK_VALUE(weights.size() == kWeights, "weights must hold ", int64_t(kWeights), " entries");
  const Tensor& first = weights[kEmbedding];
  TORCH_CHECK_TYPE(first.device().type() == kind.device, "weights must be on the ", c10::DeviceTypeName(kind.device),
                   ", but are on ", first.device());
  TORCH_CHECK_TYPE(first.scalar_type() == at::kFloat || (kind.takes_double && first.scalar_type() == at::kDouble),
                   "weights must be float32", kind.takes_double ? " or float64" : "", ", but are ",
                   first.scalar_type());
  for (const int w : {kEmbedding, kWeightIh, kWeightHh, kLinear}) {
    TORCH_CHECK_VALUE(weights[w].dim() == 2, "weight ", w, " must have two dimensions, but has ", weights[w].sizes());
  }
  const int64_t V = first.size(0), E = first.size(1), H = weights[kWeightHh].size(1), C = weights[kLinear].size(0);
  const int64_t G = kGates * H;
  TORCH_CHECK_VALUE(E >= 1 && H >= 1 && C >= 1 && V < std::numeric_limits<int32_t>::max(), "sizes must be at least 1");
  const std::vector<std::vector<int64_t>> shapes = {{V, E}, {G, E}, {G, H}, {G}, {G}, {C, H}, {C}};
  for (int w = 0; w < kWeights; ++w) check_tensor(weights[w], first, shapes[w], "weight " + std::to_string(w));
  return shapes;
}

void check_trainer(const SeamTrainerTensors& t, const SeamTrainerOptions& options, const TrainerKind& kind) {
  TORCH_CHECK_VALUE(t.weights.size() == kWeights && t.scores.size() == kWeights && t.exp_avg.size() == kWeights &&
                        t.exp_avg_sq.size() == kWeights && options.penalty.size() == kWeights,
                    "weights, scores, exp_avg, exp_avg_sq and penalty must hold ", int64_t(kWeights), " entries");
  TORCH_CHECK_VALUE(t.head.size() == 2 && t.head_joint_moments.size() == 4 && t.head_only_moments.size() == 4,
                    "head must hold 2 tensors and the state of each of its Adams 4");
  TORCH_CHECK_VALUE(
      options.lazy_update == "quadrature" || options.lazy_update == "replay" || options.lazy_update == "off",
      "lazy_update must be quadrature, replay or off, but is ", options.lazy_update);
  const std::vector<std::vector<int64_t>> shapes = check_classifier(t.weights, kind);
  const Tensor& first = t.weights[kEmbedding];
  TORCH_CHECK_TYPE(t.fed_ids.scalar_type() == at::kLong && t.fed_ids.device().is_cpu() && t.fed_ids.dim() == 1 &&
                       t.fed_ids.is_contiguous(),
                   "fed_ids must be a contiguous int64 tensor of one dimension on the CPU");
  const int64_t V = first.size(0), E = first.size(1), C = t.weights[kLinear].size(0), R = t.fed_ids.numel();
  auto check = [&](const Tensor& tensor, at::IntArrayRef shape, const std::string& name) {
    check_tensor(tensor, first, shape, name);
  };
  for (int w = 0; w < kWeights; ++w) {
    const std::vector<int64_t> shape = w == kEmbedding ? std::vector<int64_t>{R + 1, E} : shapes[w];
    for (const auto* state : {&t.scores, &t.exp_avg, &t.exp_avg_sq})
      check((*state)[w], shape, "a state of weight " + std::to_string(w));
  }
  const std::vector<int64_t> head_shapes[2] = {{2, C}, {2}};
  for (int i = 0; i < 2; ++i) {
    check(t.head[i], head_shapes[i], "head");
    for (const auto* adam : {&t.head_joint_moments, &t.head_only_moments}) {
      for (int j = 0; j < 2; ++j) check((*adam)[2 * i + j], head_shapes[i], "the state of the head's Adam");
    }
  }
  const int64_t* id = t.fed_ids.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < R; ++r) {
    TORCH_CHECK_VALUE(0 <= id[r] && id[r] < V, "fed_ids must be words, 0 to ", V - 1, ", but holds ", id[r]);
  }
}

TrainerBase::TrainerBase(SeamTrainerTensors tensors, const SeamTrainerOptions& options)
    : tensors_(std::move(tensors)),
      options_(options),
      E_(tensors_.weights[kWeightIh].size(1)),
      H_(tensors_.weights[kWeightHh].size(1)),
      C_(tensors_.weights[kLinear].size(0)) {
  for_each_tensor([&](const Tensor& t) { memory_.emplace_back(t.const_data_ptr(), t.numel()); });
}

TrainerBase::ExclusiveUse::ExclusiveUse(TrainerBase& trainer) : lock_(trainer.in_use_, std::try_to_lock) {
  TORCH_CHECK_VALUE(lock_.owns_lock(), "a trainer is used by one thread at a time; another one is in it");
  size_t i = 0;
  trainer.for_each_tensor([&](const Tensor& t) {
    TORCH_CHECK_VALUE(std::pair(t.const_data_ptr(), t.numel()) == trainer.memory_[i++],
                      "a tensor of this trainer has been moved or resized since it was made; make a new one");
  });
}

void TrainerBase::check_epoch(double lr_mask, double lr_head, int64_t now, int64_t steps) const {
  TORCH_CHECK_VALUE(std::isfinite(lr_mask) && std::isfinite(lr_head), "learning rates must be finite, but are ",
                    lr_mask, " and ", lr_head);
  TORCH_CHECK_VALUE(0 <= steps && steps <= kMostSteps, "an epoch must have 0 to ", kMostSteps, " steps, but has ",
                    steps);
  TORCH_CHECK_VALUE(now + steps < kMostStepsInAll, "no more than ", kMostStepsInAll, " steps can be taken");
}

void TrainerBase::check_steps_left(int64_t wanted, int64_t left) const {
  TORCH_CHECK_VALUE(wanted <= left, "more steps than begin_epoch was told");
}

void TrainerBase::check_loaded_steps(int64_t steps, int64_t head_steps) const {
  TORCH_CHECK_VALUE(0 <= steps && steps < kMostStepsInAll && 0 <= head_steps && head_steps < kMostStepsInAll,
                    "steps and head_steps must be numbers of steps taken, but are ", steps, " and ", head_steps);
}

void TrainerBase::check_range(int64_t begin, int64_t end, int64_t N, int64_t batch) {
  TORCH_CHECK_VALUE(0 <= begin && begin <= end && end <= N, "documents ", begin, " to ", end, " of ", N);
  TORCH_CHECK_VALUE(batch >= 1, "batch must be at least 1, but is ", batch);
}

void TrainerBase::check_documents(const Tensor& t, at::ScalarType type, const char* name, const Tensor& lengths,
                                  int64_t begin, int64_t end, int64_t batch) {
  TORCH_CHECK_TYPE(t.scalar_type() == type && t.device().is_cpu() && t.dim() == 2 && t.is_contiguous(), name,
                   " must be a contiguous ", type, " tensor of two dimensions on the CPU");
  if (end == kAll) end = t.size(0);
  check_range(begin, end, t.size(0), batch);
  TORCH_CHECK_TYPE(lengths.scalar_type() == at::kLong && lengths.device().is_cpu() && lengths.is_contiguous(),
                   "lengths must be a contiguous int64 tensor on the CPU");
  check_shape(lengths, {t.size(0)}, "lengths");
  TORCH_CHECK_VALUE(t.size(1) >= 1, "documents must have at least one position");
  const int64_t* n = lengths.const_data_ptr<int64_t>();
  for (int64_t i = begin; i < end; ++i) {
    TORCH_CHECK_VALUE(1 <= n[i] && n[i] <= t.size(1), "lengths must lie between 1 and ", t.size(1), ", but holds ",
                      n[i], " for document ", i);
  }
}

void TrainerBase::check_score_rows(const Tensor& score_rows, int64_t begin, int64_t end, int64_t most) const {
  const int64_t T = score_rows.size(1);
  const int32_t* score_row = score_rows.const_data_ptr<int32_t>();
  for (int64_t i = begin * T; i < end * T; ++i) {
    TORCH_CHECK_VALUE(0 <= score_row[i] && score_row[i] <= most, "score_rows must be rows of scores, 0 to ", most,
                      ", but holds ", score_row[i]);
  }
}

void TrainerBase::check_words(const Tensor& ids, int64_t V) {
  const int64_t* word = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    TORCH_CHECK_VALUE(0 <= word[i] && word[i] < V, "ids must be words, 0 to ", V - 1, ", but holds ", word[i]);
  }
}

void TrainerBase::check_evaluation_documents(const Tensor& ids, const Tensor& score_rows, const Tensor& lengths,
                                             int64_t rows) const {
  check_documents(ids, at::kLong, "ids", lengths, 0, kAll, 1);
  check_documents(score_rows, at::kInt, "score_rows", lengths, 0, kAll, 1);
  check_shape(score_rows, ids.sizes(), "score_rows");
  check_words(ids, tensors_.weights[kEmbedding].size(0));
  check_score_rows(score_rows, 0, score_rows.size(0), rows);
}

void TrainerBase::check_features(const Tensor& features) const {
  TORCH_CHECK_VALUE(features.dim() == 2, "features must have shape (N, C), but has ", features.sizes());
  check_same_kind(features, tensors_.head[0], "features");
  check_shape(features, {features.size(0), C_}, "features");
  TORCH_CHECK_VALUE(features.is_contiguous(), "features must be contiguous");
}

void TrainerBase::check_target_probability(const Tensor& target_probability, int64_t N) const {
  const at::ScalarType dtype = tensors_.head[0].scalar_type();
  TORCH_CHECK_TYPE(target_probability.device().is_cpu() && target_probability.scalar_type() == dtype,
                   "target_probability must have input's dtype ", dtype, " and be on the CPU, but is ",
                   target_probability.scalar_type(), " on ", target_probability.device());
  check_shape(target_probability, {N}, "target_probability");
  TORCH_CHECK_VALUE(target_probability.is_contiguous(), "target_probability must be contiguous");
}

Tensor score_rows_of(const Tensor& row_of_id, int64_t absent_row, const Tensor& ids, const Tensor& lengths,
                     bool read_last_word) {
  TrainerBase::check_documents(ids, at::kLong, "ids", lengths, 0, TrainerBase::kAll, 1);
  TORCH_CHECK_TYPE(row_of_id.scalar_type() == at::kInt && row_of_id.device().is_cpu() && row_of_id.dim() == 1 &&
                       row_of_id.is_contiguous(),
                   "row_of_id must be a contiguous int32 tensor of one dimension on the CPU");
  const int64_t N = ids.size(0), T = ids.size(1), V = row_of_id.numel();
  const Tensor score_rows = at::empty({N, T}, at::kInt);
  const int64_t *word = ids.const_data_ptr<int64_t>(), *length = lengths.const_data_ptr<int64_t>();
  const int32_t* const row = row_of_id.const_data_ptr<int32_t>();
  int32_t* to = score_rows.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < N; ++i) {
    const int64_t end = read_last_word ? length[i] : T;
    for (int64_t t = 0; t < T; ++t, ++word, ++to) {
      *to = 0;
      if (t >= end) continue;  // padding may hold any id
      TORCH_CHECK_INDEX(0 <= *word && *word < V, "ids must be words, 0 to ", V - 1, ", but holds ", *word);
      *to = row[*word];
      TORCH_CHECK_VALUE(*to != absent_row,
                        "a document holds a word that was not among the `words` this trainer was made for");
    }
  }
  return score_rows;
}

void TrainerBase::add_logits(SeamEvaluation& evaluation, const Tensor& logits) {
  evaluation.logits = logits;
  evaluation.outputs = at::linear(at::relu(logits), evaluation.head[0], evaluation.head[1]);
}

}  // namespace seam

// SeamTrainer's calls that are made of its virtual ones, the same on every device.
#include <algorithm>
#include <utility>

#include "drawn_documents.h"
#include "trainer_base.h"

namespace seam {

std::tuple<std::vector<double>, SeamFailure> SeamTrainer::epoch(double lr_mask, double lr_head,
                                                                const Tensor& score_rows, const Tensor& lengths,
                                                                const Tensor& target_probability, int64_t batch) {
  TORCH_CHECK_VALUE(score_rows.dim() == 2 && batch >= 1,
                    "score_rows must have two dimensions, and batch must be at least 1");
  const int64_t N = score_rows.size(0);
  begin_epoch(lr_mask, lr_head, (N + batch - 1) / batch);
  const auto found = train(score_rows, lengths, target_probability, batch, 0, N);
  flush();
  return found;
}

SeamEpoch SeamTrainer::run(const DrawnDocuments& documents, const std::vector<uint64_t>& keys, double lr_mask,
                           double lr_head, int64_t batch, bool head_only,
                           const EvaluationDocuments& evaluation_documents) {
  SeamFailure failure;
  std::vector<double> losses;
  DrawnDocuments::Epoch drawn = documents.draw(keys);
  if (documents.needs_base_logits())
    drawn.target_probability = documents.soft_target_probability(drawn, base_logits(drawn.ids, drawn.lengths));
  if (head_only) {
    const Tensor features = class_logits(drawn.ids, drawn.score_rows, drawn.lengths);
    begin_epoch(lr_mask, lr_head, 0);
    std::tie(losses, failure) = train_head(features, drawn.target_probability, batch, 0, drawn.ids.size(0));
    flush();
  } else {
    std::tie(losses, failure) =
        epoch(lr_mask, lr_head, drawn.score_rows, drawn.lengths, drawn.target_probability, batch);
  }
  if (failure.what >= 0) return {0, failure};
  return concluded(losses, failure,
                   evaluate(evaluation_documents.ids, evaluation_documents.score_rows, evaluation_documents.lengths),
                   evaluation_documents);
}

SeamEpoch SeamTrainer::concluded(const std::vector<double>& losses, const SeamFailure& failure,
                                 SeamEvaluation evaluation, const EvaluationDocuments& evaluation_documents) {
  SeamEpoch epoch = {0, failure, std::move(evaluation)};
  if (failure.what >= 0) return epoch;
  for (const double loss : losses) epoch.loss += loss;
  epoch.loss /= double(std::max<size_t>(losses.size(), 1));
  if (evaluation_documents.logits) TrainerBase::add_logits(epoch.evaluation, *evaluation_documents.logits);
  if (epoch.evaluation.outputs.defined())
    epoch.counts = binary_counts(epoch.evaluation.outputs, evaluation_documents.is_target.value());
  return epoch;
}

}  // namespace seam

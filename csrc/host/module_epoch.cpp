// An epoch of a module as one call, made of what every trainer can do.
#include <algorithm>
#include <utility>

#include "drawn_documents.h"
#include "trainer_base.h"

namespace seam {

std::tuple<std::vector<double>, SeamFailure> SeamTrainer::epoch(double lr_mask, double lr_head, const Tensor& slots,
                                                                const Tensor& lengths, const Tensor& shares,
                                                                int64_t batch) {
  TORCH_CHECK_VALUE(slots.dim() == 2 && batch >= 1, "slots must have two dimensions, and batch must be at least 1");
  const int64_t N = slots.size(0);
  begin_epoch(lr_mask, lr_head, (N + batch - 1) / batch);
  const auto found = train(slots, lengths, shares, batch, 0, N);
  flush();
  return found;
}

SeamEpoch SeamTrainer::run(const DrawnDocuments& documents, const std::vector<uint64_t>& keys, double lr_mask,
                           double lr_head, int64_t batch, bool head_only, const SeamLookedAt& looked_at) {
  SeamFailure failure;
  std::vector<double> losses;
  DrawnDocuments::Epoch drawn = documents.draw(keys);
  if (documents.asks_the_base()) drawn.shares = documents.soft_shares(drawn, base_logits(drawn.ids, drawn.lengths));
  if (head_only) {
    const Tensor features = class_logits(drawn.ids, drawn.slots, drawn.lengths);
    begin_epoch(lr_mask, lr_head, 0);
    std::tie(losses, failure) = train_head(features, drawn.shares, batch, 0, drawn.ids.size(0));
    flush();
  } else {
    std::tie(losses, failure) = epoch(lr_mask, lr_head, drawn.slots, drawn.lengths, drawn.shares, batch);
  }
  if (failure.what >= 0) return {0, failure};
  return concluded(losses, failure, look(looked_at.ids, looked_at.slots, looked_at.lengths), looked_at);
}

SeamEpoch SeamTrainer::concluded(const std::vector<double>& losses, const SeamFailure& failure, SeamLook look,
                                 const SeamLookedAt& looked_at) {
  SeamEpoch told = {0, failure, std::move(look)};
  if (failure.what >= 0) return told;
  for (const double loss : losses) told.loss += loss;
  told.loss /= double(std::max<size_t>(losses.size(), 1));
  if (looked_at.logits) TrainerBase::add_logits(told.look, *looked_at.logits);
  if (told.look.outputs.defined()) told.counts = binary_counts(told.look.outputs, looked_at.is_target.value());
  return told;
}

}  // namespace seam

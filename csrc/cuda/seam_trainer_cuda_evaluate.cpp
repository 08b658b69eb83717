// What a module on a GPU has learnt, between two epochs: keep bits, counts and head by one kernel, class logits of
// documents.
#include "seam_trainer_cuda_impl.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cstring>

#include "class_logits_cuda.h"
#include "masked_lstm_cuda.h"

namespace seam::gpu {

void CudaTrainer::begin_evaluation(const OptionalTensor& ids, const OptionalTensor& score_rows,
                                   const OptionalTensor& lengths) {
  flush_rows();
  KeepBitsParams& p = pending_evaluation_.params = {};
  int64_t words = 0;
  for (int w = 0; w < kWeights; ++w) {
    const Tensor& score = tensors_.scores[w];
    p.part[w] = {score.const_data_ptr<float>(), int32_t(score.numel()), int32_t(words)};
    words += (score.numel() + 31) / 32;
  }
  p.first_shared = int32_t(rows_ * E_);
  for (int i = 0; i < 2; ++i) {
    p.head[i] = tensors_.head[i].const_data_ptr<float>();
    p.head_numbers[i] = int32_t(tensors_.head[i].numel());
  }
  constexpr int64_t kMostBlocks = 64, kEach = 4;  // words of a warp, at least
  const int64_t blocks = std::clamp<int64_t>(words / (kEach * kKeepBitsWarps), 1, kMostBlocks),
                warps = blocks * kKeepBitsWarps;
  const int64_t heads = p.head_numbers[0] + p.head_numbers[1], size = words + heads + warps * KeepBitsParams::kCounts;
  uint32_t* const memory = keep_bits_on_device_.get<uint32_t>(size, device_);
  p.bits = memory;
  p.head_copy = reinterpret_cast<float*>(memory + words);
  p.counts = reinterpret_cast<int32_t*>(memory + words + heads);
  gpu::keep_bits(gpu::device_of(tensors_.weights[kEmbedding]), blocks, p);
  pending_evaluation_.words = words, pending_evaluation_.warps = warps;
  pending_evaluation_.packed = keep_bits_on_device_.fetch<uint32_t>(size);
  pending_evaluation_.logits =
      ids ? copy_to_host(read(evaluation_documents_, *ids, score_rows.value(), lengths.value())) : Tensor();
}

SeamEvaluation CudaTrainer::finish_evaluation() {
  const PendingEvaluation queued = std::exchange(pending_evaluation_, {});
  SeamEvaluation evaluation;
  const auto* const bits = static_cast<const uint8_t*>(queued.packed.const_data_ptr());
  for (const KeepBitsParams::Part& part : queued.params.part) {
    evaluation.keep_bits.push_back(at::empty({(part.count + 7) / 8}, at::kByte));
    std::memcpy(evaluation.keep_bits.back().mutable_data_ptr(), bits + 4 * int64_t(part.first_word),
                size_t(part.count + 7) / 8);
  }
  const auto* head = reinterpret_cast<const float*>(bits + 4 * queued.words);
  for (const Tensor& part : tensors_.head) {
    evaluation.head.push_back(at::empty(part.sizes(), at::kFloat));
    std::memcpy(evaluation.head.back().mutable_data_ptr(), head, size_t(part.numel()) * sizeof(float));
    head += part.numel();
  }
  const auto* count = reinterpret_cast<const int32_t*>(head);
  evaluation.kept_counts.resize(KeepBitsParams::kTensors + 1);
  for (int64_t w = 0; w < queued.warps; ++w, count += KeepBitsParams::kCounts) {
    for (size_t i = 0; i < evaluation.kept_counts.size(); ++i) evaluation.kept_counts[i] += count[i];
    evaluation.finite &= count[KeepBitsParams::kCounts - 1] == 0;
  }
  if (queued.logits.defined()) add_logits(evaluation, queued.logits.clone(at::MemoryFormat::Contiguous));
  return evaluation;
}

Tensor CudaTrainer::read(DeviceCopies& documents, const Tensor& ids, const Tensor& score_rows, const Tensor& lengths) {
  if (!documents.same(ids, score_rows, lengths)) {  // the same ones are looked at again and again
    check_evaluation_documents(ids, score_rows, lengths, rows_);
    documents = {ids, score_rows, lengths, device_.device()};
  }
  flush_rows();
  const auto effective = [&](int w) { return at::where(tensors_.scores[w].gt(0), tensors_.weights[w], 0.0f); };
  const Tensor kept = tensors_.scores[kEmbedding].gt(0).to(at::kFloat);
  const Reader reader = {{tensors_.weights.begin() + kWeightIh, tensors_.weights.begin() + kLinear},
                         {tensors_.scores.begin() + kWeightIh, tensors_.scores.begin() + kLinear},
                         effective(kLinear),
                         effective(kLinearBias),
                         options_.read_last_word};
  return read_documents(reader, ids.size(0), ids.size(1), documents.there[2], [&](int64_t at, int64_t count) {
    const auto piece = [&](int i) { return documents.there[i].narrow(0, at, count).t(); };
    return at::mul(at::embedding(tensors_.weights[kEmbedding], piece(0)), at::embedding(kept, piece(1)));
  });
}

}  // namespace seam::gpu

#include "class_logits_cuda.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "host/trainer_base.h"
#include "masked_lstm_cuda.h"

namespace seam::gpu {

Tensor copy_to_host(const Tensor& from) {
  const c10::InferenceMode ordinary(false);
  const Tensor to = at::empty(from.sizes(), at::TensorOptions(from.scalar_type()).pinned_memory(from.is_cuda()));
  to.copy_(from, /*non_blocking=*/true);
  return to;
}

Tensor read_piece(const Reader& reader, const Tensor& x, const Tensor& lengths) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const OptionalTensor length = reader.read_last_word ? OptionalTensor(lengths) : std::nullopt;
  const OptionalTensor zeros;
  const Tensor state = masked_lstm_forward({x, zeros, zeros, reader.lstm, reader.scores, length}, false, false).h_n;
  return at::linear(state.squeeze(0), reader.linear, reader.bias);
}

Tensor joined(const std::vector<Tensor>& pieces, const Tensor& like) {
  return pieces.empty()       ? at::empty({0, like.size(0)}, like.options())
         : pieces.size() == 1 ? pieces[0]
                              : at::cat(pieces);
}

Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths, bool read_last_word) {
  check_classifier(weights, {weights.empty() ? c10::kCPU : weights[0].device().type(), true});
  const c10::DeviceGuard guard(weights[kEmbedding].device());
  const c10::InferenceMode without_gradients;
  TrainerBase::check_documents(ids, at::kLong, "ids", lengths, 0, TrainerBase::kAll, 1);
  TrainerBase::check_words(ids, weights[kEmbedding].size(0));
  const Tensor words = ids.to(weights[kEmbedding].device()), ends = lengths.to(weights[kEmbedding].device());
  const Reader reader = {{weights.begin() + kWeightIh, weights.begin() + kLinear},
                         std::vector<OptionalTensor>(kLinear - kWeightIh),
                         weights[kLinear],
                         weights[kLinearBias],
                         read_last_word};
  const Tensor logits =
      copy_to_host(read_documents(reader, ids.size(0), ids.size(1), ends, [&](int64_t at, int64_t count) {
        return at::embedding(weights[kEmbedding], words.narrow(0, at, count).t());
      }));
  wait_for(gpu::device_of(weights[kEmbedding]));
  return logits;
}

}  // namespace seam::gpu

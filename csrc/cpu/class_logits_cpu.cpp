// Class logits of a classifier without masks: each distinct word is projected once, padding is not computed.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "document_reader.h"
#include "flush_denormals.h"
#include "host/ops.h"
#include "host/trainer_base.h"
#include "parallel.h"

namespace seam {

namespace {

template <typename T>
std::vector<T> zeros_for(const std::vector<Tensor>& weights) {
  return std::vector<T>(std::max(weights[kEmbedding].size(1), weights[kWeightHh].size(1)), T(0));
}

template <typename T>
ClassifierWeights<T> unmasked(const std::vector<Tensor>& weights, const T* zeros) {
  auto data = [&](int w) { return weights[w].const_data_ptr<T>(); };
  return {weights[kEmbedding].size(0),
          weights[kEmbedding].size(1),
          weights[kWeightHh].size(1),
          weights[kLinear].size(0),
          {data(kWeightIh)},
          {data(kWeightHh)},
          {data(kBiasIh)},
          {data(kBiasHh)},
          data(kLinear),
          data(kLinearBias),
          zeros};
}

template <typename T>
void read_all(const std::vector<Tensor>& weights, const Documents& d, int64_t count, const T* projected, T* logits) {
  const std::vector<T> zeros = zeros_for<T>(weights);
  const ClassifierWeights<T> w = unmasked(weights, zeros.data());
  const int64_t E = w.input_size, H = w.hidden_size;
  const T* const table = weights[kEmbedding].const_data_ptr<T>();
  auto gather = [&](int64_t position, T* out) {
    std::memcpy(out, table + d.word[position] * E, E * sizeof(T));
    return true;
  };
  const std::vector<int64_t> order = order_by_length(d, count);
  const int64_t threads = threads_for(2.0 * count * d.width * kGates * H * (E + H));
  // Each thread takes every threads-th document in order of length, so that all have as many long ones.
  parallel_ranges(threads, threads, [&](int64_t first, int64_t last, int64_t) {
    const FlushDenormals guard;
    DocumentReader<T> reader(cpu_kernels<T>());
    for (int64_t thread = first; thread < last; ++thread) {
      std::vector<int64_t> mine;
      for (int64_t i = thread; i < count; i += threads) mine.push_back(order[i]);
      if (projected) reader.read_projected(w, d, mine.data(), int64_t(mine.size()), projected, logits);
      else reader.read(w, d, mine.data(), int64_t(mine.size()), gather, logits);
    }
  });
}

}  // namespace

Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths, bool read_last_word,
                    const OptionalTensor& projected) {
  check_classifier(weights, {c10::DeviceType::CPU, true});
  if (projected) {
    check_same_kind(*projected, weights[kEmbedding], "projected");
    check_shape(*projected, {weights[kEmbedding].size(0), weights[kWeightHh].size(0)}, "projected");
    TORCH_CHECK_VALUE(projected->is_contiguous(), "projected must be contiguous");
  }
  TrainerBase::check_documents(ids, at::kLong, "ids", lengths, 0, TrainerBase::kAll, 1);
  TrainerBase::check_words(ids, weights[kEmbedding].size(0));
  const int64_t count = ids.size(0);
  const Tensor logits = at::empty({count, weights[kLinear].size(0)}, weights[kLinear].options());
  const Documents d{ids.const_data_ptr<int64_t>(), lengths.const_data_ptr<int64_t>(), ids.size(1), read_last_word};
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "class_logits", [&] {
    const scalar_t* const known = projected ? projected->const_data_ptr<scalar_t>() : nullptr;
    if (count) read_all<scalar_t>(weights, d, count, known, logits.mutable_data_ptr<scalar_t>());
  });
  return logits;
}

Tensor project_words(const std::vector<Tensor>& weights) {
  check_classifier(weights, {c10::DeviceType::CPU, true});
  const int64_t V = weights[kEmbedding].size(0), G = weights[kWeightHh].size(0);
  const Tensor projected = empty_scratch(V * G, weights[kEmbedding].options()).view({V, G});
  AT_DISPATCH_FLOATING_TYPES(projected.scalar_type(), "project_words", [&] {
    const FlushDenormals guard;
    const std::vector<scalar_t> zeros = zeros_for<scalar_t>(weights);
    DocumentReader<scalar_t> reader(cpu_kernels<scalar_t>());
    reader.project_words(unmasked(weights, zeros.data()), weights[kEmbedding].const_data_ptr<scalar_t>(),
                         projected.mutable_data_ptr<scalar_t>());
  });
  return projected;
}

}  // namespace seam

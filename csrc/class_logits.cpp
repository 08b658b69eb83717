// A classifier as it is, over documents: each distinct word is projected once, padding is not computed.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "document_reader.h"
#include "flush_denormals.h"
#include "ops.h"
#include "parallel.h"
#include "trainer_base.h"

namespace seam {

namespace {

template <typename T>
void read_all(const std::vector<Tensor>& weights, const Documents& d, int64_t count, T* logits) {
  auto data = [&](int w) { return weights[w].const_data_ptr<T>(); };
  const int64_t E = weights[kEmbedding].size(1), H = weights[kWeightHh].size(1);
  const std::vector<T> zeros(std::max(E, H), T(0));
  const ClassifierWeights<T> w{weights[kEmbedding].size(0), E, H, weights[kLinear].size(0), {data(kWeightIh)},
                               {data(kWeightHh)}, {data(kBiasIh)}, {data(kBiasHh)}, data(kLinear), data(kLinearBias),
                               zeros.data()};
  const T* const table = data(kEmbedding);
  auto gather = [&](int64_t place, T* out) {
    std::memcpy(out, table + d.word[place] * E, E * sizeof(T));
    return true;
  };
  const std::vector<int64_t> order = order_by_length(d, count);
  const int64_t threads = threads_for(2.0 * count * d.width * kGates * H * (E + H));
  // Each takes every so manieth document, and so as many long ones as the others.
  share(threads, threads, [&](int64_t first, int64_t last, int64_t) {
    const FlushDenormals guard;
    DocumentReader<T> reader(cpu_kernels<T>());
    for (int64_t thread = first; thread < last; ++thread) {
      std::vector<int64_t> mine;
      for (int64_t i = thread; i < count; i += threads) mine.push_back(order[i]);
      reader.read(w, d, mine.data(), int64_t(mine.size()), gather, logits);
    }
  });
}

}  // namespace

Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths,
                    bool read_last_word) {
  check_classifier(weights, {c10::DeviceType::CPU, true});
  TrainerBase::check_documents(ids, at::kLong, "ids", lengths, 0, TrainerBase::kAll, 1);
  TrainerBase::check_words(ids, weights[kEmbedding].size(0));
  const int64_t count = ids.size(0);
  const Tensor logits = at::empty({count, weights[kLinear].size(0)}, weights[kLinear].options());
  const Documents d{ids.const_data_ptr<int64_t>(), lengths.const_data_ptr<int64_t>(), ids.size(1), read_last_word};
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "class_logits", [&] {
    if (count) read_all<scalar_t>(weights, d, count, logits.mutable_data_ptr<scalar_t>());
  });
  return logits;
}

}  // namespace seam

// Documents read on a GPU without gradients: by a module in training, and by any classifier of one layer in one direction.
#pragma once

#include <algorithm>
#include <vector>

#include "host/ops.h"

namespace seam::gpu {

// A copy in memory of the host that the device can write while the host goes on; to be read after a wait.
Tensor copy_to_host(const Tensor& from);

// The LSTM and the linear layer behind it, all on the device; scores: as many as lstm, or none.
struct Reader {
  std::vector<Tensor> lstm;
  std::vector<OptionalTensor> scores;
  Tensor linear, bias;
  bool read_last_word;
};

constexpr int64_t kPositionsAtOnce = int64_t{1} << 16;  // words; places.py reckons with them

Tensor read_piece(const Reader& reader, const Tensor& x, const Tensor& lengths);
Tensor joined(const std::vector<Tensor>& pieces, const Tensor& like);

// As seam::class_logits, on the GPU that the weights are on; ids, lengths and the logits are on the CPU.
Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths, bool read_last_word);

// Logits (N, C), on the device; x(first, count): what the LSTM sees of so many documents, (T, count, E); lengths: (N,), there.
// By pieces of so many documents that memory does.
template <class Embed>
Tensor read_documents(const Reader& reader, int64_t N, int64_t T, const Tensor& lengths, const Embed& x) {
  std::vector<Tensor> pieces;
  const int64_t most = std::max<int64_t>(kPositionsAtOnce / T, 1);
  for (int64_t at = 0; at < N; at += most) {
    const int64_t count = std::min(most, N - at);
    pieces.push_back(read_piece(reader, x(at, count), lengths.narrow(0, at, count)));
  }
  return joined(pieces, reader.linear);
}

}  // namespace seam::gpu

// Class logits on a GPU, without gradients: of a module in training, and of any classifier of one layer in one
// direction.
#pragma once

#include <algorithm>
#include <vector>

#include "host/ops.h"

namespace seam::gpu {

// An asynchronous copy to pinned host memory; to be read after synchronisation.
Tensor copy_to_host(const Tensor& from);

// The weights of the LSTM, their scores (or none each), and the linear layer after masking, all on the device.
struct Reader {
  std::vector<Tensor> lstm;
  std::vector<OptionalTensor> scores;
  Tensor linear, bias;
  bool read_last_word;
};

// Words of the documents that are read in one piece; seam_fast/training/gpu_memory.py reckons with as many.
constexpr int64_t kPositionsAtOnce = int64_t{1} << 16;

Tensor read_piece(const Reader& reader, const Tensor& x, const Tensor& lengths);
Tensor joined(const std::vector<Tensor>& pieces, const Tensor& like);

// As seam::class_logits, on the GPU that the weights are on; ids, lengths and the logits are on the CPU.
Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths, bool read_last_word);

// Logits (N, C), on the device, computed in pieces that limit memory. x(first, count): the LSTM's input for those
// documents, (T, count, E); lengths: (N,), on the device.
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

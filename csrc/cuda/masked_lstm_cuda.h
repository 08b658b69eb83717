// The masked LSTM op on a GPU: as in host/ops.h, for tensors there. Besides float32 and float64 it takes bfloat16 and
// float16, then also with weights and scores of float32; sums, cell states and the gradients of scores are formed in
// float32.
#pragma once

#include <string>

#include "host/ops.h"
#include "kernels.h"

namespace seam::gpu {

// The device that input is on, and its current stream.
Device device_of(const Tensor& input);

// Synchronises with the stream; the thread sleeps meanwhile.
void wait_for(const Device& device);

// Which kernels compute. Set by tests and measurements; elsewhere the sizes decide.
enum class Choice { automatic, own, library };  // own: this project's; library: a matrix library, step by step
struct Choices {
  Choice recurrence = Choice::automatic, products = Choice::automatic;
  int64_t scratch_bytes = int64_t{1} << 20;  // a pass may take this many bytes of scratch, or a tenth of what is saved
};
Choices& choices();
void choose(const std::string& recurrence, const std::string& products);  // by the names above

// Elements of what the forward pass saves: activated gates (T, B, 4H) and, in full width, cell states (T, B, H).
int64_t saved_size(int64_t rows, int64_t hidden, at::ScalarType type);

decltype(seam::masked_lstm_forward) masked_lstm_forward;
decltype(seam::masked_lstm_backward) masked_lstm_backward;

}  // namespace seam::gpu

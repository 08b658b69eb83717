// Calls of the layer that know nothing of each other, as torch.func.vmap makes them of one.
#pragma once

#include <vector>

#include "autograd.h"

namespace seam {

// The tensors of a call, in this order: input, h_0, c_0, lengths, then weights, then as many scores; undefined where
// there is none. In the backward pass gradients of output, h_n and c_n stand before them, output and what was saved
// behind them. What is computed: output, h_n, c_n and what is saved; in the backward pass the gradient of each of the
// call's tensors, undefined where `needs` does not ask for it.
struct Calls {
  int64_t count;              // of weights
  bool save, clamp;
  int64_t size = -1;          // how many calls there are, or -1: a single one, without an axis of calls
  std::vector<bool> leading;  // which of the tensors have that axis, in front

  bool several() const { return size >= 0; }
  int64_t tensors() const { return 4 + 2 * count; }
  Calls of_backward() const;  // with the leading of the backward pass
};

constexpr int64_t kInput = 0, kH0 = 1, kC0 = 2, kLengths = 3, kWeights = 4;
constexpr int64_t kGrads = 3;  // which stand before, in the backward pass

// Who is told when each call begins, and when all have been made and their results are wanted.
class Turns {
 public:
  virtual ~Turns() = default;
  virtual void next_call() {}
  virtual void end() {}
};

// One after the other, on any device.
variable_list forward_in_turn(const Calls& calls, const variable_list& tensors, Turns& turns);
variable_list backward_in_turn(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors, Turns& turns);

// On the CPU shared among threads as wholes: a short LSTM keeps one thread busy, many of them can keep all. On a GPU by the same
// launches, for the same reason; see cuda/calls_together.h.
variable_list forward_each(const Calls& calls, const variable_list& tensors);
variable_list backward_each(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors);

}  // namespace seam

// Several independent calls of the layer, which torch.func.vmap makes of one.
#pragma once

#include <vector>

#include "autograd.h"

namespace seam {

// The tensors of a call, in this order: input, h_0, c_0, lengths, then weights, then as many scores; undefined where
// there is none. In the backward pass the gradients of output, h_n and c_n come before them, output and `saved` after
// them. The results are output, h_n, c_n and `saved`; in the backward pass the gradient of each of the call's tensors,
// undefined where `needs` does not ask for it.
struct Calls {
  int64_t count;  // number of weights
  bool save, clamp;
  int64_t size = -1;          // how many calls there are, or -1: a single one, without an axis of calls
  std::vector<bool> leading;  // which of the tensors have that axis, in front

  bool several() const { return size >= 0; }
  int64_t tensors() const { return 4 + 2 * count; }
  Calls of_backward() const;  // with the leading of the backward pass
};

constexpr int64_t kInput = 0, kH0 = 1, kC0 = 2, kLengths = 3, kWeights = 4;
constexpr int64_t kGrads = 3;  // gradients that come first in the backward pass

// Is told when each call begins, and when all have been made and their results are about to be read.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void next_call() {}
  virtual void end() {}
};

// One after the other, on any device.
variable_list forward_one_by_one(const Calls& calls, const variable_list& tensors, CallObserver& observer);
variable_list backward_one_by_one(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors,
                                  CallObserver& observer);

// By the device of the tensors. On the CPU each call is one thread's: a short LSTM keeps only one thread busy, many of
// them can keep all. On a GPU the calls share launches, for the same reason; see cuda/vmap_calls_cuda.h.
variable_list forward_calls(const Calls& calls, const variable_list& tensors);
variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors);

}  // namespace seam

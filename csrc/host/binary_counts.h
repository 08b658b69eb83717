// The counts and the average precision that a module's metrics are made of. seam_fast has the same in NumPy, which
// takes and releases the GIL at each of its operations.
#pragma once

#include "checks.h"

namespace seam {

struct BinaryCounts {
  int64_t documents = 0, targets = 0, predicted = 0, true_positive = 0;
  double average_precision = 0;
};

// outputs (N, 2), float32 or float64: the target is output 0 and wins a tie; is_target (N,) bool. On the CPU.
BinaryCounts binary_counts(const Tensor& outputs, const Tensor& is_target);

}  // namespace seam

// One Adam step of a tensor of scores, as its kernels are given it.
#pragma once

#include "inline.h"

namespace seam {

template <typename T>
struct ScoreAdamParams {
  T *score, *exp_avg, *exp_avg_sq;  // [size], updated in place
  const T* grad;                    // [size] or null: zero
  const T* weight;                  // [size] or null
  T* effective;                     // [size] or null: weight where score > 0 after the step, else 0
  double lr, beta1, beta2, eps, penalty;
  int64_t step;  // of this update, from 1
};

}  // namespace seam

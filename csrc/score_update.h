// One step of a score: clipped straight-through gradient, penalty, Adam. Written once for host and device, in the order of
// torch.optim.Adam's operations. `M` supplies the arithmetic, see lstm_cell.h.
#pragma once

#include "seam.h"

namespace {

// What is the same for all scores of a step. The rounding to T is the caller's, from double.
template <typename T>
struct AdamStep {
  T one_minus_beta1;   // torch's lerp weight
  T beta2, one_minus_beta2;
  T sqrt_correction2;  // sqrt(1 - beta2^t)
  T eps;
  T step_size;         // lr / (1 - beta1^t)
  T penalty;           // clamp(alpha / N, -1, 1), the constant gradient of what is kept
};

// clamp to [-1, 1] that passes a NaN on, as torch's does; min and max instructions would swallow it.
template <class M>
SEAM_INLINE typename M::V clip(typename M::V x) {
  x = M::where_greater(x, M::one(), M::one(), x);
  return M::where_greater(-M::one(), x, -M::one(), x);
}

template <class M, typename T>
SEAM_INLINE void score_step(const AdamStep<T>& step, typename M::V gradient, typename M::V& score,
                            typename M::V& exp_avg, typename M::V& exp_avg_sq) {
  typename M::V g = clip<M>(gradient) + M::set(step.penalty);
  exp_avg = M::fma(M::set(step.one_minus_beta1), g - exp_avg, exp_avg);
  exp_avg_sq = M::fma(M::set(step.one_minus_beta2), g * g, exp_avg_sq * M::set(step.beta2));
  typename M::V denominator = M::sqrt(exp_avg_sq) / M::set(step.sqrt_correction2) + M::set(step.eps);
  score = score - M::set(step.step_size) * (exp_avg / denominator);
}

}  // namespace

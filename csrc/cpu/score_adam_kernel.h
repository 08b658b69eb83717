// The score update as an op, for one instruction set: one pass over score, gradient and Adam's state.
#pragma once

#include "common/adam_constants.h"
#include "common/score_update.h"
#include "kernels.h"
#include "simd.h"

namespace {

template <typename T>
int64_t score_adam(const seam::ScoreAdamParams<T>& p, int64_t begin, int64_t end) {
  using S = Simd<T, SEAM_SIMD / 8 / sizeof(T)>;
  const AdamRule<T> rule = seam::adam_rule<T>(p.beta1, p.beta2, p.eps, p.penalty);
  const AdamStep<T> step = seam::adam_step_constants<T>(p.beta1, p.beta2, p.lr, p.step);
  int64_t kept = 0;
  for (int64_t i = begin; i < end; i += S::kLanes) {
    const int n = int(end - i < S::kLanes ? end - i : S::kLanes);
    auto score = S::load(p.score + i, n), m = S::load(p.exp_avg + i, n), v = S::load(p.exp_avg_sq + i, n);
    score_step<S>(rule, step, p.grad ? S::load(p.grad + i, n) : S::zero(), score, m, v);
    S::store(p.score + i, score, n);
    S::store(p.exp_avg + i, m, n);
    S::store(p.exp_avg_sq + i, v, n);
    if (p.effective) S::store(p.effective + i, S::keep(S::load(p.weight + i, n), score), n);
    const auto positive = score > S::zero();
    for (int l = 0; l < n; ++l) kept -= positive[l];  // a true lane is -1
  }
  return kept;
}

}  // namespace

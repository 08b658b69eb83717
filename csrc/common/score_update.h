// The life of a score: clipped straight-through gradient, penalty, Adam; and the steps in which its word did not occur,
// where the penalty is all there is. Written once for host and device, in the order of torch.optim.Adam's operations.
// `M` supplies the arithmetic, see lstm_cell.h.
#pragma once

#include "score_state.h"

namespace {

using seam::AdamRule;
using seam::AdamStep;

// clamp to [-1, 1] that passes a NaN on, as torch's does; min and max instructions would swallow it.
template <class M>
SEAM_INLINE typename M::V clip(typename M::V x) {
  x = M::where_greater(x, M::one(), M::one(), x);
  return M::where_greater(-M::one(), x, -M::one(), x);
}

template <class M, typename T>
SEAM_INLINE void adam_step(const AdamRule<T>& rule, const AdamStep<T>& step, typename M::V gradient,
                           typename M::V& value, typename M::V& exp_avg, typename M::V& exp_avg_sq) {
  exp_avg = M::fma(M::set(rule.one_minus_beta1), gradient - exp_avg, exp_avg);
  exp_avg_sq = M::fma(M::set(rule.one_minus_beta2), gradient * gradient, exp_avg_sq * M::set(rule.beta2));
  const typename M::V denominator = M::fma(M::sqrt(exp_avg_sq), M::set(step.inverse), M::set(rule.eps));
  value = M::fma(M::set(-step.step_size), exp_avg * M::inverse(denominator), value);
}

template <class M, typename T>
SEAM_INLINE void score_step(const AdamRule<T>& rule, const AdamStep<T>& step, typename M::V gradient,
                            typename M::V& score, typename M::V& exp_avg, typename M::V& exp_avg_sq) {
  adam_step<M>(rule, step, clip<M>(gradient) + M::set(rule.penalty), score, exp_avg, exp_avg_sq);
}

// `count` steps without a gradient, one after the other; step[0] is the first of them.
template <class M, typename T>
SEAM_INLINE void replay(const AdamRule<T>& rule, const AdamStep<T>* step, int64_t count, typename M::V& score,
                        typename M::V& exp_avg, typename M::V& exp_avg_sq) {
  const typename M::V penalty = M::set(rule.penalty);
  for (int64_t j = 0; j < count; ++j) adam_step<M>(rule, step[j], penalty, score, exp_avg, exp_avg_sq);
}

// The same steps at once. With the constant gradient g, j steps on from m and v,
//   m_j = g + beta1^j (m - g)        v_j = g^2 + beta2^j (v - g^2)
// and the score moves by -lr * sum_j m_j / (sqrt(v_j / (1 - beta2^(t+j))) + eps), where beta1^t has long been nothing. The
// fraction is a smooth function of j, so a few well-chosen places (Gauss' rules for sums over j = 1 .. k, one with the
// weights beta1^j, one with equal weights) stand for all of them. At place i, v_j / (1 - beta2^(t+j)) is
// at(i) + slope(i) (v - g^2). `rest` is g^2. Formed with Adam's exact constants: the steps have them rounded to T.
// Places: count, of which the first `transient` serve the part that dies out; weight(i), at(i), slope(i).
template <class M, typename T, class Places>
SEAM_INLINE void jump(const AdamRule<T>& rule, const Places& places, T exp_avg_decay, T exp_avg_sq_decay, T rest, T lr,
                      typename M::V& score, typename M::V& exp_avg, typename M::V& exp_avg_sq) {
  const typename M::V m = exp_avg - M::set(rule.penalty), v = exp_avg_sq - M::set(rest);
  typename M::V transient = M::zero(), constant = M::zero();
  for (int i = 0; i < places.count; ++i) {
    const typename M::V denominator = M::sqrt(M::fma(M::set(places.slope(i)), v, M::set(places.at(i)))) + M::set(rule.eps);
    const typename M::V weight = M::set(places.weight(i)), inverse = M::inverse(denominator);
    if (i < places.transient) transient = M::fma(weight, inverse, transient);
    else constant = M::fma(weight, inverse, constant);
  }
  const typename M::V sum = M::fma(m, transient, M::set(rule.penalty) * constant);
  score = M::fma(-M::set(lr), sum, score);
  exp_avg = M::fma(m, M::set(exp_avg_decay), M::set(rule.penalty));
  exp_avg_sq = M::fma(v, M::set(exp_avg_sq_decay), M::set(rest));
}

}  // namespace

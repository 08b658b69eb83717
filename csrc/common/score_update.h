// The update of a score: straight-through gradient, clamped, plus penalty, then Adam; and the lazy update of scores of
// embedding rows, which makes up for the steps in which a row's word did not occur, where the gradient was the penalty
// alone. Written once for host and device, in the order of torch.optim.Adam's operations. `M` supplies the arithmetic,
// see lstm_cell.h.
#pragma once

#include "score_state.h"

namespace {

using seam::AdamRule;
using seam::AdamStep;

// clamp to [-1, 1] that keeps a NaN, as torch's does; min and max instructions would drop it.
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

// `count` skipped steps, one after the other; step[0] is the first of them.
template <class M, typename T>
SEAM_INLINE void replay(const AdamRule<T>& rule, const AdamStep<T>* step, int64_t count, typename M::V& score,
                        typename M::V& exp_avg, typename M::V& exp_avg_sq) {
  const typename M::V penalty = M::set(rule.penalty);
  for (int64_t j = 0; j < count; ++j) adam_step<M>(rule, step[j], penalty, score, exp_avg, exp_avg_sq);
}

// The same steps in closed form. With the constant gradient g (the penalty), j steps after m and v,
//   m_j = g + beta1^j (m - g)        v_j = g^2 + beta2^j (v - g^2)
// and the score moves by -lr * sum_j m_j / (sqrt(v_j / (1 - beta2^(t+j))) + eps); beta1^t is negligible by then. The
// fraction is a smooth function of j, so the sum is formed by Gaussian quadrature for sums over j = 1 .. k: one rule
// with the weights beta1^j for the transient part (m - g), one with equal weights for the constant part g. At node i,
// v_j / (1 - beta2^(t+j)) is offset(i) + slope(i) (v - g^2); penalty_sq is g^2. Uses Adam's exact constants, which the
// single steps round to T. Nodes: has count, of which the first `transient` are for the transient part; weight(i),
// offset(i), slope(i).
template <class M, typename T, class Nodes>
SEAM_INLINE void closed_form_update(const AdamRule<T>& rule, const Nodes& nodes, T exp_avg_decay, T exp_avg_sq_decay,
                                    T penalty_sq, T lr, typename M::V& score, typename M::V& exp_avg,
                                    typename M::V& exp_avg_sq) {
  const typename M::V m = exp_avg - M::set(rule.penalty), v = exp_avg_sq - M::set(penalty_sq);
  typename M::V transient = M::zero(), constant = M::zero();
  for (int i = 0; i < nodes.count; ++i) {
    const typename M::V denominator =
        M::sqrt(M::fma(M::set(nodes.slope(i)), v, M::set(nodes.offset(i)))) + M::set(rule.eps);
    const typename M::V weight = M::set(nodes.weight(i)), inverse = M::inverse(denominator);
    if (i < nodes.transient) transient = M::fma(weight, inverse, transient);
    else constant = M::fma(weight, inverse, constant);
  }
  const typename M::V sum = M::fma(m, transient, M::set(rule.penalty) * constant);
  score = M::fma(-M::set(lr), sum, score);
  exp_avg = M::fma(m, M::set(exp_avg_decay), M::set(rule.penalty));
  exp_avg_sq = M::fma(v, M::set(exp_avg_sq_decay), M::set(penalty_sq));
}

}  // namespace

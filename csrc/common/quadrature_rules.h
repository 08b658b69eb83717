// The quadrature rules of the lazy update: each stands for many skipped steps of a score; see `closed_form_update` in
// score_update.h.
#pragma once

#include "score_state.h"

namespace seam {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;  // of SeaM's Adam, which is torch's default

constexpr int64_t kMaxSkippedSteps = 2048;  // of one rule; more steps take several

// The rule for `count` skipped steps, 1 to kMaxSkippedSteps. Made at its first use and never freed; thread-safe.
template <typename T>
const QuadratureRule<T>& quadrature_rule(int64_t count);

// Whether the rule for `count` steps, after t steps of Adam, is as accurate as replaying them. The nearest
// singularities of the summed function are t steps away (the bias correction) and some 3,000 steps away.
SEAM_INLINE bool quadrature_holds(int64_t t, int64_t count) { return t >= 1000 || (t >= 200 && count <= t / 8); }

// Whether skipped steps are made up for in closed form; few are as quick to replay.
SEAM_INLINE bool uses_closed_form(int64_t t, int64_t count) { return count > 4 && quadrature_holds(t, count); }

// The smallest exp_avg_sq for which the rules are accurate. power: beta2^t; penalty_sq: the square of the penalty.
SEAM_INLINE double min_exp_avg_sq(double power, double penalty_sq) { return (0.95 - power) * penalty_sq; }

// offset and slope at a node, see `closed_form_update` in score_update.h.
template <typename T>
struct QuadratureNode {
  T offset, slope;
  SEAM_INLINE QuadratureNode(double power, double beta2_power, double penalty_sq) {
    const double inverse = 1 / (1 - power * beta2_power);
    offset = T(penalty_sq * inverse);
    slope = T(beta2_power * inverse);
  }
};

}  // namespace seam

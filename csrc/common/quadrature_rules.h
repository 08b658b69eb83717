// Rules that stand for many steps of a score under the penalty alone; see `jump` in score_update.h.
#pragma once

#include "score_state.h"

namespace seam {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;  // of SeaM's Adam, which is torch's default

constexpr int64_t kLongestGap = 2048;  // of one rule; a longer gap is several

// The rule for a gap of `count` steps, 1 to kLongestGap. Made at its first use, kept for good; any thread may ask.
template <typename T>
const GapRule<T>& gap_rule(int64_t count);

// Whether the rule for `count` steps is as exact as replaying them, after t steps of Adam. The fraction it integrates has
// its nearest singularities at a distance of t steps (the bias correction) and some 3,000 steps.
SEAM_INLINE bool gap_rule_holds(int64_t t, int64_t count) { return t >= 1000 || (t >= 200 && count <= t / 8); }


// Whether a gap is made up for at once; a short one is as quick to replay.
SEAM_INLINE bool gap_is_jumped(int64_t t, int64_t count) { return count > 4 && gap_rule_holds(t, count); }

// Where beta2^t is `power` and `rest` the square of the penalty: below this no exp_avg_sq may lie, or no rule holds.
SEAM_INLINE double least_exp_avg_sq(double power, double rest) { return (0.95 - power) * rest; }

// at and slope of a place, see `jump` in score_update.h.
template <typename T>
struct GapPlace {
  T at, slope;
  SEAM_INLINE GapPlace(double power, double beta2_power, double rest) {
    const double inverse = 1 / (1 - power * beta2_power);
    at = T(rest * inverse);
    slope = T(beta2_power * inverse);
  }
};

}  // namespace seam

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

}  // namespace seam

// The constants of Adam's steps, formed in double and rounded once.
#pragma once

#include <cmath>

#include "score_state.h"

namespace seam {

template <typename T>
SEAM_INLINE AdamRule<T> adam_rule(double beta1, double beta2, double eps, double penalty) {
  return {T(1 - beta1), T(beta2), T(1 - beta2), T(eps), T(penalty > 1 ? 1 : penalty < -1 ? -1 : penalty)};
}

template <typename T>
SEAM_INLINE AdamStep<T> adam_step_constants(double beta1, double beta2, double lr, int64_t t) {
  return {T(1 / std::sqrt(1 - std::pow(beta2, double(t)))), T(lr / (1 - std::pow(beta1, double(t))))};
}

}  // namespace seam

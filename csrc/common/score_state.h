// Scores, their training state and Adam's constants, as kernels are given them. Data only: the arithmetic is in
// score_update.h, which is compiled once for each instruction set.
#pragma once

#include "inline.h"

namespace seam {

// What all scores of a weight have in common. The caller rounds it from double to T.
template <typename T>
struct AdamRule {
  T one_minus_beta1;  // torch's lerp weight
  T beta2, one_minus_beta2;
  T eps;
  T penalty;  // clamp(alpha / N, -1, 1), the constant gradient of SeaM's penalty
};

// What all scores have in common in step t, from 1.
template <typename T>
struct AdamStep {
  T inverse;    // 1 / sqrt(1 - beta2^t)
  T step_size;  // lr / (1 - beta1^t)
};

// A quadrature rule that stands for a number of skipped steps, see `closed_form_update` in score_update.h.
constexpr int kMaxNodes = 8;
template <typename T>
struct QuadratureRule {
  int transient, nodes;  // nodes [0, transient) are for the transient part of the sum, the others for the constant part
  double beta2_power[kMaxNodes];  // beta2^x, x a node
  T weight[kMaxNodes];
  T exp_avg_decay, exp_avg_sq_decay;  // beta1^count and beta2^count
};

template <typename T>
struct ScoreState {
  T *score = nullptr, *exp_avg = nullptr, *exp_avg_sq = nullptr;
  SEAM_INLINE ScoreState at(int64_t i) const { return {score + i, exp_avg + i, exp_avg_sq + i}; }
};

template <typename T>
struct ScoreUpdate {  // one step of `size` scores
  int64_t size;
  ScoreState<T> state;
  const T* weight;  // frozen; null for what is a parameter itself (the head): its gradient is `sum` alone, unclipped
  const T* sum;     // gradient of the effective weight
  AdamRule<T> rule;
  AdamStep<T> step;
};

template <typename T>
struct ReplayParams {  // `count` steps of `size` scores with the penalty as their only gradient, one by one
  int64_t size, count;
  ScoreState<T> state;
  AdamRule<T> rule;
  const AdamStep<T>* step;  // [count]
};

template <typename T>
struct ClosedFormParams {  // the same steps at once, by a quadrature rule
  int64_t size;
  ScoreState<T> state;
  AdamRule<T> rule;
  const QuadratureRule<T>* quadrature;
  T offset[kMaxNodes], slope[kMaxNodes];
  T penalty_sq, lr;
  T min_exp_avg_sq;  // if any exp_avg_sq is smaller, the rule is not accurate
};

// A product with an effective weight that is too small for matrix tiles: of the linear layer or the head.
template <typename T>
struct LinearParams {
  int64_t rows, in, out;
  const T *weight, *bias;  // effective, [out, in], [out]
  const T* input;          // [rows, in]
  T* output;               // [rows, out]
};

template <typename T>
struct LinearGradientParams {
  int64_t rows, in, out;
  const T *weight, *input, *d_output;
  T *sum_weight, *sum_bias;  // [out, in], [out]; overwritten
  T* d_input;                // [rows, in] or null; overwritten
};

}  // namespace seam

// Scores, their training state and Adam's constants as kernels see them. Data only: what is done with it is in
// score_update.h, compiled for each instruction set.
#pragma once

#include "inline.h"

namespace seam {

// What is the same for all scores of a group. The rounding to T is the caller's, from double.
template <typename T>
struct AdamRule {
  T one_minus_beta1;  // torch's lerp weight
  T beta2, one_minus_beta2;
  T eps;
  T penalty;  // clamp(alpha / N, -1, 1), the constant gradient of what is kept
};

// What is the same for all scores in a step; t counts from 1.
template <typename T>
struct AdamStep {
  T inverse;    // 1 / sqrt(1 - beta2^t)
  T step_size;  // lr / (1 - beta1^t)
};

// A gap of many steps under the penalty alone, see `jump`.
constexpr int kMaxPlaces = 8;
template <typename T>
struct GapRule {
  int transient, places;           // places [0, transient) serve the part that dies out, the others the constant part
  double beta2_power[kMaxPlaces];  // beta2^x at place x
  T weight[kMaxPlaces];
  T exp_avg_decay, exp_avg_sq_decay;  // over the whole gap
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
struct ScoreGap {  // `count` steps of `size` scores, under the penalty alone
  int64_t size, count;
  ScoreState<T> state;
  AdamRule<T> rule;
  const AdamStep<T>* step;  // [count], the first missed one first
};

template <typename T>
struct ScoreJump {  // the same at once
  int64_t size;
  ScoreState<T> state;
  AdamRule<T> rule;
  const GapRule<T>* gap;
  T at[kMaxPlaces], slope[kMaxPlaces];
  T rest, lr;
  T least;  // below it no exp_avg_sq may lie: the rule would not hold
};

// A product with an effective weight that is too small for tiles: the linear layer and the head, B x C x H numbers.
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
  T *sum_weight, *sum_bias;  // [out, in], [out]; set
  T* d_input;                // [rows, in] or null; set
};

}  // namespace seam

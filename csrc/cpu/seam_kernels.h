// The kernels of a training step besides the LSTM, for one instruction set: scores, embedding rows, the linear layers.
#pragma once

#include "common/score_state.h"
#include "common/score_update.h"
#include "gemm_tile.h"
#include "kernels.h"

namespace {

using seam::ClosedFormParams;
using seam::LinearGradientParams;
using seam::LinearParams;
using seam::ReplayParams;
using seam::ScoreState;
using seam::ScoreUpdate;

// Calls body(first, lanes in use) for each SIMD vector of a range.
template <class S, class Body>
SEAM_INLINE void each_vector(int64_t size, Body&& body) {
  int64_t i = 0;
  for (; i + S::kLanes <= size; i += S::kLanes) body(i, S::kLanes);
  if (i < size) body(i, int(size - i));
}

// Reads score, exp_avg and exp_avg_sq, lets body change them, and writes them back.
template <class S, typename T, class Body>
SEAM_INLINE void change(const ScoreState<T>& state, int64_t i, int n, Body&& body) {
  auto score = S::load(state.score + i, n), m = S::load(state.exp_avg + i, n), v = S::load(state.exp_avg_sq + i, n);
  body(score, m, v);
  S::store(state.score + i, score, n);
  S::store(state.exp_avg + i, m, n);
  S::store(state.exp_avg_sq + i, v, n);
}

template <typename T>
void update_scores(const ScoreUpdate<T>& p) {
  using S = Wide<T>;
  each_vector<S>(p.size, [&](int64_t i, int n) {
    change<S>(p.state, i, n, [&](auto& score, auto& m, auto& v) {
      const auto sum = S::load(p.sum + i, n);
      if (p.weight) score_step<S>(p.rule, p.step, sum * S::load(p.weight + i, n), score, m, v);
      else adam_step<S>(p.rule, p.step, sum, score, m, v);
    });
  });
}

template <typename T>
void replay_steps(const ReplayParams<T>& p) {
  using S = Wide<T>;
  each_vector<S>(p.size, [&](int64_t i, int n) {
    change<S>(p.state, i, n, [&](auto& score, auto& m, auto& v) { replay<S>(p.rule, p.step, p.count, score, m, v); });
  });
}

// The nodes of a rule, from memory.
template <typename T>
struct TabledNodes {
  const ClosedFormParams<T>& p;
  int count = p.quadrature->nodes, transient = p.quadrature->transient;
  SEAM_INLINE T weight(int i) const { return p.quadrature->weight[i]; }
  SEAM_INLINE T offset(int i) const { return p.offset[i]; }
  SEAM_INLINE T slope(int i) const { return p.slope[i]; }
};

// Returns false and does nothing where the rule is not accurate.
template <typename T>
bool closed_form_steps(const ClosedFormParams<T>& p) {
  using S = Wide<T>;
  bool holds = true;
  each_vector<S>(p.size, [&](int64_t i, int n) {
    const auto below = S::load(p.state.exp_avg_sq + i, n) < S::set(p.min_exp_avg_sq);
    auto any = below[0];
    for (int l = 1; l < n; ++l) any |= below[l];
    if (n > 0 && any) holds = false;
  });
  if (!holds) return false;
  const TabledNodes<T> nodes{p};
  each_vector<S>(p.size, [&](int64_t i, int n) {
    change<S>(p.state, i, n, [&](auto& score, auto& m, auto& v) {
      closed_form_update<S>(p.rule, nodes, p.quadrature->exp_avg_decay, p.quadrature->exp_avg_sq_decay, p.penalty_sq,
                            p.lr, score, m, v);
    });
  });
  return true;
}

// out = weight where score > 0, else 0. Returns whether anything is not 0.
template <typename T>
bool effective(const T* weight, const T* score, T* out, int64_t size) {
  using S = Wide<T>;
  auto any = S::zero() != S::zero();
  each_vector<S>(size, [&](int64_t i, int n) {
    const auto kept = S::keep(S::load(weight + i, n), S::load(score + i, n));
    any |= kept != S::zero();
    S::store(out + i, kept, n);
  });
  for (int l = 1; l < S::kLanes; ++l) any[0] |= any[l];
  return any[0] != 0;
}

// to += from
template <typename T>
void add(const T* from, T* to, int64_t size) {
  using S = Wide<T>;
  each_vector<S>(size, [&](int64_t i, int n) { S::store(to + i, S::load(to + i, n) + S::load(from + i, n), n); });
}

template <typename T>
bool all_finite(const T* values, int64_t size) {
  using S = Wide<T>;
  auto zero = S::zero();  // stays zero as long as it is multiplied by finite numbers
  each_vector<S>(size, [&](int64_t i, int n) { zero = S::fma(S::load(values + i, n), S::zero(), zero); });
  for (int l = 0; l < S::kLanes; ++l) {
    if (!(zero[l] == 0)) return false;
  }
  return true;
}

// Reverses the bits of a byte.
SEAM_INLINE uint8_t reversed(unsigned byte) {
  byte = (byte & 0xf0) >> 4 | (byte & 0x0f) << 4;
  byte = (byte & 0xcc) >> 2 | (byte & 0x33) << 2;
  return uint8_t((byte & 0xaa) >> 1 | (byte & 0x55) << 1);
}

template <typename T>
int64_t pack_keep_bits(const T* score, int64_t size, uint8_t* bits) {
  using S = Wide<T>;
  constexpr int kAtOnce = S::kLanes < 8 ? 8 : S::kLanes;  // whole bytes
  int64_t kept = 0, i = 0;
  for (; i + kAtOnce <= size; i += kAtOnce) {
    unsigned found = 0;
    for (int l = 0; l < kAtOnce; l += S::kLanes) found |= S::greater_bits(S::load(score + i + l), S::zero()) << l;
    kept += __builtin_popcount(found);
    for (int l = 0; l < kAtOnce; l += 8) bits[(i + l) / 8] = reversed(found >> l & 0xff);
  }
  for (; i < size; i += 8) {
    unsigned found = 0;
    for (int l = 0; l < 8 && i + l < size; ++l) found |= unsigned(score[i + l] > 0) << l;
    kept += __builtin_popcount(found);
    bits[i / 8] = reversed(found);
  }
  return kept;
}

template <class S>
SEAM_INLINE typename S::Scalar sum_lanes(typename S::V v) {
  typename S::Scalar sum = v[0];
  for (int l = 1; l < S::kLanes; ++l) sum += v[l];
  return sum;
}

template <typename T>
void linear(const LinearParams<T>& p) {
  using S = Wide<T>;
  for (int64_t b = 0; b < p.rows; ++b) {
    for (int64_t c = 0; c < p.out; ++c) {
      auto sum = S::zero();
      each_vector<S>(p.in, [&](int64_t i, int n) {
        sum = S::fma(S::load(p.input + b * p.in + i, n), S::load(p.weight + c * p.in + i, n), sum);
      });
      p.output[b * p.out + c] = sum_lanes<S>(sum) + p.bias[c];
    }
  }
}

template <typename T>
void linear_gradient(const LinearGradientParams<T>& p) {
  using S = Wide<T>;
  for (int64_t c = 0; c < p.out; ++c) {
    T* const sum = p.sum_weight + c * p.in;
    each_vector<S>(p.in, [&](int64_t i, int n) {
      auto total = S::zero();
      for (int64_t b = 0; b < p.rows; ++b) {
        total = S::fma(S::set(p.d_output[b * p.out + c]), S::load(p.input + b * p.in + i, n), total);
      }
      S::store(sum + i, total, n);
    });
    T bias = 0;
    for (int64_t b = 0; b < p.rows; ++b) bias += p.d_output[b * p.out + c];
    p.sum_bias[c] = bias;
  }
  if (!p.d_input) return;
  for (int64_t b = 0; b < p.rows; ++b) {
    each_vector<S>(p.in, [&](int64_t i, int n) {
      auto total = S::zero();
      for (int64_t c = 0; c < p.out; ++c) {
        total = S::fma(S::set(p.d_output[b * p.out + c]), S::load(p.weight + c * p.in + i, n), total);
      }
      S::store(p.d_input + b * p.in + i, total, n);
    });
  }
}

}  // namespace

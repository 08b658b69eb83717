// Scores on a GPU: their update, and the lazy update of rows of the embedding.
#pragma once

#include "block.cuh"
#include "common/score_update.h"
#include "seam_params.h"

namespace seam::gpu {

SEAM_KERNEL bool is_finite(float x) { return (float_to_bits(x) & 0x7f800000u) != 0x7f800000u; }

// The weight if its score is positive, else 0.
SEAM_KERNEL float keep(float weight, float score) { return score > 0 ? weight : 0.0f; }
SEAM_KERNEL float effective(const Scored& s, int64_t i) { return keep(load(s.weight + i), load(s.state.score + i)); }

// ---- A step ---------------------------------------------------------------------------------------------------------

// One step of N adjacent scores, of which `count` exist, from the gradients of their effective weights. Calls
// done(j, effective weight after the step).
template <int N, class Done>
SEAM_KERNEL void step_scores(const Scored& s, const AdamStep<float>& step, int64_t first, int count,
                             const float (&sum)[N], const Done& done) {
  float weight[N], score[N], m[N], v[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {  // all loads come before the first use, so that they overlap
    const int64_t i = first + (j < count ? j : 0);
    weight[j] = load(s.weight + i);
    score[j] = load(s.state.score + i);
    m[j] = load(s.state.exp_avg + i);
    v[j] = load(s.state.exp_avg_sq + i);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    score_step<Exact<float>>(s.rule, step, sum[j] * weight[j], score[j], m[j], v[j]);
    if (j >= count) continue;
    store(s.state.score + first + j, score[j]);
    store(s.state.exp_avg + first + j, m[j]);
    store(s.state.exp_avg_sq + first + j, v[j]);
    done(j, keep(weight[j], score[j]));
  }
}

SEAM_KERNEL void step_score(const Scored& s, const AdamStep<float>& step, int64_t i, float sum) {
  const float one[1] = {sum};
  step_scores<1>(s, step, i, 1, one, [](int, float) {});
}

// A step of a parameter that has no mask, as the head's.
SEAM_KERNEL void step_parameter(const AdamRule<float>& rule, const AdamStep<float>& step,
                                const ScoreState<float>& state, int64_t i, float gradient) {
  float value = load(state.score + i), m = load(state.exp_avg + i), v = load(state.exp_avg_sq + i);
  adam_step<Exact<float>>(rule, step, gradient, value, m, v);
  store(state.score + i, value);
  store(state.exp_avg + i, m);
  store(state.exp_avg_sq + i, v);
}

// ---- Skipped steps --------------------------------------------------------------------------------------------------

// The nodes of a quadrature rule, one in each lane.
template <class B>
struct HeldNodes {
  const B& block;
  int count, transient;
  float my_weight, my_offset, my_slope;

  SEAM_KERNEL HeldNodes(const B& block, const RowsParams& p, const QuadratureRule<float>* quadrature, double power)
      : block(block), count(load(&quadrature->nodes)), transient(load(&quadrature->transient)) {
    const int i = block.lane() < kMaxNodes ? block.lane() : 0;
    const QuadratureNode<float> node(power, load(&quadrature->beta2_power[i]), p.penalty_sq);
    my_weight = load(&quadrature->weight[i]);
    my_offset = node.offset;
    my_slope = node.slope;
  }
  SEAM_KERNEL float weight(int i) const { return block.shuffle(my_weight, i); }
  SEAM_KERNEL float offset(int i) const { return block.shuffle(my_offset, i); }
  SEAM_KERNEL float slope(int i) const { return block.shuffle(my_slope, i); }
};

// Four numbers that are updated in parallel, as independent chains of instructions; and the arithmetic M for them.
struct FourNumbers {
  float at[4];
  template <class F>
  static SEAM_KERNEL FourNumbers each(const F& f) {
    return {{f(0), f(1), f(2), f(3)}};
  }
  SEAM_KERNEL FourNumbers operator+(const FourNumbers& b) const {
    return each([&](int k) { return at[k] + b.at[k]; });
  }
  SEAM_KERNEL FourNumbers operator-(const FourNumbers& b) const {
    return each([&](int k) { return at[k] - b.at[k]; });
  }
  SEAM_KERNEL FourNumbers operator*(const FourNumbers& b) const {
    return each([&](int k) { return at[k] * b.at[k]; });
  }
  SEAM_KERNEL FourNumbers operator-() const {
    return each([&](int k) { return -at[k]; });
  }
};
template <class M>
struct FourTimes {
  using V = FourNumbers;
  static SEAM_KERNEL V set(float x) { return {{x, x, x, x}}; }
  static SEAM_KERNEL V zero() { return set(0.0f); }
  static SEAM_KERNEL V fma(const V& a, const V& b, const V& c) {
    return V::each([&](int k) { return M::fma(a.at[k], b.at[k], c.at[k]); });
  }
  static SEAM_KERNEL V sqrt(const V& x) {
    return V::each([&](int k) { return M::sqrt(x.at[k]); });
  }
  static SEAM_KERNEL V inverse(const V& x) {
    return V::each([&](int k) { return M::inverse(x.at[k]); });
  }
};

// Brings four numbers of each lane, all of one row, from step `from` to step `now`. `exists` says which of the four are
// within the row. Whether the closed form is accurate is decided for these 128 numbers at a time; the CPU decides for
// the whole row. Both are equally accurate.
template <class B>
SEAM_KERNEL void apply_skipped_steps(const B& block, const RowsParams& p, int64_t from, int64_t now,
                                     const bool (&exists)[4], FourNumbers& score, FourNumbers& m, FourNumbers& v) {
#pragma unroll 1
  while (from < now) {
    const int64_t missed = now - from,
                  count = p.uses_quadrature && missed > kMaxSkippedSteps ? kMaxSkippedSteps : missed;
    bool closed_form = p.uses_quadrature && uses_closed_form(from, count);
    const double power = closed_form ? load(p.beta2_power + (from - p.first)) : 0;
    if (closed_form) {
      const float least = float(min_exp_avg_sq(power, p.penalty_sq));
      bool below = false;
      for (int k = 0; k < 4; ++k) below |= exists[k] && v.at[k] < least;
      closed_form = !block.any(below);
    }
    if (closed_form) {
      const QuadratureRule<float>* const quadrature = p.quadrature_rules + count;
      const HeldNodes<B> nodes(block, p, quadrature, power);
      const float m_decay = load(&quadrature->exp_avg_decay), v_decay = load(&quadrature->exp_avg_sq_decay);
      closed_form_update<FourTimes<Branchless>>(p.rule, nodes, m_decay, v_decay, float(p.penalty_sq), p.lr, score, m,
                                                v);
    } else {
      const FourNumbers penalty = FourTimes<Exact<float>>::set(p.rule.penalty);
#pragma unroll 1
      for (int64_t j = 0; j < count; ++j) {
        adam_step<FourTimes<Exact<float>>>(p.rule, load(p.step + (from - p.first + j)), penalty, score, m, v);
      }
    }
    from += count;
  }
}

// Extra work on an updated row's scores: none. `before` loads, early, what `after` will need for each number.
struct NothingElse {
  SEAM_KERNEL float before(int32_t) const { return 0; }
  SEAM_KERNEL void after(int32_t, float, float) const {}
};

// A warp brings a row from step `from` to step `now`. untouched: the state at `now` of a row that never occurred. Calls
// other.after(e, other.before(e), score) for each number e.
template <class B, class Other>
SEAM_KERNEL void update_stale_row(const B& block, const RowsParams& p, int64_t row, int64_t from, int64_t now,
                                  const float (&untouched)[3], const Other& other) {
#pragma unroll 1
  for (int32_t e_0 = block.lane(); e_0 - block.lane() < p.width; e_0 += 4 * 32) {
    const ScoreState<float> state = p.state.at(row * p.width + e_0);
    bool exists[4];
    FourNumbers score, m, v, needed;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      exists[k] = e_0 + 32 * k < p.width;
      const bool read = exists[k] && from != kUntouched;
      score.at[k] = read ? load(state.score + 32 * k) : untouched[0];
      m.at[k] = read ? load(state.exp_avg + 32 * k) : untouched[1];
      v.at[k] = read ? load(state.exp_avg_sq + 32 * k) : untouched[2];
      needed.at[k] = exists[k] ? other.before(e_0 + 32 * k) : 0.0f;
    }
    if (from != kUntouched) apply_skipped_steps(block, p, from, now, exists, score, m, v);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (!exists[k]) continue;
      store(state.score + 32 * k, score.at[k]);
      store(state.exp_avg + 32 * k, m.at[k]);
      store(state.exp_avg_sq + 32 * k, v.at[k]);
      other.after(e_0 + 32 * k, needed.at[k], score.at[k]);
    }
  }
}

// Brings the stale rows of a plan up to date: this warp those with the indices part, part + parts, ... other(row, index
// of its word) gives the extra work for a row.
template <class B, class Other>
SEAM_KERNEL void update_stale_rows(const B& block, const RowsParams& p, const int32_t* stale, int64_t count,
                                   int64_t now, const float (&untouched)[3], int64_t part, int64_t parts,
                                   const Other& other) {
#pragma unroll 1
  for (int64_t i = part; i < count; i += parts) {
    const int32_t* const at = stale + kStaleNumbers * i;
    const int32_t row = load(at), from = load(at + 1), word = load(at + 2);
    update_stale_row(block, p, row, from, now, untouched, other(row, word));
  }
}

// Brings all stale rows up to date, before scores are read. Many blocks.
struct Flush {
  static constexpr int kThreads = 256, kCluster = 1;
  using Params = FlushParams;
  struct Smem {};

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const int64_t warps = kThreads / 32;
    update_stale_rows(block, p.rows, p.numbers, p.stale, p.now, p.untouched, block.index() * warps + block.warp(),
                      block.count() * warps, [](int32_t, int32_t) { return NothingElse{}; });
  }
};

}  // namespace seam::gpu

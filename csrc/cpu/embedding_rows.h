// The scores of a module's embedding rows, each brought up to date only when its word occurs.
//
// In a step in which a word does not occur, the gradient of its row is the penalty alone. So its update is lazy, as in
// sparse Adam, but exact: a row remembers the last step that it has taken, and makes up for the steps it has skipped
// when its word occurs again or when scores are read (`flush`), one by one (replay) or in closed form (quadrature). All
// rows that have never occurred have the same state, which is kept as a single vector.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/adam_constants.h"
#include "common/quadrature_rules.h"
#include "kernels.h"

namespace seam {

enum class LazyUpdate { quadrature, replay, off };

template <typename T>
class EmbeddingRows {
 public:
  // rows: number of rows with scores of their own; state: [rows + 1, width], the last row for all other words.
  // word: [rows] the id of each row's word, its row of `weight`.
  EmbeddingRows(int64_t rows, int64_t width, const T* weight, const int64_t* word, ScoreState<T> state, double penalty,
                LazyUpdate mode, const CpuKernels<T>& kernels)
      : kernels_(kernels), rows_(rows), width_(width), weight_(weight), state_(state), mode_(mode), row_(rows) {
    for (int64_t row = 0; row < rows; ++row) row_[row] = {kUntouched, int32_t(word[row])};
    rule_ = adam_rule<T>(kBeta1, kBeta2, kEps, penalty);
    penalty_sq_ = double(rule_.penalty) * double(rule_.penalty);
    if (mode == LazyUpdate::off) load_state(0);
    else read_untouched_state();
  }

  // Sets the learning rate of the next `steps` steps.
  void begin_epoch(double lr, int64_t steps) {
    flush();  // steps skipped so far had another learning rate
    std::vector<AdamStep<T>> step(steps);
    std::vector<double> beta2_power(steps + 1);
    for (int64_t i = 0; i <= steps; ++i) beta2_power[i] = std::pow(kBeta2, double(now_ + i));
    for (int64_t i = 0; i < steps; ++i) step[i] = adam_step_constants<T>(kBeta1, kBeta2, lr, now_ + i + 1);
    step_.swap(step);
    beta2_power_.swap(beta2_power);
    first_ = now_;
    lr_ = lr;
  }

  int64_t now() const { return now_; }  // steps taken
  int64_t steps_left() const { return int64_t(step_.size()) - (now_ - first_); }
  const AdamStep<T>& next_step() const { return step_[now_ - first_]; }

  void bring_up_to_date(int64_t row) {
    if (row_[row].last_step == kUntouched) {
      const int64_t at = row * width_;
      std::fill_n(state_.score + at, width_, untouched_state_[0][0]);
      std::fill_n(state_.exp_avg + at, width_, untouched_state_[1][0]);
      std::fill_n(state_.exp_avg_sq + at, width_, untouched_state_[2][0]);
    } else if (row_[row].last_step < now_) {
      apply_skipped_steps(state_.at(row * width_), row_[row].last_step);
    }
    row_[row].last_step = int32_t(now_);
  }

  // Prefetch what is known about a row, and the row itself.
  void prefetch_info(int64_t row) const { __builtin_prefetch(&row_[row], 1); }
  void prefetch(int64_t row) const {
    constexpr int64_t line = 64 / sizeof(T);
    const int64_t at = row * width_;
    for (int64_t i = 0; i < width_ + line - 1; i += line) {
      const int64_t k = std::min(i, width_ - 1);
      __builtin_prefetch(state_.score + at + k, 1);
      __builtin_prefetch(state_.exp_avg + at + k, 1);
      __builtin_prefetch(state_.exp_avg_sq + at + k, 1);
      __builtin_prefetch(weight_ + int64_t{row_[row].word} * width_ + k);
    }
  }

  // Writes the effective embedding of a row that is up to date; false if it is all 0.
  bool gather(int64_t row, T* out) const {
    return kernels_.effective(weight_ + int64_t{row_[row].word} * width_, state_.score + row * width_, out, width_);
  }

  // That of any word: row = rows() for one without a row of its own. All rows must be up to date.
  bool gather_word(int64_t row, int64_t word, T* out) const {
    return kernels_.effective(weight_ + word * width_, state_.score + row * width_, out, width_);
  }

  // One step of a row that is up to date; `take_step` then ends the step for all rows.
  void update(int64_t row, const T* sum) {
    ScoreUpdate<T> p{width_,     state_.at(row * width_), weight_ + int64_t{row_[row].word} * width_, sum, rule_,
                     next_step()};
    kernels_.update_scores(p);
    row_[row].last_step = int32_t(now_ + 1);
  }

  void take_step() {
    ReplayParams<T> p{
        kUntouchedWidth, 1, {untouched_state_[0], untouched_state_[1], untouched_state_[2]}, rule_, &next_step()};
    kernels_.replay_steps(p);
    ++now_;
    if (mode_ == LazyUpdate::off) flush();
  }

  // Brings all rows up to date.
  void flush() {
    if (flushed_ == now_) return;
    flushed_ = now_;
    for (int64_t row = 0; row < rows_; ++row) {
      const bool untouched = row_[row].last_step == kUntouched;
      bring_up_to_date(row);
      if (untouched) row_[row].last_step = kUntouched;  // it still has the state of all untouched rows
    }
    const int64_t at = rows_ * width_;
    std::fill_n(state_.score + at, width_, untouched_state_[0][0]);
    std::fill_n(state_.exp_avg + at, width_, untouched_state_[1][0]);
    std::fill_n(state_.exp_avg_sq + at, width_, untouched_state_[2][0]);
  }

  // Takes every row's state from its own memory, which the caller may have set, as that after `steps` steps.
  void load_state(int64_t steps) {
    now_ = first_ = steps;
    step_.clear();
    for (Row& row : row_) row.last_step = int32_t(now_);
    flushed_ = now_;
    read_untouched_state();
  }

  int64_t rows() const { return rows_; }

 private:
  struct Row {
    int32_t last_step;  // steps it has taken, or kUntouched: it never occurred and has `untouched_state_`
    int32_t word;       // its row of `weight_`
  };
  static constexpr int32_t kUntouched = -1;
  static constexpr int64_t kUntouchedWidth =
      16;  // a whole SIMD vector, so that it goes through the same instructions as other rows

  void read_untouched_state() {
    const int64_t at = rows_ * width_;
    std::fill_n(untouched_state_[0], kUntouchedWidth, state_.score[at]);
    std::fill_n(untouched_state_[1], kUntouchedWidth, state_.exp_avg[at]);
    std::fill_n(untouched_state_[2], kUntouchedWidth, state_.exp_avg_sq[at]);
  }

  void apply_skipped_steps(ScoreState<T> state, int64_t from) {
    while (from < now_) {
      const int64_t count = std::min(now_ - from, mode_ == LazyUpdate::quadrature ? kMaxSkippedSteps : now_ - from);
      const bool closed_form = mode_ == LazyUpdate::quadrature && uses_closed_form(from, count);
      if (!closed_form || !kernels_.closed_form_steps(closed_form_params(state, from, count))) {
        kernels_.replay_steps({width_, count, state, rule_, &step_[from - first_]});
      }
      from += count;
    }
  }

  ClosedFormParams<T> closed_form_params(ScoreState<T> state, int64_t from, int64_t count) const {
    const QuadratureRule<T>& quadrature = quadrature_rule<T>(count);
    const double power = beta2_power_[from - first_];
    ClosedFormParams<T> p{
        width_, state, rule_, &quadrature, {}, {}, T(penalty_sq_), T(lr_), T(min_exp_avg_sq(power, penalty_sq_))};
    for (int i = 0; i < quadrature.nodes; ++i) {
      const QuadratureNode<T> node(power, quadrature.beta2_power[i], penalty_sq_);
      p.offset[i] = node.offset, p.slope[i] = node.slope;
    }
    return p;
  }

  const CpuKernels<T>& kernels_;
  int64_t rows_, width_;
  const T* weight_;
  ScoreState<T> state_;
  LazyUpdate mode_;
  AdamRule<T> rule_;
  double penalty_sq_, lr_ = 0;  // the square of the penalty, the limit of exp_avg_sq
  int64_t now_ = 0, first_ = 0;
  int64_t flushed_ = -1;  // steps taken before the last flush
  std::vector<Row> row_;
  std::vector<AdamStep<T>> step_;          // of this epoch, from step `first_` on
  std::vector<double> beta2_power_;        // kBeta2^t, likewise
  T untouched_state_[3][kUntouchedWidth];  // score, exp_avg, exp_avg_sq of rows that never occurred
};

}  // namespace seam

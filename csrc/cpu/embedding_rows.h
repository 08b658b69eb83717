// The scores of a module's embedding rows, each brought up to date only when its word occurs.
//
// Where a word does not occur its row's gradient is the penalty, step after step. A row remembers the step until which it
// is up to date; what it has missed is made up for when its word comes, or when somebody wants to look (`flush`): step by
// step (replay), or at once (jump). Rows that never occurred all share one trajectory, kept as a single vector.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/adam_constants.h"
#include "kernels.h"
#include "common/quadrature_rules.h"

namespace seam {

enum class CatchUp { quadrature, replay, dense };

template <typename T>
class EmbeddingRows {
 public:
  // rows: number of rows with scores of their own; state: [rows + 1, width], the last row for all other words.
  // word: [rows] the row of `weight` that each belongs to.
  EmbeddingRows(int64_t rows, int64_t width, const T* weight, const int64_t* word, ScoreState<T> state, double penalty,
                CatchUp mode, const CpuKernels<T>& kernels)
      : kernels_(kernels), rows_(rows), width_(width), weight_(weight), state_(state), mode_(mode), row_(rows) {
    for (int64_t row = 0; row < rows; ++row) row_[row] = {kFresh, int32_t(word[row])};
    rule_ = adam_rule<T>(kBeta1, kBeta2, kEps, penalty);
    rest_ = double(rule_.penalty) * double(rule_.penalty);
    if (mode == CatchUp::dense) adopt(0);
    else take_shared();
  }

  // The next `steps` steps have this learning rate.
  void begin_epoch(double lr, int64_t steps) {
    flush();  // what was missed so far was missed at another rate
    std::vector<AdamStep<T>> step(steps);
    std::vector<double> beta2_power(steps + 1);
    for (int64_t i = 0; i <= steps; ++i) beta2_power[i] = std::pow(kBeta2, double(now_ + i));
    for (int64_t i = 0; i < steps; ++i) step[i] = adam_step_constants<T>(kBeta1, kBeta2, lr, now_ + i + 1);
    step_.swap(step);
    beta2_power_.swap(beta2_power);
    first_ = now_;
    lr_ = lr;
  }

  int64_t now() const { return now_; }          // steps taken
  int64_t steps_left() const { return int64_t(step_.size()) - (now_ - first_); }
  const AdamStep<T>& next_step() const { return step_[now_ - first_]; }

  void bring_up_to_date(int64_t row) {
    if (row_[row].reached == kFresh) {
      const int64_t at = row * width_;
      std::fill_n(state_.score + at, width_, shared_[0][0]);
      std::fill_n(state_.exp_avg + at, width_, shared_[1][0]);
      std::fill_n(state_.exp_avg_sq + at, width_, shared_[2][0]);
    } else if (row_[row].reached < now_) {
      catch_up(state_.at(row * width_), row_[row].reached);
    }
    row_[row].reached = int32_t(now_);
  }

  // Asks for what is known of a row, and for the row itself, which will be needed soon.
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

  // Kept weights of a row that is up to date; false where none is.
  bool gather(int64_t row, T* out) const {
    return kernels_.effective(weight_ + int64_t{row_[row].word} * width_, state_.score + row * width_, out, width_);
  }

  // Kept weights of any word: row = rows() for one without a row of its own. All rows must be up to date.
  bool gather_word(int64_t row, int64_t word, T* out) const {
    return kernels_.effective(weight_ + word * width_, state_.score + row * width_, out, width_);
  }

  // One step of a row that is up to date; `take_step` ends it for all rows.
  void update(int64_t row, const T* sum) {
    ScoreUpdate<T> p{width_, state_.at(row * width_), weight_ + int64_t{row_[row].word} * width_, sum, rule_, next_step()};
    kernels_.update_scores(p);
    row_[row].reached = int32_t(now_ + 1);
  }

  void take_step() {
    ScoreGap<T> p{kShared, 1, {shared_[0], shared_[1], shared_[2]}, rule_, &next_step()};
    kernels_.replay_gap(p);
    ++now_;
    if (mode_ == CatchUp::dense) flush();
  }

  // Brings all rows up to date.
  void flush() {
    if (flushed_ == now_) return;
    flushed_ = now_;
    for (int64_t row = 0; row < rows_; ++row) {
      const bool fresh = row_[row].reached == kFresh;
      bring_up_to_date(row);
      if (fresh) row_[row].reached = kFresh;  // it goes on following the others
    }
    const int64_t at = rows_ * width_;
    std::fill_n(state_.score + at, width_, shared_[0][0]);
    std::fill_n(state_.exp_avg + at, width_, shared_[1][0]);
    std::fill_n(state_.exp_avg_sq + at, width_, shared_[2][0]);
  }

  // From now on every row goes by what stands in its own memory, which the caller may have set, as after `steps` steps.
  void adopt(int64_t steps) {
    now_ = first_ = steps;
    step_.clear();
    for (Row& row : row_) row.reached = int32_t(now_);
    flushed_ = now_;
    take_shared();
  }

  int64_t rows() const { return rows_; }

 private:
  struct Row {
    int32_t reached;  // steps until which it is up to date, or kFresh: it never occurred and follows `shared_`
    int32_t word;     // its row of `weight_`
  };
  static constexpr int32_t kFresh = -1;
  static constexpr int64_t kShared = 16;  // a whole vector, so that it goes through the same instructions

  void take_shared() {
    const int64_t at = rows_ * width_;
    std::fill_n(shared_[0], kShared, state_.score[at]);
    std::fill_n(shared_[1], kShared, state_.exp_avg[at]);
    std::fill_n(shared_[2], kShared, state_.exp_avg_sq[at]);
  }

  void catch_up(ScoreState<T> state, int64_t from) {
    while (from < now_) {
      const int64_t count = std::min(now_ - from, mode_ == CatchUp::quadrature ? kLongestGap : now_ - from);
      const bool jumps = mode_ == CatchUp::quadrature && gap_is_jumped(from, count);
      if (!jumps || !kernels_.jump_gap(make_jump(state, from, count))) {
        kernels_.replay_gap({width_, count, state, rule_, &step_[from - first_]});
      }
      from += count;
    }
  }

  ScoreJump<T> make_jump(ScoreState<T> state, int64_t from, int64_t count) const {
    const GapRule<T>& gap = gap_rule<T>(count);
    const double power = beta2_power_[from - first_];
    ScoreJump<T> p{width_, state, rule_, &gap, {}, {}, T(rest_), T(lr_), T(least_exp_avg_sq(power, rest_))};
    for (int i = 0; i < gap.places; ++i) {
      const GapPlace<T> place(power, gap.beta2_power[i], rest_);
      p.at[i] = place.at, p.slope[i] = place.slope;
    }
    return p;
  }

  const CpuKernels<T>& kernels_;
  int64_t rows_, width_;
  const T* weight_;
  ScoreState<T> state_;
  CatchUp mode_;
  AdamRule<T> rule_;
  double rest_, lr_ = 0;              // the square of the penalty, at which exp_avg_sq comes to rest
  int64_t now_ = 0, first_ = 0;
  int64_t flushed_ = -1;              // steps taken at the last flush
  std::vector<Row> row_;
  std::vector<AdamStep<T>> step_;     // of this epoch, from step `first_` on
  std::vector<double> beta2_power_;   // kBeta2^t, likewise
  T shared_[3][kShared];              // score, exp_avg, exp_avg_sq of rows that never occurred
};

}  // namespace seam

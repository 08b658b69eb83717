// The plan of a launch, made ahead on the host: the distinct words of each batch and their positions, and which score
// rows have skipped which steps. Uses neither torch nor CUDA.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "seam_params.h"

namespace seam::gpu {

class EpochPlan {
 public:
  static constexpr size_t kBehind = 2;
  std::vector<PlanStep> steps;  // followed by so many empty ones
  std::vector<int32_t> numbers;
  int32_t most_words = 0, most_positions = 0, most_pieces = 0, most_lists = 0,
          most_length = 0;  // of a step; of a document (length)

  // How flat indices count, see seam_params.h.
  enum FlatOrder { by_time, by_document };

  // id_of_row: [rows] the word id of each score row; must outlive this object. dense: all rows take each step.
  EpochPlan(const int64_t* id_of_row, int64_t rows, bool dense)
      : id_of_row_(id_of_row), dense_(dense), last_step_(rows, kUntouched), unique_index_(rows, kNone) {
    if (dense) load_state(0);
  }

  // From now on no row is untouched, and all have taken `now` steps.
  void load_state(int64_t now) {
    std::fill(last_step_.begin(), last_step_.end(), int32_t(now));
    std::fill(unique_index_.begin(), unique_index_.end(), kNone);
    unique_rows_.clear();
  }

  // Plans steps of `batch` documents over the documents [begin, end) of score_rows (N, T), the first of them after
  // `now` steps. lengths: (N,), or null if all positions count. total(begin, end): what the sum of the losses of these
  // documents is divided by.
  template <class Total>
  void make(FlatOrder flat_order, const int32_t* score_rows, const int64_t* lengths, int64_t T, int64_t batch,
            int64_t begin, int64_t end, int64_t now, const Total& total) {
    steps.clear(), numbers.clear();
    most_words = most_positions = most_pieces = most_lists = most_length = 0;
    by_document_ = flat_order == by_document;
    last_step_before_ = last_step_;
    for (int64_t at = begin; at < end; at += batch, ++now) {
      const int64_t B = std::min(batch, end - at);
      PlanStep step = {};
      step.documents = int32_t(B), step.first = int32_t(at - begin);
      step.total = total(at, at + B);
      numbers.resize((numbers.size() + 3) / 4 * 4);  // lists are copied in groups of four
      order(lengths ? lengths + at : nullptr, B, T, step);
      words(score_rows + at * T, lengths ? lengths + at : nullptr, B, T, batch, step);
      stale(now, step);
      most_lists = std::max(most_lists, step.lists());
      steps.push_back(step);
    }
    for (const int32_t row : unique_rows_) unique_index_[row] = kNone;
    unique_rows_.clear();
    numbers.resize((numbers.size() + 3) / 4 * 4);
    steps.resize(steps.size() + kBehind);
  }

  // Takes the last `make` back; `steps` and `numbers` are then meaningless.
  void undo() { last_step_.swap(last_step_before_); }

  // All rows that are not up to date after `now` steps, in the form of a step's stale rows; marks them as up to date,
  // except untouched ones, which keep sharing their state.
  void flush(int64_t now, std::vector<int32_t>& stale) {
    stale.clear();
    for (size_t row = 0; row < last_step_.size(); ++row) {
      if (last_step_[row] == now) continue;
      stale.insert(stale.end(), {int32_t(row), last_step_[row], kNone});
      if (last_step_[row] != kUntouched) last_step_[row] = int32_t(now);
    }
  }

 private:
  void order(const int64_t* lengths, int64_t B, int64_t T, PlanStep& step) {
    order_.resize(B);
    std::iota(order_.begin(), order_.end(), 0);
    if (lengths) {
      std::stable_sort(order_.begin(), order_.end(),
                       [lengths](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });
    }
    step.document_at = int32_t(numbers.size());
    numbers.insert(numbers.end(), order_.begin(), order_.end());
    for (const int32_t document : order_) numbers.push_back(int32_t(lengths ? lengths[document] : T));
    most_length = std::max(most_length, numbers[step.document_at + B]);  // the longest is the first
    first_.resize(B);
    int32_t first = 0;
    for (const int32_t document : order_) {
      numbers.push_back(first);
      first_[document] = first;
      first += int32_t(lengths ? lengths[document] : T);
    }
  }

  // Numbers the distinct words in the order of their first occurrence, time by time, and lists the positions of each.
  void words(const int32_t* score_rows, const int64_t* lengths, int64_t B, int64_t T, int64_t batch, PlanStep& step) {
    last_unique_rows_.swap(unique_rows_);  // of the previous step, whose numbers are still in unique_index_
    unique_rows_.clear(), count_.clear(), positions_.clear();
    // A word of the previous step has its old number minus kOld, until it occurs in this step.
    for (const int32_t row : last_unique_rows_) unique_index_[row] -= kOld;
    const size_t next_at = steps.empty() ? 0 : steps.back().word_number_at + steps.back().positions;
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t b = 0; b < B; ++b) {
        if (lengths && t >= lengths[b]) continue;
        int32_t& number = unique_index_[score_rows[b * T + t]];
        if (number < 0) {
          if (number != kNone) numbers[next_at + number + kOld] = int32_t(unique_rows_.size());
          number = int32_t(unique_rows_.size());
          unique_rows_.push_back(score_rows[b * T + t]);
          count_.push_back(0);
        }
        ++count_[number];
        positions_.push_back({int32_t(by_document_ ? first_[b] + t : t * batch + b), number});
      }
    }
    for (const int32_t row : last_unique_rows_) {
      if (unique_index_[row] < 0) unique_index_[row] = kNone;
    }
    const size_t U = unique_rows_.size(), P = positions_.size();
    step.words = int32_t(U), step.positions = int32_t(P), step.word_at = int32_t(numbers.size());
    most_words = std::max(most_words, step.words), most_positions = std::max(most_positions, step.positions);
    numbers.insert(numbers.end(), unique_rows_.begin(), unique_rows_.end());
    for (const int32_t row : unique_rows_) numbers.push_back(int32_t(id_of_row_[row]));
    next_.resize(U + 1);
    next_[0] = 0;
    for (size_t u = 0; u < U; ++u) next_[u + 1] = next_[u] + count_[u];
    numbers.insert(numbers.end(), next_.begin(), next_.end());
    step.flat_index_at = int32_t(numbers.size()), step.word_number_at = int32_t(numbers.size() + P);
    numbers.resize(numbers.size() + 2 * P + U, kNone);
    for (const Position& p : positions_) {
      numbers[step.flat_index_at + next_[p.number]++] = p.flat_index;
      if (by_document_) numbers[step.word_number_at + p.flat_index] = p.number;
    }
    if (!by_document_) pieces(step);
  }

  // The pieces of each word's positions.
  void pieces(PlanStep& step) {
    step.piece_at = int32_t(numbers.size());
    pieces_.clear();
    int32_t position = 0;
    for (const int32_t count : count_) {
      numbers.push_back(int32_t(pieces_.size()));
      for (int32_t at = 0; at < count; at += kPieceOfWord) pieces_.push_back(position + at);
      position += count;
    }
    numbers.push_back(int32_t(pieces_.size()));
    numbers.insert(numbers.end(), pieces_.begin(), pieces_.end());
    numbers.push_back(position);
    step.pieces = int32_t(pieces_.size());
    most_pieces = std::max(most_pieces, step.pieces);
  }

  // Lists the rows that are stale at this step; marks the rows of its words as having taken it.
  void stale(int64_t now, PlanStep& step) {
    step.stale_at = int32_t(numbers.size());
    const auto add = [&](int32_t row) {
      if (last_step_[row] == now) return;
      numbers.insert(numbers.end(), {row, last_step_[row], unique_index_[row]});
      ++step.stale;
      last_step_[row] = int32_t(now);
    };
    if (dense_) {
      for (size_t row = 0; row < last_step_.size(); ++row) add(int32_t(row));
    }
    for (const int32_t row : unique_rows_) add(row);
    for (const int32_t row : unique_rows_) last_step_[row] = int32_t(now + 1);
  }

  struct Position {
    int32_t flat_index, number;
  };
  static constexpr int32_t kOld = int32_t{1} << 30;  // larger than the number of words of any batch

  const int64_t* id_of_row_;
  bool dense_, by_document_ = false;
  std::vector<int32_t> last_step_;  // of each row: steps taken, or kUntouched
  std::vector<int32_t> last_step_before_;
  std::vector<int32_t> unique_index_;  // of each row: its number in the batch, or kNone
  std::vector<int32_t> order_, first_, unique_rows_, last_unique_rows_, count_, next_, pieces_;
  std::vector<Position> positions_;
};

}  // namespace seam::gpu

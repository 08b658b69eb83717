// What an epoch's steps need to know of their documents, made ahead on the host: the distinct words of each batch and
// where they stand, and which rows of scores have missed which steps. Knows neither torch nor CUDA.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "seam_params.h"

namespace seam::gpu {

class EpochPlan {
 public:
  static constexpr size_t kBehind = 2;
  std::vector<PlanStep> steps;  // and so many empty ones behind them
  std::vector<int32_t> numbers;
  int32_t most_words = 0;  // of a step

  EpochPlan(int64_t rows, bool dense) : dense_(dense), reached_(rows, kFresh), seen_(rows, -1) {
    if (dense) adopt(0);
  }

  // From now on no row is fresh, and all are as after `now` steps.
  void adopt(int64_t now) { std::fill(reached_.begin(), reached_.end(), int32_t(now)); }

  // Steps of `batch` documents over the documents [begin, end) of slots (N, T), the first of them after `now` steps.
  // lengths: (N,), or null where all places count. total(begin, end): what the losses of these documents are divided by.
  template <class Total>
  void make(const int32_t* slots, const int64_t* lengths, int64_t T, int64_t batch, int64_t begin, int64_t end,
            int64_t now, const Total& total) {
    steps.clear(), numbers.clear();
    most_words = 0;
    for (int64_t at = begin; at < end; at += batch, ++now) {
      const int64_t B = std::min(batch, end - at);
      PlanStep step = {};
      step.documents = int32_t(B), step.first = int32_t(at - begin);
      step.total = total(at, at + B);
      order(lengths ? lengths + at : nullptr, B, T, step);
      words(slots + at * T, lengths ? lengths + at : nullptr, B, T, batch, step);
      due(now, step);
      steps.push_back(step);
    }
    steps.resize(steps.size() + kBehind);
  }

  // All rows, as a step's `due` is told, that are not up to date after `now` steps; then they are, but for fresh ones, which
  // go on following the others.
  void flush(int64_t now, std::vector<int32_t>& due) {
    due.clear();
    for (size_t row = 0; row < reached_.size(); ++row) {
      if (reached_[row] == now) continue;
      due.insert(due.end(), {int32_t(row), reached_[row]});
      if (reached_[row] != kFresh) reached_[row] = int32_t(now);
    }
  }

 private:
  void order(const int64_t* lengths, int64_t B, int64_t T, PlanStep& step) {
    order_.resize(B);
    std::iota(order_.begin(), order_.end(), 0);
    if (lengths) {
      std::stable_sort(order_.begin(), order_.end(), [lengths](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });
    }
    step.document_at = int32_t(numbers.size());
    numbers.insert(numbers.end(), order_.begin(), order_.end());
    for (const int32_t document : order_) numbers.push_back(int32_t(lengths ? lengths[document] : T));
  }

  // Numbers the words as they come, time by time, and lists the places of each.
  void words(const int32_t* slots, const int64_t* lengths, int64_t B, int64_t T, int64_t batch, PlanStep& step) {
    words_.clear(), count_.clear(), at_place_.clear();
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t b = 0; b < B; ++b) {
        if (lengths && t >= lengths[b]) continue;
        int32_t& number = seen_[slots[b * T + t]];
        if (number < 0) {
          number = int32_t(words_.size());
          words_.push_back(slots[b * T + t]);
          count_.push_back(0);
        }
        ++count_[number];
        at_place_.push_back({int32_t(t * batch + b), number});
      }
    }
    const size_t U = words_.size();
    step.words = int32_t(U), step.places = int32_t(at_place_.size()), step.word_at = int32_t(numbers.size());
    most_words = std::max(most_words, step.words);
    numbers.insert(numbers.end(), words_.begin(), words_.end());
    next_.resize(U + 1);
    next_[0] = 0;
    for (size_t u = 0; u < U; ++u) next_[u + 1] = next_[u] + count_[u];
    numbers.insert(numbers.end(), next_.begin(), next_.end());
    step.place_at = int32_t(numbers.size());
    numbers.resize(numbers.size() + at_place_.size());
    for (const AtPlace& p : at_place_) numbers[step.place_at + next_[p.number]++] = p.place;
    for (const int32_t word : words_) seen_[word] = -1;
  }

  // Rows that are behind at this step, which none of the steps in between has touched; then notes that the step does.
  void due(int64_t now, PlanStep& step) {
    step.due_at = int32_t(numbers.size());
    const auto add = [&](int32_t row) {
      if (reached_[row] == now) return;
      numbers.insert(numbers.end(), {row, reached_[row]});
      ++step.due;
      reached_[row] = int32_t(now);
    };
    if (dense_) {
      for (size_t row = 0; row < reached_.size(); ++row) add(int32_t(row));
    }
    for (const int32_t word : words_) add(word);
    for (const int32_t word : words_) reached_[word] = int32_t(now + 1);
  }

  struct AtPlace {
    int32_t place, number;
  };
  bool dense_;
  std::vector<int32_t> reached_;  // of each row, the steps until which it is up to date, or kFresh
  std::vector<int32_t> seen_;     // of each row, its word's number in the batch, or -1
  std::vector<int32_t> order_, words_, count_, next_;
  std::vector<AtPlace> at_place_;
};

}  // namespace seam::gpu

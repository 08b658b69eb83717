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
  int32_t most_words = 0, most_places = 0, most_pieces = 0, most_lists = 0, most_length = 0;  // of a step; of a document

  // How places are numbered, see seam_params.h.
  enum Places { by_time, by_document };

  // word: [rows] the row of the embedding that a row of scores belongs to; kept.
  EpochPlan(const int64_t* word, int64_t rows, bool dense)
      : word_(word), dense_(dense), reached_(rows, kFresh), seen_(rows, kNone) {
    if (dense) adopt(0);
  }

  // From now on no row is fresh, and all are as after `now` steps.
  void adopt(int64_t now) {
    std::fill(reached_.begin(), reached_.end(), int32_t(now));
    std::fill(seen_.begin(), seen_.end(), kNone);
    words_.clear();
  }

  // Steps of `batch` documents over the documents [begin, end) of slots (N, T), the first of them after `now` steps.
  // lengths: (N,), or null where all positions count. total(begin, end): what the losses of these documents are divided by.
  template <class Total>
  void make(Places places, const int32_t* slots, const int64_t* lengths, int64_t T, int64_t batch, int64_t begin,
            int64_t end, int64_t now, const Total& total) {
    steps.clear(), numbers.clear();
    most_words = most_places = most_pieces = most_lists = most_length = 0;
    by_document_ = places == by_document;
    reached_before_ = reached_;
    for (int64_t at = begin; at < end; at += batch, ++now) {
      const int64_t B = std::min(batch, end - at);
      PlanStep step = {};
      step.documents = int32_t(B), step.first = int32_t(at - begin);
      step.total = total(at, at + B);
      numbers.resize((numbers.size() + 3) / 4 * 4);  // lists are copied by four
      order(lengths ? lengths + at : nullptr, B, T, step);
      words(slots + at * T, lengths ? lengths + at : nullptr, B, T, batch, step);
      due(now, step);
      most_lists = std::max(most_lists, step.lists());
      steps.push_back(step);
    }
    for (const int32_t word : words_) seen_[word] = kNone;
    words_.clear();
    numbers.resize((numbers.size() + 3) / 4 * 4);
    steps.resize(steps.size() + kBehind);
  }

  // As if `make` had not been called since the last step of the plan before; `steps` and `numbers` stand for nothing.
  void undo() { reached_.swap(reached_before_); }

  // All rows, as a step's `due` is told, that are not up to date after `now` steps; then they are, but for fresh ones, which
  // go on following the others.
  void flush(int64_t now, std::vector<int32_t>& due) {
    due.clear();
    for (size_t row = 0; row < reached_.size(); ++row) {
      if (reached_[row] == now) continue;
      due.insert(due.end(), {int32_t(row), reached_[row], kNone});
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
    most_length = std::max(most_length, numbers[step.document_at + B]);  // the longest is the first
    first_.resize(B);
    int32_t first = 0;
    for (const int32_t document : order_) {
      numbers.push_back(first);
      first_[document] = first;
      first += int32_t(lengths ? lengths[document] : T);
    }
  }

  // Numbers the words as they come, time by time, and lists the places of each.
  void words(const int32_t* slots, const int64_t* lengths, int64_t B, int64_t T, int64_t batch, PlanStep& step) {
    last_words_.swap(words_);  // of the step before, whose numbers are still in seen_
    words_.clear(), count_.clear(), at_place_.clear();
    // A word of the step before has its old number less kOld, until it is met again.
    for (const int32_t word : last_words_) seen_[word] -= kOld;
    const size_t next_at = steps.empty() ? 0 : steps.back().position_at + steps.back().places;
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t b = 0; b < B; ++b) {
        if (lengths && t >= lengths[b]) continue;
        int32_t& number = seen_[slots[b * T + t]];
        if (number < 0) {
          if (number != kNone) numbers[next_at + number + kOld] = int32_t(words_.size());
          number = int32_t(words_.size());
          words_.push_back(slots[b * T + t]);
          count_.push_back(0);
        }
        ++count_[number];
        at_place_.push_back({int32_t(by_document_ ? first_[b] + t : t * batch + b), number});
      }
    }
    for (const int32_t word : last_words_) {
      if (seen_[word] < 0) seen_[word] = kNone;
    }
    const size_t U = words_.size(), P = at_place_.size();
    step.words = int32_t(U), step.places = int32_t(P), step.word_at = int32_t(numbers.size());
    most_words = std::max(most_words, step.words), most_places = std::max(most_places, step.places);
    numbers.insert(numbers.end(), words_.begin(), words_.end());
    for (const int32_t word : words_) numbers.push_back(int32_t(word_[word]));
    next_.resize(U + 1);
    next_[0] = 0;
    for (size_t u = 0; u < U; ++u) next_[u + 1] = next_[u] + count_[u];
    numbers.insert(numbers.end(), next_.begin(), next_.end());
    step.place_at = int32_t(numbers.size()), step.position_at = int32_t(numbers.size() + P);
    numbers.resize(numbers.size() + 2 * P + U, kNone);
    for (const AtPlace& p : at_place_) {
      numbers[step.place_at + next_[p.number]++] = p.place;
      if (by_document_) numbers[step.position_at + p.place] = p.number;
    }
    if (!by_document_) pieces(step);
  }

  // The pieces of each word's places.
  void pieces(PlanStep& step) {
    step.piece_at = int32_t(numbers.size());
    pieces_.clear();
    int32_t place = 0;
    for (const int32_t count : count_) {
      numbers.push_back(int32_t(pieces_.size()));
      for (int32_t at = 0; at < count; at += kPieceOfWord) pieces_.push_back(place + at);
      place += count;
    }
    numbers.push_back(int32_t(pieces_.size()));
    numbers.insert(numbers.end(), pieces_.begin(), pieces_.end());
    numbers.push_back(place);
    step.pieces = int32_t(pieces_.size());
    most_pieces = std::max(most_pieces, step.pieces);
  }

  // Rows that are behind at this step, which none of the steps in between has touched; then notes that the step does.
  void due(int64_t now, PlanStep& step) {
    step.due_at = int32_t(numbers.size());
    const auto add = [&](int32_t row) {
      if (reached_[row] == now) return;
      numbers.insert(numbers.end(), {row, reached_[row], seen_[row]});
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
  static constexpr int32_t kOld = int32_t{1} << 30;  // more than a batch has words

  const int64_t* word_;
  bool dense_, by_document_ = false;
  std::vector<int32_t> reached_;  // of each row, the steps until which it is up to date, or kFresh
  std::vector<int32_t> reached_before_;
  std::vector<int32_t> seen_;     // of each row, its word's number in the batch, or kNone
  std::vector<int32_t> order_, first_, words_, last_words_, count_, next_, pieces_;
  std::vector<AtPlace> at_place_;
};

}  // namespace seam::gpu

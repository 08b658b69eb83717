// The order in which the packed rows of a batch are worked on; see common/masked_lstm_params.h.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/masked_lstm_params.h"

namespace seam {

// Sequences longest first, and their rows step by step.
struct SequencePlan {
  int64_t steps = 0;                                 // of the longest sequence
  std::vector<int64_t> sequence, length, first_row;  // of each rank; of each step
  std::vector<TimeIndex> time_index[2];              // of each row, in each direction

  SequencePlan() = default;
  // lengths: of each sequence, 0 to T, or null if all are T long.
  SequencePlan(int64_t T, int64_t B, int64_t directions, const int64_t* lengths) { make(T, B, directions, lengths); }

  void make(int64_t T, int64_t B, int64_t directions, const int64_t* lengths) {
    sequence.resize(B);
    std::iota(sequence.begin(), sequence.end(), 0);
    length.assign(B, T);
    if (lengths) {
      std::stable_sort(sequence.begin(), sequence.end(),
                       [lengths](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
      for (int64_t rank = 0; rank < B; ++rank) length[rank] = lengths[sequence[rank]];
    }
    steps = B ? length[0] : 0;
    first_row.assign(steps + 1, 0);
    int64_t running = B;
    for (int64_t step = 0; step < steps; ++step) {
      while (length[running - 1] <= step) --running;
      first_row[step + 1] = first_row[step] + running;
    }
    for (int64_t d = 0; d < directions; ++d) {
      time_index[d].clear();
      time_index[d].reserve(rows());
      for (int64_t step = 0; step < steps; ++step) {
        for (int64_t rank = 0; rank < running_at(step); ++rank) {
          const int64_t time = d == 0 ? step : length[rank] - 1 - step;
          time_index[d].push_back({int32_t(time), int32_t(sequence[rank])});
        }
      }
    }
  }

  int64_t rows() const { return first_row[steps]; }
  int64_t running_at(int64_t step) const { return first_row[step + 1] - first_row[step]; }
};

}  // namespace seam

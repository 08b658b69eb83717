// The sequences of a batch as kernels see them; see params.h for rank and step.
#pragma once

#include "block.cuh"
#include "params.h"

namespace seam::gpu {

struct Sequence {
  int32_t index = 0, length = 0;  // its place in the caller's batch; its steps
  bool exists = false, reverse = false;

  SEAM_KERNEL Place at(int step) const { return {reverse ? length - 1 - step : step, index}; }
  // The time of the step before the one at a time, -1 for the first.
  SEAM_KERNEL int32_t before(int32_t time) const {
    const int32_t other = reverse ? time + 1 : time - 1;
    return other < length ? other : -1;
  }
};

SEAM_KERNEL Sequence sequence_at(const Sequences& s, int64_t rank) {
  Sequence sequence;
  if (rank >= s.batch) return sequence;
  sequence.index = s.order ? load(s.order + rank) : int32_t(rank);
  sequence.length = s.length ? load(s.length + rank) : int32_t(s.steps);
  sequence.exists = true;
  sequence.reverse = s.reverse;
  return sequence;
}

// Steps of a tile: those of its longest sequence.
template <int NB>
SEAM_KERNEL int tile_steps(const Sequences& s, int64_t first_rank) {
  int longest = 0;
#pragma unroll
  for (int row = 0; row < NB; ++row) {
    const int length = sequence_at(s, first_rank + row).length;
    longest = length > longest ? length : longest;
  }
  return longest;
}

}  // namespace seam::gpu

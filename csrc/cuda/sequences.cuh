// The sequences of a batch in kernels; see params.h for rank and step.
#pragma once

#include "block.cuh"
#include "params.h"

namespace seam::gpu {

struct Sequence {
  int32_t index = 0, length = 0;  // its index in the caller's batch; its steps
  bool exists = false, reverse = false;

  SEAM_KERNEL TimeIndex at(int step) const { return {reverse ? length - 1 - step : step, index}; }
  // The time of the step before that at `time`, -1 for the first.
  SEAM_KERNEL int32_t before(int32_t time) const {
    const int32_t other = reverse ? time + 1 : time - 1;
    return other < length ? other : -1;
  }
};

SEAM_KERNEL Sequence sequence_at(const Sequences& s, int64_t rank) {
  Sequence sequence;
  sequence.reverse = s.reverse;  // also if there is no such sequence, so that strides are the same in all threads
  if (rank >= s.batch) return sequence;
  sequence.index = s.order ? load(s.order + rank) : int32_t(rank);
  sequence.length = s.length ? load(s.length + rank) : int32_t(s.steps);
  sequence.exists = true;
  return sequence;
}

// A pointer to one number of a sequence's row of a tensor, for a thread that goes from step to step. Held: kept in
// registers and moved by an addition; otherwise computed each time, by two products, which takes time instead of
// registers.
template <class T, bool Held>
struct Walk {
  T* here;
  int64_t stride;  // the same for all sequences, so it takes no registers per thread

  SEAM_KERNEL Walk(const StridedView<T>& rows, const Sequences& s, const Sequence& sequence, int step, int column)
      : here(rows.data ? rows.at(sequence.at(step)) + column : nullptr),
        stride(s.reverse ? -rows.time_stride : rows.time_stride) {}
  SEAM_KERNEL bool exists() const { return here != nullptr; }
  SEAM_KERNEL T* at(int) const { return here; }
  SEAM_KERNEL T* after(int) const { return here + stride; }
  SEAM_KERNEL void forward() { here += stride; }
  SEAM_KERNEL void backward() { here -= stride; }
};
template <class T>
struct Walk<T, false> {
  const StridedView<T>& rows;
  const Sequence& sequence;
  int column;

  SEAM_KERNEL Walk(const StridedView<T>& rows, const Sequences&, const Sequence& sequence, int, int column)
      : rows(rows), sequence(sequence), column(column) {}
  SEAM_KERNEL bool exists() const { return rows.data != nullptr; }
  SEAM_KERNEL T* at(int step) const { return rows.at(sequence.at(step)) + column; }
  SEAM_KERNEL T* after(int step) const { return at(step + 1); }
  SEAM_KERNEL void forward() {}
  SEAM_KERNEL void backward() {}
};

// The steps of a tile are those of its longest sequence.
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

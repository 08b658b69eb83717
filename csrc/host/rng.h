// The random choices of a run in native code: the same numbers as NumPy's, without holding the GIL.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace seam {

// Whether each of the first `count` numbers of the key's Philox 4x64 stream, as NumPy has it, is below `threshold`
// (bool).
at::Tensor draw_chance(uint64_t key_0, uint64_t key_1, int64_t count, uint64_t threshold);

// The first `first` entries of a permutation of 0 .. count - 1: sorted by such numbers, stable where they are equal
// (int64).
at::Tensor draw_permutation(uint64_t key_0, uint64_t key_1, int64_t count, int64_t first);

}  // namespace seam

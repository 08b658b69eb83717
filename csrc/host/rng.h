// The random choices of seam_fast/draws.py, natively: the same numbers, and other threads of Python go on meanwhile.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace seam {

// Of the Philox 4x64 stream of a key, as NumPy has it: of `count` numbers, whether each is below `least` (bool).
at::Tensor draw_chance(uint64_t key_0, uint64_t key_1, int64_t count, uint64_t least);

// The first `first` places of 0 .. count - 1 in the order of such numbers, equal ones in their own order (int64).
at::Tensor draw_permutation(uint64_t key_0, uint64_t key_1, int64_t count, int64_t first);

}  // namespace seam

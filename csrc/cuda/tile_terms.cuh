// Small products out of shared memory by a warp's tensor-core tiles: sum (16 MT x 8 NT) += A (16 MT x K) B (K x 8 NT).
// Operands lie as they were left, row by row or term by term, so nothing is transposed or packed.
//
// In float32 each number is split into two of tf32's 11 bits, high + low, and three of the four products are formed (3xTF32):
// what is left out is at most 2^-22 of a term. Where torch allows tf32, the product of the high ones alone.
#pragma once

#include "block.cuh"

namespace seam::gpu {

struct SplitTf32 {};  // float32 by three products; names the arithmetic, as Tf32 does

// Where an operand lies. `limit`: rows of A or columns of B that exist; beyond, the last one is read, for nothing.
struct ByTerm {  // term k of number i: first + k * pitch + i
  int first, pitch, limit;
};
struct ByNumber {  // first + i * pitch + k
  int first, pitch, limit;
};

// The 11 bits of tf32, and as many of what is left. The first are rounded to the nearest: cut off, all rests would have the
// sign of their number, and the products of two rests, which are left out, would not average to nothing. A NaN passes by way
// of the rest.
SEAM_KERNEL uint32_t high_bits(float x) { return (float_to_bits(x) + 0x1000u) & 0xffffe000u; }
SEAM_KERNEL uint32_t low_bits(float x, uint32_t high) { return float_to_bits(x - bits_to_float(high)) & 0xffffe000u; }

// One operand's numbers of a tile and 8 terms: N of A (rows g and g + 8) are 4, of B (column g) 2.
// Pairs: a lane takes the terms 2t and 2t + 1 in place of t and t + 4, of both operands alike, which is another order of the
// same sum, and one access of 8 bytes in place of two.
template <bool Pairs>
struct Operand {
  template <class Memory>
  static SEAM_KERNEL void two(const Memory& memory, const ByNumber& at, int i, int k, int t, float (&to)[2]) {
    const int row = at.first + (i < at.limit ? i : at.limit - 1) * at.pitch + k;
    if constexpr (Pairs) {
      memory.load2(row + 2 * t, to);
    } else {
      to[0] = memory.load(row + t);
      to[1] = memory.load(row + t + 4);
    }
  }
  template <class Memory>
  static SEAM_KERNEL void two(const Memory& memory, const ByTerm& at, int i, int k, int t, float (&to)[2]) {
    static_assert(!Pairs, "of operands that both lie number by number");
    const int column = at.first + (k + t) * at.pitch + (i < at.limit ? i : at.limit - 1);
    to[0] = memory.load(column);
    to[1] = memory.load(column + 4 * at.pitch);
  }
};

// A's row tiles m, m + 1, ... and B's column tiles n, n + Apart, ..., of which `have` exist, at least one. K: terms, a
// multiple of 8. The sums of a tile lie as block.cuh has them. Whole warps.
template <class Number, int MT, int NT, int Apart, class Block, class Memory, class A, class B>
SEAM_KERNEL void add_terms(const Block& block, const Memory& memory, const A& a, const B& b, int m, int n, int have, int K,
                           float (&sum)[MT][NT][4]) {
  constexpr bool kPairs = std::is_same_v<A, ByNumber> && std::is_same_v<B, ByNumber>;
  constexpr bool kSplits = std::is_same_v<Number, SplitTf32>;
  const int g = block.lane() / 4, t = block.lane() % 4;
  float small[MT][NT][4] = {};  // products with a low half: a chain of their own, so that neither waits for the other
#pragma unroll 2
  for (int k = 0; k < K; k += 8) {
    uint32_t a_high[MT][4], a_low[MT][4], b_high[NT][2], b_low[NT][2];
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float x[2];
        Operand<kPairs>::two(memory, a, (m + i) * 16 + g + 8 * h, k, t, x);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          a_high[i][h + 2 * c] = kSplits ? high_bits(x[c]) : to_tf32(x[c]);
          a_low[i][h + 2 * c] = low_bits(x[c], a_high[i][h + 2 * c]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float x[2];
      Operand<kPairs>::two(memory, b, (n + (j < have ? j : 0) * Apart) * 8 + g, k, t, x);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        b_high[j][c] = kSplits ? high_bits(x[c]) : to_tf32(x[c]);
        b_low[j][c] = low_bits(x[c], b_high[j][c]);
      }
    }
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      if (j >= have) continue;
#pragma unroll
      for (int i = 0; i < MT; ++i) block.multiply(sum[i][j], a_high[i], b_high[j], Tf32{});
      if constexpr (kSplits) {
#pragma unroll
        for (int i = 0; i < MT; ++i) block.multiply(small[i][j], a_low[i], b_high[j], Tf32{});
#pragma unroll
        for (int i = 0; i < MT; ++i) block.multiply(small[i][j], a_high[i], b_low[j], Tf32{});
      }
    }
  }
  if constexpr (kSplits) {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int j = 0; j < NT; ++j) {
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[i][j][q] += small[i][j][q];
      }
    }
  }
}

}  // namespace seam::gpu

// Small products out of shared memory by a warp's tensor-core tiles: sum (16 MT x 8 NT) += A (16 MT x K) B (K x 8 NT).
// Operands lie as they were left, row by row or term by term, so nothing is transposed or packed.
//
// In float32 each number is split into two of tf32's 11 bits, high + low, and three of the four products are formed (3xTF32):
// what is left out is at most 2^-22 of a term. Where torch allows tf32, the product of the high ones alone.
#pragma once

#include <type_traits>

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
SEAM_KERNEL uint32_t low_bits(float x, uint32_t high) {
  const uint32_t bits = float_to_bits(x - bits_to_float(high));
#if defined(__CUDA_ARCH__)
  return bits;  // the machine takes no notice of the lower 13
#else
  return bits & 0xffffe000u;
#endif
}

// Where a lane finds its share of an operand: of number i the terms k + t and k + t + 4. Pairs: 2t and 2t + 1 in their place,
// of both operands alike, which is another order of the same sum, and one access of 8 bytes instead of two.
template <bool Pairs>
struct Share {
  int at, apart, step;  // of the first term at k = 0; to the second; to the next 8

  SEAM_KERNEL Share(const ByNumber& from, int i, int t)
      : at(from.first + (i < from.limit ? i : from.limit - 1) * from.pitch + (Pairs ? 2 * t : t)), apart(4), step(8) {}
  SEAM_KERNEL Share(const ByTerm& from, int i, int t)
      : at(from.first + t * from.pitch + (i < from.limit ? i : from.limit - 1)),
        apart(4 * from.pitch),
        step(8 * from.pitch) {
    static_assert(!Pairs, "of operands that both lie number by number");
  }
  template <class Memory>
  SEAM_KERNEL void load(const Memory& memory, int eights, float (&to)[2]) const {
    const int from = at + eights * step;
    if constexpr (Pairs) {
      memory.load2(from, to);
    } else {
      to[0] = memory.load(from);
      to[1] = memory.load(from + apart);
    }
  }
};

// A's row tiles m, m + 1, ... and B's column tiles n, n + Apart, ..., of which `have` exist, at least one; what comes of the
// others is nothing. K: terms, a multiple of 8. The sums of a tile lie as block.cuh has them. Whole warps.
template <class Number, int MT, int NT, int Apart>
struct TileTerms {
  static constexpr bool kSplits = std::is_same_v<Number, SplitTf32>;

  // Of each tile two chains, so that neither waits for the other: of products with a low half, and of the others. The terms may
  // come in several pieces; where these begin changes no bit.
  struct Sums {
    float large[MT][NT][4] = {}, small[MT][NT][4] = {};

    SEAM_KERNEL float get(int i, int j, int q) const { return large[i][j][q] + small[i][j][q]; }
    SEAM_KERNEL void get(int i, int j, float (&to)[4]) const {
#pragma unroll
      for (int q = 0; q < 4; ++q) to[q] = get(i, j, q);
    }
  };

  struct Raw {  // numbers of 8 terms, as they were loaded
    float a[MT][2][2], b[NT][2];  // rows g and g + 8, column g
  };

  template <class Block, class Memory, class A, class B>
  static SEAM_KERNEL void add(const Block& block, const Memory& memory, const A& a, const B& b, int m, int n, int have,
                              int K, Sums& sums) {
    using Of = Share<std::is_same_v<A, ByNumber> && std::is_same_v<B, ByNumber>>;
    const int g = block.lane() / 4, t = block.lane() % 4;
    const auto fetch = [&](int eights, Raw& raw) {
#pragma unroll
      for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) Of(a, (m + i) * 16 + g + 8 * h, t).load(memory, eights, raw.a[i][h]);
      }
#pragma unroll
      for (int j = 0; j < NT; ++j) Of(b, (n + (j < have ? j : 0) * Apart) * 8 + g, t).load(memory, eights, raw.b[j]);
    };
    block.sync_warp();  // tiles are multiplied by lanes that are together
    Raw one, other;  // what is multiplied, and what is on its way
    const int last = K / 8 - 1;
    fetch(0, one);
#pragma unroll 1
    for (int i = 0; i < last; i += 2) {
      fetch(i + 1, other);
      multiply(block, one, sums);
      fetch(i + 2 < last ? i + 2 : last, one);
      multiply(block, other, sums);
    }
    if (last % 2 == 0) multiply(block, one, sums);
  }

 private:
  template <class Block>
  static SEAM_KERNEL void multiply(const Block& block, const Raw& raw, Sums& sums) {
    uint32_t a_high[MT][4], a_low[MT][4], b_high[NT][2], b_low[NT][2];
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const float x = raw.a[i][q % 2][q / 2];
        a_high[i][q] = kSplits ? high_bits(x) : to_tf32(x);
        a_low[i][q] = low_bits(x, a_high[i][q]);
      }
    }
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float x = raw.b[j][c];
        b_high[j][c] = kSplits ? high_bits(x) : to_tf32(x);
        b_low[j][c] = low_bits(x, b_high[j][c]);
      }
    }
    // A tile's sums wait for its last product: all tiles take turns.
    const auto each = [&](const auto& body) {
#pragma unroll
      for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int j = 0; j < NT; ++j) body(i, j);
      }
    };
    if constexpr (kSplits) each([&](int i, int j) { block.multiply(sums.small[i][j], a_low[i], b_high[j], Tf32{}); });
    each([&](int i, int j) { block.multiply(sums.large[i][j], a_high[i], b_high[j], Tf32{}); });
    if constexpr (kSplits) each([&](int i, int j) { block.multiply(sums.small[i][j], a_high[i], b_low[j], Tf32{}); });
  }
};

}  // namespace seam::gpu

// Small products by a warp's tensor-core tiles with operands in shared memory: sum (16 MT x 8 NT) += A (16 MT x K) B (K
// x 8 NT). The operands may be row-major or column-major, so that nothing has to be transposed or packed.
//
// In float32 each number is split into two tf32 numbers of 11 bits, high + low, and three of the four products are
// formed (3xTF32): the error is at most 2^-22 of a term. Where torch allows tf32, only the product of the high parts
// is.
#pragma once

#include <type_traits>

#include "block.cuh"

namespace seam::gpu {

struct SplitTf32 {};  // float32 by three products; a tag, as Tf32

// The layout of an operand. `limit`: rows of A or columns of B that exist; beyond, the last one is read, and its
// product ignored.
struct ByTerm {  // term k of number i: first + k * pitch + i
  int first, pitch, limit;
};
struct ByNumber {  // first + i * pitch + k
  int first, pitch, limit;
};

// The high and the low 11 bits. The high part is rounded to nearest: if it were truncated, all low parts would have the
// sign of their number, and the products of two low parts, which are left out, would not average out. A NaN is kept in
// the low part.
SEAM_KERNEL uint32_t high_bits(float x) { return (float_to_bits(x) + 0x1000u) & 0xffffe000u; }
SEAM_KERNEL uint32_t low_bits(float x, uint32_t high) {
  const uint32_t bits = float_to_bits(x - bits_to_float(high));
#if defined(__CUDA_ARCH__)
  return bits;  // the hardware ignores the lower 13
#else
  return bits & 0xffffe000u;
#endif
}

// What a lane reads of an operand: the terms k + t and k + t + 4 of number i. Pairs: the terms k + 2t and k + 2t + 1
// instead, of both operands, which permutes the terms of the sum and takes one access of 8 bytes instead of two.
template <bool Pairs>
struct Share {
  int at, apart, step;  // index of the first term at k = 0; distance to the second; to the next 8 terms

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

// The row tiles m, m + 1, ... of A and the column tiles n, n + Apart, ... of B, of which `have` exist, at least one;
// the sums of the others are meaningless. K: terms, a multiple of 8. For the layout of a tile's sums see block.cuh.
// Called by whole warps.
template <class Number, int MT, int NT, int Apart>
struct TileTerms {
  static constexpr bool kSplits = std::is_same_v<Number, SplitTf32>;

  // Two independent chains per tile: products with a low part, and the others. The terms may be added in several calls;
  // where they are divided changes no bit.
  struct Sums {
    float large[MT][NT][4] = {}, small[MT][NT][4] = {};

    SEAM_KERNEL float get(int i, int j, int q) const { return large[i][j][q] + small[i][j][q]; }
    SEAM_KERNEL void get(int i, int j, float (&to)[4]) const {
#pragma unroll
      for (int q = 0; q < 4; ++q) to[q] = get(i, j, q);
    }
  };

  struct Raw {                    // 8 terms, as they were loaded
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
    block.sync_warp();  // tensor-core instructions need a converged warp
    Raw one, other;     // the operands that are multiplied, and those that are being loaded
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
    // A product on the same sums waits for the previous one: so all tiles take turns.
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

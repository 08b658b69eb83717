// The weights of the recurrences that use clusters and tensor cores: how a block masks those of its gates, and how its
// warps hold them as left operands of tensor-core tiles: in registers, and what does not fit there in shared memory, in
// the order in which the lanes use it, 16 bytes per lane, so that a warp reads an operand by one access without bank
// conflicts.
#pragma once

#include <type_traits>

#include "block.cuh"
#include "weights.cuh"

namespace seam::gpu {

struct alignas(16) FourWords {
  uint32_t at[4];
};

// Two adjacent masked 16-bit weights, packed in a word.
template <class T>
SEAM_KERNEL uint32_t kept_pair(uint32_t weights, uint32_t scores, bool masked) {
  const uint32_t low = widen(low_half<T>(scores)) > 0 || !masked ? 0xffffu : 0u;
  const uint32_t high = widen(high_half<T>(scores)) > 0 || !masked ? 0xffff0000u : 0u;
  return weights & (low | high);
}

// The masked weights of a block's gates in shared memory, on their way into operands: [gate, unit], and `Columns`
// adjacent columns of each row, two to a word; zeros where the layer has none.
template <class T, int Units, int Columns, int Threads>
struct StagedRows {
  static constexpr int kPitch = Columns / 2 + 4;
  Shared<uint32_t, kGates * Units * kPitch> rows;

  static SEAM_KERNEL int row(int gate, int unit_here) { return (gate * Units + unit_here) * kPitch; }

  template <class B>
  SEAM_KERNEL void fill(const B& block, const MaskedNumbers& weight_hh, int first_unit, int first_column, int H) {
    const T* const weight = static_cast<const T*>(weight_hh.weight);
    const T* const score = static_cast<const T*>(weight_hh.score ? weight_hh.score : weight_hh.weight);
    const bool aligned = H % 8 == 0 && is_aligned(weight) && is_aligned(score), masked = weight_hh.score != nullptr;
    if (aligned) copy<true>(block, weight, score, masked, first_unit, first_column, H);
    else copy<false>(block, weight, score, masked, first_unit, first_column, H);
    block.sync();
  }

 private:
  static SEAM_KERNEL bool is_aligned(const T* at) { return reinterpret_cast<uintptr_t>(at) % sizeof(FourWords) == 0; }

  template <bool Aligned>
  static SEAM_KERNEL FourWords eight(const T* at, int count) {
    if constexpr (Aligned) {
      return count > 0 ? load(reinterpret_cast<const FourWords*>(at)) : FourWords{};
    } else {
      T numbers[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) numbers[e] = e < count ? load(at + e) : narrow<T>(0.0f);
      FourWords found;
#pragma unroll
      for (int k = 0; k < 4; ++k) found.at[k] = pack(numbers[2 * k], numbers[2 * k + 1]);
      return found;
    }
  }
  template <bool Aligned, class B>
  SEAM_KERNEL void copy(const B& block, const T* weight, const T* score, bool masked, int first_unit, int first_column,
                        int H) {
    constexpr int kEach = Columns / 8, kPieces = kGates * Units * kEach, kAtOnce = Aligned ? 8 : 2;
    static_assert(kPieces % (kAtOnce * Threads) == 0);
#pragma unroll 1
    for (int first = block.thread(); first < kPieces; first += kAtOnce * Threads) {
      FourWords w[kAtOnce], s[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * Threads, gate = i / kEach / Units, unit = first_unit + i / kEach % Units;
        const int column = first_column + i % kEach * 8, count = unit < H ? H - column : 0;
        const int64_t at = int64_t(gate * H + unit) * H + column;
        w[k] = eight<Aligned>(weight + at, count);
        s[k] = eight<Aligned>(score + at, count);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * Threads;
        uint32_t kept[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) kept[j] = kept_pair<T>(w[k].at[j], s[k].at[j], masked);
        rows.store4(i / kEach * kPitch + i % kEach * 4, kept);
      }
    }
  }
};

// The left operands of a warp: `Tiles` tiles, each with `Steps` steps along the terms, the first `Held` of which are in
// registers.
template <int Tiles, int Steps, int Held, int Warps>
struct LeftOperands {
  static_assert(0 < Held && Held <= Steps);
  static constexpr int kRest = Steps - Held;
  // Those that are not in registers; `Rest` is empty if all are.
  struct Some {
    Shared<uint32_t, Warps * Tiles*(kRest > 0 ? kRest : 1) * 128> words;
  };
  struct None {};
  using Rest = std::conditional_t<(kRest > 0), Some, None>;

  uint32_t held[Tiles][Held][4];

  template <class B>
  SEAM_KERNEL void put(const B& block, Rest& rest, int tile, int k, const uint32_t (&words)[4]) {
    if (k < Held) {
#pragma unroll
      for (int i = 0; i < 4; ++i) held[tile][k < Held ? k : 0][i] = words[i];
    } else if constexpr (kRest > 0) {
      rest.words.store4(at(block, tile, k), words);
    }
  }
  template <class B>
  SEAM_KERNEL FourWords get(const B& block, const Rest& rest, int tile, int k) const {
    FourWords words = {};
    if (k < Held) {
#pragma unroll
      for (int i = 0; i < 4; ++i) words.at[i] = held[tile][k < Held ? k : 0][i];
    } else if constexpr (kRest > 0) {
      rest.words.load4(at(block, tile, k), words.at);
    }
    return words;
  }

 private:
  template <class B>
  static SEAM_KERNEL int at(const B& block, int tile, int k) {
    return ((block.warp() * Tiles + tile) * kRest + k - Held) * 128 + block.lane() * 4;
  }
};

// Adds the products of adjacent tiles over `Steps` steps to `sum`, in at least four independent chains, so that one
// does not wait for the other. left(tile, k) and right(q) give the operands; right those of the steps 2 q and 2 q + 1.
template <class T, int Tiles, int Steps, class B, class Left, class Right>
SEAM_KERNEL void multiply_in_chains(const B& block, const Left& left, const Right& right, float (*sum)[4]) {
  constexpr int kChains = Tiles < 4 ? 4 / Tiles : 1;
  float chains[Tiles][kChains][4] = {};
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) chains[tile][0][i] = sum[tile][i];
  }
#pragma unroll
  for (int q = 0; q < Steps / 2; ++q) {
    const FourWords four = right(q);
#pragma unroll
    for (int k = 2 * q; k < 2 * q + 2; ++k) {
      const uint32_t terms[2] = {four.at[k % 2 * 2], four.at[k % 2 * 2 + 1]};
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) block.multiply(chains[tile][k % kChains], left(tile, k).at, terms, T{});
    }
  }
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float (&of)[kChains][4] = chains[tile];
      sum[tile][i] = of[0][i];
      if constexpr (kChains >= 2) sum[tile][i] += of[1][i];
      if constexpr (kChains == 4) sum[tile][i] += of[2][i] + of[3][i];
    }
  }
}

}  // namespace seam::gpu

// A product of two matrices by one block, for the training engine: 64 x 64 numbers at a time, from panels of 32 terms
// in shared memory; in full precision by ordinary arithmetic, or by tensor cores with operands rounded to tf32. The
// next panel is loaded into registers while one is multiplied.
#pragma once

#include <type_traits>

#include "block.cuh"

namespace seam::gpu {

// An operand of a product, row-major in memory. "By term": a row holds the terms of one row (column) of the product;
// else a row is one term. rows: the indices of the terms' rows; null: consecutive.
struct Operand {
  const float* data;
  int64_t stride;
  const int32_t* rows = nullptr;
  int32_t ones = -1;  // index of a column of ones that is not in memory
};

// Number: float, or Tf32 for tensor cores.
template <class Number>
struct PanelProduct {
  using Block = BlockOf<1, true>;
  static constexpr bool kTiles = std::is_same_v<Number, Tf32>;
  static constexpr int kThreads = 256, kSide = 64, kDepth = 32, kEach = 4;
  static constexpr int kStride = kSide + (kTiles ? 8 : 4);  // puts what a warp reads at once into different banks
  static constexpr int kFetched = kSide * kDepth / kThreads;
  static constexpr int kRight = kDepth * kStride;  // offset of the right panel
  struct Smem {
    Shared<float, 2 * kRight> panels;  // left and right, [term, row or column]; in the end the product of tiles
  };
  static_assert(kSide * kStride <= 2 * kRight);

  // Calls done(m, n, count, sums) for each four adjacent numbers in a row of the product (M, N), of which `count`
  // exist. There must be a barrier since `smem` was last used; there is one after its last use in here.
  template <bool LeftByTerm, bool RightByTerm, class Done>
  static SEAM_KERNEL void multiply(const Block& block, Smem& smem, const Operand& left, const Operand& right,
                                   int first_m, int first_n, int M, int N, int K, const Done& done) {
    float l[kFetched], r[kFetched];
    Sums sums;
    fetch<LeftByTerm>(block, left, first_m, M, 0, K, l);
    fetch<RightByTerm>(block, right, first_n, N, 0, K, r);
#pragma unroll 1
    for (int k_0 = 0; k_0 < K; k_0 += kDepth) {
      put<LeftByTerm>(block, smem, 0, l);
      put<RightByTerm>(block, smem, kRight, r);
      block.sync();
      if (k_0 + kDepth < K) {
        fetch<LeftByTerm>(block, left, first_m, M, k_0 + kDepth, K, l);
        fetch<RightByTerm>(block, right, first_n, N, k_0 + kDepth, K, r);
      }
      sums.add(block, smem, k_0 / kDepth % kPanels == kPanels - 1 || k_0 + kDepth >= K);
      block.sync();
    }
    sums.spread(block, smem);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int m = first_m + block.thread() / 16 * kEach + i, n = first_n + block.thread() % 16 * kEach;
      if (m < M && n < N) done(m, n, N - n < kEach ? N - n : kEach, sums.total[i]);
    }
  }

 private:
  static constexpr int kPanels =
      8;  // panels that are summed separately, so that the rounding error grows only with the number of such groups

  // The sums of a thread: `total`, 4 x 4 numbers of the product.
  struct PlainSums {
    float total[kEach][kEach] = {}, sum[kEach][kEach] = {};

    SEAM_KERNEL void add(const Block& block, const Smem& smem, bool to_total) {
      const int row = block.thread() / 16 * kEach, column = block.thread() % 16 * kEach;
#pragma unroll 4
      for (int k = 0; k < kDepth; ++k) {
        float a[kEach], b[kEach];
        smem.panels.load4(k * kStride + row, a);
        smem.panels.load4(kRight + k * kStride + column, b);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
      }
      if (!to_total) return;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) total[i][j] += sum[i][j], sum[i][j] = 0;
      }
    }
    SEAM_KERNEL void spread(const Block&, Smem&) {}
  };

  // The same by tensor-core tiles: a warp has 16 rows and 32 columns. In the end they are redistributed through shared
  // memory, 4 x 4 numbers per thread.
  struct TileSums {
    float total[kEach][kEach], sum[4][4] = {};

    SEAM_KERNEL void add(const Block& block, const Smem& smem, bool) {
      const int g = block.lane() / 4, t = block.lane() % 4, row = block.warp() % 4 * 16 + g;
      block.sync_warp();  // lanes may have diverged while loading
#pragma unroll
      for (int k = 0; k < kDepth; k += 8) {
        const auto word = [&](int panel, int term, int at) {
          return float_to_bits(smem.panels.load(panel + (k + term) * kStride + at));
        };
        const uint32_t a[4] = {word(0, t, row), word(0, t, row + 8), word(0, t + 4, row), word(0, t + 4, row + 8)};
#pragma unroll
        for (int tile = 0; tile < 4; ++tile) {
          const int column = block.warp() / 4 * 32 + tile * 8 + g;
          const uint32_t b[2] = {word(kRight, t, column), word(kRight, t + 4, column)};
          block.multiply(sum[tile], a, b, Tf32{});
        }
      }
    }
    SEAM_KERNEL void spread(const Block& block, Smem& smem) {
      const int g = block.lane() / 4, t = block.lane() % 4, row = block.warp() % 4 * 16 + g;
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        const int column = block.warp() / 4 * 32 + tile * 8 + 2 * t;
        smem.panels.store2(row * kStride + column, {sum[tile][0], sum[tile][1]});
        smem.panels.store2((row + 8) * kStride + column, {sum[tile][2], sum[tile][3]});
      }
      block.sync();
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        smem.panels.load4((block.thread() / 16 * kEach + i) * kStride + block.thread() % 16 * kEach, total[i]);
      }
      block.sync();
    }
  };
  using Sums = std::conditional_t<kTiles, TileSums, PlainSums>;

  // The row (column) and term in a panel of number j of a thread. By term, eight lanes read adjacent numbers, and a
  // warp writes to 32 different banks.
  template <bool ByTerm>
  static SEAM_KERNEL void panel_element(const Block& block, int j, int& across, int& term) {
    if constexpr (ByTerm) {
      const int piece = block.warp() + kThreads / 32 * j;
      across = piece / 4 * 4 + block.lane() / 8;
      term = piece % 4 * 8 + block.lane() % 8;
    } else {
      const int i = block.thread() + kThreads * j;
      across = i % kSide;
      term = i / kSide;
    }
  }

  template <bool ByTerm>
  static SEAM_KERNEL void fetch(const Block& block, const Operand& from, int first, int size, int k_0, int K,
                                float (&to)[kFetched]) {
#pragma unroll
    for (int j = 0; j < kFetched; ++j) {
      int across, term;
      panel_element<ByTerm>(block, j, across, term);
      const int n = first + across, k = k_0 + term;
      to[j] = 0;
      if (n >= size || k >= K) continue;
      if constexpr (ByTerm) {
        to[j] = load(from.data + n * from.stride + k);
      } else {
        to[j] = n == from.ones ? 1.0f : load(from.data + (from.rows ? load(from.rows + k) : k) * from.stride + n);
      }
    }
  }

  template <bool ByTerm>
  static SEAM_KERNEL void put(const Block& block, Smem& smem, int panel, const float (&from)[kFetched]) {
#pragma unroll
    for (int j = 0; j < kFetched; ++j) {
      int across, term;
      panel_element<ByTerm>(block, j, across, term);
      smem.panels.store(panel + term * kStride + across, kTiles ? bits_to_float(to_tf32(from[j])) : from[j]);
    }
  }
};

}  // namespace seam::gpu

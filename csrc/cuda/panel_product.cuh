// A product of two matrices by one block, for the training engine: 64 x 64 numbers at a time, each thread 4 x 4 of them,
// from panels of 32 terms in shared memory. While one panel is worked on the next is on its way into registers.
#pragma once

#include "block.cuh"

namespace seam::gpu {

// Numbers of a product's operand, row by row in memory. By term: a row holds the terms of one row (column) of the
// product; else a row is one term. rows: where the terms' rows lie; null: one after the other.
struct Operand {
  const float* data;
  int64_t stride;
  const int32_t* rows = nullptr;
  int32_t ones = -1;  // a column that is 1 and not in memory
};

struct PanelProduct {
  using Block = BlockOf<1, true>;
  static constexpr int kThreads = 256, kSide = 64, kDepth = 32, kEach = 4;
  static constexpr int kStride = kSide + 4;  // neighbouring terms lie in different banks
  static constexpr int kFetched = kSide * kDepth / kThreads;
  static constexpr int kPanels = 8;  // are added up by themselves: so a sum's error grows with their number only
  struct Smem {
    Shared<float, kDepth * kStride> left, right;  // [term, row or column]
  };

  // done(m, n, count, sums) is given four neighbours in a row of the product (M, N), of which `count` exist. All threads
  // have met since `smem` was last used, and have met again after the last use in here.
  template <bool LeftByTerm, bool RightByTerm, class Done>
  static SEAM_KERNEL void multiply(const Block& block, Smem& smem, const Operand& left, const Operand& right,
                                   int first_m, int first_n, int M, int N, int K, const Done& done) {
    const int row = block.thread() / 16 * kEach, column = block.thread() % 16 * kEach;
    float total[kEach][kEach] = {}, sum[kEach][kEach] = {}, l[kFetched], r[kFetched];
    fetch<LeftByTerm>(block, left, first_m, M, 0, K, l);
    fetch<RightByTerm>(block, right, first_n, N, 0, K, r);
#pragma unroll 1
    for (int k_0 = 0; k_0 < K; k_0 += kDepth) {
      put<LeftByTerm>(block, smem.left, l);
      put<RightByTerm>(block, smem.right, r);
      block.sync();
      if (k_0 + kDepth < K) {
        fetch<LeftByTerm>(block, left, first_m, M, k_0 + kDepth, K, l);
        fetch<RightByTerm>(block, right, first_n, N, k_0 + kDepth, K, r);
      }
#pragma unroll 4
      for (int k = 0; k < kDepth; ++k) {
        float a[kEach], b[kEach];
        smem.left.load4(k * kStride + row, a);
        smem.right.load4(k * kStride + column, b);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
      }
      block.sync();
      if (k_0 / kDepth % kPanels == kPanels - 1 || k_0 + kDepth >= K) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) total[i][j] += sum[i][j], sum[i][j] = 0;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int m = first_m + row + i, n = first_n + column;
      if (m < M && n < N) done(m, n, N - n < kEach ? N - n : kEach, total[i]);
    }
  }

 private:
  // The place of a thread's number j in a panel. By term, eight lanes read neighbours in memory, and a warp writes to 32
  // different banks.
  template <bool ByTerm>
  static SEAM_KERNEL void place(const Block& block, int j, int& across, int& term) {
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
      place<ByTerm>(block, j, across, term);
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
  static SEAM_KERNEL void put(const Block& block, Shared<float, kDepth * kStride>& panel,
                              const float (&from)[kFetched]) {
#pragma unroll
    for (int j = 0; j < kFetched; ++j) {
      int across, term;
      place<ByTerm>(block, j, across, term);
      panel.store(term * kStride + across, from[j]);
    }
  }
};

}  // namespace seam::gpu

// The keep bits of a module's scores, how many are set, and whether all scores are finite.
#pragma once

#include "block.cuh"
#include "scores.cuh"
#include "seam_params.h"

namespace seam::gpu {

// A warp takes 32 adjacent scores at a time. Its counts go into a row of their own, and the host adds these up.
struct KeepBits {
  static constexpr int kThreads = 256, kCluster = 1;
  using Params = KeepBitsParams;
  struct Smem {};

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const int warps = kThreads / 32, number = block.index() * warps + block.warp(), all = block.count() * warps;
    bool bad = false;
    int shared = 0;
#pragma unroll 1
    for (int t = 0; t < KeepBitsParams::kTensors; ++t) {
      const KeepBitsParams::Part part = p.part[t];
      int positive = 0;
#pragma unroll 4
      for (int w = number; 32 * w < part.count; w += all) {
        const int i = 32 * w + block.lane();
        const float score = i < part.count ? load(part.score + i) : 0.0f;
        const uint32_t bits = block.ballot(score > 0);
        bad |= !is_finite(score);
        positive += count_bits(bits);
        if (t == 0) shared += count_bits(block.ballot(score > 0 && i >= p.first_shared));
        if (block.lane() == 0) store(p.bits + part.first_word + w, first_highest(bits));
      }
      if (block.lane() == 0) store(p.counts + number * KeepBitsParams::kCounts + t, positive);
    }
    for (int i = number * 32 + block.lane(); i < p.head_numbers[0] + p.head_numbers[1]; i += all * 32) {
      const int first = p.head_numbers[0];
      const float value = i < first ? load(p.head[0] + i) : load(p.head[1] + i - first);
      bad |= !is_finite(value);
      store(p.head_copy + i, value);
    }
    const bool warp_is_bad = block.any(bad);
    if (block.lane() == 0) {
      store(p.counts + number * KeepBitsParams::kCounts + KeepBitsParams::kTensors, shared);
      store(p.counts + number * KeepBitsParams::kCounts + KeepBitsParams::kTensors + 1, int32_t(warp_is_bad));
    }
  }

 private:
  static SEAM_KERNEL int count_bits(uint32_t bits) {
    bits -= bits >> 1 & 0x55555555u;
    bits = (bits & 0x33333333u) + (bits >> 2 & 0x33333333u);
    return int(((bits + (bits >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
  }
  // Reverses the bits of each byte: the order of numpy.packbits.
  static SEAM_KERNEL uint32_t first_highest(uint32_t bits) {
    bits = (bits >> 1 & 0x55555555u) | (bits & 0x55555555u) << 1;
    bits = (bits >> 2 & 0x33333333u) | (bits & 0x33333333u) << 2;
    return (bits >> 4 & 0x0f0f0f0fu) | (bits & 0x0f0f0f0fu) << 4;
  }
};

}  // namespace seam::gpu

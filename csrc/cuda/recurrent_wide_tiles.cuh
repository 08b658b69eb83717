// The forward recurrence of layers of 257 to 512 hidden units in 16 bits: as recurrent_cluster_tiles.cuh, but the
// weights of a block fill the registers of more warps than it has cells for, or shared memory besides.
//
// With more warps, several share the sums of the same eight units: each multiplies its part of the hidden states, so
// that together they read them once, and the first one adds up the parts, in order, and has the cells.
//
// The cluster has so many blocks that messages of 16 bytes would take longer than the tiles. So a block copies its
// hidden states to each other block by one request, to the same address, and each warp makes some of the requests.
// Their bytes are counted as those of messages are.
#pragma once

#include "recurrent_cluster_tiles.cuh"

namespace seam::gpu {

// The hidden states of a step, as [eight units, index, pair of units]: sequence s has index s ^ 2 (n % 4) in the n-th
// eight units. As right operands a lane reads the four pairs of eight units of a sequence by one access, and the eight
// lanes that do so together, of two sequences and four adjacent eights, use different banks.
template <class T, int CL, int U, int W>
struct WideTilesForward : ClusterTiles<T, CL, U, W> {
  using Base = ClusterTiles<T, CL, U, W>;
  using Base::kAll;
  using Base::kCluster;
  using Base::kColumns;
  using Base::kOwners;
  using Base::kPasses;
  using Base::kThreads;
  using Base::kUnits;
  static constexpr int kParts = W / kOwners;         // warps that share the sums of eight units
  static constexpr int kSteps = kAll / 16 / kParts;  // steps of tiles along the hidden units
  static constexpr int kMostHeld = 16;               // steps whose operands fit into registers
  static constexpr int kWords = kAll * kClusterSequences / 2,
                       kOwnWords = kWords / CL;       // words of a step's h, of a block's
  static constexpr int kRequests = (CL - 2) / W + 1;  // requests of a warp per step, at most
  static_assert(kParts == 1 || kPasses == 1);
  using Left = LeftOperands<2, kSteps, (kSteps < kMostHeld ? kSteps : kMostHeld), W>;
  using Params = ForwardParams<T>;
  struct Smem {
    typename Base::Staged weights;
    typename Left::Rest rest;
    Shared<uint32_t, 2 * kWords> h;  // [step % 2, ...]
    Shared<float, (kParts > 1 ? (kParts - 1) * kOwners * 256 : 4)>
        sums;  // of all warps but the first of each eight units
    Arrivals arrivals[2];
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    constexpr int kBytes = (CL - 1) * kOwnWords * 4;  // of all blocks but the own one
    const int H = int(p.hidden), g = block.lane() / 4, t = block.lane() % 4;
    const int group = block.warp() % kOwners, part = block.warp() / kOwners;
    const bool owner = part == 0;
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    Left left;
    fill(block, smem, p.weight_hh, H, left);

    const int64_t first = block.index() * kClusterSequences;
    const int steps = tile_steps<kClusterSequences>(p.sequences, first);
    for (int i = block.thread(); i < kWords; i += kThreads) {  // what the first step reads
      const int eight = i / 32, unit = eight * kWarpUnits + i % 4 * 2;
      const Sequence of = sequence_at(p.sequences, first + (i / 4 % 8 ^ eight % 4 * 2));
      const T* const from = p.h_0 + of.index * p.hidden + unit;
      const bool given = p.h_0 && of.exists;
      const float low = given && unit < H ? widen(load(from)) : 0.0f;
      const float high = given && unit + 1 < H ? widen(load(from + 1)) : 0.0f;
      smem.h.store(i, narrow_pair<T>(low, high));
    }
    ForwardCells<T, true> cells(block, p, first, owner ? block.rank() * kUnits + group * kWarpUnits : H);
    // This lane's words: of its cells in the layout of memory; and what it reads of each four eights, in the warp's
    // part.
    const int eight = block.rank() * kOwners + group, own = eight * 32 + (g ^ eight % 4 * 2) * 4 + t;
    const int from_here = part * (kSteps / 2) * 128 + t * 32 + (g ^ 2 * t) * 4;
    block.sync_cluster();
    if (owner) cells.end_here(0, smem.h.load(own));

    by_turns(steps, [&](auto parity, int step) {
      constexpr int kNow = decltype(parity)::value, kFrom = kNow * kWords, kTo = (1 - kNow) * kWords;
      float sum[2][4] = {};
      if (owner) {
        cells.template begin<kNow>(block, sum);
        cells.template fetch<kNow>(step + 2);
      }
      if (step > 0) {
        smem.arrivals[kNow].wait((step - 1) / 2);  // the first step's h came without requests
        if (block.thread() == 0) smem.arrivals[kNow].arm(kBytes);
      }
      multiply_in_chains<T, 2, kSteps>(
          block, [&](int tile, int k) { return left.get(block, smem.rest, tile, k); },
          [&](int q) {
            FourWords states;
            smem.h.load4(kFrom + from_here + q * 128, states.at);
            return states;
          },
          sum);
      if constexpr (kParts > 1) add_parts(block, smem, group, part, sum);
      float activated[2][kGates] = {};
      uint32_t h_word = 0;
      if (owner) h_word = cells.advance(block, sum, activated);
      if (step + 1 < steps) {  // a block at its last step waits for no more copies
        if (owner) {
          smem.h.store(kTo + own, h_word);
          ready_to_send();
        }
        block.sync();
        const int at = kTo + block.rank() * kOwnWords;
#pragma unroll
        for (int request = 0; request < kRequests; ++request) {
          const int i = request * W + block.warp() +
                        1;  // beginning with the next block, so that all blocks begin with different ones
          if (i < CL) send_all(block, (block.rank() + i) % CL, smem.h, at, kOwnWords, smem.arrivals[1 - kNow]);
        }
      }
      if (owner) cells.save(block, step, activated, h_word);  // while the messages are in flight
    });
    block.sync_cluster();  // a request reads its source until it has arrived
  }

 private:
  static SEAM_KERNEL void fill(const BlockOf<CL>& block, Smem& smem, const MaskedNumbers& weight_hh, int H,
                               Left& left) {
    constexpr int kEach = kSteps / 2 / kPasses;  // pairs of steps in a pass
    const int group = block.warp() % kOwners, part = block.warp() / kOwners, g = block.lane() / 4, t = block.lane() % 4;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (pass > 0) block.sync();  // until the previous columns have been read
      smem.weights.fill(block, weight_hh, block.rank() * kUnits, pass * kColumns, H);
#pragma unroll
      for (int q = 0; q < kEach; ++q) {
        uint32_t made[2][2][4];  // two steps of two tiles
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          uint32_t words[4];
          smem.weights.rows.load4(smem.weights.row(gate, group * kWarpUnits + g) + 16 * (part * kEach + q) + 4 * t,
                                  words);
#pragma unroll
          for (int k = 0; k < 4; ++k) made[gate / 2][k / 2][gate % 2 + 2 * (k % 2)] = words[k];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          left.put(block, smem.rest, i / 2, 2 * (pass * kEach + q) + i % 2, made[i / 2][i % 2]);
      }
    }
  }

  // Adds up the sums of all warps that have a part of them, in the order of the parts, in the first.
  static SEAM_KERNEL void add_parts(const BlockOf<CL>& block, Smem& smem, int group, int part, float (&sum)[2][4]) {
    const auto at = [&](int from, int tile) {
      return (((from - 1) * kOwners + group) * 2 + tile) * 128 + block.lane() * 4;
    };
    if (part > 0) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) smem.sums.store4(at(part, tile), sum[tile]);
    }
    block.sync();
    if (part > 0) return;
#pragma unroll
    for (int from = 1; from < kParts; ++from) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        float theirs[4];
        smem.sums.load4(at(from, tile), theirs);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[tile][i] += theirs[i];
      }
    }
  }
};

template <class T, int CL, int U, int W>
using WideTilesBackward = TilesBackward<T, CL, U, W, true>;

}  // namespace seam::gpu

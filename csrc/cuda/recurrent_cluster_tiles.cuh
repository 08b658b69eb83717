// The recurrence of layers in 16 bits by clusters of blocks and tensor cores, all steps of eight sequences in one
// launch: forward up to 256 hidden units (larger ones: recurrent_wide_tiles.cuh), backward up to 512. A block holds the
// weights of some units as left operands of tiles. As in recurrent_cluster.cuh there is no cluster barrier in the loop:
// what other blocks need of a step is sent into their shared memory as messages, double buffered.
//
// A step is a dependent chain: tiles, cells, messages. Everything else happens while messages are in flight: storing
// the previous step, loading the one after the next, and forming the factors of the gradients. How a warp's cells are
// distributed over its lanes is described in cluster_cells.cuh.
#pragma once

#include "cluster_cells.cuh"
#include "cluster_weights.cuh"
#include "messages.cuh"

namespace seam::gpu {

// A cluster of CL blocks, of U units and W warps each.
template <class T, int CL, int U, int W>
struct ClusterTiles {
  static_assert(sizeof(T) == 2 && CL % 2 == 0 && U % 16 == 0 && W % (U / kWarpUnits) == 0);
  static constexpr int kCluster = CL, kThreads = 32 * W, kUnits = U, kAll = U * CL;  // units of a block, of the cluster
  static constexpr int kOwners = U / kWarpUnits;  // the warps that have cells are the first ones
  // Where a block's weights stay in shared memory, there is less room for those that are being loaded: they come in
  // parts.
  static constexpr int kColumns = W == kOwners && U > 32 ? 128 : kAll, kPasses = kAll / kColumns;
  using Staged = StagedRows<T, U, kColumns, kThreads>;
};

// ---- Forward --------------------------------------------------------------------------------------------------------

// The hidden states of a step are in shared memory as [block, sequence, warp, word]: the words of a warp are its eight
// units of a sequence; a lane reads those of warp t as the right operand of tiles. The order of the pairs of units
// depends on the block that reads: word k is pair k ^ (rank % 4), because lane t sends to block t what it got from the
// lanes t ^ k.
template <class T, int CL, bool Even>
struct ClusterTilesForward : ClusterTiles<T, CL, 32, 4> {
  using Base = ClusterTiles<T, CL, 32, 4>;
  using Base::kAll;
  using Base::kCluster;
  using Base::kThreads;
  using Base::kUnits;
  static constexpr int kSteps = 2 * CL;                        // steps of tiles along the hidden units
  static constexpr int kWords = kAll * kClusterSequences / 2;  // words of a step's h
  using Left = LeftOperands<2, kSteps, kSteps, 4>;
  using Params = ForwardParams<T>;
  struct Smem {
    typename Base::Staged weights;
    Shared<uint32_t, 2 * kWords> h;
    Arrivals arrivals[2];
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    constexpr int kBytes = kWords * 4;
    const int H = int(p.hidden), g = block.lane() / 4, t = block.lane() % 4, turn = block.rank() % 4;
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    smem.weights.fill(block, p.weight_hh, block.rank() * kUnits, 0, H);
    Left left;
    typename Left::Rest none;
#pragma unroll
    for (int q = 0; q < CL; ++q) {
      uint32_t made[2][2][4];  // two steps of two tiles
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        uint32_t words[4];
        smem.weights.rows.load4(smem.weights.row(gate, block.warp() * kWarpUnits + g) + 16 * q + 4 * t, words);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const uint32_t low = turn & 1 ? words[k ^ 1] : words[k], high = turn & 1 ? words[k ^ 3] : words[k ^ 2];
          made[gate / 2][k / 2][gate % 2 + 2 * (k % 2)] = turn & 2 ? high : low;
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) left.put(block, none, i / 2, 2 * q + i % 2, made[i / 2][i % 2]);
    }

    const int64_t first = block.index() * kClusterSequences;
    const int steps = tile_steps<kClusterSequences>(p.sequences, first);
    for (int i = block.thread(); i < kWords; i += kThreads) {  // what the first step reads
      const Sequence of = sequence_at(p.sequences, first + i / 16 % kClusterSequences);
      const int k = i / 128 * kUnits + i / 4 % 4 * kWarpUnits + (i % 4 ^ turn) * 2;
      const T* const from = p.h_0 + of.index * p.hidden + k;
      const bool given = p.h_0 && of.exists;
      const float low = given && k < H ? widen(load(from)) : 0.0f,
                  high = given && k + 1 < H ? widen(load(from + 1)) : 0.0f;
      smem.h.store(i, narrow_pair<T>(low, high));
    }
    ForwardCells<T, Even> cells(block, p, first, block.rank() * kUnits + block.warp() * kWarpUnits);
    block.sync_cluster();
    cells.end_here(0, smem.h.load(block.rank() * 128 + g * 16 + block.warp() * 4 + (t ^ turn)));

    by_turns(steps, [&](auto parity, int step) {
      constexpr int kNow = decltype(parity)::value, kFrom = kNow * kWords, kTo = (1 - kNow) * kWords;
      float sum[2][4];
      cells.template begin<kNow>(block, sum);
      cells.template fetch<kNow>(step + 2);
      if (step > 0) {
        smem.arrivals[kNow].wait((step - 1) / 2);  // the first step's h came without messages
        if (block.thread() == 0) smem.arrivals[kNow].arm(kBytes);
      }
      FourWords states[CL];
#pragma unroll
      for (int q = 0; q < CL; ++q) smem.h.load4(kFrom + q * 128 + block.lane() * 4, states[q].at);
      block.sync_warp();
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        multiply_in_chains<T, 1, kSteps>(
            block, [&](int, int k) { return left.get(block, none, tile, k); }, [&](int q) { return states[q]; },
            &sum[tile]);
      }
      float activated[2][kGates];
      const uint32_t h_word = cells.advance(block, sum, activated);
      if (step + 1 < steps) {  // a block at its last step waits for no more messages, and may have ended
        uint32_t words[4] = {h_word};
#pragma unroll
        for (int k = 1; k < 4; ++k) words[k] = block.shuffle_xor(h_word, k);
        const int at = kTo + block.rank() * 128 + g * 16 + block.warp() * 4;
#pragma unroll
        for (int peer = t; peer < CL; peer += 4) send4(block, peer, smem.h, at, words, smem.arrivals[1 - kNow]);
      }
      cells.save(block, step, activated, h_word);  // while the messages are in flight
    });
  }
};

// ---- Backward -------------------------------------------------------------------------------------------------------

// A block forms the part of the gradient of all hidden units that comes from its gates, and each block adds up the
// parts of all for its own units. That is half as much to send as the gates' gradients.
//
// These are exchanged within the block, as [warp, pieces of 16 bytes]: piece 4 s + j has the units 2j and 2j + 1 of
// sequence s, their gates i, f, g, o. The pieces are permuted (swizzled), so that lanes that access them together use
// different banks.
template <class T, int CL, int U, int W, bool Even>
struct TilesBackward : ClusterTiles<T, CL, U, W> {
  using Base = ClusterTiles<T, CL, U, W>;
  using Base::kAll;
  using Base::kCluster;
  using Base::kColumns;
  using Base::kOwners;
  using Base::kPasses;
  using Base::kThreads;
  using Base::kUnits;
  static constexpr int kSteps = kGates * kUnits / 16,
                       kTiles = kAll / 16 / W;  // steps of tiles along the gates; tiles of 16 units per warp
  static constexpr int kBlockTiles = kUnits / 16;
  static constexpr int kWords = kGates * kUnits * kClusterSequences / 2, kPassed = CL * kBlockTiles * 128;
  static constexpr int kMostHeld = 36 / kTiles;  // steps of a warp's tiles whose operands fit into registers
  using Left = LeftOperands<kTiles, kSteps, (kSteps < kMostHeld ? kSteps : kMostHeld), W>;
  // Tiles that are summed at once: a few, so that their messages are sent while others are summed. All, if left
  // operands come from shared memory, which is then the bottleneck: so no right operand is read twice.
  static constexpr int kAtOnce = Left::kRest > 0 ? kTiles : kTiles % 2 == 0 ? 2 : 1;
  static_assert(kTiles * 16 * W == kAll && kColumns % (kTiles * 16) == 0);
  using Params = BackwardParams<T>;
  using Two = Pair<T, Even>;
  struct Smem {
    typename Base::Staged weights;
    typename Left::Rest rest;
    Shared<uint32_t, 2 * kWords> d_gates;  // [turn % 2, ...]
    Shared<float, 2 * kPassed> passed_on;  // [turn % 2, from block, tile of 16 units, lane, number of the tile]
    Shared<float, 4 * kThreads> ends;
    Arrivals arrivals[2];
  };
  struct Fetched {
    Two gates[kGates], grad_output;
    float c[2];
  };

  // The gradients of h_n and c_n, for sequences that have all `steps` steps.
  static SEAM_KERNEL void add_ends(const float (&ends)[4], const TwoCells& cells, int steps, float (&d_h)[2],
                                   float (&d_c)[2]) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      d_h[n] += steps == cells.length[n] ? ends[n] : 0.0f;
      d_c[n] += steps == cells.length[n] ? ends[2 + n] : 0.0f;
    }
  }

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    using M = ShortGates;
    constexpr int kBytes = kPassed * 4;
    const int H = int(p.hidden), g = block.lane() / 4, t = block.lane() % 4;
    const bool owner = kOwners == W || block.warp() < kOwners;  // other warps only compute tiles
    const int warp_unit = owner ? block.rank() * kUnits + block.warp() * kWarpUnits : H, unit = warp_unit + g;
    const int pair = warp_unit + 2 * t;
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    Left left;
    fill(block, smem, p.weight_hh, H, left);

    const int64_t first = block.index() * kClusterSequences;
    const int steps = tile_steps<kClusterSequences>(p.sequences, first);
    const TwoCells cells(p.sequences, first + 2 * t, unit, H);
    const Sequence sequence = sequence_at(p.sequences, first + g);
    const TwoUnits units(sequence, pair, H);
    const int length = units.length, length_1 = units.length_1;
    float c_0[2], ends[4];  // gradients of h_n of both sequences, of c_n of both
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      ends[n] = cells.mine[n] && p.grad_h_n ? widen(load(p.grad_h_n + cells.state(n))) : 0.0f;
      ends[2 + n] = cells.mine[n] && p.grad_c_n ? widen(load(p.grad_c_n + cells.state(n))) : 0.0f;
      c_0[n] = cells.length[n] > 0 && p.c_0 ? widen(load(p.c_0 + cells.state(n))) : 0.0f;
    }
    smem.ends.store4(block.thread() * 4, ends);  // there are not enough registers

    StepWalk<const T> gates(p.gates, sequence, pair, steps - 1, -1),
        grad_output(p.grad_output, sequence, pair, steps - 1, -1);
    StepWalk<T> d_gates(p.d_gates, sequence, pair, steps - 1, -1);
    StepWalk<const float> of_c_0(p.cells, cells.of[0], unit, steps - 1, -1),
        of_c_1(p.cells, cells.of[1], unit, steps - 1, -1);
    // Zeros at steps that the sequence does not have: after its end and before its first step.
    const auto fetch = [&](int step, Fetched& to) {
      const auto ran = [&](int of) { return unsigned(step) < unsigned(of); };
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        to.gates[gate] = Two::load_if(ran(length), ran(length_1), gates.at + gate * H);
      }
      const bool graded = p.grad_output.data != nullptr;
      to.grad_output = Two::load_if(graded && ran(length), graded && ran(length_1), grad_output.at);
      to.c[0] = load_if(ran(cells.length[0]), of_c_0.at, step < 0 ? c_0[0] : 0.0f);
      to.c[1] = load_if(ran(cells.length[1]), of_c_1.at, step < 0 ? c_0[1] : 0.0f);
      gates.go_on();
      grad_output.go_on();
      of_c_0.go_on();
      of_c_1.go_on();
    };
    const auto factors_of = [&](const Fetched& from, Factors<kGates>(&factors)[2]) {
      uint32_t of[kGates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) of[gate] = block.transpose(from.gates[gate].word());
      factors[0] = all_factors<M>(widen(low_half<T>(of[0])), widen(low_half<T>(of[1])), widen(low_half<T>(of[2])),
                                  widen(low_half<T>(of[3])), from.c[0]);
      factors[1] = all_factors<M>(widen(high_half<T>(of[0])), widen(high_half<T>(of[1])), widen(high_half<T>(of[2])),
                                  widen(high_half<T>(of[3])), from.c[1]);
    };
    // The part of the gradient of a step's h that does not come from the next step.
    const auto more_h = [&](const Fetched& from, float (&more)[2]) {
      const uint32_t two = block.transpose(from.grad_output.word());
      more[0] = widen(low_half<T>(two));
      more[1] = widen(high_half<T>(two));
    };
    Fetched fetched[2] = {};  // loads for the previous step and the one before it
    Factors<kGates> factors[2];
    float d_h[2] = {}, d_c[2] = {};
    if (owner) {
      fetch(steps - 1, fetched[0]);
      fetch(steps - 2, fetched[1]);
      factors_of(fetched[0], factors);
      more_h(fetched[0], d_h);
      add_ends(ends, cells, steps, d_h, d_c);
      fetch(steps - 3, fetched[0]);
    }
    block.sync_cluster();

    by_turns(steps, [&](auto parity, int turn) {
      constexpr int kNow = decltype(parity)::value, kHere = kNow * kWords, kInto = kNow * kPassed;
      const int step = steps - 1 - turn;
      Fetched& before = fetched[1 - kNow];
      float d[2][kGates];
      if (owner) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          d_c[n] = M::fma(d_h[n], factors[n].a, d_c[n]);
          d[n][0] = d_c[n] * factors[n].gates[0];
          d[n][1] = d_c[n] * (factors[n].gates[2] * before.c[n]);
          d[n][2] = d_c[n] * factors[n].gates[1];
          d[n][3] = d_h[n] * factors[n].gates[3];
          const int piece = ((2 * t + n) * 4 + g / 2) ^ 2 * t;
          const uint32_t words[2] = {narrow_pair<T>(d[n][0], d[n][1]), narrow_pair<T>(d[n][2], d[n][3])};
          smem.d_gates.store2(kHere + block.warp() * 128 + piece * 4 + g % 2 * 2, words);
        }
      }
      block.sync();
      FourWords of_gates[kSteps / 2];
#pragma unroll
      for (int q = 0; q < kSteps / 2; ++q) {
        smem.d_gates.load4(kHere + q * 128 + (block.lane() ^ g / 2 * 2) * 4, of_gates[q].at);
      }
#pragma unroll
      for (int i = 0; i < kTiles; i += kAtOnce) {
        float sum[kAtOnce][4] = {};
        multiply_in_chains<T, kAtOnce, kSteps>(
            block, [&](int j, int k) { return left.get(block, smem.rest, i + j, k); },
            [&](int q) { return of_gates[q]; }, sum);
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int tile = block.warp() * kTiles + i + j;
          const int at = kInto + (block.rank() * kBlockTiles + tile % kBlockTiles) * 128 + block.lane() * 4;
          send4(block, tile / kBlockTiles, smem.passed_on, at, sum[j], smem.arrivals[kNow]);
        }
      }
      if (!owner) return;

      // While the messages are in flight.
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const uint32_t two = block.transpose(narrow_pair<T>(d[0][gate], d[1][gate]));
        Two::store_if(step < length, step < length_1, d_gates.at + gate * H, two);
      }
      d_gates.go_on();
      float more[2], last[4];
      more_h(before, more);
      smem.ends.load4(block.thread() * 4, last);
#pragma unroll
      for (int n = 0; n < 2; ++n) d_c[n] *= factors[n].forget;
      add_ends(last, cells, step, more, d_c);
      factors_of(before, factors);
      fetch(step - 3, before);
      smem.arrivals[kNow].wait(turn / 2);
      if (block.thread() == 0) smem.arrivals[kNow].arm(kBytes);
      float total[2] = {};
#pragma unroll
      for (int from = 0; from < CL; ++from) {
        float passed[2];
        const int tile = from * kBlockTiles + block.warp() / 2;
        smem.passed_on.load2(kInto + tile * 128 + block.lane() * 4 + (block.warp() + g / 2) % 2 * 2, passed);
        total[0] += passed[0];
        total[1] += passed[1];
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
        d_h[n] = step < cells.length[n] ? total[n] + more[n]
                                        : more[n];  // a NaN or inf weight must not reach a step that does not exist
    });
    const TwoCells now(p.sequences, first + 2 * t, unit,
                       H);  // computed again, instead of held in registers all the time
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (!now.mine[n]) continue;
      if (p.grad_h_0) store(p.grad_h_0 + now.state(n), narrow<T>(d_h[n]));
      if (p.grad_c_0) store(p.grad_c_0 + now.state(n), narrow<T>(d_c[n]));
    }
  }

 private:
  // Rows g and g + 8 of a tile are units of two warps. They are swapped where g / 2 is odd, so that what a warp reads
  // of its messages is in different banks.
  static SEAM_KERNEL void fill(const BlockOf<CL>& block, Smem& smem, const MaskedNumbers& weight_hh, int H,
                               Left& left) {
    const int g = block.lane() / 4, t = block.lane() % 4;
    left = {};
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      if (pass > 0) block.sync();  // until the previous columns have been read
      smem.weights.fill(block, weight_hh, block.rank() * kUnits, pass * kColumns, H);
      const int first = block.warp() * kTiles * 16 - pass * kColumns;
      if (first < 0 || first >= kColumns) continue;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
          uint32_t words[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int column = first + tile * 16 + (i + g / 2) % 2 * 8 + g, of = k / 2 * 8 + 2 * t + k % 2;
            const auto number = [&](int gate) {
              const uint32_t word = smem.weights.rows.load(smem.weights.row(gate, of) + column / 2);
              return g % 2 ? high_half<T>(word) : low_half<T>(word);
            };
            words[i] = pack(number(i / 2 * 2), number(i / 2 * 2 + 1));
          }
          left.put(block, smem.rest, tile, k, words);
        }
      }
    }
  }
};

template <class T, int CL, bool Even>
using ClusterTilesBackward = TilesBackward<T, CL, 32, 4, Even>;  // up to 256 units

}  // namespace seam::gpu

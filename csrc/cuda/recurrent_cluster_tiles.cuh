// The recurrence of layers of 65 to 256 hidden units in 16 bits, by tensor cores: all steps of eight sequences by a cluster
// of blocks that have 32 units each. Its four warps have eight units each, and their weights in registers, as left operands
// of tiles. As in recurrent_cluster.cuh there is no barrier of the cluster in the loop: what other blocks need of a step is
// sent into their shared memory as messages, in two places used in turn.
//
// A step is a chain: tiles, cells, messages. All else is done while messages are on their way: saving the last step,
// fetching the one after the next, and forming what backward multiplies gradients by.
//
// Two views of a warp's 8 units x 8 sequences, with g = lane / 4 and t = lane % 4: its cells, unit g of sequences 2t and
// 2t + 1, as tiles have them (rows of a pair of tiles are the gates i and f, g and o of units, so that the four gates of a
// cell meet in its lane); and memory, sequence g of units 2t and 2t + 1, which lie side by side. `transpose` changes one into the
// other.
#pragma once

#include "../lstm_cell.h"
#include "messages.cuh"
#include "predicated.cuh"
#include "recurrent_small.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

template <class T, int CL>
struct ClusterTiles {
  static_assert(sizeof(T) == 2 && CL % 2 == 0);
  static constexpr int kCluster = CL, kThreads = 128, kUnits = 32, kAll = kUnits * CL;  // units of a block, of the cluster
  static constexpr int kSequences = 8, kWarpUnits = 8;

  // Masked weights of a block's gates, [gate, unit], a row of all units each, two to a word; zeros where there are none.
  struct Staged {
    static constexpr int kPitch = kAll / 2 + 4;
    Shared<uint32_t, kGates * kUnits * kPitch> rows;

    static SEAM_KERNEL int row(int gate, int unit_here) { return (gate * kUnits + unit_here) * kPitch; }

    template <class B>
    SEAM_KERNEL void fill(const B& block, const MaskedNumbers& weight_hh, int first_unit, int H) {
      const T* const weight = static_cast<const T*>(weight_hh.weight);
      const T* const score = static_cast<const T*>(weight_hh.score ? weight_hh.score : weight_hh.weight);
      const bool aligned = H % 8 == 0 && is_aligned(weight) && is_aligned(score);
      if (aligned) copy<true>(block, weight, score, weight_hh.score != nullptr, first_unit, H);
      else copy<false>(block, weight, score, weight_hh.score != nullptr, first_unit, H);
      block.sync();
    }

   private:
    struct alignas(16) Eight {
      uint32_t words[4];
    };
    static SEAM_KERNEL bool is_aligned(const T* at) { return reinterpret_cast<uintptr_t>(at) % sizeof(Eight) == 0; }

    template <bool Aligned>
    static SEAM_KERNEL Eight eight(const T* at, int count) {
      if constexpr (Aligned) {
        return count > 0 ? load(reinterpret_cast<const Eight*>(at)) : Eight{};
      } else {
        T numbers[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) numbers[e] = e < count ? load(at + e) : narrow<T>(0.0f);
        Eight found;
#pragma unroll
        for (int k = 0; k < 4; ++k) found.words[k] = pack(numbers[2 * k], numbers[2 * k + 1]);
        return found;
      }
    }
    template <bool Aligned, class B>
    SEAM_KERNEL void copy(const B& block, const T* weight, const T* score, bool masked, int first_unit, int H) {
      constexpr int kEach = kAll / 8, kPieces = kGates * kUnits * kEach, kAtOnce = Aligned ? 8 : 2;
      static_assert(kPieces % (kAtOnce * kThreads) == 0);
#pragma unroll 1
      for (int first = block.thread(); first < kPieces; first += kAtOnce * kThreads) {
        Eight w[kAtOnce], s[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const int i = first + k * kThreads, gate = i / kEach / kUnits, unit = first_unit + i / kEach % kUnits;
          const int column = i % kEach * 8, count = unit < H ? H - column : 0;
          const int64_t at = int64_t(gate * H + unit) * H + column;
          w[k] = eight<Aligned>(weight + at, count);
          s[k] = eight<Aligned>(score + at, count);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const int i = first + k * kThreads;
          uint32_t kept[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const uint32_t of = s[k].words[j];
            const uint32_t low = widen(low_half<T>(of)) > 0 || !masked ? 0xffffu : 0u;
            const uint32_t high = widen(high_half<T>(of)) > 0 || !masked ? 0xffff0000u : 0u;
            kept[j] = w[k].words[j] & (low | high);
          }
          rows.store4(i / kEach * kPitch + i % kEach * 4, kept);
        }
      }
    }
  };
};

// Sums of neighbouring tiles whose terms come in `Steps` words, added to what is in `sum`: four chains, which take turns.
template <class T, int Tiles, int Steps, class B>
SEAM_KERNEL void multiply_in_chains(const B& block, const uint32_t (*left)[Steps][4], const uint32_t (&right)[Steps / 2][4],
                                    float (*sum)[4]) {
  constexpr int kChains = 4 / Tiles;
  float chains[Tiles][kChains][4] = {};
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) chains[tile][0][i] = sum[tile][i];
  }
#pragma unroll
  for (int k = 0; k < Steps; ++k) {
    const uint32_t terms[2] = {right[k / 2][k % 2 * 2], right[k / 2][k % 2 * 2 + 1]};
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) block.multiply(chains[tile][k % kChains], left[tile][k], terms, T{});
  }
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float (&of)[kChains][4] = chains[tile];
      sum[tile][i] = of[0][i] + of[1][i];
      if constexpr (kChains == 4) sum[tile][i] += of[2][i] + of[3][i];
    }
  }
}

// Cells of a lane: unit `unit` of two neighbouring sequences.
struct TwoCells {
  Sequence of[2];
  bool mine[2];
  int length[2];  // 0 where there is no such cell
  int unit, H;

  SEAM_KERNEL TwoCells(const Sequences& s, int64_t first_rank, int unit, int H) : unit(unit), H(H) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      of[n] = sequence_at(s, first_rank + n);
      mine[n] = of[n].exists && unit < H;
      length[n] = mine[n] ? of[n].length : 0;
    }
  }
  SEAM_KERNEL int64_t state(int n) const { return int64_t(of[n].index) * H + unit; }  // its place in (B, H)
};

// ---- Forward ----------------------------------------------------------------------------------------------------------

// The hidden states of a step lie in shared memory as [block, sequence, warp, word]: the words of a warp are its eight units of
// a sequence, and those that a lane reads, as the right operand of tiles, are the ones of warp t. Which pair of units is where
// goes by the block that reads: word k is pair k ^ (rank % 4), because lane t sends to block t what it has from lanes t ^ k.
template <class T, int CL, bool Even>
struct ClusterTilesForward : ClusterTiles<T, CL> {
  using Base = ClusterTiles<T, CL>;
  using Base::kAll;
  using Base::kCluster;
  using Base::kSequences;
  using Base::kThreads;
  using Base::kUnits;
  using Base::kWarpUnits;
  static constexpr int kSteps = 2 * CL, kWords = kAll * kSequences / 2;  // of tiles along the hidden units; of a step's h
  using Params = ForwardParams<T>;
  using Two = Pair<T, Even>;
  struct Smem {
    typename Base::Staged weights;
    Shared<uint32_t, 2 * kWords> h;
    Arrivals arrivals[2];
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    using M = ShortGates;
    constexpr int kBytes = kWords * 4;
    const int H = int(p.hidden), g = block.lane() / 4, t = block.lane() % 4, turn = block.rank() % 4;
    const int warp_unit = block.rank() * kUnits + block.warp() * kWarpUnits, unit = warp_unit + g, pair = warp_unit + 2 * t;
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    smem.weights.fill(block, p.weight_hh, block.rank() * kUnits, H);
    uint32_t weights[2][kSteps][4];
#pragma unroll
    for (int q = 0; q < CL; ++q) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        uint32_t words[4];
        smem.weights.rows.load4(smem.weights.row(gate, block.warp() * kWarpUnits + g) + 16 * q + 4 * t, words);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const uint32_t low = turn & 1 ? words[k ^ 1] : words[k], high = turn & 1 ? words[k ^ 3] : words[k ^ 2];
          weights[gate / 2][2 * q + k / 2][gate % 2 + 2 * (k % 2)] = turn & 2 ? high : low;
        }
      }
    }

    const int64_t first = block.index() * kSequences;
    const int steps = tile_steps<kSequences>(p.sequences, first);
    const TwoCells cells(p.sequences, first + 2 * t, unit, H);
    const Sequence sequence = sequence_at(p.sequences, first + g);
    const int length = pair < H ? sequence.length : 0, length_1 = pair + 1 < H ? sequence.length : 0;
    const int end = sequence.exists && pair < H ? sequence.length : -1, end_1 = pair + 1 < H ? end : -1;
    for (int i = block.thread(); i < kWords; i += kThreads) {  // all that the first step reads
      const Sequence of = sequence_at(p.sequences, first + i / 16 % kSequences);
      const int k = i / 128 * kUnits + i / 4 % 4 * kWarpUnits + (i % 4 ^ turn) * 2;
      const T* const from = p.h_0 + of.index * p.hidden + k;
      const bool given = p.h_0 && of.exists;
      const float low = given && k < H ? widen(load(from)) : 0.0f, high = given && k + 1 < H ? widen(load(from + 1)) : 0.0f;
      smem.h.store(i, narrow_pair<T>(low, high));
    }

    StepWalk<const T> input(p.gates, sequence, pair, 0);
    StepWalk<T> gates(p.gates, sequence, pair, 0), output(p.output, sequence, pair, 0);
    StepWalk<float> c_0(p.cells, cells.of[0], unit, 0), c_1(p.cells, cells.of[1], unit, 0);
    const bool saves = p.cells.data != nullptr;
    T* const h_n = p.h_n + sequence.index * p.hidden + pair;
    float bias[kGates], c[2], h[2] = {};
    Two fetched[2][kGates];
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const int at = gate * H + unit;
      bias[gate] = unit < H ? effective<T>(p.bias_ih, at) + effective<T>(p.bias_hh, at) : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) c[n] = cells.mine[n] && p.c_0 ? widen(load(p.c_0 + cells.state(n))) : 0.0f;
    const auto fetch = [&](int step, Two (&to)[kGates]) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        to[gate] = Two::load_if(step < length, step < length_1, input.at + gate * H);
      }
      input.go_on();
    };
    // Behind `done` steps: a sequence's end.
    const auto end_here = [&](int done, uint32_t h_word) {
      Two::store_if(done == end, done == end_1, h_n, h_word);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        store_if(cells.mine[n] && done == cells.of[n].length, p.c_n + cells.state(n), narrow<T>(c[n]));
      }
    };
    fetch(0, fetched[0]);
    fetch(1, fetched[1]);
    block.sync_cluster();
    end_here(0, smem.h.load(block.rank() * 128 + g * 16 + block.warp() * 4 + (t ^ turn)));

    by_turns(steps, [&](auto parity, int step) {
      constexpr int kNow = decltype(parity)::value, kFrom = kNow * kWords, kTo = (1 - kNow) * kWords;
      float sum[2][4];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const uint32_t two = block.transpose(fetched[kNow][gate].word());
        sum[gate / 2][gate % 2 * 2] = widen(low_half<T>(two)) + bias[gate];
        sum[gate / 2][gate % 2 * 2 + 1] = widen(high_half<T>(two)) + bias[gate];
      }
      fetch(step + 2, fetched[kNow]);
      if (step > 0) {
        smem.arrivals[kNow].wait((step - 1) / 2);  // the first step's h has come without messages
        if (block.thread() == 0) smem.arrivals[kNow].arm(kBytes);
      }
      uint32_t states[CL][4];
#pragma unroll
      for (int q = 0; q < CL; ++q) smem.h.load4(kFrom + q * 128 + block.lane() * 4, states[q]);
      block.sync_warp();
      multiply_in_chains<T, 1, kSteps>(block, &weights[0], states, &sum[0]);
      multiply_in_chains<T, 1, kSteps>(block, &weights[1], states, &sum[1]);
      float activated[2][kGates];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) activated[n][gate] = sum[gate / 2][gate % 2 * 2 + n];
        M::activate(activated[n]);
        cell_forward<M>(activated[n], c[n], c[n], h[n]);
      }
      const uint32_t h_word = block.transpose(narrow_pair<T>(h[0], h[1]));
      if (step + 1 < steps) {  // who has come to the last step waits for nothing any more, and may have ended
        uint32_t words[4] = {h_word};
#pragma unroll
        for (int k = 1; k < 4; ++k) words[k] = block.shuffle_xor(h_word, k);
        const int at = kTo + block.rank() * 128 + g * 16 + block.warp() * 4;
#pragma unroll
        for (int peer = t; peer < CL; peer += 4) send4(block, peer, smem.h, at, words, smem.arrivals[1 - kNow]);
      }
      // While they are on their way.
      Two::store_if(step < length, step < length_1, output.at, h_word);
      output.go_on();
      if (saves) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          const uint32_t two = block.transpose(narrow_pair<T>(activated[0][gate], activated[1][gate]));
          Two::store_if(step < length, step < length_1, gates.at + gate * H, two);
        }
        store_if(step < cells.length[0], c_0.at, c[0]);
        store_if(step < cells.length[1], c_1.at, c[1]);
        gates.go_on();
        c_0.go_on();
        c_1.go_on();
      }
      end_here(step + 1, h_word);
    });
  }
};

// ---- Backward ---------------------------------------------------------------------------------------------------------

// A block forms what its gates pass on to all hidden units, and each adds up what the blocks have for its own. That is half as
// much to send as the gates' gradients.
//
// These go round within the block, as [warp, pieces of 16 bytes]: piece 4 s + j has the units 2j and 2j + 1 of sequence s, their
// gates i, f, g, o. Pieces change places so that lanes that are busy together find them in different banks.
template <class T, int CL, bool Even>
struct ClusterTilesBackward : ClusterTiles<T, CL> {
  using Base = ClusterTiles<T, CL>;
  using Base::kAll;
  using Base::kCluster;
  using Base::kSequences;
  using Base::kThreads;
  using Base::kUnits;
  using Base::kWarpUnits;
  static constexpr int kSteps = kGates * kUnits / 16, kTiles = CL / 2;  // of tiles along the gates; of 16 units a warp
  static constexpr int kAtOnce = kTiles % 2 == 0 ? 2 : 1;
  static constexpr int kWords = kGates * kUnits * kSequences / 2, kPassed = CL * 2 * 128;
  using Params = BackwardParams<T>;
  using Two = Pair<T, Even>;
  struct Smem {
    typename Base::Staged weights;
    Shared<uint32_t, 2 * kWords> d_gates;  // [turn % 2, ...]
    Shared<float, 2 * kPassed> passed_on;  // [turn % 2, from block, tile of 16 units, lane, number of the tile]
    Shared<float, 4 * kThreads> ends;
    Arrivals arrivals[2];
  };
  struct Fetched {
    Two gates[kGates], grad_output;
    float c[2];
  };

  // What comes in from behind the last step of sequences that have `steps`.
  static SEAM_KERNEL void add_ends(const float (&ends)[4], const TwoCells& cells, int steps, float (&d_h)[2], float (&d_c)[2]) {
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
    const int warp_unit = block.rank() * kUnits + block.warp() * kWarpUnits, unit = warp_unit + g, pair = warp_unit + 2 * t;
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    smem.weights.fill(block, p.weight_hh, block.rank() * kUnits, H);
    uint32_t weights[kTiles][kSteps][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = (block.warp() * kTiles + tile) * 16 + i % 2 * 8 + g, of = k / 2 * 8 + 2 * t + k % 2;
          const auto number = [&](int gate) {
            const uint32_t word = smem.weights.rows.load(smem.weights.row(gate, of) + column / 2);
            return g % 2 ? high_half<T>(word) : low_half<T>(word);
          };
          weights[tile][k][i] = pack(number(i / 2 * 2), number(i / 2 * 2 + 1));
        }
      }
    }

    const int64_t first = block.index() * kSequences;
    const int steps = tile_steps<kSequences>(p.sequences, first);
    const TwoCells cells(p.sequences, first + 2 * t, unit, H);
    const Sequence sequence = sequence_at(p.sequences, first + g);
    const int length = pair < H ? sequence.length : 0, length_1 = pair + 1 < H ? sequence.length : 0;
    float c_0[2], ends[4];  // gradients of the last states: h of both sequences, c of both
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      ends[n] = cells.mine[n] && p.grad_h_n ? widen(load(p.grad_h_n + cells.state(n))) : 0.0f;
      ends[2 + n] = cells.mine[n] && p.grad_c_n ? widen(load(p.grad_c_n + cells.state(n))) : 0.0f;
      c_0[n] = cells.length[n] > 0 && p.c_0 ? widen(load(p.c_0 + cells.state(n))) : 0.0f;
    }
    smem.ends.store4(block.thread() * 4, ends);  // of registers there are too few

    StepWalk<const T> gates(p.gates, sequence, pair, steps - 1, -1), grad_output(p.grad_output, sequence, pair, steps - 1, -1);
    StepWalk<T> d_gates(p.d_gates, sequence, pair, steps - 1, -1);
    StepWalk<const float> of_c_0(p.cells, cells.of[0], unit, steps - 1, -1), of_c_1(p.cells, cells.of[1], unit, steps - 1, -1);
    // Zeros from before the end of a shorter sequence, and beyond its first step: nothing happens there.
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
    const auto factors_of = [&](const Fetched& from, Factors<kGates> (&factors)[2]) {
      uint32_t of[kGates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) of[gate] = block.transpose(from.gates[gate].word());
      factors[0] = all_factors<M>(widen(low_half<T>(of[0])), widen(low_half<T>(of[1])), widen(low_half<T>(of[2])),
                                  widen(low_half<T>(of[3])), from.c[0]);
      factors[1] = all_factors<M>(widen(high_half<T>(of[0])), widen(high_half<T>(of[1])), widen(high_half<T>(of[2])),
                                  widen(high_half<T>(of[3])), from.c[1]);
    };
    // What comes to a step's h from elsewhere than the step behind it.
    const auto more_h = [&](const Fetched& from, float (&more)[2]) {
      const uint32_t two = block.transpose(from.grad_output.word());
      more[0] = widen(low_half<T>(two));
      more[1] = widen(high_half<T>(two));
    };
    Fetched fetched[2];  // of the step before the one that is worked on, and of the one before that
    fetch(steps - 1, fetched[0]);
    fetch(steps - 2, fetched[1]);
    Factors<kGates> factors[2];
    float d_h[2], d_c[2] = {};
    factors_of(fetched[0], factors);
    more_h(fetched[0], d_h);
    add_ends(ends, cells, steps, d_h, d_c);
    fetch(steps - 3, fetched[0]);
    block.sync_cluster();

    by_turns(steps, [&](auto parity, int turn) {
      constexpr int kNow = decltype(parity)::value, kHere = kNow * kWords, kInto = kNow * kPassed;
      const int step = steps - 1 - turn;
      Fetched& before = fetched[1 - kNow];
      float d[2][kGates];
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
      block.sync();
      uint32_t of_gates[kSteps / 2][4];
#pragma unroll
      for (int q = 0; q < kSteps / 2; ++q) {
        smem.d_gates.load4(kHere + q * 128 + (block.lane() ^ g / 2 * 2) * 4, of_gates[q]);
      }
#pragma unroll
      for (int i = 0; i < kTiles; i += kAtOnce) {
        float sum[kAtOnce][4] = {};
        multiply_in_chains<T, kAtOnce, kSteps>(block, &weights[i], of_gates, sum);
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int tile = block.warp() * kTiles + i + j;
          const int at = kInto + (block.rank() * 2 + tile % 2) * 128 + block.lane() * 4;
          send4(block, tile / 2, smem.passed_on, at, sum[j], smem.arrivals[kNow]);
        }
      }

      // While they are on their way.
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
        const int at = kInto + (from * 2 + block.warp() / 2) * 128 + block.lane() * 4 + block.warp() % 2 * 2;
        smem.passed_on.load2(at, passed);
        total[0] += passed[0];
        total[1] += passed[1];
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) d_h[n] = step < cells.length[n] ? total[n] + more[n] : more[n];  // whatever the weights are
    });
    const TwoCells now(p.sequences, first + 2 * t, unit, H);  // once more, instead of in registers all the time
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (!now.mine[n]) continue;
      if (p.grad_h_0) store(p.grad_h_0 + now.state(n), narrow<T>(d_h[n]));
      if (p.grad_c_0) store(p.grad_c_0 + now.state(n), narrow<T>(d_c[n]));
    }
  }
};

}  // namespace seam::gpu

// The recurrence by tensor cores, all steps of eight sequences in one launch: for 16-bit numbers where neither
// recurrent_cluster_tiles.cuh nor recurrent_wide_tiles.cuh can run (GPUs without such clusters; more than 256 units
// whose rows do not begin at whole words) and, where torch allows it, for float32 rounded to tf32. As in recurrent.cuh
// the weights stay in registers, here as the left operands of tensor-core tiles, and the hidden state is exchanged
// through shared memory, as the right operand.
//
// The rows of a pair of tiles are ordered so that the four gates of a unit end up in one lane: rows g and g + 8 of the
// first tile are the gates i and f of unit g, those of the second g and o. So a cell's update never leaves its lane.
//
// HB: hidden units, rounded up. CL: blocks of a cluster. KS: warps that share the sums of eight units.
#pragma once

#include "block.cuh"
#include "cell_before.cuh"
#include "common/lstm_cell.h"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

// ---- Operands of a tile: words of adjacent terms --------------------------------------------------------------------

// value(i) gives number i of the word as an `Element`, which `element` makes of a float.
template <class Number>
struct Words {  // two 16-bit numbers
  using Element = Number;
  static constexpr int kNumbers = 2;
  static SEAM_KERNEL Element element(float x) { return narrow<Number>(x); }
  template <class Value>
  static SEAM_KERNEL uint32_t make(const Value& value) {
    return pack(value(0), value(1));
  }
};
template <>
struct Words<Tf32> {
  using Element = float;
  static constexpr int kNumbers = 1;
  static SEAM_KERNEL Element element(float x) { return x; }
  template <class Value>
  static SEAM_KERNEL uint32_t make(const Value& value) {
    return to_tf32(value(0));
  }
};

constexpr int kTileRows = 16, kTileColumns = 8,
              kTileWords = 8;  // rows of the left operand; columns of the right one; words along the terms
constexpr int kPadding = 4;    // words after a row of the right operand, which put its eight rows into different banks

template <int HB, int CL, int KS>
struct TileSizes {
  static constexpr int kUnits = HB / CL, kWarps = kUnits / 8 * KS, kThreads = 32 * kWarps;
  static_assert(HB % 16 == 0 && kUnits % 8 == 0 && kThreads <= 1024);
};

// sum = tiles of weights (in registers) times a panel of words in shared memory, [column, word], from word `first` on.
// Each tile has one or two (Sums) accumulators: with two a product need not wait for the one before.
template <class Number, int Sums, int Tiles, int Steps, class B, class Panel>
SEAM_KERNEL void multiply_panel(const B& block, const uint32_t (&weights)[Steps][Tiles][4], const Panel& panel,
                                int first, int stride, float (&sum)[Tiles][4]) {
  const int column = block.lane() / 4, t = block.lane() % 4;
  float sums[Sums][Tiles][4] = {};
  block.sync_warp();  // lanes without a cell may be ahead
#pragma unroll
  for (int k = 0; k < Steps; ++k) {
    const int at = first + column * stride + k * kTileWords + t;
    const uint32_t right[2] = {panel.load(at), panel.load(at + 4)};
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) block.multiply(sums[k % Sums][tile], weights[k][tile], right, Number{});
  }
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      sum[tile][i] = Sums == 2 ? sums[0][tile][i] + sums[Sums - 1][tile][i] : sums[0][tile][i];
  }
}

// ---- Forward --------------------------------------------------------------------------------------------------------

template <class T, class Number, int HB, int CL, int KS>
struct TiledForward {
  using Sizes = TileSizes<HB, CL, KS>;
  static constexpr int kUnits = Sizes::kUnits, kThreads = Sizes::kThreads, kCluster = CL;
  static constexpr int kWords = HB / Words<Number>::kNumbers, kStride = kWords + kPadding;
  static constexpr int kSteps = kWords / kTileWords / KS;  // steps of tiles along the hidden units
  static constexpr int kBuffer = kTileColumns * kStride;
  static_assert(kWords % (kTileWords * KS) == 0);
  using Params = ForwardParams<T>;
  struct Smem {
    Shared<uint32_t, 2 * kBuffer> h;  // of the previous and of this step, [sequence, word]
    Shared<float, (KS > 1 ? (KS - 1) * kUnits * 32 : 4)>
        shared;  // sums of all warps but the first of each group of units
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    tile(block, smem, p, p.sequences, block.index());
  }

  // See recurrent.cuh.
  template <class B>
  static SEAM_KERNEL void tile(const B& block, Smem& smem, const Params& p, const Sequences& s, int64_t number) {
    using M = Arithmetic<T>;
    const int H = int(p.hidden), group = block.warp() / KS, part = block.warp() % KS;
    const int g = block.lane() / 4, t = block.lane() % 4;
    const int unit_here = group * 8 + g, unit = block.rank() * kUnits + unit_here;

    uint32_t w[kSteps][2][4];
    const Weight<T> weight(p.weight_hh);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int word = (part * kSteps + k) * kTileWords + half * 4 + t;
          w[k][gate / 2][gate % 2 + 2 * half] = Words<Number>::make([&](int i) {
            const int column = word * Words<Number>::kNumbers + i;
            return weight.kept_or_zero(unit < H && column < H, int64_t(gate * H + unit) * H + column);
          });
        }
      }
      block.sync_warp();  // bounds the loads of weights in flight, each of which takes registers
    }

    const int64_t first = number * kTileColumns;
    for (int i = block.thread(); i < kTileColumns * kWords; i += kThreads) {
      const Sequence sequence = sequence_at(s, first + i / kWords);
      smem.h.store(i / kWords * kStride + i % kWords, Words<Number>::make([&](int n) {
                     const int k = i % kWords * Words<Number>::kNumbers + n;
                     const bool given = p.h_0 && sequence.exists && k < H;
                     return Words<Number>::element(given ? widen(load(p.h_0 + sequence.index * p.hidden + k)) : 0.0f);
                   }));
    }

    // The first warp of each group of units also has its cells, two sequences per lane.
    const bool owner = part == 0;
    const int steps = tile_steps<kTileColumns>(s, first);
    float bias[kGates] = {}, h[2] = {}, c[2] = {}, next[2][kGates] = {};
    Sequence sequence[2];
    bool mine[2];
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      if (!owner || unit >= H) continue;
      bias[gate] = effective<T>(p.bias_ih, gate * H + unit) + effective<T>(p.bias_hh, gate * H + unit);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      sequence[n] = sequence_at(s, first + 2 * t + n);
      mine[n] = owner && unit < H && sequence[n].exists;
      const int64_t state = sequence[n].index * p.hidden + unit;
      if (mine[n] && p.h_0) h[n] = widen(load(p.h_0 + state));
      if (mine[n] && p.c_0) c[n] = widen(load(p.c_0 + state));
      if (mine[n] && sequence[n].length > 0) load_gates(p, sequence[n].at(0), unit, next[n]);
    }
    block.sync_cluster();

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const int from = step % 2 * kBuffer, to = kBuffer - from;
      float gates[2][kGates];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) gates[n][gate] = next[n][gate] + bias[gate];
        if (mine[n] && step + 1 < sequence[n].length) load_gates(p, sequence[n].at(step + 1), unit, next[n]);
      }

      float sum[2][4];
      multiply_panel<Number, 2>(block, w, smem.h, from + part * kSteps * kTileWords, kStride, sum);
      if constexpr (KS > 1) add_parts(block, smem, group, part, sum);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) gates[n][gate] += sum[gate / 2][gate % 2 * 2 + n];
        if (!mine[n] || step >= sequence[n].length) continue;
        activate<M>(gates[n]);
        cell_forward<M>(gates[n], c[n], c[n], h[n]);
      }
      if (owner) pass_on(block, smem, to, unit, h);
      block.sync_cluster();
      // After the barrier, which would otherwise wait for these stores.
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (!mine[n] || step >= sequence[n].length) continue;
        const TimeIndex index = sequence[n].at(step);
        store(p.output.at(index) + unit, narrow<T>(h[n]));
        if (!p.cells.data) continue;
        store(p.cells.at(index) + unit, c[n]);
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          store(p.gates.at(index) + gate * p.hidden + unit, narrow<T>(gates[n][gate]));
        }
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (!mine[n]) continue;
      store(p.h_n + sequence[n].index * p.hidden + unit, narrow<T>(h[n]));
      store(p.c_n + sequence[n].index * p.hidden + unit, narrow<T>(c[n]));
    }
  }

 private:
  static SEAM_KERNEL void load_gates(const Params& p, TimeIndex index, int unit, float (&gates)[kGates]) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) gates[gate] = widen(load(p.gates.at(index) + gate * p.hidden + unit));
  }

  // Adds up the sums of a group's warps, in the order of the warps, in the first of them.
  template <class B>
  static SEAM_KERNEL void add_parts(const B& block, Smem& smem, int group, int part, float (&sum)[2][4]) {
    const auto at = [&](int from, int tile) {
      return (((from - 1) * (kUnits / 8) + group) * 2 + tile) * 128 + block.lane() * 4;
    };
    if (part > 0) {
      smem.shared.store4(at(part, 0), sum[0]);
      smem.shared.store4(at(part, 1), sum[1]);
    }
    block.sync();
    if (part > 0) return;
#pragma unroll
    for (int from = 1; from < KS; ++from) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        float theirs[4];
        smem.shared.load4(at(from, tile), theirs);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[tile][i] += theirs[i];
      }
    }
  }

  // Writes hidden states into the shared memory of all blocks, as words. A word of 16-bit numbers holds the states of
  // two units, which are in lanes four apart: these exchange their values, and each writes one sequence.
  template <class B>
  static SEAM_KERNEL void pass_on(const B& block, Smem& smem, int to, int unit, const float (&h)[2]) {
    const int t = block.lane() % 4;
    if constexpr (Words<Number>::kNumbers == 2) {
      const bool odd = unit % 2;
      const float theirs = block.shuffle_xor(odd ? h[0] : h[1], 4);
      const uint32_t word =
          odd ? pack(narrow<Number>(theirs), narrow<Number>(h[1])) : pack(narrow<Number>(h[0]), narrow<Number>(theirs));
#pragma unroll
      for (int peer = 0; peer < CL; ++peer) {
        block.store_peer(peer, smem.h, to + (2 * t + odd) * kStride + unit / 2, word);
      }
    } else {
#pragma unroll
      for (int peer = 0; peer < CL; ++peer) {
#pragma unroll
        for (int n = 0; n < 2; ++n) block.store_peer(peer, smem.h, to + (2 * t + n) * kStride + unit, to_tf32(h[n]));
      }
    }
  }
};

// ---- Backward -------------------------------------------------------------------------------------------------------

// A block has the gates of its units, ordered unit by unit, and forms the part of the gradient of all hidden units, the
// rows of its tiles, that comes from them; each block then adds up the parts of all blocks for its units.
template <class T, class Number, int HB, int CL, int KS>
struct TiledBackward {
  using Sizes = TileSizes<HB, CL, KS>;
  static constexpr int kUnits = Sizes::kUnits, kThreads = Sizes::kThreads, kWarps = Sizes::kWarps, kCluster = CL;
  static constexpr int kRowTiles = HB / kTileRows;
  static constexpr int kParts = kWarps > kRowTiles ? kWarps / kRowTiles : 1;  // warps that share the sums of a tile
  static constexpr int kTiles = kRowTiles * kParts / kWarps;                  // tiles of a warp
  static constexpr int kWords = kGates * kUnits / Words<Number>::kNumbers, kStride = kWords + kPadding;
  static constexpr int kSteps = kWords / kTileWords / kParts;
  // Cells of a lane. Two warps share those of a group of units, if it has two.
  static constexpr int kCells = KS == 1 ? 2 : 1;
  static constexpr int kSources = CL * kParts, kPassedStride = kUnits + kPadding;
  static constexpr int kBuffer = kSources * kTileColumns * kPassedStride;
  static_assert(kTiles * kWarps == kRowTiles * kParts && kSteps * kTileWords * kParts == kWords);
  using Params = BackwardParams<T>;
  struct Smem {
    Shared<uint32_t, kTileColumns * kStride> d_gates;  // [sequence, word]
    Shared<float, 2 * kBuffer> passed_on;              // to this block's units, [step % 2, source, sequence, unit]
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    tile(block, smem, p, p.sequences, block.index());
  }

  // See recurrent.cuh.
  template <class B>
  static SEAM_KERNEL void tile(const B& block, Smem& smem, const Params& p, const Sequences& s, int64_t number) {
    using M = Arithmetic<T>;
    const int H = int(p.hidden), first_unit = block.rank() * kUnits;
    const int g = block.lane() / 4, t = block.lane() % 4;

    // This warp's part of the products: the tiles from `first_tile` on, part `part` of their terms.
    const int first_tile = block.warp() / kParts * kTiles, part = block.warp() % kParts;
    uint32_t w[kSteps][kTiles][4];
    const Weight<T> weight(p.weight_hh);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = (first_tile + tile) * kTileRows + i % 2 * 8 + g;
          const int word = (part * kSteps + k) * kTileWords + i / 2 * 4 + t;
          w[k][tile][i] = Words<Number>::make([&](int n) {
            const int term = word * Words<Number>::kNumbers + n, unit = first_unit + term / kGates;
            return weight.kept_or_zero(unit < H && column < H, int64_t(term % kGates * H + unit) * H + column);
          });
        }
      }
      block.sync_warp();  // bounds the loads of weights in flight, each of which takes registers
    }

    // This lane's cells: unit `unit` of the sequences in rows `first_row` and on of the tile.
    const bool owner = block.warp() % KS < 2 / kCells;
    const int first_row = 2 * t + block.warp() % KS % 2;
    const int unit_here = block.warp() / KS * 8 + g, unit = first_unit + unit_here;
    const int64_t first = number * kTileColumns;
    const int steps = tile_steps<kTileColumns>(s, first);
    Sequence sequence[kCells];
    bool mine[kCells];
    float d_h[kCells] = {}, d_c[kCells] = {};
    CellBefore next[kCells] = {};
    CellWaiting<M> cell[kCells];
#pragma unroll
    for (int n = 0; n < kCells; ++n) {
      sequence[n] = sequence_at(s, first + first_row + n);
      mine[n] = owner && unit < H && sequence[n].exists;
      const int64_t state = sequence[n].index * p.hidden + unit;
      if (mine[n] && p.grad_h_n) d_h[n] = widen(load(p.grad_h_n + state));
      if (mine[n] && p.grad_c_n) d_c[n] = widen(load(p.grad_c_n + state));
      if (mine[n] && steps > 0 && sequence[n].length == steps) next[n] = load_cell(p, sequence[n], steps - 1, unit);
      cell[n] = CellWaiting<M>(next[n]);
    }
    block.sync_cluster();

#pragma unroll 1
    for (int step = steps - 1; step >= 0; --step) {
      const int here = step % 2 * kBuffer;
      CellGradient<M> d[kCells] = {};
#pragma unroll
      for (int n = 0; n < kCells; ++n) {
        if (mine[n] && step < sequence[n].length) {
          if (step < sequence[n].length - 1) d_h[n] = passed_on(smem, kBuffer - here, first_row + n, unit_here);
          d[n] = cell[n].backward(d_h[n], d_c[n]);
          d_c[n] = d[n].c_prev;
        }
        if (owner) store_gates(smem, first_row + n, unit_here, d[n].gates);
      }
      block.sync();
      // After what other threads wait for.
#pragma unroll
      for (int n = 0; n < kCells; ++n) {
        if (mine[n] && 0 < step && step <= sequence[n].length) next[n] = load_cell(p, sequence[n], step - 1, unit);
        if (!mine[n] || step >= sequence[n].length) continue;
        const TimeIndex index = sequence[n].at(step);
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          store(p.d_gates.at(index) + gate * p.hidden + unit, narrow<T>(d[n].gates[gate]));
        }
      }

      float sum[kTiles][4];
      multiply_panel<Number, kTiles == 1 ? 2 : 1>(block, w, smem.d_gates, part * kSteps * kTileWords, kStride, sum);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = (first_tile + i) * kTileRows + half * 8 + g;
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const int source = (block.rank() * kParts + part) * kTileColumns + 2 * t + n;
            block.store_peer(column / kUnits, smem.passed_on, here + source * kPassedStride + column % kUnits,
                             sum[i][2 * half + n]);
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kCells; ++n) cell[n] = CellWaiting<M>(next[n]);
      block.sync_cluster();
    }
#pragma unroll
    for (int n = 0; n < kCells; ++n) {
      if (!mine[n]) continue;
      const int64_t state = sequence[n].index * p.hidden + unit;
      if (sequence[n].length > 0) d_h[n] = passed_on(smem, 0, first_row + n, unit_here);
      if (p.grad_h_0) store(p.grad_h_0 + state, narrow<T>(d_h[n]));
      if (p.grad_c_0) store(p.grad_c_0 + state, narrow<T>(d_c[n]));
    }
  }

 private:
  static SEAM_KERNEL float passed_on(const Smem& smem, int from, int row, int unit_here) {
    float sum = smem.passed_on.load(from + row * kPassedStride + unit_here);
#pragma unroll
    for (int source = 1; source < kSources; ++source) {
      sum += smem.passed_on.load(from + (source * kTileColumns + row) * kPassedStride + unit_here);
    }
    return sum;
  }

  static SEAM_KERNEL void store_gates(Smem& smem, int row, int unit_here, const float (&d)[kGates]) {
    constexpr int kCount = kGates / Words<Number>::kNumbers;
    uint32_t words[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      words[i] = Words<Number>::make([&](int n) { return Words<Number>::element(d[i * Words<Number>::kNumbers + n]); });
    }
    if constexpr (kCount == 2) smem.d_gates.store2(row * kStride + unit_here * kCount, words);
    else smem.d_gates.store4(row * kStride + unit_here * kCount, words);
  }
};

}  // namespace seam::gpu

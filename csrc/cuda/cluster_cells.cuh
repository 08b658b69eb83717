// Cells of a warp of the clusters that work by tensor cores: eight units of eight sequences, and all that they read and leave
// in global memory.
//
// Two views of them, with g = lane / 4 and t = lane % 4: as tiles have them, unit g of sequences 2t and 2t + 1 (rows of a pair
// of tiles are the gates i and f, g and o of units, so that the four gates of a cell meet in its lane); and memory, sequence g
// of units 2t and 2t + 1, which lie side by side. `transpose` changes one into the other.
#pragma once

#include "../lstm_cell.h"
#include "predicated.cuh"
#include "recurrent_small.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

constexpr int kClusterSequences = 8, kWarpUnits = 8;

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

// Numbers of two neighbouring units of a sequence.
struct TwoUnits {
  int length, length_1;  // of the sequence, 0 where there is no such unit
  int end, end_1;        // the same, -1 where there is no such unit or no sequence

  SEAM_KERNEL TwoUnits(const Sequence& sequence, int unit, int H) {
    length = unit < H ? sequence.length : 0, length_1 = unit + 1 < H ? sequence.length : 0;
    end = sequence.exists && unit < H ? sequence.length : -1, end_1 = unit + 1 < H ? end : -1;
  }
};

// A warp's cells on their way forward. Units from H on are none: they read and leave nothing.
template <class T, bool Even>
struct ForwardCells {
  using M = ShortGates;
  using Two = Pair<T, Even>;

  TwoCells cells;
  Sequence sequence;
  TwoUnits units;
  StepWalk<const T> input;
  StepWalk<T> gates, output;
  StepWalk<float> c_0, c_1;
  bool saves;
  T *h_n, *c_n;
  float bias[kGates], c[2], h[2] = {};
  Two fetched[2][kGates];

  // The eight units from `first_unit` on.
  template <class B>
  SEAM_KERNEL ForwardCells(const B& block, const ForwardParams<T>& p, int64_t first_rank, int first_unit)
      : cells(p.sequences, first_rank + block.lane() % 4 * 2, first_unit + block.lane() / 4, int(p.hidden)),
        sequence(sequence_at(p.sequences, first_rank + block.lane() / 4)),
        units(sequence, first_unit + block.lane() % 4 * 2, int(p.hidden)),
        input(p.gates, sequence, first_unit + block.lane() % 4 * 2, 0),
        gates(p.gates, sequence, first_unit + block.lane() % 4 * 2, 0),
        output(p.output, sequence, first_unit + block.lane() % 4 * 2, 0),
        c_0(p.cells, cells.of[0], cells.unit, 0),
        c_1(p.cells, cells.of[1], cells.unit, 0),
        saves(p.cells.data != nullptr),
        h_n(p.h_n + sequence.index * p.hidden + first_unit + block.lane() % 4 * 2),
        c_n(p.c_n) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const int at = gate * cells.H + cells.unit;
      bias[gate] = cells.unit < cells.H ? effective<T>(p.bias_ih, at) + effective<T>(p.bias_hh, at) : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) c[n] = cells.mine[n] && p.c_0 ? widen(load(p.c_0 + cells.state(n))) : 0.0f;
    fetch<0>(0);
    fetch<1>(1);
  }

  // What comes from the input at a step, asked for two steps before it is needed.
  template <int Parity>
  SEAM_KERNEL void fetch(int step) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      fetched[Parity][gate] = Two::load_if(step < units.length, step < units.length_1, input.at + gate * cells.H);
    }
    input.go_on();
  }
  // It, as the tiles of i and f, g and o have it.
  template <int Parity, class B>
  SEAM_KERNEL void begin(const B& block, float (&sum)[2][4]) const {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const uint32_t two = block.transpose(fetched[Parity][gate].word());
      sum[gate / 2][gate % 2 * 2] = widen(low_half<T>(two)) + bias[gate];
      sum[gate / 2][gate % 2 * 2 + 1] = widen(high_half<T>(two)) + bias[gate];
    }
  }
  // The cells' step. The new hidden states come as memory has them.
  template <class B>
  SEAM_KERNEL uint32_t advance(const B& block, const float (&sum)[2][4], float (&activated)[2][kGates]) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) activated[n][gate] = sum[gate / 2][gate % 2 * 2 + n];
      M::activate(activated[n]);
      cell_forward<M>(activated[n], c[n], c[n], h[n]);
    }
    return block.transpose(narrow_pair<T>(h[0], h[1]));
  }
  // What a step leaves.
  template <class B>
  SEAM_KERNEL void save(const B& block, int step, const float (&activated)[2][kGates], uint32_t h_word) {
    Two::store_if(step < units.length, step < units.length_1, output.at, h_word);
    output.go_on();
    if (saves) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const uint32_t two = block.transpose(narrow_pair<T>(activated[0][gate], activated[1][gate]));
        Two::store_if(step < units.length, step < units.length_1, gates.at + gate * cells.H, two);
      }
      store_if(step < cells.length[0], c_0.at, c[0]);
      store_if(step < cells.length[1], c_1.at, c[1]);
      gates.go_on();
      c_0.go_on();
      c_1.go_on();
    }
    end_here(step + 1, h_word);
  }
  // Behind `done` steps: a sequence's end.
  SEAM_KERNEL void end_here(int done, uint32_t h_word) {
    Two::store_if(done == units.end, done == units.end_1, h_n, h_word);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      store_if(cells.mine[n] && done == cells.of[n].length, c_n + cells.state(n), narrow<T>(c[n]));
    }
  }
};

}  // namespace seam::gpu

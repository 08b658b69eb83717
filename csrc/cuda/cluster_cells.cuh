// The LSTM cells of a warp in the recurrences that use tensor cores: eight units of eight sequences, and what they read
// from and write to global memory.
//
// There are two layouts, with g = lane / 4 and t = lane % 4. That of tiles: a lane has unit g of the sequences 2t and
// 2t + 1 (the rows of a pair of tiles are the gates i and f, then g and o of the units, so that the four gates of a
// cell are in one lane). That of memory: a lane has the units 2t and 2t + 1, which are adjacent, of sequence g.
// `transpose` converts one into the other.
#pragma once

#include "common/lstm_cell.h"
#include "predicated.cuh"
#include "recurrent_small.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

constexpr int kClusterSequences = 8, kWarpUnits = 8;

// The cells of a lane in the layout of tiles: unit `unit` of two adjacent sequences.
struct TwoCells {
  Sequence of[2];
  bool mine[2];
  int length[2];  // 0 if there is no such cell
  int unit, H;

  SEAM_KERNEL TwoCells(const Sequences& s, int64_t first_rank, int unit, int H) : unit(unit), H(H) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      of[n] = sequence_at(s, first_rank + n);
      mine[n] = of[n].exists && unit < H;
      length[n] = mine[n] ? of[n].length : 0;
    }
  }
  SEAM_KERNEL int64_t state(int n) const { return int64_t(of[n].index) * H + unit; }  // its index in (B, H)
};

// The layout of memory: two adjacent units of a sequence.
struct TwoUnits {
  int length, length_1;  // of the sequence, for each of the units; 0 if there is no such unit
  int end, end_1;        // the same, but -1 if there is no such unit or sequence

  SEAM_KERNEL TwoUnits(const Sequence& sequence, int unit, int H) {
    length = unit < H ? sequence.length : 0, length_1 = unit + 1 < H ? sequence.length : 0;
    end = sequence.exists && unit < H ? sequence.length : -1, end_1 = unit + 1 < H ? end : -1;
  }
};

// A warp's cells in the forward pass. Units from H on do not exist: they read and write nothing.
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

  // For the eight units from `first_unit` on.
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

  // Loads the input projections of a step, two steps before they are needed.
  template <int Parity>
  SEAM_KERNEL void fetch(int step) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      fetched[Parity][gate] = Two::load_if(step < units.length, step < units.length_1, input.at + gate * cells.H);
    }
    input.go_on();
  }
  // Those in the layout of the tiles of i and f, g and o.
  template <int Parity, class B>
  SEAM_KERNEL void begin(const B& block, float (&sum)[2][4]) const {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const uint32_t two = block.transpose(fetched[Parity][gate].word());
      sum[gate / 2][gate % 2 * 2] = widen(low_half<T>(two)) + bias[gate];
      sum[gate / 2][gate % 2 * 2 + 1] = widen(high_half<T>(two)) + bias[gate];
    }
  }
  // A step of the cells. Returns the new hidden states in the layout of memory.
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
  // Stores the results of a step.
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
  // Stores h_n and c_n of sequences that end after `done` steps.
  SEAM_KERNEL void end_here(int done, uint32_t h_word) {
    Two::store_if(done == units.end, done == units.end_1, h_n, h_word);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      store_if(cells.mine[n] && done == cells.of[n].length, c_n + cells.state(n), narrow<T>(c[n]));
    }
  }
};

// A warp's cells in the backward pass of recurrent_grid.cuh. Units from H on do not exist, as forward. TilesBackward,
// which uses every register, repeats this code instead of using the struct, with which it spilled registers on sm_100.
template <class T, bool Even>
struct BackwardCells {
  using M = ShortGates;
  using Two = Pair<T, Even>;
  struct Fetched {
    Two gates[kGates], grad_output;
    float c[2];
  };
  // Gradients of h_n and c_n of both sequences, in shared memory until they are needed.
  using Ends = float[4];

  const BackwardParams<T>& p;
  TwoCells cells;
  Sequence sequence;
  TwoUnits units;
  StepWalk<const T> gates, grad_output;
  StepWalk<T> d_gates;
  StepWalk<const float> of_c_0, of_c_1;
  float c_0[2];
  Fetched fetched[2] = {};  // loads for the previous step and the one before it
  Factors<kGates> factors[2];
  float d_h[2] = {}, d_c[2] = {};

  // For the eight units from `first_unit` on, of sequences of at most `steps` steps.
  template <class B>
  SEAM_KERNEL BackwardCells(const B& block, const BackwardParams<T>& p, int64_t first_rank, int first_unit, int steps)
      : p(p),
        cells(p.sequences, first_rank + block.lane() % 4 * 2, first_unit + block.lane() / 4, int(p.hidden)),
        sequence(sequence_at(p.sequences, first_rank + block.lane() / 4)),
        units(sequence, first_unit + block.lane() % 4 * 2, int(p.hidden)),
        gates(p.gates, sequence, first_unit + block.lane() % 4 * 2, steps - 1, -1),
        grad_output(p.grad_output, sequence, first_unit + block.lane() % 4 * 2, steps - 1, -1),
        d_gates(p.d_gates, sequence, first_unit + block.lane() % 4 * 2, steps - 1, -1),
        of_c_0(p.cells, cells.of[0], cells.unit, steps - 1, -1),
        of_c_1(p.cells, cells.of[1], cells.unit, steps - 1, -1) {
#pragma unroll
    for (int n = 0; n < 2; ++n) c_0[n] = cells.length[n] > 0 && p.c_0 ? widen(load(p.c_0 + cells.state(n))) : 0.0f;
  }
  SEAM_KERNEL void load_ends(Ends& ends) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      ends[n] = cells.mine[n] && p.grad_h_n ? widen(load(p.grad_h_n + cells.state(n))) : 0.0f;
      ends[2 + n] = cells.mine[n] && p.grad_c_n ? widen(load(p.grad_c_n + cells.state(n))) : 0.0f;
    }
  }
  // Prepares the last step.
  template <class B>
  SEAM_KERNEL void begin(const B& block, int steps, const Ends& ends) {
    fetch(steps - 1, fetched[0]);
    fetch(steps - 2, fetched[1]);
    factors_of(block, fetched[0]);
    more_h(block, fetched[0], d_h);
    add_ends(ends, steps, d_h, d_c);
    fetch(steps - 3, fetched[0]);
  }
  // The gradients of a step's gates i, f, g, o. before: what was loaded for the previous step.
  SEAM_KERNEL void gradients(const Fetched& before, float (&d)[2][kGates]) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      d_c[n] = M::fma(d_h[n], factors[n].a, d_c[n]);
      d[n][0] = d_c[n] * factors[n].gates[0];
      d[n][1] = d_c[n] * (factors[n].gates[2] * before.c[n]);
      d[n][2] = d_c[n] * factors[n].gates[1];
      d[n][3] = d_h[n] * factors[n].gates[3];
    }
  }
  template <class B>
  SEAM_KERNEL void save(const B& block, int step, const float (&d)[2][kGates]) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const uint32_t two = block.transpose(narrow_pair<T>(d[0][gate], d[1][gate]));
      Two::store_if(step < units.length, step < units.length_1, d_gates.at + gate * cells.H, two);
    }
    d_gates.go_on();
  }
  // All of the previous step that does not depend on the gradient which its hidden states get from the gates of this
  // one. `more` is added to that gradient.
  template <class B>
  SEAM_KERNEL void prepare(const B& block, int step, Fetched& before, const Ends& ends, float (&more)[2]) {
    more_h(block, before, more);
#pragma unroll
    for (int n = 0; n < 2; ++n) d_c[n] *= factors[n].forget;
    add_ends(ends, step, more, d_c);
    factors_of(block, before);
    fetch(step - 3, before);
  }
  SEAM_KERNEL void receive(int step, const float (&passed)[2], const float (&more)[2]) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
      d_h[n] = step < cells.length[n] ? passed[n] + more[n]
                                      : more[n];  // a NaN or inf weight must not reach a step that does not exist
  }

 private:
  // Zeros at steps that the sequence does not have: after its end and before its first step.
  SEAM_KERNEL void fetch(int step, Fetched& to) {
    const auto ran = [&](int of) { return unsigned(step) < unsigned(of); };
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      to.gates[gate] = Two::load_if(ran(units.length), ran(units.length_1), gates.at + gate * cells.H);
    }
    const bool graded = p.grad_output.data != nullptr;
    to.grad_output = Two::load_if(graded && ran(units.length), graded && ran(units.length_1), grad_output.at);
    to.c[0] = load_if(ran(cells.length[0]), of_c_0.at, step < 0 ? c_0[0] : 0.0f);
    to.c[1] = load_if(ran(cells.length[1]), of_c_1.at, step < 0 ? c_0[1] : 0.0f);
    gates.go_on();
    grad_output.go_on();
    of_c_0.go_on();
    of_c_1.go_on();
  }
  template <class B>
  SEAM_KERNEL void factors_of(const B& block, const Fetched& from) {
    uint32_t of[kGates];
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) of[gate] = block.transpose(from.gates[gate].word());
    factors[0] = all_factors<M>(widen(low_half<T>(of[0])), widen(low_half<T>(of[1])), widen(low_half<T>(of[2])),
                                widen(low_half<T>(of[3])), from.c[0]);
    factors[1] = all_factors<M>(widen(high_half<T>(of[0])), widen(high_half<T>(of[1])), widen(high_half<T>(of[2])),
                                widen(high_half<T>(of[3])), from.c[1]);
  }
  // The part of the gradient of a step's h that does not come from the next step.
  template <class B>
  SEAM_KERNEL void more_h(const B& block, const Fetched& from, float (&more)[2]) const {
    const uint32_t two = block.transpose(from.grad_output.word());
    more[0] = widen(low_half<T>(two));
    more[1] = widen(high_half<T>(two));
  }
  // The gradients of h_n and c_n, for sequences that have all `steps` steps.
  SEAM_KERNEL void add_ends(const Ends& ends, int steps, float (&to_h)[2], float (&to_c)[2]) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      to_h[n] += steps == cells.length[n] ? ends[n] : 0.0f;
      to_c[n] += steps == cells.length[n] ? ends[2 + n] : 0.0f;
    }
  }
};

// Stores the gradients of h_0 and c_0. Where the cells are is computed again, instead of held in registers all the
// time.
template <class T, class B>
SEAM_KERNEL void store_first(const B& block, const BackwardParams<T>& p, int64_t first_rank, int first_unit,
                             const float (&d_h)[2], const float (&d_c)[2]) {
  const TwoCells cells(p.sequences, first_rank + block.lane() % 4 * 2, first_unit + block.lane() / 4, int(p.hidden));
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    if (!cells.mine[n]) continue;
    if (p.grad_h_0) store(p.grad_h_0 + cells.state(n), narrow<T>(d_h[n]));
    if (p.grad_c_0) store(p.grad_c_0 + cells.state(n), narrow<T>(d_c[n]));
  }
}

}  // namespace seam::gpu

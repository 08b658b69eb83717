// The recurrence of small and medium layers in full precision: all steps of a few sequences in one launch. The weights
// are masked while they are loaded and stay in registers, those of the largest layers also in shared memory; the hidden
// state is exchanged through shared memory, the cell state never leaves its thread. Up to 96 units are one block; of
// larger layers the blocks of a cluster share the units and write what the others need into their shared memory.
//
// HB: hidden units, rounded up (the rest are zero). CL: blocks of a cluster. L: lanes that share the sum of a unit. NB:
// sequences of a tile. All are compile-time constants, because registers cannot be indexed.
#pragma once

#include "block.cuh"
#include "cell_before.cuh"
#include "common/lstm_cell.h"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

// ---- Sums over groups of lanes --------------------------------------------------------------------------------------

// Adds up v over the L lanes of a group. The N sums are distributed over them: lane q keeps those from q N / L on, in
// v[0..], at least one; if N < L several lanes have the same sum. The order of additions is fixed.
template <int L, int N, class B>
SEAM_KERNEL void spread_sum(const B& block, float (&v)[N], int q) {
  int left = N;
#pragma unroll
  for (int mask = L / 2; mask > 0; mask /= 2) {
    if (left > 1) {
      left /= 2;
      const bool upper = q & mask;
#pragma unroll
      for (int r = 0; r < N / 2; ++r) {
        if (r >= left) break;
        const float kept = upper ? v[left + r] : v[r], sent = upper ? v[r] : v[left + r];
        v[r] = kept + block.shuffle_xor(sent, mask);
      }
    } else {
      v[0] = v[0] + block.shuffle_xor(v[0], mask);
    }
  }
}

template <int L, int N>
struct Spread {
  static constexpr int kEach = N > L ? N / L : 1;
  static SEAM_KERNEL int first(int q) { return q * N / L; }
  static SEAM_KERNEL bool owns(int q) {
    return N >= L || q * N % L == 0;
  }  // whether it is the first of the lanes with the same sum
};

// ---- A thread's weights ---------------------------------------------------------------------------------------------

constexpr int kRegisters = 65536, kOtherRegisters = 60;  // of a multiprocessor; of a thread for everything but weights

// N weights in groups of four: in registers, or if these do not suffice, three quarters of them in shared memory,
// interleaved with those of the other threads.
template <int N, int Threads>
struct Weights {
  static constexpr int kHeld = N <= kRegisters / Threads - kOtherRegisters ? N : N / 4, kRest = N - kHeld;
  static_assert(N % 4 == 0 && kHeld % 4 == 0);
  using Smem = Shared<float, (kRest > 0 ? kRest * Threads : 4)>;
  float held[kHeld];

  // value(i): weight i.
  template <class B, class Value>
  SEAM_KERNEL void load(const B& block, Smem& smem, const Value& value) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      held[i] = value(i);
      if (i % 16 == 15) block.sync_warp();  // bounds the loads in flight, each of which takes registers
    }
#pragma unroll 1
    for (int i = 0; i < kRest; ++i) smem.store(weight_index(block, i) + i % 4, value(kHeld + i));
  }
  template <class B>
  SEAM_KERNEL void four(const B& block, const Smem& smem, int first, float (&w)[4]) const {
    if (first < kHeld) {
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = held[first < kHeld ? first + i : 0];
    } else {
      smem.load4(weight_index(block, first - kHeld), w);
    }
  }

 private:
  template <class B>
  static SEAM_KERNEL int weight_index(const B& block, int i) {
    return (i / 4 * Threads + block.thread()) * 4;
  }
};

// ---- Forward --------------------------------------------------------------------------------------------------------

template <class T, int HB, int CL, int L, int NB>
struct RecurrentForward {
  static constexpr int kUnits = HB / CL, kThreads = kUnits * L, kCluster = CL;
  static constexpr bool kHeldWalk = HB <= 64;  // larger layers, whose steps are longer, lack the registers
  static constexpr int kShare = HB / L;  // hidden units whose products a lane forms, for the four gates of its unit
  static_assert(NB <= L && kShare % 2 == 0 && kThreads % 32 == 0);
  using Params = ForwardParams<T>;
  using Held = Weights<kGates * kShare, kThreads>;
  struct Smem {
    Shared<float, 2 * NB * HB> h;  // of the previous and of this step, [row, unit]
    typename Held::Smem weights;
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    tile(block, smem, p, p.sequences, block.index());
  }

  // Tile `number` of the sequences `s`, which are those of `p` or others for its tensors. All blocks of the cluster
  // must have passed a barrier since `smem` was last used.
  template <class B>
  static SEAM_KERNEL void tile(const B& block, Smem& smem, const Params& p, const Sequences& s, int64_t number) {
    using M = Arithmetic<T>;
    const int H = int(p.hidden), q = block.thread() % L, unit = block.rank() * kUnits + block.thread() / L;

    // Lane q of a unit takes the pairs q, q + L, ... of hidden units, so that adjacent lanes read adjacent words of
    // shared memory.
    Held weights;
    const Weight<T> weight(p.weight_hh);
    weights.load(block, smem.weights, [&](int i) {
      const int gate = i % kGates, j = i / kGates, k = 2 * (j / 2 * L + q) + j % 2;
      return unit < H && k < H ? weight.effective(int64_t(gate * H + unit) * H + k) : 0.0f;
    });
    float bias[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      bias[g] = unit < H ? effective<T>(p.bias_ih, g * H + unit) + effective<T>(p.bias_hh, g * H + unit) : 0.0f;
    }

    const int64_t first = number * NB;
    for (int i = block.thread(); i < NB * HB; i += kThreads) {
      const Sequence sequence = sequence_at(s, first + i / HB);
      const int k = i % HB;
      const bool given = p.h_0 && sequence.exists && k < H;
      smem.h.store(i, given ? widen(load(p.h_0 + sequence.index * p.hidden + k)) : 0.0f);
    }

    // From here on a lane also belongs to one sequence: that of the sums which it keeps.
    const int row = Spread<L, NB>::first(q), steps = tile_steps<NB>(s, first);
    const Sequence sequence = sequence_at(s, first + row);
    const bool owner = Spread<L, NB>::owns(q), mine = owner && unit < H && sequence.exists;
    const int64_t state = sequence.index * p.hidden + unit;
    float h = mine && p.h_0 ? widen(load(p.h_0 + state)) : 0.0f, c = mine && p.c_0 ? widen(load(p.c_0 + state)) : 0.0f;
    Walk<T, kHeldWalk> of_gates(p.gates, s, sequence, 0, unit), of_output(p.output, s, sequence, 0, unit);
    Walk<Wide<T>, kHeldWalk> of_cells(p.cells, s, sequence, 0, unit);
    float next[kGates] = {};
    if (mine && sequence.length > 0) load_gates(of_gates.at(0), H, next);
    block.sync_cluster();

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      float gates[kGates];
#pragma unroll
      for (int g = 0; g < kGates; ++g) gates[g] = next[g] + bias[g];
      if (mine && step + 1 < sequence.length) load_gates(of_gates.after(step), H, next);

      const int from = step % 2 * NB * HB, to = NB * HB - from;
      float sum[kGates][NB] = {};
#pragma unroll
      for (int j = 0; j < kShare; j += 2) {
        float even[kGates], odd[kGates];
        weights.four(block, smem.weights, j * kGates, even);
        weights.four(block, smem.weights, (j + 1) * kGates, odd);
#pragma unroll
        for (int r = 0; r < NB; ++r) {
          float pair[2];
          smem.h.load2(from + r * HB + 2 * (j / 2 * L + q), pair);
#pragma unroll
          for (int g = 0; g < kGates; ++g) {
            sum[g][r] = M::fma(even[g], pair[0], sum[g][r]);
            sum[g][r] = M::fma(odd[g], pair[1], sum[g][r]);
          }
        }
      }
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        spread_sum<L>(block, sum[g], q);
        gates[g] += sum[g][0];
      }

      const bool runs = mine && step < sequence.length;
      if (runs) {
        activate<M>(gates);
        cell_forward<M>(gates, c, c, h);
      }
      if (owner) {
#pragma unroll
        for (int peer = 0; peer < CL; ++peer) block.store_peer(peer, smem.h, to + row * HB + unit, h);
      }
      block.sync_cluster();
      // After the barrier, which would otherwise wait for these stores.
      if (runs) {
        store(of_output.at(step), narrow<T>(h));
        if (of_cells.exists()) {
          store(of_cells.at(step), c);
          T* const to_gates = of_gates.at(step);
#pragma unroll
          for (int g = 0; g < kGates; ++g) store(to_gates + g * H, narrow<T>(gates[g]));
          of_cells.forward();
        }
        of_gates.forward();
        of_output.forward();
      }
    }
    if (mine) {
      store(p.h_n + state, narrow<T>(h));
      store(p.c_n + state, narrow<T>(c));
    }
  }

 private:
  static SEAM_KERNEL void load_gates(const T* at, int H, float (&gates)[kGates]) {
#pragma unroll
    for (int g = 0; g < kGates; ++g) gates[g] = widen(load(at + g * H));
  }
};

// ---- Backward -------------------------------------------------------------------------------------------------------

// A block has the gates of its units, and forms the part of the gradient of all hidden units that comes from them; each
// block then adds up the parts of all blocks for its units. That is a quarter of the traffic of exchanging the gates'
// gradients.
template <class T, int HB, int CL, int L, int NB>
struct RecurrentBackward {
  static constexpr int kUnits = HB / CL, kThreads = kUnits * L, kCluster = CL;
  static constexpr bool kHeldWalk = HB <= 64;              // as forward
  static constexpr int kLanes = kThreads / HB;             // lanes that share the sum of a hidden unit
  static constexpr int kShare = kGates * kUnits / kLanes;  // gates whose products a lane forms
  static_assert(NB <= L && kThreads % HB == 0 && kShare % 4 == 0 && kThreads % 32 == 0);
  using Params = BackwardParams<T>;
  using Held = Weights<kShare, kThreads>;
  struct Smem {
    typename Held::Smem weights;
    Shared<float, NB * kGates * kUnits> d_gates;    // [row, unit, gate]
    Shared<float, 2 * CL * NB * kUnits> passed_on;  // to this block's units, [step % 2, from block, row, unit]
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    tile(block, smem, p, p.sequences, block.index());
  }

  // Tile `number` of the sequences `s`, which are those of `p` or others for its tensors. All blocks of the cluster
  // must have passed a barrier since `smem` was last used.
  template <class B>
  static SEAM_KERNEL void tile(const B& block, Smem& smem, const Params& p, const Sequences& s, int64_t number) {
    using M = Arithmetic<T>;
    const int H = int(p.hidden), first_unit = block.rank() * kUnits;

    // This thread's part of the products: hidden unit `column`, and every kLanes-th of the groups of four gates.
    const int column = block.thread() / kLanes, part = block.thread() % kLanes;
    Held weights;
    const Weight<T> weight(p.weight_hh);
    weights.load(block, smem.weights, [&](int j) {
      const int unit = first_unit + j / 4 * kLanes + part;
      return unit < H && column < H ? weight.effective(int64_t(j % 4 * H + unit) * H + column) : 0.0f;
    });

    // The cell of this thread: unit `unit` of the sequence in row `row` of the tile.
    const int q = block.thread() % L, unit_here = block.thread() / L, unit = first_unit + unit_here;
    const int64_t first = number * NB;
    const int row = Spread<L, NB>::first(q), steps = tile_steps<NB>(s, first);
    const Sequence sequence = sequence_at(s, first + row);
    const int length = sequence.length;
    const bool owner = Spread<L, NB>::owns(q), mine = owner && unit < H && sequence.exists;
    const int64_t state = sequence.index * p.hidden + unit;
    float d_h = mine && p.grad_h_n ? widen(load(p.grad_h_n + state)) : 0.0f;
    float d_c = mine && p.grad_c_n ? widen(load(p.grad_c_n + state)) : 0.0f;
    const int last = length > 0 ? length - 1 : 0;
    CellWalk<T, kHeldWalk> of_cell(p, s, sequence, last, unit);
    Walk<T, kHeldWalk> of_d_gates(p.d_gates, s, sequence, last, unit);
    CellBefore next = {};
    if (mine && steps > 0 && length == steps) next = of_cell.load_and_go_back(p, steps - 1, state);
    CellWaiting<M> cell(next);
    block.sync_cluster();

#pragma unroll 1
    for (int step = steps - 1; step >= 0; --step) {
      const int here = step % 2 * CL * NB * kUnits;
      const bool runs = mine && step < length;
      CellGradient<M> d = {};
      if (runs) {
        if (step < length - 1) d_h = passed_on(smem, CL * NB * kUnits - here, row, unit_here);
        d = cell.backward(d_h, d_c);
        d_c = d.c_prev;
      }
      if (owner) smem.d_gates.store4((row * kUnits + unit_here) * kGates, d.gates);
      block.sync();
      // After what other threads wait for.
      if (mine && 0 < step && step <= length) next = of_cell.load_and_go_back(p, step - 1, state);
      if (runs) {
        T* const to = of_d_gates.at(step);
#pragma unroll
        for (int g = 0; g < kGates; ++g) store(to + g * H, narrow<T>(d.gates[g]));
        of_d_gates.backward();
      }

      float sum[4][NB] = {};  // four independent chains of additions
#pragma unroll
      for (int j = 0; j < kShare; j += 4) {
        float w[kGates];
        weights.four(block, smem.weights, j, w);
#pragma unroll
        for (int r = 0; r < NB; ++r) {
          float gates[kGates];
          smem.d_gates.load4((r * kUnits + j / 4 * kLanes + part) * kGates, gates);
#pragma unroll
          for (int g = 0; g < kGates; ++g) sum[g][r] = M::fma(w[g], gates[g], sum[g][r]);
        }
      }
      float total[NB];
#pragma unroll
      for (int r = 0; r < NB; ++r) total[r] = (sum[0][r] + sum[1][r]) + (sum[2][r] + sum[3][r]);
      using Mine = Spread<kLanes, NB>;
      spread_sum<kLanes>(block, total, part);
      if (Mine::owns(part)) {
#pragma unroll
        for (int r = 0; r < Mine::kEach; ++r) {
          const int at = here + (block.rank() * NB + Mine::first(part) + r) * kUnits + column % kUnits;
          block.store_peer(column / kUnits, smem.passed_on, at, total[r]);
        }
      }
      cell = CellWaiting<M>(next);
      block.sync_cluster();
    }
    if (mine && length > 0) d_h = passed_on(smem, 0, row, unit_here);
    if (mine && p.grad_h_0) store(p.grad_h_0 + state, narrow<T>(d_h));
    if (mine && p.grad_c_0) store(p.grad_c_0 + state, narrow<T>(d_c));
  }

 private:
  static SEAM_KERNEL float passed_on(const Smem& smem, int from, int row, int unit_here) {
    float sum = smem.passed_on.load(from + row * kUnits + unit_here);
#pragma unroll
    for (int peer = 1; peer < CL; ++peer) sum += smem.passed_on.load(from + (peer * NB + row) * kUnits + unit_here);
    return sum;
  }
};

}  // namespace seam::gpu

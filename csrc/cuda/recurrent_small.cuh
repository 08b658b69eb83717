// The recurrence of small layers: all steps of one or two sequences by one block, two lanes per hidden unit. Tensors
// are float32 or of 16 bits, the arithmetic is float32: with so few units tensor cores would not make a step shorter.
//
// A step is a chain of dependent work (products, activations, a barrier), and the latency of that chain is the time of
// a step. So everything else is kept off it: weights are in registers; what a step reads from global memory is loaded
// two steps ahead, and its stores are issued after the next step's first loads; activations have no branches; a second
// sequence takes more registers of the same threads, and its work fills the stalls of the first.
//
// HB: hidden units, rounded up (the rest are zero). S: sequences of a block; with two, each lane of a unit keeps the
// cell of one of them. Both are compile-time constants, because registers cannot be indexed.
//
// One file of 500 lines, because forward and backward divide registers and lanes in the same way.
#pragma once

#include <type_traits>

#include "block.cuh"
#include "common/lstm_cell.h"
#include "predicated.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

// ---- W_hh on its way into registers ---------------------------------------------------------------------------------

// The masked W_hh in shared memory, (4H, H) with `kPitch` numbers per row, from where each thread loads its weights. It
// is read from global memory in memory order, 16 bytes at a time: if each thread loaded its own rows from there, that
// would take as long as 20 to 60 steps.
template <class T, int HB, int Threads, int Pitch>
struct StagedWeights {
  static constexpr int kPitch = Pitch;
  static_assert(Pitch >= HB && Pitch % 4 == 0);
  Shared<float, (kGates * HB + 1) * Pitch> rows;

  template <class B>
  SEAM_KERNEL void fill(const B& block, const MaskedNumbers& weight_hh, int H) {
    for (int row = block.thread(); row < kGates * H; row += Threads) {
      for (int column = H; column < HB; ++column) rows.store(row * Pitch + column, 0.0f);
    }
    for (int column = block.thread(); column < HB; column += Threads) rows.store(kGates * H * Pitch + column, 0.0f);
    const T* const weight = static_cast<const T*>(weight_hh.weight);
    const T* const score = static_cast<const T*>(weight_hh.score ? weight_hh.score : weight_hh.weight);
    if (is_aligned(weight) && is_aligned(score)) copy<true>(block, weight, score, weight_hh.score != nullptr, H);
    else copy<false>(block, weight, score, weight_hh.score != nullptr, H);
    block.sync();
  }

  // Where the weights of a unit's gate begin; those of a unit that the layer does not have are all zero.
  static SEAM_KERNEL int row(int gate, int unit, int H) { return (unit < H ? gate * H + unit : kGates * H) * Pitch; }

 private:
  struct alignas(4 * sizeof(T)) Four {
    T number[4];
  };
  static SEAM_KERNEL bool is_aligned(const T* at) { return reinterpret_cast<uintptr_t>(at) % sizeof(Four) == 0; }

  template <bool Aligned, class B>
  SEAM_KERNEL void copy(const B& block, const T* weight, const T* score, bool masked, int H) {
    constexpr int kAtOnce = 10,
                  kFurther =
                      4 * Threads;  // loads in flight per thread, of four numbers each; the distance between them
    const int groups = H * H, ahead = kFurther / H * Pitch + kFurther % H;
    int column = 4 * block.thread() % H, to = 4 * block.thread() / H * Pitch + column;  // of the next group
#pragma unroll 1
    for (int first = block.thread(); first < groups; first += kAtOnce * Threads) {
      Four w[kAtOnce], s[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * Threads, there = 4 * (i < groups ? i : first);
        w[k] = four<Aligned>(weight + there);
        s[k] = four<Aligned>(score + there);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const bool exists = first + k * Threads < groups;
        int at = to, in_row = column;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float weight = widen(w[k].number[e]),
                      score = widen(s[k].number[e]);  // both are loaded, without a branch
          if (exists) rows.store(at, int(score > 0) | int(!masked) ? weight : 0.0f);
          const bool ends = ++in_row == H;
          at += ends ? Pitch - H + 1 : 1;
          in_row = ends ? 0 : in_row;
        }
        column += kFurther % H;
        to += column < H ? ahead : ahead + Pitch - H;
        column -= column < H ? 0 : H;
      }
    }
  }
  template <bool Aligned>
  static SEAM_KERNEL Four four(const T* at) {
    if constexpr (Aligned) return load(reinterpret_cast<const Four*>(at));
    else return {{load(at), load(at + 1), load(at + 2), load(at + 3)}};
  }
};

// Two lanes per unit.
template <int HB>
struct SmallBlock {
  static_assert(HB % 4 == 0);
  static constexpr int kCluster = 1, kThreads = (2 * HB + 31) / 32 * 32;
  static constexpr int kUnits = kThreads / 2;  // units that there are lanes for
};

// One number per step of a sequence in global memory; a step may also be after its end or before its first one.
template <class T>
struct StepWalk {
  T* at;
  int64_t stride;
  template <class From>
  SEAM_KERNEL StepWalk(const StridedView<From>& rows, const Sequence& sequence, int offset, int step, int direction = 1)
      : at(rows.at(sequence.at(step)) + offset),
        stride(rows.time_stride * (sequence.reverse ? -direction : direction)) {}
  SEAM_KERNEL void go_on() { at += stride; }
};

// Calls step(parity, i) for i from 0 to count - 1. The parity of i is a compile-time constant, so that it can select
// registers.
template <int N>
struct Constant {
  static constexpr int value = N;
};
template <class Step>
SEAM_KERNEL void by_turns(int count, const Step& step) {
#pragma unroll 1
  for (int i = 0; i < count; i += 2) {
    step(Constant<0>{}, i);
    if (i + 1 == count) break;
    step(Constant<1>{}, i + 1);
  }
}

// ---- Forward --------------------------------------------------------------------------------------------------------

template <class T, int HB, int S>
struct SmallForward : SmallBlock<HB> {
  static constexpr bool kMayBeBatched = std::is_same_v<T, float>;  // in launches of several calls, see block.cuh
  using SmallBlock<HB>::kThreads;
  using SmallBlock<HB>::kUnits;
  static_assert(S == 1 || S == 2);
  static constexpr int kShare = HB / 2;     // hidden units whose products a lane forms, for the four gates of its unit
  static constexpr int kFours = HB / 8;     // of these in groups of four; two more may follow
  static constexpr int kChains = 4 / S;     // independent sums of a gate
  static constexpr int kOwn = 4 / (3 - S);  // gates for which a lane adds the input projection, and which it stores
  using Params = ForwardParams<T>;
  struct Smem {
    // So that the quarters of a warp, four units of two lanes each, read 16 bytes per lane without bank conflicts.
    StagedWeights<T, HB, kThreads, (HB + 7) / 8 * 8 + ((HB + 7) / 8 % 2 ? 0 : 8)> weights;
    Shared<float, 2 * S * kUnits> h;  // of the previous and of this step, [step % 2, sequence, unit]
  };

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    using M = BranchlessGates<true>;
    const int H = int(p.hidden), half = block.thread() % 2, unit = block.thread() / 2;
    smem.weights.fill(block, p.weight_hh, H);
    float weights[kGates][kShare];
#pragma unroll
    for (int g = 0; g < kGates; ++g) load_share(smem.weights.rows, smem.weights.row(g, unit, H), half, weights[g]);

    const int row = S == 1 ? 0 : half;  // the sequence whose cell this lane keeps
    const int64_t first = block.index() * S;
    const Sequence sequence = sequence_at(p.sequences, first + row);
    const bool mine = sequence.exists && unit < H;
    const int steps = tile_steps<S>(p.sequences, first), length = mine ? sequence.length : 0;
    const int64_t state = sequence.index * p.hidden + unit;
    float h = mine && p.h_0 ? widen(load(p.h_0 + state)) : 0.0f, c = mine && p.c_0 ? widen(load(p.c_0 + state)) : 0.0f;
    if (half == row) smem.h.store(row * kUnits + unit, h);

    // With one sequence both lanes have the same cell: one handles the gates i and f and stores h, the other g, o and
    // c, in float32 by the same instruction.
    constexpr bool kSameStore = S == 1 && std::is_same_v<T, float>;
    const bool upper = S == 1 && half == 1;
    const int first_gate = S == 1 ? 2 * half : 0;
    const int saved = p.cells.data ? length : 0, end = mine ? length : -1;
    // The number of steps for which a lane stores h and c, or that of the two which is its own.
    const int kept_h = !upper ? length : kSameStore ? saved : 0, kept_c = S == 1 && !upper ? 0 : saved;
    StepWalk<const T> input(p.gates, sequence, first_gate * H + unit, 0);
    StepWalk<T> gates(p.gates, sequence, first_gate * H + unit, -1), output(p.output, sequence, unit, -1);
    StepWalk<float> cells(p.cells, sequence, unit, -1);
    T* last = p.h_n + state;
    if constexpr (kSameStore) {
      if (upper) output = cells, last = p.c_n + state;
    }
    const T zero = narrow<T>(0.0f);
    float bias[kOwn];
    T fetched[2][kOwn];
#pragma unroll
    for (int g = 0; g < kOwn; ++g) {
      const int at = (first_gate + g) * H + unit;
      bias[g] = unit < H ? effective<T>(p.bias_ih, at) + effective<T>(p.bias_hh, at) : 0.0f;
    }
    const auto fetch = [&](int step, T(&to)[kOwn]) {
#pragma unroll
      for (int g = 0; g < kOwn; ++g) to[g] = load_if(step < length, input.at + g * H, zero);
      input.go_on();
    };
    fetch(0, fetched[0]);
    fetch(1, fetched[1]);
    block.sync();

    float activated[kGates] = {};
    // Stores the results of step done - 1 and, if that was the sequence's last step, h_n and c_n.
    const auto put_away = [&](int done) {
      const T state_here = narrow<T>(kSameStore && upper ? c : h);
      store_if(unsigned(done - 1) < unsigned(kept_h), output.at, state_here);
      if (!kSameStore) store_if(unsigned(done - 1) < unsigned(kept_c), cells.at, c);
#pragma unroll
      for (int g = 0; g < kOwn; ++g) {
        const float gate = upper ? activated[kGates - kOwn + g] : activated[g];
        store_if(unsigned(done - 1) < unsigned(saved), gates.at + g * H, narrow<T>(gate));
      }
      store_if(done == end && (kSameStore || !upper), last, state_here);
      if (!kSameStore) store_if(done == end && (S == 2 || upper), p.c_n + state, narrow<T>(c));
      gates.go_on();
      output.go_on();
      if (!kSameStore) cells.go_on();
    };

    by_turns(steps, [&](auto parity, int step) {
      constexpr int kNow = decltype(parity)::value, kFrom = kNow * S * kUnits, kTo = (1 - kNow) * S * kUnits;
      // Index s = 0: the sequence whose cell this lane keeps; 1: the other one.
      float share[S][kShare], sum[S][kGates][kChains] = {};
#pragma unroll
      for (int s = 0; s < S; ++s) load_share(smem.h, kFrom + (s ^ row) * kUnits, half, share[s]);
      put_away(step);
#pragma unroll
      for (int g = 0; g < kOwn; ++g) {
        const float x = widen(fetched[kNow][g]) + bias[g];
        if (S == 2) {
          sum[0][g][0] = x;
        } else {
          sum[0][g][0] = half == 0 ? x : 0.0f;
          sum[0][kGates - kOwn + g][0] = half == 0 ? 0.0f : x;
        }
      }
      fetch(step + 2, fetched[kNow]);
#pragma unroll
      for (int j = 0; j < kShare; ++j) {
#pragma unroll
        for (int s = 0; s < S; ++s) {
#pragma unroll
          for (int g = 0; g < kGates; ++g)
            sum[s][g][j % kChains] = M::fma(weights[g][j], share[s][j], sum[s][g][j % kChains]);
        }
      }
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        const float other = total(sum[S - 1][g]), own = S == 1 ? other : total(sum[0][g]);
        activated[g] = own + block.shuffle_xor(other, 1);
      }
      activate<M>(activated);
      cell_forward<M>(activated, c, c, h);
      if (half == row) smem.h.store(kTo + row * kUnits + unit, h);
      block.sync();
    });
    put_away(steps);
  }

 private:
  static SEAM_KERNEL float total(const float (&sum)[kChains]) {
    if constexpr (kChains == 4) return (sum[0] + sum[1]) + (sum[2] + sum[3]);
    else return sum[0] + sum[1];
  }
  // A lane's half of a row of HB numbers: every other group of four.
  template <class Rows>
  static SEAM_KERNEL void load_share(const Rows& rows, int row, int half, float (&to)[kShare]) {
#pragma unroll
    for (int j = 0; j < kFours; ++j) {
      float four[4];
      rows.load4(row + 4 * half + 8 * j, four);
#pragma unroll
      for (int e = 0; e < 4; ++e) to[4 * j + e] = four[e];
    }
    if constexpr (kShare % 4 == 2) {
      float two[2];
      rows.load2(row + 2 * half + 8 * kFours, two);
      to[kShare - 2] = two[0];
      to[kShare - 1] = two[1];
    }
  }
};

// ---- Backward -------------------------------------------------------------------------------------------------------

// What was saved of a step, in its own type: to widen it at once would wait for the load.
template <class T>
struct SavedStep {
  T gates[kGates], grad_output;
  float c;
};
// The factors of its gradients, as in lstm_cell.h: dc += dh a, then d c_prev = dc forget and d gates = gates times dc
// (o: dh). That of f still lacks c_prev, which is loaded later.
template <int N>
struct Factors {
  float a, forget, gates[N];
};

template <int N, class M>
SEAM_KERNEL Factors<N> factors_of_cell(float f, float o, float tanh_c) {
  return {M::fma(-o * tanh_c, tanh_c, o), f, {}};
}
// Of the gates i, g, f, o.
template <class M>
SEAM_KERNEL Factors<kGates> all_factors(float i, float f, float g, float o, float c) {
  const float t = M::tanh(c);
  Factors<kGates> factors = factors_of_cell<kGates, M>(f, o, t);
  factors.gates[0] = g * M::fma(-i, i, i);
  factors.gates[1] = i * M::fma(-g, g, 1.0f);
  factors.gates[2] = M::fma(-f, f, f);
  factors.gates[3] = t * M::fma(-o, o, o);
  return factors;
}
template <class M, class T>
SEAM_KERNEL Factors<kGates> all_factors(const SavedStep<T>& saved) {
  return all_factors<M>(widen(saved.gates[0]), widen(saved.gates[1]), widen(saved.gates[2]), widen(saved.gates[3]),
                        saved.c);
}
// i and g in one of two lanes, f and o in the other.
template <class M, class T>
SEAM_KERNEL Factors<2> half_of_factors(const SavedStep<T>& saved, int half) {
  const float i = widen(saved.gates[0]), f = widen(saved.gates[1]), g = widen(saved.gates[2]),
              o = widen(saved.gates[3]);
  const float t = M::tanh(saved.c);
  Factors<2> factors = factors_of_cell<2, M>(f, o, t);
  const float x = half == 0 ? i : f, y = half == 0 ? g : o;
  factors.gates[0] = (half == 0 ? g : 1.0f) * M::fma(-x, x, x);
  factors.gates[1] = (half == 0 ? i : t) * M::fma(-y, y, half == 0 ? 1.0f : y);
  return factors;
}

// Eight lanes, those of four units, form the gradient that these get from all gates: each takes an eighth of the gates,
// then the lanes add their sums up, until each pair has the sum of its own unit.
//
// These eight are every fourth lane of a warp, because shared memory is read at full speed if the lanes that read the
// same 16 bytes are adjacent.
template <class T, int HB, int S>
struct SmallBackward : SmallBlock<HB> {
  static constexpr bool kMayBeBatched = std::is_same_v<T, float>;  // in launches of several calls, see block.cuh
  using SmallBlock<HB>::kThreads;
  using SmallBlock<HB>::kUnits;
  static_assert(S == 1 || S == 2);
  static constexpr int kFour = 4, kLanes = 2 * kFour,
                       kShare = (HB + kLanes - 1) / kLanes;  // units whose gates a lane takes
  using Params = BackwardParams<T>;
  struct Smem {
    // So that the quarters of a warp, two rows of four units each, read 16 bytes per lane without bank conflicts.
    StagedWeights<T, HB, kThreads, (HB + 15) / 32 * 32 + 16> weights;
    Shared<float, 2 * S * kUnits * kGates> d_gates;  // [step % 2, sequence, unit, gate], the gates as i, g, f, o
  };

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    using M = BranchlessGates<true>;
    const int H = int(p.hidden), lane = block.lane() / kFour,
              first_unit = block.warp() * 16 + block.lane() % kFour * kFour;
    const int own = lane / 2, half = lane % 2, unit = first_unit + own;
    smem.weights.fill(block, p.weight_hh, H);
    float weights[kShare][kGates][kFour];
    load_weights(smem.weights, first_unit, lane, H, weights);

    const int row = S == 1 ? 0 : half;  // the sequence whose gradients this lane keeps
    const int64_t first = block.index() * S;
    const Sequence sequence = sequence_at(p.sequences, first + row);
    const bool mine = sequence.exists && unit < H;
    const int steps = tile_steps<S>(p.sequences, first), length = mine ? sequence.length : 0;
    const int64_t state = sequence.index * p.hidden + unit;
    const float end_h = mine && p.grad_h_n ? widen(load(p.grad_h_n + state)) : 0.0f;
    const float end_c = mine && p.grad_c_n ? widen(load(p.grad_c_n + state)) : 0.0f;
    const float c_0 = mine && p.c_0 && length > 0 ? widen(load(p.c_0 + state)) : 0.0f;
    const int graded = p.grad_output.data ? length : 0;
    const float zeros[kGates] = {};
    for (int i = block.thread(); i < 2 * S * kUnits; i += kThreads) smem.d_gates.store4(i * kGates, zeros);

    StepWalk<const T> gates(p.gates, sequence, unit, steps - 1, -1);
    StepWalk<const float> cells(p.cells, sequence, unit, steps - 1, -1);
    StepWalk<const T> grad_output(p.grad_output, sequence, unit, steps - 1, -1);
    StepWalk<T> d_gates(p.d_gates, sequence, (S == 1 ? half * H : 0) + unit, steps - 1, -1);
    // Zeros at steps that the sequence does not have: after its end and before its first step.
    const T zero = narrow<T>(0.0f);
    const auto fetch = [&](int step, SavedStep<T>& saved) {
      const bool ran = unsigned(step) < unsigned(length);
#pragma unroll
      for (int g = 0; g < kGates; ++g) saved.gates[g] = load_if(ran, gates.at + g * H, zero);
      saved.c = load_if(ran, cells.at, step < 0 ? c_0 : 0.0f);
      saved.grad_output = load_if(unsigned(step) < unsigned(graded), grad_output.at, zero);
      gates.go_on();
      cells.go_on();
      grad_output.go_on();
    };
    SavedStep<T> saved[2];  // loads for the previous step and the one before it
    fetch(steps - 1, saved[0]);
    fetch(steps - 2, saved[1]);
    Factors<kFactors> factors = factors_of<M>(saved[0], half);
    // The gradients of a sequence's h_n and c_n are added at its last step.
    float d_h = widen(saved[0].grad_output) + (steps == length ? end_h : 0.0f), d_c = steps == length ? end_c : 0.0f;
    fetch(steps - 3, saved[0]);
    block.sync();

    by_turns(steps, [&](auto parity, int turn) {
      constexpr int kNow = decltype(parity)::value, kHere = kNow * S * kUnits * kGates;
      const int step = steps - 1 - turn;
      SavedStep<T>& before = saved[1 - kNow];
      float d[kGates];
      d_c = M::fma(d_h, factors.a, d_c);
      if constexpr (S == 1) {
        d[0] = d_c * (factors.gates[0] * (half == 0 ? 1.0f : before.c));
        d[1] = (half == 0 ? d_c : d_h) * factors.gates[1];
        if (unit < H) smem.d_gates.store2(kHere + unit * kGates + 2 * half, {d[0], d[1]});
      } else {
        d[0] = d_c * factors.gates[0];
        d[1] = d_c * factors.gates[1];
        d[2] = d_c * (factors.gates[2] * before.c);
        d[3] = d_h * factors.gates[3];
        if (unit < H) smem.d_gates.store4(kHere + (row * kUnits + unit) * kGates, d);
      }
      block.sync();

      // Index s = 0: the sequence whose cell this lane keeps; 1: the other one.
      float passed[S][kShare][kGates], sum[S][kFour][2] = {};
#pragma unroll
      for (int s = 0; s < S; ++s) {
#pragma unroll
        for (int j = 0; j < kShare; ++j) {
          const int from = (s ^ row) * kUnits + j * kLanes + lane;
          smem.d_gates.load4(kHere + from * kGates, passed[s][j]);
        }
      }
      const bool ran = step < length;
      store_if(ran, d_gates.at, narrow<T>(d[0]));
      store_if(ran, d_gates.at + 2 * H, narrow<T>(d[1]));
      if constexpr (S == 2) {
        store_if(ran, d_gates.at + H, narrow<T>(d[2]));
        store_if(ran, d_gates.at + 3 * H, narrow<T>(d[3]));
      }
      d_gates.go_on();
      const float more_h = widen(before.grad_output) + (step == length ? end_h : 0.0f);
      sum[0][0][0] = S == 2 || half == 0 ? more_h : 0.0f;
#pragma unroll
      for (int j = 0; j < kShare; ++j) {
#pragma unroll
        for (int g = 0; g < kGates; ++g) {
#pragma unroll
          for (int s = 0; s < S; ++s) {
#pragma unroll
            for (int r = 0; r < kFour; ++r) {
              sum[s][r][g % 2] = M::fma(weights[j][g][r], passed[s][j][g], sum[s][r][g % 2]);
            }
          }
        }
      }
      d_c = M::fma(d_c, factors.forget, step == length ? end_c : 0.0f);
      factors = factors_of<M>(before, half);
      fetch(step - 3, before);
      float total[S][kFour];
#pragma unroll
      for (int s = 0; s < S; ++s) {
#pragma unroll
        for (int r = 0; r < kFour; ++r) total[s][r] = sum[s][r][0] + sum[s][r][1];
#pragma unroll
        for (int r = 0; r < 2; ++r) total[s][r] += block.shuffle_xor(total[s][r + 2], 4 * kFour);
        total[s][0] += block.shuffle_xor(total[s][1], 2 * kFour);
      }
      d_h = total[0][0] + block.shuffle_xor(total[S - 1][0], kFour);
      if (S == 2) d_h = step < length ? d_h : more_h;  // a NaN or inf weight must not reach a step that does not exist
    });
    if (mine && half == row) {
      if (p.grad_h_0) store(p.grad_h_0 + state, narrow<T>(d_h));
      if (p.grad_c_0) store(p.grad_c_0 + state, narrow<T>(d_c));
    }
  }

 private:
  static constexpr int kFactors = S == 1 ? 2 : kGates;
  template <class M>
  static SEAM_KERNEL Factors<kFactors> factors_of(const SavedStep<T>& saved, int half) {
    if constexpr (S == 1) return half_of_factors<M>(saved, half);
    else return all_factors<M>(saved);
  }

  // Index r of a lane: the sum for unit r ^ own of its four, so that index 0 is the unit of the lane itself.
  template <class Weights>
  static SEAM_KERNEL void load_weights(const Weights& from, int column, int lane, int H,
                                       float (&to)[kShare][kGates][kFour]) {
    constexpr int kOrder[kGates] = {0, 2, 1, 3};
    const int own = lane / 2;
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      const int unit = column < HB ? j * kLanes + lane : H;  // lanes of units that do not exist take zeros
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        float four[kFour];
        from.rows.load4(from.row(kOrder[g], unit, H) + (column < HB ? column : 0), four);
#pragma unroll
        for (int r = 0; r < kFour; ++r) {
          const float low = own & 1 ? four[r ^ 1] : four[r], high = own & 1 ? four[r ^ 3] : four[r ^ 2];
          to[j][g][r] = own & 2 ? high : low;
        }
      }
    }
  }
};

}  // namespace seam::gpu

// The recurrence of layers of 65 to 128 hidden units in float32: like that of small layers (recurrent_small.cuh), but
// by a cluster of four blocks, each of which has the weights of 32 units in registers. What the other blocks need of a
// step, hidden states forward and the gates' gradients backward, is sent into their shared memory as messages
// (messages.cuh). A block waits for those of all units, its own included, and for nothing else: there is no barrier in
// the loop.
//
// Double buffering makes sure that nothing is overwritten while it is still read: a warp sends its part of a step after
// it has read the previous one, so whoever has received the parts of all warps may send for the next step.
//
// S: sequences of a cluster. Four lanes have a unit; with two sequences each pair of lanes keeps the cell of one.
#pragma once

#include "common/lstm_cell.h"
#include "messages.cuh"
#include "predicated.cuh"
#include "recurrent_small.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

constexpr int kClusterUnits = 128;

template <int S>
struct ClusterBlock {
  static_assert(S == 1 || S == 2);
  static constexpr int kCluster = 4, kThreads = 128, kUnits = kClusterUnits / kCluster;  // units of a block
  static constexpr int kPart = 4 / S;  // lanes with the same cell: each stores S of the gates, and sends to S blocks
};

// Masked weights in shared memory, from where threads load their own: `kRows` times `kColumns`, zeros where the layer
// has none.
template <int Rows, int Columns, int Pitch>
struct StagedPart {
  static constexpr int kPitch = Pitch;
  Shared<float, Rows * Pitch> rows;

  // from(i): where row i begins in weight_hh, negative if there is no such row; `columns`: how many columns exist.
  template <class B, class From>
  SEAM_KERNEL void fill(const B& block, const MaskedNumbers& weight_hh, int columns, const From& from) {
    constexpr int kAtOnce = 8, kWarps = ClusterBlock<1>::kThreads / 32, kEach = Columns / 32;
    const Weight<float> weight(weight_hh);
#pragma unroll 1
    for (int first = block.warp(); first < Rows; first += kAtOnce * kWarps) {
      float of_row[kAtOnce][kEach];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t at = from(first + k * kWarps);
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
          const int column = block.lane() + 32 * e;
          of_row[k][e] = at >= 0 && column < columns ? weight.effective(at + column) : 0.0f;
        }
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
          rows.store((first + k * kWarps) * Pitch + block.lane() + 32 * e, of_row[k][e]);
        }
      }
    }
    block.sync();
  }
};

// ---- Forward --------------------------------------------------------------------------------------------------------

template <int S>
struct ClusterForward : ClusterBlock<S> {
  static constexpr bool kMayBeBatched = true;  // in launches of several calls, see block.cuh
  using Base = ClusterBlock<S>;
  using Base::kCluster;
  using Base::kPart;
  using Base::kThreads;
  using Base::kUnits;
  static constexpr int kLanes = 4, kShare = kClusterUnits / kLanes, kChains = S == 1 ? 2 : 1;
  using Params = ForwardParams<float>;
  struct Smem {
    StagedPart<kGates * kUnits, kClusterUnits, kClusterUnits + 4>
        weights;                             // [gate, unit]; adjacent units in different banks
    Shared<float, 2 * S * kClusterUnits> h;  // [step % 2, sequence, unit]
    Arrivals arrivals[2];
  };

  static SEAM_KERNEL void run(const BlockOf<kCluster>& block, Smem& smem, const Params& p) {
    using M = BranchlessGates<true>;
    constexpr int kBytes = S * kClusterUnits * int(sizeof(float));  // of a step's hidden states
    const int H = int(p.hidden), first_unit = block.rank() * kUnits;
    // Lanes that read the same 16 bytes of h are adjacent.
    const int l = block.lane() / 8, unit = first_unit + block.warp() * 8 + block.lane() % 8;
    const int row = S == 1 ? 0 : l / 2,
              part = l % kPart;  // the sequence whose cell this lane keeps; its index among the lanes of that cell
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    smem.weights.fill(block, p.weight_hh, H, [&](int i) {
      const int of = first_unit + i % kUnits;
      return of < H ? int64_t(i / kUnits * H + of) * H : int64_t(-1);
    });
    float weights[kGates][kShare];
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      load_share(smem.weights.rows, (g * kUnits + unit - first_unit) * smem.weights.kPitch, l, weights[g]);
    }

    const int64_t first = block.index() * S;
    const Sequence sequence = sequence_at(p.sequences, first + row);
    const bool mine = sequence.exists && unit < H;
    const int steps = tile_steps<S>(p.sequences, first), length = mine ? sequence.length : 0;
    const int64_t state = sequence.index * p.hidden + unit;
    float h = mine && p.h_0 ? load(p.h_0 + state) : 0.0f, c = mine && p.c_0 ? load(p.c_0 + state) : 0.0f;
    for (int i = block.thread(); i < S * kClusterUnits; i += kThreads) {  // what the first step reads
      const Sequence of = sequence_at(p.sequences, first + i / kClusterUnits);
      const int k = i % kClusterUnits;
      smem.h.store(i, p.h_0 && of.exists && k < H ? load(p.h_0 + of.index * p.hidden + k) : 0.0f);
    }

    // The first lane of a cell stores h, the second one c.
    const int saved = p.cells.data ? length : 0, kept = part == 0   ? length
                                                        : part == 1 ? saved
                                                                    : 0;  // steps for which it stores
    const int end = mine && part < 2 ? length : -1;
    StepWalk<const float> input(p.gates, sequence, S * part * H + unit, 0);
    StepWalk<float> gates(p.gates, sequence, S * part * H + unit, -1);
    StepWalk<float> states(p.output, sequence, unit, -1);
    if (part == 1) states = StepWalk<float>(p.cells, sequence, unit, -1);
    float* const last = (part == 0 ? p.h_n : p.c_n) + state;
    float bias[S], fetched[2][S] = {};
#pragma unroll
    for (int g = 0; g < S; ++g) {
      const int at = (S * part + g) * H + unit;
      bias[g] = unit < H ? effective<float>(p.bias_ih, at) + effective<float>(p.bias_hh, at) : 0.0f;
    }
    const auto fetch = [&](int step, float (&to)[S]) {
#pragma unroll
      for (int g = 0; g < S; ++g) to[g] = load_if(step < length, input.at + g * H, 0.0f);
      input.go_on();
    };
    fetch(0, fetched[0]);
    fetch(1, fetched[1]);
    block.sync_cluster();

    float activated[kGates] = {};
    // Stores the results of step done - 1 and, if that was the sequence's last step, h_n and c_n.
    const auto put_away = [&](int done) {
      const float of_state = part == 0 ? h : c;
      store_if(unsigned(done - 1) < unsigned(kept), states.at, of_state);
#pragma unroll
      for (int g = 0; g < S; ++g) {
        float gate = activated[g];
#pragma unroll
        for (int k = 1; k < kPart; ++k) gate = part == k ? activated[S * k + g] : gate;
        store_if(unsigned(done - 1) < unsigned(saved), gates.at + g * H, gate);
      }
      store_if(done == end, last, of_state);
      gates.go_on();
      states.go_on();
    };

    by_turns(steps, [&](auto parity, int step) {
      constexpr int kNow = decltype(parity)::value, kFrom = kNow * S * kClusterUnits,
                    kTo = (1 - kNow) * S * kClusterUnits;
      if (step > 0) {
        const int round = (step - 1) / 2;  // the first step's h came without messages
        smem.arrivals[kNow].wait(round);
        if (block.thread() == 0) smem.arrivals[kNow].arm(kBytes);
      }
      // Index s = 0: the sequence whose cell this lane keeps; 1: the other one.
      float share[S][kShare], sum[S][kGates][kChains] = {};
#pragma unroll
      for (int s = 0; s < S; ++s) load_share(smem.h, kFrom + (s ^ row) * kClusterUnits, l, share[s]);
      put_away(step);
#pragma unroll
      for (int g = 0; g < S; ++g) {
        const float x = fetched[kNow][g] + bias[g];
#pragma unroll
        for (int k = 0; k < kPart; ++k) sum[0][S * k + g][0] = part == k ? x : 0.0f;
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
        const float other = sum[S - 1][g][0] + (kChains == 2 ? sum[S - 1][g][kChains - 1] : 0.0f);
        float all = (S == 1 ? other : sum[0][g][0]) + block.shuffle_xor(other, 16);
        all += block.shuffle_xor(all, 8);
        activated[g] = all;
      }
      activate<M>(activated);
      cell_forward<M>(activated, c, c, h);
      if (step + 1 < steps) {  // a block at its last step waits for no more messages, and may have ended
#pragma unroll
        for (int k = 0; k < S; ++k) {
          send(block, part * S + k, smem.h, kTo + row * kClusterUnits + unit, h, smem.arrivals[1 - kNow]);
        }
      }
    });
    put_away(steps);
  }

 private:
  // A lane's quarter of a row: every fourth group of four.
  template <class Rows>
  static SEAM_KERNEL void load_share(const Rows& rows, int row, int l, float (&to)[kShare]) {
#pragma unroll
    for (int j = 0; j < kShare; j += 4) {
      float four[4];
      rows.load4(row + 4 * l + j * kLanes, four);
#pragma unroll
      for (int e = 0; e < 4; ++e) to[j + e] = four[e];
    }
  }
};

// ---- Backward -------------------------------------------------------------------------------------------------------

// Sixteen lanes, those of four units, form the gradient that these get from all gates.
template <int S>
struct ClusterBackward : ClusterBlock<S> {
  static constexpr bool kMayBeBatched = true;  // in launches of several calls, see block.cuh
  using Base = ClusterBlock<S>;
  using Base::kCluster;
  using Base::kPart;
  using Base::kThreads;
  using Base::kUnits;
  static constexpr int kFour = 4, kLanes = 4 * kFour, kShare = kClusterUnits / kLanes, kChains = S == 1 ? 2 : 1;
  using Params = BackwardParams<float>;
  struct Smem {
    StagedPart<kGates * kClusterUnits, kUnits, kUnits + 8> weights;  // [gate, unit] by units of this block
    Shared<float, 2 * S * kClusterUnits * kGates> d_gates;  // [step % 2, sequence, unit, gate], the gates as i, g, f, o
    Arrivals arrivals[2];
  };

  static SEAM_KERNEL void run(const BlockOf<kCluster>& block, Smem& smem, const Params& p) {
    using M = BranchlessGates<true>;
    constexpr int kBytes = S * kClusterUnits * kGates * int(sizeof(float));  // of a step's gradients
    constexpr int kOrder[kGates] = {0, 2, 1, 3};
    const int H = int(p.hidden), first_unit = block.rank() * kUnits;
    const int lane = block.lane() / 2, four_here = block.warp() * 8 + block.lane() % 2 * kFour, own = lane / kFour;
    const int unit = first_unit + four_here + own, l = lane % kFour;
    const int row = S == 1 ? 0 : l / 2,
              part = l % kPart;  // the sequence whose gradients this lane keeps; its index among the lanes of that cell
    if (block.thread() == 0) {
      smem.arrivals[0].begin(kBytes);
      smem.arrivals[1].begin(kBytes);
    }
    smem.weights.fill(block, p.weight_hh, H - first_unit, [&](int i) {
      const int of = i % kClusterUnits;
      return of < H ? int64_t(i / kClusterUnits * H + of) * H + first_unit : int64_t(-1);
    });
    // Index r: the sum for unit r ^ own of the four, so that index 0 is the lane's own unit.
    float weights[kShare][kGates][kFour];
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        float four[kFour];
        const int from = kOrder[g] * kClusterUnits + j * kLanes + lane;
        smem.weights.rows.load4(from * smem.weights.kPitch + four_here, four);
#pragma unroll
        for (int r = 0; r < kFour; ++r) {
          const float low = own & 1 ? four[r ^ 1] : four[r], high = own & 1 ? four[r ^ 3] : four[r ^ 2];
          weights[j][g][r] = own & 2 ? high : low;
        }
      }
    }

    const int64_t first = block.index() * S;
    const Sequence sequence = sequence_at(p.sequences, first + row);
    const bool mine = sequence.exists && unit < H;
    const int steps = tile_steps<S>(p.sequences, first), length = mine ? sequence.length : 0;
    const int64_t state = sequence.index * p.hidden + unit;
    const float end_h = mine && p.grad_h_n ? load(p.grad_h_n + state) : 0.0f;
    const float end_c = mine && p.grad_c_n ? load(p.grad_c_n + state) : 0.0f;
    const float c_0 = mine && p.c_0 && length > 0 ? load(p.c_0 + state) : 0.0f;
    const int graded = p.grad_output.data ? length : 0;

    StepWalk<const float> gates(p.gates, sequence, unit, steps - 1, -1), cells(p.cells, sequence, unit, steps - 1, -1);
    StepWalk<const float> grad_output(p.grad_output, sequence, unit, steps - 1, -1);
    StepWalk<float> d_gates(p.d_gates, sequence, S * part * H + unit, steps - 1, -1);
    // Zeros at steps that the sequence does not have: after its end and before its first step.
    const auto fetch = [&](int step, SavedStep<float>& saved) {
      const bool ran = unsigned(step) < unsigned(length);
#pragma unroll
      for (int g = 0; g < kGates; ++g) saved.gates[g] = load_if(ran, gates.at + g * H, 0.0f);
      saved.c = load_if(ran, cells.at, step < 0 ? c_0 : 0.0f);
      saved.grad_output = load_if(unsigned(step) < unsigned(graded), grad_output.at, 0.0f);
      gates.go_on();
      cells.go_on();
      grad_output.go_on();
    };
    SavedStep<float> saved[2];  // loads for the previous step and the one before it
    fetch(steps - 1, saved[0]);
    fetch(steps - 2, saved[1]);
    Factors<kGates> factors = all_factors<M>(saved[0]);
    // The gradients of a sequence's h_n and c_n are added at its last step.
    float d_h = saved[0].grad_output + (steps == length ? end_h : 0.0f), d_c = steps == length ? end_c : 0.0f;
    fetch(steps - 3, saved[0]);
    block.sync_cluster();

    by_turns(steps, [&](auto parity, int turn) {
      constexpr int kNow = decltype(parity)::value, kHere = kNow * S * kClusterUnits * kGates;
      const int step = steps - 1 - turn;
      SavedStep<float>& before = saved[1 - kNow];
      d_c = M::fma(d_h, factors.a, d_c);
      const float d[kGates] = {d_c * factors.gates[0], d_c * factors.gates[1], d_c * (factors.gates[2] * before.c),
                               d_h * factors.gates[3]};
#pragma unroll
      for (int k = 0; k < S; ++k) {
        const int at = kHere + (row * kClusterUnits + unit) * kGates;
        send4(block, part * S + k, smem.d_gates, at, d, smem.arrivals[kNow]);
      }
      // While the messages are in flight. The gradients may overwrite the gates, which the cell's lanes have read some
      // steps ago.
      block.sync_warp();
      const bool ran = step < length;
#pragma unroll
      for (int g = 0; g < S; ++g) {
        float gate = d[kOrder[g]];
#pragma unroll
        for (int k = 1; k < kPart; ++k) gate = part == k ? d[kOrder[S * k + g]] : gate;
        store_if(ran, d_gates.at + g * H, gate);
      }
      d_gates.go_on();
      const float more_h = before.grad_output + (step == length ? end_h : 0.0f);
      d_c = M::fma(d_c, factors.forget, step == length ? end_c : 0.0f);
      factors = all_factors<M>(before);
      fetch(step - 3, before);
      smem.arrivals[kNow].wait(turn / 2);
      if (block.thread() == 0) smem.arrivals[kNow].arm(kBytes);

      // Index s = 0: the sequence whose cell this lane keeps; 1: the other one.
      float passed[S][kShare][kGates], sum[S][kFour][kChains] = {};
#pragma unroll
      for (int s = 0; s < S; ++s) {
#pragma unroll
        for (int j = 0; j < kShare; ++j) {
          smem.d_gates.load4(kHere + ((s ^ row) * kClusterUnits + j * kLanes + lane) * kGates, passed[s][j]);
        }
      }
      sum[0][0][0] = part == 0 ? more_h : 0.0f;
#pragma unroll
      for (int j = 0; j < kShare; ++j) {
#pragma unroll
        for (int g = 0; g < kGates; ++g) {
#pragma unroll
          for (int s = 0; s < S; ++s) {
#pragma unroll
            for (int r = 0; r < kFour; ++r) {
              sum[s][r][g % kChains] = M::fma(weights[j][g][r], passed[s][j][g], sum[s][r][g % kChains]);
            }
          }
        }
      }
      float total[S][kFour];
#pragma unroll
      for (int s = 0; s < S; ++s) {
#pragma unroll
        for (int r = 0; r < kFour; ++r) total[s][r] = sum[s][r][0] + (kChains == 2 ? sum[s][r][kChains - 1] : 0.0f);
#pragma unroll
        for (int r = 0; r < 2; ++r) total[s][r] += block.shuffle_xor(total[s][r + 2], 16);
        total[s][0] += block.shuffle_xor(total[s][1], 8);
      }
      d_h = total[0][0] + block.shuffle_xor(total[S - 1][0], 4);
      d_h += block.shuffle_xor(d_h, 2);
      d_h = step < length ? d_h : more_h;  // a NaN or inf weight must not reach a step that does not exist
    });
    if (mine && part == 0) {
      if (p.grad_h_0) store(p.grad_h_0 + state, d_h);
      if (p.grad_c_0) store(p.grad_c_0 + state, d_c);
    }
  }
};

}  // namespace seam::gpu

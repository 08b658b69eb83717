// The LSTM of a small layer over one sequence, forward and backward, by four warps, with all data in shared memory, so
// that no time step waits for global memory. Two lanes have a unit; each multiplies half of the hidden state with the
// weights of all four gates, and both compute the cell, which is quicker than to divide it among them.
//
// The forward pass overwrites the gates with the factors of the backward pass, which therefore needs no activations:
//   d c_t += d h_t * dh_dc          d gate = d c_t * gate's own factor (d h_t * that of o)          d c_t-1 = d c_t * f
//
// HB: hidden units, rounded up to a multiple of 8; the weights of the rest are zero.
#pragma once

#include "block.cuh"
#include "gate_row_layout.h"

namespace seam::gpu {

struct alignas(8) Two {
  float at[2];
};
struct alignas(16) Four {
  float at[4];
};
SEAM_KERNEL Four load_four(const float* at) { return load(reinterpret_cast<const Four*>(at)); }
SEAM_KERNEL void store_four(float* at, const float (&x)[4]) {
  store(reinterpret_cast<Four*>(at), Four{{x[0], x[1], x[2], x[3]}});
}
SEAM_KERNEL void store_two(float* at, float x, float y) { store(reinterpret_cast<Two*>(at), Two{{x, y}}); }

// Where the data of a sequence is in shared memory, in floats, each a multiple of 4. There is room for kUnitStride
// units, so that each thread has an entry of its own and need not check.
struct SequenceLayout {
  int gates;    // [time, kUnitStride, 4]: W_ih x and the biases; then factors; then gradients. Zero from unit H on
  int factors;  // [time, kUnitStride, 2]: dh_dc and f
  int hidden;   // [1 + time, pitch]: the first is the initial state. From H on any finite numbers
  int pitch;
};

template <int HB>
struct SmallRecurrence {
  static constexpr int kThreads = 2 * kUnitStride, kParts = HB / 8;  // groups of four in a lane's half
  static constexpr int kGatesPitch = 4 * kUnitStride, kFactorsPitch = 2 * kUnitStride;
  static_assert(HB % 8 == 0 && HB <= kUnitStride);
  using M = BranchlessGates<false>;

  int H;

  // ---- Forward ------------------------------------------------------------------------------------------------------

  // The weights of the lane's unit: from the hidden units 8 j + 4 l, ... + 3, for the four gates.
  struct ForwardWeights {
    float w[kParts][4][4];
  };
  // four(i, w) gives four numbers of the effective weights from index i on, (HB, kUnitStride, 4): source unit,
  // destination unit, gate. Zero from H on.
  template <class Block, class Source>
  SEAM_KERNEL void load_forward(const Block& block, ForwardWeights& weights, const Source& four) const {
    const int unit = block.thread() / 2, l = block.thread() % 2;
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) four((8 * j + 4 * l + i) * kGatesPitch + 4 * unit, weights.w[j][i]);
    }
  }

  template <class Block, class Memory>
  SEAM_KERNEL void forward(const Block& block, Memory& memory, const SequenceLayout& at, int steps,
                           const ForwardWeights& weights) const {
    const int unit = block.thread() / 2, l = block.thread() % 2;
    const bool tells = unit < H && l;
    const int gates = at.gates + unit * 4, factors = at.factors + unit * 2;
    float c = 0, c_before = 0, tanh_c = 0, y[4] = {};  // y: activated gates
    float x[4];
    memory.load4(gates, x);

    // Stores the factors of step t for the backward pass: of i and f by the first lane, of g and o by the second.
    const auto leave = [&](int t) {
      const float i = y[0], f = y[1], g = y[2], o = y[3];
      const float a = l ? g : i, b = l ? o : f;
      const float first = (l ? i : g) * fmaf(-a, a, l ? 1.0f : a), second = (l ? tanh_c : c_before) * fmaf(-b, b, b);
      memory.store2(gates + t * kGatesPitch + 2 * l, {first, second});
      if (l) memory.store2(factors + t * kFactorsPitch, {fmaf(-o * tanh_c, tanh_c, o), f});
    };
    const auto step = [&](int t, bool first) {
      float h[kParts][4];
#pragma unroll
      for (int j = 0; j < kParts; ++j) memory.load4(at.hidden + t * at.pitch + 8 * j + 4 * l, h[j]);
      if (!first) leave(t - 1);  // while these loads are in flight
      float sum[4][2];           // two chains for each gate
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) sum[gate][0] = l ? 0.0f : x[gate], sum[gate][1] = 0;
      memory.load4(gates + (t + 1 < steps ? t + 1 : t) * kGatesPitch, x);
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int gate = 0; gate < 4; ++gate) {
            sum[gate][i % 2] = fmaf(weights.w[j][i][gate], h[j][i], sum[gate][i % 2]);
          }
        }
      }
      float z[4];
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) {
        z[gate] = sum[gate][0] + sum[gate][1];
        z[gate] += block.shuffle_xor(z[gate], 1);
      }
      y[2] = M::tanh(z[2]);
      y[0] = M::sigmoid(z[0]), y[1] = M::sigmoid(z[1]), y[3] = M::sigmoid(z[3]);
      c_before = c;
      c = fmaf(y[1], c, y[0] * y[2]);
      tanh_c = M::tanh(c);
      if (tells) memory.store(at.hidden + (t + 1) * at.pitch + unit, y[3] * tanh_c);
      block.sync_half();
    };

    step(0, true);
#pragma unroll 1
    for (int t = 1; t < steps; ++t) step(t, false);
    leave(steps - 1);
  }

  // ---- Backward -----------------------------------------------------------------------------------------------------

  // Eight lanes have four units: lane q the sums over the gate rows of the units q, q + 8, ... Its r-th sum is for the
  // unit r ^ (q / 2) of the four, so that in each exchange the kept and the sent sums have the same index in both
  // lanes.
  struct BackwardWeights {
    float w[4][kParts][4];  // [r, j, gate of unit q + 8 j]
  };
  template <class Block, class Source>
  SEAM_KERNEL void load_backward(const Block& block, BackwardWeights& weights, const Source& four) const {
    const int q = block.thread() % 8, group = block.thread() / 8 * 4;
    // Units from HB on have no weights, and their results are not used: any other unit's weights will do.
    const int first = group < HB ? group : 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int j = 0; j < kParts; ++j) four((first + (r ^ (q / 2))) * kGatesPitch + 4 * q + 32 * j, weights.w[r][j]);
    }
  }

  // dh: the gradient of the last hidden state, of the thread's unit, thread / 2; 0 from unit H on.
  template <class Block, class Memory>
  SEAM_KERNEL void backward(const Block& block, Memory& memory, const SequenceLayout& at, int steps, float dh,
                            const BackwardWeights& weights) const {
    const int unit = block.thread() / 2, l = block.thread() % 2, q = block.thread() % 8;
    const int gates = at.gates + unit * 4 + 2 * l, factors = at.factors + unit * 2;
    const float counts = unit < H ? 1.0f : 0.0f;
    float dc = 0, own[2], dh_dc_f[2];
    memory.load2(gates + (steps - 1) * kGatesPitch, own);
    memory.load2(factors + (steps - 1) * kFactorsPitch, dh_dc_f);
#pragma unroll 1
    for (int t = steps - 1; t >= 0; --t) {
      dc = fmaf(dh, dh_dc_f[0], dc);
      memory.store2(gates + t * kGatesPitch, {dc * own[0], (l ? dh : dc) * own[1]});
      dc *= dh_dc_f[1];
      block.sync_half();
      float d[kParts][4];
#pragma unroll
      for (int j = 0; j < kParts; ++j) memory.load4(at.gates + t * kGatesPitch + (q + 8 * j) * 4, d[j]);
      const int before = t > 0 ? t - 1 : 0;
      memory.load2(gates + before * kGatesPitch, own);
      memory.load2(factors + before * kFactorsPitch, dh_dc_f);
      float sum[4][2] = {};
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
          for (int r = 0; r < 4; ++r) sum[r][gate % 2] = fmaf(weights.w[r][j][gate], d[j][gate], sum[r][gate % 2]);
        }
      }
      float s[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) s[r] = sum[r][0] + sum[r][1];
      s[0] += block.shuffle_xor(s[2], 4);
      s[1] += block.shuffle_xor(s[3], 4);
      s[0] += block.shuffle_xor(s[1], 2);
      dh = counts * (s[0] + block.shuffle_xor(s[0], 1));
    }
  }
};

}  // namespace seam::gpu

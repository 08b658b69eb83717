// The LSTM of a small layer over one sequence, forward and back, by four warps and out of shared memory alone: no step of
// time waits for anything farther away. Two lanes have a unit; each multiplies half of the hidden state with the weights of
// all four gates, and both finish the cell, which is quicker than to divide it among them.
//
// Forward leaves in place of the gates what backward multiplies by, so backward needs no activations:
//   d c_t += d h_t * dh_dc          d gate = d c_t * gate's own factor (d h_t * that of o)          d c_t-1 = d c_t * f
//
// HB: hidden units, rounded up to a multiple of 8; the weights of the rest are zero.
#pragma once

#include "block.cuh"

namespace seam::gpu {

struct alignas(8) Two {
  float at[2];
};
struct alignas(16) Four {
  float at[4];
};
SEAM_KERNEL Four load_four(const float* at) { return load(reinterpret_cast<const Four*>(at)); }
SEAM_KERNEL void store_four(float* at, const float (&x)[4]) { store(reinterpret_cast<Four*>(at), Four{{x[0], x[1], x[2], x[3]}}); }
SEAM_KERNEL void store_two(float* at, float x, float y) { store(reinterpret_cast<Two*>(at), Two{{x, y}}); }

// Where a sequence lies in shared memory, in floats, each a multiple of 4.
struct SequencePlace {
  int gates;    // [time, HB, 4]: W_ih x and the biases; then factors; then gradients. Zero from unit H on
  int factors;  // [time, HB, 2]: dh_dc and f
  int hidden;   // [1 + time, pitch]: the first is what the sequence begins with. Zero from unit HB on, or what one likes
  int pitch;
};

template <int HB>
struct SmallRecurrence {
  static constexpr int kThreads = 128, kParts = HB / 8;  // of a lane's half, four by four
  static_assert(HB % 8 == 0 && HB <= kThreads / 2);
  using M = Branchless;

  int H;

  // ---- Forward --------------------------------------------------------------------------------------------------------

  // Of the lane's unit: gate by gate, the weights of the hidden units 8 j + 4 l, ... + 3.
  struct ForwardWeights {
    float w[4][kParts][4];
  };
  // weight_hh: (4H, HB) effective, in global memory, rows unit * 4 + gate.
  template <class Block>
  SEAM_KERNEL void load_forward(const Block& block, const float* weight_hh, ForwardWeights& weights) const {
    const int unit = block.thread() / 2, l = block.thread() % 2;
    const bool exists = unit < H;
    const float* const first = weight_hh + (exists ? unit : 0) * 4 * HB + 4 * l;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        const Four four = load_four(first + gate * HB + 8 * j);
#pragma unroll
        for (int i = 0; i < 4; ++i) weights.w[gate][j][i] = exists ? four.at[i] : 0.0f;
      }
    }
  }

  template <class Block, class Memory>
  SEAM_KERNEL void forward(const Block& block, Memory& memory, const SequencePlace& at, int steps,
                           const ForwardWeights& weights) const {
    const int unit = block.thread() / 2, l = block.thread() % 2;
    const bool exists = unit < H;
    const int mine = exists ? unit : 0, gates = at.gates + mine * 4, factors = at.factors + mine * 2;
    float c = 0, c_before = 0, tanh_c = 0, y[4] = {};  // y: activated gates
    float x[4];
    memory.load4(gates, x);

    // What the step at `t` leaves for backward: factors of i and f by the first lane, of g and o by the second.
    const auto leave = [&](int t) {
      const float i = y[0], f = y[1], g = y[2], o = y[3];
      const float a = l ? g : i, b = l ? o : f;
      const float first = (l ? i : g) * fmaf(-a, a, l ? 1.0f : a), second = (l ? tanh_c : c_before) * fmaf(-b, b, b);
      if (!exists) return;
      memory.store2(gates + t * 4 * HB + 2 * l, {first, second});
      if (l) memory.store2(factors + t * 2 * HB, {fmaf(-o * tanh_c, tanh_c, o), f});
    };

#pragma unroll 1
    for (int t = 0; t < steps; ++t) {
      float h[kParts][4];
#pragma unroll
      for (int j = 0; j < kParts; ++j) memory.load4(at.hidden + t * at.pitch + 8 * j + 4 * l, h[j]);
      if (t > 0) leave(t - 1);  // while the loads are on their way
      float sum[4][2];  // of each gate two chains
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) sum[gate][0] = l ? 0.0f : x[gate], sum[gate][1] = 0;
      memory.load4(gates + (t + 1 < steps ? t + 1 : t) * 4 * HB, x);
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int gate = 0; gate < 4; ++gate) {
            sum[gate][i % 2] = fmaf(weights.w[gate][j][i], h[j][i], sum[gate][i % 2]);
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
      if (exists && l) memory.store(at.hidden + (t + 1) * at.pitch + unit, y[3] * tanh_c);
      block.sync_half();
    }
    leave(steps - 1);
  }

  // ---- Backward -------------------------------------------------------------------------------------------------------

  // Eight lanes have four units: lane q the sums over gate rows of the units q, q + 8, ... Its r-th is of the unit
  // r ^ (q / 2) of the four, so that in each exchange what is kept and what is sent have the same place in both lanes.
  struct BackwardWeights {
    float w[4][kParts][4];  // [r, j, gate of unit q + 8 j]
  };
  template <class Block>
  SEAM_KERNEL void load_backward(const Block& block, const float* weight_hh, BackwardWeights& weights) const {
    const int q = block.thread() % 8, four = block.thread() / 8 * 4;
    const bool swaps_one = q / 2 & 1, swaps_two = q / 2 & 2;
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
      const int unit = q + 8 * j;
      const bool exists = unit < H && four < HB;
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) {
        const Four w = load_four(weight_hh + (exists ? (unit * 4 + gate) * HB + four : 0));
        const float a = swaps_one ? w.at[1] : w.at[0], b = swaps_one ? w.at[0] : w.at[1];
        const float c = swaps_one ? w.at[3] : w.at[2], d = swaps_one ? w.at[2] : w.at[3];
        weights.w[0][j][gate] = exists ? (swaps_two ? c : a) : 0.0f;
        weights.w[1][j][gate] = exists ? (swaps_two ? d : b) : 0.0f;
        weights.w[2][j][gate] = exists ? (swaps_two ? a : c) : 0.0f;
        weights.w[3][j][gate] = exists ? (swaps_two ? b : d) : 0.0f;
      }
    }
  }

  // dh: the gradient of the last hidden state, of the thread's unit, thread / 2.
  template <class Block, class Memory>
  SEAM_KERNEL void backward(const Block& block, Memory& memory, const SequencePlace& at, int steps, float dh,
                            const BackwardWeights& weights) const {
    const int unit = block.thread() / 2, l = block.thread() % 2, q = block.thread() % 8;
    const bool exists = unit < H;
    const int mine = exists ? unit : 0, gates = at.gates + mine * 4 + 2 * l, factors = at.factors + mine * 2;
    float dc = 0, own[2] = {}, dh_dc_f[2] = {};
    if (exists) {
      memory.load2(gates + (steps - 1) * 4 * HB, own);
      memory.load2(factors + (steps - 1) * 2 * HB, dh_dc_f);
    }
#pragma unroll 1
    for (int t = steps - 1; t >= 0; --t) {
      dc = fmaf(dh, dh_dc_f[0], dc);
      if (exists) memory.store2(gates + t * 4 * HB, {dc * own[0], (l ? dh : dc) * own[1]});
      dc *= dh_dc_f[1];
      block.sync_half();
      float d[kParts][4];
#pragma unroll
      for (int j = 0; j < kParts; ++j) memory.load4(at.gates + t * 4 * HB + (q + 8 * j) * 4, d[j]);
      const int before = t > 0 ? t - 1 : 0;
      if (exists) {
        memory.load2(gates + before * 4 * HB, own);
        memory.load2(factors + before * 2 * HB, dh_dc_f);
      }
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
      dh = s[0] + block.shuffle_xor(s[0], 1);
    }
  }
};

}  // namespace seam::gpu

// How the training kernel of gate_row_steps.cuh divides a module among the blocks of a cluster, and its layout of
// shared memory. Computed on the host for each launch, from the sizes of its largest step; needs neither torch nor
// CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/inline.h"

namespace seam::gpu {

constexpr int kMostGateRowUnits = 64;  // hidden units
constexpr int kUnitStride = 64;        // entries of a step of a sequence, see small_recurrence.cuh
constexpr int kLayoutFloats = 54784;   // size of the laid out part of a block's shared memory, of 227 KB
constexpr int kListNumbers = 2560;     // int32 of a step's plan that are in shared memory

// Pitches that avoid bank conflicts: for rows that a warp reads along columns (lane / 4 along the row, lane % 4 down),
// 8 more than a multiple of 16; for rows that four lanes read along the row, an odd multiple of 4.
SEAM_INLINE constexpr int32_t column_pitch(int32_t n) { return (n + 7) / 16 * 16 + 8; }
SEAM_INLINE constexpr int32_t eights(int32_t n) { return (n + 7) / 8 * 8; }
SEAM_INLINE constexpr int32_t row_pitch(int32_t n) { return eights(n) + 4; }

// Linear layer and its biases, the head's weights and biases, one after the other.
SEAM_INLINE constexpr int32_t linear_numbers(int32_t H, int32_t C) { return C * H + C + 2 * C + 2; }

// The sizes that the recurrence is compiled for.
SEAM_INLINE constexpr int32_t padded_units(int32_t hidden) { return hidden <= 56 ? 56 : 64; }

// Gate rows are in the order unit * 4 + gate. A block owns the rows of some consecutive units. Sizes and offsets in
// floats.
struct GateRowLayout {
  int32_t blocks;                              // of the cluster
  int32_t units, rows;                         // the most that a block owns
  int32_t words, positions;                    // the most in a step
  int32_t owned;                               // the most words of a step whose scores a block updates
  int32_t pitch_e, pitch_h, pitch_r, pitch_g;  // of rows of E; of hidden states; of a block's gate rows; of all 4H rows
  int32_t weight_ih, bias, linear, x, d_words, own, late;  // offsets, see gate_row_steps.cuh
  int32_t factors, hidden, weight_hh;  // offsets during the recurrence, after a sequence's gates at `late`; the last is
                                       // 0 if there is no room for W_hh
  int32_t states;                      // offset afterwards, after the gradients of the gates at `late`
  int32_t chunk;                       // rows of W_ih that fit after `late` at a time
  int32_t size;

  // Weights and the state of their scores are stored by tiles of 16 x 8 numbers, a lane's four numbers adjacent, and
  // the lanes in order: W_ih's 4H x E and W_hh's 4H x (H + 2), whose last columns are the biases.
  SEAM_INLINE int32_t tiles_m() const { return (rows + 15) / 16; }
  SEAM_INLINE int32_t numbers_ih() const { return tiles_m() * (pitch_e / 8) * 128; }
  SEAM_INLINE int32_t numbers_hh(int32_t hidden_units) const { return tiles_m() * ((hidden_units + 9) / 8) * 128; }
};

// The sizes of a launch: of its base, and of its largest step.
struct GateRowSizes {
  int32_t E, H, C;                     // of the base
  int32_t T, words, positions, lists;  // T: words of the longest document
};

// If `size` of the result is more than kLayoutFloats, the layout does not fit.
inline GateRowLayout gate_row_layout(int32_t blocks, const GateRowSizes& sizes) {
  const int32_t H = sizes.H, words = sizes.words, positions = sizes.positions;
  GateRowLayout l = {};
  l.blocks = blocks;
  l.units = (H + blocks - 1) / blocks;
  l.rows = 4 * l.units;
  l.words = words, l.positions = positions;
  l.owned = (words + blocks - 1) / blocks;
  const int32_t HB = padded_units(H);
  l.pitch_e = column_pitch(sizes.E);
  l.pitch_h = column_pitch(std::max(H + 2, HB));
  l.pitch_r = column_pitch(l.rows);
  l.pitch_g = row_pitch(4 * H);
  int32_t at = 0;
  const auto take = [&at](int32_t count) {
    const int32_t begin = at;
    at += (count + 3) / 4 * 4;
    return begin;
  };
  l.weight_ih = take(l.rows * l.pitch_e);
  l.bias = take(2 * l.rows);
  l.linear = take(linear_numbers(H, sizes.C));
  l.x = take(eights(words) * l.pitch_e);
  l.d_words = take(std::max(eights(words) * l.pitch_r, l.owned * l.pitch_e));
  l.own = take(l.owned * l.pitch_g);
  l.late = at;
  l.factors = l.late + sizes.T * 4 * kUnitStride;
  l.hidden = l.factors + sizes.T * 2 * kUnitStride;
  l.states = l.late + eights(positions) * l.pitch_r;
  const int32_t end = l.hidden + (sizes.T + 1) * l.pitch_h, weights = HB * kUnitStride * 4;
  if (end + weights <= kLayoutFloats) l.weight_hh = end;
  const int32_t most = std::max(l.weight_hh ? end + weights : end, l.states + eights(positions) * l.pitch_h);
  // All of W_ih at once if there is room, else as much as fits, but at least eight rows.
  const int32_t all = 4 * H, room = (kLayoutFloats - l.late) / l.pitch_e / 8 * 8;
  l.chunk = std::max(8, std::min(eights(all), room));
  l.size = std::max(most, l.late + l.chunk * l.pitch_e);
  return l;
}

}  // namespace seam::gpu

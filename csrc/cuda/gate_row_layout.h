// How the training kernel of gate_row_steps.cuh cuts a module among the blocks of a cluster, and where in shared memory
// things lie. Made on the host for each launch, from the sizes of its largest step; neither torch nor CUDA is needed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/inline.h"

namespace seam::gpu {

constexpr int kMostGateRowUnits = 64;    // hidden units
constexpr int kUnitStride = 64;          // of a sequence, see small_recurrence.cuh
constexpr int kLayoutFloats = 54784;     // of a block's shared memory, where the layout has them; the rest of 227 KB
constexpr int kListNumbers = 2560;       // int32 of a step's plan that lie there

// Rows that are read down the columns by a warp (lane / 4 along the row, lane % 4 down) fall on different banks at a pitch
// of 8 more than a multiple of 16; rows whose four lanes read along them, at an odd multiple of 4.
SEAM_INLINE constexpr int32_t column_pitch(int32_t n) { return (n + 7) / 16 * 16 + 8; }
SEAM_INLINE constexpr int32_t eights(int32_t n) { return (n + 7) / 8 * 8; }
SEAM_INLINE constexpr int32_t row_pitch(int32_t n) { return eights(n) + 4; }

// Linear layer and its biases, the head's weights and biases, one behind the other.
SEAM_INLINE constexpr int32_t linear_numbers(int32_t H, int32_t C) { return C * H + C + 2 * C + 2; }

// The recurrence is compiled for hidden states of these sizes.
SEAM_INLINE constexpr int32_t padded_units(int32_t hidden) { return hidden <= 56 ? 56 : 64; }

// Gate rows are in the order unit * 4 + gate. A block owns the rows of some neighbouring units. Sizes in floats.
struct GateRowLayout {
  int32_t blocks;                          // of the cluster
  int32_t units, rows;                     // most that a block owns
  int32_t words, positions;                   // most of a step
  int32_t owned;                           // words of a step whose scores a block steps
  int32_t pitch_e, pitch_h, pitch_r, pitch_g;  // of rows of E; of hidden states; of a block's gate rows; of all 4H
  int32_t weight_ih, bias, linear, x, d_words, own, late;  // where they begin, see gate_row_steps.cuh
  int32_t factors, hidden, weight_hh;      // in `late` while a sequence goes through time, behind its gates; the last is 0
                                           // where there is no room for it
  int32_t states;                          // in `late` afterwards, behind the gradients of the gates
  int32_t chunk;                           // rows of all weight_ih that fit into `late` at a time
  int32_t size;

  // Of a tile of 16 x 8 numbers, a lane's four lie side by side, and lanes side by side: so are W and the state of its
  // scores kept, W_ih's 4H x E and W_hh's 4H x (H + 2), whose last columns are the biases.
  SEAM_INLINE int32_t tiles_m() const { return (rows + 15) / 16; }
  SEAM_INLINE int32_t numbers_ih() const { return tiles_m() * (pitch_e / 8) * 128; }
  SEAM_INLINE int32_t numbers_hh(int32_t hidden_units) const { return tiles_m() * ((hidden_units + 9) / 8) * 128; }
};

// What a step of a training run needs to be known of, at most.
struct GateRowSizes {
  int32_t E, H, C;  // of the base
  int32_t T, words, positions, lists;  // T: words of the longest document
};

// `size` may be more than kLayoutFloats: then it does not fit.
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
  // All of weight_ih at once if there is room, else as much as there is, but some.
  const int32_t all = 4 * H, room = (kLayoutFloats - l.late) / l.pitch_e / 8 * 8;
  l.chunk = std::max(8, std::min(eights(all), room));
  l.size = std::max(most, l.late + l.chunk * l.pitch_e);
  return l;
}

}  // namespace seam::gpu

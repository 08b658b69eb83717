// The masked LSTM for one instruction set. Masks are applied while weights are packed for the matrix tile; a score's
// gradient is formed in the last pass over the sum over time and batch. One file, because forward and backward are made
// of the same blocks, tiles and packed panels.
#pragma once

#include "common/lstm_cell.h"
#include "common/score_update.h"
#include "gemm_tile.h"
#include "kernels.h"

namespace {

using seam::kGates;
using seam::MaskedGradientParams;
using seam::MaskedLstmBackwardParams;
using seam::MaskedLstmParams;

constexpr int64_t kPanelGroup = 8;  // panels that are packed together and multiplied with the same left rows
constexpr int64_t kRowBlock =
    48;                         // left rows that are multiplied with a panel before the next panel; a multiple of kRows
constexpr int kLeftBlock = 48;  // gates whose gradients are copied together, a multiple of kRows, too

// ---- Blocks of hidden units, each with its four gates ---------------------------------------------------------------

template <typename T>
int64_t unit_blocks(int64_t hidden) {
  return (hidden + Wide<T>::kLanes - 1) / Wide<T>::kLanes;
}

// Calls body(Simd type, first unit, number of units) for block `b`.
template <typename T, class Body>
SEAM_INLINE void with_block(int64_t hidden, int64_t b, Body&& body) {
  const int64_t first = b * Wide<T>::kLanes;
  const int64_t units = hidden - first;
  if (units >= Wide<T>::kLanes) {
    body(Wide<T>{}, first, Wide<T>::kLanes);
  } else if (units > Narrow<T>::kLanes) {
    body(Wide<T>{}, first, int(units));
  } else {
    body(Narrow<T>{}, first, int(units));
  }
}

template <typename T>
int64_t packed_block_size(int64_t hidden) {  // of packed_hh, forward
  return kGates * Wide<T>::kLanes * hidden;
}

template <typename T>
int64_t packed_panel_size(int64_t hidden) {  // of packed_hh, backward
  return kPanelWidth<T> * kGates * hidden;
}

template <typename T>
int64_t row_tiles(int64_t batch) {
  return (batch + kRows - 1) / kRows;
}

// ---- The last few units of a layer, such as 2 of 50: their four gates share one vector ------------------------------

// In a block of their own they would take half as long as a whole block. A vector has the units of gate i, then of f,
// g, o; a tile is kJointRows rows high, so that its cells, the units of one row after the other, fill whole vectors
// again. Sums and cells have the same bits as in the other blocks.
template <typename T>
using Joint = std::conditional_t<Narrow<T>::kLanes >= 2 * kGates, Narrow<T>, Wide<T>>;
template <typename T>
constexpr int kJointUnits = Joint<T>::kLanes / kGates;
constexpr int kJointRows = 8;

// Whether block `b` is one of these.
template <typename T>
SEAM_INLINE bool is_joint(int64_t hidden, int64_t b) {
  const int64_t units = hidden - b * Wide<T>::kLanes;
  return units <= kJointUnits<T> && hidden > units;
}

// A masked weight.
template <typename T>
SEAM_INLINE T effective_at(const seam::Masked<T>& w, int64_t columns, int64_t q, int64_t k) {
  const T weight = w.weight[q * columns + k];
  if (w.keep_bits) return w.keep_bits[q * w.keep_bits_stride + (k >> 3)] >> (k & 7) & 1 ? weight : T(0);
  return !w.score || w.score[q * columns + k] > 0 ? weight : T(0);
}

// panel[k][gate][unit], depth [k0, k1); zeros behind the units in use.
template <typename T>
void pack_joint(const seam::Masked<T>& w, int64_t columns, int64_t hidden, int64_t first, int units, int64_t k0,
                int64_t k1, T* panel) {
  for (int64_t k = k0; k < k1; ++k) {
    for (int g = 0; g < kGates; ++g) {
      for (int u = 0; u < kJointUnits<T>; ++u) {
        *panel++ = u < units ? effective_at(w, columns, g * hidden + first + u, k) : T(0);
      }
    }
  }
}

// sums[m][gate][unit] = sum_k left[m][k] * panel[k][gate][unit]
template <typename T, int M>
SEAM_INLINE void multiply_joint(const T* const (&left)[M], const T* panel, int64_t depth,
                                T (&sums)[M][Joint<T>::kLanes]) {
  using S = Joint<T>;
  typename S::V acc[M][1];
  for (int m = 0; m < M; ++m) acc[m][0] = S::zero();
  multiply<S>(left, 1, panel, depth, acc);
  for (int m = 0; m < M; ++m) S::store(sums[m], acc[m][0]);
}

// ---- Forward --------------------------------------------------------------------------------------------------------

template <class S>
SEAM_INLINE void load_gates(const typename S::Scalar* row, int64_t hidden, int64_t first, int units,
                            typename S::V (&gates)[kGates]) {
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) gates[g] = S::load(row + g * hidden + first, units);
}

template <typename T>
SEAM_INLINE void prefetch_gates(const T* row, int64_t hidden, int units) {
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) prefetch_row(row + g * hidden, units);
}

template <class S>
SEAM_INLINE void add_gates(const typename S::Scalar* row, int64_t hidden, int64_t first, int units,
                           typename S::V (&gates)[kGates]) {
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) gates[g] = gates[g] + S::load(row + g * hidden + first, units);
}

template <class S>
SEAM_INLINE void store_gates(typename S::Scalar* row, int64_t hidden, int64_t first, int units,
                             const typename S::V (&gates)[kGates]) {
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) S::store(row + g * hidden + first, gates[g], units);
}

// Keep bits of W_hh, rows [begin, end).
template <typename T>
void mark_keep_bits(const MaskedLstmParams<T>& p, int64_t begin, int64_t end) {
  const int64_t H = p.hidden_size, stride = p.weight_hh.keep_bits_stride;
  for (int64_t q = begin; q < end; ++q) {
    for (int64_t byte = 0; byte < stride; ++byte) {
      unsigned bits = 0;
      for (int64_t k = byte * 8; k < H && k < byte * 8 + 8; ++k) {
        bits |= unsigned(p.weight_hh.score[q * H + k] > 0) << (k & 7);
      }
      p.weight_hh.keep_bits[q * stride + byte] = uint8_t(bits);
    }
  }
}

template <typename T>
void pack_recurrent(const MaskedLstmParams<T>& p, int64_t begin, int64_t end) {
  const int64_t H = p.hidden_size;
  for (int64_t b = begin; b < end; ++b) {
    T* const block = p.packed_hh + b * packed_block_size<T>(H);
    with_block<T>(H, b, [&](auto simd, int64_t first, int units) {
      if (is_joint<T>(H, b)) pack_joint(p.weight_hh, H, H, first, units, 0, H, block);
      else pack_gates<decltype(simd)>(p.weight_hh, H, H, first, units, 0, H, block);
    });
  }
}

template <class S>
SEAM_INLINE void load_bias(const MaskedLstmParams<typename S::Scalar>& p, int64_t first, int units,
                           typename S::V (&bias)[kGates]) {
  for (int g = 0; g < kGates; ++g) {
    bias[g] = S::zero();
    for (const auto& b : {p.bias_ih, p.bias_hh}) {
      if (b.weight) bias[g] = bias[g] + load_effective<S>(b, 0, 0, g * p.hidden_size + first, units);
    }
  }
}

// gates[row] = W_ih x + b_ih + b_hh for the blocks [begin, end) and all rows of the steps: the part of the gates that
// does not depend on the recurrence.
template <typename T>
void project(const MaskedLstmParams<T>& p, int64_t from, int64_t to, int64_t begin, int64_t end, T* scratch) {
  const int64_t I = p.input_size, H = p.hidden_size;
  const int64_t first_row = p.first_row[from], last_row = p.first_row[to];
  for (int64_t b_0 = begin; b_0 < end; b_0 += kPanelGroup) {
    const int64_t b_1 = b_0 + kPanelGroup < end ? b_0 + kPanelGroup : end;
    for (int64_t k0 = 0; k0 < I; k0 += kDepth) {
      const int64_t depth = k0 + kDepth < I ? kDepth : I - k0;
      for (int64_t b = b_0; b < b_1; ++b) {
        with_block<T>(H, b, [&](auto simd, int64_t first, int units) {
          pack_gates<decltype(simd)>(p.weight_ih, I, H, first, units, k0, k0 + depth,
                                     scratch + (b - b_0) * depth * kPanelWidth<T>);
        });
      }
      for (int64_t row_0 = first_row; row_0 < last_row; row_0 += kRowBlock) {
        const int64_t row_1 = row_0 + kRowBlock < last_row ? row_0 + kRowBlock : last_row;
        for (int64_t b = b_0; b < b_1; ++b) {
          with_block<T>(H, b, [&](auto simd, int64_t first, int units) {
            using S = decltype(simd);
            const T* const panel = scratch + (b - b_0) * depth * kPanelWidth<T>;
            for (int64_t row = row_0; row < row_1; row += kRows) {
              with_constant<kRows>(row_1 - row < kRows ? row_1 - row : kRows, [&](auto count) {
                constexpr int M = decltype(count)::value;
                const T* left[M];
                typename S::V acc[M][kGates];
                T* const gates = p.gates + (row - p.gates_from) * kGates * H;
                for (int m = 0; m < M; ++m) {
                  left[m] = p.input.at(p.time_index[row + m]) + k0;
                  prefetch_gates(gates + m * kGates * H + first, H, units);
                  for (int g = 0; g < kGates; ++g) acc[m][g] = S::zero();
                }
                multiply<S>(left, 1, panel, depth, acc);
                typename S::V bias[kGates];  // loaded after the product, whose sums need all registers
                if (k0 == 0) load_bias<S>(p, first, units, bias);
                for (int m = 0; m < M; ++m) {
                  T* const out = gates + m * kGates * H;
                  if (k0 == 0) {
                    for (int g = 0; g < kGates; ++g) acc[m][g] = acc[m][g] + bias[g];
                  } else {
                    add_gates<S>(out, H, first, units, acc[m]);
                  }
                  store_gates<S>(out, H, first, units, acc[m]);
                }
              });
            }
          });
        }
      }
    }
  }
}

// h and c of the previous step; at the first step the initial state.
template <typename T>
SEAM_INLINE const T* hidden_before(const MaskedLstmParams<T>& p, int64_t step, int64_t rank) {
  if (step > 0) return p.output.at(p.time_index[p.first_row[step - 1] + rank]);
  return p.h_0 ? p.h_0 + p.sequence[rank] * p.hidden_size : p.zeros;
}

template <typename T>
SEAM_INLINE const T* cell_before(const MaskedLstmParams<T>& p, int64_t step, int64_t rank) {
  if (step > 0) return p.cells + (p.save ? p.first_row[step - 1] + rank : rank) * p.hidden_size;
  return p.c_0 ? p.c_0 + p.sequence[rank] * p.hidden_size : p.zeros;
}

// Depth [k0, k1) of one step of the rows of ranks [begin, end), for the last few units.
template <typename T, int Units>
void recur_joint(const MaskedLstmParams<T>& p, int64_t step, int64_t k0, int64_t k1, int64_t begin, int64_t end,
                 int64_t first, const T* right) {
  using S = Wide<T>;
  constexpr int U = kJointUnits<T>, kLanes = kJointRows * Units;
  const int64_t H = p.hidden_size, row_0 = p.first_row[step];
  const auto copy = [](const T* from, T* to) { __builtin_memcpy(to, from, Units * sizeof(T)); };
  for (int64_t rank = begin; rank < end; rank += kJointRows) {
    with_constant<kJointRows>(end - rank < kJointRows ? end - rank : kJointRows, [&](auto count) {
      constexpr int M = decltype(count)::value;
      const T* left[M];
      for (int m = 0; m < M; ++m) left[m] = hidden_before(p, step, rank + m) + k0;
      T product[M][Joint<T>::kLanes];
      multiply_joint<T>(left, right, k1 - k0, product);
      // Ordered by gate, then row, then unit: the product, and the values that it is added to.
      T sum[kGates][kLanes], so_far[kGates][kLanes], c[kLanes], h[kLanes] = {};
      for (int m = 0; m < M; ++m) {
        const int64_t row = row_0 + rank + m;
        const T* before = p.gates + (row - p.gates_from) * kGates * H;
        if (p.projected && k0 == 0) before = p.projected + p.projected_row[row] * kGates * H;
        for (int g = 0; g < kGates; ++g) {
          copy(product[m] + g * U, sum[g] + m * Units);
          copy(before + g * H + first, so_far[g] + m * Units);
        }
        copy(cell_before(p, step, rank + m) + first, c + m * Units);
      }
      for (int l = 0; l < M * Units; l += S::kLanes) {
        const int n = M * Units - l < S::kLanes ? M * Units - l : S::kLanes;
        typename S::V a[kGates], c_next, h_next;
        for (int g = 0; g < kGates; ++g) a[g] = S::load(sum[g] + l, n) + S::load(so_far[g] + l, n);
        if (k1 == H) {
          activate<S>(a);
          cell_forward<S>(a, S::load(c + l, n), c_next, h_next);
          S::store(c + l, c_next, n);
          S::store(h + l, h_next, n);
        }
        for (int g = 0; g < kGates; ++g) S::store(sum[g] + l, a[g], n);
      }
      for (int m = 0; m < M; ++m) {
        const int64_t row = row_0 + rank + m;
        T* const gates = p.gates + (row - p.gates_from) * kGates * H;
        if (k1 < H || p.save) {
          for (int g = 0; g < kGates; ++g) copy(sum[g] + m * Units, gates + g * H + first);
        }
        if (k1 < H) continue;
        copy(c + m * Units, p.cells + (p.save ? row : rank + m) * H + first);
        copy(h + m * Units, p.output.at(p.time_index[row]) + first);
      }
    });
  }
}

// The steps [from, to) of the row tiles [begin, end). Gates of a unit are next to each other in the tile, so that a
// cell is finished while they are still in registers.
template <typename T>
void recur(const MaskedLstmParams<T>& p, int64_t from, int64_t to, int64_t begin, int64_t end, T* panel) {
  const int64_t H = p.hidden_size, blocks = unit_blocks<T>(H);
  for (int64_t step = from; step < to; ++step) {
    const int64_t row_0 = p.first_row[step], running = p.first_row[step + 1] - row_0;
    const int64_t last = end * kRows < running ? end * kRows : running;
    for (int64_t b = 0; b < blocks; ++b) {
      with_block<T>(H, b, [&](auto simd, int64_t first, int units) {
        using S = decltype(simd);
        for (int64_t k0 = 0, k1; k0 < H; k0 = k1) {
          k1 = k0 + kDepth < H ? k0 + kDepth : H;
          const bool joint = is_joint<T>(H, b);
          const T* right =
              p.packed_hh + b * packed_block_size<T>(H) + k0 * (joint ? Joint<T>::kLanes : kGates * S::kLanes);
          if (joint) {
            if (b >= p.packed) pack_joint(p.weight_hh, H, H, first, units, k0, k1, panel), right = panel;
            with_constant<kJointUnits<T>>(units, [&](auto rest) {
              recur_joint<T, decltype(rest)::value>(p, step, k0, k1, begin * kRows, last, first, right);
            });
            continue;
          }
          if (b >= p.packed) {
            right = panel;
            pack_gates<S>(p.weight_hh, H, H, first, units, k0, k1, panel);
          }
          for (int64_t rank = begin * kRows; rank < last; rank += kRows) {
            with_constant<kRows>(last - rank < kRows ? last - rank : kRows, [&](auto count) {
              constexpr int M = decltype(count)::value;
              const T* left[M];
              const T* so_far[M];  // the values of the gates that this product is added to
              typename S::V acc[M][kGates];
              T* gates = p.gates + (row_0 + rank - p.gates_from) * kGates * H;
              for (int m = 0; m < M; ++m) {
                left[m] = hidden_before(p, step, rank + m) + k0;
                so_far[m] = gates + m * kGates * H;
                prefetch_gates(so_far[m] + first, H, units);
                if (p.projected && k0 == 0) {
                  so_far[m] = p.projected + p.projected_row[row_0 + rank + m] * kGates * H;
                  prefetch_gates(so_far[m] + first, H, units);
                }
                for (int g = 0; g < kGates; ++g) acc[m][g] = S::zero();
              }
              multiply<S>(left, 1, right, k1 - k0, acc);
              for (int m = 0; m < M; ++m) add_gates<S>(so_far[m], H, first, units, acc[m]);
              if (k1 < H) {
                for (int m = 0; m < M; ++m) store_gates<S>(gates + m * kGates * H, H, first, units, acc[m]);
                return;
              }
              for (int m = 0; m < M; ++m) activate<S>(acc[m]);
              for (int m = 0; m < M; ++m) {
                typename S::V c, h;
                cell_forward<S>(acc[m], S::load(cell_before(p, step, rank + m) + first, units), c, h);
                if (p.save) store_gates<S>(gates + m * kGates * H, H, first, units, acc[m]);
                const int64_t row = row_0 + rank + m;
                S::store(p.cells + (p.save ? row : rank + m) * H + first, c, units);
                S::store(p.output.at(p.time_index[row]) + first, h, units);
              }
            });
          }
        }
      });
    }
  }
}

// ---- Backward -------------------------------------------------------------------------------------------------------

// Depth [k0, k1) of one panel of a masked weight's columns.
template <typename T, class Shape>
SEAM_INLINE void pack_columns(Shape shape, const seam::Masked<T>& w, int64_t columns, int64_t k0, int64_t k1,
                              int64_t first, int width, T* panel) {
  constexpr int64_t kAhead = 8;  // rows, which are far apart in memory: no hardware prefetcher follows such strides
  pack_rows(shape, k1 - k0, first, width, panel, [&](auto simd, int64_t k, int64_t column, int n) {
    if (k0 + k + kAhead < k1) __builtin_prefetch(w.weight + (k0 + k + kAhead) * columns + column);
    return load_effective<decltype(simd)>(w, columns, k0 + k, column, n);
  });
}

template <typename T>
void pack_recurrent_backward(const MaskedLstmBackwardParams<T>& p, int64_t begin, int64_t end) {
  const int64_t H = p.hidden_size;
  for (int64_t b = begin; b < end; ++b) {
    with_panel<T>(H, b, [&](auto shape, int64_t first, int width) {
      pack_columns(shape, p.weight_hh, H, 0, kGates * H, first, width, p.packed_hh + b * packed_panel_size<T>(H));
    });
  }
}

// out(row) = W^T left(row) for the rows [begin, end) and the panels [b_begin, b_end) of W's columns, added to the old
// value if `add`. W: [4H, columns], masked. The first `packed` panels are at packed_panels, the others are packed here.
template <typename T, class Left, class Out>
SEAM_INLINE void multiply_columns(const seam::Masked<T>& w, int64_t G, int64_t columns, int64_t b_begin, int64_t b_end,
                                  int64_t begin, int64_t end, const T* packed_panels, int64_t packed, bool add,
                                  Left&& left_of, Out&& out_of, T* scratch) {
  for (int64_t b_0 = b_begin; b_0 < b_end; b_0 += kPanelGroup) {
    const int64_t b_1 = b_0 + kPanelGroup < b_end ? b_0 + kPanelGroup : b_end;
    for (int64_t k0 = 0; k0 < G; k0 += kDepth) {
      const int64_t depth = k0 + kDepth < G ? kDepth : G - k0;
      for (int64_t b = b_0 > packed ? b_0 : packed; b < b_1; ++b) {
        with_panel<T>(columns, b, [&](auto shape, int64_t first, int width) {
          pack_columns(shape, w, columns, k0, k0 + depth, first, width, scratch + (b - b_0) * depth * kPanelWidth<T>);
        });
      }
      for (int64_t row_0 = begin; row_0 < end; row_0 += kRowBlock) {
        const int64_t row_1 = row_0 + kRowBlock < end ? row_0 + kRowBlock : end;
        for (int64_t b = b_0; b < b_1; ++b) {
          with_panel<T>(columns, b, [&](auto shape, int64_t first, int width) {
            const T* const right = b < packed ? packed_panels + b * kPanelWidth<T> * G + k0 * decltype(shape)::kWidth
                                              : scratch + (b - b_0) * depth * kPanelWidth<T>;
            for (int64_t row = row_0; row < row_1; row += kRows) {
              with_constant<kRows>(row_1 - row < kRows ? row_1 - row : kRows, [&](auto count) {
                constexpr int M = decltype(count)::value;
                const T* left[M];
                T* out[M];
                for (int m = 0; m < M; ++m) left[m] = left_of(row + m) + k0, out[m] = out_of(row + m) + first;
                multiply_panel(shape, left, 1, right, depth, width, out, k0 > 0 || add);
              });
            }
          });
        }
      }
    }
  }
}

// From gradients of h and c to those of the gates, for the rows of one tile and all their units.
template <typename T>
SEAM_INLINE void backward_cells(const MaskedLstmBackwardParams<T>& p, int64_t step, int64_t rank, T* d_gates) {
  const int64_t H = p.hidden_size, row = p.first_row[step] + rank;
  const T* gates = p.gates + row * kGates * H;
  const T* c_prev = cell_before(p, step, rank);
  const T* h = p.output.at(p.time_index[row]);
  const T* d_output = p.grad_output.data ? p.grad_output.at(p.time_index[row]) : nullptr;
  T *d_h = p.d_h + rank * H, *d_c = p.d_c + rank * H;
  for (int64_t b = 0; b < unit_blocks<T>(H); ++b) {
    with_block<T>(H, b, [&](auto simd, int64_t first, int units) {
      using S = decltype(simd);
      typename S::V gate[kGates];
      load_gates<S>(gates, H, first, units, gate);
      auto dh = S::load(d_h + first, units);
      if (d_output) dh = dh + S::load(d_output + first, units);
      const auto d = cell_backward<S>(gate, S::load(h + first, units), S::load(c_prev + first, units), dh,
                                      S::load(d_c + first, units));
      store_gates<S>(d_gates, H, first, units, d.gates);
      S::store(d_c + first, d.c_prev, units);
    });
  }
}

template <typename T>
void backward_steps(const MaskedLstmBackwardParams<T>& p, int64_t from, int64_t to, int64_t begin, int64_t end,
                    T* scratch) {
  const int64_t H = p.hidden_size, G = kGates * H;
  for (int64_t step = to - 1; step >= from; --step) {
    const int64_t running = p.first_row[step + 1] - p.first_row[step];
    const int64_t last = end * kRows < running ? end * kRows : running;
    T* d_gates = p.d_gates + (p.first_row[step] - p.d_gates_from) * G;
    for (int64_t rank = begin * kRows; rank < last; ++rank) backward_cells(p, step, rank, d_gates + rank * G);
    if (step == 0 && !p.need_h_0) return;
    multiply_columns<T>(
        p.weight_hh, G, H, 0, column_panels<T>(H), begin * kRows, last, p.packed_hh, p.packed, false,
        [&](int64_t rank) { return d_gates + rank * G; }, [&](int64_t rank) { return p.d_h + rank * H; }, scratch);
  }
}

// ---- Products over all rows of a chunk of steps: gradients of the input and of the weights --------------------------

template <typename T>
struct OuterTasks {  // panels of grad_input; blocks of gates for sum_ih, sum_hh, sum_bias
  int64_t input, weights;
  explicit OuterTasks(const MaskedLstmBackwardParams<T>& p)
      : input(p.grad_input.data ? column_panels<T>(p.input_size) : 0),
        weights(p.sum_ih || p.sum_hh || p.sum_bias ? (kGates * p.hidden_size + kLeftBlock - 1) / kLeftBlock : 0) {}
};

template <typename T>
int64_t outer_tasks(const MaskedLstmBackwardParams<T>& p) {
  const OuterTasks<T> tasks(p);
  return tasks.input + tasks.weights;
}

// A thread's scratch: a group of panels or of unit blocks, which are as large; and a copied block of gradients.
template <typename T>
int64_t scratch_size(int64_t input_size, int64_t hidden, int64_t rows) {
  int64_t panels = column_panels<T>(input_size > hidden ? input_size : hidden);
  if (panels < unit_blocks<T>(hidden)) panels = unit_blocks<T>(hidden);
  int64_t depth = kGates * hidden > input_size ? kGates * hidden : input_size;
  if (depth < rows) depth = rows;
  if (depth > kDepth) depth = kDepth;
  return depth * ((panels < kPanelGroup ? panels : kPanelGroup) * kPanelWidth<T> + kLeftBlock);
}

// Copies d_gates of a few gates to [depth, kLeftBlock]: to read them column by column in place would miss the cache
// each time.
template <class S>
SEAM_INLINE void copy_block(const typename S::Scalar* from, int64_t stride, int64_t depth, int width,
                            typename S::Scalar* to) {
  constexpr int64_t kAhead = 8;  // rows
  for (int64_t k = 0; k < depth; ++k) {
    if (k + kAhead < depth) prefetch_row(from + (k + kAhead) * stride, width);
    for (int q = 0; q < width; q += S::kLanes) {
      const int n = width - q < S::kLanes ? width - q : S::kLanes;
      S::store(to + k * kLeftBlock + q, S::load(from + k * stride + q, n), n);
    }
  }
}

// sum[q, column] += sum over rows of d_gates[row, q] * right(row)[column] for the gates [q_begin, q_end).
// sum: [4H, columns].
template <typename T, class Right>
SEAM_INLINE void weight_gradient(const MaskedLstmBackwardParams<T>& p, int64_t first_row, int64_t last_row,
                                 int64_t columns, int64_t q_begin, int64_t q_end, Right&& right, T* sum, T* scratch) {
  const int64_t G = kGates * p.hidden_size, panels = column_panels<T>(columns);
  const int64_t depth_0 = last_row - first_row < kDepth ? last_row - first_row : kDepth;
  for (int64_t b_0 = 0; b_0 < panels; b_0 += kPanelGroup) {
    const int64_t b_1 = b_0 + kPanelGroup < panels ? b_0 + kPanelGroup : panels;
    T* const block = scratch + (b_1 - b_0) * depth_0 * kPanelWidth<T>;
    for (int64_t row = first_row; row < last_row; row += kDepth) {
      const int64_t depth = row + kDepth < last_row ? kDepth : last_row - row;
      for (int64_t b = b_0; b < b_1; ++b) {
        with_panel<T>(columns, b, [&](auto shape, int64_t first, int width) {
          pack_rows(shape, depth, first, width, scratch + (b - b_0) * depth_0 * kPanelWidth<T>,
                    [&](auto simd, int64_t k, int64_t column, int n) {
                      return decltype(simd)::load(right(row + k) + column, n);
                    });
        });
      }
      for (int64_t q_0 = q_begin; q_0 < q_end; q_0 += kLeftBlock) {
        const int64_t q_1 = q_0 + kLeftBlock < q_end ? q_0 + kLeftBlock : q_end;
        copy_block<Wide<T>>(p.d_gates + (row - p.d_gates_from) * G + q_0, G, depth, int(q_1 - q_0), block);
        for (int64_t b = b_0; b < b_1; ++b) {
          with_panel<T>(columns, b, [&](auto shape, int64_t first, int width) {
            const T* panel = scratch + (b - b_0) * depth_0 * kPanelWidth<T>;
            for (int64_t q = q_0; q < q_1; q += kRows) {
              with_constant<kRows>(q_1 - q < kRows ? q_1 - q : kRows, [&](auto count) {
                constexpr int M = decltype(count)::value;
                const T* left[M];
                T* out[M];
                for (int m = 0; m < M; ++m) {
                  left[m] = block + q - q_0 + m;
                  out[m] = sum + (q + m) * columns + first;
                }
                multiply_panel(shape, left, kLeftBlock, panel, depth, width, out, true);
              });
            }
          });
        }
      }
    }
  }
}

template <typename T>
void bias_gradient(const MaskedLstmBackwardParams<T>& p, int64_t first_row, int64_t last_row, int64_t q_begin,
                   int64_t q_end) {
  using S = Wide<T>;
  const int64_t G = kGates * p.hidden_size;
  for (int64_t q = q_begin; q < q_end; q += S::kLanes) {
    const int n = int(q_end - q < S::kLanes ? q_end - q : S::kLanes);
    auto total = S::load(p.sum_bias + q, n);
    for (int64_t row = first_row; row < last_row; row += kDepth) {
      const int64_t end = row + kDepth < last_row ? row + kDepth : last_row;
      auto sum = S::zero();
      for (int64_t r = row; r < end; ++r) sum = sum + S::load(p.d_gates + (r - p.d_gates_from) * G + q, n);
      total = total + sum;
    }
    S::store(p.sum_bias + q, total, n);
  }
}

template <typename T>
void outer(const MaskedLstmBackwardParams<T>& p, int64_t from, int64_t to, int64_t begin, int64_t end, T* scratch) {
  const OuterTasks<T> tasks(p);
  const int64_t first_row = p.first_row[from], last_row = p.first_row[to], G = kGates * p.hidden_size;
  if (begin < tasks.input) {
    multiply_columns<T>(
        p.weight_ih, G, p.input_size, begin, end < tasks.input ? end : tasks.input, first_row, last_row, nullptr, 0,
        p.add_to_grad_input, [&](int64_t row) { return p.d_gates + (row - p.d_gates_from) * G; },
        [&](int64_t row) { return p.grad_input.at(p.time_index[row]); }, scratch);
    begin = tasks.input;
  }
  if (begin >= end) return;
  const int64_t q_begin = (begin - tasks.input) * kLeftBlock;
  const int64_t q_end = (end - tasks.input) * kLeftBlock < G ? (end - tasks.input) * kLeftBlock : G;
  if (p.sum_ih) {
    auto input = [&](int64_t row) { return p.input.at(p.time_index[row]); };
    weight_gradient(p, first_row, last_row, p.input_size, q_begin, q_end, input, p.sum_ih, scratch);
  }
  if (p.sum_hh) {
    int64_t step = from;  // of the last row that was looked up: rows come nearly in order
    auto before = [&](int64_t row) {
      while (row < p.first_row[step]) --step;
      while (row >= p.first_row[step + 1]) ++step;
      return hidden_before<T>(p, step, row - p.first_row[step]);
    };
    weight_gradient(p, first_row, last_row, p.hidden_size, q_begin, q_end, before, p.sum_hh, scratch);
  }
  if (p.sum_bias) bias_gradient(p, first_row, last_row, q_begin, q_end);
}

// The score's gradient: sum * weight, clamped to [-1, 1] if `clamp`. The weight's: the sum where the score is positive,
// else 0.
template <typename T>
void finish_gradient(const MaskedGradientParams<T>& p, int64_t begin, int64_t end) {
  using S = Wide<T>;
  for (int64_t i = begin; i < end; i += S::kLanes) {
    const int n = int(end - i < S::kLanes ? end - i : S::kLanes);
    const auto sum = S::load(p.sum + i, n);
    if (p.grad_weight) {
      const auto kept = p.score ? S::keep(S::one(), S::load(p.score + i, n)) : S::one();
      S::store(p.grad_weight + i, sum * kept, n);
    }
    if (p.grad_score) {
      const auto product = sum * S::load(p.weight + i, n);
      S::store(p.grad_score + i, p.clamp ? clip<S>(product) : product, n);
    }
  }
}

}  // namespace

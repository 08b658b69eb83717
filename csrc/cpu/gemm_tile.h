// The matrix kernel: a tile of kRows x (NV vectors) stays in registers over the loop over k. All six products of an
// LSTM use it; they differ in where the left rows come from, how the right panel was packed, and what follows the loop.
#pragma once

#include "common/masked_lstm_params.h"
#include "simd.h"

namespace {

#if SEAM_SIMD == 512
constexpr int kRows = 6;  // 6 x 4 accumulators, a vector of the panel and 6 broadcasts fill the 32 registers
#else
constexpr int kRows = 3;  // 3 x 4 accumulators, a vector of the panel and 3 broadcasts fill the 16 registers
#endif
constexpr int kVectors = 4;  // widest panel, in vectors
// The depth of a panel, chosen for the cache. Sums are formed over so many terms and then added up, which keeps the
// rounding error of long sums near that of blocked matrix libraries.
constexpr int64_t kDepth = 256;

template <typename T>
using Wide = Simd<T, SEAM_SIMD / 8 / sizeof(T)>;
// With 16 lanes, sizes like 50 would waste a quarter of the work; a last vector of half the width saves most of it.
template <typename T>
using Narrow = std::conditional_t<SEAM_SIMD == 512, Simd<T, SEAM_SIMD / 16 / sizeof(T)>, Wide<T>>;

// acc[m][v] += a[m] * right[v]: what one k adds to a tile.
template <class S, int M, int NV, int Size>
SEAM_INLINE void add_outer(const typename S::Scalar (&a)[M], const typename S::Scalar* __restrict__ right,
                           typename S::V (&acc)[M][Size]) {
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    const typename S::V b = S::load(right + v * S::kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) acc[m][v] = S::fma(S::set(a[m]), b, acc[m][v]);
  }
}

// acc[m][v] += sum_k left[m][k * left_step] * panel[k][v], k in order, so a sum does not depend on the tile it is in.
template <class S, int M, int NV>
SEAM_INLINE void multiply(const typename S::Scalar* const (&left)[M], int64_t left_step,
                          const typename S::Scalar* __restrict__ panel, int64_t depth, typename S::V (&acc)[M][NV]) {
  for (int64_t k = 0; k < depth; ++k) {
    typename S::Scalar a[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) a[m] = left[m][k * left_step];
    add_outer<S, M, NV>(a, panel + k * NV * S::kLanes, acc);
  }
}

// Prefetches the cache lines of a row that will be written after the loop; else each tile would wait for them.
template <typename T>
SEAM_INLINE void prefetch_row(const T* p, int width) {
  for (int i = 0; i < width; i += int(64 / sizeof(T))) __builtin_prefetch(p + i, 1);
}

template <int N>
using Constant = std::integral_constant<int, N>;

// Calls body(Constant<count>) for 1 <= count <= Most, so that a tile's height is known to the compiler.
template <int Most, class Body>
SEAM_INLINE void with_constant(int64_t count, Body&& body) {
  if constexpr (Most > 1) {
    if (count != Most) return with_constant<Most - 1>(count, body);
  }
  body(Constant<Most>{});
}

// ---- Panels: up to kVectors vectors of adjacent columns, the last of them perhaps narrow ----------------------------

template <typename T, int NV, bool Tail>
struct PanelShape {
  static constexpr int kFull = NV;
  static constexpr bool kTail = Tail;
  static constexpr int64_t kWidth = NV * Wide<T>::kLanes + (Tail ? Narrow<T>::kLanes : 0);  // of a packed row

  // Calls body(Simd type, offset, lanes in use) for each vector of a row that has `width` columns in use.
  template <class Body>
  static SEAM_INLINE void each(int width, Body&& body) {
    constexpr int L = Wide<T>::kLanes;
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) body(Wide<T>{}, v * L, width - v * L < L ? width - v * L : L);
    if constexpr (Tail) body(Narrow<T>{}, NV * L, width - NV * L);
  }
};

template <typename T>
constexpr int64_t kPanelWidth = kVectors * Wide<T>::kLanes;

// Columns of a matrix in panels.
template <typename T>
int64_t column_panels(int64_t columns) {
  return (columns + kPanelWidth<T> - 1) / kPanelWidth<T>;
}

// Calls body(PanelShape, first column, number of columns) for panel `b`.
template <typename T, class Body>
SEAM_INLINE void with_panel(int64_t columns, int64_t b, Body&& body) {
  constexpr int L = Wide<T>::kLanes;
  const int64_t first = b * kPanelWidth<T>;
  const int width = int(columns - first < kPanelWidth<T> ? columns - first : kPanelWidth<T>);
  const int rest = width % L;
  if constexpr (Narrow<T>::kLanes < L) {
    if (0 < rest && rest <= Narrow<T>::kLanes) {
      if (width < L) return body(PanelShape<T, 0, true>{}, first, width);
      return with_constant<kVectors - 1>(
          width / L, [&](auto full) { body(PanelShape<T, decltype(full)::value, true>{}, first, width); });
    }
  }
  with_constant<kVectors>((width + L - 1) / L,
                          [&](auto full) { body(PanelShape<T, decltype(full)::value, false>{}, first, width); });
}

// Packs rows of a panel: panel[k] = load(Simd type, k, column, lanes in use), zeros in the lanes that are not.
template <typename T, class Shape, class Load>
SEAM_INLINE void pack_rows(Shape, int64_t depth, int64_t first, int width, T* panel, Load&& load) {
  for (int64_t k = 0; k < depth; ++k) {
    Shape::each(width, [&](auto simd, int offset, int n) {
      decltype(simd)::store(panel + k * Shape::kWidth + offset, load(simd, k, first + offset, n));
    });
  }
}

// out[m][column] = sum_k left[m][k * left_step] * panel[k][column], added to what is there if `add`.
template <typename T, class Shape, int M>
SEAM_INLINE void multiply_panel(Shape, const T* const (&left)[M], int64_t left_step, const T* __restrict__ panel,
                                int64_t depth, int width, T* const (&out)[M], bool add) {
  using W = Wide<T>;
  using N = Narrow<T>;
  constexpr int NV = Shape::kFull, L = W::kLanes;
  typename W::V acc[M][NV ? NV : 1];
  typename N::V tail[M][1];
  for (int m = 0; m < M; ++m) prefetch_row(out[m], width);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[m][v] = W::zero();
    tail[m][0] = N::zero();
  }
  for (int64_t k = 0; k < depth; ++k) {
    const T* right = panel + k * Shape::kWidth;
    T a[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) a[m] = left[m][k * left_step];
    add_outer<W, M, NV>(a, right, acc);
    if constexpr (Shape::kTail) add_outer<N, M, 1>(a, right + NV * L, tail);
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int n = width - v * L < L ? width - v * L : L;
      W::store(out[m] + v * L, add ? W::load(out[m] + v * L, n) + acc[m][v] : acc[m][v], n);
    }
    if constexpr (Shape::kTail) {
      const int n = width - NV * L;
      N::store(out[m] + NV * L, add ? N::load(out[m] + NV * L, n) + tail[m][0] : tail[m][0], n);
    }
  }
}

// n lanes of a masked weight from row q and column k on: the weight where its score is positive, else 0. With keep
// bits, k must be a multiple of the lanes.
template <class S>
SEAM_INLINE typename S::V load_effective(const seam::Masked<typename S::Scalar>& w, int64_t columns, int64_t q,
                                         int64_t k, int n) {
  const int64_t at = q * columns + k;
  if (w.keep_bits) return S::load_where(S::bits(w.keep_bits + q * w.keep_bits_stride, k), w.weight + at, n);
  const auto v = S::load(w.weight + at, n);
  return w.score ? S::keep(v, S::load(w.score + at, n)) : v;
}

// Packs a block of units of all four gates for products with rows of W: panel[k][gate][lane] is
// the masked W[gate * hidden + first_unit + lane, k]; zeros in the lanes from `units` on. Depth: columns [k0, k1).
template <class S>
SEAM_INLINE void pack_gates(const seam::Masked<typename S::Scalar>& w, int64_t columns, int64_t hidden,
                            int64_t first_unit, int units, int64_t k0, int64_t k1, typename S::Scalar* panel) {
  constexpr int L = S::kLanes;
  constexpr int64_t kAhead = 256 / sizeof(typename S::Scalar);
  for (int gate = 0; gate < 4; ++gate) {
    typename S::Scalar* out = panel + gate * L;
    for (int64_t k = k0; k < k1; k += L) {
      const int n = int(k1 - k < L ? k1 - k : L);
      typename S::V square[L];
#pragma GCC unroll 16
      for (int u = 0; u < L; ++u) {
        square[u] = S::zero();
        if (u < units) {
          const int64_t q = gate * hidden + first_unit + u;
          if (k + kAhead < k1) __builtin_prefetch(w.weight + q * columns + k + kAhead);
          square[u] = load_effective<S>(w, columns, q, k, n);
        }
      }
      S::transpose(square);
#pragma GCC unroll 16
      for (int j = 0; j < L; ++j) {
        if (j < n) S::store(out + (k - k0 + j) * 4 * L, square[j]);
      }
    }
  }
}

}  // namespace

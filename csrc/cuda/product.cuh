// Products over all rows at once, for sizes at which launches of a matrix library would take longer than the products:
// the projection of the input, with weights masked while they are loaded; and, in one launch, the gradients of the
// input and of the weights, whose sum over all rows is turned into a score's gradient in registers.
#pragma once

#include <type_traits>

#include "block.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

// ---- The rows of a panel --------------------------------------------------------------------------------------------

template <int N>
struct PanelRows {
  Shared<int32_t, N> time, before, sequence;

  // Computes the time and sequence of the rows from `first` on: one division per row instead of one per number. Rows go
  // step by step through all ranks; those after a sequence's end get the time -1 - time. `before`: the time of the
  // sequence's previous step, -1 for its first.
  template <int Count>
  SEAM_KERNEL void find(const BlockOf<1>& block, const Sequences& s, int64_t first) {
    static_assert(Count <= N);
    if (block.thread() < Count) {
      const int64_t row = first + block.thread(), step = row / s.batch;
      const Sequence of = sequence_at(s, row % s.batch);
      const bool runs = step < of.length;
      time.store(block.thread(), runs ? int32_t(step) : int32_t(-1 - step));
      before.store(block.thread(), of.before(int32_t(step)));
      sequence.store(block.thread(), of.index);
    }
  }
  SEAM_KERNEL bool runs(int at) const { return time.load(at) >= 0; }
  SEAM_KERNEL TimeIndex time_index(int at) const {
    const int32_t step = time.load(at);
    return {step < 0 ? -1 - step : step, sequence.load(at)};
  }
};

// ---- A tile of a product --------------------------------------------------------------------------------------------

// An S x S tile of a product by 256 threads, each of S / 16 rows and as many columns, from panels of `kDepth` terms.
template <class W, int S>
struct Tile {
  static constexpr int kThreads = 256, kDepth = 32, kEach = S / 16;
  static constexpr int kStride = S + 4;  // avoids bank conflicts along rows and along columns of a panel
  static constexpr int kPanels =
      2;  // panels that are summed separately, so that the rounding error grows only with the number of such groups

  struct Smem {
    Shared<W, kDepth * kStride> left, right;  // [term, row or column]
    PanelRows<(S > kDepth ? S : kDepth)> rows;
  };

  // Calls done(m, n, sum of left(m, k) right(k, n) over k, ahead(m, n)) for the tile at (first_m, first_n).
  // prepare(first_k) is called before the values of a panel are loaded, and is followed by a barrier; they are loaded
  // while the previous panel is multiplied. LeftByTerm, RightByTerm: numbers adjacent in memory have adjacent k.
  template <bool LeftByTerm, bool RightByTerm, class Prepare, class Left, class Right, class Ahead, class Done>
  static SEAM_KERNEL void multiply(const BlockOf<1>& block, Smem& smem, int64_t first_m, int64_t first_n, int64_t M,
                                   int64_t N, int64_t K, const Prepare& prepare, const Left& left, const Right& right,
                                   const Ahead& ahead, const Done& done) {
    constexpr int kLoads = S * kDepth / kThreads;  // loads of a thread for each operand of a panel
    const int row = block.thread() / 16 * kEach, column = block.thread() % 16 * kEach;
    W total[kEach][kEach] = {}, sum[kEach][kEach] = {}, of_left[kLoads], of_right[kLoads];
    // The row (column) and the term of number i of a panel.
    const auto across = [&](int i, bool by_term) { return by_term ? i / kDepth : i % S; };
    const auto term = [&](int i, bool by_term) { return by_term ? i % kDepth : i / S; };
    const auto fetch = [&](int64_t k_0) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int i = block.thread() + j * kThreads;
        const int64_t m = first_m + across(i, LeftByTerm), n = first_n + across(i, RightByTerm);
        const int64_t k_left = k_0 + term(i, LeftByTerm), k_right = k_0 + term(i, RightByTerm);
        of_left[j] = m < M && k_left < K ? widen(left(m, k_left)) : W(0);
        of_right[j] = n < N && k_right < K ? widen(right(k_right, n)) : W(0);
      }
    };
    prepare(0);
    block.sync();
    fetch(0);
    block.sync();
#pragma unroll 1
    for (int64_t k_0 = 0; k_0 < K; k_0 += kDepth) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int i = block.thread() + j * kThreads;
        smem.left.store(term(i, LeftByTerm) * kStride + across(i, LeftByTerm), of_left[j]);
        smem.right.store(term(i, RightByTerm) * kStride + across(i, RightByTerm), of_right[j]);
      }
      const bool more = k_0 + kDepth < K;
      if (more) prepare(k_0 + kDepth);
      block.sync();
      if (more) fetch(k_0 + kDepth);
#pragma unroll 4
      for (int k = 0; k < kDepth; ++k) {
        W a[kEach], b[kEach];
        load_each(smem.left, k * kStride + row, a);
        load_each(smem.right, k * kStride + column, b);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = Exact<W>::fma(a[i], b[j], sum[i][j]);
        }
      }
      block.sync();
      if (k_0 / kDepth % kPanels == kPanels - 1 || !more) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) total[i][j] += sum[i][j], sum[i][j] = W(0);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int64_t m = first_m + row + i, n = first_n + column + j;
        if (m < M && n < N) done(m, n, total[i][j], ahead(m, n));
      }
    }
  }

  template <class Panel>
  static SEAM_KERNEL void load_each(const Panel& panel, int at, W (&to)[2]) {
    panel.load2(at, to);
  }
  template <class Panel>
  static SEAM_KERNEL void load_each(const Panel& panel, int at, W (&to)[4]) {
    panel.load4(at, to);
  }
};

// The same for 16-bit numbers by tensor cores. The products take hardly any time, so the latency of each panel counts:
// panels have as many terms as there are registers for, and no load is in a branch, after which the compiler would wait
// for it; in place of numbers that do not exist others are loaded. What `ahead` loads comes with the first panel.
template <class T, int S>
struct ShortTile {
  static constexpr int kThreads = 256, kDepth = 2048 / S,
                       kStride = kDepth + 8;                         // puts the rows of a panel into different banks
  static constexpr int kTiles = S / 16 * (S / 8) / (kThreads / 32);  // tiles of 16 x 8 per warp, all of the same rows
  static_assert(S == 32 || S == 64);

  struct Smem {
    Shared<T, S * kStride> left, right;  // [row or column, term]
    PanelRows<(S > kDepth ? S : kDepth)> rows;
  };

  template <bool LeftByTerm, bool RightByTerm, class Prepare, class Left, class Right, class Ahead, class Done>
  static SEAM_KERNEL void multiply(const BlockOf<1>& block, Smem& smem, int64_t first_m, int64_t first_n, int64_t M,
                                   int64_t N, int64_t K, const Prepare& prepare, const Left& left, const Right& right,
                                   const Ahead& ahead, const Done& done) {
    constexpr int kLoads = S * kDepth / kThreads,
                  kWarps = S / 8 / kTiles;  // loads of a thread per operand; warps side by side
    const int g = block.lane() / 4, t = block.lane() % 4;
    const int row = block.warp() / kWarps * 16 + g, column = block.warp() % kWarps * kTiles * 8;
    const T zero = narrow<T>(0.0f);
    float sums[2][kTiles][4] = {};  // two independent chains, each of every other 16 terms
    T of_left[kLoads], of_right[kLoads];
    const auto across = [&](int i, bool by_term) { return by_term ? i / kDepth : i % S; };
    const auto term = [&](int i, bool by_term) { return by_term ? i % kDepth : i / S; };
    const auto fetch = [&](int64_t k_0) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int i = block.thread() + j * kThreads;
        const int64_t m = first_m + across(i, LeftByTerm), n = first_n + across(i, RightByTerm);
        const int64_t k_left = k_0 + term(i, LeftByTerm), k_right = k_0 + term(i, RightByTerm);
        const bool is_left = m < M && k_left < K, is_right = n < N && k_right < K;
        const T a = left(is_left ? m : first_m, is_left ? k_left : k_0);
        const T b = right(is_right ? k_right : k_0, is_right ? n : first_n);
        of_left[j] = is_left ? a : zero;
        of_right[j] = is_right ? b : zero;
      }
    };
    const auto two = [](const Shared<T, S * kStride>& panel, int at) {
      T numbers[2];
      panel.load2(at, numbers);
      return pack(numbers[0], numbers[1]);
    };
    const auto of = [&](int tile, int i, int64_t& m,
                        int64_t& n) {  // the indices of number i of a tile; returns whether it exists
      m = first_m + row + i / 2 * 8, n = first_n + column + tile * 8 + 2 * t + i % 2;
      return m < M && n < N;
    };
    prepare(0);
    block.sync();
    fetch(0);
    decltype(ahead(first_m, first_n)) known[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int64_t m, n;
        const bool exists = of(tile, i, m, n);
        known[tile][i] = ahead(exists ? m : first_m, exists ? n : first_n);
      }
    }
    block.sync();
#pragma unroll 1
    for (int64_t k_0 = 0; k_0 < K; k_0 += kDepth) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int i = block.thread() + j * kThreads;
        smem.left.store(across(i, LeftByTerm) * kStride + term(i, LeftByTerm), of_left[j]);
        smem.right.store(across(i, RightByTerm) * kStride + term(i, RightByTerm), of_right[j]);
      }
      const bool more = k_0 + kDepth < K;
      if (more) prepare(k_0 + kDepth);
      block.sync();
      if (more) fetch(k_0 + kDepth);
#pragma unroll 2
      for (int k = 0; k < kDepth / 16; ++k) {
        const int at = row * kStride + k * 16 + 2 * t;
        const uint32_t a[4] = {two(smem.left, at), two(smem.left, at + 8 * kStride), two(smem.left, at + 8),
                               two(smem.left, at + 8 * kStride + 8)};
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const int from = (column + tile * 8 + g) * kStride + k * 16 + 2 * t;
          const uint32_t b[2] = {two(smem.right, from), two(smem.right, from + 8)};
          block.multiply(sums[k % 2][tile], a, b, T{});
        }
      }
      block.sync();
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int64_t m, n;
        if (of(tile, i, m, n)) done(m, n, sums[0][tile][i] + sums[1][tile][i], known[tile][i]);
      }
    }
  }
};

template <class T, int S>
using TileOf = std::conditional_t<sizeof(T) == 2, ShortTile<T, S>, Tile<Wide<T>, S>>;

// The loaded number if it exists, else 0. 16-bit numbers are loaded in any case, see ShortTile: `read` must give a
// valid one then.
template <class T, class Read>
SEAM_KERNEL T read_or_zero(bool counts, const Read& read) {
  const T zero = narrow<T>(Wide<T>(0));
  if constexpr (sizeof(T) == 2) {
    const T value = read();
    return counts ? value : zero;
  } else {
    return counts ? read() : zero;
  }
}

// A weight that is loaded only when it is needed; for 16-bit inputs, whose weights may be float32, of its own type.
template <class T>
struct LookedUp {
  MaskedNumbers weights;
  SEAM_KERNEL Wide<T> effective(int64_t i) const { return gpu::effective<T>(weights, i); }
  SEAM_KERNEL int known(int64_t) const { return 0; }
};
template <class T, class Body>
SEAM_KERNEL void with_weights(const MaskedNumbers& weights, const Body& body) {
  if constexpr (sizeof(T) == 2) with_weight<T>(weights, body);
  else body(LookedUp<T>{weights});
}
template <class T, class Known>
SEAM_KERNEL void store_known_gradient(const Gradient& g, int64_t i, Wide<T> sum, const Known& known) {
  if constexpr (sizeof(T) == 2) store_gradient(g, i, sum, known);
  else store_gradient<T>(g, i, sum);
}

// Numbers the tiles of several products consecutively.
template <int S>
struct Tiles {
  int64_t columns, count;
  SEAM_INLINE Tiles(int64_t M, int64_t N) : columns((N + S - 1) / S), count((M + S - 1) / S * columns) {}
  SEAM_INLINE int64_t m(int64_t tile) const { return tile / columns * S; }
  SEAM_INLINE int64_t n(int64_t tile) const { return tile % columns * S; }
};

// ---- The projection of the input ------------------------------------------------------------------------------------

template <class T, int S>
struct Projection {
  static constexpr bool kMayBeBatched = std::is_same_v<T, float>;  // in launches of several calls, see block.cuh
  using W = Wide<T>;
  using Product = TileOf<T, S>;
  using Params = ProjectionParams<T>;
  using Smem = typename Product::Smem;
  static constexpr int kThreads = Product::kThreads, kCluster = 1;

  static SEAM_INLINE Tiles<S> tiles(const Params& p) {
    return {p.sequences.steps * p.sequences.batch, kGates * p.hidden};
  }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    const int64_t rows = p.sequences.steps * p.sequences.batch, I = p.input_size, m_0 = tiles(p).m(block.index());
    with_weights<T>(p.weight_ih, [&](const auto& weight) {
      Product::template multiply<true, true>(
          block, smem, m_0, tiles(p).n(block.index()), rows, kGates * p.hidden, I,
          [&](int64_t k_0) {
            if (k_0 == 0) smem.rows.template find<S>(block, p.sequences, m_0);
          },
          [&](int64_t m, int64_t k) {
            const int at = int(m - m_0);
            return read_or_zero<T>(smem.rows.runs(at), [&] { return load(p.input.at(smem.rows.time_index(at)) + k); });
          },
          [&](int64_t k, int64_t n) { return narrow<T>(weight.effective(n * I + k)); },
          [](int64_t, int64_t) { return 0; },
          [&](int64_t m, int64_t n, W sum, int) {
            store(p.gates.at(smem.rows.time_index(int(m - m_0))) + n, narrow<T>(sum));
          });
    });
  }
};

// ---- Gradients of the input and of the weights ----------------------------------------------------------------------

template <class T, int S>
struct Gradients {
  static constexpr bool kMayBeBatched = std::is_same_v<T, float>;  // in launches of several calls, see block.cuh
  using W = Wide<T>;
  using Product = TileOf<T, S>;
  using Params = GradientParams<T>;
  using Smem = typename Product::Smem;
  static constexpr int kThreads = Product::kThreads, kCluster = 1;

  static SEAM_INLINE bool wants_bias(const Params& p) { return p.bias_ih.wanted() || p.bias_hh.wanted(); }
  static SEAM_INLINE int64_t rows(const Params& p) { return p.sequences.steps * p.sequences.batch; }
  static SEAM_INLINE Tiles<S> input_tiles(const Params& p) { return {p.grad_input.data ? rows(p) : 0, p.input_size}; }
  static SEAM_INLINE Tiles<S> ih_tiles(const Params& p) {
    return {p.ih.wanted() ? kGates * p.hidden : 0, p.input_size};
  }
  static SEAM_INLINE int64_t
  hh_columns(const Params& p) {  // one more for the bias, which is the weight of a constant 1
    return (p.hh.wanted() ? p.hidden : 0) + (wants_bias(p) ? 1 : 0);
  }
  static SEAM_INLINE Tiles<S> hh_tiles(const Params& p) { return {kGates * p.hidden, hh_columns(p)}; }
  static SEAM_INLINE int64_t tile_count(const Params& p) {
    return input_tiles(p).count + ih_tiles(p).count + hh_tiles(p).count;
  }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    const Tiles<S> of_input = input_tiles(p), of_ih = ih_tiles(p), of_hh = hh_tiles(p);
    int64_t tile = block.index();
    if (tile < of_input.count) {
      with_weights<T>(p.weight_ih, [&](const auto& weight) {
        input_gradient(block, smem, p, weight, of_input.m(tile), of_input.n(tile));
      });
    } else if ((tile -= of_input.count) < of_ih.count) {
      with_weights<T>(p.ih.masked, [&](const auto& weight) {
        weight_gradient(
            block, smem, p, of_ih.m(tile), of_ih.n(tile), p.input_size,
            [&](int at, int64_t n) { return load(p.input.at(smem.rows.time_index(at)) + n); },
            [&](int64_t m, int64_t n) { return weight.known(m * p.input_size + n); },
            [&](int64_t m, int64_t n, W sum, const auto& known) {
              store_known_gradient<T>(p.ih, m * p.input_size + n, sum, known);
            });
      });
    } else {
      tile -= of_ih.count;
      const int64_t bias = p.hh.wanted() ? p.hidden : 0;
      with_weights<T>(p.hh.masked, [&](const auto& weight) {
        weight_gradient(
            block, smem, p, of_hh.m(tile), of_hh.n(tile), hh_columns(p),
            [&](int at, int64_t n) {
              if (sizeof(T) > 2 && n == bias) return narrow<T>(W(1));
              const T before = hidden_before(p, smem, at, n == bias ? 0 : n);
              return n == bias ? narrow<T>(W(1)) : before;
            },
            [&](int64_t m, int64_t n) { return weight.known(n < bias ? m * p.hidden + n : 0); },
            [&](int64_t m, int64_t n, W sum, const auto& known) {
              if (n < bias) {
                store_known_gradient<T>(p.hh, m * p.hidden + n, sum, known);
              } else {
                if (p.bias_ih.wanted()) store_gradient<T>(p.bias_ih, m, sum);
                if (p.bias_hh.wanted()) store_gradient<T>(p.bias_hh, m, sum);
              }
            });
      });
    }
  }

 private:
  template <class OfWeight>
  static SEAM_KERNEL void input_gradient(const BlockOf<1>& block, Smem& smem, const Params& p, const OfWeight& weight,
                                         int64_t m_0, int64_t n_0) {
    const int64_t G = kGates * p.hidden, I = p.input_size;
    Product::template multiply<true, false>(
        block, smem, m_0, n_0, rows(p), I, G,
        [&](int64_t k_0) {
          if (k_0 == 0) smem.rows.template find<S>(block, p.sequences, m_0);
        },
        [&](int64_t m, int64_t k) {
          const int at = int(m - m_0);
          return read_or_zero<T>(smem.rows.runs(at), [&] { return load(p.d_gates.at(smem.rows.time_index(at)) + k); });
        },
        [&](int64_t k, int64_t n) { return narrow<T>(weight.effective(k * I + n)); },
        [](int64_t, int64_t) { return 0; },
        [&](int64_t m, int64_t n, W sum, int) {
          const int at = int(m - m_0);
          T* const to = p.grad_input.at(smem.rows.time_index(at)) + n;
          if (!smem.rows.runs(at)) sum = W(0);  // a NaN or inf weight must not reach a step that does not exist
          if (p.add_to_grad_input) sum += widen(load(to));
          store(to, narrow<T>(sum));
        });
  }

  template <class Right, class Ahead, class Done>
  static SEAM_KERNEL void weight_gradient(const BlockOf<1>& block, Smem& smem, const Params& p, int64_t m_0,
                                          int64_t n_0, int64_t N, const Right& right, const Ahead& ahead,
                                          const Done& done) {
    int64_t first = 0;  // first row of the panel
    Product::template multiply<false, false>(
        block, smem, m_0, n_0, kGates * p.hidden, N, rows(p),
        [&](int64_t k_0) {
          first = k_0;
          smem.rows.template find<Product::kDepth>(block, p.sequences, k_0);
        },
        [&](int64_t m, int64_t k) {
          const int at = int(k - first);
          return read_or_zero<T>(smem.rows.runs(at), [&] { return load(p.d_gates.at(smem.rows.time_index(at)) + m); });
        },
        [&](int64_t k, int64_t n) {
          const int at = int(k - first);
          return read_or_zero<T>(smem.rows.runs(at), [&] { return right(at, n); });
        },
        ahead, done);
  }

  // The hidden state before a row's step.
  static SEAM_KERNEL T hidden_before(const Params& p, const Smem& smem, int at, int64_t unit) {
    const int32_t before = smem.rows.before.load(at), sequence = smem.rows.sequence.load(at);
    return read_or_zero<T>(before >= 0 || p.h_0, [&] {
      const T* const first = p.h_0 ? p.h_0 + sequence * p.hidden : p.output.at({0, sequence});  // loaded, but not used
      return load((before >= 0 ? p.output.at({before, sequence}) : first) + unit);
    });
  }
};

}  // namespace seam::gpu

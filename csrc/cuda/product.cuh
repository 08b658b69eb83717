// Products over all rows at once, for sizes at which a matrix library would spend its time starting up: the projection of
// the input, with weights masked while they are loaded; and, in one launch, the gradients of the input and of the weights,
// whose sum over all rows becomes a score's gradient before it leaves the registers.
#pragma once

#include "block.cuh"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

// ---- A tile of a product ----------------------------------------------------------------------------------------------

// S x S numbers of a product by 256 threads, each S / 16 rows and as many columns, from panels of `kDepth` terms.
template <class W, int S>
struct Tile {
  static constexpr int kThreads = 256, kDepth = 32, kEach = S / 16;
  static constexpr int kStride = S + 4;  // so that neither rows nor columns of a panel all share a bank
  static constexpr int kPanels = 8;      // are added up by themselves: so a sum's error grows with their number only

  struct Smem {
    Shared<W, kDepth * kStride> left, right;             // [term, row or column]
    Shared<int32_t, (S > kDepth ? S : kDepth)> time, before, sequence;  // of the rows that a panel is made of
  };

  // Calls done(m, n, sum of left(m, k) right(k, n) over k) for the tile at (first_m, first_n). prepare(first_k) comes
  // before the values of a panel are asked for, and is followed by a barrier; they are asked for while the panel before is
  // multiplied. LeftByTerm, RightByTerm: neighbours in memory have neighbouring k.
  template <bool LeftByTerm, bool RightByTerm, class Prepare, class Left, class Right, class Done>
  static SEAM_KERNEL void multiply(const BlockOf<1>& block, Smem& smem, int64_t first_m, int64_t first_n, int64_t M,
                                   int64_t N, int64_t K, const Prepare& prepare, const Left& left, const Right& right,
                                   const Done& done) {
    constexpr int kLoads = S * kDepth / kThreads;  // of a thread, for each side of a panel
    const int row = block.thread() / 16 * kEach, column = block.thread() % 16 * kEach;
    W total[kEach][kEach] = {}, sum[kEach][kEach] = {}, of_left[kLoads], of_right[kLoads];
    // Number i of a panel: which row (column) it is of, and which term.
    const auto across = [&](int i, bool by_term) { return by_term ? i / kDepth : i % S; };
    const auto term = [&](int i, bool by_term) { return by_term ? i % kDepth : i / S; };
    const auto fetch = [&](int64_t k_0) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int i = block.thread() + j * kThreads;
        const int64_t m = first_m + across(i, LeftByTerm), n = first_n + across(i, RightByTerm);
        const int64_t k_left = k_0 + term(i, LeftByTerm), k_right = k_0 + term(i, RightByTerm);
        of_left[j] = m < M && k_left < K ? left(m, k_left) : W(0);
        of_right[j] = n < N && k_right < K ? right(k_right, n) : W(0);
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
        if (m < M && n < N) done(m, n, total[i][j]);
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

  // Where the rows from `first` on lie: one division each instead of one for every number of it. Rows go step by step
  // through all ranks; those behind a sequence's end get the time -1 - time. `before`: the time of the sequence's step
  // before, -1 for its first.
  template <int Count>
  static SEAM_KERNEL void find_rows(const BlockOf<1>& block, Smem& smem, const Sequences& s, int64_t first) {
    if (block.thread() < Count) {
      const int64_t row = first + block.thread(), time = row / s.batch;
      const Sequence sequence = sequence_at(s, row % s.batch);
      const bool runs = time < sequence.length;
      smem.time.store(block.thread(), runs ? int32_t(time) : int32_t(-1 - time));
      smem.before.store(block.thread(), sequence.before(int32_t(time)));
      smem.sequence.store(block.thread(), sequence.index);
    }
  }
  static SEAM_KERNEL bool runs(const Smem& smem, int at) { return smem.time.load(at) >= 0; }
  static SEAM_KERNEL Place place(const Smem& smem, int at) {
    const int32_t time = smem.time.load(at);
    return {time < 0 ? -1 - time : time, smem.sequence.load(at)};
  }
};

// The tiles of several products, numbered one after the other.
template <int S>
struct Tiles {
  int64_t columns, count;
  SEAM_INLINE Tiles(int64_t M, int64_t N) : columns((N + S - 1) / S), count((M + S - 1) / S * columns) {}
  SEAM_INLINE int64_t m(int64_t tile) const { return tile / columns * S; }
  SEAM_INLINE int64_t n(int64_t tile) const { return tile % columns * S; }
};

// ---- The projection of the input --------------------------------------------------------------------------------------

template <class T, int S>
struct Projection {
  using W = Wide<T>;
  using Product = Tile<W, S>;
  using Params = ProjectionParams<T>;
  using Smem = typename Product::Smem;
  static constexpr int kThreads = Product::kThreads, kCluster = 1;

  static SEAM_INLINE Tiles<S> tiles(const Params& p) {
    return {p.sequences.steps * p.sequences.batch, kGates * p.hidden};
  }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    const int64_t rows = p.sequences.steps * p.sequences.batch, I = p.input_size, m_0 = tiles(p).m(block.index());
    Product::template multiply<true, true>(
        block, smem, m_0, tiles(p).n(block.index()), rows, kGates * p.hidden, I,
        [&](int64_t k_0) {
          if (k_0 == 0) Product::template find_rows<S>(block, smem, p.sequences, m_0);
        },
        [&](int64_t m, int64_t k) {
          const int at = int(m - m_0);
          return Product::runs(smem, at) ? widen(load(p.input.at(Product::place(smem, at)) + k)) : W(0);
        },
        [&](int64_t k, int64_t n) { return effective<T>(p.weight_ih, n * I + k); },
        [&](int64_t m, int64_t n, W sum) {
          store(p.gates.at(Product::place(smem, int(m - m_0))) + n, narrow<T>(sum));
        });
  }
};

// ---- Gradients of the input and of the weights ------------------------------------------------------------------------

template <class T, int S>
struct Gradients {
  using W = Wide<T>;
  using Product = Tile<W, S>;
  using Params = GradientParams<T>;
  using Smem = typename Product::Smem;
  static constexpr int kThreads = Product::kThreads, kCluster = 1;

  static SEAM_INLINE bool wants_bias(const Params& p) { return p.bias_ih.wanted() || p.bias_hh.wanted(); }
  static SEAM_INLINE int64_t rows(const Params& p) { return p.sequences.steps * p.sequences.batch; }
  static SEAM_INLINE Tiles<S> input_tiles(const Params& p) {
    return {p.grad_input.data ? rows(p) : 0, p.input_size};
  }
  static SEAM_INLINE Tiles<S> ih_tiles(const Params& p) {
    return {p.ih.wanted() ? kGates * p.hidden : 0, p.input_size};
  }
  static SEAM_INLINE int64_t hh_columns(const Params& p) {  // one more for the bias, which is a weight of the number 1
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
      input_gradient(block, smem, p, of_input.m(tile), of_input.n(tile));
    } else if ((tile -= of_input.count) < of_ih.count) {
      weight_gradient(
          block, smem, p, of_ih.m(tile), of_ih.n(tile), p.input_size,
          [&](int at, int64_t n) { return widen(load(p.input.at(Product::place(smem, at)) + n)); },
          [&](int64_t m, int64_t n, W sum) { store_gradient<T>(p.ih, m * p.input_size + n, sum); });
    } else {
      tile -= of_ih.count;
      const int64_t bias = p.hh.wanted() ? p.hidden : 0;
      weight_gradient(
          block, smem, p, of_hh.m(tile), of_hh.n(tile), hh_columns(p),
          [&](int at, int64_t n) { return n == bias ? W(1) : hidden_before(p, smem, at, n); },
          [&](int64_t m, int64_t n, W sum) {
            if (n < bias) {
              store_gradient<T>(p.hh, m * p.hidden + n, sum);
            } else {
              if (p.bias_ih.wanted()) store_gradient<T>(p.bias_ih, m, sum);
              if (p.bias_hh.wanted()) store_gradient<T>(p.bias_hh, m, sum);
            }
          });
    }
  }

 private:
  static SEAM_KERNEL void input_gradient(const BlockOf<1>& block, Smem& smem, const Params& p, int64_t m_0,
                                         int64_t n_0) {
    const int64_t G = kGates * p.hidden, I = p.input_size;
    Product::template multiply<true, false>(
        block, smem, m_0, n_0, rows(p), I, G,
        [&](int64_t k_0) {
          if (k_0 == 0) Product::template find_rows<S>(block, smem, p.sequences, m_0);
        },
        [&](int64_t m, int64_t k) {
          const int at = int(m - m_0);
          return Product::runs(smem, at) ? widen(load(p.d_gates.at(Product::place(smem, at)) + k)) : W(0);
        },
        [&](int64_t k, int64_t n) { return effective<T>(p.weight_ih, k * I + n); },
        [&](int64_t m, int64_t n, W sum) {
          const int at = int(m - m_0);
          T* const to = p.grad_input.at(Product::place(smem, at)) + n;
          if (!Product::runs(smem, at)) sum = W(0);  // whatever the weights are
          if (p.add_to_grad_input) sum += widen(load(to));
          store(to, narrow<T>(sum));
        });
  }

  template <class Right, class Done>
  static SEAM_KERNEL void weight_gradient(const BlockOf<1>& block, Smem& smem, const Params& p, int64_t m_0, int64_t n_0,
                                          int64_t N, const Right& right, const Done& done) {
    int64_t first = 0;  // row of the panel
    Product::template multiply<false, false>(
        block, smem, m_0, n_0, kGates * p.hidden, N, rows(p),
        [&](int64_t k_0) {
          first = k_0;
          Product::template find_rows<Product::kDepth>(block, smem, p.sequences, k_0);
        },
        [&](int64_t m, int64_t k) {
          const int at = int(k - first);
          return Product::runs(smem, at) ? widen(load(p.d_gates.at(Product::place(smem, at)) + m)) : W(0);
        },
        [&](int64_t k, int64_t n) {
          const int at = int(k - first);
          return Product::runs(smem, at) ? right(at, n) : W(0);
        },
        done);
  }

  // The hidden state that a row began with.
  static SEAM_KERNEL W hidden_before(const Params& p, const Smem& smem, int at, int64_t unit) {
    const int32_t before = smem.before.load(at), sequence = smem.sequence.load(at);
    if (before >= 0) return widen(load(p.output.at({before, sequence}) + unit));
    return p.h_0 ? widen(load(p.h_0 + sequence * p.hidden + unit)) : W(0);
  }
};

}  // namespace seam::gpu

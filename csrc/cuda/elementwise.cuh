// Elementwise kernels: the steps between the products of a matrix library, and small work around the recurrence.
#pragma once

#include "block.cuh"
#include "common/lstm_cell.h"
#include "sequences.cuh"
#include "weights.cuh"

namespace seam::gpu {

// A grid-stride loop over `size` tasks.
struct Elementwise {
  static constexpr int kThreads = 256, kCluster = 1;
  static constexpr bool kMayBeBatched = true;  // in launches of several calls, see block.cuh
  struct Smem {};

  template <class Body>
  static SEAM_KERNEL void each(const BlockOf<1>& block, int64_t size, const Body& body) {
    const int64_t stride = int64_t(block.count()) * kThreads;
    for (int64_t i = int64_t(block.index()) * kThreads + block.thread(); i < size; i += stride) body(i);
  }
};

// ---- Before the recurrence ------------------------------------------------------------------------------------------

// A sequence's rank is the number of sequences that are longer, or as long with a lower index.
struct Order : Elementwise {
  using Params = OrderParams;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    each(block, p.batch, [&](int64_t b) {
      const int64_t mine = clamped(p, b);
      int64_t rank = 0;
      for (int64_t other = 0; other < p.batch; ++other) {
        const int64_t length = clamped(p, other);
        rank += length > mine || (length == mine && other < b);
      }
      store(p.order + rank, int32_t(b));
      store(p.length + rank, int32_t(mine));
    });
  }

 private:
  static SEAM_KERNEL int64_t clamped(const Params& p, int64_t b) {
    const int64_t length = load(p.lengths + b);
    return length < 0 ? 0 : length > p.steps ? p.steps : length;
  }
};

template <class T, class To>
struct Effective : Elementwise {
  using Params = EffectiveParams<To>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    each(block, p.size,
         [&](int64_t i) { store(p.to + i, narrow<To>(effective<T>(p.from, i) + effective<T>(p.and_from, i))); });
  }
};

template <class T>
struct Padding : Elementwise {
  using Params = PaddingParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const Sequences& s = p.sequences;
    each(block, s.steps * s.batch * p.width, [&](int64_t i) {
      const int64_t row = i / p.width, time = row / s.batch;
      const Sequence sequence = sequence_at(s, row % s.batch);
      if (time < sequence.length) return;
      store(p.rows.at({int32_t(time), sequence.index}) + i % p.width, narrow<T>(Wide<T>(0)));
    });
  }
};

// ---- The recurrence, one step at a time -----------------------------------------------------------------------------

// Before the first step: orders the states by rank. Writes the results of sequences without steps.
template <class T>
struct ForwardStart : Elementwise {
  using Params = ForwardStepParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const T zero = narrow<T>(Wide<T>(0));
    each(block, p.sequences.batch * p.hidden, [&](int64_t i) {
      const Sequence sequence = sequence_at(p.sequences, i / p.hidden);
      const int64_t state = sequence.index * p.hidden + i % p.hidden;
      const T h = p.h_0 ? load(p.h_0 + state) : zero, c = p.c_0 ? load(p.c_0 + state) : zero;
      store(p.h + i, h);
      store(p.c + i, widen(c));
      if (sequence.length > 0) return;
      store(p.h_n + state, h);
      store(p.c_n + state, c);
    });
  }
};

template <class T>
struct ForwardStep : Elementwise {
  using Params = ForwardStepParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    using M = Arithmetic<T>;
    each(block, p.running * p.hidden, [&](int64_t i) {
      const int64_t rank = i / p.hidden, unit = i % p.hidden;
      const Sequence sequence = sequence_at(p.sequences, rank);
      if (p.step >= sequence.length) return;
      const TimeIndex index = sequence.at(int(p.step));
      T* const row = p.gates.at(index) + unit;
      Wide<T> gates[kGates], c = load(p.c + i), h;
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        gates[g] = widen(load(row + g * p.hidden)) + widen(load(p.product + (rank * kGates + g) * p.hidden + unit));
        if (p.bias) gates[g] += load(p.bias + g * p.hidden + unit);
      }
      activate<M>(gates);
      cell_forward<M>(gates, c, c, h);
      const T narrow_h = narrow<T>(h);
      store(p.h + i, narrow_h);
      store(p.c + i, c);
      store(p.output.at(index) + unit, narrow_h);
      if (p.cells.data) {
        store(p.cells.at(index) + unit, c);
#pragma unroll
        for (int g = 0; g < kGates; ++g) store(row + g * p.hidden, narrow<T>(gates[g]));
      }
      if (p.step + 1 < sequence.length) return;
      store(p.h_n + sequence.index * p.hidden + unit, narrow_h);
      store(p.c_n + sequence.index * p.hidden + unit, narrow<T>(c));
    });
  }
};

template <class T>
struct BackwardStep : Elementwise {
  using Params = BackwardStepParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    using M = Arithmetic<T>;
    using W = Wide<T>;
    each(block, p.running * p.hidden, [&](int64_t i) {
      const int64_t rank = i / p.hidden, unit = i % p.hidden;
      const Sequence sequence = sequence_at(p.sequences, rank);
      const bool runs = p.step < sequence.length, ends = p.step == sequence.length - 1;
      CellGradient<M> d = {};
      const int64_t state = sequence.index * p.hidden + unit;
      if (runs) {
        const TimeIndex index = sequence.at(int(p.step));
        W gates[kGates];
#pragma unroll
        for (int g = 0; g < kGates; ++g) gates[g] = widen(load(p.gates.at(index) + g * p.hidden + unit));
        W c_prev = 0, d_h = 0, d_c = 0;
        if (p.step > 0) c_prev = load(p.cells.at(sequence.at(int(p.step) - 1)) + unit);
        else if (p.c_0) c_prev = widen(load(p.c_0 + state));
        if (!ends) d_h = widen(load(p.product + i)), d_c = load(p.d_c + i);
        else if (p.grad_h_n) d_h = widen(load(p.grad_h_n + state));
        if (ends && p.grad_c_n) d_c = widen(load(p.grad_c_n + state));
        if (p.grad_output.data) d_h += widen(load(p.grad_output.at(index) + unit));
        d = cell_backward<M>(cell_factors<M>(gates, load(p.cells.at(index) + unit), c_prev), d_h, d_c);
        store(p.d_c + i, d.c_prev);
#pragma unroll
        for (int g = 0; g < kGates; ++g) store(p.d_gates.at(index) + g * p.hidden + unit, narrow<T>(d.gates[g]));
      }
#pragma unroll
      for (int g = 0; g < kGates; ++g) store(p.d_step + (rank * kGates + g) * p.hidden + unit, narrow<T>(d.gates[g]));
    });
  }
};

// After step 0: gradients of the first states, by sequence.
template <class T>
struct BackwardEnd : Elementwise {
  using Params = BackwardStepParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const T zero = narrow<T>(Wide<T>(0));
    each(block, p.sequences.batch * p.hidden, [&](int64_t i) {
      const Sequence sequence = sequence_at(p.sequences, i / p.hidden);
      const int64_t state = sequence.index * p.hidden + i % p.hidden;
      const bool ran = sequence.length > 0;
      if (p.grad_h_0) {
        store(p.grad_h_0 + state, ran ? load(p.product + i) : p.grad_h_n ? load(p.grad_h_n + state) : zero);
      }
      if (p.grad_c_0) {
        store(p.grad_c_0 + state, ran ? narrow<T>(load(p.d_c + i)) : p.grad_c_n ? load(p.grad_c_n + state) : zero);
      }
    });
  }
};

// ---- After it -------------------------------------------------------------------------------------------------------

template <class T>
struct CopyRows : Elementwise {
  using Params = CopyRowsParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    const Sequences& s = p.sequences;
    each(block, s.steps * s.batch * p.width, [&](int64_t i) {
      const int64_t row = i / p.width, column = p.first + i % p.width;
      const int32_t time = int32_t(row / s.batch);
      const Sequence sequence = sequence_at(s, row % s.batch);
      T value = narrow<T>(Wide<T>(0));
      if (time < sequence.length) {
        if (const int32_t from = p.before ? sequence.before(time) : time; from >= 0) {
          value = load(p.from.at({from, sequence.index}) + column);
        } else if (p.h_0) {
          value = load(p.h_0 + sequence.index * p.hidden + column);
        }
      }
      store(p.to.at({time, sequence.index}) + i % p.width, value);
    });
  }
};

// Sums of columns over the rows of each part.
template <class T>
struct ColumnSums {
  static constexpr int kThreads = 256, kCluster = 1, kColumns = 32, kRows = kThreads / kColumns;
  using Params = ColumnSumsParams<T>;
  struct Smem {
    Shared<Wide<T>, kThreads> sums;
  };

  static SEAM_INLINE int64_t tiles(const Params& p) { return (p.columns + kColumns - 1) / kColumns; }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    const int64_t part = block.index() / tiles(p), column = block.index() % tiles(p) * kColumns + block.lane();
    const bool exists = column < p.columns;
    const int64_t until = (part + 1) * p.rows_of_part, end = exists ? (until < p.rows ? until : p.rows) : 0;
    Wide<T> sum = 0;
#pragma unroll 8
    for (int64_t row = part * p.rows_of_part + block.warp(); row < end; row += kRows) {
      sum += widen(load(p.from + row * p.columns + column));
    }
    smem.sums.store(block.thread(), sum);
    block.sync();
    if (block.warp() > 0 || !exists) return;
#pragma unroll
    for (int warp = 1; warp < kRows; ++warp) sum += smem.sums.load(warp * kColumns + block.lane());
    store(p.parts + part * p.columns + column, sum);
  }
};

template <class T>
struct Finish : Elementwise {
  using Params = FinishParams<T>;

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    each(block, p.size, [&](int64_t i) {
      const int64_t row = i / p.width, column = i % p.width;
      Wide<T> sum = 0;
#pragma unroll 8
      for (int64_t part = 0; part < p.parts; ++part) sum += load(p.sum + part * p.size + row * p.stride + column);
      store_gradient<T>(p.gradient, p.first + row * p.columns + column, sum);
      if (p.other.wanted()) store_gradient<T>(p.other, p.first + row * p.columns + column, sum);
    });
  }
};

}  // namespace seam::gpu

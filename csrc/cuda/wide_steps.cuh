// A training step of one module by the whole GPU, with a launch for each phase: for batches of so many words that a
// cluster would take longer than ten launches. The phases are those of seam_steps.cuh:
//
//   WideProject   the input projection of each distinct word
//   WideSpread    copies it to all positions that hold the word; then the op's recurrence (recurrent_plan.cuh) runs
//   WideHead      linear layer, head and loss, back to the gradients of the last hidden states; brings the stale rows
//   of the next
//                 step up to date. Then the op's recurrence runs back through time
//   WideSums      gradients of gates summed over pieces of each word's positions; those of W_hh and the biases over
//   parts of all WideJoin      the sums over a word's pieces WideLearn     update of the words' rows; W_ih's gradient
//   over parts of the words WideFinish    sums over the parts; update of W_hh, W_ih, biases, linear layer and head
//   WideGather    the effective embeddings of the next step's words; whether everything was finite
//
// Sums are divided into pieces because of frequent words: of 8,000 positions 2,000 may hold the unknown word, and a
// single thread that summed them all would be waited for. Each number is summed in a fixed order, so the same input
// gives the same bits. A failed step is recorded and reported; the results of later steps are meaningless.
#pragma once

#include "seam_phases.cuh"

namespace seam::gpu {

// Kernels of blocks of 256 threads, without clusters.
struct WideKernel {
  static constexpr int kThreads = 256, kCluster = 1, kWarps = kThreads / 32;
  using Params = WideParams;
  struct Nothing {};

  static SEAM_KERNEL int number(const BlockOf<1>& block) { return int(block.index()) * kThreads + block.thread(); }
  static SEAM_KERNEL int numbers(const BlockOf<1>& block) { return int(block.count()) * kThreads; }
  static SEAM_KERNEL AdamStep<float> adam_step_of(const WideParams& w) {
    return load(w.train.rows.step + (w.train.now - w.train.rows.first + w.step));
  }
  // The union of the bits of all lanes of the warp.
  static SEAM_KERNEL uint32_t of_warp(const BlockOf<1>& block, uint32_t bad) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) bad |= block.shuffle_xor(bad, mask);
    return bad;
  }
  // Each warp stores its bits for WideGather; kernel: 0, 1 or 2 of the kernels that check.
  static SEAM_KERNEL void leave(const BlockOf<1>& block, const WideParams& w, int kernel, uint32_t bad) {
    bad = of_warp(block, bad);
    const int at = (kernel * kWideBlocks + int(block.index())) * kWarps + block.warp();
    if (block.lane() == 0) store(w.scratch.flags + at, int32_t(bad));
  }
};

// Stores the sums of a product for a later kernel; rows are `stride` apart.
struct StoreSums {
  float* to;
  int64_t stride;
  SEAM_KERNEL void operator()(int m, int n, int count, const float (&sum)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < count) store(to + m * stride + n + j, sum[j]);
    }
  }
};

// ---- Before the first step ------------------------------------------------------------------------------------------

struct WidePrepare : WideKernel {
  using Smem = Nothing;
  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& w) {
    using Phases = SeamPhases<float>;
    const TrainParams& p = w.train;
    Phases::prepare(p, number(block), numbers(block));
    Phases::update_stale_rows_for(block, p, w.plan, 0, int(block.index()), int(block.count()));
    for (int i = number(block); i < kWideFlags; i += numbers(block))
      store(w.scratch.flags + i, 0);  // not every step has all blocks
    if (number(block) == 0) store(p.outcome, Outcome{0, -1, 0.0f});
  }
};

// ---- Forward --------------------------------------------------------------------------------------------------------

template <class Number>
struct WideProject : WideKernel {
  using Phases = SeamPhases<Number>;
  using Smem = typename Phases::Product::Smem;
  static SEAM_INLINE int blocks(const WideParams& w) { return Phases::tiles(w.plan.words, kGates * w.train.H); }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& w) {
    Phases::project_tile(block.opaque(), smem, w.train, w.plan, w.step, int(block.index()),
                         StoreSums{w.scratch.projected, kGates * w.train.H});
  }
};

// The word of piece `piece`: the last one whose first piece is not after it.
SEAM_KERNEL int word_of_piece(const int32_t* first_piece, int words, int piece) {
  int below = 0, end = words;
#pragma unroll 1
  while (end - below > 1) {
    const int middle = (below + end) / 2;
    if (load(first_piece + middle) <= piece) below = middle;
    else end = middle;
  }
  return below;
}

struct WideSpread : WideKernel {
  using Smem = Nothing;
  static SEAM_INLINE int64_t size(const WideParams& w) { return int64_t(w.plan.pieces) * kGates * w.train.H; }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& w) {
    const TrainParams& p = w.train;
    const int G = kGates * p.H, count = w.plan.pieces * G;
    const int32_t* const first_piece = p.numbers + w.plan.piece_at;
    const int32_t* const first_position = first_piece + w.plan.words + 1;
    const int32_t* const flat_indices = p.numbers + w.plan.flat_index_at;
#pragma unroll 1
    for (int i = number(block); i < count; i += numbers(block)) {
      const int piece = i / G, column = i % G, begin = load(first_position + piece),
                end = load(first_position + piece + 1);
      const float x = load(w.scratch.projected + int64_t(word_of_piece(first_piece, w.plan.words, piece)) * G + column);
#pragma unroll 8
      for (int k = begin; k < end; ++k) store(p.gates + int64_t(load(flat_indices + k)) * G + column, x);
    }
  }
};

struct WideHead : WideKernel {
  static constexpr int kDocuments = 4;  // per block
  using Phases = SeamPhases<float>;
  using Smem = Phases::HeadSmem<kDocuments>;
  static SEAM_INLINE int tiles(const WideParams& w) { return (w.plan.documents + kDocuments - 1) / kDocuments; }
  // The number of blocks that take documents; the others update rows.
  static SEAM_INLINE int heads(const WideParams& w) { return tiles(w) < kWideBlocks / 2 ? tiles(w) : kWideBlocks / 2; }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& w) {
    const TrainParams& p = w.train;
    const int here = int(block.index()), with_documents = heads(w);
    uint32_t bad = 0;
    if (here < with_documents) {
#pragma unroll 1
      for (int tile = here; tile < tiles(w); tile += with_documents) {
        Phases::head<kDocuments>(block.opaque(), smem, p, w.plan, Phases::sequences(p, w.plan), tile, bad);
        block.sync();
      }
    } else {
      Phases::update_stale_rows_for(block, p, w.next, w.step + 1, here - with_documents,
                                    int(block.count()) - with_documents);
    }
    leave(block, w, 0, bad);
  }
};

// ---- Gradients ------------------------------------------------------------------------------------------------------

SEAM_INLINE int parts_of(int terms, int of_part) { return (terms + of_part - 1) / of_part; }

template <class Number>
struct WideSums : WideKernel {
  using Phases = SeamPhases<Number>;
  using Product = typename Phases::Product;
  using Smem = typename Product::Smem;
  static SEAM_INLINE int tiles(const WideParams& w) { return Phases::tiles(kGates * w.train.H, w.train.H + 1); }
  static SEAM_INLINE int products(const WideParams& w) { return tiles(w) * parts_of(w.plan.positions, kWidePositions); }
  static SEAM_INLINE int64_t sums(const WideParams& w) { return int64_t(w.plan.pieces) * kGates * w.train.H; }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& w) {
    const int here = int(block.index()), count = products(w);
    if (here < count) multiply(block, smem, w, here / tiles(w), here % tiles(w));
    else sum_pieces(w, (here - count) * kThreads + block.thread(), (int(block.count()) - count) * kThreads);
  }

 private:
  // As in seam_steps.cuh, with one more column for the biases.
  static SEAM_KERNEL void multiply(const BlockOf<1>& block, Smem& smem, const Params& w, int part, int tile) {
    const TrainParams& p = w.train;
    const int G = kGates * p.H, H = p.H, first = part * kWidePositions, left = w.plan.positions - first;
    const int32_t* const flat_indices = p.numbers + w.plan.flat_index_at + first;
    const auto at = Phases::tile_at(tile, H + 1);
    Product::template multiply<false, false>(block.opaque(), smem, {p.gates, G, flat_indices},
                                             {p.output, H, flat_indices, H}, at.m, at.n, G, H + 1,
                                             left < kWidePositions ? left : kWidePositions,
                                             StoreSums{w.scratch.of_w_hh + int64_t(part) * G * (H + 1), H + 1});
  }

  static SEAM_KERNEL void sum_pieces(const Params& w, int number, int numbers) {
    const TrainParams& p = w.train;
    const int G = kGates * p.H, count = w.plan.pieces * G;
    const int32_t* const first_position = p.numbers + w.plan.piece_at + w.plan.words + 1;
    const int32_t* const flat_indices = p.numbers + w.plan.flat_index_at;
#pragma unroll 1
    for (int i = number; i < count; i += numbers) {
      const int begin = load(first_position + i / G), end = load(first_position + i / G + 1);
      float sum = 0;
#pragma unroll 8
      for (int k = begin; k < end; ++k) sum += load(p.gates + int64_t(load(flat_indices + k)) * G + i % G);
      store(w.scratch.of_pieces + i, sum);
    }
  }
};

struct WideJoin : WideKernel {
  using Smem = Nothing;
  static SEAM_INLINE int64_t size(const WideParams& w) { return int64_t(w.plan.words) * kGates * w.train.H; }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& w) {
    const TrainParams& p = w.train;
    const int G = kGates * p.H, count = w.plan.words * G;
    const int32_t* const first_piece = p.numbers + w.plan.piece_at;
#pragma unroll 1
    for (int i = number(block); i < count; i += numbers(block)) {
      const int begin = load(first_piece + i / G), end = load(first_piece + i / G + 1);
      float sum = 0;
#pragma unroll 4
      for (int k = begin; k < end; ++k) sum += load(w.scratch.of_pieces + int64_t(k) * G + i % G);
      store(p.d_words + i, sum);
    }
  }
};

template <class Number>
struct WideLearn : WideKernel {
  using Phases = SeamPhases<Number>;
  using Product = typename Phases::Product;
  using Smem = typename Product::Smem;
  static SEAM_INLINE int of_rows(const WideParams& w) { return Phases::tiles(w.plan.words, w.train.E); }
  static SEAM_INLINE int tiles(const WideParams& w) { return Phases::tiles(kGates * w.train.H, w.train.E); }
  static SEAM_INLINE int work(const WideParams& w) {
    return of_rows(w) + tiles(w) * parts_of(w.plan.words, kWideWords);
  }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& w) {
    const TrainParams& p = w.train;
    const int rows = of_rows(w), all = work(w);
    uint32_t bad = 0;
#pragma unroll 1
    for (int task = int(block.index()); task < all; task += int(block.count())) {
      if (task < rows) Phases::step_rows_tile(block.opaque(), smem, p, w.plan, w.step, task, adam_step_of(w), bad);
      else multiply(block, smem, w, (task - rows) / tiles(w), (task - rows) % tiles(w));
    }
    leave(block, w, 1, bad);
  }

 private:
  static SEAM_KERNEL void multiply(const BlockOf<1>& block, Smem& smem, const Params& w, int part, int tile) {
    const TrainParams& p = w.train;
    const int G = kGates * p.H, E = p.E, first = part * kWideWords, left = w.plan.words - first;
    const auto at = Phases::tile_at(tile, E);
    Product::template multiply<false, false>(
        block.opaque(), smem, {p.d_words + int64_t(first) * G, G}, {p.x + int64_t(first) * E, E}, at.m, at.n, G, E,
        left < kWideWords ? left : kWideWords, StoreSums{w.scratch.of_w_ih + int64_t(part) * G * E, E});
  }
};

struct WideFinish : WideKernel {
  using Smem = Nothing;
  // The linear layer, the head and the loss: few numbers, each a sum over many documents, which a warp forms. How many
  // there are; and the number of blocks for them.
  static SEAM_INLINE int small_numbers(const WideParams& w) { return w.train.head.classes * (w.train.H + 3) + 2 + 1; }
  static SEAM_INLINE int small(const WideParams& w) {
    const int wanted = (small_numbers(w) + kWarps - 1) / kWarps;
    return wanted < kWideBlocks / 2 ? wanted : kWideBlocks / 2;
  }
  static SEAM_INLINE int64_t size(const WideParams& w) {
    return int64_t(kGates) * w.train.H * (w.train.E + w.train.H + 1);
  }

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& w) {
    const int here = int(block.index()), first = small(w);
    uint32_t bad = 0;
    if (here < first) {
#pragma unroll 1
      for (int i = here * kWarps + block.warp(); i < small_numbers(w); i += first * kWarps)
        linear_and_head(block, w, i, bad);
    } else {
      weights(w, (here - first) * kThreads + block.thread(), (int(block.count()) - first) * kThreads, bad);
    }
    leave(block, w, 2, bad);
  }

 private:
  static SEAM_KERNEL void linear_and_head(const BlockOf<1>& block, const Params& w, int number, uint32_t& bad) {
    const TrainParams& p = w.train;
    const int H = p.H, C = p.head.classes, B = w.plan.documents, linear = C * H + C, head = 2 * C + 2;
    // The sum over documents b of d(b) x(b).
    const auto sum_of = [&](const auto& d, const auto& x) {
      float sum = 0;
#pragma unroll 4
      for (int b = block.lane(); b < B; b += 32) sum = fmaf(d(b), x(b), sum);
      return sum_warp(block, sum);
    };
    if (number < linear) {
      const bool is_weight = number < C * H;
      const int c = is_weight ? number / H : number - C * H, k = is_weight ? number % H : 0;
      const float sum = sum_of([&](int b) { return load(p.d_logits + b * C + c); },
                               [&](int b) { return is_weight ? load(p.h_n + b * H + k) : 1.0f; });
      bad |= flag(is_weight ? 6 : 7, sum);
      if (block.lane() == 0)
        step_score(is_weight ? p.linear : p.linear_bias, adam_step_of(w), is_weight ? number : c, sum);
    } else if (number < linear + head) {
      const int i = number - linear, output = i < 2 * C ? i / C : i - 2 * C;
      const float sum = sum_of([&](int b) { return load(p.head.d_outputs + 2 * b + output); },
                               [&](int b) { return i < 2 * C ? load(p.head.positive + b * C + i % C) : 1.0f; });
      bad |= flag(i < 2 * C ? 8 : 9, sum);
      if (block.lane() == 0 && p.train_head) {
        const AdamStep<float> step = load(p.head_step + (p.now - p.rows.first + w.step));
        step_parameter(p.head.rule, step, i < 2 * C ? p.head.weight : p.head.bias, i < 2 * C ? i : i - 2 * C, sum);
      }
    } else if (block.lane() == 0) {
      store(p.losses + w.step, mean_loss(p.head, B, w.plan.total));
    }
  }

  static SEAM_KERNEL void weights(const Params& w, int number, int numbers, uint32_t& bad) {
    const TrainParams& p = w.train;
    const int G = kGates * p.H, E = p.E, H = p.H;
    const AdamStep<float> step = adam_step_of(w);
    float* const w_ih = p.w_ih + int64_t((w.step + 1) % 2) * G * E;
#pragma unroll 1
    for (int i = number; i < G * E; i += numbers) {
      const float sum = over_parts(w.scratch.of_w_ih + i, parts_of(w.plan.words, kWideWords), G * E), one[1] = {sum};
      bad |= flag(2, sum);
      step_scores<1>(p.weight_ih, step, i, 1, one, [&](int, float kept) { store(w_ih + i, kept); });
    }
#pragma unroll 1
    for (int i = number; i < G * (H + 1); i += numbers) {
      const float sum = over_parts(w.scratch.of_w_hh + i, parts_of(w.plan.positions, kWidePositions), G * (H + 1)),
                  one[1] = {sum};
      const int m = i / (H + 1), n = i % (H + 1);
      bad |= flag(n < H ? 3 : 4, sum);
      if (n < H) {
        step_scores<1>(p.weight_hh, step, int64_t(m) * H + n, 1, one,
                       [&](int, float kept) { store(p.w_hh + m * H + n, kept); });
      } else {
        step_score(p.bias_ih, step, m, sum);
        step_score(p.bias_hh, step, m, sum);
      }
    }
  }

  static SEAM_KERNEL float over_parts(const float* first, int parts, int64_t stride) {
    float sum = 0;
#pragma unroll 4
    for (int k = 0; k < parts; ++k) sum += load(first + k * stride);
    return sum;
  }
};

// ---- The next step's words ------------------------------------------------------------------------------------------

struct WideGather : WideKernel {
  struct Smem {
    Shared<int32_t, kWarps> bad;
  };
  static SEAM_INLINE int64_t size(const WideParams& w) { return int64_t(w.next.words) * w.train.E; }

  // Before the first step, step -1, there is nothing to report.
  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& w) {
    SeamPhases<float>::gather(w.train, w.next, number(block), numbers(block));
    if (block.index() == 0 && w.step >= 0) conclude(block, smem, w);
  }

 private:
  static SEAM_KERNEL void conclude(const BlockOf<1>& block, Smem& smem, const Params& w) {
    uint32_t bad = 0;
#pragma unroll 4
    for (int i = block.thread(); i < kWideFlags; i += kThreads) bad |= uint32_t(load(w.scratch.flags + i));
    bad = of_warp(block, bad);
    if (block.lane() == 0) smem.bad.store(block.warp(), int32_t(bad));
    block.sync();
    if (block.thread() == 0) note(w, bad | found_by_others(smem));
  }
  static SEAM_KERNEL uint32_t found_by_others(const Smem& smem) {
    uint32_t bad = 0;
    for (int i = 1; i < kWarps; ++i) bad |= uint32_t(smem.bad.load(i));
    return bad;
  }
  static SEAM_KERNEL void note(const Params& w, uint32_t bad) {
    Outcome outcome = load(w.train.outcome);
    if (outcome.what >= 0) return;  // an earlier step has failed
    if (bad == 0) {
      outcome.steps = w.step + 1;
    } else {
      outcome.what = 0;
      while (!(bad >> outcome.what & 1u)) ++outcome.what;
      outcome.loss = load(w.train.losses + w.step);
    }
    store(w.train.outcome, outcome);
  }
};

}  // namespace seam::gpu

// The phases of a training step whose state goes from phase to phase through the L2 cache: pieces of work that
// seam_steps.cuh distributes over the blocks of one cluster, and wide_steps.cuh over all blocks of the GPU.
#pragma once

#include "panel_product.cuh"
#include "seam_head.cuh"
#include "sequences.cuh"

namespace seam::gpu {

// Number: float, or Tf32 for products by tensor cores.
template <class Number>
struct SeamPhases {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  using Product = PanelProduct<Number>;
  using SingleBlock = BlockOf<1, true>;  // for code that a block runs without its cluster
  using Params = TrainParams;

  // ---- Tiles of work ------------------------------------------------------------------------------------------------

  // The first row and column of tile number `task` of a product.
  struct TileAt {
    int m, n;
  };
  static SEAM_INLINE int tiles(int M, int N) {
    return (M + Product::kSide - 1) / Product::kSide * ((N + Product::kSide - 1) / Product::kSide);
  }
  static SEAM_KERNEL TileAt tile_at(int task, int N) {
    const int columns = (N + Product::kSide - 1) / Product::kSide;
    return {task / columns * Product::kSide, task % columns * Product::kSide};
  }

  static SEAM_KERNEL const float* w_ih(const Params& p, int s) { return p.w_ih + int64_t(s % 2) * kGates * p.H * p.E; }

  // The batch's documents as sequences of the recurrence.
  static SEAM_INLINE Sequences sequences(const Params& p, const PlanStep& plan) {
    const int32_t* const documents = p.numbers + plan.document_at;
    return {p.T, plan.documents, false, p.read_last_word ? documents : nullptr,
            p.read_last_word ? documents + plan.documents : nullptr};
  }

  // ---- Before the first step ----------------------------------------------------------------------------------------

  // number, numbers: the index of this thread, and how many there are; here and below.
  static SEAM_KERNEL void prepare(const Params& p, int number, int numbers) {
    const int G = kGates * p.H;
#pragma unroll 4
    for (int i = number; i < G * p.E; i += numbers) store(p.w_ih + i, effective(p.weight_ih, i));
#pragma unroll 4
    for (int i = number; i < G * p.H; i += numbers) store(p.w_hh + i, effective(p.weight_hh, i));
    for (int i = number; i < p.batch * p.H; i += numbers) store(p.output + i, 0.0f);
  }

  // Brings the rows that step s needs, and that the step before it does not touch, up to date. Block `part` of `parts`.
  template <class B>
  static SEAM_KERNEL void update_stale_rows_for(const B& block, const Params& p, const PlanStep& plan, int s, int part,
                                                int parts) {
    const float untouched[3] = {load(p.untouched + 3 * s), load(p.untouched + 3 * s + 1),
                                load(p.untouched + 3 * s + 2)};
    update_stale_rows(block, p.rows, p.numbers + plan.stale_at, plan.stale, p.now + s, untouched,
                      part * kWarps + block.warp(), parts * kWarps, [](int32_t, int32_t) { return NothingElse{}; });
  }

  // The effective embeddings of a step's words.
  static SEAM_KERNEL void gather(const Params& p, const PlanStep& plan, int number, int numbers) {
#pragma unroll 4
    for (int i = number; i < plan.words * p.E; i += numbers) {
      const int64_t row = load(p.numbers + plan.word_at + i / p.E), e = i % p.E;
      store(p.x + i, keep(load(p.embedding + int64_t(load(p.id_of_row + row)) * p.E + e),
                          load(p.rows.state.score + row * p.E + e)));
    }
  }

  // ---- The input projection -----------------------------------------------------------------------------------------

  // Tile `task` of x (U, E) times W_ih^T (E, 4H), x the words' embeddings; `done` as in PanelProduct.
  template <class Done>
  static SEAM_KERNEL void project_tile(const SingleBlock& block, typename Product::Smem& smem, const Params& p,
                                       const PlanStep& plan, int s, int task, const Done& done) {
    const int G = kGates * p.H;
    const TileAt at = tile_at(task, G);
    Product::template multiply<true, true>(block, smem, {p.x, p.E}, {w_ih(p, s), p.E}, at.m, at.n, plan.words, G, p.E,
                                           done);
  }

  // ---- Linear layer and head ----------------------------------------------------------------------------------------

  template <int NB>
  struct HeadSmem {
    Shared<float, NB * kMostClasses> logits, d_logits;  // [sequence of the tile, class]
  };

  // For the NB sequences of a tile: forward, and back to the gradients of their last hidden states.
  template <int NB>
  static SEAM_KERNEL void head(const SingleBlock& block, HeadSmem<NB>& smem, const Params& p, const PlanStep& plan,
                               const Sequences& sequences, int tile, uint32_t& bad) {
    static_assert(NB <= kWarps);
    const int H = p.H, C = p.head.classes;
#pragma unroll 1
    for (int i = block.warp(); i < NB * C; i += kWarps) {
      const int row = i / C, c = i % C;
      const Sequence sequence = sequence_at(sequences, tile * NB + row);
      if (!sequence.exists) continue;
      float sum = 0;
      for (int k = block.lane(); k < H; k += 32) {
        sum = fmaf(load(p.h_n + int64_t(sequence.index) * H + k), effective(p.linear, int64_t(c) * H + k), sum);
      }
      sum = sum_warp(block, sum);
      if (block.lane() == 0) smem.logits.store(row * kMostClasses + c, sum + effective(p.linear_bias, c));
    }
    block.sync();
    if (block.warp() < NB) {
      const int row = block.warp();
      const Sequence sequence = sequence_at(sequences, tile * NB + row);
      if (sequence.exists) {
        const auto number = [&](int32_t i) { return head_number(p.head, i); };
        const HeadResult result = head_of(
            block, p.head, sequence.index, load(p.target_probability + plan.first + sequence.index), plan.total,
            [&](int32_t c) { return smem.logits.load(row * kMostClasses + c); }, number);
        if (!is_finite(result.loss)) bad |= 1;
        for (int32_t c = block.lane(); c < C; c += 32) {
          const float d = d_logit(p.head, result, c, smem.logits.load(row * kMostClasses + c), number);
          smem.d_logits.store(row * kMostClasses + c, d);
          store(p.d_logits + int64_t(sequence.index) * C + c, d);
        }
      }
    }
    block.sync();
#pragma unroll 1
    for (int i = block.thread(); i < NB * H; i += kThreads) {
      const int row = i / H, k = i % H;
      const Sequence sequence = sequence_at(sequences, tile * NB + row);
      if (!sequence.exists) continue;
      float sum = 0;
#pragma unroll 4
      for (int c = 0; c < C; ++c) {
        sum = fmaf(smem.d_logits.load(row * kMostClasses + c), effective(p.linear, int64_t(c) * H + k), sum);
      }
      store(p.d_h_n + int64_t(sequence.index) * H + k, sum);
    }
  }

  // ---- Gradients ----------------------------------------------------------------------------------------------------

  // Tile `task` of the gradients of x, (U, 4H) times W_ih (4H, E), and the step of the words' rows of scores.
  static SEAM_KERNEL void step_rows_tile(const SingleBlock& block, typename Product::Smem& smem, const Params& p,
                                         const PlanStep& plan, int s, int task, const AdamStep<float>& step,
                                         uint32_t& bad) {
    const int G = kGates * p.H, E = p.E;
    const TileAt at = tile_at(task, E);
    Product::template multiply<true, false>(
        block, smem, {p.d_words, G}, {w_ih(p, s), E}, at.m, at.n, plan.words, E, G,
        [&](int u, int n, int count, const float (&sum)[4]) {
          const int64_t row = load(p.numbers + plan.word_at + u), word = load(p.id_of_row + row);
          const Scored scored = {p.embedding + word * E, p.rows.state.at(row * E), p.rows.rule};
          step_scores<4>(scored, step, n, count, sum, [](int, float) {});
#pragma unroll
          for (int j = 0; j < 4; ++j) bad |= j < count ? flag(1, sum[j]) : 0u;
        });
  }
};

}  // namespace seam::gpu

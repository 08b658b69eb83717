// Training steps of one module, many in one launch, by one cluster of blocks, with the state passed from phase to phase
// through the L2 cache: for batches and bases of any size. gate_row_steps.cuh is several times as fast, but must hold
// everything in shared memory. The specification is the CPU's engine (cpu/seam_trainer_cpu.cpp); what the host prepares
// is in seam_params.h. A step has five phases, with a cluster barrier between them:
//
//   project   the input projection of each distinct word, written to all positions that hold the word
//   recur     blocks take sequences of their own (or share the units of all): LSTM, head, loss, and back through time.
//             Blocks without sequences meanwhile bring the stale rows of the next step up to date
//   collect   gradients summed over the positions of each word; update of W_hh, biases, linear layer and head
//   learn     gradients and update of W_ih and of the words' rows
//   gather    the effective embeddings of the next step's words
//
// Products are divided into tiles, so that every number is summed by one thread in a fixed order: the same input gives
// the same bits, whatever else the GPU does. Weights of the recurrence stay in registers over all time steps; all that
// passes from phase to phase is a few hundred kilobytes, which stay in the L2 cache.
#pragma once

#include "recurrent.cuh"
#include "recurrent_tiles.cuh"
#include "seam_phases.cuh"

namespace seam::gpu {

// Number: float, or Tf32 for products by tensor cores. HB: hidden units, rounded up. CL: blocks of a cluster. NB:
// sequences of a tile. SharedUnits: whether blocks share the units of each sequence, or have sequences of their own.
template <class Number, int HB, int CL, int NB, bool SharedUnits>
struct SeamSteps {
  using Phases = SeamPhases<Number>;
  static constexpr int kCluster = CL, kThreads = Phases::kThreads, kWarps = Phases::kWarps;
  static constexpr int kRecurrenceBlocks = SharedUnits ? CL : 1,
                       kLanes = kThreads * kRecurrenceBlocks / HB;  // of a recurrence
  static constexpr bool kTiles = std::is_same_v<Number, Tf32>;
  using Product = typename Phases::Product;
  using TileAt = typename Phases::TileAt;
  using Forward = std::conditional_t<kTiles, TiledForward<float, Tf32, HB, kRecurrenceBlocks, 1>,
                                     RecurrentForward<float, HB, kRecurrenceBlocks, kLanes, NB>>;
  using Backward = std::conditional_t<kTiles, TiledBackward<float, Tf32, HB, kRecurrenceBlocks, 1>,
                                      RecurrentBackward<float, HB, kRecurrenceBlocks, kLanes, NB>>;
  static_assert(!kTiles || NB == kTileColumns);
  static_assert(Forward::kThreads == kThreads && Backward::kThreads == kThreads);
  using Params = TrainParams;
  using Block = BlockOf<CL, true>;  // within a phase

  struct Smem {
    union {  // used one after the other
      typename Product::Smem product;
      typename Forward::Smem forward;
      typename Backward::Smem backward;
      typename Phases::template HeadSmem<NB> head;
    };
    Shared<PlanStep, 2> plans;  // of this step and the next, [step % 2]; in shared memory, to save registers
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    Outcome outcome = {0, -1, 0.0f};
    if (block.thread() < 2) smem.plans.store(block.thread(), load(p.plan + block.thread()));
    block.sync();
    prepare(block.opaque(), smem, p);
    block.sync_cluster();
    gather(block.opaque(), smem, p, 0);
    block.sync_cluster();
#pragma unroll 1
    for (int s = 0; s < p.steps; ++s) {
      uint32_t bad = 0;  // bit k is set if what SeamFailure calls k is not finite
      project(block.opaque(), smem, p, s);
      block.sync_cluster();
      recur(block.opaque(), smem, p, s, bad);
      block.sync_cluster();
      collect(block.opaque(), smem, p, s, bad);
      block.sync_cluster();
      learn(block.opaque(), smem, p, s, bad);
      const bool warp_is_bad = block.any(bad != 0);
      if (block.lane() == 0) store(p.bad + block.rank() * kWarps + block.warp(), int32_t(warp_is_bad));
      block.sync_cluster();
      gather(block.opaque(), smem, p, s + 1);
      if (block.thread() == 0) smem.plans.store(s % 2, load(p.plan + s + 2));
      if (block.any(block.lane() < CL * kWarps &&
                    load(p.bad + block.lane() % (CL * kWarps)) != 0)) {  // the same in all blocks
        outcome = {s, reason(block.opaque(), p, bad, number(block.opaque()), kNumbers), load(p.losses + s)};
        break;
      }
      outcome.steps = s + 1;
      block.sync_cluster();
    }
    if (block.rank() == 0 && block.thread() == 0) store(p.outcome, outcome);
  }

 private:
  static_assert(CL * kWarps <= 32, "a lane for each warp of the cluster");

  // The index of a thread in the cluster, and how many there are.
  static SEAM_KERNEL int number(const Block& block) { return block.rank() * kThreads + block.thread(); }
  static constexpr int kNumbers = CL * kThreads;

  // ---- Before the first step ----------------------------------------------------------------------------------------

  static SEAM_KERNEL void prepare(const Block& block, const Smem& smem, const Params& p) {
    Phases::prepare(p, number(block), kNumbers);
    update_stale_rows_for(block, smem, p, 0, block.rank(), CL);
  }
  static SEAM_KERNEL void update_stale_rows_for(const Block& block, const Smem& smem, const Params& p, int s, int part,
                                                int parts) {
    Phases::update_stale_rows_for(block, p, smem.plans.load(s % 2), s, part, parts);
  }

  // ---- gather -------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void gather(const Block& block, const Smem& smem, const Params& p, int s) {
    Phases::gather(p, smem.plans.load(s % 2), number(block), kNumbers);
  }

  // ---- project ------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void project(const Block& block, Smem& smem, const Params& p, int s) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int G = kGates * p.H, count = Phases::tiles(plan.words, G);
#pragma unroll 1
    for (int task = block.rank(); task < count; task += CL) {
      Phases::project_tile(block.single(), smem.product, p, plan, s, task,
                           [&](int u, int n, int count, const float (&sum)[4]) {
                             const int32_t* const first = p.numbers + plan.word_at + 2 * plan.words + u;
                             const int32_t end = load(first + 1);
#pragma unroll 4
                             for (int32_t k = load(first); k < end; ++k) {
                               float* const gates = p.gates + int64_t(load(p.numbers + plan.flat_index_at + k)) * G + n;
#pragma unroll
                               for (int j = 0; j < 4; ++j) {
                                 if (j < count) store(gates + j, sum[j]);
                               }
                             }
                           });
    }
  }

  // ---- recur --------------------------------------------------------------------------------------------------------

  // The block for the recurrence: with its cluster, or without.
  static SEAM_KERNEL auto recurrence_block(const Block& block) {
    if constexpr (SharedUnits) return block;
    else return block.single();
  }

  static SEAM_KERNEL void recur(const Block& block, Smem& smem, const Params& p, int s, uint32_t& bad) {
    const PlanStep plan = smem.plans.load(s % 2);
    const Sequences sequences = Phases::sequences(p, plan);
    const auto view = recurrence_block(block);
    const int count = (plan.documents + NB - 1) / NB, idle = SharedUnits ? 0 : CL - count;
    const int first = SharedUnits ? 0 : block.rank(), step = SharedUnits ? 1 : CL;
#pragma unroll 1
    for (int tile = first; tile < count; tile += step) {
      Forward::tile(recurrence_block(block.opaque()), smem.forward, p.forward, sequences, tile);
      view.sync_cluster();
      if (view.rank() == 0)
        Phases::template head<NB>(block.opaque().single(), smem.head, p, plan, sequences, tile, bad);
      view.sync_cluster();
      Backward::tile(recurrence_block(block.opaque()), smem.backward, p.backward, sequences, tile);
      view.sync_cluster();
    }
    const bool all = idle <= 0, helps = all || block.rank() >= count;
    if (helps) update_stale_rows_for(block, smem, p, s + 1, all ? block.rank() : block.rank() - count, all ? CL : idle);
  }

  // ---- collect ------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void collect(const Block& block, Smem& smem, const Params& p, int s, uint32_t& bad) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int G = kGates * p.H, H = p.H;
    const int32_t* const flat_indices = p.numbers + plan.flat_index_at;
    const AdamStep<float> step = load(p.rows.step + (p.now - p.rows.first + s));
    // The hidden state before a position is one time step before it: `output` has one more step in front. One more
    // column is the bias, the weight of a constant 1.
    const int count = Phases::tiles(G, H + 1);
#pragma unroll 1
    for (int task = block.rank(); task < count; task += CL) {
      const TileAt at = Phases::tile_at(task, H + 1);
      Product::template multiply<false, false>(
          block.single(), smem.product, {p.gates, G, flat_indices}, {p.output, H, flat_indices, H}, at.m, at.n, G,
          H + 1, plan.positions, [&](int m, int n, int count, const float (&sum)[4]) {
            const int weights = H - n < count ? H - n : count;
            if (weights > 0) {
              const int64_t i = int64_t(m) * H + n;
              step_scores<4>(p.weight_hh, step, i, weights, sum, [&](int j, float w) { store(p.w_hh + i + j, w); });
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              if (j < weights) bad |= flag(3, sum[j]);
              if (n + j != H) continue;
              bad |= flag(4, sum[j]);
              step_score(p.bias_ih, step, m, sum[j]);
              step_score(p.bias_hh, step, m, sum[j]);
            }
          });
    }
    sum_positions(block, p, plan);
    step_linear(p, plan, step, number(block), kNumbers, bad);
    step_head_of(p, plan, s, kNumbers - 1 - number(block), kNumbers, bad);
  }

  // The gradients of the gates of each word: sums over its positions, in their order.
  static SEAM_KERNEL void sum_positions(const Block& block, const Params& p, const PlanStep& plan) {
    const int G = kGates * p.H;
#pragma unroll 1
    for (int i = number(block); i < plan.words * G; i += kNumbers) {
      const int32_t* const first = p.numbers + plan.word_at + 2 * plan.words + i / G;
      const int32_t begin = load(first), end = load(first + 1);
      float sum = 0;
#pragma unroll 8
      for (int32_t k = begin; k < end; ++k)
        sum += load(p.gates + int64_t(load(p.numbers + plan.flat_index_at + k)) * G + i % G);
      store(p.d_words + i, sum);
    }
  }

  // ---- learn --------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void learn(const Block& block, Smem& smem, const Params& p, int s, uint32_t& bad) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int G = kGates * p.H, E = p.E, U = plan.words, of_rows = Phases::tiles(U, E),
              count = of_rows + Phases::tiles(G, E);
    const AdamStep<float> step = load(p.rows.step + (p.now - p.rows.first + s));
#pragma unroll 1
    for (int task = block.rank(); task < count; task += CL) {
      if (task < of_rows) {
        Phases::step_rows_tile(block.single(), smem.product, p, plan, s, task, step, bad);
      } else {
        const TileAt at = Phases::tile_at(task - of_rows, E);
        float* const w = p.w_ih + int64_t((s + 1) % 2) * G * E;  // other blocks still read this step's
        Product::template multiply<false, false>(block.single(), smem.product, {p.d_words, G}, {p.x, E}, at.m, at.n, G,
                                                 E, U, [&](int m, int n, int count, const float (&sum)[4]) {
                                                   const int64_t i = int64_t(m) * E + n;
                                                   step_scores<4>(p.weight_ih, step, i, count, sum,
                                                                  [&](int j, float kept) { store(w + i + j, kept); });
#pragma unroll
                                                   for (int j = 0; j < 4; ++j) bad |= j < count ? flag(2, sum[j]) : 0u;
                                                 });
      }
    }
  }
};

}  // namespace seam::gpu

// Training steps of one module, many in one launch, by one cluster of blocks, whose state goes from phase to phase through
// the L2 cache: batches and bases of any size. gate_row_steps.cuh is several times as fast, and takes what its shared memory
// holds. The specification is the CPU's engine (../seam_trainer.cpp); what is made ahead is in seam_params.h. A step has five phases,
// between which the cluster meets:
//
//   project   the input projection of each distinct word, written to all places that hold it
//   recur     blocks take sequences of their own (or share the units of all): LSTM, head, loss, and back through time.
//             Blocks without sequences meanwhile bring the next step's rows of scores up to date
//   collect   gradients of words summed over their places; W_hh, biases, linear layer and head take their step
//   learn     the gradients of W_ih and of the words' rows, which take their step
//   gather    what the next step's words keep
//
// Products are dealt out in tiles, so every number is summed by one thread in a fixed order: the same input gives the same
// bits, whatever else the GPU does. Weights of the recurrence stay in registers through all time steps; everything that
// goes from phase to phase is a few hundred kilobytes, which stay in the L2 cache.
#pragma once

#include "panel_product.cuh"
#include "recurrent.cuh"
#include "recurrent_tiles.cuh"
#include "seam_head.cuh"

namespace seam::gpu {

// Number: float, or Tf32 for products by tensor cores. HB: hidden units, rounded up. CL: blocks of a cluster. NB: sequences
// of a tile. SharedUnits: whether blocks share the units of each sequence, or have sequences of their own.
template <class Number, int HB, int CL, int NB, bool SharedUnits>
struct SeamSteps {
  static constexpr int kCluster = CL, kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kTogether = SharedUnits ? CL : 1, kLanes = kThreads * kTogether / HB;  // of a recurrence
  static constexpr bool kTiles = std::is_same_v<Number, Tf32>;
  using Product = PanelProduct<Number>;
  using Forward = std::conditional_t<kTiles, TiledForward<float, Tf32, HB, kTogether, 1>,
                                     RecurrentForward<float, HB, kTogether, kLanes, NB>>;
  using Backward = std::conditional_t<kTiles, TiledBackward<float, Tf32, HB, kTogether, 1>,
                                      RecurrentBackward<float, HB, kTogether, kLanes, NB>>;
  static_assert(!kTiles || NB == kTileColumns);
  static_assert(Forward::kThreads == kThreads && Backward::kThreads == kThreads);
  using Params = TrainParams;
  using Block = BlockOf<CL, true>;  // in a phase

  struct Head {
    Shared<float, NB * kMostClasses> logits, d_logits;  // [row of the tile, class]
  };
  struct Smem {
    union {  // one after the other
      typename Product::Smem product;
      typename Forward::Smem forward;
      typename Backward::Smem backward;
      Head head;
    };
    Shared<PlanStep, 2> plans;  // of this step and the next, [step % 2]: as shared memory they take no registers
  };

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    Outcome outcome = {0, -1, 0.0f};
    if (block.thread() < 2) smem.plans.store(block.thread(), load(p.plan + block.thread()));
    block.sync();
    prepare(block.anew(), smem, p);
    block.sync_cluster();
    gather(block.anew(), smem, p, 0);
    block.sync_cluster();
#pragma unroll 1
    for (int s = 0; s < p.steps; ++s) {
      uint32_t bad = 0;  // bit k: what SeamFailure calls k is not finite
      project(block.anew(), smem, p, s);
      block.sync_cluster();
      recur(block.anew(), smem, p, s, bad);
      block.sync_cluster();
      collect(block.anew(), smem, p, s, bad);
      block.sync_cluster();
      learn(block.anew(), smem, p, s, bad);
      const bool warp_is_bad = block.any(bad != 0);
      if (block.lane() == 0) store(p.bad + block.rank() * kWarps + block.warp(), int32_t(warp_is_bad));
      block.sync_cluster();
      gather(block.anew(), smem, p, s + 1);
      if (block.thread() == 0) smem.plans.store(s % 2, load(p.plan + s + 2));
      if (block.any(block.lane() < CL * kWarps && load(p.bad + block.lane() % (CL * kWarps)) != 0)) {  // all see the same
        outcome = {s, reason(block.anew(), p, bad, number(block.anew()), kNumbers), load(p.losses + s)};
        break;
      }
      outcome.steps = s + 1;
      block.sync_cluster();
    }
    if (block.rank() == 0 && block.thread() == 0) store(p.outcome, outcome);
  }

 private:
  static_assert(CL * kWarps <= 32, "a lane for each warp of the cluster");

  // A thread's number in the cluster, and how many there are.
  static SEAM_KERNEL int number(const Block& block) { return block.rank() * kThreads + block.thread(); }
  static constexpr int kNumbers = CL * kThreads;

  // ---- Before the first step --------------------------------------------------------------------------------------------

  static SEAM_KERNEL void prepare(const Block& block, const Smem& smem, const Params& p) {
    const int G = kGates * p.H;
#pragma unroll 4
    for (int i = number(block); i < G * p.E; i += kNumbers) store(p.w_ih + i, effective(p.weight_ih, i));
#pragma unroll 4
    for (int i = number(block); i < G * p.H; i += kNumbers) store(p.w_hh + i, effective(p.weight_hh, i));
    for (int i = number(block); i < p.batch * p.H; i += kNumbers) store(p.output + i, 0.0f);
    catch_up_rows(block, smem, p, 0, block.rank(), CL);
  }

  // Rows that step s needs and that the step before it leaves alone.
  static SEAM_KERNEL void catch_up_rows(const Block& block, const Smem& smem, const Params& p, int s, int part,
                                        int parts) {
    const PlanStep plan = smem.plans.load(s % 2);
    const float fresh[3] = {load(p.fresh + 3 * s), load(p.fresh + 3 * s + 1), load(p.fresh + 3 * s + 2)};
    catch_up_all(block, p.rows, p.numbers + plan.due_at, plan.due, p.now + s, fresh, part * kWarps + block.warp(),
                 parts * kWarps, [](int32_t, int32_t) { return NothingElse{}; });
  }

  // ---- gather -----------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void gather(const Block& block, const Smem& smem, const Params& p, int s) {
    const PlanStep plan = smem.plans.load(s % 2);
#pragma unroll 4
    for (int i = number(block); i < plan.words * p.E; i += kNumbers) {
      const int64_t row = load(p.numbers + plan.word_at + i / p.E), e = i % p.E;
      store(p.x + i, keep(load(p.embedding + int64_t(load(p.word + row)) * p.E + e), load(p.rows.state.score + row * p.E + e)));
    }
  }

  // ---- project ----------------------------------------------------------------------------------------------------------

  // Tile `task` of a product of so many columns.
  struct TileAt {
    int m, n;
  };
  static SEAM_KERNEL int tiles(int M, int N) {
    return (M + Product::kSide - 1) / Product::kSide * ((N + Product::kSide - 1) / Product::kSide);
  }
  static SEAM_KERNEL TileAt tile_at(int task, int N) {
    const int columns = (N + Product::kSide - 1) / Product::kSide;
    return {task / columns * Product::kSide, task % columns * Product::kSide};
  }
  static SEAM_KERNEL const float* w_ih(const Params& p, int s) { return p.w_ih + int64_t(s % 2) * kGates * p.H * p.E; }

  static SEAM_KERNEL void project(const Block& block, Smem& smem, const Params& p, int s) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int G = kGates * p.H, count = tiles(plan.words, G);
#pragma unroll 1
    for (int task = block.rank(); task < count; task += CL) {
      const TileAt at = tile_at(task, G);
      Product::template multiply<true, true>(
          block.alone(), smem.product, {p.x, p.E}, {w_ih(p, s), p.E}, at.m, at.n, plan.words, G, p.E,
          [&](int u, int n, int count, const float (&sum)[4]) {
            const int32_t* const first = p.numbers + plan.word_at + 2 * plan.words + u;
            const int32_t end = load(first + 1);
#pragma unroll 4
            for (int32_t k = load(first); k < end; ++k) {
              float* const gates = p.gates + int64_t(load(p.numbers + plan.place_at + k)) * G + n;
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                if (j < count) store(gates + j, sum[j]);
              }
            }
          });
    }
  }

  // ---- recur ------------------------------------------------------------------------------------------------------------

  // The block as the recurrence sees it.
  static SEAM_KERNEL auto together(const Block& block) {
    if constexpr (SharedUnits) return block;
    else return block.alone();
  }

  static SEAM_KERNEL void recur(const Block& block, Smem& smem, const Params& p, int s, uint32_t& bad) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int32_t* const documents = p.numbers + plan.document_at;
    const Sequences sequences = {p.T, plan.documents, false, p.read_last_word ? documents : nullptr,
                                 p.read_last_word ? documents + plan.documents : nullptr};
    const auto view = together(block);
    const int count = (plan.documents + NB - 1) / NB, idle = SharedUnits ? 0 : CL - count;
    const int first = SharedUnits ? 0 : block.rank(), step = SharedUnits ? 1 : CL;
#pragma unroll 1
    for (int tile = first; tile < count; tile += step) {
      Forward::tile(together(block.anew()), smem.forward, p.forward, sequences, tile);
      view.sync_cluster();
      if (view.rank() == 0) head(block.anew().alone(), smem.head, p, plan, sequences, tile, bad);
      view.sync_cluster();
      Backward::tile(together(block.anew()), smem.backward, p.backward, sequences, tile);
      view.sync_cluster();
    }
    const bool all = idle <= 0, helps = all || block.rank() >= count;
    if (helps) catch_up_rows(block, smem, p, s + 1, all ? block.rank() : block.rank() - count, all ? CL : idle);
  }

  // Linear layer and head of a tile's sequences, forward and back to their last hidden states.
  static SEAM_KERNEL void head(const BlockOf<1, true>& block, Head& smem, const Params& p, const PlanStep& plan,
                               const Sequences& sequences, int tile, uint32_t& bad) {
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
        const float* const shares = p.shares + 2 * int64_t(plan.first + sequence.index);
        const auto number = [&](int32_t i) { return head_number(p.head, i); };
        const HeadResult result =
            head_of(block, p.head, sequence.index, load(shares), load(shares + 1), plan.total,
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

  // ---- collect ----------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void collect(const Block& block, Smem& smem, const Params& p, int s, uint32_t& bad) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int G = kGates * p.H, H = p.H;
    const int32_t* const places = p.numbers + plan.place_at;
    const AdamStep<float> step = load(p.rows.step + (p.now - p.rows.first + s));
    // The hidden states that the places began with lie a time step before them: `output` has one more in front. One
    // column more is the bias, a weight of the number 1.
    const int count = tiles(G, H + 1);
#pragma unroll 1
    for (int task = block.rank(); task < count; task += CL) {
      const TileAt at = tile_at(task, H + 1);
      Product::template multiply<false, false>(
          block.alone(), smem.product, {p.gates, G, places}, {p.output, H, places, H}, at.m, at.n, G, H + 1, plan.places,
          [&](int m, int n, int count, const float (&sum)[4]) {
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
    sum_places(block, p, plan);
    step_linear(p, plan, step, number(block), kNumbers, bad);
    step_head_of(p, plan, s, kNumbers - 1 - number(block), kNumbers, bad);
  }

  // Gradients of the gates of each word, over its places in their order.
  static SEAM_KERNEL void sum_places(const Block& block, const Params& p, const PlanStep& plan) {
    const int G = kGates * p.H;
#pragma unroll 1
    for (int i = number(block); i < plan.words * G; i += kNumbers) {
      const int32_t* const first = p.numbers + plan.word_at + 2 * plan.words + i / G;
      const int32_t begin = load(first), end = load(first + 1);
      float sum = 0;
#pragma unroll 8
      for (int32_t k = begin; k < end; ++k) sum += load(p.gates + int64_t(load(p.numbers + plan.place_at + k)) * G + i % G);
      store(p.d_words + i, sum);
    }
  }

  // ---- learn ------------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void learn(const Block& block, Smem& smem, const Params& p, int s, uint32_t& bad) {
    const PlanStep plan = smem.plans.load(s % 2);
    const int G = kGates * p.H, E = p.E, U = plan.words, of_rows = tiles(U, E), count = of_rows + tiles(G, E);
    const AdamStep<float> step = load(p.rows.step + (p.now - p.rows.first + s));
#pragma unroll 1
    for (int task = block.rank(); task < count; task += CL) {
      if (task < of_rows) {
        const TileAt at = tile_at(task, E);
        Product::template multiply<true, false>(
            block.alone(), smem.product, {p.d_words, G}, {w_ih(p, s), E}, at.m, at.n, U, E, G,
            [&](int u, int n, int count, const float (&sum)[4]) {
              const int64_t row = load(p.numbers + plan.word_at + u), word = load(p.word + row);
              const Scored scored = {p.embedding + word * E, p.rows.state.at(row * E), p.rows.rule};
              step_scores<4>(scored, step, n, count, sum, [](int, float) {});
#pragma unroll
              for (int j = 0; j < 4; ++j) bad |= j < count ? flag(1, sum[j]) : 0u;
            });
      } else {
        const TileAt at = tile_at(task - of_rows, E);
        float* const w = p.w_ih + int64_t((s + 1) % 2) * G * E;  // others still read this step's
        Product::template multiply<false, false>(
            block.alone(), smem.product, {p.d_words, G}, {p.x, E}, at.m, at.n, G, E, U,
            [&](int m, int n, int count, const float (&sum)[4]) {
              const int64_t i = int64_t(m) * E + n;
              step_scores<4>(p.weight_ih, step, i, count, sum, [&](int j, float kept) { store(w + i + j, kept); });
#pragma unroll
              for (int j = 0; j < 4; ++j) bad |= j < count ? flag(2, sum[j]) : 0u;
            });
      }
    }
  }
};

}  // namespace seam::gpu

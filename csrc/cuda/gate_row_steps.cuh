// Training steps of one module, many in one launch, by a cluster of blocks that divide the module by gate rows: a block
// owns some hidden units with their four gate rows, the weights of these and their scores. The specification is the
// CPU's engine (cpu/seam_trainer_cpu.cpp); what the host prepares is in seam_params.h. A step has three phases, with a
// cluster barrier between them:
//
//   project   each block: x of all distinct words times its own rows of W_ih
//   recur     each block takes a document, or several in turn: LSTM, head, loss, and back through time;
//             idle blocks bring the stale rows of the next step up to date
//   learn     each block updates W_hh, W_ih and the biases of its own rows, and the rows of scores of some
//             of the words; the linear layer and the head are updated, too
//
// A word that occurs several times in a batch is projected once, and its gradients are summed before they are
// multiplied. Data passes between blocks through the L2 cache, in rows that are copied into shared memory as they are,
// by one request where they are contiguous.
//
// Every number is summed by one thread or tile in a fixed order, which does not depend on the number of blocks: the
// same input gives the same bits, on clusters of any size and whatever else the GPU does.
//
// One file of 900 lines, because it is one kernel, whose phases share the layout of shared memory and the ownership of
// rows; its reusable parts are in small_recurrence.cuh, tile_terms.cuh, seam_head.cuh and scores.cuh.
#pragma once

#include "bulk_copy.cuh"
#include "seam_head.cuh"
#include "small_recurrence.cuh"
#include "tile_terms.cuh"

namespace seam::gpu {

// Clocks of each phase, measured by the first thread of each block if the extension is compiled with SEAM_PROFILE.
struct Profile {
#if defined(SEAM_PROFILE)
  int64_t last;
  template <class Block>
  SEAM_KERNEL Profile(const Block& block, const TrainParams&) : last(block.clock()) {}
  template <class Block>
  SEAM_KERNEL void mark(const Block& block, const TrainParams& p, int phase) {
    const int64_t now = block.clock();
    if (p.profile && block.index() == 0 && block.thread() == 0) {
      int64_t* const at = p.profile + block.rank() * kMarks + phase;
      store(at, load(at) + now - last);
    }
    last = now;
  }
#else
  template <class Block>
  SEAM_KERNEL Profile(const Block&, const TrainParams&) {}
  template <class Block>
  SEAM_KERNEL void mark(const Block&, const TrainParams&, int) {}
#endif
};

// Number: SplitTf32 or Tf32, the arithmetic of products. HB: hidden units, rounded up by padded_units. CL: blocks of a
// cluster.
template <class Number, int HB, int CL>
struct GateRowSteps {
  static constexpr int kCluster = CL, kThreads = 256, kWarps = kThreads / 32;
  static constexpr bool kBatched = true;                  // a launch takes steps of several modules, see block.cuh
  static constexpr int kUnits = (HB + CL - 1) / CL;       // the most units that a block owns
  static constexpr int kTilesM = (4 * kUnits + 15) / 16;  // tiles of 16 of its rows
  static constexpr int kTilesN = (4 * kUnits + 7) / 8;    // tiles of 8
  // The scores of a tile are loaded before its sums are known, for as many tiles as there are registers for.
  static SEAM_KERNEL constexpr bool reads_ahead(int column) { return kTilesM * (column + 1) <= (HB <= 56 ? 2 : 1); }
  using Params = TrainParams;
  using Block = BlockOf<CL, true>;  // within a phase
  using Lstm = SmallRecurrence<HB>;

  static constexpr int kPlans = 3;
  struct Smem {
    Shared<float, kLayoutFloats> memory;     // in the layout of GateRowLayout
    Shared<int32_t, kListNumbers> lists;     // the part of the plan from document_at on
    Shared<float, 2 * kMostClasses> logits;  // and their gradients
    Shared<PlanStep, kPlans> plans;          // of this step and the next two, [step % kPlans]
    BulkCopy rows, weights;                  // copies of x or hidden states; of W_hh or W_ih
  };
  struct BarrierParity {  // of the two copies, see BulkCopy::wait; one per thread
    bool rows = false, weights = false;
  };
  static_assert(sizeof(Smem) <= 227 * 1024);

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    Outcome outcome = {0, -1, 0.0f};
    BarrierParity parity;
    if (block.thread() < 2) smem.plans.store(block.thread(), load(p.plan + block.thread()));
    if (block.thread() == 0) smem.rows.begin(), smem.weights.begin();
    block.sync();
    prepare(block.opaque(), smem, p);
    block.sync_cluster();
    gather(block.opaque(), smem, p);
    block.sync_cluster();
    uint32_t bad = 0;  // bit k is set if what SeamFailure calls k was not finite in the last step
    Profile profile(block, p);
#pragma unroll 1
    for (int s = 0; s < p.steps; ++s) {
      project(block.opaque(), smem, p, s, parity, profile);
      if (s > 0 && any_bad(block.opaque(), p, s - 1)) {  // the same in all blocks
        if (has_weight_hh(block.opaque(), smem, p, s)) smem.weights.wait(parity.weights);
        break;
      }
      outcome.steps = s;
      block.sync_cluster();
      profile.mark(block, p, 2);
      bad = 0;
      recur(block.opaque(), smem, p, s, bad, parity, profile);
      block.sync_cluster();
      profile.mark(block, p, 9);
      learn(block.opaque(), smem, p, s, bad, parity, profile);
      const bool warp_is_bad = block.any(bad != 0);
      if (block.lane() == 0) store(flags(p, s) + block.rank() * kWarps + block.warp(), int32_t(warp_is_bad));
      block.sync_cluster();
      profile.mark(block, p, 17);
    }
    const int last = outcome.steps;  // the index of the last step taken
    if (p.steps > 0 && any_bad(block.opaque(), p, last)) {
      outcome = {last, reason(block.opaque(), p, bad, number(block.opaque()), kNumbers), load(p.losses + last)};
    } else {
      outcome.steps = p.steps;
    }
    restore(block.opaque(), p);
    if (block.rank() == 0 && block.thread() == 0) store(p.outcome, outcome);
  }

 private:
  // The index of a thread in the cluster, and how many there are.
  static SEAM_KERNEL int number(const Block& block) { return block.rank() * kThreads + block.thread(); }
  static constexpr int kNumbers = CL * kThreads;

  // ---- Ownership ----------------------------------------------------------------------------------------------------

  static SEAM_KERNEL int first_unit(const TrainParams& p, int rank) {
    const int more = p.H % CL;
    return rank * (p.H / CL) + (rank < more ? rank : more);
  }
  static SEAM_KERNEL int units(const TrainParams& p, int rank) { return p.H / CL + (rank < p.H % CL); }

  // The row (of the block) and the column of number j of lane `lane` in a tile (m, n).
  static SEAM_KERNEL int row_in_tile(int m, int lane, int j) { return m * 16 + lane / 4 + j / 2 * 8; }
  static SEAM_KERNEL int column_in_tile(int n, int lane, int j) { return n * 8 + lane % 4 * 2 + j % 2; }

  static SEAM_KERNEL float* x(const TrainParams& p, int s) {
    return p.rows_of_gates.x + int64_t(s % 2) * p.layout.words * p.layout.pitch_e;
  }
  static SEAM_KERNEL float* w_ih(const TrainParams& p, int s) {
    return p.rows_of_gates.w_ih + int64_t(s % 2) * kGates * p.H * p.layout.pitch_e;
  }
  static SEAM_KERNEL int32_t* flags(const TrainParams& p, int s) { return p.bad + s % 2 * CL * kWarps; }
  static SEAM_KERNEL bool any_bad(const Block& block, const TrainParams& p, int s) {
    int32_t found = 0;
#pragma unroll
    for (int i = 0; i < CL * kWarps; i += 32) {
      if (i + block.lane() < CL * kWarps) found |= load(flags(p, s) + i + block.lane());
    }
    return block.any(found != 0);
  }

  // ---- Before the first step, and after the last --------------------------------------------------------------------

  // for_each_ih and for_each_hh call body(number, tensor, index in the tensor) for each weight of the block's rows, of
  // W_ih, or of W_hh with the biases as two more columns; and elsewhere(number) for the padding of tiles.
  struct TiledScore {
    float* state;    // [4, numbers]: weight, score, exp_avg, exp_avg_sq
    int numbers, i;  // and the index of this one
    int row, column;
    SEAM_KERNEL float get(int what) const { return load(state + what * numbers + i); }
    SEAM_KERNEL void set(int what, float value) const { store(state + what * numbers + i, value); }
  };
  template <class Body, class Elsewhere>
  static SEAM_KERNEL void for_each_ih(const Block& block, const TrainParams& p, const Body& body,
                                      const Elsewhere& elsewhere) {
    const int numbers = p.layout.numbers_ih(), tiles = p.layout.pitch_e / 8;
    const int unit = first_unit(p, block.rank()), rows = kGates * units(p, block.rank());
#pragma unroll 1
    for (int i = block.thread(); i < numbers; i += kThreads) {
      const int tile = i / 128, lane = i % 128 / 4, r = row_in_tile(tile / tiles, lane, i % 4);
      const int n = column_in_tile(tile % tiles, lane, i % 4);
      const TiledScore at = {p.rows_of_gates.state_ih + int64_t(block.rank()) * 4 * numbers, numbers, i, r, n};
      if (r < rows && n < p.E) body(at, p.weight_ih, int64_t(r % kGates * p.H + unit + r / kGates) * p.E + n);
      else elsewhere(at);
    }
  }
  template <class Body, class Elsewhere>
  static SEAM_KERNEL void for_each_hh(const Block& block, const TrainParams& p, const Body& body,
                                      const Elsewhere& elsewhere) {
    const int numbers = p.layout.numbers_hh(p.H), tiles = (p.H + 9) / 8;
    const int unit = first_unit(p, block.rank()), rows = kGates * units(p, block.rank());
#pragma unroll 1
    for (int i = block.thread(); i < numbers; i += kThreads) {
      const int tile = i / 128, lane = i % 128 / 4, r = row_in_tile(tile / tiles, lane, i % 4);
      const int n = column_in_tile(tile % tiles, lane, i % 4);
      const int64_t row = r % kGates * p.H + unit + r / kGates;
      const TiledScore at = {p.rows_of_gates.state_hh + int64_t(block.rank()) * 4 * numbers, numbers, i, r, n};
      if (r >= rows || n > p.H + 1) elsewhere(at);
      else if (n < p.H) body(at, p.weight_hh, row * p.H + n);
      else body(at, n == p.H ? p.bias_ih : p.bias_hh, row);
    }
  }

  static SEAM_KERNEL void prepare(const Block& block, Smem& smem, const TrainParams& p) {
    const GateRowLayout& l = p.layout;
    const int first_row = kGates * first_unit(p, block.rank());
    const auto take = [](const TiledScore& at, const Scored& from, int64_t i) {
      at.set(0, load(from.weight + i));
      at.set(1, load(from.state.score + i));
      at.set(2, load(from.state.exp_avg + i));
      at.set(3, load(from.state.exp_avg_sq + i));
      return effective(from, i);
    };
    const auto clear = [](const TiledScore& at) {
      for (int what = 0; what < 4; ++what) at.set(what, 0.0f);
    };
    for_each_ih(
        block, p,
        [&](const TiledScore& at, const Scored& from, int64_t i) {
          const float w = take(at, from, i);
          smem.memory.store(l.weight_ih + at.row * l.pitch_e + at.column, w);
          store(w_ih(p, 0) + int64_t(first_row + at.row) * l.pitch_e + at.column, w);
        },
        [&](const TiledScore& at) {
          clear(at);
          if (at.row < l.rows) smem.memory.store(l.weight_ih + at.row * l.pitch_e + at.column, 0.0f);
        });
    for_each_hh(
        block, p,
        [&](const TiledScore& at, const Scored& from, int64_t i) {
          const float w = take(at, from, i);
          if (at.column < p.H) store(p.rows_of_gates.w_hh + at.column * Lstm::kGatesPitch + first_row + at.row, w);
          else smem.memory.store(l.bias + 2 * at.row + at.column - p.H, w);
        },
        clear);
    update_stale_rows_for(block, smem, p, 0, block.rank() * kWarps + block.warp(), CL * kWarps);
  }

  static SEAM_KERNEL void restore(const Block& block, const TrainParams& p) {
    const auto give = [](const TiledScore& at, const Scored& to, int64_t i) {
      store(to.state.score + i, at.get(1));
      store(to.state.exp_avg + i, at.get(2));
      store(to.state.exp_avg_sq + i, at.get(3));
    };
    const auto nothing = [](const TiledScore&) {};
    for_each_ih(block, p, give, nothing);
    for_each_hh(block, p, give, nothing);
  }

  // The effective embeddings of the words of the first step.
  static SEAM_KERNEL void gather(const Block& block, const Smem& smem, const TrainParams& p) {
    const PlanStep plan = smem.plans.load(0);
#pragma unroll 4
    for (int i = number(block); i < plan.words * p.E; i += kNumbers) {
      const int u = i / p.E, e = i - u * p.E;
      const int64_t row = load(p.numbers + plan.word_at + u);
      store(x(p, 0) + int64_t(u) * p.layout.pitch_e + e,
            keep(load(p.embedding + int64_t(load(p.id_of_row + row)) * p.E + e),
                 load(p.rows.state.score + row * p.E + e)));
    }
  }

  // Writes a word's effective embedding into its row of x, if the step has the word.
  struct IntoX {
    const float* weight;
    float* row;
    SEAM_KERNEL float before(int32_t e) const { return row ? load(weight + e) : 0.0f; }
    SEAM_KERNEL void after(int32_t e, float weight_e, float score) const {
      if (row) store(row + e, keep(weight_e, score));
    }
  };

  // Brings the rows that step s needs, and that the step before it does not touch, up to date, and gathers their
  // embeddings.
  static SEAM_KERNEL void update_stale_rows_for(const Block& block, const Smem& smem, const TrainParams& p, int s,
                                                int part, int parts) {
    const PlanStep plan = smem.plans.load(s % kPlans);
    const float untouched[3] = {load(p.untouched + 3 * s), load(p.untouched + 3 * s + 1),
                                load(p.untouched + 3 * s + 2)};
    update_stale_rows(block, p.rows, p.numbers + plan.stale_at, plan.stale, p.now + s, untouched, part, parts,
                      [&](int32_t row, int32_t u) {
                        return IntoX{p.embedding + int64_t(load(p.id_of_row + row)) * p.E,
                                     u == kNone ? nullptr : x(p, s) + int64_t(u) * p.layout.pitch_e};
                      });
  }

  // Prefetches the rows that will be brought up to date for step s: with many modules at a time they do not all stay in
  // the L2 cache.
  static SEAM_KERNEL void prefetch_rows(const Block& block, const Smem& smem, const TrainParams& p, int s) {
    constexpr int kLine = 32;  // numbers
    const PlanStep plan = smem.plans.load(s % kPlans);
    const int lines = (p.E + kLine - 1) / kLine;
    for (int i = number(block); i < plan.stale * lines; i += kNumbers) {
      const int k = i / lines, e = (i - k * lines) * kLine;
      const int64_t row = load(p.numbers + plan.stale_at + kStaleNumbers * k);
      const ScoreState<float> state = p.rows.state.at(row * p.E + e);
      prefetch(state.score);
      prefetch(state.exp_avg);
      prefetch(state.exp_avg_sq);
      prefetch(p.embedding + int64_t(load(p.id_of_row + row)) * p.E + e);
    }
  }

  // ---- project ------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void project(const Block& block, Smem& smem, const TrainParams& p, int s, BarrierParity& parity,
                                  Profile& profile) {
    const GateRowLayout& l = p.layout;
    const PlanStep plan = smem.plans.load(s % kPlans);
    const int rank = block.rank(), U = plan.words, rows = kGates * units(p, rank);
    const float* const from = x(p, s);
    smem.rows.start(block, smem.memory, l.x, from, U * l.pitch_e);
    for (int i = 4 * block.thread(); i < plan.lists(); i += 4 * kThreads) {
      copy_async(smem.lists, i, p.numbers + plan.document_at + i);
    }
    for (int i = U * l.pitch_e + block.thread(); i < eights(U) * l.pitch_e; i += kThreads) {
      smem.memory.store(l.x + i, 0.0f);
    }
    if (has_weight_hh(block, smem, p, s)) {
      smem.weights.start(block, smem.memory, l.weight_hh, p.rows_of_gates.w_hh, HB * Lstm::kGatesPitch);
    }
    if (rank < plan.documents) fetch_head(block, smem, p);
    prefetch_rows(block, smem, p, s + 1);
    copies_done();
    smem.rows.wait(parity.rows);
    block.sync();
    profile.mark(block, p, 0);
    float* const to = p.rows_of_gates.projected + kGates * first_unit(p, rank);
    const int g = block.lane() / 4, t = block.lane() % 4;
#pragma unroll 1
    for (int m = block.warp(); m * 16 < U; m += kWarps) {
      using Terms = TileTerms<Number, 1, kTilesN, 1>;
      typename Terms::Sums sum;
      Terms::add(block, smem.memory, ByNumber{l.x, l.pitch_e, U}, ByNumber{l.weight_ih, l.pitch_e, l.rows}, m, 0,
                 kTilesN, l.pitch_e, sum);
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        const int r = j * 8 + 2 * t;
        if (r >= rows) continue;
        float bias[4];
        smem.memory.load4(l.bias + 2 * r, bias);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int u = m * 16 + g + 8 * h;
          const float first = sum.get(0, j, 2 * h) + (bias[0] + bias[1]);
          const float second = sum.get(0, j, 2 * h + 1) + (bias[2] + bias[3]);
          if (u < U) store_two(to + int64_t(u) * kGates * p.H + r, first, second);
        }
      }
    }
    profile.mark(block, p, 1);
  }

  // Whether this block copies W_hh into shared memory: if it has a document, and if there is room.
  static SEAM_KERNEL bool has_weight_hh(const Block& block, const Smem& smem, const TrainParams& p, int s) {
    return p.layout.weight_hh != 0 && block.rank() < smem.plans.load(s % kPlans).documents;
  }

  // Loads what a block with a document needs after the recurrence: the linear layer and the head.
  static SEAM_KERNEL void fetch_head(const Block& block, Smem& smem, const TrainParams& p) {
    const int C = p.head.classes, weights = C * p.H;
    for (int i = block.thread(); i < linear_numbers(p.H, C); i += kThreads) {
      const float number = i < weights       ? effective(p.linear, i)
                           : i < weights + C ? effective(p.linear_bias, i - weights)
                                             : head_number(p.head, i - weights - C);
      smem.memory.store(p.layout.linear + i, number);
    }
  }

  // ---- recur --------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void recur(const Block& block, Smem& smem, const TrainParams& p, int s, uint32_t& bad,
                                BarrierParity& parity, Profile& profile) {
    const int B = smem.plans.load(s % kPlans).documents, busy = B < CL ? B : CL;  // blocks with documents
    const int rank = block.rank(), idle = CL - busy;
    if (block.thread() == kThreads - 1) smem.plans.store((s + 2) % kPlans, load(p.plan + s + 2));
    if (rank >= busy) {
      update_stale_rows_for(block, smem, p, s + 1, (rank - busy) * kWarps + block.warp(), idle * kWarps);
      return;
    }
    const bool first_half = block.warp() < kWarps / 2;
    if (first_half) begin(block.opaque(), smem, p, s, rank);
    copies_done();
    if (has_weight_hh(block, smem, p, s)) smem.weights.wait(parity.weights);
    block.sync();
    if (!first_half) {
      // Only if there are no idle blocks: the two halves of a block slow each other down.
      const int part = rank * kWarps / 2 + block.warp() - kWarps / 2;
      if (idle == 0) update_stale_rows_for(block.opaque(), smem, p, s + 1, part, CL * kWarps / 2);
      return;
    }
#pragma unroll 1
    for (int document = rank; document < B; document += CL) {
      if (document != rank) {
        begin(block.opaque(), smem, p, s, document);
        copies_done();
        block.sync_half();
      }
      forward(block.opaque(), smem, p, document_at(smem, s, document).steps, profile);
      back(block.opaque(), smem, p, s, document, bad, profile);
      block.sync_half();
      finish(block.opaque(), smem, p, s, document);
      block.sync_half();
      profile.mark(block, p, 8);
    }
  }

  // What the first half of the block needs to know of a document; read again wherever it is needed, which is cheaper
  // than a register.
  struct Document {
    int index, steps, first;  // in the batch; words; its first position
  };
  static SEAM_KERNEL Document document_at(const Smem& smem, int s, int document) {
    const int B = smem.plans.load(s % kPlans).documents;
    return {smem.lists.load(document), smem.lists.load(B + document), smem.lists.load(2 * B + document)};
  }

  static SEAM_KERNEL SequenceLayout sequence_layout(const TrainParams& p) {
    return {p.layout.late, p.layout.factors, p.layout.hidden, p.layout.pitch_h};
  }

  // Starts the copies of a document's gates, and initialises its hidden states, with two ones after each, for the
  // biases.
  static SEAM_KERNEL void begin(const Block& block, Smem& smem, const TrainParams& p, int s, int document) {
    const SequenceLayout at = sequence_layout(p);
    const PlanStep plan = smem.plans.load(s % kPlans);
    const Document d = document_at(smem, s, document);
    const int words = plan.word_number_at - plan.document_at + d.first;
#pragma unroll 2
    for (int t = block.warp(); t < d.steps; t += kWarps / 2) {
      const float* const from = p.rows_of_gates.projected + int64_t(smem.lists.load(words + t)) * kGates * p.H;
#pragma unroll
      for (int unit = block.lane(); unit < kUnitStride; unit += 32) {
        const int to = at.gates + (t * kUnitStride + unit) * 4;
        if (unit < p.H) copy_async(smem.memory, to, from + 4 * unit);
        else smem.memory.store4(to, {0.0f, 0.0f, 0.0f, 0.0f});
      }
    }
    for (int t = block.warp(); t <= d.steps; t += kWarps / 2) {
      for (int k = block.lane(); k < at.pitch; k += 32) {
        if (t > 0 && k < p.H) continue;
        smem.memory.store(at.hidden + t * at.pitch + k, k == p.H || k == p.H + 1 ? 1.0f : 0.0f);
      }
    }
  }

  // Calls body(source), where source loads recurrent weights as SmallRecurrence requires, from shared or from global
  // memory.
  template <class Body>
  static SEAM_KERNEL void with_weight_hh(const Smem& smem, const TrainParams& p, const Body& body) {
    const int first = p.layout.weight_hh;
    if (first) {
      body([&smem, first](int i, float (&w)[4]) { smem.memory.load4(first + i, w); });
    } else {
      const float* const from = p.rows_of_gates.w_hh;
      body([from](int i, float (&w)[4]) {
        const Four four = load_four(from + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) w[k] = four.at[k];
      });
    }
  }

  static SEAM_KERNEL void forward(const Block& block, Smem& smem, const TrainParams& p, int steps, Profile& profile) {
    const Lstm lstm = {p.H};
    typename Lstm::ForwardWeights weights;
    with_weight_hh(smem, p, [&](const auto& source) { lstm.load_forward(block, weights, source); });
    profile.mark(block, p, 3);
    lstm.forward(block, smem.memory, sequence_layout(p), steps, weights);
    profile.mark(block, p, 4);
  }

  // Linear layer and head, and the recurrence back through time.
  static SEAM_KERNEL void back(const Block& block, Smem& smem, const TrainParams& p, int s, int document, uint32_t& bad,
                               Profile& profile) {
    const Lstm lstm = {p.H};
    const float dh = head(block.opaque(), smem, p, s, document, bad);
    profile.mark(block, p, 5);
    typename Lstm::BackwardWeights weights;
    with_weight_hh(smem, p, [&](const auto& source) { lstm.load_backward(block, weights, source); });
    lstm.backward(block, smem.memory, sequence_layout(p), document_at(smem, s, document).steps, dh, weights);
    profile.mark(block, p, 6);
  }

  // The class logits of a document and its loss. Returns the gradient of the last hidden state of the thread's unit,
  // thread / 2.
  static SEAM_KERNEL float head(const Block& block, Smem& smem, const TrainParams& p, int s, int document,
                                uint32_t& bad) {
    const SequenceLayout at = sequence_layout(p);
    const Document d = document_at(smem, s, document);
    const int H = p.H, C = p.head.classes, lane = block.lane(), hidden = at.hidden + d.steps * at.pitch;
    const int linear = p.layout.linear, bias = linear + C * H;
    const float target_probability = load(p.target_probability + smem.plans.load(s % kPlans).first + d.index);
    for (int c = block.warp(); c < C; c += kWarps / 2) {
      float sum = 0;
#pragma unroll
      for (int k = lane; k < kUnitStride; k += 32) {
        if (k < H) sum = fmaf(smem.memory.load(hidden + k), smem.memory.load(linear + c * H + k), sum);
      }
      sum = sum_warp(block, sum);
      if (lane == 0) smem.logits.store(c, sum + smem.memory.load(bias + c));
    }
    for (int k = block.thread(); k < H; k += kThreads / 2) store(p.h_n + d.index * H + k, smem.memory.load(hidden + k));
    block.sync_half();
    if (block.warp() == 0) {
      const auto number = [&](int32_t i) { return smem.memory.load(bias + C + i); };
      const HeadResult result = head_of(
          block, p.head, d.index, target_probability, smem.plans.load(s % kPlans).total,
          [&](int32_t c) { return smem.logits.load(c); }, number);
      if (!is_finite(result.loss)) bad |= 1;
      for (int c = lane; c < C; c += 32) {
        const float gradient = d_logit(p.head, result, c, smem.logits.load(c), number);
        smem.logits.store(kMostClasses + c, gradient);
        store(p.d_logits + d.index * C + c, gradient);
      }
    }
    block.sync_half();
    const int unit = block.thread() / 2;
    float dh = 0;
#pragma unroll 4
    for (int c = 0; c < C; ++c) {
      dh = fmaf(smem.logits.load(kMostClasses + c), smem.memory.load(linear + c * H + (unit < H ? unit : 0)), dh);
    }
    return unit < H ? dh : 0.0f;
  }

  // Stores a document's hidden states and gradients in global memory, for all blocks.
  static SEAM_KERNEL void finish(const Block& block, const Smem& smem, const TrainParams& p, int s, int document) {
    const SequenceLayout at = sequence_layout(p);
    const Document d = document_at(smem, s, document);
#pragma unroll 4
    for (int i = 4 * block.thread(); i < d.steps * at.pitch; i += 2 * kThreads) {
      float four[4];
      smem.memory.load4(at.hidden + i, four);
      store_four(p.rows_of_gates.hidden + int64_t(d.first) * at.pitch + i, four);
    }
#pragma unroll 4
    for (int t = block.warp(); t < d.steps; t += kWarps / 2) {
#pragma unroll
      for (int unit = block.lane(); unit < HB; unit += 32) {
        if (unit >= p.H) continue;
        float four[4];
        smem.memory.load4(at.gates + (t * kUnitStride + unit) * 4, four);
        store_four(p.rows_of_gates.d_gates + (int64_t(d.first + t) * p.H + unit) * kGates, four);
      }
    }
  }

  // ---- learn --------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void learn(const Block& block, Smem& smem, const TrainParams& p, int s, uint32_t& bad,
                                BarrierParity& parity, Profile& profile) {
    const PlanStep plan = smem.plans.load(s % kPlans);
    const AdamStep<float> step = load(p.rows.step + (p.now - p.rows.first + s));
    // The words whose rows this block updates.
    const int each = (plan.words + CL - 1) / CL, first_word = block.rank() * each;
    const int left = plan.words - first_word, mine = left < 0 ? 0 : left < each ? left : each;
    fetch(block.opaque(), smem, p, plan);
    sum_own(block.opaque(), smem, p, plan, first_word, mine);
    copies_done();
    smem.rows.wait(parity.rows);
    block.sync();
    profile.mark(block, p, 10);
    learn_hh(block.opaque(), smem, p, plan, step, bad);
    if (block.warp() == kWarps - 1) {  // the warp with the fewest tiles
      step_linear(p, plan, step, block.lane() * CL + block.rank(), 32 * CL, bad);
      if (block.rank() == CL - 1) step_head_of(p, plan, s, block.lane(), 32, bad);
    }
    profile.mark(block, p, 11);
    sum_words(block.opaque(), smem, p, plan);
    block.sync();
    profile.mark(block, p, 12);
    learn_ih(block.opaque(), smem, p, plan, s, step, bad);
    profile.mark(block, p, 13);
    OwnWords words;
    if (p.rows_by_four) words.template read<4>(block.opaque(), smem, p, plan, first_word, mine);
    multiply_own(block.opaque(), smem, p, s, mine, parity, profile);
    block.sync();
    if (p.rows_by_four) words.template step<4>(block.opaque(), smem, p, plan, s, step, first_word, mine, bad);
    else words.template step<1>(block.opaque(), smem, p, plan, s, step, first_word, mine, bad);
    profile.mark(block, p, 16);
  }

  // Starts copies of the gradients of the block's own rows, and of the hidden states, of all positions, into shared
  // memory.
  static SEAM_KERNEL void fetch(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan) {
    const GateRowLayout& l = p.layout;
    const int P = plan.positions, own = units(p, block.rank());
    const float* const gates = p.rows_of_gates.d_gates + kGates * first_unit(p, block.rank());
    // Half a warp per position. Rows of a block with fewer units than others are zero, and so are the positions that
    // fill up the last eight.
    static_assert(kUnits <= 16);
    const int unit = block.lane() % 16;
    for (int k = block.thread() / 16; k < eights(P); k += kThreads / 16) {
      const int to = l.late + k * l.pitch_r + 4 * unit;
      if (unit < own && k < P) copy_async(smem.memory, to, gates + (int64_t(k) * p.H + unit) * kGates);
      else if (unit < l.units) smem.memory.store4(to, {0.0f, 0.0f, 0.0f, 0.0f});
    }
    smem.rows.start(block, smem.memory, l.states, p.rows_of_gates.hidden, P * l.pitch_h);
    for (int i = P * l.pitch_h + block.thread(); i < eights(P) * l.pitch_h; i += kThreads) {
      smem.memory.store(l.states + i, 0.0f);
    }
  }

  // Where in the plan's lists the first position of each word is; and where the flat indices of the positions are.
  static SEAM_KERNEL int firsts(const PlanStep& plan) { return plan.word_at - plan.document_at + 2 * plan.words; }
  static SEAM_KERNEL int flat_indices(const PlanStep& plan) { return plan.flat_index_at - plan.document_at; }

  // The gradients of all gates of the block's own words: a warp per word, summed over its positions in their order.
  static SEAM_KERNEL void sum_own(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan,
                                  int first_word, int mine) {
    for (int u = block.warp(); u < mine; u += kWarps) {
      const int first = firsts(plan) + first_word + u;
      const int begin = smem.lists.load(first), end = smem.lists.load(first + 1);
      float sum[2][4] = {};
#pragma unroll 4
      for (int k = begin; k < end; ++k) {
        const float* const from =
            p.rows_of_gates.d_gates + int64_t(smem.lists.load(flat_indices(plan) + k)) * p.H * kGates;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int unit = half * 32 + block.lane();
          if (unit >= p.H) continue;
          const Four d = load_four(from + unit * kGates);
#pragma unroll
          for (int q = 0; q < 4; ++q) sum[half][q] += d.at[q];
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int unit = half * 32 + block.lane();
        if (unit < p.H) smem.memory.store4(p.layout.own + u * p.layout.pitch_g + 4 * unit, sum[half]);
      }
    }
  }

  // The same for all words, but only the block's own rows.
  static SEAM_KERNEL void sum_words(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan) {
    const GateRowLayout& l = p.layout;
    const int U = plan.words;
    for (int i = block.thread(); i < eights(U) * kUnits; i += kThreads) {
      const int u = i / kUnits, r = (i - u * kUnits) * 4;
      if (r >= l.rows) continue;
      float sum[4] = {};
      const int end = u < U ? smem.lists.load(firsts(plan) + u + 1) : 0;
#pragma unroll 4
      for (int k = u < U ? smem.lists.load(firsts(plan) + u) : 0; k < end; ++k) {
        float d[4];
        smem.memory.load4(l.late + smem.lists.load(flat_indices(plan) + k) * l.pitch_r + r, d);
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[q] += d[q];
      }
      smem.memory.store4(l.d_words + u * l.pitch_r + r, sum);
    }
  }

  // A lane's four weights of a tile, with the state of their scores.
  struct Tile {
    Four weight, score, m, v;

    SEAM_KERNEL void read(const float* at, int numbers) {
      weight = load_four(at), score = load_four(at + numbers);
      m = load_four(at + 2 * numbers), v = load_four(at + 3 * numbers);
    }
    // One step from the sums of their gradients. Returns the effective weights after it.
    SEAM_KERNEL Four step(float* at, int numbers, AdamRule<float> rule, const AdamStep<float>& step,
                          const float (&penalty)[4], const float (&sum)[4]) {
      Four kept;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        rule.penalty = penalty[j];
        score_step<Branchless>(rule, step, sum[j] * weight.at[j], score.at[j], m.at[j], v.at[j]);
        kept.at[j] = keep(weight.at[j], score.at[j]);
      }
      store_four(at + numbers, score.at);
      store_four(at + 2 * numbers, m.at);
      store_four(at + 3 * numbers, v.at);
      return kept;
    }
  };

  static SEAM_KERNEL void learn_hh(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan,
                                   const AdamStep<float>& step, uint32_t& bad) {
    const GateRowLayout& l = p.layout;
    const int H = p.H, numbers = l.numbers_hh(H), tiles = (H + 9) / 8, lane = block.lane();
    const int rows = kGates * units(p, block.rank()), first_row = kGates * first_unit(p, block.rank());
    float* const state = p.rows_of_gates.state_hh + int64_t(block.rank()) * 4 * numbers + 4 * lane;
#pragma unroll 1
    for (int n = block.warp(); n < tiles; n += kWarps) {
      Tile tile[kTilesM];
      const auto at = [&](int i) { return state + (i * tiles + n) * 128; };
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        if (reads_ahead(0) && i < l.tiles_m()) tile[i].read(at(i), numbers);
      }
      using Terms = TileTerms<Number, kTilesM, 1, 1>;
      typename Terms::Sums sums;
      Terms::add(block, smem.memory, ByTerm{l.late, l.pitch_r, l.rows}, ByTerm{l.states, l.pitch_h, l.pitch_h}, 0, n, 1,
                 eights(plan.positions), sums);
      float penalty[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = column_in_tile(n, lane, j);
        penalty[j] = column < H    ? p.weight_hh.rule.penalty
                     : column == H ? p.bias_ih.rule.penalty
                                   : p.bias_hh.rule.penalty;
      }
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        if (i >= l.tiles_m()) continue;
        if (!reads_ahead(0)) tile[i].read(at(i), numbers);
        float sum[4];
        sums.get(i, 0, sum);
        const Four kept = tile[i].step(at(i), numbers, p.weight_hh.rule, step, penalty, sum);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int r = row_in_tile(i, lane, j), column = column_in_tile(n, lane, j);
          if (r >= rows || column > H + 1) continue;
          bad |= flag(column < H ? 3 : 4 + column - H, sum[j]);
          if (column < H) store(p.rows_of_gates.w_hh + column * Lstm::kGatesPitch + first_row + r, kept.at[j]);
          else smem.memory.store(l.bias + 2 * r + column - H, kept.at[j]);
        }
      }
    }
  }

  static constexpr int kColumns = 2;  // columns of tiles that a warp computes at a time

  // The step of W_ih's scores. Starts the copy of the old weights, which multiply_own needs.
  static SEAM_KERNEL void learn_ih(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan, int s,
                                   const AdamStep<float>& step, uint32_t& bad) {
    const GateRowLayout& l = p.layout;
    const int numbers = l.numbers_ih(), tiles = l.pitch_e / 8, lane = block.lane();
    const int rows = kGates * units(p, block.rank()), first_row = kGates * first_unit(p, block.rank());
    float* const state = p.rows_of_gates.state_ih + int64_t(block.rank()) * 4 * numbers + 4 * lane;
    float* const next = w_ih(p, s + 1) + int64_t(first_row) * l.pitch_e;
    const float same = p.weight_ih.rule.penalty, penalty[4] = {same, same, same, same};
    if (block.warp() >= tiles) fetch_weights(block, smem, p, s, 0);
#pragma unroll 1
    for (int n = block.warp(); n < tiles; n += kColumns * kWarps) {
      const int have = (tiles - n + kWarps - 1) / kWarps < kColumns ? (tiles - n + kWarps - 1) / kWarps : kColumns;
      Tile tile[kTilesM][kColumns];
      const auto at = [&](int i, int k) { return state + (i * tiles + n + k * kWarps) * 128; };
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          if (reads_ahead(k) && k < have && i < l.tiles_m()) tile[i][k].read(at(i, k), numbers);
        }
      }
      if (n == block.warp()) fetch_weights(block, smem, p, s, 0);  // after the loads that are needed sooner
      using Terms = TileTerms<Number, kTilesM, kColumns, kWarps>;
      typename Terms::Sums sums;
      Terms::add(block, smem.memory, ByTerm{l.d_words, l.pitch_r, l.rows}, ByTerm{l.x, l.pitch_e, l.pitch_e}, 0, n,
                 have, eights(plan.words), sums);
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          if (k >= have || i >= l.tiles_m()) continue;
          const int column = column_in_tile(n + k * kWarps, lane, 0);
          if (!reads_ahead(k)) tile[i][k].read(at(i, k), numbers);
          float sum[4];
          sums.get(i, k, sum);
          const Four kept = tile[i][k].step(at(i, k), numbers, p.weight_ih.rule, step, penalty, sum);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int r = row_in_tile(i, lane, 2 * h), to = r * l.pitch_e + column;
            if (r >= rows) continue;
            smem.memory.store2(l.weight_ih + to, {kept.at[2 * h], kept.at[2 * h + 1]});
            store_two(next + to, kept.at[2 * h], kept.at[2 * h + 1]);
            if (column < p.E) bad |= flag(2, sum[2 * h]);
            if (column + 1 < p.E) bad |= flag(2, sum[2 * h + 1]);
          }
        }
      }
    }
  }

  // Starts the copy of this step's W_ih, or of a part of it, from row `first` on.
  static SEAM_KERNEL void fetch_weights(const Block& block, Smem& smem, const TrainParams& p, int s, int first) {
    const GateRowLayout& l = p.layout;
    const int left = kGates * p.H - first, rows = left < l.chunk ? left : l.chunk;
    const float* const from = w_ih(p, s) + int64_t(first) * l.pitch_e;
    smem.weights.start(block, smem.memory, l.late, from, rows * l.pitch_e);
    for (int i = rows * l.pitch_e + block.thread(); i < eights(rows) * l.pitch_e; i += kThreads) {
      smem.memory.store(l.late + i, 0.0f);
    }
  }

  // The gradients of x of the block's own words; they overwrite the gradients of the gates of all words. The copy of
  // the first part of W_ih is in flight.
  static SEAM_KERNEL void multiply_own(const Block& block, Smem& smem, const TrainParams& p, int s, int mine,
                                       BarrierParity& parity, Profile& profile) {
    const GateRowLayout& l = p.layout;
    const int tiles = l.pitch_e / 8, G = kGates * p.H, g = block.lane() / 4, t = block.lane() % 4;
    const int rounds = (mine + 15) / 16, parts = (G + l.chunk - 1) / l.chunk;
    // The padding of the last eight gate rows of a word is multiplied by zero, but must be finite.
    for (int i = block.thread(); i < mine * (eights(G) - G); i += kThreads) {
      smem.memory.store(l.own + i / (eights(G) - G) * l.pitch_g + G + i % (eights(G) - G), 0.0f);
    }
    smem.weights.wait(parity.weights);
    block.sync();
    profile.mark(block, p, 14);
#pragma unroll 1
    for (int m = 0; m < rounds; ++m) {
#pragma unroll 1
      for (int n_0 = 0; n_0 < tiles; n_0 += kColumns * kWarps) {
        const int n = n_0 + block.warp(), there = n < tiles ? (tiles - n + kWarps - 1) / kWarps : 0;
        const int have = there < kColumns ? there : kColumns;
        using Terms = TileTerms<Number, 1, kColumns, kWarps>;
        typename Terms::Sums sums;
#pragma unroll 1
        for (int part = 0; part < parts; ++part) {
          if (parts > 1 && (m > 0 || n_0 > 0 || part > 0)) {
            block.sync();
            fetch_weights(block, smem, p, s, part * l.chunk);
            smem.weights.wait(parity.weights);
            block.sync();
          }
          const int left = G - part * l.chunk, K = left < l.chunk ? left : l.chunk;
          if (have > 0) {
            Terms::add(block, smem.memory, ByNumber{l.own + part * l.chunk, l.pitch_g, mine},
                       ByTerm{l.late, l.pitch_e, l.pitch_e}, m, n, have, eights(K), sums);
          }
        }
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          if (k >= have) continue;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int u = m * 16 + g + 8 * h;
            const int to = l.d_words + u * l.pitch_e + (n + k * kWarps) * 8 + 2 * t;
            if (u < mine) smem.memory.store2(to, {sums.get(0, k, 2 * h), sums.get(0, k, 2 * h + 1)});
          }
        }
      }
    }
    profile.mark(block, p, 15);
  }

  // Updates the scores of the block's own words, and gathers their effective embeddings for the next step, if it has
  // these words. A warp takes a word at a time, a lane W adjacent numbers of it. As much as fits into registers is
  // loaded before the gradients are known.
  struct OwnWords {
    static constexpr int kAhead = 1;
    Four weight[kAhead], score[kAhead], m[kAhead], v[kAhead];

    // A word's weights and scores.
    struct Row {
      const float* weight;
      ScoreState<float> state;
    };
    static SEAM_KERNEL Row row_of(const Smem& smem, const TrainParams& p, const PlanStep& plan, int u, int e) {
      const int rows = plan.word_at - plan.document_at;
      const int64_t row = smem.lists.load(rows + u), word = smem.lists.load(rows + plan.words + u);
      return {p.embedding + word * p.E + e, p.rows.state.at(row * p.E + e)};
    }
    template <int W>
    static SEAM_KERNEL Four get(const float* at) {
      if constexpr (W == 4) return load_four(at);
      else return {{load(at), 0.0f, 0.0f, 0.0f}};
    }
    template <int W>
    static SEAM_KERNEL void put(float* at, const Four& four) {
      if constexpr (W == 4) store_four(at, four.at);
      else store(at, four.at[0]);
    }

    template <int W>
    SEAM_KERNEL void read(const Block& block, const Smem& smem, const TrainParams& p, const PlanStep& plan,
                          int first_word, int mine) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int u = block.warp() + k * kWarps, e = W * block.lane();
        if (u >= mine || e >= p.E) continue;
        const Row row = row_of(smem, p, plan, first_word + u, e);
        weight[k] = get<W>(row.weight), score[k] = get<W>(row.state.score);
        m[k] = get<W>(row.state.exp_avg), v[k] = get<W>(row.state.exp_avg_sq);
      }
    }

    template <int W>
    SEAM_KERNEL void step(const Block& block, const Smem& smem, const TrainParams& p, const PlanStep& plan, int s,
                          const AdamStep<float>& step, int first_word, int mine, uint32_t& bad) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int u = block.warp() + k * kWarps, e = W * block.lane();
        if (W != 4 || u >= mine || e >= p.E) continue;
        take<W>(smem, p, plan, s, step, first_word, u, e, weight[k], score[k], m[k], v[k], bad);
      }
#pragma unroll 1
      for (int u = block.warp(); u < mine; u += kWarps) {
        const bool was_read = W == 4 && u < kAhead * kWarps;
#pragma unroll 1
        for (int e = W * (block.lane() + (was_read ? 32 : 0)); e < p.E; e += 32 * W) {
          const Row row = row_of(smem, p, plan, first_word + u, e);
          take<W>(smem, p, plan, s, step, first_word, u, e, get<W>(row.weight), get<W>(row.state.score),
                  get<W>(row.state.exp_avg), get<W>(row.state.exp_avg_sq), bad);
        }
      }
    }

    template <int W>
    static SEAM_KERNEL void take(const Smem& smem, const TrainParams& p, const PlanStep& plan, int s,
                                 const AdamStep<float>& step, int first_word, int u, int e, const Four& weight,
                                 Four score, Four m, Four v, uint32_t& bad) {
      const GateRowLayout& l = p.layout;
      float sum[4] = {};
      if constexpr (W == 4) smem.memory.load4(l.d_words + u * l.pitch_e + e, sum);
      else sum[0] = smem.memory.load(l.d_words + u * l.pitch_e + e);
      Four kept;
#pragma unroll
      for (int j = 0; j < W; ++j) {
        score_step<Branchless>(p.rows.rule, step, sum[j] * weight.at[j], score.at[j], m.at[j], v.at[j]);
        bad |= flag(1, sum[j]);
        kept.at[j] = keep(weight.at[j], score.at[j]);
      }
      const Row row = row_of(smem, p, plan, first_word + u, e);
      put<W>(row.state.score, score);
      put<W>(row.state.exp_avg, m);
      put<W>(row.state.exp_avg_sq, v);
      const int next = smem.lists.load(plan.word_number_at - plan.document_at + plan.positions + first_word + u);
      if (next != kNone) put<W>(x(p, s + 1) + int64_t(next) * l.pitch_e + e, kept);
    }
  };
};

}  // namespace seam::gpu

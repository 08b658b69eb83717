// Training steps of one module, many in one launch, by a cluster of blocks that share the module by gate rows: a block owns
// some hidden units with the four rows of each, their weights, and the scores of these. The specification is the CPU's engine
// (../seam_trainer.cpp); what is made ahead is in seam_params.h. A step has three phases, between which the cluster meets:
//
//   project   each block: x of all words times its own rows of W_ih
//   recur     a block a document, one after the other where there are more: LSTM, head, loss, and back through time. Warps
//             that have nothing to do bring the scores of the next step's new words up to date
//   learn     each block: W_hh, W_ih and biases of its own rows take their step, and some of the words theirs. So does what
//             comes behind the LSTM
//
// A word that occurs several times in a batch is projected once, and its gradients are summed before they are multiplied.
// What goes from block to block goes through the L2 cache, in rows that are copied into shared memory as they lie.
//
// Every number is summed by one thread or tile in a fixed order, which does not depend on how many blocks there are: the same
// input gives the same bits, on clusters of any size and whatever else the GPU does.
#pragma once

#include "seam_head.cuh"
#include "small_recurrence.cuh"
#include "tile_terms.cuh"

namespace seam::gpu {

// Clocks of each phase, counted by a block's first thread where the extension is compiled with SEAM_PROFILE.
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

// Number: SplitTf32 or Tf32, how products are formed. HB: hidden units, as padded_units has them. CL: blocks of a cluster.
template <class Number, int HB, int CL>
struct GateRowSteps {
  static constexpr int kCluster = CL, kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kTilesM = 16 / CL;                            // of a block's rows: 16 each
  static constexpr int kTilesN = ((HB + CL - 1) / CL * 4 + 7) / 8;   // 8 each
  using Params = TrainParams;
  using Block = BlockOf<CL, true>;  // in a phase
  using Lstm = SmallRecurrence<HB>;

  struct Smem {
    Shared<float, kLayoutFloats> memory;     // as GateRowLayout has it
    Shared<int32_t, kListNumbers> lists;     // of the plan, from document_at on
    Shared<float, 2 * kMostClasses> logits;  // and their gradients
    Shared<PlanStep, 2> plans;               // of this step and the next, [step % 2]
  };
  static_assert(sizeof(Smem) <= 227 * 1024);

  static SEAM_KERNEL void run(const BlockOf<CL>& block, Smem& smem, const Params& p) {
    Outcome outcome = {0, -1, 0.0f};
    if (block.thread() < 2) smem.plans.store(block.thread(), load(p.plan + block.thread()));
    block.sync();
    prepare(block.anew(), smem, p);
    block.sync_cluster();
    gather(block.anew(), smem, p);
    block.sync_cluster();
    uint32_t bad = 0;  // bit k: what SeamFailure calls k was not finite in the last step
    Profile profile(block, p);
#pragma unroll 1
    for (int s = 0; s < p.steps; ++s) {
      project(block.anew(), smem, p, s, profile);
      if (s > 0 && any_bad(block.anew(), p, s - 1)) break;  // all see the same
      outcome.steps = s;
      block.sync_cluster();
      profile.mark(block, p, 2);
      bad = 0;
      recur(block.anew(), smem, p, s, bad, profile);
      block.sync_cluster();
      profile.mark(block, p, 9);
      learn(block.anew(), smem, p, s, bad, profile);
      const bool warp_is_bad = block.any(bad != 0);
      if (block.lane() == 0) store(flags(p, s) + block.rank() * kWarps + block.warp(), int32_t(warp_is_bad));
      block.sync_cluster();
      profile.mark(block, p, 17);
      if (block.thread() == 0) smem.plans.store(s % 2, load(p.plan + s + 2));
    }
    const int last = outcome.steps;  // the last step taken, by number, as it may turn out
    if (p.steps > 0 && any_bad(block.anew(), p, last)) {
      outcome = {last, reason(block.anew(), p, bad, number(block.anew()), kNumbers), load(p.losses + last)};
    } else {
      outcome.steps = p.steps;
    }
    restore(block.anew(), p);
    if (block.rank() == 0 && block.thread() == 0) store(p.outcome, outcome);
  }

 private:
  // A thread's number in the cluster, and how many there are.
  static SEAM_KERNEL int number(const Block& block) { return block.rank() * kThreads + block.thread(); }
  static constexpr int kNumbers = CL * kThreads;

  // ---- Who owns what ----------------------------------------------------------------------------------------------------

  static SEAM_KERNEL int first_unit(const TrainParams& p, int rank) {
    const int more = p.H % CL;
    return rank * (p.H / CL) + (rank < more ? rank : more);
  }
  static SEAM_KERNEL int units(const TrainParams& p, int rank) { return p.H / CL + (rank < p.H % CL); }

  // Where lane `lane` has number j of a tile (m, n): its row of the block and its column.
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
    for (int i = 0; i < CL * kWarps; i += 32) found |= load(flags(p, s) + i + block.lane());
    return block.any(found != 0);
  }

  // ---- Before the first step, and after the last ------------------------------------------------------------------------

  // Calls body(where the number is kept, tensor, index in it) for each number of the block's rows that exists, of W_ih or of
  // W_hh with the biases behind it; and elsewhere(where) for those that only fill tiles.
  struct Kept {
    float* state;   // (4, numbers): weight, score, exp_avg, exp_avg_sq
    int numbers, i;  // and which of them
    int row, column;
    SEAM_KERNEL float get(int what) const { return load(state + what * numbers + i); }
    SEAM_KERNEL void set(int what, float value) const { store(state + what * numbers + i, value); }
  };
  template <class Body, class Elsewhere>
  static SEAM_KERNEL void each_ih(const Block& block, const TrainParams& p, const Body& body, const Elsewhere& elsewhere) {
    const int numbers = p.layout.numbers_ih(), tiles = p.layout.pitch_e / 8;
    const int unit = first_unit(p, block.rank()), rows = kGates * units(p, block.rank());
#pragma unroll 1
    for (int i = block.thread(); i < numbers; i += kThreads) {
      const int tile = i / 128, lane = i % 128 / 4, r = row_in_tile(tile / tiles, lane, i % 4);
      const int n = column_in_tile(tile % tiles, lane, i % 4);
      const Kept kept = {p.rows_of_gates.state_ih + int64_t(block.rank()) * 4 * numbers, numbers, i, r, n};
      if (r < rows && n < p.E) body(kept, p.weight_ih, int64_t(r % kGates * p.H + unit + r / kGates) * p.E + n);
      else elsewhere(kept);
    }
  }
  template <class Body, class Elsewhere>
  static SEAM_KERNEL void each_hh(const Block& block, const TrainParams& p, const Body& body, const Elsewhere& elsewhere) {
    const int numbers = p.layout.numbers_hh(p.H), tiles = (p.H + 9) / 8;
    const int unit = first_unit(p, block.rank()), rows = kGates * units(p, block.rank());
#pragma unroll 1
    for (int i = block.thread(); i < numbers; i += kThreads) {
      const int tile = i / 128, lane = i % 128 / 4, r = row_in_tile(tile / tiles, lane, i % 4);
      const int n = column_in_tile(tile % tiles, lane, i % 4);
      const int64_t row = r % kGates * p.H + unit + r / kGates;
      const Kept kept = {p.rows_of_gates.state_hh + int64_t(block.rank()) * 4 * numbers, numbers, i, r, n};
      if (r >= rows || n > p.H + 1) elsewhere(kept);
      else if (n < p.H) body(kept, p.weight_hh, row * p.H + n);
      else body(kept, n == p.H ? p.bias_ih : p.bias_hh, row);
    }
  }

  static SEAM_KERNEL void prepare(const Block& block, Smem& smem, const TrainParams& p) {
    const GateRowLayout& l = p.layout;
    const int first_row = kGates * first_unit(p, block.rank());
    const auto take = [](const Kept& kept, const Scored& from, int64_t i) {
      kept.set(0, load(from.weight + i));
      kept.set(1, load(from.state.score + i));
      kept.set(2, load(from.state.exp_avg + i));
      kept.set(3, load(from.state.exp_avg_sq + i));
      return effective(from, i);
    };
    const auto clear = [](const Kept& kept) {
      for (int what = 0; what < 4; ++what) kept.set(what, 0.0f);
    };
    each_ih(
        block, p,
        [&](const Kept& kept, const Scored& from, int64_t i) {
          const float w = take(kept, from, i);
          smem.memory.store(l.weight_ih + kept.row * l.pitch_e + kept.column, w);
          store(w_ih(p, 0) + int64_t(first_row + kept.row) * l.pitch_e + kept.column, w);
        },
        [&](const Kept& kept) {
          clear(kept);
          if (kept.row < l.rows) smem.memory.store(l.weight_ih + kept.row * l.pitch_e + kept.column, 0.0f);
        });
    each_hh(
        block, p,
        [&](const Kept& kept, const Scored& from, int64_t i) {
          const float w = take(kept, from, i);
          if (kept.column < p.H) store(p.rows_of_gates.w_hh + int64_t(first_row + kept.row) * HB + kept.column, w);
          else smem.memory.store(l.bias + 2 * kept.row + kept.column - p.H, w);
        },
        clear);
    catch_up_rows(block, smem, p, 0, block.rank() * kWarps + block.warp(), CL * kWarps);
  }

  static SEAM_KERNEL void restore(const Block& block, const TrainParams& p) {
    const auto give = [](const Kept& kept, const Scored& to, int64_t i) {
      store(to.state.score + i, kept.get(1));
      store(to.state.exp_avg + i, kept.get(2));
      store(to.state.exp_avg_sq + i, kept.get(3));
    };
    const auto nothing = [](const Kept&) {};
    each_ih(block, p, give, nothing);
    each_hh(block, p, give, nothing);
  }

  // What the words of the first step keep.
  static SEAM_KERNEL void gather(const Block& block, const Smem& smem, const TrainParams& p) {
    const PlanStep plan = smem.plans.load(0);
#pragma unroll 4
    for (int i = number(block); i < plan.words * p.E; i += kNumbers) {
      const int u = i / p.E, e = i - u * p.E;
      const int64_t row = load(p.numbers + plan.word_at + u);
      store(x(p, 0) + int64_t(u) * p.layout.pitch_e + e,
            keep(load(p.embedding + int64_t(load(p.word + row)) * p.E + e), load(p.rows.state.score + row * p.E + e)));
    }
  }

  // Scores of rows that step s needs and the step before it leaves alone, and what these words keep.
  static SEAM_KERNEL void catch_up_rows(const Block& block, const Smem& smem, const TrainParams& p, int s, int part,
                                        int parts) {
    const PlanStep plan = smem.plans.load(s % 2);
    const float fresh[3] = {load(p.fresh + 3 * s), load(p.fresh + 3 * s + 1), load(p.fresh + 3 * s + 2)};
    catch_up_all(block, p.rows, p.numbers + plan.due_at, plan.due, p.now + s, fresh, part, parts,
                 [&](int32_t row, int32_t u) {
                   if (u == kNone) return;
                   const float* const weight = p.embedding + int64_t(load(p.word + row)) * p.E;
                   for (int e = block.lane(); e < p.E; e += 32) {
                     store(x(p, s) + int64_t(u) * p.layout.pitch_e + e,
                           keep(load(weight + e), load(p.rows.state.score + int64_t(row) * p.E + e)));
                   }
                 });
  }

  // ---- project ----------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void project(const Block& block, Smem& smem, const TrainParams& p, int s, Profile& profile) {
    const GateRowLayout& l = p.layout;
    const PlanStep plan = smem.plans.load(s % 2);
    const int rank = block.rank(), U = plan.words, rows = kGates * units(p, rank);
    const float* const from = x(p, s);
#pragma unroll 4
    for (int i = 4 * block.thread(); i < U * l.pitch_e; i += 4 * kThreads) copy_async(smem.memory, l.x + i, from + i);
    for (int i = 4 * block.thread(); i < plan.lists(); i += 4 * kThreads) {
      copy_async(smem.lists, i, p.numbers + plan.document_at + i);
    }
    for (int i = U * l.pitch_e + block.thread(); i < eights(U) * l.pitch_e; i += kThreads) smem.memory.store(l.x + i, 0.0f);
    copies_done();
    block.sync();
    profile.mark(block, p, 0);
    float* const to = p.rows_of_gates.projected + kGates * first_unit(p, rank);
    const int g = block.lane() / 4, t = block.lane() % 4;
#pragma unroll 1
    for (int m = block.warp(); m * 16 < U; m += kWarps) {
      float sum[1][kTilesN][4] = {};
      add_terms<Number, 1, kTilesN, 1>(block, smem.memory, ByNumber{l.x, l.pitch_e, U},
                                       ByNumber{l.weight_ih, l.pitch_e, l.rows}, m, 0, kTilesN, l.pitch_e, sum);
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        const int r = j * 8 + 2 * t;
        if (r >= rows) continue;
        float bias[4];
        smem.memory.load4(l.bias + 2 * r, bias);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int u = m * 16 + g + 8 * h;
          const float first = sum[0][j][2 * h] + (bias[0] + bias[1]), second = sum[0][j][2 * h + 1] + (bias[2] + bias[3]);
          if (u < U) store_two(to + int64_t(u) * kGates * p.H + r, first, second);
        }
      }
    }
    profile.mark(block, p, 1);
  }

  // ---- recur ------------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void recur(const Block& block, Smem& smem, const TrainParams& p, int s, uint32_t& bad,
                                Profile& profile) {
    const int B = smem.plans.load(s % 2).documents, busy = B < CL ? B : CL;  // blocks that have documents
    const int rank = block.rank(), helpers = busy * kWarps / 2 + (CL - busy) * kWarps;
    if (rank >= busy) {
      catch_up_rows(block, smem, p, s + 1, busy * kWarps / 2 + (rank - busy) * kWarps + block.warp(), helpers);
    } else if (block.warp() >= kWarps / 2) {
      catch_up_rows(block, smem, p, s + 1, rank * kWarps / 2 + block.warp() - kWarps / 2, helpers);
    } else {
#pragma unroll 1
      for (int document = rank; document < B; document += CL) sequence(block.anew(), smem, p, s, document, bad, profile);
    }
  }

  // What of a document the first half of the block needs to know, read again wherever it is needed: it costs less than a
  // register.
  struct Document {
    int index, steps, first;  // in the batch; words; its first place
  };
  static SEAM_KERNEL Document document_at(const Smem& smem, int s, int document) {
    const int B = smem.plans.load(s % 2).documents;
    return {smem.lists.load(document), smem.lists.load(B + document), smem.lists.load(2 * B + document)};
  }

  // A document's way through time and back, by the first half of the block.
  static SEAM_KERNEL void sequence(const Block& block, Smem& smem, const TrainParams& p, int s, int document, uint32_t& bad,
                                   Profile& profile) {
    begin(block.anew(), smem, p, s, document);
    forward(block.anew(), smem, p, document_at(smem, s, document).steps, profile);
    back(block.anew(), smem, p, s, document, bad, profile);
    block.sync_half();
    finish(block.anew(), smem, p, s, document);
    block.sync_half();
    profile.mark(block, p, 8);
  }

  static SEAM_KERNEL SequencePlace sequence_place(const TrainParams& p) {
    return {p.layout.late, p.layout.factors, p.layout.hidden, p.layout.pitch_h};
  }

  // Has copies of a document's gates begun, and lays its hidden states out: ones behind each, for the biases.
  static SEAM_KERNEL void begin(const Block& block, Smem& smem, const TrainParams& p, int s, int document) {
    const SequencePlace at = sequence_place(p);
    const PlanStep plan = smem.plans.load(s % 2);
    const Document d = document_at(smem, s, document);
    const int words = plan.position_at - plan.document_at + d.first;
#pragma unroll 2
    for (int t = block.warp(); t < d.steps; t += kWarps / 2) {
      const float* const from = p.rows_of_gates.projected + int64_t(smem.lists.load(words + t)) * kGates * p.H;
#pragma unroll
      for (int unit = block.lane(); unit < HB; unit += 32) {
        const int to = at.gates + (t * HB + unit) * 4;
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

  static SEAM_KERNEL void forward(const Block& block, Smem& smem, const TrainParams& p, int steps, Profile& profile) {
    const Lstm lstm = {p.H};
    typename Lstm::ForwardWeights weights;
    lstm.load_forward(block, p.rows_of_gates.w_hh, weights);
    copies_done();
    block.sync_half();
    profile.mark(block, p, 3);
    lstm.forward(block, smem.memory, sequence_place(p), steps, weights);
    profile.mark(block, p, 4);
  }

  // Linear layer, head and the way back through time.
  static SEAM_KERNEL void back(const Block& block, Smem& smem, const TrainParams& p, int s, int document, uint32_t& bad,
                               Profile& profile) {
    const Lstm lstm = {p.H};
    const SequencePlace at = sequence_place(p);
    typename Lstm::BackwardWeights weights;
    lstm.load_backward(block, p.rows_of_gates.w_hh, weights);
    const float dh = head(block, smem, p, s, document, bad);
    profile.mark(block, p, 5);
    lstm.backward(block, smem.memory, at, document_at(smem, s, document).steps, dh, weights);
    profile.mark(block, p, 6);
  }

  // The class logits of a document, its loss, and the way back: the gradient of the thread's hidden unit, thread / 2.
  static SEAM_KERNEL float head(const Block& block, Smem& smem, const TrainParams& p, int s, int document, uint32_t& bad) {
    const SequencePlace at = sequence_place(p);
    const Document d = document_at(smem, s, document);
    const int H = p.H, C = p.head.classes, lane = block.lane(), index = d.index, hidden = at.hidden + d.steps * at.pitch;
#pragma unroll 2
    for (int c = block.warp(); c < C; c += kWarps / 2) {
      float sum = 0;
#pragma unroll
      for (int half = 0; half < HB; half += 32) {
        const int k = half + lane;
        if (k < H) sum = fmaf(smem.memory.load(hidden + k), effective(p.linear, int64_t(c) * H + k), sum);
      }
      sum = sum_warp(block, sum);
      if (lane == 0) smem.logits.store(c, sum + effective(p.linear_bias, c));
    }
    for (int k = block.thread(); k < H; k += kThreads / 2) store(p.h_n + int64_t(index) * H + k, smem.memory.load(hidden + k));
    block.sync_half();
    if (block.warp() == 0) {
      const PlanStep plan = smem.plans.load(s % 2);
      const float* const shares = p.shares + 2 * int64_t(plan.first + index);
      const HeadResult result = head_of(block, p.head, index, shares, plan.total, [&](int32_t c) { return smem.logits.load(c); });
      if (!is_finite(result.loss)) bad |= 1;
      for (int c = lane; c < C; c += 32) {
        const float d = d_logit(p.head, result, c, smem.logits.load(c));
        smem.logits.store(kMostClasses + c, d);
        store(p.d_logits + int64_t(index) * C + c, d);
      }
    }
    block.sync_half();
    const int unit = block.thread() / 2;
    float dh = 0;
#pragma unroll 8
    for (int c = 0; c < C; ++c) {
      if (unit < H) dh = fmaf(smem.logits.load(kMostClasses + c), effective(p.linear, int64_t(c) * H + unit), dh);
    }
    return dh;
  }

  // A document's hidden states and gradients to where all blocks find them.
  static SEAM_KERNEL void finish(const Block& block, const Smem& smem, const TrainParams& p, int s, int document) {
    const SequencePlace at = sequence_place(p);
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
        smem.memory.load4(at.gates + (t * HB + unit) * 4, four);
        store_four(p.rows_of_gates.d_gates + (int64_t(d.first + t) * p.H + unit) * kGates, four);
      }
    }
  }

  // ---- learn ------------------------------------------------------------------------------------------------------------

  static SEAM_KERNEL void learn(const Block& block, Smem& smem, const TrainParams& p, int s, uint32_t& bad,
                                Profile& profile) {
    const PlanStep plan = smem.plans.load(s % 2);
    const AdamStep<float> step = load(p.rows.step + (p.now - p.rows.first + s));
    // The block's share of the words.
    const int each = (plan.words + CL - 1) / CL, first_word = block.rank() * each;
    const int left = plan.words - first_word, mine = left < 0 ? 0 : left < each ? left : each;
    fetch(block.anew(), smem, p, plan);
    sum_own(block.anew(), smem, p, plan, first_word, mine);
    copies_done();
    block.sync();
    profile.mark(block, p, 10);
    learn_hh(block.anew(), smem, p, plan, step, bad);
    profile.mark(block, p, 11);
    sum_words(block.anew(), smem, p, plan);
    block.sync();
    profile.mark(block, p, 12);
    fetch_weights(block.anew(), smem, p, s, 0);
    learn_ih(block.anew(), smem, p, plan, s, step, bad);
    profile.mark(block, p, 13);
    step_end(p, plan, s, step, number(block.anew()), kNumbers, bad);
    multiply_own(block.anew(), smem, p, s, mine, profile);
    block.sync();
    learn_words(block.anew(), smem, p, plan, s, step, first_word, mine, bad);
    profile.mark(block, p, 16);
  }

  // Gradients of the block's own rows, and hidden states: of all places, on their way into shared memory.
  static SEAM_KERNEL void fetch(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan) {
    const GateRowLayout& l = p.layout;
    const int P = plan.places, own = units(p, block.rank());
    const float* const gates = p.rows_of_gates.d_gates + kGates * first_unit(p, block.rank());
    for (int i = block.thread(); i < P * own; i += kThreads) {
      const int k = i / own, unit = i - k * own;
      copy_async(smem.memory, l.late + k * l.pitch_r + 4 * unit, gates + (int64_t(k) * p.H + unit) * kGates);
    }
#pragma unroll 4
    for (int i = 4 * block.thread(); i < P * l.pitch_h; i += 4 * kThreads) {
      copy_async(smem.memory, l.states + i, p.rows_of_gates.hidden + i);
    }
    // A block with fewer units than others has rows of nothing; and so many terms fill the last eight.
    for (int i = block.thread(); i < eights(P) * (l.rows - kGates * own); i += kThreads) {
      const int missing = l.rows - kGates * own, k = i / missing;
      smem.memory.store(l.late + k * l.pitch_r + kGates * own + i - k * missing, 0.0f);
    }
    for (int i = block.thread(); i < (eights(P) - P) * kGates * own; i += kThreads) {
      const int k = i / (kGates * own);
      smem.memory.store(l.late + (P + k) * l.pitch_r + i - k * kGates * own, 0.0f);
    }
    for (int i = P * l.pitch_h + block.thread(); i < eights(P) * l.pitch_h; i += kThreads) smem.memory.store(l.states + i, 0.0f);
  }

  // The gradients of all gates of the block's own words, over their places in their order.
  static SEAM_KERNEL void sum_own(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan,
                                  int first_word, int mine) {
    const int firsts = plan.word_at - plan.document_at + plan.words, places = plan.place_at - plan.document_at;
#pragma unroll 2
    for (int i = block.thread(); i < mine * p.H; i += kThreads) {
      const int u = i / p.H, unit = i - u * p.H;
      const int end = smem.lists.load(firsts + first_word + u + 1);
      float sum[4] = {};
#pragma unroll 4
      for (int k = smem.lists.load(firsts + first_word + u); k < end; ++k) {
        const Four d = load_four(p.rows_of_gates.d_gates + (int64_t(smem.lists.load(places + k)) * p.H + unit) * kGates);
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[q] += d.at[q];
      }
      smem.memory.store4(p.layout.own + u * p.layout.pitch_g + 4 * unit, sum);
    }
  }

  // The same of all words for the block's own rows.
  static SEAM_KERNEL void sum_words(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan) {
    const GateRowLayout& l = p.layout;
    const int firsts = plan.word_at - plan.document_at + plan.words, places = plan.place_at - plan.document_at;
    const int U = plan.words, fours = l.rows / 4;
    for (int i = block.thread(); i < eights(U) * fours; i += kThreads) {
      const int u = i / fours, r = (i - u * fours) * 4;
      float sum[4] = {};
      const int end = u < U ? smem.lists.load(firsts + u + 1) : 0;
#pragma unroll 4
      for (int k = u < U ? smem.lists.load(firsts + u) : 0; k < end; ++k) {
        float d[4];
        smem.memory.load4(l.late + smem.lists.load(places + k) * l.pitch_r + r, d);
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[q] += d[q];
      }
      smem.memory.store4(l.d_words + u * l.pitch_r + r, sum);
    }
  }

  // One step of a tile's four scores a lane, from the sums of their gradients: what the weights are from now on.
  static SEAM_KERNEL Four step_tile(float* state, int numbers, int tile, int lane, AdamRule<float> rule,
                                    const AdamStep<float>& step, const float (&penalty)[4], const float (&sum)[4]) {
    float* const at = state + tile * 128 + 4 * lane;
    const Four weight = load_four(at);
    Four score = load_four(at + numbers), m = load_four(at + 2 * numbers), v = load_four(at + 3 * numbers), kept;
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

  static SEAM_KERNEL void learn_hh(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan,
                                   const AdamStep<float>& step, uint32_t& bad) {
    const GateRowLayout& l = p.layout;
    const int H = p.H, numbers = l.numbers_hh(H), tiles = (H + 9) / 8, lane = block.lane();
    const int rows = kGates * units(p, block.rank()), first_row = kGates * first_unit(p, block.rank());
    float* const state = p.rows_of_gates.state_hh + int64_t(block.rank()) * 4 * numbers;
#pragma unroll 1
    for (int n = block.warp(); n < tiles; n += kWarps) {
      float sum[kTilesM][1][4] = {};
      add_terms<Number, kTilesM, 1, 1>(block, smem.memory, ByTerm{l.late, l.pitch_r, l.rows},
                                       ByTerm{l.states, l.pitch_h, l.pitch_h}, 0, n, 1, eights(plan.places), sum);
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        float penalty[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int column = column_in_tile(n, lane, j);
          penalty[j] = column < H ? p.weight_hh.rule.penalty : column == H ? p.bias_ih.rule.penalty : p.bias_hh.rule.penalty;
        }
        const Four kept = step_tile(state, numbers, i * tiles + n, lane, p.weight_hh.rule, step, penalty, sum[i][0]);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int r = row_in_tile(i, lane, j), column = column_in_tile(n, lane, j);
          if (r >= rows || column > H + 1) continue;
          bad |= flag(column < H ? 3 : 4 + column - H, sum[i][0][j]);
          if (column < H) store(p.rows_of_gates.w_hh + int64_t(first_row + r) * HB + column, kept.at[j]);
          else smem.memory.store(l.bias + 2 * r + column - H, kept.at[j]);
        }
      }
    }
  }

  static constexpr int kColumns = 2;  // of tiles that a warp has at a time

  static SEAM_KERNEL void learn_ih(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan, int s,
                                   const AdamStep<float>& step, uint32_t& bad) {
    const GateRowLayout& l = p.layout;
    const int numbers = l.numbers_ih(), tiles = l.pitch_e / 8, lane = block.lane();
    const int rows = kGates * units(p, block.rank()), first_row = kGates * first_unit(p, block.rank());
    float* const state = p.rows_of_gates.state_ih + int64_t(block.rank()) * 4 * numbers;
    float* const next = w_ih(p, s + 1) + int64_t(first_row) * l.pitch_e;
    const float same = p.weight_ih.rule.penalty, penalty[4] = {same, same, same, same};
#pragma unroll 1
    for (int n = block.warp(); n < tiles; n += kColumns * kWarps) {
      const int have = (tiles - n + kWarps - 1) / kWarps < kColumns ? (tiles - n + kWarps - 1) / kWarps : kColumns;
      float sum[kTilesM][kColumns][4] = {};
      add_terms<Number, kTilesM, kColumns, kWarps>(block, smem.memory, ByTerm{l.d_words, l.pitch_r, l.rows},
                                                   ByTerm{l.x, l.pitch_e, l.pitch_e}, 0, n, have, eights(plan.words), sum);
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          if (k >= have) continue;
          const int column = column_in_tile(n + k * kWarps, lane, 0);
          const Four kept = step_tile(state, numbers, i * tiles + n + k * kWarps, lane, p.weight_ih.rule, step, penalty, sum[i][k]);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int r = row_in_tile(i, lane, 2 * h), at = r * l.pitch_e + column;
            if (r >= rows) continue;
            smem.memory.store2(l.weight_ih + at, {kept.at[2 * h], kept.at[2 * h + 1]});
            store_two(next + at, kept.at[2 * h], kept.at[2 * h + 1]);
            if (column < p.E) bad |= flag(2, sum[i][k][2 * h]);
            if (column + 1 < p.E) bad |= flag(2, sum[i][k][2 * h + 1]);
          }
        }
      }
    }
  }

  // W_ih, all of it or a part, as this step has it.
  static SEAM_KERNEL void fetch_weights(const Block& block, Smem& smem, const TrainParams& p, int s, int first) {
    const GateRowLayout& l = p.layout;
    const int left = kGates * p.H - first, rows = left < l.chunk ? left : l.chunk;
    const float* const from = w_ih(p, s) + int64_t(first) * l.pitch_e;
#pragma unroll 4
    for (int i = 4 * block.thread(); i < rows * l.pitch_e; i += 4 * kThreads) copy_async(smem.memory, l.late + i, from + i);
    for (int i = rows * l.pitch_e + block.thread(); i < eights(rows) * l.pitch_e; i += kThreads) {
      smem.memory.store(l.late + i, 0.0f);
    }
  }

  // The gradients of x of the block's own words, where those of the gates of all words have been. The first part of W_ih
  // is on its way.
  static SEAM_KERNEL void multiply_own(const Block& block, Smem& smem, const TrainParams& p, int s, int mine,
                                       Profile& profile) {
    const GateRowLayout& l = p.layout;
    const int tiles = l.pitch_e / 8, G = kGates * p.H, g = block.lane() / 4, t = block.lane() % 4;
    const int rounds = (mine + 15) / 16, parts = (G + l.chunk - 1) / l.chunk;
    // What fills up the last eight gate rows of a word counts for nothing, but must be a number.
    for (int i = block.thread(); i < mine * (eights(G) - G); i += kThreads) {
      smem.memory.store(l.own + i / (eights(G) - G) * l.pitch_g + G + i % (eights(G) - G), 0.0f);
    }
    copies_done();
    block.sync();
    profile.mark(block, p, 14);
#pragma unroll 1
    for (int m = 0; m < rounds; ++m) {
#pragma unroll 1
      for (int n_0 = 0; n_0 < tiles; n_0 += kColumns * kWarps) {
        const int n = n_0 + block.warp(), there = n < tiles ? (tiles - n + kWarps - 1) / kWarps : 0;
        const int have = there < kColumns ? there : kColumns;
        float sum[1][kColumns][4] = {};
#pragma unroll 1
        for (int part = 0; part < parts; ++part) {
          if (parts > 1 && (m > 0 || n_0 > 0 || part > 0)) {
            block.sync();
            fetch_weights(block, smem, p, s, part * l.chunk);
            copies_done();
            block.sync();
          }
          const int left = G - part * l.chunk, K = left < l.chunk ? left : l.chunk;
          if (have > 0) {
            add_terms<Number, 1, kColumns, kWarps>(block, smem.memory, ByNumber{l.own + part * l.chunk, l.pitch_g, mine},
                                                   ByTerm{l.late, l.pitch_e, l.pitch_e}, m, n, have, eights(K), sum);
          }
        }
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          if (k >= have) continue;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int u = m * 16 + g + 8 * h;
            const int to = l.d_words + u * l.pitch_e + (n + k * kWarps) * 8 + 2 * t;
            if (u < mine) smem.memory.store2(to, {sum[0][k][2 * h], sum[0][k][2 * h + 1]});
          }
        }
      }
    }
    profile.mark(block, p, 15);
  }

  // The scores of the block's own words, and what these keep in the next step, if it has them.
  static SEAM_KERNEL void learn_words(const Block& block, Smem& smem, const TrainParams& p, const PlanStep& plan, int s,
                                      const AdamStep<float>& step, int first_word, int mine, uint32_t& bad) {
    const GateRowLayout& l = p.layout;
    const int rows = plan.word_at - plan.document_at, nexts = plan.position_at - plan.document_at + plan.places;
#pragma unroll 2
    for (int i = block.thread(); i < mine * p.E; i += kThreads) {
      const int u = i / p.E, e = i - u * p.E;
      const int64_t row = smem.lists.load(rows + first_word + u);
      const int next = smem.lists.load(nexts + first_word + u);
      const float weight = load(p.embedding + int64_t(load(p.word + row)) * p.E + e);
      const ScoreState<float> state = p.rows.state.at(row * p.E + e);
      float score = load(state.score), m = load(state.exp_avg), v = load(state.exp_avg_sq);
      const float sum = smem.memory.load(l.d_words + u * l.pitch_e + e);
      score_step<Branchless>(p.rows.rule, step, sum * weight, score, m, v);
      bad |= flag(1, sum);
      store(state.score, score);
      store(state.exp_avg, m);
      store(state.exp_avg_sq, v);
      if (next != kNone) store(x(p, s + 1) + int64_t(next) * l.pitch_e + e, keep(weight, score));
    }
  }
};

}  // namespace seam::gpu

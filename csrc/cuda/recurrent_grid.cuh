// The recurrence of layers of 513 to 1024 hidden units in 16 bits: all steps of 16 sequences in one launch, by a group
// of blocks spread over the whole GPU. A block has 16 units, and holds their weights in the registers of its eight
// warps, as left operands of tiles; they would not fit into a cluster.
//
// A warp multiplies an eighth of the terms of all the block's sums, and so waits only for the blocks that have these
// terms. It loads them from the L2 cache directly as right operands: blocks write them in an order in which a lane gets
// four words of adjacent terms by one access. The sums of the warps are added up in shared memory, in the order of the
// warps, by the first four, which have the cells (cluster_cells.cuh).
//
// The data of a step is overwritten two steps later. A block that overwrites it has waited for the flags of all blocks
// for the step in between, and these are posted only by blocks that have read the data.
#pragma once

#include "cluster_cells.cuh"
#include "cluster_weights.cuh"
#include "flags.cuh"

namespace seam::gpu {

// Params: ForwardParams or BackwardParams.
template <class P>
struct GroupParams : P {
  int32_t blocks;      // blocks of a group
  int32_t first_tile;  // tile of the first group
};

// HB: hidden units, rounded up. Numbers: how many of a unit the others need, 1 or 4.
template <class T, int HB, int Numbers>
struct GridGroup {
  static_assert(sizeof(T) == 2 && HB % 128 == 0);
  static constexpr int kThreads = 256, kCluster = 1, kWarps = 8, kOwners = 4, kUnits = ExchangeSize::kUnits;
  static constexpr int kSequences = ExchangeSize::kSequences;
  static constexpr int kSteps = HB * Numbers / 16 / kWarps;  // steps of tiles along a warp's terms
  // The exchanged data of a step, in words: a piece (16 bytes, eight terms) of all sequences; a block's pieces; all. Of
  // two steps.
  static constexpr int kPiece = 4 * kSequences, kOwnPieces = kUnits * Numbers / 8;
  static constexpr int kWords = int(ExchangeSize::words_of_tile(HB, Numbers)) / 2;
  static constexpr int kWarpPieces = 2 * kSteps, kWarpBlocks = kWarpPieces / kOwnPieces;

  // What this thread works on. The warps that have cells: eight of the block's units, and eight sequences.
  int rank, part, eight, half;
  int first;            // rank of the tile's first sequence
  uint32_t* left_here;  // [step % 2, piece, sequence, word]
  int32_t* flags;
  int blocks;

  template <class B, class P>
  SEAM_KERNEL GridGroup(const B& block, const GroupParams<P>& p)
      : rank(block.index() % p.blocks),
        part(block.warp()),
        eight(block.warp() % 2),
        half(block.warp() / 2 % 2),
        blocks(p.blocks) {
    const int tile = p.first_tile + block.index() / p.blocks;
    first = tile * kSequences;
    left_here = p.exchange.words + int64_t(tile) * 2 * kWords;
    flags = p.exchange.flags + tile * p.blocks;
  }
  SEAM_KERNEL bool owner() const { return part < kOwners; }
  SEAM_KERNEL int first_rank() const { return first + half * kClusterSequences; }
  SEAM_KERNEL int first_unit(int H) const { return owner() ? rank * kUnits + eight * kWarpUnits : H; }

  // Tells the other blocks that this one has written its data for turn `turn`, from 0. Called by all threads.
  template <class B>
  SEAM_KERNEL void tell(const B& block, int turn) const {
    block.sync();
    if (block.thread() == 0) post(block, flags + rank, turn + 1);
  }
  // Waits for the flags of the blocks whose data this warp needs; the last ones may not exist.
  template <class B>
  SEAM_KERNEL void wait(const B& block, int turn) const {
    wait_for(block, flags + existing(part * kWarpBlocks + block.lane() % kWarpBlocks, blocks), turn + 1);
  }
  // Right operands of the q-th pair of steps, of the sequences from 8 n on. Terms that do not exist are multiplied with
  // weights of zero, so any others will do.
  template <class B>
  SEAM_KERNEL FourWords right(const B& block, int parity, int q, int n) const {
    const int piece = existing(part * kWarpPieces + 4 * q + block.lane() % 4, blocks * kOwnPieces);
    const uint32_t* const at =
        left_here + parity * kWords + piece * kPiece + (n * kClusterSequences + block.lane() / 4) * 4;
    return load(reinterpret_cast<const FourWords*>(at));
  }

 private:
  static SEAM_KERNEL int existing(int i, int count) { return i < count ? i : count - 1; }
};

// ---- Forward --------------------------------------------------------------------------------------------------------

// The others need the hidden state of each unit: a piece has eight units.
template <class T, int HB>
struct GridForward : GridGroup<T, HB, 1> {
  using Group = GridGroup<T, HB, 1>;
  using Group::kPiece;
  using Group::kSteps;
  using Group::kThreads;
  using Group::kUnits;
  using Group::kWarps;
  using Group::kWords;
  static constexpr int kTiles = kGates * kUnits / 16;  // two for each eight units
  static constexpr int kMostHeld = 7;                  // steps of a warp's tiles whose operands fit into registers
  using Left = LeftOperands<kTiles, kSteps, (kSteps < kMostHeld ? kSteps : kMostHeld), kWarps>;
  using Params = GroupParams<ForwardParams<T>>;
  struct Smem {
    StagedRows<T, kUnits, HB, kThreads> weights;
    typename Left::Rest rest;
    Shared<float, kWarps * Group::kOwners * 256> sums;  // [of warp, for warp, tile, lane, number of the tile]
  };

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    const Group group(block, p);
    const int H = int(p.hidden), g = block.lane() / 4, t = block.lane() % 4;
    const bool owner = group.owner();
    const int first_unit = group.first_unit(H), unit = first_unit + 2 * t;
    Left left;
    fill(block, smem, p.weight_hh, group, H, left);

    const int steps = tile_steps<Group::kSequences>(p.sequences, group.first);
    uint32_t* const own = group.left_here + (group.rank * 2 + group.eight) * kPiece + (group.half * 8 + g) * 4 + t;
    ForwardCells<T, true> cells(block, p, group.first_rank(), first_unit);
    if (owner) {
      const bool given = p.h_0 && cells.sequence.exists && unit < H;
      const T* const from = p.h_0 + cells.sequence.index * p.hidden + unit;
      const uint32_t h_word = given ? pack(load(from), load(from + 1)) : 0;
      store(own, h_word);
      cells.end_here(0, h_word);
    }
    group.tell(block, 0);

    by_turns(steps, [&](auto parity, int step) {
      constexpr int kNow = decltype(parity)::value;
      float sum[2][4] = {};
      if (owner) {
        cells.template begin<kNow>(block, sum);
        cells.template fetch<kNow>(step + 2);
      }
      group.wait(block, step);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float of_tiles[kTiles][4] = {};
        multiply_in_chains<T, kTiles, kSteps>(
            block, [&](int tile, int k) { return left.get(block, smem.rest, tile, k); },
            [&](int q) { return group.right(block, kNow, q, n); }, of_tiles);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          smem.sums.store4(sum_index(group.part, n * 2 + tile / 2, tile % 2) + block.lane() * 4, of_tiles[tile]);
        }
      }
      block.sync();
      float activated[2][kGates] = {};
      uint32_t h_word = 0;
      if (owner) {
#pragma unroll
        for (int from = 0; from < kWarps; ++from) {
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            float more[4];
            smem.sums.load4(sum_index(from, group.part, tile) + block.lane() * 4, more);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[tile][i] += more[i];
          }
        }
        h_word = cells.advance(block, sum, activated);
        if (step + 1 < steps) store(own + (1 - kNow) * kWords, h_word);
      }
      if (step + 1 < steps) group.tell(block, step + 1);
      if (owner) cells.save(block, step, activated, h_word);  // while the flags travel
    });
  }

 private:
  static SEAM_KERNEL int sum_index(int from, int to, int tile) {
    return ((from * Group::kOwners + to) * 2 + tile) * 128;
  }

  static SEAM_KERNEL void fill(const BlockOf<1>& block, Smem& smem, const MaskedNumbers& weight_hh, const Group& group,
                               int H, Left& left) {
    const int g = block.lane() / 4, t = block.lane() % 4;
    smem.weights.fill(block, weight_hh, group.rank * kUnits, 0, H);
#pragma unroll
    for (int q = 0; q < kSteps / 2; ++q) {
#pragma unroll
      for (int eight = 0; eight < 2; ++eight) {
        uint32_t made[2][2][4];  // two steps of two tiles
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          uint32_t words[4];
          smem.weights.rows.load4(smem.weights.row(gate, eight * 8 + g) + 16 * (group.part * (kSteps / 2) + q) + 4 * t,
                                  words);
#pragma unroll
          for (int k = 0; k < 4; ++k) made[gate / 2][k / 2][gate % 2 + 2 * (k % 2)] = words[k];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) left.put(block, smem.rest, eight * 2 + i / 2, 2 * q + i % 2, made[i / 2][i % 2]);
      }
    }
  }
};

// ---- Backward -------------------------------------------------------------------------------------------------------

// The others need the gradients of each unit's gates i, f, g, o: a piece has two units. A block sums up the gradient
// that its own units get from the gates of all units.
template <class T, int HB>
struct GridBackward : GridGroup<T, HB, kGates> {
  using Group = GridGroup<T, HB, kGates>;
  using Group::kPiece;
  using Group::kSteps;
  using Group::kThreads;
  using Group::kUnits;
  using Group::kWarps;
  using Group::kWords;
  static constexpr int kAtOnce = 4;  // right operands loaded at once, of each half of the sequences
  static_assert(kSteps / 2 % kAtOnce == 0);
  static constexpr int kHeld = 16;  // steps of a warp's left operands in registers
  using Params = GroupParams<BackwardParams<T>>;
  struct Smem {
    Shared<uint32_t, kWarps * kSteps * 128> weights;  // left operands, [warp, step, lane, word]
    Shared<float, kWarps * 256> sums;                 // [of warp, half of the sequences, lane, number of the tile]
    Shared<float, 4 * kThreads> ends;
  };
  struct alignas(8) TwoWords {
    uint32_t at[2];
  };

  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem& smem, const Params& p) {
    const Group group(block, p);
    const int H = int(p.hidden), g = block.lane() / 4, t = block.lane() % 4;
    const bool owner = group.owner();
    const int first_unit = group.first_unit(H);
    uint32_t held[kHeld][4];
    fill(block, smem, p.weight_hh, group, H, held);
    const auto left = [&](int k) {
      FourWords words;
      if (k < kHeld) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words.at[i] = held[k < kHeld ? k : 0][i];
      } else {
        smem.weights.load4((group.part * kSteps + k) * 128 + block.lane() * 4, words.at);
      }
      return words;
    };

    const int steps = tile_steps<Group::kSequences>(p.sequences, group.first);
    uint32_t* const own = group.left_here + (group.rank * 8 + group.eight * 4 + g / 2) * kPiece +
                          (group.half * 8 + 2 * t) * 4 + g % 2 * 2;
    BackwardCells<T, true> cells(block, p, group.first_rank(), first_unit, steps);
    float ends[4];
    cells.load_ends(ends);
    smem.ends.store4(block.thread() * 4, ends);  // there are not enough registers
    if (owner) cells.begin(block, steps, ends);

    by_turns(steps, [&](auto parity, int turn) {
      constexpr int kNow = decltype(parity)::value;
      const int step = steps - 1 - turn;
      auto& before = cells.fetched[1 - kNow];
      float d[2][kGates] = {}, more[2] = {};
      if (owner) {
        cells.gradients(before, d);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const TwoWords words = {{narrow_pair<T>(d[n][0], d[n][1]), narrow_pair<T>(d[n][2], d[n][3])}};
          store(reinterpret_cast<TwoWords*>(own + kNow * kWords + n * 4), words);
        }
      }
      group.tell(block, turn);
      if (owner) {  // while the flags travel
        float last[4];
        cells.save(block, step, d);
        smem.ends.load4(block.thread() * 4, last);
        cells.prepare(block, step, before, last, more);
      }
      group.wait(block, turn);
      float sum[2][4] = {};
#pragma unroll
      for (int first = 0; first < kSteps / 2; first += kAtOnce) {
        FourWords of_gates[2][kAtOnce];
#pragma unroll
        for (int i = 0; i < 2 * kAtOnce; ++i) of_gates[i % 2][i / 2] = group.right(block, kNow, first + i / 2, i % 2);
        block.sync_warp();  // bounds the loads in flight, each of which takes registers
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          multiply_in_chains<T, 1, 2 * kAtOnce>(
              block, [&](int, int k) { return left(2 * first + k); }, [&](int q) { return of_gates[n][q]; }, &sum[n]);
        }
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) smem.sums.store4(sum_index(group.part, n) + block.lane() * 4, sum[n]);
      block.sync();
      if (!owner) return;
      float total[2] = {};
#pragma unroll
      for (int from = 0; from < kWarps; ++from) {
        float passed[2];
        smem.sums.load2(sum_index(from, group.half) + block.lane() * 4 + group.eight * 2, passed);
        total[0] += passed[0];
        total[1] += passed[1];
      }
      cells.receive(step, total, more);
    });
    const auto again = block.opaque();
    const Group last(again, p);
    store_first(again, p, last.first_rank(), last.first_unit(H), cells.d_h, cells.d_c);
  }

 private:
  static SEAM_KERNEL int sum_index(int from, int half) { return (from * 2 + half) * 128; }

  // The rows of tiles are the block's units, which are adjacent in memory, and the terms are gates. So a warp reads
  // words of two units, from the rows of i and f, or g and o, of four units in turn, and transposes them. Everything
  // passes through shared memory, where what does not fit into registers stays.
  static SEAM_KERNEL void fill(const BlockOf<1>& block, Smem& smem, const MaskedNumbers& weight_hh, const Group& group,
                               int H, uint32_t (&held)[kHeld][4]) {
    const uint32_t* const weight = static_cast<const uint32_t*>(weight_hh.weight);
    const uint32_t* const score = static_cast<const uint32_t*>(weight_hh.score ? weight_hh.score : weight_hh.weight);
    const int g = block.lane() / 4, t = block.lane() % 4;
#pragma unroll 2
    for (int k = 0; k < kSteps; ++k) {
      uint32_t words[4];
      const int unit = (group.part * kSteps / 2 + k / 2) * 8 + g / 2 * 2 + k % 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int gate = i / 2 * 2 + g % 2, column = group.rank * kUnits + i % 2 * 8 + 2 * t;
        const bool exists = unit < H && column < H;
        const int64_t at = exists ? (int64_t(gate * H + unit) * H + column) / 2 : 0;
        const uint32_t kept = kept_pair<T>(load(weight + at), load(score + at), weight_hh.score != nullptr);
        words[i] = block.transpose(exists ? kept : 0);
      }
      smem.weights.store4((group.part * kSteps + k) * 128 + block.lane() * 4, words);
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k) smem.weights.load4((group.part * kSteps + k) * 128 + block.lane() * 4, held[k]);
  }
};

}  // namespace seam::gpu

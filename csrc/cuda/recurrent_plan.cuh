// Which of the kernels of the recurrence runs a layer on a device.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "launch.cuh"

namespace seam::gpu {

// ---- Small layers in float32 and in 16 bits: recurrent_small.cuh ----------------------------------------------------

// The sizes that kernels are compiled for, by hidden units rounded up. Microseconds of 32 steps, forward + backward,
// measured with prototypes on an H100 in float32 (1 and 2 sequences a block; in brackets what recurrent.cuh took for
// 2):
//   50 units: 11.7, 17.1 (70.8);  64 units: 12.4, 19.1 (75.3).
// A prototype with tensor cores in 16 bits took 24 for eight sequences of 64 units in a block, so it is slower where
// each multiprocessor has at most four sequences; recurrent_tiles.cuh took three times as long.
template <template <class, int, int> class Kernel, class T, class Run>
bool with_small_sizes(int64_t hidden, const Run& run) {
  if (hidden <= 32) return run.template with<Kernel, T, 32>();
  if (hidden <= 48) return run.template with<Kernel, T, 48>();
  if (hidden <= 52) return run.template with<Kernel, T, 52>();
  if (hidden <= 64) return run.template with<Kernel, T, 64>();
  return false;
}

// One sequence per block as long as there is a multiprocessor for each, then two: clocks a step of 50 units forward +
// backward are 405 + 317 with one, 561 + 499 with two, and 661 + 509 for two blocks of one on one multiprocessor. Four
// sequences take 900 + 865 as two blocks of two, and 1,010 + 945 as a block of four.
template <class Params>
struct StartSmall {
  const Device& device;
  const Params& p;

  template <template <class, int, int> class Kernel, class T, int HB>
  bool with() const {
    constexpr int64_t kMostRounds = 24, kAtOnce = 4;  // sequences on a multiprocessor
    const int64_t batch = p.sequences.batch;
    if (batch > kMostRounds * kAtOnce * device.multiprocessors)
      return false;  // then step by step with products of the whole batch is faster
    if (batch <= device.multiprocessors) launch<Kernel<T, HB, 1>>(device.stream, batch, p);
    else launch<Kernel<T, HB, 2>>(device.stream, (batch + 1) / 2, p);
    return true;
  }
};

// ---- Middle layers in float32: recurrent_cluster.cuh ----------------------------------------------------------------

// Up to 128 units by clusters of four blocks. Clocks a step of 128 units forward + backward with all hidden states sent
// as messages, measured with prototypes on an H100: 682 + 640 with one sequence a cluster, 1,053 + 924 with two;
// recurrent.cuh took 3,676 + 4,409 for four. Clusters of two took 1,038 + 815 and 1,619 + 1,294, of eight 652 + 691 and
// 806 + 921. From 97 units on the alternatives are slower for every batch. Below, a block can also run alone on a
// multiprocessor, and four such blocks have a higher throughput once all clusters are busy.
template <template <int> class Kernel, class Params>
bool start_in_cluster(const Device& device, const Params& p) {
  using Two = Kernel<2>;
  if (p.hidden > 128 || !device.clusters) return false;
  const int64_t batch = p.sequences.batch, rounds = p.hidden > 96 ? 4 : 1;
  if (batch > 2 * rounds * resident_clusters<Two>(device.index)) return false;
  // Only where each cluster of one sequence has multiprocessors of its own; not every group of them is a multiple of
  // four.
  if (batch * Two::kCluster <= device.multiprocessors * 9 / 10) launch<Kernel<1>>(device.stream, batch, p);
  else launch<Two>(device.stream, (batch + 1) / 2, p);
  return true;
}

// ---- Middle layers in 16 bits: recurrent_cluster_tiles.cuh ----------------------------------------------------------

// The sizes there are kernels for: 32 units a block. Microseconds a step, forward / backward, measured with prototypes
// on an H100 (in brackets what recurrent_tiles.cuh took at 128 units, by a block):
//   128 units, a cluster of four, 8 to 128 sequences: .52 / .54 (1.95 / 3.1); of two .56 / .77, of eight .65 / .48
//   256 units, a cluster of eight, 8 to 32 sequences: .73 / .7
// Counted from its instructions: 128 units 750 / 610 clocks, .43 / .35; 256 units 870 / 720.
template <template <class, int, bool> class Kernel, class T, class Run>
bool with_cluster_tiles(int64_t hidden, const Run& run) {
  if (hidden <= 64) return false;  // recurrent_small.cuh
  if (hidden <= 128) return run.template with<Kernel, T, 4>();
  if (hidden <= 192) return run.template with<Kernel, T, 6>();
  if (hidden <= 256) return run.template with<Kernel, T, 8>();
  return false;
}

// Whether two adjacent 16-bit numbers are in one word: the first number of each row is at a multiple of 4 bytes.
template <class T>
bool in_words(const StridedView<T>& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % 4 == 0 && rows.time_stride % 2 == 0 && rows.sequence_stride % 2 == 0;
}
inline bool in_words(const void* at) { return reinterpret_cast<uintptr_t>(at) % 4 == 0; }
inline bool in_words(const MaskedNumbers& all) { return in_words(all.weight) && in_words(all.score); }
template <class T>
bool in_words(const ForwardParams<T>& p) {
  return p.hidden % 2 == 0 && in_words(p.gates) && in_words(p.output) && in_words(p.h_n);
}
template <class T>
bool in_words(const BackwardParams<T>& p) {
  return p.hidden % 2 == 0 && in_words(p.gates) && in_words(p.d_gates) &&
         (!p.grad_output.data || in_words(p.grad_output));
}

template <class Params>
struct StartClusterTiles {
  const Device& device;
  const Params& p;

  template <template <class, int, bool> class Kernel, class T, int CL>
  bool with() const {
    if (!device.clusters) return false;
    return in_words(p) ? start<Kernel<T, CL, true>>() : start<Kernel<T, CL, false>>();
  }

 private:
  template <class K>
  bool start() const {
    constexpr int64_t kMostRounds = 24;  // of clusters, as of single blocks above: with more, step by step is faster
    const int64_t tiles = (p.sequences.batch + 7) / 8;
    if (tiles > kMostRounds * resident_clusters<K>(device.index)) return false;
    launch<K>(device.stream, tiles, p);
    return true;
  }
};

// ---- Large layers in 16 bits: recurrent_wide_tiles.cuh --------------------------------------------------------------

// Up to 512 units, where two fit into a word. Chosen by estimates, not measured: clocks a step of eight sequences,
// forward / backward, as csrc/README.md counts them (in brackets what a prototype of such a division took on an H100):
//   384 units, 8 blocks of 48 units: 1,350 / 1,800
//   512 units, 16 blocks of 32 units: 1,250 / 1,700 (1,830 / 2,010); of their clusters an H100 runs 7 at once
//   512 units, 8 blocks of 64 units: 2,200 / 2,500 (2,670 / 2,960); of these 15
// By recurrent_tiles.cuh a call of 512 units, 64 sequences, 64 steps took 15,000 / 19,000 a step on an H100, products
// included.
template <class K, class Params>
bool start_tiles(const Device& device, const Params& p, int64_t most_rounds) {
  const int64_t tiles = (p.sequences.batch + 7) / 8;
  if (tiles > most_rounds * resident_clusters<K>(device.index)) return false;
  launch<K>(device.stream, tiles, p);
  return true;
}

template <template <class, int, int, int> class Kernel, class T, class Params>
bool start_wide_tiles(const Device& device, const Params& p) {
  constexpr int64_t kMostRounds = 4;  // beyond, products of the whole batch are better
  if (!device.clusters || p.hidden <= 256 || 512 < p.hidden || !in_words(p)) return false;
  if (p.hidden <= 384) return start_tiles<Kernel<T, 8, 48, 6>>(device, p, kMostRounds);
  using Eight = Kernel<T, 8, 64, 8>;
  using Sixteen = Kernel<T, 16, 32, 8>;
  // Larger clusters take two thirds of the time of smaller ones, but fewer of them run at once.
  const int64_t tiles = (p.sequences.batch + 7) / 8;
  const auto time = [&](int64_t at_once, int64_t of_step) {
    return at_once > 0 ? (tiles + at_once - 1) / at_once * of_step : INT64_MAX;
  };
  const int64_t of_sixteen = time(resident_clusters<Sixteen>(device.index), 2);
  const int64_t of_eight = device.cluster == 8 ? 0 : time(resident_clusters<Eight>(device.index), 3);
  if (of_sixteen <= of_eight) return start_tiles<Sixteen>(device, p, kMostRounds);
  return start_tiles<Eight>(device, p, kMostRounds);
}

// ---- Larger ones in 16 bits: recurrent_grid.cuh ---------------------------------------------------------------------

// Up to 1024 units, by groups of blocks of 16 units that have 16 sequences each. Chosen by estimates, not measured:
// clocks a step of 1024 units forward / backward 4,400 / 7,400 for up to 32 sequences, which 128 blocks take at once. A
// prototype of the forward pass took 4,900 on an H100. Step by step a call of 32 sequences, 128 steps took 14,400 /
// 24,000, products included.
template <class K, class Params>
bool start_groups(const Device& device, const Params& p) {
  constexpr int64_t kMostRounds = 2;  // beyond, products of the whole batch are better
  constexpr int64_t kSequences = ExchangeSize::kSequences, kUnits = ExchangeSize::kUnits;
  const int64_t tiles = (p.sequences.batch + kSequences - 1) / kSequences, blocks = (p.hidden + kUnits - 1) / kUnits;
  const int64_t groups = resident_blocks<K>(device.index) / blocks;
  if (tiles > kMostRounds * groups) return false;
  for (int64_t first = 0; first < tiles; first += groups) {
    launch_resident<K>(device.stream, std::min(groups, tiles - first), blocks, {p, int32_t(blocks), int32_t(first)});
  }
  return true;
}

template <template <class, int> class Kernel, class T, class Params>
bool start_grid(const Device& device, const Params& p) {
  if (p.hidden <= 512 || !p.exchange.flags || !in_words(p) || !in_words(p.weight_hh)) return false;
  if (p.hidden <= 768) return start_groups<Kernel<T, 768>>(device, p);
  if (p.hidden <= 1024) return start_groups<Kernel<T, 1024>>(device, p);
  return false;
}

// ---- In full precision: recurrent.cuh -------------------------------------------------------------------------------

// The sizes that kernels are compiled for: up to HB units by clusters of CL blocks, with L lanes per unit. The weights
// of a block fill at most three fifths of its registers; those of the last size are in shared memory as well.
template <template <class, int, int, int, int> class Kernel, class T, class Run>
bool with_sizes(int64_t hidden, const Run& run) {
  if (hidden <= 96) return run.template with<Kernel, T, 96, 1, 4>();
  if (hidden <= 128) return run.template with<Kernel, T, 128, 2, 4>();
  if (hidden <= 192) return run.template with<Kernel, T, 192, 4, 8>();
  if (hidden <= 256) return run.template with<Kernel, T, 256, 8, 8>();
  if (hidden <= 384) return run.template with<Kernel, T, 384, 16, 16>();
  if (hidden <= 512) return run.template with<Kernel, T, 512, 16, 16>();
  return false;
}

// How many rounds of tiles a kernel may take; with more, step by step with products of the whole batch is faster.
// Single blocks finish a step in a fraction of the time of a launch, clusters of large layers do not.
template <class K>
constexpr int64_t most_rounds() {
  return K::kCluster == 1 ? 24 : 4;
}

// How many tiles of a kernel run at once; 0 if the device cannot run it.
template <class K>
int64_t tiles_at_once(const Device& device) {
  if (K::kCluster == 1) return device.multiprocessors;
  return device.clusters ? resident_clusters<K>(device.index) : 0;
}

// Starts the kernel with the fewest sequences per tile with which all tiles run at once: a step of fewer sequences is
// shorter.
template <class Params>
struct StartRecurrent {
  const Device& device;
  const Params& p;

  template <template <class, int, int, int, int> class Kernel, class T, int HB, int CL, int L>
  bool with() const {
    constexpr int kMost = HB <= 384 ? 4 : 2;  // sequences of a tile; more would not fit into registers
    using Most = Kernel<T, HB, CL, L, kMost>;
    const int64_t batch = p.sequences.batch, at_once = tiles_at_once<Most>(device);
    if (batch > kMost * most_rounds<Most>() * at_once) return false;
    if (batch <= at_once) start<Kernel<T, HB, CL, L, 1>>(1);
    else if (batch <= 2 * at_once) start<Kernel<T, HB, CL, L, 2>>(2);
    else start<Most>(kMost);
    return true;
  }

 private:
  template <class K>
  void start(int64_t sequences) const {
    launch<K>(device.stream, (p.sequences.batch + sequences - 1) / sequences, p);
  }
};

// ---- By tensor cores: recurrent_tiles.cuh ---------------------------------------------------------------------------

// T: type of the tensors; Number: type of the tensor-core operands.
template <template <class, class, int, int, int> class Kernel, class T, class Number, class Run>
bool with_tiles(int64_t hidden, const Run& run) {
  if constexpr (sizeof(T) == 2) {
    // Up to 64 units recurrent_small.cuh does it, or there are so many sequences that products of the whole batch are
    // better; up to 256, recurrent_cluster_tiles.cuh where there are clusters, and of these is no other kernel for more
    // than 128; above, recurrent_wide_tiles.cuh takes most.
    if (hidden <= 64) return false;
    if (hidden <= 96) return run.template with<Kernel<T, Number, 96, 1, 1>>();
    if (hidden <= 128) return run.template with<Kernel<T, Number, 128, 1, 1>>();
    if (hidden <= 256) return false;
    if (hidden <= 384) return run.template with<Kernel<T, Number, 384, 8, 2>>();
    if (hidden <= 512) return run.template with<Kernel<T, Number, 512, 16, 4>>();
  } else {  // these take twice the registers
    if (hidden <= 32) return run.template with<Kernel<T, Number, 32, 1, 1>>();
    if (hidden <= 64) return run.template with<Kernel<T, Number, 64, 1, 1>>();
    if (hidden <= 128) return run.template with<Kernel<T, Number, 128, 2, 1>>();
    if (hidden <= 256) return run.template with<Kernel<T, Number, 256, 8, 4>>();
  }
  return false;
}

template <class Params>
struct StartTiled {
  const Device& device;
  const Params& p;

  template <class K>
  bool with() const {
    const int64_t tiles = (p.sequences.batch + 7) / 8;
    if (tiles > most_rounds<K>() * tiles_at_once<K>(device)) return false;
    launch<K>(device.stream, tiles, p);
    return true;
  }
};

}  // namespace seam::gpu

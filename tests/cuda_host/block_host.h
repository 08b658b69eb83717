// csrc/cuda/block.cuh for the CPU: a kernel's threads take turns on one thread of the operating system, each on a stack
// of its own, and switch at barriers, shuffles and tensor-core tiles. All threads of a cluster are alive at once;
// clusters run one after the other. If a kernel breaks the rules of block.cuh, `launch` throws an error of one
// sentence.
//
// fibers.h has the stacks, machine.h the scheduling, shadow.h the race detection. Every primitive has one more argument
// than on the GPU, with a default: the source line of the call.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "machine.h"

#define SEAM_KERNEL inline

namespace seam::gpu {

// ---- For tests ------------------------------------------------------------------------------------------------------

inline HostOptions& host_options() { return host::machine.options; }

// Once some memory has been allowed, kernels may access no other.
inline void allow_memory(const void* at, size_t bytes) { host::machine.ranges.add(at, bytes); }
inline void forget_memory(const void* at) { host::machine.ranges.remove(at); }  // with the address that was allowed
inline void forget_memory() { host::machine.ranges.clear(); }

// ---- Global memory --------------------------------------------------------------------------------------------------

template <class T>
SEAM_KERNEL T load(const T* at, host::Site site = host::Site::current()) {
  T value;
  if (host::machine.global_access(at, sizeof(T), alignof(T), false, site)) {
    memcpy(&value, at, sizeof(T));
  } else {
    memset(&value, 0xff, sizeof(T));
  }
  return value;
}
template <class T>
SEAM_KERNEL void store(T* at, T value, host::Site site = host::Site::current()) {
  if (host::machine.global_access(at, sizeof(T), alignof(T), true, site)) memcpy(at, &value, sizeof(T));
}

template <class T>
SEAM_KERNEL void prefetch(const T* at, host::Site site = host::Site::current()) {
  host::machine.handed_over(at, sizeof(T), site);
}

// ---- Shared memory --------------------------------------------------------------------------------------------------

template <class T, int N>
struct alignas(16) Shared {
  static_assert(sizeof(T) % 2 == 0, "the shadow's cells are of two bytes");
  using Site = host::Site;
  T memory[N];

  T load(int i, Site site = Site::current()) const {
    T value[1];
    read(i, value, site);
    return value[0];
  }
  void store(int i, T value, Site site = Site::current()) { write(i, {value}, site); }
  void load2(int i, T (&to)[2], Site site = Site::current()) const { read(i, to, site); }
  void load4(int i, T (&to)[4], Site site = Site::current()) const { read(i, to, site); }
  void store2(int i, const T (&from)[2], Site site = Site::current()) { write(i, from, site); }
  void store4(int i, const T (&from)[4], Site site = Site::current()) { write(i, from, site); }

 private:
  template <int M>
  void read(int i, T (&to)[M], const Site& site) const {
    if (host::machine.shared_access(memory, N, sizeof(T), i, M, false, site)) {
      memcpy(to, &memory[i], sizeof(to));
    } else {
      memset(to, 0xff, sizeof(to));
    }
  }
  template <int M>
  void write(int i, const T (&from)[M], const Site& site) {
    if (host::machine.shared_access(memory, N, sizeof(T), i, M, true, site)) memcpy(&memory[i], from, sizeof(from));
  }
};

// The copy is made as late as possible, when the thread waits for it, so that a premature read gets the old value; for
// the race detection the destination is written both at the request and at the wait.
template <class T, int N>
SEAM_KERNEL void copy_async(Shared<T, N>& to, int i, const T* from, host::Site site = host::Site::current()) {
  static_assert(sizeof(T) == 4, "four numbers of 4 bytes");
  const bool exists = host::machine.global_access(from, 16, 16, false, site);
  if (host::machine.shared_access(to.memory, N, sizeof(T), i, 4, true, site) && exists) {
    host::machine.copy_later(&to.memory[i], from, site, nullptr);
  }
}
SEAM_KERNEL void copies_done() { host::machine.copy_now(nullptr); }

// ---- Threads, barriers, shuffles --------------------
// -----------------------------------------------------------------

template <int CL, bool Held = false>
struct BlockOf {
  using Site = host::Site;
  host::Thread* me;

  int thread() const { return int(me->number); }
  int lane() const { return int(me->number) & 31; }
  int warp() const { return int(me->number) >> 5; }
  int threads() const { return int(host::machine.shape().threads); }
  int index() const { return int((host::machine.cluster() * host::machine.shape().blocks + me->rank) / CL); }
  int count() const { return int(host::machine.shape().clusters * host::machine.shape().blocks / CL); }
  int rank() const { return CL == 1 ? 0 : int(me->rank); }

  void sync(Site site = Site::current()) const { host::machine.barrier(*me, *me->block, host::Doing::sync, site); }
  void sync_warp(Site site = Site::current()) const {
    host::machine.barrier(*me, *me->warp, host::Doing::sync_warp, site);
  }
  void sync_half(Site site = Site::current()) const {
    host::machine.barrier(*me, *me->half, host::Doing::sync_half, site);
  }
  void sync_cluster(Site site = Site::current()) const {
    if constexpr (CL == 1) return sync(site);
    host::machine.barrier(*me, *me->cluster, host::Doing::sync_cluster, site);
  }

  BlockOf<1, Held> single() const { return {me}; }
  BlockOf<CL, true> opaque() const { return {me}; }

  int64_t clock() const { return 0; }

  bool any(bool value, Site site = Site::current()) const { return ballot(value, site) != 0; }
  uint32_t ballot(bool value, Site site = Site::current()) const {
    Vote mine{value, 0};
    host::machine.together(*me, &mine, host::Doing::shuffle, site, [](host::Thread* lanes) {
      uint32_t found = 0;
      for (int k = 0; k < 32; ++k) found |= uint32_t(static_cast<Vote*>(lanes[k].offer)->value) << k;
      for (int k = 0; k < 32; ++k) static_cast<Vote*>(lanes[k].offer)->all = found;
    });
    return mine.all;
  }
  float shuffle_xor(float value, int mask, Site site = Site::current()) const {
    return shuffle(value, lane() ^ mask, site);
  }
  uint32_t shuffle_xor(uint32_t value, int mask, Site site = Site::current()) const {
    return float_to_bits(shuffle(bits_to_float(value), lane() ^ mask, site));
  }
  float shuffle(float value, int lane, Site site = Site::current()) const {
    if (lane < 0 || lane > 31) {
      host::machine.report("shuffle from outside the warp", site,
                           [&] { return host::machine.name(*me) + ": lane " + std::to_string(lane); });
    }
    Exchange mine{value, bits_to_float(0xffffffffu), lane & 31};
    host::machine.together(*me, &mine, host::Doing::shuffle, site, [](host::Thread* lanes) {
      const auto offer = [&](int k) { return static_cast<Exchange*>(lanes[k].offer); };
      for (int k = 0; k < 32; ++k) offer(k)->received = offer(offer(k)->lane)->value;
    });
    return mine.received;
  }

  uint32_t transpose(uint32_t two, Site site = Site::current()) const {
    uint32_t mine = two;
    host::machine.together(*me, &mine, host::Doing::shuffle, site, [](host::Thread* lanes) {
      uint16_t rows[8][8], columns[8][8];
      for (int k = 0; k < 32; ++k) memcpy(&rows[k / 4][k % 4 * 2], lanes[k].offer, 4);
      for (int i = 0; i < 64; ++i) columns[i / 8][i % 8] = rows[i % 8][i / 8];
      for (int k = 0; k < 32; ++k) memcpy(lanes[k].offer, &columns[k / 4][k % 4 * 2], 4);
    });
    return mine;
  }

  template <class T, int N>
  void store_peer(int rank, Shared<T, N>& shared, int i, T value, Site site = Site::current()) const {
    static_assert(sizeof(T) == 4 || sizeof(T) == 2, "words of 4 or 2 bytes");
    if constexpr (CL == 1) {
      shared.store(i, value, site);
    } else {
      void* theirs = host::machine.peer_access(shared.memory, N, sizeof(T), i, rank, site);
      if (theirs != nullptr) memcpy(theirs, &value, sizeof(T));
    }
  }

  template <class Number>
  void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Number,
                Site site = Site::current()) const {
    if constexpr (std::is_same_v<Number, Tf32>) {
      for (const uint32_t word : {a[0], a[1], a[2], a[3], b[0], b[1]}) check_rounded(word, site);
    }
    Tile tile{d, a, b};
    host::machine.together(*me, &tile, host::Doing::tile, site, multiply_all<Number>);
  }

 private:
  struct Vote {
    bool value;
    uint32_t all;
  };
  struct Exchange {
    float value, received;
    int lane;
  };
  struct Tile {
    float* d;
    const uint32_t *a, *b;
  };

  void check_rounded(uint32_t word, const Site& site) const {
    if ((word & 0x1fffu) == 0 || (word & 0x7f800000u) == 0x7f800000u) return;
    host::machine.report("operand not rounded to tf32", site,
                         [&] { return host::machine.name(*me) + ": " + std::to_string(bits_to_float(word)); });
  }

  // With the layout described in block.cuh; products and sums in double, rounded once.
  template <class Number>
  static void multiply_all(host::Thread* lanes) {
    constexpr bool kPairs = !std::is_same_v<Number, Tf32>;
    constexpr int kDepth = kPairs ? 16 : 8, kStep = kPairs ? 2 : 1;  // terms; terms in a word
    double a[16][kDepth], b[kDepth][8];
    const auto unpack = [](uint32_t word, double* to, int step) {
      if constexpr (kPairs) {
        to[0] = widen(Number{uint16_t(word)});
        to[step] = widen(Number{uint16_t(word >> 16)});
      } else {
        to[0] = bits_to_float(word);
      }
    };
    for (int lane = 0; lane < 32; ++lane) {
      const Tile& tile = *static_cast<Tile*>(lanes[lane].offer);
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r) unpack(tile.a[r], &a[g + r % 2 * 8][t * kStep + r / 2 * kDepth / 2], 1);
      for (int r = 0; r < 2; ++r) unpack(tile.b[r], &b[t * kStep + r * kDepth / 2][g], 8);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const Tile& tile = *static_cast<Tile*>(lanes[lane].offer);
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r) {
        double sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += a[g + r / 2 * 8][k] * b[k][t * 2 + r % 2];
        tile.d[r] = float(double(tile.d[r]) + sum);
      }
    }
  }
};

// ---- Launching ------------------------------------------------------------------------------------------------------

using Stream = void*;

// Runs `clusters` clusters of K::kCluster blocks, and throws std::runtime_error if K breaks a rule.
template <class K>
void run_clusters(int64_t clusters, int64_t blocks, const typename K::Params& p) {
  using Params = typename K::Params;
  using Smem = typename K::Smem;
  static_assert(K::kThreads % 32 == 0 && K::kThreads > 0 && K::kThreads <= 1024, "whole warps, at most 32");
  static_assert(K::kCluster > 0 && K::kCluster <= 16, "the largest cluster there is");
  static_assert(sizeof(Smem) <= 227 * 1024, "more shared memory than any GPU has for a block");
  static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) <= 4096, "passed by value");
  static_assert(std::is_trivial_v<Smem>, "shared memory is not constructed");
  const auto body = [](host::Thread& me, const void* params) noexcept {
    K::run(BlockOf<K::kCluster>{&me}, *reinterpret_cast<Smem*>(me.memory), *static_cast<const Params*>(params));
  };
  std::string name = __PRETTY_FUNCTION__;  // "... [with K = Name; ...]"
  name = name.substr(name.find("K = ") + 4);
  name = name.substr(0, name.find_first_of(";]"));
  host::machine.launch(name, {clusters, uint32_t(blocks), uint32_t(K::kThreads), sizeof(Smem)}, body, &p);
}

template <class K>
void launch(Stream, int64_t clusters, const typename K::Params& p) {
  run_clusters<K>(clusters, K::kCluster, p);
}
// Independent groups of blocks: they run one after the other.
template <class K>
void launch_resident(Stream, int64_t groups, int64_t blocks, const typename K::Params& p) {
  static_assert(K::kCluster == 1);
  constexpr int64_t kMost = (1 << 14) / K::kThreads;  // the race detection distinguishes so many threads
  if (blocks > kMost)
    throw std::runtime_error("a group of " + std::to_string(blocks) + " blocks: the watch has no room");
  run_clusters<K>(groups, blocks, p);
}

// On the CPU one after the other.
template <class K>
void launch_batched(Stream stream, int64_t clusters, const typename K::Params* calls, int64_t count) {
  for (int64_t i = 0; i < count; ++i) launch<K>(stream, clusters, calls[i]);
}

}  // namespace seam::gpu

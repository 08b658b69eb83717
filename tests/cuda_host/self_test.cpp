// Tests of the CPU implementation of block.cuh: correct kernels have no findings in any order of threads, each planted
// fault is found, and the number types of real.cuh agree with their definition. One file: a program of small cases.
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/block.cuh"
#include "cuda/flags.cuh"
#include "cuda/messages.cuh"

namespace {

using namespace seam::gpu;

// ---- Keeping count --------------------------------------------------------------------------------------------------

int passed = 0, failed = 0;

void check(bool good, const std::string& what, const std::string& why = "") {
  ++(good ? passed : failed);
  printf("%s %s%s%s\n", good ? "ok  " : "FAIL", what.c_str(), good || why.empty() ? "" : ": ", good ? "" : why.c_str());
}

template <class K>
std::string findings(const typename K::Params& p, int64_t clusters = 1) {  // empty if there are none
  try {
    if constexpr (requires { K::kGroup; }) {
      for (int64_t k = 0; k < clusters * K::kGroup; ++k) p.flags[k] = 0;
      launch_resident<K>(nullptr, clusters, K::kGroup, p);
    } else {
      launch<K>(nullptr, clusters, p);
    }
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

constexpr HostOptions::Order kOrders[] = {HostOptions::round_robin, HostOptions::depth_first, HostOptions::reversed,
                                          HostOptions::shuffled};

// Checks that `holds()` is empty in every order of threads; else reports its text.
std::string in_all_orders(const std::function<std::string()>& holds) {
  std::string why;
  for (const HostOptions::Order order : kOrders) {
    host_options().order = order;
    const uint64_t seeds = order == HostOptions::shuffled ? 5 : 1;
    for (uint64_t seed = 0; seed < seeds && why.empty(); ++seed) {
      host_options().seed = seed;
      why = holds();
    }
  }
  host_options() = {};
  return why;
}

template <class K>
void found(const char* what, const std::string& kind, const typename K::Params& p, int64_t clusters = 1) {
  const std::string why = in_all_orders([&]() -> std::string {
    const std::string text = findings<K>(p, clusters);
    return text.find(kind + " at self_test.cpp:") == std::string::npos ? "found only '" + text + "'" : "";
  });
  check(why.empty(), std::string("found: ") + what, why);
}

template <class K>
void clean(const char* what, const typename K::Params& p, int64_t clusters, const std::function<bool()>& right) {
  const std::string why = in_all_orders([&]() -> std::string {
    const std::string text = findings<K>(p, clusters);
    return !text.empty() ? text : right() ? "" : "wrong numbers";
  });
  check(why.empty(), std::string("clean: ") + what, why);
}

// The common part of small kernels.
template <int CL = 1>
struct Small {
  static constexpr int kThreads = 64, kCluster = CL;
  using Block = BlockOf<CL>;
  struct Params {
    const float* in;
    float* out;
  };
  struct Smem {
    Shared<float, 64> a;
    Shared<float, 64> b;
  };
};

// The common part of kernels whose blocks synchronise by flags.
struct Grouped {
  static constexpr int kThreads = 64, kCluster = 1, kGroup = 4;
  using Block = BlockOf<1>;
  struct Params {
    const float* in;
    float *out, *between;
    int32_t* flags;
  };
  struct Smem {};
};

// ---- Correct kernels ------------------------------------------------------------------------------------------------

struct BlockSum : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread();
    smem.a.store(t, load(p.in + block.index() * 64 + t));
    block.sync();
    for (int half = 32; half > 0; half /= 2) {
      if (t < half) smem.a.store(t, smem.a.load(t) + smem.a.load(t + half));
      block.sync();
    }
    if (t == 0) store(p.out + block.index(), smem.a.load(0));
  }
};

struct WarpSum : Small<> {  // by shuffles, and by way of memory that only a warp shares
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread();
    float sum = load(p.in + t);
    for (int mask = 16; mask > 0; mask /= 2) sum += block.shuffle_xor(sum, mask);
    const float first = block.shuffle(float(t), 0);
    smem.a.store(t, sum);
    block.sync_warp();
    store(p.out + t, smem.a.load(t ^ 31) + first);
  }
};

struct TurnedRound : Small<> {  // 8 x 8 numbers: row r has 8 r to 8 r + 7
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    const uint16_t mine = uint16_t(block.lane() * 2);
    const uint32_t two = block.transpose(pack(Half{mine}, Half{uint16_t(mine + 1)}));
    const uint32_t others = block.shuffle_xor(two, 4);
    if (block.warp() == 0) {
      store(p.out + block.lane() * 2, float(two & 0xffff));
      store(p.out + block.lane() * 2 + 1, float(others >> 16));
    }
  }
};

struct Vectors : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread();
    if (t < 16) {
      const float* in = p.in + 4 * t;
      smem.a.store4(4 * t, {load(in), load(in + 1), load(in + 2), load(in + 3)});
    }
    block.sync();
    if (t < 32) {
      float two[2];
      smem.a.load2(2 * t, two);
      smem.b.store2(2 * t, two);
    }
    block.sync();
    float four[4];
    smem.b.load4(t / 4 * 4, four);
    store(p.out + t, four[t % 4]);
  }
};

// Two 16-bit numbers lie in one word, and are of two threads.
struct Neighbours : Small<> {
  struct Smem {
    Shared<Half, 64> a;
  };
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread();
    smem.a.store(t, narrow<Half>(load(p.in + t)));
    store(p.out + t, widen(smem.a.load(t)));
  }
};

// In each step each block adds what the previous block had; double buffered, so that one barrier per step suffices.
struct Ring : Small<4> {
  static constexpr int kSteps = 6;
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread(), next = (block.rank() + 1) % kCluster;
    const int place = (block.index() * kCluster + block.rank()) * 64 + t;
    float mine = load(p.in + place);
    block.sync_cluster();
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; ++step) {
      Shared<float, 64>& buffer = step % 2 == 0 ? smem.a : smem.b;
      block.store_peer(next, buffer, t, mine);
      block.sync_cluster();
      mine += buffer.load(63 - t);
    }
    store(p.out + place, mine);
  }
};

// The same by messages, without a barrier: each thread sends to all blocks, after its reads of the previous step. So
// whoever has received what all sent for a step may overwrite what they read before it.
struct RingOfMessages : Small<4> {
  struct Smem {
    Shared<float, 2 * kCluster * 64> all;
    Arrivals arrivals[2];
  };
  static constexpr int kSteps = Ring::kSteps, kBytes = kCluster * 64 * int(sizeof(float));
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread(), place = (block.index() * kCluster + block.rank()) * 64 + t;
    float mine = load(p.in + place);
    if (t == 0) smem.arrivals[0].begin(kBytes), smem.arrivals[1].begin(kBytes);
    block.sync_cluster();
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const int k = step % 2, at = k * kCluster * 64;
      for (int rank = 0; rank < kCluster; ++rank) {
        send(block, rank, smem.all, at + block.rank() * 64 + t, mine, smem.arrivals[k]);
      }
      smem.arrivals[k].wait(step / 2);
      if (t == 0) smem.arrivals[k].arm(kBytes);
      mine += smem.all.load(at + (block.rank() + 3) % kCluster * 64 + 63 - t);
    }
    store(p.out + place, mine);
  }
};

// The same by requests: a block writes what it sends to its own memory, and sends all of it at once.
struct RingOfRequests : Small<4> {
  using Smem = RingOfMessages::Smem;
  static constexpr int kSteps = Ring::kSteps, kBytes = (kCluster - 1) * 64 * int(sizeof(float));
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params& p) {
    const int t = block.thread(), place = (block.index() * kCluster + block.rank()) * 64 + t;
    float mine = load(p.in + place);
    if (t == 0) smem.arrivals[0].begin(kBytes), smem.arrivals[1].begin(kBytes);
    block.sync_cluster();
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const int k = step % 2, at = k * kCluster * 64, own = at + block.rank() * 64;
      smem.all.store(own + t, mine);
      ready_to_send();
      block.sync();
      for (int i = 1 + block.warp(); i < kCluster; i += 2) {
        send_all(block, (block.rank() + i) % kCluster, smem.all, own, 64, smem.arrivals[k]);
      }
      smem.arrivals[k].wait(step / 2);
      if (t == 0) smem.arrivals[k].arm(kBytes);
      mine += smem.all.load(at + (block.rank() + 3) % kCluster * 64 + 63 - t);
    }
    store(p.out + place, mine);
    block.sync_cluster();
  }
};

// The same by flags, among four of eight blocks.
struct RingOfFlags : Grouped {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    const int t = block.thread(), rank = block.index() % kGroup, group = block.index() / kGroup;
    const int place = block.index() * 64 + t;
    float mine = load(p.in + place);
#pragma GCC unroll 1
    for (int step = 0; step < Ring::kSteps; ++step) {
      float* const between = p.between + (group * 2 + step % 2) * kGroup * 64;
      store(between + rank * 64 + t, mine);
      block.sync();
      if (t == 0) post(block, p.flags + block.index(), step + 1);
      wait_for(block, p.flags + group * kGroup + block.lane() % kGroup, step + 1);
      mine += load(between + (rank + 3) % kGroup * 64 + 63 - t);
    }
    store(p.out + place, mine);
  }
};

void correct_kernels() {
  std::vector<float> in(512), out(512);
  for (int i = 0; i < 512; ++i) in[i] = float(i * 37 % 101 - 50);
  const auto sum = [&](int first, int count) {
    float total = 0;
    for (int i = first; i < first + count; ++i) total += in[i];
    return total;
  };
  const auto every = [&](int count, const std::function<float(int)>& expected) {
    bool same = true;
    for (int i = 0; i < count; ++i) same &= out[i] == expected(i);
    std::fill(out.begin(), out.end(), NAN);
    return same;
  };
  clean<BlockSum>("a block's sum", {in.data(), out.data()}, 4,
                  [&] { return every(4, [&](int i) { return sum(i * 64, 64); }); });
  clean<WarpSum>("a warp's sum by shuffles", {in.data(), out.data()}, 1,
                 [&] { return every(64, [&](int i) { return sum(i / 32 * 32, 32) + float(i / 32 * 32); }); });
  clean<TurnedRound>("columns as rows", {in.data(), out.data()}, 1, [&] {
    return every(64, [&](int i) { return float(i / 2 % 4 * 16 + i % 2 * 8 + (i / 8 ^ i % 2)); });
  });
  clean<Vectors>("neighbours by two and four", {in.data(), out.data()}, 1,
                 [&] { return every(64, [&](int i) { return in[i]; }); });
  clean<Neighbours>("halves of a word", {in.data(), out.data()}, 1,
                    [&] { return every(64, [&](int i) { return in[i]; }); });
  std::vector<float> ring = in;  // what Ring does, for all places at once
  for (int step = 0; step < Ring::kSteps; ++step) {
    const std::vector<float> before = ring;
    for (int i = 0; i < 512; ++i) ring[i] += before[i / 256 * 256 + (i / 64 + 3) % 4 * 64 + 63 - i % 64];
  }
  clean<Ring>("an exchange in clusters of four", {in.data(), out.data()}, 2,
              [&] { return every(512, [&](int i) { return ring[i]; }); });
  clean<RingOfMessages>("an exchange in clusters of four by messages", {in.data(), out.data()}, 2,
                        [&] { return every(512, [&](int i) { return ring[i]; }); });
  clean<RingOfRequests>("an exchange in clusters of four by requests", {in.data(), out.data()}, 2,
                        [&] { return every(512, [&](int i) { return ring[i]; }); });
  std::vector<float> between(1024);
  std::vector<int32_t> flags(8);
  clean<RingOfFlags>("an exchange in groups of four by flags", {in.data(), out.data(), between.data(), flags.data()}, 2,
                     [&] { return every(512, [&](int i) { return ring[i]; }); });
}

// ---- Tensor tiles ---------------------------------------------------------------------------------------------------

template <class Number>
constexpr int kDepth = std::is_same_v<Number, Tf32> ? 8 : 16;

// d (16 x 8) = 1 + a (16 x depth) b (depth x 8), each lane loading its words as block.cuh says.
template <class Number, bool Rounded = true>
struct TileProduct {
  static constexpr int kThreads = 32, kCluster = 1;
  struct Params {
    const float *a, *b;
    float* d;
  };
  struct Smem {};

  static SEAM_KERNEL uint32_t word(const float* at, int step) {
    if constexpr (!std::is_same_v<Number, Tf32>) return pack(narrow<Number>(load(at)), narrow<Number>(load(at + step)));
    return Rounded ? to_tf32(load(at)) : float_to_bits(load(at));
  }
  static SEAM_KERNEL void run(const BlockOf<1>& block, Smem&, const Params& p) {
    constexpr int kD = kDepth<Number>, kHalf = kD / 2, kWide = kD / 8;
    const int g = block.lane() / 4, t = block.lane() % 4 * kWide;
    const float *a = p.a + g * kD + t, *b = p.b + t * 8 + g;
    const uint32_t left[4] = {word(a, 1), word(a + 8 * kD, 1), word(a + kHalf, 1), word(a + 8 * kD + kHalf, 1)};
    const uint32_t right[2] = {word(b, 8), word(b + kHalf * 8, 8)};
    float d[4] = {1, 1, 1, 1};
    block.multiply(d, left, right, Number{});
    const int column = block.lane() % 4 * 2;
    for (int r = 0; r < 4; ++r) store(p.d + (g + r / 2 * 8) * 8 + column + r % 2, d[r]);
  }
};

template <class Number>
void tile(const char* what) {
  constexpr int kD = kDepth<Number>;
  std::vector<float> a(16 * kD), b(kD * 8), d(16 * 8);
  for (int i = 0; i < 16 * kD; ++i) a[i] = float(i * 29 % 31 - 15);
  for (int i = 0; i < kD * 8; ++i) b[i] = float(i * 17 % 23 - 11);
  clean<TileProduct<Number>>(what, {a.data(), b.data(), d.data()}, 1, [&] {
    bool same = true;
    for (int i = 0; i < 16 * 8; ++i) {
      float sum = 1;
      for (int k = 0; k < kD; ++k) sum += a[i / 8 * kD + k] * b[k * 8 + i % 8];
      same &= d[i] == sum;
    }
    return same;
  });
}

void tiles() {
  tile<BFloat16>("a tile of BFloat16");
  tile<Half>("a tile of Half");
  tile<Tf32>("a tile of Tf32");
  std::vector<float> a(16 * 8, 0.1f), b(8 * 8, 0.5f), d(16 * 8);
  using Unrounded = TileProduct<Tf32, false>;
  found<Unrounded>("an operand that is no Tf32", "operand not rounded to tf32", {a.data(), b.data(), d.data()});
}

// ---- Planted faults -------------------------------------------------------------------------------------------------

struct WriteAfterRead : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    smem.a.store(t, 1);
    block.sync();
    const float other = smem.a.load(63 - t);
    smem.a.store(t, other);  // others may still have to read it
  }
};

struct ReadAfterWrite : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    smem.a.store(t, 0);
    block.sync();
    smem.a.store(t, 1);
    smem.b.store(t, smem.a.load(63 - t));  // they may not have written it yet
  }
};

// The writer is the last of the readers: a detector that keeps only the last reader misses the others.
struct OneOfTheReaders : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    if (block.thread() == 0) smem.a.store(0, 1);
    block.sync();
    smem.b.store(block.thread(), smem.a.load(0));
    if (block.thread() == 63) smem.a.store(0, 2);
  }
};

struct WarpForBlock : Small<> {  // the barrier of a warp does not hold back the other
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    smem.a.store(t, 1);
    block.sync_warp();
    smem.b.store(t, smem.a.load(63 - t));
  }
};

struct OneOfAPair : Small<> {
  struct Smem {
    Shared<Half, 2> a;
  };
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    if (t < 2) smem.a.store(t, Half{1});
    block.sync();
    Half two[2];
    if (t == 0) smem.a.load2(0, two);
    if (t == 1) smem.a.store(1, Half{2});
  }
};

struct OneOfAPairRead : Small<> {
  struct Smem {
    Shared<Half, 2> a;
  };
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    Half two[2] = {};
    if (t == 0) smem.a.store2(0, two);
    block.sync();
    if (t == 0) smem.a.load2(0, two);
    if (t == 1) smem.a.store(1, Half{2});
  }
};

struct ShuffleForBarrier : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    smem.a.store(t, 1);
    const float zero = 0 * block.shuffle_xor(1.0f, 1);
    smem.b.store(t, smem.a.load(t ^ 1) + zero);
  }
};

struct Unwritten : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    const int t = block.thread();
    if (t != 5) smem.a.store(t, 1);
    block.sync();
    smem.b.store(t, smem.a.load(t));
  }
};

struct OutOfBounds : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) { smem.a.store(block.thread() + 1, 1); }
  static constexpr int kLine = __LINE__ - 1;
};

struct EndOutOfBounds : Small<> {
  struct Smem {
    Shared<float, 66> a;
  };
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    if (block.thread() == 0) smem.a.store4(64, {1, 2, 3, 4});
  }
};

struct Misaligned : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    smem.a.store(block.thread(), 1);
    block.sync();
    float four[4];
    if (block.thread() == 0) smem.a.load4(2, four);
  }
};

struct ADozen : Small<> {  // of faults
  static SEAM_KERNEL void run(const Block&, Smem& smem, const Params&) {
    smem.a.load(64);
    smem.a.load(65);
    smem.a.load(66);
    smem.a.load(67);
    smem.a.load(68);
    smem.a.load(69);
    smem.a.load(-1);
    smem.a.load(-2);
    smem.a.load(-3);
    smem.a.load(-4);
    smem.a.load(-5);
    smem.a.load(-6);
  }
};

struct DivergentShuffle : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params&) {
    if (block.lane() < 16) {
      block.shuffle_xor(1.0f, 1);
    } else {
      block.shuffle_xor(2.0f, 1);
    }
  }
};

struct HalfAShuffle : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params&) {
    if (block.lane() < 16) block.shuffle_xor(1.0f, 1);
    block.sync();
  }
};

struct DivergentTile : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params&) {
    float d[4] = {};
    if (block.lane() > 3) block.multiply(d, {0, 0, 0, 0}, {0, 0}, Half{});
  }
};

struct TwoBarriers : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params&) {
    if (block.warp() == 0) {
      block.sync();
    } else {
      block.sync();
    }
  }
};

struct TwoKinds : Small<2> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params&) {
    if (block.warp() == 0) {
      block.sync();
    } else {
      block.sync_cluster();
    }
  }
};

struct EarlyReturn : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params&) {
    if (block.thread() == 7) return;
    block.sync();
  }
  static constexpr int kLine = __LINE__ - 2;
};

struct BlockForCluster : Small<2> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    block.sync_cluster();
    block.store_peer(1 - block.rank(), smem.a, block.thread(), 1.0f);
    block.sync();  // holds back one's own block, not the one that stores here
    smem.b.store(block.thread(), smem.a.load(block.thread()));
    block.sync_cluster();
  }
};

struct PeerTooEarly : Small<2> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    block.store_peer(1 - block.rank(), smem.a, block.thread(), 1.0f);
    block.sync_cluster();
  }
};

struct PeerTooLate : Small<2> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    block.sync_cluster();
    block.store_peer(1 - block.rank(), smem.a, block.thread(), 1.0f);
  }
};

struct NoSuchPeer : Small<2> {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    block.sync_cluster();
    block.store_peer(block.rank() + 1, smem.a, block.thread(), 1.0f);
    block.sync_cluster();
  }
};

// What is told of what one block writes and the next one reads.
struct FlagNever : Grouped {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) { wait_for(block, p.flags, 1); }
};
struct NotWaited : Grouped {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    const int t = block.thread();
    store(p.between + block.index() * 64 + t, 1.0f);
    block.sync();
    if (t == 0) post(block, p.flags + block.index(), 1);
    store(p.out + block.index() * 64 + t, load(p.between + (block.index() + 1) % kGroup * 64 + t));
  }
};
struct WaitedForAnother : Grouped {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    const int t = block.thread();
    store(p.between + block.index() * 64 + t, 1.0f);
    block.sync();
    if (t == 0) post(block, p.flags + block.index(), 1);
    wait_for(block, p.flags + block.index(), 1);
    store(p.out + block.index() * 64 + t, load(p.between + (block.index() + 1) % kGroup * 64 + t));
  }
};
struct PostTooEarly : Grouped {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    const int t = block.thread();
    store(p.between + block.index() * 64 + t, 1.0f);
    if (t == 0) post(block, p.flags + block.index(), 1);  // for others, too, who have not met
    wait_for(block, p.flags + (block.index() + 1) % kGroup, 1);
    store(p.out + block.index() * 64 + t, load(p.between + (block.index() + 1) % kGroup * 64 + t));
  }
};

struct Messages : Small<2> {
  struct Smem {
    Shared<float, 64> a;
    Arrivals arrivals;
  };
  static constexpr int kBytes = 64 * sizeof(float);
  static SEAM_KERNEL void begin(const Block& block, Smem& smem) {
    if (block.thread() == 0) smem.arrivals.begin(kBytes);
  }
  static SEAM_KERNEL void send_to(int rank, const Block& block, Smem& smem) {
    send(block, rank, smem.a, block.thread(), 1.0f, smem.arrivals);
  }
};
struct NoMessage : Messages {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    begin(block, smem);
    block.sync_cluster();
    if (block.thread() > 0) send_to(1 - block.rank(), block, smem);
    smem.arrivals.wait(0);
  }
};
struct MessageTooEarly : Messages {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    begin(block, smem);
    block.sync();
    send_to(1 - block.rank(), block, smem);
    block.sync_cluster();
  }
};
struct MessageTooLate : Messages {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    begin(block, smem);
    block.sync_cluster();
    if (block.rank() == 0) return;  // waits for nothing
    for (int k = 0; k < 100; ++k) block.sync();
    send_to(0, block, smem);
  }
};
struct ArmedTwice : Messages {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    begin(block, smem);
    if (block.thread() == 0) smem.arrivals.arm(kBytes);
    block.sync_cluster();
  }
};
struct MessageToNobody : Messages {
  static SEAM_KERNEL void run(const Block& block, Smem& smem, const Params&) {
    begin(block, smem);
    block.sync_cluster();
    send_to(2, block, smem);
  }
};

struct GlobalCopy : Small<> {  // right, if every block has 64 places of its own
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    store(p.out + block.thread(), load(p.in + block.thread()) + float(block.index()));
  }
};

struct GlobalSwap : Small<> {
  static SEAM_KERNEL void run(const Block& block, Smem&, const Params& p) {
    store(p.out + block.thread(), 1.0f);
    if (block.index() >= 0) block.sync_warp();
    store(p.out + 64 + block.thread(), load(p.out + 63 - block.thread()));
  }
};

void planted_faults() {
  std::vector<float> in(256), out(256);
  const typename Small<>::Params one{in.data(), out.data()};
  const typename Small<2>::Params two{in.data(), out.data()};
  found<WriteAfterRead>("no barrier between reads and writes", "race in shared memory", one);
  found<ReadAfterWrite>("no barrier between writes and reads", "race in shared memory", one);
  found<OneOfTheReaders>("a reader of many writes", "race in shared memory", one);
  found<WarpForBlock>("sync_warp where sync is due", "race in shared memory", one);
  found<OneOfAPair>("a race for half a word", "race in shared memory", one);
  found<OneOfAPairRead>("a write to half of what is read", "race in shared memory", one);
  found<ShuffleForBarrier>("a shuffle where a barrier is due", "race in shared memory", one);
  found<BlockForCluster>("sync where sync_cluster is due", "race in shared memory", two);
  found<Unwritten>("a read of what nobody wrote", "read of unwritten shared memory", one);
  found<OutOfBounds>("an index out of bounds", "index out of bounds", one);
  found<EndOutOfBounds>("four of which the last are out of bounds", "index out of bounds", one);
  found<Misaligned>("load4 from 2 on", "misaligned access", one);
  found<DivergentShuffle>("a shuffle at two lines", "divergent shuffle", one);
  found<HalfAShuffle>("a shuffle of half a warp", "divergent shuffle", one);
  found<DivergentTile>("a tile of part of a warp", "divergent shuffle", one);
  found<TwoBarriers>("barriers at two lines", "divergent barrier", one);
  found<TwoKinds>("barriers of two kinds", "divergent barrier", two);
  found<EarlyReturn>("an early return", "divergent barrier", one);
  found<PeerTooEarly>("store_peer before the first sync_cluster", "store_peer before the first sync_cluster", two);
  found<PeerTooLate>("store_peer after the last", "store_peer without a sync_cluster after it", two);
  found<NoSuchPeer>("a peer that there is not", "no such block in the cluster", two);
  found<NoMessage>("a message that nobody sends", "wait for what never comes", two);
  found<MessageTooEarly>("a message before the first sync_cluster", "message before the first sync_cluster", two);
  found<MessageTooLate>("a message to who does not wait for it", "message to a block that has ended", two);
  found<ArmedTwice>("a round that is armed twice", "a round is armed twice", two);
  found<MessageToNobody>("a message to a peer that there is not", "no such block in the cluster", two);
  std::vector<float> between(256);
  std::vector<int32_t> flags(4);
  const Grouped::Params group{in.data(), out.data(), between.data(), flags.data()};
  found<FlagNever>("a flag that nobody posts", "wait for what never comes", group);
  found<NotWaited>("no wait for the flag", "race in global memory", group);
  found<WaitedForAnother>("a wait for another flag", "race in global memory", group);
  found<PostTooEarly>("a flag before the barrier", "race in global memory", group);
  found<GlobalCopy>("two clusters write the same", "race in global memory", one, 2);
  found<GlobalSwap>("no barrier between writes and reads of global memory", "race in global memory", one);
}

// ---- The text of findings --------------
// -----------------------------------------------------------------------------

void reports() {
  std::vector<float> in(256), out(256);
  const typename Small<>::Params one{in.data(), out.data()};
  const std::string text = findings<OutOfBounds>(one);
  check(text.find("OutOfBounds: index out of bounds at self_test.cpp:" + std::to_string(OutOfBounds::kLine) +
                  " (thread 63 of block 0: 64 of 64)") != std::string::npos,
        "a finding names kernel, line and thread", text);
  check(findings<GlobalCopy>(one).empty(), "one cluster may do what two may not");
  check(findings<GlobalCopy>(one).empty(), "and a later launch may do it again");

  allow_memory(in.data(), 256);
  allow_memory(out.data(), 64 * sizeof(float));
  check(findings<GlobalCopy>(one).empty(), "what was handed over may be used");
  found<GlobalCopy>("one float behind", "global access outside what was handed over", {in.data(), out.data() + 1});
  found<GlobalCopy>("one float before", "global access outside what was handed over", {in.data(), out.data() - 1});
  check(findings<GlobalCopy>({in.data(), out.data() + 1}).find("0 bytes behind the 256 bytes") != std::string::npos,
        "how far outside is told");
  forget_memory();

  host_options().global_shadow = false;
  check(findings<GlobalCopy>(one, 2).empty(), "global memory is not watched if so wished");
  host_options().shadow = false;
  check(findings<WriteAfterRead>(one).empty(), "shared memory is not watched if so wished");
  host_options() = {};

  const auto count = [](const std::string& list) {
    int found = 0;
    for (size_t at = 0; (at = list.find(" at self_test.cpp:", at)) != std::string::npos; ++at) ++found;
    return found;
  };
  const std::string dozen = findings<ADozen>(one);
  check(count(dozen) == 10 && dozen.ends_with("; and 2 more"), "ten findings are told, each once", dozen);
  host_options().keep_going = false;
  check(count(findings<ADozen>(one)) == 1, "one is enough if so wished");
  host_options() = {};
  const std::string standstill = findings<EarlyReturn>(one, 3), line = std::to_string(EarlyReturn::kLine);
  check(standstill.ends_with("63 wait in sync at self_test.cpp:" + line + ", ended: 1)"),
        "a standstill tells who waits where", standstill);
  check(findings<BlockSum>(one).empty(), "and the next launch begins anew");
}

// ---- Races by their definition --------------------------------------------------------------------------------------

// Random programs, on which the shadow must agree with the definition: two accesses to one place by different threads,
// one of which writes, race unless both threads met at a barrier in between. Twice two blocks of two warps.
struct Access {
  int cluster, thread, step;  // the thread of its cluster
  bool writes, global;
  int block, place;  // whose shared memory; of another block's, a write
};
struct Barrier {
  int kind, which;  // 0: none, 1: of a warp, 2: of a block, 3: of the cluster

  bool has(int thread) const {
    return kind == 3 || (kind == 2 && thread / 64 == which / 2) || (kind == 1 && thread / 32 == which);
  }
};

struct Interpreter {
  static constexpr int kThreads = 64, kCluster = 2;
  struct Params {
    const Access* accesses;
    const Barrier* barriers;
    int count, steps;
    float* out;
  };
  struct Smem {
    Shared<float, 2> a;
  };
  static SEAM_KERNEL void run(const BlockOf<2>& block, Smem& smem, const Params& p) {
    const int me = block.rank() * 64 + block.thread();
    if (block.thread() < 2) smem.a.store(block.thread(), 0);
    block.sync_cluster();
    for (int step = 0; step < p.steps; ++step) {
      for (int i = 0; i < p.count; ++i) {
        const Access& access = p.accesses[i];
        if (access.cluster != block.index() || access.thread != me || access.step != step) continue;
        if (access.global) {
          access.writes ? store(p.out + access.place, 1.0f) : void(load(p.out + access.place));
        } else if (access.block != block.rank()) {
          block.store_peer(access.block, smem.a, access.place, 1.0f);
        } else {
          access.writes ? smem.a.store(access.place, 1.0f) : void(smem.a.load(access.place));
        }
      }
      const Barrier& barrier = p.barriers[step];
      if (barrier.has(me)) {
        if (barrier.kind == 1) block.sync_warp();
        if (barrier.kind == 2) block.sync();
        if (barrier.kind == 3) block.sync_cluster();
      }
    }
    block.sync_cluster();
  }
};

bool races(const Access& a, const Access& b, const std::vector<Barrier>& barriers) {
  if (a.global != b.global || a.place != b.place || !(a.writes || b.writes)) return false;
  if (!a.global && (a.cluster != b.cluster || a.block != b.block)) return false;
  if (a.cluster != b.cluster) return true;
  if (a.thread == b.thread) return false;
  for (int step = std::min(a.step, b.step); step < std::max(a.step, b.step); ++step) {
    if (barriers[step].has(a.thread) && barriers[step].has(b.thread)) return false;
  }
  return true;
}

void races_by_definition() {
  std::mt19937 random(1);
  const auto draw = [&](int below) { return int(random() % unsigned(below)); };
  constexpr int kPrograms = 4000, kSteps = 6, kThreads[] = {0, 1, 31, 32, 64, 65, 96};
  std::vector<float> out(2);
  int wrong = 0, racing = 0;
  for (int program = 0; program < kPrograms; ++program) {
    std::vector<Barrier> barriers(kSteps);
    for (Barrier& barrier : barriers) barrier = {draw(4), draw(4)};
    std::vector<Access> accesses(2 + draw(10));
    for (Access& access : accesses) {
      const int thread = kThreads[draw(7)];
      access = {draw(8) / 7, thread, draw(kSteps), draw(5) == 0, draw(2) == 0, thread / 64, draw(2)};
      if (access.writes && !access.global && draw(3) == 0) access.block = 1 - access.block;
    }
    bool shared = false, global = false;
    for (const Access& a : accesses) {
      for (const Access& b : accesses) (a.global ? global : shared) |= races(a, b, barriers);
    }
    host_options().order = kOrders[program % 4];
    host_options().seed = uint64_t(program);
    const std::string text =
        findings<Interpreter>({accesses.data(), barriers.data(), int(accesses.size()), kSteps, out.data()}, 2);
    const bool agreed = (text.find("race in shared memory") != std::string::npos) == shared &&
                        (text.find("race in global memory") != std::string::npos) == global &&
                        (shared || global || text.empty());
    wrong += !agreed;
    racing += shared || global;
  }
  host_options() = {};
  check(wrong == 0, "races by their definition", std::to_string(wrong) + " programs differ");
  check(racing > kPrograms / 4 && racing < kPrograms * 3 / 4, "about half of them race", std::to_string(racing));
}

// ---- Numbers of 16 bits ---------------------------------------------------------------------------------------------

// The value of bits by the definition: a mantissa of `digits` bits, the exponent above it. The bits after the largest
// number are infinity; for rounding they stand for the next number of the sequence.
double value_of(uint32_t bits, int digits) {
  const int bias = (1 << (14 - digits)) - 1, exponent = int(bits & 0x7fffu) >> digits;
  const int mantissa = int(bits) & ((1 << digits) - 1);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - digits)
                                         : std::ldexp(mantissa + (1 << digits), exponent - bias - digits);
  return bits & 0x8000u ? -magnitude : magnitude;
}

uint32_t nearest(float x, int digits) {
  const uint32_t infinity = 0x7fffu >> digits << digits, sign = std::signbit(x) ? 0x8000u : 0;
  const double size = std::fabs(double(x));
  uint32_t low = 0, high = infinity;  // value_of(low) <= size < value_of(high), but for what is beyond infinity
  if (size >= value_of(infinity, digits)) return sign | infinity;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (value_of(middle, digits) <= size ? low : high) = middle;
  }
  const double below = size - value_of(low, digits), above = value_of(high, digits) - size;
  return sign | (below < above || (below == above && low % 2 == 0) ? low : high);
}

template <class T>
void numbers(const std::string& what, int digits) {
  const uint32_t infinity = 0x7fffu >> digits << digits;
  bool same = true, back = true;
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float wide = widen(T{uint16_t(bits)});
    const bool nan = (bits & 0x7fffu) > infinity;
    double value = value_of(bits, digits);
    if ((bits & 0x7fffu) == infinity) value = std::copysign(INFINITY, value);
    same &= nan ? std::isnan(wide) : wide == value && std::signbit(wide) == (bits >> 15 == 1);
    const uint32_t again = narrow<T>(wide).bits;
    back &= nan ? (again & 0x7fffu) > infinity : again == bits;
  }
  check(same, what + " widens to what it stands for");
  check(back, what + " comes back after widening");

  int wrong = 0;
  const auto try_one = [&](float x) {
    if (!std::isnan(x)) wrong += narrow<T>(x).bits != nearest(x, digits);
  };
  for (uint32_t bits = 0; bits < infinity; ++bits) {  // the middle between neighbours, and what lies next to it
    const float middle = float((value_of(bits, digits) + value_of(bits + 1, digits)) / 2);
    for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, INFINITY)}) {
      try_one(x);
      try_one(-x);
    }
  }
  std::mt19937 random(2);
  for (int i = 0; i < 300000; ++i) {
    try_one(bits_to_float(uint32_t(random())));
    const float from_one_to_two = bits_to_float(uint32_t(random()) >> 9 | 0x3f800000u);
    try_one(std::ldexp(from_one_to_two, int(random() % 50) - 30));  // the range of a Half, and about it
  }
  for (const float x : {0.0f, FLT_MAX, FLT_MIN, FLT_TRUE_MIN, INFINITY}) try_one(x), try_one(-x);
  check(wrong == 0, what + " rounds to the nearest, ties to even", std::to_string(wrong) + " do not");
}

void tf32() {
  std::mt19937 random(3);
  int wrong = 0;
  for (int i = 0; i < 300000; ++i) {
    const float x = bits_to_float(uint32_t(random()) & (i % 2 == 0 ? ~0u : ~0xfffu));  // of the latter, half are ties
    if (!(std::fabs(x) < 1e38f)) continue;
    const uint32_t bits = to_tf32(x);
    const double place = std::ldexp(1.0, std::max(std::ilogb(x == 0 ? FLT_MIN : x), -126) - 10);  // of the last digit
    wrong += bits_to_float(bits) != std::copysign(std::floor(std::fabs(double(x)) / place + 0.5) * place, x);
    wrong += (bits & 0x1fffu) != 0;
  }
  check(wrong == 0, "to_tf32 rounds to the nearest, ties away from zero", std::to_string(wrong) + " do not");
}

}  // namespace

// With ucontext only the switch differs, and each one takes system calls.
#if defined(SEAM_UCONTEXT)
constexpr bool kByHand = false;
#else
constexpr bool kByHand = true;
#endif

int main() {
  correct_kernels();
  tiles();
  if (kByHand) planted_faults();
  reports();
  races_by_definition();
  numbers<BFloat16>("BFloat16", 7);
  numbers<Half>("Half", 10);
  tf32();
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

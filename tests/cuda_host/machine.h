// The scheduler of a kernel's threads, with their order and their barriers; and the checks of their memory accesses.
// One file of 500 lines, because what a thread may read depends on which barrier it has passed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fibers.h"
#include "shadow.h"

namespace seam::gpu::host {

// ---- Threads --------------------------------------------------------------------------------------------------------

enum class Doing { running, sync, sync_warp, sync_half, sync_cluster, shuffle, tile };

struct Copy {  // 16 bytes that are being copied
  void* to;
  const void* from;
  Site site;
  const void* request;  // the request that they belong to
};

struct Thread : Member {
  uint32_t rank;    // of its block in the cluster
  uint32_t number;  // in its block
  char* memory;     // its block's shared memory
  char* stack;      // null before the thread has begun and after it has ended
  Doing doing;      // the primitive that it waits in
  Site site;        // and its source line
  void* offer;      // its operands of a shuffle or a tile
  uint32_t sent;    // when it last stored into another block's memory, if it did in this cluster
  Site sent_at;
  std::vector<Copy> copies;
  Context context;
};

struct Message {  // not yet arrived in shared memory
  void* to;
  const void* counted;  // the counter of its arrival
  int32_t round;        // of that counter
  char bytes[16];
  size_t size;
  const void* from;  // source that must stay valid until arrival; null: none
};

// ---- The machine ----------------------------------------------------------------------------------------------------

class Machine {
 public:
  struct Shape {
    int64_t clusters;
    uint32_t blocks, threads;  // of a cluster, of a block
    size_t bytes;              // of a block's shared memory
  };
  using Body = void (*)(Thread&, const void* params);  // must not throw

  HostOptions options;
  Ranges ranges;

  void launch(const std::string& kernel, const Shape& shape, Body body, const void* params) {
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    shape_ = shape;
    body_ = body;
    params_ = params;
    lot_ = options.seed;
    set_up();
    std::vector<int64_t> order(size_t(shape.clusters));
    std::iota(order.begin(), order.end(), 0);
    if (options.order == HostOptions::reversed) std::reverse(order.begin(), order.end());
    if (options.order == HostOptions::shuffled) {
      for (size_t k = order.size(); k > 1; --k) std::swap(order[k - 1], order[draw(k)]);
    }
    for (const int64_t cluster : order) {
      if (!run(cluster) || findings_.enough()) break;
    }
    current_ = nullptr;
    if (!findings_.empty()) throw std::runtime_error("kernel " + kernel + ": " + findings_.list());
  }

  const Shape& shape() const { return shape_; }
  int64_t cluster() const { return cluster_; }

  // ---- Barriers ------
  // -----------------------------------------------------------------------------------------------

  void barrier(Thread& me, Group& group, Doing doing, const Site& site) {
    if (arrive(me, group, doing, site)) {
      alike(group);
      group.time = shadow_.tick();
      if (doing == Doing::sync) shadow_.share(*me.block);
      wake(group);
    }
    go_on(me);
  }

  // Each lane brings its operands; the last one runs `all(lanes)` for the warp, if all have come to the same primitive.
  template <class All>
  void together(Thread& me, void* offer, Doing doing, const Site& site, All&& all) {
    me.offer = offer;
    if (arrive(me, *me.warp, doing, site)) {
      if (alike(*me.warp)) all(&threads_[me.warp->first]);
      wake(*me.warp);
    }
    go_on(me);
  }

  // Lets other threads run until the condition holds.
  template <class Ready>
  void wait_until(const Ready& ready, const Site& site) {
    Thread& me = *current_;
    for (uint64_t turns = 0; !ready(); ++turns) {
      if (turns > 1000u * all_.size) {
        report("wait for what never comes", site, [&] { return name(me); });
        leave();
      }
      ready_[slot(count_++)] = &me;
      go_on(me);
    }
  }

  // ---- Messages: stores into shared memory of the cluster that are counted on arrival ----
  // ----------------------------

  // The address in block `rank` of a number of the own block's shared memory; null if there is none.
  void* place_in(int rank, void* array, int size, size_t bytes, int i, int count, const Site& site) {
    Thread& me = *current_;
    if (rank < 0 || uint32_t(rank) >= shape_.blocks) {
      report("no such block in the cluster", site, [&] { return name(me) + ": " + std::to_string(rank); });
      return nullptr;
    }
    if (!inside(me, array, size, i, count, site)) return nullptr;
    if (all_.time == begun_) {
      report("message before the first sync_cluster", site, [&] { return name(me) + ": the peer may not have begun"; });
    } else if (threads_[uint32_t(rank) * shape_.threads].stack == nullptr) {
      report("message to a block that has ended", site, [&] { return name(me) + ": block " + std::to_string(rank); });
    }
    const size_t within = size_t(static_cast<char*>(array) - me.memory) + size_t(i) * bytes;
    return memory_.get() + size_t(rank) * stride() + within;
  }
  void send(const Message& message, const Site& site) {
    if (options.shadow)
      shadow_.receive_shared(size_t(static_cast<char*>(message.to) - memory_.get()), message.size, site);
    const bool late = options.order == HostOptions::depth_first || options.order == HostOptions::shuffled;
    if (late) messages_.push_back(message);
    else memcpy(message.to, message.bytes, message.size);
  }
  void deliver(const void* counted, int32_t round) {
    std::erase_if(messages_, [&](const Message& message) {
      if (message.counted != counted || message.round > round) return false;
      memcpy(message.to, message.from ? message.from : message.bytes, message.size);
      return true;
    });
  }

  // ---- Flags in global memory --------------------------- -----------------------------------------------------------

  void post(const Thread& me, int32_t* flag, int32_t value) {
    shadow_.post(me, flag);
    *flag = value;
  }
  void told(const Thread& me, const int32_t* flag) { shadow_.told(me, flag); }

  template <class Text>
  void report(const char* kind, const Site& site, Text&& text) {
    findings_.add(kind, site, text);
  }
  std::string name(const Thread& thread) const { return shadow_.name(thread.id, *thread.block); }

  // ---- Checks of memory accesses --------------------------------------------
  // ----------------------------------------

  // `count` adjacent values from index `i` on, of an array of `size` values of `bytes` bytes each.
  bool shared_access(const void* array, int size, size_t bytes, int i, int count, bool writes, const Site& site) {
    const Thread& me = *current_;
    if (!inside(me, array, size, i, count, site)) return false;
    if (i % count != 0) {
      report("misaligned access", site,
             [&] { return name(me) + ": " + std::to_string(count) + " from " + std::to_string(i) + " on"; });
    }
    if (options.shadow) {
      const size_t offset = size_t(static_cast<const char*>(array) - memory_.get()) + size_t(i) * bytes;
      shadow_.touch_shared(me, offset, bytes * size_t(count), writes, site);
    }
    return true;
  }

  // The address of the same value in block `rank`; null if there is none.
  void* peer_access(const void* array, int size, size_t bytes, int i, int rank, const Site& site) {
    Thread& me = *current_;
    if (rank < 0 || uint32_t(rank) >= shape_.blocks) {
      report("no such block in the cluster", site, [&] { return name(me) + ": " + std::to_string(rank); });
      return nullptr;
    }
    if (!inside(me, array, size, i, 1, site)) return nullptr;
    if (all_.time == begun_) {
      report("store_peer before the first sync_cluster", site,
             [&] { return name(me) + ": the peer may not have begun"; });
    }
    me.sent = shadow_.now();
    me.sent_at = site;
    const size_t within = size_t(static_cast<const char*>(array) - me.memory) + size_t(i) * bytes;
    const size_t offset = size_t(rank) * stride() + within;
    if (options.shadow) shadow_.touch_shared(me, offset, bytes, true, site);
    return memory_.get() + offset;
  }

  void copy_later(void* to, const void* from, const Site& site, const void* request) {
    current_->copies.push_back({to, from, site, request});
  }
  void copy_now(const void* request) {
    std::erase_if(current_->copies, [&](const Copy& copy) {
      if (copy.request != request) return false;
      memcpy(copy.to, copy.from, 16);
      if (options.shadow) {
        shadow_.touch_shared(*current_, size_t(static_cast<char*>(copy.to) - memory_.get()), 16, true, copy.site);
      }
      return true;
    });
  }

  bool handed_over(const void* at, size_t bytes, const Site& site) {
    if (current_ == nullptr || !options.global_shadow || ranges.hold(at, bytes)) return true;
    report("global access outside what was handed over", site,
           [&] { return name(*current_) + ", " + ranges.offset(at); });
    return false;
  }
  bool global_access(const void* at, size_t bytes, size_t alignment, bool writes, const Site& site) {
    if (current_ == nullptr || !options.global_shadow) return true;
    const Thread& me = *current_;
    if (reinterpret_cast<uintptr_t>(at) % alignment != 0) {
      report("misaligned access", site, [&] { return name(me) + " in global memory"; });
    }
    if (!handed_over(at, bytes, site)) return false;
    if (bytes > 1)
      shadow_.touch_global(me, at, bytes, writes,
                           site);  // single bytes share a cell with their neighbour, and are not tracked
    return true;
  }

 private:
  // ---- Setting up ---------------------------------------------------------------------------------------------------

  static constexpr uint32_t kHalf = 128;
  uint32_t halves() const { return (shape_.threads + kHalf - 1) / kHalf; }  // of a block
  size_t stride() const { return (shape_.bytes + 127) / 128 * 128; }

  void set_up() {
    findings_.begin(!options.keep_going);
    shadow_.begin_launch(int(shape_.blocks));
    const uint32_t total = shape_.blocks * shape_.threads;
    if (threads_.size() < total) threads_ = std::vector<Thread>(total);
    warps_.resize(total / 32);
    halves_.resize(shape_.blocks * halves());
    blocks_.resize(shape_.blocks);
    ready_.resize(total);
    if (capacity_ < shape_.blocks * stride()) {
      capacity_ = shape_.blocks * stride();
      memory_.reset(new (std::align_val_t(128)) char[capacity_]);
    }
    for (uint32_t id = 0; id < total; ++id) {
      Thread& thread = threads_[id];
      thread.id = id;
      thread.rank = id / shape_.threads;
      thread.number = id % shape_.threads;
      thread.warp = &warps_[id / 32];
      thread.half = &halves_[thread.rank * halves() + thread.number / kHalf];
      thread.block = &blocks_[thread.rank];
      thread.cluster = &all_;
      thread.memory = memory_.get() + thread.rank * stride();
    }
  }

  // Runs all blocks of a cluster to their end; returns false if they did not get there.
  bool run(int64_t cluster) {
    cluster_ = cluster;
    const uint32_t total = shape_.blocks * shape_.threads;
    memset(memory_.get(), 0xff, shape_.blocks * stride());  // NaN, whatever floating type it is read as
    shadow_.begin_cluster(cluster, shape_.blocks * stride());
    begun_ = shadow_.now();
    for (uint32_t k = 0; k < warps_.size(); ++k) warps_[k] = {k * 32, 32, 0, begun_};
    for (uint32_t k = 0; k < halves_.size(); ++k) {
      const uint32_t first = k % halves() * kHalf;  // in its block
      halves_[k] = {k / halves() * shape_.threads + first, std::min(kHalf, shape_.threads - first), 0, begun_};
    }
    for (uint32_t k = 0; k < blocks_.size(); ++k) blocks_[k] = {k * shape_.threads, shape_.threads, 0, begun_};
    all_ = {0, total, 0, begun_};
    for (uint32_t id = 0; id < total; ++id) {
      threads_[id].stack = nullptr;
      threads_[id].doing = Doing::running;
      threads_[id].sent = 0;
      threads_[id].copies.clear();
    }
    messages_.clear();
    ended_ = first_ = count_ = 0;
    wake(all_);
    current_ = take();
    begin(*current_, stacks_.take());
    switch_context(main_, current_->context);
    for (uint32_t id = 0; id < total; ++id) {
      if (threads_[id].stack != nullptr) stacks_.give(threads_[id].stack);
    }
    return ended_ == total;
  }

  // ---- Scheduling --
  // -------------------------------------------------------------------------------------------------

  static void begin(Thread& thread, char* stack) {
    thread.stack = stack;
    prepare(thread.context, stack, &Machine::live);
  }

  // Runs on each stack: one thread from beginning to end, then the next that has not begun.
  static void live() {
    Machine& machine = running();
    for (;;) machine.succeed(*machine.current_, machine.body_, machine.params_);
  }
  void succeed(Thread& me, Body body, const void* params) {
    body(me, params);
    end(me);
    Thread* next = findings_.enough() ? nullptr : take();
    if (next == nullptr) {
      if (ended_ < all_.size) report_standstill();
      leave();
    }
    current_ = next;
    std::swap(me.stack, next->stack);  // `me` has ended: its stack goes to a thread without one
    if (me.stack == nullptr) return;
    std::swap(me.stack, next->stack);
    stacks_.give(me.stack);
    me.stack = nullptr;
    switch_context(nobody_, next->context);
  }

  void end(Thread& me) {
    ++ended_;
    if (!me.copies.empty()) {
      report("copy_async without copies_done after it", me.copies.front().site, [&] { return name(me); });
    }
    if (me.sent != 0 && me.sent >= all_.time) {
      report("store_peer without a sync_cluster after it", me.sent_at,
             [&] { return name(me) + ": the peer may have ended"; });
    }
  }

  // Switches to another thread; the running one has been queued, or counted where it waits.
  void go_on(Thread& me) {
    Thread* next = findings_.enough() ? nullptr : take();
    if (next == nullptr) {
      report_standstill();
      leave();
    }
    if (next != &me) {
      current_ = next;
      if (next->stack == nullptr) begin(*next, stacks_.take());
      switch_context(me.context, next->context);
    }
    me.doing = Doing::running;
  }
  void leave() { switch_context(nobody_, main_); }  // for good: kernels own nothing that would have to be destroyed

  void wake(const Group& group) {
    for (uint32_t k = 0; k < group.size; ++k) {
      const bool from_last = options.order == HostOptions::reversed || options.order == HostOptions::depth_first;
      Thread* thread = &threads_[group.first + (from_last ? group.size - 1 - k : k)];
      if (options.order == HostOptions::depth_first) {  // to the front, so that a warp runs as far as it can
        first_ = (first_ == 0 ? all_.size : first_) - 1;
        ready_[first_] = thread;
      } else {
        ready_[slot(count_)] = thread;
      }
      ++count_;
    }
  }
  Thread* take() {
    if (count_ == 0) return nullptr;
    if (options.order == HostOptions::shuffled) std::swap(ready_[first_], ready_[slot(uint32_t(draw(count_)))]);
    Thread* thread = ready_[first_];
    first_ = slot(1);
    --count_;
    return thread;
  }
  uint32_t slot(uint32_t k) const { return first_ + k < all_.size ? first_ + k : first_ + k - all_.size; }

  uint64_t draw(uint64_t below) {  // SplitMix64
    uint64_t z = lot_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % below;
  }

  // ---- Groups -------------------------------------------------------------------------------------------------------

  bool arrive(Thread& me, Group& group, Doing doing, const Site& site) {  // returns whether it was the last
    me.doing = doing;
    me.site = site;
    if (++group.arrived < group.size) return false;
    group.arrived = 0;
    return true;
  }

  bool alike(const Group& group) {  // whether all came to the same primitive
    const Thread& one = threads_[group.first];
    for (uint32_t id = group.first + 1; id < group.first + group.size; ++id) {
      const Thread& other = threads_[id];
      if (other.doing == one.doing && same_site(other.site, one.site)) continue;
      const bool barriers = is_barrier(one.doing) && is_barrier(other.doing);
      report(barriers ? "divergent barrier" : "divergent shuffle", one.site,
             [&] { return name(one) + " waits in " + place(one) + ", " + name(other) + " in " + place(other); });
      return false;
    }
    return true;
  }

  // Reports a deadlock: no thread can run, though not all have ended.
  void report_standstill() {
    if (findings_.enough()) return;
    const Thread* culprit = nullptr;
    std::vector<std::pair<const Thread*, uint32_t>> places;
    for (uint32_t id = 0; id < all_.size; ++id) {
      const Thread& thread = threads_[id];
      if (thread.doing == Doing::running) continue;
      if (culprit == nullptr || (is_barrier(culprit->doing) && !is_barrier(thread.doing))) culprit = &thread;
      const auto same = [&](const auto& place) {
        return place.first->doing == thread.doing && same_site(place.first->site, thread.site);
      };
      const auto found = std::find_if(places.begin(), places.end(), same);
      if (found == places.end()) {
        places.push_back({&thread, 1});
      } else {
        ++found->second;
      }
    }
    report(is_barrier(culprit->doing) ? "divergent barrier" : "divergent shuffle", culprit->site, [&] {
      std::string text = "none of cluster " + std::to_string(cluster_) + " can go on: ";
      for (const auto& [thread, count] : places) {
        text += std::to_string(count) + " wait in " + place(*thread) + ", ";
      }
      return text + "ended: " + std::to_string(ended_);
    });
  }

  static bool is_barrier(Doing doing) { return doing != Doing::shuffle && doing != Doing::tile; }
  static std::string place(const Thread& thread) {
    constexpr const char* kTexts[] = {"nothing",      "sync",      "sync_warp", "sync_half",
                                      "sync_cluster", "a shuffle", "multiply"};
    return std::string(kTexts[int(thread.doing)]) + " at " + text_of(thread.site);
  }

  bool inside(const Thread& me, const void* array, int size, int i, int count, const Site& site) {
    if (size_t(static_cast<const char*>(array) - me.memory) >= shape_.bytes) {
      report("shared memory of another block", site, [&] { return name(me) + " has not got it from its own"; });
      return false;
    }
    if (i >= 0 && i <= size - count) return true;
    const std::string last = count == 1 ? "" : " to " + std::to_string(i + int64_t(count) - 1);
    report("index out of bounds", site,
           [&] { return name(me) + ": " + std::to_string(i) + last + " of " + std::to_string(size); });
    return false;
  }

  static Machine& running();

  struct Free {
    void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t(128)); }
  };

  std::mutex mutex_;
  Findings findings_;
  Shadow shadow_{findings_};
  Stacks stacks_;

  Shape shape_{};
  Body body_ = nullptr;
  const void* params_ = nullptr;
  std::unique_ptr<char, Free> memory_;
  size_t capacity_ = 0;
  std::vector<Thread> threads_;
  std::vector<Group> warps_, halves_, blocks_;
  Group all_{};
  std::vector<Message> messages_;

  int64_t cluster_ = 0;
  uint32_t begun_ = 0;  // when the cluster began
  uint32_t ended_ = 0;  // number of its threads that have ended
  Thread* current_ = nullptr;
  Context main_, nobody_;
  std::vector<Thread*> ready_;  // a ring buffer: `count_` entries from `first_` on
  uint32_t first_ = 0, count_ = 0;
  uint64_t lot_ = 0;
};

inline Machine machine;
inline Machine& Machine::running() { return machine; }

}  // namespace seam::gpu::host

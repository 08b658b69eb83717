// Race detection: who last wrote and read each cell of memory, and whether a barrier was in between; which memory a
// kernel was given at all; and the findings, which a launch throws in one sentence.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <source_location>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace seam::gpu {

// How kernels are run and checked; set by tests between launches.
struct HostOptions {
  // Which thread runs next: in turn, a warp as far as it can, in turn from the last one, or at random.
  enum Order { round_robin, depth_first, reversed, shuffled };
  bool shadow = true;         // detects races in shared memory and uninitialised reads
  bool global_shadow = true;  // detects races in global memory, and accesses outside of allowed memory
  Order order = round_robin;
  uint64_t seed = 0;       // of the random order
  bool keep_going = true;  // run to the kernel's end, else only to the first finding
};

namespace host {

using Site = std::source_location;  // a line of a kernel

inline bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

inline std::string text_of(const Site& site) {
  const char* slash = strrchr(site.file_name(), '/');
  return std::string(slash ? slash + 1 : site.file_name()) + ":" + std::to_string(site.line());
}

// ---- Findings -------------------------------------------------------------------------------------------------------

class Findings {
 public:
  // Records the finding `text()`, unless the same was found for this line already.
  template <class Text>
  void add(const char* kind, const Site& site, Text&& text) {
    const auto known = [&](const Finding& other) {
      return other.site.line() == site.line() && strcmp(other.kind, kind) == 0 &&
             strcmp(other.site.file_name(), site.file_name()) == 0;
    };
    const bool wanted = all_.empty() || !only_first_;
    if (wanted && std::none_of(all_.begin(), all_.end(), known)) all_.push_back({kind, site, text()});
  }
  bool empty() const { return all_.empty(); }
  bool enough() const { return only_first_ && !all_.empty(); }
  void begin(bool only_first) {
    only_first_ = only_first;
    all_.clear();
  }

  std::string list() const {
    std::string text;
    for (size_t i = 0; i < std::min(all_.size(), kMost); ++i) {
      const auto& [kind, site, what] = all_[i];
      text += (i == 0 ? "" : "; ") + std::string(kind) + " at " + text_of(site) + " (" + what + ")";
    }
    return all_.size() > kMost ? text + "; and " + std::to_string(all_.size() - kMost) + " more" : text;
  }

 private:
  static constexpr size_t kMost = 10;
  struct Finding {
    const char* kind;
    Site site;
    std::string text;
  };
  bool only_first_ = false;
  std::vector<Finding> all_;
};

// ---- Threads, and the groups of barriers -----
// -----------------------------------------------------------------------

// A warp, half a block, a block or a cluster: `size` threads of a cluster, numbered from `first`.
struct Group {
  uint32_t first, size;
  uint32_t arrived;  // number of threads that wait
  uint32_t time;     // when the last barrier was complete

  bool has(uint32_t thread) const { return thread - first < size; }
};

struct Member {
  uint32_t id;                           // in the cluster
  Group *warp, *half, *block, *cluster;  // half: four warps, half a block of 256 threads
};

// ---- Records of accesses --------------------------------------------------------------------------------------------

// Each source line that touches memory gets a number of 15 bits.
class Sites {
 public:
  uint32_t number(const Site& site) {
    static_assert(sizeof(Site) == sizeof(void*), "a pointer to what the compiler knows of the line");
    const void* key = std::bit_cast<const void*>(site);
    uint32_t slot = uint32_t(reinterpret_cast<uintptr_t>(key) * 0x9e3779b97f4a7c15u >> 49);
    while (keys_[slot] != key) {
      if (keys_[slot] == nullptr) return enter(slot, site);
      slot = (slot + 1) % kCount;
    }
    return slot;
  }
  std::string text(uint32_t number) const { return keys_[number] ? text_of(sites_[number]) : "one line too many"; }

 private:
  static constexpr uint32_t kCount = 1u << 15;

  uint32_t enter(uint32_t slot, const Site& site) {
    if (used_ == kCount - 1) return slot;  // some slot stays empty, so that every search ends
    ++used_;
    keys_[slot] = std::bit_cast<const void*>(site);
    sites_[slot] = site;
    return slot;
  }

  uint32_t used_ = 0;
  std::vector<const void*> keys_ = std::vector<const void*>(kCount);
  std::vector<Site> sites_ = std::vector<Site>(kCount);
};

// An access: the time by the clock of barriers (32 bits), the line (15), and the thread of the cluster (14), or that
// there were several threads and what they have in common (3).
struct Record {
  enum Level { kThread, kWarp, kHalf, kBlock, kCluster, kLaunch };
  uint64_t bits;

  static Record of(uint32_t tick, uint32_t line, uint32_t level, uint32_t thread) {
    return {uint64_t(tick) << 32 | line << 17 | level << 14 | thread};
  }
  uint32_t tick() const { return uint32_t(bits >> 32); }
  uint32_t line() const { return uint32_t(bits) >> 17; }
  uint32_t level() const { return uint32_t(bits) >> 14 & 7; }
  uint32_t thread() const { return uint32_t(bits) & 0x3fff; }
  bool operator==(const Record&) const = default;
};

// Two bytes of memory, the smallest unit of kernels: the last write, and the reads since.
struct Cell {
  Record writer, reader;
};

// ---- The shadow -----------------------------------------------------------------------------------------------------

// The clock advances whenever a barrier is complete. What a thread of the same warp (half, block, cluster) did is
// complete and visible if it was before the last barrier of the warp (half, block, cluster). Records are never erased:
// those from before the kernel, or for shared memory before the cluster, are recognised by their time.
class Shadow {
 public:
  explicit Shadow(Findings& findings) : findings_(findings) {}

  void begin_launch(int blocks) {
    if (clock_ > 0xc0000000u) *this = Shadow(findings_);
    if (pages_.size() > kPages) forget_pages();
    blocks_ = blocks;
    launch_begin_ = ++clock_;
  }
  void begin_cluster(int64_t cluster, size_t bytes) {
    cluster_ = cluster;
    cluster_begin_ = ++clock_;
    if (cells_.size() < (bytes + 1) / 2) cells_.resize((bytes + 1) / 2);
    known_.clear();
    posted_.clear();
  }
  uint32_t now() const { return clock_; }
  uint32_t tick() { return ++clock_; }

  // `offset` is from the start of all the cluster's shared memory.
  void touch_shared(const Member& me, size_t offset, size_t bytes, bool writes, const Site& site) {
    touch(me, &cells_[offset / 2], bytes / 2, writes, true, site);
  }
  // Written by a message: its receivers wait for it; races of other threads with it are not detected.
  void receive_shared(size_t offset, size_t bytes, const Site& site) {
    for (size_t k = offset / 2; k < (offset + bytes) / 2; ++k) {
      cells_[k] = {Record::of(cluster_begin_, sites_.number(site), Record::kThread, 0), {0}};
    }
  }
  void touch_global(const Member& me, const void* at, size_t bytes, bool writes, const Site& site) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(at) / 2, end = first + bytes / 2;  // cells of global memory
    for (uintptr_t cell = first, next; cell < end; cell = next) {
      next = std::min(end, (cell / kPageCells + 1) * kPageCells);
      touch(me, page(cell / kPageCells) + cell % kPageCells, next - cell, writes, false, site);
    }
  }

  // Posts a flag: whoever waits for it knows that all that the block did before its last barrier is complete, and what
  // the block itself knew of others.
  void post(const Member& me, const void* flag) {
    Known known = known_of(me);
    known[block_of(me)] = me.block->time;
    posted_[flag] = std::move(known);
  }
  void told(const Member& me, const void* flag) {
    const auto found = posted_.find(flag);
    if (found != posted_.end()) learn(known_of(me), found->second);
  }
  // At a barrier of a block: merges what its warps know.
  void share(const Group& block) {
    if (known_.empty()) return;
    Known all;
    all.resize(size_t(blocks_));
    for (uint32_t k = 0; k < block.size; k += 32) learn(all, known_of(block.first + k));
    for (uint32_t k = 0; k < block.size; k += 32) known_of(block.first + k) = all;
  }

  std::string name(uint32_t thread, const Group& block) const {
    const std::string text = "thread " + std::to_string(thread % block.size) + " of block ";
    if (blocks_ == 1) return text + std::to_string(cluster_);
    return text + std::to_string(thread / block.size) + " in cluster " + std::to_string(cluster_);
  }

 private:
  static constexpr size_t kPageCells = 512, kPages = 16384, kNear = 256;
  using Page = std::unique_ptr<Cell[]>;

  void operator=(Shadow&& other) {
    cells_ = std::move(other.cells_);
    clock_ = other.clock_;
    known_.clear();
    posted_.clear();
    forget_pages();
  }

  // For each block: the time before which all that it did is known to be complete.
  using Known = std::vector<uint32_t>;
  static uint32_t block_of(const Member& me) { return me.block->first / me.block->size; }
  Known& known_of(uint32_t thread) {
    Known& known = known_[thread / 32];
    known.resize(size_t(blocks_));
    return known;
  }
  Known& known_of(const Member& me) { return known_of(me.id); }
  static void learn(Known& known, const Known& other) {
    for (size_t k = 0; k < known.size(); ++k) known[k] = std::max(known[k], other[k]);
  }
  // Whether that is known by flags. If there were several threads the record has only the last one; the others are
  // trusted.
  bool told_of(const Member& me, Record record) const {
    const auto found = known_.find(me.id / 32);
    if (found == known_.end() || record.level() > Record::kCluster) return false;
    const uint32_t block = record.thread() / me.block->size;
    return record.tick() < (block == block_of(me) ? me.block->time : found->second[block]);
  }

  // Whether the recorded access is complete and visible for `me`: whether a group that contains all threads concerned
  // has had a barrier since, or it is known by flags.
  bool over(const Member& me, Record record) const {
    const uint32_t tick = record.tick(), level = record.level(), thread = record.thread();
    if (tick < cluster_begin_) return false;  // of another cluster
    if (level <= Record::kBlock && me.block->has(thread)) {
      if (tick < me.block->time) return true;
      if (level <= Record::kHalf && me.half->has(thread) && tick < me.half->time) return true;
      if (level <= Record::kWarp && me.warp->has(thread)) {
        if (tick < me.warp->time || (level == Record::kThread && thread == me.id)) return true;
      }
    }
    if (level <= Record::kCluster && tick < me.cluster->time) return true;
    return !known_.empty() && told_of(me, record);
  }
  // What `me` and all that made the record have in common.
  uint32_t common(const Member& me, Record record) const {
    if (record.tick() < cluster_begin_) return Record::kLaunch;
    const uint32_t thread = record.thread();
    const uint32_t least = me.warp->has(thread)    ? Record::kWarp
                           : me.half->has(thread)  ? Record::kHalf
                           : me.block->has(thread) ? Record::kBlock
                                                   : Record::kCluster;
    return std::max(least, record.level());
  }

  void touch(const Member& me, Cell* cells, size_t count, bool writes, bool shared, const Site& site) {
    const Record now = Record::of(clock_, sites_.number(site), Record::kThread, me.id);
    const Record writer = cells[0].writer, reader = cells[0].reader;
    follow(me, cells[0], now, writes, shared, site);
    for (size_t k = 1; k < count; ++k) {
      // What holds for the first cell of a word mostly holds for its others.
      if (cells[k].writer == writer && cells[k].reader == reader) {
        if (writes) cells[k].writer = now;
        cells[k].reader = cells[0].reader;
      } else {
        follow(me, cells[k], now, writes, shared, site);
      }
    }
  }
  void follow(const Member& me, Cell& cell, Record now, bool writes, bool shared, const Site& site) {
    if (writes) {
      if (going_on(me, cell.writer, shared)) race(me, cell.writer, "writes over", "wrote", shared, site);
      if (going_on(me, cell.reader, shared)) race(me, cell.reader, "writes over", "read", shared, site);
      cell.writer = now;
      cell.reader = {0};
    } else {
      if (going_on(me, cell.writer, shared)) race(me, cell.writer, "reads", "wrote", shared, site);
      if (shared && !exists(cell.writer, shared)) {
        findings_.add("read of unwritten shared memory", site,
                      [&] { return name(me.id, *me.block) + " reads what nobody wrote"; });
      }
      // Reads do not conflict, but a later write must be ordered after all of them.
      const bool several = going_on(me, cell.reader, shared);
      cell.reader = several ? Record::of(clock_, now.line(), common(me, cell.reader), me.id) : now;
    }
  }

  bool exists(Record record, bool shared) const { return record.tick() >= (shared ? cluster_begin_ : launch_begin_); }
  bool going_on(const Member& me, Record record, bool shared) const {
    return exists(record, shared) && !over(me, record);
  }

  void race(const Member& me, Record other, const char* does, const char* did, bool shared, const Site& site) {
    findings_.add(shared ? "race in shared memory" : "race in global memory", site, [&] {
      std::string whose = name(other.thread(), *me.block);
      if (other.level() != Record::kThread) whose = "several threads";
      if (other.tick() < cluster_begin_) whose = "a thread of another cluster";
      return name(me.id, *me.block) + " " + does + " what " + whose + " " + did + " at " + sites_.text(other.line()) +
             ", and no barrier is between";
    });
  }

  Cell* page(uintptr_t number) {
    auto& [known, cells] = near_[number % kNear];
    if (known != number || cells == nullptr) {
      Page& page = pages_[number];
      if (page == nullptr) page = Page(new Cell[kPageCells]());
      known = number;
      cells = page.get();
    }
    return cells;
  }
  void forget_pages() {
    pages_.clear();
    near_.assign(kNear, {0, nullptr});
  }

  Findings& findings_;
  Sites sites_;
  uint32_t clock_ = 0, launch_begin_ = 0, cluster_begin_ = 0;
  int blocks_ = 1;
  int64_t cluster_ = 0;
  std::unordered_map<uint32_t, Known> known_;      // by warp; those that know something by flags
  std::unordered_map<const void*, Known> posted_;  // by flag
  std::vector<Cell> cells_;
  std::unordered_map<uintptr_t, Page> pages_;
  std::vector<std::pair<uintptr_t, Cell*>> near_ = std::vector<std::pair<uintptr_t, Cell*>>(kNear);
};

// ---- Allowed memory ------
// -------------------------------------------------------------------------------------------

// Ranges of memory in order, none overlapping.
class Ranges {
 public:
  void add(const void* at, size_t bytes) {
    Range range{reinterpret_cast<uintptr_t>(at), reinterpret_cast<uintptr_t>(at) + bytes};
    std::erase_if(all_, [&](const Range& other) {
      if (other.end <= range.begin || range.end <= other.begin) return false;
      range = {std::min(range.begin, other.begin), std::max(range.end, other.end)};
      return true;
    });
    all_.insert(std::upper_bound(all_.begin(), all_.end(), range.begin, before), range);
    last_ = 0;
  }
  void remove(const void* at) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(at);
    std::erase_if(all_, [&](const Range& range) { return range.begin == begin; });
    last_ = 0;
  }
  void clear() { all_.clear(); }

  bool hold(const void* at, size_t bytes) {
    if (all_.empty()) return true;  // no memory was declared
    const uintptr_t begin = reinterpret_cast<uintptr_t>(at);
    if (last_ < all_.size() && all_[last_].holds(begin, bytes)) return true;
    const auto after = std::upper_bound(all_.begin(), all_.end(), begin, before);
    if (after == all_.begin() || !std::prev(after)->holds(begin, bytes)) return false;
    last_ = size_t(std::prev(after) - all_.begin());
    return true;
  }
  // Describes the nearest range.
  std::string offset(const void* at) const {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(at);
    const auto away = [&](const Range& r) { return std::min(distance(begin, r.begin), distance(begin, r.end)); };
    const auto nearer = [&](const Range& a, const Range& b) { return away(a) < away(b); };
    const Range& nearest = *std::min_element(all_.begin(), all_.end(), nearer);
    const bool behind = begin >= nearest.end;
    return std::to_string(distance(begin, behind ? nearest.end : nearest.begin)) +
           (behind                  ? " bytes behind the "
            : begin < nearest.begin ? " bytes before the "
                                    : " bytes into the ") +
           std::to_string(nearest.end - nearest.begin) + " bytes that were";
  }

 private:
  struct Range {
    uintptr_t begin, end;
    bool holds(uintptr_t at, size_t bytes) const { return at >= begin && at + bytes <= end; }
  };
  static bool before(uintptr_t at, const Range& range) { return at < range.begin; }
  static size_t distance(uintptr_t a, uintptr_t b) { return a < b ? b - a : a - b; }

  std::vector<Range> all_;
  size_t last_ = 0;  // the last hit: accesses are mostly near each other
};

}  // namespace host
}  // namespace seam::gpu

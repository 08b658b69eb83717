// Collects the launches of several independent calls that differ only in their tensors: each call records its own, and
// in the end the n-th launches of all calls are started as one. For short LSTMs, of which one keeps a few
// multiprocessors busy for as long as many keep all.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

namespace seam::gpu {

class CollectedLaunches {
 public:
  // Before each call.
  void next_call() {
    ++calls_;
    at_ = 0;
  }

  template <class K>
  void record(int64_t clusters, const typename K::Params& p) {
    if (calls_ == 1) entries_.push_back(std::make_unique<Launches<K>>(clusters));
    auto* const same = at_ < entries_.size() ? dynamic_cast<Launches<K>*>(entries_[at_].get()) : nullptr;
    if (!same || same->clusters != clusters)
      throw std::logic_error("seam-fast: calls that go together differ in their launches");
    same->calls.push_back(p);
    ++at_;
  }

  void start(void* stream) const {
    for (const auto& entry : entries_) entry->start(stream);
  }

 private:
  struct Entry {
    virtual ~Entry() = default;
    virtual void start(void* stream) const = 0;
  };
  template <class K>
  struct Launches final : Entry {
    int64_t clusters;
    std::vector<typename K::Params> calls;
    explicit Launches(int64_t clusters) : clusters(clusters) {}
    void start(void* stream) const override;  // in launch.cuh
  };

  std::vector<std::unique_ptr<Entry>> entries_;
  size_t at_ = 0;
  int64_t calls_ = 0;
};

// Where launches go: to a stream, or into a collection.
struct Queue {
  void* stream = nullptr;  // cudaStream_t
  CollectedLaunches* collected = nullptr;
};

}  // namespace seam::gpu

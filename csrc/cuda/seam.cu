// Launches of the training engine.
#include <algorithm>
#include <stdexcept>

#include "keep_bits.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "seam_steps.cuh"

namespace seam::gpu {

namespace {

// Calls run.with<Kernel>() with the kernel for a layer on a device; returns false if there is none.
template <class Run>
bool with_kernel(const Device& device, int64_t hidden, int64_t batch, const Run& run) {
  using Small = SeamSteps<float, 64, 4, 2, false>;
  using Middle = SeamSteps<float, 128, 4, 4, true>;
  const bool clusters = device.clusters && resident_clusters<Small>(device.index) > 0;
  if (hidden <= 64) {
    if (device.tf32 && clusters) run.template with<SeamSteps<Tf32, 64, 4, 8, false>>();
    else if (!clusters) run.template with<SeamSteps<float, 64, 1, 4, false>>();
    else if (batch <= 8) run.template with<Small>();
    else run.template with<SeamSteps<float, 64, 4, 4, false>>();
    return true;
  }
  if (hidden > 128 || !clusters || resident_clusters<Middle>(device.index) == 0) return false;
  run.template with<Middle>();
  return true;
}

struct Count {
  const Device& device;
  int64_t& count;
  template <class K>
  void with() const {
    count = K::kCluster == 1 ? device.multiprocessors : resident_clusters<K>(device.index);
  }
};

struct Start {
  const Device& device;
  const TrainParams& p;
  template <class K>
  void with() const {
    launch<K>(device.stream, 1, p);
  }
};

}  // namespace

int64_t modules_at_once(const Device& device, int64_t hidden, int64_t batch) {
  int64_t count = 0;
  with_kernel(device, hidden, batch, Count{device, count});
  return count;
}

void train(const Device& device, const TrainParams& p) {
  if (with_kernel(device, p.H, p.batch, Start{device, p})) return;
  throw std::runtime_error("seam-fast: this GPU has no kernel for steps of this base any more");
}

void train_head(const Device& device, const TrainHeadParams* modules, int64_t count) {
  launch_batched<TrainHead>(device.stream, 1, modules, count);
}

void flush(const Device& device, const FlushParams& p) {
  constexpr int64_t kRows = Flush::kThreads / 32;  // per block at a time
  launch<Flush>(device.stream, std::min<int64_t>((p.stale + kRows - 1) / kRows, 4 * device.multiprocessors), p);
}

void keep_bits(const Device& device, int64_t blocks, const KeepBitsParams& p) {
  static_assert(kKeepBitsWarps == KeepBits::kThreads / 32);
  launch<KeepBits>(device.stream, blocks, p);
}

}  // namespace seam::gpu

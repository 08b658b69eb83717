// Launches of the steps that the whole GPU takes.
#include "wide_steps.cuh"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "launch.cuh"

namespace seam::gpu {

namespace {

int64_t blocks_for(const Device& device, int64_t size) {
  constexpr int64_t kBlocksEach = 8;  // per multiprocessor; more would only queue
  const int64_t wanted = (size + WideKernel::kThreads - 1) / WideKernel::kThreads;
  return std::clamp<int64_t>(wanted, 1, kBlocksEach * device.multiprocessors);
}

template <class K>
void start(const Device& device, int64_t blocks, const WideParams& w) {
  launch<K>(device.stream, blocks, w);
}

// Where the extension is compiled with SEAM_PROFILE: prints the microseconds of each phase on stderr.
#if defined(SEAM_PROFILE) && defined(__CUDACC__)
class Phases {
 public:
  explicit Phases(const Device& device) : stream_(static_cast<cudaStream_t>(device.stream.stream)) {}
  void mark() {
    cudaEvent_t event;
    check(cudaEventCreate(&event), "making an event");
    check(cudaEventRecord(event, stream_), "recording an event");
    events_.push_back(event);
  }
  ~Phases() {
    constexpr const char* kNames[] = {"project", "spread", "forward", "head",   "backward",
                                      "sums",    "join",   "learn",   "finish", "gather"};
    constexpr size_t kPhases = sizeof(kNames) / sizeof(*kNames);
    float sums[kPhases] = {};
    cudaStreamSynchronize(stream_);
    for (size_t i = 1; i < events_.size(); ++i) {
      float ms = 0;
      cudaEventElapsedTime(&ms, events_[i - 1], events_[i]);
      sums[(i - 1) % kPhases] += ms;
    }
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
    const float steps = float((events_.size() - 1) / kPhases);
    std::fprintf(stderr, "microseconds a step of the whole GPU, over %.0f steps:", steps);
    for (size_t k = 0; k < kPhases; ++k) std::fprintf(stderr, " %s %.1f", kNames[k], 1000 * sums[k] / steps);
    std::fprintf(stderr, "\n");
  }

 private:
  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;
};
#else
struct Phases {
  explicit Phases(const Device&) {}
  void mark() {}
};
#endif

template <class Number>
void take_step(const Device& device, const WideParams& w, Phases& phases) {
  const TrainParams& p = w.train;
  start<WideProject<Number>>(device, WideProject<Number>::blocks(w), w);
  phases.mark();
  start<WideSpread>(device, blocks_for(device, WideSpread::size(w)), w);
  phases.mark();
  ForwardParams<float> forward = p.forward;
  BackwardParams<float> backward = p.backward;
  forward.sequences = backward.sequences = SeamPhases<Number>::sequences(p, w.plan);
  bool found = recurrent_forward(device, forward);
  phases.mark();
  // Besides the blocks for documents some for the stale rows of the next step.
  const int64_t heads = WideHead::heads(w),
                for_rows = std::clamp<int64_t>(w.next.stale / WideKernel::kWarps, 1, kWideBlocks - heads);
  start<WideHead>(device, heads + for_rows, w);
  phases.mark();
  found = found && recurrent_backward(device, backward);
  phases.mark();
  if (!found) throw std::runtime_error("seam-fast: this GPU has no kernel for the recurrence of this base any more");
  start<WideSums<Number>>(device, WideSums<Number>::products(w) + blocks_for(device, WideSums<Number>::sums(w)), w);
  phases.mark();
  start<WideJoin>(device, blocks_for(device, WideJoin::size(w)), w);
  phases.mark();
  start<WideLearn<Number>>(device, std::min<int64_t>(WideLearn<Number>::work(w), kWideBlocks), w);
  phases.mark();
  const int64_t small = WideFinish::small(w), rest = blocks_for(device, WideFinish::size(w));
  start<WideFinish>(device, small + std::min<int64_t>(rest, kWideBlocks - small), w);
  phases.mark();
  start<WideGather>(device, blocks_for(device, WideGather::size(w)), w);
  phases.mark();
}

}  // namespace

bool is_wide(const Device& device, int64_t hidden, int64_t batch) {
  constexpr int64_t kSteps = 1;  // the number of steps makes no difference
  return hidden <= 128 && has_recurrence(device, hidden, kSteps, batch);
}

void train_wide(const Device& device, const TrainParams& p, const WideScratch& scratch, const PlanStep* steps) {
  WideParams w = {p, steps[0], steps[0], -1, scratch};
  start<WidePrepare>(device, blocks_for(device, int64_t(kGates) * p.H * (p.E + p.H)), w);
  start<WideGather>(device, blocks_for(device, WideGather::size(w)), w);
  Phases phases(device);
  phases.mark();
  for (w.step = 0; w.step < p.steps; ++w.step) {
    w.plan = steps[w.step], w.next = steps[w.step + 1];
    if (device.tf32) take_step<Tf32>(device, w, phases);
    else take_step<float>(device, w, phases);
  }
}

}  // namespace seam::gpu

// Launches of the steps that the whole GPU takes.
#include "wide_steps.cuh"

#include <algorithm>
#include <stdexcept>

#include "kernels.h"
#include "launch.cuh"

namespace seam::gpu {

namespace {

int64_t blocks_for(const Device& device, int64_t size) {
  constexpr int64_t kBlocksEach = 8;  // of a multiprocessor; more would only wait
  const int64_t wanted = (size + WideKernel::kThreads - 1) / WideKernel::kThreads;
  return std::clamp<int64_t>(wanted, 1, kBlocksEach * device.multiprocessors);
}

template <class K>
void start(const Device& device, int64_t blocks, const WideParams& w) {
  launch<K>(device.stream, blocks, w);
}

template <class Number>
void take_step(const Device& device, const WideParams& w) {
  const TrainParams& p = w.train;
  start<WideProject<Number>>(device, WideProject<Number>::blocks(w), w);
  start<WideSpread>(device, blocks_for(device, WideSpread::size(w)), w);
  ForwardParams<float> forward = p.forward;
  BackwardParams<float> backward = p.backward;
  forward.sequences = backward.sequences = SeamPhases<Number>::sequences(p, w.plan);
  bool found = recurrent_forward(device, forward);
  // Beside the documents some blocks for the next step's rows.
  const int64_t heads = WideHead::heads(w), for_rows = std::clamp<int64_t>(w.next.due / WideKernel::kWarps, 1, kWideBlocks - heads);
  start<WideHead>(device, heads + for_rows, w);
  found = found && recurrent_backward(device, backward);
  if (!found) throw std::runtime_error("seam-fast: this GPU has no kernel for the recurrence of this base any more");
  start<WideSums<Number>>(device, WideSums<Number>::products(w) + blocks_for(device, WideSums<Number>::sums(w)), w);
  start<WideJoin>(device, blocks_for(device, WideJoin::size(w)), w);
  start<WideLearn<Number>>(device, std::min<int64_t>(WideLearn<Number>::work(w), kWideBlocks), w);
  const int64_t small = WideFinish::small(w), rest = blocks_for(device, WideFinish::size(w));
  start<WideFinish>(device, small + std::min<int64_t>(rest, kWideBlocks - small), w);
  start<WideGather>(device, blocks_for(device, WideGather::size(w)), w);
}

}  // namespace

bool is_wide(const Device& device, int64_t hidden, int64_t batch) {
  // What the op's recurrence takes in one launch, see recurrent_plan.cuh.
  if (hidden <= 64) return batch <= 96 * device.multiprocessors;
  return device.clusters && hidden <= 128 && batch <= 256;
}

void train_wide(const Device& device, const TrainParams& p, const WideScratch& scratch, const PlanStep* steps) {
  WideParams w = {p, steps[0], steps[0], -1, scratch};
  start<WidePrepare>(device, blocks_for(device, int64_t(kGates) * p.H * (p.E + p.H)), w);
  start<WideGather>(device, blocks_for(device, WideGather::size(w)), w);
  for (w.step = 0; w.step < p.steps; ++w.step) {
    w.plan = steps[w.step], w.next = steps[w.step + 1];
    if (device.tf32) take_step<Tf32>(device, w);
    else take_step<float>(device, w);
  }
}

}  // namespace seam::gpu

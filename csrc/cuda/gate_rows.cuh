// Launches of GateRowSteps, for one arithmetic of its products.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "gate_row_steps.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace seam::gpu {

// Calls run.with<Kernel>() with the kernel for clusters of `blocks` blocks.
template <class Number, class Run>
void with_gate_rows(int blocks, int64_t hidden, const Run& run) {
  const auto of_size = [&](auto units) {
    constexpr int kUnits = decltype(units)::value;
    if (blocks == 5) run.template with<GateRowSteps<Number, kUnits, 5>>();
    else if (blocks == 8) run.template with<GateRowSteps<Number, kUnits, 8>>();
    else run.template with<GateRowSteps<Number, kUnits, 16>>();
  };
  if (padded_units(int32_t(hidden)) == 56) of_size(std::integral_constant<int, 56>());
  else of_size(std::integral_constant<int, 64>());
}

struct CountGateRows {
  const Device& device;
  int64_t& count;
  template <class K>
  void with() const {
    count = resident_clusters<K>(device.index);
  }
};

struct StartGateRows {
  const Device& device;
  const TrainParams* modules;
  int64_t count;
  template <class K>
  void with() const {
    launch_batched<K>(device.stream, 1, modules, count);
  }
};

// How many clusters of `blocks` blocks the device can run at once; and a launch of some.
template <class Number>
int64_t resident_gate_rows(const Device& device, int blocks, int64_t hidden) {
  int64_t count = 0;
  with_gate_rows<Number>(blocks, hidden, CountGateRows{device, count});
  return count;
}
template <class Number>
void start_gate_rows(const Device& device, const TrainParams* modules, int64_t count) {
  with_gate_rows<Number>(modules->layout.blocks, modules->H, StartGateRows{device, modules, count});
}

extern template int64_t resident_gate_rows<Tf32>(const Device&, int, int64_t);
extern template void start_gate_rows<Tf32>(const Device&, const TrainParams*, int64_t);

}  // namespace seam::gpu

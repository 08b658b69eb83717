// GateRowSteps in float32, and which clusters train a module.
#include "gate_rows.cuh"

namespace seam::gpu {

GateRowLayout gate_row_layout(const Device& device, const GateRowSizes& sizes, int64_t modules) {
  if (!device.clusters || sizes.H > kMostGateRowUnits || sizes.lists > kListNumbers) return {};
  GateRowLayout best = {};
  for (const int blocks : {16, 8, 5}) {  // more blocks train a module faster, but fewer modules at a time
    if (device.cluster && device.cluster != blocks) continue;
    const GateRowLayout layout = gate_row_layout(blocks, sizes);
    if (layout.size > kLayoutFloats) continue;
    const int64_t count = device.tf32 ? resident_gate_rows<Tf32>(device, blocks, sizes.H)
                                      : resident_gate_rows<SplitTf32>(device, blocks, sizes.H);
    if (count > 0) best = layout;
    if (count >= modules) break;
  }
  return best;
}

void train_gate_rows(const Device& device, const TrainParams* modules, int64_t count) {
  if (count == 0) return;
  if (device.tf32) start_gate_rows<Tf32>(device, modules, count);
  else start_gate_rows<SplitTf32>(device, modules, count);
}

}  // namespace seam::gpu

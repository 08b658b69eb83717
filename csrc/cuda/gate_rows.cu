// GateRowSteps in float32, and which clusters train a module.
#include "gate_rows.cuh"

namespace seam::gpu {

constexpr int kSizes[] = {16, 8, 5};  // of clusters: the more, the quicker is a module; but fewer are trained at a time

int64_t gate_row_modules(const Device& device, int64_t hidden) {
  if (!device.clusters || hidden > kMostGateRowUnits) return 0;
  int64_t most = 0;
  for (const int blocks : kSizes) most = std::max(most, resident_gate_rows<SplitTf32>(device, blocks, hidden));
  return most;
}

GateRowLayout gate_row_layout(const Device& device, const GateRowSizes& sizes, int64_t modules) {
  if (!device.clusters || sizes.H > kMostGateRowUnits || sizes.lists > kListNumbers) return {};
  GateRowLayout best = {};
  for (const int blocks : kSizes) {
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

void train_gate_rows(const Device& device, const TrainParams& p) {
  if (device.tf32) start_gate_rows<Tf32>(device, p);
  else start_gate_rows<SplitTf32>(device, p);
}

}  // namespace seam::gpu

// GateRowSteps with products in tf32; a file of its own, because each takes a minute to compile.
#include "gate_rows.cuh"

namespace seam::gpu {

template int64_t resident_gate_rows<Tf32>(const Device&, int, int64_t);
template void start_gate_rows<Tf32>(const Device&, const TrainParams*, int64_t);

}  // namespace seam::gpu

// The CUDA kernels as the host side calls them. T: float, double, BFloat16 or Half.
#pragma once

#include "collected_launches.h"
#include "params.h"
#include "seam_params.h"

namespace seam::gpu {

struct Device {
  int index;
  Queue stream;         // where its launches go
  int multiprocessors;  // SMs
  bool clusters;        // whether blocks can form clusters (Hopper and newer)
  bool tf32;            // whether torch lets products of float32 round their operands to tf32
  int64_t calls =
      1;  // calls that run at the same time and share the device; a choice that depends on it must not change a bit
  int cluster = 0;  // for tests: blocks of a cluster, where there is a choice; 0: chosen by the amount of work
};

void order(const Device&, const OrderParams&);
template <class T, class To>  // To: T, or float where that is wider
void effective(const Device&, const EffectiveParams<To>&);
template <class T>
void padding(const Device&, const PaddingParams<T>&);

// The whole recurrence in one launch. Returns false and does nothing if no kernel suits the sizes and the device.
template <class T>
bool recurrent_forward(const Device&, const ForwardParams<T>&);
template <class T>
bool recurrent_backward(const Device&, const BackwardParams<T>&);

template <>
bool recurrent_forward(const Device&, const ForwardParams<float>&);
template <>
bool recurrent_backward(const Device&, const BackwardParams<float>&);

// Whether both are possible in float32. Starts nothing.
inline bool has_recurrence(Device device, int64_t hidden, int64_t steps, int64_t batch) {
  CollectedLaunches notes;  // records the launches, which are then dropped
  notes.next_call();
  device.stream.collected = &notes;
  ForwardParams<float> forward = {{steps, batch, false}, hidden};
  BackwardParams<float> backward = {{steps, batch, false}, hidden};
  return recurrent_forward(device, forward) && recurrent_backward(device, backward);
}

// The recurrence one step at a time.
template <class T>
void forward_start(const Device&, const ForwardStepParams<T>&);
template <class T>
void forward_step(const Device&, const ForwardStepParams<T>&);
template <class T>
void backward_step(const Device&, const BackwardStepParams<T>&);
template <class T>
void backward_end(const Device&, const BackwardStepParams<T>&);

template <class T>
void projection(const Device&, const ProjectionParams<T>&);
template <class T>
void gradients(const Device&, const GradientParams<T>&);
template <class T>
void copy_rows(const Device&, const CopyRowsParams<T>&);
template <class T>
void column_sums(const Device&, const ColumnSumsParams<T>&);
template <class T>
void finish(const Device&, const FinishParams<T>&);

// The training engine. How many modules the device can train at the same time, each in one launch; 0 if no kernel suits
// the sizes and the device.
int64_t modules_at_once(const Device&, int64_t hidden, int64_t batch);
// Steps by SeamSteps, the kernel for any batch.
void train(const Device&, const TrainParams&);

// Steps by GateRowSteps (gate_row_steps.cuh), which is faster, if its layout fits. The layout for the size of cluster
// that is best with `modules` modules on the device; of no blocks if none fits.
GateRowLayout gate_row_layout(const Device&, const GateRowSizes&, int64_t modules);
// Steps of some modules of one base, in as few launches as their parameters fit into. Each has such a layout, all with
// the same number of blocks; all else may differ.
void train_gate_rows(const Device&, const TrainParams* modules, int64_t count);

// Steps by the whole GPU (wide_steps.cuh): whether there are kernels for them; and some of them. steps: their plans,
// and one more, on the host.
bool is_wide(const Device&, int64_t hidden, int64_t batch);
void train_wide(const Device&, const TrainParams&, const WideScratch&, const PlanStep* steps);

void train_head(const Device&, const TrainHeadParams* modules, int64_t count);  // in as few launches as possible, too
void flush(const Device&, const FlushParams&);

// blocks: how many, of kKeepBitsWarps warps each.
constexpr int64_t kKeepBitsWarps = 8;
void keep_bits(const Device&, int64_t blocks, const KeepBitsParams&);

}  // namespace seam::gpu

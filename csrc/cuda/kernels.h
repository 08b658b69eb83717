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
  int64_t calls = 1;    // that go together, and so share the device. No choice by it may change a bit
  int cluster = 0;      // blocks of a cluster where there is a choice, for tests; 0: chosen by what there is to do
};

void order(const Device&, const OrderParams&);
template <class T, class To>  // To: T, or float where that is wider
void effective(const Device&, const EffectiveParams<To>&);
template <class T>
void padding(const Device&, const PaddingParams<T>&);

// The whole recurrence in one launch; false, and nothing done, where no kernel suits the sizes and the device.
template <class T>
bool recurrent_forward(const Device&, const ForwardParams<T>&);
template <class T>
bool recurrent_backward(const Device&, const BackwardParams<T>&);

template <>
bool recurrent_forward(const Device&, const ForwardParams<float>&);
template <>
bool recurrent_backward(const Device&, const BackwardParams<float>&);

// Whether both can be done so in float32, by whatever kernels; nothing is started.
inline bool has_recurrence(Device device, int64_t hidden, int64_t steps, int64_t batch) {
  CollectedLaunches notes;  // where launches go meanwhile
  notes.next_call();
  device.stream.collected = &notes;
  ForwardParams<float> forward = {{steps, batch, false}, hidden};
  BackwardParams<float> backward = {{steps, batch, false}, hidden};
  return recurrent_forward(device, forward) && recurrent_backward(device, backward);
}

// One step of it at a time.
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

// The training engine. Of how many modules the device can take steps at the same time, each in one launch; 0 where no kernel
// suits the sizes and the device.
int64_t modules_at_once(const Device&, int64_t hidden, int64_t batch);
// By the kernel that takes any batch.
void train(const Device&, const TrainParams&);

// The quicker kernel, see gate_row_steps.cuh, where its layout fits.
// The layout of a cluster as large as pays while so many modules are trained on the device; of no blocks where none fits.
GateRowLayout gate_row_layout(const Device&, const GateRowSizes&, int64_t modules);
// Of some modules of one base, in as few launches as their parameters find room in. Each has such a layout, all of as many
// blocks; they may differ in all else.
void train_gate_rows(const Device&, const TrainParams* modules, int64_t count);

// Steps that the whole GPU takes, see wide_steps.cuh: whether there are kernels for them; and some of them, whose plans, with
// one more behind the last, are at hand on the host as well.
bool is_wide(const Device&, int64_t hidden, int64_t batch);
void train_wide(const Device&, const TrainParams&, const WideScratch&, const PlanStep* steps);

void train_head(const Device&, const TrainHeadParams* modules, int64_t count);  // in as few launches, too
void flush(const Device&, const FlushParams&);

// blocks: of the launch, each of kKeepBitsWarps warps.
constexpr int64_t kKeepBitsWarps = 8;
void keep_bits(const Device&, int64_t blocks, const KeepBitsParams&);

}  // namespace seam::gpu

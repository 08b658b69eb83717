#include "vmap_calls_cuda.h"

#include <c10/core/DeviceGuard.h>

#include "layer_call.h"

namespace seam::gpu {

variable_list forward_calls(const Calls& calls, const variable_list& tensors) {
  const c10::DeviceGuard guard(tensors[kInput].device());
  BatchedCalls batched(calls, tensors, 0);
  return forward_one_by_one(calls, tensors, batched);
}

variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors) {
  const c10::DeviceGuard guard(tensors[kGrads + kInput].device());
  BatchedCalls batched(calls, tensors, kGrads);
  return backward_one_by_one(calls, needs, tensors, batched);
}

namespace {

thread_local BatchedCalls* current = nullptr;

bool can_batch(const Calls& calls, const variable_list& tensors, int64_t first) {
  constexpr int64_t kMostUnits = 128;
  const Choices& chosen = choices();
  if (calls.size < 2 || chosen.recurrence == Choice::library || chosen.products == Choice::library) return false;
  const auto of_call = [&](int64_t k) { return calls.leading[size_t(k)] ? tensors[k].select(0, 0) : tensors[k]; };
  const Tensor input = of_call(first + kInput), weight_hh = of_call(first + kWeights + 1);
  if (input.dim() != 3 || weight_hh.dim() != 2 || input.scalar_type() != at::kFloat || input.numel() == 0) return false;
  const int64_t rows = input.size(0) * input.size(1), I = input.size(2), H = weight_hh.size(1);
  const Device device = gpu::device_of(input);
  if (H > kMostUnits || !has_recurrence(device, H, input.size(0), input.size(1))) return false;
  const auto operations = [&](int64_t columns) { return 2.0 * double(rows * kGates * H * columns); };
  return !use_library(operations(I), I, at::kFloat) && !use_library(operations(2 * I + H), rows, at::kFloat);
}

}  // namespace

BatchedCalls::BatchedCalls(const Calls& calls, const variable_list& tensors, int64_t first)
    : batches_(can_batch(calls, tensors, first)), count_(calls.size) {}
BatchedCalls::~BatchedCalls() {
  if (current == this) current = nullptr;
}
BatchedCalls* BatchedCalls::collecting() { return current; }

void BatchedCalls::next_call() {
  if (!batches_) return;
  constexpr int64_t kMost = 16;  // of a launch, see Together in block.cuh: to note more would only take memory
  if (recorded_ == kMost) {
    start();
    recorded_ = 0;
  }
  ++recorded_;
  current = this;
  launches_.next_call();
}
void BatchedCalls::start() {
  launches_.start(stream_);
  launches_ = {};
  held_.clear();
}
void BatchedCalls::take_part(Device& device) {
  stream_ = device.stream.stream;
  device.stream.collected = &launches_;
  device.calls = count_;
}
void BatchedCalls::end() {
  if (!batches_) return;
  current = nullptr;
  start();
}

}  // namespace seam::gpu

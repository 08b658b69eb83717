// The CUDA op as a Python module that runs on the CPU: the host side as it is, the kernels by block_host.h.
#include <c10/core/CPUAllocator.h>
#include <torch/extension.h>

#include <cstdlib>

#include "bindings/op_binding.h"
#include "bindings/queued_epochs_binding.h"
#include "bindings/trainer_binding.h"
#include "cuda/block.cuh"
#include "cuda/class_logits_cuda.h"
#include "cuda/masked_lstm_cuda.h"
#include "cuda/seam_trainer_cuda.h"
#include "cuda/vmap_calls_cuda.h"

namespace py = pybind11;

namespace seam {

// In place of bindings/device_dispatch.cpp: always the GPU's code.
LayerOutputs masked_lstm_forward(const LayerArguments& arguments, bool batch_first_output, bool save) {
  return gpu::masked_lstm_forward(arguments, batch_first_output, save);
}
LayerGradients masked_lstm_backward(const LayerBackwardArguments& arguments, const GradientsNeeded& needed) {
  return gpu::masked_lstm_backward(arguments, needed);
}
variable_list forward_calls(const Calls& calls, const variable_list& tensors) {
  return gpu::forward_calls(calls, tensors);
}
variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors) {
  return gpu::backward_calls(calls, needs, tensors);
}

namespace gpu {

namespace {

Device pretended = {0,     {}, 4, true,
                    false, 1,  5};  // few multiprocessors, so that small batches already take several rounds

// An allocator of tensors that allows kernels access to each block of memory while it lives. There is a gap between two
// blocks that nobody may access.
struct WatchedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* const memory = size ? std::aligned_alloc(64, (size + 127) / 64 * 64) : nullptr;
    if (memory) allow_memory(memory, size);
    return {memory, memory, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }

 private:
  static void release(void* memory) {
    forget_memory(memory);
    std::free(memory);
  }
};

// Whether tensors get such memory from now on, so that kernels may access no other.
void watch_memory(bool watch) {
  static WatchedMemory watched;
  static c10::Allocator* const ordinary = c10::GetCPUAllocator();
  forget_memory();
  c10::SetCPUAllocator(watch ? &watched : ordinary, 1);
}

// Whether accesses are checked for races and for memory that is not allowed. Thousands of steps are quicker without.
void watch(bool watch) { host_options().shadow = host_options().global_shadow = watch; }

void set_order(const std::string& order, uint64_t seed) {
  HostOptions& options = host_options();
  options.order = order == "depth_first" ? HostOptions::depth_first
                  : order == "reversed"  ? HostOptions::reversed
                  : order == "shuffled"  ? HostOptions::shuffled
                                         : HostOptions::round_robin;
  options.seed = seed;
}

std::pair<Tensor, Tensor> order_of(const Tensor& lengths, int64_t steps) {
  const Tensor order = at::empty(lengths.sizes(), at::kInt), length = at::empty_like(order);
  gpu::order(pretended, {steps, lengths.size(0), lengths.const_data_ptr<int64_t>(), order.mutable_data_ptr<int32_t>(),
                         length.mutable_data_ptr<int32_t>()});
  return {order, length};
}

}  // namespace

Device device_of(const Tensor&) { return pretended; }
void wait_for(const Device&) {}

}  // namespace gpu

}  // namespace seam

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using py::arg;
  seam::bind_masked_lstm(m);
  m.def("choose_cuda", &seam::gpu::choose);
  m.def("class_logits_on_gpu", &seam::gpu::class_logits);
  m.def("choose_steps", &seam::gpu::choose_steps);
  m.def("use_little_memory", [](int64_t bytes) { seam::gpu::choices().scratch_bytes = bytes; });
  seam::bind_trainer(m, &seam::gpu::make_trainer);
  seam::gpu::bind_queued_epochs(m);
  m.def("modules_at_once", py::overload_cast<const seam::Tensor&, int64_t, int64_t>(&seam::gpu::modules_at_once));
  m.def("order", &seam::gpu::order_of);
  m.def("watch_memory", &seam::gpu::watch_memory);
  m.def("watch", &seam::gpu::watch);
  m.def("set_order", &seam::gpu::set_order);
  m.def(
      "pretend",
      [](int multiprocessors, bool clusters, bool tf32, int cluster) {
        seam::gpu::pretended = {0, {}, multiprocessors, clusters, tf32, 1, cluster};
      },
      arg("multiprocessors"), arg("clusters"), arg("tf32"), arg("cluster") = 5);
}

// Calls of the layer on a GPU that share their launches (collected_launches.h): as torch.func.vmap makes them, say one
// for each of many sets of scores on one base.
#pragma once

#include <vector>

#include "host/transforms.h"
#include "kernels.h"

namespace seam::gpu {

// As in host/transforms.h, for tensors on a GPU.
variable_list forward_calls(const Calls& calls, const variable_list& tensors);
variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors);

// While calls are made one by one, records their launches; starts those of all calls together in the end.
class BatchedCalls final : public CallObserver {
 public:
  // first: where in `tensors` those of the layer begin, as in transforms.h. Does nothing for a single call, and for
  // calls that need more than our own kernels: a matrix library's products would run before the launches that are only
  // recorded.
  BatchedCalls(const Calls& calls, const variable_list& tensors, int64_t first);
  ~BatchedCalls() override;
  BatchedCalls(const BatchedCalls&) = delete;

  void next_call() override;
  void end() override;

  // That of the calling thread, between next_call and end; null: launches are started at once.
  static BatchedCalls* collecting();
  void take_part(Device& device);
  // Keeps memory alive that recorded launches will use.
  void hold(const Tensor& t) {
    if (t.defined()) held_.push_back(t);
  }

 private:
  void start();

  bool batches_;
  int64_t count_, recorded_ = 0;
  CollectedLaunches launches_;
  void* stream_ = nullptr;
  std::vector<Tensor> held_;
};

}  // namespace seam::gpu

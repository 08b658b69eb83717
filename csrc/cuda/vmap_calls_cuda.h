// Calls of the layer on a GPU whose launches go out together, see collected.h: as torch.func.vmap makes them, say one for each of
// many sets of scores on one base.
#pragma once

#include <vector>

#include "host/transforms.h"
#include "kernels.h"

namespace seam::gpu {

class CallsTogether final : public Turns {
 public:
  // first: where in `tensors` those of the calls begin, as in transforms.h. Does nothing for a single call, and for calls that
  // need more than kernels of ours: products of a matrix library would not wait for what has only been noted.
  CallsTogether(const Calls& calls, const variable_list& tensors, int64_t first);
  ~CallsTogether() override;
  CallsTogether(const CallsTogether&) = delete;

  void next_call() override;
  void end() override;

  // Of the calling thread, between next_call and end; null: launches go out at once.
  static CallsTogether* collecting();
  void take_part(Device& device);
  // Memory that launches will use is not given away before.
  void hold(const Tensor& t) {
    if (t.defined()) held_.push_back(t);
  }

 private:
  void start();

  bool suits_;
  int64_t count_, noted_ = 0;
  Collected launches_;
  void* stream_ = nullptr;
  std::vector<Tensor> held_;
};

}  // namespace seam::gpu

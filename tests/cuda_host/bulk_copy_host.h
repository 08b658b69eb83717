// csrc/cuda/bulk_copy.cuh for the CPU: thread 0 makes the whole copy when it waits. Other threads see it only after
// their next barrier, which is later than on a GPU. A thread that has not waited for the previous request is reported:
// on a GPU it would confuse the rounds of the barrier.
#pragma once

#include "block_host.h"

namespace seam::gpu {

struct BulkCopy {
  int32_t requests, waits;

  void begin() { requests = waits = 0; }
  template <class B, int N>
  void start(const B& block, Shared<float, N>& to, int i, const float* from, int count,
             host::Site site = host::Site::current()) {
    if (block.thread() != 0) return;
    if (waits < requests * block.threads()) {  // some threads may be waiting for this one already
      host::machine.report("request before all threads have waited for the last one", site, [&] {
        return std::to_string(waits) + " waits for " + std::to_string(requests) + " requests";
      });
    }
    ++requests;
    for (int k = 0; k < count; k += 4) {
      const bool exists = host::machine.global_access(from + k, 16, 16, false, site);
      if (host::machine.shared_access(to.memory, N, sizeof(float), i + k, 4, true, site) && exists) {
        host::machine.copy_later(&to.memory[i + k], from + k, site, this);
      }
    }
  }
  void wait(bool& odd) {
    ++waits;
    host::machine.copy_now(this);
    odd = !odd;
  }
};

}  // namespace seam::gpu

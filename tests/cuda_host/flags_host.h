// The CPU's meaning of csrc/cuda/flags.cuh. The watch follows what a block is told of others, also of third ones: so
// what is read too early, or written while others may still read it, is a race. A flag that nobody posts is reported.
#pragma once

#include "block_host.h"

namespace seam::gpu {

template <class B>
SEAM_KERNEL void post(const B& block, int32_t* flag, int32_t value, host::Site site = host::Site::current()) {
  if (host::machine.handed_over(flag, sizeof(value), site)) host::machine.post(*block.me, flag, value);
}
template <class B>
SEAM_KERNEL void wait_for(const B& block, const int32_t* flag, int32_t value, host::Site site = host::Site::current()) {
  if (!host::machine.handed_over(flag, sizeof(value), site)) return;
  host::machine.wait_until([&] { return *flag >= value; }, site);
  host::machine.told(*block.me, flag);
  block.sync_warp(site);
}

}  // namespace seam::gpu

// csrc/cuda/flags.cuh for the CPU. The race detection follows what a block learns of others by flags, also
// transitively: so a premature read, or a write while others may still read, is a race. A flag that is never posted is
// reported.
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

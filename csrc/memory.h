// Large scratch in large pages, where the system has them on request: steps of a few kilobytes through 4 KiB pages would
// spend as much time looking up addresses as computing.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace seam {

// An uninitialised 1-D tensor.
inline at::Tensor empty_scratch(int64_t size, at::TensorOptions options) {
  at::Tensor scratch = at::empty({size}, options);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(scratch.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, last = (begin + scratch.nbytes()) / page * page;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: failing is no harm
#endif
  return scratch;
}

}  // namespace seam

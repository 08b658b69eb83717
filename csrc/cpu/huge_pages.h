// Large tensors in huge pages, where the system gives them on request: strides of a few kilobytes through 4 KiB pages
// would spend as much time on TLB misses as on computing.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace seam {

// An uninitialised 1-D tensor.
inline at::Tensor empty_scratch(int64_t size, at::TensorOptions options) {
  TORCH_CHECK_VALUE(0 <= size && size < (int64_t{1} << 58), "size must be a number of elements, but is ", size);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t page = size_t{1} << 21;
  const size_t bytes = size_t(size) * options.dtype().itemsize();
  if (bytes >= page / 2) {
    const size_t rest = bytes % page;  // a rest of up to half a page is not rounded up: more than half would be wasted
    const size_t whole = rest > page / 2 ? bytes - rest + page : bytes;
    void* memory = nullptr;
    if (posix_memalign(&memory, page, whole) == 0) {
      std::unique_ptr<void, void (*)(void*)> owned(memory, std::free);
      madvise(memory, whole / page * page, MADV_HUGEPAGE);  // only a request: if it fails, ordinary pages do
      auto& reporter = c10::profiledCPUMemoryReporter();    // so that torch's profiler counts this memory, too
      reporter.New(memory, whole);
      const auto give_back = [&reporter](void* taken) {
        reporter.Delete(taken);
        std::free(taken);
      };
      at::Tensor tensor = at::from_blob(memory, {size}, give_back, options);
      owned.release();
      return tensor;
    }
  }
#endif
  return at::empty({size}, options);
}

}  // namespace seam

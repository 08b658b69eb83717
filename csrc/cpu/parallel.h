// Splits a range of independent tasks among torch's own threads. The result of a task never depends on which thread
// runs it.
#pragma once

#include <ATen/Parallel.h>

namespace seam {

constexpr double kWorthSharing = 4e7;  // operations; with fewer, waking a thread costs more than it saves

inline int64_t threads_for(double operations) { return operations < kWorthSharing ? 1 : at::get_num_threads(); }

// Calls body(begin, end, thread) with 0 <= thread < threads.
template <class Body>
void parallel_ranges(int64_t tasks, int64_t threads, const Body& body) {
  if (threads == 1 || tasks == 1 || at::in_parallel_region()) {
    if (tasks > 0) body(int64_t(0), tasks, int64_t(0));
    return;
  }
  const int64_t each = (tasks + threads - 1) / threads;
  // The tasks of at::parallel_for are our thread numbers, which scratch memory is indexed by.
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread) {
      const int64_t begin = thread * each, end = begin + each < tasks ? begin + each : tasks;
      if (begin < end) body(begin, end, thread);
    }
  });
}

}  // namespace seam

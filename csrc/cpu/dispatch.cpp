// Which instruction set the CPU kernels use: the best this CPU has, unless someone asks for another.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace seam {

namespace {

const Isa* const kBestFirst[] = {&kAvx512, &kAvx2, &kPortable};

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

int supported_isas(const Isa* (&out)[3]) {
  int count = 0;
  for (const Isa* candidate : kBestFirst) {
    if (candidate->supported()) out[count++] = candidate;
  }
  return count;
}

const Isa& isa() {
  const Isa* current = chosen.load(std::memory_order_relaxed);
  if (!current) {
    const Isa* available[3];
    supported_isas(available);
    current = available[0];
    chosen.store(current, std::memory_order_relaxed);
  }
  return *current;
}

bool set_isa(const char* name) {
  const Isa* available[3];
  const int count = supported_isas(available);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(available[i]->name, name) == 0) {
      chosen.store(available[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace seam

// Launches of the products over all rows.
#include "product.cuh"

#include "kernels.h"
#include "launch.cuh"

namespace seam::gpu {

namespace {

constexpr int kSmall = 32, kLarge = 64;  // tile sizes

// Large tiles load less per product; small ones are for products that would otherwise not fill the device.
bool few(const Device& device, int64_t large_tiles) { return large_tiles * device.calls < device.multiprocessors; }

}  // namespace

template <class T>
void projection(const Device& device, const ProjectionParams<T>& p) {
  using Small = Projection<T, kSmall>;
  using Large = Projection<T, kLarge>;
  if (few(device, Large::tiles(p).count)) launch<Small>(device.stream, Small::tiles(p).count, p);
  else launch<Large>(device.stream, Large::tiles(p).count, p);
}

template <class T>
void gradients(const Device& device, const GradientParams<T>& p) {
  using Small = Gradients<T, kSmall>;
  using Large = Gradients<T, kLarge>;
  if (few(device, Large::tile_count(p))) launch<Small>(device.stream, Small::tile_count(p), p);
  else launch<Large>(device.stream, Large::tile_count(p), p);
}

#define SEAM_INSTANTIATE(T)                                            \
  template void projection(const Device&, const ProjectionParams<T>&); \
  template void gradients(const Device&, const GradientParams<T>&);
SEAM_INSTANTIATE(float)
SEAM_INSTANTIATE(double)
SEAM_INSTANTIATE(BFloat16)
SEAM_INSTANTIATE(Half)

}  // namespace seam::gpu

// Launches of the recurrence, backward.
#include "recurrent.cuh"
#include "recurrent_cluster.cuh"
#include "recurrent_plan.cuh"
#include "recurrent_small.cuh"
#include "recurrent_tiles.cuh"

namespace seam::gpu {

template <>
bool recurrent_backward(const Device& device, const BackwardParams<float>& p) {
  using Params = BackwardParams<float>;
  if (with_small_sizes<SmallBackward>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (start_in_cluster<ClusterBackward>(device, p)) return true;
  if (device.tf32 && with_tiles<TiledBackward, float, Tf32>(p.hidden, StartTiled<Params>{device, p})) return true;
  return with_sizes<RecurrentBackward, float>(p.hidden, StartRecurrent<Params>{device, p});
}

template <>
bool recurrent_backward(const Device& device, const BackwardParams<BFloat16>& p) {
  return with_tiles<TiledBackward, BFloat16, BFloat16>(p.hidden, StartTiled<BackwardParams<BFloat16>>{device, p});
}

template <>
bool recurrent_backward(const Device& device, const BackwardParams<Half>& p) {
  return with_tiles<TiledBackward, Half, Half>(p.hidden, StartTiled<BackwardParams<Half>>{device, p});
}

template <>
bool recurrent_backward(const Device&, const BackwardParams<double>&) {  // by steps: nobody is in a hurry
  return false;
}

}  // namespace seam::gpu

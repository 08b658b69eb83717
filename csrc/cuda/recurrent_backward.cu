// Launches of the recurrence, backward.
#include "recurrent.cuh"
#include "recurrent_cluster.cuh"
#include "recurrent_cluster_tiles.cuh"
#include "recurrent_grid.cuh"
#include "recurrent_plan.cuh"
#include "recurrent_small.cuh"
#include "recurrent_tiles.cuh"
#include "recurrent_wide_tiles.cuh"

namespace seam::gpu {

template <>
bool recurrent_backward(const Device& device, const BackwardParams<float>& p) {
  using Params = BackwardParams<float>;
  if (with_small_sizes<SmallBackward, float>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (start_in_cluster<ClusterBackward>(device, p)) return true;
  if (device.tf32 && with_tiles<TiledBackward, float, Tf32>(p.hidden, StartTiled<Params>{device, p})) return true;
  return with_sizes<RecurrentBackward, float>(p.hidden, StartRecurrent<Params>{device, p});
}

template <>
bool recurrent_backward(const Device& device, const BackwardParams<BFloat16>& p) {
  using Params = BackwardParams<BFloat16>;
  if (with_small_sizes<SmallBackward, BFloat16>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (with_cluster_tiles<ClusterTilesBackward, BFloat16>(p.hidden, StartClusterTiles<Params>{device, p})) return true;
  if (start_wide_tiles<WideTilesBackward, BFloat16>(device, p)) return true;
  if (start_grid<GridBackward, BFloat16>(device, p)) return true;
  return with_tiles<TiledBackward, BFloat16, BFloat16>(p.hidden, StartTiled<Params>{device, p});
}

template <>
bool recurrent_backward(const Device& device, const BackwardParams<Half>& p) {
  using Params = BackwardParams<Half>;
  if (with_small_sizes<SmallBackward, Half>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (with_cluster_tiles<ClusterTilesBackward, Half>(p.hidden, StartClusterTiles<Params>{device, p})) return true;
  if (start_wide_tiles<WideTilesBackward, Half>(device, p)) return true;
  if (start_grid<GridBackward, Half>(device, p)) return true;
  return with_tiles<TiledBackward, Half, Half>(p.hidden, StartTiled<Params>{device, p});
}

template <>
bool recurrent_backward(const Device&, const BackwardParams<double>&) {  // float64 always goes step by step
  return false;
}

}  // namespace seam::gpu

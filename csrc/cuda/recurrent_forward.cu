// Launches of the recurrence, forward.
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
bool recurrent_forward(const Device& device, const ForwardParams<float>& p) {
  using Params = ForwardParams<float>;
  if (with_small_sizes<SmallForward, float>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (start_in_cluster<ClusterForward>(device, p)) return true;
  if (device.tf32 && with_tiles<TiledForward, float, Tf32>(p.hidden, StartTiled<Params>{device, p})) return true;
  return with_sizes<RecurrentForward, float>(p.hidden, StartRecurrent<Params>{device, p});
}

template <>
bool recurrent_forward(const Device& device, const ForwardParams<BFloat16>& p) {
  using Params = ForwardParams<BFloat16>;
  if (with_small_sizes<SmallForward, BFloat16>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (with_cluster_tiles<ClusterTilesForward, BFloat16>(p.hidden, StartClusterTiles<Params>{device, p})) return true;
  if (start_wide_tiles<WideTilesForward, BFloat16>(device, p)) return true;
  if (start_grid<GridForward, BFloat16>(device, p)) return true;
  return with_tiles<TiledForward, BFloat16, BFloat16>(p.hidden, StartTiled<Params>{device, p});
}

template <>
bool recurrent_forward(const Device& device, const ForwardParams<Half>& p) {
  using Params = ForwardParams<Half>;
  if (with_small_sizes<SmallForward, Half>(p.hidden, StartSmall<Params>{device, p})) return true;
  if (with_cluster_tiles<ClusterTilesForward, Half>(p.hidden, StartClusterTiles<Params>{device, p})) return true;
  if (start_wide_tiles<WideTilesForward, Half>(device, p)) return true;
  if (start_grid<GridForward, Half>(device, p)) return true;
  return with_tiles<TiledForward, Half, Half>(p.hidden, StartTiled<Params>{device, p});
}

template <>
bool recurrent_forward(const Device&, const ForwardParams<double>&) {  // float64 always goes step by step
  return false;
}

}  // namespace seam::gpu

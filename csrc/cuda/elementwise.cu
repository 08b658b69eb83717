// Launches of the elementwise kernels.
#include "elementwise.cuh"

#include "kernels.h"
#include "launch.cuh"

namespace seam::gpu {

namespace {

template <class K>
void launch_each(const Device& device, int64_t size, const typename K::Params& p) {
  constexpr int64_t kBlocksEach = 16;  // per multiprocessor; more would only queue
  const int64_t wanted = (size + K::kThreads - 1) / K::kThreads, most = kBlocksEach * device.multiprocessors;
  launch<K>(device.stream, wanted < most ? wanted : most, p);
}

}  // namespace

void order(const Device& device, const OrderParams& p) { launch_each<Order>(device, p.batch, p); }

template <class T, class To>
void effective(const Device& device, const EffectiveParams<To>& p) {
  launch_each<Effective<T, To>>(device, p.size, p);
}

template <class T>
void padding(const Device& device, const PaddingParams<T>& p) {
  launch_each<Padding<T>>(device, p.sequences.steps * p.sequences.batch * p.width, p);
}

template <class T>
void forward_start(const Device& device, const ForwardStepParams<T>& p) {
  launch_each<ForwardStart<T>>(device, p.sequences.batch * p.hidden, p);
}

template <class T>
void forward_step(const Device& device, const ForwardStepParams<T>& p) {
  launch_each<ForwardStep<T>>(device, p.running * p.hidden, p);
}

template <class T>
void backward_step(const Device& device, const BackwardStepParams<T>& p) {
  launch_each<BackwardStep<T>>(device, p.running * p.hidden, p);
}

template <class T>
void backward_end(const Device& device, const BackwardStepParams<T>& p) {
  launch_each<BackwardEnd<T>>(device, p.sequences.batch * p.hidden, p);
}

template <class T>
void copy_rows(const Device& device, const CopyRowsParams<T>& p) {
  launch_each<CopyRows<T>>(device, p.sequences.steps * p.sequences.batch * p.width, p);
}

template <class T>
void column_sums(const Device& device, const ColumnSumsParams<T>& p) {
  const int64_t parts = (p.rows + p.rows_of_part - 1) / p.rows_of_part;
  launch<ColumnSums<T>>(device.stream, parts * ColumnSums<T>::tiles(p), p);
}

template <class T>
void finish(const Device& device, const FinishParams<T>& p) {
  launch_each<Finish<T>>(device, p.size, p);
}

#define SEAM_INSTANTIATE(T)                                                 \
  template void effective<T>(const Device&, const EffectiveParams<T>&);     \
  template void padding(const Device&, const PaddingParams<T>&);            \
  template void forward_start(const Device&, const ForwardStepParams<T>&);  \
  template void forward_step(const Device&, const ForwardStepParams<T>&);   \
  template void backward_step(const Device&, const BackwardStepParams<T>&); \
  template void backward_end(const Device&, const BackwardStepParams<T>&);  \
  template void copy_rows(const Device&, const CopyRowsParams<T>&);         \
  template void column_sums(const Device&, const ColumnSumsParams<T>&);     \
  template void finish(const Device&, const FinishParams<T>&);
SEAM_INSTANTIATE(float)
SEAM_INSTANTIATE(double)
SEAM_INSTANTIATE(BFloat16)
SEAM_INSTANTIATE(Half)
template void effective<BFloat16>(const Device&, const EffectiveParams<float>&);
template void effective<Half>(const Device&, const EffectiveParams<float>&);

}  // namespace seam::gpu

// Fills the table of one instruction set, at compile time, because none of its code may run before the CPU is known to
// have that set. Included by each kernels_*.cpp, after the kernels.

namespace {

template <typename T>
constexpr seam::CpuKernels<T> kernel_table() {
  seam::CpuKernels<T> k{};
  k.unit_blocks = unit_blocks<T>;
  k.row_tiles = row_tiles<T>;
  k.scratch_size = scratch_size<T>;
  k.mark_keep_bits = mark_keep_bits<T>;
  k.packed_block_size = packed_block_size<T>;
  k.packed_panel_size = packed_panel_size<T>;
  k.column_panels = column_panels<T>;
  k.outer_tasks = outer_tasks<T>;
  k.pack_recurrent = pack_recurrent<T>;
  k.project = project<T>;
  k.recur = recur<T>;
  k.pack_recurrent_backward = pack_recurrent_backward<T>;
  k.backward_steps = backward_steps<T>;
  k.outer = outer<T>;
  k.finish_gradient = finish_gradient<T>;
  k.score_adam = score_adam<T>;
  k.update_scores = update_scores<T>;
  k.replay_steps = replay_steps<T>;
  k.closed_form_steps = closed_form_steps<T>;
  k.effective = effective<T>;
  k.add = add<T>;
  k.all_finite = all_finite<T>;
  k.pack_keep_bits = pack_keep_bits<T>;
  k.linear = linear<T>;
  k.linear_gradient = linear_gradient<T>;
  return k;
}

constexpr seam::CpuKernels<float> kTable32 = kernel_table<float>();
constexpr seam::CpuKernels<double> kTable64 = kernel_table<double>();

}  // namespace

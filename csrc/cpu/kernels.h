// The CPU kernels of one instruction set, as a table of functions. Each works on a range [begin, end) of independent
// tasks, so that any number of threads can share them without changing a result; scratch memory is per thread.
#pragma once

#include "common/masked_lstm_params.h"
#include "common/score_adam_params.h"
#include "common/score_state.h"

namespace seam {

template <typename T>
struct CpuKernels {
  // Sizes, in elements and tasks.
  int64_t (*unit_blocks)(int64_t hidden);                                     // tasks of pack_recurrent and project
  int64_t (*row_tiles)(int64_t batch);                                        // tasks of recur and backward_steps
  int64_t (*scratch_size)(int64_t input_size, int64_t hidden, int64_t rows);  // of one thread
  int64_t (*packed_block_size)(int64_t hidden);                               // of packed_hh, forward
  int64_t (*packed_panel_size)(int64_t hidden);                               // of packed_hh, backward
  int64_t (*column_panels)(int64_t columns);  // tasks of pack_recurrent_backward, of the hidden size
  int64_t (*outer_tasks)(const MaskedLstmBackwardParams<T>&);

  // Both passes: the keep bits of W_hh, a task for each of its rows.
  void (*mark_keep_bits)(const MaskedLstmParams<T>&, int64_t begin, int64_t end);

  // Forward, for the steps [from, to).
  void (*pack_recurrent)(const MaskedLstmParams<T>&, int64_t begin, int64_t end);
  void (*project)(const MaskedLstmParams<T>&, int64_t from, int64_t to, int64_t begin, int64_t end, T* scratch);
  void (*recur)(const MaskedLstmParams<T>&, int64_t from, int64_t to, int64_t begin, int64_t end, T* scratch);

  // Backward, for the steps [from, to), last first.
  void (*pack_recurrent_backward)(const MaskedLstmBackwardParams<T>&, int64_t begin, int64_t end);
  void (*backward_steps)(const MaskedLstmBackwardParams<T>&, int64_t from, int64_t to, int64_t begin, int64_t end,
                         T* scratch);
  void (*outer)(const MaskedLstmBackwardParams<T>&, int64_t from, int64_t to, int64_t begin, int64_t end, T* scratch);
  void (*finish_gradient)(const MaskedGradientParams<T>&, int64_t begin, int64_t end);

  // One Adam step of a range of scores; returns how many are > 0 after it.
  int64_t (*score_adam)(const ScoreAdamParams<T>&, int64_t begin, int64_t end);

  // The training engine: ranges of scores and the small layers, each in one thread.
  void (*update_scores)(const ScoreUpdate<T>&);
  void (*replay_steps)(const ReplayParams<T>&);
  bool (*closed_form_steps)(
      const ClosedFormParams<T>&);  // returns false and does nothing where the rule is not accurate
  bool (*effective)(const T* weight, const T* score, T* out,
                    int64_t size);  // masks a weight; returns false if all of `out` is 0
  void (*add)(const T* from, T* to, int64_t size);
  bool (*all_finite)(const T* values, int64_t size);
  // Keep bits in the order of numpy.packbits; returns how many are set.
  int64_t (*pack_keep_bits)(const T* score, int64_t size, uint8_t* bits);
  void (*linear)(const LinearParams<T>&);
  void (*linear_gradient)(const LinearGradientParams<T>&);
};

struct Isa {
  const char* name;
  bool (*supported)();
  CpuKernels<float> f32;
  CpuKernels<double> f64;
};

extern const Isa kPortable, kAvx2, kAvx512;

// The instruction set in use. Never null.
const Isa& isa();
bool set_isa(const char* name);            // false if the name is unknown or this CPU lacks it
int supported_isas(const Isa* (&out)[3]);  // best first; returns how many

template <typename T>
const CpuKernels<T>& cpu_kernels();
template <>
inline const CpuKernels<float>& cpu_kernels<float>() {
  return isa().f32;
}
template <>
inline const CpuKernels<double>& cpu_kernels<double>() {
  return isa().f64;
}

}  // namespace seam

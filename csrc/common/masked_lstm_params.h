// The masked LSTM op as its kernels see it: sizes, strides in elements, raw pointers. One direction of one layer.
//
// Sequences are worked on longest first, so that those still running at a step are a prefix, as in torch's
// PackedSequence. A *packed row*, short "row", is one sequence at one of its steps. Rows are numbered step by step: row
// = first_row[step] + rank, where rank is the sequence's index in the order of lengths. Steps count in reading order:
// for the reverse direction step 0 reads the last real position.
#pragma once

#include "inline.h"

namespace seam {

constexpr int64_t kGates = 4;  // i, f, g, o

struct TimeIndex {  // of a row: its time and its sequence in the caller's tensors
  int32_t time, sequence;
};

template <typename T>
struct StridedView {  // a (T, B, width) tensor of any strides, but stride 1 along the width
  T* data = nullptr;
  int64_t time_stride = 0, sequence_stride = 0;
  SEAM_INLINE T* at(TimeIndex i) const { return data + i.time * time_stride + i.sequence * sequence_stride; }
};

template <typename T>
struct Masked {  // a weight (rows, columns), contiguous, and its score, or null if it is not masked
  const T* weight = nullptr;
  const T* score = nullptr;
  // In place of the score, for a weight that is read many times: bit k of row q is set where the score is positive.
  uint8_t* keep_bits = nullptr;
  int64_t keep_bits_stride = 0;  // bytes per row of the weight
};

template <typename T>
struct MaskedLstmParams {
  int64_t input_size, hidden_size;
  const int64_t*
      first_row;  // [steps of the longest sequence + 1]; first_row[s + 1] - first_row[s] sequences have step s
  const int64_t* sequence;      // [batch] of each rank
  const TimeIndex* time_index;  // [rows]

  StridedView<const T> input;      // width I
  StridedView<T> output;           // width H; the backward pass only reads it
  const T *h_0, *c_0;              // [batch, H] by sequence, or null for zeros
  Masked<T> weight_ih, weight_hh;  // [4H, I], [4H, H]
  Masked<T> bias_ih, bias_hh;      // [4H], or null weights

  // Activated gates i, f, g, o, [rows, 4H], and cell states, [rows, H]. When nothing is saved, `gates` holds only the
  // rows from `gates_from` on, and `cells` one state per rank, [batch, H].
  T *gates, *cells;
  int64_t gates_from;
  bool save;
  // W_ih x + b of each distinct input, [.., 4H], and the index of each row's; null: `gates` holds it for each row
  // already.
  const T* projected;
  const int32_t* projected_row;
  T* packed_hh;  // the first `packed` blocks of W_hh, packed once; the others are packed again at each step
  int64_t packed;
  const T* zeros;  // [max(H, I)]
  T *h_n, *c_n;    // [batch, H] by sequence
};

template <typename T>
struct MaskedLstmBackwardParams : MaskedLstmParams<T> {
  StridedView<const T> grad_output;  // data null: zero
  StridedView<T> grad_input;         // data null: not wanted
  bool add_to_grad_input;            // the other direction has already written it
  bool need_h_0;                     // form the gradient of h_0, too
  T *d_h, *d_c;                      // [batch, H] by rank: in, gradients of h_n and c_n; out, of h_0 and c_0
  T* d_gates;  // before activation, [rows, 4H] from row d_gates_from on; may be `gates` themselves
  int64_t d_gates_from;
  // Sums over all rows of d_gates times input, hidden state and 1: gradients of the effective weights. Null: not
  // wanted.
  T *sum_ih, *sum_hh, *sum_bias;
};

// The last step of a weight's gradient, element by element. A result may be null: not wanted. `sum` may be the memory
// of either result.
template <typename T>
struct MaskedGradientParams {
  int64_t size;
  const T *sum, *weight, *score;
  T *grad_weight, *grad_score;
  bool clamp;  // the score's gradient to [-1, 1]
};

}  // namespace seam

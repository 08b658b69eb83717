// The masked LSTM op as its kernels see it: sizes, strides in elements, raw pointers. One direction of one layer.
//
// Sequences are worked on longest first, so that those still running at a step are a prefix. A *row* is one sequence at
// one of its steps; rows are numbered step by step, so row = first_row[step] + rank, where rank is the sequence's place
// in the order of lengths. Steps count in reading order: for the reverse direction step 0 reads the last real position.
#pragma once

#include "inline.h"

namespace seam {

constexpr int64_t kGates = 4;  // i, f, g, o

struct Place {  // where a row lies in the caller's tensors
  int32_t time, sequence;
};

template <typename T>
struct Rows {  // a (T, B, width) tensor of any strides but 1 within a row
  T* data = nullptr;
  int64_t time_stride = 0, sequence_stride = 0;
  SEAM_INLINE T* at(Place p) const { return data + p.time * time_stride + p.sequence * sequence_stride; }
};

template <typename T>
struct Masked {  // a weight (rows, columns), contiguous, and its score or null
  const T* weight = nullptr;
  const T* score = nullptr;
  // Instead of the score, for a weight that is read many times: bit k of row q is set where it is positive.
  uint8_t* kept = nullptr;
  int64_t kept_stride = 0;  // bytes a row
};

template <typename T>
struct MaskedLstmParams {
  int64_t input_size, hidden_size;
  const int64_t* first_row;  // [steps of the longest sequence + 1]; first_row[s + 1] - first_row[s] sequences have a step s
  const int64_t* sequence;   // [batch] of each rank
  const Place* place;        // [rows]

  Rows<const T> input;                  // width I
  Rows<T> output;                       // width H; the backward pass only reads it
  const T *h_0, *c_0;                   // [batch, H] by sequence, or null for zeros
  Masked<T> weight_ih, weight_hh;       // [4H, I], [4H, H]
  Masked<T> bias_ih, bias_hh;           // [4H], or null weights

  // Activated gates i, f, g, o, [rows, 4H], and cell states, [rows, H]. When nothing is saved, gates hold only the rows
  // from `gates_from` on and cells one state for each rank, [batch, H].
  T *gates, *cells;
  int64_t gates_from;
  bool save;
  // W_ih x + b of each distinct input, [.., 4H], and which one a row has; null: `gates` hold that of each row.
  const T* projected;
  const int32_t* projected_row;
  T* packed_hh;     // the first `packed` blocks of W_hh, packed once; the others are packed anew at each step
  int64_t packed;
  const T* zeros;   // [max(H, I)]
  T *h_n, *c_n;     // [batch, H] by sequence
};

template <typename T>
struct MaskedLstmBackwardParams : MaskedLstmParams<T> {
  Rows<const T> grad_output;  // data null: zero
  Rows<T> grad_input;         // data null: not wanted
  bool add_to_grad_input;     // the other direction has written it
  bool need_h_0;              // the products of step 0 are wanted
  T *d_h, *d_c;               // [batch, H] by rank: in, gradients of h_n and c_n; out, of h_0 and c_0
  T* d_gates;                 // before activation, [rows, 4H] from row d_gates_from on; may be `gates` themselves
  int64_t d_gates_from;
  // Sums over all rows of d_gates times input, hidden state and 1: gradients of the effective weights. Null: not wanted.
  T *sum_ih, *sum_hh, *sum_bias;
};

// What the sums become in the end, element by element: each may be null. `sum` may be the same memory as either result.
template <typename T>
struct MaskedGradientParams {
  int64_t size;
  const T *sum, *weight, *score;
  T *grad_weight, *grad_score;
  bool clamp;  // the score's to [-1, 1]
};

}  // namespace seam

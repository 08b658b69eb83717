// The parameters of the CUDA kernels: sizes, strides in elements, pointers. Without torch and CUDA, so that host and
// kernels can include it.
//
// A *row* is one sequence at one of its steps. Steps count in reading order: for the reverse direction step 0 reads a
// sequence's last real position. A sequence's *rank* is its index in the order of lengths, longest first, so that those
// still running at a step are the first ones; without lengths rank and sequence are the same.
#pragma once

#include "common/masked_lstm_params.h"
#include "real.cuh"

namespace seam::gpu {

// ---- Weights --------------------------------------------------------------------------------------------------------

enum class Kind : int32_t { float32, float64, bfloat16, float16 };

// A weight and its score, contiguous and of one kind, which may be wider than that of the input (autocast). A null
// weight: there is none; a null score: it is not masked.
struct MaskedNumbers {
  const void *weight = nullptr, *score = nullptr;
  Kind kind = Kind::float32;
};

// ---- Sequences ------------------------------------------------------------------------------------------------------

struct Sequences {
  int64_t steps, batch;  // T, B
  bool reverse;
  const int32_t *order = nullptr, *length = nullptr;  // [B] sequence and length of each rank; null: all T long
};

// ---- The recurrence -------------------------------------------------------------------------------------------------

// The memory through which blocks that share the units of a large layer exchange the data of a step, see
// recurrent_grid.cuh. Null if it is not needed.
struct Exchange {
  uint32_t* words = nullptr;
  int32_t* flags = nullptr;  // one for each block of each tile; initially zero
};
// `numbers`: per unit, 1 forward and 4 backward.
struct ExchangeSize {
  int64_t words, flags;

  static constexpr int64_t kSequences = 16, kUnits = 16;  // sequences of a tile, units of a block
  static constexpr int64_t rounded(int64_t hidden) { return hidden <= 768 ? 768 : 1024; }
  static constexpr int64_t words_of_tile(int64_t rounded, int64_t numbers) {
    return 2 * rounded * numbers * kSequences / 2;
  }
  static constexpr ExchangeSize of(int64_t hidden, int64_t batch, int64_t numbers) {
    const int64_t tiles = (batch + kSequences - 1) / kSequences;
    return {tiles * words_of_tile(rounded(hidden), numbers), tiles * ((hidden + kUnits - 1) / kUnits)};
  }
};

template <class T>
struct ForwardParams {
  Sequences sequences;
  int64_t hidden;                             // H
  MaskedNumbers weight_hh, bias_ih, bias_hh;  // (4H, H), of the kind of T; (4H), (4H)
  const T *h_0, *c_0;                         // (B, H) by sequence, or null for zeros
  StridedView<T> gates;        // (T, B, 4H): W_ih x; overwritten by the activated gates if `cells` are saved
  StridedView<Wide<T>> cells;  // (T, B, H); null data: nothing is saved
  StridedView<T> output;       // (T, B, H)
  T *h_n, *c_n;                // (B, H) by sequence
  Exchange exchange;
};

template <class T>
struct BackwardParams {
  Sequences sequences;
  int64_t hidden;
  MaskedNumbers weight_hh;  // of the kind of T
  const T* c_0;
  StridedView<const T> gates;
  StridedView<const Wide<T>> cells;
  StridedView<const T> grad_output;  // null data: zero
  const T *grad_h_n, *grad_c_n;      // (B, H) by sequence, or null for zeros
  StridedView<T> d_gates;            // (T, B, 4H), before activation; may be `gates` themselves
  T *grad_h_0, *grad_c_0;            // (B, H) by sequence, or null: not wanted
  Exchange exchange;
};

// ---- One step of it, between products of the whole batch ------------------------------------------------------------

template <class T>
struct ForwardStepParams : ForwardParams<T> {
  int64_t step, running;  // running: how many sequences, by rank
  const Wide<T>* bias;    // (4H), effective; null: none
  const T* product;       // (running, 4H): W_hh h
  T* h;                   // (B, H) by rank: the state that the next product reads
  Wide<T>* c;             // (B, H) by rank
};

template <class T>
struct BackwardStepParams : BackwardParams<T> {
  int64_t step, running;
  const T* product;  // (running, H): the gradient of h from step + 1; rows of sequences that end at `step` are not read
  Wide<T>* d_c;      // (B, H) by rank
  T* d_step;         // (running, 4H): d_gates of this step, for the next product
};

// ---- Products over all rows -----------------------------------------------------------------------------------------

// Where the gradient of a weight goes, whose sum over all rows has been formed.
struct Gradient {
  MaskedNumbers masked;
  void *grad_weight = nullptr, *grad_score = nullptr;  // of the kind of weight and score; null: not wanted
  bool clamp = true;                                   // the score's to [-1, 1]

  SEAM_INLINE bool wanted() const { return grad_weight || grad_score; }
};

// input (T, B, I) times W_ih, masked while it is loaded: gates (T, B, 4H).
template <class T>
struct ProjectionParams {
  Sequences sequences;
  int64_t input_size, hidden;
  StridedView<const T> input;
  MaskedNumbers weight_ih;
  StridedView<T> gates;
};

// d_gates (T, B, 4H) times everything: the gradients of input and weights.
template <class T>
struct GradientParams {
  Sequences sequences;
  int64_t input_size, hidden;
  StridedView<const T> d_gates, input, output;
  const T* h_0;
  MaskedNumbers weight_ih;
  StridedView<T> grad_input;  // null data: not wanted
  bool add_to_grad_input;     // the other direction has written it
  Gradient ih, hh, bias_ih, bias_hh;
};

// Turns sums into gradients: those of a block of a weight, rows of `width` of its `columns` numbers, whose sums a
// matrix library has formed; or those of a bias, `size` numbers, whose sums still are in `parts`.
template <class T>
struct FinishParams {
  int64_t size, width, columns;
  const Wide<T>* sum;     // rows `stride` apart; may be the memory of the gradient
  int64_t stride, parts;  // parts are `size` apart
  int64_t first;          // index of the block's first number in the gradient
  Gradient gradient;
  Gradient other = {};  // of another weight with the same sums, if wanted
};

template <class T>
struct ColumnSumsParams {
  int64_t rows, columns, rows_of_part;
  const T* from;   // (rows, columns)
  Wide<T>* parts;  // (parts, columns): sums over rows_of_part rows each
};

// ---- Small work -----------------------------------------------------------------------------------------------------

struct OrderParams {  // lengths (B,) -> order and length by rank
  int64_t steps, batch;
  const int64_t* lengths;
  int32_t *order, *length;
};

template <class To>
struct EffectiveParams {  // the weight where its score is positive, else 0
  int64_t size;
  MaskedNumbers from, and_from;  // if there is a second one, the sum of both
  To* to;
};

template <class T>
struct PaddingParams {  // zeros where sequences have ended
  Sequences sequences;
  int64_t width;
  StridedView<T> rows;
};

// Copies the operand of a weight's gradient, from column `first` on: the input, or the hidden states before each step;
// zeros where sequences have ended.
template <class T>
struct CopyRowsParams {
  Sequences sequences;
  int64_t first, width;
  StridedView<const T> from;
  bool before;   // each step gets the row of the previous one, the first that of `h_0`
  const T* h_0;  // (B, H) by sequence, or null for zeros
  int64_t hidden;
  StridedView<T> to;  // (T, B, width)
};

}  // namespace seam::gpu

// The ops as Python calls them: tensors in, tensors out. Those of the layer go by the device of `input`
// (bindings/device_dispatch.cpp).
#pragma once

#include <tuple>
#include <vector>

#include "checks.h"

namespace seam {

// ---- The masked LSTM layer ------------------------------------------------------------------------------------------

// The tensors of one call, one layer of D = 1 or 2 directions; by reference, so they must outlive the call.
struct LayerArguments {
  const Tensor& input;                 // (T, B, I)
  const OptionalTensor &h_0, &c_0;     // (D, B, H), or none for zeros
  const std::vector<Tensor>& weights;  // per direction weight_ih (4H, I), weight_hh (4H, H) and, if it has biases,
                                       // bias_ih, bias_hh (4H)
  const std::vector<OptionalTensor>& scores;  // of the same shapes, or none: the weight is not masked
  const OptionalTensor& lengths;              // (B,) int64, or none: all sequences have T steps
};

struct LayerOutputs {
  Tensor output;    // (T, B, D H)
  Tensor h_n, c_n;  // (D, B, H)
  Tensor saved;     // 1-D: what the backward pass needs, in a layout of the device's kernels; empty if nothing is saved
};

// What the backward pass gets besides the arguments of the forward pass; by reference, too.
struct LayerBackwardArguments {
  LayerArguments forward;
  const OptionalTensor &grad_output, &grad_h_n, &grad_c_n;  // none: zero
  const Tensor &output, &saved;                             // results of the forward pass
  bool overwrite_saved;  // `saved` may be used as scratch, since nobody asks for these gradients again: saves memory
                         // and time
  bool clamp;            // gradients of scores to [-1, 1]
};

// Which gradients are wanted.
struct GradientsNeeded {
  bool input, h_0, c_0;
  const std::vector<bool>&weights, &scores;
};

// Those that are wanted are there. Score: dW_eff * W after the sum over time and batch; weight: dW_eff where the score
// is positive, else 0.
struct LayerGradients {
  OptionalTensor input, h_0, c_0;
  std::vector<OptionalTensor> weights, scores;
};

// `batch_first_output`: the output's memory is that of a (B, T, D H) tensor. `save`: for the backward pass.
LayerOutputs masked_lstm_forward(const LayerArguments& arguments, bool batch_first_output, bool save);
LayerGradients masked_lstm_backward(const LayerBackwardArguments& arguments, const GradientsNeeded& needed);

// The layer as a node of autograd's graph, where gradients are wanted. Returns output, h_n, c_n.
std::tuple<Tensor, Tensor, Tensor> masked_lstm_layer(const LayerArguments& arguments, bool batch_first_output,
                                                     bool clamp);

// The same under the transforms of torch.func, where any tensor may be a wrapper.
std::tuple<Tensor, Tensor, Tensor> masked_lstm_layer_transformed(const LayerArguments& arguments, bool clamp);

// ---- Scores ---------------------------------------------------------------------------------------------------------

// Of one step of Adam.
struct AdamOptions {
  double lr, beta1, beta2, eps;
  int64_t step;    // the number of this step, from 1
  double penalty;  // constant gradient, added after the clamp
};

// One step of Adam on a tensor of scores on the CPU, in place; returns how many are > 0 after it. See score_update.h.
// `effective`, if given with `weight`, is set to the weight where the score is > 0 after the step, else to 0.
int64_t score_adam(const Tensor& score, const OptionalTensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                   const OptionalTensor& weight, const OptionalTensor& effective, const AdamOptions& options);

// Of scores (contiguous, float32 or float64, on the CPU): their keep bits, set where > 0, in the order of
// numpy.packbits (the first score is the highest bit of the first byte); how many are set; whether all scores are
// finite.
std::tuple<Tensor, int64_t, bool> pack_keep_bits(const Tensor& scores);

// ---- A classifier without masks -------------------------------------------------------------------------------------

// Logits (N, C) of a classifier of one LSTM layer in one direction. weights: embedding (V, E), weight_ih (4H, E),
// weight_hh (4H, H), bias_ih, bias_hh (4H,), linear weight (C, H), linear bias (C,), on the CPU; ids (N, T) int64,
// lengths (N,) int64, 1 to T. read_last_word: the hidden state after the last real word is read, else that after the
// last position. projected: what project_words gives for these weights, or none; the result has the same bits with it,
// sooner.
Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths, bool read_last_word,
                    const OptionalTensor& projected);

// W_ih x + b_ih + b_hh of the embedding x of every word: (V, 4H). weights: as in class_logits. Runs in one thread.
Tensor project_words(const std::vector<Tensor>& weights);

}  // namespace seam

// The ops as Python calls them: tensors in, tensors out.
#pragma once

#include <tuple>
#include <vector>

#include "checks.h"

namespace seam {

// One layer, D = 1 or 2 directions. input (T, B, I); h_0, c_0 (D, B, H) or none for zeros; weights: for each direction
// weight_ih (4H, I), weight_hh (4H, H) and perhaps bias_ih, bias_hh (4H); scores: of the same shapes, or none; lengths
// (B,) int64, or none: all T. Returns output (T, B, D H), h_n, c_n (D, B, H) and, where `save`, what the backward pass
// needs (1-D, private). `batch_first_output`: output's memory is that of a (B, T, D H) tensor.
std::tuple<Tensor, Tensor, Tensor, Tensor> masked_lstm_forward(const Tensor& input, const OptionalTensor& h_0,
                                                               const OptionalTensor& c_0,
                                                               const std::vector<Tensor>& weights,
                                                               const std::vector<OptionalTensor>& scores,
                                                               const OptionalTensor& lengths, bool batch_first_output,
                                                               bool save);

// Gradients of input, h_0, c_0, the weights and the scores, where needed. Score: dW_eff * W after the sum over time and
// batch, clamped to [-1, 1] if `clamp`; weight: dW_eff where kept, else 0. `overwrite_saved`: saved may be used as scratch, since nobody
// will ask for these gradients again; spares memory and time.
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, std::vector<OptionalTensor>, std::vector<OptionalTensor>>
masked_lstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                     const Tensor& input, const Tensor& output, const OptionalTensor& h_0, const OptionalTensor& c_0,
                     const Tensor& saved, const std::vector<Tensor>& weights,
                     const std::vector<OptionalTensor>& scores, const OptionalTensor& lengths, bool need_input,
                     bool need_h_0, bool need_c_0, const std::vector<bool>& need_weights,
                     const std::vector<bool>& need_scores, bool overwrite_saved, bool clamp);

// The layer with its place in autograd's graph, where gradients are wanted.
std::tuple<Tensor, Tensor, Tensor> masked_lstm_layer(const Tensor& input, const OptionalTensor& h_0,
                                                     const OptionalTensor& c_0, const std::vector<Tensor>& weights,
                                                     const std::vector<OptionalTensor>& scores,
                                                     const OptionalTensor& lengths, bool batch_first_output, bool clamp);

// The same under the transforms of torch.func, of which any tensor may be a wrapper.
std::tuple<Tensor, Tensor, Tensor> masked_lstm_layer_transformed(const Tensor& input, const OptionalTensor& h_0,
                                                                 const OptionalTensor& c_0,
                                                                 const std::vector<Tensor>& weights,
                                                                 const std::vector<OptionalTensor>& scores,
                                                                 const OptionalTensor& lengths, bool clamp);

// On the CPU, into tensors that are there already; output has width D H in its last dimension, contiguous.
void masked_lstm_forward_into(const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0,
                              const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& scores,
                              const OptionalTensor& lengths, bool save, const Tensor& output, const Tensor& h_n,
                              const Tensor& c_n, const Tensor& saved);

// Those that are wanted are there.
struct LstmGradients {
  OptionalTensor input, h_0, c_0;
  std::vector<OptionalTensor> weights, scores;  // of weights and of scores whose weight's are not wanted: all zero
};
void masked_lstm_backward_into(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                               const OptionalTensor& grad_c_n, const Tensor& input, const Tensor& output,
                               const OptionalTensor& h_0, const OptionalTensor& c_0, const Tensor& saved,
                               const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& scores,
                               const OptionalTensor& lengths, const LstmGradients& grads, bool overwrite_saved,
                               bool clamp);

// One step of Adam on a tensor of scores, in place; returns how many are > 0 after it. See score_update.h.
int64_t score_adam(const Tensor& score, const OptionalTensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                   const OptionalTensor& weight, const OptionalTensor& effective, double lr, double beta1, double beta2,
                   double eps, int64_t step, double penalty);

// What a classifier of one layer in one direction says. weights: embedding (V, E), weight_ih (4H, E), weight_hh (4H, H),
// bias_ih, bias_hh (4H,), linear weight (C, H), linear bias (C,), on the CPU; ids (N, T) int64, lengths (N,) int64, 1 to T;
// read_last_word: at the last real word, without padding, else after the last position. Returns logits (N, C).
// projected: what project_words gives for these weights, or none; the result has the same bits with it, sooner.
Tensor class_logits(const std::vector<Tensor>& weights, const Tensor& ids, const Tensor& lengths, bool read_last_word,
                    const OptionalTensor& projected);

// W_ih x + b_ih + b_hh of the embedding x of every word: (V, 4H). weights: as in class_logits. By one thread.
Tensor project_words(const std::vector<Tensor>& weights);

// Of scores (contiguous, float32 or float64, on the CPU): a bit each, set where > 0, eight a byte, the first the highest;
// how many are set; whether all scores are finite.
std::tuple<Tensor, int64_t, bool> pack_kept(const Tensor& scores);

}  // namespace seam

// The masked LSTM op on the CPU: as in host/ops.h, for tensors there, of float32 or float64.
#pragma once

#include "host/ops.h"
#include "host/transforms.h"

namespace seam::cpu {

LayerOutputs masked_lstm_forward(const LayerArguments& arguments, bool batch_first_output, bool save);
LayerGradients masked_lstm_backward(const LayerBackwardArguments& arguments, const GradientsNeeded& needed);

// Into tensors that are there already; the output's width D H is its last dimension, contiguous.
void masked_lstm_forward_into(const LayerArguments& arguments, bool save, const LayerOutputs& to);
// The gradients that are there are those that are wanted: of weights, and of scores where their weight's is not wanted,
// they must be all zero.
void masked_lstm_backward_into(const LayerBackwardArguments& arguments, const LayerGradients& grads);

// Several calls (see host/transforms.h), each by one thread.
variable_list forward_calls(const Calls& calls, const variable_list& tensors);
variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors);

}  // namespace seam::cpu

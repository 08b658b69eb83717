// What is chosen by the device that tensors are on: the one place that knows both the CPU's and the GPU's code.
#include "cpu/masked_lstm_cpu.h"
#include "cpu/seam_trainer_cpu.h"
#include "host/ops.h"
#include "host/seam_trainer.h"
#include "host/transforms.h"
#ifdef SEAM_WITH_CUDA
#include "cuda/masked_lstm_cuda.h"
#include "cuda/seam_trainer_cuda.h"
#include "cuda/vmap_calls_cuda.h"
#endif

namespace seam {

LayerOutputs masked_lstm_forward(const LayerArguments& arguments, bool batch_first_output, bool save) {
#ifdef SEAM_WITH_CUDA
  if (arguments.input.is_cuda()) return gpu::masked_lstm_forward(arguments, batch_first_output, save);
#endif
  return cpu::masked_lstm_forward(arguments, batch_first_output, save);
}

LayerGradients masked_lstm_backward(const LayerBackwardArguments& arguments, const GradientsNeeded& needed) {
#ifdef SEAM_WITH_CUDA
  if (arguments.forward.input.is_cuda()) return gpu::masked_lstm_backward(arguments, needed);
#endif
  return cpu::masked_lstm_backward(arguments, needed);
}

variable_list forward_calls(const Calls& calls, const variable_list& tensors) {
#ifdef SEAM_WITH_CUDA
  if (calls.several() && tensors[kInput].is_cuda()) return gpu::forward_calls(calls, tensors);
#endif
  if (calls.several() && tensors[kInput].is_cpu()) return cpu::forward_calls(calls, tensors);
  CallObserver nobody;
  return forward_one_by_one(calls, tensors, nobody);
}

variable_list backward_calls(const Calls& calls, const std::vector<bool>& needs, const variable_list& tensors) {
#ifdef SEAM_WITH_CUDA
  if (calls.several() && tensors[kGrads + kInput].is_cuda()) return gpu::backward_calls(calls, needs, tensors);
#endif
  if (calls.several() && tensors[kGrads + kInput].is_cpu()) return cpu::backward_calls(calls, needs, tensors);
  CallObserver nobody;
  return backward_one_by_one(calls, needs, tensors, nobody);
}

std::shared_ptr<SeamTrainer> SeamTrainer::make(SeamTrainerTensors tensors, const SeamTrainerOptions& options) {
#ifdef SEAM_WITH_CUDA
  if (!tensors.weights.empty() && tensors.weights[0].is_cuda()) return gpu::make_trainer(std::move(tensors), options);
#endif
  return cpu::make_trainer(std::move(tensors), options);
}

}  // namespace seam

// The masked LSTM layer's Python face: arguments one by one there, as structs here.
#pragma once

#include <torch/extension.h>

#include <tuple>
#include <vector>

#include "host/ops.h"

namespace seam {

inline void bind_masked_lstm(pybind11::module_& m) {
  namespace py = pybind11;
  using py::arg;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  using Weights = std::vector<Tensor>;
  using Scores = std::vector<OptionalTensor>;
  m.def(
      "masked_lstm_forward",
      [](const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0, const Weights& weights,
         const Scores& scores, const OptionalTensor& lengths, bool batch_first_output, bool save) {
        auto [output, h_n, c_n, saved] =
            masked_lstm_forward({input, h_0, c_0, weights, scores, lengths}, batch_first_output, save);
        return std::tuple(output, h_n, c_n, saved);
      },
      arg("input"), arg("h_0"), arg("c_0"), arg("weights"), arg("scores"), arg("lengths"), arg("batch_first_output"),
      arg("save"), NoGil(), "See csrc/host/ops.h.");
  m.def(
      "masked_lstm_layer",
      [](const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0, const Weights& weights,
         const Scores& scores, const OptionalTensor& lengths, bool batch_first_output, bool clamp) {
        return masked_lstm_layer({input, h_0, c_0, weights, scores, lengths}, batch_first_output, clamp);
      },
      arg("input"), arg("h_0"), arg("c_0"), arg("weights"), arg("scores"), arg("lengths"), arg("batch_first_output"),
      arg("clamp") = true, NoGil(), "See csrc/host/ops.h.");
  m.def(
      "masked_lstm_layer_transformed",
      [](const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0, const Weights& weights,
         const Scores& scores, const OptionalTensor& lengths,
         bool clamp) { return masked_lstm_layer_transformed({input, h_0, c_0, weights, scores, lengths}, clamp); },
      arg("input"), arg("h_0"), arg("c_0"), arg("weights"), arg("scores"), arg("lengths"), arg("clamp") = true, NoGil(),
      "See csrc/host/ops.h.");
  m.def(
      "masked_lstm_backward",
      [](const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
         const Tensor& input, const Tensor& output, const OptionalTensor& h_0, const OptionalTensor& c_0,
         const Tensor& saved, const Weights& weights, const Scores& scores, const OptionalTensor& lengths,
         bool need_input, bool need_h_0, bool need_c_0, const std::vector<bool>& need_weights,
         const std::vector<bool>& need_scores, bool overwrite_saved, bool clamp) {
        LayerGradients grads = masked_lstm_backward({{input, h_0, c_0, weights, scores, lengths},
                                                     grad_output,
                                                     grad_h_n,
                                                     grad_c_n,
                                                     output,
                                                     saved,
                                                     overwrite_saved,
                                                     clamp},
                                                    {need_input, need_h_0, need_c_0, need_weights, need_scores});
        return std::tuple(grads.input, grads.h_0, grads.c_0, grads.weights, grads.scores);
      },
      arg("grad_output"), arg("grad_h_n"), arg("grad_c_n"), arg("input"), arg("output"), arg("h_0"), arg("c_0"),
      arg("saved"), arg("weights"), arg("scores"), arg("lengths"), arg("need_input"), arg("need_h_0"), arg("need_c_0"),
      arg("need_weights"), arg("need_scores"), arg("overwrite_saved") = false, arg("clamp") = true, NoGil(),
      "See csrc/host/ops.h.");
}

}  // namespace seam

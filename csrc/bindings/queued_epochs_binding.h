// Python bindings of cuda/queued_epochs.h.
#pragma once

#include <torch/extension.h>

#include <memory>
#include <tuple>
#include <vector>

#include "cuda/queued_epochs.h"

namespace seam::gpu {

// Local to the module, as in trainer_binding.h.
inline void bind_queued_epochs(pybind11::module_& m) {
  namespace py = pybind11;
  using py::arg;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  // An epoch: the arguments of SeamTrainer.run.
  using Epoch = std::tuple<std::shared_ptr<DrawnDocuments>, std::vector<uint64_t>, double, double, int64_t, bool,
                           OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor>;
  py::class_<QueuedEpochs>(m, "QueuedEpochs", py::module_local(), "See csrc/cuda/queued_epochs.h.")
      .def(
          py::init([](std::vector<std::shared_ptr<SeamTrainer>> trainers, const std::vector<Epoch>& epochs,
                      int64_t threads) {
            std::vector<EpochRequest> all;
            for (const auto& [documents, keys, lr_mask, lr_head, batch, head_only, ids, score_rows, lengths, is_target,
                              logits] : epochs) {
              all.push_back(
                  {documents, keys, lr_mask, lr_head, batch, head_only, {ids, score_rows, lengths, is_target, logits}});
            }
            const py::gil_scoped_release no_gil;
            return std::make_unique<QueuedEpochs>(std::move(trainers), std::move(all), threads);
          }),
          arg("trainers"), arg("epochs"), arg("threads"))
      .def("take", &QueuedEpochs::take, NoGil());
}

}  // namespace seam::gpu

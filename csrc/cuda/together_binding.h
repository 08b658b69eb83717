// The Python face of together.h.
#pragma once

#include <torch/extension.h>

#include <memory>
#include <tuple>
#include <vector>

#include "together.h"

namespace seam::gpu {

// Local to the module, as in ../trainer_binding.h.
inline void bind_together(pybind11::module_& m) {
  namespace py = pybind11;
  using py::arg;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<EpochFound>(m, "EpochFound", py::module_local())
      .def_readonly("losses", &EpochFound::losses)
      .def_readonly("failure", &EpochFound::failure)
      .def_readonly("look", &EpochFound::look);
  // An epoch: its six arguments of SeamTrainer.epoch, then the documents to be looked at or None.
  using Documents = std::optional<std::tuple<Tensor, Tensor, Tensor>>;
  using Epoch = std::tuple<double, double, Tensor, Tensor, Tensor, int64_t, Documents>;
  py::class_<QueuedEpochs>(m, "QueuedEpochs", py::module_local(), "See csrc/cuda/together.h.")
      .def(py::init([](std::vector<std::shared_ptr<SeamTrainer>> trainers, const std::vector<Epoch>& epochs, int64_t threads) {
             std::vector<EpochOf> all;
             for (const auto& [lr_mask, lr_head, slots, lengths, shares, batch, documents] : epochs) {
               all.push_back({lr_mask, lr_head, slots, lengths, shares, batch, std::nullopt, std::nullopt, std::nullopt});
               if (documents) std::tie(all.back().ids, all.back().id_slots, all.back().id_lengths) = *documents;
             }
             const py::gil_scoped_release no_gil;
             return std::make_unique<QueuedEpochs>(std::move(trainers), std::move(all), threads);
           }),
           arg("trainers"), arg("epochs"), arg("threads"))
      .def("take", &QueuedEpochs::take, NoGil());
}

}  // namespace seam::gpu

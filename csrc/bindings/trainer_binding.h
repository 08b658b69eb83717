// The trainer's Python face.
#pragma once

#include <torch/extension.h>

#include <string>
#include <vector>

#include "host/drawn_documents.h"
#include "host/seam_trainer.h"

namespace seam {

using MakeTrainer = std::shared_ptr<SeamTrainer> (*)(SeamTrainerTensors, const SeamTrainerOptions&);

// Local to the module, since the CUDA one of the tests has the same types.
inline void bind_trainer(pybind11::module_& m, MakeTrainer make) {
  namespace py = pybind11;
  using py::arg;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<SeamTrainer, std::shared_ptr<SeamTrainer>>(m, "SeamTrainer", py::module_local(), "See csrc/seam_trainer.h.")
      .def(py::init([make](std::vector<Tensor> weights, Tensor rows, std::vector<Tensor> scores,
                           std::vector<Tensor> exp_avg, std::vector<Tensor> exp_avg_sq, std::vector<Tensor> head,
                           std::vector<Tensor> head_together, std::vector<Tensor> head_alone,
                           std::vector<double> penalty, bool train_head, bool read_last_word, double target_weight,
                           std::string catch_up) {
             return make({weights, rows, scores, exp_avg, exp_avg_sq, head, head_together, head_alone},
                         {penalty, train_head, read_last_word, target_weight, catch_up});
           }),
           arg("weights"), arg("rows"), arg("scores"), arg("exp_avg"), arg("exp_avg_sq"), arg("head"),
           arg("head_together"), arg("head_alone"), arg("penalty"), arg("train_head"), arg("read_last_word"),
           arg("target_weight"), arg("catch_up"))
      .def("begin_epoch", &SeamTrainer::begin_epoch, arg("lr_mask"), arg("lr_head"), arg("steps"), NoGil())
      .def("train", &SeamTrainer::train, arg("slots"), arg("lengths"), arg("shares"), arg("batch"), arg("begin"),
           arg("end"), NoGil())
      .def("epoch", &SeamTrainer::epoch, arg("lr_mask"), arg("lr_head"), arg("slots"), arg("lengths"), arg("shares"),
           arg("batch"), NoGil())
      .def("run",
           [](SeamTrainer& trainer, const DrawnDocuments& documents, const std::vector<uint64_t>& keys, double lr_mask,
              double lr_head, int64_t batch, bool head_only, const OptionalTensor& ids, const OptionalTensor& slots,
              const OptionalTensor& lengths, const OptionalTensor& is_target, const OptionalTensor& logits) {
             return trainer.run(documents, keys, lr_mask, lr_head, batch, head_only,
                                {ids, slots, lengths, is_target, logits});
           },
           arg("documents"), arg("keys"), arg("lr_mask"), arg("lr_head"), arg("batch"), arg("head_only"), arg("ids"),
           arg("slots"), arg("lengths"), arg("is_target"), arg("logits"), NoGil())
      .def("train_head", &SeamTrainer::train_head, arg("features"), arg("shares"), arg("batch"), arg("begin"),
           arg("end"), NoGil())
      .def("flush", &SeamTrainer::flush, NoGil())
      .def("adopt", &SeamTrainer::adopt, arg("steps"), arg("head_steps"), NoGil())
      .def("class_logits", &SeamTrainer::class_logits, arg("ids"), arg("slots"), arg("lengths"), NoGil())
      .def("look", &SeamTrainer::look, arg("ids"), arg("slots"), arg("lengths"), NoGil())
      .def_property_readonly("steps", &SeamTrainer::steps);
  py::class_<SeamLook>(m, "SeamLook", py::module_local())
      .def_readonly("finite", &SeamLook::finite)
      .def_readonly("kept", &SeamLook::kept)
      .def_readonly("bits", &SeamLook::bits)
      .def_readonly("head", &SeamLook::head)
      .def_readonly("logits", &SeamLook::logits)
      .def_readonly("outputs", &SeamLook::outputs);
  m.def("documents_to_train",
        [](const Tensor& slot, int64_t none, const Tensor& ids, const Tensor& lengths, const Tensor& labels,
           py::object dtype, bool read_last_word) {
          const at::ScalarType type = torch::python::detail::py_object_to_dtype(dtype);
          const py::gil_scoped_release no_gil;
          return documents_to_train(slot, none, ids, lengths, labels, type, read_last_word);
        },
        arg("slot"), arg("none"), arg("ids"), arg("lengths"), arg("labels"), arg("dtype"), arg("read_last_word"),
        "See csrc/seam_trainer.h.");
  py::class_<BinaryCounts>(m, "BinaryCounts", py::module_local())
      .def_readonly("documents", &BinaryCounts::documents)
      .def_readonly("targets", &BinaryCounts::targets)
      .def_readonly("predicted", &BinaryCounts::predicted)
      .def_readonly("true_positive", &BinaryCounts::true_positive)
      .def_readonly("average_precision", &BinaryCounts::average_precision);
  py::class_<SeamEpoch>(m, "SeamEpoch", py::module_local())
      .def_readonly("loss", &SeamEpoch::loss)
      .def_readonly("failure", &SeamEpoch::failure)
      .def_readonly("look", &SeamEpoch::look)
      .def_readonly("counts", &SeamEpoch::counts);
  m.def("binary_counts", &binary_counts, arg("outputs"), arg("is_target"), NoGil(), "See csrc/binary_figures.h.");
  py::class_<DrawnDocuments, std::shared_ptr<DrawnDocuments>>(m, "DrawnDocuments", py::module_local(), "See csrc/drawn_documents.h.")
      .def(py::init([](Tensor ids, Tensor lengths, Tensor rest, Tensor targets, Tensor others, int64_t some_targets,
                       int64_t some_others, int64_t unknown_id, uint64_t least, Tensor slot, int64_t absent,
                       py::object dtype, bool read_last_word, double distill, std::vector<int64_t> target) {
             return DrawnDocuments({ids, lengths, rest, targets, others, some_targets, some_others, unknown_id, least, slot,
                                    absent, torch::python::detail::py_object_to_dtype(dtype), read_last_word, distill,
                                    target});
           }),
           arg("ids"), arg("lengths"), arg("rest"), arg("targets"), arg("others"), arg("some_targets"),
           arg("some_others"), arg("unknown_id"), arg("least"), arg("slot"), arg("absent"), arg("dtype"),
           arg("read_last_word"), arg("distill"), arg("target"))
      .def("draw", [](const DrawnDocuments& documents, const std::vector<uint64_t>& keys) {
        const auto [ids, slots, lengths, labels, shares] = documents.draw(keys);
        return std::tuple(ids, slots, lengths, shares);
      }, arg("keys"), NoGil());
  py::class_<SeamFailure>(m, "SeamFailure", py::module_local())
      .def_readonly("what", &SeamFailure::what)
      .def_readonly("loss", &SeamFailure::loss);
}

}  // namespace seam

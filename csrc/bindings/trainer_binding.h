// Python bindings of the trainer, for the module and for the one that tests/cuda_host builds.
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
  py::class_<SeamTrainer, std::shared_ptr<SeamTrainer>>(m, "SeamTrainer", py::module_local(),
                                                        "See csrc/host/seam_trainer.h.")
      .def(py::init([make](std::vector<Tensor> weights, Tensor fed_ids, std::vector<Tensor> scores,
                           std::vector<Tensor> exp_avg, std::vector<Tensor> exp_avg_sq, std::vector<Tensor> head,
                           std::vector<Tensor> head_joint_moments, std::vector<Tensor> head_only_moments,
                           std::vector<double> penalty, bool train_head, bool read_last_word, double target_weight,
                           std::string lazy_update) {
             return make({weights, fed_ids, scores, exp_avg, exp_avg_sq, head, head_joint_moments, head_only_moments},
                         {penalty, train_head, read_last_word, target_weight, lazy_update});
           }),
           arg("weights"), arg("fed_ids"), arg("scores"), arg("exp_avg"), arg("exp_avg_sq"), arg("head"),
           arg("head_joint_moments"), arg("head_only_moments"), arg("penalty"), arg("train_head"),
           arg("read_last_word"), arg("target_weight"), arg("lazy_update"))
      .def("begin_epoch", &SeamTrainer::begin_epoch, arg("lr_mask"), arg("lr_head"), arg("steps"), NoGil())
      .def("train", &SeamTrainer::train, arg("score_rows"), arg("lengths"), arg("target_probability"), arg("batch"),
           arg("begin"), arg("end"), NoGil())
      .def("epoch", &SeamTrainer::epoch, arg("lr_mask"), arg("lr_head"), arg("score_rows"), arg("lengths"),
           arg("target_probability"), arg("batch"), NoGil())
      .def(
          "run",
          [](SeamTrainer& trainer, const DrawnDocuments& documents, const std::vector<uint64_t>& keys, double lr_mask,
             double lr_head, int64_t batch, bool head_only, const OptionalTensor& ids, const OptionalTensor& score_rows,
             const OptionalTensor& lengths, const OptionalTensor& is_target, const OptionalTensor& logits) {
            return trainer.run(documents, keys, lr_mask, lr_head, batch, head_only,
                               {ids, score_rows, lengths, is_target, logits});
          },
          arg("documents"), arg("keys"), arg("lr_mask"), arg("lr_head"), arg("batch"), arg("head_only"), arg("ids"),
          arg("score_rows"), arg("lengths"), arg("is_target"), arg("logits"), NoGil())
      .def("train_head", &SeamTrainer::train_head, arg("features"), arg("target_probability"), arg("batch"),
           arg("begin"), arg("end"), NoGil())
      .def("flush", &SeamTrainer::flush, NoGil())
      .def("load_state", &SeamTrainer::load_state, arg("steps"), arg("head_steps"), NoGil())
      .def("class_logits", &SeamTrainer::class_logits, arg("ids"), arg("score_rows"), arg("lengths"), NoGil())
      .def("evaluate", &SeamTrainer::evaluate, arg("ids"), arg("score_rows"), arg("lengths"), NoGil())
      .def_property_readonly("steps", &SeamTrainer::steps);
  py::class_<SeamEvaluation>(m, "SeamEvaluation", py::module_local())
      .def_readonly("finite", &SeamEvaluation::finite)
      .def_readonly("kept_counts", &SeamEvaluation::kept_counts)
      .def_readonly("keep_bits", &SeamEvaluation::keep_bits)
      .def_readonly("head", &SeamEvaluation::head)
      .def_readonly("logits", &SeamEvaluation::logits)
      .def_readonly("outputs", &SeamEvaluation::outputs);
  m.def("score_rows_of", &score_rows_of, arg("row_of_id"), arg("absent_row"), arg("ids"), arg("lengths"),
        arg("read_last_word"), NoGil(), "See csrc/host/seam_trainer.h.");
  py::class_<BinaryCounts>(m, "BinaryCounts", py::module_local())
      .def_readonly("documents", &BinaryCounts::documents)
      .def_readonly("targets", &BinaryCounts::targets)
      .def_readonly("predicted", &BinaryCounts::predicted)
      .def_readonly("true_positive", &BinaryCounts::true_positive)
      .def_readonly("average_precision", &BinaryCounts::average_precision);
  py::class_<SeamEpoch>(m, "SeamEpoch", py::module_local())
      .def_readonly("loss", &SeamEpoch::loss)
      .def_readonly("failure", &SeamEpoch::failure)
      .def_readonly("evaluation", &SeamEpoch::evaluation)
      .def_readonly("counts", &SeamEpoch::counts);
  m.def("binary_counts", &binary_counts, arg("outputs"), arg("is_target"), NoGil(), "See csrc/host/binary_counts.h.");
  py::class_<DrawnDocuments, std::shared_ptr<DrawnDocuments>>(m, "DrawnDocuments", py::module_local(),
                                                              "See csrc/host/drawn_documents.h.")
      .def(py::init([](Tensor ids, Tensor lengths, Tensor target_probability, Tensor targets, Tensor others,
                       int64_t targets_per_epoch, int64_t others_per_epoch, int64_t unknown_id, uint64_t threshold,
                       Tensor row_of_id, int64_t absent_row, bool read_last_word, double distill_weight,
                       std::vector<int64_t> target_classes) {
             return DrawnDocuments({ids, lengths, target_probability, targets, others, targets_per_epoch,
                                    others_per_epoch, unknown_id, threshold, row_of_id, absent_row, read_last_word,
                                    distill_weight, target_classes});
           }),
           arg("ids"), arg("lengths"), arg("target_probability"), arg("targets"), arg("others"),
           arg("targets_per_epoch"), arg("others_per_epoch"), arg("unknown_id"), arg("threshold"), arg("row_of_id"),
           arg("absent_row"), arg("read_last_word"), arg("distill_weight"), arg("target_classes"))
      .def(
          "draw",
          [](const DrawnDocuments& documents, const std::vector<uint64_t>& keys) {
            const auto [ids, score_rows, lengths, target_probability] = documents.draw(keys);
            return std::tuple(ids, score_rows, lengths, target_probability);
          },
          arg("keys"), NoGil());
  py::class_<SeamFailure>(m, "SeamFailure", py::module_local())
      .def_readonly("what", &SeamFailure::what)
      .def_readonly("loss", &SeamFailure::loss);
}

}  // namespace seam

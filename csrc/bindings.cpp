// The Python face of the compiled part, and the only file that sees pybind11 and torch/extension.h: both are slow to
// compile, and everything behind them is easier to move when it does not know them.

#include <torch/extension.h>
#include <torch/version.h>

#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "memory.h"
#include "ops.h"
#include "seam_trainer.h"
#ifdef SEAM_WITH_CUDA
#include "cuda/masked_lstm.h"
#endif

namespace py = pybind11;

// setup.py passes what a compiler cannot know by itself.
#ifndef SEAM_BUILT_FLAGS
#define SEAM_BUILT_FLAGS ""
#endif
#ifndef SEAM_BUILT_TORCH
#define SEAM_BUILT_TORCH TORCH_VERSION
#endif

namespace {

std::string compiler() {
#if defined(__clang__)
  return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("gcc ") + __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

// What the module was built from and for; _ext.py compares `torch` with the torch that runs.
py::dict build_info() {
  py::dict info;
  info["torch"] = SEAM_BUILT_TORCH;
#ifdef SEAM_BUILT_CUDA
  info["cuda"] = SEAM_BUILT_CUDA;
  info["with_cuda"] = true;
#else
  info["cuda"] = py::none();
  info["with_cuda"] = false;
#endif
#ifdef SEAM_WITHOUT_CUDA
  info["without_cuda"] = SEAM_WITHOUT_CUDA;
#endif
  info["compiler"] = compiler();
  info["flags"] = SEAM_BUILT_FLAGS;
#ifdef _OPENMP
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  return info;
}

std::vector<std::string> isas() {
  const seam::Isa* available[3];
  const int count = seam::supported_isas(available);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(available[i]->name);
  return names;
}

void set_isa(const std::string& name) {
  TORCH_CHECK_VALUE(seam::set_isa(name.c_str()), "this CPU cannot run the instruction set '", name, "'; it can run ",
                    isas());
}

std::shared_ptr<seam::SeamTrainer> make_trainer(std::vector<at::Tensor> weights, at::Tensor rows,
                                                std::vector<at::Tensor> scores, std::vector<at::Tensor> exp_avg,
                                                std::vector<at::Tensor> exp_avg_sq, std::vector<at::Tensor> head,
                                                std::vector<at::Tensor> head_together,
                                                std::vector<at::Tensor> head_alone, std::vector<double> penalty,
                                                bool train_head, bool read_last_word, double target_weight,
                                                std::string catch_up) {
  return seam::SeamTrainer::make({weights, rows, scores, exp_avg, exp_avg_sq, head, head_together, head_alone},
                                 {penalty, train_head, read_last_word, target_weight, catch_up});
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using py::arg;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.doc() = "The compiled kernels of seam-fast; seam_fast._ext loads them, users do not.";
  m.def("build_info", &build_info, "Versions, compiler and flags of this build, as a dict.");
  m.def("isa", [] { return std::string(seam::isa().name); }, "The instruction set that the CPU kernels use.");
  m.def("isas", &isas, "The instruction sets that this CPU can run, best first.");
  m.def("set_isa", &set_isa, arg("name"), "Use another instruction set from now on.");
  m.def("masked_lstm_forward", &seam::masked_lstm_forward, arg("input"), arg("h_0"), arg("c_0"), arg("weights"),
        arg("scores"), arg("lengths"), arg("batch_first_output"), arg("save"), NoGil(), "See csrc/ops.h.");
  m.def("masked_lstm_layer", &seam::masked_lstm_layer, arg("input"), arg("h_0"), arg("c_0"), arg("weights"),
        arg("scores"), arg("lengths"), arg("batch_first_output"), NoGil(), "See csrc/ops.h.");
  m.def("masked_lstm_backward", &seam::masked_lstm_backward, arg("grad_output"), arg("grad_h_n"), arg("grad_c_n"),
        arg("input"), arg("output"), arg("h_0"), arg("c_0"), arg("saved"), arg("weights"), arg("scores"),
        arg("lengths"), arg("need_input"), arg("need_h_0"), arg("need_c_0"), arg("need_weights"), arg("need_scores"),
        arg("overwrite_saved") = false, NoGil(), "See csrc/ops.h.");
  m.def("score_adam_", &seam::score_adam, arg("score"), arg("grad"), arg("exp_avg"), arg("exp_avg_sq"),
        arg("weight"), arg("effective"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"), arg("step"),
        arg("penalty"), NoGil(), "See csrc/ops.h.");

#ifdef SEAM_WITH_CUDA
  m.def("choose_cuda", &seam::gpu::choose, arg("recurrence"), arg("products"), "See csrc/cuda/masked_lstm.h.");
#endif

  m.def("empty_scratch", [](int64_t size, py::object dtype) {
    return seam::empty_scratch(size, at::TensorOptions(torch::python::detail::py_object_to_dtype(dtype)));
  }, arg("size"), arg("dtype"), "An uninitialised tensor (size,), in large pages where it is large; see csrc/memory.h.");

  py::class_<seam::SeamTrainer, std::shared_ptr<seam::SeamTrainer>>(m, "SeamTrainer", "See csrc/seam_trainer.h.")
      .def(py::init(&make_trainer), arg("weights"), arg("rows"), arg("scores"), arg("exp_avg"), arg("exp_avg_sq"),
           arg("head"), arg("head_together"), arg("head_alone"), arg("penalty"), arg("train_head"),
           arg("read_last_word"), arg("target_weight"), arg("catch_up"))
      .def("begin_epoch", &seam::SeamTrainer::begin_epoch, arg("lr_mask"), arg("lr_head"), arg("steps"),
           NoGil())
      .def("train", &seam::SeamTrainer::train, arg("slots"), arg("lengths"), arg("shares"), arg("batch"), arg("begin"),
           arg("end"), NoGil())
      .def("train_head", &seam::SeamTrainer::train_head, arg("features"), arg("shares"), arg("batch"), arg("begin"),
           arg("end"), NoGil())
      .def("flush", &seam::SeamTrainer::flush, NoGil())
      .def("adopt", &seam::SeamTrainer::adopt, arg("steps"), arg("head_steps"))
      .def("class_logits", &seam::SeamTrainer::class_logits, arg("ids"), arg("slots"), arg("lengths"), NoGil())
      .def_property_readonly("steps", &seam::SeamTrainer::steps);
  py::class_<seam::SeamFailure>(m, "SeamFailure")
      .def_readonly("what", &seam::SeamFailure::what)
      .def_readonly("loss", &seam::SeamFailure::loss);
}

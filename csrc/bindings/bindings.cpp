// The Python bindings of the compiled part. Only this room includes pybind11 and torch/extension.h: both are slow to
// compile, and everything behind them is easier to change when it does not depend on them.

#include <torch/extension.h>
#include <torch/version.h>

#include <string>
#include <vector>

#include "cpu/huge_pages.h"
#include "cpu/kernels.h"
#include "host/ops.h"
#include "host/rng.h"
#include "op_binding.h"
#include "trainer_binding.h"
#ifdef SEAM_WITH_CUDA
#include "cuda/class_logits_cuda.h"
#include "cuda/masked_lstm_cuda.h"
#include "cuda/seam_trainer_cuda.h"
#include "queued_epochs_binding.h"
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

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using py::arg;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.doc() = "The compiled kernels of seam-fast; seam_fast._ext loads them, users do not.";
  m.def("build_info", &build_info, "Versions, compiler and flags of this build, as a dict.");
  m.def("isa", [] { return std::string(seam::isa().name); }, "The instruction set that the CPU kernels use.");
  m.def("isas", &isas, "The instruction sets that this CPU can run, best first.");
  m.def("set_isa", &set_isa, arg("name"), "Use another instruction set from now on.");
  seam::bind_masked_lstm(m);
  m.def(
      "score_adam_",
      [](const seam::Tensor& score, const seam::OptionalTensor& grad, const seam::Tensor& exp_avg,
         const seam::Tensor& exp_avg_sq, const seam::OptionalTensor& weight, const seam::OptionalTensor& effective,
         double lr, double beta1, double beta2, double eps, int64_t step, double penalty) {
        return seam::score_adam(score, grad, exp_avg, exp_avg_sq, weight, effective,
                                {lr, beta1, beta2, eps, step, penalty});
      },
      arg("score"), arg("grad"), arg("exp_avg"), arg("exp_avg_sq"), arg("weight"), arg("effective"), arg("lr"),
      arg("beta1"), arg("beta2"), arg("eps"), arg("step"), arg("penalty"), NoGil(), "See csrc/host/ops.h.");
  m.def("class_logits", &seam::class_logits, arg("weights"), arg("ids"), arg("lengths"), arg("read_last_word"),
        arg("projected") = py::none(), NoGil(), "See csrc/host/ops.h.");
  m.def("project_words", &seam::project_words, arg("weights"), NoGil(), "See csrc/host/ops.h.");
  m.def("pack_keep_bits", &seam::pack_keep_bits, arg("scores"), NoGil(), "See csrc/host/ops.h.");

  m.def("draw_chance", &seam::draw_chance, arg("key_0"), arg("key_1"), arg("count"), arg("threshold"), NoGil(),
        "See csrc/host/rng.h.");
  m.def("draw_permutation", &seam::draw_permutation, arg("key_0"), arg("key_1"), arg("count"), arg("first"), NoGil(),
        "See csrc/host/rng.h.");

#ifdef SEAM_WITH_CUDA
  m.def("choose_cuda", &seam::gpu::choose, arg("recurrence"), arg("products"), "See csrc/cuda/masked_lstm_cuda.h.");
  m.def("class_logits_on_gpu", &seam::gpu::class_logits, arg("weights"), arg("ids"), arg("lengths"),
        arg("read_last_word"), NoGil(), "See csrc/cuda/class_logits_cuda.h.");
  m.def("choose_steps", &seam::gpu::choose_steps, arg("steps"), "See csrc/cuda/seam_trainer_cuda.h.");
  m.def("modules_at_once", py::overload_cast<const at::Tensor&, int64_t, int64_t>(&seam::gpu::modules_at_once),
        arg("like"), arg("hidden"), arg("batch"), "See csrc/cuda/seam_trainer_cuda.h.");
#endif

  m.def(
      "empty_scratch",
      [](int64_t size, py::object dtype) {
        return seam::empty_scratch(size, at::TensorOptions(torch::python::detail::py_object_to_dtype(dtype)));
      },
      arg("size"), arg("dtype"),
      "An uninitialised tensor (size,), in huge pages where it is large; see csrc/cpu/huge_pages.h.");

  seam::bind_trainer(m, &seam::SeamTrainer::make);
#ifdef SEAM_WITH_CUDA
  seam::gpu::bind_queued_epochs(m);
#endif
}

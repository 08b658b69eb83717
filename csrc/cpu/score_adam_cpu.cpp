// The score update as an op: checks its tensors and splits them among threads. And the keep bits of scores.
#include "common/score_adam_params.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <atomic>

#include "host/ops.h"
#include "kernels.h"
#include "parallel.h"

namespace seam {

int64_t score_adam(const Tensor& score, const OptionalTensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                   const OptionalTensor& weight, const OptionalTensor& effective, const AdamOptions& options) {
  TORCH_CHECK_TYPE(score.device().is_cpu(), "score must be on the CPU, but is on ", score.device());
  TORCH_CHECK_TYPE(score.scalar_type() == at::kFloat || score.scalar_type() == at::kDouble,
                   "score must be float32 or float64, but is ", score.scalar_type());
  TORCH_CHECK_VALUE(options.step >= 1, "step must be at least 1, but is ", options.step);
  TORCH_CHECK_VALUE(bool(weight) == bool(effective), "weight and effective must be given together");
  const std::pair<OptionalTensor, const char*> tensors[] = {{score, "score"},     {grad, "grad"},
                                                            {exp_avg, "exp_avg"}, {exp_avg_sq, "exp_avg_sq"},
                                                            {weight, "weight"},   {effective, "effective"}};
  for (const auto& [t, name] : tensors) {
    if (!t) continue;
    check_same_kind(*t, score, name);
    check_shape(*t, score.sizes(), name);
    TORCH_CHECK_VALUE(t->is_contiguous() && !t->is_neg(), name, " must be contiguous, but has strides ", t->strides());
  }
  std::atomic<int64_t> kept{0};
  AT_DISPATCH_FLOATING_TYPES(score.scalar_type(), "score_adam", [&] {
    ScoreAdamParams<scalar_t> p{};
    p.score = score.mutable_data_ptr<scalar_t>();
    p.exp_avg = exp_avg.mutable_data_ptr<scalar_t>();
    p.exp_avg_sq = exp_avg_sq.mutable_data_ptr<scalar_t>();
    p.grad = grad ? grad->const_data_ptr<scalar_t>() : nullptr;
    p.weight = weight ? weight->const_data_ptr<scalar_t>() : nullptr;
    p.effective = effective ? effective->mutable_data_ptr<scalar_t>() : nullptr;
    p.lr = options.lr, p.beta1 = options.beta1, p.beta2 = options.beta2, p.eps = options.eps;
    p.penalty = options.penalty, p.step = options.step;
    const int64_t size = score.numel();
    constexpr int64_t block = 4096;
    parallel_ranges((size + block - 1) / block, threads_for(30.0 * size), [&](int64_t b, int64_t e, int64_t) {
      kept += cpu_kernels<scalar_t>().score_adam(p, b * block, std::min(e * block, size));
    });
  });
  return kept;
}

std::tuple<Tensor, int64_t, bool> pack_keep_bits(const Tensor& scores) {
  TORCH_CHECK_TYPE(scores.device().is_cpu(), "scores must be on the CPU, but are on ", scores.device());
  TORCH_CHECK_TYPE(scores.scalar_type() == at::kFloat || scores.scalar_type() == at::kDouble,
                   "scores must be float32 or float64, but are ", scores.scalar_type());
  TORCH_CHECK_VALUE(scores.is_contiguous() && !scores.is_neg(), "scores must be contiguous, but have strides ",
                    scores.strides());
  const int64_t size = scores.numel();
  const Tensor bits = at::empty({(size + 7) / 8}, at::kByte);
  int64_t kept = 0;
  bool finite = true;
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "pack_keep_bits", [&] {
    const CpuKernels<scalar_t>& kernels = cpu_kernels<scalar_t>();
    const scalar_t* const score = scores.const_data_ptr<scalar_t>();
    constexpr int64_t block = 2048;  // stays in the innermost cache for the second pass
    for (int64_t at = 0; at < size; at += block) {
      const int64_t count = std::min(block, size - at);
      kept += kernels.pack_keep_bits(score + at, count, bits.mutable_data_ptr<uint8_t>() + at / 8);
      finite = finite && kernels.all_finite(score + at, count);
    }
  });
  return {bits, kept, finite};
}

}  // namespace seam

#include "binary_counts.h"

#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace seam {

namespace {

// A pairwise sum in NumPy's order (halves, down to 128 numbers, which are added up in eight interleaved sums), so that
// metrics have the same bits with and without the compiled part.
double pairwise_sum(const double* a, int64_t n) {
  if (n < 8) {
    double sum = n ? a[0] : 0.0;
    for (int64_t i = 1; i < n; ++i) sum += a[i];
    return sum;
  }
  if (n <= 128) {
    double r[8];
    std::copy_n(a, 8, r);
    int64_t i = 8;
    for (; i < n - n % 8; i += 8) {
      for (int j = 0; j < 8; ++j) r[j] += a[i + j];
    }
    double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; ++i) sum += a[i];
    return sum;
  }
  const int64_t half = n / 2 - n / 2 % 8;
  return pairwise_sum(a, half) + pairwise_sum(a + half, n - half);
}

struct Ranked {
  double margin;
  bool is_target;
};

// Area under the precision-recall curve of documents ranked by margin; ties are one step.
double average_precision(std::vector<Ranked>& ranked, int64_t targets) {
  if (targets == 0) return 0;
  std::stable_sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    return a.margin > b.margin || (std::isnan(b.margin) && !std::isnan(a.margin));  // NaN comes last
  });
  std::vector<double> terms;
  int64_t hits = 0, before = 0;
  for (size_t i = 0; i < ranked.size(); ++i) {
    hits += ranked[i].is_target;
    if (i + 1 < ranked.size() && ranked[i + 1].margin == ranked[i].margin) continue;
    terms.push_back(double((hits - before) * hits) / double(i + 1));
    before = hits;
  }
  return pairwise_sum(terms.data(), int64_t(terms.size())) / double(targets);
}

}  // namespace

BinaryCounts binary_counts(const Tensor& outputs, const Tensor& is_target) {
  TORCH_CHECK_VALUE(outputs.dim() == 2 && outputs.size(1) == 2 && outputs.device().is_cpu() && outputs.is_contiguous(),
                    "outputs must be a contiguous tensor (N, 2) on the CPU");
  TORCH_CHECK_TYPE(is_target.scalar_type() == at::kBool && is_target.device().is_cpu() && is_target.is_contiguous(),
                   "is_target must be a contiguous tensor of bools on the CPU");
  const int64_t N = outputs.size(0);
  check_shape(is_target, {N}, "is_target");
  BinaryCounts counts;
  counts.documents = N;
  std::vector<Ranked> ranked(N);
  const bool* const wanted = is_target.const_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(outputs.scalar_type(), "binary_counts", [&] {
    const scalar_t* out = outputs.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < N; ++i, out += 2) {
      const bool predicted = std::isnan(out[0]) || !(out[1] > out[0] || std::isnan(out[1]));  // as argmax has it
      counts.targets += wanted[i];
      counts.predicted += predicted;
      counts.true_positive += predicted && wanted[i];
      ranked[i] = {double(scalar_t(out[0] - out[1])), wanted[i]};
    }
  });
  counts.average_precision = average_precision(ranked, counts.targets);
  return counts;
}

}  // namespace seam

#include "drawn_documents.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>

#include <algorithm>
#include <utility>

#include "rng.h"
#include "seam_trainer.h"

namespace seam {

namespace {

void check_indices(const Tensor& t, int64_t dims, const char* name) {
  TORCH_CHECK_TYPE(t.scalar_type() == at::kLong && t.device().is_cpu() && t.dim() == dims && t.is_contiguous(), name,
                   " must be a contiguous int64 tensor of ", dims, " dimensions on the CPU");
}

bool is_drawn(const Tensor& documents, int64_t wanted) { return wanted < documents.numel(); }

// The entries of a list at those indices.
std::vector<int64_t> chosen(const int64_t* list, const Tensor& numbers) {
  const int64_t* const at = numbers.const_data_ptr<int64_t>();
  std::vector<int64_t> found(numbers.numel());
  for (size_t i = 0; i < found.size(); ++i) found[i] = list[at[i]];
  return found;
}

}  // namespace

DrawnDocuments::DrawnDocuments(DocumentPool pool) : pool_(std::move(pool)) {
  check_indices(pool_.ids, 2, "ids");
  check_indices(pool_.lengths, 1, "lengths");
  const int64_t N = pool_.ids.size(0);
  check_shape(pool_.lengths, {N}, "lengths");
  const Tensor& probability = pool_.target_probability;
  TORCH_CHECK_TYPE((probability.scalar_type() == at::kFloat || probability.scalar_type() == at::kDouble) &&
                       probability.device().is_cpu() && probability.is_contiguous(),
                   "target_probability must be a contiguous float32 or float64 tensor on the CPU");
  check_shape(probability, {N}, "target_probability");
  draws_ = 1 + (pool_.threshold > 0);
  for (const auto& [documents, some, name] : {std::tuple(&pool_.targets, pool_.targets_per_epoch, "targets"),
                                              std::tuple(&pool_.others, pool_.others_per_epoch, "others")}) {
    check_indices(*documents, 1, name);
    TORCH_CHECK_VALUE(0 <= some && some <= documents->numel(), "an epoch cannot have ", some, " of ",
                      documents->numel(), " ", name);
    const int64_t* const number = documents->const_data_ptr<int64_t>();
    for (int64_t i = 0; i < documents->numel(); ++i) {
      TORCH_CHECK_VALUE(0 <= number[i] && number[i] < N, name, " must be documents, 0 to ", N - 1, ", but holds ",
                        number[i]);
    }
    draws_ += is_drawn(*documents, some);
  }
}

DrawnDocuments::Epoch DrawnDocuments::draw(const std::vector<uint64_t>& keys) const {
  TORCH_CHECK_VALUE(keys.size() == 2 * draws_, "keys must hold ", 2 * draws_, " numbers, but holds ", keys.size());
  const uint64_t* key = keys.data();
  const auto permutation = [&key](int64_t count, int64_t first) {
    key += 2;
    return draw_permutation(key[-2], key[-1], count, first);
  };
  std::vector<int64_t> order;
  for (const auto& [documents, some] :
       {std::pair(&pool_.targets, pool_.targets_per_epoch), std::pair(&pool_.others, pool_.others_per_epoch)}) {
    const int64_t* const number = documents->const_data_ptr<int64_t>();
    if (is_drawn(*documents, some)) {
      const std::vector<int64_t> drawn = chosen(number, permutation(documents->numel(), some));
      order.insert(order.end(), drawn.begin(), drawn.end());
    } else {
      order.insert(order.end(), number, number + some);
    }
  }
  const int64_t n = int64_t(order.size()), T = pool_.ids.size(1);
  order = chosen(order.data(), permutation(n, n));

  const Tensor ids = at::empty({n, T}, at::kLong), lengths = at::empty({n}, at::kLong),
               target_probability = at::empty({n}, pool_.target_probability.options());
  int64_t *word = ids.mutable_data_ptr<int64_t>(), *length = lengths.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i, word += T) {
    std::copy_n(pool_.ids.const_data_ptr<int64_t>() + order[i] * T, T, word);
    length[i] = pool_.lengths.const_data_ptr<int64_t>()[order[i]];
  }
  AT_DISPATCH_FLOATING_TYPES(target_probability.scalar_type(), "draw", [&] {
    scalar_t* const to = target_probability.mutable_data_ptr<scalar_t>();
    const scalar_t* const from = pool_.target_probability.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < n; ++i) to[i] = from[order[i]];
  });
  if (pool_.threshold > 0) {
    const Tensor chance = draw_chance(key[0], key[1], n * T, pool_.threshold);
    const bool* dropped = chance.const_data_ptr<bool>();
    word = ids.mutable_data_ptr<int64_t>();
    for (int64_t i = 0; i < n; ++i, word += T, dropped += T) {
      for (int64_t t = 0; t < length[i]; ++t)
        word[t] = dropped[t] ? pool_.unknown_id : word[t];  // padding is never dropped
    }
  }
  return {ids, score_rows_of(pool_.row_of_id, pool_.absent_row, ids, lengths, pool_.read_last_word), lengths,
          target_probability};
}

Tensor DrawnDocuments::soft_target_probability(const Epoch& epoch, const Tensor& logits) const {
  const Tensor target = at::tensor(pool_.target_classes, at::kLong);
  const Tensor taught = at::softmax(logits, 1).index_select(1, target).sum(1);
  return at::add(at::mul(epoch.target_probability.to(taught.scalar_type()), 1 - pool_.distill_weight),
                 at::mul(taught, pool_.distill_weight))
      .to(epoch.target_probability.scalar_type());
}

}  // namespace seam

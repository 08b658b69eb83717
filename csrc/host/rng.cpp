#include "rng.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace seam {

namespace {

// Philox 4x64 with 10 rounds (Salmon et al., SC 2011): block i of the stream is a hash of the counter i + 1, as in
// NumPy, which increments the counter before it draws.
class Philox {
 public:
  Philox(uint64_t key_0, uint64_t key_1) : key_{key_0, key_1} {}

  uint64_t next() {
    if (at_ == 4) refill();
    return numbers_[at_++];
  }

 private:
  void refill() {
    uint64_t c[4] = {++counter_, 0, 0, 0}, k_0 = key_[0], k_1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const unsigned __int128 a = (unsigned __int128)(0xD2E7470EE14C6C93u) * c[0];
      const unsigned __int128 b = (unsigned __int128)(0xCA5A826395121157u) * c[2];
      const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ k_0, uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ k_1,
                                uint64_t(a)};
      std::copy(next, next + 4, c);
      k_0 += 0x9E3779B97F4A7C15u;
      k_1 += 0xBB67AE8584CAA73Bu;
    }
    std::copy(c, c + 4, numbers_);
    at_ = 0;
  }

  const uint64_t key_[2];
  uint64_t counter_ = 0, numbers_[4];
  int at_ = 4;
};

}  // namespace

at::Tensor draw_chance(uint64_t key_0, uint64_t key_1, int64_t count, uint64_t threshold) {
  TORCH_CHECK_VALUE(count >= 0, "count must not be negative");
  const at::Tensor found = at::empty({count}, at::kBool);
  bool* const to = found.mutable_data_ptr<bool>();
  Philox philox(key_0, key_1);
  for (int64_t i = 0; i < count; ++i) to[i] = philox.next() < threshold;
  return found;
}

at::Tensor draw_permutation(uint64_t key_0, uint64_t key_1, int64_t count, int64_t first) {
  TORCH_CHECK_VALUE(0 <= first && first <= count, "first must be between 0 and count");
  std::vector<std::pair<uint64_t, int64_t>> numbers(count);  // with their indices, which decide where two are equal
  Philox philox(key_0, key_1);
  for (int64_t i = 0; i < count; ++i) numbers[i] = {philox.next(), i};
  std::nth_element(numbers.begin(), numbers.begin() + first, numbers.end());
  std::sort(numbers.begin(), numbers.begin() + first);
  const at::Tensor found = at::empty({first}, at::kLong);
  int64_t* const to = found.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < first; ++i) to[i] = numbers[i].second;
  return found;
}

}  // namespace seam

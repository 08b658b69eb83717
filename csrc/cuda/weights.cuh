// Masked weights in kernels: of the type T of the input, or of float32 if T has 16 bits.
#pragma once

#include <type_traits>

#include "block.cuh"
#include "params.h"

namespace seam::gpu {

template <class Stored>
struct KnownWeight {
  Stored weight, score;
};

// A weight and its score, of one type. Both are always loaded, so that one load need not wait for the other.
template <class Stored>
struct Weight {
  const Stored *weight, *score;
  bool masked;

  SEAM_KERNEL explicit Weight(const MaskedNumbers& m)
      : weight(static_cast<const Stored*>(m.weight)),
        score(static_cast<const Stored*>(m.score ? m.score : m.weight)),
        masked(m.score != nullptr) {}

  SEAM_KERNEL bool kept(int64_t i) const { return widen(load(score + i)) > 0 || !masked; }
  // The weight where its score is positive, else 0, even if it is NaN.
  SEAM_KERNEL Wide<Stored> effective(int64_t i) const {
    const Wide<Stored> value = widen(load(weight + i));
    return kept(i) ? value : Wide<Stored>(0);
  }
  SEAM_KERNEL KnownWeight<Stored> known(int64_t i) const { return {load(weight + i), load(score + i)}; }
  // As `effective`, and 0 if there is no such weight.
  SEAM_KERNEL Stored kept_or_zero(bool exists, int64_t i) const {
    return exists && kept(i) ? load(weight + i) : narrow<Stored>(Wide<Stored>(0));
  }
};

// Calls body with the weight as Weight of its own type.
template <class T, class Body>
SEAM_KERNEL auto with_weight(const MaskedNumbers& m, const Body& body) {
  if constexpr (sizeof(T) == 2) {
    if (m.kind == Kind::float32) return body(Weight<float>(m));
  }
  return body(Weight<T>(m));
}

// A single effective weight, 0 if there is no weight.
template <class T>
SEAM_KERNEL Wide<T> effective(const MaskedNumbers& m, int64_t i) {
  if (!m.weight) return Wide<T>(0);
  return with_weight<T>(m, [&](const auto& weight) { return weight.effective(i); });
}

// Turns the sum over all rows into gradients (as in the reference of the op). `known`: the weight and its score.
template <class Stored, class W>
SEAM_KERNEL void store_gradient(const Gradient& g, int64_t i, W sum, const KnownWeight<Stored>& known) {
  if (g.grad_score) {
    W product = sum * widen(known.weight);
    if (g.clamp) product = product > W(1) ? W(1) : product < W(-1) ? W(-1) : product;  // keeps a NaN
    store(static_cast<Stored*>(g.grad_score) + i, narrow<Stored>(product));
  }
  // A product, so that a gradient that is not finite is visible even where the weight is masked.
  if (g.grad_weight) {
    const bool kept = widen(known.score) > 0 || !g.masked.score;
    store(static_cast<Stored*>(g.grad_weight) + i, narrow<Stored>(sum * (kept ? W(1) : W(0))));
  }
}
template <class T>
SEAM_KERNEL void store_gradient(const Gradient& g, int64_t i, Wide<T> sum) {
  with_weight<T>(g.masked, [&](const auto& weight) { store_gradient(g, i, Wide<T>(sum), weight.known(i)); });
}

}  // namespace seam::gpu

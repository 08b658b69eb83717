// Vectors of one instruction set: Simd<T, L> is L lanes of T with loads, stores and the functions an LSTM needs.
// Built on the vector types of GCC and Clang, with intrinsics only for what they lack (fma, masked moves, sqrt).
// Included once by each kernels_*.cpp, under its own target, so everything lives in an unnamed namespace.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/inline.h"

namespace {

// The integer type and the constants of a floating type.
template <typename T>
struct Floating;

template <>
struct Floating<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kMagic = 12582912.0f;           // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kLn2High = 0.693145751953125f;  // 16 bits, so that n * kLn2High is exact
  static constexpr float kLn2Low = 1.428606820309417e-6f;
  static constexpr float kExpLimit = 87.0f;   // exp and its inverse stay normal numbers
  static constexpr float kTanhLimit = 10.0f;  // tanh is 1 to the last bit
};

template <>
struct Floating<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLimit = 708.0;
  static constexpr double kTanhLimit = 20.0;
};

template <typename T, int L>
struct Simd {
  using Scalar = T;
  using Int = typename Floating<T>::Int;
  typedef T V __attribute__((vector_size(L * sizeof(T))));
  typedef Int I __attribute__((vector_size(L * sizeof(T))));
  static constexpr int kLanes = L;

  static SEAM_INLINE V set(T x) { return x - V{}; }  // not V{} + x: that would lose the sign of -0
  static SEAM_INLINE V zero() { return V{}; }
  static SEAM_INLINE V one() { return set(T(1)); }

  static SEAM_INLINE V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static SEAM_INLINE void store(T* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

  // The first n lanes, 0 < n <= L; the others are 0 when read and left alone when written.
  static SEAM_INLINE V load(const T* p, int n) {
    if (n == L) return load(p);
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float> && L == 16) return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
    if constexpr (std::is_same_v<T, float> && L == 8) return (V)_mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1), p);
    if constexpr (std::is_same_v<T, double> && L == 8) return (V)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
    if constexpr (std::is_same_v<T, double> && L == 4) return (V)_mm256_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif SEAM_SIMD == 256
    if constexpr (std::is_same_v<T, float>) return (V)_mm256_maskload_ps(p, (__m256i)first(n));
    if constexpr (std::is_same_v<T, double>) return (V)_mm256_maskload_pd(p, (__m256i)first(n));
#endif
    V v = {};
    for (int l = 0; l < n; ++l) v[l] = p[l];
    return v;
  }
  static SEAM_INLINE void store(T* p, V v, int n) {
    if (n == L) return store(p, v);
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float> && L == 16)
      return _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
    if constexpr (std::is_same_v<T, float> && L == 8)
      return _mm256_mask_storeu_ps(p, (__mmask8)((1u << n) - 1), (__m256)v);
    if constexpr (std::is_same_v<T, double> && L == 8)
      return _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
    if constexpr (std::is_same_v<T, double> && L == 4)
      return _mm256_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m256d)v);
#elif SEAM_SIMD == 256
    if constexpr (std::is_same_v<T, float>) return _mm256_maskstore_ps(p, (__m256i)first(n), (__m256)v);
    if constexpr (std::is_same_v<T, double>) return _mm256_maskstore_pd(p, (__m256i)first(n), (__m256d)v);
#endif
    for (int l = 0; l < n; ++l) p[l] = v[l];
  }
  static SEAM_INLINE I first(int n) {  // all bits set in the first n lanes
    I lanes;
    for (int l = 0; l < L; ++l) lanes[l] = l;
    return lanes < (I{} + Int(n));
  }

  static SEAM_INLINE V fma(V a, V b, V c) {
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float> && L == 16) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    if constexpr (std::is_same_v<T, double> && L == 8) return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#endif
#if SEAM_SIMD >= 256
    if constexpr (std::is_same_v<T, float> && L == 8) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    if constexpr (std::is_same_v<T, double> && L == 4) return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#endif
    return a * b + c;
  }
  static SEAM_INLINE V sqrt(V a) {
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float> && L == 16) return (V)_mm512_sqrt_ps((__m512)a);
    if constexpr (std::is_same_v<T, double> && L == 8) return (V)_mm512_sqrt_pd((__m512d)a);
#endif
#if SEAM_SIMD >= 256
    if constexpr (std::is_same_v<T, float> && L == 8) return (V)_mm256_sqrt_ps((__m256)a);
    if constexpr (std::is_same_v<T, double> && L == 4) return (V)_mm256_sqrt_pd((__m256d)a);
#endif
    for (int l = 0; l < L; ++l) {
      if constexpr (std::is_same_v<T, float>) a[l] = __builtin_sqrtf(a[l]);
      else a[l] = __builtin_sqrt(a[l]);
    }
    return a;
  }

  // 1 / a, a positive and normal, to about an ulp: where the CPU has an approximation of 14 bits, a Newton step from it
  // takes half the time of a division.
  static SEAM_INLINE V inverse(V a) {
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float>) {
      V guess;
      if constexpr (L == 16) guess = (V)_mm512_rcp14_ps((__m512)a);
      if constexpr (L == 8) guess = (V)_mm256_rcp14_ps((__m256)a);
      return fma(guess, fma(-a, guess, one()), guess);
    }
#endif
    return one() / a;
  }

  // a > b ? yes : no; a NaN compares false.
  static SEAM_INLINE V where_greater(V a, V b, V yes, V no) { return (a > b) ? yes : no; }
  // The first L bits of a row of bits from bit `at` on, a multiple of L (L = 16, 8, 4 or 2).
  static SEAM_INLINE unsigned bits(const uint8_t* row, int64_t at) {
    unsigned word = row[at >> 3];
    if constexpr (L == 16) word |= unsigned(row[(at >> 3) + 1]) << 8;
    return (word >> (at & 7)) & ((1u << L) - 1);
  }
  // The first n lanes at p where their bit is set, else 0.
  static SEAM_INLINE V load_where(unsigned bits, const T* p, int n) {
#if SEAM_SIMD == 512
    bits &= (1u << n) - 1;
    if constexpr (std::is_same_v<T, float> && L == 16) return (V)_mm512_maskz_loadu_ps((__mmask16)bits, p);
    if constexpr (std::is_same_v<T, float> && L == 8) return (V)_mm256_maskz_loadu_ps((__mmask8)bits, p);
    if constexpr (std::is_same_v<T, double> && L == 8) return (V)_mm512_maskz_loadu_pd((__mmask8)bits, p);
    if constexpr (std::is_same_v<T, double> && L == 4) return (V)_mm256_maskz_loadu_pd((__mmask8)bits, p);
#endif
    I lane_bit;
    for (int l = 0; l < L; ++l) lane_bit[l] = Int(1) << l;
    const I set = ((I{} + Int(bits)) & lane_bit) == lane_bit;
    return set ? load(p, n) : zero();
  }

  // A bit for each lane, lane 0 the lowest, set where a > b; a NaN compares false.
  static SEAM_INLINE unsigned greater_bits(V a, V b) {
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float> && L == 16) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
    if constexpr (std::is_same_v<T, double> && L == 8) return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#elif SEAM_SIMD == 256
    if constexpr (std::is_same_v<T, float>) return unsigned(_mm256_movemask_ps((__m256)(a > b)));
    if constexpr (std::is_same_v<T, double>) return unsigned(_mm256_movemask_pd((__m256d)(a > b)));
#endif
    unsigned found = 0;
    const auto greater = a > b;
    for (int l = 0; l < L; ++l) found |= unsigned(greater[l] & 1) << l;
    return found;
  }
  // The weight where its score is positive, else 0.
  static SEAM_INLINE V keep(V weight, V score) { return (score > zero()) ? weight : zero(); }
  static SEAM_INLINE V ratio(V a, V b) { return (b > zero()) ? a / b : zero(); }

  // Lanes of two rows for one round of a transposition: with the off-diagonal blocks of size Half swapped.
  template <int Half, bool Upper, std::size_t... l>
  static SEAM_INLINE V swap_blocks(V upper, V lower, std::index_sequence<l...>) {
#if defined(__clang__)
    return __builtin_shufflevector(upper, lower,
                                   (Upper ? ((l & Half) ? L + (l ^ Half) : l) : ((l & Half) ? L + l : (l ^ Half)))...);
#else
    return __builtin_shuffle(upper, lower,
                             I{Int(Upper ? ((l & Half) ? L + (l ^ Half) : l) : ((l & Half) ? L + l : (l ^ Half)))...});
#endif
  }
  template <int Half>
  static SEAM_INLINE void transpose_blocks(V (&row)[L]) {
    if constexpr (Half > 0) {
      using Lanes = std::make_index_sequence<L>;
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        if (l & Half) continue;
        const V upper = row[l], lower = row[l + Half];
        row[l] = swap_blocks<Half, true>(upper, lower, Lanes{});
        row[l + Half] = swap_blocks<Half, false>(upper, lower, Lanes{});
      }
      transpose_blocks<Half / 2>(row);
    }
  }
  static SEAM_INLINE void transpose(V (&square)[L]) { transpose_blocks<L / 2>(square); }

  // x, but at least low and at most high; keeps a NaN, because the instructions then return their second operand.
  static SEAM_INLINE V clamp(V x, V low, V high) {
#if SEAM_SIMD == 512
    if constexpr (std::is_same_v<T, float> && L == 16)
      return (V)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
#endif
#if SEAM_SIMD >= 256
    if constexpr (std::is_same_v<T, float> && L == 8)
      return (V)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
#endif
    x = (x > high) ? high : x;
    return (x < low) ? low : x;
  }

  // e^x = s + s p with s = 2^n and p = e^r - 1, x = n ln 2 + r. |x| must be at most kExpLimit; a NaN ends up in p.
  // p by the series r + r^2 / 2! + ..., cut where the next term is below a quarter of the last bit.
  static SEAM_INLINE void split_exp(V x, V& s, V& p) {
    using F = Floating<T>;
    V shifted = fma(x, set(T(1.4426950408889634)), set(F::kMagic));
    V n = shifted - set(F::kMagic);
    V r = fma(n, set(-F::kLn2High), x);
    r = fma(n, set(-F::kLn2Low), r);
    V q;
    if constexpr (std::is_same_v<T, float>) {
      q = set(T(1.0 / 5040));
      q = fma(q, r, set(T(1.0 / 720)));
    } else {
      q = set(T(1.0 / 6227020800.0));
      q = fma(q, r, set(T(1.0 / 479001600.0)));
      q = fma(q, r, set(T(1.0 / 39916800.0)));
      q = fma(q, r, set(T(1.0 / 3628800.0)));
      q = fma(q, r, set(T(1.0 / 362880.0)));
      q = fma(q, r, set(T(1.0 / 40320.0)));
      q = fma(q, r, set(T(1.0 / 5040.0)));
      q = fma(q, r, set(T(1.0 / 720)));
    }
    q = fma(q, r, set(T(1.0 / 120)));
    q = fma(q, r, set(T(1.0 / 24)));
    q = fma(q, r, set(T(1.0 / 6)));
    q = fma(q, r, set(T(0.5)));
    p = fma(r * r, q, r);
    I bits = (I)shifted - (I)set(F::kMagic) + Int(F::kBias);
    s = (V)(bits << F::kMantissa);
  }

  static SEAM_INLINE V sigmoid(V x) {
    const V limit = set(Floating<T>::kExpLimit);
    V s, p;
    split_exp(clamp(-x, -limit, limit), s, p);
    return one() / (one() + fma(s, p, s));
  }

  // tanh |x| = t / (t + 2) with t = e^(2|x|) - 1 = s p + (s - 1): small x keep all their digits, since s is 1 there.
  static SEAM_INLINE V tanh(V x) {
    const I sign = (I)x & (I)set(T(-0.0));
    const V y = clamp((V)((I)x ^ sign), zero(), set(Floating<T>::kTanhLimit));
    V s, p;
    split_exp(y + y, s, p);
    const V t = fma(s, p, s - one());
    return (V)((I)(t / (t + set(T(2)))) ^ sign);
  }
};

}  // namespace

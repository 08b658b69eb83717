// The numbers of the CUDA kernels: what tensors hold, what is computed with, and the arithmetic that lstm_cell.h asks for.
#pragma once

#include <math.h>  // not <cmath>: the overloads of the global namespace are meant
#include <string.h>

#include <cstdint>

#include "../seam.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace seam::gpu {

// 16-bit numbers as bits: the same types on host and device, and in files that know neither torch nor CUDA.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
struct Tf32 {};  // a float whose lower 13 bits count for nothing; only names the tensor-core tile

template <class T>
struct Wider {
  using type = float;
};
template <>
struct Wider<double> {
  using type = double;
};
template <class T>
using Wide = typename Wider<T>::type;  // what T is computed with

SEAM_INLINE float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
SEAM_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

SEAM_INLINE float widen(float x) { return x; }
SEAM_INLINE double widen(double x) { return x; }
SEAM_INLINE float widen(BFloat16 x) { return bits_to_float(uint32_t(x.bits) << 16); }
SEAM_INLINE float widen(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  const float value = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);                 // times 2^112
  return bits_to_float(float_to_bits(value) | sign);
#endif
}

// To the nearest, ties to even.
template <class T, class X>
SEAM_INLINE T narrow(X x);
template <>
SEAM_INLINE float narrow<float, float>(float x) {
  return x;
}
template <>
SEAM_INLINE double narrow<double, double>(double x) {
  return x;
}
template <>
SEAM_INLINE BFloat16 narrow<BFloat16, float>(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t(bits >> 16 | 0x40u)};  // a NaN stays one
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
#endif
}
template <>
SEAM_INLINE Half narrow<Half, float>(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t bits = float_to_bits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};   // NaN
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds to 2^16 or more
  if (magnitude < 0x38800000u) {  // below 2^-14: added to a half, whose last place is the least Half there is
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {uint16_t(sign | (float_to_bits(shifted) - 0x3f000000u))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13))};
#endif
}

SEAM_INLINE uint32_t to_tf32(float x) {  // to the nearest, ties away from zero, as cvt.rna does
#if defined(__CUDA_ARCH__)
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  const uint32_t bits = float_to_bits(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
#endif
}

template <class T>
SEAM_INLINE uint32_t pack(T low, T high) {
  return uint32_t(low.bits) | uint32_t(high.bits) << 16;
}

// Arithmetic for lstm_cell.h, exact to about an ulp, and for score_update.h.
template <class W>
struct Exact {
  using V = W;
  static SEAM_INLINE V set(W x) { return x; }
  static SEAM_INLINE V zero() { return V(0); }
  static SEAM_INLINE V one() { return V(1); }
  static SEAM_INLINE V sqrt(V x) { return ::sqrt(x); }
  static SEAM_INLINE V inverse(V x) { return V(1) / x; }
  static SEAM_INLINE V where_greater(V a, V b, V yes, V no) { return a > b ? yes : no; }
  static SEAM_INLINE V fma(V a, V b, V c) { return ::fma(a, b, c); }
  static SEAM_INLINE V sigmoid(V x) { return V(1) / (V(1) + ::exp(-x)); }
  static SEAM_INLINE V tanh(V x) { return ::tanh(x); }
  static SEAM_INLINE V ratio(V a, V b) { return b == V(0) ? V(0) : a / b; }
};

// As exact to a place or two, without a branch, so that several can be under way at a time: the machine's approximations, and
// for what goes into scores one step of Newton's. For what a step of training waits for.
struct Branchless {
  using V = float;
  static constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

  static SEAM_INLINE V set(float x) { return x; }
  static SEAM_INLINE V zero() { return 0.0f; }
  static SEAM_INLINE V one() { return 1.0f; }
  static SEAM_INLINE V fma(V a, V b, V c) { return fmaf(a, b, c); }
  static SEAM_INLINE V where_greater(V a, V b, V yes, V no) { return a > b ? yes : no; }
#if defined(__CUDA_ARCH__)
  static SEAM_INLINE V approximate_exp2(V x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static SEAM_INLINE V approximate_inverse(V x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static SEAM_INLINE V approximate_rsqrt(V x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#else
  static SEAM_INLINE V approximate_exp2(V x) { return exp2f(x); }
  static SEAM_INLINE V approximate_inverse(V x) { return 1.0f / x; }
  static SEAM_INLINE V approximate_rsqrt(V x) { return 1.0f / sqrtf(x); }
#endif
  // Of a number from 2^-126 to 2^126.
  static SEAM_INLINE V inverse(V x) {
    const float y = approximate_inverse(x);
    return fmaf(fmaf(-x, y, 1.0f), y, y);
  }
  // Of a number that is not negative; of less than 1e-36, the root of that: beside Adam's eps it is nothing.
  static SEAM_INLINE V sqrt(V x) {
    const float positive = x < 1e-36f ? 1e-36f : x, y = approximate_rsqrt(positive), root = positive * y;
    return fmaf(fmaf(-root, root, positive), 0.5f * y, root);
  }
  // 1 / (1 + exp(x)), where x * log2(e) is taken with the digits that a float has not.
  static SEAM_INLINE V one_over_one_and_exp(V x) {
    const float x_2 = x * kLog2E, rest = fmaf(x, kLog2E, -x_2);
    const float bounded = x_2 > 125.0f ? 125.0f : x_2;  // a NaN passes
    return approximate_inverse(fmaf(approximate_exp2(bounded), fmaf(rest, kLn2, 1.0f), 1.0f));
  }
  static SEAM_INLINE V sigmoid(V x) { return one_over_one_and_exp(-x); }
  static SEAM_INLINE V tanh(V x) {
    // Below 0.6 in size the difference would lose digits: there a polynomial, fitted for the least relative error (7e-8 with
    // its roundings).
    const float s = x * x;
    float p = fmaf(s, -0.005895156f, 0.02079597f);
    p = fmaf(s, p, -0.05378383f);
    p = fmaf(s, p, 0.13331924f);
    p = fmaf(s, p, -0.333333f);
    const float near = fmaf(x, s * p, x), far = fmaf(-2.0f, one_over_one_and_exp(2.0f * x), 1.0f);
    return fabsf(x) < 0.6f ? near : far;
  }
};

// For results of 16 bits or from products of tf32: a thousandth of their last place off, and several times as fast.
struct Quick {
  using V = float;
  static SEAM_INLINE V one() { return 1.0f; }
  static SEAM_INLINE V fma(V a, V b, V c) { return fmaf(a, b, c); }
#if defined(__CUDA_ARCH__)
  static SEAM_INLINE V sigmoid(V x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
  static SEAM_INLINE V ratio(V a, V b) { return b == 0.0f ? 0.0f : __fdividef(a, b); }
#else
  static SEAM_INLINE V sigmoid(V x) { return 1.0f / (1.0f + expf(-x)); }
  static SEAM_INLINE V ratio(V a, V b) { return b == 0.0f ? 0.0f : a / b; }
#endif
  static SEAM_INLINE V tanh(V x) {  // near 0, where the difference would lose its digits, the first terms of its series
    const float s = x * x;
    const float series = x * fma(s, fma(s, fma(s, -17.0f / 315, 2.0f / 15), -1.0f / 3), 1.0f);
    return fabsf(x) < 0.25f ? series : 2.0f * sigmoid(2.0f * x) - 1.0f;
  }
};

template <class T>
struct ArithmeticOf {
  using type = Quick;
};
template <>
struct ArithmeticOf<float> {
  using type = Exact<float>;
};
template <>
struct ArithmeticOf<double> {
  using type = Exact<double>;
};
template <class T>
using Arithmetic = typename ArithmeticOf<T>::type;

}  // namespace seam::gpu

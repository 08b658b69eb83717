// The number types of the CUDA kernels, and the arithmetic (`M`) of lstm_cell.h and score_update.h for them.
#pragma once

#include <math.h>  // not <cmath>: the overloads in the global namespace are needed
#include <string.h>

#include <cstdint>
#include <type_traits>

#include "common/inline.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace seam::gpu {

// 16-bit numbers as bits: the same types on host and device, without torch and CUDA.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
struct Tf32 {};  // a float whose lower 13 bits are ignored; a tag for the tensor-core tile

template <class T>
struct Wider {
  using type = float;
};
template <>
struct Wider<double> {
  using type = double;
};
template <class T>
using Wide = typename Wider<T>::type;  // the type of arithmetic on T

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
  const float value = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);                  // times 2^112
  return bits_to_float(float_to_bits(value) | sign);
#endif
}

// Rounds to nearest, ties to even.
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
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t(bits >> 16 | 0x40u)};  // keeps a NaN a NaN
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
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5, whose last bit is worth the smallest Half, rounds it
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {uint16_t(sign | (float_to_bits(shifted) - 0x3f000000u))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13))};
#endif
}

SEAM_INLINE uint32_t to_tf32(float x) {  // rounds to nearest, ties away from zero, as cvt.rna does
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
template <class T>
SEAM_INLINE T low_half(uint32_t word) {
  return {uint16_t(word)};
}
template <class T>
SEAM_INLINE T high_half(uint32_t word) {
  return {uint16_t(word >> 16)};
}
// Narrows both, in one instruction.
template <class T>
SEAM_INLINE uint32_t narrow_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  if constexpr (std::is_same_v<T, Half>) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return pack(narrow<T>(low), narrow<T>(high));
#endif
}

// A GPU's approximations by one instruction, with an error of an ulp or two; denormal numbers are 0.
#if defined(__CUDA_ARCH__)
SEAM_INLINE float quick_inverse(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
SEAM_INLINE float quick_rsqrt(float x) {
  asm("rsqrt.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
SEAM_INLINE float quick_exp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
#else
SEAM_INLINE float quick_inverse(float x) { return 1.0f / x; }
SEAM_INLINE float quick_rsqrt(float x) { return 1.0f / sqrtf(x); }
SEAM_INLINE float quick_exp2(float x) { return exp2f(x); }
#endif

// The inverse with one Newton step, for numbers from 2^-126 to 2^126.
SEAM_INLINE float refined_inverse(float x) {
  const float y = quick_inverse(x);
  return fmaf(fmaf(-x, y, 1.0f), y, y);
}

// Gates without branches, so that the four of a unit are computed in parallel (IEEE division and the CUDA library's
// tanh have branches). Errors of about an ulp of 1; Refined: half an ulp less, for two more dependent operations.
template <bool Refined>
struct BranchlessGates {
  using V = float;
  static SEAM_INLINE V fma(V a, V b, V c) { return fmaf(a, b, c); }
  static SEAM_INLINE V sigmoid(V x) { return one_over_one_plus_exp(x, -1.0f); }
  static SEAM_INLINE V tanh(V x) {
    const V far = fma(-2.0f, one_over_one_plus_exp(x, 2.0f), 1.0f), near = fma(x, series(x * x), x);
    return fabsf(x) < kNear ? near : far;
  }

 private:
  static constexpr float kLog2E = 1.44269504f, kLog2ERest = 1.92596299e-8f, kLn2 = 0.69314718f, kNear = 0.55f;

  // 1 / (1 + e^(k x)). The rounding errors of log2(e) and of its product with k x are corrected while the exponential
  // is computed.
  static SEAM_INLINE V one_over_one_plus_exp(V x, V k) {
    constexpr V kFar =
        256.0f;  // beyond, the result is 0 or 1 without correction, which would be inf - inf for an infinite x
    const V scale = k * kLog2E, product = x * scale;
    const V lost = fabsf(product) < kFar ? fma(x, k * kLog2ERest, fma(x, scale, -product)) : 0.0f;
    const V bounded = Refined && product > 125.0f ? 125.0f : product;  // keeps a NaN
    const V sum = fma(quick_exp2(bounded), fma(lost, kLn2, 1.0f), 1.0f);
    return Refined ? refined_inverse(sum) : quick_inverse(sum);
  }
  // tanh(x) / x - 1 of s = x^2, where 1 - 2 / (1 + e^2x) would lose digits: minimax for |x| < kNear, relative error of
  // tanh 4e-8.
  static SEAM_INLINE V series(V s) {
    return s * fma(s, fma(s, fma(s, 0.0164375806f, -0.0526718134f), 0.133207251f), -0.333329466f);
  }
};

// Gates for 16-bit numbers, with relative errors below 1e-5, where the last bit is worth 5e-4: fewer operations, and
// one inverse for two gates, because a multiprocessor computes only sixteen inverses or exponentials per clock.
struct ShortGates {
  using V = float;
  static SEAM_INLINE V fma(V a, V b, V c) { return fmaf(a, b, c); }
  static SEAM_INLINE V tanh(V x) { return near_or(x, fma(-2.0f, quick_inverse(one_plus_exp(x, 2.0f)), 1.0f)); }
  // The gates i, f, g, o of a cell. A NaN in one makes another gate of the cell NaN, too, but no other cell's.
  static SEAM_INLINE void activate(V (&gates)[4]) {
    const V g = gates[2];
    gates[0] = one_plus_exp(gates[0], -1.0f);
    gates[1] = one_plus_exp(gates[1], -1.0f);
    gates[2] = one_plus_exp(g, 2.0f);
    gates[3] = one_plus_exp(gates[3], -1.0f);
    invert(gates[0], gates[1]);
    invert(gates[2], gates[3]);
    gates[2] = near_or(g, fma(-2.0f, gates[2], 1.0f));
  }

 private:
  // 1 + e^(k x), bounded so that the product of two is finite.
  static SEAM_INLINE V one_plus_exp(V x, V k) {
    constexpr V kMost = 60.0f;
    V exponent = x * (k * 1.44269504f);
#if defined(__CUDA_ARCH__)
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(exponent) : "f"(kMost));
#else
    exponent = exponent > kMost ? kMost : exponent;
#endif
    return 1.0f + quick_exp2(exponent);
  }
  static SEAM_INLINE void invert(V& a, V& b) {
    const V inverse = quick_inverse(a * b), of_a = inverse * b;
    b = inverse * a;
    a = of_a;
  }
  // tanh(x): `far`, or for small x, where that loses digits, the first two terms of the Taylor series.
  static SEAM_INLINE V near_or(V x, V far) {
    const V near = fma(x * x * x, -1.0f / 3, x);
    return fabsf(x) < 1.0f / 16 ? near : far;
  }
};

// Arithmetic for lstm_cell.h and score_update.h. The operations of skipped steps, linear layer and head are rounded as
// IEEE requires, so that they give the same bits everywhere.
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
};

template <>
SEAM_INLINE float Exact<float>::sigmoid(float x) {
  return BranchlessGates<true>::sigmoid(x);
}
template <>
SEAM_INLINE float Exact<float>::tanh(float x) {
  return BranchlessGates<true>::tanh(x);
}

// For updates of scores on the critical path: an ulp or two less accurate than IEEE's division and square root, but
// without their branches, by the hardware's approximations and one Newton step.
struct Branchless {
  using V = float;
  static SEAM_INLINE V set(float x) { return x; }
  static SEAM_INLINE V one() { return 1.0f; }
  static SEAM_INLINE V fma(V a, V b, V c) { return fmaf(a, b, c); }
  static SEAM_INLINE V where_greater(V a, V b, V yes, V no) { return a > b ? yes : no; }
  static SEAM_INLINE V inverse(V x) { return refined_inverse(x); }
  // For numbers >= 0; below 1e-36 it gives the root of 1e-36, which is negligible beside Adam's eps.
  static SEAM_INLINE V sqrt(V x) {
    const float positive = x < 1e-36f ? 1e-36f : x, y = quick_rsqrt(positive), root = positive * y;
    return fmaf(fmaf(-root, root, positive), 0.5f * y, root);
  }
};

template <class T>
using Arithmetic = Exact<Wide<T>>;

}  // namespace seam::gpu

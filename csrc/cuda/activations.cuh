// Sigmoid and tanh without branches, for recurrences: each step waits for the one before it, and a division or a tanh of
// the CUDA library takes a branch that keeps the four gates of a cell from overlapping.
#pragma once

#include <math.h>

#include "block.cuh"

namespace seam::gpu {

#if defined(__CUDA_ARCH__)
SEAM_KERNEL float power_of_two(float x) {  // relative error 2^-22
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
SEAM_KERNEL float reciprocal(float x) {  // relative error 2^-23
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
#else
SEAM_KERNEL float power_of_two(float x) { return exp2f(x); }
SEAM_KERNEL float reciprocal(float x) { return 1.0f / x; }
#endif

// Arithmetic for lstm_cell.h, errors of about an ulp of 1.
struct BranchlessGates {
  using V = float;
  static SEAM_KERNEL V fma(V a, V b, V c) { return fmaf(a, b, c); }
  static SEAM_KERNEL V sigmoid(V x) { return one_over_one_plus(x, -kLog2E); }
  static SEAM_KERNEL V tanh(V x) {
    const V far = fma(-2.0f, one_over_one_plus(x, 2 * kLog2E), 1.0f), near = fma(x, series(x * x), x);
    return fabsf(x) < kNear ? near : far;
  }

 private:
  static constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f, kNear = 0.55f;

  // 1 / (1 + 2^(scale x)). What scale x loses by rounding is made good while the exponential is under way.
  static SEAM_KERNEL V one_over_one_plus(V x, V scale) {
    constexpr V kFar = 256.0f;  // beyond, the result is 0 or 1 whatever is lost, which would be inf - inf for an infinite x
    const V product = x * scale, lost = fabsf(product) < kFar ? fma(x, scale, -product) : 0.0f;
    return reciprocal(fma(power_of_two(product), fma(lost, kLn2, 1.0f), 1.0f));
  }
  // tanh(x) / x - 1 of s = x^2, where 1 - 2 / (1 + e^2x) would lose digits: minimax for |x| < kNear, relative error of tanh 4e-8.
  static SEAM_KERNEL V series(V s) {
    return s * fma(s, fma(s, fma(s, 0.0164375806f, -0.0526718134f), 0.133207251f), -0.333329466f);
  }
};

}  // namespace seam::gpu

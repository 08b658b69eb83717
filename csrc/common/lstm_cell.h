// The LSTM cell, forward and backward: the only gate equations of the compiled part, written once for host and device.
// `M` supplies the arithmetic: a value type V (a scalar on the GPU, a SIMD vector on the CPU) and sigmoid, tanh, fma
// and ratio on it. Gates come in the order i, f, g, o of torch.nn.LSTM.
#pragma once

#include "inline.h"

namespace {

// The forward pass in two parts: a caller with several cells activates the gates of all of them first, so that the
// second part does not wait for the first.
template <class M>
SEAM_INLINE void activate(typename M::V (&gates)[4]) {
  gates[0] = M::sigmoid(gates[0]);
  gates[1] = M::sigmoid(gates[1]);
  gates[2] = M::tanh(gates[2]);
  gates[3] = M::sigmoid(gates[3]);
}

template <class M>
SEAM_INLINE void cell_forward(const typename M::V (&gates)[4], typename M::V c_prev, typename M::V& c,
                              typename M::V& h) {
  c = M::fma(gates[1], c_prev, gates[0] * gates[2]);
  h = gates[3] * M::tanh(c);
}

template <class M>
struct CellGradient {
  typename M::V gates[4], c_prev;  // gradients of the gates before activation, and of the previous cell state
};

// gates: activated; dh: gradient of h; dc: gradient of c from the next step. c is not needed: with tanh(c) = h / o,
//   d o = dh tanh(c) o (1 - o) = dh h (1 - o)        dh/dc = o (1 - tanh(c)^2) = o - h (h / o)
// so tanh(c) is neither stored nor recomputed. ratio(h, o) is 0 where o is 0.
template <class M>
SEAM_INLINE CellGradient<M> cell_backward(const typename M::V (&gates)[4], typename M::V h, typename M::V c_prev,
                                          typename M::V dh, typename M::V dc) {
  const typename M::V i = gates[0], f = gates[1], g = gates[2], o = gates[3];
  CellGradient<M> d;
  dc = M::fma(dh, o - h * M::ratio(h, o), dc);
  d.gates[0] = dc * g * (i * (M::one() - i));
  d.gates[1] = dc * c_prev * (f * (M::one() - f));
  d.gates[2] = dc * i * (M::one() - g * g);
  d.gates[3] = dh * h * (M::one() - o);
  d.c_prev = dc * f;
  return d;
}

// The same for callers that have the cell state, in two parts: first the factors of the gradients, before these are
// known.
template <class M>
struct CellFactors {
  typename M::V gates[4], c, c_prev;  // factors of dh for gate o and for c, of dc for the others
};

template <class M>
SEAM_INLINE CellFactors<M> cell_factors(const typename M::V (&gates)[4], typename M::V c, typename M::V c_prev) {
  const typename M::V i = gates[0], f = gates[1], g = gates[2], o = gates[3], tanh_c = M::tanh(c);
  CellFactors<M> factors;
  factors.gates[0] = g * (i * (M::one() - i));
  factors.gates[1] = c_prev * (f * (M::one() - f));
  factors.gates[2] = i * (M::one() - g * g);
  factors.gates[3] = tanh_c * (o * (M::one() - o));
  factors.c = o * (M::one() - tanh_c * tanh_c);
  factors.c_prev = f;
  return factors;
}

template <class M>
SEAM_INLINE CellGradient<M> cell_backward(const CellFactors<M>& factors, typename M::V dh, typename M::V dc) {
  CellGradient<M> d;
  dc = M::fma(dh, factors.c, dc);
  d.gates[0] = dc * factors.gates[0];
  d.gates[1] = dc * factors.gates[1];
  d.gates[2] = dc * factors.gates[2];
  d.gates[3] = dh * factors.gates[3];
  d.c_prev = dc * factors.c_prev;
  return d;
}

}  // namespace

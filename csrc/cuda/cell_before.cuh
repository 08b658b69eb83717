// What the backward pass of a cell reads, loaded a step before it is needed.
#pragma once

#include "sequences.cuh"

namespace seam::gpu {

// What a cell needs of the forward pass, and of those behind it.
struct CellBefore {
  float gates[kGates], c, c_prev, grad_output;
};

template <class T>
SEAM_KERNEL CellBefore load_cell(const BackwardParams<T>& p, const Sequence& sequence, int step, int unit) {
  const Place place = sequence.at(step);
  CellBefore cell;
#pragma unroll
  for (int g = 0; g < kGates; ++g) cell.gates[g] = widen(load(p.gates.at(place) + g * p.hidden + unit));
  cell.c = widen(load(p.cells.at(place) + unit));
  if (step > 0) cell.c_prev = widen(load(p.cells.at(sequence.at(step - 1)) + unit));
  else cell.c_prev = p.c_0 ? widen(load(p.c_0 + sequence.index * p.hidden + unit)) : 0.0f;
  cell.grad_output = p.grad_output.data ? widen(load(p.grad_output.at(place) + unit)) : 0.0f;
  return cell;
}

}  // namespace seam::gpu

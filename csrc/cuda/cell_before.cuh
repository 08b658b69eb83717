// The data that the backward pass of a cell needs, loaded a step ahead.
#pragma once

#include "common/lstm_cell.h"
#include "sequences.cuh"

namespace seam::gpu {

// What was saved of the forward pass, and the gradient of the output.
struct CellBefore {
  float gates[kGates], c, c_prev, grad_output;
};

template <class T>
SEAM_KERNEL CellBefore load_cell(const BackwardParams<T>& p, const Sequence& sequence, int step, int unit) {
  const TimeIndex index = sequence.at(step);
  CellBefore cell;
#pragma unroll
  for (int g = 0; g < kGates; ++g) cell.gates[g] = widen(load(p.gates.at(index) + g * p.hidden + unit));
  cell.c = widen(load(p.cells.at(index) + unit));
  if (step > 0) cell.c_prev = widen(load(p.cells.at(sequence.at(step - 1)) + unit));
  else cell.c_prev = p.c_0 ? widen(load(p.c_0 + sequence.index * p.hidden + unit)) : 0.0f;
  cell.grad_output = p.grad_output.data ? widen(load(p.grad_output.at(index) + unit)) : 0.0f;
  return cell;
}

// The same, step by step from a sequence's last step back.
template <class T, bool Held>
struct CellWalk {
  Walk<const T, Held> gates, grad_output;
  Walk<const Wide<T>, Held> cells;

  SEAM_KERNEL CellWalk(const BackwardParams<T>& p, const Sequences& s, const Sequence& sequence, int step, int unit)
      : gates(p.gates, s, sequence, step, unit),
        grad_output(p.grad_output, s, sequence, step, unit),
        cells(p.cells, s, sequence, step, unit) {}

  // `step`: the current one; state: index of the unit and sequence in c_0.
  SEAM_KERNEL CellBefore load_and_go_back(const BackwardParams<T>& p, int step, int64_t state) {
    CellBefore cell = {};
    const T* const at = gates.at(step);
#pragma unroll
    for (int g = 0; g < kGates; ++g) cell.gates[g] = widen(load(at + g * int(p.hidden)));
    cell.c = load(cells.at(step));
    if (grad_output.exists()) {
      cell.grad_output = widen(load(grad_output.at(step)));
      grad_output.backward();
    }
    gates.backward();
    cells.backward();
    if (step > 0) cell.c_prev = load(cells.at(step - 1));
    else if (p.c_0) cell.c_prev = widen(load(p.c_0 + state));
    return cell;
  }
};

// The factors of a cell's gradients, formed before the gradients are known.
template <class M>
struct CellWaiting {
  CellFactors<M> factors = {};
  float grad_output = 0;

  CellWaiting() = default;
  SEAM_KERNEL explicit CellWaiting(const CellBefore& cell)
      : factors(cell_factors<M>(cell.gates, cell.c, cell.c_prev)), grad_output(cell.grad_output) {}

  SEAM_KERNEL CellGradient<M> backward(float d_h, float d_c) const {
    return cell_backward<M>(factors, d_h + grad_output, d_c);
  }
};

}  // namespace seam::gpu

// What the layer's nodes in autograd's graph have in common.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <initializer_list>

#include "checks.h"

namespace seam {

using torch::autograd::variable_list;

inline OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }
inline Tensor undefined_if_none(const OptionalTensor& t) { return t ? *t : Tensor(); }

// Gives gradients that were computed outside the graph a node that refuses to be differentiated with respect to
// `sources`, so that a second derivative raises an error instead of being silently zero.
void differentiate_only_once(variable_list& results, std::initializer_list<const variable_list*> sources);

}  // namespace seam

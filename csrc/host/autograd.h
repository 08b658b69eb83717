// What the layer's nodes in autograd's graph have in common.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <initializer_list>

#include "checks.h"

namespace seam {

using torch::autograd::variable_list;

inline OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }
inline Tensor undefined_if_none(const OptionalTensor& t) { return t ? *t : Tensor(); }

// Lets results, which were computed outside the graph, refuse to be differentiated with respect to what they were
// computed from: a second derivative is to meet the refusal wherever it starts from.
void differentiate_only_once(variable_list& results, std::initializer_list<const variable_list*> sources);

}  // namespace seam

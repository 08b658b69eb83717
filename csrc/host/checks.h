// Argument checks that name the argument, what was expected and what was given. In Python they are ValueError or
// TypeError.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>

namespace seam {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline void check_same_kind(const Tensor& t, const Tensor& input, const std::string& name) {
  TORCH_CHECK_TYPE(t.device() == input.device(), name, " must be on ", input.device(), ", where input is, but is on ",
                   t.device());
  TORCH_CHECK_TYPE(t.scalar_type() == input.scalar_type(), name, " must have input's dtype ", input.scalar_type(),
                   ", but has ", t.scalar_type());
}

inline void check_shape(const Tensor& t, at::IntArrayRef expected, const std::string& name) {
  TORCH_CHECK_VALUE(t.sizes() == expected, name, " must have shape ", expected, ", but has ", t.sizes());
}

}  // namespace seam

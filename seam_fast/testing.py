"""How exact a kernel has to be: a rule that any implementation of an op can be tested by.

The rule: ``error <= 2 * error of PyTorch + atol``. An error is the largest distance, over a tensor, from the result in
float64 of the same numbers. So a kernel may round differently from PyTorch in the same dtype, but not much worse, and
no tolerance has to be guessed for each size: where a computation amplifies rounding errors, PyTorch's error shows it.

``atol`` is there because PyTorch may happen to be nearly exact. A good algorithm errs about as much as its result moves
when its input changes in the last place. To measure that, compute the float64 result for `perturbed` inputs a few
times::

    exact = op(x.double())
    generator = torch.Generator().manual_seed(0)
    unit = torch.finfo(x.dtype).eps
    moved = max(largest_error(op(perturbed(x.double(), unit, generator)), exact) for _ in range(3))
    assert_as_exact(kernel(x), op(x), exact, atol=4 * moved + 4 * unit * float(exact.abs().max()))

The last term allows four units in the last place of the largest value, for the roundings at the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FACTOR = 2.0  # how many times PyTorch's error a kernel may err

__all__ = ["FACTOR", "assert_as_exact", "error_limit", "largest_error", "perturbed"]


def largest_error(found: Tensor, exact: Tensor) -> float:
    """The largest distance of a result from the exact one.

    Args:
        found: in any floating dtype.
        exact: in float64, of the same shape.

    Returns:
        max |found - exact|; NaN where either has a NaN; 0 for empty tensors.
    """
    return float((found - exact).abs().max()) if exact.numel() else 0.0


def error_limit(theirs: Tensor, exact: Tensor, atol: float = 0.0) -> float:
    """The error that the rule allows: ``2 * largest_error(theirs, exact) + atol``.

    Args:
        theirs: PyTorch's result in the dtype of the kernel under test.
        exact: the result in float64, of the same numbers.
        atol: allowed besides.
    """
    return FACTOR * largest_error(theirs, exact) + atol


def assert_as_exact(ours: Any, theirs: Any, exact: Any, atol: float = 0.0, name: str = "result") -> None:
    """Checks that results are about as exact as PyTorch's.

    Args:
        ours: the results of the kernel under test: a tensor, or a list, tuple or mapping of results, None among them.
        theirs: the same by PyTorch in the same dtype, such as by ``seam_fast.ops.reference``.
        exact: the same by PyTorch in float64, for the same numbers.
        atol: how much each tensor may err besides; 0 for a strict test.
        name: of the results, for the message.

    Raises:
        AssertionError: for a tensor of another shape, for None in a different place, and for an error above
            ``2 * largest_error(theirs, exact) + atol``, which a NaN always is.
    """
    if isinstance(exact, Mapping):
        if ours.keys() != exact.keys():
            raise AssertionError(f"{name} has {sorted(ours)}, but {sorted(exact)} are expected")
        for key in exact:
            assert_as_exact(ours[key], theirs[key], exact[key], atol, f"{name}[{key!r}]")
    elif isinstance(exact, (list, tuple)):
        if len(ours) != len(exact):
            raise AssertionError(f"{name} has {len(ours)} entries, but {len(exact)} are expected")
        for number, parts in enumerate(zip(ours, theirs, exact, strict=True)):
            assert_as_exact(*parts, atol, f"{name}[{number}]")
    elif exact is None:
        if ours is not None:
            raise AssertionError(f"{name} must be None, but is of type {type(ours).__name__}")
    else:
        if ours.shape != exact.shape:
            raise AssertionError(f"{name} has shape {tuple(ours.shape)}, but {tuple(exact.shape)} is expected")
        error, limit = largest_error(ours, exact), error_limit(theirs, exact, atol)
        if not error <= limit:
            raise AssertionError(f"{name}: {error:.3g} from float64, {limit:.3g} allowed")


def perturbed(tensors: Any, unit: float, generator: torch.Generator) -> Any:
    """The same tensors with every number changed by up to ``unit`` of itself, at random.

    Args:
        tensors: a floating tensor on the generator's device, or a list or tuple of such, nested, None among them.
        unit: the largest relative change, such as ``torch.finfo(dtype).eps``.
        generator: of the random numbers.

    Returns:
        A tensor, or lists in place of lists and tuples.
    """
    if isinstance(tensors, Sequence):
        return [perturbed(tensor, unit, generator) for tensor in tensors]
    if tensors is None:
        return None
    share = 2 * torch.rand(tensors.shape, generator=generator, dtype=tensors.dtype, device=tensors.device) - 1
    return tensors * (1 + unit * share)

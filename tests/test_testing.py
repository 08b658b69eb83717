"""The tolerance rule that ``seam_fast.testing`` offers: what passes it, and what it says of what does not."""

import math

import pytest
import torch

from seam_fast.ops import reference
from seam_fast.testing import assert_as_exact, error_limit, largest_error, perturbed

EXACT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def off(*errors):
    return EXACT + torch.tensor(errors, dtype=torch.float64)


def test_twice_the_error_is_allowed_and_no_more():
    theirs = off(0.25, 0.0, -0.125)
    assert largest_error(theirs, EXACT) == 0.25 and error_limit(theirs, EXACT, 1.0) == 1.5
    assert_as_exact(off(0, -0.5, 0), theirs, EXACT)
    with pytest.raises(AssertionError, match=r"^gate: 0\.625 from float64, 0\.5 allowed$"):
        assert_as_exact(off(0, 0, 0.625), theirs, EXACT, name="gate")
    assert_as_exact(off(0, 0, 0.625), theirs, EXACT, atol=0.125)
    assert_as_exact(EXACT, EXACT, EXACT)


def test_a_nan_is_an_error_on_either_side():
    nan = off(math.nan, 0, 0)
    for ours, theirs in ((nan, EXACT), (EXACT, nan), (nan, nan)):
        with pytest.raises(AssertionError, match="nan"):
            assert_as_exact(ours, theirs, EXACT, atol=1.0)


def test_results_may_be_nested_and_empty():
    exact = {"states": (EXACT, None), "none": torch.zeros(0, dtype=torch.float64)}
    assert_as_exact(exact, exact, exact)
    wrong = {"states": (off(1, 0, 0), None), "none": exact["none"]}
    with pytest.raises(AssertionError, match=r"result\['states'\]\[0\]: 1 from"):
        assert_as_exact(wrong, exact, exact)


@pytest.mark.parametrize(
    ("ours", "what"),
    [
        ({"a": EXACT}, "are expected"),
        ({"a": EXACT, "b": [EXACT, None]}, "1 are expected"),
        ({"a": EXACT[:2], "b": [None]}, r"shape \(2,\), but \(3,\) is expected"),
        ({"a": EXACT, "b": [EXACT]}, "must be None"),
    ],
)
def test_another_structure_is_an_error(ours, what):
    exact = {"a": EXACT, "b": [None]}
    with pytest.raises(AssertionError, match=what):
        assert_as_exact(ours, exact, exact)


def test_perturbed_numbers_differ_by_no_more_than_was_asked_for():
    numbers = [torch.linspace(-3, 3, 1001, dtype=torch.float64), None, (EXACT,)]
    moved = perturbed(numbers, 1e-3, torch.Generator().manual_seed(0))
    assert moved[1] is None and isinstance(moved[2], list)
    change = (moved[0] - numbers[0]).abs()
    assert (change <= 1e-3 * numbers[0].abs() * (1 + 1e-12)).all() and float(change.max()) > 2e-3
    assert torch.equal(perturbed(EXACT, 1e-3, torch.Generator().manual_seed(0))[:2], EXACT[:2]) is False


def test_the_example_of_the_documentation():
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(5, 7, generator=generator), torch.randn(3, 7, generator=generator)

    def op(x):
        return reference.masked_linear(x, weight.to(x.dtype), None, None, None)

    def kernel(x):
        return (x[:, None] * weight).sum(2)

    exact = op(x.double())
    unit = torch.finfo(x.dtype).eps
    moved = max(largest_error(op(perturbed(x.double(), unit, generator)), exact) for _ in range(3))
    atol = 4 * moved + 4 * unit * float(exact.abs().max())
    assert_as_exact(kernel(x), op(x), exact, atol)
    with pytest.raises(AssertionError, match="from float64"):
        assert_as_exact(kernel(x).bfloat16(), op(x), exact, atol)

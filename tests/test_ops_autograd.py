"""The masked LSTM op within autograd: what is kept, computed and refused; and that threads change nothing."""

import copy
import math

import pytest
import torch
from support.lstm_cases import (
    Case,
    each_cpu_kernel,
    each_implementation,
    each_kernel,
    leaves,
    run,
)
from torch.autograd import forward_ad

from seam_fast import _ext, masked_lstm
from seam_fast.ops import functional as ops
from seam_fast.ops import reference

needs_ext = pytest.mark.skipif(_ext.C is None, reason=f"needs the compiled kernels: {_ext.reason}")

# -- what it does not do ----------------------------------------------------------------------------------------------


@needs_ext
def test_what_hooks_were_given_stays_as_it_is():
    case = Case(T=6, B=3, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    given = leaves(input, *scores)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        output, _ = masked_lstm(given[0], (h_0, c_0), weights, given[1:], **case.options, backend="cpu")
    (saved,) = (t for t in held if t.dim() == 1 and t.numel() == case.D * case.T * case.B * 5 * case.H)
    before = saved.clone()
    first = torch.autograd.grad(output.sum(), given, retain_graph=True)
    assert torch.equal(saved, before)
    second = torch.autograd.grad(output.sum(), given)
    assert torch.equal(saved, before)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@needs_ext
def test_what_was_saved_may_come_back_in_another_layout():
    case = Case(T=6, B=3, I=4, H=5)
    input, h_0, c_0, weights, scores, cotangents = case.tensors()
    given = leaves(input, *scores)

    def strided(t):
        spread = torch.full((*t.shape, 2), math.nan, dtype=t.dtype)
        spread[..., 0] = t
        return spread[..., 0]

    def gradients():
        output, states = masked_lstm(given[0], (h_0, c_0), weights, given[1:], backend="cpu")
        return torch.autograd.grad((output, *states), given, cotangents)

    wanted = gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, strided):
        found = gradients()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@each_implementation
def test_a_negated_view_is_read_with_its_sign(kernel):
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    wanted, _ = masked_lstm(-input, (-h_0, c_0), [-weights[0], *weights[1:]], scores, backend=kernel)
    views = [torch._neg_view(t) for t in (input, h_0, weights[0])]
    found, _ = masked_lstm(views[0], (views[1], c_0), [views[2], *weights[1:]], scores, backend=kernel)
    assert torch.equal(found, wanted)


@each_implementation
def test_autocast_is_left_outside(kernel):
    case = Case(L=2, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors(torch.float32)
    wanted, _ = masked_lstm(input.bfloat16().float(), (h_0, c_0), weights, scores, **case.options, backend=kernel)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = masked_lstm(input.bfloat16(), (h_0, c_0), weights, scores, **case.options, backend=kernel)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


@each_implementation
def test_tangents_are_refused_rather_than_lost(kernel):
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    with forward_ad.dual_level():
        masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)  # there is none
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        with pytest.raises(RuntimeError, match="forward-mode derivatives are not supported"):
            masked_lstm(dual, (h_0, c_0), weights, scores, backend=kernel)
        output, _ = reference.masked_lstm(dual, (h_0, c_0), weights, scores)
        assert forward_ad.unpack_dual(output).tangent is not None


NEEDS = [
    (False, False, False, [False, False, False, True], [False, True, False, False]),
    (False, False, True, [False] * 4, [False] * 4),
    (True, True, False, [True, False, False, False], [True, False, True, False]),
]


@each_kernel
@pytest.mark.parametrize("needs", NEEDS, ids=range(len(NEEDS)))
def test_nothing_is_computed_that_nobody_needs(kernel, needs):
    input, h_0, c_0, weights, scores, cotangents = Case().tensors()
    layer = ops.choose_kernels(kernel, input)
    given = (input, h_0, c_0, weights, scores, None)
    output, _, _, nothing = layer.masked_lstm_forward(*given, False, False)
    same, _, _, saved = layer.masked_lstm_forward(*given, False, True)
    assert torch.equal(output, same) and nothing.numel() == 0
    given = (*cotangents, input, output, h_0, c_0, saved, weights, scores, None)
    full = layer.masked_lstm_backward(*given, True, True, True, [True] * 4, [True] * 4)
    some = layer.masked_lstm_backward(*given, *needs)
    flat = ((*result[:3], *result[3], *result[4]) for result in (full, some))
    for wanted, found, need in zip(*flat, (*needs[:3], *needs[3], *needs[4]), strict=True):
        assert found is None if not need else torch.equal(found, wanted)


@each_implementation
def test_nothing_is_kept_where_nobody_can_ask(kernel):
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)
        scores[1].requires_grad_()
        with torch.no_grad():
            output, _ = masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)
        assert not held and not output.requires_grad
        output, _ = masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)
    assert held and output.requires_grad
    output.sum().backward()
    assert input.grad is None and scores[1].grad is not None


@each_implementation
def test_a_graph_may_be_walked_twice(kernel):
    case = Case(L=2, lengths=(7, 2, 0, 4))
    input, h_0, c_0, weights, scores, cotangents = case.tensors(torch.float32)
    given = leaves(input, *scores)
    output, states = masked_lstm(given[0], (h_0, c_0), weights, given[1:], **case.options, backend=kernel)
    first = torch.autograd.grad((output, *states), given, cotangents, retain_graph=True)
    second = torch.autograd.grad((output, *states), given, cotangents)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@each_implementation
def test_a_changed_output_or_weight_is_noticed(kernel):
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    x = input.requires_grad_()
    for change in (lambda output: output.mul_(2), lambda output: weights[0].mul_(2), lambda output: scores[0].neg_()):
        output, _ = masked_lstm(x, (h_0, c_0), weights, scores, backend=kernel)
        change(output)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@each_implementation
def test_its_arguments_are_left_alone(kernel):
    case = Case(L=2, D=2, lengths=(7, 2, 0, 4))
    tensors = case.tensors()
    before = copy.deepcopy(tensors)
    run(masked_lstm, case, torch.float64, tensors, backend=kernel)
    torch.testing.assert_close(tensors, before, rtol=0, atol=0)


# Large enough to be shared among threads (csrc/cpu/parallel.h), W_hh packed in part, and sums in several chunks.
LARGE = [Case(T=20, B=20, I=100, H=300), Case(T=6, B=40, I=64, H=130, D=2, lengths=(6, 1, 3, 0) * 10)]


@each_cpu_kernel  # torch's own products may depend on it
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_the_number_of_threads_changes_no_bit(kernel, case):
    input, h_0, c_0, weights, scores, cotangents = case.tensors(torch.float32)
    given = leaves(input, *scores)
    for kept in (True, False):
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)  # the fixture of conftest.py puts it back
            output, states = masked_lstm(given[0], (h_0, c_0), weights, given[1:], **case.options, backend=kernel)
            results.append(torch.autograd.grad((output, *states), given, cotangents, retain_graph=kept))
        torch.testing.assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)


@each_cpu_kernel
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_layers_follow_the_float64_truth(kernel, case):
    for kept in (True, False):
        input, h_0, c_0, weights, scores, cotangents = case.tensors()
        results = []
        for options in ({"backend": kernel}, {"backend": "torch"}):
            given = leaves(input, h_0, c_0, *weights, *scores)
            x, h, c, *rest = given
            output, states = masked_lstm(
                x, (h, c), rest[: len(weights)], rest[len(weights) :], **case.options, **options
            )
            grads = torch.autograd.grad((output, *states), given, cotangents, retain_graph=kept)
            results.append((output, *states, *grads))
        for found, wanted in zip(*results, strict=True):
            size = float(wanted.detach().abs().max())
            torch.testing.assert_close(found, wanted, rtol=0, atol=size * 1e-12)  # some thousand roundings of 2^-53


# -- second derivatives -----------------------------------------------------------------------------------------------


@needs_ext
def test_a_second_derivative_of_compiled_kernels_is_refused():
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    x, weight = leaves(input, weights[0])
    output, _ = masked_lstm(x, (h_0, c_0), [weight, *weights[1:]], scores, backend="cpu")
    (first,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(output.sum(), x, retain_graph=True)[0])  # a first one is fine
    for tensor in (x, weight):
        with pytest.raises(RuntimeError, match=r"no second derivative; call it with backend='torch'"):
            torch.autograd.grad(first.pow(2).sum(), tensor, retain_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        (first.sum() + output.sum()).backward()


@pytest.mark.parametrize(
    "case", [Case(T=3, B=2, I=1, H=1, D=2), Case(T=3, B=2, I=1, H=1, L=2, lengths=(3, 0))], ids=str
)
def test_the_torch_backend_has_second_derivatives(case):
    input, h_0, c_0, weights, scores, _ = case.tensors()

    def function(x, h, c, *weights):
        output, states = masked_lstm(x, (h, c), list(weights), scores, **case.options, backend="torch")
        return output, *states

    assert torch.autograd.gradgradcheck(function, leaves(input, h_0, c_0, *weights))


def test_second_derivatives_are_those_of_the_twin():
    """A penalty on the gradient of the input, small enough for no clamp, derived by scores and a tied bias."""
    found = []
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    for function, options in ((masked_lstm, {"backend": "torch"}), (reference.masked_lstm, {})):
        x, bias, *ours = leaves(input, weights[2], *scores)
        output, _ = function(x, (h_0, c_0), [*weights[:2], bias, bias], ours, **options)
        (grad,) = torch.autograd.grad(output.tanh().sum() / 9, x, create_graph=True)
        found.append(torch.autograd.grad(grad.pow(2).sum(), (x, bias, *ours)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    assert all(grad.any() for grad in found[0])

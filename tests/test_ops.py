"""The masked LSTM op, every kernel there is: against float64, torch's LSTM and differences; arguments of any form."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.lstm_cases import (
    CPU_KERNELS,
    GRID,
    Case,
    assert_close,
    assert_right,
    each_dtype,
    each_implementation,
    each_kernel,
    each_kernel_but_cudas,
    leaves,
    pre_masked,
    run,
    torch_lstm,
)
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seam_fast import BackendError, _ext, masked_embedding, masked_linear, masked_lstm
from seam_fast.ops import eager, reference
from seam_fast.ops import functional as ops

needs_ext = pytest.mark.skipif(_ext.C is None, reason=f"needs the compiled kernels: {_ext.reason}")

# -- the numbers ------------------------------------------------------------------------------------------------------


@each_kernel
@each_dtype
@pytest.mark.parametrize("case", GRID, ids=str)
def test_results_and_gradients(kernel, dtype, case):
    assert_right(case, dtype, kernel)


@each_kernel_but_cudas  # which are tested at each size that they change at: test_cuda_host.py
def test_a_large_one(kernel):
    assert_right(Case(T=8, B=33, I=130, H=257, D=2, lengths=(8,) * 11 + (3,) * 11 + (5,) * 11), torch.float32, kernel)


@each_kernel
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(kernel, data):
    size = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 9, 15, 17))
    T, B = data.draw(size), data.draw(size)
    lengths = data.draw(st.none() | st.tuples(*[st.integers(0, T)] * B))
    flags = {name: data.draw(st.booleans()) for name in ("bias", "hx", "batch_first")}
    layers = {"L": data.draw(st.integers(1, 2)), "D": data.draw(st.integers(1, 2))}
    masked = data.draw(st.sampled_from(("all", "some", "none")))
    case = Case(T, B, data.draw(size), data.draw(size), lengths=lengths, masked=masked, **flags, **layers)
    assert_right(case, data.draw(st.sampled_from((torch.float32, torch.float64))), kernel)


@each_kernel
@pytest.mark.parametrize("lengths", [None, (6, 1, 4, 2)])
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (2, 2)])
def test_it_is_torchs_lstm_of_the_kept_weights(kernel, layers, directions, lengths):
    """Beside the twin: gradients of the products by torch's own, then the clamp."""
    case = Case(T=6, L=layers, D=directions, lengths=lengths, scale=4.0)
    input, h_0, c_0, weights, scores, cotangents = case.tensors()
    lstm, x = torch_lstm(case, weights, scores), input.clone().requires_grad_()
    if lengths is None:
        output, states = lstm(x, (h_0, c_0))
    else:
        packed, states = lstm(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False), (h_0, c_0))
        output, _ = pad_packed_sequence(packed)
    torch.autograd.backward((output, *states), cotangents)
    results = run(masked_lstm, case, torch.float64, backend=kernel)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close([results[name] for name in ("output", "h_n", "c_n")], [output, *states], **close)
    torch.testing.assert_close(results["input"], x.grad, **close)
    clamped = 0
    for parameter, weight, score, of_weight, of_score in zip(
        lstm.parameters(), weights, scores, results["weights"], results["scores"], strict=True
    ):
        torch.testing.assert_close(of_weight, parameter.grad * (score > 0), **close)
        torch.testing.assert_close(of_score, (parameter.grad * weight).clamp(-1, 1), **close)
        assert (of_score[score <= 0] != 0).any(), "a dropped weight has a gradient as well"
        clamped += int((of_score.abs() == 1).sum())
    assert clamped > 10, "the clamp should have had something to do"


@each_kernel
@each_dtype
def test_all_scores_positive_is_torchs_lstm(kernel, dtype):
    case = Case(L=2, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors(dtype)
    ones = [torch.rand_like(score) + 1e-30 for score in scores]
    wanted = torch_lstm(case, weights, [None] * len(weights))(input, (h_0, c_0))
    for chosen in (ones, None):
        found = masked_lstm(input, (h_0, c_0), weights, chosen, **case.options, backend=kernel)
        torch.testing.assert_close(found, wanted, rtol=0, atol=8 * torch.finfo(dtype).eps)


@each_kernel
@each_dtype
def test_all_scores_negative_forgets_everything(kernel, dtype):
    """Gates of zero weights are one half: h = tanh(c) / 2, c = c before / 2."""
    case = Case(T=3, hx=True)
    input, h_0, c_0, weights, scores, _ = case.tensors(dtype)
    for value in (-1.0, 0.0, -0.0, math.nan, -math.inf):
        dropped = [torch.full_like(score, value) for score in scores]
        output, (_, c_n) = masked_lstm(input, (h_0, c_0), weights, dropped, backend=kernel)
        torch.testing.assert_close(c_n, c_0 / 8, rtol=4 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(output[-1:], torch.tanh(c_n) / 2, rtol=8 * torch.finfo(dtype).eps, atol=0)
        output, states = masked_lstm(input, None, weights, dropped, backend=kernel)
        assert not output.any() and not states[0].any() and not states[1].any()


@each_kernel_but_cudas  # for which test_results_and_gradients is the sharper one
@pytest.mark.parametrize("lengths", [None, (3, 0, 2)])
def test_gradients_are_those_of_differences(kernel, lengths):
    case = Case(T=3, B=3, I=2, H=3, D=2, lengths=lengths)
    input, h_0, c_0, weights, scores, _ = case.tensors()

    def function(x, h, c, *effective):
        output, states = masked_lstm(x, (h, c), list(effective), None, **case.options, backend=kernel)
        return output, *states

    assert torch.autograd.gradcheck(function, leaves(input, h_0, c_0, *weights))

    def masked(*effective):  # where a score is not positive, the weight has no effect and no gradient
        return masked_lstm(input, (h_0, c_0), list(effective), scores, **case.options, backend=kernel)[0]

    assert torch.autograd.gradcheck(masked, leaves(*weights))


@each_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["input", "hx", "weights"])
def test_what_is_not_finite_goes_where_it_goes_in_torch(kernel, value, place):
    case = Case(T=5, B=3)
    tensors = case.tensors(torch.float32)
    input, h_0, c_0, weights, scores, cotangents = tensors
    target = {"input": input[2, 1], "hx": h_0[0, 1], "weights": weights[0][3]}[place]
    target[1] = value
    scores[0][3] = 1.0  # kept
    lstm, x = torch_lstm(case, weights, scores), input.clone().requires_grad_()
    output, states = lstm(x, (h_0, c_0))
    torch.autograd.backward((output, *states), cotangents)
    results = run(masked_lstm, case, torch.float32, tensors, backend=kernel)
    pairs = [(results["output"], output), (results["c_n"], states[1]), (results["input"], x.grad)]
    if place == "weights" and not math.isnan(value):  # times the slope of a saturated gate, which may be 0 or nearly
        pairs.pop()
    for found, wanted in pairs:
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.isinf(), wanted.isinf())
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
    for found, weight, parameter in zip(results["scores"], weights, lstm.parameters(), strict=True):
        if place == "weights" and not math.isnan(value):
            break
        assert torch.equal(found.isnan(), (parameter.grad * weight).isnan()), "a NaN passes the clamp"


@each_kernel
@pytest.mark.parametrize("steps", [1, 3])
def test_a_zero_first_state_is_multiplied_like_any_other(kernel, steps):
    case = Case(T=steps, B=2, hx=False)
    tensors = case.tensors(torch.float32)
    input, _, _, weights, scores, cotangents = tensors
    input[0, 0, 0] = math.nan
    lstm = torch_lstm(case, weights, scores)
    output, states = lstm(input)
    torch.autograd.backward((output, *states), cotangents)
    results = run(masked_lstm, case, torch.float32, tensors, backend=kernel)
    for found, weight, parameter in zip(results["scores"], weights, lstm.parameters(), strict=True):
        assert torch.equal(found.isnan(), (parameter.grad * weight).isnan())


@each_kernel
def test_a_dropped_weight_counts_as_zero_even_if_it_is_not_finite(kernel):
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    scores[1][2] = -1.0
    wanted, _ = masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)
    weights[1][2] = math.inf
    found, _ = masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)
    assert torch.equal(found, wanted)


@each_kernel
@each_dtype
def test_sigmoid_and_tanh_are_good_to_the_last_bits(kernel, dtype, request):
    """Read off a cell of one unit: with the other gates saturated, c_n is tanh(g) or sigmoid(i)."""
    unit = torch.finfo(dtype).eps
    count = 1001 if request.node.callspec.params["kernel"].startswith("host") else 20001  # a cell each takes long there
    x = torch.cat([torch.linspace(-12, 12, count), torch.linspace(-1, 1, count) ** 5, torch.logspace(-30, -3, 999)])
    x = x.to(dtype)[None, :, None]  # (1, B, 1)
    for gate, other, exact in ((2, 0, torch.tanh), (0, 2, torch.sigmoid)):
        weight_ih, bias = torch.zeros(4, 1, dtype=dtype), torch.zeros(4, dtype=dtype)
        weight_ih[gate] = 1
        bias[other] = 80.0
        weights = [weight_ih, torch.zeros(4, 1, dtype=dtype), bias, torch.zeros(4, dtype=dtype)]
        _, (_, c_n) = masked_lstm(x, None, weights, None, backend=kernel)
        truth = exact(x[0].double())
        # Five roundings of half a unit: of e^r - 1 and of its scaling, of the sum, of the quotient, of c. In float64
        # the truth, torch's own, may be one unit off as well.
        allowed = 2.5 * unit if dtype == torch.float32 else 3.5 * unit
        assert ((c_n[0].double() - truth).abs() / truth.abs()).max() <= allowed


@each_kernel
def test_what_stands_in_the_padding_does_not_matter(kernel):
    case = Case(T=6, B=4, D=2, L=2, lengths=(6, 0, 3, 1))
    tensors = case.tensors(torch.float32)
    for row, length in enumerate(case.lengths):
        tensors[0][length:, row] = math.nan
        tensors[5][0][length:, row] = 7.0  # nor does the gradient of an output that is zero whatever happens
    results = run(masked_lstm, case, torch.float32, tensors, backend=kernel)
    tensors[0].nan_to_num_(0.0)
    wanted = run(masked_lstm, case, torch.float32, tensors, backend=kernel)
    torch.testing.assert_close(results, wanted, rtol=0, atol=0)
    for row, length in enumerate(case.lengths):
        assert not results["output"][length:, row].any() and not results["input"][length:, row].any()
    assert torch.equal(results["h_n"][:, 1], tensors[1][:, 1]) and torch.equal(results["c_n"][:, 1], tensors[2][:, 1])


@each_kernel
def test_rows_do_not_know_each_other(kernel):
    case = Case(T=6, B=4, D=2, lengths=(5, 2, 6, 4))
    input, h_0, c_0, weights, scores, _ = case.tensors()
    together, (h_n, c_n) = masked_lstm(input, (h_0, c_0), weights, scores, **case.options, backend=kernel)
    for row, length in enumerate(case.lengths):
        states = (h_0[:, row], c_0[:, row])
        alone, (h, c) = masked_lstm(input[:length, row], states, weights, scores, bidirectional=True, backend=kernel)
        torch.testing.assert_close(together[:length, row], alone, rtol=0, atol=1e-14)
        torch.testing.assert_close((h_n[:, row], c_n[:, row]), (h, c), rtol=0, atol=1e-14)


# -- forms of the arguments -------------------------------------------------------------------------------------------


@each_kernel
@each_dtype
def test_strides_do_not_matter(kernel, dtype):
    case = Case(T=6, B=5, I=4, H=7, L=2, D=2, lengths=(6, 2, 0, 5, 1))
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)

    def strided(tensor):
        """The same numbers with gaps between them, last dimension first."""
        holes = torch.full((*reversed(tensor.shape), 2), math.nan, dtype=dtype)
        holes[..., 0] = tensor.permute(*reversed(range(tensor.dim())))
        return holes[..., 0].permute(*reversed(range(tensor.dim())))

    def function(x, hx, weights, scores, **options):  # leaves made of a strided tensor would be dense
        hx, weights, scores = [strided(t) for t in hx], [strided(w) for w in weights], [strided(s) for s in scores]
        return masked_lstm(strided(x), hx, weights, scores, **options)

    tensors = input, h_0, c_0, weights, scores, [strided(cotangent) for cotangent in cotangents]
    assert not strided(input).is_contiguous() and torch.equal(strided(input), input)
    assert_close(case, run(function, case, dtype, tensors, backend=kernel), dtype)


@each_implementation
def test_gradients_may_be_expanded_or_missing(kernel):
    case = Case(L=2, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    for sums in (lambda o, h, c: o.sum(), lambda o, h, c: h.sum(), lambda o, h, c: c[1, 2, 3] + o[0, 0, 0]):
        grads = []
        for function, options in ((masked_lstm, {"backend": kernel}), (reference.masked_lstm, {})):
            given = leaves(input, h_0, c_0, *weights, *scores)
            tensors = given[3 : 3 + len(weights)], given[3 + len(weights) :]
            output, states = function(given[0], (given[1], given[2]), *tensors, **case.options, **options)
            grads.append(torch.autograd.grad(sums(output, *states), given))
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


@each_implementation
def test_batch_first_is_the_other_way_round_and_copies_nothing(kernel):
    case = Case(T=5, B=4)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    output, states = masked_lstm(input, (h_0, c_0), weights, scores, backend=kernel)
    turned, same = masked_lstm(input.transpose(0, 1), (h_0, c_0), weights, scores, batch_first=True, backend=kernel)
    torch.testing.assert_close((turned.transpose(0, 1), same), (output, states), rtol=0, atol=0)
    assert turned.is_contiguous() and turned.shape == (4, 5, 5)


@each_implementation
def test_a_sequence_without_a_batch(kernel):
    case = Case(T=5, B=1, L=2, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    wanted, (h_n, c_n) = masked_lstm(input, (h_0, c_0), weights, scores, **case.options, backend=kernel)
    for batch_first in (False, True):  # which says nothing about it
        options = case.options | {"batch_first": batch_first, "backend": kernel}
        output, states = masked_lstm(input[:, 0], (h_0[:, 0], c_0[:, 0]), weights, scores, **options)
        torch.testing.assert_close((output, *states), (wanted[:, 0], h_n[:, 0], c_n[:, 0]), rtol=0, atol=0)
    function = reference.masked_lstm
    twin = function(input[:, 0], (h_0[:, 0], c_0[:, 0]), weights, scores, num_layers=2, bidirectional=True)
    torch.testing.assert_close((output, states), twin, rtol=0, atol=1e-14)


@each_implementation
def test_lengths_may_be_any_integers_and_full_ones_are_none(kernel):
    case = Case(T=4, B=3, lengths=(4, 1, 2))
    input, h_0, c_0, weights, scores, _ = case.tensors()
    call = lambda lengths: masked_lstm(input, (h_0, c_0), weights, scores, lengths=lengths, backend=kernel)  # noqa: E731
    wanted = call(torch.tensor(case.lengths))
    for lengths in (
        [4, 1, 2],
        (4, 1, 2),
        torch.tensor([4, 1, 2], dtype=torch.int32),
        torch.tensor([4, 9, 1, 9, 2])[::2],
    ):
        torch.testing.assert_close(call(lengths), wanted, rtol=0, atol=0)
    torch.testing.assert_close(call([4, 4, 4]), call(None), rtol=0, atol=0)


@each_kernel
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"D": 2, "L": 2}, {"lengths": ()}])
def test_a_batch_of_none(kernel, options):
    case = Case(B=0, **options)
    results = run(masked_lstm, case, torch.float32, backend=kernel)
    assert results["output"].shape == ((0, 7, 5) if case.batch_first else (7, 0, 5 * case.D))
    assert results["h_n"].shape == results["c_0"].shape == (case.L * case.D, 0, 5)
    assert results["input"].shape == case.tensors()[0].shape
    assert not any(grad.any() for grad in results["scores"] + results["weights"])


@each_implementation
def test_no_time_steps_are_refused_as_in_torch(kernel):
    _, h_0, c_0, weights, scores, _ = Case().tensors()
    for error in (ValueError, RuntimeError):
        with pytest.raises(error, match=r"input must have at least one time step, but its shape is \(0, 4, 3\)"):
            masked_lstm(torch.zeros(0, 4, 3).double(), (h_0, c_0), weights, scores, backend=kernel)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_in_plain_pytorch(dtype):
    case = Case(D=2, lengths=(7, 3, 0, 5))
    results = run(masked_lstm, case, dtype)
    exact = run(reference.masked_lstm, case, torch.float64)
    for name in ("output", "h_n", "c_n", "input"):
        assert results[name].dtype == dtype
        limit = 16 * torch.finfo(dtype).eps * float(exact[name].abs().max())  # inputs are rounded too
        assert float((results[name] - exact[name]).abs().max()) < limit


@each_implementation
def test_dropout_between_layers_is_torchs(kernel):
    case = Case(T=5, B=3, L=3, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    lstm = torch_lstm(case, weights, scores)
    lstm.dropout = 0.4
    options = case.options | {"dropout": 0.4, "backend": kernel}
    for training in (True, False):
        torch.manual_seed(5)
        wanted = lstm.train(training)(input, (h_0, c_0))
        torch.manual_seed(5)
        found = masked_lstm(input, (h_0, c_0), weights, scores, training=training, **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    torch.manual_seed(5)
    twin = reference.masked_lstm(input, (h_0, c_0), weights, scores, training=True, dropout=0.4, **case.options)
    torch.manual_seed(5)
    found = masked_lstm(input, (h_0, c_0), weights, scores, training=True, **options)
    torch.testing.assert_close(found, twin, rtol=0, atol=1e-13)


@each_implementation
def test_one_tensor_in_several_places(kernel):
    """Tied biases, and one state for h_0 and c_0: the gradients add up."""
    grads = []
    input, h_0, _, weights, scores, cotangents = Case().tensors()
    for function, options in ((masked_lstm, {"backend": kernel}), (reference.masked_lstm, {})):
        x, h, bias, score = leaves(input, h_0, weights[2], scores[2])
        tied = [weights[0], weights[1], bias, bias], [scores[0], None, score, score]
        output, states = function(x, (h, h), *tied, **options)
        grads.append(torch.autograd.grad((output, *states), (x, h, bias, score), cotangents))
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


@each_implementation
def test_lengths_may_be_overwritten_after_the_call(kernel):
    case = Case(lengths=(7, 0, 3, 5))
    input, h_0, c_0, weights, scores, cotangents = case.tensors()
    given, lengths = leaves(input, *scores), torch.tensor(case.lengths)
    output, _ = masked_lstm(given[0], (h_0, c_0), weights, given[1:], lengths=lengths, backend=kernel)
    wanted = torch.autograd.grad(output, given, cotangents[0], retain_graph=True)
    lengths.fill_(1000)
    torch.testing.assert_close(torch.autograd.grad(output, given, cotangents[0]), wanted, rtol=0, atol=0)


# -- the choice of kernels --------------------------------------------------------------------------------------------


def test_which_kernels_take_what(monkeypatch):
    double, half = torch.zeros(1).double(), torch.zeros(1).half()
    compiled = _ext.C or eager
    monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)
    assert ops.choose_kernels("auto", double) is compiled
    assert ops.choose_kernels("auto", half) is eager
    assert ops.choose_kernels("auto", double.to("meta")) is eager
    assert ops.choose_kernels("torch", double) is eager
    monkeypatch.setenv("SEAM_FAST_BACKEND", "torch")
    assert ops.choose_kernels("auto", double) is eager
    monkeypatch.setattr(_ext, "C", None)
    monkeypatch.setattr(_ext, "reason", "not compiled")
    assert ops.choose_kernels("torch", double) is eager
    with pytest.raises(BackendError, match="'cpu' cannot be used: not compiled"):
        ops.choose_kernels("cpu", double)


@needs_ext
def test_an_explicit_backend_says_why_it_cannot():
    input, h_0, c_0, weights, scores, _ = Case().tensors(torch.float16)
    with pytest.raises(
        ValueError, match=r"backend 'cpu' takes float32 and float64 .* but input is torch.float16 on cpu"
    ):
        masked_lstm(input, (h_0, c_0), weights, scores, backend="cpu")


def test_an_unknown_backend():
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    with pytest.raises(ValueError, match="'gpu' is unknown"):
        masked_lstm(input, (h_0, c_0), weights, scores, backend="gpu")


# -- embedding and linear ---------------------------------------------------------------------------------------------


@each_dtype
def test_masked_embedding(dtype):
    weight, score = torch.randn(6, 3, dtype=dtype), torch.randn(6, 3, dtype=dtype).requires_grad_()
    ids = torch.tensor([[1, 1, 5], [0, 2, 1]])
    found = masked_embedding(ids, weight, score, padding_idx=2)
    torch.testing.assert_close(found, pre_masked(weight, score)[ids], rtol=0, atol=0)
    found.backward(torch.full_like(found, 0.5))
    counts = torch.tensor([1, 3, 0, 0, 0, 1.0]).to(dtype)[:, None]  # the padding's row gets none
    torch.testing.assert_close(score.grad, (0.5 * counts * weight).clamp(-1, 1))
    assert torch.equal(masked_embedding(ids.int(), weight, None), weight[ids])


@each_dtype
def test_masked_linear(dtype):
    x, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((2, 5, 3), (4, 3), (4,)))
    scores = leaves(torch.randn(4, 3, dtype=dtype), torch.randn(4, dtype=dtype))
    found = masked_linear(x, weight, bias, *scores)
    wanted = nn.functional.linear(x, pre_masked(weight, scores[0]), pre_masked(bias, scores[1]))
    torch.testing.assert_close(found, wanted)
    found.backward(torch.ones_like(found))
    torch.testing.assert_close(scores[0].grad, (x.sum((0, 1)) * weight).clamp(-1, 1))
    torch.testing.assert_close(scores[1].grad, (10 * bias).clamp(-1, 1))
    torch.testing.assert_close(masked_linear(x, weight), nn.functional.linear(x, weight))


def test_every_kernel_is_tested():
    assert len(CPU_KERNELS) == (0 if _ext.C is None else len(_ext.C.isas()))


def test_tensors_without_values_have_gradients_without_values():
    case = Case(L=2, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors(torch.float32)
    given = leaves(*(tensor.to("meta") for tensor in (input, h_0, c_0, *scores)))
    x, h, c, *rest = given
    output, _ = masked_lstm(x, (h, c), [weight.to("meta") for weight in weights], rest, **case.options)
    grads = torch.autograd.grad(output.sum(), given)
    assert output.is_meta and [grad.shape for grad in grads] == [tensor.shape for tensor in given]

"""Where the clamp of a score's gradient takes place: in the op, or in ScoreAdam, for scaled and summed gradients."""

import copy
import pickle
import warnings

import pytest
import torch
from support.lstm_cases import Case, each_dtype, each_kernel, leaves, run
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_value_

from seam_fast import MaskedEmbedding, MaskedLinear, MaskedLSTM, ScoreAdam, masked_linear, masked_lstm
from seam_fast.ops import functional as ops
from seam_fast.ops import reference

LARGE = Case(T=7, L=2, D=2, lengths=(7, 2, 0, 4), masked="some", scale=50.0)


def make_layer(dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = MaskedLSTM.from_lstm(torch.nn.LSTM(3, 5), **options)
    for score in layer.scores():
        torch.nn.init.normal_(score, 0.3)
    return layer.to(dtype)  # the same numbers in every dtype


INPUT, WANTED = (torch.randn(8, 8, width, generator=torch.Generator().manual_seed(1)) for width in (3, 5))


def loss_of(layer, part=slice(None), dtype=torch.float64):
    """Large enough for the clamp to act on some scores, small enough to leave others alone."""
    return 2000 * mse_loss(layer(INPUT[:, part].to(dtype))[0].to(dtype), WANTED[:, part].to(dtype))


def right_gradients():
    """What SeaM's step gets: of the whole batch, unscaled, clamped."""
    layer = make_layer()
    loss_of(layer).backward()
    grads = [score.grad for score in layer.scores()]
    share = torch.cat([grad.flatten().abs() == 1 for grad in grads]).double().mean()
    assert 0.05 < share < 0.6, "the clamp should have something to do, and not everything"
    return grads


def cosine(some, others):
    some, others = (torch.cat([grad.flatten().double() for grad in grads]) for grads in (some, others))
    return torch.cosine_similarity(some, others, 0).item()


def seen_by(adam):
    """The gradients that the first step was made of."""
    beta = adam.param_groups[0]["betas"][0]
    return [adam.state[score]["exp_avg"] / (1 - beta) for group in adam.param_groups for score in group["params"]]


def step_by_scaler(adam, layer, micro_batches=4, scale=2.0**16, dtype=torch.float64, autocast=False, clip=False):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for number in range(micro_batches):
        size = INPUT.shape[1] // micro_batches
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            loss = loss_of(layer, slice(number * size, (number + 1) * size), dtype)
        scaler.scale(loss / micro_batches).backward()
    if clip:
        scaler.unscale_(adam)
        clip_grad_value_(layer.scores(), 1.0)
    scaler.step(adam)
    scaler.update()
    return scaler


# -- the op -----------------------------------------------------------------------------------------------------------


@each_kernel
@each_dtype
@pytest.mark.parametrize("case", [LARGE, Case(T=32, B=5, I=100, H=50, hx=False, scale=9.0)], ids=str)
def test_the_op_can_leave_it_out(kernel, dtype, case):
    """Then the gradient is the effective weight's times the weight, and all others are as they were."""
    found = run(masked_lstm, case, dtype, backend=kernel, clamp=False)
    clamped = run(masked_lstm, case, dtype, backend=kernel)
    largest = 0.0
    for name, value in found.items():
        if name != "scores":
            torch.testing.assert_close(value, clamped[name], rtol=0, atol=0)
    for score, limited in zip(found["scores"], clamped["scores"], strict=True):
        if score is not None:
            assert torch.equal(score.clamp(-1, 1), limited)
            largest = max(largest, float(score.abs().max()))
    assert largest > 2
    wanted = run(reference.masked_lstm, case, torch.float64, clamp=False)
    single = run(reference.masked_lstm, case, torch.float32, clamp=False)
    unit = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    for score, exact, own in zip(found["scores"], wanted["scores"], single["scores"], strict=True):
        if score is not None:
            error, allowed = (float((grad - exact).abs().max()) for grad in (score.double(), own.double()))
            floor = 16 * torch.finfo(torch.float32).eps * float(exact.abs().max())
            assert error <= (2 * allowed + floor) * unit


def test_the_twins_gradient_without_it_is_a_product():
    case = Case(scale=50.0)
    input, h_0, c_0, weights, scores, cotangents = case.tensors()
    effective = leaves(*(weight * (score > 0) for weight, score in zip(weights, scores, strict=True)))
    output, states = reference.masked_lstm(input, (h_0, c_0), effective, [None] * 4)
    grads = torch.autograd.grad((output, *states), effective, cotangents)
    found = run(reference.masked_lstm, case, torch.float64, clamp=False)["scores"]
    wanted = [grad * weight for grad, weight in zip(grads, weights, strict=True)]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert max(float(grad.abs().max()) for grad in found) > 2


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_traced_whole_it_can_be_left_out_as_well(backend):
    compiled = torch.compile(masked_lstm, fullgraph=True, backend="aot_eager")
    found = run(compiled, LARGE, torch.float64, backend=backend, clamp=False)
    wanted = run(reference.masked_lstm, LARGE, torch.float64, clamp=False)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_a_second_derivative_knows_of_it():
    case = Case(T=3, scale=20.0)
    input, h_0, c_0, weights, scores, cotangents = case.tensors()
    found = []
    for function, options in ((masked_lstm, {"backend": "torch"}), (reference.masked_lstm, {})):
        x, *ours = leaves(input, *scores)
        output, _ = function(x, (h_0, c_0), weights, ours, clamp=False, **options)
        grads = torch.autograd.grad(output, ours, cotangents[0], create_graph=True)
        found.append(torch.autograd.grad(sum(grad.pow(2).sum() for grad in grads), x))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_the_other_layers_can_leave_it_out():
    for layer, given in ((MaskedEmbedding(4, 3), torch.tensor([1, 1, 2])), (MaskedLinear(3, 2), torch.ones(2, 3))):
        for clamp, limit in ((None, 1.0), (True, 1.0), (False, 50.0)):
            layer.zero_grad()
            layer.clamp = clamp
            with torch.no_grad():
                layer.weight.fill_(0.5)
            (50 * layer(given).sum()).backward()
            assert float(layer.weight_mask.grad.max()) == limit


# -- ScoreAdam has the clamp ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_in_the_ordinary_case_nothing_changes(backend):
    """One use and one backward pass a step: clamped in the op, in the optimizer, or in both is the same, to the bit."""
    runs = []
    for clamp in (None, True):
        layer = make_layer(torch.float32, clamp=clamp, backend=backend)
        adam = ScoreAdam(layer.scores(), lr=0.05, penalty=1e-3, backend=backend)
        for _ in range(20):
            adam.zero_grad()
            loss_of(layer, dtype=torch.float32).backward()
            assert (max(float(score.grad.abs().max()) for score in layer.scores()) > 1) == (clamp is None)
            adam.step()
        runs.append([score.detach() for score in layer.scores()])
    assert all(map(torch.equal, *runs))
    plain = make_layer(torch.float64)
    adam = ScoreAdam(plain.scores(), lr=0.05)
    loss_of(plain).backward()
    adam.step()
    torch.testing.assert_close(seen_by(adam), right_gradients(), rtol=1e-12, atol=1e-14)


def test_without_scoreadam_the_op_clamps():
    """SeaM's semantics for every other optimizer; also where a ScoreAdam has only some of a call's scores."""
    for chosen in ([], [0], [0, 2]):
        layer = make_layer()
        if chosen:
            ScoreAdam([layer.scores()[number] for number in chosen])
        loss_of(layer).backward()
        torch.testing.assert_close([score.grad for score in layer.scores()], right_gradients(), rtol=0, atol=0)
    layer = make_layer()
    ScoreAdam(layer.scores()[:2])
    for score in layer.scores()[2:]:
        score.requires_grad_(False)
    loss_of(layer).backward()
    assert float(layer.scores()[1].grad.abs().max()) > 1, "a score that is not trained has no say"


def test_copies_are_not_scoreadams():
    layer = make_layer()
    adam = ScoreAdam(layer.scores())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        loss_of(other).backward()
        torch.testing.assert_close([score.grad for score in other.scores()], right_gradients(), rtol=0, atol=0)
    for duplicate in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, _ = duplicate((layer, adam))
        loss_of(other).backward()
        assert max(float(score.grad.abs().max()) for score in other.scores()) > 1


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 does not guard on attributes of tensors")
def test_a_compiled_layer_notices_a_scoreadam():
    torch._dynamo.reset()
    layer = make_layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    largest = []
    for _ in range(2):
        layer.zero_grad()
        loss_of(compiled).backward()
        largest.append(max(float(score.grad.abs().max()) for score in layer.scores()))
        ScoreAdam(layer.scores())
    assert largest[0] == 1 and largest[1] > 1
    torch._dynamo.reset()


# -- scaled and summed gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_scaled_and_summed_gradients_meet_the_clamp_once(backend, micro_batches):
    layer = make_layer(backend=backend)
    adam = ScoreAdam(layer.scores(), backend=backend)
    step_by_scaler(adam, layer, micro_batches)
    torch.testing.assert_close(seen_by(adam), right_gradients(), rtol=1e-10, atol=1e-12)


def test_micro_batches_without_a_scaler():
    layer = make_layer()
    adam = ScoreAdam(layer.scores())
    for number in range(4):
        (loss_of(layer, slice(2 * number, 2 * number + 2)) / 4).backward()
    adam.step()
    torch.testing.assert_close(seen_by(adam), right_gradients(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_float16_under_autocast_goes_in_the_right_direction(micro_batches):
    """With a linear layer that autocast computes in float16 behind the LSTM, and its gradients in float16."""
    torch.manual_seed(2)
    linear = torch.nn.Linear(5, 5)

    def behind(layer):
        own = copy.deepcopy(linear).to(layer.weight_ih_l0.dtype)
        return lambda input: (own(layer(input)[0]), None)

    exact = make_layer()
    loss_of(behind(exact)).backward()
    right = [score.grad for score in exact.scores()]
    layer = make_layer(torch.float32)
    adam = ScoreAdam(layer.scores())
    step_by_scaler(adam, behind(layer), micro_batches, scale=2.0**8, dtype=torch.float32, autocast=True)
    assert cosine(seen_by(adam), right) > 0.9999, "float16 has 11 bits: relative errors of 2^-11 = 0.0005"

    clamped = make_layer(torch.float32, clamp=True)
    adam = ScoreAdam(clamped.scores())
    step_by_scaler(adam, behind(clamped), micro_batches, scale=2.0**8, dtype=torch.float32, autocast=True)
    assert cosine(seen_by(adam), right) < 0.9, "what this is a test of: the clamp on scaled gradients leaves signs only"


def test_other_optimizers_clip_by_torchs_own_function():
    layer = make_layer(clamp=False)
    before = [score.detach().clone() for score in layer.scores()]
    step_by_scaler(torch.optim.SGD(layer.scores(), lr=1.0), layer, clip=True)
    steps = [old - score.detach() for old, score in zip(before, layer.scores(), strict=True)]
    torch.testing.assert_close(steps, right_gradients(), rtol=1e-10, atol=1e-12)


def test_an_overflow_is_seen_by_the_scaler():
    """Clamped in the op, an infinite gradient would look like 1."""
    layer = make_layer(torch.float32)
    adam = ScoreAdam(layer.scores(), lr=0.1, penalty=0.01)
    before = [score.detach().clone() for score in layer.scores()]
    scaler = step_by_scaler(adam, layer, 1, scale=2.0**127, dtype=torch.float32)
    assert scaler.get_scale() == 2.0**126
    assert all(map(torch.equal, before, layer.scores())), "the step is left out"


def test_a_step_that_would_be_clamped_while_scaled_is_announced():
    layer, input = make_layer(torch.float32), INPUT
    with torch.autocast("cpu", torch.float16), pytest.warns(UserWarning, match=r"clamps the gradients .* clamp=False"):
        layer(input)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            layer(input)
        with torch.autocast("cpu", torch.float16):
            for clamp in (True, False):
                layer.clamp = clamp
                layer(input)
            layer.clamp = None
            with torch.no_grad():
                layer(input)
            ScoreAdam(layer.scores())
            layer(input)


def test_the_functions_take_the_wish_by_name_only():
    assert ops.masked_linear is masked_linear
    with pytest.raises(TypeError):
        masked_linear(torch.ones(1, 2), torch.ones(2, 2), None, None, None, True)

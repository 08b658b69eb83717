"""torch.func over the ops: what its transforms give is what a loop over single calls gives."""

import pytest
import torch
from support.lstm_cases import CPU_KERNELS, Case, each_implementation, leaves
from torch.autograd.functional import jacobian
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from seam_fast import MaskedLSTM, ScoreAdam, _ext, masked_embedding, masked_linear, masked_lstm
from seam_fast.ops import reference

BACKENDS = ["torch", *(["cpu"] if CPU_KERNELS else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
CASES = [
    Case(T=5, B=3, I=2, H=4, hx=False),
    Case(T=5, B=4, I=2, H=3, L=2, D=2, lengths=(5, 0, 2, 3), batch_first=True, masked="some"),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def stacks(tensors, *sizes, seed=3):
    """For each tensor that many of its shape, half of them negative."""
    generator = torch.Generator().manual_seed(seed)
    return [
        None if tensor is None else torch.randn(*sizes, *tensor.shape, dtype=tensor.dtype, generator=generator)
        for tensor in tensors
    ]


def parts(stacked, number):
    return [None if tensor is None else tensor[number] for tensor in stacked]


def in_dims(stacked):
    return [None if tensor is None else 0 for tensor in stacked]


def assert_loop(found, function, stacked, count):
    """found: stacked results or gradients, of function applied to each set."""
    for number in range(count):
        wanted = [tensor for tensor in function(parts(stacked, number)) if tensor is not None]
        torch.testing.assert_close([tensor[number] for tensor in found if tensor is not None], wanted, **CLOSE)


def loss(output, states):
    """Large enough for the clamp to act on some."""
    return 5 * (output.pow(2).sum() + states[0].sum() - states[1].pow(3).sum())


def given_only(function, template):
    """The function of a list with gaps as one of a list without."""

    def of_given(given):
        rest = iter(given)
        return function([None if tensor is None else next(rest) for tensor in template])

    return of_given


def call(case, backend, tensors=None):
    """The op as a function of its scores, with results in one list."""
    input, h_0, c_0, weights, scores, _ = tensors or case.tensors()
    hx = None if h_0 is None else (h_0, c_0)

    def function(scores):
        output, states = masked_lstm(input, hx, weights, scores, **case.options, backend=backend)
        return [output, *states]

    return function, scores


@each_implementation
@each_case
def test_gradients_are_those_of_backward(kernel, case):
    input, h_0, c_0, weights, scores, _ = case.tensors()
    states = [] if h_0 is None else [h_0, c_0]

    def function(x, states, weights, given):
        rest = iter(given)
        chosen = [None if score is None else next(rest) for score in scores]
        return loss(*masked_lstm(x, states or None, weights, chosen, **case.options, backend=kernel))

    given = [score for score in scores if score is not None]
    found = grad(function, (0, 1, 2, 3))(input, states, weights, given)
    x, *rest = leaves(input, *states, *weights, *given)
    own = [rest[:2] if states else []]
    rest = rest[len(own[0]) :]
    value = function(x, own[0], rest[: len(weights)], rest[len(weights) :])
    wanted = torch.autograd.grad(value, [x, *own[0], *rest])
    torch.testing.assert_close([found[0], *found[1], *found[2], *found[3]], list(wanted), **CLOSE)
    assert any((tensor.abs() == 1).any() for tensor in found[3]), "the clamp should have had something to do"


@each_implementation
@each_case
def test_many_sets_of_scores_on_one_base(kernel, case):
    function, scores = call(case, kernel)
    many = stacks(scores, 5)
    given = [tensor for tensor in many if tensor is not None]
    value = given_only(lambda chosen: loss(*(lambda o, h, c: (o, (h, c)))(*function(chosen))), scores)

    found = vmap(function, (in_dims(many),))(many)
    assert_loop(found, function, many, 5)
    gradients = vmap(grad(value))(given)
    assert_loop(gradients, grad(value), given, 5)
    assert any((tensor.abs() == 1).any() for tensor in gradients)

    of_sum = grad(lambda stacked: vmap(value)(stacked).sum())(given)
    torch.testing.assert_close(of_sum, gradients, **CLOSE)
    owned = leaves(*given)
    vmap(value)(owned).sum().backward()
    torch.testing.assert_close([tensor.grad for tensor in owned], gradients, **CLOSE)


@each_implementation
@pytest.mark.parametrize("axis", [1, -1])
def test_the_axis_may_stand_anywhere(kernel, axis):
    function, scores = call(CASES[0], kernel)
    many = stacks(scores, 3)
    moved = [tensor.movedim(0, axis).contiguous() for tensor in many]
    torch.testing.assert_close(vmap(function, axis)(moved), vmap(function)(many), rtol=0, atol=0)


@each_implementation
def test_everything_may_be_stacked_and_nested(kernel):
    case = Case(T=4, B=3, I=2, H=3, L=2, D=2, lengths=(4, 0, 2))
    input, h_0, c_0, weights, scores, _ = case.tensors()
    xs, states = stacks([input], 2)[0], stacks([h_0, c_0], 3)
    sets, lengths = stacks(scores, 2, 3), torch.tensor([[4, 0, 2], [1, 1, 4], [3, 4, 0]])
    options = {"num_layers": 2, "bidirectional": True, "backend": kernel}

    def value(scores, x, states, lengths):
        return loss(*masked_lstm(x, states, weights, scores, lengths=lengths, **options))

    everything = vmap(vmap(grad(value), (0, None, 0, 0)), (0, 0, None, None))(sets, xs, states, lengths)
    for i in range(2):
        for j in range(3):
            arguments = [s[i, j] for s in sets], xs[i], [s[j] for s in states], lengths[j]
            torch.testing.assert_close([g[i, j] for g in everything], grad(value)(*arguments), **CLOSE)


@each_implementation
def test_calls_with_the_same_scores_are_clamped_one_by_one(kernel):
    input, _, _, weights, scores, _ = CASES[0].tensors()
    inputs = stacks([input], 4)[0]

    def value(scores, x):
        return loss(*masked_lstm(x, None, weights, scores, backend=kernel))

    found = grad(lambda scores: vmap(value, (None, 0))(scores, inputs).sum())(scores)
    each = [grad(value)(scores, x) for x in inputs]
    torch.testing.assert_close(found, [sum(grads) for grads in zip(*each, strict=True)], **CLOSE)
    assert any((tensor.abs() == 1).any() for grads in each for tensor in grads)


@each_implementation
def test_jacobians(kernel):
    input, h_0, c_0, weights, scores, _ = Case(T=3, B=2).tensors()

    def function(x):
        return masked_lstm(x, (h_0[:, :2], c_0[:, :2]), weights, scores, backend=kernel)[0][:, 1]

    torch.testing.assert_close(jacrev(function)(input), jacobian(function, input), **CLOSE)
    output, pull = vjp(function, input)
    rows = torch.randn(5, *output.shape, dtype=output.dtype)
    wanted = torch.stack([pull(row)[0] for row in rows])
    torch.testing.assert_close(vmap(pull)(rows)[0], wanted, **CLOSE)


@each_backend
def test_stacked_parameters_of_a_module(backend):
    layer = MaskedLSTM(3, 4, 2, dtype=torch.float64, backend=backend)
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    names = [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    many = dict(zip(names, stacks(layer.scores(), 3), strict=True))

    def value(scores):
        return functional_call(layer, scores, (input,))[0].pow(2).sum()

    found = vmap(grad(value))(many)
    for number in range(3):
        wanted = grad(value)({name: tensor[number] for name, tensor in many.items()})
        torch.testing.assert_close({name: tensor[number] for name, tensor in found.items()}, wanted, **CLOSE)


@pytest.mark.parametrize("grad_mode", [False, True])
@pytest.mark.skipif(_ext.C is None, reason="needs the compiled kernels")
def test_nothing_is_saved_where_nobody_can_ask_for_gradients(grad_mode):
    case = Case(T=64, B=8, I=4, H=32)
    function, scores = call(case, "cpu", case.tensors(torch.float32))
    many = [tensor.requires_grad_(grad_mode) for tensor in stacks(scores, 4)]
    with torch.profiler.profile(profile_memory=True) as profile, torch.set_grad_enabled(grad_mode):
        vmap(function)(many)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert (largest >= 4 * 64 * 8 * 5 * 32 * 4) == grad_mode


@each_implementation
def test_no_calls_at_all(kernel):
    function, scores = call(CASES[0], kernel)
    none = [score.new_empty(0, *score.shape) for score in scores]
    if kernel == "torch":
        assert vmap(function)(none)[0].shape[0] == 0
        return
    with pytest.raises(ValueError, match="needs at least one entry along the axis"):
        vmap(function)(none)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", [Case(), Case(T=20, B=20, I=100, H=300)], ids=str)
@pytest.mark.skipif(_ext.C is None, reason="needs the compiled kernels")
def test_threads_change_no_bit_of_many_calls(case, threads):
    """Small calls are shared among threads, few large ones are not."""
    tensors = case.tensors(torch.float32)
    function, scores = call(case, "cpu", tensors)
    many = stacks(scores, 2)
    torch.set_num_threads(threads)  # the fixture of conftest.py puts it back
    found = vmap(grad(lambda scores: function(scores)[0].sum()))(many)
    for number in range(2):
        wanted = grad(lambda scores: function(scores)[0].sum())(parts(many, number))
        torch.testing.assert_close(parts(found, number), wanted, rtol=0, atol=0)


# -- what is refused, and with what advice -----------------------------------------------------------------------------


@each_implementation
def test_forward_mode_names_the_twin(kernel):
    input, h_0, c_0, weights, scores, _ = Case(T=2, B=1).tensors()
    hx = h_0[:, :1], c_0[:, :1]

    def function(x):
        return masked_lstm(x, hx, weights, scores, backend=kernel)[0]

    def twin(x):
        return reference.masked_lstm(x, hx, weights, scores)[0]

    for transform in (lambda f: jvp(f, (input,), (input,)), lambda f: jacfwd(f)(input)):
        with pytest.raises(RuntimeError, match=r"forward-mode .*; use seam_fast\.ops\.reference\.masked_lstm"):
            transform(function)
        transform(twin)
    torch.testing.assert_close(jacfwd(twin)(input), jacrev(twin)(input), **CLOSE)
    with pytest.raises(RuntimeError, match="scores have no forward-mode derivative"):
        jvp(
            lambda score: reference.masked_lstm(input, hx, weights, [score, *scores[1:]])[0], (scores[0],), (scores[0],)
        )


@each_implementation
def test_functionalize_is_refused(kernel):
    function, scores = call(CASES[0], kernel)
    linear = lambda score: masked_linear(torch.ones(1, 3).double(), score, None, score)  # noqa: E731
    for transformed, argument in (
        (functionalize(function), scores),
        (functionalize(vmap(function)), stacks(scores, 2)),
        (functionalize(linear), torch.ones(2, 3).double()),
    ):
        with pytest.raises(RuntimeError, match="functionalize is not supported for masked layers: leave it out"):
            transformed(argument)


def test_second_derivatives_by_torch_func():
    input, _, _, weights, scores, _ = Case(T=2, B=1, I=2, H=2, hx=False).tensors()

    def function(x, backend):
        return masked_lstm(x, None, weights, scores, backend=backend)[0].pow(2).sum()

    def twin(x):
        return reference.masked_lstm(x, None, weights, scores)[0].pow(2).sum()

    found = jacrev(jacrev(lambda x: function(x, "torch")))(input)
    torch.testing.assert_close(found, hessian(twin)(input), **CLOSE)
    assert found.abs().max() > 0
    if CPU_KERNELS:
        with pytest.raises(RuntimeError, match=r"no second derivative; call it with backend='torch'"):
            jacrev(jacrev(lambda x: function(x, "cpu")))(input)
        with pytest.raises(RuntimeError, match=r"forward-mode|no second derivative"):
            hessian(lambda x: function(x, "cpu"))(input)


@each_case
def test_batched_gradients_of_the_torch_backend(case):
    input, h_0, c_0, weights, scores, cotangents = case.tensors()
    given = [tensor for tensor in leaves(input, h_0, c_0, *scores) if tensor is not None]
    rest = iter(given[1 if h_0 is None else 3 :])
    chosen = [None if score is None else next(rest) for score in scores]
    output, _ = masked_lstm(
        given[0], None if h_0 is None else tuple(given[1:3]), weights, chosen, **case.options, backend="torch"
    )
    rows = stacks([cotangents[0]], 3)[0] * 20
    found = torch.autograd.grad(output, given, rows, retain_graph=True, is_grads_batched=True)
    for number, row in enumerate(rows):
        wanted = torch.autograd.grad(output, given, row, retain_graph=True)
        torch.testing.assert_close([tensor[number] for tensor in found], list(wanted), **CLOSE)
    assert not any(tensor.requires_grad for tensor in found)


@pytest.mark.skipif(_ext.C is None, reason="needs the compiled kernels")
def test_batched_gradients_of_the_compiled_kernels_are_refused():
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    (x,) = leaves(input)
    output, _ = masked_lstm(x, (h_0, c_0), weights, scores, backend="cpu")
    for call in (
        lambda: torch.autograd.grad(output, x, torch.ones(2, *output.shape).double(), is_grads_batched=True),
        lambda: vmap(lambda row: torch.autograd.grad(output, x, row)[0])(torch.ones(2, *output.shape).double()),
    ):
        with pytest.raises(RuntimeError, match=r"no batched gradients .* backend='torch', or .* torch\.func\.jacrev"):
            call()


@each_backend
def test_within_torch_compile(backend):
    """torch.compile drops the gradient of functions like ours there: it is right uncompiled, or an error."""
    torch._dynamo.reset()
    function, scores = call(CASES[0], backend)
    weight, score = torch.randn(3, 2), torch.randn(4, 3, 2)
    for gradients, many in (
        (vmap(grad(lambda scores: function(scores)[0].sum())), stacks(scores, 2)),
        (vmap(grad(lambda score: masked_linear(torch.ones(1, 2), weight, None, score).sum())), score),
    ):
        torch.testing.assert_close(torch.compile(gradients, backend="aot_eager")(many), gradients(many), **CLOSE)
        torch._dynamo.reset()
        # torch 2.6 stops at its own vmap before it comes to the sentence.
        with pytest.raises(
            Exception, match=None if torch.__version__.startswith("2.6.") else "leave out fullgraph=True"
        ):
            torch.compile(gradients, backend="aot_eager", fullgraph=True)(many)
        torch._dynamo.reset()


def test_embedding_and_linear():
    ids, weight, scores = torch.tensor([1, 1, 4]), torch.randn(6, 3), torch.randn(4, 6, 3)
    input, bias, bias_scores = torch.randn(2, 3), torch.randn(6), torch.randn(4, 6)
    functions = (
        lambda score, _: 9 * masked_embedding(ids, weight, score).pow(2).sum(),
        lambda score, bias_score: 9 * masked_linear(input, weight, bias, score, bias_score).pow(2).sum(),
        lambda score, _: 9 * (reference.binarize(score) * weight).pow(2).sum(),
    )
    for function in functions:
        for gradients in (grad(function), jacrev(function)):
            found = vmap(gradients)(scores, bias_scores)
            wanted = torch.stack([gradients(*pair) for pair in zip(scores, bias_scores, strict=True)])
            torch.testing.assert_close(found, wanted)
            assert (found.abs() == 1).any()


@each_backend
def test_scores_of_scoreadam_are_not_clamped_here_either(backend):
    input, _, _, weights, scores, _ = CASES[0].tensors()
    owned = leaves(*scores)
    ScoreAdam(owned)
    many = stacks([input], 3)[0]
    output = vmap(lambda x: masked_lstm(x, None, weights, owned, backend=backend)[0])(many)
    (50 * output).sum().backward()
    wanted = leaves(*scores)
    for x in many:
        (50 * masked_lstm(x, None, weights, wanted, backend=backend, clamp=False)[0]).sum().backward()
    torch.testing.assert_close([score.grad for score in owned], [score.grad for score in wanted], **CLOSE)
    assert max(float(score.grad.abs().max()) for score in owned) > 1


# -- modes of the caller ----------------------------------------------------------------------------------------------


@each_backend
def test_no_grad_inside_holds_at_every_level(backend):
    """As for torch's own ops: what is computed there is in no graph, whoever differentiates around it."""
    input, _, _, weights, scores, _ = CASES[0].tensors()
    owned = leaves(*scores)

    def function(x):
        with torch.no_grad():
            output, _ = masked_lstm(x, None, weights, owned, backend=backend)
        return x.sum(), output

    gradient, output = grad(function, has_aux=True)(input)
    assert not output.requires_grad and torch.equal(gradient, torch.ones_like(input))


@each_backend
@each_case
def test_vmap_in_inference_mode(backend, case):
    function, scores = call(case, backend)
    many = stacks(scores, 5)
    with torch.inference_mode():
        found = vmap(function, (in_dims(many),))(many)
        assert_loop(found, function, many, 5)

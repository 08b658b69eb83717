"""The op in what traces it: torch.compile, torch.export, opcheck, fake tensors."""

import shutil
from dataclasses import replace

import pytest
import torch
from support.lstm_cases import CPU_KERNELS, Case, leaves
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from seam_fast import MaskedEmbedding, MaskedLinear, MaskedLSTM, masked_lstm
from seam_fast.ops import reference

BACKENDS = ["torch", *(["cpu"] if CPU_KERNELS else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)

CASES = [
    Case(T=4, B=3, I=2, H=3, hx=False),
    Case(T=4, B=3, I=2, H=3, L=2, D=2, lengths=(4, 0, 2), batch_first=True, masked="some"),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(function, case, dtype=torch.float64, **options):
    """Outputs and gradients by position."""
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    given = leaves(input, h_0, c_0, *weights, *scores)
    x, h, c, *rest = given
    tensors = rest[: len(weights)], rest[len(weights) :]
    output, states = function(x, None if h is None else (h, c), *tensors, **case.options, **options)
    wanted = [tensor for tensor in given if tensor is not None]
    return [output, *states], torch.autograd.grad((output, *states), wanted, cotangents)


@each_backend
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_whole(backend, compiler, case):
    compiled = torch.compile(masked_lstm, fullgraph=True, backend=compiler)
    found, wanted = results(compiled, case, backend=backend), results(reference.masked_lstm, case)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_the_other_layers_compiled_whole(compiler):
    for layer, input in (
        (MaskedLinear(3, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)),
        (MaskedEmbedding(9, 3, padding_idx=1, dtype=torch.float64), torch.tensor([[1, 2, 2]])),
    ):
        gradients = []
        for module in (layer, torch.compile(layer, fullgraph=True, backend=compiler)):
            gradients.append(torch.autograd.grad((9 * module(input)).pow(2).sum(), layer.scores()))
        torch.testing.assert_close(gradients[1], gradients[0])
        assert any((grad.abs() == 1).any() for grad in gradients[0]), "the clamp should have had something to do"


def test_one_node_stands_for_a_layer():
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph

    case = Case(T=30, L=2)
    results(torch.compile(masked_lstm, fullgraph=True, backend=compiler), case)
    assert len(graphs) == 1
    assert sum("masked_lstm_layer" in str(node.target) for node in graphs[0].graph.nodes) == 2


def test_sizes_may_change_without_compiling_anew():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(masked_lstm, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for T, B in ((4, 3), (6, 7), (9, 2)):
        case = Case(T=T, B=B, I=17, H=5, hx=False)  # equal sizes would be taken for one
        torch.testing.assert_close(
            results(compiled, case), results(reference.masked_lstm, case), rtol=1e-10, atol=1e-12
        )
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_by_inductor():
    case = Case(T=4, L=2)
    compiled = torch.compile(lambda *tensors, **options: masked_lstm(*tensors, **options), fullgraph=True)
    torch.testing.assert_close(results(compiled, case), results(reference.masked_lstm, case), rtol=1e-10, atol=1e-12)


def test_without_gradients_nothing_is_kept():
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph

    input, h_0, c_0, weights, scores, _ = Case().tensors()
    compiled = torch.compile(masked_lstm, fullgraph=True, backend=compiler)
    with torch.no_grad():
        found = compiled(input, (h_0, c_0), weights, scores)
    torch.testing.assert_close(found, masked_lstm(input, (h_0, c_0), weights, scores), rtol=0, atol=1e-14)
    (node,) = (node for node in graphs[0].graph.nodes if "masked_lstm_layer" in str(node.target))
    assert node.args[7] is False


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = MaskedLSTM(3, 4, 2, bidirectional=True, batch_first=True)

        def forward(self, input, lengths):
            return self.lstm(input, lengths=lengths)[0]

    tagger, input, lengths = Tagger().eval(), torch.randn(2, 5, 3), torch.tensor([5, 2])
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        tagger, (input, lengths), dynamic_shapes=({0: batch}, {0: batch}), strict=strict
    )  # fmt: skip
    torch.testing.assert_close(program.module()(input, lengths), tagger(input, lengths))
    input, lengths = torch.randn(7, 5, 3), torch.tensor([5, 2, 1, 0, 3, 4, 5])
    torch.testing.assert_close(program.module()(input, lengths), tagger(input, lengths))


OPCHECKS = [Case(T=3, B=2, I=2, H=2, hx=False), Case(T=3, B=3, D=2, lengths=(3, 3, 3)), CASES[1]]


@each_backend
@pytest.mark.parametrize("case", OPCHECKS, ids=str)
def test_opcheck(backend, case):
    case = replace(case, L=1, batch_first=False)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    masked = [score is not None for score in scores]
    scores = [score for score in scores if score is not None]
    input, h_0, c_0, *rest = leaves(input, h_0, c_0, *weights, *scores)
    count = len(weights)
    lengths = case.options["lengths"]
    arguments = input, h_0, c_0, rest[:count], rest[count:], masked, lengths
    torch.library.opcheck(torch.ops.seam_fast.masked_lstm_layer.default, (*arguments, True, backend))
    with torch.no_grad():
        output, h_n, _, saved = torch.ops.seam_fast.masked_lstm_layer(*arguments, True, backend)
    assert saved.numel() == case.D * case.T * case.B * 5 * case.H
    needs = [True] * 3 + [number % 2 == 0 for number in range(len(rest))]
    needs[1:3] = [h_0 is not None] * 2
    detached = [tensor.detach() for tensor in rest]
    states = [None if state is None else state.detach() for state in (h_0, c_0)]
    torch.library.opcheck(
        torch.ops.seam_fast.masked_lstm_layer_backward.default,
        (
            torch.randn_like(output),
            torch.randn_like(h_n),
            None,
            input.detach(),
            output,
            *states,
            saved,
            detached[:count],
            detached[count:],
            masked,
            lengths,
            needs,
            backend,
        ),
    )


@each_backend
def test_the_custom_op_refuses_lists_that_do_not_fit(backend):
    input, _, _, weights, scores, _ = Case().tensors()
    matrices = [weights[0], weights[1]] * 4
    for bad, message in (
        ((weights, scores[:3], [True] * 4), "scores must hold 4 tensors"),
        ((matrices, [], [False] * 8), "1 or 2 directions"),
    ):
        with pytest.raises(ValueError, match=message):
            torch.ops.seam_fast.masked_lstm_layer(input, None, None, *bad, None, False, backend)


def test_partial_gradients_through_the_custom_op():
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    compiled = torch.compile(masked_lstm, fullgraph=True, backend="aot_eager")
    x, score = leaves(input, scores[2])
    chosen = [None, scores[1], score, None]
    found = torch.autograd.grad(compiled(x, (h_0, c_0), weights, chosen)[0].sum(), (x, score))
    wanted = torch.autograd.grad(masked_lstm(x, (h_0, c_0), weights, chosen)[0].sum(), (x, score))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_the_module_compiles():
    module = MaskedLSTM(3, 4, 2)
    input = torch.randn(5, 2, 3)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    compiled(input)[0].sum().backward()
    grads = [score.grad.clone() for score in module.scores()]
    module.zero_grad()
    module(input)[0].sum().backward()
    torch.testing.assert_close(grads, [score.grad for score in module.scores()])


def test_fake_tensors_and_symbolic_tracing_see_shapes():
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    with FakeTensorMode() as mode:
        fake = lambda tensors: [mode.from_tensor(tensor) for tensor in tensors]  # noqa: E731
        output, (h_n, c_n) = masked_lstm(mode.from_tensor(input), fake([h_0, c_0]), fake(weights), fake(scores))
    assert output.shape == (7, 4, 5) and h_n.shape == c_n.shape == (1, 4, 5)
    traced = make_fx(lambda x: masked_lstm(x, (h_0, c_0), weights, scores)[0])(input)
    other = torch.randn_like(input)
    torch.testing.assert_close(traced(other), masked_lstm(other, (h_0, c_0), weights, scores)[0], rtol=0, atol=1e-14)


def test_bad_arguments_are_refused_in_the_custom_op_too():
    """Lengths are values, which the tracer does not see."""
    input, h_0, c_0, weights, scores, _ = Case().tensors()
    compiled = torch.compile(masked_lstm, fullgraph=True, backend="eager")
    with pytest.raises(ValueError, match="lengths must lie between 0 and"):
        compiled(input, (h_0, c_0), weights, scores, lengths=torch.tensor([1, 2, 3, 9]))

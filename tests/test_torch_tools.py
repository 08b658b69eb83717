"""What PyTorch can do to a module besides calling it: right numbers, or one sentence that names the way out."""

import copy
import io
import json
import subprocess
import sys
import warnings

import pytest
import torch
from support.lstm_cases import CPU_KERNELS
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from seam_fast import (
    MaskedEmbedding,
    MaskedLinear,
    MaskedLSTM,
    ScoreAdam,
    Settings,
    load_corpus,
    reengineer,
    train_classifier,
)

BACKENDS = ["torch", *(["cpu"] if CPU_KERNELS else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
OPTIONS = [{}, {"bias": False, "num_layers": 2}, {"num_layers": 2, "bidirectional": True, "batch_first": True}]
each_kind = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "no bias", "both directions"])
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def shake(module):
    generator = torch.Generator().manual_seed(5)
    for score in module.scores():
        nn.init.normal_(score, 0.3, generator=generator)
    return module


def make_lstm(backend="auto", **options):
    torch.manual_seed(0)
    return shake(MaskedLSTM(3, 4, dtype=torch.float64, backend=backend, **options)).eval()


class Tagger(nn.Module):
    """A user's model: all three layers, lengths, outputs taken apart."""

    def __init__(self, backend="auto"):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = shake(MaskedEmbedding(9, 3, padding_idx=0, dtype=torch.float64))
        self.lstm = make_lstm(backend, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = shake(MaskedLinear(8, 2, dtype=torch.float64))

    def forward(self, ids, lengths=None):
        output, (h_n, _) = self.lstm(self.embedding(ids), lengths=lengths)
        return self.linear(output).sum(1) + self.linear(torch.cat([h_n[-2], h_n[-1]], 1))


def saved_and_loaded(traced):
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


# -- torch.jit, torch.onnx ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_traces_of_the_other_layers_warn_of_nothing(bias):
    linear = shake(MaskedLinear(3, 2, bias))
    embedding = shake(MaskedEmbedding(9, 3, padding_idx=0))
    for layer, inputs in (
        (linear, (torch.randn(5, 3), torch.randn(2, 7, 3))),
        (embedding, (torch.tensor([1, 0, 8]), torch.tensor([[5], [0]]))),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(layer, (inputs[0],))
        for input in inputs:
            torch.testing.assert_close(traced(input), layer(input))


@each_backend
@each_kind
def test_a_trace_computes_for_any_size(backend, options):
    layer = make_lstm(backend, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, (torch.randn(5, 3, 3, dtype=torch.float64),))
    for module in (traced, saved_and_loaded(traced)):
        for T, B in ((5, 3), (9, 1), (1, 7)):
            input = torch.randn(T, B, 3, dtype=torch.float64)
            torch.testing.assert_close(module(input), layer(input), **CLOSE)
    assert "seam_fast::" not in str(traced.inlined_graph) and "PythonOp" not in str(traced.inlined_graph)
    cells = layer.num_layers * (2 if layer.bidirectional else 1)
    input, hx = torch.randn(4, 4, 3).double(), tuple(torch.randn(2, cells, 4, 4).double())
    torch.testing.assert_close(torch.jit.trace(layer, (input, hx))(input, hx), layer(input, hx), **CLOSE)


@each_backend
def test_a_trace_of_a_whole_model_takes_lengths(backend, tmp_path):
    model = Tagger(backend).eval()
    ids, lengths = torch.randint(9, (3, 5)), torch.tensor([5, 0, 2])
    traced = saved_and_loaded(torch.jit.trace(model, (ids, lengths)))
    for B, T in ((3, 5), (4, 7), (1, 1)):
        ids, lengths = torch.randint(9, (B, T)), torch.randint(T + 1, (B,))
        torch.testing.assert_close(traced(ids, lengths), model(ids, lengths), **CLOSE)
    program = """
import sys, torch
module = torch.jit.load(sys.argv[1])
assert "seam_fast" not in sys.modules
print(module(torch.tensor([[1, 2, 3]]), torch.tensor([2])).tolist())
"""
    path = tmp_path / "tagger.pt"
    torch.jit.save(traced, path)
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = model(torch.tensor([[1, 2, 3]]), torch.tensor([2])).tolist()
    assert json.loads(done.stdout) == [pytest.approx(row, rel=1e-9) for row in wanted]


def test_a_trace_takes_packed_sequences():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = make_lstm()

        def forward(self, input, lengths):
            packed, states = self.lstm(pack_padded_sequence(input, lengths, enforce_sorted=False))
            return packed.data, *states

    module = Packed().eval()
    traced = torch.jit.trace(module, (torch.randn(5, 3, 3).double(), torch.tensor([2, 5, 1])))
    input, lengths = torch.randn(7, 4, 3).double(), torch.tensor([1, 7, 3, 3])
    torch.testing.assert_close(traced(input, lengths), module(input, lengths), **CLOSE)


def test_a_trace_without_a_batch():
    layer, input = make_lstm(num_layers=2), torch.randn(5, 3).double()
    traced, other = torch.jit.trace(layer, (input,)), torch.randn(8, 3).double()
    torch.testing.assert_close(traced(other), layer(other), **CLOSE)


def test_what_stands_in_the_padding_does_not_reach_a_trace():
    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = make_lstm(bidirectional=True)

        def forward(self, input, lengths):
            return self.lstm(input, lengths=lengths)

    module, input, lengths = Of().eval(), torch.randn(4, 2, 3).double(), torch.tensor([4, 1])
    traced = torch.jit.trace(module, (input, lengths))
    input[1:, 1] = torch.nan
    torch.testing.assert_close(traced(input, lengths), module(input, lengths), **CLOSE)


@pytest.mark.parametrize("dynamo", [False, True])
def test_an_onnx_file_computes_the_same(dynamo, tmp_path):
    for library in ("onnx", "onnxscript") if dynamo else ("onnx",):
        pytest.importorskip(library)
    runtime = pytest.importorskip("onnxruntime")
    model, ids, lengths = Tagger().float().eval(), torch.randint(9, (3, 5)), torch.tensor([5, 0, 2])
    options = {} if dynamo else {"dynamic_axes": {"ids": [0, 1], "lengths": [0]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path / "tagger.onnx"
        torch.onnx.export(model, (ids, lengths), path, dynamo=dynamo, input_names=["ids", "lengths"], **options)
    session = runtime.InferenceSession(path)
    for B, T in ((3, 5),) if dynamo else ((3, 5), (2, 9)):
        ids, lengths = torch.randint(9, (B, T)), torch.randint(T + 1, (B,))
        (found,) = session.run(None, {"ids": ids.numpy(), "lengths": lengths.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(ids, lengths).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (lambda: MaskedLSTM(3, 4), r"to_lstm\(\)"),
        (lambda: MaskedEmbedding(3, 4), r"to_embedding\(\)"),
        (lambda: MaskedLinear(3, 4), r"to_linear\(\)"),
    ],
)
def test_torchscript_names_the_way_out_and_harms_nothing(make, way_out):
    model = nn.Sequential(nn.Identity(), make())
    inner = model[1]
    for module in (model, inner):
        with pytest.raises(TypeError, match=rf"torch\.jit\.script cannot compile Masked\w+: script what its {way_out}"):
            torch.jit.script(module)
    assert model[1] is inner and len(inner.scores()) > 0
    baked = getattr(inner, way_out.removesuffix(r"\(\)"))()
    torch.jit.script(baked)


# -- torch.fx ---------------------------------------------------------------------------------------------------------


@each_backend
def test_symbolic_traces_compute_and_train(backend):
    model = Tagger(backend)
    graph = torch.fx.symbolic_trace(model)
    ids, lengths = torch.randint(9, (3, 5)), torch.tensor([5, 0, 2])
    for given in ((ids, lengths), (ids, None), (ids[:, :2], None)):
        torch.testing.assert_close(graph(*given), model(*given), rtol=0, atol=0)
    grads = []
    for module in (graph, model):
        module.zero_grad()
        module(ids, lengths).pow(2).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*grads, rtol=0, atol=0)
    assert sum(node.op == "call_function" and "masked_" in str(node.target) for node in graph.graph.nodes) == 4
    if torch.__version__.startswith("2.6."):
        return  # it cannot write down annotations such as Tensor | None
    graph = torch.fx.symbolic_trace(model.lstm, {"hx": None, "lengths": None})
    input = torch.randn(2, 4, 3).double()
    torch.testing.assert_close(graph(input), model.lstm(input), rtol=0, atol=0)


# -- torch.nn.utils ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: make_lstm(), lambda: shake(MaskedLinear(3, 4).double())])
def test_pruning_a_weight_is_refused_before_anything_happens(make):
    module = make()
    name, input = module._names[0], torch.randn(5, 2, 3).double()
    before, wanted = {key: tensor.clone() for key, tensor in module.state_dict().items()}, module(input)
    for attempt in (
        lambda: prune.l1_unstructured(module, name, 0.5),
        lambda: prune.global_unstructured([(module, name)], prune.L1Unstructured, amount=0.3),
    ):
        with pytest.raises(RuntimeError, match=rf"prune cannot prune {name} of Masked\w+, whose scores"):
            attempt()
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(module(input), wanted, rtol=0, atol=0)


def test_what_the_refusal_advises_works():
    lstm = nn.LSTM(3, 4).double()
    prune.l1_unstructured(lstm, "weight_ih_l0", 0.5)
    masked, input = MaskedLSTM.from_lstm(lstm), torch.randn(5, 2, 3).double()
    torch.testing.assert_close(masked(input), lstm(input), **CLOSE)
    baked = shake(masked).to_lstm()
    prune.l1_unstructured(baked, "weight_hh_l0", 0.5)
    assert (baked.weight_hh_l0 == 0).sum() >= 32


@each_backend
def test_scores_may_be_pruned_and_parametrised(backend):
    layer, input = make_lstm(backend), torch.randn(5, 2, 3).double()
    twin = copy.deepcopy(layer)
    prune.random_unstructured(layer, "weight_ih_l0_mask", 0.5)
    with torch.no_grad():
        twin.weight_ih_l0_mask[layer.weight_ih_l0_mask_mask == 0] = 0
    torch.testing.assert_close(layer(input), twin(input), rtol=0, atol=0)
    assert layer.kept() == twin.kept() < 0.6
    layer(input)[0].sum().backward()
    assert layer.weight_ih_l0_mask_orig.grad.any()
    prune.remove(layer, "weight_ih_l0_mask")
    torch.testing.assert_close(layer(input), twin(input), rtol=0, atol=0)

    class Shift(nn.Module):
        def forward(self, score):
            return score - 0.5

    layer = make_lstm(backend)
    parametrize.register_parametrization(layer, "weight_hh_l0_mask", Shift())
    twin = make_lstm(backend)
    with torch.no_grad():
        twin.weight_hh_l0_mask -= 0.5
    for module in (layer, twin):
        module(input)[0].sum().backward()
    torch.testing.assert_close(layer(input), twin(input), rtol=0, atol=0)
    found = layer.parametrizations.weight_hh_l0_mask.original.grad
    torch.testing.assert_close(found, twin.weight_hh_l0_mask.grad, rtol=0, atol=0)


# -- modes and defaults of torch ---------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_has_no_say_in_a_call(backend, dtype):
    layer, input = make_lstm(backend, bidirectional=True), torch.randn(5, 2, 3).double()
    wanted = layer(input, lengths=torch.tensor([5, 2]))
    torch.set_default_dtype(dtype)
    try:
        found = layer(input, lengths=torch.tensor([5, 2]))
        score = torch.ones(2, dtype=torch.float32, requires_grad=True)
        score.grad = torch.ones_like(score)
        adam = ScoreAdam([score])
        for _ in range(3):
            adam.step()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert score.detach().tolist() == pytest.approx([0.97] * 2) and adam.state[score]["step"].dtype == torch.float32


@each_backend
def test_the_default_device_has_no_say_in_a_call(backend):
    layer, input = make_lstm(backend, bidirectional=True), torch.randn(5, 2, 3).double().requires_grad_()
    wanted = layer(input, lengths=torch.tensor([5, 2]))
    with torch.device("meta"):
        for lengths in ([5, 2], torch.tensor([5, 2], device="cpu")):
            torch.testing.assert_close(layer(input, lengths=lengths), wanted, rtol=0, atol=0)
        adam = ScoreAdam(layer.scores(), backend=backend)
        layer(input, lengths=[5, 2])[0].sum().backward()
        adam.step()
        assert MaskedLSTM(3, 4).weight_ih_l0.is_meta, "a new module goes where torch's would"
    assert input.grad.any() and not any(score.is_meta for score in layer.scores())


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_training_begins_on_the_cpu_whatever_the_default_device(toy, toy_base, backend, tmp_path):
    def run():
        (module,) = reengineer(toy_base, toy, targets=[1], settings=Settings(steps=20), backend=backend)
        return module, module.predict_proba(toy.test.ids, toy.test.lengths)

    wanted, probability = run()
    with torch.device("meta"):
        found, same = run()
        found.save(tmp_path / "module.safetensors")
        again = type(found).load(tmp_path / "module.safetensors", toy_base)
        base = train_classifier(toy, recipe="strong", seed=0, epochs=1)
    for key, score in wanted.scores.items():
        assert torch.equal(found.scores[key], score)
        assert torch.equal(again.scores[key] > 0, score > 0)
    assert torch.equal(same, probability)
    assert not base.hidden2label.weight.is_meta


def test_a_corpus_is_read_onto_the_cpu(tmp_path):
    for part in ("train", "test"):
        lines = "".join(f"{'ab'[n % 2]}\tword{n % 2} and{n % 3}\n" for n in range(40))
        (tmp_path / f"own-{part}-all-terms.txt").write_text(lines)
    with torch.device("meta"):
        corpus = load_corpus(tmp_path, "own")
        ids, lengths = corpus.encode(["word1 and2"])
    assert ids.device.type == lengths.device.type == corpus.test.ids.device.type == "cpu"


@each_backend
def test_inference_mode(backend):
    layer, input, lengths = make_lstm(backend), torch.randn(5, 2, 3).double(), torch.tensor([5, 3])
    with torch.inference_mode():
        found = layer(input, lengths=lengths)
        made = make_lstm(backend)
        inside = torch.randn(5, 2, 3).double()
    torch.testing.assert_close(found, layer(input, lengths=lengths), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(made(inside), layer(inside), rtol=0, atol=0)


def test_a_module_without_values_says_so():
    layer = MaskedLSTM(3, 4, device="meta")
    with pytest.raises(RuntimeError, match=r"meta device have no values to count: move the module by to_empty\(\)"):
        layer.kept()


# -- autograd's tools --------------------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_and_offloading(backend, reentrant):
    layer, input = make_lstm(backend, num_layers=2), torch.randn(5, 2, 3).double().requires_grad_()

    def gradients(call):
        layer.zero_grad()
        input.grad = None
        call().pow(2).sum().backward()
        return [input.grad, *(score.grad for score in layer.scores())]

    wanted = gradients(lambda: layer(input)[0])
    found = gradients(lambda: checkpoint(lambda x: layer(x)[0], input, use_reentrant=reentrant))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    with torch.autograd.graph.save_on_cpu():
        output = layer(input)[0]
    torch.testing.assert_close(gradients(lambda: output), wanted, rtol=0, atol=0)


@each_backend
def test_hooks_see_what_is_passed(backend):
    layer, input = make_lstm(backend), torch.randn(5, 2, 3).double().requires_grad_()
    seen = []
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_input[0].clone()))
    layer.weight_ih_l0_mask.register_hook(lambda grad: grad * 2)
    layer.weight_hh_l0_mask.register_post_accumulate_grad_hook(lambda score: seen.append(score.grad.clone()))
    layer(input)[0].sum().backward()
    plain, same = make_lstm(backend), input.detach().requires_grad_()
    plain(same)[0].sum().backward()
    torch.testing.assert_close(layer.weight_ih_l0_mask.grad, 2 * plain.weight_ih_l0_mask.grad, rtol=0, atol=0)
    torch.testing.assert_close(seen, [plain.weight_hh_l0_mask.grad, same.grad], rtol=0, atol=0)


@each_backend
def test_a_weight_may_stand_in_two_places(backend):
    """Each place is a use: clamped alone, then added."""
    one, two = make_lstm(backend), make_lstm(backend)
    one.weight_hh_l0_mask = two.weight_hh_l0_mask
    input = torch.randn(5, 2, 3).double()

    def loss(first, second):
        return 50 * (first(input)[0].sum() + second(input)[0].pow(2).sum())

    loss(one, two).backward()
    apart, other = make_lstm(backend), make_lstm(backend)
    loss(apart, other).backward()
    wanted = apart.weight_hh_l0_mask.grad + other.weight_hh_l0_mask.grad
    torch.testing.assert_close(two.weight_hh_l0_mask.grad, wanted, rtol=0, atol=0)
    assert wanted.abs().max() > 1


@each_backend
def test_expanded_arguments(backend):
    layer = make_lstm(backend)
    row, one = torch.randn(5, 1, 3).double(), torch.ones((), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(row.expand(5, 4, 3)), layer(row.repeat(1, 4, 1)), **CLOSE)
    with parametrize.cached():
        shared = copy.deepcopy(layer)

        class Same(nn.Module):
            def forward(self, score):
                return one.expand_as(score)

        parametrize.register_parametrization(shared, "weight_ih_l0_mask", Same(), unsafe=True)
        shared(row)[0].sum().backward()
    assert one.grad is not None and one.grad != 0


@each_backend
def test_a_replica_computes_the_same(backend):
    layer, input = make_lstm(backend), torch.randn(5, 2, 3).double()
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer._parameters.items():
        setattr(replica, name, parameter.view_as(parameter))  # no parameters, as torch.nn.DataParallel makes them
    torch.testing.assert_close(replica(input), layer(input), rtol=0, atol=0)
    replica(input)[0].sum().backward()
    assert all(score.grad is not None for score in layer.scores())
    averaged = torch.optim.swa_utils.AveragedModel(layer)
    averaged.update_parameters(layer)
    torch.testing.assert_close(averaged(input), layer(input), rtol=0, atol=0)

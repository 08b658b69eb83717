"""The op on a GPU: numbers against float64 as everywhere, and what is promised about them.

Cases and their truth are those of the CPU, where the truth also stays: tensors move to the GPU within what is called,
and its results move back. tests/test_cuda_host.py has the same kernels without a GPU,
tests/test_cuda_streams.py what only a GPU asks for: streams, graphs, no waiting.
"""

import contextlib
from dataclasses import replace

import pytest
import torch
from support.gpu_calls import DEVICE, FULL, SEVERAL, Call, assert_equal, each, each_of_several, found, on_gpu, there
from support.lstm_cases import (
    GRID,
    SHORT,
    Case,
    assert_close,
    assert_gates_are_right,
    distances,
    flat,
    run,
    truth,
    widened,
)
from torch import nn

from seam_fast import binarize, masked_lstm
from seam_fast.backend import unavailable_reason
from seam_fast.ops import reference
from seam_fast.testing import FACTOR, perturbed

if unavailable_reason("cuda"):
    pytest.skip(f"needs a GPU and the CUDA kernels: {unavailable_reason('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("faults_show_where_they_arise")


@pytest.fixture
def tf32():
    """Lets products of float32 round to tf32, during this test."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# -- the numbers ------------------------------------------------------------------------------------------------------


@each(*FULL, *SHORT)
@pytest.mark.parametrize("case", GRID, ids=str)
def test_the_grid_of_the_op(case, dtype):
    assert_close(case, found(case, dtype), dtype)


CHOICES = ("automatic", "own", "library")
CHOSEN = [
    Case(T=6, B=5, I=8, H=16, D=2, lengths=(6, 0, 3, 1, 6), batch_first=True),
    Case(T=8, B=9, I=5, H=33, L=2, D=2, lengths=(0, 8, 1, 7, 2, 6, 3, 5, 4), bias=False),
    Case(T=32, B=5, I=100, H=50, hx=False),
    Case(T=4, B=40, I=70, H=200, masked="some"),
]


@each(*FULL, *SHORT)
@pytest.mark.parametrize("recurrence", CHOICES)
@pytest.mark.parametrize("products", CHOICES)
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_every_choice_of_kernels(choose, case, dtype, recurrence, products):
    choose(recurrence, products)
    with unless_there_is_no_kernel():
        assert_close(case, found(case, dtype), dtype)


@contextlib.contextmanager
def unless_there_is_no_kernel():
    try:
        yield
    except RuntimeError as error:
        if "no kernel of seam-fast" not in str(error):
            raise
        pytest.skip(str(error).splitlines()[0])


HIDDEN = (1, 31, 32, 48, 50, 53, 64, 96, 97, 128, 129, 192, 256, 257, 384, 400, 512)


def sized(batch, hidden):
    lengths = {5: (3, 1, 0, 2, 3), 64: (3, 2, 1, 0) * 16}.get(batch)
    return Case(T=3, B=batch, I=8, H=hidden, lengths=lengths)


@each(torch.float32, *SHORT)
@pytest.mark.parametrize("choice", ["own", "automatic"])
@pytest.mark.parametrize("batch", [1, 5, 64, 133])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_size_of_kernel(choose, hidden, batch, choice, dtype):
    choose(choice, "automatic")
    with unless_there_is_no_kernel():
        assert_close(case := sized(batch, hidden), found(case, dtype), dtype)


# Two and four sequences a tile, several rounds of tiles, and too many for one launch.
MANY = [(32, 300), (50, 600), (96, 300), (128, 300), (64, 1100), (256, 300), (32, 4300), (50, 9000)]


@each(torch.float32, *SHORT)
@pytest.mark.parametrize(("hidden", "batch"), MANY)
def test_large_batches(hidden, batch, dtype):
    case = Case(T=2, B=batch, I=3, H=hidden, lengths=tuple(row % 3 for row in range(batch)))
    assert_close(case, found(case, dtype), dtype)


@pytest.mark.parametrize("batch", [1, 5, 64, 133])
@pytest.mark.parametrize("hidden", [1, 32, 33, 64, 128, 129, 256, 257])
def test_tf32_where_torch_allows_it(tf32, hidden, batch):
    """float32 whose products see 11 bits: held to what such numbers are worth, as those of float16 are."""
    case = sized(batch, hidden)
    results, (exact, _), (_, allowed) = flat(found(case, torch.float32)), truth(case), truth(case, torch.float16)
    for name, distance in distances(results, exact).items():
        assert distance <= allowed[name] + 4 * 2.0**-10 * float(exact[name].abs().max()), name


def test_full_precision_is_what_there_is_otherwise(tf32):
    case, errors = Case(T=8, B=8, I=64, H=256), []
    for allowed in (True, False):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        errors.append(distances(flat(found(case, torch.float32)), truth(case)[0])["output"])
    assert errors[0] > 20 * errors[1], "tf32 should be seen"


@pytest.mark.parametrize(("choice", "count"), [("own", 600), ("library", 100_000)])
def test_gates_over_the_whole_range(choose, choice, count):
    """Of our own kernels only so many sequences as one launch takes."""
    choose(choice, "automatic")
    assert_gates_are_right(count, DEVICE, backend="cuda")


# -- beside torch's own LSTM ------------------------------------------------------------------------------------------


def lstm_of_torch(input, hx, weights, scores, *, num_layers, bidirectional, batch_first, lengths):
    """The kernel of torch.nn.LSTM on the kept weights; with lengths, sequence by sequence."""
    kept = [w if s is None else w * binarize(s) for w, s in zip(weights, scores, strict=True)]
    cells = num_layers * (2 if bidirectional else 1)
    has_biases, hidden = len(weights) == 4 * cells, weights[1].shape[1]
    x = input.transpose(0, 1) if batch_first else input
    steps, batch, _ = x.shape
    hx = hx or [x.new_zeros(cells, batch, hidden) for _ in range(2)]

    def lstm(x, *states):
        states = [state.contiguous() for state in states]
        return torch._VF.lstm(x, states, kept, has_biases, num_layers, 0.0, True, bidirectional, False)

    if lengths is None:
        output, *states = lstm(x, *hx)
    else:
        rows = []
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            output, *states = x.new_zeros(0, 1, hidden * cells // num_layers), *(state[:, one] for state in hx)
            if length > 0:
                output, *states = lstm(x[:length, one], *states)
            rows.append((nn.functional.pad(output, (0, 0, 0, 0, 0, steps - length)), *states))
        output, *states = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))
        output = output + 0 * sum(
            tensor.sum() for tensor in (x, *kept)
        )  # all are used, even where no length is above 0
    return output.transpose(0, 1) if batch_first else output, tuple(states)


def assert_as_good_as_torch(case, dtype, results, tensors, context=contextlib.nullcontext):
    """Error <= 2 error of torch's kernel + floor: how far the truth moves when what is given moves by a unit, and two
    units of the largest value. A sharper rule than `assert_close`, which looks at a loop in plain PyTorch."""
    unit, wide = torch.finfo(dtype).eps, widened(tensors)
    exact = flat(run(reference.masked_lstm, case, torch.float64, wide))
    with context():
        theirs = distances(flat(run(on_gpu(lstm_of_torch), case, dtype, tensors)), exact)
    generator = torch.Generator().manual_seed(1)
    changes = [
        distances(flat(run(reference.masked_lstm, case, torch.float64, perturbed(wide, unit, generator))), exact)
        for _ in range(3)
    ]
    for name, distance in distances(flat(results), exact).items():
        floor = max(change[name] for change in changes) + 2 * unit * float(exact[name].abs().max())
        limit = FACTOR * theirs[name] + floor
        assert distance <= limit, f"{name}: {distance:.3g} from float64, {limit:.3g} allowed ({case}, {dtype})"


@each(*SHORT)
@pytest.mark.parametrize("case", GRID, ids=str)
def test_as_good_as_torchs_lstm_in_16_bits(case, dtype):
    assert_as_good_as_torch(case, dtype, found(case, dtype), case.tensors(dtype))


@each(*SHORT)
@pytest.mark.parametrize("case", [GRID[7], GRID[12], GRID[13], GRID[15]], ids=str)
def test_autocast(case, dtype):
    """As torch's LSTM: in autocast's dtype, with gradients in the dtypes of what they belong to."""
    autocast = lambda: torch.autocast(DEVICE, dtype)  # noqa: E731
    tensors = case.tensors(torch.float32)
    with autocast():
        results = found(case, torch.float32, tensors)
    for name, tensor in flat(results).items():
        assert tensor.dtype == (dtype if name in ("output", "h_n", "c_n") else torch.float32), name
    *given, cotangents = tensors
    exact_here = (*given, [cotangent.to(dtype).float() for cotangent in cotangents])  # results of 16 bits take no more
    assert_as_good_as_torch(case, dtype, results, exact_here, autocast)


@each(*FULL)
def test_plain_pytorch_computes_the_same_there(dtype):
    case = GRID[8]
    assert_close(case, run(on_gpu(masked_lstm, backend="torch"), case, dtype), dtype)


# -- what is promised about the numbers -------------------------------------------------------------------------------


@each_of_several
def test_every_call_gives_the_same_bits(case, dtype):
    call = Call(case, dtype)
    first = [tensor.clone() for tensor in call()]
    for _ in range(20):
        assert_equal(call(), first)


@each_of_several
def test_lengths_may_lie_anywhere(case, dtype):
    lengths = case.options["lengths"]
    if lengths is None:
        lengths = torch.arange(case.B) % (case.T + 1)
    results = [Call(case, dtype, lengths=given)() for given in (lengths, there(lengths), there(lengths.int()))]
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])


def test_lengths_on_the_gpu_are_cut_to_what_there_is():
    case = Case(T=6, B=5, D=2)
    results = [
        Call(case, torch.float32, lengths=there(torch.tensor(n)))() for n in ((-3, 99, 6, 2, 0), (0, 6, 6, 2, 0))
    ]
    assert_equal(*results)


def test_full_lengths_on_the_gpu_are_like_none():
    case = replace(Case(T=6, B=5, D=2), lengths=(6,) * 5)
    on_cpu = Call(case, torch.float64, lengths=case.options["lengths"])()  # where it shows that they are full
    torch.testing.assert_close(Call(case, torch.float64)(), on_cpu, rtol=1e-12, atol=1e-12)


@each(torch.float32, *SHORT)
@pytest.mark.parametrize("products", ["own", "library"])
def test_what_stands_in_the_padding_does_not_matter(choose, products, dtype):
    choose("automatic", products)
    case = Case(T=6, B=4, D=2, L=2, lengths=(6, 0, 3, 1))
    tensors = case.tensors(dtype)
    for row, length in enumerate(case.lengths):
        tensors[0][length:, row] = float("nan")
        tensors[5][0][length:, row] = 7.0  # nor does the gradient of an output that is zero whatever happens
    results = found(case, dtype, tensors)
    for row, length in enumerate(case.lengths):
        assert not results["output"][length:, row].any() and not results["input"][length:, row].any()
    tensors[0].nan_to_num_(0.0)
    torch.testing.assert_close(results, found(case, dtype, tensors), rtol=0, atol=0)


@each(torch.float32, torch.bfloat16)
def test_strides_do_not_matter(dtype):
    case = Case(T=6, B=5, I=4, H=7, L=2, D=2, lengths=(6, 2, 0, 5, 1))

    def strided(tensor):
        """The same numbers with gaps between them, last dimension first."""
        order = tuple(reversed(range(tensor.dim())))
        holes = torch.full((*reversed(tensor.shape), 2), float("nan"), dtype=dtype, device=DEVICE)
        holes[..., 0] = tensor.permute(order)
        return holes[..., 0].permute(order)

    def function(input, hx, weights, scores, **options):
        given = strided(input), [strided(t) for t in hx], [strided(t) for t in weights], [strided(t) for t in scores]
        output, states = masked_lstm(*given, **options)
        return strided(output), tuple(strided(state) for state in states)  # so that gradients come in strides, too

    assert_close(case, run(on_gpu(function, backend="cuda"), case, dtype), dtype)


@each(torch.float32, torch.bfloat16)
def test_gradients_may_be_expanded_or_missing(dtype):
    case = Case(T=6, B=5, L=2, D=2, lengths=(6, 2, 0, 5, 1))
    call, dense = Call(case, dtype), Call(case, dtype)
    output, h_n, c_n = call.forward()
    for number, result in enumerate((output, h_n, c_n)):
        grads = torch.autograd.grad(result.sum(), call.leaves(), retain_graph=True)
        results = dense.forward()
        ones = [torch.full_like(r, float(n == number)) for n, r in enumerate(results)]
        assert_equal(grads, torch.autograd.grad(results, dense.leaves(), ones))


def test_only_what_is_asked_for_is_given():
    case = Case(T=6, B=9, I=30, H=40, lengths=(6, 2, 0, 5, 1, 6, 6, 3, 4))
    call = Call(case, torch.float32)
    wanted = dict(zip(map(id, call.leaves()), call()[3:], strict=True))
    for chosen in ([call.input], [call.scores[1]], [call.scores[0], call.scores[3]], [call.c_0]):
        for leaf in call.leaves():
            leaf.requires_grad_(any(leaf is other for other in chosen))
        grads = torch.autograd.grad(call.forward(), chosen, call.cotangents)
        torch.testing.assert_close(list(grads), [wanted[id(leaf)] for leaf in chosen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"D": 2, "L": 2}, {"lengths": ()}])
def test_a_batch_of_none(options):
    case = Case(B=0, **options)
    results = found(case, torch.float32)
    assert results["output"].shape == ((0, 7, 5) if case.batch_first else (7, 0, 5 * case.D))
    assert not any(grad.any() for grad in results["scores"] + results["weights"])


def test_tensors_in_different_places_are_refused():
    input, h_0, c_0, weights, scores, _ = Case().tensors(torch.float32)
    with pytest.raises(ValueError, match=r"weights\[0\] \(weight_ih_l0\) must be on cuda:0 like input, but is on cpu"):
        masked_lstm(there(input), None, weights, there(scores))
    with pytest.raises(ValueError, match=r"backend 'cuda' takes .* but input is torch.float32 on cpu"):
        masked_lstm(input, (h_0, c_0), weights, scores, backend="cuda")


# -- autograd ---------------------------------------------------------------------------------------------------------


@each_of_several
def test_a_graph_may_be_walked_twice(case, dtype):
    call = Call(case, dtype)
    results = call.forward()
    first = torch.autograd.grad(results, call.leaves(), call.cotangents, retain_graph=True)
    assert_equal(first, torch.autograd.grad(results, call.leaves(), call.cotangents))


def test_what_is_saved_may_wait_on_the_cpu():
    call = Call(*SEVERAL[1])
    wanted = call()
    with torch.autograd.graph.save_on_cpu():
        results = call.forward()
    assert_equal(torch.autograd.grad(results, call.leaves(), call.cotangents), wanted[3:])


def test_a_second_derivative_is_refused():
    call = Call(Case(), torch.float32)
    (first,) = torch.autograd.grad(call.forward()[0].sum(), call.input, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative; call it with backend='torch'"):
        first.pow(2).sum().backward()

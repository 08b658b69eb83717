"""The op on a GPU: numbers against float64 as everywhere, and what only a GPU asks for: streams, graphs, no waiting.

Cases and their truth are those of the CPU, where the truth also stays: tensors move to the GPU within what is called,
and its results move back. tests/test_cuda_host.py has the same kernels without a GPU.
"""

import contextlib
import gc
from dataclasses import replace

import pytest
import torch
from support.lstm_cases import (
    GRID,
    Case,
    assert_close,
    assert_gates_are_right,
    distances,
    flat,
    leaves,
    run,
    torch_lstm,
    truth,
    widened,
)
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from seam_fast import MaskedLSTM, ScoreAdam, binarize, masked_lstm
from seam_fast.backend import unavailable_reason
from seam_fast.ops import custom_op, reference
from seam_fast.ops import functional as ops
from seam_fast.testing import FACTOR, perturbed

if unavailable_reason("cuda"):
    pytest.skip(f"needs a GPU and the CUDA kernels: {unavailable_reason('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("faults_show_where_they_arise")

DEVICE = "cuda"

FULL, SHORT = [torch.float32, torch.float64], [torch.bfloat16, torch.float16]


def each(*dtypes):
    return pytest.mark.parametrize("dtype", dtypes, ids=[str(dtype).removeprefix("torch.") for dtype in dtypes])


@pytest.fixture
def choose():
    """Sets which kernels compute, during this test."""
    kernels = ops.choose_kernels("cuda", torch.zeros(1, device=DEVICE))
    yield kernels.choose_cuda
    kernels.choose_cuda("automatic", "automatic")


@pytest.fixture
def tf32():
    """Lets products of float32 round to tf32, during this test."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def there(tensors):
    """On the GPU: a tensor, None, or a list of them."""
    if isinstance(tensors, (list, tuple)):
        return [there(tensor) for tensor in tensors]
    return None if tensors is None else tensors.to(DEVICE)


def on_gpu(function, **fixed):
    """The function for tensors on the CPU: they go there, results and gradients come back."""

    def call(input, hx, weights, scores, lengths=None, **options):
        given = there(input), there(hx), there(weights), there(scores)
        output, states = function(*given, lengths=there(lengths), **options, **fixed)
        return output.cpu(), tuple(state.cpu() for state in states)

    return call


def found(case, dtype, tensors=None):
    """Results and gradients, computed by the kernels there."""
    return run(on_gpu(masked_lstm, backend="cuda"), case, dtype, tensors)


class Call:
    """A call and its gradients, again and again on the same tensors, which lie on the GPU."""

    def __init__(self, case, dtype, **options):
        input, h_0, c_0, weights, scores, cotangents = there(case.tensors(dtype))
        self.weights, self.cotangents = weights, cotangents
        self.input, self.h_0, self.c_0, *self.scores = leaves(input, h_0, c_0, *scores)
        self.options = case.options | {"backend": "cuda", "lengths": there(case.options["lengths"])} | options

    def leaves(self):
        return [t for t in (self.input, self.h_0, self.c_0, *self.scores) if t is not None]

    def forward(self):
        hx = None if self.h_0 is None else (self.h_0, self.c_0)
        output, states = masked_lstm(self.input, hx, self.weights, self.scores, **self.options)
        return [output, *states]

    def __call__(self):
        results = self.forward()
        return [*results, *torch.autograd.grad(results, self.leaves(), self.cotangents)]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one, other)


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

SEVERAL = [
    (Case(T=32, B=5, I=100, H=50, hx=False), torch.float32),
    (Case(T=9, B=70, I=30, H=200, D=2, L=2, lengths=(9, 1, 0, 5, 7, 2, 9) * 10), torch.float32),
    (Case(T=9, B=70, I=30, H=200, D=2, L=2, lengths=(9, 1, 0, 5, 7, 2, 9) * 10), torch.bfloat16),
    (Case(T=9, B=140, I=300, H=300, batch_first=True), torch.float16),
    (Case(T=5, B=9, I=30, H=600, lengths=(5, 1, 4, 0, 5, 3, 2, 1, 3)), torch.bfloat16),
    (Case(T=5, B=9, I=30, H=40, lengths=(5, 1, 4, 0, 5, 3, 2, 1, 3)), torch.float64),
]
each_of_several = pytest.mark.parametrize(
    ("case", "dtype"), SEVERAL, ids=[f"{case}-{str(dtype).removeprefix('torch.')}" for case, dtype in SEVERAL]
)


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


# -- streams, graphs, waiting -----------------------------------------------------------------------------------------


def capture(function):
    """Records a call as a CUDA graph; returns what replays it, and the tensors that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # what libraries set up in their first calls cannot be recorded
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph.replay, results


@each_of_several
@pytest.mark.parametrize("choice", ["automatic", "library"])
def test_a_cuda_graph_records_forward_and_backward(choose, case, dtype, choice):
    choose(choice, choice)
    call = Call(case, dtype)
    replay, results = capture(call)
    for seed in (1, 2):
        other = Call(replace(case, seed=seed), dtype)
        with torch.no_grad():
            for place, tensor in zip(call.leaves(), other.leaves(), strict=True):
                place.copy_(tensor)
            for place, tensor in zip(call.weights + call.cotangents, other.weights + other.cotangents, strict=True):
                place.copy_(tensor)
            if case.lengths is not None:
                call.options["lengths"].copy_(call.options["lengths"].flip(0))
        replay()
        assert_equal(results, call())


def test_a_forward_pass_alone_can_be_recorded():
    call = Call(*SEVERAL[2])
    with torch.no_grad():
        replay, results = capture(call.forward)
        call.input.neg_()
        replay()
        assert_equal(results, call.forward())


@each_of_several
def test_it_runs_where_the_current_stream_is(case, dtype):
    """The stream is busy for a while before the input is there: whoever does not wait in line reads NaN."""
    call = Call(case, dtype)
    wanted = [tensor.clone() for tensor in call()]
    input = call.input.detach().clone()
    with torch.no_grad():
        call.input.fill_(float("nan"))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.device(0), torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # clock cycles
        with torch.no_grad():
            call.input.copy_(input)
        results = call()
    side.synchronize()
    assert_equal(results, wanted)


@each_of_several
@pytest.mark.parametrize("place", ["nowhere", "cpu", "gpu"])
def test_nothing_waits_for_the_gpu(case, dtype, place):
    lengths = torch.arange(case.B) % (case.T + 1)
    call = Call(case, dtype, lengths={"nowhere": None, "cpu": lengths, "gpu": there(lengths)}[place])
    call()  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
        with torch.no_grad():
            call.forward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each(torch.float32, torch.bfloat16)
def test_a_call_at_the_size_of_r8_is_four_kernels(dtype):
    """Projection and recurrence; recurrence and all gradients. Torch adds none of its own."""
    call = Call(Case(T=32, B=5, I=100, H=50, hx=False), dtype)
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as profile:
        call()
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        pytest.skip("torch's profiler sees no kernels here")
    assert len(kernels) == 4 and all("seam::gpu" in name for name in kernels), kernels


def test_under_autocast_nothing_waits_either():
    call = Call(Case(T=6, B=5, lengths=(6, 2, 0, 5, 1)), torch.float32)
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with torch.autocast(DEVICE, torch.bfloat16):
                results = call.forward()
            torch.autograd.grad(results, call.leaves(), [c.bfloat16() for c in call.cotangents])
        finally:
            torch.cuda.set_sync_debug_mode("default")


# -- what traces it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each(*FULL, *SHORT)
@pytest.mark.parametrize("case", [GRID[3], GRID[7], GRID[8]], ids=str)
def test_compiled_whole(_nothing_compiled_before, case, dtype):
    compiled = torch.compile(masked_lstm, fullgraph=True, backend="aot_eager")
    assert_close(case, run(on_gpu(compiled, backend="cuda"), case, dtype), dtype)


@each(torch.float64, torch.float32, torch.bfloat16)
@pytest.mark.parametrize("case", [Case(T=3, B=2, I=2, H=2, hx=False), Case(T=4, B=3, D=2, lengths=(4, 0, 2))], ids=str)
def test_opcheck(case, dtype):
    input, h_0, c_0, weights, scores, cotangents = there(case.tensors(dtype))
    input, h_0, c_0, *rest = leaves(input, h_0, c_0, *weights, *scores)
    count, lengths = len(weights), there(case.options["lengths"])
    arguments = input, h_0, c_0, rest[:count], rest[count:], [True] * count, lengths
    # What is saved of 16 bits holds float32 beside them: numbers that mean nothing as they are, and are not compared.
    tests = {"test_utils": ("test_schema", "test_faketensor")} if dtype in SHORT else {}
    operator = torch.ops.seam_fast.masked_lstm_layer
    torch.library.opcheck(operator.default, (*arguments, True, "cuda"), **tests)
    with torch.no_grad():
        output, _, _, saved = operator(*arguments, True, "cuda")
    assert saved.numel() == case.D * case.T * case.B * case.H * custom_op.saved_per_unit("cuda", input)
    needs = [True, h_0 is not None, c_0 is not None] + [number % 2 == 0 for number in range(len(rest))]
    states = [None if state is None else state.detach() for state in (h_0, c_0)]
    rest = [tensor.detach() for tensor in rest]
    grads = cotangents[0], cotangents[1], None
    given = input.detach(), output, *states, saved, rest[:count], rest[count:], [True] * count, lengths, needs, "cuda"
    torch.library.opcheck(torch.ops.seam_fast.masked_lstm_layer_backward.default, (*grads, *given), **tests)


# -- memory -----------------------------------------------------------------------------------------------------------


@each_of_several
def test_nothing_stays_behind(case, dtype):
    call = Call(case, dtype)
    call()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        call()
        call.forward()
    gc.collect()
    assert torch.cuda.memory_allocated() == before


SAVED = [
    Case(T=128, B=64, I=100, H=128),
    Case(T=128, B=64, I=100, H=128, lengths=tuple(range(65, 129))),
    Case(T=128, B=64, I=300, H=128, batch_first=True, lengths=tuple(range(65, 129))),
    Case(T=128, B=32, I=1024, H=1024),  # by steps
]


@each(torch.float32, *SHORT)
@pytest.mark.parametrize("case", SAVED, ids=str)
def test_hardly_more_is_held_than_what_is_saved(dtype, case):
    """Beyond what comes out: the saved activations, and a little for products and sums. The scratch of cuBLAS, 32 MB on
    a Hopper GPU for each stream and thread, stays from the first call on.
    """
    call = Call(case, dtype)
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = call()
    torch.cuda.synchronize()
    returned = sum(tensor.untyped_storage().nbytes() for tensor in results)
    extra = torch.cuda.max_memory_allocated() - before - returned
    saved = case.T * case.B * case.H * custom_op.saved_per_unit("cuda", call.input) * call.input.element_size()
    assert extra <= 1.25 * saved, f"{extra / saved:.3f} of what is saved"


# Rows of 4 H numbers beyond 2^31 of them, which 32 bits cannot count.
HUGE = {"T": 1024, "B": 8256, "I": 8, "H": 64}


@pytest.mark.slow
@pytest.mark.parametrize("recurrence", ["automatic", "library"])
@pytest.mark.parametrize("products", ["own", "library"])
def test_tensors_that_32_bits_cannot_count(choose, recurrence, products):
    if torch.cuda.mem_get_info()[0] < 60e9:
        pytest.skip("needs 60 GB of free memory on the GPU")
    choose(recurrence, products)
    case = Case(**(HUGE | {"T": 1, "B": 1}), hx=False)
    assert HUGE["T"] * HUGE["B"] * 4 * HUGE["H"] > 2**31 or DEVICE == "cpu"
    _, _, _, weights, scores, _ = there(case.tensors(torch.bfloat16))
    input = torch.randn(HUGE["T"], HUGE["B"], HUGE["I"], device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    rows = [0, 1, HUGE["B"] // 2, HUGE["B"] - 1]

    def passes(input):
        with torch.no_grad():
            inferred, _ = masked_lstm(input, None, weights, scores, backend="cuda")
        output, _ = masked_lstm(input, None, weights, scores, backend="cuda")
        assert torch.equal(inferred[-1], output[-1])
        del inferred
        (grad,) = torch.autograd.grad(output, input, output.detach())
        return output.detach(), grad

    whole = [tensor[:, rows].float() for tensor in passes(input)]
    alone = [tensor.float() for tensor in passes(input.detach()[:, rows].contiguous().requires_grad_())]
    for found, wanted in zip(whole, alone, strict=True):
        size = float(wanted.abs().max())
        assert size > 0.01
        torch.testing.assert_close(found, wanted, rtol=0, atol=8 * torch.finfo(torch.bfloat16).eps * size)


# -- the module -------------------------------------------------------------------------------------------------------


def shaken(**options):
    torch.manual_seed(0)
    module = MaskedLSTM(4, 6, **options, dtype=torch.float64)
    for score in module.scores():
        nn.init.normal_(score, 0.3)
    return module.to(DEVICE)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_the_module_is_torchs_lstm_of_what_is_kept(options):
    module = shaken(**options)
    input = torch.randn(5, 3, 4, dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(module(input), module.to_lstm()(input), rtol=0, atol=1e-13)
    wanted = module.cpu()(input.cpu())
    torch.testing.assert_close(module.to(DEVICE)(input)[0].cpu(), wanted[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("sort", [False, True])
def test_a_packed_sequence_gives_one(sort):
    module = shaken(num_layers=2, bidirectional=True)
    lengths = (5, 3, 3, 1) if sort else (3, 1, 5, 3)
    packed = pack_sequence(
        [torch.randn(n, 4, dtype=torch.float64, device=DEVICE) for n in lengths], enforce_sorted=sort
    )
    (found, states), (wanted, wanted_states) = module(packed), module.to_lstm()(packed)
    torch.testing.assert_close((found.data, *states), (wanted.data, *wanted_states), rtol=0, atol=1e-13)
    assert torch.equal(found.batch_sizes, packed.batch_sizes) and found.data.device == packed.data.device
    found.data.sum().backward()
    assert all(score.grad is not None and score.grad.device == score.device for score in module.scores())


def test_scores_learn_there():
    torch.manual_seed(0)
    layer = MaskedLSTM.from_lstm(nn.LSTM(100, 50)).to(DEVICE)
    adam = ScoreAdam(layer.scores(), lr=0.05, penalty=0.2 / layer.num_scores)
    input, wanted = torch.randn(32, 5, 100, device=DEVICE), 0.1 * torch.randn(32, 5, 50, device=DEVICE)
    losses = []
    for _ in range(30):
        adam.zero_grad()
        loss = nn.functional.mse_loss(layer(input)[0], wanted)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and layer.kept() < 1


def test_it_is_torchs_lstm_of_the_kept_weights():
    case = Case(T=6, L=2, D=2, scale=4.0)
    input, h_0, c_0, weights, scores, _ = case.tensors()
    lstm = torch_lstm(case, weights, scores).to(DEVICE)
    given = there(input), there([h_0, c_0]), there(weights), there(scores)
    torch.testing.assert_close(
        masked_lstm(*given, **case.options, backend="cuda"), lstm(given[0], tuple(given[1])), rtol=0, atol=1e-12
    )

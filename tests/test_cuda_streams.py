"""The op on a GPU: streams, graphs, waiting, tracing, memory, and the module; its numbers are in test_cuda.py."""

import gc
from dataclasses import replace

import pytest
import torch
from support.gpu_calls import DEVICE, FULL, SEVERAL, Call, assert_equal, each, each_of_several, on_gpu, there
from support.lstm_cases import (
    GRID,
    SHORT,
    Case,
    assert_close,
    leaves,
    run,
    torch_lstm,
)
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from seam_fast import MaskedLSTM, ScoreAdam, masked_lstm
from seam_fast.backend import unavailable_reason
from seam_fast.ops import custom_op

if unavailable_reason("cuda"):
    pytest.skip(f"needs a GPU and the CUDA kernels: {unavailable_reason('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("faults_show_where_they_arise")


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

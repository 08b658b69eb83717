"""The CUDA op without a GPU: its kernels' own source, run on the CPU with an eye on races, bounds and barriers.

tests/test_ops.py runs all tests of the op on it; here is what only the CUDA op has: a kernel for each range of sizes,
numbers of 16 bits, and tf32. What a call promises, whatever kernel it runs, is in test_cuda_host_calls.py.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.gpu_stand_in import ORDERS
from support.lstm_cases import (
    GRID,
    SHORT,
    Case,
    assert_close,
    assert_gates_are_right,
    distances,
    each_short_dtype,
    flat,
    run,
    truth,
)

from seam_fast import masked_lstm

ROOT = Path(__file__).parents[1]
LENGTHS = (3, 1, 2, 0, 3, 3, 2, 1, 3)


def name_of(choice):
    """The backend's, for a choice of kernels or plain PyTorch."""
    return "torch" if choice == "torch" else "auto"


def found(case, dtype, **changes):
    return run(masked_lstm, replace(case, **changes), dtype)


# -- every kernel -----------------------------------------------------------------------------------------------------

# Units at both ends of the range of each kernel that does all steps in one launch: where it is full, and a unit more.
# A kernel that is full runs with every number of sequences that it takes at once, one with idle lanes with one of these
# numbers: lanes and sequences have nothing to do with one another. These are (units, sequences), as kernels are chosen
# for a device that runs four blocks or four clusters at once.
FULL = [(1, 3), (31, 3), (33, 7), (49, 3), (53, 7)]  # a block for a sequence, or for two
FULL += [(hidden, batch) for hidden in (32, 48, 52, 64) for batch in (3, 7)]
FULL += [(65, 3), (96, 7), (97, 13), (128, 3), (128, 7)]  # a cluster of four
FULL += [(65, 13), (96, 13)]  # a tile of four, as clusters are busy
FULL += [(129, 3), (193, 7), (257, 13), (385, 3)]  # a tile of one, two, four; of most units two at most
FULL += [(hidden, batch) for hidden in (192, 256, 384) for batch in (3, 7, 13)] + [(512, 3), (512, 7)]
# In 16 bits odd numbers of units, of which no two lie in a word, have kernels of their own; for larger even numbers see
# "large layers" below. Full kernels run in both kinds of numbers, those with idle lanes in one of them.
FULL_IN_16_BITS = [(n, dtype) for n in (32, 48, 52, 64, 127, 128, 191, 192, 255, 256, 383, 511) for dtype in SHORT]
IDLE = (1, 33, 49, 53, 65, 66, 129, 130, 193, 194, 257, 385)
FULL_IN_16_BITS += [(n, SHORT[i // 2 % 2]) for i, n in enumerate(IDLE)]


@pytest.mark.parametrize(("hidden", "batch"), FULL)
def test_each_kernel_in_full_precision(host, hidden, batch):
    host("own")
    lengths = (LENGTHS * 2)[:batch]
    assert_close(case := Case(T=3, B=batch, I=2, H=hidden, lengths=lengths), found(case, torch.float32), torch.float32)


@pytest.mark.parametrize(("hidden", "dtype"), FULL_IN_16_BITS, ids=str)
def test_each_kernel_in_16_bits(host, hidden, dtype):
    host("own")
    lengths = (5, 1, 4, 0, 5, 3, 2, 1, 5)
    assert_close(case := Case(T=5, B=9, I=2, H=hidden, lengths=lengths), found(case, dtype), dtype)


@pytest.mark.parametrize("hidden", [65, 96, 97, 128])
@each_short_dtype
def test_each_kernel_in_16_bits_without_clusters(host, hidden, dtype):
    host("own", clusters=False)
    lengths = (5, 1, 4, 0, 5, 3, 2, 1, 5)
    assert_close(case := Case(T=5, B=9, I=2, H=hidden, lengths=lengths), found(case, dtype), dtype)


@pytest.mark.parametrize("hidden", [1, 32, 33, 64, 65, 128, 129, 256, 300])
def test_each_kernel_of_tf32(host, hidden):
    """float32 whose products see 11 bits: held to what such numbers are worth, and further off than full precision."""
    case = Case(T=3, B=9, I=2, H=hidden, lengths=LENGTHS)
    host("own", tf32=True)
    results = flat(found(case, torch.float32))
    exact, _ = truth(case)
    unit = 2.0**-10
    _, allowed = truth(case, torch.float16)  # which have as many bits
    for name, distance in distances(results, exact).items():
        assert distance <= allowed[name] + 4 * unit * float(exact[name].abs().max()), name
    if hidden not in (65, 129, 256):  # there are no such kernels, or none as fast: those in full precision do it
        return
    host("own")
    assert distances(results, exact)["output"] > 20 * distances(flat(found(case, torch.float32)), exact)["output"]


@each_short_dtype
@pytest.mark.parametrize("choice", ["automatic", "library"])
@pytest.mark.parametrize("case", GRID, ids=str)
def test_the_grid_of_the_op_in_16_bits(host, case, dtype, choice):
    host(choice, choice)
    assert_close(case, found(case, dtype), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *SHORT], ids=["float32", "bfloat16", "float16"])
def test_more_tiles_than_run_at_once(host, dtype):
    host("own")
    case = Case(T=2, B=70, I=2, H=5, lengths=tuple(b % 3 for b in range(70)))
    assert_close(case, found(case, dtype), dtype)


# -- small layers: a block for one or two sequences --------------------------------------------------------------------

SMALL = [pytest.param(batch, id=f"{batch} sequences") for batch in (1, 4, 5, 6)]  # to a block: one, one, two, two


@pytest.mark.parametrize(
    ("steps", "batch"),
    [*((steps, batch) for steps in (1, 2, 3, 4, 6) for batch in (4, 5)), (1, 6), (2, 1), (3, 6), (6, 1)],
)
@pytest.mark.parametrize(
    ("hidden", "dtype"),
    [(50, torch.float32), (50, torch.bfloat16), (100, torch.float16), (160, torch.bfloat16)],
    ids=str,
)
def test_layers_of_few_steps(host, steps, batch, hidden, dtype):
    """What is fetched ahead is fetched for the first steps, too; the last store comes behind the last step."""
    host("own", "own").watch_memory(True)
    case = Case(T=steps, B=batch, I=2, H=hidden, lengths=(steps, 0, 1, steps // 2, steps - 1, 0)[:batch])
    assert_close(case, found(case, dtype), dtype)
    case = replace(case, lengths=None, hx=False)
    assert_close(case, found(case, dtype), dtype)


@pytest.mark.parametrize("batch", SMALL)
@pytest.mark.parametrize(
    ("hidden", "dtype"), [(9, torch.float32), (9, torch.float16), (72, torch.bfloat16), (200, torch.float16)], ids=str
)
def test_weights_need_not_begin_at_16_bytes(host, batch, hidden, dtype):
    host("own")
    case = Case(T=3, B=batch, I=2, H=hidden)
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    moved = [torch.cat([w.new_zeros(1), w.flatten()])[1:].view(w.shape) for w in (*weights, *scores)]
    assert moved[1].data_ptr() % 16 == dtype.itemsize
    tensors = input, h_0, c_0, moved[: len(weights)], moved[len(weights) :], cotangents
    assert_close(case, run(masked_lstm, case, dtype, tensors), dtype)


@pytest.mark.parametrize("hidden", [68, 130])
@each_short_dtype
def test_gradients_need_not_lie_in_words(host, hidden, dtype):
    host("own").watch_memory(True)
    case = Case(T=3, B=5, I=2, H=hidden, lengths=(3, 0, 2, 3, 1))
    *tensors, cotangents = case.tensors(dtype)
    odd = torch.cat([cotangents[0].new_zeros(1), cotangents[0].flatten()])[1:].view(cotangents[0].shape)
    results = flat(run(masked_lstm, case, dtype, (*tensors, [odd, *cotangents[1:]])))
    exact, allowed = truth(case, dtype)
    assert all(distance <= allowed[name] for name, distance in distances(results, exact).items())


def of_gates(gates, c_0, backend="auto"):
    """h and c behind a step from the cells `c_0` (N,), where the gates before activation are `gates` (4, N)."""
    states = []
    for some, c in zip(gates.split(64, 1), c_0.split(64), strict=True):  # a unit for each
        rows, zeros = some.numel(), torch.zeros_like(some)
        weights = [zeros.new_zeros(rows, 1), zeros.new_zeros(rows, len(c)), some.flatten(), zeros.flatten()]
        hx = torch.zeros_like(c).view(1, 1, -1), c.view(1, 1, -1)
        states.append(masked_lstm(gates.new_zeros(1, 1, 1), hx, weights, [None] * 4, backend=backend)[1])
    return [torch.cat([state[which].flatten() for state in states]) for which in range(2)]


def test_activations_are_good_to_their_last_digits(host):
    """Small ones, too: a tanh as a difference of numbers near 1 would lose them."""
    host("own")
    some = torch.logspace(-12, 2, 400)
    some = torch.cat([some, -some])
    large = torch.full_like(some, 50.0)
    for gates, c_0 in (
        (torch.stack([some, -large, large, large]), torch.zeros_like(some)),  # c = sigmoid(some), h = tanh(c)
        (torch.stack([large, -large, some, large]), torch.zeros_like(some)),  # c = tanh(some)
        (torch.stack([-large, large, large, some]), some),  # c = some, h = sigmoid(some) tanh(some)
    ):
        exact = of_gates(gates.double(), c_0.double(), "torch")
        for own, true in zip(of_gates(gates, c_0), exact, strict=True):
            # A few roundings, and that of log2(e), which an exponent multiplies. Below 1e-37 numbers may count as zero.
            allowed = (4e-7 + 2e-8 * some.abs()) * true.abs() + 1e-37
            assert bool(((own - true).abs() <= allowed).all())


def test_gates_that_are_not_finite_are_as_in_torch(host):
    host("own")
    values = [float("inf"), -float("inf"), float("nan"), 3e38, -3e38, 0.0, 1.0]
    gates = torch.cartesian_prod(*[torch.tensor(values)] * 4).T.contiguous()
    c_0 = torch.linspace(-1, 1, gates.shape[1])
    torch.testing.assert_close(of_gates(gates, c_0), of_gates(gates, c_0, "torch"), equal_nan=True)


@pytest.mark.parametrize("batch", SMALL)
@pytest.mark.parametrize(
    ("hidden", "dtype"), [(9, torch.float32), (9, torch.bfloat16), (70, torch.bfloat16), (140, torch.bfloat16)], ids=str
)
def test_what_is_not_finite_stays_with_its_sequence(host, batch, hidden, dtype):
    """An infinite c_0 and a gradient that is none, of a sequence without steps; weights that are none but masked."""
    host("own", "own")
    case = Case(T=3, B=batch, I=2, H=hidden, lengths=(3, 0, 2, 3, 0, 1)[:batch])
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    if batch > 1:
        c_0[:, 1], cotangents[2][:, 1] = float("inf"), float("nan")
    weights = [torch.where(score > 0, weight, float("nan")) for weight, score in zip(weights, scores, strict=True)]
    tensors = input, h_0, c_0, weights, scores, cotangents
    own, twin = (flat(run(masked_lstm, case, dtype, tensors, backend=b)) for b in ("auto", "torch"))
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.05, 0.05)
    for name, tensor in twin.items():
        torch.testing.assert_close(own[name], tensor, equal_nan=True, rtol=rtol, atol=atol)
    assert own["output"].isfinite().all()


def test_small_layers_of_large_batches(host):
    """Several rounds of blocks, and too many for one launch."""
    for batch in (100, 400):
        host()
        case = Case(T=2, B=batch, I=2, H=5, lengths=tuple(b % 3 for b in range(batch)))
        assert_close(case, found(case, torch.float32), torch.float32)


# -- middle layers: a cluster of four blocks for one or two sequences, in 16 bits of four to eight for eight -----------


# In every order of threads one size; the others in one each.
IN_CLUSTERS = [*((100, order) for order in ORDERS), (65, "shuffled"), (97, "reversed"), (128, "depth_first")]


@pytest.mark.parametrize("multiprocessors", [pytest.param(40, id="one"), pytest.param(4, id="two")])  # to a cluster
@pytest.mark.parametrize(("hidden", "order"), IN_CLUSTERS)
def test_a_cluster_of_four(host, hidden, multiprocessors, order):
    """Messages come early or late, by the order of threads, and of sequences some end before others."""
    module = host("own", "own", multiprocessors=multiprocessors)
    module.set_order(order, 3)
    for steps in (1, 2, 5):
        lengths = (steps, 0, 1, steps - 1, steps // 2)
        case = Case(T=steps, B=5, I=2, H=hidden, D=2, lengths=lengths)
        assert_close(case, found(case, torch.float32), torch.float32)
    case = Case(T=4, B=5, I=2, H=hidden, hx=False, bias=False)
    assert_close(case, found(case, torch.float32), torch.float32)


# In every order of threads one size with words of two numbers and one without; the larger ones take seconds each.
IN_16_BITS = [(hidden, order) for hidden in (66, 101) for order in ORDERS]
IN_16_BITS += [(hidden, "shuffled") for hidden in (134, 200, 256)]  # of four, six and eight blocks


@pytest.mark.parametrize(("hidden", "order"), IN_16_BITS)
def test_a_cluster_in_16_bits(host, hidden, order):
    module = host("own", "own")
    module.set_order(order, 3)
    dtype = SHORT[hidden // 2 % 2]
    for steps in (1, 2, 5):
        lengths = (steps, 0, 1, steps - 1, steps // 2, 1, 0, steps, 1)
        case = Case(T=steps, B=9, I=2, H=hidden, D=2, lengths=lengths, batch_first=steps == 2)
        assert_close(case, found(case, dtype), dtype)
    case = Case(T=4, B=5, I=2, H=hidden, hx=False, bias=False)
    assert_close(case, found(case, dtype), dtype)


# -- large layers in 16 bits: a cluster of eight or 16 blocks for eight sequences --------------------------------------

LARGE = [(258, 5, "shuffled"), (384, 5, "reversed")]  # a cluster of eight
LARGE += [(386, 5, "depth_first"), (512, 5, "shuffled")]  # of 16, where there are enough of them
LARGE += [(392, 8, "shuffled"), (512, 8, "depth_first")]  # of eight, whose weights fill shared memory as well
FULL_CLUSTERS = (384, 512)  # without idle lanes


@pytest.mark.parametrize(("hidden", "cluster", "order"), LARGE)
def test_a_large_layer_in_16_bits(host, hidden, cluster, order):
    """Right, and the same to the bit when threads take turns in another order."""
    module = host("own", "own", cluster=cluster)
    module.watch_memory(True)
    dtype = SHORT[hidden // 2 % 2]
    case = Case(T=3, B=9, I=2, H=hidden, lengths=LENGTHS, batch_first=hidden % 8 == 0)
    results = []
    for turns in ("round_robin", order):
        module.set_order(turns, 3)
        results.append(found(case, dtype))
        assert_close(case, results[-1], dtype)
    for name, tensor in flat(results[0]).items():
        assert torch.equal(tensor, flat(results[1])[name]), name
    for steps in (1, 4) if hidden in FULL_CLUSTERS else ():
        case = Case(T=steps, B=3, I=2, H=hidden, hx=False, bias=False)
        assert_close(case, found(case, dtype), dtype)


# -- larger ones: groups of blocks of 16 units for 16 sequences --------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "order"),
    [
        (Case(T=3, B=18, I=2, H=514, lengths=LENGTHS * 2), ("round_robin", "shuffled")),  # two groups at once
        (Case(T=2, B=33, I=2, H=520, hx=False, bias=False), ("depth_first",)),  # and a third group after them
        (Case(T=3, B=3, I=2, H=770, lengths=(3, 0, 2), batch_first=True), ("reversed",)),
    ],
    ids=str,
)
def test_a_group_of_blocks_in_16_bits(host, case, order):
    """Right, and where threads take turns in two orders, the same to the bit."""
    module = host("own", "own")
    module.watch_memory(True)
    dtype = SHORT[case.H // 2 % 2]
    results = []
    for turns in order:
        module.set_order(turns, 3)
        results.append(found(case, dtype))
        assert_close(case, results[-1], dtype)
    for name, tensor in flat(results[0]).items():
        assert torch.equal(tensor, flat(results[-1])[name]), name


@pytest.mark.parametrize("choice", ["own", "library"])
def test_gates_over_the_whole_range(host, choice):
    host(choice, multiprocessors=1000).watch(False)
    assert_gates_are_right(600)

"""The CUDA op without a GPU: its kernels' own source, run on the CPU with an eye on races, bounds and barriers.

tests/test_ops.py runs all tests of the op on it; here is what only the CUDA op has: a kernel for each range of sizes,
numbers of 16 bits, tf32, weights wider than what is computed with, and devices of several kinds.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.gpu_stand_in import use_cuda_host
from support.lstm_cases import GRID, Case, assert_close, assert_gates_are_right, distances, flat, leaves, run, truth
from support.scripts import load_script
from torch._subclasses.fake_tensor import FakeTensorMode

from seam_fast import BackendError, _ext, backend, masked_lstm
from seam_fast.ops import checks, custom_op, eager

ROOT = Path(__file__).parents[1]
SHORT = [torch.bfloat16, torch.float16]
each_short_dtype = pytest.mark.parametrize("dtype", SHORT, ids=["bfloat16", "float16"])
LENGTHS = (3, 1, 2, 0, 3, 3, 2, 1, 3)
ORDERS = ["round_robin", "depth_first", "reversed", "shuffled"]


@pytest.fixture
def host(monkeypatch):
    """Turns the op into the CUDA op on the CPU; arguments as of `use_cuda_host`."""
    module = None

    def use(*arguments, **options):
        nonlocal module
        module = use_cuda_host(monkeypatch, *arguments, **options)
        return module

    yield use
    if module is not None:
        module.choose_cuda("automatic", "automatic")
        module.set_order("round_robin", 0)
        module.watch_memory(False)
        module.watch(True)
        module.use_little_memory(1 << 20)


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


# -- what a launch promises -------------------------------------------------------------------------------------------

SEVERAL = [
    (Case(T=5, B=9, I=3, H=20, D=2, lengths=(5, 1, 4, 0, 5, 3, 2, 1, 3)), torch.float32),
    (Case(T=5, B=9, I=3, H=20, D=2, lengths=(5, 1, 4, 0, 5, 3, 2, 1, 3)), torch.bfloat16),
    (Case(T=4, B=4, I=3, H=50, D=2, lengths=(4, 2, 0, 3)), torch.float32),  # a sequence to a block, not two
    (Case(T=3, B=5, I=3, H=100), torch.float32),  # a cluster of four, which sends messages
    (Case(T=3, B=9, I=3, H=150), torch.float32),  # a cluster of four, which has barriers
    (Case(T=4, B=4, I=3, H=50, D=2, lengths=(4, 2, 0, 3)), torch.float16),
    (Case(T=3, B=9, I=3, H=90, D=2, lengths=(3, 1, 2, 0, 3, 3, 2, 1, 3)), torch.float16),  # four, eight sequences
    (Case(T=3, B=9, I=3, H=99), torch.bfloat16),  # of which no two lie in a word
    (Case(T=3, B=9, I=3, H=200), torch.bfloat16),  # a cluster of eight
    (Case(T=3, B=9, I=3, H=201), torch.bfloat16),  # four, and two warps to a sum
]
each_of_several = pytest.mark.parametrize(("case", "dtype"), SEVERAL, ids=lambda value: str(value))
# By a matrix library and a launch for each step no block does more than one of these three kinds of numbers shows.
CHOSEN = [("own", *several) for several in SEVERAL] + [("library", *SEVERAL[i]) for i in (0, 1, 5)]
each_chosen = pytest.mark.parametrize(("choice", "case", "dtype"), CHOSEN, ids=lambda value: str(value))


@each_chosen
def test_the_order_of_threads_changes_no_bit(host, case, dtype, choice):
    """And whatever the order, nobody reads what is being written: the run would end with a finding."""
    module = host(choice, choice)
    results = []
    for order in ORDERS:
        module.set_order(order, 7)
        results.append(flat(found(case, dtype)))
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


@each_chosen
@pytest.mark.parametrize("batch_first", [False, True])
def test_no_kernel_leaves_the_memory_of_its_tensors(host, case, dtype, choice, batch_first):
    module = host(choice, choice)
    module.watch_memory(True)
    found(case, dtype, batch_first=batch_first)
    found(case, dtype, batch_first=batch_first, hx=False, bias=False, lengths=None)


def test_the_watch_on_memory_sees_what_leaves_it(host):
    module = host()
    input, _, _, weights, scores, _ = Case(hx=False).tensors(torch.float32)  # from before the watch began
    module.watch_memory(True)
    with pytest.raises(RuntimeError, match="global access outside what was handed over"):
        masked_lstm(input, None, weights, scores)


@each_of_several
def test_a_sequence_does_not_depend_on_those_beside_it(host, case, dtype):
    host("own", "own")
    whole = found(case, dtype)
    input, h_0, c_0, weights, scores, _ = case.tensors(dtype)
    for row in (0, case.B - 1):
        lengths = None if case.lengths is None else torch.tensor(case.lengths[row : row + 1])
        states = (h_0[:, row : row + 1], c_0[:, row : row + 1])
        options = {"bidirectional": case.D == 2, "lengths": lengths}
        alone, _ = masked_lstm(input[:, row : row + 1], states, weights, scores, **options)
        if dtype == torch.float32 and case.B > 4:
            # Alone it is a tile by itself, whose sums over the same terms go another way round the lanes.
            torch.testing.assert_close(whole["output"][:, row : row + 1], alone, rtol=0, atol=1e-6)
        else:
            assert torch.equal(whole["output"][:, row : row + 1], alone)


@each_of_several
def test_nothing_is_saved_where_no_gradient_is_wanted(host, case, dtype):
    host("own", "own")
    input, h_0, c_0, weights, scores, _ = case.tensors(dtype)
    output, (h_n, c_n) = masked_lstm(input, (h_0, c_0), weights, scores, **case.options)
    wanted = found(case, dtype)
    assert torch.equal(output, wanted["output"]) and torch.equal(h_n, wanted["h_n"]) and torch.equal(c_n, wanted["c_n"])


# -- weights wider than what is computed with -------------------------------------------------------------------------


@each_short_dtype
@pytest.mark.parametrize("choice", ["own", "library", "torch"])
def test_weights_and_scores_may_be_float32(host, dtype, choice):
    """As under autocast: results in input's dtype, gradients of weights and scores in theirs."""
    case = Case(T=6, B=5, I=7, H=20, L=2, D=2, lengths=(6, 0, 3, 1, 6))
    if choice != "torch":
        host(choice, choice)
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    weights, scores = [weight.float() for weight in weights], [score.float() for score in scores]
    tensors = input, h_0, c_0, weights, scores, cotangents
    results = flat(run(masked_lstm, case, dtype, tensors, backend=name_of(choice)))
    exact, allowed = truth(case, dtype)
    for name, tensor in results.items():
        assert tensor.dtype == (torch.float32 if name.startswith(("weights", "scores")) else dtype), name
        assert float((tensor - exact[name]).abs().max()) <= allowed[name], name


def test_a_score_that_16_bits_would_lose_still_keeps_its_weight(host):
    host()
    case = Case(hx=False)
    input, _, _, weights, scores, _ = case.tensors(torch.float16)
    weights, scores = [weight.float() for weight in weights], [score.float() for score in scores]
    small = [torch.where(score > 0, 1e-30, score) for score in scores]
    outputs = [masked_lstm(input, None, weights, some)[0] for some in (scores, small)]
    assert torch.equal(*outputs)


def test_gradients_of_scores_keep_their_width(host):
    """A sum over many steps in 16 bits would stop growing; and rounding it would show in the float32 gradient."""
    host("automatic", "own")
    case = Case(T=40, B=9, I=3, H=8, scale=0.01)
    input, h_0, c_0, weights, scores, cotangents = case.tensors(torch.bfloat16)
    tensors = input, h_0, c_0, [weight.float() for weight in weights], [score.float() for score in scores], cotangents
    for grad in run(masked_lstm, case, torch.bfloat16, tensors)["scores"]:
        assert not torch.equal(grad, grad.bfloat16().float())


@pytest.mark.parametrize("choice", ["own", "library", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_backward_pass_within_autocast_is_the_same(host, dtype, choice):
    if choice != "torch":
        host(choice, choice)
    case = Case(T=6, B=5, I=9, H=7, D=2, lengths=(6, 0, 3, 1, 6))
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    given = leaves(input, h_0, c_0, *weights, *scores)
    results = []
    for enabled in (False, True):
        x, h, c, *rest = given
        tensors = rest[: len(weights)], rest[len(weights) :]
        output, states = masked_lstm(x, (h, c), *tensors, **case.options, backend=name_of(choice))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(torch.autograd.grad((output, *states), given, cotangents))
    torch.testing.assert_close(*results, rtol=0, atol=0)


# -- memory ------------------------------------------------------------------------------------------------------------


SHORTER = tuple(range(65, 129))


FORMS = {"all": {}, "lengths": {"lengths": SHORTER}, "batch_first": {"batch_first": True, "lengths": SHORTER}}
FORMS |= {"wide": {"I": 300, "H": 40}}
# Numbers of 16 bits have the same code for either kind: each form for one of the two.
HELD = [(form, torch.float32) for form in FORMS]
HELD += [("all", torch.float16), ("lengths", torch.bfloat16), ("batch_first", torch.float16), ("wide", torch.bfloat16)]


@pytest.mark.parametrize(("form", "dtype"), HELD, ids=str)
def test_hardly_more_is_held_than_what_is_saved(host, dtype, form):
    """As on a GPU (test_cuda.py), with products of a matrix library, which there takes 16 bits without copies."""
    from benchmarks.harness import memory

    module = host("library", "library")
    module.watch(False)
    case = replace(Case(T=128, B=64, I=100, H=128), **FORMS[form])
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    given = leaves(input, h_0, c_0, *scores)

    def call():
        output, states = masked_lstm(given[0], given[1:3], weights, given[3:], **case.options)
        return [output, *states, *torch.autograd.grad((output, *states), given, cotangents)]

    saved = case.T * case.B * case.H * (5 if dtype == torch.float32 else 6) * input.element_size()
    peak = memory.extra_memory(call)["peak"]
    module.watch(True)
    assert peak <= 1.1 * saved + (1 << 20), f"{peak / saved:.3f} of what is saved"


def test_an_eager_call_asks_torch_for_memory_only(host):
    """At the size of R8, where anything more would take the host longer than the GPU takes for all of it."""
    host("own", "own").watch(False)
    input, _, _, weights, scores, cotangents = Case(T=4, B=5, I=20, H=50).tensors(torch.float32)
    given = leaves(input, *scores)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output, _ = masked_lstm(given[0], None, weights, given[1:])
        torch.autograd.grad(output, given, cotangents[0])
    asked = {event.key: event.count for event in profile.key_averages() if event.key.startswith("aten::")}
    assert asked == {"aten::empty": 4 + 5}, "results and what is saved; a gradient for input and each score"


def test_the_script_that_times_the_host_runs(capsys, monkeypatch):
    script = load_script("gpu_host_time")
    monkeypatch.setattr(script, "SIZES", {"T": 2, "B": 1, "I": 3, "H": 2})
    assert script.main(["--device", "cpu", "--calls", "1", "--blocks", "1", "--profile"]) == 0
    said = capsys.readouterr().out
    assert "torch.nn.LSTM forward + backward" in said and "masked_lstm forward + backward" in said
    assert "aten::" in said, "the profile"


WIDE = [Case(T=40, B=7, I=29, H=3), Case(T=40, B=7, I=29, H=3, D=2, lengths=(40, 0, 5, 1, 39, 3, 8), batch_first=True)]


@pytest.mark.parametrize("retain_graph", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_products_in_pieces(host, case, dtype, retain_graph):
    """Where operands and sums find no room in one piece, and where what is saved must stay as it is."""
    host("automatic", "library").use_little_memory(1000)
    if not retain_graph:
        assert_close(case, found(case, dtype), dtype)
        return
    input, h_0, c_0, weights, scores, cotangents = case.tensors(dtype)
    given = leaves(input, h_0, c_0, *weights, *scores)
    tensors = given[3 : 3 + len(weights)], given[3 + len(weights) :]
    output, states = masked_lstm(given[0], given[1:3], *tensors, **case.options)
    results = [
        torch.autograd.grad((output, *states), given, cotangents, retain_graph=retain) for retain in (True, False)
    ]
    torch.testing.assert_close(*results, rtol=0, atol=0)


# -- devices and lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_clusters_large_layers_go_step_by_step(host, dtype):
    case = Case(T=3, B=3, I=2, H=200)
    host(clusters=False)
    assert_close(case, found(case, dtype), dtype)
    host("own", clusters=False)
    with pytest.raises(RuntimeError, match=r"no kernel of seam-fast does a layer of 200 units .* for 3 sequences"):
        found(case, dtype)


def test_sizes_beyond_every_kernel_go_step_by_step(host):
    host("own")
    for case, dtype in ((Case(T=1, B=1, I=1, H=513), torch.float32), (Case(T=1, B=1, I=1, H=513), torch.bfloat16)):
        with pytest.raises(RuntimeError, match="no kernel of seam-fast"):
            found(case, dtype)
    host("automatic")
    assert_close(case, found(case, dtype), dtype)


@pytest.mark.parametrize("choice", ["own", "library"])
def test_products_of_either_kind(host, choice):
    """Whoever does the recurrence: in float64, where both must agree to the last bits, clamps included."""
    host("automatic", choice)
    case = Case(T=9, B=7, I=13, H=11, D=2, lengths=(9, 0, 5, 1, 9, 3, 8), scale=4.0)
    assert_close(case, results := found(case, torch.float64), torch.float64)
    assert any((score.abs() == 1).any() for score in results["scores"])


def test_the_longest_come_first_and_lengths_are_cut_to_the_steps(host):
    """On a GPU nobody has read them before the kernels do."""
    lengths = torch.randint(-3, 9, (300,), generator=torch.Generator().manual_seed(0))
    order, length = host().order(lengths, 5)
    cut = lengths.clamp(0, 5)
    assert torch.equal(order.long(), cut.argsort(descending=True, stable=True))
    assert torch.equal(length.long(), cut[order.long()])


def test_a_bad_choice_is_told(host):
    module = host()
    with pytest.raises(ValueError, match="must be 'automatic', 'own' or 'library', but is 'fast'"):
        module.choose_cuda("fast", "own")


def test_second_derivatives_of_wide_weights_come_from_the_twin():
    case = Case(T=3, B=2)
    input, h_0, c_0, weights, scores, _ = case.tensors(torch.bfloat16)
    weights, scores = leaves(*(w.float() for w in weights)), [s.float() for s in scores]
    output, _ = masked_lstm(input, (h_0, c_0), weights, scores, backend="torch")
    (first,) = torch.autograd.grad(output.float().pow(2).sum(), weights[0], create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), weights[1])
    assert second.dtype == torch.float32 and second.isfinite().all() and second.any()


def test_wider_weights_are_named_where_they_do_not_fit():
    input, h_0, c_0, weights, scores, _ = Case().tensors(torch.bfloat16)
    wide = [weight.float() for weight in weights]
    with pytest.raises(
        ValueError, match=r"scores\[0\] .* must be torch.float32 like weights\[1\], but is torch.bfloat16"
    ):
        masked_lstm(input, (h_0, c_0), wide, scores)
    with pytest.raises(ValueError, match=r"weights\[1\] .* must be torch.bfloat16 like input, but is torch.float64"):
        masked_lstm(input, (h_0, c_0), [weights[0], weights[1].double(), *weights[2:]], scores)


# -- the Python side, for tensors that only say they are on a GPU -----------------------------------------------------


@pytest.fixture
def pretended(monkeypatch):
    """Within it tensors may be made on "cuda", without memory; the compiled part says that it has CUDA kernels."""
    if _ext.C is None:
        pytest.skip(f"needs the compiled kernels: {_ext.reason}")
    monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)
    monkeypatch.setattr(_ext, "built_with_cuda", True)
    monkeypatch.setattr(custom_op, "is_supported_gpu", lambda index: True)
    with FakeTensorMode():
        yield monkeypatch


def on_gpu(tensor, dtype=None):
    """A tensor without values."""
    return torch.empty_like(tensor, device="cuda", dtype=dtype)


def test_cuda_tensors_go_to_the_cuda_kernels(pretended):
    on_cpu = torch.zeros(1)
    there = on_gpu(on_cpu)
    for dtype in (torch.float32, torch.float64, *SHORT):
        assert custom_op.choose_kernels("auto", there.to(dtype)) is _ext.C
        assert custom_op.choose_kernels("cuda", there.to(dtype)) is _ext.C
    assert custom_op.choose_kernels("torch", there) is eager
    assert custom_op.choose_kernels("auto", on_cpu.half()) is eager
    with pytest.raises(ValueError, match=r"backend 'cpu' takes float32 and float64 tensors on the CPU, but .* on cuda"):
        custom_op.choose_kernels("cpu", there)
    with pytest.raises(BackendError, match=r"backend 'cuda' cannot be used: torch sees no GPU"):
        custom_op.choose_kernels("cuda", on_cpu)
    pretended.setattr(backend, "unavailable_reason", lambda name: "")
    with pytest.raises(ValueError, match=r"backend 'cuda' takes floating tensors on a GPU, but input is .* on cpu"):
        custom_op.choose_kernels("cuda", on_cpu)
    pretended.setenv("SEAM_FAST_BACKEND", "cpu")
    assert custom_op.choose_kernels("auto", there) is eager and custom_op.choose_kernels("auto", on_cpu) is _ext.C
    pretended.delenv("SEAM_FAST_BACKEND")
    pretended.setattr(custom_op, "is_supported_gpu", lambda index: False)  # an older GPU
    assert custom_op.choose_kernels("auto", there) is eager
    pretended.setattr(custom_op, "is_supported_gpu", lambda index: True)
    pretended.setattr(_ext, "built_with_cuda", False)
    assert custom_op.choose_kernels("auto", there) is eager


@pytest.mark.parametrize("with_kernels", [True, False])
@each_short_dtype
def test_what_is_traced_on_a_gpu_has_the_sizes_of_what_runs(pretended, dtype, with_kernels):
    pretended.setattr(_ext, "built_with_cuda", with_kernels)
    case = Case(T=4, B=3, I=2, H=6, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors(dtype)
    input, h_0, c_0 = map(on_gpu, (input, h_0, c_0))
    weights, scores = ([on_gpu(tensor, torch.float32) for tensor in tensors] for tensors in (weights, scores))
    arguments = input, h_0, c_0, weights, scores, [True] * len(scores), None, True, "auto"
    output, _, _, saved = torch.ops.seam_fast.masked_lstm_layer(*arguments)
    assert output.shape == (4, 3, 12) and output.dtype == dtype and output.device.type == "cuda"
    assert saved.numel() == 2 * 4 * 3 * 6 * (6 if with_kernels else 5)


@each_short_dtype
def test_traced_gradients_of_wider_weights_are_wide(dtype):
    input, h_0, c_0, weights, scores, cotangents = Case(L=2, D=2, lengths=(7, 2, 0, 4)).tensors(dtype)
    given = leaves(input, *(score.float() for score in scores))
    results = []
    for function in (masked_lstm, torch.compile(masked_lstm, fullgraph=True, backend="aot_eager")):
        options = {"num_layers": 2, "bidirectional": True, "lengths": torch.tensor((7, 2, 0, 4)), "backend": "torch"}
        output, states = function(given[0], (h_0, c_0), [weight.float() for weight in weights], given[1:], **options)
        results.append(torch.autograd.grad((output, *states), given, cotangents))
    torch._dynamo.reset()
    assert [grad.dtype for grad in results[1]] == [dtype] + [torch.float32] * len(scores)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@each_short_dtype
def test_under_autocast_a_gpu_computes_in_its_dtype(pretended, dtype):
    enabled = iter([True])  # once: the op turns it off for what is inside
    pretended.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda" and next(enabled, False))
    pretended.setattr(torch, "get_autocast_dtype", lambda kind: dtype)
    input, h_0, c_0, weights, scores, _ = Case().tensors(torch.float32)
    input, h_0, c_0, *rest = map(on_gpu, (input, h_0, c_0, *weights, *scores))
    output, (h_n, c_n) = masked_lstm(input, (h_0, c_0), rest[: len(weights)], rest[len(weights) :])
    assert output.dtype == h_n.dtype == c_n.dtype == dtype


def test_lengths_on_a_gpu_are_not_read(pretended):
    """Values of these tensors cannot be read: whatever tried would fail here, and make the host wait on a GPU."""
    lengths = torch.zeros(3, dtype=torch.int32, device="cuda")
    readout = checks.read_lengths(lengths, torch.zeros(4, 3, 2, device="cuda"), True, False)
    assert (
        readout.device.type == "cuda"
        and readout.dtype == torch.int64
        and custom_op.lengths_for(_ext.C, readout, readout.device) is readout
    )


def test_a_graph_is_not_let_record_lengths_of_the_cpu(pretended):
    pretended.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="lengths must be on cuda:0 while a CUDA graph records, but are on cpu"):
        custom_op.lengths_for(_ext.C, torch.zeros(3, dtype=torch.int64), torch.device("cuda:0"))

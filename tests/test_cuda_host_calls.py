"""What a call of the CUDA op promises, whatever kernel it runs: on the CPU, as in test_cuda_host.py."""

from dataclasses import replace

import pytest
import torch
from support.gpu_stand_in import ORDERS
from support.lstm_cases import Case, assert_close, each_short_dtype, flat, leaves, run, truth
from support.scripts import load_script

from seam_fast import masked_lstm


def found(case, dtype, **changes):
    return run(masked_lstm, replace(case, **changes), dtype)


def name_of(choice):
    """The backend's, for a choice of kernels or plain PyTorch."""
    return "torch" if choice == "torch" else "auto"


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

"""ScoreAdam: the compiled pass and its twin beside torch.optim.Adam on gradients that were clamped and added before."""

import copy
import itertools
import math

import pytest
import torch

from seam_fast import ScoreAdam, _ext
from seam_fast.ops import reference

BACKENDS = ["torch", *(["cpu"] if _ext.C else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
SHAPES = [(7,), (5, 3), (1,), (33, 65)]


def make_scores(dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [(0.3 * torch.randn(s, generator=generator) + 0.2).to(dtype).requires_grad_() for s in shapes]


def give_gradients(scores, step):
    """Some of them far beyond 1, some tiny."""
    generator = torch.Generator().manual_seed(step)
    for score in scores:
        spread = torch.tensor([1e-6, 1e-2, 5.0])[torch.randint(3, score.shape, generator=generator)]
        score.grad = (spread * torch.randn(score.shape, generator=generator)).to(score.dtype)


@each_backend
@each_dtype
@pytest.mark.parametrize("penalty", [0.0, 0.01, 3.0])
def test_it_is_adam_on_the_clamped_gradient_plus_the_penalty(backend, dtype, penalty):
    ours, theirs = make_scores(dtype), make_scores(torch.float64)
    options = {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-6}
    optimizer = ScoreAdam(ours, penalty=penalty, backend=backend, **options)
    adam = torch.optim.Adam(theirs, **options)
    for step in range(30):
        give_gradients(ours, step)
        for score, own in zip(theirs, ours, strict=True):
            score.grad = own.grad.double().clamp(-1, 1) + min(penalty, 1.0)
        optimizer.step()
        adam.step()
    for score, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(score.double(), wanted, rtol=0, atol=30 * 16 * torch.finfo(dtype).eps)
    assert optimizer.kept() == [int((score > 0).sum()) for score in ours]


@pytest.mark.skipif(_ext.C is None, reason="needs the compiled kernels")
@each_dtype
@pytest.mark.parametrize("isa", _ext.C.isas() if _ext.C else [])
@pytest.mark.parametrize("size", [0, 1, 3, 8, 15, 16, 17, 100, 4099])
def test_the_compiled_pass_is_its_twin(dtype, isa, size):
    before = _ext.C.isa()
    _ext.C.set_isa(isa)
    generator = torch.Generator().manual_seed(size)
    score, weight, gradient = (torch.randn(size, generator=generator).to(dtype) for _ in range(3))
    effective = torch.full_like(score, math.nan)
    moments = [torch.zeros_like(score), torch.zeros_like(score)]
    twins = [tensor.clone() for tensor in (score, *moments)], effective.clone()
    for step in range(1, 12):
        grad = None if step == 4 else 2 * gradient.roll(step)
        numbers = (0.1, 0.9, 0.999, 1e-8, step, 1e-3)
        kept = _ext.C.score_adam_(score, grad, *moments, weight, effective, *numbers)
        wanted = reference.score_adam_(twins[0][0], grad, *twins[0][1:], weight, twins[1], *numbers)
        unit = torch.finfo(dtype).eps
        torch.testing.assert_close(moments, twins[0][1:], rtol=8 * unit, atol=8 * unit)
        torch.testing.assert_close(score, twins[0][0], rtol=0, atol=16 * step * unit)
        sure = twins[0][0].abs() > 100 * unit  # nearer to 0 the two may disagree
        assert abs(kept - wanted) <= int((~sure).sum())
        assert torch.equal(effective[sure], twins[1][sure])
        assert torch.equal(effective, torch.where(score > 0, weight, 0))
    _ext.C.set_isa(before)


@each_backend
def test_what_is_not_a_number_stays_and_is_dropped(backend):
    (score,) = make_scores(shapes=[(4,)])
    weight, effective = torch.ones(4).double(), torch.ones(4).double()
    optimizer = ScoreAdam([score], weights=[weight], effective=[effective], backend=backend)
    score.data.fill_(1.0)
    score.grad = torch.tensor([math.nan, math.inf, -math.inf, 0.0]).double()
    optimizer.step()
    assert score.isnan().tolist() == [True, False, False, False]
    assert effective.tolist() == [0, 1, 1, 1] and optimizer.kept() == [3]
    assert score[1:].tolist() == pytest.approx([0.99, 1.01, 1.0])


@each_backend
def test_effective_weights_follow(backend):
    scores = make_scores()
    weights = [torch.randn_like(score) for score in scores]
    effective = [None, *(torch.zeros_like(score) for score in scores[1:])]
    optimizer = ScoreAdam(scores, 0.3, weights=[None, *weights[1:]], effective=effective, backend=backend)
    versions = [tensor._version for tensor in effective[1:]]
    for step in range(5):
        give_gradients(scores, step)
        optimizer.step()
        for score, weight, target in zip(scores[1:], weights[1:], effective[1:], strict=True):
            assert torch.equal(target, torch.where(score > 0, weight, 0))
    assert all(tensor._version > version for tensor, version in zip(effective[1:], versions, strict=True))
    assert 0 < sum(optimizer.kept()) < sum(score.numel() for score in scores)


@each_backend
def test_autograd_notices_a_step(backend):
    (score,) = make_scores(shapes=[(3,)])
    product = score * score
    score.grad = torch.ones_like(score)
    ScoreAdam([score], backend=backend).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@each_backend
def test_a_score_without_a_gradient_sinks_under_a_penalty_and_stays_without(backend):
    used, unused = make_scores(shapes=[(2,), (3,)])
    before = unused.detach().clone()
    for penalty in (0.0, 1e-3):
        optimizer = ScoreAdam([used, unused], 0.1, penalty=penalty, backend=backend)
        used.grad = torch.ones_like(used)
        optimizer.step()
        assert (len(optimizer.state[unused]) == 0) == (penalty == 0)
        wanted = before - (0.1 if penalty else 0.0)  # Adam's first step is lr, however small the gradient
        torch.testing.assert_close(unused.detach(), wanted, rtol=0, atol=1e-5)
    frozen = torch.ones(3, requires_grad=True)
    assert ScoreAdam([frozen], backend=backend).kept() == [3]


@each_backend
def test_counts_are_those_of_now(backend):
    (score,) = make_scores(shapes=[(50,)])
    optimizer = ScoreAdam([score], backend=backend, penalty=0.1)
    optimizer.step()
    with torch.no_grad():
        score.fill_(-1.0)
    assert optimizer.kept() == [0]
    with torch.no_grad():
        score[:7] = 1.0
    assert optimizer.kept() == [7]


@each_backend
def test_groups_have_their_own_options(backend):
    a, b = make_scores(shapes=[(4,), (4,)])
    weight, effective = torch.ones(4).double(), torch.zeros(4).double()
    groups = [
        {"params": [a], "lr": 0.5},
        {"params": [b], "penalty": 0.2, "weights": [weight], "effective": [effective]},
    ]
    optimizer = ScoreAdam(groups, lr=0.1, penalty=0.0, backend=backend)
    assert [set(group) for group in optimizer.param_groups] == [{"params", "lr", "betas", "eps", "penalty"}] * 2
    starts = a.detach().clone(), b.detach().clone()
    a.grad = torch.ones_like(a)
    optimizer.step()
    torch.testing.assert_close(a.detach(), starts[0] - 0.5, rtol=0, atol=1e-6)
    torch.testing.assert_close(b.detach(), starts[1] - 0.1, rtol=0, atol=1e-6)
    assert torch.equal(effective, (b > 0).double())


@each_backend
def test_closure_and_schedule(backend):
    (score,) = make_scores(shapes=[(3,)])
    optimizer = ScoreAdam([score], lr=1.0, backend=backend)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)

    def closure():
        optimizer.zero_grad()
        loss = score.sum()
        loss.backward()
        return loss

    values = [score.detach().clone()]
    for _ in range(3):
        loss = optimizer.step(closure)
        torch.testing.assert_close(loss.detach(), values[-1].sum())
        values.append(score.detach().clone())
        schedule.step()
    sizes = [float((a - b).mean()) for a, b in itertools.pairwise(values)]
    assert sizes == pytest.approx([1.0, 0.1, 0.01], rel=1e-6)


@each_backend
def test_its_state_is_adams(backend):
    ours, theirs = make_scores(), make_scores()
    optimizer, adam = ScoreAdam(ours, 0.05, penalty=0.1, backend=backend), torch.optim.Adam(theirs, 0.05)
    give_gradients(theirs, 0)
    adam.step()
    optimizer.load_state_dict(copy.deepcopy(adam.state_dict()))
    assert optimizer.param_groups[0]["penalty"] == 0.1, "which Adam's state does not have"
    for score, other in zip(ours, theirs, strict=True):
        score.data.copy_(other.data)
    optimizer.param_groups[0]["penalty"] = 0.0
    for step in (1, 2):
        give_gradients(ours, step)
        optimizer.step()
        give_gradients(theirs, step)
        for other in theirs:
            other.grad.clamp_(-1, 1)
        adam.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    adam.load_state_dict(optimizer.state_dict())
    assert optimizer.state[ours[0]].keys() == {"step", "exp_avg", "exp_avg_sq"}


@each_backend
def test_saved_and_loaded_it_goes_on(backend):
    def train(optimizer, scores, steps):
        for step in steps:
            give_gradients(scores, step)
            optimizer.step()

    scores = make_scores(torch.float32)
    optimizer = ScoreAdam(scores, 0.05, penalty=0.01, backend=backend)
    train(optimizer, scores, range(3))
    others = [score.detach().clone().requires_grad_() for score in scores]
    other = ScoreAdam(others, 0.9, backend=backend)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied = copy.deepcopy({"scores": scores, "optimizer": optimizer})
    train(optimizer, scores, range(3, 6))
    train(other, others, range(3, 6))
    train(copied["optimizer"], copied["scores"], range(3, 6))
    for triple in zip(scores, others, copied["scores"], strict=True):
        assert torch.equal(triple[0], triple[1]) and torch.equal(triple[0], triple[2])


def test_other_dtypes_and_strides_take_the_plain_way():
    for score in (torch.ones(4, dtype=torch.bfloat16), torch.ones(3, 4).t(), torch.ones(4).half()):
        score.requires_grad_()
        score.grad = torch.ones_like(score)
        optimizer = ScoreAdam([score], 0.5)
        optimizer.step()
        torch.testing.assert_close(score.detach(), torch.full_like(score, 0.5).detach(), rtol=0, atol=0.01)
        assert optimizer.kept() == [score.numel()]


ONE = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: ScoreAdam([ONE], lr=-1.0), ValueError, "lr must be 0 or more and finite, but is -1.0"),
        (lambda: ScoreAdam([ONE], lr=math.inf), ValueError, "lr must be 0 or more and finite, but is inf"),
        (lambda: ScoreAdam([ONE], betas=(0.9, 1.0)), ValueError, "betas must be two numbers from 0 to below 1"),
        (lambda: ScoreAdam([ONE], betas=(0.9,)), ValueError, "betas must be two numbers from 0 to below 1"),
        (lambda: ScoreAdam([ONE], eps=-1e-8), ValueError, "eps must be 0 or more and finite, but is -1e-08"),
        (lambda: ScoreAdam([ONE], penalty=math.nan), ValueError, "penalty must be finite, but is nan"),
        (lambda: ScoreAdam([{"params": [ONE], "lr": -2}]), ValueError, "lr must be 0 or more and finite, but is -2"),
        (lambda: ScoreAdam([]), ValueError, "empty parameter list"),  # torch's own
        (lambda: ScoreAdam([ONE], backend="gpu"), ValueError, "'gpu' is unknown"),
        (lambda: ScoreAdam([torch.ones(2).cfloat()]), TypeError, "floating dtype, but is torch.complex64"),
        (lambda: ScoreAdam([torch.ones(2, 2).to_sparse()]), ValueError, "must be a dense tensor"),
        (lambda: ScoreAdam([ONE], weights=[torch.ones(2)]), ValueError, "effective must have 1 entries"),
        (
            lambda: ScoreAdam([ONE], weights=[], effective=[]),
            ValueError,
            "weights must have 1 entries, .* is 0 entries",
        ),
        (
            lambda: ScoreAdam([ONE], weights=[None], effective=[torch.ones(2)]),
            ValueError,
            r"weights\[0\] and effective\[0\] must both be tensors or both be None",
        ),
        (
            lambda: ScoreAdam([ONE], weights=[torch.ones(3)], effective=[torch.ones(2)]),
            ValueError,
            r"weights\[0\] must have the shape of its score, \(2,\), but has \(3,\)",
        ),
        (
            lambda: ScoreAdam([ONE], weights=[torch.ones(2)], effective=[torch.ones(2).double()]),
            ValueError,
            r"effective\[0\] must have the dtype of its score, torch.float32, but has torch.float64",
        ),
    ],
)
def test_what_it_refuses(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = ScoreAdam(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"ScoreAdam needs dense gradients, but one is torch\.sparse_coo"):
        optimizer.step()


def test_a_refused_group_is_not_added():
    optimizer = ScoreAdam([ONE])
    with pytest.raises(ValueError, match="weights"):
        optimizer.add_param_group({"params": [torch.ones(3, requires_grad=True)], "weights": [], "effective": []})
    assert len(optimizer.param_groups) == 1

"""The reference ops and its training step, against torch's own LSTM and against values written down by hand."""

import math

import numpy as np
import pytest
import torch
from support import agreement, by_hand, toy_data, toy_weights
from torch import nn

from seam_fast.classifier import reference_model
from seam_fast.ops import reference
from seam_fast.training import reference_step

NAN, INF = math.nan, math.inf
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


# -- the estimator ----------------------------------------------------------------------------------------------------


@BOTH
def test_a_score_is_kept_where_it_is_strictly_positive(dtype):
    smallest = 1e-45 if dtype == torch.float32 else 5e-324
    score = torch.tensor([1.0, smallest, INF, 0.0, -0.0, -smallest, -1.0, -INF, NAN], dtype=dtype)
    kept = reference.binarize(score)
    assert kept.dtype == dtype
    assert kept.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


@BOTH
def test_gradient_is_clamped_and_reaches_dropped_scores_alike(dtype):
    incoming = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 7.0, INF, -INF, NAN], dtype=dtype)
    expected = torch.tensor([-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0, 1.0, -1.0, NAN], dtype=dtype)
    for value in (1.0, 100.0, 0.0, -2.0, NAN):  # neither the sign nor the size of the score matters
        score = torch.full_like(incoming, value, requires_grad=True)
        reference.binarize(score).backward(incoming)
        torch.testing.assert_close(score.grad, expected, rtol=0, atol=0, equal_nan=True)


def test_each_use_is_clamped_by_itself():
    score = torch.tensor([1.0, 1.0, -1.0], requires_grad=True)
    loss = (reference.binarize(score) * torch.tensor([-5.0, 3.0, 2.0])).sum()
    cost = (reference.binarize(score) * torch.tensor([0.25, 4.0, -0.5])).sum()
    (loss + cost).backward()
    assert score.grad.tolist() == [-0.75, 2.0, 0.5]  # clamping the sums would give -1, 1, 1


def test_clamp_acts_on_the_sum_over_all_positions():
    """A word fed twice: gradients 3 and -2.5 leave 0.5 (0 if each were clamped), .8 and .8 leave 1."""
    weight = torch.ones(2, 1)
    score = torch.ones(2, 1, requires_grad=True)
    embedded = reference.masked_embedding(torch.tensor([0, 0, 1, 1]), weight, score)
    embedded.backward(torch.tensor([[3.0], [-2.5], [0.8], [0.8]]))
    assert score.grad[:, 0].tolist() == [0.5, 1.0]


def test_gradient_is_multiplied_by_the_weight_before_the_clamp():
    weight, score = torch.tensor([[0.1], [10.0], [-10.0]]), torch.ones(3, 1, requires_grad=True)
    reference.masked_embedding(torch.tensor([0, 1, 2]), weight, score).backward(torch.full((3, 1), 2.0))
    torch.testing.assert_close(score.grad[:, 0], torch.tensor([0.2, 1.0, -1.0]))


def test_masked_linear_drops_weights_and_biases():
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0])
    weight_score, bias_score = torch.tensor([[1.0, 0.0], [0.5, -1.0]]), torch.tensor([NAN, 2.0])
    result = reference.masked_linear(torch.tensor([[1.0, 1.0]]), weight, bias, weight_score, bias_score)
    assert result.tolist() == [[1.0, 23.0]]


# -- the LSTM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"), [(7, 5, 4, 3), (1, 1, 1, 1), (12, 1, 3, 6), (1, 4, 5, 2)]
)
def test_lstm_is_torchs(steps, batch, inputs, hidden):
    generator = torch.Generator().manual_seed(0)
    theirs = nn.LSTM(inputs, hidden).double()
    weights = []
    for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        parameter = getattr(theirs, key)
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        weights.append(parameter.detach().clone().requires_grad_())
    x = torch.randn(steps, batch, inputs, generator=generator, dtype=torch.float64)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    states, wanted = reference.lstm(x_ours, *weights), theirs(x_theirs)[0]
    torch.testing.assert_close(states, wanted, rtol=0, atol=1e-13)
    cotangent = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    states.backward(cotangent)
    wanted.backward(cotangent)
    for ours, parameter in zip((x_ours, *weights), (x_theirs, *theirs.parameters()), strict=True):
        torch.testing.assert_close(ours.grad, parameter.grad, rtol=1e-11, atol=1e-12)


def test_lstm_gradients_are_those_of_differences():
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 2, 3), (8, 3), (8, 2), (8,), (8,))
    arguments = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(reference.lstm, arguments)


def test_masked_lstm_is_the_lstm_of_the_kept_weights():
    weights = toy_weights.make_weights()
    generator = torch.Generator().manual_seed(3)
    scores = {key: torch.randn(w.shape, generator=generator, dtype=w.dtype) for key, w in weights.items()}
    ids, lengths, _ = toy_data.make_documents()
    kept = {key: torch.where(scores[key] > 0, weights[key], 0.0) for key in weights}
    for readout in ("last_position", "last_word"):
        logits = reference_model.class_logits(ids, lengths, weights, scores, readout)
        torch.testing.assert_close(logits, by_hand.hand_logits(kept, ids, lengths, readout), rtol=0, atol=1e-13)


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("shape", toy_weights.DEEP)
def test_deep_bases_are_those_of_the_kept_weights(shape, readout):
    """Values and gradients; read at the last word, no padding takes part."""
    weights = toy_weights.make_deep_weights(*shape)
    generator = torch.Generator().manual_seed(3)
    scores = {key: torch.randn(w.shape, generator=generator, dtype=w.dtype) for key, w in weights.items()}
    scores = {key: score.requires_grad_() for key, score in scores.items()}
    ids, lengths, _ = toy_data.make_documents()
    logits = reference_model.class_logits(ids, lengths, weights, scores, readout)
    kept = {key: torch.where(scores[key] > 0, weights[key], 0.0).requires_grad_() for key in weights}
    wanted = by_hand.deep_logits(kept, ids, lengths, readout, *shape)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-13)
    for part in (logits, wanted):
        (part.square().sum() / 100).backward()
    for key, score in scores.items():
        torch.testing.assert_close(score.grad, (kept[key].grad * weights[key]).clamp(-1, 1), rtol=0, atol=1e-12)


def test_where_the_state_is_read():
    states = torch.arange(24.0).reshape(4, 3, 2)  # T 4, B 3, H 2
    lengths = torch.tensor([1, 4, 2])
    assert reference_model.read_state(states, lengths, "last_position").tolist() == states[3].tolist()
    assert reference_model.read_state(states, None, "last_position").tolist() == states[3].tolist()
    assert reference_model.read_state(states, lengths, "last_word").tolist() == [[0.0, 1.0], [20.0, 21.0], [10.0, 11.0]]


def test_head_sees_logits_through_a_relu():
    weight, bias = torch.tensor([[1.0, 10.0], [2.0, -3.0]]), torch.tensor([0.5, -0.5])
    assert reference_model.head_logits(torch.tensor([[2.0, -7.0], [-1.0, 1.0]]), (weight, bias)).tolist() == [
        [2.5, 3.5],
        [10.5, -3.5],
    ]


# -- penalty and ratio ------------------------------------------------------------------------------------------------


def scores_with(kept: dict[str, int]) -> dict[str, torch.Tensor]:
    """Sizes 12 (embedding), 8 + 4 + 4 + 4 (LSTM), 2 + 2 (linear); the first few of each positive."""
    shapes = {"word_embeddings.weight": (6, 2), "lstm.weight_ih_l0": (4, 2), "lstm.weight_hh_l0": (4, 1)}
    shapes |= dict.fromkeys(("lstm.bias_ih_l0", "lstm.bias_hh_l0"), (4,)) | {"hidden2label.weight": (2, 1)}
    shapes["hidden2label.bias"] = (2,)
    scores = {}
    for key, shape in shapes.items():
        score = -torch.ones(shape, dtype=torch.float64)
        score.view(-1)[: kept.get(key, 0)] = 0.3
        scores[key] = score.requires_grad_()
    return scores


def test_penalty_by_hand():
    scores = scores_with({"word_embeddings.weight": 3, "lstm.weight_ih_l0": 5, "hidden2label.bias": 1})
    assert reference_model.kept_ratio(scores) == 9 / 36
    assert reference_step.penalty(scores, 0.2).item() == pytest.approx(0.2 * 9 / 36)
    assert reference_step.penalty(scores, 0.2, "group").item() == pytest.approx(0.2 * (3 / 12 + 5 / 20 + 1 / 4))


def test_the_lstm_term_of_the_group_penalty_may_count_more():
    scores = scores_with({"word_embeddings.weight": 3, "lstm.weight_ih_l0": 5, "hidden2label.bias": 1})
    cost = reference_step.penalty(scores, 0.2, "group", 3.0)
    assert cost.item() == pytest.approx(0.2 * (3 / 12 + 3 * 5 / 20 + 1 / 4))
    cost.backward()
    torch.testing.assert_close(scores["lstm.weight_ih_l0"].grad, torch.full((4, 2), 0.6 / 20, dtype=torch.float64))
    torch.testing.assert_close(scores["hidden2label.bias"].grad, torch.full((2,), 0.2 / 4, dtype=torch.float64))
    assert reference_step.penalty(scores, 0.2, "global", 3.0).item() == pytest.approx(0.2 * 9 / 36)


def test_penalty_of_a_deep_base_by_hand():
    weights = toy_weights.make_deep_weights(2, True, sizes=(6, 2, 1, 2))  # 12, 4 * 20, 4 + 2
    scores = {key: -torch.ones_like(weight) for key, weight in weights.items()}
    scores["lstm.weight_ih_l1_reverse"][0] = 0.3  # 2 of 80
    scores["hidden2label.weight"][0] = 0.3  # 2 of 6
    assert reference_model.kept_ratio(scores) == 4 / 98
    assert reference_step.penalty(scores, 0.2).item() == pytest.approx(0.2 * 4 / 98)
    assert reference_step.penalty(scores, 0.2, "group", 3.0).item() == pytest.approx(0.2 * (3 * 2 / 80 + 2 / 6))
    assert reference_step.penalty(scores, 0.2, "group", 3.0, 0.5).item() == pytest.approx(0.2 * (3 * 2 / 80 + 1 / 6))


@pytest.mark.parametrize(("kind", "sizes"), [("global", (36, 36, 36)), ("group", (12, 20, 4))])
def test_penalty_gradient_is_alpha_over_the_size(kind, sizes):
    scores = scores_with({"lstm.bias_hh_l0": 2})
    reference_step.penalty(scores, 0.6, kind).backward()
    for key, score in scores.items():
        size = sizes[("word_embeddings", "lstm", "hidden2label").index(key.split(".")[0])]
        torch.testing.assert_close(score.grad, torch.full_like(score, 0.6 / size), rtol=1e-14, atol=0)


def test_penalty_gradient_is_clamped():
    scores = scores_with({})
    reference_step.penalty(scores, 36 * 2.5).backward()
    assert all((score.grad == 1).all() for score in scores.values())


# -- the training step ------------------------------------------------------------------------------------------------


def stepper(head=None, weights=None, **options):
    options = {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.02} | options
    return reference_step.Stepper(weights or toy_weights.make_weights(), head or toy_weights.make_head(), **options)


def test_a_step_reports_what_was_before_it():
    ids, lengths, target_probability = toy_data.make_documents(4)
    trainer = stepper(weights=toy_weights.make_weights(scale=0.0))
    result = trainer.step(ids, lengths, target_probability)
    head = toy_weights.make_head()[1].tolist()  # all logits are 0: the head's bias decides
    total = math.log(sum(math.exp(b) for b in head))
    assert result.cross_entropy == pytest.approx(
        total - sum(head[0 if p else 1] for p in target_probability.tolist()) / 4, abs=1e-12
    )
    assert result.kept == 1.0


@pytest.mark.parametrize("penalty", ["global", "group"])
def test_penalty_is_all_that_moves_scores_of_zero_weights(penalty):
    trainer = stepper(weights=toy_weights.make_weights(scale=0.0), penalty=penalty)
    trainer.step(*toy_data.make_documents(4))
    v, e, h, c = toy_weights.V, toy_weights.E, toy_weights.H, toy_weights.C
    sizes = {"word_embeddings": v * e, "lstm": 4 * h * (e + h + 2), "hidden2label": c * h + c}
    for key, score in trainer.scores.items():
        size = sizes[key.split(".")[0]] if penalty == "group" else sum(sizes.values())
        torch.testing.assert_close(score.grad, torch.full_like(score, 0.2 / size), rtol=1e-14, atol=0)


def test_words_not_in_the_batch_sink_alike():
    """Gradient alpha/N in every step, so each step is lr * g / (g + eps), whatever Adam remembers."""
    trainer = stepper()
    documents = toy_data.make_documents(words=range(1, 10))
    total = sum(weight.numel() for weight in trainer.weights.values())
    gradient = 0.2 / total
    for step in range(1, 6):
        trainer.step(*documents)
        rows = trainer.scores[toy_weights.EMBEDDING].detach()[10:]
        assert torch.equal(rows, rows[:1, :1].expand_as(rows))
        assert rows[0, 0].item() == pytest.approx(1 - step * 0.1 * gradient / (gradient + 1e-8), abs=1e-12)


REFERENCE_TOTAL = 2_389_808  # weights at the reference sizes: V 23,590, E 100, H 50, C 8


def test_one_step_of_an_absent_word_at_the_reference_sizes():
    gradient = 0.2 / REFERENCE_TOTAL
    assert gradient / (gradient + 1e-8) == pytest.approx(0.893, abs=5e-4)
    assert REFERENCE_TOTAL == 23_590 * 100 + 200 * (100 + 50 + 2) + 8 * 51


@pytest.mark.parametrize(
    ("alpha", "lr_mask", "steps"), [(0.2, 0.01, 112), (0.2, 0.1, 12), (1, 0.01, 103), (1, 0.1, 11)]
)
def test_when_an_absent_word_drops_out_in_float32(alpha, lr_mask, steps):
    weights = toy_weights.make_weights(torch.float32)
    total = sum(weight.numel() for weight in weights.values())
    trainer = stepper(  # alpha scaled so that alpha / N is what it is at the reference sizes
        toy_weights.make_head(torch.float32),
        weights,
        alpha=alpha * total / REFERENCE_TOTAL,
        lr_mask=lr_mask,
        schedule="port",
    )
    documents = toy_data.make_documents(1, words=[1, 2])
    kept = []
    for _ in range(steps):
        trainer.step(*documents)
        kept.append(bool((trainer.scores[toy_weights.EMBEDDING][20] > 0).all()))
    assert kept == [True] * (steps - 1) + [False]


@pytest.mark.parametrize("schedule", ["seam", "port", "joint"])
@pytest.mark.parametrize("penalty", ["global", "group"])
def test_six_epochs_by_hand(schedule, penalty):
    """Epochs 0 and 5 of schedule seam step the head by an Adam of its own; the others have theirs."""
    options = {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.02, "schedule": schedule, "penalty": penalty}
    weights, head = toy_weights.make_weights(), toy_weights.make_head()
    ours, hand = stepper(head, weights, **options), by_hand.HandSeam(weights, head, **options)
    for epoch in range(6):
        head_only = schedule == "seam" and epoch % 5 == 0
        for batch in toy_data.cut(toy_data.make_documents(seed=epoch), 4):
            loss = ours.step(*batch, head_only=head_only).cross_entropy
            assert loss == pytest.approx(hand.step(*batch, head_only=head_only), abs=1e-11)
        assert agreement.largest_difference(hand, ours.scores, ours.head) < 1e-10, f"epoch {epoch}"
    kept = reference_model.kept_ratio(ours.scores)
    assert 0.05 < kept < 0.95, "the run should have dropped some and kept some"


def test_labels_may_be_soft():
    options = {"alpha": 0.2, "lr_mask": 0.05, "lr_head": 0.02, "penalty": "group", "lstm_penalty_scale": 3.0}
    options["linear_penalty_scale"] = 0.25
    weights, head = toy_weights.make_weights(), toy_weights.make_head()
    ours, hand = stepper(head, weights, **options), by_hand.HandSeam(weights, head, **options)
    for epoch in range(4):
        for batch in toy_data.cut(toy_data.with_soft_labels(toy_data.make_documents(seed=epoch)), 4):
            loss = ours.step(*batch).cross_entropy
            assert loss == pytest.approx(hand.step(*batch), abs=1e-11)
    assert agreement.largest_difference(hand, ours.scores, ours.head) < 1e-10


def test_head_only_steps_move_the_head_alone_and_port_never_does():
    documents, head = toy_data.make_documents(), toy_weights.make_head()
    alone, port = stepper(head), stepper(head, schedule="port")
    for _ in range(3):
        alone.step(*documents, head_only=True)
        port.step(*documents)
    assert all(torch.equal(score, torch.ones_like(score)) for score in alone.scores.values())
    assert all(not torch.equal(a, b) for a, b in zip(alone.head, head, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(port.head, head, strict=True))
    assert reference_model.kept_ratio(alone.scores) == 1.0
    with pytest.raises(ValueError, match="schedule 'port' has no steps of the head"):
        port.step(*documents, head_only=True)


def test_the_loss_is_clamped_apart_from_the_penalty_in_a_whole_step():
    """Both parts of the gradient are large, and clamping their sum would be another thing."""
    weights, head = toy_weights.make_weights(scale=2.0), tuple(20 * part for part in toy_weights.make_head())
    total = sum(weight.numel() for weight in weights.values())
    options = {"alpha": 0.5 * total, "lr_mask": 0.01, "lr_head": 0.02, "schedule": "joint", "readout": "last_word"}
    ours, hand = stepper(head, weights, **options), by_hand.HandSeam(weights, head, **options)
    documents = toy_data.make_documents()
    ours.step(*documents)
    hand.step(*documents)
    differs = 0
    for key in toy_weights.KEYS:
        wanted = np.clip(hand.loss_path[key], -1, 1) + 0.5
        np.testing.assert_allclose(ours.scores[key].grad.numpy(), wanted, rtol=0, atol=1e-12)
        differs += int((np.abs(wanted - np.clip(hand.loss_path[key] + 0.5, -1, 1)) > 0.01).sum())
    assert differs > 10


def test_a_class_that_is_dropped_whole_gets_no_gradient_from_the_loss():
    """Its logit is exactly 0, and there the ReLU's slope is 0: only the penalty is left of the gradient."""
    trainer = stepper()
    with torch.no_grad():
        trainer.scores["hidden2label.weight"][2] = -0.5
        trainer.scores["hidden2label.bias"][2] = 0.0
    trainer.step(*toy_data.make_documents())
    total = sum(weight.numel() for weight in trainer.weights.values())
    for key in ("hidden2label.weight", "hidden2label.bias"):
        gradient = trainer.scores[key].grad
        torch.testing.assert_close(gradient[2], torch.full_like(gradient[2], 0.2 / total), rtol=1e-14, atol=0)
        assert (gradient != gradient[2].mean()).any()


def test_the_base_is_left_alone():
    weights = toy_weights.make_weights()
    before = {key: weight.clone() for key, weight in weights.items()}
    trainer = stepper(weights=weights)
    trainer.step(*toy_data.make_documents())
    assert all(torch.equal(weights[key], before[key]) for key in weights)

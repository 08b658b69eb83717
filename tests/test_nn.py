"""The drop-in modules, beside torch's."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from seam_fast import MaskedEmbedding, MaskedLinear, MaskedLSTM, masked_lstm

LSTMS = [
    {},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True, "dropout": 0.3},
]


def make_lstm(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return nn.LSTM(4, 6, **options).to(dtype)


def shake(module):
    """Random scores, some of them negative."""
    for score in module.scores():
        nn.init.normal_(score, 0.3)
    return module


def prune(lstm, masked):
    """torch's module with the effective weights written into it."""
    for name, score in zip(lstm._flat_weights_names, masked.scores(), strict=True):
        getattr(lstm, name).data[score.detach() <= 0] = 0
    return lstm


@pytest.mark.parametrize("options", LSTMS)
def test_a_fresh_copy_computes_what_the_lstm_does(options):
    lstm = make_lstm(**options).eval()
    masked = MaskedLSTM.from_lstm(lstm)
    input = torch.randn(5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(masked(input), lstm(input), rtol=0, atol=1e-14)
    hx = masked(input)[1]
    torch.testing.assert_close(masked(input, hx), lstm(input, hx), rtol=0, atol=1e-14)
    assert all(parameter.requires_grad for parameter in lstm.parameters()), "the original is left alone"
    assert masked.kept() == 1.0 and masked.num_scores == sum(p.numel() for p in lstm.parameters())
    assert masked.training == lstm.training


@pytest.mark.parametrize("options", LSTMS)
def test_the_scores_count_and_are_baked_in(options):
    lstm = make_lstm(**options).eval()
    masked = shake(MaskedLSTM.from_lstm(lstm))
    prune(lstm, masked)
    baked = masked.to_lstm()
    input = torch.randn(5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(masked(input), lstm(input), rtol=0, atol=1e-14)
    torch.testing.assert_close(baked(input), lstm(input), rtol=0, atol=0)
    assert type(baked) is nn.LSTM and all(parameter.requires_grad for parameter in baked.parameters())
    assert repr(baked) == repr(lstm) and not baked.training
    assert baked.state_dict().keys() == lstm.state_dict().keys()
    kept = sum(int((score > 0).sum()) for score in masked.scores())
    assert masked.kept() == kept / masked.num_scores and 0.4 < masked.kept() < 0.8


def test_made_like_torchs():
    torch.manual_seed(3)
    lstm = nn.LSTM(4, 6, 2, bidirectional=True)
    torch.manual_seed(3)
    masked = MaskedLSTM(4, 6, 2, bidirectional=True, score_init=0.25)
    for name, weight in lstm.state_dict().items():
        assert torch.equal(masked.state_dict()[name], weight)
        assert (masked.state_dict()[name + "_mask"] == 0.25).all()
    assert len(masked.state_dict()) == 2 * len(lstm.state_dict())
    assert not any(weight.requires_grad for weight in masked.weights())
    assert next(name for name, p in masked.named_parameters() if p.requires_grad) == "weight_ih_l0_mask"
    assert sum(p.requires_grad for p in masked.parameters()) == len(masked.scores())


def test_gradients_reach_the_scores_alone():
    masked = shake(MaskedLSTM.from_lstm(make_lstm(num_layers=2)))
    input = torch.randn(5, 3, 4, dtype=torch.float64)
    masked(input)[0].sum().backward()
    assert all(weight.grad is None for weight in masked.weights())
    scores = [score.detach().clone().requires_grad_() for score in masked.scores()]
    output, _ = masked_lstm(input, None, masked.weights(), scores, num_layers=2)
    for score, wanted in zip(masked.scores(), torch.autograd.grad(output.sum(), scores), strict=True):
        torch.testing.assert_close(score.grad, wanted)


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths(batch_first):
    lstm = make_lstm(batch_first=batch_first, bidirectional=True)
    masked = shake(MaskedLSTM.from_lstm(lstm))
    prune(lstm, masked)
    input, lengths = torch.randn(5, 3, 4, dtype=torch.float64), torch.tensor([2, 5, 4])
    input = input.transpose(0, 1) if batch_first else input
    packed = pack_padded_sequence(input, lengths, batch_first, enforce_sorted=False)
    output, states = lstm(packed)
    wanted = pad_packed_sequence(output, batch_first)[0], states
    torch.testing.assert_close(masked(input, lengths=lengths), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("options", LSTMS[1:3])
def test_a_packed_sequence_gives_one(options, sort):
    lstm = make_lstm(**options)
    masked = shake(MaskedLSTM.from_lstm(lstm))
    prune(lstm, masked)
    lengths = (5, 3, 3, 1) if sort else (3, 1, 5, 3)
    sequences = [torch.randn(length, 4, dtype=torch.float64) for length in lengths]
    packed = pack_sequence(sequences, enforce_sorted=sort)
    cells = lstm.num_layers * (2 if lstm.bidirectional else 1)
    hx = tuple(torch.randn(cells, 4, 6, dtype=torch.float64) for _ in range(2))
    (found, states), (wanted, wanted_states) = masked(packed, hx), lstm(packed, hx)
    assert type(found) is type(packed)
    torch.testing.assert_close(found.data, wanted.data, rtol=0, atol=1e-14)
    torch.testing.assert_close(states, wanted_states, rtol=0, atol=1e-14)
    assert torch.equal(found.batch_sizes, packed.batch_sizes)
    for ours, theirs in zip(found[2:], wanted[2:], strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)
    found.data.sum().backward()
    assert all(score.grad is not None for score in masked.scores())
    with pytest.raises(ValueError, match="lengths must be None for a PackedSequence"):
        masked(packed, lengths=torch.tensor([1, 1, 1, 1]))


def test_dropout_in_training_only():
    masked = MaskedLSTM(4, 6, 2, dropout=0.5)
    input = torch.randn(5, 3, 4)
    assert not torch.equal(masked(input)[0], masked(input)[0])
    masked.eval()
    assert torch.equal(masked(input)[0], masked(input)[0])


def modules():
    lstm = shake(MaskedLSTM.from_lstm(make_lstm(torch.float32, num_layers=2, bidirectional=True)))
    embedding = shake(MaskedEmbedding.from_embedding(nn.Embedding(7, 4, padding_idx=0)))
    linear = shake(MaskedLinear.from_linear(nn.Linear(4, 3)))
    return [(lstm, torch.randn(5, 3, 4)), (embedding, torch.tensor([[1, 6], [0, 3]])), (linear, torch.randn(2, 4))]


def first(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize(("module", "input"), modules(), ids=["lstm", "embedding", "linear"])
def test_they_can_be_copied_saved_and_moved(module, input):
    wanted = first(module(input))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(module)
    for score in other.scores():
        score.data.fill_(-1)
    assert not torch.equal(first(other(input)), wanted)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (other, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(first(same(input)), wanted)
        assert [p.requires_grad for p in same.parameters()] == [p.requires_grad for p in module.parameters()]
    double = copy.deepcopy(module).double()
    input = input.double() if input.is_floating_point() else input
    torch.testing.assert_close(first(double(input)), wanted.double(), rtol=1e-5, atol=1e-6)
    half = copy.deepcopy(module).half()
    result = first(half(input.half() if input.is_floating_point() else input))
    torch.testing.assert_close(result.float(), wanted, rtol=0, atol=0.02)
    result.sum().backward()
    assert all(score.grad.dtype == torch.float16 for score in half.scores())
    assert all(parameter.is_meta for parameter in copy.deepcopy(module).to("meta").parameters())


@pytest.mark.parametrize(("module", "input"), modules(), ids=["lstm", "embedding", "linear"])
def test_the_state_dict_has_torchs_keys_and_seams(module, input):
    bake = {MaskedLSTM: "to_lstm", MaskedEmbedding: "to_embedding", MaskedLinear: "to_linear"}[type(module)]
    baked = getattr(module, bake)()
    names = list(baked.state_dict())
    assert set(module.state_dict()) == {*names, *(f"{name}_mask" for name in names)}
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(first(baked(input)), first(module(input)), **close)
    trained = type(module).__dict__["from_" + bake[3:]].__func__(type(module), baked)  # and back: zeros are weights too
    torch.testing.assert_close(first(trained(input)), first(module(input)), **close)
    assert trained.kept() == 1.0
    assert all(parameter.requires_grad for parameter in baked.parameters())


def test_what_they_print():
    lstm = MaskedLSTM(4, 6, 2, batch_first=True)
    assert repr(lstm) == "MaskedLSTM(4, 6, num_layers=2, batch_first=True, kept=100.0% of 624)"
    with torch.no_grad():
        lstm.weight_ih_l0_mask[:, 0] = 0.0
    assert "kept=96.2% of 624" in repr(lstm)
    assert repr(MaskedLSTM(4, 6, device="meta")) == "MaskedLSTM(4, 6, scores=288)"
    assert repr(MaskedEmbedding(7, 4, padding_idx=0)) == "MaskedEmbedding(7, 4, padding_idx=0, kept=100.0% of 28)"
    assert repr(MaskedLinear(4, 3, bias=False)) == "MaskedLinear(4, 3, bias=False, kept=100.0% of 12)"


def test_embedding_as_torchs():
    theirs = nn.Embedding(7, 4, padding_idx=2)
    masked = MaskedEmbedding.from_embedding(theirs, score_init=0.5)
    ids = torch.tensor([[1, 2], [2, 6]])
    assert torch.equal(masked(ids), theirs(ids)) and masked.to_embedding().padding_idx == 2
    masked(ids).sum().backward()
    assert not masked.weight_mask.grad[2].any() and masked.weight_mask.grad[1].any()


def test_a_module_of_all_three_trains():
    torch.manual_seed(0)
    parts = nn.ModuleList([MaskedEmbedding(9, 4), MaskedLSTM(4, 6, batch_first=True), MaskedLinear(6, 2)])

    def loss():
        output, _ = parts[1](parts[0](torch.arange(9).view(3, 3)))
        return nn.functional.cross_entropy(parts[2](output[:, -1]), torch.tensor([0, 1, 0]))

    adam = torch.optim.Adam([p for p in parts.parameters() if p.requires_grad], lr=0.1)
    before = loss().item()
    for _ in range(50):
        adam.zero_grad()
        loss().backward()
        adam.step()
    assert loss().item() < 0.8 * before
    assert any(part.kept() < 1 for part in parts)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: MaskedLSTM(4, 6, proj_size=2), ValueError, "proj_size must be 0, but is 2"),
        (lambda: MaskedLSTM.from_lstm(nn.LSTM(4, 6, proj_size=2)), ValueError, "proj_size must be 0, but is 2"),
        (lambda: MaskedLSTM.from_lstm(nn.GRU(4, 6)), TypeError, "from_lstm takes a torch.nn.LSTM, but got a GRU"),
        (lambda: MaskedLinear.from_linear(None), TypeError, "from_linear takes a torch.nn.Linear, but got a NoneType"),
        (lambda: MaskedEmbedding.from_embedding(nn.Linear(1, 1)), TypeError, "takes a torch.nn.Embedding"),
        (
            lambda: MaskedEmbedding.from_embedding(nn.Embedding(4, 2, max_norm=1.0)),
            ValueError,
            "max_norm must not be set",
        ),
        (lambda: MaskedEmbedding.from_embedding(nn.Embedding(4, 2, sparse=True)), ValueError, "sparse must not be set"),
        (lambda: MaskedLSTM(0, 6), ValueError, "input_size must be at least 1, but is 0"),
    ],
)
def test_what_they_refuse(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()

"""Many calls of the op on a GPU whose launches go out together, as torch.func.vmap makes them; on the CPU, as in
test_cuda_host.py.
"""

import pytest
import torch
from torch.func import grad, vmap

CASES = [  # T, B, I, H, directions, lengths, first states
    (5, 3, 7, 10, 1, False, False),
    (4, 5, 6, 50, 1, True, True),
    (3, 2, 5, 64, 2, True, False),
    (3, 3, 4, 70, 1, False, True),
    (2, 2, 3, 140, 1, True, False),  # no kernels for that: one call after the other
]


def make(case, calls=3):
    steps, batch, features, hidden, directions, with_lengths, with_states = case
    generator = torch.Generator().manual_seed(hidden)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    shapes = [(4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)] * directions
    weights = [randn(*shape) / hidden**0.5 for shape in shapes]
    scores = [randn(calls, *shape) for shape in shapes]
    lengths = torch.randint(0, steps + 1, (batch,), generator=generator) if with_lengths else None
    states = [randn(directions, batch, hidden) for _ in range(2)] if with_states else [None, None]
    return randn(steps, batch, features), states, weights, scores, lengths


@pytest.mark.parametrize("case", CASES, ids=str)
def test_they_are_what_each_is_by_itself(host_module, case):
    """Memory is watched: what a launch reads has not been given away."""
    host_module.watch_memory(True)
    x, states, weights, scores, lengths = make(case)
    x, weights = x.clone(), [weight.clone() for weight in weights]
    scores, states = [score.clone() for score in scores], [None if s is None else s.clone() for s in states]
    lengths = None if lengths is None else lengths.clone()

    def layer(*scores):
        return host_module.masked_lstm_layer_transformed(x, *states, weights, list(scores), lengths, True)

    def value(*scores):
        output, h_n, c_n = layer(*scores)
        return (output * output).sum() + h_n.sin().sum() + c_n.cos().sum()

    everything = tuple(range(len(scores)))
    together, gradients = vmap(layer)(*scores), vmap(grad(value, everything))(*scores)
    for i in range(len(scores[0])):
        own = [score[i].contiguous() for score in scores]
        for ours, theirs in zip(together, layer(*own), strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=0, atol=0)
        for ours, theirs in zip(gradients, grad(value, everything)(*own), strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=0, atol=0)


def test_batches_that_need_more_than_one_launch_go_one_by_one(host_module, unwatched):
    """Of 100 units on four multiprocessors, more than 64 sequences."""
    x, _, weights, scores, _ = make((1, 65, 3, 100, 1, False, False))

    def layer(*scores):
        return host_module.masked_lstm_layer_transformed(x, None, None, weights, list(scores), None, True)[0]

    assert torch.equal(vmap(layer)(*scores)[1], layer(*(score[1].contiguous() for score in scores)))


def test_more_calls_than_a_launch_takes(host_module):
    host_module.watch_memory(True)
    x, _, weights, scores, _ = make(CASES[1], calls=35)
    x, weights, scores = x.clone(), [weight.clone() for weight in weights], [score.clone() for score in scores]

    def value(*scores):
        return host_module.masked_lstm_layer_transformed(x, None, None, weights, list(scores), None, True)[0].sum()

    found = vmap(grad(value, (0, 1)))(*scores)
    for i in (0, 15, 16, 34):
        wanted = grad(value, (0, 1))(*(score[i].contiguous() for score in scores))
        assert all(torch.equal(ours[i], theirs) for ours, theirs in zip(found, wanted, strict=True))


def test_inputs_of_their_own_and_in_other_orders(host_module, unwatched):
    _, _, weights, scores, _ = make(CASES[0])
    xs = torch.randn(5, 3, 3, 7, generator=torch.Generator().manual_seed(0))  # (T, calls, B, I)

    def value(x, *scores):
        return host_module.masked_lstm_layer_transformed(x, None, None, weights, list(scores), None, True)[0].sum()

    found = vmap(grad(value), (1, *[0] * 4))(xs, *scores)
    for i in range(3):
        wanted = grad(value)(xs[:, i].contiguous(), *(score[i].contiguous() for score in scores))
        torch.testing.assert_close(found[i], wanted, rtol=0, atol=0)


def test_after_an_error_launches_go_out_at_once(host_module, unwatched):
    """A call that fails in the midst of others leaves nothing behind."""
    x, _, weights, scores, _ = make(CASES[0])

    def layer(x, *scores):
        return host_module.masked_lstm_layer_transformed(x, None, None, weights, list(scores), None, True)[0]

    with pytest.raises(ValueError, match="weight_ih"):
        vmap(layer, (0, *[0] * 4))(torch.randn(3, 5, 3, 8), *scores)
    own = [score[0].contiguous() for score in scores]
    assert torch.equal(layer(x, *own), host_module.masked_lstm_layer(x, None, None, weights, own, None, False, True)[0])

"""Every bad argument of an op is refused in one sentence: its name, what is expected, what came."""

import copy
import re

import numpy as np
import pytest
import torch

from seam_fast import masked_embedding, masked_linear, masked_lstm
from seam_fast.ops import functional as ops

T, B, I, H = 4, 3, 2, 5  # noqa: E741


def good(L=1, D=1, bias=True):
    """Keyword arguments that work."""
    weights = []
    for layer in range(L):
        for _ in range(D):
            shapes = ((4 * H, I if layer == 0 else D * H), (4 * H, H), (4 * H,), (4 * H,))[: 4 if bias else 2]
            weights += [torch.zeros(shape) for shape in shapes]
    states = tuple(torch.zeros(L * D, B, H) for _ in range(2))
    scores = [torch.ones_like(weight) for weight in weights]
    options = {"num_layers": L, "bidirectional": D == 2}
    return {"input": torch.zeros(T, B, I), "hx": states, "weights": weights, "scores": scores} | options


def sparse(*shape):
    return torch.zeros(shape).to_sparse()


def at(number, value):
    """A change of one entry of a list."""
    return lambda old: [*old[:number], value, *old[number + 1 :]]


ZERO = torch.zeros
CASES = [
    # argument, its value or what makes it of a good one, error, sentence
    ("input", None, TypeError, "input must be a tensor, but is None"),
    ("input", [[1.0]], TypeError, "input must be a tensor, but is of type list"),
    ("input", ZERO(T, B, I).long(), TypeError, "input must have a floating dtype, but is torch.int64"),
    ("input", ZERO(T, B, I).cfloat(), TypeError, "input must have a floating dtype, but is torch.complex64"),
    ("input", sparse(T, B, I), ValueError, "input must be a dense tensor (torch.strided), but is torch.sparse_coo"),
    ("input", ZERO(I), ValueError, "input must have shape (T, B, I) or (T, I), but its shape is (2,)"),
    ("input", ZERO(1, T, B, I), ValueError, "input must have shape (T, B, I) or (T, I), but its shape is (1, 4, 3, 2)"),
    ("input", ZERO(0, B, I), ValueError, "input must have at least one time step, but its shape is (0, 3, 2)"),
    ("input", ZERO(0, I), ValueError, "input must have at least one time step, but its shape is (0, 2)"),
    ("input", ZERO(T, B, 0), ValueError, "input must have at least one feature, but its shape is (4, 3, 0)"),
    ("input", ZERO(T, B, 7), ValueError, "weights[0] (weight_ih_l0) must have shape (20, 7), but has (20, 2)"),
    ("input", ZERO(T, B, I).double(), ValueError, "weights[0] (weight_ih_l0) must be torch.float64 like input, but is"),
    ("input", ZERO(T, B, I, device="meta"), ValueError, "weights[0] (weight_ih_l0) must be on meta like input, but is"),
    ("input", ZERO(T, 9, I), ValueError, "hx[0] (h_0) must have shape (1, 9, 5), but has (1, 3, 5)"),
    ("input", ZERO(T, I), ValueError, "hx[0] (h_0) must have shape (1, 5), but has (1, 3, 5)"),
    ("hx", ZERO(1, B, H), TypeError, "hx must be a pair of tensors (h_0, c_0) or None, but is a tensor"),
    ("hx", (ZERO(1, B, H),), TypeError, "hx must be a pair of tensors (h_0, c_0) or None, but is 1 of them"),
    ("hx", (ZERO(1, B, H), None), TypeError, "hx[1] (c_0) must be a tensor, but is None"),
    ("hx", at(1, ZERO(B, H)), ValueError, "hx[1] (c_0) must have shape (1, 3, 5), but has (3, 5)"),
    ("hx", at(0, ZERO(2, B, H)), ValueError, "hx[0] (h_0) must have shape (1, 3, 5), but has (2, 3, 5)"),
    (
        "hx",
        at(0, ZERO(1, B, H).half()),
        ValueError,
        "hx[0] (h_0) must be torch.float32 like input, but is torch.float16",
    ),
    ("hx", at(1, ZERO(1, B, H, device="meta")), ValueError, "hx[1] (c_0) must be on cpu like input, but is on meta"),
    ("hx", at(1, sparse(1, B, H)), ValueError, "hx[1] (c_0) must be a dense tensor"),
    ("weights", ZERO(20, 2), TypeError, "weights must be a list of tensors, but is a tensor of torch.float32"),
    ("weights", None, TypeError, "weights must be a list of tensors, but is None"),
    ("weights", {"weight_ih_l0": ZERO(20, 2)}, TypeError, "weights must be a list of tensors, but is of type dict"),
    (
        "weights",
        [],
        ValueError,
        "weights must have 2 tensors, or 4 with biases, for num_layers 1 and 1 direction, but has 0",
    ),
    ("weights", lambda old: old[:3], ValueError, "weights must have 2 tensors, or 4 with biases"),
    ("weights", lambda old: old * 2, ValueError, "for num_layers 1 and 1 direction, but has 8"),
    ("weights", at(0, None), TypeError, "weights[0] (weight_ih_l0) must be a tensor, but is None"),
    (
        "weights",
        at(1, None),
        TypeError,
        "weights[1] (weight_hh_l0) must be a tensor of shape (4H, H), H at least 1, but is",
    ),
    ("weights", at(1, ZERO(20)), ValueError, "weights[1] (weight_hh_l0) must be a tensor of shape (4H, H)"),
    ("weights", at(1, ZERO(0, 0)), ValueError, "H at least 1, but is (0, 0)"),
    ("weights", at(1, ZERO(20, 6)), ValueError, "weights[0] (weight_ih_l0) must have shape (24, 2), but has (20, 2)"),
    ("weights", at(1, ZERO(19, 5)), ValueError, "weights[1] (weight_hh_l0) must have shape (20, 5), but has (19, 5)"),
    ("weights", at(2, ZERO(20, 1)), ValueError, "weights[2] (bias_ih_l0) must have shape (20,), but has (20, 1)"),
    ("weights", at(3, ZERO(5)), ValueError, "weights[3] (bias_hh_l0) must have shape (20,), but has (5,)"),
    (
        "weights",
        at(3, ZERO(20).double()),
        ValueError,
        "weights[3] (bias_hh_l0) must be torch.float32 like input, but is",
    ),
    ("weights", at(0, ZERO(20, 2, device="meta")), ValueError, "weights[0] (weight_ih_l0) must be on cpu like input"),
    ("weights", at(0, sparse(20, 2)), ValueError, "weights[0] (weight_ih_l0) must be a dense tensor (torch.strided)"),
    ("scores", ZERO(20, 2), TypeError, "scores must be a list of tensors, but is a tensor of torch.float32"),
    ("scores", 1.0, TypeError, "scores must be a list of tensors, but is of type float"),
    ("scores", lambda old: old[:3], ValueError, "scores must have 4 entries, one for each weight, but has 3"),
    ("scores", at(1, 1.0), TypeError, "scores[1] (of weight_hh_l0) must be a tensor, but is of type float"),
    ("scores", at(1, ZERO(5, 20)), ValueError, "scores[1] (of weight_hh_l0) must have shape (20, 5), but has (5, 20)"),
    (
        "scores",
        at(2, ZERO(20).bool()),
        ValueError,
        "scores[2] (of bias_ih_l0) must be torch.float32 like input, but is",
    ),
    ("scores", at(2, ZERO(20, device="meta")), ValueError, "scores[2] (of bias_ih_l0) must be on cpu like input"),
    ("scores", at(0, sparse(20, 2)), ValueError, "scores[0] (of weight_ih_l0) must be a dense tensor"),
    ("num_layers", 0, ValueError, "num_layers must be at least 1, but is 0"),
    ("num_layers", -1, ValueError, "num_layers must be at least 1, but is -1"),
    ("num_layers", 1.0, TypeError, "num_layers must be an int, but is of type float"),
    ("num_layers", 2, ValueError, "weights[2] (weight_ih_l1) must have shape (20, 5), but has (20,)"),  # no biases?
    ("num_layers", 3, ValueError, "weights must have 6 tensors, or 12 with biases, for num_layers 3 and 1 direction"),
    ("bidirectional", True, ValueError, "weights[2] (weight_ih_l0_reverse) must have shape (20, 2), but has (20,)"),
    (
        "lengths",
        torch.tensor([1.0, 2, 3]),
        TypeError,
        "lengths must be a tensor of integers or None, but is a tensor of",
    ),
    (
        "lengths",
        torch.tensor([True] * 3),
        TypeError,
        "lengths must be a tensor of integers or None, but is a tensor of",
    ),
    ("lengths", "321", TypeError, "lengths must be a tensor of integers or None, but is of type str"),
    ("lengths", [1, 2.0, 3], TypeError, "lengths must be a tensor of integers or None, but is of type list"),
    ("lengths", 3, TypeError, "lengths must be a tensor of integers or None, but is of type int"),
    ("lengths", [1, 2], ValueError, "lengths must have shape (3,), one for each row of the batch, but has (2,)"),
    (
        "lengths",
        torch.ones(3, 1).long(),
        ValueError,
        "lengths must have shape (3,), one for each row of the batch, but",
    ),
    ("lengths", [1, 5, 2], ValueError, "lengths must lie between 0 and the 4 time steps of input, but one is 5"),
    ("lengths", [1, -1, 2], ValueError, "lengths must lie between 0 and the 4 time steps of input, but one is -1"),
    ("lengths", [1, 2**62, 2], ValueError, "between 0 and the 4 time steps of input, but one is 4611686018427387904"),
    ("dropout", -0.1, ValueError, "dropout must lie between 0 and 1, but is -0.1"),
    ("dropout", 1.5, ValueError, "dropout must lie between 0 and 1, but is 1.5"),
    ("dropout", float("nan"), ValueError, "dropout must lie between 0 and 1, but is nan"),
    ("dropout", "0.5", TypeError, "dropout must be a number, but is of type str"),
    ("backend", "gpu", ValueError, "backend 'gpu' is unknown; there are auto, cuda, cpu, torch"),
    ("backend", None, ValueError, "backend None is unknown"),
]


@pytest.mark.parametrize(("name", "change", "error", "sentence"), CASES)
def test_masked_lstm_refuses(name, change, error, sentence):
    arguments = good()
    arguments[name] = change(list(arguments[name])) if callable(change) else change
    with pytest.raises(error, match=re.escape(sentence)) as caught:
        masked_lstm(**arguments)
    assert "\n" not in str(caught.value)


def test_names_of_weights_in_later_layers_and_the_other_direction():
    for number, name in (
        (3, "bias_hh_l0"),
        (6, "bias_ih_l0_reverse"),
        (8, "weight_ih_l1"),
        (13, "weight_hh_l1_reverse"),
    ):
        arguments = good(L=2, D=2)
        arguments["weights"][number] = torch.zeros(1, 1, 1)
        with pytest.raises(ValueError, match=re.escape(f"weights[{number}] ({name}) must have shape")):
            masked_lstm(**arguments)
    arguments = good(L=2, D=2, bias=False)
    arguments["scores"][6] = torch.zeros(1)
    with pytest.raises(ValueError, match=re.escape("scores[6] (of weight_ih_l1_reverse) must have shape (20, 10)")):
        masked_lstm(**arguments)


def test_batch_first_moves_the_batch():
    arguments = good() | {"batch_first": True}
    with pytest.raises(ValueError, match=re.escape("hx[0] (h_0) must have shape (1, 4, 5), but has (1, 3, 5)")):
        masked_lstm(**arguments)
    arguments["input"] = torch.zeros(B, 0, I)
    with pytest.raises(ValueError, match="at least one time step"):
        masked_lstm(**arguments)
    arguments["input"] = torch.zeros(1)
    with pytest.raises(ValueError, match=re.escape("input must have shape (B, T, I) or (T, I)")):
        masked_lstm(**arguments)


def test_without_a_batch():
    arguments = good() | {"input": torch.zeros(T, I), "hx": None}
    with pytest.raises(ValueError, match="lengths must be None for an input without a batch"):
        masked_lstm(**arguments, lengths=[3])
    arguments["hx"] = (torch.zeros(1, H), torch.zeros(H))
    with pytest.raises(ValueError, match=re.escape("hx[1] (c_0) must have shape (1, 5), but has (5,)")):
        masked_lstm(**arguments)


def test_the_good_arguments_are_good():
    for options in ({}, {"L": 2, "D": 2}, {"bias": False}):
        output, (h_n, c_n) = masked_lstm(**good(**options))
        assert output.shape == (T, B, H * options.get("D", 1)) and h_n.shape == c_n.shape


IDS, TABLE = torch.tensor([0, 1]), torch.zeros(6, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (([0, 1], TABLE, None), TypeError, "ids must be a tensor of int64 or int32, but is of type list"),
        ((torch.zeros(2), TABLE, None), TypeError, "ids must be a tensor of int64 or int32, but is a tensor of"),
        ((IDS, None, None), TypeError, "weight must be a tensor, but is None"),
        ((IDS, TABLE.int(), None), TypeError, "weight must have a floating dtype, but is torch.int32"),
        ((IDS, TABLE[0], None), ValueError, "weight must have 2 dimensions, but its shape is (3,)"),
        ((IDS, TABLE, torch.zeros(6, 2)), ValueError, "score must have shape (6, 3), but has (6, 2)"),
        ((IDS, TABLE, TABLE.double()), ValueError, "score must be torch.float32 like weight, but is torch.float64"),
        ((IDS, TABLE, None, 6), ValueError, "padding_idx must be one of the 6 rows of weight, but is 6"),
        ((IDS + 9, TABLE, None), IndexError, "index out of range"),  # by torch
    ],
)
def test_masked_embedding_refuses(arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        masked_embedding(*arguments)


X, W, BIAS = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((None, W), TypeError, "input must be a tensor, but is None"),
        ((X[:, :2], W), ValueError, "input must have 3 columns, as weight has, but its shape is (2, 2)"),
        ((X.sum(), W), ValueError, "input must have 3 columns, as weight has, but its shape is ()"),
        ((X.double(), W), ValueError, "input must be torch.float32 like weight, but is torch.float64"),
        ((X, W[0]), ValueError, "weight must have 2 dimensions, but its shape is (3,)"),
        ((X, W, BIAS[:3]), ValueError, "bias must have shape (4,), but has (3,)"),
        ((X, W, BIAS[None]), ValueError, "bias must have 1 dimension, but its shape is (1, 4)"),
        ((X, W, BIAS, W[0]), ValueError, "weight_score must have shape (4, 3), but has (3,)"),
        ((X, W, BIAS, W, W), ValueError, "bias_score must have shape (4,), but has (4, 3)"),
        ((X, W, None, W, BIAS), ValueError, "bias_score must be None where bias is None, but is a tensor"),
    ],
)
def test_masked_linear_refuses(arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        masked_linear(*arguments)


def simple_call(**options):
    """A call that goes to the compiled kernels at once, or would but for what is changed."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(12, 2), (12, 3), (12,), (12,)]
    given = {"input": torch.randn(4, 2, 2, generator=generator), "hx": None}
    given["weights"] = [torch.randn(shape, generator=generator) for shape in shapes]
    given["scores"] = [torch.randn(shape, generator=generator) for shape in shapes]
    return given | options


STATES = torch.ones(1, 2, 3), torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hx": STATES},
        {"hx": list(STATES)},
        {"hx": torch.stack(STATES)},
        {"hx": (None, None)},
        {"hx": (STATES[0], None)},
        {"hx": iter(STATES)},
        {"hx": STATES[:1]},
        {"weights": iter(simple_call()["weights"])},
        {"weights": set(simple_call()["weights"])},
        {"weights": tuple(simple_call()["weights"])},
        {"weights": simple_call()["weights"][:2], "scores": None},
        {"weights": simple_call()["weights"][:2] * 2},
        {"scores": None},
        {"scores": [None] * 4},
        {"scores": [None] * 3},
        {"dropout": torch.tensor(0.0)},
        {"dropout": torch.zeros(2)},
        {"dropout": np.float32(0)},
        {"dropout": False},
        {"dropout": 0},
        {"num_layers": np.array([1, 2])},
        {"num_layers": 1.0},
        {"num_layers": True},
        {"bidirectional": True},
        {"batch_first": True},
        {"input": torch.randn(4, 2)},
        {"input": torch.randn(2, 4, 2).transpose(0, 1)},
        {"input": torch.randn(0, 2, 2)},
        {"input": torch.randn(4, 0, 2)},
        {"input": torch.randn(4, 2, 2).double()},
        {"input": torch.nn.Parameter(torch.randn(4, 2, 2))},
        {"clamp": False},
        {"backend": "nobody"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_short_way_takes_what_the_long_one_takes(monkeypatch, options):
    """And says the same, in the same error."""

    def outcome():
        given = simple_call(**{key: copy.copy(value) if key != "hx" else value for key, value in options.items()})
        for key in ("weights", "hx"):
            if key in options and not hasattr(options[key], "__len__"):
                given[key] = iter(simple_call()["weights"] if key == "weights" else STATES)
        try:
            output, (h_n, c_n) = masked_lstm(**given)
            return [part.tolist() for part in (output, h_n, c_n)]
        except Exception as error:
            return type(error), str(error)

    short = outcome()
    monkeypatch.setattr(ops, "_fast_path", lambda *given: None)
    assert outcome() == short

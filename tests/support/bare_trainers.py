"""The compiled trainers by themselves, made of tensors as they are, and all that they must refuse."""

import torch

from . import toy_weights

R, WORDS = 6, 9  # rows with scores, words; of the trainers below


def arguments(dtype=torch.float64, **changes):
    """Of a small ``_C.SeamTrainer``; a change may be a function of what it replaces."""
    weights = list(toy_weights.make_weights(dtype, sizes=(WORDS, 4, 3, 5)).values())
    states = [weights[0].new_ones(R + 1, 4), *(torch.ones_like(weight) for weight in weights[1:])]
    head = list(toy_weights.make_head(dtype))
    fine = {
        "weights": weights,
        "fed_ids": torch.arange(R),
        "scores": states,
        "exp_avg": [torch.zeros_like(part) for part in states],
        "exp_avg_sq": [torch.zeros_like(part) for part in states],
        "head": head,
        "head_joint_moments": [torch.zeros_like(head[i // 2]) for i in range(4)],
        "head_only_moments": [torch.zeros_like(head[i // 2]) for i in range(4)],
        "penalty": [1e-3] * 7,
        "train_head": True,
        "read_last_word": True,
        "target_weight": 1.0,
        "lazy_update": "quadrature",
    }
    return fine | {name: change(fine[name]) if callable(change) else change for name, change in changes.items()}


def at(i, change):
    """A list with its entry i changed."""
    return lambda tensors: [change(part) if j == i else part for j, part in enumerate(tensors)]


def otherwise(tensor):
    """In the other dtype."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor.double()


def flipped(tensor):
    """The same values, laid out in another order."""
    return tensor.T.contiguous().T


LISTS = ("weights", "scores", "exp_avg", "exp_avg_sq", "head", "head_joint_moments", "head_only_moments")
BAD_TRAINERS = [
    *((name, lambda tensors: tensors[:-1], ValueError, "must hold") for name in LISTS),
    *((name, at(0, otherwise), TypeError, "dtype") for name in LISTS[1:]),
    *((name, at(1, lambda part: torch.cat([part, part])), ValueError, "must have shape") for name in LISTS),
    *((name, at(0, flipped), ValueError, "contiguous") for name in LISTS),
    *((name, at(0, lambda part: part[0]), ValueError, "dimensions|shape") for name in LISTS),
    ("scores", at(0, lambda part: part[1:]), ValueError, "must have shape"),
    ("weights", lambda tensors: [part.long() for part in tensors], TypeError, "must be float32"),
    ("weights", lambda tensors: [part.half() for part in tensors], TypeError, "must be float32"),
    ("weights", lambda tensors: [part.to("meta") for part in tensors], TypeError, "on the CPU|be on meta"),
    ("weights", lambda tensors: [None, *tensors[1:]], TypeError, "incompatible"),
    ("fed_ids", torch.Tensor.int, TypeError, "int64"),
    ("fed_ids", lambda rows: rows[:, None], TypeError, "one dimension"),
    ("fed_ids", lambda rows: rows + WORDS - R + 1, ValueError, f"0 to {WORDS - 1}, but holds {WORDS}"),
    ("fed_ids", lambda rows: rows - 1, ValueError, "but holds -1"),
    ("fed_ids", lambda rows: rows[1:], ValueError, "must have shape"),
    ("penalty", [0.1] * 6, ValueError, "must hold 7"),
    ("lazy_update", "never", ValueError, "quadrature, replay or off, but is never"),
    ("lazy_update", 3, TypeError, "incompatible"),
]


class Bare:
    """Makes a module's trainers of `arguments`, which `given` holds afterwards."""

    def __init__(self, module, dtype):
        self.module, self.dtype, self.given = module, dtype, None

    def __call__(self, **changes):
        self.given = arguments(self.dtype, **changes)
        return self.module.SeamTrainer(**self.given)


def documents_for(dtype=torch.float64, count=4, width=3):
    """score_rows, lengths and target_probability for ``train``."""
    score_rows = (torch.arange(count * width) % R).reshape(count, width).int()
    return score_rows, torch.full((count,), width), torch.ones(count, dtype=dtype) / 2


def with_value(tensor, value):
    """A copy with another last entry."""
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


BAD_DOCUMENTS = [
    (0, torch.Tensor.long, TypeError, "score_rows must be a contiguous"),
    (0, lambda score_rows: score_rows[0], TypeError, "two dimensions"),
    (0, flipped, TypeError, "contiguous"),
    (0, lambda score_rows: with_value(score_rows, R), ValueError, f"0 to {R - 1}, but holds {R}"),
    (0, lambda score_rows: with_value(score_rows, -1), ValueError, "but holds -1"),
    (0, lambda score_rows: score_rows[:, :0].contiguous(), ValueError, "at least one position"),
    (1, torch.Tensor.int, TypeError, "lengths must be a contiguous int64"),
    (1, lambda lengths: lengths[:-1], ValueError, "lengths must have shape"),
    (1, lambda lengths: torch.stack([lengths, lengths], 1)[:, 0], TypeError, "contiguous"),
    (1, lambda lengths: with_value(lengths, 0), ValueError, "between 1 and 3, but holds 0 for document 3"),
    (1, lambda lengths: with_value(lengths, 4), ValueError, "between 1 and 3, but holds 4 for document 3"),
    (2, otherwise, TypeError, "target_probability must have .*dtype"),
    (2, lambda given: given[:-1], ValueError, "target_probability must have shape"),
    (2, lambda given: torch.stack([given, given], 1)[:, 0], ValueError, "target_probability must be contiguous"),
    (3, 0, ValueError, "batch must be at least 1, but is 0"),
    (3, -2, ValueError, "batch must be at least 1, but is -2"),
    (4, -1, ValueError, "documents -1 to 4 of 4"),
    (4, 5, ValueError, "documents 5 to 4 of 4"),
    (5, 5, ValueError, "documents 0 to 5 of 4"),
    (5, 2.5, TypeError, "incompatible"),
    (5, None, TypeError, "incompatible"),
]

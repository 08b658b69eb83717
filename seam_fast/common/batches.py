"""Cutting documents into batches of one size."""

import torch
from torch import Tensor


def deal(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Numbers of the documents of each batch, and which of them are real: (S, B) both.

    Where the last batch is smaller, its first document fills it up: nothing in it that is not there anyway.
    """
    numbers = torch.arange(-(-count // size) * size).view(-1, size)
    real = numbers < count
    return torch.where(real, numbers, numbers[:, :1]), real

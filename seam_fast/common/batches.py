"""Cutting documents into batches of one size, as a CUDA graph needs them."""

import torch
from torch import Tensor


def deal(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Batches over ``count`` documents.

    Returns:
        The indices of the documents of each batch, int64, and which of them are real, bool, both (batches, size). A
        smaller last batch is filled up with copies of its own first document, which are not real.
    """
    numbers = torch.arange(-(-count // size) * size).view(-1, size)
    real = numbers < count
    return torch.where(real, numbers, numbers[:, :1]), real

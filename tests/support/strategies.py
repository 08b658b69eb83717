"""What hypothesis draws for more than one file."""

import torch
from hypothesis import strategies as st

from .toy_data import make_documents


def draw_documents(data, count, width, words):
    """Random documents, some with any shares as labels; data: of hypothesis."""
    documents = make_documents(count, width, words, seed=data.draw(st.integers(0, 1000)))
    if not data.draw(st.booleans()):
        return documents
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    return *documents[:2], torch.stack([share, 1 - share], 1)

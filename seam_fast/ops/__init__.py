"""Masked operations: an LSTM, an embedding and a linear layer with a score for each weight.

They can be used alone, without the classifiers and the search of the rest of the package.
"""

from .functional import masked_embedding, masked_linear, masked_lstm
from .reference import binarize

__all__ = ["binarize", "masked_embedding", "masked_linear", "masked_lstm"]

"""Masked operations, with one score for each weight. They know nothing of SEAM, of documents or of classifiers."""

from .functional import masked_embedding, masked_linear, masked_lstm
from .reference import binarize

__all__ = ["binarize", "masked_embedding", "masked_linear", "masked_lstm"]

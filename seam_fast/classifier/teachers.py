"""What a distilled base learns from: a linear SVM and LSTMs of its own kind, each with half a say."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .inference import class_logits
from .linear_teacher import LinearTeacher
from .model import LSTMClassifier


class Teachers(NamedTuple):
    """Probabilities of several classifiers for the same words.

    Attributes:
        linear: the linear SVM.
        lstms: trained bases, on the CPU; without any, the SVM alone is the teacher.
    """

    linear: LinearTeacher
    lstms: list[LSTMClassifier]

    @torch.no_grad()
    def probabilities(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Of each class for documents: ids (B, T), lengths (B,) -> float32 (B, C). The SVM's and the LSTMs' mean."""
        found = self.linear.probabilities(ids, lengths)
        if not self.lstms:
            return found
        each = [torch.softmax(class_logits(one.weights(), ids, lengths, one.readout), 1) for one in self.lstms]
        return (found + torch.stack(each).mean(0)) / 2

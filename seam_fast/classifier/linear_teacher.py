"""The teacher of the distilled recipe: a linear SVM on TF-IDF values, as probabilities of the classes.

It is fitted to the same documents and the same first words that the LSTM is trained on, and answers for the very words
that the LSTM is fed, after word dropout. Its margins become probabilities by a softmax of one scale and a bias a class,
fitted to margins of five-fold cross-validation: on documents that it was fitted to a linear SVM is nearly always right
and would teach no more than the labels do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .tfidf import FOLDS, Array, fold_numbers, need_sklearn, word_counts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_CALIBRATION_STEPS = 200  # of L-BFGS at most, over C + 1 numbers


class LinearTeacher(NamedTuple):
    """Probabilities from words.

    Attributes:
        weight: what a word of TF-IDF value 1 adds to each class, float32 (V, C).
        bias: (C,) float32.
        idf: inverse document frequencies, (V,) float32.
    """

    weight: Tensor
    bias: Tensor
    idf: Tensor

    @torch.no_grad()
    def probabilities(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Of each class for documents: ids (B, T), lengths (B,) -> float32 (B, C)."""
        inside = torch.arange(ids.shape[1]) < lengths[:, None]
        words = ids.masked_fill(~inside, -1)
        count = (words[:, :, None] == words[:, None, :]).sum(2).float()
        value = self.idf[ids] * (1 + count.log()) * inside
        # Each of a word's places stands for its share of the word's value, so places are summed and not words.
        norm = (value.square() / count).sum(1).sqrt().clamp_min(1e-12)
        share = value / count / norm[:, None]
        margins = torch.einsum("bt,btc->bc", share, self.weight[ids]) + self.bias
        return torch.softmax(margins, 1)


def fit_linear_teacher(
    ids: Tensor, lengths: Tensor, labels: Tensor, num_classes: int, vocab_size: int
) -> LinearTeacher:
    """Fits the teacher.

    Args:
        ids: words of the documents, (N, T).
        lengths: (N,).
        labels: class ids, (N,).
        num_classes: C. A class without documents gets the least probability.
        vocab_size: V.

    Raises:
        DataError: scikit-learn is not installed.
    """
    need_sklearn("distilled bases")
    from sklearn.feature_extraction.text import TfidfTransformer

    transform = TfidfTransformer(sublinear_tf=True)
    documents = transform.fit_transform(word_counts(ids, lengths, vocab_size))
    classes = labels.numpy()
    weight, bias = _fit(documents, classes, num_classes)
    margins = np.empty((len(classes), num_classes), dtype=np.float32)
    folds = fold_numbers(classes)
    for fold in range(FOLDS):
        held_out = folds == fold
        if held_out.any():
            fitted = _fit(documents[~held_out], classes[~held_out], num_classes)
            margins[held_out] = documents[held_out] @ fitted[0] + fitted[1]
    scale, shift = _calibration(torch.from_numpy(margins), labels)
    made = (scale * torch.from_numpy(weight), scale * torch.from_numpy(bias) + shift, torch.from_numpy(transform.idf_))
    return LinearTeacher(*(part.float() for part in made))


def _fit(documents: csr_matrix, classes: Array, num_classes: int) -> tuple[Array, Array]:
    """Weights (V, C) and biases (C,) of linear SVMs, each class against the rest; -1 and no weights where a class has
    no documents or all of them.
    """
    from sklearn.svm import LinearSVC

    weight, bias = np.zeros((documents.shape[1], num_classes)), np.full(num_classes, -1.0)
    for k in range(num_classes):
        wanted = classes == k
        if wanted.any() and not wanted.all():
            machine = LinearSVC(C=1.0, random_state=0, max_iter=5000).fit(documents, wanted)
            weight[:, k], bias[k] = machine.coef_[0], machine.intercept_[0]
    return weight, bias


def _calibration(margins: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scale () and biases (C,) by which a softmax of margins (N, C) has the least cross-entropy."""
    log_scale, shift = torch.zeros((), requires_grad=True), torch.zeros(margins.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=_CALIBRATION_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A little of weight decay keeps the bias of a class of very few documents finite.
        found = F.cross_entropy(log_scale.exp() * margins + shift, labels) + 1e-4 * shift.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return log_scale.detach().exp(), shift.detach()

"""A classifier's predictions and figures over whole splits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.default_device import on_the_cpu
from ..data.corpus import Split
from ..errors import DataError
from .inference import class_logits
from .metrics import ClassifierMetrics, confusion_metrics
from .model import LSTMClassifier


@on_the_cpu
def predict_logits(model: LSTMClassifier, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Class logits of many documents, in batches and without gradients.

    Args:
        model: the classifier; it computes on the device where it is.
        ids: token ids (N, T) int64.
        lengths: real words of each document, (N,) int64; None: T each.

    Returns:
        (N, C), on the device of ``ids``.
    """
    if lengths is None:
        lengths = torch.full((len(ids),), ids.shape[1])
    return class_logits(model.weights(), ids, lengths, model.readout)


@on_the_cpu
def evaluate_classifier(model: LSTMClassifier, split: Split) -> ClassifierMetrics:
    """Confusion matrix and figures of a classifier on labelled documents.

    Args:
        model: the classifier.
        split: the documents, such as ``corpus.test``.

    Raises:
        DataError: there are documents of classes that the model does not know, which would all count as errors.
    """
    if len(split.labels) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < model.num_classes:
        count = int(((split.labels < 0) | (split.labels >= model.num_classes)).sum())
        raise DataError(
            f"{count:,} of {len(split.labels):,} documents are of classes that this base does not know; take them out "
            "to judge it (a module can be judged on them: evaluate_module)."
        )
    predicted = predict_logits(model, split.ids, split.lengths).argmax(1).cpu()
    return confusion_metrics(split.labels, predicted, model.num_classes)

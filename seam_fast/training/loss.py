"""A module's loss, and the border between SeaM's labels and what all of this package carries.

SeaM calls the target class 0 and the rest class 1, which is why output 0 of a module's head is the target's. Here a
document's label is one number, ``target_probability``: 1.0 for the target, 0.0 for the rest, between for soft labels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def as_target_probability(labels: Tensor) -> Tensor:
    """Labels of any kind as probabilities of the target.

    Args:
        labels: Probabilities of the target, floating (N,), which are returned as they are; or SeaM's labels: class
            numbers of any integer dtype (N,), 0 target and 1 rest, or the probabilities of both, floating (N, 2).

    Returns:
        Floating (N,).

    Raises:
        ValueError: The shape is another one, a class number is neither 0 nor 1, or both probabilities do not add up to
            1.
    """
    if labels.ndim == 1 and labels.is_floating_point():
        return labels
    if labels.ndim == 1:
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0, target, or 1, rest, if they are integers")
        return (labels == 0).float()
    if labels.ndim != 2 or labels.shape[1] != 2 or not labels.is_floating_point():
        raise ValueError(
            "labels must be probabilities of the target (N,), SeaM's class numbers (N,), or probabilities of target "
            f"and rest (N, 2), but are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if ((labels.sum(1) - 1).abs() > 1e-4).any():
        raise ValueError(
            "labels must be probabilities of target and rest that add up to 1, where they have two columns"
        )
    return labels[:, 0]


def is_certain(target_probability: Tensor) -> bool:
    """Whether all probabilities are 0 or 1, as true labels are."""
    return bool(((target_probability == 0) | (target_probability == 1)).all())


def seam_labels(target_probability: Tensor) -> Tensor:
    """SeaM's class numbers of true labels: int64 (N,), 0 target and 1 rest."""
    return (target_probability == 0).long()


def cross_entropy(outputs: Tensor, target_probability: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy of a module, in nats a document.

    Args:
        outputs: Those of its head (B, 2), output 0 the target's.
        target_probability: Of each document (B,), in any floating dtype; or SeaM's labels, see
            ``as_target_probability``.
        class_weights: Weights of target and rest (2,), for true labels only; the mean is then a weighted one.

    Returns:
        A scalar.
    """
    target_probability = as_target_probability(target_probability)
    if is_certain(target_probability):
        # torch rounds the loss of class numbers otherwise than that of probabilities, and SeaM has class numbers.
        return functional.cross_entropy(outputs, seam_labels(target_probability), weight=class_weights)
    probability = target_probability.to(outputs.dtype)
    return functional.cross_entropy(outputs, torch.stack([probability, 1 - probability], 1), weight=class_weights)

"""Trainers of the CPU over small bases, and runs of them whose modules differ in all that a module may differ in."""

import torch

from . import toy_data, toy_weights, trainer_kinds
from .trainer_kinds import OPTIONS, SCHEDULES


def make(lazy_update="quadrature", weights=None, head=None, words=range(15), **options):
    """A trainer of the small world, in float32 unless weights say otherwise."""
    weights = weights or toy_weights.make_weights(torch.float32)
    dtype = weights[toy_weights.EMBEDDING].dtype
    head = head or toy_weights.make_head(dtype, classes=len(weights[toy_weights.LINEAR[1]]))
    return trainer_kinds.make_trainer(
        f"cpu-{lazy_update}", weights, head, torch.tensor(list(words)), **OPTIONS | options
    )


def train_one(weights, number, lazy_update="quadrature"):
    """One of several modules over the same base; returns it trained."""
    options = {"schedule": SCHEDULES[number % 3], "alpha": 0.1 * (number + 1), "lr_mask": 0.02 * (number + 1)}
    trainer = make(
        lazy_update, weights, toy_weights.make_head(torch.float32, seed=number, classes=6), range(60), **options
    )
    for epoch in range(12):
        documents = toy_data.make_documents(150, width=9, words=range(60), seed=100 * number + epoch)
        trainer.run_epoch(*documents, number % 4 + 1, head_only=epoch % 5 == 0 and trainer.schedule == "seam")
        trainer.class_logits(*documents[:2])
    return trainer

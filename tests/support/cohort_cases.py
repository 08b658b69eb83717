"""Modules for a cohort: their samplers, trainers and teachers, and all that their training moves."""

import torch

from seam_fast import Settings
from seam_fast.classifier.inference import logits_at_once
from seam_fast.search.sampling import Sampler
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer

from . import toy_weights, trainer_kinds

ALPHA = {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.05, "schedule": "joint"}


def make_sampler(corpus, target=(0,), teacher=None, seed=0, **options):
    settings = Settings(**{"batch_size": 8, "targets_per_epoch": 6, "negatives_per_target": 2.0} | options)
    return Sampler(corpus, torch.arange(len(corpus.train)), target, settings, seed, teacher)


def make_trainer(weights, sampler, trainer=CudaGraphTrainer, readout="last_word", **options):
    head = toy_weights.make_head(weights[toy_weights.EMBEDDING].dtype, seed=len(sampler.target), classes=4)
    return trainer_kinds.build(trainer, weights, head, sampler.fed_ids(), readout=readout, **ALPHA | options)


def state(trainer):
    scores, head = trainer.full_scores()
    return [
        *scores.values(),
        *head,
        *trainer.exp_avg.values(),
        *trainer.exp_avg_sq.values(),
        *trainer.head_joint_moments,
    ]


def assert_bits(some, others):
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def teacher_of(weights, target, readout):
    """As a lane asks it, words first, and as a sampler does."""

    classes = torch.tensor(target, device=next(iter(weights.values())).device)  # before anything is recorded

    def at_once(words, lengths):
        return torch.softmax(logits_at_once(weights, words, lengths, readout), 1)[:, classes].sum(1)

    return at_once, lambda ids, lengths: at_once(ids.T, lengths)

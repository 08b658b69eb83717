"""The beginning of a run whose trainer has scores as drawn."""

import torch

from seam_fast.search.context import SearchContext
from seam_fast.search.module_run import ModuleRun
from seam_fast.training.devices import CPU


def begin_with_random_scores(base, corpus, settings, seed):
    """The run of class 1 by the engine on the CPU, before its first step, and its trainer."""
    run = ModuleRun(SearchContext(base, corpus, settings, "cpu"), (1,), 0, 1)
    trainer = run.begin(CPU)
    generator = torch.Generator().manual_seed(seed)
    for score in trainer.scores.values():
        score.copy_(torch.randn(score.shape, generator=generator))
    return run, trainer

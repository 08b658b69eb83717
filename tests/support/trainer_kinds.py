"""Trainers of every kind by one call, and how a test gives any of them the state of another."""

from dataclasses import fields

import pytest
import torch

from seam_fast import _ext
from seam_fast.backend import untrainable_reason
from seam_fast.classifier.state_keys import HEAD_NAMES
from seam_fast.training import reference_step
from seam_fast.training.config import LAZY_UPDATES, StepConfig
from seam_fast.training.cpu_trainer import CpuTrainer
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer
from seam_fast.training.cuda_trainer import CudaTrainer
from seam_fast.training.torch_trainer import TorchTrainer

from .gpu_stand_in import cuda_host
from .toy_weights import EMBEDDING, KEYS, make_head, single

ENGINES = [name for name in ("torch", "cpu", "cuda") if not untrainable_reason(torch.float32, name)]  # that train here
OPTIONS = {"alpha": 0.2, "lr_mask": 0.05, "lr_head": 0.02, "schedule": "joint"}
TRAINERS = ("torch", *(f"cpu-{lazy_update}" for lazy_update in LAZY_UPDATES))
GPU = "cuda"  # where trainers of a GPU have their tensors
ADAMS = ("adam_together", "adam_head")


# What a compiled trainer calls the moments of the head in each of them.
HEAD_STATES = dict(zip(ADAMS, ("head_joint_moments", "head_only_moments"), strict=True))


class HostTrainer(CudaTrainer):
    """The trainer of a GPU with its kernels in their meaning on the CPU."""

    @staticmethod
    def _module():
        return cuda_host()


def build(trainer, weights, head, fed_ids, **options):
    """A trainer of a class; of the options those that say how a step is taken become its StepConfig."""
    config = {field.name: options.pop(field.name) for field in fields(StepConfig) if field.name in options}
    return trainer(weights, head, fed_ids, StepConfig(**config), **options)


def make_trainer(kind, weights, head, words, **options):
    """A trainer of one of the TRAINERS; skips the test where what that needs is not there.

    Or in float32, whatever the weights are: "cuda-host-..." and a lazy_update, a GPU's trainer whose kernels run on
    the CPU; "cuda-...", the same on a GPU; "graph", the trainer of ordinary kernels on a GPU.
    """
    if kind == "torch":
        return TorchTrainer(weights, head, words, StepConfig(**options))
    if kind == "graph":
        return CudaGraphTrainer(*single(weights, head, GPU), words, StepConfig(**options), backend="cuda")
    if kind.startswith("cuda-"):
        trainer, device = (HostTrainer, "cpu") if kind.startswith("cuda-host-") else (CudaTrainer, GPU)
        try:
            lazy_update = kind.rpartition("-")[2]
            return trainer(*single(weights, head, device), words, StepConfig(**options), lazy_update=lazy_update)
        except ValueError as error:
            if "form no clusters" not in str(error):
                raise
            pytest.skip(str(error).splitlines()[0])
    if not _ext.has_ext():
        pytest.skip(f"needs the compiled part: {_ext.reason}")
    return CpuTrainer(weights, head, words, StepConfig(**options), lazy_update=kind.removeprefix("cpu-"))


def load_state(trainer, steps=0, head_steps=0):
    """Tells a compiled trainer that its scores or Adam's state were set by hand; others see it by themselves."""
    if hasattr(trainer, "load_state"):
        trainer.load_state(steps, head_steps)


def put_state(exact, other, step=0, head_steps=0):
    """Scores, head and both Adams' state of a float64 Stepper after `step` steps, rounded, into another trainer."""

    def fit(key, tensor):  # a trainer's last row stands for all words without one of their own, or for nobody
        if key != EMBEDDING or tensor.ndim == 0 or isinstance(other, reference_step.Stepper):
            return tensor
        shared = torch.nonzero(other.row_of_id == len(other.fed_ids)).flatten()[:1]
        return tensor[torch.cat([other.fed_ids, shared if len(shared) else other.fed_ids[:1]])]

    parts = [(key, score, other.scores[key]) for key, score in exact.scores.items()]
    parts += [(i, *pair) for i, pair in enumerate(zip(exact.head, other.head, strict=True))]
    for key, theirs, ours in parts:
        with torch.no_grad():
            ours.copy_(fit(key, theirs.detach()))
        for name in ADAMS:
            adam = getattr(exact, name)
            if adam is None or theirs not in adam.state:
                continue
            state = {what: fit(key, value).float().clone() for what, value in adam.state[theirs].items()}
            if hasattr(other, HEAD_STATES[name]):  # which keeps Adam's memory by key
                for i, what in enumerate(("exp_avg", "exp_avg_sq")):
                    of_head = key not in KEYS
                    memory = getattr(other, HEAD_STATES[name])[2 * key + i] if of_head else getattr(other, what)[key]
                    memory.copy_(state[what])
            else:
                getattr(other, name if isinstance(other, reference_step.Stepper) else f"_{name}").state[ours] = state
    load_state(other, step - head_steps, head_steps)


def parts_of(snapshot) -> dict:
    """All tensors of a trainer's snapshot by name."""
    return {**snapshot.mask.bits, **dict(zip(HEAD_NAMES, snapshot.head, strict=True))}


STATES = ("scores", "exp_avg", "exp_avg_sq")


def tensors(trainer):
    """All that training moves, by name."""
    found = {(name, key): part for name in STATES for key, part in getattr(trainer, name).items()}
    for name in ("head", "head_joint_moments", "head_only_moments"):
        found |= {(name, i): part for i, part in enumerate(getattr(trainer, name))}
    return found


def assert_same_bits(one, other):
    assert one.steps == other.steps
    theirs = tensors(other)
    for name, part in tensors(one).items():
        assert torch.equal(part, theirs[name]), name


SCHEDULES = ("seam", "port", "joint")


def make_for_sampler(kind, base, sampler, **options):
    """A trainer over a base of four classes for the documents that a sampler draws."""
    options = OPTIONS | {"lr_mask": 0.3, "schedule": "seam", "readout": "last_word"} | options
    head = make_head(torch.float32, classes=4)
    return make_trainer(kind, base.weights(), head, sampler.fed_ids(), **options)

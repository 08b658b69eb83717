"""Held against the reference itself: 60 steps of its own code in float64, on real R8 batches, both schedules."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open

from seam_fast import reference
from seam_fast.engine import TorchTrainer
from seam_fast.keys import EMBEDDING, HEAD_KEYS, WEIGHT_KEYS


class Golden:
    """One golden run: settings, batches and the state after steps 1, 20 and 60."""

    def __init__(self, folder, schedule, dtype):
        with safe_open(folder / f"trade_{schedule}.safetensors", "pt") as file:
            self.settings = file.metadata()
        self.tensors = load_file(folder / f"trade_{schedule}.safetensors")
        self.weights = {k: v.to(dtype) for k, v in load_file(folder / "base_public.safetensors").items()}
        self.head = tuple(self.tensors[f"initial.{key}"].to(dtype) for key in HEAD_KEYS)
        self.ids, self.labels = self.tensors["ids"].long(), self.tensors["labels"].long()
        self.lengths = torch.full(self.ids.shape[:2], self.ids.shape[2])
        self.options = {
            "alpha": float(self.settings["alpha"]),
            "lr_mask": float(self.settings["lr_mask"]),
            "lr_head": float(self.settings["lr_head"]),
            "schedule": schedule,
        }
        self.head_only = int(self.settings["head_only_steps"])
        self.total = sum(weight.numel() for weight in self.weights.values())

    def make(self, kind):
        if kind == "stepper":
            return reference.Stepper(self.weights, self.head, **self.options)
        return TorchTrainer(self.weights, self.head, self.ids, **self.options)

    def advance(self, trainer, step):
        """Runs step number `step` (from 0); returns (cross entropy, kept ratio before the step)."""
        ids, lengths, labels = self.ids[step], self.lengths[step], self.labels[step]
        head_only = step < self.head_only
        if isinstance(trainer, reference.Stepper):
            return trainer.step(ids, lengths, labels, head_only=head_only)
        kept = sum(trainer.kept_counts().values()) / self.total
        return trainer.run_epoch(ids, lengths, labels, len(ids), head_only=head_only), kept

    def scores(self, trainer):
        if isinstance(trainer, reference.Stepper):
            return {key: score.detach() for key, score in trainer.scores.items()}, trainer.head
        return trainer.expand(trainer.snapshot())


def assert_scores(golden, step, scores, head, tolerance):
    """Every golden score within tolerance and every kept bit equal; the head too."""
    for key in WEIGHT_KEYS:
        bits = np.packbits((scores[key] > 0).numpy())
        assert np.array_equal(bits, golden.tensors[f"step{step}.{key}_mask.kept_bits"].numpy()), f"{key}, step {step}"
        if key == EMBEDDING:
            ours = scores[key][golden.tensors["embedding_rows"].long()]
            theirs = golden.tensors[f"step{step}.{key}_mask.rows"]
        else:
            ours, theirs = scores[key], golden.tensors[f"step{step}.{key}_mask"]
        torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")
    for ours, key in zip(head, HEAD_KEYS, strict=True):
        torch.testing.assert_close(ours.detach(), golden.tensors[f"step{step}.{key}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["stepper", "engine"])
@pytest.mark.parametrize("schedule", ["port", "seam"])
def test_float64_follows_the_reference(golden_dir, schedule, kind):
    golden = Golden(golden_dir, schedule, torch.float64)
    trainer = golden.make(kind)
    for step in range(60):
        cross_entropy, kept = golden.advance(trainer, step)
        assert cross_entropy == pytest.approx(golden.tensors["cross_entropy"][step].item(), abs=1e-9), step
        assert kept == pytest.approx(golden.tensors["kept_ratio_before_step"][step].item(), abs=1e-12), step
        if step + 1 in (1, 20, 60):
            assert_scores(golden, step + 1, *golden.scores(trainer), tolerance=1e-9)


def test_settings_are_those_documented(golden_dir):
    golden = Golden(golden_dir, "seam", torch.float64)
    assert golden.options == {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.01, "schedule": "seam"}
    assert golden.head_only == 20, json.dumps(golden.settings)

"""Held against the reference itself: 60 steps of its own code in float64, on real R8 batches, both schedules."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open
from support import agreement, trainer_kinds

from seam_fast import LSTMClassifier, SeamModule, _ext
from seam_fast.classifier import reference_model
from seam_fast.classifier.state_keys import EMBEDDING, HEAD_KEYS, WEIGHT_KEYS
from seam_fast.training import reference_step


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
            return reference_step.Stepper(self.weights, self.head, **self.options)
        return trainer_kinds.make_trainer(kind, self.weights, self.head, self.ids, **self.options)

    def advance(self, trainer, step):
        """Runs step number `step` (from 0); returns (cross entropy, kept ratio before the step)."""
        ids, lengths, labels = self.ids[step], self.lengths[step], self.labels[step]
        head_only = step < self.head_only
        if isinstance(trainer, reference_step.Stepper):
            return trainer.step(ids, lengths, labels, head_only=head_only)
        kept = sum(trainer.kept_counts().values()) / self.total
        return trainer.run_epoch(ids, lengths, labels, len(ids), head_only=head_only), kept

    def scores(self, trainer):
        if isinstance(trainer, reference_step.Stepper):
            return {key: score.detach() for key, score in trainer.scores.items()}, trainer.head
        return trainer.full_scores()


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
        torch.testing.assert_close(
            ours, theirs.to(ours.dtype), rtol=0, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )
    for ours, key in zip(head, HEAD_KEYS, strict=True):
        torch.testing.assert_close(ours.detach(), golden.tensors[f"step{step}.{key}"], rtol=0, atol=tolerance)


# The compiled trainer by both schedules. Of the two in plain PyTorch, whose steps over the whole vocabulary take
# seconds, one by each: the Stepper goes by the other one below, over the words that are fed, and what holds the trainer
# to it by every schedule is in test_trainers.py.
RUNS = [(schedule, kind) for schedule in ("port", "seam") for kind in trainer_kinds.TRAINERS if kind != "torch"]
RUNS += [("seam", "stepper"), ("port", "torch")]


@pytest.mark.parametrize(("schedule", "kind"), RUNS)
def test_float64_follows_the_reference(golden_dir, schedule, kind):
    golden = Golden(golden_dir, schedule, torch.float64)
    trainer = golden.make(kind)
    for step in range(60):
        cross_entropy, kept = golden.advance(trainer, step)
        assert cross_entropy == pytest.approx(golden.tensors["cross_entropy"][step].item(), abs=1e-9), step
        assert kept == pytest.approx(golden.tensors["kept_ratio_before_step"][step].item(), abs=1e-12), step
        if step + 1 in (1, 20, 60):
            assert_scores(golden, step + 1, *golden.scores(trainer), tolerance=1e-9)


@pytest.mark.parametrize("lazy_update", trainer_kinds.LAZY_UPDATES)
@pytest.mark.parametrize("schedule", ["port", "seam"])
def test_the_cpu_trainer_in_float32_keeps_the_same_weights(golden_dir, schedule, lazy_update):
    """Sixty steps in a row: no kept bit differs from the reference's in float64, and no loss by more than 1e-6."""
    golden = Golden(golden_dir, schedule, torch.float32)
    trainer = golden.make(f"cpu-{lazy_update}")
    for step in range(60):
        cross_entropy, kept = golden.advance(trainer, step)
        assert cross_entropy == pytest.approx(golden.tensors["cross_entropy"][step].item(), abs=1e-6), step
        assert kept == golden.tensors["kept_ratio_before_step"][step].item(), step
        if step + 1 in (1, 20, 60):
            scores, _ = golden.scores(trainer)
            for key in WEIGHT_KEYS:
                wanted = golden.tensors[f"step{step + 1}.{key}_mask.kept_bits"]
                assert np.array_equal(np.packbits((scores[key] > 0).numpy()), wanted.numpy()), f"{key}, step {step}"


def test_settings_are_those_documented(golden_dir):
    golden = Golden(golden_dir, "seam", torch.float64)
    assert golden.options == {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.01, "schedule": "seam"}
    assert golden.head_only == 20, json.dumps(golden.settings)


# -- float32, one step at a time --------------------------------------------------------------------------------------


class CompactGolden(Golden):
    """The run with a vocabulary of just the words it feeds and those in `embedding_rows`, to spare time.

    alpha is scaled with the number of weights, so alpha / N, and with it every row's trajectory, is the same.
    """

    def __init__(self, folder, schedule):
        super().__init__(folder, schedule, torch.float64)
        self.rows = torch.unique(torch.cat([self.ids.flatten(), self.tensors["embedding_rows"].long()]))
        self.weights[EMBEDDING] = self.weights[EMBEDDING][self.rows]
        self.ids = torch.searchsorted(self.rows, self.ids)
        self.options["alpha"] *= sum(weight.numel() for weight in self.weights.values()) / self.total

    def single(self):
        """Weights and head in float32."""
        return {key: weight.float() for key, weight in self.weights.items()}, tuple(part.float() for part in self.head)


@pytest.mark.parametrize("schedule", ["port", "seam"])
def test_float32_steps_are_as_good_as_plain_pytorch(golden_dir, schedule):
    """Each of the 60 steps begins at the float64 state: a trainer may err twice as much as the float32 Stepper does.

    To that comes one rounding of a score: eps times the largest one, since no score is held more exactly. The loss, a
    number near 1 after 32 time steps and from logits some times as large, is allowed sixteen.
    """
    golden = CompactGolden(golden_dir, schedule)
    exact, eps = golden.make("stepper"), torch.finfo(torch.float32).eps
    weights, head = golden.single()
    words = torch.arange(len(golden.rows))
    kinds = trainer_kinds.TRAINERS if _ext.has_ext() else ("torch",)  # side by side: the truth is worked out once
    for step in range(60):
        stepper = reference_step.Stepper(weights, head, **golden.options)
        engines = [trainer_kinds.make_trainer(kind, weights, head, words, **golden.options) for kind in kinds]
        for other in (stepper, *engines):
            trainer_kinds.put_state(exact, other, step, min(step, golden.head_only))
        wanted, theirs, *ours = (golden.advance(each, step)[0] for each in (exact, stepper, *engines))
        for kind, engine, loss in zip(kinds, engines, ours, strict=True):
            where = f"step {step} of {kind}"
            assert abs(loss - wanted) <= 2 * abs(theirs - wanted) + 16 * eps * max(1, wanted), f"loss of {where}"
            agreement.assert_as_good(exact, stepper, engine, where)
    for key in WEIGHT_KEYS[1:]:  # the compact run is the golden one
        torch.testing.assert_close(exact.scores[key].detach(), golden.tensors[f"step60.{key}_mask"], rtol=0, atol=1e-9)
    places = torch.searchsorted(golden.rows, golden.tensors["embedding_rows"].long())
    rows = golden.tensors[f"step60.{EMBEDDING}_mask.rows"]
    torch.testing.assert_close(exact.scores[EMBEDDING].detach()[places], rows, rtol=0, atol=1e-9)


# -- the reference's file ---------------------------------------------------------------------------------------------


def test_the_references_file_loads_predicts_and_saves_the_same(golden_dir, tmp_path):
    golden = Golden(golden_dir, "port", torch.float64)
    path = golden_dir / "tc_2" / "lr_head_mask_0.1_0.1_alpha_0.2.pth"
    base = LSTMClassifier.load(golden_dir / "base_public.safetensors")
    assert base.readout == "last_position"
    module = SeamModule.load(path, base)
    assert module.target == (2,)
    for key in WEIGHT_KEYS:
        bits = np.packbits((module.scores[key] > 0).numpy())
        assert np.array_equal(bits, golden.tensors[f"step60.{key}_mask.kept_bits"].numpy()), key
    for ours, key in zip(module.head, HEAD_KEYS, strict=True):
        torch.testing.assert_close(ours, golden.tensors[f"step60.{key}"].float(), rtol=0, atol=0)

    ids, lengths = golden.ids.flatten(0, 1), golden.lengths.flatten()
    logits = reference_model.class_logits(ids, lengths, base.weights(), module.scores, "last_position")
    wanted = torch.softmax(reference_model.head_logits(logits, module.head), 1)
    torch.testing.assert_close(module.predict_proba(ids, lengths), wanted, rtol=0, atol=1e-5)
    assert wanted[golden.labels.flatten() == 0, 0].mean() > wanted[golden.labels.flatten() == 1, 0].mean()

    module.save(tmp_path / "again.pth")
    theirs, ours = (torch.load(file, weights_only=True) for file in (path, tmp_path / "again.pth"))
    assert list(ours) == list(theirs) and type(ours) is type(theirs)
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor), key

    module.save(tmp_path / "module.safetensors")
    loaded = SeamModule.load(tmp_path / "module.safetensors", base)
    assert loaded.target == (2,)
    assert torch.equal(loaded.predict_proba(ids, lengths), module.predict_proba(ids, lengths))

"""Defaults of both protocols, and what is refused."""

import dataclasses
import json
import math

import pytest

from seam_fast.errors import TrainingError
from seam_fast.search.settings import Settings


def test_protocol_seam():
    settings = Settings.for_protocol("seam")
    assert settings == Settings()
    assert settings.as_dict() == {
        "protocol": "seam",
        "alpha": 1.0,
        "keep": None,
        "penalty": "group",
        "lstm_penalty_scale": 0.35,
        "linear_penalty_scale": 0.0,
        "head_start": "aligned",
        "lr_mask": 0.03,
        "lr_head": 0.01,
        "lr_decay": "cosine",
        "schedule": "joint",
        "epochs": None,
        "steps": 500,
        "batch_size": 128,
        "sampling": "redraw",
        "negatives_per_target": "corpus",
        "targets_per_epoch": 128,
        "target_weight": 1.0,
        "distill_weight": 1.0,
        "word_dropout": 0.3,
        "shots": -1,
        "selection": "f1",
        "min_epoch_fraction": 0.75,
        "reject_constant": True,
        "evaluation": "validation",
        "evaluation_subset": "all",
        "threshold": "f1",
        "early_stop": -1,
        "start": "full",
    }


def test_protocol_reference_is_the_public_one():
    settings = Settings.for_protocol("reference").as_dict()
    expected = {
        "protocol": "reference",
        "alpha": 0.2,
        "penalty": "global",
        "lr_mask": 0.1,
        "lr_head": 0.1,
        "schedule": "seam",
        "epochs": 300,
        "batch_size": 5,
        "sampling": "balanced",
        "target_weight": 1.0,
        "lstm_penalty_scale": 1.0,
        "linear_penalty_scale": 1.0,
        "head_start": "random",
        "lr_decay": "none",
        "targets_per_epoch": 0,
        "distill_weight": 0.0,
        "word_dropout": 0.0,
        "shots": -1,
        "selection": "reference",
        "min_epoch_fraction": 0.0,
        "reject_constant": False,
        "evaluation": "test",
        "evaluation_subset": "sampled",
        "threshold": "half",
        "early_stop": -1,
    }
    assert {key: settings[key] for key in expected} == expected


def test_it_can_be_recorded():
    settings = Settings.for_protocol("reference")
    assert Settings(**json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize(("schedule", "expected"), [("seam", [0, 5, 10, 15]), ("port", []), ("joint", [])])
def test_which_epochs_step_the_head_alone(schedule, expected):
    settings = Settings(schedule=schedule)
    assert [epoch for epoch in range(20) if settings.head_only(epoch)] == expected


def test_options_override_and_none_leaves_alone():
    settings = Settings.for_protocol("reference").with_options(alpha=1.0, epochs=None, lr_mask=None, early_stop=3)
    assert (settings.alpha, settings.epochs, settings.lr_mask, settings.early_stop) == (1.0, 300, 0.1, 3)
    assert Settings().with_options(epochs=0, alpha=0, word_dropout=0.0).epochs == 0  # 0 is a value


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="learning_rate"):
        Settings().with_options(learning_rate=0.1)


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().alpha = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "other"),
        ("schedule", "seem"),
        ("sampling", "none"),
        ("penalty", "layer"),
        ("selection", "best"),
        ("evaluation", "train"),
        ("alpha", -0.1),
        ("alpha", math.nan),
        ("lr_mask", -1),
        ("lr_mask", math.nan),
        ("lr_head", -1),
        ("epochs", -1),
        ("steps", 0),
        ("batch_size", 0),
        ("word_dropout", -0.1),
        ("word_dropout", 1.0),
        ("negatives_per_target", 0),
        ("negatives_per_target", math.nan),
        ("target_weight", 0),
        ("target_weight", math.inf),
        ("lr_decay", "linear"),
        ("lstm_penalty_scale", -1),
        ("linear_penalty_scale", -1),
        ("head_start", "base"),
        ("targets_per_epoch", -1),
        ("distill_weight", -0.1),
        ("distill_weight", 1.1),
        ("shots", 0),
        ("shots", -2),
    ],
)
def test_a_value_that_cannot_be_is_named(name, value):
    with pytest.raises(TrainingError, match=f"^{name} is .*must be"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0, "lr_mask": 0, "lr_head": 0},
        {"epochs": 0},
        {"steps": 1, "batch_size": 1},
        {"word_dropout": 0.0},
        {"negatives_per_target": 0.5, "target_weight": 20, "distill_weight": 0},
        {"distill_weight": 1},
        {"lstm_penalty_scale": 0, "targets_per_epoch": 0},
        {"shots": 1},
        {"early_stop": 0},
    ],
)
def test_values_at_the_edge(options):
    assert Settings(**options).as_dict().items() >= options.items()


def test_soft_labels_and_weighted_targets_do_not_go_together():
    with pytest.raises(TrainingError, match="distill_weight and target_weight"):
        Settings(distill_weight=0.5, target_weight=20)


def test_learning_rates_fall_as_half_a_cosine():
    settings = Settings(lr_decay="cosine")
    scales = [settings.lr_scale(epoch, 4) for epoch in range(4)]
    assert scales == pytest.approx([1, (2 + math.sqrt(2)) / 4, 1 / 2, (2 - math.sqrt(2)) / 4])
    assert settings.lr_scale(0, 1) == 1
    assert all(settings.lr_scale(epoch, 1000) > 0 for epoch in range(1000))
    assert [Settings(lr_decay="none").lr_scale(epoch, 4) for epoch in range(4)] == [1] * 4


def test_a_threshold_beside_shifts_of_sizes():
    """The default moves none where there are several sizes; asked for, it is refused."""
    settings = Settings(keep=(0.1, 0.2))
    assert settings.with_options(threshold="half").threshold == "half"
    with pytest.raises(TrainingError, match="threshold is 'f1', which has no effect where keep has several sizes"):
        settings.with_options(threshold="f1")
    assert Settings(keep=0.1).with_options(threshold="f1").threshold == "f1"

"""Old names work for one minor release, and each says what it is called now."""

import importlib
import sys
import warnings

import pytest
import torch

import seam_fast as sf
from seam_fast._moved import MOVED
from seam_fast.cli import run_files, workflow
from seam_fast.cli.main import make_parser
from seam_fast.search.settings import RENAMED


@pytest.mark.parametrize("old", RENAMED)
def test_old_names_of_settings(old):
    new, value = RENAMED[old], {"lstm_factor": 0.5, "settle": 0.25, "distill": 0.5, "gate": True}[old]
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated, it is called {new} now") as said:
        settings = sf.Settings(**{old: value})
    assert said[0].filename == __file__
    assert settings == sf.Settings(**{new: value})
    with pytest.warns(DeprecationWarning, match=new) as said:
        assert getattr(settings, old) == value
    assert said[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=new):
        assert sf.Settings().with_options(**{old: value}) == settings
    with pytest.raises(TypeError, match=f"{old} is the old name of {new}; give {new} alone"):
        sf.Settings(**{old: value, new: value})
    with pytest.raises(AttributeError, match="no field 'unheard_of'"):
        settings.unheard_of  # noqa: B018


def test_the_old_name_of_the_readout():
    with pytest.warns(DeprecationWarning, match="read='end' is deprecated, .* readout='last_position' now") as said:
        base = sf.LSTMClassifier(5, 3, 2, 2, read="end")
    assert said[0].filename == __file__
    assert base.readout == "last_position"
    with pytest.warns(DeprecationWarning, match="readout"):
        assert base.read == "end"


def test_the_old_name_of_the_lazy_update(toy, toy_base):
    options = {"epochs": 1, "backend": "torch", "evaluate_every": 0}
    for call in (
        lambda **more: sf.reengineer(toy_base, toy, [1], **options, **more)[0],
        lambda **more: sf.reengineer_many(
            toy_base, toy, [1], [sf.Settings(epochs=1)], backend="torch", evaluate_every=0, **more
        )[0][0],
    ):
        with pytest.warns(DeprecationWarning, match="catch_up='dense' is deprecated") as said:
            old = call(catch_up="dense")
        assert said[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            new = call(lazy_update="off")
        assert all(torch.equal(old.scores[key], new.scores[key]) for key in old.scores)


def test_the_old_name_of_training():
    with pytest.warns(
        DeprecationWarning, match=r"seam_fast\.train is deprecated, .* seam_fast\.train_classifier"
    ) as said:
        assert sf.train is sf.train_classifier
    assert said[0].filename == __file__
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        sf.unheard_of  # noqa: B018


@pytest.mark.parametrize("name", MOVED)
def test_modules_by_their_old_names(name, monkeypatch):
    monkeypatch.delitem(sys.modules, f"seam_fast.{name}", raising=False)
    wanted = importlib.import_module(f"seam_fast.{MOVED[name]}")
    spec = wanted.__spec__
    with pytest.warns(DeprecationWarning, match=f"seam_fast.{name} is deprecated, .*{MOVED[name]} now") as said:
        exec(compile(f"import seam_fast.{name}", "the user's file", "exec"), {})
    assert sys.modules[f"seam_fast.{name}"] is wanted and said[0].filename == "the user's file"
    assert wanted.__spec__ is spec


@pytest.mark.parametrize("name", workflow.MOVED)
def test_what_the_workflow_was_made_of(name):
    new = f"seam_fast.{workflow.MOVED[name]}"
    with pytest.warns(DeprecationWarning, match=f"workflow.{name} is deprecated, .*{new}.{name} now") as said:
        assert getattr(workflow, name) is getattr(importlib.import_module(new), name)
    assert said[0].filename == __file__


def test_the_workflow_had_nothing_else():
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        workflow.unheard_of  # noqa: B018


def test_old_flags(capsys):
    parser = make_parser()
    old = parser.parse_args(["reengineer", "--read", "end", "--catch-up", "dense"])
    said = capsys.readouterr().err
    assert "--read is deprecated, it is called --readout now: --readout last_position" in said
    assert "--catch-up is deprecated, it is called --lazy-update now: --lazy-update off" in said
    new = parser.parse_args(["reengineer", "--readout", "last_position", "--lazy-update", "off"])
    assert vars(old) == vars(new) and capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        parser.parse_args(["reengineer", "--catch-up", "never"])
    assert "argument --lazy-update: invalid choice: 'never'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["LSTMClassifier", "evaluate_classifier", "predict_logits"])
def test_names_of_the_module_that_is_a_package_now(name):
    with pytest.warns(
        DeprecationWarning, match=rf"seam_fast\.classifier\.{name} is deprecated, .*\.{name} now"
    ) as said:
        found = getattr(importlib.import_module("seam_fast.classifier"), name)
    assert said[0].filename == __file__ and found.__name__ == name


def test_a_base_read_by_the_old_name(toy_base, tmp_path):
    toy_base.save(tmp_path / "base.safetensors")
    with pytest.warns(DeprecationWarning, match="readout='last_position'") as said:
        base = sf.LSTMClassifier.load(tmp_path / "base.safetensors", read="end")
    assert base.readout == "last_position" and said[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="readout"):
        base.read = "last_word"
    assert base.readout == "last_word"


@pytest.mark.parametrize(("protocol", "kept"), [("reference", True), ("seam", False)])
def test_modules_without_the_newer_settings_are_kept_where_they_would_be_made_again(protocol, kept):
    settings = sf.Settings(protocol).as_dict()
    newer = ("linear_penalty_scale", "head_start", "threshold", "start")
    before = {name: value for name, value in settings.items() if name not in newer} | {"negatives_per_target": 5.0}
    found = run_files._by_present_names({"settings": before, "evaluate_every": 1})
    assert (found == {"settings": settings, "evaluate_every": None}) is kept
    by_f1 = run_files._by_present_names({"settings": before | {"selection": "f1"}})["settings"]
    assert "threshold" not in by_f1, "the rule chooses otherwise now"
    redrawn = run_files._by_present_names({"settings": before | {"sampling": "redraw"}})["settings"]
    assert redrawn["negatives_per_target"] == 5.0


def test_cards_of_the_version_before_are_understood():
    """A module that 0.1 made by the same settings is kept by --reuse."""
    settings = sf.Settings(min_epoch_fraction=0.5).as_dict()
    old = {new: old for old, new in RENAMED.items()}
    card = {
        "settings": {old.get(name, name): value for name, value in settings.items()},
        "catch_up": "dense",
        "seed": 3,
    }
    assert set(card["settings"]) != set(settings)
    assert run_files._by_present_names(card) == {"settings": settings, "lazy_update": "off", "seed": 3}

"""Modules of several seeds beside one another, and what they have in common."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from support import toy_data

import seam_fast as sf
from seam_fast import LSTMClassifier, SeamModule, Settings, StableCore, TrainingError
from seam_fast.cli.main import main
from seam_fast.modules.stable_core import seed_interval


def make_modules(base, count=10, target=(1,)):
    """Modules that keep weights by chance, a few of all seeds and a few of none."""
    modules = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        scores = {key: 0.4 - torch.rand(weight.shape, generator=generator) for key, weight in base.weights().items()}
        scores["hidden2label.weight"][0], scores["hidden2label.weight"][1] = 1.0, -1.0
        head = torch.randn(2, base.num_classes, generator=generator), torch.randn(2, generator=generator)
        modules.append(SeamModule(base, target, scores, head, card={"seed": seed, "base_hash": base.hash}))
    return modules


def test_counts_probabilities_and_masks_are_those_of_the_modules(toy_base):
    modules = make_modules(toy_base)
    core = StableCore(modules)
    assert core.seeds == list(range(10)) and core.target == (1,)
    for key, share in core.keep_probability().items():
        each = torch.stack([module.mask.dense(key) for module in modules]).float()
        torch.testing.assert_close(share, each.mean(0), rtol=0, atol=1e-7)
        for least in (1, 3, 7, 9, 10):
            assert torch.equal(core.mask(least / 10).dense(key), each.sum(0) >= least)
        assert torch.equal(core.mask(0.0).dense(key), each.any(0))
    assert core.keep_probability()["hidden2label.weight"][:2].unique().tolist() == [0, 1]
    histogram = core.histogram()
    assert set(histogram) == {"embedding", "lstm", "linear"} and all(len(row) == 11 for row in histogram.values())
    assert sum(map(sum, histogram.values())) == sum(weight.numel() for weight in toy_base.weights().values())
    kept = sum(k * count for row in histogram.values() for k, count in enumerate(row))
    assert kept == sum(sum(module.mask.counts().values()) for module in modules)
    assert "10 modules" in repr(core)


def test_the_core_is_a_module_with_the_mean_of_the_heads(toy_base, tmp_path):
    modules = make_modules(toy_base)
    core = StableCore(modules)
    module = core.module(0.7)
    assert module.mask == core.mask(0.7) and module.card["core"] == {"share": 0.7, "seeds": list(range(10))}
    for number in (0, 1):
        wanted = torch.stack([each.head[number] for each in modules]).mean(0)
        assert torch.equal(module.head[number], wanted)
    module.save(tmp_path / "core.safetensors")
    loaded = SeamModule.load(tmp_path / "core.safetensors", toy_base)
    assert loaded.mask == module.mask and loaded.card["core"] == module.card["core"]


def test_the_overlap_is_the_mean_jaccard_index(toy_base):
    modules = make_modules(toy_base, 3)
    flat = [torch.cat([module.mask.dense(key).flatten() for key in module.mask.shapes]).numpy() for module in modules]
    pairs = [(flat[a], flat[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert StableCore(modules).overlap() == pytest.approx(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))
    assert StableCore([modules[0], modules[0]]).overlap() == 1


def test_the_curve_is_that_of_the_cores(toy, toy_base):
    core = StableCore(make_modules(toy_base, 4))
    curve = core.curve(toy)
    assert [row["share"] for row in curve] == [0.25, 0.5, 0.75, 1]
    _, held_out = toy.validation_indices()
    ids, lengths, labels = toy.train.ids[held_out], toy.train.lengths[held_out], toy.train.labels[held_out]
    for row in curve:
        module = core.module(row["share"])
        says, wanted = module.predict(ids, lengths), labels == 1
        f1 = 2 * int((says & wanted).sum()) / max(int(says.sum() + wanted.sum()), 1)
        assert row["f1"] == pytest.approx(f1) and row["kept"] == module.kept


def test_intervals_of_a_mean_over_seeds():
    values = [0.8, 0.9, 0.7, 0.85, 0.95, 0.6, 0.75, 0.9]
    found = seed_interval(values)
    assert (found["mean"], found["min"], found["max"]) == (pytest.approx(np.mean(values)), 0.6, 0.95)
    # The bootstrap's interval of a mean is near the normal one, with the standard deviation of the values themselves.
    spread = 1.96 * np.std(values) / len(values) ** 0.5
    assert found["mean"] - found["low"] == pytest.approx(spread, rel=0.15)
    assert found["high"] - found["mean"] == pytest.approx(spread, rel=0.15)
    assert seed_interval([0.5]) == dict.fromkeys(("mean", "min", "max", "low", "high"), 0.5)


def test_what_is_no_core(toy_base):
    modules = make_modules(toy_base, 2)
    with pytest.raises(ValueError, match="needs two modules or more, got 1"):
        StableCore(modules[:1])
    with pytest.raises(ValueError, match=r"of one target and base; these are of targets \[1\] and \[2\]"):
        StableCore([modules[0], *make_modules(toy_base, 1, target=(2,))])
    for share in (1.5, -0.1, float("nan"), "half"):
        with pytest.raises(TrainingError, match="share"):
            StableCore(modules).mask(share)


def test_seeds_side_by_side_are_the_modules_of_each_seed(toy, toy_base):
    settings = Settings(steps=20)
    rows = sf.reengineer_many(toy_base, toy, [0, 2], [settings], seeds=[3, 5])
    assert [[module.card["seed"] for module in row] for row in rows] == [[3, 3], [5, 5]]
    for row, seed in zip(rows, (3, 5), strict=True):
        for module, alone in zip(row, sf.reengineer(toy_base, toy, [0, 2], settings=settings, seed=seed), strict=True):
            assert module.mask == alone.mask and all(map(torch.equal, module.head, alone.head))
    core = StableCore(row[0] for row in rows)
    assert core.seeds == [3, 5] and core.module(1.0).kept <= min(module.kept for module in core.modules)
    assert sf.reengineer_many(toy_base, toy, [0], [settings], seeds=[]) == []
    with pytest.raises(TrainingError, match="seed"):
        sf.reengineer_many(toy_base, toy, [0], [settings], seeds=[1, "two"])


def test_on_the_command_line(trained_once, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    arguments = ["core", *toy_data.TINY, "--seeds", "3", "--first-seed", "7", "--steps", "30", "--targets", "0,1"]
    capsys.readouterr()
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "F1, 3 seeds (95 % of the mean)" in table and "core 50 %: F1" in table and "core 90 %: F1" in table
    folder = tmp_path / "runs/tiny/cores"
    record = json.loads((folder / "record.json").read_text())
    assert record["seeds"] == [7, 8, 9] and [len(row["f1_by_seed"]) for row in record["cores"]] == [3, 3]
    assert (folder / "stable_core.png").read_bytes().startswith(b"\x89PNG")
    base = LSTMClassifier.load("runs/tiny/base.safetensors")
    for row in record["cores"]:
        path = folder / "modules" / f"{row['target'][0]}-class{row['target'][0]}.safetensors"
        seeds = [SeamModule.load(path.with_name(f"{path.stem}-seed-{k}.safetensors"), base) for k in (7, 8, 9)]
        core = StableCore(seeds)
        assert SeamModule.load(path, base).mask == core.mask(0.5) and row["core"]["kept"] == core.mask(0.5).kept()
        assert row["at_90"]["kept"] == core.mask(1.0).kept() and row["histogram"] == core.histogram()
        assert row["f1_by_seed"] == [module.metrics["test"]["f1"] for module in seeds]
    assert main(["evaluate", str(path), "--data-dir", "corpus"]) == 0  # its base is found beside it
    for more, sentence in (
        (["--seeds", "1"], "--seeds 1: a core is what several seeds have in common"),
        (["--share", "1.5"], "--share 1.5: a share of the seeds lies above 0 and is at most 1"),
    ):
        capsys.readouterr()
        assert main(["core", *toy_data.TINY, *more]) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_a_core_says_of_settings_what_holds_of_all_its_modules(toy_base):
    modules = make_modules(toy_base, 2)
    for module, steps in zip(modules, (10, 20), strict=True):
        module.card |= {"settings": Settings(steps=steps).as_dict(), "corpus": "toy"}
    card = StableCore(modules).module().card
    assert card["corpus"] == "toy" and "settings" not in card


def test_a_picture_that_cannot_be_drawn_costs_no_results(trained, capsys, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no font")

    monkeypatch.setattr("seam_fast.cli.plots_core.stable_cores", fail)
    assert main(["core", *toy_data.TINY, "--seeds", "2", "--steps", "4", "--targets", "0"]) == 0
    said = capsys.readouterr()
    assert "the picture could not be drawn: RuntimeError: no font" in said.err and "core 50 %: F1" in said.out


def test_room_is_asked_for_the_scores_of_several_sizes(trained, monkeypatch):
    asked = []
    monkeypatch.setattr("seam_fast.cli.verbs.core.check_room", lambda folder, size: asked.append(size))
    command = ["core", *toy_data.TINY, "--seeds", "2", "--steps", "4", "--targets", "0", "--no-plots"]
    for more in ([], ["--keep", "10%"], ["--keep", "5%,10%"]):
        assert main([*command, *more]) == 0
    weights = sum(weight.numel() for weight in LSTMClassifier.load("runs/tiny/base.safetensors").weights().values())
    assert asked[0] == asked[1] == asked[2] - 2 * (weights // 2)


def test_a_core_of_modules_of_an_earlier_version_knows_its_base(toy, toy_base, tmp_path):
    """Which told bases apart in float32 only: here one of float64."""
    base, loaded = copy.deepcopy(toy_base).double(), []
    with torch.no_grad():
        base.word_embeddings.weight.mul_(1 + 1e-12)
    for module in make_modules(base, 2):
        module.base_hash = module.card["base_hash"] = base.hash_in_float32
        path = tmp_path / f"{module.card['seed']}.safetensors"
        with pytest.MonkeyPatch.context() as patch:
            card = {name: value for name, value in module._file_card().items() if name != "base_dtype"}
            patch.setattr(module, "_file_card", lambda card=card: card)
            module.save(path)
        with pytest.warns(sf.DataWarning, match="an earlier version wrote it"):
            loaded.append(SeamModule.load(path, base))
    assert len(StableCore(loaded).curve(toy)) == 2

"""The quality study: pieces, resuming, and baselines that are what they say."""

import json
from pathlib import Path

import pytest
import torch
from support import toy_weights

import seam_fast as sf

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def module(toy, toy_base):
    (made,) = sf.reengineer(toy_base, toy, [1], seed=0, steps=40, lr_mask=0.2, selection="last", backend="torch")
    return made


def test_masks_keep_as_many_weights_of_each_group(module):
    from benchmarks.quality import baselines

    values = {key: weight.abs() for key, weight in module.base.weights().items()}
    scores = baselines.masks_of_equal_size(module, values)
    kept = sf.SeamModule(module.base, module.target, scores, module.head).kept_by_group
    assert kept == module.kept_by_group and 0 < kept["lstm"] < 1
    largest = torch.cat([values[key].flatten() for key in toy_weights.LSTM])
    mask = torch.cat([scores[key].flatten() for key in toy_weights.LSTM]) > 0
    assert largest[mask].min() >= largest[~mask].max()
    one, other, again = (baselines.random_values(module, seed) for seed in (0, 1, 0))
    assert all(torch.equal(one[key], again[key]) for key in one) and not torch.equal(
        one[toy_weights.KEYS[1]], other[toy_weights.KEYS[1]]
    )


def test_the_floor_drops_the_rows_of_absent_words_alone(module, toy):
    from benchmarks.quality import baselines

    fit = toy.validation_indices()[0]
    settings = sf.Settings(**module.card["settings"])
    documents = baselines.training_documents(toy, fit, module.target, settings, 0)
    assert set(documents[2].tolist()) == {0, 1} and documents[2].ndim == 1
    scores = baselines.floor_mask(module, toy, documents)
    rows = (scores[toy_weights.EMBEDDING] > 0).all(1)
    met = set(baselines.token_ids(toy, *documents[:2]).tolist())
    assert set(torch.nonzero(rows)[:, 0].tolist()) == met and len(met) < toy.vocab_size
    assert all((scores[key] > 0).all() for key in toy_weights.KEYS[1:])


def test_the_head_of_a_mask_is_trained():
    from benchmarks.quality import baselines

    features = torch.cat([torch.tensor([[3.0, 0.0]]).repeat(20, 1), torch.tensor([[0.0, 3.0]]).repeat(20, 1)])
    labels = torch.tensor([0] * 20 + [1] * 20)
    head = baselines.fit_head(features, labels, toy_weights.make_head(torch.float32, classes=2))
    outputs = torch.nn.functional.linear(torch.relu(features), *head)
    assert torch.equal(outputs.argmax(1), labels)


def test_baselines_have_no_more_weights_than_the_module(module, toy, monkeypatch):
    from benchmarks.quality import baselines

    monkeypatch.setattr(baselines, "TINY_STEPS", 60)
    state = torch.random.get_rng_state()
    settings = sf.Settings(**module.card["settings"])
    found = baselines.baselines(module, toy, toy.validation_indices()[0], settings, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(found) == ["vocabulary_floor", "random_mask", "magnitude_mask", "tiny_lstm"]
    for name, figures in found.items():
        assert set(figures["test"]) == {"precision", "recall", "f1", "accuracy"}
        assert name == "vocabulary_floor" or figures["kept"] <= module.kept + 1e-12
    rows, units = baselines.tiny_sizes(module)
    assert rows >= 2 and units >= 1 and found["tiny_lstm"]["kept_by_group"] is None
    assert found == baselines.baselines(module, toy, toy.validation_indices()[0], settings, 0)


def test_the_study_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    from benchmarks.harness import schema
    from benchmarks.quality import baselines
    from benchmarks.quality import cli as quality
    from benchmarks.report import tables_quality

    for steps in ("HEAD_STEPS", "TINY_STEPS"):  # the baselines have tests above
        monkeypatch.setattr(baselines, steps, 5)
    out = tmp_path / "study.json"
    study = ["study", "--smoke", "--out", str(out)]
    assert quality.main([*study, "--minutes", "0"]) == 0
    record = json.loads(out.read_text())
    assert not record["pieces"] and record["runs"][0]["stopped"] == "the 0 minutes were over"
    planned = record["unmeasured"]
    assert planned[0].startswith("reference,") and planned[0].endswith("2 epochs, seed 100")
    assert quality.main([*study, "--more", str(out)]) == 0
    record = schema.check(json.loads(out.read_text()))
    assert [piece["key"] for piece in record["pieces"]] == planned and not record["unmeasured"]
    assert {piece["run"] for piece in record["pieces"]} == {1} and len(record["runs"]) == 2
    assert set(record["bases"]) == {"reference", "seam"} and record["bases"]["seam"]["synthetic"]
    assert "| reference |" in capsys.readouterr().out
    assert (
        "| grain |" in tables_quality.by_class(record, "reference", 2)
        or not record["pieces"][0]["modules"][0]["baselines"]
    )
    other = tmp_path / "other.json"
    other.write_text('{"format": "seam-fast step 1"}')
    assert quality.main(["study", "--smoke", "--more", str(other)]) == 1
    assert "is no record of benchmarks.quality.study" in capsys.readouterr().err

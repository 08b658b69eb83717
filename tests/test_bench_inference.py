"""The benchmark of shipped modules: one small run from a folder of modules to its tables, and what it refuses."""

import copy
import json

import numpy as np
import pytest
from support import toy_data, toy_weights

import seam_fast as sf
from benchmarks.baselines import inference as rivals
from benchmarks.cpu import inference
from benchmarks.report import tables_inference
from seam_fast.data.documents import Documents

TEXTS = [f"w{k}x0 all{n} w{k}x1" for n in range(6) for k in range(4)]
LABELS = [f"k{k}" for n in range(6) for k in range(4)]


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A folder as seam-fast reengineer leaves it, and invented documents in place of R8's."""
    corpus = toy_data.make_corpus()
    base = copy.deepcopy(toy_weights.make_base(corpus))
    base.vocabulary, base.class_names = tuple(corpus.words), tuple(corpus.class_names)
    base.info["corpus_config"] = corpus.config.as_dict()
    base.save(tmp_path / "base.safetensors")
    for module in sf.reengineer(base, corpus, range(2), epochs=1):
        module.save(tmp_path / "modules" / f"{module.target[0]}.safetensors")
    documents = Documents(LABELS, TEXTS, "invented")
    monkeypatch.setattr(inference, "find_documents", lambda *_: (documents, documents, "invented"))
    return tmp_path


def test_a_run_from_modules_to_tables(run_folder, capsys):
    out = run_folder / "record.json"
    command = ["--run", str(run_folder), "--quick", "--rounds", "1", "--texts", "5", "--out", str(out)]
    assert inference.main(command) == 0, capsys.readouterr().err
    record = json.loads(out.read_text())
    assert [row["class"] for row in record["rows"]] == ["k0", "k1"] and record["texts"] == 5
    for row in record["rows"]:
        assert {"module", "compact", "numpy"} <= row["agreement"].keys()
        assert {each["batch"] for each in row["times"]} == {1, 64}
        assert len(row["stored"]) == len(inference.STORED) and row["stored"][0]["changed"] == 0
    for table in (tables_inference.times, tables_inference.sizes, tables_inference.agreement):
        assert "module" in table(record) or "float32" in table(record)
    assert "| the base, torch |" in tables_inference.times(record)


def test_a_form_with_other_answers_is_not_timed(run_folder, monkeypatch, capsys):
    make = rivals.make

    def wrong(*arguments):
        made, left_out = make(*arguments)
        right = made["numpy"]
        return made | {"numpy": lambda texts: right(texts) + np.float32(1e-3)}, left_out

    monkeypatch.setattr(rivals, "make", wrong)
    monkeypatch.setattr(inference.timing, "time_in_turn", lambda passes, *_: pytest.fail(f"timed: {sorted(passes)}"))
    assert inference.main(["--run", str(run_folder), "--quick", "--out", str(run_folder / "r.json")]) == 1
    assert "k0: numpy is off by 0.001" in capsys.readouterr().err
    assert not (run_folder / "r.json").exists()


def test_a_folder_without_modules(run_folder, capsys):
    command = ["--run", str(run_folder), "--classes", "k9", "--out", str(run_folder / "r.json")]
    assert inference.main(command) == 1
    assert "has no modules of these classes" in capsys.readouterr().err

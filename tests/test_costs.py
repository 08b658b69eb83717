"""What a module costs: multiplications as torch's flop counter counts them, parameters and bytes as they are stored."""

import json

import pytest
import torch
from support import toy_data, toy_weights
from support.compact_cases import CONFIGS, all_kept, make_base, make_module, random_texts
from torch.utils.flop_counter import FlopCounterMode

import seam_fast as sf
from seam_fast import SeamModule, runtime
from seam_fast.cli import cost_report
from seam_fast.cli.main import main
from seam_fast.modules import costs

SHAPES = [(1, False), *toy_weights.DEEP]
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # torch, when that is set back


def counted(function, *arguments):
    """MACs by torch's counter, all of them and by layer. With gradients an LSTM is no single kernel, and counts."""
    with FlopCounterMode(display=False) as counter, torch.enable_grad(), torch.backends.mkldnn.flags(enabled=False):
        function(*arguments)
    flops = {name.rpartition(".")[2]: sum(each.values()) for name, each in counter.get_flop_counts().items()}
    return counter.get_total_flops() / 2, {name: count / 2 for name, count in flops.items()}


@pytest.mark.parametrize("words", [1, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_base_is_counted_as_torch_counts(shape, words):
    base = make_base(shape, (7, 4, 3))
    module = SeamModule(base, [0], all_kept(base), toy_weights.make_head(torch.float32, classes=3))
    found = sf.module_costs(module, torch.tensor([words]))
    total, by_layer = counted(base, torch.randint(2, 9, (1, words)))
    assert found["base"]["macs"] == total and found["mean_length"] == words
    assert by_layer["hidden2label"] == base.hidden2label.weight.numel()
    # With all kept the module does the base's work, and its head's.
    head, _ = counted(torch.nn.functional.linear, torch.ones(1, 3), module.head[0])
    assert found["module"]["macs"] == total + head
    assert found["base"]["parameters"] == sum(part.numel() for part in base.parameters())
    assert found["module"]["parameters"] == found["base"]["parameters"] + 2 * 3 + 2


@pytest.mark.parametrize("padding", CONFIGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_compact_module_is_counted_as_torch_counts(shape, padding):
    module = make_module(make_base(shape, (7, 4, 3), CONFIGS[padding]), 0.4)
    made = module.compact()
    lengths = torch.tensor([5, 3, 4])
    found = sf.module_costs(module, lengths, made)["compact"]
    total, _ = counted(made.torch_module().requires_grad_(), torch.zeros(1, 4, dtype=torch.long), torch.tensor([4]))
    total += made.output.out.size  # a product of a matrix and a vector, which torch's counter passes over
    assert found["macs"] == total  # of a document of mean length, or of max_length where padding is read
    steps = 8 if padding == "word" else 4
    of_words = sum(
        cell.weight_ih.size * (steps if depth or not cell.reverse or len(made.layers) > 1 else 1)
        for depth, cells in enumerate(made.layers[:1])
        for cell in cells
    )
    assert found["macs_with_table"] == total - of_words
    stored = [name for name in made.tensors if not name.startswith("words.") and not name.endswith(".kept")]
    assert found["parameters"] == sum(made.tensors[name].size for name in stored)


def test_a_large_vocabulary_has_no_table(monkeypatch):
    module = make_module(make_base(), 0.5)
    monkeypatch.setattr(runtime, "MOST_PROJECTED", 10)
    found = sf.module_costs(module, torch.tensor([4]), module.compact())["compact"]
    assert found["macs_with_table"] == found["macs"]


def test_a_module_multiplies_by_what_it_keeps():
    base = make_base(sizes=(7, 4, 3))
    scores = {key: -score for key, score in all_kept(base).items()}
    scores["word_embeddings.weight"][5, :3] = 1
    scores["lstm.weight_ih_l0"][2, :5] = 1
    scores["lstm.weight_hh_l0"][1, 1] = 1
    scores["lstm.bias_ih_l0"][:2] = 1
    scores["hidden2label.weight"][0, :3] = 1
    module = SeamModule(base, [0], scores, toy_weights.make_head(torch.float32, classes=3))
    found = sf.module_costs(module, torch.tensor([2, 5]))
    assert found["mean_length"] == 3.5 and "compact" not in found
    assert found["module"] == {"parameters": 3 + 5 + 1 + 2 + 3 + 8, "macs": 3.5 * (5 + 1) + 3 + 6}


def test_no_document_has_no_mean_length():
    with pytest.raises(ValueError, match="lengths is empty"):
        sf.module_costs(make_module(make_base(), 0.5), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("padding", CONFIGS)
def test_times_are_of_the_same_documents(padding, monkeypatch):
    """Each is given each document by itself; how long that takes is nobody's business here."""
    module = make_module(make_base(config=CONFIGS[padding]), 0.5)
    made, texts = module.compact(), [text for text in random_texts(30) if text]
    ids, lengths = module.encode(texts)
    seen = {"module": [], "compact": []}
    monkeypatch.setattr(
        SeamModule, "predict_proba", lambda self, *given: seen["module"].append(self.logits(*given)[0].diff().item())
    )
    margins = made.margins_of_rows
    monkeypatch.setattr(made, "margins_of_rows", lambda rows: seen["compact"].append(-margins(rows).item()))
    found = costs.inference_times(module, ids, lengths, made)
    assert list(found) == ["base", "module", "compact"] and all(time > 0 for time in found.values())
    logits = module.logits(ids, lengths)
    wanted = pytest.approx((logits[:, 1] - logits[:, 0]).tolist(), abs=1e-5)
    assert seen["module"] == wanted and seen["compact"] == wanted
    assert list(costs.inference_times(module, ids[:2], lengths[:2])) == ["base", "module"]


# -- in reports --------------------------------------------------------------------------------------------------------


def test_a_run_records_its_costs_and_evaluate_shows_them(trained, capsys):
    command = ["reengineer", *toy_data.TINY, "--targets", "1", "--steps", "5", "--no-plots"]
    assert main(command) == 0
    folder = trained / "runs" / "tiny"
    (record,) = (folder).glob("targets_*/record.json")
    (row,) = json.loads(record.read_text())["modules"]
    found, path = row["costs"], folder / "modules" / "1-class1.safetensors"
    base = sf.LSTMClassifier.load(folder / "base.safetensors")
    module = SeamModule.load(path, base)
    assert found["base"]["bytes"] == (folder / "base.safetensors").stat().st_size
    assert found["module"]["bytes"] == path.stat().st_size and "milliseconds" not in found["module"]
    assert found["compact"]["bytes"] == len(runtime.to_bytes(module.compact()))
    lengths = sf.load_corpus("corpus", "tiny", base=base).test.lengths
    bare = {
        kind: {key: value for key, value in each.items() if key != "bytes"}
        for kind, each in found.items()
        if kind != "mean_length"
    }
    assert bare | {"mean_length": found["mean_length"]} == sf.module_costs(module, lengths, module.compact())
    table = (record.parent / "table.txt").read_text()
    assert "compact: parameters" in table and f"{found['compact']['bytes']:,}" in table
    capsys.readouterr()
    evaluate = ["evaluate", str(path), "--data-dir", "corpus"]
    assert main([*evaluate, "--json"]) == 0
    assert "costs" not in json.loads(capsys.readouterr().out)
    assert main([*evaluate, "--costs", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["costs"]
    assert all(shown[kind].pop("milliseconds") > 0 for kind in ("base", "module", "compact")) and shown == found
    assert main([*evaluate, "--costs"]) == 0
    text = capsys.readouterr().out
    assert f"{found['module']['parameters']:,}" in text and text.count(" 100.0 %") >= 4


def test_without_words_there_is_no_compact_module(tmp_path):
    base = make_base()
    module = make_module(base)
    base.vocabulary = None
    found = cost_report.costs_of(module, torch.tensor([4]), tmp_path / "m.pth", tmp_path / "base.pt")
    assert "compact" not in found and found["module"]["bytes"] is None
    rows = [{"name": "oats", "costs": found}]
    text = cost_report.table(rows)
    assert "oats" in text and "-" in text.splitlines()[3]
    assert "compact" not in cost_report.comparison(found, synthetic=True).replace("compact module", "")
    assert all(line.startswith("SYNTHETIC") for line in cost_report.table(rows, True).splitlines())
    assert all(line.startswith("SYNTHETIC") for line in cost_report.comparison(found, True).splitlines())

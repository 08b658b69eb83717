"""A compact module as an ONNX graph: ONNX Runtime's answers are the module's, and texts can be encoded by the file."""

import json
import sys

import numpy as np
import pytest
import torch
from support import toy_weights
from support.compact_cases import CONFIGS, WORDS, all_kept, make_base, make_module, random_texts
from test_torch_module import padded

import seam_fast as sf
from seam_fast import CheckpointError, SeamFastError, SeamModule, runtime
from seam_fast.cli.main import main
from seam_fast.modules.compact import DTYPES
from seam_fast.modules.export_onnx import FORMAT, onnx_bytes


@pytest.fixture(scope="module")
def ort():
    """ONNX Runtime; onnx, which writes the files, must be there too."""
    pytest.importorskip("onnx", reason='needs onnx and onnxruntime: pip install "seam-fast[onnx]"')
    return pytest.importorskip("onnxruntime", reason='needs onnxruntime: pip install "seam-fast[onnx]"')


def session_of(ort, data):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def answers(session, ids, lengths):
    """Margins and probabilities."""
    return session.run(["margin", "probability"], {"rows": ids.numpy(), "lengths": lengths.numpy()})


def rows_by_file(session, texts):
    """The rows of texts as docs/guide/ship.md makes them, from the file's metadata alone."""
    about = session.get_modelmeta().custom_metadata_map
    card, row_of = json.loads(about["card"]), json.loads(about["vocabulary"])
    found = []
    for text in texts:
        words = runtime.RULES[card["tokenizer"]](text)
        if card["padding"] == "own":
            rows = [row_of.get(word, card["unknown_row"]) for word in words[: card["max_length"]]]
            found.append(rows or [card["unknown_row"]])
        else:
            rows = [row_of[word] for word in words if word in row_of][: card["max_length"]]
            found.append(rows or [card["padding_row"]])
    return found


def check(ort, made, texts=None, atol=1e-5):
    session, texts = session_of(ort, onnx_bytes(made)), texts or random_texts()
    rows, wanted = made.encode(texts), made.margins(texts)
    assert rows_by_file(session, texts) == rows
    last = len(made.embedding) - 1
    for chosen, filler, more in ((slice(None), 0, 0), (slice(None), last, 4), (slice(5, 6), 0, 0)):
        margins, probabilities = answers(session, *padded(rows[chosen], filler, more))
        assert margins.dtype == probabilities.dtype == np.float32 and margins.shape == wanted[chosen].shape
        assert np.abs(margins - wanted[chosen]).max() <= atol
        assert np.abs(probabilities - made(texts)[chosen]).max() <= atol


@pytest.mark.parametrize("density", [1.0, 0.3, 0.05, 0.0])
@pytest.mark.parametrize("padding", CONFIGS)
@pytest.mark.parametrize("shape", [(1, False), *toy_weights.DEEP])
def test_answers_are_the_modules(ort, shape, padding, density):
    check(ort, make_module(make_base(shape, config=CONFIGS[padding]), density).compact())


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
@pytest.mark.parametrize("shape", [(1, False), (2, True)])
def test_every_readout_with_either_padding(ort, shape, readout):
    for config in CONFIGS.values():
        base = make_base(shape, config=config)
        base.readout = readout
        check(ort, make_module(base, 0.4).compact())


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_stored_as_the_module_stores_them(ort, dtype):
    made = make_module(make_base((2, True), (40, 30, 3)), 0.5).compact(dtype)
    check(ort, made)
    import onnx

    kinds = {onnx.helper.tensor_dtype_to_np_dtype(part.data_type).name for part in graph_of(made).initializer}
    # Biases, output and scales are in float32, sizes in int64.
    assert (
        kinds == {"float32", "int64"} | {"float32": set(), "float16": {"float16"}, "int8": {"float16", "int8"}}[dtype]
    )


def graph_of(made):
    import onnx

    return onnx.load_model_from_string(onnx_bytes(made)).graph


def test_one_lstm_node_a_cell_and_free_sizes(ort):
    graph = graph_of(make_module(make_base((2, True)), 0.5).compact())
    assert [node.op_type for node in graph.node].count("LSTM") == 4
    sizes = {each.name: [d.dim_param for d in each.type.tensor_type.shape.dim] for each in graph.input}
    assert sizes == {"rows": ["N", "T"], "lengths": ["N"]}


@pytest.mark.parametrize("unknown", ["own", "dropped"])
def test_unknown_words(ort, unknown):
    check(ort, make_module(make_base(), 0.3).compact(unknown=unknown))


def test_words_of_any_kind(ort):
    odd = ["", "é", "日本", "\ud800", "a\x00b", "\U0001f600", 'a"b', "ab\n"]
    base = make_base(vocabulary=["<pad>", "<unk>", *odd, *(f"w{k}" for k in range(2, WORDS - len(odd)))])
    head = toy_weights.make_head(torch.float32, classes=3)
    made = SeamModule(base, [0], all_kept(base), head).compact()
    about = session_of(ort, onnx_bytes(made)).get_modelmeta().custom_metadata_map
    assert json.loads(about["vocabulary"]) == made.row_of and json.loads(about["card"]) == made.card
    assert about["format"] == FORMAT


def test_a_hundred_real_documents(ort, r8_dir):
    """At the sizes, and about the density, of R8's modules; all of its eight classes."""
    corpus = sf.load_corpus(r8_dir, "r8")
    base = make_base((1, False), (100, 50, 8), corpus.config, list(corpus.words))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(0.5)
    lines = (r8_dir / "r8-test-all-terms.txt").read_text().splitlines()
    texts = [text for label, tab, text in (line.partition("\t") for line in lines) if tab][:100]
    assert len(texts) == 100
    for target in range(8):
        made = make_module(base, 0.05, target, seed=target).compact()
        assert np.ptp(made.margins(texts)) > 0.01
        check(ort, made, texts)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_module_is_made_compact_on_the_way(ort, tmp_path):
    module = make_module(make_base(), 0.5)
    path = sf.export_onnx(module, tmp_path / "new" / "m.onnx")
    assert path.read_bytes() == sf.export_onnx(module.compact(), tmp_path / "again.onnx").read_bytes()


def test_another_ending_is_refused(ort, tmp_path):
    with pytest.raises(CheckpointError, match=r"m\.bin: the name of an ONNX file ends in \.onnx"):
        sf.export_onnx(make_module(make_base()), tmp_path / "m.bin")
    assert not list(tmp_path.iterdir())


def test_without_onnx_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SeamFastError, match=r'pip install "seam-fast\[onnx\]"$'):
        sf.export_onnx(make_module(make_base()), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(ort, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = make_module(make_base(), 0.5)
    module.base.save("base.safetensors")
    module.save("m.safetensors")
    made = module.compact("int8")
    made.save("m.compact.safetensors")
    assert main(["export", "m.safetensors", "--onnx", "whole.onnx"]) == 0
    assert capsys.readouterr().out.startswith("whole.onnx: ")
    assert main(["export", "m.compact.safetensors", "--onnx", "small.onnx", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "small.onnx" and facts["target"] == ["class 1"] and facts["format"] == "onnx"
    data = (tmp_path / "small.onnx").read_bytes()
    assert facts["bytes"] == len(data) and data == onnx_bytes(made)
    for arguments, sentence in (
        (["m.safetensors", "--onnx", "m.bin"], "ends in .onnx"),
        (["none.safetensors", "--onnx", "m.onnx"], "no such module file"),
        (["base.safetensors", "--onnx", "m.onnx"], "is a base, not a module"),
    ):
        assert main(["export", *arguments]) == 1
        assert sentence in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["export", "m.safetensors"])
    assert caught.value.code == 2

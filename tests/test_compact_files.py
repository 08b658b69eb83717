"""Files of compact modules: they hold all of a module, and what is cut, changed or invented is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import toy_weights
from support.compact_cases import (
    CONFIGS,
    all_kept,
    make_base,
    make_module,
    random_texts,
)

from seam_fast import CheckpointError, CompactModule, LSTMClassifier, SeamModule, runtime
from seam_fast.modules import compact


@pytest.mark.parametrize("dtype", compact.DTYPES)
@pytest.mark.parametrize("padding", CONFIGS)
def test_a_file_holds_all_of_it(tmp_path, padding, dtype):
    made = make_module(make_base((2, True), config=CONFIGS[padding]), 0.4).compact(dtype)
    path = made.save(tmp_path / "m.safetensors")
    assert path.read_bytes() == runtime.to_bytes(made)
    for again in (CompactModule.load(path), runtime.load(path)):
        assert np.array_equal(again.margins(random_texts()), made.margins(random_texts()))
        assert again.card == made.card and again.row_of == made.row_of and again.target_names == ["class 1"]
    assert isinstance(CompactModule.load(path), CompactModule)


def test_words_of_any_kind(tmp_path):
    odd = ["", "ab", "a", "ab" * 200, "é", "日本", "\ud800", "a\x00b", "\U0001f600", "ab\n"]
    base = make_base(vocabulary=["<pad>", "<unk>", *odd, *(f"w{k}" for k in range(19))])
    base.tokenizer = lambda text: text.split(" ")
    made = SeamModule(base, [0], all_kept(base), toy_weights.make_head(torch.float32, classes=3)).compact()
    again = CompactModule.load(made.save(tmp_path / "m.safetensors"))
    assert again.row_of == made.row_of and set(odd) < set(again.row_of)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"m\.bin: a compact module's file ends in \.safetensors"):
        make_module(make_base()).compact().save(tmp_path / "m.bin")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def whole():
    """The bytes of a file."""
    return runtime.to_bytes(make_module(make_base(), 0.4).compact("int8"))


def refusal(tmp_path, data):
    """The sentence by which these bytes are refused."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        runtime.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.count("make the file again") <= 1
    return message


def test_every_cut_is_refused(tmp_path, whole):
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        assert "damaged" in refusal(tmp_path, whole[:size]) or size < 9
    refusal(tmp_path, whole + b"\0")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_every_flipped_bit_is_refused(tmp_path_factory, whole, place, bit):
    """Also in the header; bits in its names of formats and hashes are checked as well, since all must fit."""
    data = bytearray(whole)
    data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "m.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        runtime.load(path)


def rewritten(whole, change, card=None):
    """A file whose header or card was changed, with a checksum that fits."""
    header, body = runtime._header_and_body(whole)
    metadata = header["__metadata__"]
    if card is not None:
        metadata["card"] = json.dumps({**json.loads(metadata["card"]), **card})
    change(header)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    metadata["sha256"] = runtime.checksum(entries, metadata["card"], body)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


@pytest.mark.parametrize(
    "card",
    [
        {"embedding": [10**9, 10**9]},
        {"embedding": [-1, 2]},
        {"embedding": None},
        {"lstm": []},
        {"lstm": [[[5, 10**7, 0]]]},
        {"lstm": [[[3, 4, 0]]]},
        {"lstm": [[[5, 4, 7]]]},
        {"max_length": 0},
        {"max_length": True},
        {"readout": "first"},
        {"padding": 3},
        {"tokenizer": "rot13"},
        {"tokenizer": {"function": 1}},
        {"unknown_row": 10**6},
        {"padding_row": -1},
        {"target_names": []},
        {"target_names": "ship"},
        {"separator": ""},
        {"separator": "w"},
    ],
    ids=str,
)
def test_cards_that_do_not_fit_are_refused(tmp_path, whole, card):
    message = refusal(tmp_path, rewritten(whole, lambda header: None, card))
    assert "damaged" in message or "rows" in message or "sizes" in message or "twice" in message


def test_headers_that_do_not_fit_are_refused(tmp_path, whole):
    def entry(name, **changes):
        return lambda header: header[name].update(changes)

    for change in (
        entry("embedding.values", dtype="F64"),
        entry("embedding.values", shape=[2**62, 4]),
        entry("embedding.values", shape=[-1]),
        entry("embedding.values", data_offsets=[0, 10**12]),
        entry("embedding.values", data_offsets=[9, 3]),
        entry("embedding.values", data_offsets="no"),
        entry("output.bias", shape=[]),
        entry("words.tails", dtype="I8"),
        lambda header: header.pop("words.kept"),
        lambda header: header.update({"words.kept": 3}),
        lambda header: header.update({"__metadata__": []}),
    ):
        refusal(tmp_path, rewritten(whole, change))
    assert "another version of the format (seam-fast compact 2" in refusal(
        tmp_path, rewritten(whole, lambda header: header["__metadata__"].update(format="seam-fast compact 2"))
    )
    deep = b"[" * 100_000
    refusal(tmp_path, len(deep).to_bytes(8, "little") + deep)


def test_a_word_list_that_swells_is_refused(tmp_path, whole, monkeypatch):
    """A few bytes may decompress to gigabytes."""
    monkeypatch.setattr(runtime, "MOST_WORDS", 10)
    assert "words." in refusal(tmp_path, whole)


def test_values_that_are_not_finite_are_refused(tmp_path):
    made = make_module(make_base(), 0.4).compact()
    made.tensors["lstm.0.0.bias"] = made.tensors["lstm.0.0.bias"].copy()
    made.tensors["lstm.0.0.bias"][1] = np.nan
    assert "bias holds values that are not finite" in refusal(tmp_path, runtime.to_bytes(made))


def test_foreign_files_are_refused(tmp_path):
    module = make_module(make_base())
    module.save(tmp_path / "module.safetensors")
    module.base.save(tmp_path / "base.safetensors")
    assert "needs its base" in refusal(tmp_path, (tmp_path / "module.safetensors").read_bytes())
    assert "not a compact module" in refusal(tmp_path, (tmp_path / "base.safetensors").read_bytes())
    for path, sentence in ((tmp_path / "none.safetensors", "no such module file"), (tmp_path, "cannot be read")):
        with pytest.raises(CheckpointError, match=sentence):
            runtime.load(path)
    made = module.compact()
    with pytest.raises(CheckpointError, match=r"compact\.safetensors: .*CompactModule\.load"):
        SeamModule.load(made.save(tmp_path / "compact.safetensors"), module.base)
    with pytest.raises(CheckpointError, match="compact module"):
        LSTMClassifier.load(tmp_path / "compact.safetensors")

"""Texts of any length beside tensors in a safetensors file."""

import pytest
import safetensors
import safetensors.torch
import torch

from seam_fast import LSTMClassifier, SeamModule
from seam_fast.errors import CheckpointError
from seam_fast.files import tensors
from seam_fast.files.tensors import MOST_IN_HEADER, read_tensor_file, safetensors_bytes


def write(path, tensors, metadata):
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def test_short_texts_stand_in_the_header(tmp_path):
    path = write(tmp_path / "file.safetensors", {"a": torch.ones(2)}, {"card": "é"})
    assert path.read_bytes() == safetensors.torch.save({"a": torch.ones(2)}, {"card": "é"}), "as ever"
    assert read_tensor_file(path)[1] == {"card": "é"}


def test_a_text_that_no_header_holds(tmp_path):
    """Beyond 100,000,000 bytes the library writes none; each of these characters takes six there."""
    text = "\x01" * 17_000_000
    with pytest.raises(safetensors.SafetensorError, match="header too large"):
        safetensors.torch.save({"a": torch.ones(2)}, {"card": text})
    path = write(tmp_path / "file.safetensors", {"a": torch.ones(2)}, {"card": text, "format": "x"})
    tensors, metadata = read_tensor_file(path)
    assert list(tensors) == ["a"] and metadata == {"card": text, "format": "x"}


@pytest.mark.parametrize("character", ["\x01", "\U0001f600"], ids=["escaped", "four bytes"])
def test_the_longest_text_in_a_header_fits_there(character):
    assert safetensors_bytes({}, {"card": MOST_IN_HEADER * character}).count(b"metadata.card") == 0


def test_bases_and_modules_with_long_cards(tmp_path, monkeypatch):
    """Their vocabulary and history leave the header, and come back."""
    monkeypatch.setattr(tensors, "MOST_IN_HEADER", 100)
    words = [f"词{k}" for k in range(11)]
    base = LSTMClassifier(11, 4, 3, 2, vocabulary=words, class_names=["甲", "乙"], info={"seed": 3})
    path = base.save(tmp_path / "base.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() is None and "metadata.seam_fast" in file.keys()  # noqa: SIM118
    loaded = LSTMClassifier.load(path)
    assert (loaded.vocabulary, loaded.class_names, loaded.info) == (tuple(words), ("甲", "乙"), {"seed": 3})
    assert loaded.hash == base.hash
    history = [{"epoch": epoch, "kept": 0.5} for epoch in range(50)]
    scores = {key: torch.ones_like(weight) for key, weight in base.weights().items()}
    head = torch.zeros(2, 2), torch.zeros(2)
    SeamModule(base, [1], scores, head, history=history).save(tmp_path / "module.safetensors")
    again = SeamModule.load(tmp_path / "module.safetensors", loaded)
    assert again.history == history and again.target == (1,)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"metadata.card": torch.ones(3)}, {}),
        ({"metadata.card": torch.tensor([255, 254], dtype=torch.uint8)}, {}),
        ({"metadata.card": torch.tensor([65], dtype=torch.uint8)}, {"card": "A"}),
    ],
    ids=["floats", "not UTF-8", "twice"],
)
def test_damaged_texts_are_refused(tmp_path, tensors, metadata):
    (tmp_path / "file.safetensors").write_bytes(safetensors.torch.save(tensors, metadata))
    with pytest.raises(CheckpointError, match=r"metadata\.card is damaged"):
        read_tensor_file(tmp_path / "file.safetensors")

"""Invented documents in the form of the published R8, where nothing else is at hand."""

import hashlib
import sys
from pathlib import Path

import pytest

from seam_fast.data import r8_download, r8_files, r8_reuters
from seam_fast.data.r8 import load_r8
from seam_fast.errors import DataError

# Invented documents in the form of the published files: a space at the end of each text, no newline at the end.
DOCUMENTS = {
    "train": [("earn", "zumo earnings rose"), ("acq", "to acquire zumo"), ("earn", "profit"), ("acq", "blarg bid")],
    "test": [("acq", "bid for blarg"), ("earn", "zumo profit")],
}
PUBLISHED = {
    split: "\n".join(f"{label}\t{text} " for label, text in documents).encode()
    for split, documents in DOCUMENTS.items()
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_texts(folder: Path, **changed: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, data in (PUBLISHED | changed).items():
        (folder / r8_files.FILES[split]).write_bytes(data)
    return folder


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def isolate(monkeypatch, tmp_path):
    """No user's cache, no network, no npm: each test opens what it needs. The invented documents are `published`."""
    for name in ("SEAM_FAST_DATA", "SEAM_FAST_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEAM_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(r8_download, "MIRRORS", ())
    monkeypatch.setattr(r8_files, "SHA256", {split: sha256(data) for split, data in PUBLISHED.items()})
    monkeypatch.setattr(r8_reuters, "newids", lambda: {"train": (3, 5, 0, 11), "test": (4, 6)})


def failure(**arguments) -> str:
    with pytest.raises(DataError) as caught:
        load_r8(**arguments)
    return str(caught.value)


def npm(tmp_path: Path, script: str) -> None:
    """Puts a command of that name on PATH."""
    path = tmp_path / "bin" / "npm"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable} -IS\nimport sys, time\n{script}\n")
    path.chmod(0o755)

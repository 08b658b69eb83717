"""Finding the documents that the command line names: R8, the synthetic corpus, or the caller's own folder or file."""

from collections.abc import Callable
from typing import Any, TypeAlias

from ..classifier.model import LSTMClassifier
from ..data.corpus import Corpus, corpus_of, load_corpus
from ..data.corpus_config import CorpusConfig
from ..data.documents import Documents
from ..data.r8 import find_documents, load_r8
from ..data.read_files import read_documents
from ..data.sources import DocumentFile
from ..data.synthetic import synthetic_documents, synthetic_r8
from ..errors import DataError
from .report import SYNTHETIC_NOTE

SYNTHETIC = "r8-synthetic"  # the name of the generated corpus

Log: TypeAlias = Callable[[str], object]  # takes a line of messages, such as `say`


def get_corpus(
    dataset: str,
    data_dir: str | None,
    protocol: str,
    config: CorpusConfig | None,
    log: Log,
    smallest_class: int | None = None,
    base: LSTMClassifier | None = None,
    file: DocumentFile | None = None,
    **options: Any,
) -> Corpus:
    """The corpus of a name: R8 from wherever it can be had, the synthetic one, or the caller's own folder or file.

    Args:
        dataset: ``r8``, `SYNTHETIC`, or the name of the caller's own corpus, whose files begin with it.
        data_dir: the folder of the caller's own corpus; for R8 the first place to look in, or None.
        protocol: text treatment where there is no config, ``seam`` or ``reference``.
        config: text treatment; None takes the protocol's, or what suits the caller's own texts.
        log: takes a line about where the documents come from.
        smallest_class: training documents that a class of the caller's own corpus needs; None: two.
        base: words and classes are numbered as in this base.
        file: the file of the caller's own corpus, in place of a folder.
        **options: override fields of the configuration.

    Returns:
        The corpus, training and test documents as ids.

    Raises:
        DataError: for an option that has no effect on this corpus, and for files that are missing or broken.
        NoSourceError: where no source has R8.
    """
    if file is not None:
        corpus = corpus_of(file.parts(), dataset, protocol, config, smallest_class, base, **options)
        log(f"{dataset}: {corpus.source}")
        return corpus
    if smallest_class is not None and dataset in ("r8", SYNTHETIC):
        raise DataError(
            f"--smallest-class is for a corpus of your own, the classes of {dataset} are what they are; leave it out"
        )
    if dataset == SYNTHETIC:
        if data_dir is not None:
            raise DataError(f"--data-dir has no effect with --dataset {SYNTHETIC}, which is generated; leave it out")
        log(SYNTHETIC_NOTE)
        return synthetic_r8(protocol, config, base=base, **options)
    if dataset == "r8":
        return load_r8(data_dir, protocol, config, log, base, **options)
    return load_corpus(_own_folder(dataset, data_dir), dataset, protocol, config, smallest_class, base, **options)


def _own_folder(dataset: str, data_dir: str | None) -> str:
    """The folder of the caller's own corpus, which has to be given."""
    if data_dir is None:
        raise DataError(
            f"the corpus {dataset!r} needs --data-dir, the folder with {dataset}-train-all-terms.txt, or --data-file"
        )
    return data_dir


def corpus_for_base(
    base: LSTMClassifier, dataset: str, data_dir: str | None, log: Log, file: DocumentFile | None = None
) -> Corpus:
    """The corpus of a name, its texts treated and its words and classes numbered as when the base was trained.

    Args:
        base: a trained base.
        dataset: as in `get_corpus`.
        data_dir: as in `get_corpus`.
        log: takes notes, among them one where the documents are not those that the base was trained on.
        file: as in `get_corpus`.

    Returns:
        The corpus.

    Raises:
        DataError: as `get_corpus` does.
    """
    config = base.corpus_config
    # Where the base's file does not name its classes, all classes of the folder count, however small: leaving one out
    # would shift the numbers of the others.
    own = dataset not in ("r8", SYNTHETIC) and base.class_names is None
    corpus = get_corpus(dataset, data_dir, "seam", config, log, smallest_class=1 if own else None, base=base, file=file)
    if base.info.get("data_hash") not in (None, corpus.data_hash):
        way = (
            "" if file is None else "; if it was trained on this file, divide it as then, or test documents are not new"
        )
        log(f"note: these documents are not those the base was trained on (their hashes differ){way}")
    elif base.vocabulary is None:
        log(
            "note: this base does not say its words, so they are numbered as they come in these documents, which is "
            "right for the very documents it was trained on alone"
        )
    return corpus


def raw_test_documents(
    dataset: str, data_dir: str | None, log: Log, file: DocumentFile | None = None
) -> tuple[Documents, str]:
    """The raw test documents of the corpus of a name, and a sentence or path that tells where they came from.

    Args:
        dataset: as in `get_corpus`.
        data_dir: as in `get_corpus`.
        log: takes a line about where the documents come from.
        file: as in `get_corpus`.

    Returns:
        The documents and their source.

    Raises:
        DataError: as `get_corpus` does.
    """
    if file is not None:
        parts = file.parts()
        documents, source = parts.test, parts.source
    elif dataset == SYNTHETIC:
        log(SYNTHETIC_NOTE)
        _, documents, source = synthetic_documents()
    elif dataset == "r8":
        _, documents, source = find_documents(data_dir, log)
    else:
        _, documents = read_documents(_own_folder(dataset, data_dir), dataset)
        source = documents.path
    return documents, source

"""What a verb judges: a saved module with its base, and labelled documents as the base sees them."""

import argparse
from pathlib import Path
from typing import NamedTuple

from ..classifier.model import LSTMClassifier
from ..common.progress import say
from ..data.columns import ColumnNames
from ..data.corpus import Corpus, Split, load_split, split_for
from ..data.documents import Documents
from ..data.sources import labelled_documents
from ..errors import CheckpointError, TrainingError
from ..modules.seam_module import SeamModule
from ..runtime import is_compact
from .any_module import load_module
from .bases import load_base
from .corpora import corpus_for_base, raw_test_documents
from .corpus_choice import COLUMN_OPTIONS, FILE_OPTIONS, data_file, dataset_name
from .options import OptionGroup, add_corpus_options, refuse_given
from .paths import find_base_beside


class Judged(NamedTuple):
    """A module, its file and that of its base, the documents, a sentence or path that tells where those are from, and
    the name of the corpus.

    The documents are a `Corpus` where the base does not know its words and classes, which are then numbered by the
    training documents; else they are a `Split`.
    """

    module: SeamModule
    path: Path
    base_path: Path
    documents: Corpus | Split
    source: str
    dataset: str

    @property
    def split(self) -> Split:
        """The documents to judge on."""
        return self.documents.test if isinstance(self.documents, Corpus) else self.documents


def add_judging_options(parser: OptionGroup) -> None:
    """Adds the options that name a corpus, or a file of documents in its place."""
    add_corpus_options(parser, default=None)
    parser.add_argument(
        "--documents",
        metavar="FILE",
        help="judge it on all of a file (lines label<TAB>text, .csv, .tsv, .jsonl) instead of a corpus' test documents",
    )


def check_judging_options(arguments: argparse.Namespace) -> None:
    """Raises TrainingError where both a file of documents and a corpus, or how to divide one, are named."""
    if arguments.documents and (arguments.dataset or arguments.data_dir or arguments.data_file):
        beside = "--dataset" if arguments.dataset else "--data-dir" if arguments.data_dir else "--data-file"
        raise TrainingError(f"{beside} has no effect with --documents, which names the file to judge on; leave one out")
    if arguments.documents:
        refuse_given(arguments, FILE_OPTIONS, "with --documents, all of which are judged on")


def load_judged(arguments: argparse.Namespace) -> Judged:
    """Loads what the options of `add_judging_options` and `add_base_of_module` name.

    Raises:
        CheckpointError: The base or the module is missing or damaged, or they do not belong together.
        DataError: The documents are missing or broken.
        TrainingError: Options contradict one another.
    """
    check_judging_options(arguments)
    path = Path(arguments.module)
    if is_compact(path):
        raise CheckpointError(
            f"{path}: is a compact module, which is not judged beside a base; give the module that it was made of, or "
            "give this one to predict or certify"
        )
    base_path, named = (arguments.base, None) if arguments.base else find_base_beside(path)
    base = load_base(arguments, base_path)
    dataset = dataset_name(arguments) or named or base.info.get("corpus") or "r8"
    module = None
    if base.class_names is not None:  # a module that cannot be loaded is refused before the documents are read
        module = load_module(path, base, arguments.target, base.class_names)
    documents, source = _documents(base, dataset, arguments)
    if module is None:
        names = documents.class_names if isinstance(documents, Corpus) else base.names_or_refuse()
        module = load_module(path, base, arguments.target, names)
    if base.vocabulary is None and isinstance(documents, Corpus):
        _check_numbering(path, module, documents)
    return Judged(module, path, Path(base_path), documents, source, dataset)


def _documents(base: LSTMClassifier, dataset: str, arguments: argparse.Namespace) -> tuple[Corpus | Split, str]:
    """The documents of `Judged`, and where they came from."""
    if arguments.documents:
        columns = {name: getattr(arguments, name) for name in COLUMN_OPTIONS}
        return load_split(arguments.documents, base, **columns), str(arguments.documents)
    file = data_file(arguments)
    if base.vocabulary is None or base.class_names is None:
        corpus = corpus_for_base(base, dataset, arguments.data_dir, say, file)
        return corpus, corpus.source
    documents, source = raw_test_documents(dataset, arguments.data_dir, say, file)
    return split_for(base, documents), source


def training_corpus(arguments: argparse.Namespace, judged: Judged) -> Corpus:
    """The corpus whose test documents are judged on, with its training documents; errors as of `load_judged`."""
    if isinstance(judged.documents, Corpus):
        return judged.documents
    return corpus_for_base(judged.module.base, judged.dataset, arguments.data_dir, say, data_file(arguments))


def raw_documents(arguments: argparse.Namespace, corpus: str) -> tuple[Documents, str]:
    """The documents that the options of `add_judging_options` name, for modules that number words themselves.

    Args:
        arguments: the parsed command line.
        corpus: the name of the corpus where they name none.

    Returns:
        The documents, and a sentence or path that tells where they came from.

    Raises:
        DataError: The documents are missing or broken.
        TrainingError: Options contradict one another.
    """
    check_judging_options(arguments)
    if arguments.documents:
        names = ColumnNames(arguments.text_column, arguments.label_column)
        return labelled_documents(arguments.documents, names, arguments.columns), str(arguments.documents)
    return raw_test_documents(dataset_name(arguments) or corpus, arguments.data_dir, say, data_file(arguments))


def _check_numbering(path: Path, module: SeamModule, corpus: Corpus) -> None:
    """Raises CheckpointError where words numbered by this corpus are not those that the module was trained with."""
    if module.card.get("data_hash") not in (None, corpus.data_hash):
        raise CheckpointError(
            f"{path}: its base does not say its words, and these are not the documents it was trained on, by which "
            "they could be numbered, or the tokenizer was another (--tokenizer)"
        )

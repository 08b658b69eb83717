"""``seam-fast evaluate``: judges a saved module on labelled documents, beside its base."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...classifier.model import LSTMClassifier
from ...common.progress import say
from ...data.corpus import Corpus, Split, load_split, split_for
from ...errors import CheckpointError, TrainingError
from ...modules.seam_module import SeamModule
from ...search.evaluate import evaluate_module
from .. import report
from ..bases import load_base
from ..corpora import corpus_for_base, raw_test_documents
from ..corpus_choice import COLUMN_OPTIONS, data_file, dataset_name
from ..json_output import print_json
from ..options import Subparsers, add_base_options, add_base_tokenizer_option, add_corpus_options, add_verb
from ..paths import find_base_beside
from ..targets import parse_targets


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "evaluate", run, "judge a saved module on labelled documents, beside its base")
    parser.add_argument("module", metavar="MODULE", help="a .safetensors or .pth module file")
    add_corpus_options(parser, default=None)
    parser.add_argument(
        "--documents",
        metavar="FILE",
        help="judge it on all of a file (lines label<TAB>text, .csv, .tsv, .jsonl) instead of a corpus' test documents",
    )
    add_base_options(parser, "base.safetensors beside it or up to two folders up")
    add_base_tokenizer_option(parser)
    parser.add_argument("--target", help="for .pth files outside a tc_<k> folder: the class")


def run(arguments: argparse.Namespace) -> int:
    """Prints the module's figures and its base's."""
    if arguments.documents and (arguments.dataset or arguments.data_dir or arguments.data_file):
        beside = "--dataset" if arguments.dataset else "--data-dir" if arguments.data_dir else "--data-file"
        raise TrainingError(f"{beside} has no effect with --documents, which names the file to judge on; leave one out")
    path = Path(arguments.module)
    base_path, named = (arguments.base, None) if arguments.base else find_base_beside(path)
    base = load_base(arguments, base_path)
    dataset = dataset_name(arguments) or named or base.info.get("corpus") or "r8"
    module = None
    if base.class_names is not None:  # a module that cannot be loaded is refused before the documents are read
        module = _load_module(path, base, arguments.target, base.class_names)
    documents, source = _documents_to_judge_on(base, dataset, arguments)
    if module is None:
        names = documents.class_names if isinstance(documents, Corpus) else base.names_or_refuse()
        module = _load_module(path, base, arguments.target, names)
    if base.vocabulary is None and isinstance(documents, Corpus):
        _check_numbering(path, module, documents)
    evaluate_module(module, documents, source)
    if arguments.json:
        print_json(report.module_row(module) | {"metrics": module.metrics, "source": source})
    else:
        print(report.comparison(module))
    return 0


def _documents_to_judge_on(
    base: LSTMClassifier, dataset: str, arguments: argparse.Namespace
) -> tuple[Corpus | Split, str]:
    """Documents as the base sees them, and where they came from.

    For a base that knows its words and classes these are the test documents alone (`Split`). Another base's words and
    classes are numbered by the training documents, so the whole corpus is loaded (`Corpus`).
    """
    if arguments.documents:
        columns = {name: getattr(arguments, name) for name in COLUMN_OPTIONS}
        return load_split(arguments.documents, base, **columns), str(arguments.documents)
    file = data_file(arguments)
    if base.vocabulary is None or base.class_names is None:
        corpus = corpus_for_base(base, dataset, arguments.data_dir, say, file)
        return corpus, corpus.source
    documents, source = raw_test_documents(dataset, arguments.data_dir, say, file)
    return split_for(base, documents), source


def _check_numbering(path: Path, module: SeamModule, corpus: Corpus) -> None:
    """Raises CheckpointError where words numbered by this corpus are not those that the module was trained with."""
    if module.card.get("data_hash") not in (None, corpus.data_hash):
        raise CheckpointError(
            f"{path}: its base does not say its words, and these are not the documents it was trained on, by which "
            "they could be numbered, or the tokenizer was another (--tokenizer)"
        )


def _load_module(path: Path, base: LSTMClassifier, target: str | None, class_names: Sequence[str]) -> SeamModule:
    """The module in a file. target: the value of ``--target``, which must agree with the module's card."""
    targets = parse_targets(target, class_names) if target else [None]
    if len(targets) != 1:
        raise TrainingError(f"--target {target} names {len(targets)} targets; a module has one (+ joins a set)")
    module = SeamModule.load(path, base, target=targets[0])
    if targets[0] not in (None, module.target):
        raise CheckpointError(f"{path}: its card says target {list(module.target)}, not {list(targets[0])}")
    return module

"""``seam-fast data``: finds or fetches a corpus and says what is in it."""

import argparse

from ...common.progress import say
from ...data.corpus import Corpus
from ...errors import NoSourceError
from ..corpora import SYNTHETIC, get_corpus
from ..corpus_choice import data_file, dataset_name
from ..json_output import print_json
from ..options import Subparsers, add_corpus_options, add_text_options, add_verb, text_settings


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "data", run, "find or fetch the corpus, and say what is in it")
    add_corpus_options(parser)
    parser.add_argument("--protocol", choices=("seam", "reference"), default="seam", help="text treatment")
    parser.add_argument(
        "--or-synthetic",
        action="store_true",
        help="where no source has R8, take a generated corpus; the last line of output names the corpus to use",
    )
    add_text_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the corpus' source, sizes and classes."""
    dataset, protocol = dataset_name(arguments) or "r8", arguments.protocol
    file, smallest = data_file(arguments), arguments.smallest_class
    options = text_settings(arguments)
    try:
        corpus = get_corpus(dataset, arguments.data_dir, protocol, None, say, smallest, file=file, **options)
    except NoSourceError as error:
        if not arguments.or_synthetic:
            raise
        say(f"{error}\nGoing on with a generated corpus of the same shape, to show how it works.")
        dataset = SYNTHETIC
        corpus = get_corpus(dataset, None, protocol, None, say, **options)
    counts = {
        name: [int((split.labels == k).sum()) for split in (corpus.train, corpus.test)]
        for k, name in enumerate(corpus.class_names)
    }
    if arguments.json:
        facts = {"name": corpus.name, "source": corpus.source, "synthetic": corpus.synthetic, "classes": counts}
        facts |= {"words": corpus.vocab_size, "config": corpus.config.as_dict(), "data_hash": corpus.data_hash}
        print_json(facts)
        return 0
    _print_summary(corpus, counts)
    if arguments.or_synthetic:
        print(dataset)  # scripts read the last line
    return 0


def _print_summary(corpus: Corpus, counts: dict[str, list[int]]) -> None:
    """Prints the summary for people. counts: training and test documents by class name."""
    mark = "SYNTHETIC " if corpus.synthetic else ""
    print(f"{mark}{corpus.name}: {corpus.source}")
    print(f"{mark}{len(corpus.train)} training and {len(corpus.test)} test documents, {corpus.vocab_size} words")
    config = corpus.config
    print(f"{mark}tokenizer {config.tokenizer.name}; the first {config.max_length} words of each document are read")
    width = max(len(name) for name in counts)
    for name, (train, test) in counts.items():
        print(f"{mark}  {name:{width}}  {train:5} train  {test:5} test")

"""Options that several verbs and scripts share: how they are added to a parser, and what is made of their values."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..data.tokenizer import tokenizer_named
from ..errors import SeamFastError, TrainingError
from ..search.settings import CHOICES, START_FROM_MODULE, Settings

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
OptionGroup: TypeAlias = argparse._ActionsContainer  # a parser, or a group of one: what has ``add_argument``

# Fields of `Settings` that have an option of the same name.
SETTINGS = (
    "schedule",
    "sampling",
    "penalty",
    "selection",
    "alpha",
    "keep",
    "lr_mask",
    "lr_head",
    "epochs",
    "steps",
    "batch_size",
    "word_dropout",
    "negatives_per_target",
    "shots",
    "threshold",
    "early_stop",
    "start",
)
# Every argument of the Python functions that has a flag of the same name; error messages are translated by these.
OPTION_NAMES = (
    *SETTINGS,
    *("evaluate_every", "lazy_update", "min_count", "max_length", "smallest_class"),
    *("text_column", "label_column", "date_column", "test_share", "split_seed"),
)


def add_verb(
    verbs: Subparsers, name: str, run: Callable[[argparse.Namespace], int], help: str
) -> argparse.ArgumentParser:
    """Adds a verb that is run by ``run``, with the option ``--json`` that all verbs have; returns its parser."""
    parser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def add_corpus_options(parser: OptionGroup, default: str | None = "r8") -> None:
    """Adds the options that name a corpus. default: the corpus where the command line names none."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"corpus: r8{' (default)' if default == 'r8' else ''}, or any name with --data-dir or --data-file",
    )
    parser.set_defaults(default_dataset=default)
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the corpus (for r8: see also SEAM_FAST_DATA)")
    parser.add_argument(
        "--data-file",
        metavar="FILE",
        help="a corpus of your own in one file: .csv, .tsv, .jsonl (an object a line), or .txt (lines label<TAB>text); "
        "it is divided for training and test, always in the same way",
    )
    parser.add_argument("--test-file", metavar="FILE", help="a file of its own for the test, with the same columns")
    add_column_options(parser)
    parser.add_argument("--test-share", type=share, metavar="X", help="share of --data-file for the test (default: .2)")
    parser.add_argument(
        "--split",
        choices=("stratified", "time"),
        help="which documents of --data-file are for the test: stratified, drawn from each class (default), or time, "
        "the last ones",
    )
    parser.add_argument("--split-seed", type=int, metavar="N", help="of --split stratified (default: 0)")
    parser.add_argument(
        "--date-column", metavar="NAME", help="of --split time: the column of dates (default: in order)"
    )


def add_column_options(parser: OptionGroup) -> None:
    """Adds the options that say which columns of a file hold what."""
    parser.add_argument("--text-column", metavar="NAME", help="column of the texts (default: the one that is plain)")
    parser.add_argument("--label-column", metavar="NAME", help="column of the labels (default: the one that is plain)")
    parser.add_argument(
        "--columns",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="NAME,...",
        help="names of all columns, of a file without a line of names",
    )


def add_base_options(parser: OptionGroup, default: str) -> None:
    """Adds the options that say where the base is and how its file is read. default: for the help text only."""
    parser.add_argument("--base", metavar="FILE", help=f"default: {default}")
    parser.add_argument(
        "--readout", choices=("last_word", "last_position"), help="where the LSTM is read (default: as saved)"
    )
    parser.add_argument("--read", action=OldFlag, new="--readout", values={"end": "last_position"})
    parser.add_argument(
        "--key-map",
        type=key_map,
        default={},
        metavar="OURS=THEIRS,...",
        help="what the base's file calls word_embeddings, lstm, hidden2label or a tensor of these, if not plain",
    )
    parser.add_argument(
        "--ignore-keys",
        type=lambda text: text.split(","),
        default=[],
        metavar="KEY,...",
        help="tensors of the base's file that take no part, or what their names begin with",
    )


def add_base_tokenizer_option(parser: OptionGroup) -> None:
    """Adds ``--tokenizer`` for verbs that read a base, whose file usually holds its tokenizer."""
    parser.add_argument(
        "--tokenizer",
        metavar="RULE",
        help="where the base's file does not hold it (a function, or a bare state dict): the tokenizer it was "
        "trained with, as in train",
    )


def add_text_options(parser: OptionGroup) -> None:
    """Adds the fields of `CorpusConfig` that people change, and ``--smallest-class``."""
    parser.add_argument(
        "--tokenizer",
        metavar="RULE",
        help="how texts become words: words (lower case, punctuation apart; default for your own corpus), r8 (the "
        "letters a to z; default for R8 and texts that were prepared likewise), spaces (at white space; default "
        "of protocol reference), characters, or a function as MODULE:FUNCTION, such as jieba:lcut",
    )
    parser.add_argument("--min-count", type=positive, metavar="N", help="times a word must occur (default: 1)")
    parser.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="words read of each document (default: 64, characters 256, protocol reference 32)",
    )
    parser.add_argument(
        "--smallest-class",
        type=positive,
        metavar="N",
        help="training documents a class of your own corpus needs (default: 2)",
    )


def text_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `CorpusConfig` that the command line gives."""
    given = {"min_count": arguments.min_count, "max_length": arguments.max_length}
    given["tokenizer"] = tokenizer_named(arguments.tokenizer) if arguments.tokenizer else None
    return {name: value for name, value in given.items() if value is not None}


def add_settings(parser: OptionGroup, protocol: str = "seam") -> None:
    """Adds the fields of `Settings` that people change, and what trains. protocol: the default of ``--protocol``."""
    parser.add_argument(
        "--protocol",
        choices=("seam", "reference"),
        default=protocol,
        help=f"sets all defaults below (default: {protocol})",
    )
    parser.add_argument("--schedule", choices=("seam", "port", "joint"))
    parser.add_argument("--sampling", choices=("balanced", "redraw", "all"))
    parser.add_argument("--penalty", choices=("global", "group"))
    parser.add_argument("--selection", choices=("reference", "f1", "last"))
    parser.add_argument("--alpha", type=float, help="weight of the penalty on kept weights")
    parser.add_argument(
        "--keep",
        type=weights_shares,
        metavar="SHARE,...",
        help="share of all weights that each module is to keep, such as 2%% (default: what the penalty leaves); or "
        "several, such as .5%%,1%%,2%%: one file that is good at each of them and keeps its scores, see --keep-scores",
    )
    parser.add_argument("--lr-mask", "--lr_mask", type=float, help="learning rate of the scores")
    parser.add_argument("--lr-head", "--lr_head", type=float, help="learning rate of the head")
    parser.add_argument(
        "--epochs", "--n_epochs", type=positive, help="epochs (default of protocol seam: a budget in steps)"
    )
    parser.add_argument("--steps", type=int, help="budget in steps, in place of epochs")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--word-dropout", type=float)
    parser.add_argument(
        "--negatives-per-target",
        type=number_or_corpus,
        metavar="N",
        help="other documents drawn for each of the target's, or corpus (default): as many as the corpus has, within "
        "bounds",
    )
    parser.add_argument("--shots", type=int, help="target documents to train on; -1: all")
    parser.add_argument(
        "--threshold",
        choices=("half", "f1"),
        help="where a document begins to be the target's: at a probability of one half, or where the F1 on the "
        "documents that choose the epoch is best (default of protocol seam)",
    )
    parser.add_argument(
        "--early-stop", "--early_stop", type=int, help="epochs without progress before stopping; -1: never"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "cuda", "cpu", "torch"),
        help="what trains: cuda, all NVIDIA GPUs here, cpu, the CPU's compiled engine, torch, plain PyTorch, or auto, "
        "the first that works (default)",
    )
    parser.add_argument(
        "--lazy-update",
        default="quadrature",
        choices=("quadrature", "replay", "off"),
        help="how the compiled engines treat rows of words that a step does not use (default: quadrature, the fastest)",
    )
    parser.add_argument("--catch-up", action=OldFlag, new="--lazy-update", values={"dense": "off"})


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The protocol's settings, changed by the options of the command line."""
    if getattr(arguments, "evaluate_every", 1) == 0 and arguments.selection not in (None, "last"):
        raise TrainingError(
            "--selection has no effect with --evaluate-every 0, which keeps the last epoch; leave it out"
        )
    if getattr(arguments, "evaluate_every", 1) == 0 and arguments.threshold == "f1":
        raise TrainingError("--threshold f1 has no effect with --evaluate-every 0, which looks at no F1; leave it out")
    options = {name: getattr(arguments, name, None) for name in SETTINGS}
    if options["start"] not in (None, *CHOICES["start"]):  # a path
        options["start"] = START_FROM_MODULE
    return Settings.for_protocol(arguments.protocol).with_options(**options)


class OldFlag(argparse.Action):
    """A flag by its old name, which works for one minor release; a line on standard error gives the new name."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, new: str, values: Mapping[str, str] | None = None
    ) -> None:
        """Makes the action; argparse calls this from ``add_argument``.

        Args:
            option_strings: as argparse passes them.
            dest: as argparse passes it; not used, since the value goes where the new flag's goes.
            new: the flag's present name.
            values: present spelling of values by their old spelling, where that changed as well.
        """
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.new, self.values = new, values or {}

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option_string: Any = None
    ) -> None:
        """Stores the value as the new flag would, or refuses it with the new flag's message."""
        value = self.values.get(value, value)
        notice = f"{option_string} is deprecated, it is called {self.new} now: {self.new} {value}"
        print(f"seam-fast: {notice}", file=sys.stderr)
        action = parser._option_string_actions[self.new]
        parser._check_value(action, value)
        setattr(namespace, action.dest, value)


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def number_or_corpus(text: str) -> float | str:
    """A number, or the word ``corpus``, for argparse."""
    try:
        return text if text == "corpus" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor the word corpus") from None


def share(text: str) -> float:
    """A share between 0 and 1, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def refuse_given(
    arguments: argparse.Namespace, names: Iterable[str], reason: str, error: type[SeamFastError] = TrainingError
) -> None:
    """Raises the error where the command line gives an option that has no effect.

    Args:
        arguments: the parsed command line.
        names: of the options, as attributes of ``arguments``; one that was not given is None, {} or [].
        reason: why, after "has no effect".
        error: what is raised.
    """
    for name in names:
        if getattr(arguments, name) not in (None, {}, []):
            raise error(f"--{name.replace('_', '-')} has no effect {reason}; leave it out")


def weights_share(text: str) -> float:
    """A share of all weights for argparse: per cent with the sign, such as ``1%``, or a fraction, such as ``0.01``."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the weights; give one such as 1% or 0.01")
    return value


def weights_shares(text: str) -> float | tuple[float, ...]:
    """A share as ``weights_share`` takes it, or several between commas, for argparse."""
    shares = tuple(weights_share(part.strip()) for part in text.split(","))
    return shares if len(shares) > 1 else shares[0]


def key_map(text: str) -> dict[str, str]:
    """``OURS=THEIRS`` pairs, separated by commas, for argparse."""
    pairs = [pair.split("=") for pair in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OURS=THEIRS,OURS=THEIRS")
    return dict(pairs)

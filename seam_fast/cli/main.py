"""The ``seam-fast`` command; each verb is a module of ``verbs``.

Results go to standard output; messages and progress go to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 Ctrl-C, 143 SIGTERM, 129 SIGHUP (128 + the signal's number, as shells report it).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from .._version import __version__
from .guarded_run import run_guarded
from .verbs import bench, certify, compact, core, data, evaluate, export, info, predict, reengineer, train

VERBS = (
    data,
    train,
    reengineer,
    core,
    evaluate,
    compact,
    predict,
    export,
    certify,
    bench,
    info,
)  # in the order of the help text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the command line without the program's name; None takes it from ``sys.argv``.

    Returns:
        The exit code.

    Raises:
        SystemExit: after ``--help`` and ``--version``, and with code 2 for wrong usage (by argparse).
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments, left = parser.parse_known_args(argv)
    # argparse gives a list of texts none that stand behind an option: predict MODULE --base BASE TEXT.
    if left and arguments.verb == "predict" and not any(each.startswith("-") for each in left):
        arguments.text += left
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    arguments.command_line = shlex.join(["seam-fast", *argv])
    return run_guarded("seam-fast", lambda: arguments.run(arguments))


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs. What it parses has ``run``, the verb's function, which takes the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="seam-fast", description="Takes a trained LSTM text classifier apart into small modules, one per class."
    )
    parser.add_argument("--version", action="version", version=f"seam-fast {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_to(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())

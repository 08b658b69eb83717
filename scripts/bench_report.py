#!/usr/bin/env python3
"""Writes tables, sentences and pictures from the records in benchmarks/records into README and docs.

    python scripts/bench_report.py           # writes what has changed, and says what
    python scripts/bench_report.py --check   # writes nothing; exit code 1 where a page or a picture says otherwise
    python scripts/bench_report.py docs/benchmarks/op.md

Between `<!-- bench:NAME -->` and `<!-- /bench -->` it puts block NAME of benchmarks/report/blocks.py; by default in
README.md and in every Markdown file in docs/ that has such markers.
"""

import argparse
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.report import blocks, markdown  # noqa: E402
from benchmarks.report.pictures import source_of  # noqa: E402
from seam_fast.cli.main import run_guarded  # noqa: E402
from seam_fast.errors import SeamFastError  # noqa: E402
from seam_fast.files.atomic import write_atomically  # noqa: E402


def stale_pictures(folder: Path) -> list[str]:
    """Names of the pictures that are missing, or were drawn from another record or by other code."""
    found = []
    for name in blocks.DRAWN:
        source, path = blocks.source(name), folder / f"{name}.png"
        if source and not (path.exists() and source_of(path.read_bytes()) == source):
            found.append(name)
    return found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="pages (default: all that have markers)")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where something would change")
    parser.add_argument("--readme", type=Path, help=argparse.SUPPRESS)  # the old name of FILE
    parser.add_argument("--pictures", type=Path, default=blocks.PICTURES, metavar="DIR", help="folder of the pictures")
    arguments = parser.parse_args(argv)
    if arguments.readme:
        warnings.warn("--readme FILE is now FILE, without the option", DeprecationWarning, stacklevel=2)
        arguments.files.append(arguments.readme)
    return run_guarded("bench_report", lambda: run(arguments))


def run(arguments) -> int:
    pages = {path: markdown.render(path, arguments.pictures) for path in arguments.files or markdown.marked_files()}
    drawings = stale_pictures(arguments.pictures)
    stale = [f"{path.name}: {', '.join(names)}" for path, (_, names) in pages.items() if names]
    stale += [f"{name}.png" for name in drawings]
    if arguments.check:
        if stale:
            raise SeamFastError(f"not what the records say: {'; '.join(stale)}; run python scripts/bench_report.py")
        print(f"{', '.join(path.name for path in pages)} and the pictures are what the records say")
        return 0
    try:
        drawn = {name: blocks.draw(name) for name in drawings}
    except ModuleNotFoundError as error:
        name = error.name.partition(".")[0]
        raise SeamFastError(f"{name} draws the pictures and is not installed: pip install {name}") from None
    for path, (text, names) in pages.items():
        if names:
            write_atomically(path, text.encode())
    for name, data in drawn.items():
        write_atomically(arguments.pictures / f"{name}.png", data)
    print(f"written anew: {'; '.join(stale) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Writes the README's tables and the pictures from the records in benchmarks/records.

    python scripts/bench_report.py           # writes what has changed, and says what
    python scripts/bench_report.py --check   # writes nothing; exit code 1 where README or pictures say otherwise

Between `<!-- bench:NAME -->` and `<!-- /bench -->` it puts block NAME of benchmarks/report/blocks.py.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.report import blocks  # noqa: E402
from benchmarks.report.pictures import source_of  # noqa: E402
from seam_fast.cli import run_guarded  # noqa: E402
from seam_fast.errors import SeamFastError  # noqa: E402
from seam_fast.files import write_atomically  # noqa: E402

MARKED = re.compile(r"<!-- bench:(\w+) -->(.*?)<!-- /bench -->", re.S)


def render(text: str) -> str:
    """The README with every block made anew. Raises SeamFastError for a name that there is not, or a lone marker."""

    def replaced(found: re.Match) -> str:
        if found[1] not in blocks.BLOCKS:
            raise SeamFastError(f"no block is named {found[1]!r}; there are {', '.join(blocks.BLOCKS)}")
        return f"<!-- bench:{found[1]} -->{blocks.BLOCKS[found[1]]()}<!-- /bench -->"

    counts = [len(re.findall(pattern, text)) for pattern in ("<!-- bench:", "<!-- /bench -->")]
    if counts != [len(MARKED.findall(text))] * 2:
        raise SeamFastError("the README has a marker without its other half")
    return MARKED.sub(replaced, text)


def stale_blocks(text: str) -> list[str]:
    """Names of the blocks that would change."""
    return [
        name
        for (name, old), (_, new) in zip(*(MARKED.findall(t) for t in (text, render(text))), strict=True)
        if old != new
    ]


def stale_pictures(folder: Path) -> list[str]:
    """Names of the pictures that are not there, or were drawn from another record or by other code."""
    found = []
    for name in blocks.DRAWN:
        source, path = blocks.source(name), folder / f"{name}.png"
        if source and not (path.exists() and source_of(path.read_bytes()) == source):
            found.append(name)
    return found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where something would change")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--pictures", type=Path, default=ROOT / blocks.PICTURES)
    arguments = parser.parse_args(argv)
    return run_guarded("bench_report", lambda: run(arguments))


def run(arguments) -> int:
    text = arguments.readme.read_text(encoding="utf-8")
    tables, drawings = stale_blocks(text), stale_pictures(arguments.pictures)
    if arguments.check:
        if tables or drawings:
            names = ", ".join([*tables, *(f"{name}.png" for name in drawings)])
            raise SeamFastError(f"not what the records say: {names}; run python scripts/bench_report.py")
        print("README and pictures are what the records say")
        return 0
    try:
        drawn = {name: blocks.draw(name) for name in drawings}
    except ModuleNotFoundError as error:
        name = error.name.partition(".")[0]
        raise SeamFastError(f"{name} draws the pictures and is not installed: pip install {name}") from None
    if tables:
        write_atomically(arguments.readme, render(text).encode())
    for name, data in drawn.items():
        write_atomically(arguments.pictures / f"{name}.png", data)
    print(f"written anew: {', '.join([*tables, *(f'{name}.png' for name in drawings)]) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Puts the blocks into Markdown files, between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``."""

import os
import re
from pathlib import Path

from benchmarks import ROOT
from benchmarks.report import blocks
from seam_fast.errors import SeamFastError

OPENING, CLOSING = r"(?<!`)<!-- bench:", r"(?<!`)<!-- /bench -->"  # in backquotes, a page speaks about markers
MARKED = re.compile(OPENING + r"(\w+) -->(.*?)" + CLOSING, re.S)


def marked_files(root: Path = ROOT) -> list[Path]:
    """README.md and every page in docs/ that has a marker, or half of one."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in pages if page.exists() and re.search(f"{OPENING}|{CLOSING}", page.read_text("utf-8"))]


def found_blocks(text: str) -> list[tuple[str, str]]:
    """Names and contents of the blocks of a text, in order.

    Raises:
        SeamFastError: A marker has no other half.
    """
    found = MARKED.findall(text)
    if [len(re.findall(half, text)) for half in (OPENING, CLOSING)] != [len(found)] * 2:
        raise SeamFastError("a marker without its other half")
    return found


def rendered(name: str, pictures: str) -> str:
    """A block, with links to the pictures in that folder, relative to the page.

    Raises:
        SeamFastError: There is no block of that name.
    """
    if name not in blocks.BLOCKS:
        raise SeamFastError(f"no block is named {name!r}; there are {', '.join(blocks.BLOCKS)}")
    return blocks.BLOCKS[name]().replace(f"]({blocks.PICTURE_LINK}/", f"]({pictures}/")


def render(path: Path, pictures: Path = blocks.PICTURES) -> tuple[str, list[str]]:
    """The text of a page with every block made anew, and the names of those that were different.

    pictures: the folder that links to pictures lead to.

    Raises:
        SeamFastError: A marker has no other half, or names a block that does not exist.
    """
    text = path.read_text(encoding="utf-8")
    to_pictures = Path(os.path.relpath(pictures.resolve(), path.resolve().parent)).as_posix()
    try:
        found = found_blocks(text)
        new = {name: rendered(name, to_pictures) for name, _ in found}
    except SeamFastError as error:
        raise SeamFastError(f"{path}: {error}") from None
    text = MARKED.sub(lambda block: f"<!-- bench:{block[1]} -->{new[block[1]]}<!-- /bench -->", text)
    return text, [name for name, old in found if old != new[name]]
